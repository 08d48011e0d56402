"""Runs every config of configs/papers on stand-ins: only the published weights are missing.

    python scripts/test_papers.py FLOWGAUGE [CONFIG ...]

Cards, configs and presets are copied to a temporary folder. Each file that they name gets a stand-in there with the same inputs,
outputs and shapes and with random weights of a few kilobytes; extractors have 8 features. The configs run with few samples and are
otherwise unchanged. Every trial must succeed and leave finite numbers, and every claim must find its row. No number means anything.
Four or five minutes of processor time, most of it for steindiff-imagenet64 and steindiff-cifar10.
"""

import csv
import hashlib
import json
import math
import pathlib
import shutil
import subprocess
import sys
import tempfile

import numpy as np
import yaml

from onnx_graph import WHOLE, Graph

ROOT = pathlib.Path(__file__).resolve().parent.parent
FEATURES, LOGITS, CLASSES = 8, 10, {"edm-cifar10-cond": 10, "edm-imagenet64": 1000, "dit-256": 1000}
# Differences of samplers need 40 samples of each and a reference of as many; where no claim is about one, fewer do.
DIFFERENCES, FEW, IMAGES = 40, {"edm-cifar10": 6}, 12


def planes(graph, rows):
    """[N, C] as [N, C, 1, 1]."""
    return graph("Unsqueeze", rows, np.array([2, 3]))


def network(folder, card, rng):
    """A convolution of the state, shifted by the time and the class, between -1 and 1."""
    spec, (channels, *size) = card["network"], card["shape"]
    width = max([channels, *(spec.get("variance_channels") or [0])])
    graph, x, time = Graph(), spec["inputs"]["x"], spec["inputs"]["time"]
    inputs = {x: ["N", channels, *size], time: ["N"]}
    h = graph("Conv", x, 0.2 * rng.normal(size=(width, channels, 3, 3)), pads=[1, 1, 1, 1])
    share = graph("Div", time, graph("Add", graph("Abs", time), np.array([3.0])))
    h = graph("Add", h, planes(graph, graph("Mul", graph.column(share), rng.normal(size=(1, width)))))
    for condition in spec.get("conditions", {}).values():
        classes, table = CLASSES[card["name"]], 0.3 * rng.normal(size=(CLASSES[card["name"]] + 1, width))
        if None in condition:              # the key `null` of YAML
            inputs[condition["input"]] = (WHOLE, ["N"])
            rows = graph("Gather", table, condition["input"])
        else:
            inputs[condition["input"]] = ["N", classes]
            rows = graph("MatMul", condition["input"], table[:classes])
        h = graph("Add", h, planes(graph, rows))
    for name in spec.get("constants", {}):
        inputs[name] = ["N"]
        h = graph("Add", h, planes(graph, graph("Mul", graph.column(name), rng.normal(size=(1, width)))))
    outputs = {spec["output"]: ["N", width, *size]}
    graph("Tanh", h, name=spec["output"])
    for flow_map in card.get("flow_maps", {}).values():
        assert flow_map["file"] == spec["file"], "the stand-in is one graph for both"
        divergence = flow_map["outputs"]["divergence"]
        mean = graph("ReduceMean", spec["output"], np.array([1, 2, 3]), keepdims=0)
        graph("Mul", mean, np.array([1e-3]), name=divergence)
        outputs[divergence] = ["N"]
    graph.save(folder / spec["file"], inputs, outputs)


def decoder(folder, card, rng):
    spec, (channels, *size), (colours, *image) = card["latent"]["decoder"], card["shape"], card["latent"]["shape"]
    graph = Graph()
    large = graph("Resize", spec["input"], "", np.array([1, 1, image[0] / size[0], image[1] / size[1]]), mode="nearest")
    h = graph("Conv", large, 0.5 * rng.normal(size=(colours, channels, 1, 1)))
    graph("Tanh", h, name=spec["output"])
    graph.save(folder / spec["file"], {spec["input"]: ["N", channels, *size]}, {spec["output"]: ["N", colours, *image]})


