"""One reader at one deck: what is shown next, what was said, and what is proven by it. Knows nothing of the web."""

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any, Final

import numpy as np

from harvester.certificate.audit import RIGHT, Claim, Standing, Verdict, claim_of, standings
from harvester.certificate.audit_folder import AuditFolder, Plan, Reader, Said
from harvester.errors import LabelError
from harvester.geometry import Array
from harvester.records import SIDES, MarkTable, Placed, boxes_of
from harvester.store.store import Store, read_volume

AROUND_MM: Final = 75.0
"""From a find's middle to the edge of its picture, more for large ones."""
BEYOND_MM: Final = 30.0
"""Slices above and below a find."""
MOST_BOXES: Final = 500
TOLD_EVERY: Final = 10
"""Screens. What is proven after every answer would tell a reader which of the finds was a planted one."""


@dataclass(frozen=True)
class Judgement:
    """An answer as it comes from the page. boxes are in the picture's voxels: (z, x1, y1, x2, y2)."""

    screen: int
    verdict: Verdict
    boxes: tuple[tuple[int, float, float, float, float], ...] = ()
    note: str = ""


class Session:
    """A reader's way through the deck; safe to be used by several threads.

    screens   the finds in the order in which they are shown
    """

    def __init__(self, folder: AuditFolder, reader: Reader, store: Store, only: Sequence[str] | None = None) -> None:
        self.folder, self.reader, self.store = folder, reader, store
        self.deck, plan = folder.plan.deck, folder.plan
        every = [
            *self.deck.screens(0),
            *(find for rung in range(1, len(plan.deck.sizes)) for find in self.deck.members(rung)),
        ]
        self.screens = list(dict.fromkeys(every)) if only is None else list(only)
        self.rows = {row["find"]: row for row in folder.finds.to_pylist()}
        self.volumes = {row["volume_id"]: row for row in store.manifest.to_pylist()}
        self.marks = _by_volume(store.marks())
        self.lock = Lock()
        self.lines: list[Said] = folder.said(reader.name)

    def verdicts(self) -> dict[str, Verdict]:
        """This reader's so far, as they count: of a planted find the first."""
        return self.folder.verdicts_of(self.lines)

    def answers(self) -> dict[str, Verdict]:
        """The last word on each find that was not taken back: what the reader remembers, whether planted or not."""
        last = {line.find: line.verdict for line in self.lines}
        return {find: verdict for find, verdict in last.items() if verdict}

    def first_unread(self) -> int:
        """The screen to show; len(screens) where all are read."""
        said = self.answers()
        return next((at for at, find in enumerate(self.screens) if find not in said), len(self.screens))

    def judge(self, given: Judgement) -> dict[str, Any]:
        """Write a verdict down. Raises LabelError for a screen that is none and for boxes outside the picture."""
        find = self._find(given.screen)
        placed = self._placed(find, given.boxes)
        if (given.verdict == Verdict.MOVED) != bool(placed):
            raise LabelError("want boxes with a moved lesion, and with nothing else")
        with self.lock:
            self._say(find, given.verdict, placed, given.note)
        return self.state()

    def undo(self) -> dict[str, Any]:
        """Take the last verdict back that was not taken back; the state, and which screen it was."""
        with self.lock:
            said = self.answers().keys() & set(self.screens)
            last = next((line.find for line in reversed(self.lines) if line.verdict and line.find in said), None)
            if last is None:
                return self.state()
            self._say(last, None, [], "")
        return self.state() | {"screen": self.screens.index(last)}

    def state(self) -> dict[str, Any]:
        """How far the reader is, and what is proven: what the page says below a picture."""
        answers, said = self.answers(), self.verdicts()
        read = [find for find in self.screens if find in answers]
        whole = len(read) if len(read) == len(self.screens) else len(read) // TOLD_EVERY * TOLD_EVERY
        hidden = {*read[whole:]}
        where = progress(self.folder, {find: verdict for find, verdict in said.items() if find not in hidden})
        return {"screens": len(self.screens), "read": len(read), "screen": self.first_unread(), **where}

    def picture(self, screen: int) -> bytes:
        """A find's surroundings: a length (uint32), as much JSON, then int16 HU (z, y, x), all little-endian.

        JSON: shape, spacing_mm (z, y, x), boxes and marks as (z, x1, y1, x2, y2) in the picture's voxels, first (its
        slice to show), said (the reader's verdict, or null).
        """
        find = self._find(screen)
        row, z0, y0, x0, block = self._block(find)
        inside = [(z - z0, x1 - x0, y1 - y0, x2 - x0, y2 - y0) for z, (x1, y1, x2, y2) in boxes_of(row)]
        marks = [
            (mark["z"] - z0, *(mark[side] - (x0, y0, x0, y0)[at] for at, side in enumerate(SIDES)))
            for mark in self.marks.get(row["volume_id"], [])
            if 0 <= mark["z"] - z0 < len(block)
        ]
        volume, said = self.volumes[row["volume_id"]], self.answers()
        head = {
            "shape": block.shape,
            "spacing_mm": [volume[f"spacing_{axis}_mm"] for axis in "zyx"],
            "boxes": inside,
            "marks": marks,
            "first": inside[len(inside) // 2][0],
            "said": said.get(find),
        }
        packed = json.dumps(head).encode()
        return struct.pack("<I", len(packed)) + packed + np.ascontiguousarray(block, "<i2").tobytes()

    def _find(self, screen: int) -> str:
        if not 0 <= screen < len(self.screens):
            raise LabelError(f"screen {screen}: the deck has {len(self.screens)}")
        return self.screens[screen]

    def _say(self, find: str, verdict: Verdict | None, placed: list[Placed], note: str) -> None:
        self.lines.append(self.reader.say(find, verdict, placed, note))

    def _block(self, find: str) -> tuple[Mapping[str, Any], int, int, int, Array]:
        """A find's row, its picture's first slice, row and column, and the HU."""
        row = self.rows[find]
        volume = self.volumes[row["volume_id"]]
        spacing = [volume[f"spacing_{axis}_mm"] for axis in "zyx"]
        low = [min(row["z"]), min(row["y1"]), min(row["x1"])]
        high = [max(row["z"]), max(row["y2"]), max(row["x2"])]
        ends = []
        for axis, size in enumerate(("depth", "height", "width")):
            middle, half = (low[axis] + high[axis]) / 2, (high[axis] - low[axis] + 1) / 2 * spacing[axis]
            reach = half + BEYOND_MM if axis == 0 else max(AROUND_MM, half + BEYOND_MM)
            first = max(0, int(np.floor(middle - reach / spacing[axis])))
            ends.append((first, min(volume[size], int(np.ceil(middle + reach / spacing[axis])) + 1)))
        (z0, z1), (y0, y1), (x0, x1) = ends
        hu = read_volume(self.store.path, row["volume_id"], z0, z1).hu_zyx[:, y0:y1, x0:x1]
        return row, z0, y0, x0, hu

    def _placed(self, find: str, boxes: Sequence[tuple[int, float, float, float, float]]) -> list[Placed]:
        """Boxes of a picture as the volume's own. Raises LabelError outside of it."""
        if not boxes:
            return []
        _, z0, y0, x0, block = self._block(find)
        depth, rows, columns = block.shape
        for z, x1, y1, x2, y2 in boxes[:MOST_BOXES]:
            if not (0 <= z < depth and -0.5 <= x1 <= x2 <= columns - 0.5 and -0.5 <= y1 <= y2 <= rows - 0.5):
                raise LabelError("a box lies outside its picture, or its ends are out of order")
        return [(int(z) + z0, (x1 + x0, y1 + y0, x2 + x0, y2 + y0)) for z, x1, y1, x2, y2 in boxes[:MOST_BOXES]]


def progress(folder: AuditFolder, said: Mapping[str, Verdict]) -> dict[str, Any]:
    """What is proven and what it will take, in numbers, in sentences (`told`) and in a line (`words`)."""
    plan, deck = folder.plan, folder.plan.deck
    if not plan.deck.sizes:
        told = ["what you say teaches the next run"]
        return {"proven": 0, "bound": 0.0, "told": told, "words": told[0]}
    claim = claim_of(deck, said, plan.target, plan.level)
    heading = claim_of(deck, said, plan.target, plan.level, Verdict.REJECTED)
    now, ahead = standings(deck, said, claim), standings(deck, said, heading)
    proven = [each for each in now if each.proven_at]
    told = sentences(ahead[-1], heading, proven, _unread(folder, said))
    if not proven and not deck.unread(said):
        told += at_the_end(plan, said)
    return {
        "proven": proven[-1].size if proven else 0,
        "bound": round(ahead[-1].bound, 4),
        "told": told,
        "words": "; ".join(told),
    }


def at_the_end(plan: Plan, said: Mapping[str, Verdict]) -> list[str]:
    """Of a deck that is read and proves nothing: that it is over, and what the planted finds show."""
    lures = plan.deck.lures
    taken = sum(said[find] in RIGHT for find in lures)
    told = [f"all are read, and a precision of {plan.target:g} is not proven"]
    if taken:
        told.append(
            f"{taken} of {len(lures)} planted finds that are none by V_M's marks were taken for lesions, which costs "
            "most of the proof: either they are lesions that V_M's marks lack, or the reader takes too much for one"
        )
    return told


def sentences(rung: Standing, claim: Claim, proven: Sequence[Standing], planted_left: int) -> list[str]:
    """'31 of 31 right, so at least 0.87 of the list of 60', 'at this rate about 9 more for 0.90'."""
    right, read = sum(rung.right), len(rung.right)
    sure = f", so at least {rung.bound:.2f} of the list of {rung.size}" if claim.believed else ""
    told = [f"{right} of {read} right{sure}"] if read else []
    if rung.proven_at is None:
        told.append(
            f"at this rate about {rung.left} more for {claim.target:.2f}"
            if rung.left
            else f"at this rate {claim.target:.2f} is not reached"
        )
    elif planted_left:
        told.append(f"{planted_left} more to see how surely you tell them apart")
    if proven:
        told.insert(0, f"Proven: at least {claim.target:.2f} of the best {proven[-1].size} are right")
    return told


def _unread(folder: AuditFolder, said: Mapping[str, Verdict]) -> int:
    return sum(find not in said for find in folder.plan.deck.lures)


def _by_volume(marks: MarkTable) -> dict[str, list[Mapping[str, Any]]]:
    """The clinical ones."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for mark in marks.to_pylist():
        if mark["clinical"]:
            found.setdefault(mark["volume_id"], []).append(mark)
    return found
