"""Makes the flow maps of models/digits: Shortcut-Distill-F2D2 and MeanFlow-F2D2 students.

    python scripts/train_digits_maps.py [--seed N] [--steps N] [--out FOLDER] [shortcut] [meanflow] [export]

The teacher is denoiser.onnx of models/digits. Seeded; one thread; about 8 CPU-minutes for both. `export` writes the maps that were
trained with the same options; with another seed or length they do not go into the card.
"""

import argparse
import copy
import math
from pathlib import Path

import numpy as np
import torch
from torch import nn

from common import MODELS, export, silu
from flow_maps import (FlowMap, agreement, card_entry, checkpoint, eulerian, log_slope, put_in_card,
                       shortcut, train, walk)
from onnx64 import with_trace
from train_digits import (SIGMA_MAX, SIGMA_MIN, dequantize, edges, generate, generate_many, moments,
                          shipped_denoiser, split)

HERE = MODELS / "digits"
STEPS = {"shortcut": 5_000, "meanflow": 3_500}
BATCH = {"shortcut": 384, "meanflow": 320}
SEEDS = {"shortcut": 51, "meanflow": 61}
GENERATED = 20_000               # images that the teacher makes, for the student to learn on
SPAN = math.log(SIGMA_MAX / SIGMA_MIN)
LOW, HIGH = math.log(SIGMA_MIN) - 0.1, math.log(SIGMA_MAX) + 0.1


class Frame(nn.Module):
    """x = mean + U sqrt(eigenvalues + sigma^2) xi, of the training images; the clock is ln sigma."""

    floor = (0.1, 1.0)

    def __init__(self, mean, eigenvalues, basis):
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("eigenvalues", eigenvalues)
        self.register_buffer("basis", basis)

    def spread(self, sigma):
        return torch.sqrt(self.eigenvalues + (sigma * sigma)[:, None])

    def into(self, x, sigma):
        return (x - self.mean) @ self.basis / self.spread(sigma)

    def out(self, xi, sigma):
        """A displacement: without the mean."""
        return (xi * self.spread(sigma)) @ self.basis.T

    def clock(self, sigma):
        return torch.log(sigma)

    def time(self, clock):
        return torch.exp(clock)

    def clock_slope(self, t, s):
        return log_slope(s, t)

    def gaussian_velocity(self, xi, t, s):
        return (xi * (t + s)[:, None] / (self.spread(t) + self.spread(s))) @ self.basis.T

    def gaussian_divergence(self, t, s):
        """Half the logarithm of det S_s / det S_t, over s - t."""
        slopes = log_slope(self.spread(t).square(), self.spread(s).square())
        return 0.5 * (t + s) * slopes.sum(1)

    def scales(self, t, s):
        """Root mean square and mean over the clock of what a denoiser beside the Wiener filter can add.

        Per eigenvalue that is l sigma^2/(l + sigma^2)^2, whose integral over ln sigma is known.
        """
        near, far = self.spread(t).square(), self.spread(s).square()
        means = 0.5 * self.eigenvalues * (s + t)[:, None] / (near * far * log_slope(s, t)[:, None])
        return torch.sqrt(means), means.sum(1)


def the_teacher(denoiser, frame):
    """w = dxi/dln(sigma) = -S^(-1/2) R and -probe' J_R probe, R the denoiser less the Wiener filter.

    The trace of R's Jacobian does not depend on coordinates; probed in pixels it has the least
    variance where it is largest, and the Wiener filter's part none at all.
    """

    def teacher(xi, sigma, probe):
        probe = probe @ frame.basis
        spread = frame.spread(sigma)
        shrink = frame.eigenvalues / spread.square()

        def rest(y):
            return (denoiser(frame.mean + y @ frame.basis.T, sigma) - frame.mean) @ frame.basis - shrink * y

        value, product = torch.func.jvp(rest, (xi * spread,), (probe,))
        return -value / spread, -(product * probe).sum(1)

    return teacher


