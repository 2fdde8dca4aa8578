"""Detectors that are retrained on a harvest: what a user trains in the end, and what shows whether the labels help."""
