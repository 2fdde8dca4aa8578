"""A small night with each silent failure injected, and what the user sees of it, word for word.

    python benchmarks/silent_faults.py --out DIR [--faults nan put mask killer weights]

nan      the loss of one fold is NaN at step 300
put      a bucket refuses one object of each kind in turn, while it is written for the first time or again
mask     a label mask is exchanged for one of the same size and time
killer   a scan that ends the process of its reader
weights  one fold's weights of a finished step are deleted

Each starts public commands in processes of their own. Exit code 1 where a fault went by without a word, was published,
or where the run does not end well once the fault is gone.
"""

import argparse
import logging
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import nibabel
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import own_archive
from benchmarks.own_archive import ROOT, write_archive, write_nifti
from harvester.storage.location import Location
from harvester.store.store import Store
from tests.s3_serving import Door, serving

SETTINGS: Final = """
rounds: 1
folds: 2
data:
  kind: phantom
  max_reject_share: 0.2
  phantom: {vm_volumes: 6, vh_test_volumes: 4, volumes_per_patient: 1, depth: 8, lesion_contrast: 3, noise_hu: 3,
            distractors_per_volume: 0}
generator: {width: 16, crop_px: 64, slab_depth: 2, batch_slabs: 2, steps: STEPS}
classifier: {steps: 6, batch_size: 8, max_tubelets: 10, match_iou: 0.3}
operating_point: {target_precision: 0.01, confidence: 0.6, match_iou: 0.2, min_slices: [1],
                  min_patients: 6}
compute: {replicas: 1, train_workers: 1, cpus_per_train_worker: 1.8}
"""
INJECTED: Final = '''
import importlib.abc, importlib.machinery, os, sys

class AfterImport(importlib.abc.MetaPathFinder):
    """Runs `patch` on a module once it is imported."""
    def __init__(self, name, patch):
        self.name, self.patch = name, patch
    def find_spec(self, name, path=None, target=None):
        if name != self.name:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        run = spec.loader.exec_module
        def exec_module(module):
            run(module)
            self.patch(module)
        spec.loader.exec_module = exec_module
        return spec

def nan_at_step_300(module):
    step = module.Fit._step
    def broken(self, losses_of, batch):
        here = len(self.history) + 1 == 300 and "fold 1" in self.task.name
        return step(self, (lambda *given: {k: v * float("nan") for k, v in losses_of(*given).items()})
                    if here else losses_of, batch)
    module.Fit._step = broken

def dies_at_the_killer(module):
    load = module.Maker.load
    def deadly(self, case):
        if "killer" in str(case):
            os._exit(9)
        return load(self, case)
    module.Maker.load = deadly

PATCHES = {"nan": ("harvester.models.fit", nan_at_step_300),
           "killer": ("harvester.distributed.preparation", dies_at_the_killer)}
if os.environ.get("FAULT") in PATCHES:
    sys.meta_path.insert(0, AfterImport(*PATCHES[os.environ["FAULT"]]))
'''
KINDS: Final = (
    "store/shards/", "store/manifest.parquet", "settings.yaml", ".checkpoint.pt", ".losses.json", ".safetensors",
    "tubelets-", "examples-", "scored-", "operating-point", "round.json", "harvest.parquet", "summary.json",
    "report.html", "log-",
)  # fmt: skip
"""Parts of objects' names, in the order in which a night writes them."""


def main() -> int:
    """Every fault that is asked for."""
    options = parse()
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line per request
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "sitecustomize.py").write_text(INJECTED)
    wrong = [name for name in options.faults if not FAULTS[name](options.out / name)]
    print("\nwent by without a word, or did not end well afterwards:", wrong or "none")
    return int(bool(wrong))


def said(*step: str, fault: str = "", out: Path) -> tuple[int, str]:
    """Run a public command, with a fault or without; its exit code, and the end of what it says."""
    print(f"\nfault: {fault or 'none'}", flush=True)
    return own_archive.said(step, {"FAULT": fault, "PYTHONPATH": os.pathsep.join([str(out.parent), str(ROOT)])})


