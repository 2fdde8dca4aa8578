"""Writes docs/columns.md, the columns of every table that users open, from records.py: make pages."""

from pathlib import Path

import pyarrow as pa

from harvester import records

PAGE = Path(__file__).parents[1] / "columns.md"
HEAD = """# Tables, column by column

Generated from the code (`make pages`). Boxes are pixel indices counted from 0, both ends included, in the volume's own
grid; slices are counted from 0. Lists have one entry per slice. The `.csv` beside a `.parquet` has the same columns.
"""
TABLES = {
    "harvest.parquet": (records.HARVEST, "One row per harvested lesion."),
    "missing.parquet": (records.MISSING, "One row per volume of V_H: what it misses."),
    "ledger.parquet": (records.LEDGER, "One row per label of any origin."),
    "calibration.parquet": (records.ACCEPTED, "One row per find of V_M that the rule accepted."),
    "round-k/scored-….partials": (records.SCORED, "One row per proposal of a volume, with both scores."),
    "STORE/manifest.parquet": (records.MANIFEST, "One row per volume."),
    "STORE/marks.parquet, truth.parquet": (records.MARKS, "One row per lesion that the archive marks."),
    "STORE/ignore.parquet": (records.IGNORE, "One row per region that is left out of harvest and scoring."),
    "STORE/rejects.parquet": (records.REJECTS, "One row per scan that was refused."),
    "STORE/reviewed.parquet": (records.REVIEWED, "One row per label that people judged."),
}
MEANING = {
    "volume_id": "which volume: a salted hash, DeepLesion's own id, or a phantom's",
    "patient_id": "whose it is: a salted hash",
    "lesion_id": "which lesion of the volume",
    "round": "the round that found it; -1 for the archive's marks and for what people said",
    "score": "what it was selected by: the mean logit of both stages, as a probability",
    "lpg_score": "the generator's score: the highest of its slices",
    "lpc_score": "the classifier's probability",
    "threshold": "the lowest score that was accepted in its round",
    "precision_bound": "lower bound of the precision there, not corrected for the search; the promise is the target",
    "z": "slice, or list of slices",
    "x1": "left end of the box",
    "y1": "upper end of the box",
    "x2": "right end of the box",
    "y2": "lower end of the box",
    "x1_px": "left end of the box, per slice",
    "y1_px": "upper end",
    "x2_px": "right end",
    "y2_px": "lower end",
    "z_mm": "slice, in mm from the centre of the first one",
    "x1_mm": "left edge in mm from the volume's outer corner, per slice",
    "y1_mm": "upper edge",
    "x2_mm": "right edge",
    "y2_mm": "lower edge",
    "model_hash": "hash of the models that scored it",
    "run_id": "which run",
    "split": "vm, vh, vh_test or vd_test",
    "marked": "lesions that the archive marks",
    "harvested": "lesions that were harvested",
    "expected_more": "lesions expected among what was not harvested: a sum of probabilities; empty where unknown",
    "expected_missing": "harvested and expected_more together; empty where unknown",
    "best_left": "probability of the best proposal that was left; empty if none",
    "left_out": "why the volume was left out; empty if it was not",
    "label_id": "which label of the volume",
    "role": "lesion, hard_negative, ignored or calibration",
    "source": "where it comes from: " + ", ".join(f"`{each}`" for each in records.Source),
    "probability": "that it is a lesion, as V_M shows; empty where not known, and for what people say",
    "tubelet_id": "which proposal of the volume",
    "width_mm": "shorter side of its best slice's box",
    "slice_score": "the generator's score, per slice",
    "correct": "whether it found a lesion",
    "mark_id": "which mark of the volume",
    "clinical": "true: the clinic marked it; false: only complete annotation shows it",
    "kind": "free text; empty where unknown",
    "spacing_z_mm": "distance of slices",
    "spacing_y_mm": "distance of rows",
    "spacing_x_mm": "distance of columns",
    "depth": "slices",
    "height": "rows",
    "width": "columns",
    "source_hash": "salted hash of what names the scan in the archive",
    "voxel_hash": "hash of its Hounsfield units",
    "shard": "file that holds its voxels",
    "offset": "where they begin there",
    "bytes": "how many",
    "checksum": "of these bytes",
    "reason": "one word",
    "message": "what is wrong and what to do",
    "z1": "first slice",
    "z2": "last slice",
    "verdict": "accepted, rejected or moved",
}


def page() -> str:
    """The whole page."""
    return HEAD + "".join(f"\n{section(name, *table)}\n" for name, table in TABLES.items())


def section(name: str, schema: pa.Schema, words: str) -> str:
    """One table."""
    rows = [f"| `{field.name}` | {kind(field.type)} | {MEANING[field.name]} |" for field in schema]
    return "\n".join([f"## {name}", "", words, "", "| column | type | meaning |", "|---|---|---|", *rows])


def kind(found: pa.DataType) -> str:
    """A type in a word."""
    if pa.types.is_list(found):
        return f"list of {kind(found.value_type)}"
    words = {"string": "text", "bool": "true or false", "double": "number", "float": "number"}
    return words.get(str(found), "integer")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
