"""Differentiates every given ONNX file and compares the result with its float64 references.

    python scripts/check_zoo.py [--program target/release/flowgauge] FILE.onnx|FOLDER ...
    python scripts/check_zoo.py --cost FOLDER ...        # times as well; for networks made with --bench
    python scripts/check_zoo.py --trained FILE.onnx ...  # files without references: float64 by torch, from the graph
    python scripts/check_zoo.py --summary FIGURES.json ...   # what --json wrote, one line for each network

For each file, in forward and reverse mode, it checks:
- the ONNX checker's full check passes, and all operators are of the standard domain;
- inputs and outputs are the documented ones;
- through ONNX Runtime on the CPU, batches of 1, 3 and 7 with 1 and 5 tangents run from the one graph.

Bounds: max |error| / max |reference| <= 5e-5, Frobenius <= 2e-5, primal against the plain forward <= 1e-5. Times are
process CPU time on one thread, medians over interleaved rounds, in units of the plain forward of the same batch.
Memory is the peak of a separate Python process that runs nothing else. Prints Markdown; exits 1 if a file fails.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

ROOT = Path(__file__).resolve().parent.parent
BATCHES = ([0, 1, 2], [0], [2], [2, 0, 1, 1, 2, 0, 2])
MAX, FROBENIUS, PRIMAL = 5e-5, 2e-5, 1e-5


class Failure(Exception):
    pass


def session(model):
    """A file, or its bytes, on one thread."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    # A planned block would be allocated beside the arena of the first run, which it does not need any more.
    options.enable_mem_pattern = False
    model = model if isinstance(model, bytes) else str(model)
    return ort.InferenceSession(model, options, ["CPUExecutionProvider"])


def differentiate(program, path, mode, out):
    done = subprocess.run(
        [program, "differentiate", path, "--mode", mode, "--out", out], capture_output=True, text=True, timeout=300
    )
    if done.returncode or not Path(out).exists():
        raise Failure(f"status {done.returncode}: {done.stderr.strip()[-1500:]}")


def dims(value):
    return [d.dim_param or (d.dim_value if d.HasField("dim_value") else "?") for d in value.type.tensor_type.shape.dim]


def examine(path, out, mode, wrt):
    """The graph written is standard, and has the ports that were promised."""
    onnx.checker.check_model(str(out), full_check=True)
    before, model = onnx.load(str(path)).graph, onnx.load(str(out))
    after = model.graph
    if [o.domain for o in model.opset_import] != [""] or len(model.functions):
        raise Failure(f"opset imports {[o.domain for o in model.opset_import]}, {len(model.functions)} functions")
    foreign = {n.domain for n in after.node} - {""}
    if foreign:
        raise Failure(f"operators of {foreign}")
    stored = {t.name for t in before.initializer}
    y = before.output[0]
    inputs = [i.name for i in before.input if i.name not in stored]
    outputs = [o.name for o in before.output]
    ports = {p.name: p for p in [*before.input, *before.output]}
    if mode == "jvp":
        inputs += [f"{wrt}_tangent"]
        square = dims(y) == dims(ports[wrt]) or len(dims(y)) == len(dims(ports[wrt])) and all(
            a == b or isinstance(a, str) for a, b in zip(dims(y), dims(ports[wrt]))
        )
        outputs += [f"{y.name}_tangent"] + ([f"{y.name}_quadratic"] if square else [])
    else:
        inputs += [f"{y.name}_cotangent"]
        outputs += [f"{wrt}_cotangent"]
    if [i.name for i in after.input] != inputs or [o.name for o in after.output] != outputs:
        raise Failure(f"ports {[i.name for i in after.input]} -> {[o.name for o in after.output]}, want {inputs} -> {outputs}")
    for port in [*after.input, *after.output]:
        if not port.type.tensor_type.HasField("shape"):
            raise Failure(f"{port.name} carries no shape")
        shape = dims(port)
        if port.name in ports and len(shape) != len(dims(ports[port.name])):
            raise Failure(f"{port.name} has shape {shape}, was {dims(ports[port.name])}")
        if port.name.endswith("_tangent"):
            like = dims(ports[port.name.removesuffix("_tangent")])
            if len(shape) != 1 + len(like) or isinstance(shape[0], int):
                raise Failure(f"{port.name} has shape {shape}, want [K, *{like}]")
    return len(before.node), len(after.node)


