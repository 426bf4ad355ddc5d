"""The factory of RFO releases; read `pipeline.release` first."""
