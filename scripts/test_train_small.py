"""Holds the scripts that make models/protein, models/kin40k, models/posterior, and other heads and maps of models/digits: closed forms,
and every export at a tiny size.

    python scripts/test_train_small.py [FLOWGAUGE]

Needs no data set: random tables stand in for those of the sets. With the program, it inspects every card that a training
wrote. A minute.
"""

import gzip
import hashlib
import math
import pathlib
import sys
import tempfile

import numpy as np
import onnxruntime as ort
import torch

import train_digits
import train_digits_maps
import train_posterior
import train_tabular
from common import MODELS
from flow_maps import card_entry, put_in_card
from flow_matching import Standard, Velocity, distinct_rows, matching_loss, rows_at_atoms
from train_posterior import Linear, TwoMoons
from training_tests import inspect, refuses_other_data, run_script


def awake(model, gen):
    """Layers that begin at zero get values, so that a test sees them."""
    with torch.no_grad():
        for p in model.parameters():
            if not p.any():
                p.copy_(0.3 * torch.randn(p.shape, generator=gen))
    return model.eval()


def network_of_zeros_is_the_flow_of_a_gaussian(gen):
    factor = torch.randn((4, 4), generator=gen, dtype=torch.float64)
    covariance = factor @ factor.T
    model = Velocity(covariance.numpy(), 8, 1).double()
    x1 = torch.randn((40_000, 4), generator=gen, dtype=torch.float64) @ factor.T
    t = torch.rand(len(x1), generator=gen, dtype=torch.float64)
    eps = torch.randn(x1.shape, generator=gen, dtype=torch.float64)
    # What is left of x_1 - eps has unit variance, and nothing of it follows from x_t.
    assert abs(matching_loss(model, x1, t, eps).mean().item() - 1) < 0.02
    x = t[:, None] * x1 + (1 - t[:, None]) * eps
    rest = x1 - eps - model(x, t)
    assert (rest.T @ x / len(x)).abs().max() < 0.1 * factor.abs().max() ** 2


def rows_that_have_a_density_are_kept():
    rng = np.random.default_rng(3)
    smooth = rng.standard_normal((5000, 2))
    rows = np.column_stack([smooth[:, 0], smooth[:, 0] + 0.01 * smooth[:, 1], rng.integers(0, 9, 5000), smooth[:, 1]])
    assert train_tabular.columns_with_a_density(rows) == [0, 3]
    assert np.array_equal(distinct_rows(np.array([[2.0, 1], [0, 1], [2, 1]])), [[2, 1], [0, 1]])
    rows[:100, 0] = 0.5
    assert np.array_equal(np.flatnonzero(rows_at_atoms(rows[:, [0, 3]])), np.arange(100))


def log_volume_is_that_of_the_scaling():
    rows = np.random.default_rng(4).normal(3, [2.0, 0.5, 10.0], (1000, 3))
    standard = Standard(rows)
    z = standard(rows)
    assert np.allclose(z.mean(0), 0) and np.allclose(z.std(0), 1)
    normal = lambda x, mean, std: (-0.5 * ((x - mean) / std) ** 2 - np.log(std * math.sqrt(2 * math.pi))).sum(1)
    assert np.allclose(normal(rows, standard.mean, standard.std), normal(z, 0, 1) - standard.log_volume())


def log_determinant_is_that_of_the_jacobian(gen):
    factor = np.random.default_rng(5).standard_normal((5, 5))
    x = torch.randn((6, 5), generator=gen, dtype=torch.float64)
    for whitening in ("cholesky", "eigenvectors"):
        flow = train_tabular.Flow(factor @ factor.T, 3, 16, whitening).double()
        # Without training it is the whitening alone.
        white = flow(x @ torch.from_numpy(np.linalg.cholesky(factor @ factor.T)).T)[0]
        assert torch.allclose(white.square().sum(1), x.square().sum(1), rtol=1e-3)
        flow = awake(flow, gen)
        jacobians = torch.stack([torch.autograd.functional.jacobian(lambda y: flow(y[None])[0][0], row) for row in x])
        # The constant of the whitening is kept in float32.
        assert torch.allclose(torch.linalg.slogdet(jacobians)[1], flow(x)[1], atol=1e-5)
    # In each layer a coordinate depends on those before it alone, and on all of these.
    layer = flow.layers[0]
    slope = torch.autograd.functional.jacobian(lambda y: layer(y[None])[0][0], x[0])
    assert torch.equal(slope != 0, torch.ones(5, 5).tril(-1) > 0)


