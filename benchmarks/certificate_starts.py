"""Where should the sequence of thresholds begin? Other starting places and shares, on archives of known truth.

    python benchmarks/certificate_starts.py [--archives 300]

A start is the share of the level spent where an errorless set becomes provable, and the share of the lesions at which
the rest is. Printed for 8, 17, 50 and 200 patients of V_M: how often something is certified, how often that is false,
the recall; harvested as the engine does (decision 0006 says which start was taken).
"""

import argparse

import numpy as np
from certificate import LOW, Harvested, certified, outcome
from certificate_archives import Archive

from harvester.certificate import operating_point

STARTS = {
    "1/4, then 3/4 at 1/3 (taken)": (0.25, 1 / 3),
    "1/4, then 3/4 at 1/5": (0.25, 0.2),
    "1/2, then 1/2 at 1/3": (0.5, 1 / 3),
    "1/10, then 9/10 at 1/3": (0.1, 1 / 3),
    "all where provable": (1 - 1e-9, 1.0),
    "all at 1/3": (1e-12, 1 / 3),
    "all at 1/6": (1e-12, 1 / 6),
}
PATIENTS = {
    "8 patients, 15 volumes each": Archive(120, 15),
    "17 patients, 6 volumes each": Archive(102, 6),
    "50 patients": Archive(75),
    "200 patients": Archive(300),
}
ENGINES = {"": {}, ", better engine": {"lesion": 3.0}, ", high look-alikes": {"lesion": 2.5, "look_alike": 2.0}}


def main() -> None:
    """Simulate every start on every kind of archive."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--archives", type=int, default=300, help="archives drawn of a kind")
    options = parser.parse_args()
    print(f"{'':46s}{'start':32s}{'certified':>10s}{'false':>8s}{'recall':>8s}")
    for name, archive in PATIENTS.items():
        for engine, changed in ENGINES.items():
            rng = np.random.default_rng(0)
            kind = Archive(**{**vars(archive), **changed})
            vh = Harvested(kind.draw(rng, harvested=True), floor=0.0)
            found: dict[str, list[tuple[float, float]]] = {start: [] for start in STARTS}
            for drawn in (kind.draw(rng).first_round().above(LOW) for _ in range(options.archives)):
                for start, places in STARTS.items():
                    operating_point.FIRST_SHARE, operating_point.SECOND_START = places  # type: ignore[misc]
                    found[start].append(vh.realised(certified(drawn)))
            for start, row in ((start, outcome(each)) for start, each in found.items()):
                said = f"{1 - row['harvests_nothing']:10.1%}{row['violations']:8.1%}{row['recall']:8.3f}"
                print(f"{name + engine:46s}{start:32s}{said}", flush=True)


if __name__ == "__main__":
    main()
