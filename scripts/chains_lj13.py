"""Draws states of thirteen Lennard-Jones particles by Markov chains, for train_lj13.py; no network and no data are involved.

    python scripts/chains_lj13.py [--out FOLDER] [--chains 1000] [--kept 100] [--thin 24] [--burn 600] [--seed 11]

Hamiltonian Monte Carlo in float64, with Metropolis' test of every trajectory, so that the target is exact: trajectories have 8 to
32 leapfrog steps, and the step's length is set during burn-in and then fixed. Half of the chains begin at the icosahedron, half at a loose
cubic grid; that the halves agree afterwards says that they forgot where they began. A centre of mass at rest at zero stays
there. Writes chains.npz: `train` (nine tenths of the chains), `validation` and `heldout` (a twentieth each, whole chains). Prints
acceptance, autocorrelation, and the mean energy. Seeded; a few CPU-minutes.
"""

import argparse
import time
from pathlib import Path

import numpy as np

from common import ROOT
from lj13 import DIM, DIMS, PARTICLES, incidence

SIGNED = incidence(True)


def energy_and_slope(x):
    """The energy [N] of states [N, 13, 3] and its gradient."""
    d = SIGNED @ x
    d2 = np.einsum("npk,npk->np", d, d)
    inverse6 = 1 / d2**3
    u = (inverse6 * (inverse6 - 2)).sum(1) + 0.5 / PARTICLES * d2.sum(1)
    pull = 12 * inverse6 * (1 - inverse6) / d2 + 1 / PARTICLES
    return u, SIGNED.T @ (pull[:, :, None] * d)


def centred(x):
    return x - x.mean(1, keepdims=True)


def icosahedron():
    """A particle and its twelve neighbours at distance 1."""
    golden = (1 + 5**0.5) / 2
    corners = [(0, a, b * golden) for a in (-1, 1) for b in (-1, 1)]
    points = [np.roll(c, k) for c in corners for k in range(3)]
    return np.array([np.zeros(3), *points]) / (1 + golden**2) ** 0.5


def grid():
    """Thirteen places of a cubic grid, 1.4 apart."""
    places = np.array([(i, j, k) for i in range(3) for j in range(3) for k in range(2)], float)
    return 1.4 * places[:PARTICLES]


def trajectory(x, u, slope, length, steps, rng):
    """One trajectory of every chain: the new states, and which were accepted."""
    momentum = centred(rng.standard_normal(x.shape))
    before = u + 0.5 * np.square(momentum).sum((1, 2))
    y, force = x, slope
    for _ in range(steps):
        momentum = momentum - 0.5 * length * force
        y = y + length * momentum
        v, force = energy_and_slope(y)
        momentum = momentum - 0.5 * length * force
    after = v + 0.5 * np.square(momentum).sum((1, 2))
    accepted = np.log(rng.random(len(x))) < before - after
    take = accepted[:, None, None]
    return np.where(take, y, x), np.where(accepted, v, u), np.where(take, force, slope), accepted


def autocorrelation_time(values):
    """Of series [steps, chains] about their common mean: 1 + 2 sum of rho up to the first window of five times itself (Sokal)."""
    centred_values = values - values.mean()
    total, variance = 1.0, np.square(centred_values).mean()
    for lag in range(1, len(values) // 2):
        total += 2 * (centred_values[lag:] * centred_values[:-lag]).mean() / variance
        if lag > 5 * total:
            break
    return total


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=ROOT / "target/checkpoints")
    for name, value in (("chains", 1000), ("kept", 100), ("thin", 24), ("burn", 600), ("seed", 11)):
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    assert options.chains >= 20 and options.chains % 20 == 0, "--chains: a multiple of 20"
    rng, began = np.random.default_rng(options.seed), time.process_time()
    half = options.chains // 2
    x = np.stack([icosahedron()] * half + [grid()] * (options.chains - half))
    x = centred(x + 0.02 * rng.standard_normal(x.shape))
    u, slope = energy_and_slope(x)
    length, kept, energies, radii, accepted = 0.01, [], [], [], []
    for sweep in range(1, options.burn + options.kept * options.thin + 1):
        x, u, slope, yes = trajectory(x, u, slope, length, int(rng.integers(8, 33)), rng)
        if sweep <= options.burn:
            length *= np.exp(0.05 * (yes.mean() - 0.85)) if sweep > 20 else 1.02
        else:
            accepted.append(yes.mean())
            energies.append(u)
            radii.append(np.square(x).sum((1, 2)) / PARTICLES)
            if (sweep - options.burn) % options.thin == 0:
                kept.append(x)
        if sweep % 100 == 0:
            print(f"sweep {sweep}: step {length:.4f}, accepted {yes.mean():.3f}, energy {u.mean():.3f}, "
                  f"{time.process_time() - began:.0f} CPU s", flush=True)
    energies, radii, states = np.array(energies), np.array(radii), np.stack(kept, 1)
    report(options, energies, radii, np.mean(accepted), length)
    write(options, states)


def report(options, energies, radii, accepted, length):
    half = options.chains // 2
    print(f"{options.chains} chains, {len(energies)} sweeps after {options.burn}, every {options.thin}th kept; step {length:.4f}, "
          f"accepted {accepted:.3f}")
    for name, values in (("energy", energies), ("squared radius of gyration", radii)):
        means = values.mean(0)
        error = means.std(ddof=1) / len(means) ** 0.5
        gap = means[:half].mean() - means[half:].mean()
        print(f"{name}: mean {means.mean():.4f} +- {error:.4f} (of chains), sd {values.std():.3f}, 5, 50, 95 % "
              f"{np.quantile(values, [0.05, 0.5, 0.95]).round(2)}; autocorrelation time {autocorrelation_time(values):.1f} sweeps; "
              f"icosahedron minus grid {gap:+.4f} +- {2 * error:.4f}")


def write(options, states):
    """Whole chains go to one split each; states are [chains, kept, 39] in float32."""
    states = states.reshape(options.chains, -1, DIM).astype(np.float32)
    shuffled = np.random.default_rng(options.seed + 1).permutation(options.chains)
    few = options.chains // 20
    heldout, validation, train = np.split(shuffled, [few, 2 * few])
    options.out.mkdir(parents=True, exist_ok=True)
    splits = {name: states[np.sort(which)].reshape(-1, DIM)
              for name, which in (("train", train), ("validation", validation), ("heldout", heldout))}
    np.savez(options.out / "lj13-chains.npz", **splits)
    for name, rows in splits.items():
        print(f"{name}: {len(rows)} states, standard deviation on the subspace "
              f"{(np.square(rows).sum(1).mean() / (DIM - DIMS)) ** 0.5:.4f}")


if __name__ == "__main__":
    main()
