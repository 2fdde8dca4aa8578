"""Losses of a seed, kept in losses/expected.json: three steps of small generators, one of the paper's.

They go through what trains in a harvest: the store, slabs, targets with hard negatives, the loss, the optimizer.
`python tests/golden/test_golden_losses.py` writes the file anew, for a change that is meant to move them.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from harvester.config.loading import resolve
from harvester.config.settings import Settings
from harvester.labels.ledger import extend, from_marks
from harvester.models.data_parallel import Ranks
from harvester.models.fit import FoldTask
from harvester.proposals.network import Generator
from harvester.proposals.training import fit_generator
from harvester.records import LEDGER, Mark
from harvester.storage.location import Location
from harvester.store.store import Store
from tests.builders import made_store

HERE = Path(__file__).parent
EXPECTED = HERE / "losses" / "expected.json"
PAPER = HERE.parents[1] / "configs" / "deeplesion.yaml"
SMALL = (
    "generator.width=8", "generator.channels=16", "generator.head_channels=8", "generator.slab_depth=2",
    "generator.batch_slabs=2", "generator.crop_px=64", "generator.finetune_steps=3",
    "generator.finetune_learning_rate=0.0001",
    "generator.marked_slab_share=1", "compute.precision=float32",
)  # fmt: skip
COARSE = ("generator.stride=4", "grid.windows_hu=[[-1024,3071],[-1350,150],[-160,240]]")
"""What the default was up to 0.2: its losses stay what they were."""
FROM_SCRATCH = (
    "generator.weights=''", "generator.finetune_steps=1", "generator.marked_slab_share=1", "compute.precision=float32",
)  # fmt: skip
"""The paper's, batch and all, on slices of 64 pixels: whole ones take gigabytes and half a minute."""
NEGATIVE = {
    "volume_id": "v", "label_id": "n", "role": "hard_negative", "source": "hard_negative_vm", "round": 0,
    "z": [3, 4, 5, 6], "x1": [40.0] * 4, "y1": [36.0] * 4, "x2": [51.0] * 4, "y2": [49.0] * 4,
}  # fmt: skip
CLOSE = 2e-3
"""Other processors and thread counts add up in another order; a gradient's norm feels it ten times as much."""
History = list[dict[str, float]]


def noise(folder: Path, side: int) -> Store:
    """A volume of noise with two bright boxes: one is a lesion's, the other a hard negative's."""
    hu = np.random.default_rng(0).normal(0, 30, (12, side, side))
    hu[4:8, 16:32, 20:36] = hu[3:7, 36:50, 40:52] = 300
    mark = Mark("v", "m", 5, 20, 16, 35, 31, clinical=True)
    return made_store(folder, {"v": "vm"}, [mark], hu=hu.astype(np.int16), spacing_zyx_mm=(2.0, 0.8, 0.8))


def losses(folder: Path, settings: Settings, side: int, negatives: bool = True) -> History:
    """Of a later round's generator, as harvester harvest fits it, with the norm of its gradient."""
    torch.manual_seed(1)
    store = noise(folder, side)
    ledger = from_marks(store.marks())
    if negatives:
        ledger = extend(ledger, pa.Table.from_pylist([NEGATIVE], LEDGER))
    start = folder / "start.safetensors"
    first = Generator(settings.generator, settings.grid)
    save_file({name: value.contiguous() for name, value in first.state_dict().items()}, start)
    norms: list[float] = []

    class NormKeeper(Ranks):
        def all_reduce_grads(self, model: nn.Module) -> None:
            # Where ranks add up their gradients: after they are made, before they are clipped.
            grads = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
            norms.append(float(nn.utils.get_total_norm(grads)))

    task = FoldTask(
        store.path, 1, start, Location.of(folder) / "c.pt", False, ranks=NormKeeper(), log=lambda line: None
    )
    _, history = fit_generator(task, settings, store.manifest.to_pylist(), ledger)
    return [{**terms, "gradient": norm} for terms, norm in zip(history, norms, strict=True)]


def small(folder: Path, *more: str, **given: Any) -> History:
    return losses(folder, resolve(None, (*SMALL, *more)), side=64, **given)


def paper(folder: Path) -> History:
    return losses(folder, resolve(PAPER, FROM_SCRATCH), side=64)


def assert_close(got: History, expected: History) -> None:
    assert len(got) == len(expected)
    for one, other in zip(got, expected, strict=True):
        assert one["gradient"] == pytest.approx(other["gradient"], rel=10 * CLOSE)
        assert one == pytest.approx(other | {"gradient": one["gradient"]}, rel=CLOSE)


@pytest.fixture
def expected() -> dict[str, History]:
    kept: dict[str, History] = json.loads(EXPECTED.read_text())
    return kept


def test_three_steps_of_a_small_generator(tmp_path: Path, expected: dict[str, History]) -> None:
    assert_close(small(tmp_path), expected["small"])


def test_three_steps_of_one_with_coarser_cells(tmp_path: Path, expected: dict[str, History]) -> None:
    assert_close(small(tmp_path, *COARSE), expected["coarse"])


def test_a_step_of_the_papers_generator(tmp_path: Path, expected: dict[str, History]) -> None:
    assert_close(paper(tmp_path), expected["paper"])


@pytest.mark.parametrize("other", ["without negatives", "suppression.mode=off", "suppression.mode=additive"])
def test_they_would_notice_another_loss(other: str, tmp_path: Path, expected: dict[str, History]) -> None:
    negatives = other != "without negatives"
    got = small(tmp_path, *([f"generator.{other}"] if negatives else []), negatives=negatives)
    assert got[0]["heat"] != pytest.approx(expected["small"][0]["heat"], rel=2 * CLOSE)


def test_they_would_notice_another_learning_rate(tmp_path: Path, expected: dict[str, History]) -> None:
    got = small(tmp_path, "generator.finetune_learning_rate=0.0005")
    assert got[-1]["heat"] != pytest.approx(expected["small"][-1]["heat"], rel=2 * CLOSE)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        parts = {name: Path(folder) / name for name in ("small", "coarse", "paper")}
        for part in parts.values():
            part.mkdir()
        kept = {
            "small": small(parts["small"]),
            "coarse": small(parts["coarse"], *COARSE),
            "paper": paper(parts["paper"]),
        }
    EXPECTED.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
