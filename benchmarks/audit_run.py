"""An audit of a finished run from draw to certificate, read by an oracle that knows the hidden truth and errs as told.

    python benchmarks/audit_run.py RUN [--accepts 0.05] [--rejects 0.02] [--seed 0]

The run is copied beside itself first (RUN-audited), so that RUN stays as it is. The oracle reads the deck in its order
until a rung is proven, then goes on to the next rung until one is not. Printed: what the run had certified by itself,
how many finds were read, what was certified, its realised precision and recall of the unmarked lesions.
"""

import argparse
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa

from harvester.certificate.audit import Verdict, read_through
from harvester.certificate.audit_folder import AuditFolder
from harvester.cli.audit import certify_run
from harvester.cli.places import run_folder
from harvester.errors import StoreError
from harvester.records import SelectedTable
from harvester.results.audit import draw
from harvester.results.audit_outcome import WITH_ROUND
from harvester.results.truth import TruthEvaluator
from harvester.run.folder import settings_of, store_of
from harvester.run.summary import read_summary


def main() -> None:
    """One run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--accepts", type=float, default=0.0, help="share of what is none that the oracle accepts")
    parser.add_argument("--rejects", type=float, default=0.0, help="share of lesions that it rejects")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    copy = options.run.with_name(f"{options.run.name}-audited")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(options.run, copy)
    run = run_folder(copy)
    settings = settings_of(run)
    store = store_of(run, settings, None)
    before = read_summary(run).final
    print(f"by itself: {before.harvested} harvested, precision {before.precision}, recall {before.recall_unmarked}")
    folder = draw(run, store, settings, options.seed)
    print(f"list: {len(folder.plan.deck.order)} finds, rungs {folder.plan.deck.sizes}")
    truth = truth_of(folder, TruthEvaluator(store, settings))
    print(f"right of the list, by the truth: {np.mean([truth[find] for find in folder.plan.deck.order]):.3f}")
    screens = read(folder, truth, options.accepts, options.rejects, np.random.default_rng(options.seed))
    print(f"screens looked at, those planted among them: {screens}")
    try:
        print(certify_run(run, store, settings))
    except StoreError as error:
        print(error)
        return
    final = read_summary(run).final
    print(f"certified: {final.harvested}, precision {final.precision}, recall of unmarked {final.recall_unmarked}")


def truth_of(folder: AuditFolder, evaluator: TruthEvaluator) -> dict[str, bool]:
    """What is right: a find that is the first on a hidden lesion, and what was planted as one."""
    rank = {find: at for at, find in enumerate(folder.plan.deck.ranked)}
    rows = sorted((row for row in folder.finds.to_pylist() if row["find"] in rank), key=lambda row: rank[row["find"]])
    finds = [row.pop("find") for row in rows]
    right = evaluator.correct(SelectedTable(pa.Table.from_pylist(rows, WITH_ROUND)))
    return {find: bool(is_right) for find, is_right in zip(finds, right, strict=True)} | folder.plan.deck.planted


def read(folder: AuditFolder, truth: dict[str, bool], accepts: float, rejects: float, rng: np.random.Generator) -> int:
    """How many screens it took to prove what can be proven."""
    plan = folder.plan
    with folder.reading("oracle") as reader:

        def answer(find: str) -> Verdict:
            yes = rng.random() >= rejects if truth[find] else rng.random() < accepts
            verdict = Verdict.ACCEPTED if yes else Verdict.REJECTED
            reader.say(find, verdict)
            return verdict

        return len(read_through(plan.deck, answer, plan.target, plan.level)[0])


if __name__ == "__main__":
    main()
