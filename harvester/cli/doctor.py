"""What this machine has for a harvest, one line each: ok, none (a harvest works without), or missing; and what to do.

    harvester doctor
    harvester doctor --reach s3://BUCKET/store      # also whether the keys of the environment open this folder

Looks at this machine alone, starts no Ray, and writes nothing. Keys are looked for, never shown.
Exit codes: 0 nothing that is needed is missing, 1 something is, 2 an argument is wrong.
"""

import os
import shutil
import socket
import sys
from collections.abc import Callable, Iterable, Iterator
from importlib import metadata
from pathlib import Path
from threading import Thread
from typing import Final
from urllib.parse import urlsplit

from harvester.cli.console import command_parser
from harvester.errors import HarvesterError, one_line
from harvester.text import table

Finding = tuple[str, str]
"""A state, and in words what was found and what to do."""
OK: Final = "ok"
NONE: Final = "none"
MISSING: Final = "missing"

GIB: Final = 2**30
NEEDED_GIB: Final = 4
"""Of memory: Ray, its object store, a driver and two workers of the quickstart."""
NEEDED_DISK_GIB: Final = 2
PACKAGES: Final = ("torch", "torchvision", "ray", "pyarrow", "mlflow", "pydicom", "nibabel", "scipy")
WEIGHTS: Final = ("densenet121", "resnet18")
"""Backbones of which ImageNet weights are published."""
KEYS: Final = ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_ROLE_ARN", "GOOGLE_APPLICATION_CREDENTIALS")
KEY_FILES: Final = (".aws/credentials", ".config/gcloud")


def main(arguments: list[str] | None = None) -> int:
    """Look, print, and say by the exit code whether something is missing."""
    reach = parser.parse_args(arguments).reach
    checks = CHECKS | ({"reach": lambda: [reached(reach)]} if reach else {})
    rows = [(state, what, found) for what, check in checks.items() for state, found in check()]
    print("\n".join(table(rows, "l")))
    return int(any(state == MISSING for state, _, _ in rows))


def python() -> Finding:
    """The interpreter, of the versions that pyproject.toml allows."""
    version = ".".join(map(str, sys.version_info[:3]))
    allowed = (3, 11) <= sys.version_info[:2] < (3, 13)
    return (OK, version) if allowed else (MISSING, f"{version}; install 3.11 or 3.12")


def packages(names: Iterable[str] = PACKAGES) -> Finding:
    """The libraries that are loaded late: one that is absent would be missed in the middle of a harvest."""
    versions = {name: _version(name) for name in names}
    absent = [name for name, version in versions.items() if not version]
    if absent:
        return MISSING, f"no {', '.join(absent)}; install harvester again"
    return OK, ", ".join(f"{name} {version}" for name, version in versions.items())


def cores() -> Finding:
    """Those that this process may use."""
    count = len(os.sched_getaffinity(0))
    return (OK, str(count)) if count > 1 else (NONE, "1; set compute.replicas and compute.train_workers to 1")


def memory(limit: Path = Path("/sys/fs/cgroup/memory.max")) -> Finding:
    """What the machine has, or less where a container's limit says so."""
    size = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if limit.is_file() and (text := limit.read_text().strip()).isdigit():
        size = min(size, int(text))
    enough = size >= NEEDED_GIB * GIB
    return (OK if enough else MISSING), f"{size / GIB:.1f} GiB" + f"; the quickstart takes {NEEDED_GIB}" * (not enough)


def disk(folder: Path) -> Finding:
    """Room for stores and runs."""
    free = shutil.disk_usage(folder).free / GIB
    room = f"{free:.1f} GiB free in {folder}"
    return (OK, room) if free >= NEEDED_DISK_GIB else (MISSING, f"{room}; make room, or work in another folder")


def accelerator() -> Finding:
    """GPUs, and the precision that networks run in."""
    try:
        from harvester.models.device import describe  # torch takes seconds
    except ImportError as error:
        return MISSING, f"torch cannot be loaded ({error}); install harvester again"
    names, precision = describe()
    if names:
        return OK, f"{', '.join(names)}; {precision}"
    return NONE, f"networks run on the CPU in {precision}; leave train_gpu and gpus_per_replica off"


def codecs() -> Iterator[Finding]:
    """Compressed DICOM and the library that decodes it here: without it every such scan is a reject."""
    from pydicom.pixels.decoders.base import get_decoder

    from harvester.imaging.dicom.pixels import COMPRESSED, plugin_of

    for syntax in COMPRESSED:
        plugin, name = plugin_of(syntax), syntax.name.partition(" Image")[0].partition(" (Process")[0]
        there = plugin in get_decoder(syntax).available_plugins
        yield (OK, f"{name}, by {plugin}") if there else (MISSING, f"{name}: install {plugin}")


