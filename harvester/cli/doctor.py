"""What this machine has for a harvest, a line each: ok, none (a harvest works without), or missing; and what to do.

    harvester doctor
    harvester doctor --reach s3://BUCKET/store      # also whether the keys of the environment open this folder

Looks at this machine alone, starts no Ray, and writes nothing. Keys are looked for, never shown.
Exit codes: 0 nothing that is needed is missing, 1 something is, 2 an argument is wrong.
"""

import argparse
import os
import shutil
import socket
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from threading import Thread
from typing import Final, Literal
from urllib.parse import urlsplit

from harvester.cli.console import command_parser
from harvester.errors import HarvesterError
from harvester.text import table

GIB: Final = 2**30
NEEDED_GIB: Final = 4
"""Of memory: Ray, its object store, a driver and two workers of the quickstart."""
NEEDED_DISK_GIB: Final = 2
PACKAGES: Final = ("torch", "torchvision", "ray", "pyarrow", "mlflow", "pydicom", "nibabel", "scipy")
WEIGHTS: Final = ("densenet121", "resnet18")
"""Backbones of which ImageNet weights are published."""
KEYS: Final = ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_ROLE_ARN", "GOOGLE_APPLICATION_CREDENTIALS")
PATIENCE_S: Final = 20.0


@dataclass(frozen=True)
class Finding:
    """One line. state: ok; none, which nothing needs that was asked for; missing, without which a harvest fails."""

    what: str
    state: Literal["ok", "none", "missing"]
    found: str


def main(arguments: list[str] | None = None) -> int:
    """Look, print, and say by the exit code whether something is missing."""
    findings = list(examine(parse(arguments).reach))
    print("\n".join(table([[each.state, each.what, each.found] for each in findings], "l")))
    return int(any(each.state == "missing" for each in findings))


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = command_parser("doctor", __doc__)
    parser.add_argument(
        "--reach", metavar="URI", help="a store or run folder that is asked for, over the network"
    )
    return parser.parse_args(arguments)


def examine(reach: str | None = None) -> Iterator[Finding]:
    """Every check, in the order in which a harvest would meet what it looks at."""
    yield python()
    yield packages()
    yield processor()
    yield memory()
    yield disk(Path.cwd())
    yield accelerator()
    yield from codecs()
    yield highdicom()
    yield ray_cluster(os.environ.get("RAY_ADDRESS"))
    yield mlflow(os.environ.get("MLFLOW_TRACKING_URI"))
    yield data_root(os.environ.get("HARVESTER_DATA"))
    yield from weights(torch_cache())
    yield object_store_keys()
    if reach:
        yield reached(reach)


def python() -> Finding:
    """The interpreter, of the versions that pyproject.toml allows."""
    version = ".".join(map(str, sys.version_info[:3]))
    if (3, 11) <= sys.version_info[:2] < (3, 13):
        return Finding("Python", "ok", version)
    return Finding("Python", "missing", f"{version}; install 3.11 or 3.12")


def packages(names: Iterable[str] = PACKAGES) -> Finding:
    """The libraries that are loaded late: one that is absent would be missed in the middle of a harvest."""
    absent, there = [], []
    for name in names:
        try:
            there.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            absent.append(name)
    if absent:
        return Finding("packages", "missing", f"no {', '.join(absent)}; install harvester again")
    return Finding("packages", "ok", ", ".join(there))


def processor() -> Finding:
    """Cores that this process may use."""
    cores = len(os.sched_getaffinity(0))
    if cores > 1:
        return Finding("CPU cores", "ok", str(cores))
    return Finding(
        "CPU cores", "none", "1; works, but compute.replicas and train_workers share it: set both to 1"
    )


def memory(limits: Iterable[Path] = (Path("/sys/fs/cgroup/memory.max"),)) -> Finding:
    """What the machine has, or less where a container's limit says so."""
    least = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for file in limits:
        if file.is_file() and (text := file.read_text().strip()).isdigit():
            least = min(least, int(text))
    if least < NEEDED_GIB * GIB:
        return Finding("memory", "missing", f"{least / GIB:.1f} GiB; the quickstart takes {NEEDED_GIB}")
    return Finding("memory", "ok", f"{least / GIB:.1f} GiB")


def disk(folder: Path) -> Finding:
    """Room for stores and runs."""
    free = shutil.disk_usage(folder).free / GIB
    if free < NEEDED_DISK_GIB:
        return Finding(
            "disk", "missing", f"{free:.1f} GiB free in {folder}; make room, or go to another folder"
        )
    return Finding("disk", "ok", f"{free:.1f} GiB free in {folder}")


def accelerator() -> Finding:
    """GPUs, and whether networks run in bfloat16."""
    try:
        from harvester.models.device import describe  # torch takes seconds
    except ImportError as error:
        return Finding("GPU", "missing", f"torch cannot be loaded ({error}); install harvester again")
    names, precision = describe()
    if names:
        return Finding("GPU", "ok", f"{', '.join(names)}; {precision}")
    return Finding(
        "GPU", "none", f"networks run on the CPU in {precision}; leave train_gpu and gpus_per_replica off"
    )


