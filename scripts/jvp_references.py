"""Writes tests/data/jvp/*.npz and tests/data/*_truth.npz: the reference values of the program's tests.

    python scripts/jvp_references.py [digits] [moons] [mixture]

tests/data/jvp/<model>.npz   x [3,D], t [3] (f32, as a program would feed them), v [4,3,D] f32
                             tangents; y [3,D] and jv [4,3,D] in float64: network and J v by
                             forward-mode differentiation, weights as in the file
tests/data/<model>_truth.npz x [n,D] f32 states at the data end, x_T [n,D] at the prior end,
                             log_likelihood [n] by the exact trace, DOP853 at tight tolerances
mixture_truth.npz also has   log_density [n] of x, from the mixture's formula; log_likelihood by
                             the identity log p + log pi(x_T) - log p_T(x_T); and
                             log_likelihood_integrated, the same by integrating the divergence
"""

import json
import math
import sys
from pathlib import Path

import numpy as np
import torch
from scipy.integrate import solve_ivp

from onnx64 import Graph, jacobian_products, with_trace

ROOT = Path(__file__).resolve().parent.parent
MODELS, OUT = ROOT / "models", ROOT / "tests" / "data"


def log_normal(x, std):
    return -0.5 * (x**2).sum(1) / std**2 - x.shape[1] * math.log(std * math.sqrt(2 * math.pi))


def write_products(name, network, x, t, rng):
    """Tangents: two Gaussian, one of signs, one unit vector per sample."""
    x, t = x.astype(np.float32), t.astype(np.float32)
    v = rng.standard_normal((4, *x.shape)).astype(np.float32)
    v[2] = rng.choice([-1.0, 1.0], x.shape)
    v[3] = np.eye(x.shape[1])[np.arange(len(x)) % x.shape[1]]
    times = torch.from_numpy(t.astype(np.float64))
    with torch.no_grad():
        y, jv = jacobian_products(lambda z: network(z, times), torch.from_numpy(x.astype(np.float64)),
                                  torch.from_numpy(v.astype(np.float64)))
    (OUT / "jvp").mkdir(parents=True, exist_ok=True)
    np.savez(OUT / "jvp" / f"{name}.npz", x=x, t=t, v=v, y=y.numpy(), jv=jv.numpy())
    print(f"{name}: J v at times {t.tolist()}, |J v| up to {np.abs(jv.numpy()).max():.3g}")


def integrate(field, x, start, stop, rtol, atol):
    """x and the integral of the divergence; `field` gives both at a time. [n,D] -> [n,D], [n]."""
    count, dim = x.shape

    def slope(time, state):
        v, divergence = field(state[: count * dim].reshape(count, dim), time)
        return np.concatenate([v.ravel(), divergence])

    state = np.concatenate([x.ravel(), np.zeros(count)])
    solution = solve_ivp(slope, (start, stop), state, method="DOP853", rtol=rtol, atol=atol)
    assert solution.success, solution.message
    end = solution.y[:, -1]
    return end[: count * dim].reshape(count, dim), end[count * dim:], solution.nfev


def exact_trace(velocity):
    """The field for `integrate`, from a torch velocity(x, t)."""
    def field(x, time):
        t = torch.full((len(x),), time, dtype=torch.float64)
        with torch.no_grad():
            v, trace = with_trace(lambda z: velocity(z, t), torch.from_numpy(x))
        return v.numpy(), trace.numpy()
    return field


def in_log_sigma(field):
    """dx/dlog sigma = sigma dx/dsigma: a field without the stiffness of small sigma."""
    def scaled(x, u):
        sigma = math.exp(u)
        v, divergence = field(x, sigma)
        return sigma * v, sigma * divergence
    return scaled


def digits():
    folder, rng = MODELS / "digits", np.random.default_rng(41)
    denoiser = Graph(folder / "denoiser.onnx")
    raw = np.load(folder / "heldout.npy")
    x = (-1 + 2 * (raw + rng.random(raw.shape)) / 17).astype(np.float32)
    t = np.array([0.02, 0.5, 20.0])
    noisy = x[100:103] + t[:, None] * rng.standard_normal((3, 64))
    write_products("digits", denoiser, noisy, t, rng)
    velocity = lambda z, s: (z - denoiser(z, s)) / s[:, None]
    x = x[:16]
    end, integral, calls = integrate(in_log_sigma(exact_trace(velocity)), x.astype(np.float64),
                                     math.log(0.02), math.log(20.0), 1e-9, 1e-10)
    log_p = log_normal(end, 20.0) + integral
    np.savez(OUT / "digits_truth.npz", x=x, x_T=end, log_likelihood=log_p)
    print(f"digits truth: {calls} evaluations, log p from {log_p.min():.3f} to {log_p.max():.3f}")


