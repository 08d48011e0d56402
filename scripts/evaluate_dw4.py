"""Prints the figures of models/dw4 in float64 and writes tests/data/dw4/truth.npz.

    python scripts/evaluate_dw4.py --data FOLDER [--samples 4000] [--map-samples 10000] [--bgflow CLONE] [truth] [samples] [points]

FOLDER has dem_test_split_DW4.npy. The weights are those of the ONNX files, the arithmetic is double, and nothing is
shared with the scripts that trained them. Without parts it does all three; with `--samples 0` no samples of the flow. Log-densities are densities on the subspace of zero centre of mass, in an
orthonormal basis of it. With a clone of noegroup/bgflow its energy is compared too. One thread; about 20 minutes.
"""

import argparse
import math
import sys
import time
from pathlib import Path

import numpy as np
import torch

from onnx64 import Graph, jacobian_products

ROOT = Path(__file__).resolve().parent.parent
HERE = ROOT / "models" / "dw4"
CHUNK = 250
STEPS_OF_MAP = (1, 2, 4, 8)


def subspace():
    """An orthonormal basis [8, 6] of the states whose mean over the particles is zero."""
    mean = np.kron(np.full((4, 4), 0.25), np.eye(2))
    values, vectors = np.linalg.eigh(np.eye(8) - mean)
    return torch.from_numpy(vectors[:, values > 0.5].copy())


BASIS = subspace()


def centred(x):
    return x @ BASIS @ BASIS.T


def log_prior(x):
    """The standard normal on the subspace."""
    return -0.5 * x.square().sum(1) - 3 * math.log(2 * math.pi)


def energy(x):
    """The sum over pairs i < j of 0.9 (d - 4)^4 - 4 (d - 4)^2, on [N, 4, 2]."""
    x = x.reshape(-1, 4, 2)
    total = 0.0
    for i in range(4):
        for j in range(i):
            d = torch.linalg.vector_norm(x[:, i] - x[:, j], dim=1) - 4
            total = total + 0.9 * d**4 - 4 * d**2
    return total


def restricted(f, x):
    """f(x) and the Jacobian of f on the subspace, [N, 6, 6]."""
    tangents = BASIS.T[:, None, :].expand(-1, len(x), -1)
    value, products = jacobian_products(f, x, tangents)
    return value, torch.einsum("knd,di->nik", products, BASIS)


def chunked(function, x, *more):
    """Applies a function to rows in chunks and joins its results."""
    parts = [function(x[i:i + CHUNK], *more) for i in range(0, len(x), CHUNK)]
    return tuple(torch.cat(p) for p in zip(*parts))


def follow_ode(x, velocity, start, end, steps):
    """RK4 with uniform steps: the state at `end` and the integral of the divergence from start to end."""
    total = torch.zeros(len(x), dtype=x.dtype)
    h = (end - start) / steps

    def at(x, t):
        v, jacobian = restricted(lambda y: velocity(y, torch.full((len(y),), t, dtype=x.dtype)), x)
        return v, jacobian.diagonal(dim1=1, dim2=2).sum(1)

    for k in range(steps):
        t = start + k * h
        v1, d1 = at(x, t)
        v2, d2 = at(x + h / 2 * v1, t + h / 2)
        v3, d3 = at(x + h / 2 * v2, t + h / 2)
        v4, d4 = at(x + h * v3, t + h)
        x = x + h / 6 * (v1 + 2 * v2 + 2 * v3 + v4)
        total = total + h / 6 * (d1 + 2 * d2 + 2 * d3 + d4)
    return x, total


def follow_map(x, flow_map, start, end, steps):
    """Uniform steps of the map: the state, the sum of log |det|, and the number of negative determinants."""
    total = torch.zeros(len(x), dtype=x.dtype)
    flipped = torch.zeros(len(x), dtype=torch.int64)
    times = np.linspace(start, end, steps + 1)
    for here, there in zip(times[:-1], times[1:]):
        t, s = (torch.full((len(x),), float(v), dtype=x.dtype) for v in (here, there))
        u, jacobian = restricted(lambda y: flow_map(y, t[:len(y)], s[:len(y)]), x)
        sign, log_det = torch.linalg.slogdet(torch.eye(6, dtype=x.dtype) + float(there - here) * jacobian)
        x, total, flipped = x + float(there - here) * u, total + log_det, flipped + (sign <= 0)
    return x, total, flipped


def density_of_samples(noise, follow, *rest):
    """Samples at t = 1 and their log-densities."""
    x, change, *more = chunked(follow, noise, *rest)
    return (x, log_prior(noise) - change, *more)


def density_of_points(x, follow, *rest):
    """Noise at t = 0 and the log-densities of points."""
    z, change, *more = chunked(follow, x, *rest)
    return (z, log_prior(z) + change, *more)


def weights_of(log_q, u):
    w = -u - log_q
    top = w.max()
    return torch.exp(w - top), top


