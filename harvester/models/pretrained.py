"""Pretrained weights: the file is found or fetched, checked by its digest, and read without running what it holds.

Two kinds of state dict are taken, as .safetensors or by torch.save: torchvision's of a whole network, as it is
published (DenseNet's with the names of 2017), and a Backbone's own. `imagenet` is torchvision's published file.
"""

import hashlib
import logging
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final, TypeVar

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from harvester.config.models import ClassifierSettings, GeneratorSettings
from harvester.errors import SettingsError
from harvester.models.finite import not_finite
from harvester.models.memory import out_of_memory
from harvester.storage.location import Location

logger = logging.getLogger(__name__)

Model = TypeVar("Model", GeneratorSettings, ClassifierSettings)

IMAGENET: Final = "imagenet"
CLASSIFIER: Final = {"resnet18": "fc", "resnet50": "fc", "densenet121": "classifier"}
"""The layer of torchvision's networks that tells ImageNet's classes: nobody asks for them here."""
OLD_NAME: Final = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12])\.")
DIGITS: Final = re.compile(r"-([0-9a-f]{8})$")
"""torchvision's convention: a file's name ends with the first digits of its sha256."""


@dataclass(frozen=True)
class Pretrained:
    """A state dict by today's names, and the file that it comes from."""

    file: Path
    state: Mapping[str, Tensor]

    @property
    def whole(self) -> bool:
        """Whether it is a whole network's, not a Backbone's."""
        return not all(name.startswith("stages.") for name in self.state)

    def into(self, module: nn.Module) -> None:
        """Every parameter and buffer of the module taken from the file. Raises SettingsError where they differ."""
        try:
            module.load_state_dict(dict(self.state))
        except RuntimeError as error:
            first = str(error).splitlines()[1].strip()
            raise SettingsError(f"weights {self.file.name!r}: do not fit this backbone: {first[:160]}") from None


def read_pretrained(network: str, weights: str, sha256: str) -> Pretrained | None:
    """What the settings `weights` and `weights_sha256` name for torchvision's `network`; None is from scratch."""
    if not weights:
        return None
    file = _published(network) if weights == IMAGENET else Path(Location.of(weights).base)
    digest = checked_digest(file, sha256)
    state = {
        OLD_NAME.sub(r"\1\2.", name): value
        for name, value in _read(file).items()
        if name.split(".")[0] not in CLASSIFIER.values()
    }
    logger.info("weights %s, sha256 %s, %d tensors", file.name, digest[:12], len(state))
    return Pretrained(file, state)


def named_by_content(settings: Model) -> Model:
    """The settings with a weights file's digest in place of its path: what a fit that starts from it depends on.

    A file that was replaced under its path gives another fit, one that was only moved the same. Raises SettingsError
    for a file that is not there or is not the one asked for, before any worker starts.
    """
    if settings.weights in ("", IMAGENET):
        return settings
    digest = checked_digest(Path(Location.of(settings.weights).base), settings.weights_sha256)
    return settings.model_copy(update={"weights": digest, "weights_sha256": ""})


def checked_digest(file: Path, sha256: str = "") -> str:
    """The file's sha256 in hex. Raises SettingsError if it is not `sha256`, or not what the file's name ends with."""
    if not file.is_file():
        raise SettingsError(f"weights {str(file)!r}: no such file; want '', 'imagenet' or the path of a state dict")
    stat = file.stat()
    digest = _digest(file, stat.st_size, stat.st_mtime_ns)
    if sha256 and digest != sha256.lower():
        raise SettingsError(
            f"weights {file.name!r}: the file's sha256 is {digest}, weights_sha256 asks for {sha256.lower()}; "
            "is it another file, or half of one?"
        )
    named = DIGITS.search(file.stem)
    if named and not digest.startswith(named[1]):
        raise SettingsError(
            f"weights {file.name!r}: the file's sha256 begins with {digest[:8]}, its name says {named[1]}; "
            "download it again, or rename it if these digits are no checksum"
        )
    return digest


@lru_cache
def _digest(file: Path, size: int, changed_ns: int) -> str:
    """Size and time of change are what the answer is remembered by: 30 MB are read once, not once per question."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _published(network: str) -> Path:
    """torchvision's ImageNet weights in torch's cache, downloaded if they are not there."""
    # torchvision takes two seconds to import, in every process: only its own backbones pay.
    from torchvision.models import get_model_weights

    url: str = get_model_weights(network).IMAGENET1K_V1.url
    file = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        begins_with = DIGITS.search(file.stem)
        logger.info("weights %s: downloading %s", file.name, url)
        try:
            torch.hub.download_url_to_file(url, str(file), begins_with[1] if begins_with else None, progress=False)
        except (OSError, RuntimeError) as error:
            raise SettingsError(
                f"weights 'imagenet': {file.name} cannot be downloaded from here ({error}); fetch {url} elsewhere, "
                f"then put it into {file.parent} on every node, or give the file's path as weights"
            ) from None
    return file


def _read(file: Path) -> Mapping[str, Tensor]:
    try:
        if file.suffix.lower() == ".safetensors":
            state = load_file(file)
        else:
            state = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        # torch's own message advises to unpickle all the same.
        raise SettingsError(
            f"weights {file.name!r}: refused: it is broken or holds more than tensors, which could run code; "
            "save the state dict alone, best as .safetensors"
        ) from None
    except Exception as error:  # a broken file raises what its broken bytes lead to
        if out_of_memory(error):
            raise
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SettingsError(f"weights {file.name!r}: cannot be read: {first[:160]}") from None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise SettingsError(f"weights {file.name!r}: no state dict; want names with their tensors, no more")
    if name := not_finite(state):
        raise SettingsError(f"weights {file.name!r}: hold NaN or infinity ({name}); give others, or '' for none")
    return state
