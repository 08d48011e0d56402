"""Holds the scripts that make the zoo on MNIST: closed forms, interrupted trainings, and every export at a tiny size.

    python scripts/test_train_mnist.py [FLOWGAUGE]

Needs no data set: four files with random images stand in for MNIST. With the program, it inspects every card that a
training wrote. A minute or two.
"""

import gzip
import hashlib
import pathlib
import sys
import tempfile

import numpy as np
import torch
from torch import nn

import mnist
import train_mnist
import train_mnist_latent as latent
import train_mnist_maps as maps
from common import Average
from mnist import Ddpm, Denoiser, FlowMatching, Pixels, Run, wide
from training_tests import inspect, refuses_other_data, run_script

SMALL = ["--steps=3", "--batch=8", "--width=8", "--every=2", "--check=8", "--threads=1"]


def the_pixels(gen):
    images = torch.randint(1, 256, (64, 28, 28), generator=gen) * (torch.rand((64, 28, 28), generator=gen) < 0.3)
    return Pixels.of(images.numpy())


def awake(model, gen):
    """Layers that begin at zero get values, so that a test sees them."""
    with torch.no_grad():
        for p in model.parameters():
            if not p.any():
                p.copy_(0.1 * torch.randn(p.shape, generator=gen))
    return model.eval()


def levels_of_the_ddpm_are_those_of_its_betas():
    bars = np.cumprod(1 - np.linspace(Ddpm.low, Ddpm.high, Ddpm.steps))
    alpha, sigma = (v.double().numpy() for v in Ddpm.levels(torch.arange(Ddpm.steps).float()))
    assert np.allclose(alpha, np.sqrt(bars), rtol=2e-5) and np.allclose(sigma, np.sqrt(1 - bars), rtol=2e-5)


def noise_and_denoised_image_belong_together(gen):
    core = awake(Denoiser(the_pixels(gen), 8), gen).double()
    x = torch.randn((5, 1, 28, 28), generator=gen, dtype=torch.float64)
    for s in (0.002, 0.3, 80.0):
        for family in (lambda s: (torch.ones_like(s), s), lambda s: FlowMatching.levels(1 / (1 + s))):
            alpha, sigma = family(torch.full((5,), s, dtype=torch.float64))
            denoised, noise = core.both(x, alpha, sigma, torch.tensor([0, 9, 10, 3, 10]))
            assert torch.allclose(wide(alpha) * denoised + wide(sigma) * noise, x, atol=1e-9 * max(1, s))


def divergence_of_independent_pixels_is_the_trace(gen):
    pixels = the_pixels(gen).double()
    for a, s in ((1.0, 0.004), (1.0, 0.2), (0.6, 0.8), (1.0, 20.0)):
        x = -a + 2 * s * torch.randn((3, 1, 28, 28), generator=gen, dtype=torch.float64)
        denoise = lambda y: pixels.read(y, torch.tensor(a), torch.tensor(s), torch.zeros(3, 3, 28, 28))[0]
        # Every pixel depends on itself alone, so the sum of all derivatives along ones is the trace.
        slope = torch.func.jvp(denoise, (x,), (torch.ones_like(x),))[1].sum((1, 2, 3))
        assert torch.allclose(pixels.divergence(x, torch.tensor(a), torch.tensor(s)), slope, rtol=1e-9)


def discrete_bound_of_a_known_image(gen):
    """The noise known exactly and the variance that of the posterior: no term but the grey level's own."""
    x0 = torch.randint(0, 256, (6, 1, 28, 28), generator=gen) / 127.5 - 1
    index = torch.tensor([1.0, 5.0, 50.0, 300.0, 700.0, 999.0])
    alpha, sigma = Ddpm.levels(index)
    eps = torch.randn(x0.shape, generator=gen)
    x = wide(alpha) * x0 + wide(sigma) * eps
    terms = train_mnist.discrete_bound(eps, -torch.ones_like(x0), x0, x, index)
    assert terms.abs().max() < 1e-4, terms
    # A variance of beta in the place of the posterior's costs (ln r + 1/r - 1)/2 with their ratio r.
    betas = np.linspace(Ddpm.low, Ddpm.high, Ddpm.steps)
    bars = np.cumprod(1 - betas)
    i = index.long().numpy()
    r = (1 - bars[i]) / (1 - bars[i - 1])
    terms = train_mnist.discrete_bound(eps, torch.ones_like(x0), x0, x, index)
    assert np.allclose(terms.numpy(), 0.5 * (np.log(r) + 1 / r - 1) / np.log(2), atol=1e-4)


