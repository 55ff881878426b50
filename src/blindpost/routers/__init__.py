"""HTTP: one line per call, and everything that stands before it."""
