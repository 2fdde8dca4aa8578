"""Where DeepLesion's slices lie, and which of them are not there."""

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from harvester.datasets.deeplesion.marks import MarkRow
from harvester.labels.deeplesion.dl_info import InfoRow
from harvester.labels.deeplesion.published_marks import PublishedMarks
from harvester.labels.deeplesion.volume_ids import SubVolume, split_id

IMAGES: Final = "Images_png"
INFO: Final = "DL_info.csv"
Fault = tuple[str, str]
"""Reason and message of a Reject."""


def is_deeplesion(root: Path) -> bool:
    """Whether a folder is laid out as DeepLesion is published."""
    return (root / IMAGES).is_dir() and (root / INFO).is_file()


def slice_names(folder: str, start: int, end: int) -> list[str]:
    """The files of slices `start` to `end` of a series, both included, below IMAGES."""
    return [f"{folder}/{number:03d}.png" for number in range(start, end + 1)]


def missing_files(root: Path, keys: Mapping[str, Collection[int]]) -> dict[str, Fault]:
    """Reason and message of each volume whose files are not all there; `keys` has each volume's key slices (z).

    Any slice of the range is needed: z counts slices, so a gap would move every mark behind it, and a slice made up
    would be harvested in. The published archive has none, so what is missing was not fetched. Folders are listed
    once each; no file is opened.
    """
    of_folder: dict[str, list[tuple[str, SubVolume]]] = {}
    for volume in keys:
        if part := split_id(volume):
            of_folder.setdefault(part.folder, []).append((volume, part))
    faults: dict[str, Fault | None] = {}
    for folder, parts in of_folder.items():
        there = _names(root / IMAGES / folder)
        faults |= {volume: _fault(volume, part, keys[volume], there) for volume, part in parts}
    return {volume: fault for volume, fault in faults.items() if fault}


def _names(folder: Path) -> frozenset[str] | None:
    """Names in a folder, in lower case; None where there is none or it may not be read."""
    try:
        with os.scandir(folder) as entries:
            return frozenset(entry.name.lower() for entry in entries)
    except OSError:
        return None


def _fault(volume: str, part: SubVolume, keys: Iterable[int], there: frozenset[str] | None) -> Fault | None:
    if there is None:
        return "missing_series", f"volume {volume}: its series has no folder in {IMAGES} that can be read; fetch it"
    names = slice_names("", part.start, part.end)
    lost = [z for z, name in enumerate(names) if name.removeprefix("/") not in there]
    if not lost:
        return None
    key = sorted(set(lost) & set(keys))
    fault = f"volume {volume}: {len(lost)} of its {len(names)} slices are missing"
    if key:
        return "missing_key_slice", f"{fault}, the key slice z = {key[0]} among them; fetch the series again"
    return "missing_slice", f"{fault}, the first is z = {lost[0]}; fetch the series again"


def unknown(rows: Mapping[str, Sequence[InfoRow]], annotated: Mapping[str, PublishedMarks]) -> dict[str, Fault]:
    """Volumes that a file of full annotation names and the table `rows` does not. A strange id is not repeated."""
    faults: dict[str, Fault] = {}
    for published in annotated.values():
        for volume in set(published.volume_ids) - rows.keys():
            if split_id(volume):
                message = f"volume {volume}: annotated, but not in the table of marks, which has its spacing; add it"
                faults[volume] = ("unknown_volume", message)
            else:
                faults[volume] = ("bad_id", "annotated under an id that is not PATIENT_STUDY_SERIES_START-END")
    return faults


def unusable(
    root: Path, rows: Mapping[str, Sequence[InfoRow]], marks: Mapping[str, Sequence[MarkRow]], splits: Mapping[str, str]
) -> dict[str, Fault]:
    """What is wrong with the volumes that have a split; nothing where all is well."""
    faults = {volume: _row_fault(rows[volume], marks[volume], split) for volume, split in splits.items()}
    keys = {volume: {mark["z"] for mark in marks[volume]} for volume in splits if not faults[volume]}
    return {volume: fault for volume, fault in faults.items() if fault} | missing_files(root, keys)


def _row_fault(lines: Sequence[InfoRow], marks: Sequence[MarkRow], split: str) -> Fault | None:
    about = f"volume {lines[0].volume_id}"
    if len({(each.spacing_zyx_mm, each.size_px, each.split) for each in lines}) > 1:
        return "bad_row", f"{about}: its rows disagree on spacing, size or split; correct the table"
    if split == "vh" and not marks:
        return ("noisy", f"{about}: all its marks are flagged Possibly_noisy; data.deeplesion.keep_noisy takes it")
    return None
