"""Are V_H's patients like V_M's? What a certificate takes for granted, tested without a label before V_H is harvested.

The certificate says of V_H what was seen in V_M, which is right where a patient of V_H could as well have been one of
V_M. Then nothing that is known of every patient can tell the two apart but by chance: how much of a patient the rule
accepts, how its candidates score, how large and how long they are, how the scans were made. Clinical marks
are left out on both sides, and no model has scored a patient that it saw.

Patients are the units of a permutation test (permutation.py), their volumes stay together. How many volumes V_M has of
a patient is a matter of how it was chosen, so what goes by patient is shown and not tested. Two-sided, for either
direction breaks the promise: more is accepted where V_H holds more look-alikes, less where it holds fewer lesions
beside as many errors, and V_M has too much where its clinical marks are not flagged as a clinic would have set them.

What the test does not see: errors of a few rare patients; a threshold chosen on V_M's labels, which favours V_M by next
to nothing (docs/decisions/0014); reconstruction kernels, which a store does not keep; what
was reviewed as false, which is taken out of V_H alone.
"""

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.stats import rankdata

from harvester.certificate.permutation import permuted
from harvester.certificate.selection import SelectedPoint
from harvester.geometry import Array
from harvester.mining.fusion import select
from harvester.mining.round_view import RoundView
from harvester.records import PARTLY_MARKED, ManifestTable, PooledTable, SelectedTable, Split, rows_where
from harvester.run.summary import ComparedAspect, Comparison

MIN_PATIENTS: Final = 5
"""On each side: with fewer no difference is one."""
UNLIKE: Final = 0.05
"""A p below it is warned of."""
MORE_IS_HARDER: Final = ("accepted per volume", "candidates per volume", "score percentile")
UNTESTED: Final = ("accepted per patient", "volumes per patient")


@dataclass(frozen=True, eq=False)
class Sides:
    """The patients of V_M and V_H, and what the rule accepts of them.

    volumes     those that were looked at, by id. One of V_H whose patient has volumes in V_M, too, is none of them
    candidates  all that the fusion keeps, best first; accepted those that reach the threshold
    """

    volumes: ManifestTable
    candidates: SelectedTable
    accepted: SelectedTable

    @classmethod
    def of(cls, view: RoundView, selected: SelectedPoint, left_out: Collection[str]) -> "Sides":
        """What a round accepts before it is harvested; left_out: ids of the volumes that were not scored."""
        volumes = looked_at(view.store.fit_to_prove(view.store.manifest), left_out)
        tubelets = pa.concat_tables([view.calibration, view.harvestable])
        mine = np.isin(_column(tubelets, "volume_id"), _column(volumes, "volume_id"))
        candidates = select(PooledTable(tubelets.filter(pa.array(mine))), selected.choice, 0.0)
        reached = _column(candidates, "score") >= selected.point.threshold
        return cls(volumes, candidates, SelectedTable(candidates.filter(pa.array(reached))))

    @cached_property
    def patients(self) -> Array:
        """(p,) ids, sorted."""
        return np.unique(_column(self.volumes, "patient_id"))

    @cached_property
    def in_vm(self) -> Array:
        """(p,) whether a patient belongs to V_M."""
        return np.isin(self.patients, _column(rows_where(self.volumes, "split", Split.VM), "patient_id"))

    def total(self, table: pa.Table, values: Array | None = None) -> Array:
        """(p,) sum over each patient's rows, of ones where no values are given."""
        code = np.searchsorted(self.patients, _column(table, "patient_id"))
        return np.bincount(code, values, len(self.patients)).astype(float)

    def aspects(self) -> dict[str, tuple[Array, Array]]:
        """Name -> (p,) sums and (p,) weights: an aspect is sum / weight over the patients of a side."""
        volumes, candidates, accepted = self.volumes, self.candidates, self.accepted
        taken, scans, kept = map(self.total, (accepted, volumes, candidates))
        percentile = 100 * (rankdata(_column(candidates, "score")) - 0.5) / max(len(candidates), 1)
        by_tubelet = {name: self.total(accepted, values) for name, values in sizes(accepted).items()}
        by_volume = {name: self.total(volumes, values) for name, values in grids(volumes).items()}
        return {
            "accepted per patient": (taken, np.ones(len(self.patients))),
            "volumes per patient": (scans, np.ones(len(self.patients))),
            "accepted per volume": (taken, scans),
            "candidates per volume": (kept, scans),
            "score percentile": (self.total(candidates, percentile), kept),
            **{f"accepted: {name}": (values, taken) for name, values in by_tubelet.items()},
            **{f"volumes: {name}": (values, scans) for name, values in by_volume.items()},
        }

    def beyond(self) -> dict[str, int]:
        """How many accepted in V_H lie, by what, outside of the range that V_M shows."""
        at = np.searchsorted(_column(self.volumes, "volume_id"), _column(self.accepted, "volume_id"))
        shown = sizes(self.accepted) | {"score": _column(self.accepted, "score")}
        shown |= grids(ManifestTable(self.volumes.take(at)))
        own = self.in_vm[np.searchsorted(self.patients, _column(self.accepted, "patient_id"))]
        scanned = grids(rows_where(self.volumes, "split", Split.VM))
        return {name: _outside(values[~own], scanned.get(name, values[own])) for name, values in shown.items()}


