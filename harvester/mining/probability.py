"""From a score to the probability of being a lesion, by V_M, where every lesion is known."""

import numpy as np
from scipy.optimize import isotonic_regression

from harvester.geometry import Array
from harvester.records import AcceptedTable, SelectedTable


def probabilities(calibration: AcceptedTable, tubelets: SelectedTable) -> Array:
    """(n,) probability that each tubelet is a lesion, from V_M's scores; zeros if V_M has none to learn from.

    By isotonic regression over tubelets that no model saw the patient of: a higher score is never less probable.
    """
    if not len(calibration):
        return np.zeros(len(tubelets))
    correct = calibration["correct"].to_numpy(zero_copy_only=False)
    known, place, counts = np.unique(calibration["score"].to_numpy(), return_inverse=True, return_counts=True)
    share = np.bincount(place, correct) / counts
    fitted = isotonic_regression(share, weights=counts).x
    at = np.searchsorted(known, tubelets["score"].to_numpy(), side="right") - 1
    return np.where(at >= 0, fitted[np.maximum(at, 0)], 0.0)
