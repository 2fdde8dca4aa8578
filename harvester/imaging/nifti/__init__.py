"""Reading NIfTI files."""
