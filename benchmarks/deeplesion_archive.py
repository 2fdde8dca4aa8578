"""An archive in DeepLesion's layout with a known truth: real CT, inserted lesions, everything as files.

    python benchmarks/deeplesion_archive.py --out ARCHIVE                  # 60 vm, 60 vh, 30 vh_test, 10 vd_test
    python benchmarks/deeplesion_archive.py --out ARCHIVE --vm 100 --vh 200

Writes Images_png/PPPPPP_SS_SS/NNN.png (16 bit, HU + 32768), DL_info.csv (its published columns), and pickles as the
published ones are: Revised-Mining.pkl, Revised-Harvest.pkl, Revised-Detector.pkl (every lesion; ids with .annot) and
RECIST-Box-Train.pkl (the clinical marks of all training volumes). Beside them what DeepLesion has not: truth.parquet
(every lesion, V_H's too, records.MARKS) and ignore.parquet (the backgrounds' own disease, records.IGNORE): copy
ignore.parquet into the store that was made of the archive before it is harvested, or that disease counts as false.

Volumes are cut from the CT of $HARVESTER_DATA (or ../shared/data), lesions inserted as configs/real_ct.yaml has it.
V_M and V_H share patients, V_H^test and V_D^test share none with them or each other. One further volume of V_H has
noisy marks alone, and one is of the official validation split: prepare refuses both. The same seed, the same bytes.
"""

import argparse
import csv
import os
import pickle
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from harvester.config.data import InsertionSettings
from harvester.config.fingerprint import settings_hash
from harvester.datasets.insertion.backgrounds import Background, Prepared, load_background_volume, load_backgrounds
from harvester.datasets.insertion.insertion import InsertionCase, make
from harvester.datasets.insertion.subvolume import IgnoredRegion
from harvester.labels.deeplesion.dl_info import DECIMALS
from harvester.records import IGNORE, MARKS, Mark, Volume

REPO = Path(__file__).parents[1]
ORDER = ("File_name", "Patient_index", "Study_index", "Series_ID", "Key_slice_index", "Measurement_coordinates",
         "Bounding_boxes", "Lesion_diameters_Pixel_", "Normalized_lesion_location", "Coarse_lesion_type",
         "Possibly_noisy", "Slice_range", "Spacing_mm_px_", "Image_size", "DICOM_windows", "Patient_gender",
         "Patient_age", "Train_Val_Test")  # fmt: skip
KINDS = {
    **dict.fromkeys(("bone_lytic", "bone_sclerotic"), 1),
    **dict.fromkeys(("node", "node_chain"), 3),
    **dict.fromkeys(("hypodense", "hyperdense", "cystic", "rim_enhancing"), 4),
    **dict.fromkeys(("nodule", "part_solid", "ground_glass", "cavitary", "calcified"), 5),
    "mass": 7,
}
"""DeepLesion's coarse types: 1 bone, 3 mediastinum, 4 liver, 5 lung, 7 soft tissue."""
VOLUMES = {"vm": 60, "vh": 60, "vh_test": 30, "vd_test": 10}
OFFICIAL = {"vm": 1, "vh": 1, "vh_test": 1, "vd_test": 3, "val": 2}
PICKLES = {"vm": "Revised-Mining.pkl", "vh_test": "Revised-Harvest.pkl", "vd_test": "Revised-Detector.pkl"}


@dataclass(frozen=True, eq=False)
class Made:
    """One sub-volume to be written: its split (or val), place in the archive, voxels and lesions (z from 0).

    `noisy` has the mark_ids of clinical marks to be flagged so.
    """

    split: str
    patient: int
    study: int
    start: int
    volume: Volume
    marks: Sequence[Mark]
    ignored: Sequence[IgnoredRegion] = ()
    noisy: Sequence[str] = ()

    @property
    def folder(self) -> str:
        return f"{self.patient:06d}_{self.study:02d}_01"

    @property
    def end(self) -> int:
        return self.start + len(self.volume.hu_zyx) - 1

    @property
    def volume_id(self) -> str:
        return f"{self.folder}_{self.start:03d}-{self.end:03d}"


