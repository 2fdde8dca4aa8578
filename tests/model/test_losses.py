"""The generator's losses against CenterNet's formula, written out cell by cell."""

import math
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from harvester.config.models import SuppressionSettings
from harvester.proposals.boxes import SliceBoxes
from harvester.proposals.losses import CLAMP, background_weight, generator_losses
from harvester.proposals.targets import SlabLabels, build_targets

Mode = Literal["off", "signed", "additive"]
MODES: tuple[Mode, ...] = ("off", "signed", "additive")


def labels(lesions: Any = (), negatives: Any = (), ignored: Any = (), weight: Any = (1.0, 1.0)) -> SlabLabels:
    """Each of the three: (z, box) pairs."""
    taught, against, unknown = (SliceBoxes.of(pairs) for pairs in (lesions, negatives, ignored))
    return SlabLabels(taught, against, unknown, np.array(weight, np.float32))


def targets_of(known: SlabLabels) -> dict[str, Tensor]:
    maps = build_targets(known, 64, 96, 4)
    return {name: torch.from_numpy(values)[None] for name, values in maps.items()}


def outputs(seed: int, depth: int = 2) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    shapes = {"heat": 1, "size": 2, "offset": 2}
    return {name: 2 * torch.randn(1, depth, n, 16, 24, generator=rng) for name, n in shapes.items()}


LESIONS = [(0, (8.0, 8.0, 31.0, 27.0)), (0, (24.0, 12.0, 41.0, 33.0)), (1, (50.0, 30.0, 70.0, 44.0))]
NEGATIVES = [(0, (60.0, 40.0, 84.0, 60.0)), (1, (8.0, 8.0, 31.0, 27.0))]


def slow_centernet(out: dict[str, Tensor], targets: dict[str, Tensor]) -> dict[str, float]:
    """-1/m sum((1-p)^2 log p where y = 1; (1-y)^4 p^2 log(1-p) elsewhere), L1 at centres / m; m = 1 without any."""
    heat, size, offset, m = 0.0, 0.0, 0.0, 0
    _, depth, _, rows, columns = out["heat"].shape
    for z in range(depth):
        for row in range(rows):
            for column in range(columns):
                at = (0, z, slice(None), row, column)
                p = 1 / (1 + math.exp(-float(out["heat"][at])))
                p = min(max(p, CLAMP), 1 - CLAMP)
                y = float(targets["heat"][at])
                if y == 1:
                    m += 1
                    heat -= (1 - p) ** 2 * math.log(p)
                    size += float((out["size"][at] - targets["size"][at]).abs().sum())
                    offset += float((out["offset"][at] - targets["offset"][at]).abs().sum())
                else:
                    heat -= (1 - y) ** 4 * p**2 * math.log(1 - p)
    return {"heat": heat / max(m, 1), "size": size / max(m, 1), "offset": offset / max(m, 1)}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("lesions", [LESIONS, LESIONS[:1], []])
def test_without_hard_negatives_every_mode_is_centernet(mode: Mode, lesions: Any) -> None:
    targets = targets_of(labels(lesions))
    suppression = SuppressionSettings(mode=mode, weight=7.0)
    for seed in range(2):
        out = outputs(seed)
        got = generator_losses(out, targets, suppression)
        assert {name: float(value) for name, value in got.items()} == pytest.approx(
            slow_centernet(out, targets), rel=1e-4
        )


def test_off_ignores_hard_negatives() -> None:
    out, off = outputs(0), SuppressionSettings(mode="off")
    with_negatives = generator_losses(out, targets_of(labels(LESIONS, NEGATIVES)), off)
    without = generator_losses(out, targets_of(labels(LESIONS)), off)
    assert with_negatives == without