class Student(FlowMap):
    """The teacher, shown where to go: its weights and form, to which both times add scale and shift.

    At s = t, and before training, the velocity is the teacher's own.  Over an interval it is taken as
    if the rest grew and fell with the clock as it can at most (`scales`); training mends that.  The
    second head reads the last layer and the walls of the grey levels.
    """

    def __init__(self, frame, denoiser, second, frequencies=(1.0, 2.0, 4.0, 8.0)):
        super().__init__(frame, copy.deepcopy(denoiser.trunk).requires_grad_(True), second)
        for name in ("variance", "std"):
            self.register_buffer(name, getattr(denoiser, name))
        self.register_buffer("frequencies", torch.tensor(frequencies))
        width, blocks = self.trunk.first.out_features, len(self.trunk.blocks)
        self.embed = nn.Linear(3 * (1 + 2 * len(frequencies)), 32)
        self.modulation = nn.Linear(32, width * (2 * blocks + 1))
        self.velocity = nn.Linear(width, 64)
        self.hidden, self.when = nn.Linear(width + 5 * 64, 80), nn.Linear(32, 80)
        self.second_hidden, self.divergence = nn.Linear(80, 48), nn.Linear(48, 1)
        for layer in (self.modulation, self.velocity, self.divergence):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def times(self, t, s):
        here, there = 0.25 * torch.log(t)[:, None], 0.25 * torch.log(s)[:, None]
        shown = []
        for clock in (here, there, there - here):
            waves = clock * self.frequencies
            shown += [clock, torch.sin(waves), torch.cos(waves)]
        return torch.cat(shown[:3], 1), silu(self.embed(torch.cat(shown, 1)))

    def averages(self, xi, t, s):
        frame, trunk, sigma = self.frame, self.trunk, t[:, None]
        x = frame.mean + frame.out(xi, t)
        total = self.variance + sigma * sigma
        norm = torch.sqrt(total)
        low, high = edges(x, sigma)
        features = torch.cat([(x - frame.mean) / norm, low, high], 1)
        alone, emb = self.times(t, s)
        alone = silu(trunk.embed(alone))
        changes = self.modulation(emb).chunk(2 * len(trunk.blocks) + 1, 1)
        h = trunk.first(features)
        for block, time, scale, shift in zip(trunk.blocks, trunk.times, changes[1::2], changes[2::2]):
            h = h + block(silu(h * (1 + scale) + time(alone) + shift))
        h = silu(h)
        raw = trunk.last(torch.cat([h, features], 1))
        denoised = (x - frame.mean) * (self.variance / total) + raw * (sigma * self.std / norm)
        spread = frame.spread(t)
        rest = (denoised @ frame.basis) / spread - xi * frame.eigenvalues / spread.square()
        scale_r, scale_z = frame.scales(t, s)
        r = scale_r * (self.velocity(h * (1 + changes[0])) - rest / frame.scales(t, t)[0])
        seen = self.hidden(torch.cat([h, xi, low, high, low * (1 - low), high * (1 - high)], 1))
        z = self.divergence(silu(self.second_hidden(silu(seen + self.when(emb)))))
        return r, scale_z * z.squeeze(1)


def the_frame(train_images):
    mean, cov = moments(torch.from_numpy(train_images).float())
    eigenvalues, basis = torch.linalg.eigh(cov)
    return Frame(mean.float(), eigenvalues.float(), basis.float())


def student(denoiser, train_images, name, args):
    torch.manual_seed(SEEDS[name] + 1000 * args.seed)
    return Student(the_frame(train_images), denoiser, "step" if name == "shortcut" else "to")


def variant(name, args):
    """The map's name, and that of its files."""
    return name if args.seed == 0 and args.steps is None else f"{name}-{args.steps or STEPS[name]}-{args.seed}"


def karras(steps, rho=7):
    ramp = np.linspace(0, 1, steps + 1)
    return (SIGMA_MIN ** (1 / rho) + ramp * (SIGMA_MAX ** (1 / rho) - SIGMA_MIN ** (1 / rho))) ** rho


def log_normal(x):
    return -0.5 * (x.double() / SIGMA_MAX).square().sum(1) - 64 * math.log(SIGMA_MAX * math.sqrt(2 * math.pi))


def truth(denoiser, x, steps=40):
    """Exact trace, Heun, log-uniform steps: the integral of div, and the states at SIGMA_MAX."""
    total = torch.zeros(len(x), dtype=torch.float64)
    times = SIGMA_MIN * (SIGMA_MAX / SIGMA_MIN) ** np.linspace(0, 1, steps + 1)

    def at(x, sigma):
        s = torch.full((len(x),), float(sigma))
        parts = [with_trace(lambda y: (y - denoiser(y, s[: len(y)])) / float(sigma), c) for c in x.split(32)]
        return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts]).double()

    with torch.no_grad():
        for here, there in zip(times[:-1], times[1:]):
            h = float(there - here)
            v0, d0 = at(x, here)
            v1, d1 = at(x + h * v0, there)
            x, total = x + h * 0.5 * (v0 + v1), total + h * 0.5 * (d0 + d1)
    return x, total


def make_report(denoiser, train_images, args):
    """On the 120 training images that taught the denoiser nothing but when to stop, and on 72 that it
    generates; none of the held-out ones."""
    gen = torch.Generator().manual_seed(71)
    real = min(120, args.check)
    raw = torch.cat([torch.from_numpy(train_images[1380:1380 + real]).float(), generate(denoiser, min(72, args.check), gen)])
    x = dequantize(raw, gen)
    kept = checkpoint("digits", f"map-check-{len(raw)}", args.checkpoints)
    if not kept.exists():
        torch.save(truth(denoiser, x), kept)
    end, integral = torch.load(kept)
    exact = (log_normal(end) + integral).numpy()

    def report(model):
        for steps in (8, 4, 2, 1):
            times = karras(steps)
            there, total = walk(model, x, times)
            log_p = (log_normal(there) + total).numpy()
            back, again = walk(model, end, times[::-1])
            from_noise = (log_normal(end) - again).numpy()
            gap = ((there - end) / SIGMA_MAX).square().mean().sqrt()
            print(f"  {steps}: real {agreement(exact[:real], log_p[:real], 64)}; made {agreement(exact[real:], log_p[real:], 64)}"
                  f"; state rms {gap:.4f} of sigma_max; to data rms {(back - x).square().mean().sqrt():.4f},"
                  f" {agreement(exact, from_noise, 64)}", flush=True)

    return report


