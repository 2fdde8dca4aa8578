"""Scans: reading them, keeping them decoded, resampling them, and making ones with a known truth."""
