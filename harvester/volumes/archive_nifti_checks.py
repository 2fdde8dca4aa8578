"""What is refused of an archive's NIfTI scans before a voxel is stored: bad headers, and voxels met twice."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from harvester.config_data import ArchiveSettings
from harvester.errors import VolumeError
from harvester.volumes.archive_marks import WITH_MASKS
from harvester.volumes.archive_mask import check_fits
from harvester.volumes.archive_tables import Known
from harvester.volumes.found import Refused, Scan, salted_hash
from harvester.volumes.nifti_file import Header, read_header
from harvester.volumes.nifti_twins import twins


def check_scans(
    scans: Iterable[Scan], known: Mapping[str, Known], settings: ArchiveSettings, salt: str
) -> tuple[list[Scan], list[Refused]]:
    """The scans that may be stored, and why the others may not. Nothing is raised for a bad file."""
    checked: dict[str, tuple[Scan, Header]] = {}
    refused = []
    for each in scans:
        volume_id = "v" + salted_hash(each.key, salt)
        try:
            header = read_header(each.files[0], volume_id, settings.max_voxels)
            if each.masks and settings.marks in WITH_MASKS:
                mask_header(each.masks[0], header, volume_id, settings.max_voxels)
            checked[each.key] = (each, header)
        except VolumeError as error:
            refused.append(Refused(salted_hash(each.key, salt), error.reason, str(error)))
    for group in twins({key: (each.files[0], header) for key, (each, header) in checked.items()}):
        for key in _surplus([checked[key][0] for key in group], known):
            refused.append(_twin(key, len(group), salt))
            del checked[key]
    return [each for each, _ in checked.values()], refused


def mask_header(path: Path, scan: Header, volume_id: str, max_voxels: int) -> Header:
    """The header of a scan's label mask. Raises VolumeError: bad_mask, mask_differs."""
    try:
        header = read_header(path, volume_id, max_voxels)
    except VolumeError as error:
        raise VolumeError("bad_mask", f"{error} (this is its label mask)") from None
    check_fits(header, scan, volume_id)
    return header


def _surplus(twins_found: list[Scan], known: Mapping[str, Known]) -> list[str]:
    """Which scans of the same voxels to refuse: all but one, or all where they are told different things."""
    told = {each.key: _said(each, known.get(each.key, Known())) for each in twins_found}
    said = [key for key in told if told[key] != _said(Scan("", "", [], set()), Known())]
    if any(told[key] != told[said[0]] for key in said):
        return list(told)
    keep = (said or list(told))[0]
    return [key for key in told if key != keep]


def _said(scan: Scan, known: Known) -> tuple[object, ...]:
    marks = [{**mark, "where": ""} for mark in known.marks]
    return known.patient, known.split, known.complete, marks, bool(scan.masks)


def _twin(key: str, count: int, salt: str) -> Refused:
    return Refused(
        salted_hash(key, salt),
        "duplicate",
        f"volume v{salted_hash(key, salt)}: {count} files of the archive hold these same voxels, and one scan may not "
        "be in two splits; keep one of them, with its rows and its mask",
    )
