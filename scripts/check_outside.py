"""Differentiates an ONNX file that comes without references, and compares it with differences in float64.

    pip download --no-deps adaptive-terrain-diffusion==0.4.2 && unzip adaptive_terrain_diffusion-*.whl -d terrain
    cargo build --release -p onnx-autodiff --example differentiate
    python scripts/check_outside.py terrain/terrain_diffusion/weights/*.onnx [--batch 1] [--rounds 3] [--step 1e-7]

The differentiating program rewrites the file in float64 (`--float64`). Fourth-order central differences of its output
along two directions are the references. They are compared with J·V in float32 and in float64, and with V^T·J by the
inner product with a cotangent. Costs are process CPU times of one thread, medians over interleaved rounds, in units of
the plain forward. Memory is the peak of a separate Python process. Prints what it measures.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

from check_zoo import ROOT, dims, session


def derived(program, path, mode, out, *options):
    start = time.time()
    done = subprocess.run([program, path, mode, out, *options], capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return time.time() - start


def without_derivative(path, output, out):
    """The part of a derived graph that computes one output."""
    model = onnx.load(str(path))
    wanted, kept = {output}, []
    for node in reversed(model.graph.node):
        if wanted & set(node.output):
            kept.append(node)
            wanted |= set(node.input)
    for field, members in (
        (model.graph.node, kept[::-1]),
        (model.graph.input, [i for i in model.graph.input if i.name in wanted]),
        (model.graph.output, [o for o in model.graph.output if o.name == output]),
        (model.graph.initializer, [t for t in model.graph.initializer if t.name in wanted]),
    ):
        members = list(members)
        del field[:]
        field.extend(members)
    onnx.save(model, str(out))


def quickly_opened(path):
    """ONNX Runtime's plan of shared memory takes time quadratic in the number of nodes: minutes for a graph in float64."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.enable_mem_pattern = options.enable_mem_reuse = False
    options.log_severity_level = 3
    return ort.InferenceSession(str(path), options, ["CPUExecutionProvider"])


def differences(run, x, v, step):
    near, far = (run(x + s * v) - run(x - s * v) for s in (step, 2 * step))
    return (8 * near - far) / (12 * step)


def error(value, reference):
    gap = np.asarray(value, np.float64) - reference
    return f"max {abs(gap).max() / abs(reference).max():.1e}, Frobenius {np.linalg.norm(gap) / np.linalg.norm(reference):.1e}"


def peak(path, feed, names):
    """Peak memory of a process that does nothing but run a graph twice."""
    with tempfile.TemporaryDirectory() as folder:
        np.savez(f"{folder}/feed.npz", **feed)
        command = [sys.executable, str(Path(__file__).with_name("check_zoo.py")), "--peak", path, f"{folder}/feed.npz"]
        return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--program", default=ROOT / "target/release/examples/differentiate")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--step", type=float, default=1e-6, help="of the differences; smaller for functions that bend sharply")
    options = parser.parse_args()
    graph = onnx.load(str(options.file)).graph
    stored = {t.name for t in graph.initializer}
    rng = np.random.default_rng(0)
    size = lambda d: d if isinstance(d, int) else options.batch
    feed = {}
    for port in graph.input:
        if port.name not in stored:
            shape = [size(d) for d in dims(port)]
            feed[port.name] = rng.uniform(0.2, 0.8, shape) if len(shape) < 2 else rng.standard_normal(shape)
            feed[port.name] = feed[port.name].astype(np.float32)
    x_name, y_name = next(iter(feed)), graph.output[0].name
    with tempfile.TemporaryDirectory() as folder:
        made = {}
        for mode in ("jvp", "vjp"):
            for name, extra in ((mode, []), (f"{mode}64", ["--float64"])):
                made[name] = Path(folder) / f"{name}.onnx"
                seconds = derived(options.program, options.file, mode, made[name], *extra)
                print(f"{name}: derived in {seconds:.2f} s, {len(onnx.load(str(made[name])).graph.node)} nodes of {len(graph.node)}", flush=True)
        plain64 = Path(folder) / "plain64.onnx"
        without_derivative(made["jvp64"], y_name, plain64)
        wide = {name: array.astype(np.float64) for name, array in feed.items()}
        forward64 = quickly_opened(plain64)
        run = lambda x: forward64.run([y_name], wide | {x_name: x})[0]
        v = rng.standard_normal((2, *feed[x_name].shape)).astype(np.float32)
        jv = np.stack([differences(run, wide[x_name], d.astype(np.float64), options.step) for d in v])
        del forward64
        tangent, cotangent = f"{x_name}_tangent", f"{y_name}_cotangent"
        w = rng.standard_normal(jv.shape[1:]).astype(np.float32)
        for name, fed, kind in (("jvp", feed, np.float32), ("jvp64", wide, np.float64)):
            (got,) = quickly_opened(made[name]).run([f"{y_name}_tangent"], fed | {tangent: v.astype(kind)})
            print(f"{name} against differences in float64: {error(got, jv)}", flush=True)
        results = {}
        for name, fed, kind in (("vjp", feed, np.float32), ("vjp64", wide, np.float64)):
            (results[name],) = quickly_opened(made[name]).run([f"{x_name}_cotangent"], fed | {cotangent: w.astype(kind)})
            for direction, image in zip(v, jv):
                ours = (results[name].astype(np.float64) * direction).sum()
                scale = np.linalg.norm(w) * np.linalg.norm(image)
                print(f"{name} by <w, Jv>: {abs(ours - (w * image).sum()) / scale:.1e}")
        print(f"vjp in float32 against float64: {error(results['vjp'], results['vjp64'])}")
        runs = {"forward": (session(options.file), feed, [y_name])}
        jvp = session(made["jvp"])
        for k in (1, 16):
            fed = feed | {tangent: rng.choice([-1.0, 1.0], (k, *feed[x_name].shape)).astype(np.float32)}
            runs[f"K = {k}"] = (jvp, fed, [f"{y_name}_tangent", f"{y_name}_quadratic"])
        runs["vjp"] = (session(made["vjp"]), feed | {cotangent: w}, [f"{x_name}_cotangent"])
        times = {name: [] for name in runs}
        for turn in range(options.rounds + 1):
            for name, (ready, fed, wanted) in runs.items():
                start = time.process_time()
                ready.run(wanted, fed)
                if turn:
                    times[name].append(time.process_time() - start)
        unit = np.median(times["forward"])
        print(f"forward {1e3 * unit:.0f} ms;", ", ".join(f"{n}: {np.median(t) / unit:.2f}" for n, t in times.items()))
        files = {"forward": options.file, "K = 1": made["jvp"], "K = 16": made["jvp"], "vjp": made["vjp"]}
        print("peak MB:", ", ".join(f"{n}: {peak(files[n], fed, wanted):.0f}" for n, (_, fed, wanted) in runs.items()))


if __name__ == "__main__":
    main()