def compare(view: RoundView, selected: SelectedPoint, left_out: Collection[str], seed: int) -> Comparison:
    """V_H against V_M as the rule of a round meets them. No p where a side has fewer than MIN_PATIENTS patients."""
    sides = Sides.of(view, selected, left_out)
    in_vm, aspects = sides.in_vm, sides.aspects()
    tested = [name for name in aspects if name not in UNTESTED]
    p, own = None, {}
    if min(in_vm.sum(), (~in_vm).sum()) >= MIN_PATIENTS:
        sums, weights = (np.stack(each, axis=1) for each in zip(*(aspects[name] for name in tested), strict=True))
        p, corrected = permuted(sums, weights, in_vm, seed)
        own = dict(zip(tested, corrected, strict=True))
    rows = [
        ComparedAspect(aspect=name, vm=_mean(*given, in_vm), vh=_mean(*given, ~in_vm), p=own.get(name))
        for name, given in aspects.items()
    ]
    taken = aspects["accepted per patient"][0]
    return Comparison(
        patients_vm=int(in_vm.sum()),
        patients_vh=int((~in_vm).sum()),
        p=p,
        aspects=tuple(rows),
        most_of_a_patient_vm=int(taken[in_vm].max(initial=0)),
        most_of_a_patient_vh=int(taken[~in_vm].max(initial=0)),
        beyond_vm=sides.beyond(),
    )


def said(comparison: Comparison) -> str:
    """The comparison in one sentence."""
    both = f"{comparison.patients_vm} patients of V_M, {comparison.patients_vh} of V_H"
    if comparison.p is None:
        return f"too few patients to tell whether V_H is like V_M ({both}; at least {MIN_PATIENTS} of each are asked)"
    if comparison.p >= UNLIKE:
        return f"nothing tells V_H from V_M: p = {comparison.p:.2g} ({both})"
    lead = min(comparison.aspects, key=lambda each: 1.0 if each.p is None else each.p)
    harder = lead.aspect in MORE_IS_HARDER and (lead.vh or 0.0) > (lead.vm or 0.0)
    return (
        f"V_H looks {'harder than' if harder else 'unlike'} V_M: p = {comparison.p:.2g} "
        f"({lead.aspect}: {_said(lead.vh)}, in V_M {_said(lead.vm)}); audit it: look at some of what it harvests "
        "before you trust its precision"
    )


def looked_at(manifest: ManifestTable, left_out: Collection[str]) -> ManifestTable:
    """V_M's volumes, and V_H's of other patients; without those that were left out."""
    split, patient = _column(manifest, "split"), _column(manifest, "patient_id")
    complete = split == Split.VM
    ours = complete | (np.isin(split, PARTLY_MARKED) & ~np.isin(patient, patient[complete]))
    kept = ours & ~np.isin(_column(manifest, "volume_id"), list(left_out))
    return ManifestTable(manifest.filter(pa.array(kept)).sort_by("volume_id"))


def sizes(tubelets: SelectedTable) -> dict[str, Array]:
    """How large each tubelet is."""
    slices = pc.list_value_length(tubelets["z"]).to_numpy()
    return {"width in mm": _column(tubelets, "width_mm"), "length in slices": slices}


def grids(volumes: ManifestTable) -> dict[str, Array]:
    """How each volume was scanned."""
    names = {"slice distance in mm": "spacing_z_mm", "pixel in mm": "spacing_x_mm", "slices": "depth"}
    return {said: _column(volumes, name) for said, name in names.items()}


def _outside(values: Array, seen: Array) -> int:
    if not len(seen):
        return len(values)
    return int(np.sum((values < seen.min() - 1e-6) | (values > seen.max() + 1e-6)))


def _mean(sums: Array, weights: Array, side: Array) -> float | None:
    weight = weights[side].sum()
    return float(sums[side].sum() / weight) if weight else None


def _said(value: float | None) -> str:
    return "none" if value is None else f"{value:.3g}"


def _column(table: pa.Table, name: str) -> Array:
    """Texts as texts, which sort and compare quickly."""
    values: Array = table[name].to_numpy()
    return values.astype(str) if values.dtype == object else values
