"""From checked binaries to the files that a release publishes."""
