"""What names a fit's output: the content of the weights that it starts from, not their path."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from harvester.config.fingerprint import settings_hash
from harvester.config.models import ClassifierSettings, GeneratorSettings
from harvester.config.settings import Settings
from harvester.errors import SettingsError
from harvester.harvest import train_classifier, train_generator
from harvester.records import LEDGER
from harvester.run.folder import Artifact


def named(step: str, weights: str) -> str:
    """The key under which a step of a run with these weights would lie; nothing is fitted."""

    def artifact(name: str, k: int, key: str, make: Any) -> Artifact:
        return Artifact(Path(name), key, 0.0)

    settings = Settings(
        generator=GeneratorSettings(backbone="resnet18", weights=weights),
        classifier=ClassifierSettings(backbone="resnet18", weights=weights),
    )

    def key(_: str, **inputs: Any) -> str:
        return settings_hash(*inputs.values())

    run: Any = SimpleNamespace(settings=settings, data_hash="data", key=key, table=artifact, weights=artifact)
    ledger: pa.Table = LEDGER.empty_table()
    if step == "generator":
        return train_generator(run, 0, ledger, None).key
    before = Artifact(Path("tubelets"), "tubelets", 0.0)
    return train_classifier(run, 0, before, ledger, before, None).key


@pytest.mark.parametrize("step", ["generator", "classifier"])
def test_a_changed_file_under_the_same_path_is_another_fit(step: str, tmp_path: Path) -> None:
    file, other = tmp_path / "w.pth", tmp_path / "other.pth"
    file.write_bytes(b"first")
    first = named(step, str(file))
    other.write_bytes(b"first")
    assert named(step, str(other)) == first
    file.write_bytes(b"second")
    assert named(step, str(file)) != first
    assert len({named(step, "imagenet"), named(step, ""), first}) == 3
    with pytest.raises(SettingsError, match="no such file"):
        named(step, str(tmp_path / "gone.pth"))