def moons():
    folder, rng = MODELS / "moons", np.random.default_rng(42)
    velocity = Graph(folder / "velocity.onnx")
    x = np.load(folder / "heldout.npy")
    t = np.array([0.001, 0.6, 0.99])
    noisy = x[100:103] * t[:, None] + (1 - t[:, None]) * rng.standard_normal((3, 2))
    write_products("moons", velocity, noisy, t, rng)
    x = x[:16]
    end, integral, calls = integrate(exact_trace(velocity), x.astype(np.float64), 0.99, 0.001, 1e-10, 1e-11)
    # Time runs towards the noise, with t falling: the signed integral of +div dt is what adds.
    log_p = log_normal(end, 1.0) + integral
    np.savez(OUT / "moons_truth.npz", x=x, x_T=end, log_likelihood=log_p)
    print(f"moons truth: {calls} evaluations, log p from {log_p.min():.3f} to {log_p.max():.3f}")


class Mixture:
    """The closed forms in float64, by way of the score and its divergence."""

    def __init__(self, parameters):
        self.w, self.m, self.c = (np.array(parameters[k]) for k in ("weights", "means", "variances"))

    def parts(self, x, sigma):
        dim = x.shape[1]
        total = self.c + sigma**2
        gap = x[:, None] - self.m
        logs = np.log(self.w) - 0.5 * dim * np.log(2 * np.pi * total) - 0.5 * (gap**2).sum(2) / total
        top = logs.max(1, keepdims=True)
        log_p = top[:, 0] + np.log(np.exp(logs - top).sum(1))
        r = np.exp(logs - log_p[:, None])
        g = -gap / total[:, None]
        score = (r[:, :, None] * g).sum(1)
        div_score = (r * ((g**2).sum(2) - dim / total)).sum(1) - (score**2).sum(1)
        return log_p, score, div_score

    def field(self, x, sigma):
        _, score, div_score = self.parts(x, sigma)
        return -sigma * score, -sigma * div_score

    def denoiser(self, x, sigma):
        """The same in torch, with the parameters as the graph holds them, for forward mode."""
        w, m, c = (torch.from_numpy(a.astype(np.float32).astype(np.float64)) for a in (self.w, self.m, self.c))
        total = c + sigma[:, None] ** 2
        gap = x[:, None] - m
        logs = torch.log(w) - 0.5 * x.shape[1] * torch.log(total) - 0.5 * gap.square().sum(2) / total
        r = torch.softmax(logs, 1)
        return (r[:, :, None] * (m + (c / total)[:, :, None] * gap)).sum(1)


def mixture():
    folder, rng = MODELS / "mixture", np.random.default_rng(44)
    truth = Mixture(json.loads((folder / "mixture.json").read_text()))
    x = np.load(folder / "heldout.npy")
    t = np.array([0.02, 0.7, 80.0])
    noisy = x[100:103] + t[:, None] * rng.standard_normal((3, 8))
    write_products("mixture", truth.denoiser, noisy, t, rng)
    x = x[:64]
    ends, integrals = [], []
    for row in x.astype(np.float64):   # one at a time: the step control is each sample's own
        end, integral, _ = integrate(in_log_sigma(truth.field), row[None], math.log(0.02), math.log(80.0),
                                     1e-11, 1e-12)
        ends.append(end[0])
        integrals.append(integral[0])
    end = np.array(ends)
    log_density = truth.parts(x.astype(np.float64), 0.02)[0]
    identity = log_density + log_normal(end, 80.0) - truth.parts(end, 80.0)[0]
    integrated = log_normal(end, 80.0) + np.array(integrals)
    np.savez(OUT / "mixture_truth.npz", x=x, x_T=end, log_density=log_density, log_likelihood=identity,
             log_likelihood_integrated=integrated)
    print(f"mixture truth: identity and integral differ by {np.abs(identity - integrated).max():.1e} at most")


if __name__ == "__main__":
    torch.set_num_threads(1)
    OUT.mkdir(parents=True, exist_ok=True)
    for name in sys.argv[1:] or ["digits", "moons", "mixture"]:
        {"digits": digits, "moons": moons, "mixture": mixture}[name]()
