"""How many frames lie between `jobs/harvest.py` and the line where a box is scored, and which.

    python benchmarks/hops.py [--json FILE] [--svg docs/hops.svg]

Runs the program itself on a small made store, with an untrained generator and with Ray's pool replaced by the one call
of an actor that Ray would make. At the scored line the stack is taken, and joined to the stacks of whoever started the
threads that lead there; frames of Python's, torch's and Ray's own are left out. A closure is a frame of a lambda or of
a function defined in another one.
"""

import argparse
import json
import runpy
import sys
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import CodeType, FrameType, SimpleNamespace
from typing import Any, Final
from unittest.mock import patch
from xml.sax.saxutils import escape

import numpy as np
from safetensors.torch import save

REPO: Final = Path(__file__).parents[1]
sys.path.insert(0, str(REPO))

from harvester.distributed import volume_pool  # noqa: E402
from harvester.proposals import detect  # noqa: E402
from harvester.proposals.network import Generator  # noqa: E402
from harvester.run.partials import to_table  # noqa: E402
from tests.builders import made_store  # noqa: E402

OURS: Final = (str(REPO / "harvester"), str(REPO / "jobs"))
WHAT: Final = {
    "<module>": "what ray job submit starts",
    "main": "settings, one line for an error",
    "run_harvest": "Ray, store, run folder, MLflow, report",
    "harvest": "the paper's loop",
    "propose": "a step: its key, and what makes it",
    "Run.parted": "made once, named by its inputs",
    "run_over_volumes": "what is missing, over Ray's actors",
    "BackgroundWork.run": "under a watchdog",
    "Actor.__call__": "parts of the volumes, published",
    "_outcomes": "a result or a reason per volume",
    "Proposals.over": "read, find, link: three at a time",
    "prefetch": "a thread runs ahead",
    "Proposals._find": "the models that never saw the patient",
    "find_boxes": "a span of slices after the other",
    "span_peaks": "THE SCORED BOX: features once, heads, peaks",
}
here = threading.local()


class _SeenError(Exception):
    """The scored line was reached."""