def reweighting(name, log_q, u):
    """ESS as a share of n, log Z, the reweighted mean energy; standard errors from 200 bootstrap draws."""
    w, top = weights_of(log_q, u)
    n = len(w)
    rng = np.random.default_rng(5)

    def figures(w, u):
        return [float(w.sum() ** 2 / (w.square().sum() * len(w))), float(top + torch.log(w.mean())),
                float((w * u).sum() / w.sum())]

    draws = [torch.from_numpy(rng.integers(0, n, n)) for _ in range(200)]
    errors = np.std([figures(w[i], u[i]) for i in draws], axis=0)
    ess, log_z, mean = figures(w, u)
    print(f"  {name:14s} ess {ess:.3f} +- {errors[0]:.3f}  log Z {log_z:.3f} +- {errors[1]:.3f}  reweighted energy "
          f"{mean:.3f} +- {errors[2]:.3f}  largest weight {float(w.max() / w.sum()):.4f}", flush=True)


def spread(name, u):
    q = np.quantile(u.numpy(), [0.05, 0.25, 0.5, 0.75, 0.95])
    print(f"  {name:14s} mean {u.mean():8.3f} +- {u.std() / len(u) ** 0.5:.3f}  sd {u.std():6.3f}  quantiles 5, 25, 50, "
          f"75, 95 %: {q.round(2)}  least {u.min():.3f}  largest {u.max():.2f}", flush=True)


def metropolis(x, sweeps=6000, burn=1000):
    """The mean energy and its standard error by chains from the given states, which know no network.

    Moves are of all particles or of one, near or across the wells; a chain's mean after `burn` counts once.
    """
    rng = np.random.default_rng(6)
    noise = lambda size: torch.from_numpy(rng.standard_normal(size))
    u, means, kept = energy(x), torch.zeros(len(x), dtype=x.dtype), 0
    for k in range(sweeps):
        kind = rng.random()
        if kind < 0.5:
            y = x + 0.3 * noise(x.shape)
        else:
            particle, reach = rng.integers(4), 0.5 if kind < 0.7 else 2.5
            y = x.clone()
            y[:, 2 * particle:2 * particle + 2] += reach * noise((len(x), 2))
        proposed = energy(y)
        accept = torch.from_numpy(np.log(rng.random(len(x)))) < u - proposed
        x, u = torch.where(accept[:, None], y, x), torch.where(accept, proposed, u)
        if k >= burn and k % 10 == 0:
            means, kept = means + u, kept + 1
    means = means / kept
    print(f"  Metropolis, {len(x)} chains of {sweeps} moves: mean energy {means.mean():.3f} +- "
          f"{means.std() / len(means) ** 0.5:.3f}", flush=True)


def compare_energies(x, graph, clone):
    own = energy(x)
    print(f"energy on {len(x)} test points: largest difference of energy.onnx {float((graph(x) - own).abs().max()):.1e}")
    if clone:
        sys.path.insert(0, str(clone))
        # bgflow is of before NumPy 2.
        np.infty = np.inf
        from bgflow import MultiDoubleWellPotential
        theirs = MultiDoubleWellPotential(dim=8, n_particles=4, a=0.9, b=-4, c=0, offset=4, two_event_dims=False)
        gap = (theirs.energy(x).squeeze(-1) - own).abs().max()
        print(f"  of bgflow's MultiDoubleWellPotential with DEM's parameters {float(gap):.1e}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--samples", type=int, default=4000)
    parser.add_argument("--map-samples", type=int, default=10_000)
    parser.add_argument("--points", type=int, default=500)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--bgflow", type=Path)
    parser.add_argument("parts", nargs="*")
    options = parser.parse_args()
    parts = options.parts or ["truth", "samples", "points"]
    began = time.process_time()
    velocity, flow_map, graph = (Graph(HERE / f) for f in ("velocity.onnx", "falcon.onnx", "energy.onnx"))
    test = centred(torch.from_numpy(np.load(options.data / "dem_test_split_DW4.npy").astype(np.float64)))
    compare_energies(test, graph, options.bgflow)

    gen = torch.Generator().manual_seed(3)
    noise = centred(torch.randn((options.map_samples, 8), generator=gen, dtype=torch.float64))
    times = torch.rand(len(noise), generator=gen, dtype=torch.float64)
    states = times[:, None] * test[torch.arange(len(noise)) % len(test)] + (1 - times[:, None]) * noise
    mean = lambda v: float(v.reshape(-1, 4, 2).mean(1).abs().max())
    print(f"largest |mean over particles| of v {mean(velocity(states, times)):.1e}, "
          f"of u {mean(flow_map(states, times, times.flip(0))):.1e} (float64)")

    if "truth" in parts:
        write_truth(velocity, flow_map)
    if "samples" in parts:
        evaluate_samples(velocity, flow_map, test, noise, options)
    if "points" in parts:
        evaluate_points(velocity, flow_map, test[:options.points], noise[:100], options.steps)
    print(f"{time.process_time() - began:.0f} CPU s")


