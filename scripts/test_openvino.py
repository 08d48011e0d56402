"""Compares `--provider openvino` with the CPU: see `scripts/test-openvino`.

    python scripts/test_openvino.py PROGRAM        # needs only Python
"""

import csv
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROGRAM = Path(sys.argv[1]).resolve()
ROOT = Path(__file__).resolve().parent.parent
MODELS = ROOT / "models"

# Log-likelihoods may differ so much, in units of the CPU's where that is beyond 1.
AGREEMENT = 1e-4

# Model, samples, estimator, solver, batch: every estimator that calls a graph of its own, and batches that fill no vector.
CASES = [
    ("digits", 12, "exact", "{heun: {steps: 6}}", None),
    ("digits", 12, "exact", "{heun: {steps: 6}}", 1),
    ("digits", 12, "exact", "{heun: {steps: 6}}", 5),
    ("digits", 12, "{hutchinson: {probes: 4}}", "{heun: {steps: 6}}", None),
    ("digits", 12, "{na-hutch++: {matvecs: 12}}", "{heun: {steps: 6}}", None),
    ("digits", 12, "{learned: {head: stad}}", "{heun: {steps: 6}}", None),
    ("digits", 12, "{flow-map: {map: shortcut, steps: 4}}", None, None),
    ("moons", 64, "exact", "{heun: {steps: 16, grid: log-snr}}", None),
    ("moons", 64, "exact", "{heun: {steps: 16, grid: log-snr}}", 7),
    ("moons", 64, "exact", "{dopri5: {rtol: 1e-5, atol: 1e-5}}", None),
    ("moons", 64, "{learned: {head: stad}}", "{heun: {steps: 16, grid: log-snr}}", None),
    ("mixture", 32, "{hutch++: {matvecs: 6}}", "{heun: {steps: 16}}", None),
    ("mixture", 32, "closed-form", "{heun: {steps: 16}}", None),
]

CONFIG = """name: openvino
estimators: [exact, {hutchinson: {probes: 2}}, {learned: {head: stad}}]
solvers: [{heun: {steps: 6}}]
likelihood:
  - {model: MODELS/digits/card.yaml, data: MODELS/digits/heldout.npy, samples: 8}
  - {model: MODELS/moons/card.yaml, data: MODELS/moons/heldout.npy, samples: 16}
samples:
  - {model: MODELS/digits/card.yaml, samplers: [{heun: {steps: 4}}], count: 64, reference: MODELS/digits/heldout.npy,
     floor: MODELS/digits/train.npy, extractor: MODELS/digits/features.onnx, metrics: [frechet]}
"""

failures = []


def hold(what: str, holds: bool, shown: str = "") -> None:
    print(f"{'ok    ' if holds else 'FAILED'} {what}{': ' + shown if shown else ''}", flush=True)
    if not holds:
        failures.append(what)


def run(*arguments, **environment) -> subprocess.CompletedProcess:
    words = [str(PROGRAM), *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, env={**os.environ, **environment}, stdin=subprocess.DEVNULL)


def first_rows(source: Path, count: int, target: Path) -> None:
    """The first rows of a .npy file."""
    bytes_ = source.read_bytes()
    length = struct.unpack("<H", bytes_[8:10])[0]
    header, body = bytes_[10 : 10 + length].decode(), bytes_[10 + length :]
    shape = [int(n) for n in re.search(r"'shape': \(([^)]*)\)", header).group(1).split(",") if n.strip()]
    cut = header.replace(f"({shape[0]},", f"({count},", 1).rstrip().ljust(length - 1) + "\n"
    target.write_bytes(bytes_[:10] + cut.encode() + body[: len(body) // shape[0] * count])


def likelihoods(at: Path, provider: str, case, *more) -> tuple[list[float], float]:
    model, samples, estimator, solver, batch = case
    data, out = at / f"{model}-{samples}.npy", at / f"{provider}.csv"
    first_rows(MODELS / model / "heldout.npy", samples, data)
    arguments = ["likelihood", "--model", MODELS / model / "card.yaml", "--data", data, "--divergence", estimator, "--out", out]
    arguments += ["--solver", solver] if solver else []
    arguments += ["--batch", batch] if batch else []
    began = time.monotonic()
    done = run(*arguments, "--quiet", "--provider", provider, *more)
    seconds = time.monotonic() - began
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, case))} --provider {provider}: status {done.returncode}\n{done.stderr}")
    with open(out, newline="") as file:
        return [float(row["log_likelihood"]) for row in csv.DictReader(file)], seconds


def agreement(at: Path) -> None:
    for case in CASES:
        (cpu, before), (openvino, after) = likelihoods(at, "cpu", case), likelihoods(at, "openvino", case)
        gap = max(abs(a - b) / max(1.0, abs(a)) for a, b in zip(cpu, openvino, strict=True))
        model, samples, estimator, solver, batch = case
        what = f"{model}, {samples} samples, {estimator}, {solver or 'no solver'}, batch {batch or 'auto'}"
        hold(what, gap <= AGREEMENT, f"largest difference {gap:.1e}; {before:.1f} s on the CPU, {after:.1f} s here")


