"""The rounds of a run as they are measured, and what is left of them: the summary, the harvest, the ledger.

Decides nothing. What the hidden truth says comes from truth.TruthEvaluator.
"""

import logging
import math
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from harvester.certificate.exchangeability import UNLIKE, compare, said
from harvester.certificate.operating_point import OperatingPoint
from harvester.certificate.selection import LEFT_TO_AUDIT, SelectedPoint
from harvester.columns import count_sorted
from harvester.config.fingerprint import settings_hash
from harvester.labels.ledger import extend, from_tubelets
from harvester.mining.bank import share_new
from harvester.mining.candidates import Found
from harvester.mining.fusion import fuse
from harvester.mining.round_view import SAMPLE_VOLUMES, RoundView
from harvester.records import (
    HarvestTable,
    LedgerTable,
    MissingTable,
    Role,
    ScoredTable,
    SelectedTable,
    Source,
    each_row,
    empty,
    rows_where,
    values,
)
from harvester.report.build import MISSING_SHOWN, ReportInputs
from harvester.results.ablations import ablations
from harvester.results.audit import cut_list, score_cuts
from harvester.results.audit_outcome import Audited
from harvester.results.harvest_table import harvest_table, lesion_id, write
from harvester.results.truth import ProposalScores, TruthEvaluator, finite, harvested_table, with_round
from harvester.run.folder import Run
from harvester.run.summary import (
    AuditResult,
    Comparison,
    FinalResult,
    LeftForReview,
    PointEstimate,
    RoundResult,
    StepResult,
    Summary,
    Truth,
)
from harvester.run.table_hash import table_hash
from harvester.storage.table_parts import write_table
from harvester.store import looks

logger = logging.getLogger(__name__)

LOOKED_AT: Final = ["volume_id", "tubelet_id", "lpg_score", "lpc_score"]
"""What names a look at V_M, with the run's settings."""
REFUSALS: Final = 2
"""Rounds in a row that certify nothing: the first one's hard negatives may help the second."""
NOT_AUDITED: Final = [Source.HARVESTED.value, Source.LIKELY.value, Source.LEFT_FOR_REVIEW.value]
"""What a run says of V_H's lesions by itself: an audit's list takes its place."""
MEASURED: Final = ("memory_mib", "steps_per_second")