def evaluate_samples(velocity, flow_map, test, noise, options):
    print(f"samples, from t = 0 to t = 1: {options.samples} of the flow, RK4 with {options.steps} uniform steps; "
          f"{len(noise)} of the map")
    print("energies, kT")
    spread("test data", energy(test))
    kept = {}
    if options.samples:
        kept["flow"] = density_of_samples(noise[:options.samples], follow_ode, velocity, 0.0, 1.0, options.steps)
        spread("flow", energy(kept["flow"][0]))
    for steps in STEPS_OF_MAP:
        x, log_q, flipped = density_of_samples(noise, follow_map, flow_map, 0.0, 1.0, steps)
        kept[f"map, {steps}"] = x, log_q
        spread(f"map, {steps}", energy(x))
        print(f"    {int((flipped > 0).sum())} samples at which a step's determinant is not positive")
    print("reweighting to exp(-energy)")
    for name, (x, log_q) in kept.items():
        reweighting(name, log_q, energy(x))
    metropolis(test[:4000])


def evaluate_points(velocity, flow_map, points, noise, steps_of_ode):
    coarse, fine = (density_of_samples(noise, follow_ode, velocity, 0.0, 1.0, k * steps_of_ode) for k in (1, 2))
    print(f"error of the solver, from twice the steps, {len(noise)} samples: states "
          f"{float((coarse[0] - fine[0]).abs().max()):.1e}, log-densities "
          f"{float((coarse[1] - fine[1]).abs().max()):.1e} nats")
    z, exact = density_of_points(points, follow_ode, velocity, 1.0, 0.0, steps_of_ode)
    print(f"log-densities of {len(points)} test points, nats")
    print(f"  flow: mean -log p {-exact.mean():.4f} +- {exact.std() / len(exact) ** 0.5:.4f}")
    for steps in STEPS_OF_MAP:
        end, log_p, flipped = density_of_points(points, follow_map, flow_map, 1.0, 0.0, steps)
        gap = log_p - exact
        back = chunked(follow_map, end, flow_map, 0.0, 1.0, steps)[0]
        print(f"  map, {steps}: mean -log p {-log_p.mean():.4f}, bias {-gap.mean():+.4f} +- "
              f"{gap.std() / len(gap) ** 0.5:.4f}, rmse {gap.square().mean().sqrt():.3f}, median |error| "
              f"{gap.abs().median():.3f}, correlation {np.corrcoef(exact, log_p)[0, 1]:.4f}; noise off by rms "
              f"{(end - z).square().mean().sqrt():.4f}; there and back rms {(back - points).square().mean().sqrt():.4f}; "
              f"not positive {int((flipped > 0).sum())}", flush=True)


def write_truth(velocity, flow_map, count=32, steps=200):
    """Own samples, own samples shaken off the data, and their log-densities; none of the data."""
    gen = torch.Generator().manual_seed(4)
    draw = lambda: centred(torch.randn((count, 8), generator=gen, dtype=torch.float64))
    noise = draw()
    samples, log_q = density_of_samples(noise, follow_ode, velocity, 0.0, 1.0, steps)
    # Networks get states in f32, so let these be exact in f32.
    points = torch.cat([samples, centred(samples + 0.15 * draw())]).float().double()
    arrays = {"noise": noise, "samples": samples, "samples_log_density": log_q, "points": points,
              "energy": energy(points)}
    z, log_p = density_of_points(points, follow_ode, velocity, 1.0, 0.0, steps)
    _, coarse = density_of_points(points, follow_ode, velocity, 1.0, 0.0, steps // 2)
    print(f"truth: energies up to {float(energy(points).max()):.2f}; largest difference of log-densities with "
          f"{steps // 2} and {steps} steps {float((log_p - coarse).abs().max()):.1e}")
    arrays |= {"points_noise": z, "points_log_density": log_p}
    for k in STEPS_OF_MAP:
        x, log_q, _ = density_of_samples(noise, follow_map, flow_map, 0.0, 1.0, k)
        end, log_p, _ = density_of_points(points, follow_map, flow_map, 1.0, 0.0, k)
        arrays |= {f"map{k}_samples": x, f"map{k}_samples_log_density": log_q,
                   f"map{k}_points_noise": end, f"map{k}_points_log_density": log_p}
    assert all(array.isfinite().all() for array in arrays.values())
    folder = ROOT / "tests" / "data" / "dw4"
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "truth.npz", **{name: array.numpy() for name, array in arrays.items()})
    print(f"written: {len(arrays)} arrays, {(folder / 'truth.npz').stat().st_size} bytes")


if __name__ == "__main__":
    torch.set_num_threads(1)
    with torch.no_grad():
        main()
