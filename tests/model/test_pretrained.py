"""Pretrained weights: torchvision's files under old and new names, digests, and files that are refused."""

import hashlib
import logging
import os
import pickle
import re
from collections.abc import Callable
from email.message import Message
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.response import addinfourl

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torchvision.models import get_model

from harvester.classifier.network import Classifier
from harvester.config.fingerprint import settings_hash
from harvester.config.loading import resolve
from harvester.config.models import ClassifierSettings, GeneratorSettings, GridSettings
from harvester.errors import SettingsError
from harvester.models.backbones import build_backbone
from harvester.models.pretrained import checked_digest, named_by_content

State = dict[str, Tensor]
PARTS = {
    "resnet18": ("conv1", [("bn1", "0.1"), ("layer1", "1.1"), ("layer2", "2"), ("layer3", "3")]),
    "densenet121": (
        "features.conv0",
        [
            ("features.norm0", "0.1"),
            ("features.denseblock1", "1.1"),
            ("features.transition1", "2.0"),
            ("features.denseblock2", "2.1"),
            ("features.transition2", "3.0"),
            ("features.denseblock3", "3.1"),
        ],
    ),
}
"""torchvision's first convolution, and where its other parts lie among the stages of ours."""


def whole(network: str, classes: int = 1000) -> State:
    """A whole network's state with every value its own: batch norms too, which start equal."""
    rng = torch.Generator().manual_seed(0)
    state = get_model(network, num_classes=classes).state_dict()
    return {
        name: torch.rand(value.shape, generator=rng) if value.is_floating_point() else value
        for name, value in state.items()
    }


def old_names(state: State) -> State:
    """As densenet121-a639ec97.pth has them: norm.1, not norm1, and no counters of batches."""
    return {
        re.sub(r"(denselayer\d+\.(?:norm|conv))([12])", r"\1.\2", name): value
        for name, value in state.items()
        if not name.endswith("num_batches_tracked")
    }


def named_by_digest(file: Path) -> Path:
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    return file.rename(file.with_name(f"{file.stem}-{digest[:8]}{file.suffix}"))


def expected(network: str, state: State, channels_in: int) -> State:
    """What the cut backbone should hold, name by name."""
    first, parts = PARTS[network]
    kernel = state[f"{first}.weight"]
    own = {"stages.0.0.weight": torch.stack([kernel[:, i % 3] for i in range(channels_in)], dim=1) * 3 / channels_in}
    for part, place in parts:
        for name, value in state.items():
            if name.startswith(f"{part}."):
                own[f"stages.{place}.{name[len(part) + 1 :]}"] = value
    return own


def refusal(file: Path, network: str = "resnet18", sha256: str = "") -> str:
    with pytest.raises(SettingsError) as caught:
        build_backbone(network, 9, 16, str(file), sha256)
    message = str(caught.value)
    assert "\n" not in message
    assert file.name in message
    return message


@pytest.fixture(scope="module")
def state() -> State:
    return whole("resnet18")


@pytest.fixture
def file(state: State, tmp_path: Path) -> Path:
    torch.save(state, tmp_path / "resnet18.pth")
    return tmp_path / "resnet18.pth"


@pytest.mark.parametrize(
    ("network", "save", "channels_in"),
    [
        ("resnet18", lambda state, file: torch.save(state, file), 9),
        ("resnet18", lambda state, file: save_file(state, file.with_suffix(".safetensors")), 3),
        ("densenet121", lambda state, file: torch.save(state, file), 3),
        (
            "densenet121",
            lambda state, file: torch.save(
                old_names(state), file, pickle_protocol=2, _use_new_zipfile_serialization=False
            ),
            9,
        ),
    ],
    ids=["resnet", "resnet-safetensors", "densenet", "densenet-of-2017"],
)
def test_torchvisions_whole_network_is_cut_and_widened(
    network: str, save: Callable[[State, Path], None], channels_in: int, tmp_path: Path
) -> None:
    published = whole(network)
    save(published, tmp_path / f"{network}.pth")
    (written,) = tmp_path.iterdir()
    weights = named_by_digest(written)
    got = build_backbone(network, channels_in, 0, str(weights)).state_dict()
    want = expected(network, published, channels_in)
    assert got.keys() == want.keys()
    for name, value in want.items():
        if not name.endswith("num_batches_tracked"):
            torch.testing.assert_close(got[name], value, msg=name)


