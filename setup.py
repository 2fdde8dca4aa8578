"""Which packages the wheel holds; all else is in pyproject.toml, which cannot say that configs/ and docs/ are."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["harvester*"]), "harvester.configs", "harvester.guide"],
    package_dir={"harvester.configs": "configs", "harvester.guide": "docs"},
)
