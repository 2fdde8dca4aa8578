"""A rank of several that fit both models on a small store: a process of its own, without Ray.

    python tests/model/rank_process.py STORE OUT RANK SIZE

OUT receives generator.json and classifier.json (losses), their weights, and the checkpoints of step CHECKPOINT.
"""

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch.distributed as dist
from safetensors.torch import save_file

from harvester.classifier import training as classifying
from harvester.config.models import ClassifierSettings, GeneratorSettings, GridSettings
from harvester.config.settings import ComputeSettings, Settings
from harvester.labels.ledger import from_marks
from harvester.models.data_parallel import ALONE, Ranks
from harvester.models.fit import FoldTask, TrainSchedule
from harvester.proposals import training as proposing
from harvester.storage.location import Location
from harvester.store.slab import GridFrame
from harvester.store.store import Store
from tests.builders import tubelet

STEPS, CHECKPOINT = 24, 20  # ranks meet some 500 times in a step, which takes them a quarter of a second
EARLY = partial(TrainSchedule, checkpoint_every=CHECKPOINT)

# A batch of 5 (slabs, or volumes of two tubelets) is no multiple of 2: one rank sees 3 items, the other 2.
SETTINGS = Settings(
    grid=GridSettings(windows_hu=((-1024.0, 1024.0),)),
    generator=GeneratorSettings(
        width=8, channels=16, head_channels=8, slab_depth=2, crop_px=48, batch_slabs=5, steps=STEPS, learning_rate=2e-5
    ),
    classifier=ClassifierSettings(
        channels=8, views=2, local_px=16, global_px=16, global_mm=60.0, steps=STEPS, batch_size=10,
        tubelets_per_volume=2, learning_rate=2e-5,
    ),
    compute=ComputeSettings(precision="float32"),
)  # fmt: skip


def fitted(store: Store, out: Path, ranks: Ranks = ALONE) -> dict[str, list[dict[str, float]]]:
    """Both models' losses; their weights go to `out`."""
    losses = {}
    for name, fit in (("generator", generator), ("classifier", classifier)):
        task = FoldTask(
            store.path, 5, None, Location.of(out) / f"{name}.checkpoint.pt", False, ranks, log=lambda _: None
        )
        with patch.object(proposing, "TrainSchedule", EARLY), patch.object(classifying, "TrainSchedule", EARLY):
            model, losses[name] = fit(store, task)
        if ranks.rank == 0:
            state = {key: value.contiguous() for key, value in model.state_dict().items()}
            save_file(state, out / f"{name}.safetensors")
    return losses


def generator(store: Store, task: FoldTask) -> Any:
    """A first round's."""
    return proposing.fit_generator(task, SETTINGS, store.manifest.to_pylist(), from_marks(store.marks()))


def classifier(store: Store, task: FoldTask) -> Any:
    """Of one lesion and two places that are none."""
    frame = GridFrame.of(store.manifest.to_pylist()[0], SETTINGS.grid)

    def at(x1: float, y1: float) -> dict[str, Any]:
        return tubelet("v", (x1, y1, x1 + 14, y1 + 16), (3, 4, 5), slice_score=[0.4, 0.5, 0.4])

    others = [(frame, at(2.0, 2.0)), (frame, at(40.0, 44.0))]
    return classifying.fit_classifier(task, SETTINGS, {1: [(frame, at(20.0, 24.0))], 0: others})


def main(store: str, out: str, rank: str, size: str) -> None:
    """Meet the others in OUT, fit, write down."""
    meeting = (Path(out) / "meeting").as_uri()
    dist.init_process_group("gloo", init_method=meeting, rank=int(rank), world_size=int(size))
    losses = fitted(Store.open(store), Path(out), Ranks(int(rank), int(size), dist.group.WORLD))
    (Path(out) / f"rank-{rank}.json").write_text(json.dumps(losses))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
