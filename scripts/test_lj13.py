"""Holds the scripts that make models/lj13: the energy, the symmetries, the chains, and every export at a tiny size.

    python scripts/test_lj13.py [FLOWGAUGE]

With the program, it inspects the card that a training wrote. Half a minute.
"""

import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import onnxruntime as ort
import torch

from chains_lj13 import autocorrelation_time, centred, energy_and_slope, icosahedron, trajectory
from lj13 import DIM, DIMS, PARTICLES, Energy, Velocity

HERE = pathlib.Path(__file__).resolve().parent


def energies_are_the_formula(rng):
    x = 1.5 * rng.standard_normal((5, PARTICLES, DIMS)) + 3
    u, slope = energy_and_slope(x)
    for state, found in zip(x, u):
        distances = [np.linalg.norm(state[i] - state[j]) for i in range(PARTICLES) for j in range(i)]
        wanted = sum(d**-12 - 2 * d**-6 for d in distances) + 0.5 * np.square(state - state.mean(0)).sum()
        assert abs(found / wanted - 1) < 1e-12
    rows = torch.tensor(x.reshape(5, DIM), requires_grad=True)
    total = Energy().double()(rows)
    (torch_slope,) = torch.autograd.grad(total.sum(), rows)
    assert np.allclose(total.detach().numpy(), u, rtol=1e-12) and np.allclose(torch_slope.numpy().reshape(x.shape), slope, rtol=1e-9)
    # A free icosahedron of these particles has its least energy of -44.327 at a slightly smaller scale.
    free = [energy_and_slope(s * icosahedron()[None])[0][0] - 0.5 * s * s * np.square(icosahedron()).sum() for s in np.linspace(0.9, 1.05, 301)]
    assert abs(min(free) + 44.3268) < 1e-3, min(free)


def the_network_has_the_symmetries(gen):
    turn, _ = torch.linalg.qr(torch.randn((3, 3), generator=gen, dtype=torch.float64))
    order = torch.randperm(PARTICLES, generator=gen)
    x, t = torch.randn((3, DIM), generator=gen, dtype=torch.float64), torch.rand(3, generator=gen, dtype=torch.float64)
    model = Velocity(8, 2).double()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(0.5 * torch.randn(p.shape, generator=gen))
    value = model(x, t).reshape(3, PARTICLES, DIMS)
    moved = (x.reshape(3, PARTICLES, DIMS)[:, order] @ turn + 5).reshape(3, DIM)
    assert (model(moved, t).reshape(3, PARTICLES, DIMS) - value[:, order] @ turn).abs().max() < 1e-9 * value.abs().max()
    assert value.mean(1).abs().max() < 1e-12 * value.abs().max() and value.abs().max() > 1e-3


def chains_keep_their_target(rng):
    """The virial theorem of exp(-u): the mean of x . grad u is the number of free dimensions."""
    x = centred(np.stack([1.4 * icosahedron()] * 400) + 0.02 * rng.standard_normal((400, PARTICLES, DIMS)))
    u, slope = energy_and_slope(x)
    products = []
    for sweep in range(300):
        x, u, slope, accepted = trajectory(x, u, slope, 0.026, 16, rng)
        if sweep >= 100:
            products.append((x * slope).sum((1, 2)))
    means = np.mean(products, 0)
    error = means.std() / len(means) ** 0.5
    assert 0.5 < accepted.mean() < 1
    assert abs(means.mean() - (DIM - DIMS)) < 5 * error, (means.mean(), error)
    # An autoregression with the factor 0.8 has the time (1 + 0.8)/(1 - 0.8).
    series = np.zeros((4000, 50))
    for k in range(1, len(series)):
        series[k] = 0.8 * series[k - 1] + rng.standard_normal(50)
    assert abs(autocorrelation_time(series) - 9) < 1


def scripts_run(folder, program):
    for call in (
        ["chains_lj13.py", "--out", folder, "--chains", "40", "--kept", "10", "--thin", "2", "--burn", "60"],
        ["train_lj13.py", "--checkpoints", folder, "--out", folder / "lj13", "--steps", "3", "--every", "2", "velocity"],
        # It goes on where it was.
        ["train_lj13.py", "--checkpoints", folder, "--out", folder / "lj13", "--steps", "4", "--every", "2"],
    ):
        said = subprocess.run([sys.executable, HERE / call[0], *call[1:]], capture_output=True, text=True)
        assert said.returncode == 0, f"{call[0]}: {said.stdout[-1000:]}\n{said.stderr[-3000:]}"
    assert torch.load(folder / "lj13-velocity.pt")["step"] == 4
    heldout = np.load(folder / "lj13/heldout.npy")
    u = ort.InferenceSession(str(folder / "lj13/energy.onnx")).run(None, {"x": heldout})[0]
    wanted = energy_and_slope(heldout.astype(float).reshape(-1, PARTICLES, DIMS))[0]
    assert np.abs(u - wanted).max() < 1e-3 * np.abs(wanted).max()
    if program:
        said = subprocess.run([program, "inspect", folder / "lj13/card.yaml"], capture_output=True, text=True)
        assert said.returncode == 0, said.stdout + said.stderr


def main():
    program = pathlib.Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else None
    torch.set_num_threads(1)
    rng, gen = np.random.default_rng(7), torch.Generator().manual_seed(7)
    energies_are_the_formula(rng)
    the_network_has_the_symmetries(gen)
    chains_keep_their_target(rng)
    with tempfile.TemporaryDirectory() as folder:
        scripts_run(pathlib.Path(folder), program)
    print("the energy, the symmetries, the chains and the exports hold")


if __name__ == "__main__":
    main()