def main() -> None:
    """Make and write volume after volume, one background after the other."""
    options = parse()
    data = Path(os.environ.get("HARVESTER_DATA", REPO.parent / "shared" / "data"))
    settings = InsertionSettings(backgrounds=str(REPO / "configs" / "backgrounds.yaml"))
    listed = load_backgrounds(settings, data)
    wanted = {split: getattr(options, split) for split in VOLUMES} | {"noisy": 1, "val": 1}
    writer = Writer(options.out)
    for background, counts in shared_out(listed, wanted):
        prepared = load_background_volume(background)
        patient = 1 + [each.patient for each in listed].index(background.patient)
        for made in made_volumes(settings, prepared, patient, counts, options.seed):
            writer.add(made)
        print(f"{background.id}: {len(writer.made)} volumes so far", flush=True)
    writer.close()
    print(f"{options.out}: {sum(len(made.marks) for made in writer.made)} lesions in {len(writer.made)} volumes")


def shared_out(listed: Sequence[Background], wanted: dict[str, int]) -> list[tuple[Background, dict[str, int]]]:
    """How many volumes of each split a background gives: evenly, whole patients apart as main says."""
    ordinary = [each for each in listed if each.role == "vm"]
    *measured, tested = [each for each in listed if each.role == "vh_test"]
    sources = {"vh_test": measured, "vd_test": [tested], "val": [tested]}
    shared: dict[str, dict[str, int]] = {}
    for split, count in wanted.items():
        backgrounds = sources.get(split, ordinary)
        for index in range(count):
            counts = shared.setdefault(backgrounds[index % len(backgrounds)].id, {})
            counts[split] = counts.get(split, 0) + 1
    return [(each, shared[each.id]) for each in listed if each.id in shared]


def made_volumes(
    settings: InsertionSettings, prepared: Prepared, patient: int, counts: dict[str, int], seed: int
) -> Iterator[Made]:
    """So many volumes with a lesion of each split; DeepLesion has none without a mark."""
    study = 0
    for split, count in counts.items():
        done = attempt = 0
        while done < count:
            name = settings_hash("deeplesion archive", split, prepared.background.id, attempt)
            case = InsertionCase(f"in-{name}", prepared.background.patient_id, prepared.background.id, split)
            volume, marks, ignored = make(settings, prepared, case, seed)
            attempt += 1
            if marks:
                done, study = done + 1, study + 1
                noisy = [mark.mark_id for mark in marks] if split == "noisy" else []
                of = "vh" if split == "noisy" else split
                yield Made(of, patient, study, 1 + 7 * study % 40, volume, marks, ignored, noisy)


