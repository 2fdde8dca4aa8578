"""A run's folder: steps named by the hash of their inputs, shards, journal, log, status, tracking."""
