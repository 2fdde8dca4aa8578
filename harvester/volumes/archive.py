"""A user own archive (being written)."""