def test_the_weight_at_a_hard_negatives_centre_is_16() -> None:
    targets = targets_of(labels([], NEGATIVES[:1]))
    weight = background_weight(targets["heat"], targets["negative"], SuppressionSettings(mode="signed"))
    row, column = (40 + 60 + 1) // 8, (60 + 84 + 1) // 8
    assert float(weight[0, 0, 0, row, column]) == 16.0
    assert float(weight.max()) == 16.0
    assert float((weight == 16.0).sum()) == 1
    assert float(weight[0, 1].min()) == float(weight[0, 1].max()) == 1.0
    additive = background_weight(targets["heat"], targets["negative"], SuppressionSettings(mode="additive", weight=3.0))
    assert float(additive[0, 0, 0, row, column]) == 4.0


def test_hard_negatives_add_what_the_weights_say() -> None:
    targets, out = targets_of(labels(LESIONS, NEGATIVES)), outputs(3)
    p = torch.sigmoid(out["heat"].double()).clamp(CLAMP, 1 - CLAMP)
    y, n = targets["heat"].double(), targets["negative"].double()
    plain = slow_centernet(out, targets)["heat"]
    for mode, weight in (("signed", (1 - y + n) ** 4), ("additive", (1 - y) ** 4 + 2 * n)):
        more = -((weight - (1 - y) ** 4) * p**2 * torch.log(1 - p))[y < 1].sum() / len(LESIONS)
        got = generator_losses(out, targets, SuppressionSettings(mode=mode, weight=2.0))
        assert float(got["heat"]) == pytest.approx(plain + float(more), rel=1e-4)


def test_a_hard_negative_gives_way_to_a_lesion() -> None:
    targets = targets_of(labels(LESIONS, [(0, LESIONS[0][1])]))
    assert float((targets["negative"] * targets["heat"]).abs().max()) == 0
    assert float(targets["negative"].sum()) == 0


@pytest.mark.parametrize("mode", MODES)
def test_ignored_cells_do_not_count(mode: Mode) -> None:
    region = (60.0, 32.0, 91.0, 63.0)
    targets = targets_of(labels(LESIONS, NEGATIVES[1:], ignored=[(0, region)]))
    out, other = outputs(4), outputs(4)
    other["heat"][0, 0, 0, 8:16, 15:23] = 5.0
    suppression = SuppressionSettings(mode=mode)
    first, second = (float(generator_losses(o, targets, suppression)["heat"]) for o in (out, other))
    assert first == second
    other["heat"][0, 0, 0, 7, 15] = 5.0
    assert float(generator_losses(other, targets, suppression)["heat"]) > second


@pytest.mark.parametrize("mode", MODES)
def test_slices_of_weight_zero_count_only_where_a_label_is(mode: Mode) -> None:
    targets = targets_of(labels(LESIONS[:1], [], weight=(1.0, 0.0)))
    out, other = outputs(5), outputs(5)
    other["heat"][0, 1] = torch.randn(1, 16, 24)
    suppression = SuppressionSettings(mode=mode)
    assert generator_losses(out, targets, suppression) == generator_losses(other, targets, suppression)


def test_a_slab_without_lesions_is_not_normalised() -> None:
    targets = targets_of(labels())
    assert float(targets["centre"].sum()) == 0
    losses = generator_losses(outputs(6), targets, SuppressionSettings())
    p = torch.sigmoid(outputs(6)["heat"]).clamp(CLAMP, 1 - CLAMP)
    assert float(losses["heat"]) == pytest.approx(float(-(p**2 * torch.log(1 - p)).sum()), rel=1e-5)
    assert float(losses["size"]) == float(losses["offset"]) == 0


def test_no_logit_makes_the_loss_or_its_gradient_run_away() -> None:
    targets = targets_of(labels(LESIONS, NEGATIVES))
    for value in (-1e4, 1e4):
        out = {name: torch.full_like(tensor, value).requires_grad_() for name, tensor in outputs(0).items()}
        total = torch.stack(list(generator_losses(out, targets, SuppressionSettings()).values())).sum()
        total.backward()  # type: ignore[no-untyped-call]
        assert torch.isfinite(total)
        assert all(torch.isfinite(tensor.grad).all() for tensor in out.values() if tensor.grad is not None)
