"""Time of harvester evaluate's work on the golden case p3d_test1071: CPU seconds after imports, in this one process.

    python benchmarks/evaluate.py [--json FILE]

Prints the CPU seconds to load and score (want at most 0.5), the CPU seconds of 1,000 bootstrap resamples (want at
most 5 more), and how many times longer ten times the tubelets take (want at most 11). First runs count: nothing is
warmed up but the imports. The tenfold file holds every tubelet ten times in its volume, each copy moved a little.
Needs the golden cases: $HARVESTER_DATA, with golden/ beside it.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from harvester.evaluation.bootstrap import draw_patients
from harvester.evaluation.evaluate import evaluate, protocol
from harvester.evaluation.inputs.annotations import Annotations, read_annotations
from harvester.evaluation.inputs.detections import read_detections
from harvester.evaluation.scorecard import Match, match, score

DATA = Path(os.environ.get("HARVESTER_DATA") or Path(__file__).parents[2] / "shared" / "data")
MARKS = DATA / "deeplesion" / "Revised-Test1071.pkl"
TUBELETS = DATA.parent / "golden" / "p3d_test1071" / "detections.parquet"
RULES = protocol(boxes3d=False, metric=None, threshold=None)
COPIES = 10
RESAMPLES = 1000


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    for file in (MARKS, TUBELETS):
        if not file.is_file():
            print(f"needs {file.name}: set HARVESTER_DATA")
            return 1
    figures = measure()
    print(json.dumps(figures, indent=1))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 0


def measure() -> dict[str, float]:
    """The figures of the report."""
    load_and_score = cpu_seconds(lambda: scored(TUBELETS))
    truth, laid = loaded(TUBELETS)
    bootstrap = cpu_seconds(lambda: score(laid, truth, RULES, draw_patients(truth.num_patients, RESAMPLES, seed=0)))
    again = min(cpu_seconds(lambda: scored(TUBELETS)) for _ in range(5))
    with tempfile.TemporaryDirectory() as folder:
        many = Path(folder) / "tenfold.parquet"
        pq.write_table(copies(pq.read_table(TUBELETS)), many, compression="zstd")
        tenfold = min(cpu_seconds(lambda: scored(many)) for _ in range(3))
    return {
        "load_and_score_cpu_s": load_and_score,
        "bootstrap_1000_cpu_s": bootstrap,
        "load_and_score_warm_cpu_s": again,
        "load_and_score_tenfold_cpu_s": tenfold,
        "tenfold_ratio": tenfold / again,
    }


def scored(tubelets: Path) -> Any:
    """What the job does without a bootstrap."""
    truth = read_annotations(MARKS)
    return evaluate(read_detections(tubelets, truth.volume_ids), truth, RULES, resamples=0)


def loaded(tubelets: Path) -> tuple[Annotations, Match]:
    """Marks, and the tubelets laid on them."""
    truth = read_annotations(MARKS)
    return truth, match(read_detections(tubelets, truth.volume_ids), truth, RULES)


def copies(table: pa.Table) -> pa.Table:
    """Every tubelet COPIES times, moved by up to a pixel and with another score; volumes stay together."""
    rng = np.random.default_rng(0)
    ids = table["tubelet_id"].to_numpy()
    volume = table["volume_id"].combine_chunks().indices.to_numpy()
    parts = []
    for copy in range(COPIES):
        moved = {side: table[side].to_numpy() + np.float32(rng.uniform(-1, 1)) for side in ("x1", "x2")}
        moved["x2"] = np.maximum(moved["x1"], moved["x2"])
        order = table.column_names
        columns = moved | {
            "tubelet_id": ids + copy * (int(ids.max()) + 1),
            "score": (table["score"].to_numpy() * rng.uniform(0.9, 1.0)).astype(np.float32),
        }
        parts.append(pa.table({name: columns.get(name, table[name]) for name in order}))
    whole = pa.concat_tables(parts).unify_dictionaries()
    return whole.take(pa.array(np.argsort(np.tile(volume, COPIES), kind="stable")))


def cpu_seconds(work: Callable[[], Any]) -> float:
    """CPU time of all threads."""
    began = time.process_time()
    work()
    return time.process_time() - began


if __name__ == "__main__":
    sys.exit(main())
