"""A study of the method on archives of known truth: its parts and its rivals, and what the harvest gives detectors."""