class History:
    """Rounds of a run so far.

    lesions   the list of the last round that was scored (with their round); unproven, where that is empty, what the
              point estimate alone would have taken
    leaders   V_H's best candidates of that round; gain the share of them that were not among those before
    view      the last round that was scored, None before the first
    looks     how many other runs looked at this V_M before; None where unknown
    left_out  why volumes were left out of the last round that scored any, by id; None: nothing was scored
    summary   None before `finish`
    audit     what people proved by looking, where the harvest rests on that
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.truth = TruthEvaluator(run.store, run.settings)
        self.rounds: list[RoundResult] = []
        self.curves: list[dict[str, Any]] = []
        self.origins: list[tuple[SelectedPoint, str]] = []
        self.ablations = ablations(run.settings.operating_point, run.settings.seed)
        self.waiting = harvested_table()  # for an audit to prove
        self.lesions, self.unproven, self.leaders = harvested_table(), harvested_table(), empty(SelectedTable)
        self.gain = 0.0
        self.view: RoundView | None = None
        self.harvest, self.missing = empty(HarvestTable), empty(MissingTable)
        self.negatives = empty(LedgerTable)
        self.left_out: Mapping[str, str] | None = None
        self.looks: int | None = None
        self.comparisons: dict[int, Comparison] = {}
        self.summary: Summary | None = None
        self.audit: AuditResult | None = None

    def look(self, k: int, view: RoundView, selected: SelectedPoint) -> None:
        """Before a round is harvested: which volumes it leaves out, whether V_H is like V_M, who looked before.

        The log tells. A run that is only looked at is no look.
        """
        first, self.left_out = not self.comparisons, self.run.left_out(k)
        self.comparisons[k] = told = compare(view, selected, self.left_out, self.run.settings.seed + k)
        if view.sweep is not None:
            logger.info("round %d: V_H is large: what is told of it is told of %d volumes", k, SAMPLE_VOLUMES)
        if self.run.steps_in.read_only:
            return
        unlike = told.p is not None and told.p < UNLIKE
        logger.log(logging.WARNING if unlike else logging.INFO, "round %d: %s", k, said(told))
        if first:
            self.looks = looks.look(self.run.store, self.run.id, table_hash(view.calibration.select(LOOKED_AT)))
            logger.info(looks.said(self.looks))

    def append(self, k: int, view: RoundView, selected: SelectedPoint, found: Found, models: str) -> None:
        """Take in a round, and say what of it is left for review."""
        logger.info("round %d: %s", k, told(selected.point, len(found.lesions)))
        if left := found.cut.told():
            logger.info("round %d: %s", k, left)
        self.origins.append((selected, models))
        if view.rounds:
            self._replace(k, view, selected, found)
        fused = view.tubelets.append_column("score", pa.array(fuse(view.tubelets, selected.choice)))
        kept = ScoredTable(fused.filter(pc.is_finite(fused["score"])))
        proposed = self._proposals(view.scored, "lpg_score")
        self.rounds.append(self.measure(k, view, selected, found, proposed))
        self._draw(f"round {k}: LPG", proposed)
        self._draw(f"round {k}: LPG + LPC", self._proposals(kept, "score"))
        view.reached.clear()  # as large as the harvest, and asked for no more
        pa.default_memory_pool().release_unused()

    def _replace(self, k: int, view: RoundView, selected: SelectedPoint, found: Found) -> None:
        """A scored round's lists in place of those before."""
        self.view = view
        self.lesions = with_round(found.lesions, k)
        self.unproven = harvested_table() if len(self.lesions) else with_round(_estimated(view, selected), k)
        if selected.point.reason == LEFT_TO_AUDIT:
            self.waiting = with_round(
                cut_list(view, selected.choice, score_cuts(view.accepted(selected.choice, 0.0)))[0], k
            )
        self.ablations = {name: each.after(k, view, selected.choice) for name, each in self.ablations.items()}
        self.gain, self.leaders = share_new(view.leaders, self.leaders), view.leaders

    def measure(
        self, k: int, view: RoundView, selected: SelectedPoint, found: Found, proposed: ProposalScores
    ) -> RoundResult:
        """The round in numbers: None where there was nothing to measure it on."""
        point, plain = selected.point, selected.naive
        estimated = with_round(_estimated(view, selected), k)
        return RoundResult(
            round=k,
            threshold=finite(point.threshold),
            precision_bound=finite(point.precision_bound) if len(view.scored) else None,
            harvested=len(found.lesions),
            hard_negatives=len(found.sure_negatives) + len(found.possible_negatives),
            left_for_review=LeftForReview(
                tubelets=len(found.cut.left),
                patients=found.cut.patients_left,
                most_per_patient=found.cut.limits.most,
                untried_folds=found.cut.untried,
            ),
            gain=self.gain if view.rounds else None,
            **self.truth.harvest(with_round(found.lesions, k)).model_dump(),
            lpg_sensitivity=proposed.sensitivity,
            lpg_ap=proposed.ap,
            lpc_ap=self._proposals(view.scored, "lpc_score").ap,
            refused=point.reason,
            accepted_vm=point.accepted,
            recall_vm=point.recall_estimate if len(view.targets) else None,
            choice=selected.choice.told(),
            possible_negatives_on_lesions=self.truth.on_lesions(found.possible_negatives),
            point_estimate=PointEstimate(
                threshold=finite(plain.threshold),
                harvested=len(estimated),
                precision_vm=plain.precision_estimate if plain.accepted else None,
                **self.truth.harvest(estimated).model_dump(),
            ),
            comparison=self.comparisons.get(k),
            left_out=self._left_out() if k in self.comparisons else {},
            controls={name: each.result(self.truth) for name, each in self.ablations.items()},
        )

    def is_enough(self) -> bool:
        """Whether no further round is allowed or worth it: the last one changed next to nothing, or REFUSALS proved
        nothing.

        What V_M shows of a round has no say in whether it is the last one, unless nothing is claimed then: else rounds
        would go on until one is certified, which some would be by chance (docs/decisions/0006).
        """
        refused = [bool(row.refused) for row in self.rounds[-REFUSALS:]]
        last = len(self.rounds) == self.run.settings.rounds
        return last or self._is_settled() or refused == [True] * REFUSALS

    def _is_settled(self) -> bool:
        return len(self.rounds) > 1 and self.gain <= self.run.settings.min_gain

    def params(self) -> dict[str, Any]:
        """What the last round chose, for tracking."""
        selected, models = self.origins[-1]
        return {"model_hash": models, "refused": self.rounds[-1].refused, **selected.choice.told()}

    def metrics(self) -> dict[str, float]:
        """The last round's numbers, flat, for tracking; unknown ones left out."""
        last = self.rounds[-1]
        flat = {name: value for name, value in last.model_dump().items() if isinstance(value, (int, float))}
        flat |= {f"lpg_sensitivity_at_{r}": value for r, value in (last.lpg_sensitivity or {}).items()}
        for step in self.run.steps:
            if step["round"] == last.round:
                flat |= _measured(step)
        return {name: float(value) for name, value in flat.items()}

    def so_far(self, ledger: LedgerTable) -> ReportInputs:
        """What the report shows of the rounds so far."""
        unended = self._settle(ledger, empty(MissingTable)).model_copy(update={"stopped_because": ""})
        return replace(self.report_inputs(), summary=unended)

    def _settle(self, ledger: LedgerTable, missing: MissingTable) -> Summary:
        self.harvest = self._harvest_table(self.lesions)
        # Taken: a slice would keep all of it in memory.
        self.missing = MissingTable(missing.take(np.arange(min(MISSING_SHOWN, len(missing)))))
        self.negatives = rows_where(ledger, "source", Source.HARD_NEGATIVE_VM)
        self.summary = self.summarize()
        return self.summary

    def finish(self, ledger: LedgerTable, missing: MissingTable, audited: Audited | None = None) -> Summary:
        """Write the harvest and the volumes ranked by what they miss (parquet and csv), ledger and summary.

        What an audit certified takes the place of what V_M did.
        """
        folder = self.run.folder
        if audited:
            ledger = self._take(audited, ledger)
        pa.default_memory_pool().release_unused()
        summary = self._settle(ledger, missing)
        write(self.harvest, folder, "harvest")
        write(missing, folder, "missing")
        write_table(ledger, folder / "ledger.parquet")
        summary.write(folder)
        return summary

    def _take(self, audited: Audited, ledger: LedgerTable) -> LedgerTable:
        """The audit's list as the harvest, and the ledger with it; what readers rejected is a hard negative."""
        self.audit, k = audited.result, audited.round
        self.lesions, self.unproven, self.waiting = audited.lesions, harvested_table(), harvested_table()
        selected, models = self.origins[k]
        lowest = min(values(audited.lesions["score"]), default=math.inf)
        point = replace(selected.point, threshold=lowest, precision_bound=audited.result.bound, reason="")
        self.origins[k] = replace(selected, point=point), models
        others = ledger.filter(pc.invert(pc.is_in(ledger["source"], pa.array(NOT_AUDITED))))
        origin = (k, models, self.run.id)
        return extend(
            LedgerTable(others),
            from_tubelets(audited.lesions, Role.LESION, Source.HARVESTED, *origin),
            from_tubelets(audited.rejected, Role.HARD_NEGATIVE, Source.REVIEWED, *origin),
        )

    def report_inputs(self) -> ReportInputs:
        """What the report shows, after `finish`."""
        assert self.summary is not None  # noqa: S101  a report is made of a finished run
        pa.default_memory_pool().release_unused()  # the ledger, too, is in nobody's hands any more
        waiting = self.waiting if len(self.waiting) else self.unproven
        shown = self.lesions if len(self.lesions) else self.unproven
        if not self.truth.known:
            shown = SelectedTable(shown.slice(0, 0))  # nothing can be said of any
        ids = [(row["volume_id"], lesion_id(row)) for row in each_row(shown, "volume_id", "round", "tubelet_id")]
        return ReportInputs(
            folder=self.run.folder,
            store=self.run.store,
            settings=self.run.settings,
            summary=self.summary,
            harvest=self.harvest,
            unproven=self._harvest_table(harvested_table() if len(self.lesions) else waiting),
            negatives=self.negatives,
            correct=dict(zip(ids, self.truth.correct(shown), strict=True)),
            missed=self.truth.missed(self.lesions),
            missing=self.missing,
            curves=self.curves,
        )

    def summarize(self) -> Summary:
        """The run in numbers: see README, "What comes out"."""
        settings = self.run.settings
        return Summary(
            config=settings.name,
            config_hash=settings_hash(settings),
            data_hash=self.run.data_hash,
            run_id=self.run.id,
            seconds=round(time.monotonic() - self.run.began, 1),
            rounds=tuple(self.rounds),
            final=self._final(),
            controls=self.rounds[-1].controls,
            earlier_looks=self.looks,
            stopped_because=self._reason(),
            audit=self.audit,
            truth=Truth(unmarked_lesions=len(self.truth.lesions), volumes=self.truth.volumes),
            steps=tuple(map(StepResult.model_validate, self.run.steps)),
        )

    def _final(self) -> FinalResult:
        last = next((row for row in reversed(self.rounds) if row.gain is not None), self.rounds[-1])
        promised = self.audit.target if self.audit else self.run.settings.operating_point.target_precision
        return FinalResult(
            round=last.round,
            threshold=finite(self.origins[last.round][0].point.threshold) if self.audit else last.threshold,
            precision_bound=self.audit.bound if self.audit else last.precision_bound,
            harvested=len(self.lesions),
            hard_negatives=last.hard_negatives,
            **self.truth.harvest(self.lesions).model_dump(),
            lpg_sensitivity=last.lpg_sensitivity,
            volumes=count_sorted(self.harvest["volume_id"]),
            certified_precision=promised if len(self.lesions) else None,
        )

    def _reason(self) -> str:
        limit, last = self.run.settings.rounds, self.rounds[-1]
        if last.refused:
            return f"round {last.round} harvested nothing: {last.refused}"
        if self._is_settled():
            return f"{self.gain:.1%} of the best candidates of round {last.round} were new, not more than min_gain"
        return f"the limit of {limit} rounds was reached"

    def _harvest_table(self, lesions: SelectedTable) -> HarvestTable:
        return harvest_table(lesions, self.run.store.manifest, self.origins, self.run.id)

    def _proposals(self, scored: ScoredTable, score: str) -> ProposalScores:
        if not len(scored):
            return ProposalScores()
        among = self.view.store.manifest if self.view else None
        return self.truth.proposals(scored, score, among)

    def _left_out(self) -> dict[str, int]:
        """How many volumes of each split."""
        return dict(Counter(values(rows_where(self.run.mined, "volume_id", *(self.left_out or ()))["split"])))

    def _draw(self, name: str, scores: ProposalScores) -> None:
        if scores.froc is not None:
            curves = {"froc": scores.froc, "precision_recall": scores.precision_recall}
            self.curves.append({"name": name, **curves})


def _estimated(view: RoundView, selected: SelectedPoint) -> SelectedTable:
    """What the point estimate alone would take of V_H."""
    return view.reaching(selected.choice, selected.naive.threshold)


def told(point: OperatingPoint, harvested: int) -> str:
    """What a round certified."""
    if point.reason:
        return f"nothing is harvested: {point.reason}"
    bound = f"the bound of their precision is {point.precision_bound:.3f}"
    return f"{harvested:,} lesions reach the threshold of {point.threshold:.4f}; {bound}"


def _measured(step: Mapping[str, Any]) -> dict[str, float]:
    """A step's seconds, slices per second and what else was measured, named after it."""
    figures = {"seconds": step["seconds"]} | {name: step["counts"][name] for name in MEASURED if name in step["counts"]}
    if "slices" in step["counts"]:
        figures["slices_per_second"] = step["counts"]["slices"] / step["seconds"]
    return {f"{figure}_{step['step'].replace('-', '_')}": value for figure, value in figures.items()}
