"""Compares onnx-ad 0.3.0 with this crate: which files each differentiates, how exactly, at what cost.

    pip install -r scripts/requirements-zoo.txt && pip install onnx-ad==0.3.0
    cargo build --release -p onnx-autodiff --example differentiate
    python scripts/compare_onnx_ad.py                       # everything; half an hour on two cores
    python scripts/compare_onnx_ad.py operators|standard|readme|networks [--only NAME] [--all]

- `operators`: the files of one operator each in `tests/data/graph` (`rules.npz`, `outputs.npz`), and a few loops and
  branches.
- `standard`: the examples that the onnx package has for every operator of the standard, by each of their
  floating-point inputs in turn, with the other inputs constant.
- `readme`: the models that onnx-ad's README names, rebuilt and exported here.
- `networks`: the 26 networks of `tests/data/graph`.

Both tools derive from the same bytes. Both derived graphs run in the same ONNX Runtime on one thread. What ONNX
Runtime cannot load runs in the onnx package's evaluator.

Errors are max |error| / max |reference|. References: for operators the derivatives stored beside them (in reverse by
⟨U, J·V⟩ = ⟨Jᵀ·U, V⟩), for the standard's examples differences of the onnx package's evaluator in float64, for the
rest torch's (JAX's) own modes in float64 with the same weights.

Times are process CPU time, medians over interleaved rounds, in units of the plain forward of the same batch. onnx-ad's
reverse mode takes 16 cotangents in one run. This crate's takes one, and is run 16 times. Derivation is wall-clock
time: for onnx-ad the call in a running interpreter (without its import), for this crate the whole process.
"""

import argparse
import io
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto as T
from onnx import defs
from onnx import helper as H
from onnx import numpy_helper as NH
from onnx.reference import ReferenceEvaluator

import onnxruntime as ort
from check_zoo import batch_feed, dims, session

ROOT = Path(__file__).resolve().parent.parent
GRAPHS = ROOT / "tests/data/graph"
REALS = {"tensor(double)": np.float64, "tensor(float)": np.float32}


class Refused(Exception):
    pass


class Ours:
    """The crate's example program."""

    name = "this crate"

    def __init__(self, program):
        self.program = program

    def derive(self, path, mode, x, y, out):
        done = subprocess.run([self.program, path, mode, out, x, y], capture_output=True, text=True, timeout=300)
        if done.returncode:
            raise Refused(done.stderr.strip().replace("\n", " "))

    @staticmethod
    def forward(run, feed, x, y, v):
        return run.run([f"{y}_tangent"], feed | {f"{x}_tangent": v})[0]

    @staticmethod
    def reverse(run, feed, x, y, u):
        return np.stack([run.run([f"{x}_cotangent"], feed | {f"{y}_cotangent": np.asarray(one)})[0] for one in u])


class Theirs:
    """onnx-ad, with the seeds behind."""

    name = "onnx-ad"

    def derive(self, path, mode, x, y, out):
        import onnx_ad

        derive = {"jvp": onnx_ad.forward, "vjp": onnx_ad.reverse}[mode]
        try:
            made = derive(onnx.load(str(path)), inputs=[x], outputs=[y], layout="onnx")
        except Exception as error:
            raise Refused(f"{type(error).__name__}: {error}".replace("\n", " ")) from error
        onnx.save(made, str(out))

    @staticmethod
    def forward(run, feed, x, y, v):
        v = np.ascontiguousarray(np.moveaxis(v, 0, -1))
        return np.moveaxis(run.run([f"fwd_{y}"], feed | {f"fwd_{x}": v})[0], -1, 0)

    @staticmethod
    def reverse(run, feed, x, y, u):
        u = np.ascontiguousarray(np.moveaxis(u, 0, -1))
        return np.moveaxis(run.run([f"adj_{x}"], feed | {f"adj_{y}": u})[0], -1, 0)


