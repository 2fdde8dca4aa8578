"""What README and the guide tell: commands before their parsers, paths before the tree, figures before their files."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from harvester.cli.main import COMMANDS
from harvester.config.loading import resolve
from harvester.report.study import as_markdown, headline_table
from harvester.run.study import StudyResult
from harvester.storage.location import Location
from harvester.study.settings import read_study

REPO = Path(__file__).parents[2]
INFRA = REPO / "infra"
OWN = tuple(REPO / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md"))
GUIDE = tuple(sorted((REPO / "docs").glob("*.md")))
TEXTS = (
    *OWN,
    *(file for file in GUIDE if file.name != "study.md"),  # its command is a study's own, two in one
    *sorted(file for file in INFRA.rglob("*") if file.suffix in {".yaml", ".md"} or file.name == "Dockerfile"),
)
NAMES = "|".join(COMMANDS)
COMMAND = re.compile(
    rf"(?:\bpython jobs/(\w+)\.py|(?<![\w/.])harvester ({NAMES})\b)((?: (?:\"[^\"\n]+\"|[^\s`#;&|\"\\]+))*)"
)
TREE = re.compile(r"(?:harvester|jobs|configs|infra|docs|tests|benchmarks|\.ci)/[\w./-]*\w|\w+\.(?:md|cff|toml)")
"""A path in a text that names something of this repository."""


def joined(text: str) -> str:
    """With commands that go on in the next line, by a backslash or as YAML folds them, on one line."""
    text = re.sub(r"\\\n\s*", "", text)
    for _ in range(3):
        text = re.sub(rf"((?:jobs/\w+\.py|harvester (?:{NAMES})) [^\n`]*)\n +(?=--)", r"\1 ", text)
    return text


def commands() -> Iterator[tuple[Path, str, list[str]]]:
    """File, command, arguments of every `harvester X ...` and `python jobs/X.py ...` that is given arguments."""
    for file in TEXTS:
        for job, command, rest in COMMAND.findall(joined(file.read_text())):
            assert not job or (REPO / "jobs" / f"{job}.py").is_file(), f"{file.name}: jobs/{job}.py"
            if rest and rest != " --help":
                yield file, job or command, shlex.split(rest)


def parsed(command: str, arguments: list[str]) -> None:
    """By the command's own parser; its settings must resolve, where it has any."""
    module = import_module(f"harvester.cli.{'harvest' if command == 'plan' else command}")
    options = module.parser.parse_args(arguments)
    config = getattr(options, "config", None)
    if command == "study":
        assert read_study(config).archives
    elif config and config.name != "night.yaml":  # the reader's own
        where = REPO / config if (REPO / config).is_file() else config
        assert resolve(where, options.set).name == config.stem


def test_every_command_of_the_texts_parses_and_its_settings_resolve() -> None:
    listed = list(commands())
    for file, command, arguments in listed:
        try:
            parsed(command, arguments)
        except SystemExit:
            pytest.fail(f"{file.name}: harvester {command} {shlex.join(arguments)}")
    readme = {command for file, command, _ in listed if file.name == "README.md"}
    assert readme >= {"prepare", "harvest", "status", "tune", "evaluate", "export", "review"}
    assert {file.name for file, _, _ in listed} >= {"operations.md", "rayjob.yaml"}
    (entry,) = (arguments for file, _, arguments in listed if file.name == "rayjob.yaml")
    assert [part for part in entry if part.startswith("--")] == ["--config", "--store", "--run", "--set"]


@pytest.mark.parametrize("name", sorted({where.partition(":")[0] for where, _ in COMMANDS.values()}))
def test_every_example_in_a_commands_own_help_parses(name: str) -> None:
    text = joined(import_module(f"harvester.cli.{name}").__doc__ or "")
    examples = [shlex.split(line, comments=True) for line in text.splitlines() if line.startswith("    harvester ")]
    assert examples
    for _, command, *arguments in examples:
        import_module(f"harvester.cli.{command}").parser.parse_args(arguments)


