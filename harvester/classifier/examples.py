"""What the classifier learns from: tubelets that are lesions, tubelets that surely are not."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from harvester.classifier.crops import cut, in_windows, joined, load_squares
from harvester.classifier.views import STILL, STREAMS, Pose, Tubelet, pixels, shape_profile, view_squares
from harvester.config.models import ClassifierSettings
from harvester.geometry import Array
from harvester.storage.location import Location
from harvester.store.slab import GridFrame

Example = tuple[GridFrame, dict[str, Any]]
Raw = dict[str, Any]
"""hu (z, y, x) int16; squares of each stream; labels (g,); shape_profile (g, DESCRIPTORS); where augmented, shift_hu
(g,) and noise_hu (g, views, 3, p, p) of the local crops."""

NOISE_HU: Final = 15.0
HU_SHIFT: Final = 12.0


class Examples(Dataset[Raw]):
    """Item i is one volume with `tubelets_per_volume` of its tubelets; the same for the same (seed, i).

    `examples` maps 1 to tubelets that match a known lesion and 0 to those of completely marked volumes that match none.
    Even items' volumes are drawn by their lesions, odd items' by the squared generator scores of what is none: what the
    generator likes is what the classifier is asked about. A volume with both gives half of each, and odd ones so many
    lesions that on average half of all tubelets are lesions.
    """

    def __init__(
        self,
        store: Location,
        examples: Mapping[int, Sequence[Example]],
        settings: ClassifierSettings,
        items: int,
        seed: int,
    ) -> None:
        self.store, self.settings, self.items, self.seed = store, settings, items, seed
        self.volumes = _by_volume(examples)
        drawn = {label: [_chances(rows[label], label) for _, rows in self.volumes] for label in (0, 1)}
        weight = {label: np.array([own.sum() for own in each]) for label, each in drawn.items()}
        self.volume_chances = {label: each / each.sum() for label, each in weight.items()}
        self.row_chances = {label: [own / max(own.sum(), 1e-12) for own in each] for label, each in drawn.items()}
        both = (weight[0] > 0) & (weight[1] > 0)
        by_lesion, by_other = (float(self.volume_chances[label][both].sum()) for label in (1, 0))
        # Even items lack a share by_lesion / 2 of lesions: odd ones, of which by_other have any, make up for it.
        self.lesion_share = {1: 0.5, 0: min(1.0, by_lesion / (2 * by_other)) if by_other else 0.0}

    def __len__(self) -> int:
        return self.items

    def __getitem__(self, index: int) -> Raw:
        rng = np.random.default_rng((self.seed, index))
        by = 1 - index % 2
        frame, chosen = self._drawn(by, rng)
        tubelets = [Tubelet.of(row) for _, row in chosen]
        poses = [_pose(rng) if self.settings.augment else STILL for _ in chosen]
        squares = joined(
            [view_squares(each, frame, self.settings, pose) for each, pose in zip(tubelets, poses, strict=True)]
        )
        hu, squares = load_squares(self.store, frame, squares, self.settings, torch.device("cpu"))
        profile = shape_profile(tubelets, frame)
        labels = torch.tensor([float(label) for label, _ in chosen])
        varied = self._varied(profile, poses, rng) if self.settings.augment else {"shape_profile": profile}
        return {"hu": hu, "squares": squares, "labels": labels} | {
            name: torch.from_numpy(each) for name, each in varied.items()
        }

    def _drawn(self, by: int, rng: np.random.Generator) -> tuple[GridFrame, list[tuple[int, dict[str, Any]]]]:
        """A volume, and of its tubelets label and row."""
        at, count = int(rng.choice(len(self.volumes), p=self.volume_chances[by])), self.settings.tubelets_per_volume
        frame, rows = self.volumes[at]
        lesions = int(np.floor(count * self.lesion_share[by] + rng.random()))
        if not rows[1] or not rows[0]:
            lesions = count if rows[1] else 0
        chosen = []
        for label, wanted in ((1, lesions), (0, count - lesions)):
            chances = self.row_chances[label][at]
            again = wanted > int(np.count_nonzero(chances))
            if wanted:
                which = rng.choice(len(chances), wanted, replace=again, p=chances)
                chosen += [(label, rows[label][each]) for each in which]
        return frame, chosen

    def _varied(self, profile: Array, poses: Sequence[Pose], rng: np.random.Generator) -> dict[str, Array]:
        """Brightened, noisy, and the profiles of tubelets that were turned upside down turned with them."""
        count = len(poses)
        views = self.settings.views + 2 * self.settings.reformats
        side = pixels("local", self.settings)
        turned = np.stack([pose.of_profile(own) for own, pose in zip(profile, poses, strict=True)])
        strength = rng.uniform(0, NOISE_HU, count).astype(np.float32)
        noise = rng.standard_normal((count, views, 3, side, side), dtype=np.float32)
        return {
            "shape_profile": turned + rng.normal(0, 0.1, turned.shape).astype(np.float32),
            "shift_hu": rng.normal(0, HU_SHIFT, count).astype(np.float32),
            "noise_hu": noise * strength[:, None, None, None, None],
        }


def network_input(
    raw: Raw, settings: ClassifierSettings, windows_hu: Sequence[tuple[float, float]]
) -> dict[str, Tensor]:
    """Crops `local` and `global` (g, views, 3 windows, p, p) in [0, 1] and `shape_profile`, made where the HU are."""
    views = {"shape_profile": raw["shape_profile"]}
    for name in STREAMS:
        crops = cut(raw["hu"], raw["squares"][name], pixels(name, settings))
        hu = torch.unflatten(crops, 0, (len(raw["labels"]), -1))
        if "shift_hu" in raw:
            hu += raw["shift_hu"][:, None, None, None, None]
        if "noise_hu" in raw and name == "local":
            hu += raw["noise_hu"]
        views[name] = in_windows(hu, windows_hu)
    return views


def _by_volume(examples: Mapping[int, Sequence[Example]]) -> list[tuple[GridFrame, dict[int, list[dict[str, Any]]]]]:
    """Of each volume its frame and its tubelets by label."""
    volumes: dict[str, tuple[GridFrame, dict[int, list[dict[str, Any]]]]] = {}
    for label, each in examples.items():
        for frame, row in each:
            _, rows = volumes.setdefault(frame.volume_id, (frame, {0: [], 1: []}))
            rows[label].append(row)
    return [volumes[name] for name in sorted(volumes)]


def _chances(rows: Sequence[Mapping[str, Any]], label: int) -> Array:
    """Of each tubelet, how often it should be drawn, by comparison."""
    return np.array([1.0 if label else row["lpg_score"] ** 2 for row in rows])


def _pose(rng: np.random.Generator) -> Pose:
    """Shifted, scaled, mirrored along any axis, turned about z."""
    shift = (float(rng.uniform(-0.1, 0.1)), float(rng.uniform(-0.1, 0.1)))
    scale, angle = float(rng.uniform(0.85, 1.2)), float(rng.uniform(-np.pi, np.pi))
    return Pose.turned(angle, np.where(rng.random(3) < 0.5, -1.0, 1.0), shift, scale)
