"""A whole summary.json of one round, for tests that read one."""

from typing import Any

TRUTH = {"test_harvested": 2, "test_correct": 1, "precision": 0.5, "recall_unmarked": 0.25}


def summary_tree(run_id: str = "cafe", harvested: int = 2) -> dict[str, Any]:
    """As json.loads gives it."""
    cut = {"threshold": 0.8, "harvested": harvested}
    row = {"round": 0, **cut, **TRUTH, "precision_bound": 0.912, "hard_negatives": 3}
    row |= {"lpg_sensitivity": {"1": 0.1, "4": 0.2, "16": 0.3}}
    controls = {"lpg_alone": {**cut, **TRUTH, "harvested": 0, "precision_bound": None, "reason": "not reached"}}
    measured = {
        "gain": 1.0,
        "lpg_ap": 0.3,
        "lpc_ap": None,
        "left_for_review": {"tubelets": 1, "patients": 1, "most_per_patient": 2, "untried_folds": []},
        "refused": "",
        "accepted_vm": 8,
        "recall_vm": 0.25,
        "choice": {"lpg_weight": 0.5, "lpg_floor": 0.1, "min_slices": 1},
        "possible_negatives_on_lesions": None,
        "left_out": {"vm": 1, "vh": 2},
        "comparison": {
            "patients_vm": 6,
            "patients_vh": 9,
            "p": 0.004,
            "aspects": [{"aspect": "accepted per volume", "vm": 1.5, "vh": 4.0, "p": 0.004}],
            "most_of_a_patient_vm": 3,
            "most_of_a_patient_vh": 41,
            "beyond_vm": {"width in mm": 5, "slices": 0},
        },
        "point_estimate": {**cut, **TRUTH, "precision_vm": 0.5},
        "controls": controls,
    }
    return {
        "format": 1,
        "config": "tiny",
        "config_hash": "c0ffee",
        "data_hash": "da7a",
        "run_id": run_id,
        "seconds": 65.0,
        "rounds": [row | measured],
        "final": row | {"volumes": 2, "certified_precision": 0.9},
        "controls": controls,
        "earlier_looks": 2,
        "stopped_because": "the limit of 1 rounds was reached",
        "audit": None,
        "truth": {"unmarked_lesions": 4, "volumes": 2},
        "steps": [
            {"round": 0, "step": "tubelets", "seconds": 2.0, "counts": {"slices": 27, "memory_mib": 1.5}, "key": "5c0"}
        ],
    }
