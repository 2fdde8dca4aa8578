"""Scans as arrays: readers, orientation, resampling, windows. No torch, no ray."""
