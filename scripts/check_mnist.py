"""Compares the program's likelihoods on the trained DDPM with independent float64 arithmetic.

    python scripts/check_mnist.py --program target/release/flowgauge [--images 2] [--steps 8]

Here the network runs in float64 in torch, and the diagonal of its Jacobian comes from torch's reverse mode. Path,
velocity, grid, Heun's sums and prior are written out below from the literature: Ho et al. 2020 for the betas,
Song et al. 2021 for the ODE, dx/dt = f x + g^2/(2 sigma) eps with f = d ln alpha/dt, g^2 = -2 f.
The images are floats in the model's coordinates, so there is no random draw. Both sides compute the same
deterministic sums, and only the network's float32 may make them differ. Needs the files of place_mnist.py.
"""

import argparse
import csv
import gzip
import math
import pathlib
import subprocess
import tempfile

import numpy as np
import torch

from onnx64 import Graph

ROOT = pathlib.Path(__file__).resolve().parent.parent
STEPS = 1000


def images(count):
    """The first test images, each level at the middle of its cell of [-1, 1]."""
    raw = gzip.open(ROOT / "data/t10k-images-idx3-ubyte.gz").read()
    levels = np.frombuffer(raw[16:], np.uint8).reshape(-1, 28, 28)[:count].astype(np.float64)
    return (-1 + 2 * (levels + 0.5) / 256).astype(np.float32)


class Schedule:
    """ln alpha, linear between the times (i + 1)/1000 of the 1,000 betas."""

    def __init__(self):
        betas = np.linspace(1e-4, 0.02, STEPS)
        self.log_alpha = 0.5 * np.cumsum(np.log1p(-betas))
        self.times = np.arange(1, STEPS + 1) / STEPS

    def at(self, t):
        i = min(max(int(math.floor(t * STEPS - 1)), 0), STEPS - 2)
        slope = (self.log_alpha[i + 1] - self.log_alpha[i]) * STEPS
        log_alpha = self.log_alpha[i] + slope * (t - self.times[i])
        return math.sqrt(-math.expm1(2 * log_alpha)), slope

    def log_snr_grid(self, steps):
        """Equal steps in ln(sigma/alpha) from the first time to the last."""
        ratio = lambda log_alpha: 0.5 * math.log(math.expm1(-2 * log_alpha))
        ends = ratio(self.log_alpha[0]), ratio(self.log_alpha[-1])
        targets = np.linspace(*ends, steps + 1)
        # alpha = (1 + (sigma/alpha)^2)^(-1/2), and the time where ln alpha has that value.
        log_alpha = -0.5 * np.log1p(np.exp(2 * targets))
        grid = np.interp(-log_alpha, -self.log_alpha, self.times)
        grid[0], grid[-1] = self.times[0], self.times[-1]
        return grid


def velocity_and_divergence(network, schedule, x, t, chunk=196):
    """v and div v of one image [784] at time t, from the whole diagonal of the network's Jacobian."""
    sigma, f = schedule.at(t)
    d = x.numel()
    trace, eps = 0.0, None
    for first in range(0, d, chunk):
        rows = torch.arange(first, min(first + chunk, d))
        # Each copy of the image is asked for another output's gradient: no copy feels the others.
        copies = x.expand(len(rows), d).clone().requires_grad_()
        out = network(copies.reshape(-1, 1, 28, 28), torch.full((len(rows),), t * STEPS - 1, dtype=x.dtype))
        flat = out.reshape(len(rows), d)
        here = torch.arange(len(rows))
        (gradient,) = torch.autograd.grad(flat[here, rows].sum(), copies)
        trace += gradient[here, rows].sum().item()
        eps = flat[0].detach()
    return f * (x - eps / sigma), f * (d - trace / sigma)


def log_likelihood(network, schedule, x, steps):
    grid = schedule.log_snr_grid(steps)
    integral = 0.0
    for here, there in zip(grid[:-1], grid[1:]):
        h = there - here
        v0, d0 = velocity_and_divergence(network, schedule, x, here)
        v1, d1 = velocity_and_divergence(network, schedule, x + h * v0, there)
        x, integral = x + h / 2 * (v0 + v1), integral + h / 2 * (d0 + d1)
    prior = -0.5 * float(x @ x) - x.numel() / 2 * math.log(2 * math.pi)
    return prior, integral


def measured(program, x, steps):
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        np.save(folder / "x.npy", x)
        solver = f"{{heun: {{steps: {steps}, grid: log-snr}}}}"
        subprocess.run(
            [program, "likelihood", "--model", ROOT / "models/ddpm-mnist/card.yaml", "--data", folder / "x.npy", "--divergence",
             "exact", "--solver", solver, "--out", folder / "out.csv", "--threads", "1", "--quiet"], check=True)
        with open(folder / "out.csv") as file:
            return list(csv.DictReader(file))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", required=True)
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--steps", type=int, default=8)
    args = parser.parse_args()
    torch.set_num_threads(1)
    x = images(args.images)
    network, schedule = Graph(ROOT / "models/ddpm-mnist/mnist.onnx"), Schedule()
    print(f"{args.steps} steps of Heun, log-snr grid: nats by float64, by the program, and their difference")
    for i, row in enumerate(measured(args.program, x, args.steps)):
        prior, integral = log_likelihood(network, schedule, torch.from_numpy(x[i].reshape(-1)).double(), args.steps)
        for what, ours, theirs in (("prior", prior, row["prior_log_density"]), ("divergence", integral, row["divergence_integral"]),
                                   ("log p", prior + integral, row["log_likelihood"])):
            print(f"image {i}  {what:10} {ours:12.5f} {float(theirs):12.5f} {float(theirs) - ours:10.5f}", flush=True)


if __name__ == "__main__":
    main()
