"""The comparer: whether two artifacts are the same bytes, and where they part if not."""