def gap(value, reference):
    if value.shape != reference.shape:
        return np.inf
    if not value.size:
        return 0.0
    error = np.abs(value.astype(np.float64) - reference).max() / max(np.abs(reference).max(), 1e-2)
    return float(error) if np.isfinite(error) else np.inf


def pairing(pulled, u, v, jv):
    """How far ⟨Jᵀ·U, V⟩ is from ⟨U, J·V⟩, for all pairs."""
    flat = [a.reshape(len(a), -1).astype(np.float64) for a in (pulled, u, v, jv)]
    if flat[0].shape[1] != flat[2].shape[1]:
        return np.inf
    pulled, u, v, jv = flat
    error = np.abs(pulled @ v.T - u @ jv.T).max() / max((np.abs(u) @ np.abs(jv).T).max(), 1e-2)
    return float(error) if np.isfinite(error) else np.inf


# ---------------------------------------------------------------------------------------------------------------------
# Single operators
# ---------------------------------------------------------------------------------------------------------------------


def stored_cases():
    """Name, bytes, point, directions and derivatives along them, of all files of one operator."""
    with np.load(GRAPHS / "rules.npz") as arrays:
        for name in sorted(n.removesuffix(".onnx") for n in arrays if n.endswith(".onnx")):
            xv = arrays[f"{name}.xv"]
            yield f"rules {name}", arrays[f"{name}.onnx"].tobytes(), xv[0], xv[1:], arrays[f"{name}.jv"]
    draw = np.random.default_rng(3).standard_normal
    with np.load(GRAPHS / "outputs.npz") as arrays:
        for name in sorted(n.removesuffix(".onnx") for n in arrays if n.endswith(".onnx")):
            if f"{name}.j" in arrays:
                x, jacobian = arrays[f"{name}.x"], arrays[f"{name}.j"]
                v = draw((3, *x.shape))
                jv = v.reshape(3, -1) @ jacobian.reshape(-1, x.size).T
                yield f"outputs {name}", arrays[f"{name}.onnx"].tobytes(), x, v, jv


def body(name, nodes, inputs, outputs, row=False):
    types = {"c": (T.BOOL, []), "i": (T.INT64, [])}
    port = lambda p: H.make_tensor_value_info(p, *types.get(p[0], (T.DOUBLE, (3,) if row else (2, 3))))  # noqa: E731
    return H.make_graph(nodes, name, [port(p) for p in inputs], [port(p) for p in outputs])