@pytest.mark.parametrize("classes", [None, 5])
def test_the_layer_that_tells_classes_is_nobodys_business(state: State, classes: int | None, tmp_path: Path) -> None:
    other = {name: value for name, value in state.items() if not name.startswith("fc.")}
    if classes:
        other |= {"fc.weight": torch.rand(classes, 512), "fc.bias": torch.rand(classes)}
    torch.save(other, tmp_path / "w.pth")
    got = build_backbone("resnet18", 3, 0, str(tmp_path / "w.pth")).state_dict()
    assert torch.equal(got["stages.3.1.bn2.bias"], state["layer3.1.bn2.bias"])


@pytest.mark.parametrize(("network", "width"), [("small", 16), ("resnet18", 0)])
def test_a_backbones_own_state_comes_back(network: str, width: int, tmp_path: Path) -> None:
    net = build_backbone(network, 9, width).state_dict()
    save_file(net, tmp_path / "w.safetensors")
    torch.save(net, tmp_path / "w.pt")
    for name in ("w.safetensors", "w.pt"):
        back = build_backbone(network, 9, width, str(tmp_path / name)).state_dict()
        assert all(torch.equal(back[key], value) for key, value in net.items())


def test_the_digest_asked_for_is_compared(file: Path) -> None:
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    build_backbone("resnet18", 9, 0, str(file), digest)
    build_backbone("resnet18", 9, 0, str(file), digest.upper())
    message = refusal(file, sha256="ab" * 32)
    assert digest in message
    assert "ab" * 32 in message
    with pytest.raises(SettingsError, match=r"classifier\.weights_sha256"):
        resolve(None, ["classifier.weights_sha256=a639ec97"])


def test_the_settings_reach_both_models_backbones(file: Path) -> None:
    settings = ClassifierSettings(backbone="resnet18", weights=str(file), weights_sha256="cd" * 32)
    with pytest.raises(SettingsError, match="cd" * 32):
        Classifier(settings, GridSettings())


