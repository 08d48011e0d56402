"""Work and precision of log-likelihoods: networks, float64 references, and third-party solvers on the same networks.

    python scripts/work_precision.py OUT [--flowgauge target/release/flowgauge] [--samples 16]

Writes OUT/<network>/ (network.onnx, card.yaml, x.npy), and OUT/results.csv with one line per network, solver and
tolerance. A line has the root mean square and the largest error in nats, and the evaluations per sample. The reference
is scipy's DOP853 at 1e-10 with the divergence among its variables. Needs numpy, scipy and onnx; uses diffrax and
torchdiffeq if they are installed.
"""

import argparse
import csv
import pathlib
import subprocess

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from scipy.integrate import solve_ivp

SELU = (1.0507009873554805, 1.6732632423543772)


class Network:
    """A perceptron of state and time, v(x, t), with its divergence."""

    def __init__(self, dim, width, hidden, activation, gain, seed):
        rng = np.random.default_rng(seed)
        sizes = [dim + 1] + [width] * hidden + [dim]
        self.dim, self.activation = dim, activation
        single = lambda a: a.astype(np.float32).astype(np.float64)
        self.weights = [single(rng.normal(size=(b, a)) * gain / np.sqrt(a)) for a, b in zip(sizes, sizes[1:])]
        self.shifts = [single(rng.normal(size=b) * 0.3) for b in sizes[1:]]

    def act(self, u):
        if self.activation == "Tanh":
            y = np.tanh(u)
            return y, 1 - y * y
        if self.activation == "Relu":
            return np.maximum(u, 0), (u > 0) * 1.0
        low = np.exp(np.minimum(u, 0))
        if self.activation == "Elu":
            return np.where(u > 0, u, low - 1), np.where(u > 0, 1.0, low)
        scale, a = SELU
        return scale * np.where(u > 0, u, a * (low - 1)), scale * np.where(u > 0, 1.0, a * low)

    def both(self, t, x):
        a, jacobian = np.append(x, t), np.eye(self.dim + 1)[:, : self.dim]
        for i, (w, b) in enumerate(zip(self.weights, self.shifts)):
            a, jacobian = w @ a + b, w @ jacobian
            if i + 1 < len(self.weights):
                a, slope = self.act(a)
                jacobian = slope[:, None] * jacobian
        return a, np.trace(jacobian)

    def write(self, folder):
        folder.mkdir(parents=True, exist_ok=True)
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", self.dim])
        t = helper.make_tensor_value_info("t", TensorProto.FLOAT, ["N"])
        v = helper.make_tensor_value_info("v", TensorProto.FLOAT, ["N", self.dim])
        axes = numpy_helper.from_array(np.array([1], np.int64), "axes")
        nodes = [helper.make_node("Unsqueeze", ["t", "axes"], ["column"])]
        nodes += [helper.make_node("Concat", ["x", "column"], ["a0"], axis=1)]
        constants = [axes]
        for i, (w, b) in enumerate(zip(self.weights, self.shifts)):
            last = i + 1 == len(self.weights)
            constants += [numpy_helper.from_array(w.T.astype(np.float32), f"w{i}")]
            constants += [numpy_helper.from_array(b.astype(np.float32), f"b{i}")]
            nodes += [helper.make_node("MatMul", [f"a{i}", f"w{i}"], [f"m{i}"])]
            nodes += [helper.make_node("Add", [f"m{i}", f"b{i}"], ["v" if last else f"s{i}"])]
            if not last:
                nodes += [helper.make_node(self.activation, [f"s{i}"], [f"a{i + 1}"])]
        graph = helper.make_graph(nodes, "velocity", [x, t], [v], constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.checker.check_model(model)
        onnx.save(model, folder / "network.onnx")
        (folder / "card.yaml").write_text(
            f"name: {folder.name}\nshape: [{self.dim}]\nnetwork:\n  file: network.onnx\n"
            "  inputs: {x: x, time: t}\n  output: v\n  prediction: velocity\n  time: {feed: t}\n"
            "path: {kind: flow-matching, data_at: 0}\n"
        )


NETWORKS = {
    "smooth-32": Network(32, 64, 2, "Tanh", 1.0, 1),
    "relu-3": Network(3, 64, 2, "Relu", 1.5, 2),
    "relu-16": Network(16, 64, 2, "Relu", 1.2, 6),
    "elu-3": Network(3, 64, 2, "Elu", 1.5, 4),
    "selu-6": Network(6, 64, 2, "Selu", 1.2, 4),
}


def scipys(network, x, method, rtol, atol):
    """log p and evaluations by scipy with the divergence among the variables."""
    d, count = network.dim, 0

    def rhs(t, y):
        nonlocal count
        count += 1
        v, g = network.both(t, y[:d])
        return np.append(v, g)

    end = solve_ivp(rhs, (0, 1), np.append(x, 0.0), method=method, rtol=rtol, atol=atol).y[:, -1]
    return -0.5 * end[:d] @ end[:d] - 0.5 * d * np.log(2 * np.pi) + end[d], count


def diffraxs(network, xs, tol):
    """The same by diffrax's Dopri5 under its PID controller, the divergence among the variables."""
    import diffrax
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)
    d = network.dim
    act = {"Tanh": jnp.tanh, "Relu": jax.nn.relu, "Elu": jax.nn.elu, "Selu": jax.nn.selu}[network.activation]

    def velocity(t, x):
        a = jnp.append(x, t)
        for i, (w, b) in enumerate(zip(network.weights, network.shifts)):
            a = w @ a + b
            a = act(a) if i + 1 < len(network.weights) else a
        return a

    def rhs(t, y, _):
        v = velocity(t, y[:d])
        return jnp.append(v, jnp.trace(jax.jacfwd(lambda x: velocity(t, x))(y[:d])))

    @jax.jit
    def one(x):
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(rhs), diffrax.Dopri5(), 0.0, 1.0, None, jnp.append(x, 0.0),
            stepsize_controller=diffrax.PIDController(rtol=tol, atol=tol), max_steps=100_000,
        )
        y = solution.ys[0]
        return -0.5 * y[:d] @ y[:d] - 0.5 * d * jnp.log(2 * jnp.pi) + y[d], solution.stats["num_steps"]

    values, steps = zip(*(one(x) for x in xs))
    # Six fresh stages a step, one more at the start, and one for the first step's size.
    return np.array(values), np.mean([6 * int(s) + 2 for s in steps])