def student_is_the_denoiser_on_the_diagonal(gen):
    core = awake(Denoiser(the_pixels(gen), 8), gen)
    student = maps.Student(core, ([500.0, 284.0], [1e-5, 0.5])).double()
    core = core.double()
    sigma = torch.tensor([0.002, 0.1, 1.0, 80.0], dtype=torch.float64)
    x = wide(sigma) * torch.randn((4, 1, 28, 28), generator=gen, dtype=torch.float64)
    u, d = student(x, sigma, sigma)
    velocity = core.both(x, torch.ones_like(sigma), sigma, torch.full((4,), mnist.CLASSES))[1]
    assert torch.allclose(u, velocity, rtol=1e-6, atol=1e-7)
    s2 = sigma[:, None] ** 2
    known = (torch.tensor([500.0, 284.0]) / (torch.tensor([1e-5, 0.5]) + s2)).sum(1) * sigma
    assert torch.allclose(d, known, rtol=1e-6)
    # Off the diagonal: averages over ln sigma and over sigma, against sums.
    t, s = torch.tensor([0.01], dtype=torch.float64), torch.tensor([3.0], dtype=torch.float64)
    grid = torch.exp(torch.linspace(t.log().item(), s.log().item(), 20001, dtype=torch.float64))
    assert torch.allclose(maps.mean_unit(t, s), torch.trapezoid(maps.unit(grid), grid.log()) / (s / t).log(), rtol=1e-6)
    root = 0.6
    assert torch.allclose(maps.slope_of_atan(t, s), (s.atan() - t.atan()) / (s - t), rtol=1e-6)
    assert torch.allclose(maps.size(t, t), root / torch.sqrt(root**2 + t * t), rtol=1e-6)


def joint_head_gives_what_network_and_head_give(gen):
    core = awake(Denoiser(the_pixels(gen), 8), gen)
    head = awake(maps.Head(core.pixels, maps.OnFeatures(core)), gen)
    sigma, label = torch.tensor([0.01, 1.0, 30.0]), torch.tensor([1, 10, 4])
    x = torch.randn((3, 1, 28, 28), generator=gen)
    denoised, divergence = maps.Joint(head)(x, sigma, label)
    assert torch.allclose(denoised, core.both(x, torch.ones_like(sigma), sigma, label)[0], atol=1e-5)
    assert torch.allclose(divergence, head(x, sigma, label), rtol=1e-5)


def interrupted_training_ends_where_the_other_ends(folder):
    def one(name, stop):
        torch.manual_seed(1)
        model, gen = nn.Linear(3, 1), torch.Generator().manual_seed(2)
        run = Run(name, model, torch.optim.AdamW(model.parameters()), Average(model, 0.9), gen, folder)

        def draw_loss():
            if run.step == stop:
                raise KeyboardInterrupt
            return model(torch.randn((4, 3), generator=gen)).square().mean()

        try:
            run.go(9, 1e-2, draw_loss, lambda average: "", every=2)
        except KeyboardInterrupt:
            return None
        return torch.cat([p.flatten() for p in [*model.parameters(), *run.average.model.parameters()]])

    assert one("whole", None) is not None and one("cut", 5) is None
    assert torch.equal(one("cut", None), one("whole", None))


def stand_in(folder, gen):
    """Files in MNIST's format; their hashes take the place of MNIST's."""
    for name in mnist.HASHES:
        count = 1100 if name.startswith("train") else 64
        ink = torch.randint(1, 256, (count, 28, 28), generator=gen) * (torch.rand((count, 28, 28), generator=gen) < 0.2)
        data = torch.randint(0, 10, (count,), generator=gen) if "labels" in name else ink
        header = bytes([0, 0, 8, data.dim()]) + b"".join(int(n).to_bytes(4, "big") for n in data.shape)
        packed = gzip.compress(header + data.numpy().astype(np.uint8).tobytes())
        (folder / name).write_bytes(packed)
        mnist.HASHES[name] = hashlib.sha256(packed).hexdigest()


def every_part_trains_and_exports(folder, program):
    common = [f"--data={folder}", f"--checkpoints={folder}", *SMALL]
    calls = [(train_mnist, ["--family=edm"], "edm")]
    calls += [(train_mnist, [f"--family={f}", f"--start={folder}/mnist-edm.pt"], f) for f in ("fm", "vp")]
    calls += [(maps, [part, "--probes=2"], "edm") for part in ("stad", "joint", "f2d2")]
    for module, own, model in calls:
        run_script(module, *own, *common, f"--out={folder / model}")
    for part in ("vae", "flow", "export"):
        run_script(latent, part, *common[:2], "--steps=3", "--batch=8", "--every=2", "--threads=1", f"--out={folder}/latent")
    for model in ("edm", "fm", "vp", "latent"):
        inspect(program, folder / model / "card.yaml")


def main():
    program = sys.argv[1] if len(sys.argv) > 1 else None
    torch.set_num_threads(1)
    gen = torch.Generator().manual_seed(0)
    levels_of_the_ddpm_are_those_of_its_betas()
    noise_and_denoised_image_belong_together(gen)
    divergence_of_independent_pixels_is_the_trace(gen)
    discrete_bound_of_a_known_image(gen)
    student_is_the_denoiser_on_the_diagonal(gen)
    joint_head_gives_what_network_and_head_give(gen)
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        interrupted_training_ends_where_the_other_ends(folder)
        stand_in(folder, gen)
        every_part_trains_and_exports(folder, program)
        refuses_other_data(mnist.read, folder, "train-images-idx3-ubyte.gz", "train-images-idx3-ubyte.gz")
    print("all of it holds")


if __name__ == "__main__":
    main()
