"""The ring has one local Ray, and one finished harvest."""

from pathlib import Path

import pytest

from harvester.config.loading import resolve
from harvester.config.settings import Settings
from harvester.distributed.preparation import prepare
from harvester.store.store import Store
from tests.local_ray import local_ray
from tests.tiny_harvest import SETTINGS, harvested

__all__ = ["local_ray"]


@pytest.fixture(scope="session")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    file = tmp_path_factory.mktemp("config") / "tiny.yaml"
    file.write_text(SETTINGS)
    return resolve(file)


@pytest.fixture(scope="session")
def store(local_ray: None, settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Store:
    return prepare(settings, None, tmp_path_factory.mktemp("data") / "store")


@pytest.fixture(scope="session")
def night(settings: Settings, store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "night"
    harvested(settings, store, folder)
    return folder