def highdicom() -> Finding:
    """The extra for DICOM exports."""
    version = _version("highdicom")
    return (OK, version) if version else (NONE, "pip install highdicom, for export --to dicom-sr and dicom-seg")


def ray_cluster(address: str | None, current: Path = Path("/tmp/ray/ray_current_cluster")) -> Finding:  # noqa: S108
    """The cluster that a command would join: the one RAY_ADDRESS names, else one that runs on this machine."""
    address = address or "auto"
    if address == "auto" and current.is_file():
        address = current.read_text().strip()
    if address in ("auto", "local"):
        return OK, "no cluster runs here: a command starts its own, on loopback"
    if _answers(address, 6379):
        return OK, f"joins the cluster at {address}"
    return MISSING, f"no cluster answers at {address}; start it, or unset RAY_ADDRESS to start one here"


def mlflow(uri: str | None) -> Finding:
    """Where parameters and metrics go. What stands in the URI may be a password: its host alone is told."""
    if not uri:
        return OK, "mlflow.db in each run's folder; MLFLOW_TRACKING_URI names a server"
    if not uri.startswith("http"):
        return OK, uri.partition("://")[0]
    host = urlsplit(uri).hostname
    if _answers(uri, 443 if uri.startswith("https") else 80):
        return OK, f"{host} answers"
    return NONE, f"{host} does not answer; a run goes on without, harvester track sends it later"


def data_root(folder: str | None) -> Finding:
    """What $HARVESTER_DATA names."""
    if not folder:
        return NONE, "HARVESTER_DATA is not set; real_ct takes its scans from there"
    return (OK, folder) if Path(folder).is_dir() else (MISSING, f"HARVESTER_DATA={folder}: no folder; mend or unset it")


def weights(cache: Path) -> Iterator[Finding]:
    """ImageNet weights, which `weights: imagenet` otherwise downloads when a fit begins."""
    for network in WEIGHTS:
        files = sorted(cache.glob(f"{network}-*.pth"))
        yield (OK, str(files[-1])) if files else (NONE, f"{network} is downloaded once it is asked for")


def torch_cache() -> Path:
    """Where torch keeps what it downloads."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("TORCH_HOME") or Path(cache) / "torch") / "hub" / "checkpoints"


def object_store_keys(home: Path) -> Finding:
    """Whether something names keys; which they are is nobody's business."""
    named = [name for name in KEYS if os.environ.get(name)] + [name for name in KEY_FILES if (home / name).exists()]
    return (OK, f"keys by {', '.join(named)}") if named else (NONE, "no keys; s3:// and gs:// need them, or rights")


def reached(uri: str, seconds: float = 20.0) -> Finding:
    """Whether this store or run folder answers: asked in a thread, for a network may never say no."""
    answers: list[Finding] = []
    thread = Thread(target=lambda: answers.append(_asked(uri)), daemon=True)
    thread.start()
    thread.join(seconds)
    return answers[0] if answers else (MISSING, f"no answer in {seconds:g} s; see to the network")


CHECKS: Final[dict[str, Callable[[], Iterable[Finding]]]] = {
    "Python": lambda: [python()],
    "packages": lambda: [packages()],
    "CPU cores": lambda: [cores()],
    "memory": lambda: [memory()],
    "disk": lambda: [disk(Path.cwd())],
    "GPU": lambda: [accelerator()],
    "DICOM codec": codecs,
    "highdicom": lambda: [highdicom()],
    "Ray": lambda: [ray_cluster(os.environ.get("RAY_ADDRESS"))],
    "MLflow": lambda: [mlflow(os.environ.get("MLFLOW_TRACKING_URI"))],
    "data root": lambda: [data_root(os.environ.get("HARVESTER_DATA"))],
    "weights": lambda: weights(torch_cache()),
    "object storage": lambda: [object_store_keys(Path.home())],
}
"""In the order in which a harvest would meet what they look at."""


def _asked(uri: str) -> Finding:
    from harvester.storage.location import Location

    try:
        files = [name for name in ("manifest.parquet", "settings.yaml") if (Location.of(uri) / name).is_file()]
    except HarvesterError as error:
        return MISSING, one_line(error)
    return OK, f"{uri.partition('?')[0]}: {', '.join(files) or 'empty, or new'}"


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _answers(address: str, port: int) -> bool:
    parts = urlsplit(address if "://" in address else f"//{address}")
    try:
        socket.create_connection((parts.hostname or "", parts.port or port), timeout=2).close()
    except OSError:
        return False
    return True


parser = command_parser("doctor", __doc__)
parser.add_argument("--reach", metavar="URI", help="a store or run folder to ask for, over the network")