def torchdiffeqs(network, xs, tol):
    """The same by torchdiffeq's dopri5, each sample by itself, the divergence among the variables."""
    import torch
    from torchdiffeq import odeint

    d, count = network.dim, 0

    def rhs(t, y):
        nonlocal count
        count += 1
        v, g = network.both(float(t), y[:d].numpy())
        return torch.from_numpy(np.append(v, g))

    def one(x):
        start, times = torch.from_numpy(np.append(x, 0.0)), torch.tensor([0.0, 1.0], dtype=torch.float64)
        y = odeint(rhs, start, times, rtol=tol, atol=tol, method="dopri5")[-1].numpy()
        return -0.5 * y[:d] @ y[:d] - 0.5 * d * np.log(2 * np.pi) + y[d]

    values = np.array([one(x) for x in xs])
    return values, count / len(xs)


def flowgauges(program, folder, solver, extra=()):
    out = folder / "out.csv"
    command = [program, "likelihood", "--model", folder / "card.yaml", "--data", folder / "x.npy"]
    command += ["--solver", solver, "--divergence", "exact", "--out", out, *extra]
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    if not out.exists():
        raise SystemExit(done.stderr)
    rows = list(csv.DictReader(out.open()))
    out.unlink()
    number = lambda name: np.array([float(r[name] or "nan") for r in rows])
    return number("log_likelihood"), number("evaluations"), number("jvps"), number("solver_error")


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("out", type=pathlib.Path)
    arguments.add_argument("--flowgauge", default="target/release/flowgauge")
    arguments.add_argument("--samples", type=int, default=16)
    arguments.add_argument("--only", default="")
    arguments.add_argument("--ours-alone", action="store_true")
    given = arguments.parse_args()
    lines = []
    for name, network in NETWORKS.items():
        if given.only and given.only not in name:
            continue
        folder = given.out / name
        network.write(folder)
        x = np.random.default_rng(100).normal(size=(given.samples, network.dim)).astype(np.float32)
        np.save(folder / "x.npy", x)
        x = x.astype(np.float64)
        cache = folder / "truth.npy"
        if not (cache.exists() and len(np.load(cache)) == len(x)):
            np.save(cache, [scipys(network, row, "DOP853", 1e-10, 1e-12)[0] for row in x])
        truth = np.load(cache)

        def note(solver, tolerance, values, evaluations, jvps="", told=None):
            error = values - truth
            line = {
                "network": name, "solver": solver, "tolerance": tolerance,
                "rms": f"{np.sqrt(np.mean(error**2)):.1e}", "largest": f"{np.max(np.abs(error)):.1e}",
                "evaluations": f"{evaluations:.0f}", "jvps": jvps,
                "told": "" if told is None else f"{np.sqrt(np.mean(told**2)):.1e}",
                "within_3": "" if told is None else f"{np.mean(np.abs(error) <= 3 * told):.2f}",
            }
            lines.append(line)
            print(*line.values(), sep="  ", flush=True)

        for tol in (1e-3, 1e-4, 1e-5, 1e-6):
            for solver in ("dopri5", "tsit5", "bosh3"):
                spec = f"{{{solver}: {{rtol: {tol:.0e}, atol: {tol:.0e}}}}}".replace("e-0", ".0e-")
                values, evaluations, jvps, told = flowgauges(given.flowgauge, folder, spec)
                note(f"flowgauge {solver}", f"rtol=atol={tol:.0e}", values, evaluations.mean(), f"{jvps.mean():.0f}", told)
            if not given.ours_alone:
                values, counts = zip(*(scipys(network, row, "RK45", tol, tol) for row in x))
                note("scipy RK45", f"rtol=atol={tol:.0e}", np.array(values), np.mean(counts))
                for other, solve in (("diffrax Dopri5", diffraxs), ("torchdiffeq dopri5", torchdiffeqs)):
                    try:
                        note(other, f"rtol=atol={tol:.0e}", *solve(network, x, tol))
                    except ImportError:
                        pass
        for tol in (1e-1, 1e-2, 1e-3, 1e-4):
            spec = f"{{dopri5: {{tol: {tol:.0e}}}}}".replace("e-0", ".0e-")
            values, evaluations, jvps, told = flowgauges(given.flowgauge, folder, spec)
            note("flowgauge dopri5", f"tol={tol:.0e}", values, evaluations.mean(), f"{jvps.mean():.0f}", told)
    with (given.out / "results.csv").open("w") as file:
        writer = csv.DictWriter(file, lines[0].keys())
        writer.writeheader()
        writer.writerows(lines)


if __name__ == "__main__":
    main()
