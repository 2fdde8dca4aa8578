"""The report's chapters in words and tables; summary.json says it, these say it to people."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import pyarrow.compute as pc

from harvester.certificate.exchangeability import UNLIKE, said
from harvester.config.loading import dump
from harvester.config.settings import OperatingPointSettings, Settings
from harvester.records import Split, rows_where, values
from harvester.report.html import Html, bar, count, number, percent, section, table, tag
from harvester.report.plots import audit_plot
from harvester.run.summary import AblationResult, Comparison, FinalResult, RoundResult, StepResult, Summary
from harvester.store import looks
from harvester.store.commit import volumes_with_drawn_marks
from harvester.store.store import Store
from harvester.text import duration
from harvester.text import table as text_table

DRAWN_MARKS: Final = (
    "Nothing said which lesions of {} with complete marks the clinic had marked: the largest were taken for it, as "
    "many per volume as V_H has. The certificate holds as far as V_H's clinic marked so."
)
BOUND: Final = "lower bound at this threshold, not corrected for the search"
RATES: Final = ("1", "4", "16")
SET_NAMES: Final = {
    Split.VM: "V_M, every lesion marked",
    Split.VH: "V_H, partly marked",
    Split.VH_TEST: "V_H test, partly marked, truth hidden",
    Split.VD_TEST: "V_D test, never seen",
}
SHORT_NAMES: Final = {Split.VM: "V_M", Split.VH: "V_H", Split.VH_TEST: "V_H test"}


def opening(summary: Summary, settings: OperatingPointSettings, volumes: int) -> Html:
    """The title, what was done in one sentence, and the figures that matter."""
    final = summary.final
    facts = {
        "lesions harvested": number(final.harvested),
        "certified precision": f"≥ {settings.target_precision:g}" if final.harvested else "–",
        "measured precision": number(final.precision, 3),
        "unmarked lesions found": percent(final.recall_unmarked),
        "time": duration(summary.seconds),
    }
    return tag(
        "header",
        tag("h1", f"Harvest of {summary.config}"),
        tag("p", sentence(summary, settings, volumes), class_="lead"),
        *(tag("p", tag("b", warning), ".") for warning in warnings(summary)),
        tag("dl", *(tag("div", tag("dt", name), tag("dd", fact)) for name, fact in facts.items()), class_="facts"),
        *([tag("p", f"Stopped because {summary.stopped_because}.", class_="soft")] if summary.stopped_because else []),
    )


def sentence(summary: Summary, settings: OperatingPointSettings, volumes: int) -> str:
    """What was done, for a reader who reads nothing else."""
    final = summary.final
    if not final.harvested:
        why = next((row.refused for row in reversed(summary.rounds) if row.refused), "")
        return "Nothing was harvested" + (f": {why}." if why else ".")
    said = (
        f"{count(final.harvested, 'unmarked lesion')} harvested in {count(volumes, 'volume')} at a precision "
        f"certified to be at least {settings.target_precision:g} ({100 * settings.confidence:g} % confidence)"
    )
    if final.precision is None:
        return said + "; there is no hidden truth here to measure it against."
    return (
        f"{said}; where the truth is known, {percent(final.precision)} of them are right and they are "
        f"{percent(final.recall_unmarked)} of the unmarked lesions."
    )


def warnings(summary: Summary) -> list[str]:
    """What to know before the harvest is used, a sentence each; none where all is well."""
    told = [f"Round {k}: {said(each)}" for k, each in _compared(summary) if each.p is not None and each.p < UNLIKE]
    told += [f"Round {row.round} left out {_left_out(row.left_out)}" for row in summary.rounds if row.left_out]
    told += [
        f"Round {row.round} left {row.left_for_review.tubelets} of the tubelets that reach the threshold for review: "
        "V_M has shown no like of them (too many of one patient, or a fold that it never tried)"
        for row in summary.rounds
        if row.left_for_review.tubelets
    ]
    if _compared(summary) and summary.earlier_looks != 0:
        told.append(looks.said(summary.earlier_looks))
    return told


def rounds(summary: Summary) -> Html:
    """One row per round."""
    head = (
        "round", "LPG sensitivity at 1 FP", "at 4 FP", "at 16 FP", "LPC AP", "threshold", BOUND,
        "harvested", "hard negatives", "precision", "recall",
    )  # fmt: skip
    words = (
        "Sensitivity, precision and recall are measured on the unmarked lesions of V_H test (match: P3D "
        "IoU of at least 0.5). Every round selects anew: its list takes the place of the one before. "
        "FP: false positives per volume. An en dash stands for what cannot be known."
    )
    rows = [_round(str(row.round), row, row.lpc_ap) for row in summary.rounds]
    rows.append(_round("final", summary.final))
    return section("Round by round", tag("p", words, class_="soft"), table(head, rows), wide=True)


def certificate(summary: Summary, settings: OperatingPointSettings) -> Html:
    """What the promise is, what it rests on, what it does not say."""
    tests = [
        [
            str(row.round), number(row.accepted_vm), number(row.threshold, 4),
            number(row.precision_bound, 3), percent(row.recall_vm),
        ]
        for row in summary.rounds
    ]  # fmt: skip
    refusals = [
        tag("p", tag("b", f"Round {row.round} certified nothing"), f": {row.refused}. ", _estimate(row))
        for row in summary.rounds
        if row.refused
    ]
    target, sure = f"{settings.target_precision:g}", f"{100 * settings.confidence:g} %"
    return section(
        "What the certificate means",
        tag("p",
            "In the mining set V_M every lesion is marked. Its volumes went through the same models and the same "
            "rule as the others, with all but their clinical marks hidden, and no model ever scored a patient it had "
            "learned from. What the rule accepts there can be checked, lesion by lesion."
        ),
        tag("p",
            f"The threshold is the lowest one at which the precision on V_M is at least {target}: not as counted, but "
            f"by a one-sided lower confidence bound at {sure}, taken over patients rather than lesions, because the "
            "errors of one patient repeat. Thresholds are tried from the highest down and the first that fails ends "
            "the search, so that trying many costs no confidence; how the scores are combined is chosen by "
            "V_H's clinical marks among V_H's candidates. Every round selects anew, so one promise is made, of the "
            "last round's list; what earlier rounds took was for training alone."
        ),
        tag("p",
            f"What is promised is “at least {target}” and no more. At the threshold where the search ended the bound "
            "is often larger: that figure was picked by the same labels, and holds less often than it says."
        ),
        table(
            ("round", "accepted on V_M", "threshold", BOUND, "recall on V_M"), tests,
            "What each round’s promise rests on",
        ),
        *refusals,
        tag("p",
            "It holds for the other volumes as far as their patients resemble those of V_M: same scanners, same "
            f"kinds of disease. It says nothing of the lesions that were not found. And a confidence of {sure} means "
            f"that about {100 * (1 - settings.confidence):.0f} of a hundred such promises may be broken, and it is "
            f"given to the first look at V_M alone. {looks.said(summary.earlier_looks)}."
        ),
    )  # fmt: skip


def audit(summary: Summary) -> list[Html]:
    """What the promise rests on where people proved it; nothing where nobody did."""
    proven = summary.audit
    if proven is None:
        return []
    lures = (
        f"Among them were {count(proven.planted, 'find')} known to be none, of which the readers accepted "
        f"{proven.planted_accepted}: of what is none they accept at most {percent(proven.false_accepts)}, and so many "
        "more had to be right."
        if proven.planted
        else "No known finds were planted: that what the readers accepted is right is taken on their word."
    )
    words = (
        f"A list of {count(proven.size, 'find')} was frozen ({proven.list_hash}) and its order drawn at random. "
        f"{count(proven.readers, 'reader')} looked at the first {proven.reviewed} of them, without their scores: "
        f"{proven.right} are lesions. That at least {proven.target:g} of the list are was proven after "
        f"{proven.proven_at}; by now at least {proven.bound:.3f} are. The chance that this is wrong is at most "
        f"{proven.level:.2g}, whatever the patients, scanners and models: the draw alone makes it. What was rejected "
        "is out of the harvest. It says nothing of the lesions that were not found."
    )
    plots = tag("div", audit_plot(proven.curve, proven.target), class_="plots")
    return [section("Proven by people who looked at it", tag("p", words), tag("p", lures), plots)]


def likeness(summary: Summary) -> Html:
    """What the certificate takes for granted, as far as it shows without labels; nothing where nothing was scored."""
    compared = _compared(summary)
    if not compared:
        return Html()
    # The round that tells the most.
    k, shown = min(compared, key=lambda each: (each[1].p is None, each[1].p or 0.0, -each[0]))
    rows = [[row.aspect, number(row.vm), number(row.vh), number(row.p, 4)] for row in shown.aspects]
    most = map(number, (shown.most_of_a_patient_vm, shown.most_of_a_patient_vh))
    rows.append(["most accepted of one patient", *most, ""])
    beyond = ", ".join(f"{amount:,} by {name}" for name, amount in shown.beyond_vm.items() if amount)
    return section(
        "Is V_H like V_M?",
        *(tag("p", f"Round {which}: {said(each)}.") for which, each in compared),
        tag(
            "p",
            "What the same rule accepts in both sets, clinical marks aside. p: how often as large a difference, in "
            "either direction, comes about where V_M is drawn at random from all patients; corrected for the number "
            "of rows.",
            class_="soft",
        ),
        table(("mean", "V_M", "V_H", "p"), rows, f"Round {k}"),
        tag("p", f"Accepted in V_H outside of the range that V_M shows: {beyond or 'none'}."),
    )


def ablations(summary: Summary) -> Html:
    """The full loop beside the generator alone and beside shuffled classifier scores."""
    known = summary.controls
    named = {"lpg_alone": "LPG alone, same target", "lpc_shuffled": "LPC scores shuffled"}
    rows = [_ablation("full loop", summary.final)]
    for key, name in named.items():
        by_round = [row.controls[key] for row in summary.rounds if key in row.controls]
        rows += [_ablation(f"{name}, round {k}", row) for k, row in enumerate(by_round[:-1])]
        rows += [_ablation(f"{name}, last round", known[key])] if key in known else []
    return section(
        "Ablations",
        tag(
            "p",
            "The same target and the same certificate, with less: the proposals of the generator alone, "
            "and the full loop with the classifier’s scores dealt out at random, of which next to "
            "nothing should be left. Both select anew in every round, as the loop does. From "
            "round 1 on the generator is the one that learnt from the full loop’s harvest: only its first round owes "
            "the classifier nothing.",
        ),
        table(("", "harvested", "precision", "recall of unmarked lesions"), rows),
    )


def missing(rows: Sequence[Mapping[str, Any]]) -> Html:
    """The volumes that miss the most annotations, as the engine believes; an en dash for what it does not know."""
    head = ("volume", "marked", "harvested", "expected besides", "missing in all")
    shown = [
        [
            row["volume_id"], count(row["marked"], "lesion"), number(row["harvested"]),
            number(row["expected_more"], 1), number(row["expected_missing"], 1),
        ]
        for row in rows
    ]  # fmt: skip
    return section(
        "Volumes that miss the most",
        tag(
            "p",
            "Marked: by the archive. Expected besides: what the proposals that were not harvested add up to, "
            "each weighed by how often proposals of its score are lesions in V_M. An en dash: unknown, for the volume "
            "was left out or V_M taught nothing. All volumes are in missing.csv.",
        ),
        table(head, shown),
    )


def steps(summary: Summary) -> Html:
    """Where the time went; steps below 1 % of it go together."""
    done = summary.steps
    total = sum(step.seconds for step in done) or 1.0
    large = [step for step in done if step.seconds >= 0.01 * total]
    rows = [
        [f"{step.round} {step.step}", *_time(step.seconds, total), _rate(step), bar(step.seconds / total)]
        for step in large
    ]
    rest = total - sum(step.seconds for step in large)
    if len(done) > len(large):
        rows.append([count(len(done) - len(large), "short step"), *_time(rest, total), "", ""])
    return section("Time", table(("round and step", "time", "share", "slices per second", ""), rows))


def archive(store: Store) -> Html:
    """What the store holds."""
    manifest, marks = store.manifest, store.marks()
    rows = []
    for split, name in SET_NAMES.items():
        mine = rows_where(manifest, "split", split)
        known = rows_where(marks, "volume_id", *values(mine["volume_id"]))
        if len(mine):
            patients = len(pc.unique(mine["patient_id"]))
            clinical = sum(values(known["clinical"]))
            rows.append([name, *map(number, (len(mine), patients, clinical, len(known)))])
    head = ("set", "volumes", "patients", "clinical marks", "all marks known to the run")
    drawn = volumes_with_drawn_marks(store.path)
    note = DRAWN_MARKS.format(count(drawn, "volume")) if drawn else ""
    return section("The archive", table(head, rows), *([tag("p", note, class_="soft")] if note else []))


def resolved(settings: Settings, summary: Summary) -> Html:
    """The settings, folded."""
    names = ("config_hash", "data_hash", "run_id")
    hashes = ", ".join(f"{name} {getattr(summary, name)}" for name in names)
    folded = tag("details", tag("summary", "All settings as resolved"), tag("pre", dump(settings)))
    return section("Settings", tag("p", hashes, class_="soft"), folded)


def closing_table(summary: Summary) -> str:
    """The rounds for the terminal, and the sentence that matters."""
    head = ["round", "LPG @1", "@4", "@16", "threshold", "bound", "harvested", "negatives", "precision", "recall"]
    rows = [_short(str(row.round), row) for row in summary.rounds] + [_short("final", summary.final)]
    lines = text_table([head, *rows], "r")
    rule = "-" * len(lines[0])
    end = f"stopped: {summary.stopped_because}; {duration(summary.seconds)}"
    return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1], *warnings(summary), end])


def _compared(summary: Summary) -> list[tuple[int, Comparison]]:
    return [(row.round, row.comparison) for row in summary.rounds if row.comparison]


def _left_out(by_split: Mapping[str, int]) -> str:
    each = ", ".join(f"{amount:,} of {name}" for split, name in SHORT_NAMES.items() if (amount := by_split.get(split)))
    volumes = count(sum(by_split.values()), "volume")
    return f"{volumes} that could not be read or scored ({each}): see missing.csv and the log"


def _round(name: str, row: RoundResult | FinalResult, lpc_ap: float | None = None) -> list[str]:
    sensitivity = row.lpg_sensitivity or {}
    return [
        name, *(number(sensitivity.get(rate)) for rate in RATES), number(lpc_ap),
        number(row.threshold, 4), number(row.precision_bound, 3), number(row.harvested),
        number(row.hard_negatives), number(row.precision, 3), number(row.recall_unmarked, 3),
    ]  # fmt: skip


def _short(name: str, row: RoundResult | FinalResult) -> list[str]:
    cells = _round(name, row)
    return [*cells[:4], *cells[5:]]


def _ablation(name: str, row: AblationResult | FinalResult) -> list[str]:
    return [name, number(row.harvested), number(row.precision, 3), number(row.recall_unmarked, 3)]


def _estimate(row: RoundResult) -> str:
    estimate = row.point_estimate
    if not estimate.harvested:
        return "The point estimate alone would have harvested nothing either."
    measured = f" (measured: precision {number(estimate.precision, 3)}, recall {number(estimate.recall_unmarked, 3)})"
    if estimate.precision is None:
        measured = ""
    return f"The point estimate alone would have harvested {count(estimate.harvested, 'lesion')}{measured}."


def _time(seconds: float, total: float) -> tuple[str, str]:
    return duration(seconds), percent(seconds / total)


def _rate(step: StepResult) -> str:
    slices = step.counts.get("slices")
    return number(slices / step.seconds if slices else None, 1)