class Errors:
    """The worst so far of each kind, relative to the references."""

    def __init__(self):
        self.worst, self.broken = {}, []

    def add(self, what, value, reference, bound, frobenius=None, scale=None, where=""):
        if value.shape != reference.shape:
            raise Failure(f"{what} has shape {value.shape}, want {reference.shape} {where}")
        difference = value.astype(np.float64) - reference
        most = float(abs(difference).max() / (abs(reference).max() if scale is None else scale))
        self.worst[what] = max(most, self.worst.get(what, 0.0))
        if not most <= bound:
            self.broken.append(f"{what} is off by {most:.1e} (bound {bound:.0e}) {where}")
        if frobenius:
            total = float(np.linalg.norm(difference) / np.linalg.norm(reference))
            self.worst[what + "_frobenius"] = max(total, self.worst.get(what + "_frobenius", 0.0))
            if not total <= frobenius:
                self.broken.append(f"{what} is off by {total:.1e} (Frobenius, bound {frobenius:.0e}) {where}")


def check(program, path, arrays, folder):
    graph = onnx.load(str(path)).graph
    stored = {t.name for t in graph.initializer}
    ports = {i.name: dims(i) for i in graph.input if i.name not in stored}
    y_name, wrt = graph.output[0].name, "x" if "x" in ports else next(iter(ports))
    batched = {name for name, shape in ports.items() if shape and isinstance(shape[0], str)}
    plain, errors, result = session(path), Errors(), {}
    # How far the network as exported is from float64: part of every error below, and not differentiation's.
    forward = plain.run([y_name], {name: arrays[name] for name in ports})[0]
    errors.add("plain", forward, arrays["y"], np.inf)
    v, jv = arrays["v"], arrays["jv"]
    tangents = {5: (np.concatenate([v, (v[1] - 2 * v[0])[None]]), np.concatenate([jv, (jv[1] - 2 * jv[0])[None]]))}
    tangents[1] = (v[2:3], jv[2:3])
    for mode in ("jvp", "vjp"):
        out = folder / f"{Path(path).stem}.{mode}.onnx"
        differentiate(program, path, mode, out)
        result["nodes"], result[f"{mode}_nodes"] = examine(path, out, mode, wrt)
        derived = session(out)
        for rows in BATCHES:
            feed = {name: arrays[name][rows] if name in batched else arrays[name] for name in ports}
            where = f"at N = {len(rows)}"
            (forward,) = plain.run([y_name], feed)
            if mode == "vjp":
                feed[f"{y_name}_cotangent"] = arrays["w"][rows]
                y, wj = derived.run([y_name, f"{wrt}_cotangent"], feed)
                errors.add("primal", y, forward, PRIMAL, where=where)
                errors.add("wj", wj, arrays["wj"][rows], MAX, FROBENIUS, where=where)
                continue
            for k, (seeds, products) in tangents.items():
                feed[f"{wrt}_tangent"] = np.ascontiguousarray(seeds[:, rows])
                names = [o.name for o in derived.get_outputs()]
                got = dict(zip(names, derived.run(names, feed)))
                errors.add("primal", got[y_name], forward, PRIMAL, where=f"{where}, k = {k}")
                errors.add("jv", got[f"{y_name}_tangent"], products[:, rows], MAX, FROBENIUS, where=f"{where}, k = {k}")
                if f"{y_name}_quadratic" in got:
                    terms = (seeds * products)[:, rows].reshape(k, len(rows), -1)
                    scale = abs(terms).sum(-1).max()
                    errors.add("quadratic", got[f"{y_name}_quadratic"], terms.sum(-1), MAX, scale=scale, where=where)
    if errors.broken:
        raise Failure("; ".join(errors.broken[:4]))
    return result | errors.worst


