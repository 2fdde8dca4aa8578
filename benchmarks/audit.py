"""Does the audit keep its promise, and how many finds must a person look at? Lists of known truth, an oracle reader.

    python benchmarks/audit.py [--lists 400] [--seed 0] [--json FILE]

One table: lists that just break the promise (K0 right of N), which nothing may certify more often than 5 % and their
own error: with errors drawn one by one, and whole patients wrong. Readers who accept 10 and 20 % of what is none, with
30 planted finds. Archives whose V_H is harder than V_M, ranked by a score, in rungs that V_M's precision proposes and
three attempts (a new list with fresh errors each): how often today's certificate, computed on V_M, is broken, and how
often the audit's is. The other table: reviews until lists of a given share are proven (median, 80 %, 90 %).
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import beta

from harvester.certificate.audit import Claim, Deck, Verdict, claim_of, level_of_attempt, proven_at, rungs, standings
from harvester.certificate.evidence import Evidence, Target
from harvester.certificate.operating_point import solve

TARGET, LEVEL = 0.90, 0.05
PLANTED = 30
PATIENTS_VM, PER_PATIENT = 40, 12
Array = np.typing.NDArray[Any]


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lists", type=int, default=400, help="of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    rows = [*broken(rng, options.lists), *harder(rng, options.lists)]
    print(f"{'lists':58} {'false certificates':>20} {'certified':>10} {'recall':>7} {'reviews':>8}")
    for row in rows:
        low, high = interval(row["false"], row["lists"])
        told = f"{row['false'] / row['lists']:.3f} [{low:.3f}, {high:.3f}]"
        print(f"{row['name']:58} {told:>20} {shown(row, 'certified')} {shown(row, 'recall')} {shown(row, 'reviews')}")
    print(f"\n{'N':>6} {'right':>6} {'median':>7} {'80 %':>6} {'90 %':>6}")
    table = needed(rng, options.lists)
    for total, share, *reviews in table:
        print(f"{total:6} {share:6.2f} {reviews[0]:7.0f} {reviews[1]:6.0f} {reviews[2]:6.0f}")
    if options.json:
        options.json.write_text(json.dumps({"kinds": rows, "reviews": table}, indent=1))


def broken(rng: np.random.Generator, lists: int) -> list[dict[str, Any]]:
    """Lists of K0 right ones, read by readers who accept all that is right and some of what is not."""
    rows = []
    for total in (60, 200, 1000):
        for patients in (False, True):
            for lenient in (0.0, 0.1, 0.2):
                false = sum(is_certified(rng, total, patients, lenient) for _ in range(lists))
                who = "whole patients wrong" if patients else "errors one by one"
                name = f"N {total}, {who}, reader accepts {lenient:.0%} of what is none"
                rows.append({"name": name, "lists": lists, "false": false})
    return rows


def is_certified(rng: np.random.Generator, total: int, patients: bool, lenient: float) -> bool:
    """Whether a list that breaks the promise is certified, 30 of V_M's false ones planted."""
    ranked = [f"f{at}" for at in range(total)]
    right = np.arange(total) < Claim(TARGET, LEVEL).broken(total)
    right = right if patients else rng.permutation(right)  # the last patients are all wrong
    deck = Deck.drawn(ranked, [total], {f"p{at}": False for at in range(PLANTED)}, int(rng.integers(1 << 30)))
    said = read(rng, deck, dict(zip(ranked, right, strict=True)), lenient)
    claim = claim_of(deck, said, TARGET, LEVEL)
    return any(each.proven_at for each in standings(deck, said, claim))


def read(rng: np.random.Generator, deck: Deck, truth: dict[str, bool], lenient: float) -> dict[str, Verdict]:
    """All of the deck, by a reader who sees every lesion and takes a share of the others for one."""
    shown = [*deck.order, *deck.planted]
    yes = [truth.get(find, deck.planted.get(find, False)) or rng.random() < lenient for find in shown]
    return {find: Verdict.ACCEPTED if is_one else Verdict.REJECTED for find, is_one in zip(shown, yes, strict=True)}


def harder(rng: np.random.Generator, lists: int) -> list[dict[str, Any]]:
    """Archives of a calibrated V_M and a V_H whose odds of being right are less by `shift` (logits)."""
    rows = []
    for shift in (0.0, 0.5, 1.0):
        by_vm = {"name": f"by V_M: V_H harder by {shift}", "lists": lists, "false": 0, "certified": 0, "recall": 0.0}
        by_audit = {**by_vm, "name": f"by audit, rungs and attempts: V_H harder by {shift}", "reviews": 0.0}
        for _ in range(lists):
            scores, right, vm = archive(rng, shift)
            point = solve(vm, Target(TARGET, 1 - LEVEL))
            taken = scores >= point.threshold
            tally(by_vm, right, taken)
            tally(by_audit, right, *audited(rng, scores, right, vm))
        for row in (by_vm, by_audit):
            row["recall"] /= max(row["certified"], 1)
        by_audit["reviews"] /= lists
        rows += [by_vm, by_audit]
    return rows


