"""Measures whether a run is linear in time and constant in memory: many samples, many trials, many features.

    python scripts/bench_scale.py [--program target/release/flowgauge] [--sizes 1000,10000,100000] [--trials 100,1000,10000]

- Samples: one entry of log-likelihoods of the two moons (two estimators, fixed steps) on that many copies of its data
  with noise.
- Trials: a config with that many solvers that do the same work, on four samples each. Planning is also timed without
  the run.
- Statistics: the Frechet distance of two files with that many features of 2,048 dimensions.

Each line is a process of its own: wall seconds, processor seconds, and its peak memory.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent


def timed(command):
    """Wall seconds, processor seconds and the most memory in MB of a process, told by one that waits for it."""
    code = (
        "import os, resource, subprocess, sys, time; b = time.perf_counter(); "
        "r = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE); "
        "u = resource.getrusage(resource.RUSAGE_CHILDREN); "
        "sys.stderr.write(r.stderr.decode()) if r.returncode else print(time.perf_counter() - b, "
        "u.ru_utime + u.ru_stime, u.ru_maxrss / 1000); sys.exit(r.returncode)"
    )
    done = subprocess.run([sys.executable, "-c", code, *map(str, command)], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stderr}")
    return tuple(float(v) for v in done.stdout.split())


def line(what, size, figures):
    wall, cpu, memory = figures
    print(f"| {what} | {size:,} | {wall:.1f} | {cpu:.1f} | {memory:.0f} |", flush=True)


def samples(program, folder, sizes):
    held = np.load(ROOT / "models/moons/heldout.npy")
    rng = np.random.default_rng(0)
    for n in sizes:
        data = held[rng.integers(0, len(held), n)] + 0.01 * rng.standard_normal((n, held.shape[1]))
        np.save(folder / f"moons-{n}.npy", data.astype(np.float32))
        config = folder / f"samples-{n}.yaml"
        config.write_text(
            "name: samples\nestimators: [exact, {hutchinson: {probes: 1}}]\nsolvers: [{heun: {steps: 20}}]\n"
            f"likelihood:\n  - model: {ROOT}/models/moons/card.yaml\n    data: {folder}/moons-{n}.npy\n    budget: false\n"
        )
        line("samples", n, timed([program, "run", config, "--out", folder / f"samples-{n}", "--quiet"]))


def trials(program, folder, sizes):
    for n in sizes:
        config = folder / f"trials-{n}.yaml"
        # As many solvers that do the same work: tolerances that differ in their last digits.
        tolerances = [f"{1e-2 * (1 + 1e-5 * i):.8g}" for i in range(n)]
        solvers = [f"{{dopri5: {{rtol: {v}, atol: {v}}}}}" for v in tolerances]
        config.write_text(
            "name: trials\nestimators: [exact]\nsolvers:\n" + "".join(f"  - {s}\n" for s in solvers)
            + f"likelihood:\n  - model: {ROOT}/models/moons/card.yaml\n    data: {ROOT}/models/moons/heldout.npy\n"
            "    samples: 4\n    budget: false\n"
        )
        line("trials, planned", n, timed([program, "plan", config]))
        line("trials, run", n, timed([program, "run", config, "--out", folder / f"trials-{n}", "--quiet"]))
        line("trials, page again", n, timed([program, "report", folder / f"trials-{n}"]))


def features(program, folder, sizes):
    rng = np.random.default_rng(0)
    for n in sizes:
        files = [folder / f"features-{side}-{n}.npy" for side in (0, 1)]
        for path in files:
            out = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(n, 2048))
            for first in range(0, n, 1000):
                out[first : first + 1000] = rng.standard_normal((min(1000, n - first), 2048), dtype=np.float32)
            out.flush()
        command = [program, "metrics", "--generated", files[0], "--reference", files[1], "--metric", "frechet", "--quiet"]
        line("features of 2,048", n, timed([*command, "--out", folder / f"features-{n}.csv"]))
        for path in files:
            path.unlink()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", type=Path, default=ROOT / "target/release/flowgauge")
    parser.add_argument("--sizes", default="1000,10000,100000")
    parser.add_argument("--trials", default="100,1000,10000")
    parser.add_argument("--features", default="5000,10000,50000")
    options = parser.parse_args()
    numbers = [[int(v) for v in text.split(",") if v] for text in (options.sizes, options.trials, options.features)]
    print("| what | number | seconds | of processors | MB |\n|---|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as folder:
        for part, sizes in zip((samples, trials, features), numbers):
            part(options.program, Path(folder), sizes)


if __name__ == "__main__":
    main()