def codecs() -> Iterator[Finding]:
    """Compressed DICOM and the library that decodes it here: without it every such scan is a reject."""
    from pydicom.pixels.decoders.base import get_decoder

    from harvester.imaging.dicom.pixels import COMPRESSED, plugin_of

    for syntax in COMPRESSED:
        plugin, name = plugin_of(syntax), syntax.name.partition(" Image")[0].partition(" (Process")[0]
        if plugin in get_decoder(syntax).available_plugins:
            yield Finding("DICOM codec", "ok", f"{name}, by {plugin}")
        else:
            yield Finding("DICOM codec", "missing", f"{name} needs {plugin}; install harvester again")


def highdicom() -> Finding:
    """The extra for DICOM exports."""
    try:
        return Finding("highdicom", "ok", metadata.version("highdicom"))
    except metadata.PackageNotFoundError:
        return Finding("highdicom", "none", "for export --to dicom-sr and dicom-seg: pip install highdicom")


def ray_cluster(address: str | None, current: Path = Path("/tmp/ray/ray_current_cluster")) -> Finding:  # noqa: S108
    """The cluster that a command would join: the one RAY_ADDRESS names, else one that runs on this machine."""
    if not address and current.is_file():
        address = current.read_text().strip()
    if not address:
        return Finding("Ray", "ok", "no cluster runs here: a command starts its own, on loopback")
    host, port = _host(address if "://" in address else f"ray://{address}", 6379)
    if _answers(host, port):
        return Finding("Ray", "ok", f"joins the cluster at {address}")
    return Finding(
        "Ray", "missing", f"no cluster answers at {address}; start it, or unset RAY_ADDRESS to start one here"
    )


def mlflow(uri: str | None) -> Finding:
    """Where parameters and metrics go."""
    if not uri:
        return Finding("MLflow", "ok", "mlflow.db in each run's folder (MLFLOW_TRACKING_URI names a server)")
    if not uri.startswith("http"):
        return Finding("MLflow", "ok", uri.partition("://")[0])
    host, port = _host(uri, 443 if uri.startswith("https") else 80)
    if _answers(host, port):
        return Finding("MLflow", "ok", f"{host}:{port} answers")
    return Finding(
        "MLflow",
        "none",
        f"{host}:{port} does not answer; runs go on without, harvester track sends them later",
    )


def data_root(folder: str | None) -> Finding:
    """What $HARVESTER_DATA names."""
    if not folder:
        return Finding("data root", "none", "HARVESTER_DATA is not set; real_ct takes its scans from there")
    if not Path(folder).is_dir():
        return Finding("data root", "missing", f"HARVESTER_DATA={folder} is no folder; mend or unset it")
    return Finding("data root", "ok", folder)


def torch_cache() -> Path:
    """Where torch keeps what it downloads."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("TORCH_HOME") or Path(cache) / "torch") / "hub" / "checkpoints"


def weights(cache: Path) -> Iterator[Finding]:
    """ImageNet weights, which `weights: imagenet` otherwise downloads when a fit begins."""
    for network in WEIGHTS:
        files = sorted(cache.glob(f"{network}-*.pth"))
        if files:
            yield Finding("weights", "ok", f"{files[-1].name} in {cache}")
        else:
            yield Finding(
                "weights",
                "none",
                f"{network} is downloaded when asked for; without internet, name a file of it",
            )


def object_store_keys(home: Path | None = None) -> Finding:
    """Whether something names keys; which they are is nobody's business."""
    named = [name for name in KEYS if os.environ.get(name)]
    files = [
        name for name in (".aws/credentials", ".config/gcloud") if ((home or Path.home()) / name).exists()
    ]
    if named or files:
        return Finding("object storage", "ok", f"keys by {', '.join(named + files)}")
    return Finding(
        "object storage", "none", "no keys; for s3:// and gs:// set them, or use the machine's rights"
    )


def reached(uri: str, seconds: float = PATIENCE_S) -> Finding:
    """Whether this store or run folder answers: asked in a thread, for a network may never say no."""
    answers: list[Finding] = []

    def ask() -> None:
        from harvester.storage.location import Location

        try:
            there = [
                name for name in ("manifest.parquet", "settings.yaml") if (Location.of(uri) / name).is_file()
            ]
        except HarvesterError as error:
            answers.append(Finding("reach", "missing", " ".join(str(error).split())))
        else:
            answers.append(
                Finding("reach", "ok", f"{uri.partition('?')[0]}: {', '.join(there) or 'empty, or new'}")
            )

    thread = Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return (
        answers[0]
        if answers
        else Finding("reach", "missing", f"no answer in {seconds:g} s; see to the network")
    )


def _host(uri: str, default: int) -> tuple[str, int]:
    parts = urlsplit(uri)
    return parts.hostname or "", parts.port or default


def _answers(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=2).close()
    except OSError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
