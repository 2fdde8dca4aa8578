"""What a run tells: one row a round, the harvest as a table, the summary. Scored by scoring.Judge; decides nothing."""

import json
import time
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pcsv
import pyarrow.parquet as pq

from harvester import mining
from harvester.config import settings_hash
from harvester.distributed.tuning import Solved
from harvester.geometry import boxes_to_mm
from harvester.labels.ledger import BOX, spread, with_role
from harvester.mining import Choice, Found, choices
from harvester.records import HARVEST, LEDGER, SCORED
from harvester.report import ReportInputs
from harvester.run import Run, write_text
from harvester.scoring import Judge, control, finite, shuffled, with_round

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


class History:
    """Rounds of a run so far. `partly_marked` names the splits that are harvested."""

    def __init__(self, run: Run, partly_marked: tuple[str, ...]) -> None:
        self.run, self.partly_marked = run, partly_marked
        self.judge = Judge(run.store, run.settings)
        self.rounds: list[dict[str, Any]] = []
        self.curves: list[dict[str, Any]] = []
        self.origins: list[tuple[Solved, str]] = []
        columns = SCORED.append(pa.field("score", pa.float64())).append(pa.field("round", pa.int32()))
        self.lesions = columns.empty_table()
        self.harvest, self.ledger = HARVEST.empty_table(), LEDGER.empty_table()
        self.told: dict[str, Any] = {}

    def add(
        self, k: int, scored: pa.Table, ledger: pa.Table, solved: Solved, found: Found, models: str
    ) -> None:
        """Take in a round; `ledger` already holds what it found."""
        self.lesions = pa.concat_tables([self.lesions, with_round(found.lesions, k)])
        self.origins.append((solved, models))
        proposed = self.judge.proposals(scored, "lpg_score")
        classified = self.judge.proposals(scored, "lpc_score")
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
                "point_estimate": self._point_estimate(k, scored, ledger, solved),
                "controls": self._controls(k, scored, ledger),
            }
        )
        fused = scored.append_column("score", pa.array(mining.fuse(scored, solved.choice)))
        kept = fused.filter(pc.is_finite(fused["score"]))
        self._draw(f"round {k}: LPG", proposed)
        self._draw(f"round {k}: LPG + LPC", self.judge.proposals(kept, "score"))

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
                if "slices" in step["counts"]:
                    flat[f"slices_per_second_{step['step']}"] = step["counts"]["slices"] / step["seconds"]
        return {name: float(value) for name, value in flat.items()}

    def finish(self, ledger: pa.Table) -> None:
        """Write harvest.parquet, harvest.csv, ledger.parquet and summary.json."""
        folder = self.run.folder
        self.harvest, self.ledger, self.told = self.table(), ledger, self.summary()
        pq.write_table(self.harvest, folder / "harvest.parquet")
        pcsv.write_csv(_flat(self.harvest), folder / "harvest.csv")
        pq.write_table(ledger, folder / "ledger.parquet")
        write_text(folder / "summary.json", json.dumps(self.told, indent=1) + "\n")

    def report_inputs(self) -> ReportInputs:
        """What the report shows, after finish."""
        ids = [
            (row["volume_id"], f"harvested-{row['round']}-{row['tubelet_id']}")
            for row in self.lesions.select(["volume_id", "round", "tubelet_id"]).to_pylist()
        ]
        return ReportInputs(
            folder=self.run.folder,
            store=self.run.store,
            settings=self.run.settings,
            summary=self.told,
            harvest=self.harvest,
            ledger=self.ledger,
            correct=dict(zip(ids, self.judge.correct(self.lesions), strict=True)),
            missed=self.judge.missed(self.lesions),
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
            "controls": self._best_controls(),
            "stopped_because": self._reason(),
            "truth": {"unmarked_lesions": len(self.judge.lesions), "volumes": self.judge.volumes},
            "steps": self.run.steps,
        }

    def table(self) -> pa.Table:
        """The harvest with its origin (records.HARVEST), sorted by volume, round and lesion."""
        spacing = {row["volume_id"]: row for row in self.run.rows}
        rows = [self._row(found, spacing[found["volume_id"]]) for found in self.lesions.to_pylist()]
        keys: list[tuple[str, Any]] = [(name, "ascending") for name in ("volume_id", "round", "lesion_id")]
        return pa.Table.from_pylist(rows, HARVEST).sort_by(keys)

    def _row(self, found: dict[str, Any], volume: dict[str, Any]) -> dict[str, Any]:
        solved, models = self.origins[found["round"]]
        boxes = np.array([found[side] for side in BOX]).T
        boxes_mm = boxes_to_mm(boxes, volume["spacing_x_mm"], volume["spacing_y_mm"])
        z_mm = (np.array(found["z"]) + 0.5) * volume["spacing_z_mm"]
        return {
            **{
                name: found[name]
                for name in ("volume_id", "patient_id", "round", "score", "lpg_score", "lpc_score")
            },
            "lesion_id": f"harvested-{found['round']}-{found['tubelet_id']}",
            "threshold": solved.point.threshold,
            "precision_bound": solved.point.precision_bound,
            "z": found["z"],
            **{f"{side}_px": boxes[:, i].tolist() for i, side in enumerate(BOX)},
            "z_mm": z_mm.tolist(),
            **{f"{side}_mm": boxes_mm[:, i].tolist() for i, side in enumerate(BOX)},
            "model_hash": models,
            "run_id": self.run.id,
        }

    def _free(self, scored: pa.Table, ledger: pa.Table) -> tuple[pa.Table, pa.Table, pa.Table]:
        """V_M candidates, V_M lesions and V_H candidates, as if no round had been before."""
        settings, manifest = self.run.settings.mining, self.run.store.manifest
        ledger = spread(ledger, manifest)
        vm = mining.rehearsal_candidates(scored, manifest, ledger, _none_accepted(), settings)
        marks = with_role(ledger, "lesion")
        marks = marks.filter(pc.less(marks["round"], 0))
        vh = mining.candidates(mining.split_of(scored, manifest, *self.partly_marked), marks, settings)
        return vm, mining.rehearsal_lesions(self.run.store.marks(), manifest), vh

    def _controls(self, k: int, scored: pa.Table, ledger: pa.Table) -> dict[str, Any]:
        own = self.run.settings.operating_point
        vm, lesions, vh = self._free(scored, ledger)
        alone = [Choice(1.0, own.lpg_floors[0], slices, 0.0, own.small_mm) for slices in own.min_slices]
        dealt_vm, dealt_vh = (shuffled(table, self.run.settings.seed + k) for table in (vm, vh))
        mixed = [choice for choice in choices(own) if choice.lpg_weight < 1]
        return {
            "lpg_alone": control(vm, lesions, vh, alone, self.judge),
            "lpc_shuffled": control(dealt_vm, lesions, dealt_vh, mixed, self.judge),
        }

    def _point_estimate(self, k: int, scored: pa.Table, ledger: pa.Table, solved: Solved) -> dict[str, Any]:
        """What the plain precision on V_M would have harvested in this round alone."""
        _, _, vh = self._free(scored, ledger)
        found = with_round(mining.select(vh, solved.choice, solved.naive.threshold), k)
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

    def _best_controls(self) -> dict[str, Any]:
        """Each control from the round in which it harvested the most."""
        return {
            name: max((row["controls"][name] for row in self.rounds), key=lambda told: told["harvested"])
            for name in ("lpg_alone", "lpc_shuffled")
        }

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


def _none_accepted() -> pa.Table:
    columns = SCORED.append(pa.field("score", pa.float64())).append(pa.field("correct", pa.bool_()))
    return columns.empty_table()


def _flat(table: pa.Table) -> pa.Table:
    """List columns as text, blanks between, for CSV."""
    columns = {
        name: pa.array(
            [" ".join(f"{value:g}" for value in row) for row in table[name].to_pylist()], pa.string()
        )
        if pa.types.is_list(table.schema.field(name).type)
        else table[name]
        for name in table.column_names
    }
    return pa.table(columns)
