"""README's three steps on somebody's archive: label masks, or DICOM series with structured reports or segmentations.

    python benchmarks/own_archive.py --out DIR [--kinds masks sr seg]

Phantoms are written as a hospital would have them: scans of V_M with every lesion outlined, scans of V_H with the
clinic's lesions alone, volumes.csv that says which are complete, and no word on which marks are clinical. Then the dry
run, the preparation and a tiny harvest by the public command; what each says is printed. Exit code 1 where one fails.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import nibabel
import numpy as np
import pydicom

sys.path.insert(0, str(Path(__file__).parents[1]))

from harvester.config.loading import resolve
from harvester.datasets.phantom import phantom
from harvester.records import Mark, Volume
from tests.dicom_files import ct, put
from tests.dicom_objects import group, put_segmentation, report, scoord

ROOT: Final = Path(__file__).parents[1]
SETTINGS: Final = """
rounds: 1
folds: 2
data:
  kind: phantom
  phantom: {vm_volumes: 8, vh_test_volumes: 6, volumes_per_patient: 1, depth: 12, lesion_contrast: 3, noise_hu: 3,
            distractors_per_volume: 0}
generator: {crop_px: 96, slab_depth: 2, batch_slabs: 4, steps: 60}
classifier: {steps: 12, batch_size: 8, max_tubelets: 10, match_iou: 0.3}
operating_point: {target_precision: 0.01, confidence: 0.6, match_iou: 0.2, lpg_floors: [0.1, 0.2], min_slices: [1],
                  min_patients: 6}
compute: {replicas: 1, train_workers: 1, cpus_per_train_worker: 1.8}
"""
LAST_LINES: Final = 30


def main() -> int:
    """Make each archive, go the three steps."""
    options = parse()
    options.out.mkdir(parents=True, exist_ok=True)
    config = options.out / "tiny.yaml"
    config.write_text(SETTINGS)
    ended = {}
    for kind in options.kinds:
        scans, store, run = (options.out / kind / name for name in ("scans", "store", "run"))
        write_archive(config, scans, WRITERS[kind])
        prepare = ["prepare", "--config", str(config), "--source", str(scans), "--out", str(store)]
        steps = [
            [*prepare, "--dry-run"],
            prepare,
            ["harvest", "--config", str(config), "--store", str(store), "--run", str(run)],
        ]
        ended[kind] = [said(step)[0] for step in steps]
    print("exit codes of dry run, prepare, harvest:", ended)
    return int(any(any(codes) for codes in ended.values()))


def write_archive(config: Path, root: Path, write: Callable[[Path, Volume, Sequence[Mark]], str]) -> None:
    """Scans, their marks, and volumes.csv."""
    settings = resolve(config)
    rows = []
    for case in phantom.plan(settings.data.phantom):
        volume, marks, _ = phantom.make(settings.data.phantom, settings.grid.spacing_zyx_mm, case, settings.seed)
        complete = case.split == "vm"
        file = write(root, volume, [mark for mark in marks if complete or mark.clinical])
        rows.append(f"{file},{case.patient_id},{int(complete)}")
    (root / "volumes.csv").write_text("\n".join(["file,patient,complete", *rows]) + "\n")


def write_nifti(root: Path, volume: Volume, marks: Sequence[Mark]) -> str:
    """a.nii.gz and a.mask.nii.gz, as a program that knows LPS writes them."""
    root.mkdir(parents=True, exist_ok=True)
    z, y, x = volume.spacing_zyx_mm
    affine = np.diag([-x, -y, z, 1.0])
    for name, values in (("nii.gz", volume.hu_zyx), ("mask.nii.gz", outlined(volume, marks).any(0).astype(np.uint8))):
        nibabel.save(nibabel.Nifti1Image(values.transpose(2, 1, 0), affine), root / f"{volume.volume_id}.{name}")
    return f"{volume.volume_id}.nii.gz"


def outlined(volume: Volume, marks: Sequence[Mark]) -> Any:
    """(lesions, z, y, x) bool: an ellipse in each mark's box, on its slice and, smaller, on those beside it."""
    found = np.zeros((max(1, len(marks)), *volume.hu_zyx.shape), bool)
    rows, columns = np.mgrid[: volume.hu_zyx.shape[1], : volume.hu_zyx.shape[2]]
    for lesion, mark in zip(found, marks, strict=False):
        middle_y, middle_x = (mark.y1 + mark.y2) / 2, (mark.x1 + mark.x2) / 2
        for z in range(max(0, mark.z - 1), min(len(lesion), mark.z + 2)):
            share = 0.5 if z == mark.z else 0.4
            high, wide = share * (mark.y2 - mark.y1 + 1), share * (mark.x2 - mark.x1 + 1)
            lesion[z] = ((rows - middle_y) / high) ** 2 + ((columns - middle_x) / wide) ** 2 <= 1
    return found


