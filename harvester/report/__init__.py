"""The run's report: one self-contained page."""
