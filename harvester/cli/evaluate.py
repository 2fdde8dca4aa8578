"""Score detections against marks: AP, FROC, harvest precision and recall, with intervals; one run or two side by side.

    harvester evaluate --marks Revised-Test1071.pkl --tubelets detections.parquet
    harvester evaluate --marks marks.csv --volumes volumes.txt --tubelets tubelets.csv --by size kind
    harvester evaluate --boxes3d --metric iogt --marks 3D-Box.pkl --tubelets detections.parquet
    harvester evaluate --marks marks.parquet --tubelets scored.parquet --score lpc_score --accept 0.9 \\
        --baseline scored.parquet --baseline-score lpg_score --json figures.json --plots plots

Marks: a pickle published with Lesion Harvester (read through an allow-list: nothing that it names is run; with
--boxes3d its 3D-Box.pkl), or a .parquet or .csv table. Detections: .parquet or .csv, or a published pickle of tubelets.
DeepLesion's volume ids match with and without .annot and with _ or - before the range. Columns (boxes in pixels from 0,
both ends inclusive):

  marks        volume_id, z, x1, y1, x2, y2; optional: patient_id, spacing_x_mm, spacing_y_mm, any to stratify by
  tubelets     one row per slice: volume_id, tubelet_id, z, x1, y1, x2, y2, score (a tubelet's is its highest)
               or one row per tubelet, as a run's tables: volume_id, lists z, x1, y1, x2, y2, slice_score
  with --boxes3d: marks volume_id, x1, y1, z1, x2, y2, z2; detections the same and score
  volumes      one id per line, or a table with volume_id; optional: patient_id, spacing_x_mm, spacing_y_mm

Tubelets are matched by P3D IoU and scored by Lesion Harvester's rules, 3D boxes by LENS'. A row that is wrong (a
volume without annotation and no --annotated-only, a duplicate, a box end that is no number, x2 < x1) is an error
that names it.

Intervals are 95 % percentile intervals of a bootstrap over patients: those of the column patient_id, else what
stands before the first _ in DeepLesion's volume ids, else each volume by itself; the output says which.

--by size cuts at 10 and 30 mm of the longer side of the mark's box where the spacing is known, else at 20 and 40 px.
In a stratum, a tubelet that hits marks of other strata alone is neither a hit nor a false positive.
--accept gives the precision (accepted tubelets that are the first on a mark / accepted) and the recall of a harvest.
--baseline draws the same patients for both runs; "share <= 0": the share of resamples in which the run is no better.
Exit codes: 0 done, 1 a file cannot be scored (one line says why), 2 an argument is wrong.
"""

import argparse
import json
from pathlib import Path

from harvester.cli.console import command, command_parser
from harvester.cli.places import lasting_path
from harvester.errors import StoreError
from harvester.evaluation.boxes3d import METRICS
from harvester.evaluation.evaluate import Evaluation, evaluate, protocol
from harvester.evaluation.inputs.annotations import read_annotations
from harvester.evaluation.inputs.detections import Detections, read_detections
from harvester.evaluation.summary import as_json, as_text

VOLUMES = "every annotated volume; without it, those of a marks table are the ones with a mark (pickles name all)"


def score(options: argparse.Namespace) -> None:
    """Everything is written before the table is printed: a closed pipe does not cost it."""
    done = run(options)
    if options.json:
        write_json(done, options)
    if options.plots:
        # matplotlib takes a second to import: who asks for no pictures does not wait for it.
        from harvester.report.plots import write_plots

        plots = write_plots(done, lasting_path(options.plots))
    print(as_text(done))
    if options.plots:
        print("plots:", *plots)


def run(options: argparse.Namespace) -> Evaluation:
    """Read, check and score what the options name."""
    rules = protocol(options.boxes3d, options.metric, options.threshold)
    truth = read_annotations(options.marks, options.volumes, options.boxes3d)

    def read(file: Path, score: str | None) -> Detections:
        return read_detections(file, truth.volume_ids, options.boxes3d, score, options.annotated_only)

    tubelets = read(options.tubelets, options.score)
    baseline = None
    if options.baseline:
        baseline = read(options.baseline, options.baseline_score or options.score)
    return evaluate(tubelets, truth, rules, baseline, options.by, options.accept, options.resamples, options.seed)


def write_json(done: Evaluation, options: argparse.Namespace) -> None:
    """Write every figure and the names of the files; the folder is made if need be."""
    named = {"marks": options.marks, "tubelets": options.tubelets, "baseline": options.baseline}
    figures = {"files": {role: file.name for role, file in named.items() if file}} | as_json(done)
    try:
        file = lasting_path(options.json)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(figures, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise StoreError(f"{options.json}: cannot be written ({error.strerror})") from None


parser = command_parser("evaluate", __doc__)
add = parser.add_argument
add("--marks", type=Path, required=True, metavar="FILE", help="the truth: .pkl, .parquet or .csv")
add("--tubelets", type=Path, required=True, metavar="FILE", help="the detections: .parquet, .csv or .pkl")
add("--volumes", type=Path, metavar="FILE", help=VOLUMES)
add(
    "--annotated-only",
    action="store_true",
    help="leave out detections of volumes that are not annotated: a harvest's tables hold other splits too",
)
add("--boxes3d", action="store_true", help="score 3D boxes instead of tubelets")
add("--metric", choices=tuple(METRICS), help="overlap of 3D boxes (default: iobb)")
add("--threshold", type=float, metavar="T", help="overlap at which a mark is found (default: 0.5; 3D boxes: 0.3)")
add("--score", metavar="COLUMN", help="rank by this column (default: highest slice score, or score)")
add("--by", nargs="+", default=[], metavar="COLUMN", help="strata: size, or columns of the marks")
add("--accept", type=float, metavar="SCORE", help="precision and recall of what scores at least this")
add("--baseline", type=Path, metavar="FILE", help="detections of another run, to compare with")
add("--baseline-score", metavar="COLUMN", help="its score column (default: as --score); --accept holds for both")
add("--resamples", type=int, default=1000, metavar="N", help="bootstrap resamples (default: 1000; 0: none)")
add("--seed", type=int, default=0, help="seed of the bootstrap (default: 0)")
add("--json", type=Path, metavar="FILE", help="write every figure at full precision")
add("--plots", type=Path, metavar="DIR", help="write froc.png and precision_recall.png")
main = command(parser, score)
