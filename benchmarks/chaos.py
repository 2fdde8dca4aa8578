"""Kill a harvest's workers, nodes and drivers at random, twenty times and more; compare with an undisturbed one.

    python benchmarks/chaos.py --json FILE [--kills 20] [--seed 0] [--run DIR]

A Ray cluster of several nodes on this machine; its head takes no work. Two harvests by jobs/harvest.py: one is left
alone, the other loses actors, training workers, trials, nodes (a new one joins later, as after a preemption) and its
driver, which is started again with the same command until it ends well. Exit code 1 where a promise is broken:
the same harvest and ledger, byte for byte once sorted; no shard published twice; no finished shard or step redone; no
driver that gives up because a worker or a node was lost.
"""

import argparse
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.object_storage import TABLES, same
from harvester.run.log import read_log
from harvester.run.progress import step_words
from harvester.storage.location import Location
from tests.ray_nodes import Nodes, kill, ray_nodes, title

ROOT: Final = Path(__file__).parents[1]
PHASES: Final = {
    "prepare": "actor",
    "generator": "trainer",
    "tubelets": "actor",
    "classifier": "trainer",
    "scored": "actor",
    "operating-point": "trial",
    "mining": "driver",
}
"""What runs in each phase of a round and can be killed there; nodes and the driver can be everywhere."""
STEPS: Final = {step_words(step): step for step in PHASES}
STEP_LINE: Final = re.compile(r"round (?P<round>\d+), (?P<step>[^:.]+?)(?P<began> \.\.\.)?(: [\d.]+ s.*)?")
"""A step that begins, or that took its seconds."""
OF_A_ROUND: Final = ("generator", "tubelets", "classifier", "scored", "operating-point", "mining")
AT_WORK: Final = 0.4
"""Of a phase's seconds, those after its workers have started."""
LONGEST_WAIT_S: Final = 10.0
"""The undisturbed harvest may have had a busier machine."""
QUIET_S: Final = 600
"""A harvest that has written nothing for so long hangs."""


class Journal:
    """What a run has finished, and whether any of it was touched again."""

    def __init__(self, run: Path) -> None:
        self.run = run
        self.seen: dict[Path, tuple[str, int, int]] = {}
        self.redone: Counter[str] = Counter()
        self.moved = time.monotonic()

    def look(self) -> None:
        """Read the notes of steps and shards that are there now."""
        notes = dict.fromkeys(self.run.glob("round-*/*.step.json"), "step")
        notes |= dict.fromkeys(self.run.glob("round-*/*.partials/[0-9]*.json"), "shard")
        notes |= dict.fromkeys(self.run.glob("store/shards/*.json"), "store_shard")
        for path, kind in notes.items():
            now = (kind, path.stat().st_mtime_ns, json.loads(path.read_text()).get("published", 1))
            if self.seen.get(path, now) != now:
                self.redone[kind] += 1
                say(f"REDONE {kind} {path.relative_to(self.run)}")
            if path not in self.seen:
                self.moved = time.monotonic()
            self.seen[path] = now
        for path in self.seen.keys() - notes.keys():
            self.redone[self.seen[path][0]] += 1
            say(f"GONE {path.relative_to(self.run)}")
            del self.seen[path]

    def twice(self) -> int:
        """Shards that were published more than once."""
        return sum(published > 1 for *_, published in self.seen.values())

    def phase(self) -> str:
        """Where the harvest is: its latest step of PHASES, with the round."""
        said = [line["message"] for line in read_log(Location.of(self.run))]
        # What was done before is no phase. The driver mines once the last step has logged its seconds.
        entered = [found for message in said if (found := STEP_LINE.fullmatch(message)) and found["step"] in STEPS]
        steps = [each for each in entered if each["began"] or STEPS[each["step"]] == "operating-point"]
        if not steps:
            return "prepare 0"
        last = steps[-1]
        return f"{STEPS[last['step']] if last['began'] else 'mining'} {last['round']}"


