"""From a unit and its locked sources to compiled, checked binaries."""
