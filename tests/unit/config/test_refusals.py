"""Settings that cannot work are refused in one line that names them and says what is allowed."""

import math
from pathlib import Path as PathOfFile
from typing import Any, get_args

import pytest
from pydantic import BaseModel, ValidationError

from harvester.config.loading import resolve
from harvester.config.models import SHOWN_HU
from harvester.config.settings import Settings
from harvester.errors import SettingsError
from harvester.imaging.hounsfield import HU_RANGE

Path = tuple[str, ...]


def fields(section: type[BaseModel] = Settings, path: Path = ()) -> list[tuple[Path, Any]]:
    """Every setting of the tree, and its annotation."""
    found: list[tuple[Path, Any]] = []
    for name, field in section.model_fields.items():
        inner = field.annotation
        deeper = isinstance(inner, type) and issubclass(inner, BaseModel)
        found += fields(inner, (*path, name)) if deeper else [((*path, name), inner)]  # type: ignore[arg-type]
    return found


def holds(annotation: Any, kinds: tuple[type, ...]) -> bool:
    return annotation in kinds or any(holds(each, kinds) for each in get_args(annotation))


def put(path: Path, value: Any) -> dict[str, Any]:
    return {path[0]: put(path[1:], value) if len(path) > 1 else value}


def with_first(value: Any, first: Any) -> Any:
    """A default with its first number replaced."""
    if isinstance(value, dict):
        return value | {next(iter(value)): first}
    if isinstance(value, (list, tuple)):
        return [with_first(value[0], first), *value[1:]] if value else [first]
    return first


def default(path: Path) -> Any:
    value: Any = Settings()
    for name in path:
        value = getattr(value, name)
    return value


FLOATS = [path for path, kind in fields() if holds(kind, (float,))]
NUMBERS = [path for path, kind in fields() if holds(kind, (int, float))]
LISTS_MAY_BE_EMPTY = {  # nothing is refused, read or asked then
    ("data", "archive", "mask_labels"), ("data", "deeplesion", "marks"), ("data", "archive", "dicom", "lesion_codes"),
    ("data", "archive", "dicom", "refused_image_types"), ("data", "archive", "dicom", "marks"),
    ("data", "insertion", "vm_backgrounds"), ("data", "insertion", "vh_test_backgrounds"),
    ("data", "insertion", "vd_test_backgrounds"),
}  # fmt: skip
LISTS = [path for path, kind in fields() if isinstance(default(path), (tuple, dict))]


