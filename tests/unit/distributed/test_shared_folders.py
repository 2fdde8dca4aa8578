"""Folders of which a node has one of its own by the same name. What the nodes answer has a stand-in: no Ray is started.

That real nodes answer so is part of tests/harvest/test_chaos.py.
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from harvester.distributed import shared_folders
from harvester.distributed.shared_folders import Ask, require_shared, try_read, try_written
from harvester.errors import SettingsError
from harvester.run.quarantine import Worker
from harvester.storage.location import Location

NODES = {"a" * 56: "10.0.0.1", "b" * 56: "10.0.0.2"}


def answered(mounted: Mapping[str, Path], here: Path) -> Ask:
    """As the nodes answer on which other folders lie at the place of `here`."""

    def ask(nodes: Mapping[str, str], task: Callable[..., str], place: Location, told: Any) -> dict[str, str]:
        def there(node: str) -> Location:
            return Location.of(str(place).replace(str(here), str(mounted.get(nodes[node], here))))

        return {node: task(there(node), told, node) for node in nodes}

    return ask


def test_a_folder_that_all_share_is_taken_and_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    try_written(Location.of(tmp_path), NODES, answered({}, tmp_path))
    try_read(Location.of(tmp_path), NODES, answered({}, tmp_path))
    assert [each.name for each in tmp_path.iterdir()] == ["a"]


def test_a_node_with_a_folder_of_its_own_is_named_with_it(tmp_path: Path) -> None:
    here, own = tmp_path / "here", tmp_path / "own"
    for folder in (here, own):
        folder.mkdir()
    (here / "manifest.parquet").write_text("")
    nodes = answered({"10.0.0.2": own}, here)
    said = rf"^{here}: node 10\.0\.0\.2 does not see what this machine writes there \(No such file or directory\); give"
    with pytest.raises(SettingsError, match=said):
        try_written(Location.of(here), NODES, nodes)
    said = rf"^{here}: node 10\.0\.0\.2 does not see 1 of the 1 files and folders there; .* set HARVESTER_HOME\)$"
    with pytest.raises(SettingsError, match=said):
        try_read(Location.of(here), NODES, nodes)
    assert [each.name for each in here.iterdir()] == ["manifest.parquet"]


def test_a_node_that_cannot_write_or_writes_elsewhere_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(nodes: Mapping[str, str], task: Callable[..., str], place: Location, told: Any) -> dict[str, str]:
        with monkeypatch.context() as patched:
            patched.setattr(Location, "write_text", refused)
            return {node: task(place, told, node) for node in nodes}

    def refused(self: Location, text: str) -> None:
        raise OSError(30, os.strerror(30))

    with pytest.raises(SettingsError, match=r"node 10\.0\.0\.1 cannot write there \(Read-only file system\)"):
        try_written(Location.of(tmp_path), NODES, ask)
    monkeypatch.setattr(shared_folders, "SECONDS_TO_APPEAR", 0.0)
    with pytest.raises(SettingsError, match=r"node 10\.0\.0\.1 writes where this machine sees none"):
        try_written(Location.of(tmp_path), NODES, lambda nodes, *given: dict.fromkeys(nodes, ""))


@pytest.mark.parametrize("others", [[], [{"NodeID": "head", "NodeManagerAddress": "10.0.0.9", "Resources": {}}]])
def test_alone_nobody_is_asked_and_of_a_bucket_neither(
    others: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_folders, "this_worker", lambda: Worker("driver", "own"))
    own = {"NodeID": "own", "NodeManagerAddress": "127.0.0.1", "Resources": {"CPU": 2.0}}
    monkeypatch.setattr(shared_folders, "living_nodes", lambda: [own, *others])
    require_shared([Location.of(tmp_path / "new")], [Location.of(tmp_path / "none")])
    assert not (tmp_path / "new").exists()
    monkeypatch.setattr(shared_folders, "living_nodes", lambda: [own | {"NodeID": "other"}])
    require_shared([Location.of("s3://bucket/run")], [Location.of("gs://bucket/store")])
