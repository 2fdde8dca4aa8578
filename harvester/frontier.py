"""Operating points for other precision targets, from a finished run's tables: recall against precision.

The models and their scores stay; only the cut is chosen anew. So the frontier shows what the run would have harvested
at each target, certified and by the point estimate alone.
"""

from harvester.certificate.frontier import Frontier, FrontierRow
from harvester.certificate.operating_point import OperatingPoint
from harvester.certificate.selection import Calibration, CalibrationFiles, SelectedPoint, select_point
from harvester.config.settings import OperatingPointSettings, Settings
from harvester.distributed.sweep import in_tasks
from harvester.distributed.tuning import sweep
from harvester.mining.round_view import RoundView
from harvester.records import ScoredTable
from harvester.results.rounds import rounds_viewed
from harvester.results.truth import TruthEvaluator, with_round
from harvester.run.parted_table import PartedTable
from harvester.storage.location import Location
from harvester.store.store import Store


def trace(
    scored: tuple[PartedTable[ScoredTable], ...], store: Store, settings: Settings, targets: list[float], work: Location
) -> Frontier:
    """Sweep the ways to fuse the rounds' scores with Ray Tune, then solve every target with the best one."""
    folder = Location.of(work)
    view = rounds_viewed(scored, store, settings, in_tasks)
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