class Harvest:
    """jobs/harvest.py on the cluster, started again whenever it was killed or gave up."""

    def __init__(self, address: str, config: Path, run: Path) -> None:
        run.mkdir(parents=True)
        self.run, self.log_bytes = run, 0
        self.command = [sys.executable, "jobs/harvest.py", "--config", str(config), "--run", str(run)]
        self.env = {**os.environ, "RAY_ADDRESS": address, "OMP_NUM_THREADS": "1"}
        self.output = (run.parent / f"{run.name}.out").open("w")
        self.restarts = self.gave_up = 0
        self.driver = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        self.killed, log = False, self.run / "log.jsonl"
        self.log_bytes = log.stat().st_size if log.is_file() else 0
        return subprocess.Popen(
            self.command, cwd=ROOT, env=self.env, stdout=self.output, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip

    def awake(self) -> bool:
        """Whether the driver has logged anything since it was started last."""
        log = self.run / "log.jsonl"
        return log.is_file() and log.stat().st_size > self.log_bytes

    def kill(self) -> None:
        """SIGKILL to the driver."""
        self.killed = True
        os.killpg(self.driver.pid, signal.SIGKILL)
        self.driver.wait()

    def over(self) -> bool:
        """Whether it has ended well; one that has not is started again."""
        code = self.driver.poll()
        if code:
            if code == 2:
                raise SystemExit(f"the settings are refused; {self.output.name} says why")
            if not self.killed:
                self.gave_up += 1
                say(f"the driver gave up with exit code {code}; {self.output.name} says why")
            self.restarts += 1
            self.driver = self._start()
        return code == 0

    def end(self) -> None:
        """Leave no driver behind."""
        if self.driver.poll() is None:
            self.kill()
        self.output.close()


class Killer:
    """Kills dealt over the phases of a harvest, each at a random moment of its phase."""

    def __init__(self, kills: int, seconds: dict[str, float], rng: random.Random) -> None:
        self.seconds, self.rng = seconds, rng
        self.left = dealt(kills, list(seconds), rng)
        self.order = list(seconds)
        self.due: tuple[str, float] | None = None
        self.done: list[dict[str, Any]] = []

    def act(self, phase: str, nodes: Nodes, harvest: Harvest) -> None:
        """Kill, if it is time to."""
        kinds = self._wanted(phase)
        if not kinds or not harvest.awake():
            return
        native = PHASES[phase.split()[0]]
        victims = nodes.workers(native) if native != "driver" else []
        if native != "driver" and not any("__init__" not in title(process) for _, process in victims):
            return  # nobody is at work yet, or again
        if self.due is None or self.due[0] != phase:
            wait_s = self.rng.uniform(0, min(LONGEST_WAIT_S, AT_WORK * self.seconds[phase]))
            self.due = (phase, time.monotonic() + wait_s)
        if time.monotonic() < self.due[1]:
            return
        self.due = None
        kind = kinds.pop(0)
        if kind == "driver":
            harvest.kill()
        elif kind == "node":
            nodes.lose(self.rng.choice(victims)[0], self.rng.uniform(1, 8))
        else:
            kill(self.rng.choice(victims)[1])
        self.done.append({"phase": phase, "kind": kind})
        say(f"kill {len(self.done)}: {kind} in {phase}")

    def _wanted(self, phase: str) -> list[str]:
        """What is to be killed in this phase, with what earlier phases were too short for."""
        if phase not in self.left:
            return []
        for earlier in self.order[: self.order.index(phase)]:
            late, self.left[earlier] = self.left[earlier], []
            native = PHASES[phase.split()[0]]
            self.left[phase] += [kind if kind in ("node", "driver") and native != "driver" else native for kind in late]
        return self.left[phase]


def dealt(kills: int, phases: list[str], rng: random.Random) -> dict[str, list[str]]:
    """What to kill in each phase: what runs there, then nodes and drivers here and there."""
    natives = {phase: PHASES[phase.split()[0]] for phase in phases}
    # Trials are over in seconds, so that one may come too late.
    left = {phase: [kind] * (2 if kind == "trial" else 1) for phase, kind in natives.items()}
    places = [phase for phase, kind in natives.items() if kind != "driver"]
    rng.shuffle(places)
    for i in range(max(0, kills - sum(map(len, left.values())))):
        left[places[i % len(places)]].append(("node", "driver")[i % 2])
    return left


def main() -> int:
    """An undisturbed harvest, a disturbed one, and what they share."""
    options = parse()
    rng = random.Random(options.seed)  # noqa: S311
    folder = options.run or Path(tempfile.mkdtemp(prefix="chaos-"))
    with ray_nodes(options.nodes, cpus=2) as nodes:
        quiet = harvested(nodes, options.config, folder / "quiet", None)
        killer = Killer(options.kills, phase_seconds(folder / "quiet"), rng)
        outcome = harvested(nodes, options.config, folder / "disturbed", killer)
    outcome |= compared(folder / "quiet", folder / "disturbed") | {"minutes_undisturbed": quiet["minutes"]}
    print(json.dumps(outcome, indent=1))
    if options.json:
        options.json.write_text(json.dumps(outcome, indent=1) + "\n")
    broken = broken_promises(outcome, options.kills)
    for promise in broken:
        print(f"BROKEN: {promise}")
    return int(bool(broken))


def harvested(nodes: Nodes, config: Path, run: Path, killer: Killer | None) -> dict[str, Any]:
    """One harvest to its end, and what was counted on the way."""
    say(f"{run.name}: begins")
    began, journal = time.monotonic(), Journal(run)
    harvest, phase = Harvest(nodes.cluster.address, config, run), ""
    try:
        while not harvest.over():
            time.sleep(0.1)
            nodes.mend()
            journal.look()
            if journal.phase() != phase:
                phase = journal.phase()
                say(f"{run.name}: {phase}")
            if killer:
                killer.act(phase, nodes, harvest)
            if time.monotonic() - journal.moved > QUIET_S:
                raise SystemExit(f"{run}: hangs in {phase}; {harvest.output.name} may say why")
    finally:
        harvest.end()
    journal.look()
    done = killer.done if killer else []
    return {
        "kills": len(done),
        "kills_by_kind": dict(Counter(kill["kind"] for kill in done)),
        "kills_by_phase": dict(Counter(kill["phase"] for kill in done)),
        "shards_published_twice": journal.twice(),
        "finished_shards_redone": journal.redone["shard"] + journal.redone["store_shard"],
        "steps_redone": journal.redone["step"],
        **Counter(f"{kind}s" for kind, *_ in journal.seen.values()),
        "driver_restarts": harvest.restarts,
        "driver_gave_up": harvest.gave_up,
        "minutes": (time.monotonic() - began) / 60,
    }


def phase_seconds(run: Path) -> dict[str, float]:
    """How long each phase took, in their order; what no step tells of counts as ten seconds or half a one."""
    took = {}
    for note in run.glob("round-*/*.step.json"):
        step = json.loads(note.read_text())
        took[f"{step['step']} {step['round']}"] = step["seconds"]
    rounds = 1 + max(int(name.split()[1]) for name in took)
    return {"prepare 0": 10.0} | {
        f"{step} {k}": took.get(f"{step} {k}", 0.5) for k in range(rounds) for step in OF_A_ROUND
    }


def compared(quiet: Path, disturbed: Path) -> dict[str, Any]:
    """Whether the tables are equal, and how much lies in them."""
    one, other = Location.of(quiet), Location.of(disturbed)
    equal = {name: same(one, other, name, keys) for name, keys in TABLES.items()}
    final = json.loads((disturbed / "summary.json").read_text())
    return {
        "equal": all(equal.values()),
        "equal_tables": equal,
        "harvested_by_round": [row["harvested"] for row in final["rounds"]],
        "marks_left": len(list(disturbed.glob("round-*/*.partials/begun-*"))),
        "run_ids_equal": final["run_id"] == json.loads((quiet / "summary.json").read_text())["run_id"],
    }


def broken_promises(outcome: dict[str, Any], kills: int) -> list[str]:
    """In words; none where all were kept."""
    least = {"actor": 2, "trainer": 2, "trial": 2, "node": 2, "driver": 3}
    by_kind = outcome["kills_by_kind"]
    return [
        *([] if outcome["kills"] >= kills else [f"only {outcome['kills']} kills before the harvest was over"]),
        *(f"fewer than {n} kills of a {kind}" for kind, n in least.items() if by_kind.get(kind, 0) < n),
        *([] if outcome["equal"] else ["harvest or ledger differ"]),
        *([] if all(outcome["harvested_by_round"]) else ["a round harvested nothing: equality says little"]),
        *(
            f"{name}: {outcome[name]}"
            for name in (
                "shards_published_twice",
                "finished_shards_redone",
                "steps_redone",
                "marks_left",
                "driver_gave_up",
            )
            if outcome[name]
        ),
    ]


def say(text: str) -> None:
    """A line with the time."""
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures there too")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of what is killed when")
    parser.add_argument("--config", type=Path, default=Path(__file__).with_name("chaos.yaml"))
    parser.add_argument("--nodes", type=int, default=3, help="beside the head")
    parser.add_argument("--run", type=Path, help="a folder for both runs (default: a temporary one)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