def draw_clocks(count, gen):
    """Pairs of ln sigma over the whole square, in both directions; half of them at most a quarter of it apart."""
    here = LOW + (HIGH - LOW) * torch.rand(count, generator=gen)
    there = LOW + (HIGH - LOW) * torch.rand(count, generator=gen)
    near = torch.where(torch.rand(count, generator=gen) < 0.5, 0.25, 1.0)
    return here, here + near * (there - here)


def train_map(name, denoiser, train_images, args):
    model = student(denoiser, train_images, name, args)
    frame, teacher = model.frame, the_teacher(denoiser, model.frame)
    gen = torch.Generator().manual_seed(SEEDS[name] + 1 + 1000 * args.seed)
    report = make_report(denoiser, train_images, args)
    made = generate_many(denoiser, args.generated, gen)
    raw = torch.from_numpy(train_images).float()
    batch = args.batch or BATCH[name]
    anchors, eighth = int(batch * (0.4 if name == "shortcut" else 0.25)), batch // 8

    def draw_loss(average):
        x0 = torch.cat([raw[torch.randint(len(raw), (eighth,), generator=gen)],
                        made[torch.randint(len(made), (batch - eighth,), generator=gen)]])
        x0 = dequantize(x0, gen)[torch.randperm(batch, generator=gen)]
        here, there = draw_clocks(batch, gen)
        there[:anchors] = here[:anchors]
        sigma = frame.time(here)
        xi = frame.into(x0 + sigma[:, None] * torch.randn(x0.shape, generator=gen), sigma)
        probe = torch.randint(0, 2, xi.shape, generator=gen) * 2.0 - 1
        if name == "shortcut":
            loss_r, loss_z = shortcut(model, average, teacher, xi, here, there, probe, anchors)
        else:
            loss_r, loss_z = eulerian(model, teacher, xi, here, there, probe)
        return loss_r.mean(), loss_z.mean()

    kept = checkpoint("digits", variant(name, args), args.checkpoints)
    return train(f"digits {name}", model, draw_loss, args.steps or STEPS[name], 1e-3, kept, report)


def export_map(name, denoiser, train_images, args):
    model = student(denoiser, train_images, name, args)
    kept = torch.load(checkpoint("digits", variant(name, args), args.checkpoints))
    model.load_state_dict(kept["state"])
    gen = torch.Generator().manual_seed(31)
    t = torch.tensor([0.02, 20.0, 0.3, 1.0, 5.0, 2.0, 0.1])
    s = torch.tensor([20.0, 0.02, 0.3, 0.4, 20.0, 2.0, 0.2])
    x = dequantize(torch.from_numpy(train_images[:7]).float(), gen)
    x = x + t[:, None] * torch.randn(x.shape, generator=gen)
    second = s if model.second == "to" else s - t
    path = args.out / f"{variant(name, args)}.onnx"
    export(model.eval(), path, (x, t, second), ("x", "sigma", model.second), ("velocity", "divergence"))
    return card_entry(path, {"x": "x", "from": "sigma", model.second: model.second})


def export_maps(denoiser, train_images, args):
    made = [n for n in STEPS if checkpoint("digits", variant(n, args), args.checkpoints).exists()]
    entries = {n: export_map(n, denoiser, train_images, args) for n in made}
    if args.out == HERE and all(variant(n, args) == n for n in made):
        put_in_card(HERE / "card.yaml", entries)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="0 is that of the shipped maps")
    parser.add_argument("--steps", type=int, help=f"default {STEPS['shortcut']} and {STEPS['meanflow']}")
    parser.add_argument("--batch", type=int, help=f"default {BATCH['shortcut']} and {BATCH['meanflow']}")
    parser.add_argument("--generated", type=int, default=GENERATED, help="images that the teacher makes")
    parser.add_argument("--check", type=int, default=120, help="images of each kind in the reports, at most")
    parser.add_argument("--checkpoints", type=Path, help="folder of checkpoints; default target/checkpoints")
    parser.add_argument("--out", type=Path, default=HERE, help="folder of the maps; default models/digits")
    parser.add_argument("parts", nargs="*", metavar="PART", help="shortcut, meanflow, export")
    args = parser.parse_args()
    unknown = set(args.parts) - {*STEPS, "export"}
    if unknown:
        parser.error(f"there is no part {', '.join(sorted(unknown))}; parts are {', '.join(STEPS)}, export")
    torch.set_num_threads(1)
    train_images = split()[0]
    denoiser = shipped_denoiser(train_images)
    for name in STEPS:
        if not args.parts or name in args.parts:
            train_map(name, denoiser, train_images, args)
    if not args.parts or "export" in args.parts:
        export_maps(denoiser, train_images, args)


if __name__ == "__main__":
    main()
