"""The command line: each task parses its arguments, makes one call and says what came of it. No logic."""
