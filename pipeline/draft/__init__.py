"""Drafts of definitions: a new release from an old one."""
