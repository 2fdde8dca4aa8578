"""What is made of a finished harvest: detectors that learn from it, and a study whose arms share its steps."""

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from harvester.cli.retrain import text
from harvester.config.settings import Settings
from harvester.errors import LabelError, StoreError
from harvester.report.retraining import retraining_picture
from harvester.retrain import Archive, retrain
from harvester.run.retraining import read_retraining
from harvester.run.tracking import sync
from harvester.storage.location import Location
from harvester.store.store import Store
from harvester.study.settings import read_study
from harvester.study.study import Study
from tests.tiny_harvest import SETTINGS

pytestmark = pytest.mark.timeout(400)

OWN = """
import torch
from harvester.detectors.detector import Detector


class Everywhere(torch.nn.Module):
    # Finds one box on every slice, of a size that it learns.
    def __init__(self):
        super().__init__()
        self.side = torch.nn.Parameter(torch.tensor(10.0))

    def forward(self, images, targets=None):
        if self.training:
            wanted = [each["boxes"][:, 2:] - each["boxes"][:, :2] for each in targets]
            return {"side": sum((self.side - sizes).abs().sum() for sizes in wanted) / 100 + 0 * self.side}
        y, x = (side / 2 for side in images[0].shape[-2:])
        box = torch.stack([x - self.side / 2, y - self.side / 2, x + self.side / 2, y + self.side / 2])
        return [{"boxes": box[None], "scores": torch.tensor([0.5])} for _ in images]


def build(settings):
    return Detector(Everywhere())
"""
SETS = ["clinical", "complete_vm", "harvest", "hard_negatives", "placebo", "full_truth"]


def retrained(settings: Settings, own: Path) -> Settings:
    """With few steps of two detectors, one of them a user's own."""
    few = settings.retrain.model_copy(
        update={
            "detectors": ("fcos", f"{own}:build"), "steps": 2, "batch_images": 2, "crop_px": 64, "seeds": 1,
            "exchange_rate": False, "resamples": 50,
        }
    )  # fmt: skip
    return settings.model_copy(update={"retrain": few})


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("mine") / "everywhere.py"
    file.write_text(OWN)
    return file


def test_detectors_are_trained_with_and_without_the_harvest(
    night: Path, settings: Settings, store: Store, own: Path, tmp_path: Path
) -> None:
    shutil.copytree(night, tmp_path / "run")
    run = Location.of(tmp_path / "run")
    archive = Archive.of(run, retrained(settings, own), store)
    assert {row["split"] for row in archive.test_rows} == {"vd_test"}
    done = retrain(archive, run / "retrain", "harvester retrain --run run")
    assert [each.detector for each in done.detectors] == ["fcos", "everywhere"]
    assert [each.labels for each in done.detectors[1].sets] == SETS
    assert done.volumes == 2 and done.lesions > 0
    harvested = pq.read_table(night / "harvest.parquet").num_rows
    assert done.labels["harvest"] == done.labels["complete_vm"] + harvested
    assert done.labels["complete_vm"] < done.labels["placebo"] <= done.labels["harvest"]
    assert done.labels["clinical"] < done.labels["complete_vm"] < done.labels["full_truth"]
    fits = tmp_path / "run" / "retrain" / "fits"
    assert len(list(fits.glob("*.json"))) == len(list(fits.glob("*.parquet"))) == 12
    assert len(list(fits.glob("*.safetensors"))) == 2 and not list(fits.glob("*.checkpoint.pt"))
    # The user's detector learns the boxes' sizes, which other labels change.
    sides = {
        name: pq.read_table(next(fits.glob(f"everywhere-{name}-*.parquet")))["width_mm"].to_pylist()[0] for name in SETS
    }
    assert len(set(sides.values())) >= 2

    def at(name: str) -> int:
        return next(fits.glob(f"{name}-*.json")).stat().st_mtime_ns

    before = {name: at(f"fcos-{name}") for name in SETS}
    gone = next(fits.glob("fcos-placebo-*.json"))
    gone.unlink()
    again = retrain(archive, run / "retrain", done.command)
    assert again.model_dump(exclude={"seconds"}) == done.model_dump(exclude={"seconds"})
    assert [name for name in SETS if at(f"fcos-{name}") != before[name]] == ["placebo"]
    assert read_retraining(run) == again
    shown = text(again)
    assert "+ harvest" in shown and "everywhere" in shown and "gap" not in shown.splitlines()[0]
    assert retraining_picture(again).startswith(b"\x89PNG")
    assert "retrain" in sync(run, None).sent and sync(run, None).sent == ()