def control_flow():
    """Branches and loops by hand: an `If` on a sum, loops of fixed and of unknown length, a `Scan`."""
    x, rng = np.array([[0.3, -0.7, 0.5], [0.9, 0.2, -0.4]]), np.random.default_rng(4)
    v, h = rng.standard_normal((3, 2, 3)), 1e-5

    def case(name, nodes, constants, f, shape=(2, 3)):
        ports = [H.make_tensor_value_info("x", T.DOUBLE, shape)], [H.make_tensor_value_info("y", T.DOUBLE, None)]
        stored = [NH.from_array(np.asarray(a), n) for n, a in constants.items()]
        model = H.make_model(H.make_graph(nodes, name, *ports, stored), opset_imports=[H.make_opsetid("", 18)], ir_version=9)
        jv = np.stack([(8 * (f(x + h * d) - f(x - h * d)) - (f(x + 2 * h * d) - f(x - 2 * h * d))) / (12 * h) for d in v])
        return f"control {name}", model.SerializeToString(), x, v, jv

    n = H.make_node
    yes = body("yes", [n("Sin", ["x"], ["sy"])], [], ["sy"])
    no = body("no", [n("Mul", ["x", "x"], ["sn"])], [], ["sn"])
    choice = [n("ReduceSum", ["x"], ["s"], keepdims=0), n("Greater", ["s", "zero"], ["c"])]
    choice += [n("If", ["c"], ["y"], then_branch=yes, else_branch=no)]
    yield case("If", choice, dict(zero=0.0), lambda x: np.sin(x) if x.sum() > 0 else x * x)
    step = [n("Mul", ["s", "x"], ["m"]), n("Sin", ["m"], ["out"]), n("Identity", ["c0"], ["c1"])]
    inner = body("body", step, ["i", "c0", "s"], ["c1", "out"])

    def iterated(x, count):
        s = x
        for _ in range(count):
            s = np.sin(s * x)
        return s

    fixed = [n("Loop", ["trips", "", "x"], ["y"], body=inner)]
    yield case("Loop of 4 steps", fixed, dict(trips=np.array(4)), lambda x: iterated(x, 4))
    count = [n("Greater", ["x", "zero"], ["p"]), n("Cast", ["p"], ["pi"], to=T.INT64)]
    count += [n("ReduceSum", ["pi"], ["trips"], keepdims=0)]
    unknown = [*count, n("Loop", ["trips", "", "x"], ["y"], body=inner)]
    yield case("Loop of unknown length", unknown, dict(zero=0.0), lambda x: iterated(x, (x > 0).sum()))
    step = [n("Mul", ["s", "e"], ["m"]), n("Cos", ["m"], ["next"]), n("Identity", ["next"], ["out"])]
    inner = body("body", step, ["s", "e"], ["next", "out"], row=True)
    first = [n("Gather", ["x", "zero"], ["s0"]), n("Scan", ["s0", "x"], ["last", "y"], body=inner, num_scan_inputs=1)]

    def scanned(x):
        s, all_ = x[0], []
        for row in x:
            s = np.cos(s * row)
            all_.append(s)
        return np.stack(all_)

    yield case("Scan of 2 steps", first, dict(zero=np.array(0)), scanned)
    yield case("Scan of unknown length", first, dict(zero=np.array(0)), scanned, ("N", 3))


def runner(model):
    """A file or its bytes in ONNX Runtime, or in the onnx package's evaluator where its operators or opset are newer."""
    try:
        return session(model)
    except Exception:
        return ReferenceEvaluator(model if isinstance(model, bytes) else str(model))


def passes(path):
    try:
        onnx.checker.check_model(str(path))
    except Exception:
        return False
    return True


def judge(tool, mode, case, path, out, u):
    """What comes of one file: a verdict and a word about it. A file that the checker passes must become such files."""
    valid = passes(path)
    try:
        tool.derive(path, mode, case.x, case.y, out)
    except Refused as why:
        return "refused", str(why)
    try:
        if valid:
            onnx.checker.check_model(str(out))
        run, real = runner(out), case.point.dtype
        feed = {case.x: case.point}
        if mode == "jvp":
            value = tool.forward(run, feed, case.x, case.y, np.asarray(case.v, real))
            error = gap(value.reshape(case.jv.shape), case.jv)
        else:
            value = tool.reverse(run, feed, case.x, case.y, np.asarray(u, real))
            error = pairing(value, u, case.v, case.jv)
    except Exception as error:
        return "does not run", f"{type(error).__name__}: {error}".replace("\n", " ")
    bound = max(1e-6 if real == np.float64 else 1e-3, 20 * case.right)
    return ("right" if error <= bound else "wrong"), f"{error:.1e}"


@dataclass
class Case:
    """A file with an input `x`, an output `y`, a point, directions, and the derivatives along them."""

    name: str
    op: str
    data: bytes
    x: str
    y: str
    point: np.ndarray
    v: np.ndarray
    jv: np.ndarray
    right: float = 0.0


