"""A published annotation file: a pickle `{volume_id: what it holds}`, its ids in the one form that is kept."""

from pathlib import Path
from typing import Any

from harvester.errors import LabelError
from harvester.labels.safe_pickle import load_numbers
from harvester.labels.volume_ids import plain_id


def read_volumes(file: Path) -> dict[str, Any]:
    """What the file holds of each volume, by its plain id, in the file's order; nothing for an empty dictionary.

    Raises LabelError where the file is missing, cut short, names a foreign global, is no dictionary of volumes, or
    has a volume twice (with and without .annot, say).
    """
    tree = load_numbers(file)
    if not isinstance(tree, dict):
        raise LabelError(f"{file.name}: want {{volume_id: {{z: boxes}}}}, got a {type(tree).__name__}")
    volumes: dict[str, Any] = {}
    for volume_id, held in tree.items():
        if not isinstance(volume_id, str):
            raise LabelError(
                f"{file.name}: volume {volume_id!r} holds a {type(held).__name__}; want text as its id"
            )
        if plain_id(volume_id) in volumes:
            raise LabelError(f"{file.name}: has volume {plain_id(volume_id)} twice; want each once")
        volumes[plain_id(volume_id)] = held
    return volumes
