"""Which packages the wheel holds; all else is in pyproject.toml, which cannot say that configs/ is one of them."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["harvester*"]), "harvester.configs"], package_dir={"harvester.configs": "configs"}
)
