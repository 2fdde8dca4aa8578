"""The ring has one local Ray."""

from tests.local_ray import local_ray

__all__ = ["local_ray"]
