"""What a detector is here, and where it comes from: torchvision's calling convention, so that most detectors fit.

A detector of your own is one function in one file, which `retrain.detectors` names (my_detector.py:build):

    def build(settings: Settings) -> Detector:
        return Detector(MyNetwork(...))

The model is called as torchvision's detectors are. In training `model(images, targets)` gives a dict of loss terms; in
evaluation `model(images)` gives for each image a dict of boxes (n, 4) and scores (n,), and labels (n,) where it knows
several classes: LESION alone counts. Boxes are x1, y1, x2, y2 in pixels of the image, from corner to corner: a box that
covers one pixel is 1 wide.

images   n tensors (windows x slices, y, x) in [0, 1], window by window, the own slice in the middle
targets  n dicts: boxes (m, 4) and labels (m,) int64, LESION, or LOOK_ALIKE for a hard negative; a model that has no
         use for these drops them
"""

import hashlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, Final

from torch import nn

from harvester.config.settings import Settings
from harvester.errors import SettingsError

LESION: Final = 1
LOOK_ALIKE: Final = 2
"""Classes; 0 is the background, as in torchvision."""
CLASSES: Final = 3
Window = tuple[float, float]

SHIPPED: Final = {
    "faster_rcnn": "harvester.detectors.torchvision_detectors:faster_rcnn",
    "fcos": "harvester.detectors.torchvision_detectors:fcos",
    "generator": "harvester.detectors.centernet:generator",
}
"""Those that come with harvester, by their names in retrain.detectors."""


@dataclass(frozen=True, eq=False)
class Detector:
    """A model and what its images show.

    context        slices on each side of the own one
    windows_hu     black and white of each window; None: retrain.window_hu
    learning_rate  None: retrain.learning_rate
    steps_factor   times retrain.steps are its steps
    """

    model: nn.Module
    context: int = 1
    windows_hu: tuple[Window, ...] | None = None
    learning_rate: float | None = None
    steps_factor: float = 1.0

    def windows(self, settings: Settings) -> tuple[Window, ...]:
        """Its windows, or the one of the settings."""
        return self.windows_hu or (settings.retrain.window_hu,)


def build(name: str, settings: Settings) -> Detector:
    """The detector that retrain.detectors names: one of SHIPPED, module:function, or file.py:function.

    Raises SettingsError for one that is not there or builds none.
    """
    where, _, function = SHIPPED.get(name, name).rpartition(":")
    if not where:
        raise SettingsError(
            f"retrain.detectors: {name!r} is none of {', '.join(SHIPPED)}; one of your own is named file.py:function"
        )
    detector = _function(name, where, function)(settings)
    if not isinstance(detector, Detector):
        raise SettingsError(f"retrain.detectors: {name} gave {type(detector).__name__}, want a Detector")
    return detector


def short_name(name: str) -> str:
    """As files and tables call it: of file.py:function the file, of module:function the module's last part."""
    where = name.rpartition(":")[0] or name
    return Path(where).stem if where.endswith(".py") else where.rpartition(".")[2]


def content_of(name: str) -> str:
    """Names a detector: one of your own by what its file holds."""
    where, _, function = name.rpartition(":")
    file = Path(where)
    if where.endswith(".py") and file.is_file():
        return f"{hashlib.sha256(file.read_bytes()).hexdigest()}:{function}"
    return name


def _function(name: str, where: str, function: str) -> Callable[[Settings], Any]:
    try:
        if where.endswith(".py"):
            return _of_file(Path(where), function)
        found: Callable[[Settings], Any] = resolve_name(f"{where}:{function}")
        return found
    except (ImportError, AttributeError, OSError, ValueError) as error:
        raise SettingsError(f"retrain.detectors: {name} cannot be imported: {error}") from error


def _of_file(file: Path, function: str) -> Callable[[Settings], Any]:
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} is no Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: Callable[[Settings], Any] = getattr(module, function)
    return found
