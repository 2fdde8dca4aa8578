"""The command `harvester` as a shell calls it: help, exit codes, what it imports; and that jobs/ are programs too."""

import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from harvester.cli.main import COMMANDS, main

REPO = Path(__file__).parents[3]
HEAVY = ("torch", "ray", "matplotlib", "mlflow")


def called(*command: str, cwd: Path = REPO) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, cwd=cwd, check=False)


def exit_code(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return int(ended.value.code or 0)


def test_without_a_command_it_shows_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and "harvester prepare --source SCANS --out STORE" in shown.err
    assert all(f"\n  {name} " in shown.err for name in COMMANDS)


def test_help_and_version_are_answers(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("--help") == 0
    assert "commands:" in capsys.readouterr().out
    assert exit_code("--version") == 0
    assert capsys.readouterr().out == "harvester 0.2.0\n"


def test_an_unknown_command_is_told_with_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("harvset") == 2
    assert "'harvset'" in (message := capsys.readouterr().err) and "'harvest'" in message


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_says_what_it_takes_with_examples_of_itself(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(command, "--help") == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: harvester {command} ")
    assert f"\n    harvester {command}" in shown
    assert exit_code(command, "--no-such-option") == 2


def test_help_of_every_command_and_status_load_nothing_that_takes_seconds(tmp_path: Path) -> None:
    program = f"""
import json, sys
from contextlib import suppress
from harvester.cli.main import COMMANDS, main
for arguments in [["--help"], *([name, "--help"] for name in COMMANDS)]:
    with suppress(SystemExit):
        main(arguments)
assert main(["status", "--run", {str(tmp_path)!r}]) == 1  # no run, but asked
print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))
"""
    done = called("-c", program)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == []


def test_python_m_harvester_is_the_same_command(tmp_path: Path) -> None:
    done = called("-m", "harvester", "harvest", "--config", "nonesuch")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "deeplesion, few_labels, pretrain, quickstart, real_ct" in done.stderr


@pytest.mark.parametrize("job", sorted(file.name for file in (REPO / "jobs").glob("*.py")))
def test_a_job_is_a_program_as_clusters_start_it(job: str) -> None:
    done = called(f"jobs/{job}", "--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: harvester {job.removesuffix('.py')} ")


@pytest.mark.parametrize(
    "given",
    [
        ["harvest", "--stroe", "s3://alice:S3CRET@b/x"],
        ["s3://alice:S3CRET@b/x"],
        ["plan", "--config", "https://alice:S3CRET@b/x.yaml"],
    ],
)
def test_a_wrong_argument_is_repeated_without_its_password(
    given: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with suppress(SystemExit):
        assert main(given) == 2
    said = "".join(capsys.readouterr())
    assert "b/x" in said or "https" in said
    assert "S3CRET" not in said and "alice" not in said