# ---------------------------------------------------------------------------------------------------------------------
# Cost
# ---------------------------------------------------------------------------------------------------------------------


def batch_feed(path, arrays, count):
    graph = onnx.load(str(path)).graph
    stored = {t.name for t in graph.initializer}
    feed, rows = {}, np.arange(count) % 3
    for port in graph.input:
        if port.name not in stored:
            shape = dims(port)
            feed[port.name] = arrays[port.name][rows] if shape and isinstance(shape[0], str) else arrays[port.name]
    return feed


def seeded(feed, wrt, k):
    x = feed[wrt]
    return feed | {f"{wrt}_tangent": np.random.default_rng(0).choice([-1.0, 1.0], (k, *x.shape)).astype(np.float32)}


def cost(path, arrays, folder, count, rounds):
    graph = onnx.load(str(path)).graph
    wrt, y_name = next(i.name for i in graph.input if i.name in arrays), graph.output[0].name
    feed = batch_feed(path, arrays, count)
    plain, jvp, vjp = session(path), session(folder / f"{path.stem}.jvp.onnx"), session(folder / f"{path.stem}.vjp.onnx")
    runs = {"forward": lambda: plain.run(None, feed)}
    for k in (1, 8, 16):
        fed = seeded(feed, wrt, k)
        runs[k] = lambda fed=fed: jvp.run([f"{y_name}_tangent", f"{y_name}_quadratic"], fed)
    shape = plain.run([y_name], feed)[0].shape
    cotangent = feed | {f"{y_name}_cotangent": np.ones(shape, np.float32)}
    runs["vjp"] = lambda: vjp.run([f"{wrt}_cotangent"], cotangent)
    times = {name: [] for name in runs}
    for turn in range(rounds + 1):
        for name, run in runs.items():
            repeats = 3 if name == "forward" else 1
            start = time.process_time()
            for _ in range(repeats):
                run()
            if turn:
                times[name].append((time.process_time() - start) / repeats)
    medians = {name: float(np.median(t)) for name, t in times.items()}
    result = {"batch": count, "milliseconds": 1e3 * medians["forward"]}
    result |= {f"cost_{name}": medians[name] / medians["forward"] for name in (1, 8, 16, "vjp")}
    with tempfile.TemporaryDirectory() as temporary:
        peaks = []
        for k, graph_path in ((0, path), (16, folder / f"{path.stem}.jvp.onnx")):
            fed = seeded(feed, wrt, k) if k else feed
            np.savez(Path(temporary) / "feed.npz", **fed)
            done = subprocess.run(
                [sys.executable, __file__, "--peak", graph_path, str(Path(temporary) / "feed.npz")],
                capture_output=True, text=True, check=True,
            )
            peaks.append(float(done.stdout))
    return result | {"forward_mb": peaks[0], "jvp_mb": peaks[1]}


def peak(path, feed):
    """Print the peak memory, in megabytes, of a process that does nothing but run a graph twice."""
    with np.load(feed) as arrays:
        feed = dict(arrays)
    ready = session(path)
    for _ in range(2):
        ready.run(None, feed)
    print(int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024)


# ---------------------------------------------------------------------------------------------------------------------
# References for files that come without
# ---------------------------------------------------------------------------------------------------------------------


