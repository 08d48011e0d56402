"""Prints held-out figures of the models, in float64, for their READMEs.

    python scripts/evaluate.py [digits] [moons] [mixture]

One trajectory serves all estimators. The solver is Heun. The divergence is evaluated at the points at which the
solver evaluates the velocity, with weights h/2 and h/2. So rows differ only by the divergence.
"""

import math
import sys

import numpy as np
import torch

from onnx64 import Graph, with_trace
from pathlib import Path

MODELS = Path(__file__).resolve().parent.parent / "models"
NAMES = ("exact", "head", "hutchinson, fresh probe", "hutchinson, fixed probe")


def grid(kind, steps, low, high, rho=7.0):
    ramp = np.linspace(0, 1, steps + 1)
    if kind == "uniform":
        return low + (high - low) * ramp
    if kind == "log":
        return low * (high / low) ** ramp
    return (low ** (1 / rho) + ramp * (high ** (1 / rho) - low ** (1 / rho))) ** rho


def trajectory_divergences(velocity, head, x, times, rng):
    """x at the end of `times`, and the integral of the divergence by each estimator [4, N]."""
    fixed = torch.from_numpy(rng.choice([-1.0, 1.0], x.shape))
    total = torch.zeros(len(NAMES), len(x), dtype=x.dtype)

    def evaluate(x, time):
        t = torch.full((len(x),), float(time), dtype=x.dtype)
        f = lambda y: velocity(y, t)
        v, trace = with_trace(f, x)
        rows = [trace, head(x, t)]
        for probe in (torch.from_numpy(rng.choice([-1.0, 1.0], x.shape)), fixed):
            rows.append((torch.func.jvp(f, (x,), (probe,))[1] * probe).sum(1))
        return v, torch.stack(rows)

    for here, there in zip(times[:-1], times[1:]):
        h = there - here
        v0, d0 = evaluate(x, here)
        v1, d1 = evaluate(x + h * v0, there)
        x = x + h * 0.5 * (v0 + v1)
        total += h * 0.5 * (d0 + d1)
    return x, total


def log_normal(x, std):
    return -0.5 * (x / std).square().sum(1) - x.shape[1] * math.log(std * math.sqrt(2 * math.pi))


def table(log_p, dim, offset, unit):
    """One row per estimator: mean, paired bias with its standard error, RMSE, correlation."""
    per_dim = lambda nats: nats / (dim * math.log(2)) if unit == "bits/dim" else nats
    exact = log_p[0]
    print(f"  log p, exact: sd over samples {exact.std():.3f} nats")
    for name, row in zip(NAMES, log_p):
        gap = row - exact
        level = per_dim(-row.mean()) + offset
        line = f"  {name:26s} {level:8.4f} {unit}"
        if name != "exact":
            error = per_dim(gap.std() / math.sqrt(len(gap)))
            line += (f"  bias {per_dim(-gap.mean()):+.4f} +- {error:.4f}"
                     f"  rmse {gap.square().mean().sqrt():.3f} nats"
                     f"  correlation {np.corrcoef(exact.numpy(), row.numpy())[0, 1]:.4f}")
        print(line)


def edm_velocity(denoiser):
    return lambda x, s: (x - denoiser(x, s)) / s[:, None]


def digits(kind="log"):
    folder = MODELS / "digits"
    rng = np.random.default_rng(1)
    raw = np.load(folder / "heldout.npy")
    x = -1 + 2 * (raw + rng.random(raw.shape)) / 17
    x = torch.from_numpy(x.astype(np.float32).astype(np.float64))
    with torch.no_grad():
        end, integral = trajectory_divergences(
            edm_velocity(Graph(folder / "denoiser.onnx")), Graph(folder / "stad.onnx"), x,
            grid(kind, 60, 0.02, 20.0), rng)
        print(f"digits, {len(x)} held-out images dequantized once, Heun, 60 {kind} steps, sigma .02 to 20")
        table(log_normal(end, 20.0) + integral, 64, math.log2(17 / 2), "bits/dim")
        labels = np.load(folder / "heldout_labels.npy")
        features = Graph(folder / "features.onnx")
        features.graph.output.reverse()
        right = (features(x).argmax(1).numpy() == labels).mean()
        print(f"  classifier: {right:.4f} of {len(labels)} right")


