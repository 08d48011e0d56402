"""Writes tests/data/one_call: models that give their log-density in one call, with true log-densities in float64."""

from pathlib import Path

import numpy as np
from scipy.special import logsumexp

from onnx_graph import DOUBLE, FLOAT, Graph

FOLDER = Path(__file__).parent.parent / "tests/data/one_call"
random = np.random.default_rng(41)


def normal(z, std=1.0):
    """log N(z; 0, std² I) of rows."""
    return -0.5 * (z ** 2).sum(1) / std ** 2 - z.shape[1] * np.log(std * np.sqrt(2 * np.pi))


def save(name, x, log_density):
    np.save(FOLDER / f"{name}.npy", x)
    np.save(FOLDER / f"{name}_truth.npy", log_density)


def affine(kind, file, dim=4, std=1.5):
    """z = (x − m)·A for a state of shape [1, 2, 2] with flat latents."""
    weights, mean = random.normal(size=(dim, dim)), random.normal(size=dim)
    log_det = np.linalg.slogdet(weights)[1]
    g = Graph(kind)
    flat = g("Reshape", "x", np.array([-1, dim]))
    g("MatMul", g("Sub", flat, mean), weights, name="z")
    zero = g("Mul", g.total(flat), 0.0)
    g("Add", zero, log_det, name="log_det")
    g.save(FOLDER / file, {"x": ["N", 1, 2, 2]}, {"z": ["N", dim], "log_det": ["N"]})
    x = mean + 0.5 * random.normal(size=(48, dim))
    save(Path(file).stem, x.reshape(-1, 1, 2, 2), normal((x - mean) @ weights, std) + log_det)


def coupling(file, dim=6, hidden=8, layers=4):
    """A RealNVP in float32 that depends on an observation per sample. Its second log-determinant has the wrong sign."""
    half = dim // 2
    g, state, log_det = Graph(FLOAT), "x", None
    x = random.normal(size=(64, dim)).astype(np.float32)
    observed = random.normal(size=64)
    z, total = x.astype(np.float64), np.zeros(64)
    for layer in range(layers):
        first = [random.normal(size=s) / np.sqrt(s[0]) for s in [(half + 1, hidden), (hidden, dim)]]
        first = [w.astype(np.float32).astype(np.float64) for w in first]
        keep = g("Slice", state, np.array([0]), np.array([half]), np.array([1]))
        move = g("Slice", state, np.array([half]), np.array([dim]), np.array([1]))
        given = g("Concat", keep, "observation", axis=1)
        out = g("MatMul", g("Tanh", g("MatMul", given, first[0])), first[1])
        scale = g("Slice", out, np.array([0]), np.array([half]), np.array([1]))
        shift = g("Slice", out, np.array([half]), np.array([dim]), np.array([1]))
        moved = g("Add", g("Mul", move, g("Exp", scale)), shift)
        last = layer == layers - 1
        # The halves change places, so that every value is moved.
        state = g("Concat", moved, keep, axis=1, name="z" if last else None)
        part = g("ReduceSum", scale, np.array([1]), keepdims=1)
        log_det = part if log_det is None else g("Add", log_det, part, name="log_det" if last else None)
        a, b = z[:, :half], z[:, half:]
        o = np.tanh(np.hstack([a, observed[:, None]]) @ first[0]) @ first[1]
        z, total = np.hstack([b * np.exp(o[:, :half]) + o[:, half:], a]), total + o[:, :half].sum(1)
    g("Neg", "log_det", name="minus_log_det")
    g.save(FOLDER / file, {"x": ["N", dim], "observation": ["N", 1]},
           {"z": ["N", dim], "log_det": ["N", 1], "minus_log_det": ["N", 1]})
    np.save(FOLDER / "coupling_observations.npy", observed)
    save("coupling", x, normal(z) + total)


def mixture(file, dim=2):
    """The log-density of a mixture of three normal distributions."""
    means, std = random.normal(size=(3, dim)) * 2, 0.7
    weights = np.array([0.5, 0.3, 0.2])
    constant = np.log(weights) - dim * np.log(std * np.sqrt(2 * np.pi))
    g = Graph(DOUBLE)
    gaps = g("Sub", g.column("x"), means[None])
    logs = g("Add", g("Mul", g.total(g("Mul", gaps, gaps)), -0.5 / std ** 2), constant)
    g("ReduceLogSumExp", logs, np.array([1]), keepdims=0, name="log_density")
    g.save(FOLDER / file, {"x": ["N", dim]}, {"log_density": ["N"]})
    x = means[random.choice(3, size=400, p=weights)] + std * random.normal(size=(400, dim))
    logs = -0.5 * ((x[:, None] - means) ** 2).sum(2) / std ** 2 + constant
    save("mixture", x, logsumexp(logs, axis=1))


affine(DOUBLE, "affine.onnx")
coupling("coupling.onnx")
mixture("mixture.onnx")