def write_series(root: Path, volume: Volume) -> tuple[str, Path]:
    """A CT series in a folder of its own, and its UID."""
    uid = "1.2.3." + str(int(volume.volume_id.removeprefix("ph-"), 16))
    z_mm, y_mm, x_mm = volume.spacing_zyx_mm
    for k, plane in enumerate(volume.hu_zyx):
        item = ct(
            k * z_mm,
            plane.astype(np.int32) + 1024,
            SeriesInstanceUID=uid,
            StudyInstanceUID=f"{uid}.1",
            FrameOfReferenceUID=f"{uid}.2",
            SOPInstanceUID=f"{uid}.{k + 10}",
            PatientID=volume.patient_id,
            PixelSpacing=[y_mm, x_mm],
            ImagePositionPatient=[0, 0, k * z_mm],
        )
        put(root / volume.volume_id / "ct" / f"{k:03d}.dcm", item)
    return uid, root / volume.volume_id / "ct"


def write_reports(root: Path, volume: Volume, marks: Sequence[Mark]) -> str:
    """A structured report with a closed line around each lesion."""
    uid, folder = write_series(root, volume)
    groups = []
    for mark in marks:
        corners = [mark.x1, mark.y1, mark.x2, mark.y1, mark.x2, mark.y2, mark.x1, mark.y2, mark.x1, mark.y1]
        groups.append(group(scoord(f"{uid}.{mark.z + 10}", "POLYLINE", corners), tracking=f"{uid}.9.{mark.z}"))
    item = report(*groups, uid=uid, SOPInstanceUID=f"{uid}.6", SeriesInstanceUID=f"{uid}.5")
    item.CurrentRequestedProcedureEvidenceSequence[0].StudyInstanceUID = item.StudyInstanceUID = f"{uid}.1"
    put(folder.parent / "report.dcm", item)
    return str(folder.relative_to(root))


def write_segmentations(root: Path, volume: Volume, marks: Sequence[Mark]) -> str:
    """A segment per lesion; a scan without lesions has none."""
    uid, folder = write_series(root, volume)
    if marks:
        put_segmentation(folder.parent / "seg.dcm", folder, list(outlined(volume, marks)))
        item = pydicom.dcmread(folder.parent / "seg.dcm")
        item.SOPInstanceUID = item.file_meta.MediaStorageSOPInstanceUID = f"{uid}.7"
        item.save_as(folder.parent / "seg.dcm")
    return str(folder.relative_to(root))


WRITERS: Final = {"masks": write_nifti, "sr": write_reports, "seg": write_segmentations}


def said(step: Sequence[str], environment: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Run a public command and print the end of what it says (Ray's lines apart); its exit code, and that end."""
    ended = subprocess.run(
        [sys.executable, "-m", "harvester", *step],
        env=os.environ | (environment or {}),
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    told = [line for line in (ended.stdout + ended.stderr).splitlines() if line and not line.startswith(("\x1b", "["))]
    shown = "\n".join(told[-LAST_LINES:])
    print(f"\n$ harvester {' '.join(step)}\n{shown}\n(exit code {ended.returncode})", flush=True)
    return ended.returncode, shown


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for archives, stores and runs")
    parser.add_argument("--kinds", nargs="+", choices=list(WRITERS), default=list(WRITERS), help="(default: all)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
