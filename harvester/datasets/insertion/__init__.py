"""Lesions of known truth inserted into real CT."""
