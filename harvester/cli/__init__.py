"""Every command, and what they share."""
