"""Proof that a release can be made again: artifacts compared byte for byte, and differences explained."""