def config(out: Path, steps: int = 150) -> str:
    """The settings' file."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "small.yaml").write_text(SETTINGS.replace("STEPS", str(steps)))
    return str(out / "small.yaml")


def nan(out: Path) -> bool:
    """Step and fold are named, nothing of the fold is published, and the same command ends well without the fault."""
    night = ["harvest", "--config", config(out, steps=310), "--run", str(out / "run")]
    code, shown = said(*night, fault="nan", out=out)
    published = sorted(file.name for file in (out / "run").glob("round-0/generator-*/fold-1.safetensors"))
    named = code == 1 and "fold 1" in shown and "step 300" in shown and not published
    return said(*night, out=out)[0] == 0 and named


def put(out: Path) -> bool:
    """Each kind of object in turn: one line that names it, what was there stays, and the next start goes on."""
    with serving("archive") as door:
        run = door.uri("archive", "night")
        night = ["harvest", "--config", config(out), "--run", run]
        fine = [_denied(door, Location.of(run), night, kind, out) for kind in KINDS]
        return said(*night, out=out)[0] == 0 and all(fine)


def _denied(door: Door, run: Location, night: list[str], kind: str, out: Path) -> bool:
    before = _objects(run)
    door.denied = kind
    code, shown = said(*night, fault=f"PUT of {kind} refused", out=out)
    door.denied = ""
    after = _objects(run)
    lost = sorted(before.keys() - after.keys())
    print(f"objects lost: {lost or 'none'}; {len(before)} before, {len(after)} after", flush=True)
    # A log that cannot be kept ends no run. What a step needs while it runs goes when it ends.
    passing = (".checkpoint.pt", "/begun/", "/ray-train-", "/.partials", "store/begun-", "writer-")
    silent = not shown or (code != 1 and kind != "log-")
    return not silent and all(any(part in name for part in passing) for name in lost)


def _objects(folder: Location) -> Mapping[str, Any]:
    """All objects below a folder."""
    found = {name: folder / name for name in folder.files()}
    for name in folder.folders():
        found |= {f"{name}/{below}": file for below, file in _objects(folder / name).items()}
    return found


def mask(out: Path) -> bool:
    """The volume is made anew, with the lesions of the new mask."""
    scans, prepare = _archive(out)
    fine = said(*prepare, out=out)[0] == 0
    before = Store.open(out / "store").marks().to_pylist()
    file = sorted(scans.glob("*.mask.nii"))[0]
    told, image = file.stat(), nibabel.load(file)
    turned = np.ascontiguousarray(np.asarray(image.dataobj)[::-1])
    nibabel.save(nibabel.Nifti1Image(turned, image.affine), file)
    os.utime(file, ns=(told.st_atime_ns, told.st_mtime_ns))
    assert file.stat().st_size == told.st_size
    fine &= said(*prepare, out=out)[0] == 0
    after = Store.open(out / "store").marks().to_pylist()
    changed = {row["volume_id"] for row in before if row not in after}
    print(f"volumes with other marks: {len(changed)}", flush=True)
    return fine and len(changed) == 1


def killer(out: Path) -> bool:
    """The scan is refused with its reason, and the others are prepared."""
    scans, prepare = _archive(out)
    name = min(file.name for file in scans.glob("*.nii") if not file.name.endswith(".mask.nii"))
    for old in (name, name.replace(".nii", ".mask.nii")):
        (scans / old).rename(scans / old.replace(name.removesuffix(".nii"), "killer"))
    table = scans / "volumes.csv"
    table.write_text(table.read_text().replace(name, "killer.nii"))
    code, shown = said(*prepare, fault="killer", out=out)
    reasons = [row["reason"] for row in Store.open(out / "store").rejects().to_pylist()] if code == 0 else []
    print(f"refused with: {reasons}", flush=True)
    return code == 0 and len(reasons) == 1 and "refused: 1" in shown


def _archive(out: Path) -> tuple[Path, list[str]]:
    """An archive of uncompressed NIfTI files with label masks, and the command that prepares it."""
    settings, scans = Path(config(out)), out / "scans"
    write_archive(settings, scans, write_nifti)
    for file in sorted(scans.glob("*.nii.gz")):
        nibabel.save(nibabel.load(file), file.with_suffix(""))
        file.unlink()
    table = scans / "volumes.csv"
    table.write_text(table.read_text().replace(".nii.gz", ".nii"))
    return scans, ["prepare", "--config", str(settings), "--source", str(scans), "--out", str(out / "store")]


def weights(out: Path) -> bool:
    """The plan says what is missing, and the fold alone is fitted again."""
    night = ["--config", config(out), "--run", str(out / "run")]
    fine = said("harvest", *night, out=out)[0] == 0
    for file in (out / "run").glob("round-0/generator-*/fold-0.safetensors"):
        file.unlink()
    (out / "run" / "summary.json").unlink()
    code, shown = said("plan", *night, out=out)
    fine &= code == 0 and "fold-0.safetensors" in shown
    return said("harvest", *night, out=out)[0] == 0 and fine


FAULTS: Final[dict[str, Callable[[Path], bool]]] = {
    "nan": nan, "put": put, "mask": mask, "killer": killer, "weights": weights,
}  # fmt: skip


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="an empty folder")
    parser.add_argument("--faults", nargs="+", choices=list(FAULTS), default=list(FAULTS), help="(default: all)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
