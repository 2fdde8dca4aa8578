"""Volumes of DeepLesion that cannot be used, as far as its tables and the names of its files tell."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from harvester.labels.dl_info import InfoRow
from harvester.labels.published import PublishedMarks
from harvester.labels.volume_ids import split_id
from harvester.volumes.deeplesion_files import missing_files
from harvester.volumes.deeplesion_marks import MarkRow

Fault = tuple[str, str]
"""Reason and message of a Refused."""


def unknown(
    rows: Mapping[str, Sequence[InfoRow]], annotated: Mapping[str, PublishedMarks]
) -> dict[str, Fault]:
    """Volumes that a file of full annotation names and the table `rows` does not. A strange id is not repeated."""
    faults: dict[str, Fault] = {}
    for published in annotated.values():
        for volume in set(published.volume_ids) - rows.keys():
            if split_id(volume):
                message = f"volume {volume}: annotated, but not in the table of marks, which has its spacing; add it"
                faults[volume] = ("unknown_volume", message)
            else:
                faults[volume] = (
                    "bad_id",
                    "annotated under an id that is not PATIENT_STUDY_SERIES_START-END",
                )
    return faults


def unusable(
    root: Path,
    rows: Mapping[str, Sequence[InfoRow]],
    marks: Mapping[str, Sequence[MarkRow]],
    splits: Mapping[str, str],
) -> dict[str, Fault]:
    """What is wrong with the volumes that have a split; nothing where all is well."""
    faults = {volume: _fault(rows[volume], marks[volume], split) for volume, split in splits.items()}
    keys = {volume: {mark["z"] for mark in marks[volume]} for volume in splits if not faults[volume]}
    return {volume: fault for volume, fault in faults.items() if fault} | missing_files(root, keys)


def _fault(lines: Sequence[InfoRow], marks: Sequence[MarkRow], split: str) -> Fault | None:
    volume = lines[0].volume_id
    if len({(each.spacing_zyx_mm, each.size_px, each.split) for each in lines}) > 1:
        message = f"volume {volume}: its rows disagree on spacing, size or split; correct the table"
        return "bad_row", message
    if split == "vh" and not marks:
        message = (
            f"volume {volume}: all its marks are flagged Possibly_noisy; data.deeplesion.keep_noisy takes it"
        )
        return "noisy", message
    return None
