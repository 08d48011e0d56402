"""What the tests of engines share: a run of many short trials, the tables of one process, and their comparison."""

from __future__ import annotations

import csv
import os
import pathlib
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent


# How long all trials of the run take together, about.
TRIAL_SECONDS = 15


class Failure(Exception):
    """A test that did not hold."""


def require(holds, message):
    """Ends the test with the message unless the condition holds."""
    if not holds:
        raise Failure(message)


def program():
    """The program to test: the first argument, or that of `cargo build --release`."""
    given = [word for word in sys.argv[1:] if not word.startswith("-")]
    path = pathlib.Path(given[0] if given else ROOT / "target/release/flowgauge").resolve()
    if not path.exists():
        sys.exit(f"{path}: there is no such program; run `cargo build --release` first")
    return str(path)


def main(name, test):
    """Runs one test in a temporary folder: status 0 if it holds, or if the machine does not allow it, which is said."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix=f"flowgauge-{name}-") as folder:
        try:
            test(Runs(program(), pathlib.Path(folder)))
        except Failure as failure:
            print(f"{name}: FAILED: {failure}", file=sys.stderr)
            return 1
        except Unavailable as why:
            print(f"{name}: skipped: {why}")
            return 0
    print(f"{name}: passed in {time.monotonic() - began:.0f} s")
    return 0


class Unavailable(Exception):
    """The machine does not allow a test."""


def apt(*packages):
    """Installs Debian packages that are missing."""
    missing = [p for p in packages if subprocess.run(["dpkg", "-s", p], capture_output=True).returncode]
    if not missing:
        return
    if not shutil.which("apt-get") or os.geteuid() != 0:
        raise Unavailable(f"{', '.join(missing)} are not installed, and only root on Debian can install them here")
    for command in (["apt-get", "update"], ["apt-get", "install", "-y", "--no-install-recommends", *missing]):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode and command[1] == "install":
            raise Unavailable(f"{' '.join(command)} failed: {done.stderr.strip().splitlines()[-1:]}")


def venv(name, *packages):
    """The Python of a virtual environment below target/ with these packages of PyPI."""
    folder = ROOT / "target" / f"venv-{name}"
    python = folder / "bin/python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    done = subprocess.run(
        [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise Unavailable(f"pip cannot install {', '.join(packages)}: {done.stderr.strip().splitlines()[-1:]}")
    return str(python)


class Runs:
    """Runs of one config in a folder, and what one process alone makes of it."""

    def __init__(self, program, folder, samples=24):
        self.program, self.folder = program, folder
        values = [((7 * i) % 11 - 5) / 4 for i in range(8 * samples)]
        header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({samples}, 8), }}"
        header += " " * (63 - (10 + len(header)) % 64) + "\n"
        data = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode()
        (folder / "x.npy").write_bytes(data + struct.pack(f"<{len(values)}f", *values))
        self.config = folder / "config.yaml"
        self.write_config(40)
        self._whole = None

    def write_config(self, steps):
        """Writes the config: so many steps make a trial as long as the tests need it."""
        card = ROOT / "models/mixture/card.yaml"
        self.config.write_text(
            "name: engines\n"
            "estimators: [exact, {hutchinson: {probes: 2}}]\n"
            f"solvers: [{{rk4: {{steps: {steps}}}}}]\n"
            "chunk: 1\n"
            "likelihood:\n"
            f"  - {{model: {card}, data: x.npy, profile: 2}}\n"
            "samples:\n"
            f"  - {{model: {card}, samplers: [{{heun: {{steps: 60}}}}], count: 6, reference: x.npy, metrics: [frechet]}}\n"
        )

    def command(self, out, *more):
        """The command of one process of a run."""
        return [
            self.program, "run", str(self.config), "--out", str(self.folder / out), "--threads", "1", "--no-check", *more
        ]

    def start(self, out, *more, before=(), env=None):
        """Starts one process of a run. Its messages go to a file beside the run."""
        log = open(self.folder / f"{out}.log", "ab")
        return subprocess.Popen(
            [*before, *self.command(out, *more)],
            cwd=self.folder,
            stdout=log,
            stderr=log,
            env={**os.environ, **(env or {})},
        )

    def log(self, out):
        """The messages of the processes of a run."""
        path = self.folder / f"{out}.log"
        return path.read_text() if path.exists() else ""

    def whole(self):
        """The run of one process."""
        if self._whole is None:
            # The trials of any machine and any build shall take some seconds together.
            self.write_config(max(40, round(40 * TRIAL_SECONDS / self._run_whole("trial"))))
            took = self._run_whole("whole")
            self._whole = self.folder / "whole"
            print(f"one process: {len(self.finished('whole'))} trials in {took:.1f} s", flush=True)
        return self._whole

    def _run_whole(self, out):
        """The seconds of all trials of a run by one process."""
        done = subprocess.run(self.command(out, "--quiet"), cwd=self.folder, capture_output=True, text=True)
        require(done.returncode == 0, f"one process alone fails: {done.stderr}")
        self.seconds = sum(float(s) for s in re.findall(r'"seconds":([0-9.e-]+)', (self.folder / out / "journal.jsonl").read_text()))
        return self.seconds

    def finished(self, out):
        """How often the journals of a run say that each trial was finished."""
        counts = {}
        for journal in (self.folder / out).glob("journal*.jsonl"):
            for line in journal.read_text().splitlines(keepends=True):
                if line.endswith("\n") and '"event":"finished"' in line:
                    trial = line.split('"trial":"')[1].split('"')[0]
                    counts[trial] = counts.get(trial, 0) + 1
        return counts

    def report(self, *outs):
        """Merges the directories of a run into the report of each."""
        places = [str(self.folder / out) for out in outs]
        done = subprocess.run([self.program, "report", *places], cwd=self.folder, capture_output=True, text=True)
        require(done.returncode == 0, f"report fails: {done.stderr}")
        return done.stderr

    def same_tables(self, out):
        """Compares the tables of a run with those of one process: byte for byte without measured times, and
        `samples.csv` byte for byte as it is."""
        whole, other = self.whole() / "tables", self.folder / out / "tables"
        names, others = (sorted(p.name for p in folder.iterdir()) for folder in (whole, other))
        require(names == others, f"{out}: the tables are {others}, and those of one process {names}")
        for name in names:
            require(
                without_times(whole / name) == without_times(other / name), f"{out}: tables/{name} is not that of one process"
            )
        samples = "samples.csv"
        require((whole / samples).read_bytes() == (other / samples).read_bytes(), f"{out}: tables/{samples} differs")
        counts, total = self.finished(out), len(self.finished("whole"))
        require(len(counts) == total, f"{out}: {len(counts)} of {total} trials are finished")
        return sum(n > 1 for n in counts.values())


def without_times(path):
    """A table as bytes, without the columns that hold measured times."""
    rows = list(csv.reader(path.read_text().splitlines()))
    kept = [i for i, column in enumerate(rows[0]) if "seconds" not in column and column != "cost"]
    return "\n".join(",".join(row[i] for i in kept) for row in rows).encode()


def wait_until(what, ready, seconds=300.0):
    """Waits until something holds."""
    began = time.monotonic()
    while not ready():
        require(time.monotonic() - began < seconds, f"it never came so far: {what}")
        time.sleep(0.02)
