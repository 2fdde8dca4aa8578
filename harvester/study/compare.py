"""From rows to what a study says: arms beside the full loop with paired intervals, and the headline."""

import re
from collections.abc import Iterable, Sequence
from typing import Final, TypeVar

import numpy as np
from scipy.stats import norm

from harvester import __version__
from harvester.config.fingerprint import settings_hash
from harvester.results.retraining import GAIN_OVER_CLINICAL
from harvester.run.retraining import Figure
from harvester.run.study import ArmFigures, Headline, StudyDetectors, StudyResult, StudyRow
from harvester.study.ranking import Ranking, paired
from harvester.study.settings import FULL, StudySettings

OfArchive = TypeVar("OfArchive", StudyRow, ArmFigures, StudyDetectors)
Rankings = dict[tuple[str, int, str], Ranking]
TARGET: Final = 0.90
LPG_ALONE: Final = "generator_alone"
CONFIDENCE: Final = 0.95


def result(
    settings: StudySettings,
    rows: Sequence[StudyRow],
    rankings: Rankings,
    detectors: Sequence[StudyDetectors],
    command: str,
    fitted_seconds: float = 0.0,
) -> StudyResult:
    """The study as far as it is done."""
    tree = settings.model_dump(mode="json")
    return StudyResult(
        harvester=__version__,
        command=command,
        settings=tree,
        settings_hash=settings_hash(tree),
        seconds=round(sum(row.seconds for row in rows) + fitted_seconds, 1),
        headline=headline(rows, detectors),
        arms=tuple(arm_figures(settings, rows, rankings)),
        detectors=tuple(detectors),
        rows=tuple(rows),
    )


def merged(before: StudyResult, now: StudyResult) -> StudyResult:
    """A study of pieces: `now`, and the archives of `before` that it has nothing of. Settings are each piece's own."""
    here = {row.archive for row in now.rows}
    kept = [row for row in before.rows if row.archive not in here]
    rows = _by_archive((*kept, *now.rows))
    detectors = _by_archive((*(each for each in before.detectors if each.archive not in here), *now.detectors))
    commands = [command for command in before.command.split(" && ") if kept and not _only_of(command) <= here]
    replaced = sum(row.seconds for row in before.rows if row.archive in here)
    return now.model_copy(
        update={
            "command": " && ".join(sorted({*commands, now.command})),
            "seconds": round(now.seconds + (before.seconds - replaced if kept else 0.0), 1),
            "headline": headline(rows, detectors),
            "arms": _by_archive((*(arm for arm in before.arms if arm.archive not in here), *now.arms)),
            "detectors": detectors,
            "rows": rows,
        }
    )


def _by_archive(items: Iterable[OfArchive]) -> tuple[OfArchive, ...]:
    return tuple(sorted(items, key=lambda each: each.archive))


def _only_of(command: str) -> set[str]:
    """The archives that a piece's command names; one that is never told from others where it names none."""
    named = re.search(r"--only ([\w ]+?)(?= --|$)", command)
    return set(named[1].split()) if named else {""}


def arm_figures(settings: StudySettings, rows: Sequence[StudyRow], rankings: Rankings) -> Iterable[ArmFigures]:
    """Each arm of each archive over the seeds that are done."""
    for archive in settings.archives:
        for name, arm in settings.arms_of(archive).items():
            mine = [row for row in rows if row.archive == archive and row.arm == name]
            if not mine:
                continue
            gain = None
            if name != FULL:
                ones, others = ([rankings[archive, row.seed, arm_] for row in mine] for arm_ in (name, FULL))
                value, ends = paired(ones, others, settings.resamples)
                gain = Figure(value=value, interval=ends)
            harvested = sum(row.harvested for row in mine)
            yield ArmFigures(
                archive=archive,
                arm=name,
                about=arm.about,
                rival=arm.rival,
                seeds=len(mine),
                certified=None if mine[0].certified is None else sum(bool(row.certified) for row in mine),
                harvested=harvested / len(mine),
                precision=sum(row.right for row in mine) / harvested if harvested else None,
                recall=float(np.mean([row.recall for row in mine])),
                recall_at_90=float(np.mean([row.recall_at_90 for row in mine])),
                gain=gain,
                reviewed=float(np.mean([row.reviewed for row in mine])),
            )


def headline(rows: Sequence[StudyRow], detectors: Sequence[StudyDetectors]) -> Headline:
    """Over the harvests of all archives and seeds; recall over those on which the generator was tried alone, too."""
    full = [row for row in rows if (row.arm == FULL if row.is_harvest is None else row.is_harvest)]
    alone = [row for row in rows if row.arm == LPG_ALONE]
    tried = {(row.archive, row.seed) for row in alone}
    beside = [row for row in full if (row.archive, row.seed) in tried] or full
    proven = [row for row in full if row.certified]
    kept = sum((row.precision or 0.0) >= TARGET for row in proven)
    harvested = sum(row.harvested for row in full)
    gains = [each.gains[GAIN_OVER_CLINICAL].value for one in detectors for each in one.detectors]
    closed = [each.gap_closed.value for one in detectors for each in one.detectors if each.gap_closed]
    return Headline(
        certified_share=kept / len(proven) if proven else None,
        certified_pairs=len(proven),
        certified_interval=wilson(kept, len(proven)) if proven else None,
        recall_unmarked=float(np.mean([row.recall for row in beside])) if beside else 0.0,
        recall_unmarked_lpg_alone=float(np.mean([row.recall for row in alone])) if alone else None,
        precision=sum(row.right for row in full) / harvested if harvested else None,
        ap_gain_harvest=float(np.mean(gains)) if gains else None,
        gap_closed=float(np.mean(closed)) if closed else None,
    )


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """The 95 % score interval of a share (Wilson 1927)."""
    z = float(norm.ppf((1 + CONFIDENCE) / 2))
    share, more = successes / trials, z**2 / trials
    centre = (share + more / 2) / (1 + more)
    half = z / (1 + more) * float(np.sqrt(share * (1 - share) / trials + more / (4 * trials)))
    return max(0.0, centre - half), min(1.0, centre + half)
