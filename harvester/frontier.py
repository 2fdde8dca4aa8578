"""Operating points for other precision targets, from a finished run's tables: recall against precision.

The models and their scores stay; only the cut is chosen anew. So the frontier shows what the run would have harvested
at each target, certified and by the point estimate alone.
"""

from harvester.certificate.frontier import Frontier, FrontierRow
from harvester.certificate.operating_point import OperatingPoint
from harvester.certificate.selection import Calibration, CalibrationFiles, SelectedPoint, select_point
from harvester.config.settings import OperatingPointSettings, Settings
from harvester.distributed.tuning import sweep
from harvester.errors import StoreError
from harvester.mining.round_view import RoundView, StoreTables
from harvester.records import ScoredTable, checked
from harvester.results.truth import TruthEvaluator, with_round
from harvester.run.journal import round_folder, rounds
from harvester.run.step_notes import NOTE, ended, read_note
from harvester.storage.location import Location
from harvester.store.store import Store


def last_round(run: Location) -> int:
    """The last round whose tubelets are scored. Raises StoreError where there is none."""
    scored = [k for k in rounds(Location.of(run)) if _scored(run, k)]
    if not scored:
        raise StoreError(f"{run}: no scored tubelets (round-*/scored-*.parquet); give the folder of a finished run")
    return scored[-1]


def scored_table(run: Location, round_index: int) -> ScoredTable:
    """The scored tubelets of a round; of several (settings were changed) those made last."""
    notes = _scored(run, round_index)
    if not notes:
        raise StoreError(f"{run}: round {round_index} has no scored tubelets; the last is {last_round(run)}")
    latest = max(notes, key=lambda note: ended(read_note(note) or {}))
    return checked(ScoredTable, (latest.parent / f"{latest.name.removesuffix(NOTE)}.parquet").read_table())


def _scored(run: Location, round_index: int) -> list[Location]:
    folder = round_folder(Location.of(run), round_index)
    named = [folder / name for name in folder.files() if name.startswith("scored-") and name.endswith(NOTE)]
    return [note for note in named if read_note(note)]


def scored_tables(run: Location, last: int) -> tuple[ScoredTable, ...]:
    """The scored tubelets of all rounds up to the last one asked for."""
    return tuple(scored_table(run, k) for k in range(last + 1))


def trace(
    scored: tuple[ScoredTable, ...], store: Store, settings: Settings, targets: list[float], work: Location
) -> Frontier:
    """Sweep the ways to fuse the rounds' scores with Ray Tune, then solve every target with the best one."""
    folder = Location.of(work)
    view = RoundView(scored, StoreTables.of(store, settings), settings)
    calibration = Calibration.of(view)
    trials = sweep(_files(calibration, folder), settings, folder / "tune")
    truth = TruthEvaluator(store, settings)
    rows = []
    for target in sorted(targets):
        own = settings.operating_point.model_copy(update={"target_precision": target})
        selected = select_point(calibration, trials[0].choice, own, len(trials))
        for way, point in (("certified", selected.point), ("point estimate", selected.naive)):
            rows.append(_row(target, way, point, selected, view, truth))
    return Frontier(len(scored) - 1, trials, rows)


def narrowed(settings: Settings, frontier: Frontier, target: float) -> Settings:
    """The run's settings with the target, and the one choice that the sweep found best."""
    choice = frontier.trials[0].choice
    own: OperatingPointSettings = settings.operating_point.model_copy(
        update={
            "target_precision": target,
            "lpg_weights": (choice.lpg_weight,),
            "lpg_floors": (choice.lpg_floor,),
            "min_slices": (choice.min_slices,),
        }
    )
    return settings.model_copy(update={"operating_point": own})


def _files(calibration: Calibration, folder: Location) -> CalibrationFiles:
    files = [folder / f"{name}.parquet" for name in ("candidates", "targets", "clinical_finds", "rivals")]
    for file, table in zip(files, calibration.tables, strict=True):
        file.write_table(table)
    return CalibrationFiles(tuple(files))


def _row(
    target: float, way: str, point: OperatingPoint, selected: SelectedPoint, view: RoundView, truth: TruthEvaluator
) -> FrontierRow:
    taken = view.harvested if way == "certified" else view.reaching
    found = with_round(taken(selected.choice, point.threshold), 0)
    measured = truth.harvest(found)
    return FrontierRow(
        target=target,
        way=way,
        threshold=point.threshold if point.threshold < float("inf") else None,
        bound=point.precision_bound,
        accepted_vm=point.accepted,
        precision_vm=point.precision_estimate,
        recall_vm=point.recall_estimate,
        harvested=len(found),
        precision=measured.precision,
        recall_unmarked=measured.recall_unmarked,
        reason=point.reason,
    )