def test_what_cannot_be_retrained_is_said(night: Path, settings: Settings, store: Store, tmp_path: Path) -> None:
    run = Location.of(night)
    with pytest.raises(LabelError, match="patients are in both the archive and the volumes to be scored"):
        Archive.of(run, settings, store, store)
    without = Store(
        store.path, store.manifest.filter([split != "vd_test" for split in store.manifest["split"].to_pylist()])
    )
    with pytest.raises(StoreError, match="no volume of vd_test"):
        Archive.of(run, settings, without)
    with pytest.raises(StoreError, match=r"no ledger\.parquet; give the folder of a finished harvest"):
        retrain(Archive.of(Location.of(tmp_path), settings, store), Location.of(tmp_path / "out"), "")


def test_a_studys_arms_share_the_steps_of_the_full_loop(night: Path, store: Store, tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(SETTINGS)
    (tmp_path / "small.yaml").write_text(f"""
archives: {{tiny: {{config: {tmp_path / "tiny.yaml"}, proof: audit}}}}
retrain: [tiny]
retrain_set:
  - retrain.detectors=[fcos]
  - retrain.steps=1
  - retrain.batch_images=2
  - retrain.crop_px=64
  - retrain.seeds=1
  - retrain.exchange_rate=false
  - retrain.resamples=20
seeds: [0]
resamples: 50
arms:
  one_round: {{set: [rounds=1]}}
  plain_loss: {{set: [generator.suppression.mode=off, rounds=1]}}
  union: {{rule: union}}
  audit: {{rule: audit}}
  either: {{rule: both}}
  missing_ranking: {{rule: missing_ranking, rival: true}}
  self_training: {{rule: self_training, rival: true, set: [rounds=1]}}
""")
    base = tmp_path / "study" / "tiny" / "seed-0"
    shutil.copytree(night, base)
    shutil.copytree(store.path.base, base / "store")
    study = Study(read_study(tmp_path / "small.yaml"), Location.of(tmp_path / "study"), None, "harvester study")
    done = study.run()
    rows = {row.arm: row for row in done.rows}
    full = rows["full_loop"]
    summary = json.loads((night / "summary.json").read_text())
    assert (full.harvested, full.recall) == (summary["final"]["harvested"], summary["final"]["recall_unmarked"])
    first = summary["rounds"][0]
    assert (rows["one_round"].harvested, rows["one_round"].recall) == (first["harvested"], first["recall_unmarked"])
    # Without hard negatives there is nothing that the loss could suppress: round 0 is the same, and was not made anew.
    assert rows["plain_loss"].model_dump(exclude={"arm", "key", "seconds"}) == rows["one_round"].model_dump(
        exclude={"arm", "key", "seconds"}
    )
    assert len(list(base.glob("round-0/generator-*.step.json"))) == 1
    assert rows["missing_ranking"].harvested == full.harvested and rows["missing_ranking"].certified is None
    assert rows["union"].harvested >= full.harvested and rows["audit"].reviewed > 0
    # The archive's proof is the audit: its list is the harvest that the headline tells of.
    assert [row.arm for row in done.rows if row.is_harvest] == ["audit"]
    assert (done.headline.certified_pairs, done.headline.precision) == (1, rows["audit"].precision)
    assert {arm.arm for arm in done.arms if arm.rival} == {"missing_ranking", "self_training"}
    (trained,) = done.detectors
    assert (trained.archive, trained.seeds, trained.patients) == ("tiny", 1, 2)
    assert [each.labels for each in trained.detectors[0].sets] == SETS
    labels = pq.read_table(base / "retrain" / "labels" / "harvest.parquet").to_pylist()
    assert sum(row["source"] == "harvested" for row in labels) == rows["audit"].harvested > 0
    made = {file.name: file.stat().st_mtime_ns for file in (base / "rows").iterdir()}
    again = Study(study.settings, study.folder, None, "harvester study").run()
    assert again == done
    assert {file.name: file.stat().st_mtime_ns for file in (base / "rows").iterdir()} == made
