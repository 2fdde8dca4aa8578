"""What V_M has shown no like of is left for review: neither harvested nor taught as no lesion."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from harvester.config.settings import Settings
from harvester.harvest import mine, record
from harvester.labels.ledger import exclusion_labels, extend, from_tubelets
from harvester.mining.candidates import candidates
from harvester.mining.fusion import EVEN
from harvester.mining.limits import Limits, cut
from harvester.mining.round_view import RoundView, StoreTables
from harvester.proposals.labels import volume_labels
from harvester.records import REVIEWED, Mark, rows_where
from harvester.run.folder import Artifact
from harvester.store.slab import GridFrame
from tests.builders import manifest, mark, marks, scored, selected, tubelet

PLAIN = EVEN
VOLUMES = {f"m{i}": "vm" for i in range(4)} | {f"h{i}": "vh" for i in range(6)}
THRESHOLD = 0.5


def found(volume: str, place: int, lpc: float = 0.9, lpg: float = 0.9) -> dict[str, Any]:
    """The place-th tubelet of a volume; no two of them touch."""
    x, y = 12 * (place % 10), 12 * (place // 10)
    return tubelet(volume, (x, y, x + 7, y + 7), lpg_score=lpg, lpc_score=lpc)


def view(rows: list[dict[str, Any]], *lesions: Mark) -> RoundView:
    tables = StoreTables(manifest(VOLUMES), marks(*lesions), REVIEWED.empty_table())
    return RoundView((scored(*rows),), tables, Settings())


def by_volume(table: pa.Table) -> dict[str, list[int]]:
    rows = table.to_pylist()
    return {
        name: [row["tubelet_id"] for row in rows if row["volume_id"] == name] for name in {r["volume_id"] for r in rows}
    }


def everywhere(count: int) -> list[dict[str, Any]]:
    """So many tubelets of every patient of V_M."""
    return [found(f"m{i}", place) for i in range(4) for place in range(count)]


@pytest.mark.parametrize(("most", "errors"), [(1, 7), (2, 40), (3, 2)])
def test_of_one_patient_no_more_is_harvested_than_the_fullest_of_v_m_gave(most: int, errors: int) -> None:
    odd = [found("h0", place, lpc=0.9 - 0.01 * place) for place in range(errors)]
    rows = everywhere(1) + [found("m2", place) for place in range(1, most)] + odd + [found("h1", 0)]
    one = view(rows).cut(PLAIN, THRESHOLD)
    first = len(rows) - errors - 1
    assert one.limits.most == most
    assert by_volume(one.lesions)["h0"] == list(range(first, first + min(most, errors))), "the best first"
    assert len(one.lesions) + len(one.left) == errors + 1
    assert one.patients_left == (errors > most)
    assert one.told() == (
        f"{errors - most} of the {errors + 1} tubelets that reach the threshold are left for review (of 1 patients): "
        f"what exceeds {most} of one patient, the most that one of V_M gave"
    ) * (errors > most)


def test_a_fold_in_which_v_m_accepts_nothing_is_not_harvested() -> None:
    rows = everywhere(2) + [found(f"h{i}", 0) for i in range(6)]
    tried = view(rows)
    fold = tried.folds["p-m0"]
    quiet = [
        row | {"lpc_score": 0.01} if tried.folds[row["patient_id"]] == fold and row["volume_id"][0] == "m" else row
        for row in rows
    ]
    one = view(quiet).cut(PLAIN, THRESHOLD)
    assert one.untried == (fold,)
    assert {tried.folds[who] for who in one.lesions["patient_id"].to_pylist()} == {1 - fold}
    assert f"and fold {fold}, where V_M accepted none" in one.told()
    assert tried.cut(PLAIN, THRESHOLD).untried == ()
    nothing = view(rows).cut(PLAIN, np.inf)
    assert (len(nothing.lesions), nothing.untried, nothing.told()) == (0, (), "")


def test_what_is_left_is_no_hard_negative_and_can_be_found_later(tmp_path: Path) -> None:
    # The generator is sure, the classifier refuses: what possible hard negatives look like.
    odd = [found("h0", place, lpc=0.04, lpg=0.99) for place in range(5)]
    one = view([*everywhere(2), *odd])
    point = at(THRESHOLD, np.inf)
    mined = mine(one, point)
    assert (len(mined.lesions), len(mined.cut.left), len(mined.possible_negatives)) == (2, 3, 0)
    (tmp_path / "fold-0.safetensors").write_bytes(b"w")
    model: Any = Artifact(tmp_path, "k", 0.0)  # type: ignore[arg-type]
    run: Any = SimpleNamespace(id="now")
    ledger = record(run, 0, one.store.ledger, mined, (model, model))
    likely = {row["source"]: row["probability"] for row in ledger.to_pylist()}
    assert likely["harvested"] == 0.0, "none of V_M's is right"
    assert likely["left_for_review"] is None
    left = rows_where(ledger, "source", "left_for_review")
    assert (set(left["role"].to_pylist()), len(left)) == ({"ignored"}, 3)
    teaches = volume_labels(rows_where(ledger, "volume_id", "h0").to_pylist(), GRID, complete=False)
    assert (len(teaches.lesions.z), len(teaches.negatives.z), len(teaches.ignored.z)) == (6, 0, 9)
    assert len(replace(one, rounds=(one.scored, one.scored)).harvestable) == 5, "what was harvested is selected anew"
    # The next round's ledger says what that round took and left, and no more.
    assert len(record(run, 1, ledger, mine(view([]), point), (model, model))) == 0


def at(threshold: float, estimated: float) -> Any:
    """A selected point: where the certificate cuts, and where the point estimate would."""
    cuts = {"point": SimpleNamespace(threshold=threshold), "naive": SimpleNamespace(threshold=estimated)}
    return SimpleNamespace(choice=PLAIN, **cuts)


@pytest.mark.parametrize(("threshold", "harvested", "likely"), [(np.inf, 0, 3), (0.8, 2, 1), (THRESHOLD, 3, 0)])
def test_what_the_point_estimate_takes_is_learned_from_and_not_harvested(
    tmp_path: Path, threshold: float, harvested: int, likely: int
) -> None:
    right = [found(f"m{i}", 0, lpc=0.9) for i in range(4)]
    lesions = [mark(f"m{i}", (0, 0, 7, 7), z=5, clinical=False) for i in range(4)]
    rows = [found("h0", 0), found("h1", 0), found("h2", 0, lpc=0.5, lpg=0.7), found("h3", 0, lpc=0.04, lpg=0.5)]
    one = view([*right, *rows], *lesions)
    mined = mine(one, at(threshold, THRESHOLD))
    assert (len(mined.lesions), len(mined.likely), len(mined.likely_probabilities)) == (harvested, likely, likely)
    assert len(mined.possible_negatives) == 1, "what may be a lesion is no hard negative"
    run: Any = SimpleNamespace(id="now")
    (tmp_path / "fold-0.safetensors").write_bytes(b"w")
    model: Any = Artifact(tmp_path, "k", 0.0)  # type: ignore[arg-type]
    ledger = record(run, 0, one.store.ledger, mined, (model, model))
    taught = rows_where(ledger, "source", "likely")
    assert (len(taught), set(taught["role"].to_pylist()) - {"lesion"}) == (likely, set())
    chances = sorted(taught["probability"].to_pylist(), reverse=True)
    assert chances == [1.0, 1.0, 0.0][harvested:][:likely], "V_M shows nothing of the last one's score"
    off = one.settings.mining.model_copy(update={"learn_likely": False})
    without = replace(one, settings=one.settings.model_copy(update={"mining": off}))
    assert len(mine(without, at(threshold, THRESHOLD)).likely) == 0


GRID = GridFrame("h0", (12, 128, 128), (4.0, 1.0, 1.0), (4.0, 1.0, 1.0))


def test_nothing_reaches_and_v_m_shows_nothing() -> None:
    none = cut(selected(), Limits(0, frozenset()), {})
    assert (len(none.lesions), len(none.left), none.untried) == (0, 0, ())
    table = selected(found("h0", 0))
    assert len(cut(table, Limits(0, frozenset()), {"p-h0": 0}).lesions) == 0
    assert (
        len(
            candidates(
                table,
                exclusion_labels(extend(from_tubelets(table, "ignored", "left_for_review", 0, "", ""))),
                Settings().mining,
            )
        )
        == 1
    )


def test_patients_that_all_models_have_seen_prove_nothing() -> None:
    lesions = marks(*(mark(name, (0, 0, 7, 7), clinical=False, mark_id=f"l-{name}") for name in ("m0", "m1")))
    rows = everywhere(1)
    known = StoreTables(manifest(VOLUMES), lesions, REVIEWED.empty_table())
    seen = replace(known, in_sample=frozenset({"p-m1", "p-m3"}))
    one, other = (RoundView((scored(*rows),), each, Settings()) for each in (known, seen))
    assert set(one.calibration["volume_id"].to_pylist()) == {"m0", "m1", "m2", "m3"}
    assert set(other.calibration["volume_id"].to_pylist()) == {"m0", "m2"}
    assert other.targets["mark_id"].to_pylist() == ["l-m0"]
    assert len(other.completely_marked) == len(rows), "they teach all the same"


def test_folds_that_are_given_are_kept() -> None:
    given = {f"p-{name}": 1 for name in VOLUMES}
    tables = replace(StoreTables(manifest(VOLUMES), marks(), REVIEWED.empty_table()), given_folds=given)
    assert RoundView((scored(found("m0", 0)),), tables, Settings()).folds == given