def in_double(path):
    """The file as a function of its inputs, in float64, that torch differentiates."""
    import torch
    from onnx import numpy_helper
    from torch.nn import functional as F

    from onnx64 import ELEMENTWISE, axes_of, gemm, unsqueeze

    def tensor(proto):
        value = torch.from_numpy(numpy_helper.to_array(proto).copy())
        return value.double() if value.is_floating_point() else value

    def window(a):
        """ONNX's pads are [begins, ends]; torch's the same on both sides."""
        pads = a.get("pads", [0, 0, 0, 0])
        half = len(pads) // 2
        assert pads[:half] == pads[half:], pads
        return {"stride": a.get("strides", [1] * half), "padding": pads[:half]}

    def layer_norm(x, scale, bias=None, axis=-1, epsilon=1e-5, stash_type=1):
        return F.layer_norm(x, x.shape[axis:], scale, bias, epsilon)

    operators = {
        "Shape": lambda given, a: torch.tensor(given[0].shape),
        "Slice": lambda given, a: given[0][int(given[1]) : int(given[2])],  # of a shape only
        "Clip": lambda given, a: torch.clamp(*given),
        "Floor": lambda given, a: torch.floor(*given),
        "Resize": lambda given, a: F.interpolate(given[0], [int(n) for n in given[1][2:]], mode="bilinear"),
        "Relu": lambda given, a: torch.relu(*given),
        "Cast": lambda given, a: given[0].double() if a["to"] in (1, 11) else given[0].long(),
        "Gather": lambda given, a: given[0].index_select(a.get("axis", 0), given[1].reshape(-1)).reshape(
            *given[0].shape[: a.get("axis", 0)], *given[1].shape, *given[0].shape[a.get("axis", 0) + 1 :]
        ),
        "Gemm": lambda given, a: gemm(*given, **a),
        "Concat": lambda given, a: torch.cat(given, a["axis"]),
        "Flatten": lambda given, a: given[0].flatten(a.get("axis", 1)),
        "Reshape": lambda given, a: given[0].reshape([int(n) for n in given[1]]),
        "LayerNormalization": lambda given, a: layer_norm(*given, **a),
        "Conv": lambda given, a: F.conv2d(*given, **window(a), groups=a.get("group", 1)),
        "ConvTranspose": lambda given, a: F.conv_transpose2d(
            *given, **window(a), groups=a.get("group", 1), output_padding=a.get("output_padding", 0)
        ),
        "MaxPool": lambda given, a: F.max_pool2d(given[0], a["kernel_shape"], **window(a)),
    }
    graph = onnx.load(str(path)).graph
    constants = {t.name: tensor(t) for t in graph.initializer}

    def run(feed):
        values = constants | feed
        for node in graph.node:
            a = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            given = [values[name] for name in node.input if name]
            if node.op_type == "Constant":
                out = tensor(a["value"])
            elif node.op_type == "Unsqueeze":
                out = unsqueeze(given[0], axes_of(node, values, a))
            elif node.op_type in ELEMENTWISE:
                out = ELEMENTWISE[node.op_type](*given)
            elif node.op_type in operators:
                out = operators[node.op_type](given, a)
            else:
                raise NotImplementedError(f"{node.name}: {node.op_type}")
            values[node.output[0]] = out
        return values[graph.output[0].name]

    return run


def trained_references(path):
    import torch

    run = in_double(path)
    ports = onnx.load(str(path)).graph.input
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, *dims(ports[0])[1:], generator=generator)
    rest = {port.name: torch.tensor([20.0, 400.0, 900.0]) for port in ports[1:]}

    def f(x):
        return run({ports[0].name: x} | {name: t.double() for name, t in rest.items()})

    v = torch.randn(4, *x.shape, generator=generator)
    v[2] = v[2].sign()
    jv = torch.stack([torch.func.jvp(f, (x.double(),), (tangent.double(),))[1] for tangent in v])
    y, pull = torch.func.vjp(f, x.double())
    w = torch.randn(y.shape, generator=generator)
    (wj,) = pull(w.double())
    arrays = {ports[0].name: x} | rest | dict(v=v, y=y, jv=jv, w=w, wj=wj)
    return {name: a.detach().numpy() for name, a in arrays.items()}