class Writer:
    """Writes volumes as they come; `close` writes the tables."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.made: list[Made] = []

    def add(self, made: Made) -> None:
        folder = self.root / "Images_png" / made.folder
        folder.mkdir(parents=True, exist_ok=True)
        for z, plane in enumerate(made.volume.hu_zyx):
            values = (plane.astype(np.int32) + 32768).astype(np.uint16)
            Image.fromarray(values).save(folder / f"{made.start + z:03d}.png")
        # Only its shape is needed from now on.
        shadow = replace(made.volume, hu_zyx=np.broadcast_to(np.int16(0), made.volume.hu_zyx.shape))
        self.made.append(replace(made, volume=shadow, marks=[_rounded(mark, made) for mark in made.marks]))

    def close(self) -> None:
        with (self.root / "DL_info.csv").open("w", newline="") as lines:
            table = csv.DictWriter(lines, ORDER)
            table.writeheader()
            table.writerows(row for made in self.made for row in _info_rows(made))
        for split, name in PICKLES.items():
            mine = [made for made in self.made if made.split == split]
            _write_pickle(self.root / name, {f"{m.volume_id}.annot": m.marks for m in mine})
        train = [made for made in self.made if OFFICIAL[made.split] == 1]
        clinical = {m.volume_id: [mark for mark in m.marks if mark.clinical] for m in train if not m.noisy}
        _write_pickle(self.root / "RECIST-Box-Train.pkl", clinical)
        marks = [asdict(mark) for made in self.made for mark in made.marks]
        pq.write_table(pa.Table.from_pylist(marks, MARKS), self.root / "truth.parquet")
        regions = [asdict(region) | {"volume_id": made.volume_id} for made in self.made for region in made.ignored]
        kept = [{name: region[name] for name in IGNORE.names} for region in regions]
        pq.write_table(pa.Table.from_pylist(kept, IGNORE), self.root / "ignore.parquet")


def _rounded(mark: Mark, made: Made) -> Mark:
    sides = {side: round(getattr(mark, side), DECIMALS) for side in ("x1", "y1", "x2", "y2")}
    return replace(mark, volume_id=made.volume_id, **sides)


def _write_pickle(file: Path, volumes: dict[str, Sequence[Mark]]) -> None:
    """As the published ones: numpy's scalars, boxes grouped by slice."""
    tree: dict[str, dict[int, list[list[object]]]] = {}
    for volume_id, marks in volumes.items():
        slices = tree.setdefault(volume_id, {})
        for mark in marks:
            ends = [np.float64(end) for end in (mark.x1, mark.y1, mark.x2, mark.y2, mark.z, mark.z)]
            slices.setdefault(mark.z, []).append(ends)
    file.write_bytes(pickle.dumps(tree, protocol=2))


def _info_rows(made: Made) -> list[dict[str, object]]:
    return [_info_row(made, mark) for mark in made.marks if mark.clinical]


def _info_row(made: Made, mark: Mark) -> dict[str, object]:
    """The published row of a mark. The diameters are the box's middle lines less the padding of 5 px."""
    depth, height, width = made.volume.hu_zyx.shape
    z, y, x = made.volume.spacing_zyx_mm
    middle_x, middle_y = (mark.x1 + mark.x2) / 2, (mark.y1 + mark.y2) / 2
    half_x, half_y = (max(1.0, (high - low) / 2 - 5) for low, high in ((mark.x1, mark.x2), (mark.y1, mark.y2)))
    ends = (
        middle_x - half_x,
        middle_y,
        middle_x + half_x,
        middle_y,
        middle_x,
        middle_y - half_y,
        middle_x,
        middle_y + half_y,
    )
    key = made.start + mark.z
    return {
        "File_name": f"{made.folder}_{key:03d}.png",
        "Patient_index": made.patient,
        "Study_index": made.study,
        "Series_ID": 1,
        "Key_slice_index": key,
        "Measurement_coordinates": _text(*ends),
        "Bounding_boxes": _text(mark.x1, mark.y1, mark.x2, mark.y2),
        "Lesion_diameters_Pixel_": _text(2 * max(half_x, half_y), 2 * min(half_x, half_y)),
        "Normalized_lesion_location": _text(middle_x / width, middle_y / height, mark.z / depth),
        "Coarse_lesion_type": KINDS.get(mark.kind, -1),
        "Possibly_noisy": int(mark.mark_id in made.noisy),
        "Slice_range": f"{made.start}, {made.end}",
        "Spacing_mm_px_": _text(x, y, z),
        "Image_size": f"{width}, {height}",
        "DICOM_windows": "-175, 275",
        "Patient_gender": "F" if made.patient % 2 else "M",
        "Patient_age": 20 + made.patient % 60,
        "Train_Val_Test": OFFICIAL[made.split],
    }


def _text(*numbers: float) -> str:
    """Six significant digits, as published."""
    return ", ".join(f"{number:.6g}" for number in numbers)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    for split, count in VOLUMES.items():
        parser.add_argument(f"--{split.replace('_', '-')}", type=int, default=count, metavar="N")
    return parser.parse_args()


if __name__ == "__main__":
    main()
