"""Questions about releases: where a file comes from, what two releases differ in, why an action ran again."""
