"""Bring images with all that is attached to them from one place to another: registries and folders (OCI layouts).

`place` says where, `oci` what; `layout`, `remote` are the two kinds of place; `transfer` copies between any two.
"""