def run_graph(path, **inputs):
    return ort.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, inputs)[0]


def posterior_of_two_moons_is_a_density(folder, gen):
    task = TwoMoons()
    task.write_truth(folder)
    truth = folder / "two-moons-truth.onnx"
    side = 500
    middle = (2 * np.arange(side) + 1) / side - 1
    grid = np.stack(np.meshgrid(middle, middle), 2).reshape(-1, 2)
    u, w = task.turned(torch.from_numpy(grid))
    # Observations whose half circles are whole, are cut by the square, and are cut where u changes its sign.
    for seen in ([0.0, 0.0], [-0.45, 0.6], [0.27, 0.3]):
        radius = np.hypot(seen[0] + np.abs(u) - task.centre, seen[1] - w).numpy()
        near = grid[np.abs(radius - task.radius) < 0.07]
        density = [np.exp(run_graph(truth, theta=part, observation=np.tile(np.array(seen), (len(part), 1))))
                   for part in np.array_split(near, 20)]
        total = np.concatenate(density).sum() * (2 / side) ** 2
        assert abs(total - 1) < 0.01, f"the posterior of {seen} has the mass {total}"
    theta, seen = task.draw(2000, gen)
    log_density = np.concatenate([run_graph(truth, theta=t.double().numpy(), observation=s.double().numpy())
                                  for t, s in zip(theta.split(500), seen.split(500), strict=True)])
    whole = log_density[(theta.abs().amax(1) < 0.6).numpy() & (seen[:, 0] < -0.1).numpy()]
    radius = task.radius + task.thickness * np.random.default_rng(6).standard_normal(1_000_000)
    want = -0.5 - math.log(math.pi * task.thickness * math.sqrt(2 * math.pi)) - np.log(radius).mean() - math.log(2)
    assert abs(whole.mean() - want) < 5 * whole.std() / len(whole) ** 0.5, (whole.mean(), want)


def posterior_of_the_linear_task_is_normal(folder, gen):
    task = Linear()
    task.write_truth(folder)
    theta, seen = task.draw(50, gen)
    for t, mean, variance in ((1.0, 0.5 * seen, 0.05), (0.0, 0 * seen, 1.0), (0.4, 0.2 * seen, 0.16 * 0.05 + 0.36)):
        want = -0.5 * ((theta - mean) ** 2 / variance + math.log(2 * math.pi * variance)).sum(1)
        got = run_graph(folder / "linear-truth.onnx", theta=theta.numpy(), t=np.full(50, t, np.float32),
                        observation=seen.numpy())
        assert np.allclose(got, want, atol=2e-4)
    both = np.cov(torch.cat(task.draw(200_000, gen), 1).T.numpy())
    assert np.allclose(both[:10, :10], 0.1 * np.eye(10), atol=2e-3)
    assert np.allclose(both[10:, 10:], 0.2 * np.eye(10), atol=4e-3) and np.allclose(both[10:, :10], 0.1 * np.eye(10), atol=3e-3)


def every_part_trains_and_exports(folder, program):
    rng = np.random.default_rng(7)
    for name, columns in (("protein", 5), ("kin40k", 4)):
        text = "\n".join(",".join(f"{v:.6f}" for v in row) for row in rng.standard_normal((400, columns)))
        packed = gzip.compress(text.encode())
        (folder / f"{name}.csv.gz").write_bytes(packed)
        train_tabular.HASHES[name] = hashlib.sha256(packed).hexdigest()
        run_script(train_tabular, f"--set={name}", f"--data={folder}", f"--checkpoints={folder}", "--steps=3",
                   "--flow-steps=3", "--batch=8", "--width=8", "--flow-width=8", "--every=2", f"--out={folder / name}",
                   f"--heldout={folder}")
        assert np.load(folder / f"{name}-heldout.npy").shape == (40, columns)
    for task in train_posterior.TASKS:
        run_script(train_posterior, f"--task={task}", f"--checkpoints={folder}", "--steps=3", "--batch=8", "--width=8",
                   "--every=2", f"--out={folder / 'posterior'}")
    for name in ("protein", "kin40k"):
        for card in ("card.yaml", "flow.yaml"):
            inspect(program, folder / name / card)
    for card in sorted((folder / "posterior").glob("*.yaml")):
        inspect(program, card)


