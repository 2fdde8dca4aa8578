"""Volumes made ready once for fast reading by slices."""