def main() -> int:
    """Trace, print a frame per line, and count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="draw the way: docs/architecture.md shows it")
    options = parser.parse_args()
    frames = traced()
    names = [f"{Path(code.co_filename).relative_to(REPO)}: {code.co_qualname}" for code in frames]
    closures = [name for name in names if "<locals>" in name or "<lambda>" in name]
    print("\n".join(f"{number:3}  {name}" for number, name in enumerate(names, 1)))
    files = {code.co_filename for code in frames}
    print(f"{len(names)} frames in {len(files)} files, {len(closures)} closures")
    if options.json:
        options.json.write_text(json.dumps({"frames": names, "closures": closures}, indent=1) + "\n")
    if options.svg:
        options.svg.write_text(drawn(names), encoding="utf-8")
    return 0


def drawn(names: list[str]) -> str:
    """The way as an SVG: one box per frame; blue in the driver, green in an actor."""
    actor = next(number for number, name in enumerate(names) if "Actor.__call__" in name)
    height = 50 * len(names) + 20
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 900 {height}" font-family="sans-serif">',
        f'<rect width="900" height="{height}" fill="#ffffff"/>',
    ]
    for number, name in enumerate(names):
        file, _, function = name.partition(": ")
        y, (fill, edge) = 10 + 50 * number, ("#e9f7ef", "#2e9e5b") if number >= actor else ("#e8f1fd", "#2f7fe0")
        if number:
            parts.append(f'<path d="M210 {y - 12} v10" stroke="#555"/>')
        parts += [
            f'<rect x="20" y="{y}" width="380" height="36" rx="6" fill="{fill}" stroke="{edge}"/>',
            f'<text x="210" y="{y + 23}" font-size="15" font-weight="bold" text-anchor="middle">',
            f"{escape(function)}</text>",
            f'<text x="420" y="{y + 23}" font-size="13" fill="#333">{WHAT.get(function, "")}</text>',
            f'<text x="880" y="{y + 23}" font-size="12" fill="#777" text-anchor="end">{file}</text>',
        ]
    return "\n".join([*parts, "</svg>", ""])


def traced() -> list[CodeType]:
    """The code of each frame of ours, from the program to the scored line."""
    found: list[CodeType] = []

    def scored(*_: Any) -> None:
        if not found:
            found.extend(chain(sys._getframe(1)))
        raise _SeenError

    with tempfile.TemporaryDirectory() as folder, patch.object(detect, "best_peaks", scored):
        program(Path(folder))
    return found


def chain(frame: FrameType | None) -> list[CodeType]:
    """The frames of ours from the outermost, through the threads that led here."""
    codes: list[CodeType] = []
    while frame:
        if frame.f_code.co_filename.startswith(OURS):
            codes.insert(0, frame.f_code)
        frame = frame.f_back
    return [*getattr(here, "parents", []), *codes]


def program(folder: Path) -> None:
    """jobs/harvest.py without Ray, up to the first box."""
    hu = np.random.default_rng(0).integers(-900, 900, (6, 64, 64)).astype(np.int16)
    store = made_store(folder / "store", {"m0": "vm", "m1": "vm", "h": "vh"}, hu=hu, spacing_zyx_mm=(4.0, 1.6, 1.6))
    arguments = ["harvest.py", "--store", str(store.path), "--run", str(folder / "run"), "--set", "data.kind=store"]
    patches = [
        patch("harvester.distributed.cluster.start_ray", lambda: None),
        patch("harvester.distributed.capacity.require_capacity", lambda _: None),
        patch("harvester.certificate.preconditions.require_harvestable", lambda *_: None),
        patch("harvester.distributed.precision.fastest_everywhere", lambda _: "float32"),
        patch("harvester.distributed.training.train_folds", untrained),
        patch.object(volume_pool, "_dataset", pool),
        patch.object(threading.Thread, "start", started(threading.Thread.start)),
        patch.object(ThreadPoolExecutor, "submit", submitted(ThreadPoolExecutor.submit)),
        patch.object(sys, "argv", arguments),
    ]
    for each in patches:
        each.start()
    try:
        runpy.run_path(str(REPO / "jobs" / "harvest.py"), run_name="__main__")
    except _SeenError:
        pass
    finally:
        for each in reversed(patches):
            each.stop()


def untrained(job: Any) -> None:
    """In place of a fit: each fold's generator as it is drawn."""
    for fold in range(job.settings.folds):
        model = Generator(job.settings.generator, job.settings.grid)
        weights = {name: value.contiguous() for name, value in model.state_dict().items()}
        (job.out / f"fold-{fold}.safetensors").write_bytes(save(weights))


def pool(actor: Any, job: Any, parts: list[Any]) -> Any:
    """In place of Ray's pool: one actor, called as Ray calls it."""
    return SimpleNamespace(materialize=lambda: list(actor(job)(to_table(parts))))


def submitted(submit: Callable[..., Future[Any]]) -> Callable[..., Future[Any]]:
    """ThreadPoolExecutor.submit, whose work knows who gave it."""

    def wrapped(self: ThreadPoolExecutor, work: Callable[..., Any], *given: Any) -> Future[Any]:
        parents = chain(sys._getframe(1))

        def known(*values: Any) -> Any:
            here.parents = parents
            return work(*values)

        return submit(self, known, *given)

    return wrapped


def started(start: Callable[..., None]) -> Callable[..., None]:
    """Thread.start, whose thread knows who started it."""

    def wrapped(self: threading.Thread) -> None:
        parents, run = chain(sys._getframe(1)), self.run

        def known() -> None:
            here.parents = parents
            run()

        self.run = known  # type: ignore[method-assign]
        start(self)

    return wrapped


if __name__ == "__main__":
    sys.exit(main())