def row(stem, r, timed):
    if "error" in r:
        return f"| {stem} | **{r['error'][:200]}** |"
    figures = [f"{r['nodes']}", f"{r['jvp_nodes']}", f"{r['vjp_nodes']}"]
    figures += [f"{r[key]:.1e}" for key in ("plain", "primal", "jv", "jv_frobenius", "wj", "wj_frobenius")]
    if timed:
        figures += [f"{r['batch']}", f"{r['milliseconds']:.0f}"]
        figures += [f"{r[f'cost_{k}']:.1f}" for k in (1, 8, 16, "vjp")] + [f"{r['forward_mb']:.0f}", f"{r['jvp_mb']:.0f}"]
    return f"| {stem} | " + " | ".join(figures) + " |"


def summary(results):
    """One line for each network: the worst of all its files."""
    networks = {}
    for stem, r in results.items():
        *name, style, opset = stem.split("-") if "-op" in stem else (stem, "as it came", "op17")
        networks.setdefault("-".join(name), []).append((style, int(opset.removeprefix("op")), r))
    print("| network | exporter: opsets | jvp | vjp | J·V | Frob. | VᵀJ | Frob. |\n|" + "---|" * 8)
    for name, files in networks.items():
        opsets = {}
        for style, opset, _ in files:
            opsets.setdefault(style, []).append(opset)
        passed = sum("error" not in r for *_, r in files)
        worst = {k: max(r.get(k, np.nan) for *_, r in files) for k in ("jv", "jv_frobenius", "wj", "wj_frobenius")}
        styles = "; ".join(f"{s}: {', '.join(map(str, sorted(o)))}" for s, o in sorted(opsets.items(), reverse=True))
        figures = " | ".join(f"{v:.1e}" for v in worst.values())
        print(f"| {name} | {styles} | {passed} of {len(files)} | {passed} of {len(files)} | {figures} |")


def main():
    if sys.argv[1:2] == ["--peak"]:
        return peak(*sys.argv[2:4])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="+", type=Path)
    parser.add_argument("--program", default=str(ROOT / "target" / "release" / "flowgauge"))
    parser.add_argument("--cost", action="store_true")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch", type=int, help="for --cost; without it, by the rank of the input")
    parser.add_argument("--trained", action="store_true")
    parser.add_argument("--summary", action="store_true")
    parser.add_argument("--json", type=Path, help="write all figures here")
    options = parser.parse_args()
    if options.summary:
        return summary({k: r for path in options.paths for k, r in json.loads(path.read_text()).items()})
    os.environ["OMP_NUM_THREADS"] = "1"
    files = [f for p in options.paths for f in (sorted(p.glob("*.onnx")) if p.is_dir() else [p])]
    results = {}
    head = ["network", "nodes", "jvp", "vjp", "y", "primal", "J·V", "Frob.", "VᵀJ", "Frob."]
    if options.cost:
        head += ["N", "forward ms", "k = 1", "k = 8", "k = 16", "vjp", "forward MB", "k = 16 MB"]
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for path in files:
            try:
                if options.trained:
                    arrays = trained_references(path)
                else:
                    with np.load(path.with_suffix(".npz")) as stored:
                        arrays = dict(stored)
                r = check(options.program, path, arrays, folder)
                if options.cost:
                    rank = arrays["v"].ndim
                    count = options.batch or (256 if rank == 3 else 4)
                    r |= cost(path, arrays, folder, count, options.rounds)
            except Exception as error:
                r = {"error": f"{type(error).__name__}: {error}".replace("\n", " ")}
                print(f"{path}: {r['error']}", file=sys.stderr)
            results[path.stem] = r
            print(row(path.stem, r, options.cost), flush=True)
            for derived in folder.glob("*.onnx"):
                derived.unlink()
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))
    failed = sum("error" in r for r in results.values())
    print(f"\n{len(results) - failed} of {len(results)} pass.")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
