"""The trust root as those keep it who sign releases: a TUF repository that outlives them, its keys and its policy."""
