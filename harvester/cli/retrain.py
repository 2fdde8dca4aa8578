"""Train detectors on an archive with and without its harvest, and score them: what the harvest is worth to you.

    harvester retrain --run runs/night1
    harvester retrain --run runs/night1 --test VD_STORE --set retrain.seeds=5
    harvester retrain --run runs/night1 --set "retrain.detectors=[fcos, my_detector.py:build]"
    ray job submit --working-dir . -- python jobs/retrain.py --run s3://BUCKET/runs/night1

Detectors: torchvision's Faster R-CNN and FCOS, and harvester's generator from scratch; one of your own is a function in
a file (harvester/detectors/detector.py says what it gives). They are trained on slices of all volumes of V_M and V_H,
the same images and steps for each label set: clinical marks; and V_M's other lesions; and the harvest; and hard
negatives. A placebo has as many random proposals in place of the harvest. Where the hidden truth of V_H is known:
the full truth, and harvests made of it with false and missing ones, which say what precision and recall are worth.

They are scored on the store's volumes of vd_test, or on the completely marked ones of --test STORE, whose patients must
be others. Written to RUN/retrain: retrain.json, retrain.png, the label sets, and for each detector the weights of its
first fit on the harvest. Started again it goes on where it stopped.
Exit codes: 0 done, 1 it failed (one line says why), 2 a setting is wrong, 130 stopped by Ctrl-C, 143 SIGTERM.
"""

import logging
import os
import sys
from argparse import Namespace

from harvester.cli.console import LOGS, command, command_parser, tell
from harvester.cli.places import run_folder, store_folder
from harvester.errors import HarvesterError, one_line
from harvester.run.folder import settings_of, store_of
from harvester.run.retraining import FILE, FOLDER, SETS, ExchangeRate, Figure, Retraining
from harvester.storage.owner import owned
from harvester.store.store import Store
from harvester.text import duration, table

logger = logging.getLogger(__name__)


def run(options: Namespace) -> None:
    """Fit, score, compare; the table, and where the rest lies."""
    folder = run_folder(options.run)
    settings = settings_of(folder, options.set)
    store = store_of(folder, settings, store_folder(options.store))
    test = store_folder(options.test)
    # Torch and Ray take seconds: help and a wrong setting are answered before.
    from harvester.cli.run_harvest import on_ray
    from harvester.report.retraining import retraining_picture
    from harvester.retrain import Archive, require_detectors, retrain
    from harvester.run.log import logged_to
    from harvester.run.tracking import sync

    require_detectors(settings)
    archive = Archive.of(folder, settings, store, Store.open(test) if test else None)
    out = folder / FOLDER
    with owned(out), logged_to(out):
        archive = archive.with_settings(on_ray(settings, out, [store.path, *([test] if test else [])]))
        done = retrain(archive, out, f"harvester retrain {' '.join(sys.argv[2:])}".strip())
        (out / "retrain.png").write_bytes(retraining_picture(done))
    tell(f"{text(done)}\nfigures: {out / FILE}, picture: {out / 'retrain.png'}", options)
    try:
        sync(folder, os.environ.get("MLFLOW_TRACKING_URI"))
    except HarvesterError as error:
        logger.warning("%s; harvester track --run %s sends it later", one_line(error), folder)


def text(done: Retraining) -> str:
    """The label sets of each detector, what the harvest gains, and what precision and recall are worth."""
    head = ["detector", "learned from", "lesions", "AP", "95 %", "at 4 FP", "95 %"]
    rows, said = [head], []
    for each in done.detectors:
        for one in each.sets:
            if one.labels in SETS:
                named = [SETS[one.labels], str(done.labels[one.labels])]
                rows.append([each.detector, *named, *_cells(one.ap), *_cells(one.sensitivity)])
        for name, gain in each.gains.items():
            said.append([each.detector, name, f"{100 * gain.value:+.1f}", _interval(gain, 100)])
        if each.gap_closed:
            closed = each.gap_closed
            said.append(
                [each.detector, "gap to the full truth closed, %", f"{100 * closed.value:.0f}", _interval(closed, 100)]
            )
    lines = [
        f"{done.lesions} lesions in {done.volumes} volumes of {done.patients} patients; "
        f"{done.seeds} seeds; {duration(done.seconds)} of training and scoring",
        *table(rows, "llr"),
        "",
        *table([["detector", "gain in AP, points", "", "95 %"], *said], "llr"),
    ]
    rates = [(each.detector, each.exchange_rate) for each in done.detectors if each.exchange_rate]
    return "\n".join([*lines, *(_said_rate(*each) for each in rates)])


def _said_rate(detector: str, rate: ExchangeRate) -> str:
    recall, precision = (100 * each.value for each in (rate.ap_per_point_of_recall, rate.ap_per_point_of_precision))
    worth = rate.recall_per_point_of_precision
    return (
        f"\n{detector}: a point of a harvest's recall is worth {recall:.2f} points of AP, a point of its precision "
        f"{precision:.2f}" + (f": as much as {worth:.2f} points of recall" if worth is not None else "")
    )


def _cells(figure: Figure) -> list[str]:
    return [f"{figure.value:.3f}", _interval(figure)]


def _interval(figure: Figure, scale: float = 1.0) -> str:
    if figure.interval is None:
        return "-"
    digits = 3 if scale == 1 else 1
    return " to ".join(f"{scale * end:.{digits}f}" for end in figure.interval)


parser = command_parser("retrain", __doc__, "run", "store", "set", *LOGS)
parser.add_argument(
    "--test", metavar="PATH|URI", help="a store of completely marked scans to score on (default: the store's vd_test)"
)
main = command(parser, run)