def archive(rng: np.random.Generator, shift: float) -> tuple[Array, Array, Evidence]:
    """Scores and truth of V_H's 1,000 tubelets, and V_M; patients differ by a logit or so."""

    def drawn(patients: int, harder: float) -> tuple[Array, Array, Array]:
        patient = np.repeat(np.arange(patients), PER_PATIENT)
        score = rng.normal(0.5, 2.0, len(patient))
        odds = score + rng.normal(0, 0.7, patients)[patient] - harder
        return score, rng.random(len(patient)) < 1 / (1 + np.exp(-odds)), patient

    scores, right, _ = drawn(84, shift)
    vm_scores, vm_right, vm_patient = drawn(PATIENTS_VM, 0.0)
    return scores, right, Evidence(vm_scores, vm_right, vm_patient.astype(str), int(vm_right.sum()))


def audited(rng: np.random.Generator, scores: Array, right: Array, vm: Evidence) -> tuple[Array, float]:
    """What an audit certifies, attempts shared out over three lists, and how many finds were read.

    A refused attempt's verdicts settle what was read; the next list is of fresh scores, cut where V_M is stricter.
    """
    taken, reviews = np.zeros(len(scores), bool), 0
    for attempt, wanted in enumerate((0.90, 0.94, 0.97)):
        own = scores + rng.normal(0, 0.3 * attempt, len(scores))
        order = np.argsort(-own)
        sizes = rungs([count(own, vm, cut) for cut in (0.97, 0.95, 0.93)], max(count(own, vm, wanted), 1))
        ranked = [str(at) for at in order[: sizes[-1]]]
        deck = Deck.drawn(ranked, sizes, {}, int(rng.integers(1 << 30)))
        said = {find: Verdict.ACCEPTED if right[int(find)] else Verdict.REJECTED for find in ranked}
        found = standings(deck, said, Claim(TARGET, level_of_attempt(LEVEL, attempt)))
        proven = [each for each in found if each.proven_at]
        read_of = [deck.members(rung)[: each.proven_at] for rung, each in enumerate(found)]
        reviews += len(set().union(*read_of))
        if proven:
            taken[order[: proven[-1].size]] = True
            break
    return taken, reviews


def count(scores: Array, vm: Evidence, cut: float) -> int:
    """How many of V_H reach the lowest score at which V_M's plain precision is `cut`."""
    order = np.argsort(-vm.scores)
    precision = np.cumsum(vm.correct[order]) / np.arange(1, len(order) + 1)
    reached = np.flatnonzero(precision >= cut)
    return int((scores >= vm.scores[order][reached[-1]]).sum()) if len(reached) else 0


def tally(row: dict[str, Any], right: Array, taken: Array, reviews: float = 0.0) -> None:
    """Add one archive."""
    if taken.any():
        row["certified"] += 1
        row["false"] += right[taken].mean() < TARGET
        row["recall"] += right[taken].sum() / right.sum()
    if "reviews" in row:
        row["reviews"] += reviews


def needed(rng: np.random.Generator, lists: int) -> list[tuple[float, ...]]:
    """Reviews until a list is proven: N, share right, median, 80 %, 90 %."""
    rows = []
    for total in (60, 200, 1000):
        for share in (0.93, 0.95, 0.98):
            truth = np.arange(total) < round(share * total)
            claim = Claim(TARGET, LEVEL)
            reviews = [proven_at(rng.permutation(truth), total, claim) or total for _ in range(lists)]
            rows.append((total, share, *np.percentile(reviews, (50, 80, 90)).tolist()))
    return rows


def interval(count: int, of: int) -> tuple[float, float]:
    """Clopper and Pearson, 95 %."""
    low = beta.ppf(0.025, count, of - count + 1) if count else 0.0
    return float(low), float(beta.ppf(0.975, count + 1, of - count)) if count < of else 1.0


def shown(row: dict[str, Any], name: str) -> str:
    """A figure in its column."""
    value = row.get(name, "")
    width = {"certified": 10, "recall": 7, "reviews": 8}[name]
    return f"{value:>{width}.3g}" if value != "" else " " * width


if __name__ == "__main__":
    main()