def counts(at: Path) -> None:
    config, out = at / "config.yaml", at / "run"
    config.write_text(CONFIG.replace("MODELS", str(MODELS)))
    done = run("run", config, "--out", out, "--provider", "openvino", "--quiet")
    hold("a run with likelihoods, samples and features", done.returncode == 0, done.stderr.strip())
    told = dict(json.loads((out / "plan.json").read_text())["environment"])
    hold("the plan says the provider", told.get("execution provider") == "openvino")
    nodes = {key.removeprefix("nodes of "): value for key, value in told.items() if key.startswith("nodes of ")}
    for graph, value in nodes.items():
        here, elsewhere = re.match(r"OpenVINOExecutionProvider: (\d+), CPUExecutionProvider: (\d+)", value).groups()
        hold(f"nodes of {Path(graph).parent.name}/{Path(graph).name}", int(here) >= 1, value)
        hold("    none of them on the CPU", elsewhere == "0")
    expected = ["denoiser.onnx", "denoiser.onnx, its Jacobian products", "stad.onnx", "features.onnx", "velocity.onnx"]
    names = [Path(graph).name for graph in nodes]
    hold("every graph that ran is counted", all(name in names for name in expected), ", ".join(names))
    again = run("run", config, "--out", out, "--provider", "openvino", "--quiet")
    hold("the run is whole and goes on", again.returncode == 0, again.stderr.strip())


def refusals(at: Path) -> None:
    about = run("doctor", "--provider", "openvino")
    hold("doctor runs its known answer there", about.returncode == 0 and "OpenVINOExecutionProvider: 1" in about.stdout)
    hold("doctor says that it is available", "provider openvino: available" in about.stdout)
    library = Path(re.search(r"ONNX Runtime \S+ from (.*?) \(", about.stdout).group(1))
    data = at / "digits-12.npy"

    def refused(what: str, words: list[str], *arguments) -> None:
        out = at / "refused.csv"
        done = run("likelihood", "--out", out, "--quiet", "--provider", "openvino", *arguments)
        said = done.stderr.strip()
        fine = done.returncode == 2 and not out.exists() and all(word in said for word in words)
        hold(f"refused: {what}", fine, f"status {done.returncode}: {said}")

    digits = ["--model", MODELS / "digits/card.yaml", "--data", data, "--divergence", "exact", "--solver", "{heun: {steps: 2}}"]
    for broken in [
        "libonnxruntime_providers_openvino.so",
        "libopenvino.so.2541",
        "libopenvino_intel_cpu_plugin.so",
        "libopenvino_onnx_frontend.so.2541",
    ]:
        # What does not say which library it misses still says which whole set belongs together.
        words = ["--provider openvino", "cpu_plugin" in broken and "onnxruntime-openvino" or broken]
        for how in ("broken", "missing"):
            folder = at / f"{broken} {how}"
            folder.mkdir()
            for file in library.parent.glob("lib*"):
                if file.name != broken:
                    os.link(file, folder / file.name) if same_disk(file, folder) else shutil.copy(file, folder)
            if how == "broken":
                (folder / broken).write_text("not a library")
            refused(f"{broken} {how}", words, *digits, "--ort-lib", folder / library.name)
            shutil.rmtree(folder)
    points = at / "points.npy"
    first_rows(ROOT / "tests/data/gaussian_map/points.npy", 2, points)
    words = ["velocity.onnx", "--provider openvino", "none of its nodes runs there", "OpenVINOExecutionProvider: 0"]
    double = ["--model", ROOT / "tests/data/gaussian_map/card.yaml", "--data", points]
    refused("a network in double precision", words, *double, "--divergence", "exact", "--solver", "{heun: {steps: 2}}")
    config, out = at / "double.yaml", at / "double"
    entry = f"{{model: {double[1]}, data: {points}}}"
    config.write_text(f"name: double\nestimators: [exact]\nsolvers: [{{heun: {{steps: 2}}}}]\nlikelihood: [{entry}]\n")
    done = run("run", config, "--out", out, "--quiet", "--provider", "openvino")
    said = done.stderr.strip()
    fine = done.returncode == 2 and not out.exists() and all(word in said for word in words)
    hold("refused: a run of it, which leaves nothing behind", fine, f"status {done.returncode}: {said}")


def same_disk(file: Path, folder: Path) -> bool:
    return file.stat().st_dev == folder.stat().st_dev


def main() -> None:
    about = run("doctor", "--provider", "openvino")
    if "could not be fetched" in about.stderr:
        print(f"test-openvino: skipped: {about.stderr.strip()}")
        return
    with tempfile.TemporaryDirectory() as folder:
        at = Path(folder)
        agreement(at)
        counts(at)
        refusals(at)
    print(f"{len(failures)} failures")
    sys.exit(1 if failures else 0)


main()