def tables(title, cases, tools, folder, everything):
    """Judges every file by both tools in both modes; tells the sums, and every file on which they differ."""
    found, path, out = {}, folder / "case.onnx", folder / "derived.onnx"
    rng = np.random.default_rng(5)
    for case in cases:
        path.write_bytes(case.data)
        u = rng.standard_normal((2, *case.jv.shape[1:]))
        for mode in ("jvp", "vjp"):
            found[case.name, case.op, mode] = [judge(tool, mode, case, path, out, u) for tool in tools]
    verdicts = ["right", "refused", "does not run", "wrong"]
    print(f"\n### {title}: {len(found) // 2}\n")
    print("| mode | tool | " + " | ".join(verdicts) + " |\n|" + "---|" * 6)
    for mode in ("jvp", "vjp"):
        for i, tool in enumerate(tools):
            counts = Counter(both[i][0] for (*_, m), both in found.items() if m == mode)
            print(f"| {mode} | {tool.name} | " + " | ".join(str(counts[k]) for k in verdicts) + " |")
    for mine, other in ((0, 1), (1, 0)):
        told(f"{tools[mine].name} is right and {tools[other].name} is not", found, everything, lambda b: b[other] if b[mine][0] == "right" != b[other][0] else None)
    for i, tool in enumerate(tools):
        told(f"{tool.name} refuses, and so does the other, or fails", found, everything, lambda b: b[i] if b[i][0] != "right" != b[1 - i][0] else None)


def told(title, found, everything, which):
    """The files that a choice takes, one line for each operator, mode and verdict, or for each file."""
    grouped, files = {}, 0
    for (name, op, mode), both in found.items():
        if chosen := which(both):
            verdict, why = chosen
            grouped.setdefault((op, mode, verdict, name if everything else ""), []).append((name, why))
            files += 1
    print(f"\n#### {title}: {files}\n")
    for (op, mode, verdict, _), those in sorted(grouped.items()):
        name, why = those[0]
        print(f"- {op}, {mode}: {verdict} ({len(those)}): {name}: {why[:240]}")


def fixed_or_open(data, x, shape, fixed):
    """The file with its ports' sizes written out, or with their number alone."""
    model = onnx.load_from_string(data)
    port, out = model.graph.input[0].type.tensor_type, model.graph.output[0].type.tensor_type
    sizes = [(port, x.shape), (out, shape)]
    if not fixed and any(d.dim_param for d in port.shape.dim):
        sizes = [(out, [None] * len(shape))]
    for ours, numbers in sizes:
        ours.shape.CopyFrom(H.make_tensor_type_proto(T.FLOAT, numbers).tensor_type.shape)
    return model.SerializeToString()


def operators(only, fixed, original):
    """The stored files of one operator, with fixed sizes or with open batches."""
    for name, data, x, v, jv in [*stored_cases(), *control_flow()]:
        if only and only not in name:
            continue
        original.write_bytes(data)
        run = session(original)
        point = np.asarray(x, REALS[run.get_inputs()[0].type])
        shape = run.run(["y"], {"x": point})[0].shape
        op = name.split(" ", 1)[1].split("-", 1)[-1].split("-")[0]
        yield Case(name, op, fixed_or_open(data, x, shape, fixed), "x", "y", point, v, jv.reshape(len(v), *shape))


# ---------------------------------------------------------------------------------------------------------------------
# The standard's own examples
# ---------------------------------------------------------------------------------------------------------------------


def slopes(f, x, v, h):
    """Derivatives of f at x along v, by central differences of fourth order."""
    along = lambda d: (8 * (f(x + h * d) - f(x - h * d)) - (f(x + 2 * h * d) - f(x - 2 * h * d))) / (12 * h)  # noqa: E731
    return np.stack([along(d) for d in v])


def known(f, x, v):
    """Derivatives along v and what they are right to: where two lengths of differences agree, and both of their sides."""
    y, h = f(x), 2.0**-12
    sides = [np.stack([(f(x + s * d) - y) / s for d in v]) for s in (h, -h)]
    if gap(*sides) > 1e-2:
        return None
    for h in (2.0**-10, 2.0**-6):
        near, nearer = slopes(f, x, v, h), slopes(f, x, v, h / 2)
        right = gap(near, nearer)
        if np.isfinite(nearer).all() and right <= 1e-3:
            return nearer, right
    return None


def wide(model, y):
    """The model in float64, whatever its types say."""
    evaluator = ReferenceEvaluator(model)
    return lambda feed: np.asarray(evaluator.run([y], feed)[0], np.float64)


