"""Time of linking one volume's slice boxes, and that a plain filter with loops links them alike.

    python benchmarks/linking.py [--boxes 10000] [--slices 250] [--repeats 20] [--json FILE]

Prints the milliseconds of `link` (want 10,000 boxes in under 50) and of `suppress` after it, the best and the middle of
the repeats, the plain one's, once, and whether the tubelets are the same. Ends with 1 where they are not. One thread.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harvester.config.models import LinkingSettings
from harvester.proposals.linking import link, suppress
from tests.plain_linking import full_volume, plain_link


def main() -> int:
    """Measure, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--boxes", type=int, default=10_000)
    parser.add_argument("--slices", type=int, default=250)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args()
    settings = LinkingSettings()
    z, boxes, scores = full_volume(options.boxes, options.slices, seed=0)
    tubelets = link(z, boxes, scores, settings)
    linking = timed(options.repeats, lambda: link(z, boxes, scores, settings))
    suppressing = timed(options.repeats, lambda: suppress(tubelets, settings.suppress_iou))
    start = time.perf_counter()
    plain = plain_link(z, boxes, settings)
    slow = time.perf_counter() - start
    index = {row: i for i, row in enumerate(zip(z.tolist(), map(tuple, boxes.tolist()), strict=True))}
    same = plain == {
        frozenset(index[at] for at in zip(one.z.tolist(), map(tuple, one.boxes_xyxy.tolist()), strict=True))
        for one in tubelets
    }
    figures = {
        "boxes": options.boxes,
        "tubelets": len(tubelets),
        "link_ms": linking[0],
        "link_median_ms": linking[1],
        "suppress_ms": suppressing[0],
        "plain_ms": slow * 1e3,
        "times_plain": slow * 1e3 / linking[1],
        "same": same,
    }
    for name, value in figures.items():
        print(f"{name:>16}  {value:.1f}" if isinstance(value, float) else f"{name:>16}  {value}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    return 0 if same else 1


def timed(repeats: int, work: Callable[[], Any]) -> tuple[float, float]:
    """Best and middle of the repeats, in ms."""
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        taken.append((time.perf_counter() - start) * 1e3)
    return min(taken), statistics.median(taken)


if __name__ == "__main__":
    sys.exit(main())