def test_the_digits_of_a_files_name_are_compared(file: Path) -> None:
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    good = named_by_digest(file)
    assert checked_digest(good) == digest
    build_backbone("resnet18", 9, 0, str(good))
    wrong = good.rename(good.with_name("resnet18-f37072fd.pth"))
    message = refusal(wrong)
    assert digest[:8] in message
    assert "f37072fd" in message
    # Other names promise nothing.
    assert checked_digest(wrong.rename(wrong.with_name("resnet-f37072fd-mine.pth"))) == digest


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_a_truncated_file_is_refused(state: State, zipped: bool, share: float, tmp_path: Path) -> None:
    few = {name: value for name, value in state.items() if name.startswith(("conv1", "bn1"))}
    torch.save(few, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    save_file(few, tmp_path / "w.safetensors")
    for file in (tmp_path / "w.pth", tmp_path / "w.safetensors"):
        file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
        assert re.search("cannot be read|broken", refusal(file))


def test_a_file_of_another_network_is_refused(file: Path, tmp_path: Path) -> None:
    assert "features.conv0.weight" in refusal(file, "densenet121")
    assert "stages.0.0.weight" in refusal(file, "small")
    save_file(build_backbone("small", 9, 16).state_dict(), tmp_path / "small.safetensors")
    assert "do not fit" in refusal(tmp_path / "small.safetensors")
    classifiers = {"streams.local.stages.0.0.weight": torch.zeros(2), "course.0.weight": torch.zeros(2)}
    save_file(classifiers, tmp_path / "fold-0.safetensors")  # of an older run, with the names of its time
    assert "weights 'fold-0.safetensors': do not fit" in refusal(tmp_path / "fold-0.safetensors", "small")
    torch.save(whole("densenet121"), tmp_path / "densenet.pth")
    assert "conv1.weight" in refusal(tmp_path / "densenet.pth")


def test_what_is_no_state_dict_is_refused(state: State, tmp_path: Path) -> None:
    for held in ([torch.zeros(2)], {"state_dict": state, "epoch": 3}, torch.zeros(2)):
        torch.save(held, tmp_path / "w.pt")
        assert "no state dict" in refusal(tmp_path / "w.pt")
    assert "no such file" in refusal(tmp_path)
    assert "no such file" in refusal(tmp_path / "nothing.pt")


class Runs:
    """Unpickled, it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("zipped", [True, False, None])
def test_a_pickle_with_code_is_refused_and_not_run(zipped: bool | None, tmp_path: Path) -> None:
    held, file = {"conv1.weight": Runs(tmp_path / "ran")}, tmp_path / "w.pth"
    if zipped is None:
        file.write_bytes(pickle.dumps(held, protocol=2))
    else:
        torch.save(held, file, _use_new_zipfile_serialization=zipped)
    message = refusal(file)
    assert "code" in message
    assert "weights_only" not in message
    assert not (tmp_path / "ran").exists()
    pickle.loads(pickle.dumps(held))  # noqa: S301 - ours: it shows that the file would have run
    assert (tmp_path / "ran").exists()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of torch's, and no network."""

    def refuse(*_: object, **__: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr(torch.hub, "urlopen", refuse)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    return tmp_path / "checkpoints"


@pytest.mark.parametrize(
    ("network", "name"), [("resnet18", "resnet18-f37072fd.pth"), ("densenet121", "densenet121-a639ec97.pth")]
)
def test_imagenet_without_a_network_names_the_file_to_fetch(network: str, name: str, cache: Path) -> None:
    with pytest.raises(SettingsError, match="give the file's path") as caught:
        build_backbone(network, 9, 0, "imagenet")
    assert name in str(caught.value)
    assert "no route to host" in str(caught.value)
    assert caught.value.__cause__ is None
    assert not list(cache.iterdir())


def test_imagenets_file_is_checked_when_it_comes_and_when_it_lies_there(
    file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Any bytes but the published ones are refused: on the way in, and in the cache.
    length = Message()
    length["Content-Length"] = str(file.stat().st_size)
    monkeypatch.setattr(torch.hub, "urlopen", lambda *_, **__: addinfourl(file.open("rb"), length, "url"))
    with pytest.raises(SettingsError, match="invalid hash value"):
        build_backbone("resnet18", 9, 0, "imagenet")
    assert not list(cache.iterdir())
    (cache / "resnet18-f37072fd.pth").write_bytes(file.read_bytes())
    with pytest.raises(SettingsError, match="its name says f37072fd"):
        build_backbone("resnet18", 9, 0, "imagenet")


def test_the_small_backbone_has_no_imagenet_weights(cache: Path) -> None:
    torch.manual_seed(0)
    bare = build_backbone("small", 9, 16).state_dict()
    torch.manual_seed(0)
    asked = build_backbone("small", 9, 16, "imagenet").state_dict()
    assert all(torch.equal(asked[name], value) for name, value in bare.items())


def test_a_load_is_told_in_one_line_without_the_folder(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        build_backbone("resnet18", 9, 0, str(file))
    (line,) = caplog.messages
    assert hashlib.sha256(file.read_bytes()).hexdigest()[:12] in line
    assert "resnet18.pth" in line
    assert str(file.parent) not in line


def test_a_fit_is_named_by_its_weights_content_not_their_path(file: Path) -> None:
    def key(**changes: Any) -> str:
        return settings_hash(named_by_content(GeneratorSettings(backbone="resnet18", **changes)))

    before = key(weights=str(file))
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    moved = file.rename(file.with_name("moved.pth"))
    assert key(weights=str(moved), weights_sha256=digest) == before
    moved.write_bytes(moved.read_bytes() + b"more")
    assert key(weights=str(moved)) != before
    assert len({key(), key(weights="imagenet"), before}) == 3
    with pytest.raises(SettingsError, match="weights_sha256 asks for"):
        key(weights=str(moved), weights_sha256=digest)
    with pytest.raises(SettingsError, match="no such file"):
        key(weights=str(file))
