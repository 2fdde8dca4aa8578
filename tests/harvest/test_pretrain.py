"""Weights from phantoms, and what a harvest starts from."""

from pathlib import Path

import pytest

from harvester.config.loading import resolve
from harvester.distributed.preparation import prepare
from harvester.pretrain import pretrain
from harvester.run.folder import Run
from harvester.run.tracking import Tracker
from harvester.weights.starting import STAGES

pytestmark = pytest.mark.timeout(300)

SETTINGS = """
name: weights
folds: 2
starting_weights: ""
whole_model: true
data:
  kind: phantom
  phantom: {vm_volumes: 4, vh_test_volumes: 0, volumes_per_patient: 1, depth: 8, lesion_contrast: 3, noise_hu: 3,
            lesions_per_volume: 8, distractors_per_volume: 0}
generator: {crop_px: 96, slab_depth: 2, batch_slabs: 4, steps: 40}
classifier: {steps: 2, batch_size: 8, max_tubelets: 10, match_iou: 0.2}
compute: {replicas: 1, train_workers: 1, cpus_per_train_worker: 1.8}
"""


def test_a_pretraining_leaves_weights_that_each_fold_starts_from(local_ray: None, tmp_path: Path) -> None:
    (tmp_path / "weights.yaml").write_text(SETTINGS)
    settings = resolve(tmp_path / "weights.yaml")
    run = Run.open(tmp_path / "run", settings, prepare(settings, None, tmp_path / "store"))
    with Tracker.open(run, None) as tracker:
        made = pretrain(run, tracker, {})
    assert sorted(made.card.files) == sorted(
        f"{stage}{end}.safetensors" for stage in STAGES for end in ("", "-0", "-1")
    )
    assert made.card.patients == {}  # phantoms are drawn anew by every seed
    assert made.card.figures["volumes"] == 4
    assert 0 <= made.card.figures["lpg_sensitivity_at_16"] <= 1
    again = resolve(tmp_path / "weights.yaml", [f"starting_weights={made.folder}", "whole_model=false"])
    started = Run.open(tmp_path / "started", again, run.store)
    start = started.starting("generator")
    assert start is not None
    for fold in range(2):  # each starts from those that have not seen its patients
        scratch = next((tmp_path / "run").glob(f"round-0/generator-*/fold-{fold}.safetensors"))
        assert (start.path / f"fold-{fold}.safetensors").read_bytes() == scratch.read_bytes()
