#!/usr/bin/env python3
"""Measures what `flowgauge run --claim` costs and gains: one process with and without claims, and two processes on the same run.

    python scripts/bench_claims.py [target/release/flowgauge] [--trials=24] [--seconds=1.0] [--repeats=3]

Every trial takes about that many seconds of one thread. Times are wall clock from the first trial's beginning to the last one's end,
so that neither start nor report counts; medians of the repeats, which alternate. Use a quiet machine with two processors.
"""

import json
import pathlib
import statistics
import sys
import tempfile

from engine_runs import Runs, program, require


def option(name, default):
    given = [word.split("=")[1] for word in sys.argv if word.startswith(f"--{name}=")]
    return type(default)(given[0]) if given else default


class LongTrials(Runs):
    """A run of equal likelihood trials of one sample each."""

    def write_config(self, steps):
        card = pathlib.Path(__file__).resolve().parent.parent / "models/mixture/card.yaml"
        self.config.write_text(
            "name: claims\n"
            "estimators: [exact]\n"
            f"solvers: [{{rk4: {{steps: {steps}}}}}]\n"
            "chunk: 1\n"
            f"likelihood:\n  - {{model: {card}, data: x.npy, profile: 0, budget: false}}\n"
        )


def measured(runs, out, processes, *more):
    """Wall seconds of all trials, and the seconds that the trials themselves took, added up."""
    started = [runs.start(out, "--quiet", *more) for _ in range(processes)]
    require([process.wait() for process in started] == [0] * processes, runs.log(out)[-2000:])
    lines = []
    for journal in (runs.folder / out).glob("journal*.jsonl"):
        events = [json.loads(line) for line in journal.read_text().splitlines()]
        lines += [event for event in events if event["event"] == "finished"]
    rows = sorted((runs.folder / out / "rows").iterdir(), key=lambda path: path.stat().st_mtime)
    trials = sum(event["seconds"] for event in lines)
    first = min(event["seconds"] for event in lines)
    ends = [path.stat().st_mtime for path in rows]
    wall = ends[-1] - ends[0] + first
    return wall, trials


def main():
    trials, seconds, repeats = option("trials", 24), option("seconds", 1.0), option("repeats", 3)
    with tempfile.TemporaryDirectory(prefix="flowgauge-claims-") as folder:
        runs = LongTrials(program(), pathlib.Path(folder), samples=trials)
        runs.write_config(400)
        _, took = measured(runs, "trial", 1)
        runs.write_config(max(4, round(400 * seconds * trials / took)))
        kinds = {"one process": (1,), "one process, --claim": (1, "--claim"), "two processes, --claim": (2, "--claim")}
        found = {kind: [] for kind in kinds}
        for repeat in range(repeats):
            for number, (kind, arguments) in enumerate(kinds.items()):
                found[kind].append(measured(runs, f"{number}-{repeat}", *arguments)[0])
        medians = {kind: statistics.median(walls) for kind, walls in found.items()}
        for kind, walls in found.items():
            each = ", ".join(f"{wall:.2f}" for wall in walls)
            print(f"{kind}: {medians[kind]:.2f} s for {trials} trials ({each})")
        plain, claimed, two = medians.values()
        print(f"claims cost {100 * (claimed / plain - 1):+.1f} %; two processes are {claimed / two:.2f} times as fast as one")


main()
