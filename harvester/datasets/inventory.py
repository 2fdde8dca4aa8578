"""What a store is made from: the volumes that a look at the data found, each known by its source and its contents."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from harvester.config.fingerprint import settings_hash
from harvester.config.settings import Settings
from harvester.datasets.discovery import Discovery
from harvester.errors import StoreError
from harvester.records import Reject
from harvester.store.commit import DRAWN
from harvester.store.same_voxels import SAME_VOXELS

Row = dict[str, Any]

TRY_AGAIN: Final = "try_again"
"""The reason of a reject whose reading failed for what may be over at the next start."""
AT_THE_END: Final = (TRY_AGAIN, SAME_VOXELS)
"""Reasons that say nothing of the next start."""


@dataclass(frozen=True)
class Inventory:
    """What there is to make, as it was found.

    identity        what a store is made from, but for the cases (identity_of)
    cases           the discovered ones, as rows
    source_hashes   volume_id: what the volume is to be made from (source_hashes_of)
    """

    discovery: Discovery
    identity: str
    cases: list[Row]
    source_hashes: dict[str, str]

    @classmethod
    def of(cls, settings: Settings, discovery: Discovery) -> "Inventory":
        """Raises StoreError as source_hashes_of does."""
        identity, cases = identity_of(settings), [asdict(case) for case in discovery.cases]
        return cls(discovery, identity, cases, source_hashes_of(identity, cases, discovery.rejects))

    @property
    def stamp(self) -> dict[str, str]:
        """What a store of all this is made from, and in how many volumes it has drawn marks."""
        drawn = {DRAWN: str(len(self.discovery.unflagged))} if self.discovery.unflagged else {}
        return {"settings": self.identity, "cases": settings_hash(sorted(self.source_hashes.items()))} | drawn

    def still_refused(self, earlier: Iterable[Reject]) -> list[Reject]:
        """Those of earlier refusals that hold: of files that are as they were, for what they are."""
        now = set(self.source_hashes.values())
        return [each for each in earlier if each.source_hash in now and each.reason not in AT_THE_END]


def identity_of(settings: Settings) -> str:
    """What a store is made from, but for the cases. The path does not count: data may lie elsewhere tomorrow.

    Neither does how many refusals are allowed: whoever allows more goes on with what is there.
    """
    kind = settings.data.kind
    # Clinical marks are drawn when all volumes are there: not a voxel is made anew for it. And what a release adds
    # changes no store as long as nobody asks for it.
    parts = ("insertion", "phantom") if kind == "made" else (kind,)
    own = [getattr(settings.data, part).model_dump(mode="json", exclude={"clinical_marks"}) for part in parts]
    own = [{name: value for name, value in part.items() if name != "any_values" or value} for part in own]
    return settings_hash(kind, *own, settings.seed, settings.grid.spacing_zyx_mm)


def source_hashes_of(identity: str, cases: Sequence[Row], rejects: Sequence[Reject]) -> dict[str, str]:
    """volume_id: what the volume is to be made from, hashed; of files their contents follow behind a dash.

    Raises StoreError for no cases and for two of one id.
    """
    if not cases:
        first = f"; {len(rejects)} were refused, the first: {rejects[0].message}" if rejects else ""
        raise StoreError(
            "no scans found: want .nii, .nii.gz or DICOM CT series, or the slices of DeepLesion's table, under "
            f"--source{first}"
        )
    hashes = {case["volume_id"]: _source_hash(identity, **case) for case in cases}
    if len(hashes) < len(cases):
        raise StoreError(f"{len(cases) - len(hashes)} scans have the volume_id of another; want one per scan")
    return hashes


def without_contents(source_hash: str) -> str:
    """What names the source alone: files that were only touched or copied make the same store."""
    return source_hash.partition("-")[0]


def _source_hash(identity: str, contents: str = "", **case: Any) -> str:
    source = settings_hash(identity, case)
    return f"{source}-{contents}" if contents else source