def heads_of_other_sizes_and_maps_of_other_seeds(folder, program):
    """Heads and maps of `digits`, whose teacher is the shipped denoiser."""
    out = folder / "digits"
    common = ["--seed=1", "--steps=3", "--batch=8", "--generated=20", "--check=4", f"--checkpoints={folder}", f"--out={out}"]
    for width in (6, 8):
        run_script(train_digits, f"--width={width}", *common, "head", "head-alone")
    run_script(train_digits_maps, *common)
    names = ["stad-6-3-1", "stad-8-3-1", "shortcut-3-1", "meanflow-3-1"]
    assert sorted(p.stem for p in out.glob("*")) == sorted(names)
    small, large = ((out / f"{name}.onnx").stat().st_size for name in names[:2])
    assert small < large
    # Another seed is another head, and the same seed is the same one.
    x, sigma = (v.numpy() for v in train_digits.shown_states(train_digits.split()[0]))
    first = run_graph(out / "stad-8-3-1.onnx", x=x, sigma=sigma)
    run_script(train_digits, "--width=8", *common[1:], "--seed=2", "head", "head-alone")
    assert not np.array_equal(run_graph(out / "stad-8-3-2.onnx", x=x, sigma=sigma), first)
    run_script(train_digits, "--width=8", *common, "head", "head-alone")
    assert np.array_equal(run_graph(out / "stad-8-3-1.onnx", x=x, sigma=sigma), first)
    # The program can evaluate a card with them.
    (out / "denoiser.onnx").write_bytes((MODELS / "digits/denoiser.onnx").read_bytes())
    card = out / "card.yaml"
    card.write_text((MODELS / "digits/card.yaml").read_text().replace("stad.onnx", "stad-8-3-2.onnx"))
    put_in_card(card, {"shortcut": card_entry(out / "shortcut-3-1.onnx", {"x": "x", "from": "sigma", "step": "step"}),
                       "meanflow": card_entry(out / "meanflow-3-1.onnx", {"x": "x", "from": "sigma", "to": "to"})})
    inspect(program, card)


def denoisers_of_other_lengths(folder, program):
    out = folder / "lengths"
    run_script(train_digits, "--denoiser-steps=2", "--keep", "1", "2", f"--checkpoints={folder}", f"--out={out}", "--", "denoiser")
    x, sigma = (v.numpy() for v in train_digits.shown_states(train_digits.split()[0]))
    one, two = (run_graph(out / f"denoiser-{step}.onnx", x=x, sigma=sigma) for step in (1, 2))
    assert not np.array_equal(one, two)
    inspect(program, out / "denoiser-2.yaml")


def main():
    program = sys.argv[1] if len(sys.argv) > 1 else None
    torch.set_num_threads(1)
    gen = torch.Generator().manual_seed(0)
    network_of_zeros_is_the_flow_of_a_gaussian(gen)
    rows_that_have_a_density_are_kept()
    log_volume_is_that_of_the_scaling()
    log_determinant_is_that_of_the_jacobian(gen)
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        posterior_of_two_moons_is_a_density(folder, gen)
        posterior_of_the_linear_task_is_normal(folder, gen)
        every_part_trains_and_exports(folder, program)
        refuses_other_data(train_tabular.read, folder, "protein", "protein.csv.gz")
        heads_of_other_sizes_and_maps_of_other_seeds(folder, program)
        denoisers_of_other_lengths(folder, program)
    print("all of it holds")


if __name__ == "__main__":
    main()
