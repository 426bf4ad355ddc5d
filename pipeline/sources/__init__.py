"""One module per kind of origin; only these, and the bases, reach the outside."""
