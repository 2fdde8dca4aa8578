"""The secret of a store's ids: whole, private, the same for all who start, or refused with what to do."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from harvester.errors import StoreError
from harvester.storage.location import Location
from harvester.storage.salt import salt_beside, salt_of


class Killed(BaseException):
    """Not an Exception: nothing may catch it and clean up."""


@pytest.fixture
def store(tmp_path: Path) -> Location:
    return Location.of(tmp_path / "deep" / "store")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "store.salt"


def test_it_is_made_once_beside_the_store_for_nobody_elses_eyes(store: Location, file: Path, tmp_path: Path) -> None:
    salt = salt_of(store)
    assert len(salt) == 32
    assert salt_of(store) == salt_beside(store) == salt != salt_of(Location.of(tmp_path / "other"))
    assert file.stat().st_mode & 0o777 == 0o600
    assert [each.name for each in file.parent.iterdir()] == ["store.salt"]


@pytest.mark.parametrize("call", ["fdopen", "fsync", "link"])
def test_a_start_that_dies_while_making_it_leaves_none(
    store: Location, file: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def killed(*given: object, **named: object) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(os, call, killed)
        with pytest.raises(Killed):
            salt_of(store)
    assert not file.exists()
    assert len(salt_of(store)) == 32


def test_all_who_start_at_once_get_the_same(store: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Location, "is_file", lambda self: False)  # each sees none, and makes one
    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(salt_of, [store] * 32))) == 1


def test_a_share_without_links_gets_one_too(store: Location, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*given: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    assert salt_of(store) == file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("broken", ["", "\n", "5a17", "0" * 31, "the name of my dog, and more words", "\ufffd" * 40])
def test_one_that_could_be_guessed_is_refused_with_what_to_do(store: Location, file: Path, broken: str) -> None:
    file.parent.mkdir()
    file.write_text(broken)
    for use in (salt_of, salt_beside):
        with pytest.raises(StoreError, match=r"store\.salt: want at least 32 hex digits.* delete it and prepare again"):
            use(store)
    assert file.read_text() == broken


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"the store cannot be written \((Not a directory|File exists)\)"):
        salt_of(Location.of(tmp_path / "file" / "store"))