def true_moons(x, time):
    """log p of the state at `time`: two half circles, smeared by the moons' noise and the flow's."""
    angle = (np.arange(2000) + 0.5) * math.pi / 2000
    arc = np.concatenate([np.stack([np.cos(angle), np.sin(angle)], 1),
                          np.stack([1 - np.cos(angle), 0.5 - np.sin(angle)], 1)])
    scale = np.array([0.87, 0.5])
    centres = time * (arc - np.array([0.5, 0.25])) / scale
    spread = np.sqrt((time * 0.07 / scale) ** 2 + (1 - time) ** 2)
    z = (x[:, None] - centres) / spread
    return np.log(np.exp(-0.5 * (z**2).sum(2)).mean(1) / (2 * math.pi * spread.prod()))


def moons():
    folder = MODELS / "moons"
    rng, steps = np.random.default_rng(2), 100
    velocity, head = Graph(folder / "velocity.onnx"), Graph(folder / "stad.onnx")
    x = torch.from_numpy(np.load(folder / "heldout.npy").astype(np.float64))
    times = grid("uniform", steps, 0.001, 0.99)[::-1].copy()
    with torch.no_grad():
        end, integral = trajectory_divergences(velocity, head, x, times, rng)
        print(f"moons, {len(x)} held-out points at t = .99, Heun, {steps} uniform steps to t = .001")
        table(log_normal(end, 1.0) + integral, 2, 0.0, "nats (-log p)")
        true = true_moons(x.numpy(), 0.99)
        gap = (log_normal(end, 1.0) + integral[0]).numpy() - true
        print(f"  true density: {-true.mean():.4f} nats; exact less true: rms {np.sqrt((gap**2).mean()):.3f} nats,"
              f" median {np.median(np.abs(gap)):.3f}")
        print(f"  state at t = .001: mean {end.mean(0).numpy().round(3)}, sd {end.std(0).numpy().round(3)}")
        # The density of a flow integrates to one whatever the network; a head's need not.
        side = np.linspace(-3, 3, 61)
        cells = torch.from_numpy(np.stack(np.meshgrid(side, side), -1).reshape(-1, 2))
        end, integral = trajectory_divergences(velocity, head, cells, times[::2], rng)
        mass = torch.exp(log_normal(end, 1.0) + integral[:2]).sum(1) * (side[1] - side[0]) ** 2
        print(f"  integral of the density over [-3, 3]^2: exact {mass[0]:.4f}, head {mass[1]:.4f}")


def mixture():
    folder = MODELS / "mixture"
    rng = np.random.default_rng(3)
    x = torch.from_numpy(np.load(folder / "heldout.npy").astype(np.float64))
    with torch.no_grad():
        end, integral = trajectory_divergences(
            edm_velocity(Graph(folder / "denoiser.onnx")), Graph(folder / "divergence.onnx"), x,
            grid("log", 200, 0.02, 80.0), rng)
        density = Graph(folder / "log_density.onnx")
        at = lambda x, s: density(x, torch.full((len(x),), s, dtype=x.dtype))
        log_p = log_normal(end, 80.0) + integral
        truth = at(x, 0.02)
        # The one thing a true score leaves wrong is the prior.
        expected = truth + log_normal(end, 80.0) - at(end, 80.0)
        print(f"mixture, {len(x)} held-out points, Heun, 200 log-uniform steps, sigma .02 to 80")
        table(log_p, 8, 0.0, "nats (-log p)")
        print(f"  true log p at sigma .02: mean {truth.mean():.4f}; prior mismatch, mean "
              f"{(expected - truth).mean():+.2e}; solver error of exact: rms "
              f"{(log_p[0] - expected).square().mean().sqrt():.2e} nats")


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name in sys.argv[1:] or ["digits", "moons", "mixture"]:
        {"digits": digits, "moons": moons, "mixture": mixture}[name]()
