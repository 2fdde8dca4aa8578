"""The kinds of lesion: where each lies, its size and shape, and how it looks. A kind is an entry of KINDS."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from harvester.config.data import InsertionSettings, LesionKind
from harvester.datasets.insertion import looks
from harvester.datasets.insertion.lesion_models import Blob, draw_blob

Shape = Callable[[np.random.Generator, float], Blob]
"""A blob of about a diameter in mm."""

SPICULATED: Final = 0.35
ILL_DEFINED: Final = 0.5
MARGIN_SHARE: Final = (0.04, 0.1)
"""Shares of nodules with spicules and of organ lesions with an ill-defined margin, and its width
(standard deviation) as a share of the diameter."""


@dataclass(frozen=True)
class Home:
    """A way to lie in a tissue: the room (tissues.Tissues) that a lesion of radius r wants at its centre.

    share   of the kind's lesions that lie so
    room    the map of Tissues
    least   (a, b): at least a r + b mm, and no less than `floor`
    most    at most so many r
    mask    a map of Tissues in which the centre lies besides
    power   places are preferred by their room to this power
    change  how the lesion looks there, where it is not the kind's own way
    """

    share: float
    room: str
    least: tuple[float, float]
    most: float = np.inf
    floor: float = 0.0
    mask: str = ""
    power: float = 0.0
    change: looks.Change | None = None


@dataclass(frozen=True)
class Kind:
    """One kind of lesion.

    homes      where it lies
    limits     the setting with its least and largest diameter in mm
    size       median diameter in mm and spread of its logarithm, before the limits: DeepLesion's lesions have
               about 4 / 11 / 40 mm at the 5th / 50th / 95th percentile
    shape      its blob
    change     how it looks
    least_mm   no smaller, whatever the limits: it would not be seen as one of its kind
    whole      share of the lesion that must change the image; what a wall or an organ hides is no lesion to find
    seen_hu    it changes half of its voxels by this or more, or nobody could see it
    members    fewest and most neighbours of a group, each a lesion of its own
    alone      what one that found no neighbour is
    """

    homes: tuple[Home, ...]
    limits: str
    size: tuple[float, float]
    shape: Shape
    change: looks.Change
    least_mm: float = 0.0
    whole: float = 0.75
    seen_hu: float = 20.0
    members: tuple[int, int] = (1, 1)
    alone: LesionKind | None = None

    def draw_size(self, settings: InsertionSettings, rng: np.random.Generator) -> float:
        """A diameter in mm within the limits."""
        low, high = getattr(settings, self.limits)
        median, spread = self.size
        return float(np.clip(median * np.exp(rng.normal(0, spread)), min(max(low, self.least_mm), high), high))

    def draw_home(self, rng: np.random.Generator) -> Home:
        """One of the homes, by their shares."""
        return self.homes[int(rng.choice(len(self.homes), p=[home.share for home in self.homes]))]


def blob(flatness: float, bumps: float) -> Shape:
    """A shape with sharp margins; see lesion_models.draw_blob."""
    return lambda rng, diameter: draw_blob(rng, diameter, flatness=flatness, bumps=bumps)


def nodule(rng: np.random.Generator, diameter_mm: float) -> Blob:
    """Some have spicules."""
    spicules = int(rng.integers(8, 20)) if rng.random() < SPICULATED else 0
    return draw_blob(rng, diameter_mm, flatness=0.65, bumps=0.22, spicules=spicules)


def veil(rng: np.random.Generator, diameter_mm: float) -> Blob:
    """Ground glass ends softly."""
    margin = diameter_mm * float(rng.uniform(0.04, 0.09))
    return draw_blob(rng, diameter_mm, flatness=0.65, bumps=0.3, margin_mm=margin)


def organ(rng: np.random.Generator, diameter_mm: float) -> Blob:
    """Some have an ill-defined margin."""
    margin = diameter_mm * float(rng.uniform(*MARGIN_SHARE)) if rng.random() < ILL_DEFINED else 0.0
    return draw_blob(rng, diameter_mm, flatness=0.6, bumps=0.26, margin_mm=margin)


def bone(rng: np.random.Generator, diameter_mm: float) -> Blob:
    """Its margin is a little soft."""
    return draw_blob(rng, diameter_mm, flatness=0.6, bumps=0.3, margin_mm=0.8)


FREE: Final = Home(0.55, "lung_room_mm", (1, 2))
PLEURAL: Final = Home(0.25, "lung_room_mm", (0.3, 0), most=0.8)
VASCULAR: Final = Home(0.2, "lung_room_mm", (1, 2), mask="vessel")
LUNG: Final = (FREE, PLEURAL, VASCULAR)
ORGAN: Final = (Home(1, "organ_room_mm", (1, 1), power=2),)
"""In large organs rather than muscles."""
FAT: Final = (Home(1, "fat_room_mm", (0.65, 0), floor=4.5),)
"""A node may press on its neighbours; `whole` sees to it that most of it lies in fat."""
BONE: Final = (Home(1, "bone_room_mm", (0.45, 0), floor=3.0, power=1),)
LARGE: Final = (
    Home(0.3, "lung_room_mm", (0.65, 0)),
    Home(0.3, "lung_room_mm", (0.2, 0), most=0.6),
    Home(0.4, "soft_room_mm", (0.55, 0), change=looks.mass_in_soft_tissue),
)

KINDS: Final[dict[LesionKind, Kind]] = {
    "nodule": Kind(LUNG, "nodule_mm", (11, 0.45), nodule, looks.solid, seen_hu=240),
    "part_solid": Kind(LUNG, "nodule_mm", (17, 0.3), veil, looks.part_solid, least_mm=9, whole=0.65, seen_hu=110),
    "ground_glass": Kind(LUNG, "nodule_mm", (16, 0.35), veil, looks.ground_glass, least_mm=8, whole=0.65, seen_hu=110),
    "cavitary": Kind(LUNG, "nodule_mm", (20, 0.3), nodule, looks.cavitary, least_mm=11, seen_hu=80),
    "calcified": Kind(LUNG, "nodule_mm", (9, 0.3), blob(0.75, 0.12), looks.calcified, least_mm=6, seen_hu=240),
    "hypodense": Kind(ORGAN, "organ_mm", (19, 0.45), organ, looks.hypodense),
    "hyperdense": Kind(ORGAN, "organ_mm", (18, 0.4), organ, looks.hyperdense),
    "cystic": Kind(ORGAN, "organ_mm", (18, 0.45), blob(0.8, 0.08), looks.cystic),
    "rim_enhancing": Kind(ORGAN, "organ_mm", (24, 0.35), blob(0.7, 0.2), looks.rim_enhancing, least_mm=14),
    "node": Kind(FAT, "node_mm", (14, 0.28), blob(0.65, 0.1), looks.node, seen_hu=60),
    "node_chain": Kind(
        FAT, "node_mm", (12, 0.25), blob(0.65, 0.1), looks.node, seen_hu=60, members=(2, 5), alone="node"
    ),
    "bone_lytic": Kind(BONE, "bone_mm", (16, 0.35), bone, looks.lytic, least_mm=10, whole=0.5, seen_hu=110),
    "bone_sclerotic": Kind(BONE, "bone_mm", (14, 0.35), bone, looks.sclerotic, whole=0.5, seen_hu=200),
    "mass": Kind(LARGE, "mass_mm", (52, 0.2), blob(0.7, 0.34), looks.mass_in_lung, whole=0.6, seen_hu=26),
}