@pytest.mark.parametrize(("command", "wrong"), [("harvest", "--runs"), ("status", "--store")])
def test_an_option_that_a_command_does_not_take_is_found(
    command: str, wrong: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parsed(command, ["--run", "s3://b/night1", wrong, "x"])
    assert wrong in capsys.readouterr().err


def test_every_make_of_the_texts_is_a_target() -> None:
    targets = set(re.findall(r"^(\w+):", (REPO / "Makefile").read_text(), re.MULTILINE))
    for file in (*OWN, *GUIDE):
        asked = set(re.findall(r"(?:`|    )make (?:[A-Z]+=\S+ )*([a-z]+)", file.read_text()))
        assert asked <= targets, file.name


@pytest.mark.parametrize("file", TEXTS, ids=lambda file: file.name)
def test_every_path_in_the_texts_exists(file: Path) -> None:
    text = file.read_text()
    links = {link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link}
    for link in links - {""}:
        assert (file.parent / link).exists(), f"{file.name}: {link}"
    for span in re.findall(r"`([^`\n]+)`", text) if file.suffix == ".md" else []:
        for path in TREE.findall(span):
            assert (REPO / path).exists() or (file.parent / path).exists(), f"{file.name}: {path}"


def test_no_text_holds_what_a_merge_left() -> None:
    files = [*TEXTS, REPO / "CHANGELOG.md", *(REPO / "docs").rglob("*.md"), *(REPO / "configs").rglob("*.yaml")]
    left = [file.name for file in files if re.search(r"^(?:<{7} |>{7} |={7}$)", file.read_text(), re.MULTILINE)]
    assert left == []


def test_the_studys_figures_in_the_texts_are_those_of_its_file() -> None:
    done = StudyResult.read(Location.of(REPO / "docs"))
    assert done is not None and done.detectors
    assert headline_table(done) in (REPO / "docs" / "retrain.md").read_text()
    assert (REPO / "docs" / "study.md").read_text() == as_markdown(done)


def generator(name: str) -> Any:
    """A script of docs/generate, which is no package."""
    spec = spec_from_file_location(f"generate_{name}", REPO / "docs" / "generate" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["settings", "columns"])
def test_a_generated_page_is_as_the_code_says(name: str) -> None:
    assert (REPO / "docs" / f"{name}.md").read_text() == generator(name).page(), "make pages"


def test_figures_in_the_texts_are_those_of_their_files() -> None:
    figures = generator("figures")
    texts = {file.name: file.read_text() for file in (*OWN, *GUIDE)}
    assert {name: figures.missing_in(text) for name, text in texts.items() if figures.missing_in(text)} == {}
    assert sum(len(figures.QUOTED.findall(text)) for text in texts.values()) >= 3
    wrong = "It finds 99 lesions.\n\n<!-- figures: quickstart.harvested nobody.knows -->"
    assert [line.partition(":")[0] for line in figures.missing_in(wrong)] == ["quickstart.harvested", "nobody.knows"]


MEASURED = re.compile(r"\d+(?:\.\d+)? %|\b0\.\d+\b|\b\d+ to \d+\b")
"""What looks like a figure that somebody measured."""
NOT_MEASURED = {"90 %", "95 %", "0.9"}
"""Targets and confidences."""


def test_no_measured_figure_of_the_readme_stands_without_its_source() -> None:
    figures = generator("figures")
    known = figures.texts()
    blocks = re.sub(r"    .*\n", "", (REPO / "README.md").read_text()).split("\n\n")
    for block, after in pairwise([*blocks, ""]):
        named = figures.QUOTED.search(after)
        said = " ".join(known[name] for name in (named[1].split() if named else []))
        for found in set(MEASURED.findall(block)) - NOT_MEASURED:
            assert found in said, f"{found} in {block[:60]!r}"


def in_code() -> str:
    """All of harvester's code, strings that go on in the next line joined."""
    text = "\n".join(file.read_text() for file in (REPO / "harvester").rglob("*.py"))
    return re.sub(r"[\"']\s*\n\s*f?[\"']", "", text)


def test_errors_of_the_questions_page_are_those_of_the_code() -> None:
    code = in_code()
    quoted = re.findall(r'"([^"]+)"', " ".join(re.findall(r"\*\*(.+?)\*\*", (REPO / "docs" / "faq.md").read_text())))
    assert len(quoted) > 25
    for message in quoted:
        parts = [part.strip() for part in re.split(r"\.\.\.|\b[A-Z]\b|\bHOST\b|\d+|v\d, v\d|V_\w", message)]
        for part in (part for part in parts if len(part) > 7):
            assert part in code, f"{part!r} of {message!r}"


@pytest.mark.skipif(find_spec("material") is None, reason="no mkdocs-material: pip install -e .[dev]")
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    pages = {file.stem for file in GUIDE} - {"index"}
    assert {folder.name for folder in tmp_path.iterdir()} >= pages
    html = (tmp_path / "proof" / "index.html").read_text()
    loaded = re.findall(r'<(?:script|link|img)[^>]* (?:src|href)="(https?:[^"]*)"', html)
    assert [link for link in loaded if 'rel="canonical"' not in link] == []
