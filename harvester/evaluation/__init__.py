"""Matching, curves and the operating point. No torch, no ray."""
