"""Weights are read and kept only where every number in them is finite: a network of NaN finds nothing, and says so to
nobody.
"""

from collections.abc import Mapping
from typing import Final

import torch
from safetensors.torch import load
from torch import Tensor

from harvester.errors import NotFiniteError
from harvester.storage.location import Location

ADVICE: Final = (
    "lower the learning rate that its model was fitted with (generator.learning_rate or classifier.learning_rate, from "
    "round 1 on their finetune_learning_rate): then it is fitted anew"
)


def not_finite(state: Mapping[str, Tensor]) -> str:
    """The name of the first tensor that holds NaN or infinity; '' where all are finite."""
    # Asked of all at once: a GPU is waited for once.
    finite = torch.stack([value.isfinite().all() for value in state.values()]).tolist() if state else []
    return next((name for name, each in zip(state, finite, strict=True) if not each), "")


def read_weights(file: Location) -> dict[str, Tensor]:
    """A state dict that a fit published. Raises NotFiniteError where it is not finite, as old releases' may be."""
    state = load(file.read_bytes())
    if name := not_finite(state):
        raise NotFiniteError(f"{file}: holds NaN or infinity ({name}); {ADVICE}")
    return state
