"""Signed claims about a release: statements, bundles, links and layout, keys, and the process that signs."""
