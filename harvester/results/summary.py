"""What a run tells: one row a round, and the summary. Scored by scoring.Judge; decides nothing."""

import json
import time
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from harvester.certificate.selection import Solved
from harvester.config.loading import settings_hash
from harvester.labels.ledger import known_before, settled, spread
from harvester.mining import candidates, fusion
from harvester.mining.candidates import Found
from harvester.records import HARVEST, LEDGER, MISSING, PARTLY_MARKED
from harvester.report.build import ReportInputs
from harvester.results.ablations import controls
from harvester.results.harvest_table import harvest_table, lesion_id, write
from harvester.results.truth import Judge, finite, harvested_table, with_round
from harvester.run.folder import Run

SUMMARY_KEYS: Final = (
    "round",
    "threshold",
    "precision_bound",
    "harvested",
    "hard_negatives",
    "precision",
    "recall_unmarked",
    "lpg_sensitivity",
)
MEASURED: Final = ("memory_mib", "steps_per_second")


class History:
    """Rounds of a run so far."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.judge = Judge(run.store, run.settings)
        self.rounds: list[dict[str, Any]] = []
        self.curves: list[dict[str, Any]] = []
        self.origins: list[tuple[Solved, str]] = []
        self.controls = controls(run.settings.operating_point, run.settings.seed)
        self.lesions, self.unproven = harvested_table(), harvested_table()
        self.harvest, self.ledger = HARVEST.empty_table(), LEDGER.empty_table()
        self.missing = MISSING.empty_table()
        self.told: dict[str, Any] = {}

    def add(self, k: int, scored: pa.Table, solved: Solved, found: Found, models: str) -> None:
        """Take in a round. What is measured on proposals is None where none was scored."""
        self.lesions = pa.concat_tables([self.lesions, with_round(found.lesions, k)])
        self.origins.append((solved, models))
        proposed, classified = self._measured(scored, "lpg_score"), self._measured(scored, "lpc_score")
        point = solved.point
        self.rounds.append(
            {
                "round": k,
                "threshold": finite(point.threshold),
                "precision_bound": finite(point.precision_bound),
                "harvested": len(found.lesions),
                "hard_negatives": len(found.sure_negatives) + len(found.possible_negatives),
                **self.judge.harvest(self.lesions),
                "lpg_sensitivity": proposed["sensitivity"],
                "lpg_ap": proposed["ap"],
                "lpc_ap": classified["ap"],
                "refused": point.reason,
                "accepted_vm": point.accepted,
                "recall_vm": point.recall_estimate,
                "choice": solved.choice.as_dict(),
                "possible_negatives_on_lesions": self.judge.on_lesions(found.possible_negatives),
                "point_estimate": self._point_estimate(k, scored, solved),
                "controls": {
                    name: control.add(k, scored, self.run.store, self.judge)
                    for name, control in self.controls.items()
                },
            }
        )
        fused = scored.append_column("score", pa.array(fusion.fuse(scored, solved.choice)))
        kept = fused.filter(pc.is_finite(fused["score"]))
        self._draw(f"round {k}: LPG", proposed)
        self._draw(f"round {k}: LPG + LPC", self._measured(kept, "score"))

    def gain(self) -> float:
        """Share of all harvested lesions that the last round added; 0 where there are none."""
        return self.rounds[-1]["harvested"] / len(self.lesions) if len(self.lesions) else 0.0

    def params(self) -> dict[str, Any]:
        """What the last round chose, for tracking."""
        solved, models = self.origins[-1]
        return {"model_hash": models, "refused": self.rounds[-1]["refused"], **solved.choice.as_dict()}

    def metrics(self) -> dict[str, float]:
        """The last round's numbers, flat, for tracking; unknown ones left out."""
        row = self.rounds[-1]
        flat = {name: value for name, value in row.items() if isinstance(value, (int, float))}
        flat |= {f"lpg_sensitivity_at_{r}": v for r, v in (row["lpg_sensitivity"] or {}).items()}
        for step in self.run.steps:
            if step["round"] == row["round"]:
                flat[f"seconds_{step['step'].replace('-', '_')}"] = step["seconds"]
                flat |= _measured(step)
        return {name: float(value) for name, value in flat.items()}

    def finish(self, ledger: pa.Table, missing: pa.Table) -> None:
        """Write the harvest and the volumes ranked by what they miss (parquet and csv), ledger and summary."""
        folder = self.run.folder
        self.harvest = harvest_table(self.lesions, self.run.rows, self.origins, self.run.id)
        self.ledger, self.missing, self.told = ledger, missing, self.summary()
        write(self.harvest, folder, "harvest")
        write(missing, folder, "missing")
        (folder / "ledger.parquet").write_table(ledger)
        (folder / "summary.json").write_text(json.dumps(self.told, indent=1) + "\n")

    def report_inputs(self) -> ReportInputs:
        """What the report shows, after finish."""
        shown = self.lesions if len(self.lesions) else self.unproven
        rows = shown.select(["volume_id", "round", "tubelet_id"]).to_pylist()
        ids = [(row["volume_id"], lesion_id(row)) for row in rows]
        return ReportInputs(
            folder=self.run.folder,
            store=self.run.store,
            settings=self.run.settings,
            summary=self.told,
            harvest=self.harvest,
            unproven=harvest_table(self.unproven, self.run.rows, self.origins, self.run.id),
            ledger=self.ledger,
            correct=dict(zip(ids, self.judge.correct(shown), strict=True)),
            missed=self.judge.missed(self.lesions),
            missing=self.missing,
            curves=self.curves,
        )

    def summary(self) -> dict[str, Any]:
        """The run in numbers: see README, "What comes out"."""
        settings = self.run.settings
        return {
            "config": settings.name,
            "config_hash": settings_hash(settings),
            "data_hash": self.run.data_hash,
            "run_id": self.run.id,
            "seconds": round(time.monotonic() - self.run.began, 1),
            "rounds": self.rounds,
            "final": self._final(),
            "controls": self.rounds[-1]["controls"],
            "stopped_because": self._reason(),
            "truth": {"unmarked_lesions": len(self.judge.lesions), "volumes": self.judge.volumes},
            "steps": self.run.steps,
        }

    def _measured(self, scored: pa.Table, score: str) -> dict[str, Any]:
        told = self.judge.proposals(scored, score)
        return told if len(scored) else dict.fromkeys(told)

    def _point_estimate(self, k: int, scored: pa.Table, solved: Solved) -> dict[str, Any]:
        """What the plain precision on V_M would have harvested in this round alone."""
        store = self.run.store
        known = spread(known_before(store.marks(), store.reviewed()), store.manifest)
        partly = candidates.split_of(scored, store.manifest, *PARTLY_MARKED)
        free = candidates.candidates(partly, settled(known), self.run.settings.mining)
        found = with_round(fusion.select(free, solved.choice, solved.naive.threshold), k)
        self.unproven = found
        return {
            "threshold": finite(solved.naive.threshold),
            "harvested": len(found),
            "precision_vm": finite(solved.naive.precision_estimate),
            **self.judge.harvest(found),
        }

    def _final(self) -> dict[str, Any]:
        """The last round's row for the whole harvest: certified by the last round that harvested anything."""
        last = {key: self.rounds[-1][key] for key in SUMMARY_KEYS}
        giving = [row for row in self.rounds if row["harvested"]]
        if giving:
            last |= {name: giving[-1][name] for name in ("threshold", "precision_bound")}
        totals = self.judge.harvest(self.lesions)
        return last | {"harvested": len(self.lesions), **totals, "volumes": len(set(self._volumes()))}

    def _volumes(self) -> list[str]:
        ids: list[str] = self.lesions["volume_id"].to_pylist()
        return ids

    def _reason(self) -> str:
        limit = self.run.settings.rounds
        last = self.rounds[-1]
        if last["refused"]:
            return f"round {last['round']} harvested nothing: {last['refused']}"
        if self.gain() <= self.run.settings.min_gain:
            return f"round {last['round']} added {self.gain():.1%}, not more than min_gain"
        return f"the limit of {limit} rounds was reached"

    def _draw(self, name: str, told: dict[str, Any]) -> None:
        if told["froc"] is not None:
            curves = {key: told[key] for key in ("froc", "precision_recall")}
            self.curves.append({"name": name, **curves})


def _measured(step: dict[str, Any]) -> dict[str, float]:
    """A step's slices a second and most memory, named after it."""
    name, counts = step["step"].replace("-", "_"), step["counts"]
    told = {f"{figure}_{name}": counts[figure] for figure in MEASURED if figure in counts}
    if "slices" in counts:
        told[f"slices_per_second_{name}"] = counts["slices"] / step["seconds"]
    return told