def extractor(preset, rng):
    spec = yaml.safe_load(preset.read_text())
    graph, shape = Graph(), spec["input"]["shape"]
    pooled = graph("Flatten", graph("AveragePool", "x", kernel_shape=[s // 4 for s in shape[1:]], strides=[s // 4 for s in shape[1:]]))
    outputs = {spec["outputs"]["features"]: ["N", FEATURES]}
    graph("MatMul", pooled, rng.normal(size=(shape[0] * 16, FEATURES)), name=spec["outputs"]["features"])
    if "logits" in spec["outputs"]:
        graph("MatMul", spec["outputs"]["features"], rng.normal(size=(FEATURES, LOGITS)), name=spec["outputs"]["logits"])
        outputs[spec["outputs"]["logits"]] = ["N", LOGITS]
    file = preset.parent / spec["file"]
    graph.save(file, {"x": ["N", *shape]}, outputs)
    # The record that scripts/export_extractors.py writes beside an export.
    record = {"sha256": hashlib.sha256(file.read_bytes()).hexdigest(), "weights_sha256": spec["weights"]["sha256"], "torch": "none"}
    file.with_name(f"{file.name}.json").write_text(json.dumps(record))


def images(path, count, shape, rng):
    np.save(path, rng.integers(0, 256, (count, *shape), dtype=np.uint8))


def stand_ins(folder, configs):
    rng = np.random.default_rng(3)
    shutil.copytree(ROOT / "configs/papers", folder / "configs/papers")
    shutil.copytree(ROOT / "extractors", folder / "extractors", ignore=shutil.ignore_patterns("*.onnx"))
    shutil.copytree(ROOT / "models/papers", folder / "models/papers", ignore=shutil.ignore_patterns("*.onnx*"))
    for card in (folder / "models/papers").glob("*/card.yaml"):
        spec = yaml.safe_load(card.read_text())
        network(card.parent, spec, rng)
        if "latent" in spec:
            decoder(card.parent, spec, rng)
    entries = [(c, e) for c in configs for kind in ("likelihood", "samples") for e in yaml.safe_load(c.read_text()).get(kind, [])]
    for name in sorted({e["extractor"] for _, e in entries if "extractor" in e}):
        extractor(folder / "extractors" / f"{name}.yaml", rng)
    (folder / "data/papers").mkdir(parents=True)
    for config, entry in entries:
        card = yaml.safe_load((folder / "configs/papers" / entry["model"]).read_text())
        shape = card["latent"]["shape"] if "latent" in card else card["shape"]
        # One file may be the reference of several configs.
        file = folder / "configs/papers" / entry.get("data", entry.get("reference"))
        if claimed(config) or not file.exists():
            images(file, DIFFERENCES if claimed(config) else IMAGES, shape, rng)


def claimed(config):
    """The features whose differences of samplers the config's claims are about; None for those of every entry."""
    claims = yaml.safe_load(config.with_name(f"{config.stem}-claims.yaml").read_text())["claims"]
    return {c["where"].get("features") for c in claims if c["table"] == "contrasts"}


def few(config):
    """Options that lower the numbers of samples, and nothing else but the splits of inception scores."""
    spec, options, differences = yaml.safe_load(config.read_text()), [], claimed(config)
    for i in range(len(spec.get("likelihood", []))):
        options += ["--set", f"likelihood.{i}.samples=2"]
    for i, entry in enumerate(spec.get("samples", [])):
        many = None in differences or entry["extractor"] in differences
        options += ["--set", f"samples.{i}.count={DIFFERENCES if many else FEW.get(config.stem, 4)}"]
        for j, metric in enumerate(entry["metrics"]):
            if metric == "inception-score":
                options += ["--set", f"samples.{i}.metrics.{j}={{inception-score: {{splits: 2}}}}"]
    return options


def table(folder, name):
    path = folder / "tables" / f"{name}.csv"
    return list(csv.DictReader(path.open())) if path.exists() else []


def run(program, folder, config):
    out = folder / "reports" / config.stem
    call = [program, "run", folder / "configs/papers" / config.name, "--out", out, "--no-check", "--quiet", "--progress", "none"]
    said = subprocess.run([*call, *few(config)], cwd=folder, capture_output=True, text=True)
    assert said.returncode == 0, f"{config.name}: status {said.returncode}\n{said.stdout[-2000:]}\n{said.stderr[-3000:]}"
    spec = yaml.safe_load(config.read_text())
    densities, statistics = table(out, "summary"), table(out, "metrics")
    wanted = sum(len(e["estimators"]) for e in spec.get("likelihood", []))
    assert len(densities) == wanted, f"{config.name}: {len(densities)} rows of densities, {wanted} wanted"
    wanted = sum(len(e["samplers"]) * len(e["metrics"]) for e in spec.get("samples", []))
    assert len(statistics) == wanted, f"{config.name}: {len(statistics)} rows of statistics, {wanted} wanted"
    for row, column in [*((r, "nats") for r in densities), *((r, "value") for r in statistics)]:
        assert math.isfinite(float(row[column])), f"{config.name}: {row}"
    return out, len(densities), len(statistics)


def claims_find_their_rows(program, folder, out, config):
    """A stand-in fails a claim or leaves it inconclusive; it must not be a claim about no row."""
    claims = folder / "configs/papers" / f"{config.stem}-claims.yaml"
    said = subprocess.run([program, "gate", out, "--claims", claims], capture_output=True, text=True)
    assert said.returncode in (0, 1, 3), f"{claims.name}: status {said.returncode}\n{said.stdout}\n{said.stderr}"
    return len(yaml.safe_load(claims.read_text())["claims"])


def main():
    program, names = pathlib.Path(sys.argv[1]).resolve(), sys.argv[2:]
    configs = [c for c in sorted((ROOT / "configs/papers").glob("*.yaml")) if not c.stem.endswith("-claims")]
    configs = [c for c in configs if not names or c.stem in names]
    assert configs, f"no config of configs/papers is named {' or '.join(names)}"
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        stand_ins(folder, configs)
        for config in configs:
            out, densities, statistics = run(program, folder, config)
            claims = claims_find_their_rows(program, folder, out, config)
            print(f"{config.stem}: {densities} rows of densities, {statistics} of statistics, {claims} claims", flush=True)
    print("all of it runs")


if __name__ == "__main__":
    main()