def refused(path: Path, value: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        Settings.model_validate(put(path, value))
    assert all(name in map(str, caught.value.errors()[0]["loc"]) for name in path)
    return str(caught.value)


@pytest.mark.parametrize("path", FLOATS, ids=".".join)
def test_no_float_takes_nan_or_infinity(path: Path) -> None:
    for value in (math.nan, math.inf, -math.inf):
        assert "finite number" in refused(path, with_first(default(path), value))


@pytest.mark.parametrize("path", NUMBERS, ids=".".join)
def test_no_number_takes_yes(path: Path) -> None:
    assert "want a number" in refused(path, True)
    if isinstance(default(path), (tuple, dict)):
        assert "want a number" in refused(path, with_first(default(path), True))


@pytest.mark.parametrize("path", NUMBERS, ids=".".join)
def test_a_number_is_negative_only_where_that_means_something(path: Path) -> None:
    if path in (("grid", "windows_hu"), ("retrain", "window_hu")):
        Settings.model_validate(put(path, with_first(default(path), -5)))
    else:
        refused(path, with_first(default(path), -5))


@pytest.mark.parametrize("path", LISTS, ids=".".join)
def test_a_list_is_empty_only_where_that_means_something(path: Path) -> None:
    empty: Any = {} if isinstance(default(path), dict) else []
    if path in LISTS_MAY_BE_EMPTY:
        Settings.model_validate(put(path, empty))
    else:
        assert "at least 1 item" in refused(path, empty) or "Field required" in refused(path, empty)


def test_there_is_something_to_try() -> None:
    assert (len(FLOATS), len(NUMBERS), len(LISTS)) >= (50, 80, 12)


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("grid.spacing_zyx_mm=[0,1,1]", "grid.spacing_zyx_mm.0 = 0: Input should be greater than or equal to 0.05"),
        (
            "grid.spacing_zyx_mm=[4,-1.6,1.6]",
            "grid.spacing_zyx_mm.1 = -1.6: Input should be greater than or equal to 0.05",
        ),
        ("grid.spacing_zyx_mm=[4,1.6]", "grid.spacing_zyx_mm.2"),
        ("grid.windows_hu=[[100,100]]", "grid.windows_hu.0 = [100, 100]: want two ends that differ, got 100 twice"),
        ("grid.windows_hu=[[-160,240],[400,-160]]", "grid.windows_hu.1 = [400, -160]: want the lower end first"),
        ("grid.spacing_zyx_mm=[4,51,1.6]", "Input should be less than or equal to 50"),
        ("grid.windows_hu=[[10000,20000]]", "want a window that overlaps -1024 to 3071 HU"),
        ("grid.windows_hu=[[-3000,-1024]]", "want a window that overlaps"),
        ("grid.windows_hu=[[-1.0e+308,1.0e+308]]", "want ends within -100000 and 100000 HU, 1 HU apart at least"),
        ("grid.windows_hu=[[0,1e6]]", "want ends within"),
        ("grid.windows_hu=[[0,0.5]]", "want ends within"),
        ("generator.loss.heat=0", "generator.loss.heat = 0: Input should be greater than 0"),
        ("generator.steps=12:30", "generator.steps = '12:30': Input should be a valid integer"),
        ("min_gain=0:0.5", "min_gain = '0:0.5': Input should be a valid number"),
        ("operating_point.lpg_floors=[1]", "operating_point.lpg_floors.0 = 1: Input should be less than 1"),
        (
            "operating_point.min_slices=[0]",
            "operating_point.min_slices.0 = 0: Input should be greater than or equal to 1",
        ),
        ("operating_point.target_precision=90", "Input should be less than 1"),
        ("mining.clear_iou=0", "mining.clear_iou = 0: Input should be greater than 0"),
        ("min_gain=1", "min_gain = 1: Input should be less than 1"),
        ("seed=-1", "seed = -1: Input should be greater than or equal to 0"),
        ("seed=99999999999999999999", "Input should be less than 4294967296"),
        ("name=..", "name = '..': String should match"),
        (
            "data.insertion.nodule_mm=[30,6]",
            "data.insertion.nodule_mm = [30, 6]: want the lower end first, got 30 and 6",
        ),
        ("data.insertion.kind_weights={nodule: 0}", "kind_weights.nodule = 0: Input should be greater than 0"),
        ("data.archive.slice_spacing_mm=[3,2]", "want the lower end first, got 3 and 2"),
        ("data.archive.mask_labels=[0]", "mask_labels.0 = 0: Input should be greater than or equal to 1"),
        ("compute.gpus_per_replica=1.5", "want a share of one GPU or whole ones, got 1.5"),
        ("generator.steps=2.5", "generator.steps = 2.5: Input should be a valid integer"),
    ],
)
def test_the_line_says_what_came_and_what_is_wanted(override: str, told: str) -> None:
    with pytest.raises(SettingsError) as caught:
        resolve(None, [override])
    line = str(caught.value)
    assert line.startswith("setting ") and told in line
    assert "\n" not in line and "more)" not in line and "Value error" not in line and "Section" not in line


def test_a_number_is_decimal() -> None:
    settings = resolve(None, ["generator.steps=010", "generator.finetune_steps=1_0", "seed=0x10"])
    assert (settings.generator.steps, settings.generator.finetune_steps, settings.seed) == (10, 10, 16)


@pytest.mark.parametrize("value", ["&a [*a]", "&a {b: [*a]}", "[" * 700, "2026-13-45", "!!int x", "!!timestamp x"])
def test_a_value_that_yaml_cannot_make_is_one_line(value: str, tmp_path: PathOfFile) -> None:
    with pytest.raises(SettingsError, match="the value is not valid YAML"):
        resolve(None, [f"rounds={value}"])
    file = tmp_path / "x.yaml"
    file.write_text(f"rounds: {value}\n")
    with pytest.raises(SettingsError, match=r"not valid YAML: \S"):
        resolve(file)


def test_windows_show_what_a_volume_holds() -> None:
    assert SHOWN_HU == HU_RANGE


def test_a_whole_section_is_not_repeated() -> None:
    with pytest.raises(SettingsError, match=r"^setting compute: min_replicas = 3 is more than replicas = 2$"):
        resolve(None, ["compute.min_replicas=3"])
