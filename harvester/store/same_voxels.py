"""One scan under two names: as DICOM and as NIfTI, or anonymised twice. In two splits it would be a leak."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from harvester.records import Reject, Split

SAME_VOXELS: Final = "same_voxels"
"""The reason of a reject that is decided anew whenever a store is finished."""
KNOWN_FIRST: Final = (Split.VM, Split.VH_TEST, Split.VD_TEST, Split.VH)

Row = Mapping[str, Any]


def without_twins(manifest: Sequence[Row], marks: Iterable[Row]) -> tuple[list[Row], list[Reject]]:
    """The volumes to keep, and a row for each that is refused because another one holds the same voxels.

    Of such a group one stays: of the patient with most volumes, then of the split of which most is known. None stays
    where others have marks that it lacks: nobody can tell whose are right.
    """
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in manifest:
        groups[row["voxel_hash"]].append(row)
    twins = [group for group in groups.values() if len(group) > 1]
    if not twins:
        return [*manifest], []
    ours = {row["volume_id"] for group in twins for row in group}
    said: dict[str, set[tuple[Any, ...]]] = defaultdict(set)
    for mark in marks:
        if mark["volume_id"] in ours:
            said[mark["volume_id"]].add(tuple(mark[name] for name in ("z", "x1", "y1", "x2", "y2")))
    patients = Counter(row["patient_id"] for row in manifest)
    refused: dict[str, Reject] = {}
    for group in twins:
        order = sorted(
            group,
            key=lambda row: (-patients[row["patient_id"]], KNOWN_FIRST.index(Split(row["split"])), row["volume_id"]),
        )
        kept, *others = order
        if any(said[each["volume_id"]] - said[kept["volume_id"]] for each in others):
            others = order
        for each in others:
            refused[each["volume_id"]] = _reject(each, order)
    return [row for row in manifest if row["volume_id"] not in refused], list(refused.values())


def _reject(row: Row, group: Sequence[Row]) -> Reject:
    others = " and ".join(each["volume_id"] for each in group if each is not row)
    return Reject(
        row["source_hash"],
        SAME_VOXELS,
        f"volume {row['volume_id']}: holds the same voxels as {others}, in another file or format; one scan may not be "
        "two patients' or in two splits: keep one of them, with its marks",
    )
