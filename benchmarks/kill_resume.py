"""Kill a harvest in round 1, start it again, compare with an undisturbed run.

    python benchmarks/kill_resume.py --config configs/quickstart.yaml --reference runs/quickstart --run DIR

Prints which steps were done before the kill, how many of them were done again (want 0), and whether harvest.parquet
and the ledger are equal to the reference's.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq


def main() -> int:
    """Run, kill, run again, compare; exit code 1 where something differs."""
    options = parse()
    command = [sys.executable, "jobs/harvest.py", "--config", str(options.config), "--run", str(options.run)]
    command += [part for override in options.set for part in ("--set", override)]
    job = subprocess.Popen(command, start_new_session=True)
    while not list(options.run.glob(f"round-1/{options.after}-*.step.json")):
        if job.poll() is not None:
            print(f"the run ended before round 1 {options.after}: nothing to kill")
            return 1
        time.sleep(0.2)
    time.sleep(options.delay)
    os.killpg(job.pid, signal.SIGKILL)
    job.wait()
    before = {note: note.stat().st_mtime_ns for note in options.run.glob("round-*/*.step.json")}
    print(f"killed with {len(before)} steps done")
    began = time.monotonic()
    subprocess.run(command, check=True)
    again = sum(note.stat().st_mtime_ns != then for note, then in before.items())
    tables = ("harvest.parquet", "ledger.parquet")
    equal = {name: pq.read_table(options.run / name).equals(pq.read_table(options.reference / name)) for name in tables}
    outcome = {
        "done_before": len(before),
        "done_again": again,
        "seconds_after": time.monotonic() - began,
        "equal": equal,
    }
    print(json.dumps(outcome))
    return int(again > 0 or not all(equal.values()))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--reference", type=Path, required=True, help="run folder of an undisturbed run")
    parser.add_argument("--run", type=Path, required=True, help="an empty folder for the disturbed run")
    parser.add_argument("--after", default="tubelets", help="kill once this step of round 1 is done")
    parser.add_argument("--delay", type=float, default=8.0, help="seconds later")
    parser.add_argument("--set", action="append", default=[], metavar="a.b=c")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
