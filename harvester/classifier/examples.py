"""What the classifier learns from: tubelets that are lesions, tubelets that surely are not."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from harvester.classifier.views import DESCRIPTORS, STILL, cut_views, load_views
from harvester.config.settings import ClassifierSettings, GridSettings
from harvester.storage.location import Location
from harvester.store.slab import GridFrame

Example = tuple[GridFrame, dict[str, Any]]


class Examples(Dataset[tuple[dict[str, Tensor], Tensor]]):
    """Item i is one tubelet's crops and its label, half of them lesions; the same for the same (seed, i).

    `examples` maps 1 to tubelets that match a known lesion and 0 to those of completely marked volumes that match none.
    The latter are drawn in proportion to their squared generator score: what the generator likes is what the
    classifier is asked about.
    """

    def __init__(
        self,
        store: Location,
        examples: Mapping[int, Sequence[Example]],
        settings: ClassifierSettings,
        grid: GridSettings,
        items: int,
        seed: int,
    ) -> None:
        self.store, self.examples, self.settings, self.grid = store, examples, settings, grid
        self.items, self.seed = items, seed
        liked = np.array([row["lpg_score"] for _, row in examples[0]]) ** 2
        self.shares = {1: None, 0: liked / liked.sum()}

    def __len__(self) -> int:
        return self.items

    def __getitem__(self, index: int) -> tuple[dict[str, Tensor], Tensor]:
        rng = np.random.default_rng((self.seed, index))
        label = index % 2
        frame, row = self.examples[label][int(rng.choice(len(self.examples[label]), p=self.shares[label]))]
        jitter = STILL
        if self.settings.augment:
            jitter = (rng.uniform(-0.1, 0.1), rng.uniform(-0.1, 0.1), rng.uniform(0.85, 1.2))
        seen = load_views(self.store, frame, [row], self.settings.views, torch.device("cpu"))
        views = {name: crop[0] for name, crop in cut_views(seen, self.settings, self.grid, jitter).items()}
        return (self._varied(views, rng) if self.settings.augment else views), torch.tensor(float(label))

    def _varied(self, views: dict[str, Tensor], rng: np.random.Generator) -> dict[str, Tensor]:
        """Mirrored along any axis, brightened, noisy. Along z each view's own three slices turn."""
        mirror_x, mirror_y, mirror_z = rng.random(3) < 0.5
        shift = float(rng.normal(0, 0.03))
        noise = torch.from_numpy(rng.standard_normal(views["local"].shape, dtype=np.float32))
        # Turned along z, the first slice's score becomes the last one's.
        profile = views["shape_profile"][[0, 1, 2, 3, 5, 4]] if mirror_z else views["shape_profile"]
        varied = {"shape_profile": profile + torch.from_numpy(rng.normal(0, 0.1, DESCRIPTORS).astype(np.float32))}
        for name, view in ((name, views[name]) for name in ("local", "global")):
            axes = [axis for axis, on in ((2, mirror_z), (-1, mirror_x), (-2, mirror_y)) if on]
            varied[name] = torch.unflatten(view, 1, (-1, 3)).flip(axes).flatten(1, 2) + shift
        varied["local"] = varied["local"] + noise * float(rng.uniform(0, 0.04))
        return varied