def with_constants(model, x, arrays):
    """The model with all inputs but one constant, of the first opset of ours that has the same operators."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    for port in list(made.graph.input):
        if port.name != x:
            made.graph.input.remove(port)
            made.graph.initializer.append(NH.from_array(arrays[port.name], port.name))
    for imported in made.opset_import:
        if imported.domain == "" and imported.version < 13:
            same = lambda op: defs.get_schema(op, imported.version).since_version == defs.get_schema(op, 13).since_version  # noqa: E731
            if all(same(node.op_type) for node in made.graph.node if node.domain == ""):
                imported.version = 13
    made.ir_version = max(made.ir_version, 8)
    return made


def examples(only):
    """The examples of every operator, by each floating-point input, for each floating-point output."""
    from onnx.backend.test.loader import load_model_tests

    rng, left = np.random.default_rng(6), Counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tests = load_model_tests(kind="node")
    for test in tests:
        name, (inputs, outputs) = test.name.removeprefix("test_"), test.data_sets[0]
        graph = test.model.graph
        if only and only not in name:
            continue
        if not all(isinstance(a, np.ndarray) for a in [*inputs, *outputs]) or len(graph.input) != len(inputs):
            left["sequences, optional values or numbers"] += 1
            continue
        arrays = {port.name: a for port, a in zip(graph.input, inputs)}
        real = lambda a: a.dtype in (np.float32, np.float64) and a.size  # noqa: E731
        ends = [(p.name, a) for p, a in zip(graph.output, outputs) if real(a)]
        starts = [n for n, a in arrays.items() if real(a)]
        if not ends or not starts:
            left["no real input, or no real output"] += 1
            continue
        doubles = {n: a.astype(np.float64) if a.dtype == np.float32 else a for n, a in arrays.items()}
        if any(node.domain for node in graph.node):
            left["another domain"] += 1
            continue
        op = graph.node[0].op_type if len(graph.node) == 1 else name.split("_")[0] + " (parts)"
        for x in starts:
            for y, expected in ends:
                v = rng.standard_normal((3, *arrays[x].shape))
                try:
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")
                        f = wide(test.model, y)
                        g = lambda at: f(doubles | {x: at})  # noqa: B023, E731
                        same = gap(g(doubles[x]), expected.astype(np.float64)) < 1e-3
                        run = runner(test.model.SerializeToString()).run([y], arrays)[0]
                        same = same and gap(run, expected.astype(np.float64)) < 1e-3
                        slope = known(g, doubles[x], v) if same else None
                except Exception:
                    slope = None
                if slope is None:
                    left["no derivative by differences, or another result in the runtime"] += 1
                    continue
                data = with_constants(test.model, x, arrays).SerializeToString()
                yield Case(f"{name} {x} {y}", op, data, x, y, arrays[x], v, *slope)
    print("left out: " + ", ".join(f"{n} of {why}" for why, n in left.items()), file=sys.stderr)


# ---------------------------------------------------------------------------------------------------------------------
# Networks
# ---------------------------------------------------------------------------------------------------------------------


def readme_models():
    """The models that onnx-ad's README names, as torch modules with an input."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    def perceptron(activation):
        return nn.Sequential(nn.Linear(8, 32), activation(), nn.Linear(32, 32), activation(), nn.Linear(32, 4))

    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.inner = nn.LayerNorm(16), nn.LayerNorm(16)
            self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 16)
            self.mlp = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 16))

        def forward(self, x):
            q, k, v = (t.unflatten(-1, (4, 4)).transpose(1, 2) for t in self.qkv(self.norm(x)).chunk(3, -1))
            weights = torch.softmax(q @ k.transpose(-1, -2) / 2.0, -1)
            x = x + self.out((weights @ v).transpose(1, 2).flatten(2))
            return x + self.mlp(self.inner(x))

    class Picking(nn.Module):
        """Indices, parts and reductions of a vector."""

        def forward(self, x):
            a = x[:, [3, 1, 6]].clamp(-0.8, 0.9)
            b = torch.stack([x.amax(1), x[:, 2:5].prod(1), torch.linalg.vector_norm(x, dim=1), x.logsumexp(1)], 1)
            return torch.cat([a, b], 1)

    class Cell(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell = nn.GRUCell(8, 8)

        def forward(self, x):
            return self.cell(x, torch.tanh(x))

    class Layers(nn.Module):
        """Whole recurrent layers, both directions, two deep."""

        def __init__(self, kind):
            super().__init__()
            self.layers = kind(5, 4, 2, bidirectional=True, batch_first=True)

        def forward(self, x):
            return self.layers(x)[0]

    class Spatial(nn.Module):
        """An image turned by a map that depends on it."""

        def __init__(self):
            super().__init__()
            self.theta = nn.Linear(2 * 5 * 6, 6)

        def forward(self, x):
            theta = self.theta(x.flatten(1)).unflatten(1, (2, 3)) * 0.2 + torch.eye(2, 3)
            grid = F.affine_grid(theta, (3, 2, 5, 6), align_corners=False)
            return F.grid_sample(x, grid, align_corners=False)

    convolutions = nn.Sequential(
        nn.Conv2d(2, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(72, 4)
    )
    torch.manual_seed(0)
    x = torch.randn
    return {
        "MLP": (perceptron(nn.Tanh), x(3, 8), 18),
        "GELU MLP": (perceptron(nn.GELU), x(3, 8), 18),
        "SiLU MLP": (perceptron(nn.SiLU), x(3, 8), 18),
        "attention block": (Attention(), x(3, 6, 16), 18),
        "convolutional net": (convolutions, x(3, 2, 8, 8), 18),
        "indexing and reductions": (Picking(), x(3, 8), 18),
        "GRU cell": (Cell(), x(3, 8), 18),
        "LSTM, two layers, both ways": (Layers(nn.LSTM), x(3, 7, 5), 18),
        "GRU, two layers, both ways": (Layers(nn.GRU), x(3, 7, 5), 18),
        "spatial transformer": (Spatial(), x(3, 2, 5, 6), 20),
    }


def export(module, x, opset, path):
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module.eval(), (x,), dynamo=True, opset_version=opset, verbose=False, input_names=["x"], output_names=["y"]
        )
        data = io.BytesIO()
        onnx.save(program.model_proto, data)
    path.write_bytes(data.getvalue())


def references(module, x):
    """Products in float64 with the same weights, by central differences where torch has no forward mode."""
    import copy

    import torch

    wide, x = copy.deepcopy(module).double(), x.double()
    torch.manual_seed(1)
    v = torch.randn(3, *x.shape, dtype=torch.float64)
    x = x.requires_grad_()
    y = wide(x)
    u = torch.randn(2, *y.shape, dtype=torch.float64)
    pulled = torch.stack([torch.autograd.grad(y, x, one, retain_graph=True)[0] for one in u])
    # The rows of J by reverse mode, times V.
    rows = [torch.autograd.grad(y, x, e.reshape(y.shape), retain_graph=True)[0] for e in torch.eye(y.numel(), dtype=x.dtype)]
    jv = torch.stack([torch.stack([(r * d).sum() for r in rows]).reshape(y.shape) for d in v])
    return [t.detach().numpy() for t in (v, jv, u, pulled)]


def medians(runs, rounds):
    """Process CPU time of each, in units of the first."""
    times = {name: [] for name in runs}
    for turn in range(rounds + 1):
        for name, run in runs.items():
            start = time.process_time()
            for _ in range(3):
                run()
            if turn:
                times[name].append((time.process_time() - start) / 3)
    found = {name: float(np.median(t)) for name, t in times.items()}
    plain = found.pop("plain")
    return {name: t / plain for name, t in found.items()}


def timed(tool, derived, path, x, y, feed, rounds):
    """Costs of both modes with 1 and 16 seeds, in plain forwards."""
    plain, rng = session(path), np.random.default_rng(0)
    out = plain.run([y], feed)[0]
    runs = {"plain": lambda: plain.run([y], feed)}
    for mode, like, product in (("jvp", feed[x], tool.forward), ("vjp", out, tool.reverse)):
        if mode in derived:
            for k in (1, 16):
                seeds = rng.standard_normal((k, *like.shape)).astype(like.dtype)
                runs[f"{mode} {k}"] = lambda r=derived[mode], s=seeds, p=product: p(r, feed, x, y, s)
    return medians(runs, rounds)


def measured(tool, path, x, y, feed, seeds, bench, folder, rounds):
    """Errors, sizes and times of one tool on one network; a cell of the table each."""
    v, jv, u, pulled = seeds
    cells, derived, seconds = {}, {}, []
    for mode in ("jvp", "vjp"):
        out = folder / f"{mode}.onnx"
        start = time.perf_counter()
        try:
            tool.derive(path, mode, x, y, out)
            seconds.append(time.perf_counter() - start)
            model = onnx.load(str(out))
            cells[f"{mode} nodes"] = str(len(model.graph.node))
            run = session(out)
            value = tool.forward(run, feed, x, y, v) if mode == "jvp" else tool.reverse(run, feed, x, y, u)
            cells[mode] = f"{gap(value, jv if mode == 'jvp' else pulled):.1e}"
            derived[mode] = run
        except Refused as why:
            cells[mode] = "refused"
            print(f"{path.stem}, {tool.name}, {mode}: refused: {str(why)[:300]}", file=sys.stderr)
        except Exception as error:
            cells[mode] = "does not run"
            print(f"{path.stem}, {tool.name}, {mode}: {type(error).__name__}: {str(error)[:300]}", file=sys.stderr)
    cells["derived in"] = f"{1e3 * sum(seconds):.0f} ms" if seconds else "–"
    if rounds:
        try:
            costs = timed(tool, derived, path, x, y, bench, rounds)
            cells |= {name: f"{cost:.1f}" for name, cost in costs.items()}
        except Exception as error:
            print(f"{path.stem}, {tool.name}: not timed: {type(error).__name__}: {str(error)[:300]}", file=sys.stderr)
    return cells


COLUMNS = ["jvp", "vjp", "jvp nodes", "vjp nodes", "derived in", "jvp 1", "jvp 16", "vjp 1", "vjp 16"]
HEAD = ["network", "nodes", "tool", "J·V", "VᵀJ", "nodes of J·V", "of VᵀJ", "derived in", "J·V, K = 1", "16", "VᵀJ, K = 1", "16"]


def head(title):
    print(f"\n### {title}\n\n| " + " | ".join(HEAD) + " |\n|" + "---|" * len(HEAD))


def rows(tools, name, path, *rest):
    nodes = len(onnx.load(str(path)).graph.node)
    for tool in tools:
        cells = measured(tool, path, *rest)
        print(f"| {name} | {nodes} | {tool.name} | " + " | ".join(cells.get(c, "–") for c in COLUMNS) + " |", flush=True)


def second(tool, path, x, y, feed, v, folder):
    """The product of a second derivative, d/dx of Jᵀu along v, against central differences of the tool's own Jᵀu."""
    first, twice = folder / "first.onnx", folder / "second.onnx"
    names = {Ours: (f"{y}_cotangent", f"{x}_cotangent"), Theirs: (f"adj_{y}", f"adj_{x}")}[type(tool)]
    tool.derive(path, "vjp", x, y, first)
    tool.derive(first, "jvp", x, names[1], twice)
    shape = session(path).run([y], feed)[0].shape
    u = np.random.default_rng(2).standard_normal(shape).astype(np.float32)
    if isinstance(tool, Theirs):
        u = u[..., None]
    fed = feed | {names[0]: u}
    value = tool.forward(session(twice), fed, x, names[1], v[:1])[0]
    run, h = session(first), 1e-2
    at = lambda s: run.run([names[1]], fed | {x: (feed[x] + s * v[0]).astype(np.float32)})[0].astype(np.float64)  # noqa: E731
    difference = (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h)
    return gap(value, difference)


def readme(tools, only, folder, rounds):
    head("The models of onnx-ad's README")
    seconds = []
    for name, (module, x, opset) in readme_models().items():
        if only and only not in name:
            continue
        path = folder / "model.onnx"
        export(module, x, opset, path)
        seeds = [a.astype(np.float32) for a in references(module, x)]
        feed = {"x": x.numpy()}
        rows(tools, name, path, "x", "y", feed, seeds, feed, folder, rounds)
        for tool in tools:
            try:
                seconds.append((name, tool.name, f"{second(tool, path, 'x', 'y', feed, seeds[0], folder):.0e}"))
            except Exception as error:
                seconds.append((name, tool.name, f"{type(error).__name__}: {str(error)[:160]}".replace("\n", " ")))
    print("\nSecond derivatives, by forward mode of the reverse graph, against differences of that graph in float32:\n")
    for line in seconds:
        print("- " + ", ".join(line))


def pinned(path, x, y, feed, out):
    """The network with the sizes of these inputs written out, and of no other value."""
    model, shape = onnx.load(str(path)), session(path).run([y], feed)[0].shape
    del model.graph.value_info[:]
    sizes = {name: a.shape for name, a in feed.items()} | {y: shape}
    for port in [*model.graph.input, *model.graph.output]:
        if port.name in sizes:
            kind = port.type.tensor_type
            kind.shape.CopyFrom(H.make_tensor_type_proto(T.FLOAT, sizes[port.name]).tensor_type.shape)
    onnx.save(model, str(out))
    return out


def networks(tools, only, folder, rounds, fixed):
    head("The networks of tests/data/graph, " + ("all sizes fixed" if fixed else "batches open"))
    for path in sorted(GRAPHS.glob("*.onnx")):
        if only and only not in path.stem:
            continue
        with np.load(path.with_suffix(".npz")) as stored:
            arrays = dict(stored)
        graph = onnx.load(str(path)).graph
        stored = {t.name for t in graph.initializer}
        ports = {i.name: dims(i) for i in graph.input if i.name not in stored}
        x, y = "x" if "x" in ports else next(iter(ports)), graph.output[0].name
        count = 256 if arrays["v"].ndim == 3 else 4
        feed, samples = batch_feed(path, arrays, count), np.arange(count) % 3
        if feed[x].shape[0] != count:
            samples = np.arange(3)
        seeds = [arrays["v"][:, samples], arrays["jv"][:, samples], arrays["w"][None, samples], arrays["wj"][None, samples]]
        seeds = [np.ascontiguousarray(a) for a in seeds]
        file = pinned(path, x, y, feed, folder / path.name) if fixed else path
        rows(tools, path.stem, file, x, y, feed, seeds, feed, folder, rounds if fixed else 0)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=["operators", "standard", "readme", "networks"])
    parser.add_argument("--program", default=str(ROOT / "target/release/examples/differentiate"))
    parser.add_argument("--only", help="only what has this in its name")
    parser.add_argument("--all", action="store_true", help="name every file, not one for each operator")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of timing; 0 for none")
    options = parser.parse_args()
    ort.set_default_logger_severity(4)
    tools = [Ours(options.program), Theirs()]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for fixed in (True, False) if "operators" in options.parts else ():
            title = "Files of one operator, " + ("all sizes fixed" if fixed else "batches open")
            tables(title, operators(options.only, fixed, folder / "original.onnx"), tools, folder, options.all)
        if "standard" in options.parts:
            tables("The standard's examples", examples(options.only), tools, folder, options.all)
        if "readme" in options.parts:
            readme(tools, options.only, folder, options.rounds)
        for fixed in (True, False) if "networks" in options.parts else ():
            networks(tools, options.only, folder, options.rounds, fixed)


if __name__ == "__main__":
    main()
