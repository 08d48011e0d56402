"""Makes the learned divergences and the flow map of models/mnist-edm from its checkpoint.

    python scripts/train_mnist_maps.py stad|joint|f2d2 --data FOLDER [--steps N] [--export]

- `stad`: a StAD head with a small encoder of its own, stad.onnx.
- `joint`: a StAD head on the features of the denoiser, a second output of network.onnx.
- `f2d2`: Shortcut-Distill-F2D2, a two-time map with its average divergence, without labels, f2d2.onnx.

Trainings can be stopped: the same command goes on at the last checkpoint. Seeded; two threads; tens of minutes each.
"""

import argparse
import copy
import math
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import nnls
from torch import nn

from common import MODELS, Average, export, sha256, silu, stein_loss
from flow_maps import agreement, log_slope
from mnist import CLASSES, SIGMA_MAX, Attention, Block, Run, TimeAndLabel, clock, dequantize, read, wide
from train_mnist import DECAY, HIGH, LOW, build, drop, processor, stratified

DIM = 28 * 28
SEEDS = {"stad": 91, "joint": 92, "f2d2": 93}
STEPS = {"stad": 3_000, "joint": 2_000, "f2d2": 3_000}
PROBES = 16                         # per image, for the checks on held-out images


# StAD heads: the trace of the denoiser's Jacobian, as that of independent pixels plus a learned part.


def unit(sigma):
    """The size of the learned part, [N]: how much ink can differ from independent pixels."""
    return 40 * 0.36 / (0.36 + sigma * sigma)


class Encoder(nn.Module):
    """A small encoder of its own: 14x14, 7x7, a sum over positions."""

    def __init__(self, width=32):
        super().__init__()
        self.embed = TimeAndLabel()
        self.first = nn.Conv2d(4 * 7, width, 3, padding=1)
        self.block1 = Block(width, width, 128)
        self.down = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.block2 = Block(2 * width, 2 * width, 128)
        self.attention = Attention(2 * width)
        self.block3 = Block(2 * width, 2 * width, 128)
        self.near, self.far = Readout(width, 196), Readout(2 * width, 49)

    def forward(self, pixels, x, sigma, label):
        a, s = torch.ones_like(wide(sigma)), wide(sigma)
        features = torch.cat([pixels.features(x, a, s), torch.sigmoid(pixels.logit(x, a, s))], 1)
        emb = self.embed(clock(a[:, 0, 0, 0], sigma), label)
        near = self.block1(self.first(nn.functional.pixel_unshuffle(features, 2)), emb)
        far = self.block3(self.attention(self.block2(self.down(near), emb)), emb)
        return self.near(near, emb) + self.far(far, emb)


class Readout(nn.Module):
    """Features to one number: a nonlinear map at every position, summed; the embedding scales and shifts it."""

    def __init__(self, channels, positions, hidden=64, embedding=128):
        super().__init__()
        self.inner = nn.Conv2d(channels, hidden, 1)
        self.film = nn.Linear(embedding, 2 * hidden)
        self.out = nn.Linear(hidden, 1)
        self.positions = positions
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, h, emb):
        scale, shift = self.film(emb)[:, :, None, None].chunk(2, 1)
        h = silu(self.inner(silu(h)) * (1 + scale) + shift)
        return self.out(h.mean((2, 3)) * self.positions**0.5).squeeze(1)


class OnFeatures(nn.Module):
    """Read from the denoiser's coarsest and finest features."""

    def __init__(self, core):
        super().__init__()
        self.core = core
        width = core.unet.norm.num_channels
        self.deep, self.fine = Readout(2 * width, 49), Readout(24, DIM, 32)

    def forward(self, pixels, x, sigma, label):
        return self.read(*self.seen(pixels, x, sigma, label))

    def seen(self, pixels, x, sigma, label):
        a, s = torch.ones_like(wide(sigma)), wide(sigma)
        emb = self.core.embed(clock(a[:, 0, 0, 0], sigma), label)
        return *self.core.unet.inner(pixels.features(x, a, s), emb), emb

    def read(self, deep, fine, emb):
        return self.deep(deep, emb) + self.fine(fine, emb)


class Head(nn.Module):
    """+div of dx/dsigma = (x - D)/sigma."""

    names = ("x", "sigma", "label"), ("divergence",)

    def __init__(self, pixels, inner):
        super().__init__()
        self.pixels, self.inner = pixels, inner

    def learned(self, x, sigma, label):
        return unit(sigma) * self.inner(self.pixels, x, sigma, label)

    def forward(self, x, sigma, label):
        known = self.pixels.divergence(x, torch.ones_like(wide(sigma)), wide(sigma))
        return (DIM - known - self.learned(x, sigma, label)) / sigma


class Joint(nn.Module):
    """Denoised image and divergence from one pass of the network."""

    names = ("x", "sigma", "label"), ("denoised", "divergence")

    def __init__(self, head):
        super().__init__()
        self.head = head

    def forward(self, x, sigma, label):
        head, a, s = self.head, torch.ones_like(wide(sigma)), wide(sigma)
        deep, fine, emb = head.inner.seen(head.pixels, x, sigma, label)
        denoised = head.pixels.read(x, a, s, head.inner.core.unet.last(fine))[0]
        trace = head.pixels.divergence(x, a, s) + unit(sigma) * head.inner.read(deep, fine, emb)
        return denoised, (DIM - trace) / sigma


def the_denoiser(images, folder, width):
    core = build("edm", images, width)
    core.load_state_dict(torch.load(folder / "mnist-edm.pt", weights_only=True)["average"])
    return core.eval().requires_grad_(False)


def flat_field(core, x, sigma, label):
    """D minus the denoiser of independent pixels, as [N, 784]."""
    a, s = torch.ones_like(wide(sigma)), wide(sigma)
    raw = core.raw(x, a[:, 0, 0, 0], sigma, label)
    both = core.pixels.read(x, a, s, raw)[0], core.pixels.read(x, a, s, torch.zeros_like(raw))[0]
    return (both[0] - both[1]).flatten(1)


def probed_traces(core, x, sigma, label, gen, probes=PROBES):
    """tr dD/dx by Hutchinson with Rademacher probes: mean and standard error [N]."""
    values = []
    for _ in range(probes):
        z = torch.randint(0, 2, x.shape, generator=gen) * 2.0 - 1
        with torch.no_grad():
            product = torch.func.jvp(lambda y: core.both(y, torch.ones_like(sigma), sigma, label)[0], (x,), (z,))[1]
        values.append((z * product).sum((1, 2, 3)))
    values = torch.stack(values)
    return values.mean(0), values.std(0) / probes**0.5


def noised(images, count, gen, labels=None):
    x0 = dequantize(images[:count], gen)
    sigma = torch.exp(LOW + (HIGH - LOW) * stratified(count, gen))
    x = x0 + wide(sigma) * torch.randn(x0.shape, generator=gen)
    return x, sigma, torch.full((count,), CLASSES) if labels is None else labels[:count]


def train_head(kind, args, images, labels, test, core):
    """The Langevin-Stein objective in its denoising form, with pairs of +eps and -eps.

    The field is D minus the denoiser of independent pixels, whose divergence is known. Half of the labels are dropped.
    """
    torch.manual_seed(SEEDS[kind])
    gen = torch.Generator().manual_seed(SEEDS[kind] + 100)
    head = Head(core.pixels, Encoder() if kind == "stad" else OnFeatures(core))
    learned = [p for p in head.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=args.rate, weight_decay=0.01, betas=(0.9, 0.99))
    run = Run(f"mnist-edm-{kind}", head, optimizer, Average(head, DECAY), gen, args.checkpoints)
    labels = torch.from_numpy(labels.astype(np.int64))

    def draw_loss():
        half = args.batch // 2
        rows = torch.randint(len(images), (half,), generator=gen)
        label = torch.where(torch.rand(half, generator=gen) < 0.5, CLASSES, labels[rows]).repeat(2)
        x0 = dequantize(images[rows.numpy()], gen).repeat(2, 1, 1, 1)
        # Three in four where images differ most.
        u = stratified(half, gen)
        sigma = torch.where(torch.rand(half, generator=gen) < 0.75, torch.exp(math.log(0.02) + math.log(3 / 0.02) * u),
                            torch.exp(LOW + (HIGH - LOW) * u)).repeat(2)
        eps = torch.randn((half, 1, 28, 28), generator=gen)
        eps = torch.cat([eps, -eps])
        x = x0 + wide(sigma) * eps
        with torch.no_grad():
            field = flat_field(core, x, sigma, label)
        score = -eps.flatten(1) / sigma[:, None]
        return stein_loss(lambda y: head.learned(y.view(x.shape), sigma, label), field, score, x.flatten(1),
                          1 / (4 + unit(sigma)).square())

    vgen = torch.Generator().manual_seed(8)
    x, sigma, label = noised(test, args.check, vgen)
    truth, error = probed_traces(core, x, sigma, label, vgen, args.probes)

    def report(average):
        with torch.no_grad():
            found = DIM - sigma * average(x, sigma, label)
        gap = found - truth
        order = torch.argsort(sigma)
        root = [math.sqrt(max(0, (part.square().mean() - e.square().mean()).item()))
                for part, e in zip(gap[order].chunk(5), error[order].chunk(5))]
        return (f"trace on held-out images: mean gap {gap.mean():+.2f} +- {gap.std() / len(gap) ** 0.5:.2f}, error without "
                f"the probes' by fifths of ln sigma {' '.join(f'{r:.2f}' for r in root)}")

    run.go(args.steps, args.rate, draw_loss, report, args.every)


# The flow map.


def slope_of_atan(a, b):
    """(atan a - atan b)/(a - b) for a, b >= 0, also on the diagonal."""
    product = 1 / (1 + a * b)
    q = torch.sqrt(((a - b) * product).square() + 1e-7)
    return torch.atan(q) / q * product


class Student(nn.Module):
    """A two-time map: average velocity u and average +div over the step from sigma to `to`.

    The map has the form of the denoiser: a mixture of the maps of both Gaussian cases, x - m scaled by
    sqrt(v + s^2)/sqrt(v + t^2), with the network's channels as corrections. On the diagonal t = s it is the denoiser's
    velocity itself, so it starts from the denoiser's weights. The divergence starts from that of a Gaussian
    whose spectrum has the denoiser's mean trace at every noise level.
    """

    names = ("x", "sigma", "to"), ("velocity", "divergence")

    def __init__(self, core, spectrum):
        super().__init__()
        self.pixels = core.pixels
        self.embed, self.unet = copy.deepcopy(core.embed), copy.deepcopy(core.unet)
        frequencies = len(self.embed.frequencies)
        self.second = nn.Linear(2 * (1 + 2 * frequencies), 128)
        self.blocks = nn.Linear(128, 128)
        nn.init.zeros_(self.blocks.weight)
        nn.init.zeros_(self.blocks.bias)
        width = core.unet.norm.num_channels
        self.deep, self.fine = Readout(2 * width, 49, 32), Readout(24, DIM, 32)
        self.register_buffer("counts", torch.tensor(spectrum[0]).float())
        self.register_buffer("variances", torch.tensor(spectrum[1]).float())
        for p in self.parameters():
            p.requires_grad_(True)

    def start(self, t, s):
        """Embedding of both times, with the first as the denoiser has it."""
        one = torch.ones_like(t)
        here, there = clock(one, t), clock(one, s)
        label = torch.full_like(t, CLASSES, dtype=torch.int64)
        shown = torch.cat([self.embed.waves(there), self.embed.waves(there - here)], 1)
        # Zero on the diagonal at the start, and free to learn.
        return self.embed(here, label) + self.blocks(silu(self.second(shown)))

    def known_divergence(self, t, s):
        """(1/2) ln det S_s/det S_t over s - t, of the Gaussian with the spectrum."""
        near, far = self.variances + (t * t)[:, None], self.variances + (s * s)[:, None]
        return 0.5 * (t + s) * (log_slope(near, far) * self.counts).sum(1)

    def averages(self, x, t, s):
        """Average velocity, and average of the learned part of the trace over ln sigma."""
        a, st = torch.ones_like(wide(t)), wide(t)
        emb = self.start(t, s)
        deep, fine = self.unet.inner(self.pixels.features(x, a, st), emb)
        out = self.unet.last(fine)
        g = torch.sigmoid(self.pixels.logit(x, a, st) + out[:, :1])
        u = 0.0
        for k, (weight, (gap, total)) in enumerate(zip((g, 1 - g), self.pixels.cases(x, a, st))):
            v = self.pixels.variances[k]
            near, far = torch.sqrt(total), torch.sqrt(v + wide(s).square())
            root = torch.sqrt(v)
            slope = far * slope_of_atan(wide(s) / root, wide(t) / root) / root
            u = u + weight * (gap * (wide(t) + wide(s)) / ((near + far) * near) - slope * out[:, 1 + k : 2 + k])
        return u, self.deep(deep, emb) + self.fine(fine, emb)

    def forward(self, x, sigma, to):
        u, z = self.averages(x, sigma, to)
        return u, self.known_divergence(sigma, to) - log_slope(sigma, to) * mean_unit(sigma, to) * z


def mean_unit(t, s):
    """The average of `unit` over ln sigma between t and s."""
    return 40 * (1 - 0.5 * (t + s) * log_slope(0.36 + t * t, 0.36 + s * s) / log_slope(t, s))


def spectrum_of(core, images, gen):
    """Counts and variances of a Gaussian whose denoiser has the mean trace of `core` at every noise level."""
    x, sigma, label = noised(images, 1024, gen)
    traces, _ = probed_traces(core, x, sigma, label, gen, 2)
    variances = np.concatenate([[(2 / 256) ** 2 / 12], np.exp(np.linspace(math.log(1e-5), math.log(30), 24))])
    s2 = sigma.double().numpy()[:, None] ** 2
    shrink = variances / (variances + s2)
    # All counts together are the dimension.
    rows, right = np.concatenate([shrink, 1e3 * np.ones((1, len(variances)))]), np.append(traces.double().numpy(), 1e3 * DIM)
    counts, _ = nnls(rows, right)
    kept = counts > 0
    counts = counts[kept] * DIM / counts[kept].sum()
    print(f"spectrum: {len(counts)} variances, traces off by {np.std(shrink[:, kept] @ counts - traces.numpy()):.1f}")
    return counts, variances[kept]


def size(t, s):
    """The size of a displacement over s - t, in units of the data's spread: the same as of the ink case."""
    root = 0.6
    return torch.sqrt(0.36 + s * s) * slope_of_atan(s / root, t / root) / root


def draw_clocks(count, gen):
    """Pairs of ln sigma over the whole square, in both directions; half of them at most a quarter of it apart."""
    low, high = LOW - 0.02, HIGH + 0.02
    here, there = low + (high - low) * stratified(count, gen), low + (high - low) * torch.rand(count, generator=gen)
    near = torch.where(torch.rand(count, generator=gen) < 0.5, 0.25, 1.0)
    return here, here + near * (there - here)


def map_errors(model, x, t, s, u, z):
    """Squared errors [N] of velocity and of the learned trace, both in their units, with a floor for small ones."""
    mine_u, mine_z = model.averages(x, t, s)
    scale = mean_unit(t, s)
    weight = 1 / (size(t, s) + 0.05)
    return ((mine_u - u) * wide(weight)).square().mean((1, 2, 3)), (scale * mine_z - z).square() / (4 + scale).square()


def walk(model, x, times):
    total = torch.zeros(len(x), dtype=torch.float64)
    with torch.no_grad():
        for here, there in zip(times[:-1], times[1:]):
            t, s = (torch.full((len(x),), float(v)) for v in (here, there))
            u, d = model(x, t, s)
            x, total = x + float(there - here) * u, total + float(there - here) * d.double()
    return x, total


def trajectory(core, x, gen, steps=24, probes=4):
    """Heun in ln sigma from data to noise: the end, the integral of div by Hutchinson, fresh probes."""
    label = torch.full((len(x),), CLASSES)
    times = np.exp(np.linspace(LOW, HIGH, steps + 1))
    total = torch.zeros(len(x), dtype=torch.float64)

    def at(x, sigma):
        s = torch.full((len(x),), float(sigma))
        with torch.no_grad():
            return core.both(x, torch.ones_like(s), s, label)[1]

    def div(x, sigma):
        s = torch.full((len(x),), float(sigma))
        return (DIM - probed_traces(core, x, s, label, gen, probes)[0].double()) / float(sigma)

    last = div(x, times[0])
    for here, there in zip(times[:-1], times[1:]):
        h = float(there - here)
        first = at(x, here)
        x_end = x + h * first
        x = x + 0.5 * h * (first + at(x_end, there))
        now = div(x, there)
        # The trapezoidal rule for sigma·div over ln sigma.
        total = total + 0.5 * math.log(there / here) * (here * last + there * now)
        last = now
    return x, total


def log_prior(x):
    return -0.5 * (x.double() / SIGMA_MAX).square().sum((1, 2, 3)) - DIM * math.log(SIGMA_MAX * math.sqrt(2 * math.pi))


def train_map(args, images, test, core):
    """A step is two half steps of the averaged student; two rows in five have s = t and are held to the teacher."""
    torch.manual_seed(SEEDS["f2d2"])
    gen = torch.Generator().manual_seed(SEEDS["f2d2"] + 100)
    model = Student(core, spectrum_of(core, images, torch.Generator().manual_seed(9)))
    optimizer = torch.optim.Adam(model.parameters(), lr=args.rate, betas=(0.9, 0.99))
    average = Average(model, 0.995)
    run = Run("mnist-edm-f2d2", model, optimizer, average, gen, args.checkpoints)
    anchors = int(0.4 * args.batch)

    def draw_loss():
        target = average.model
        rows = torch.randint(len(images), (args.batch,), generator=gen)
        here, there = draw_clocks(args.batch, gen)
        order = torch.randperm(args.batch, generator=gen)
        here, there = here[order], there[order]
        there[:anchors] = here[:anchors]
        t, s = torch.exp(here), torch.exp(there)
        x0 = dequantize(images[rows.numpy()], gen)
        x = x0 + wide(t) * torch.randn(x0.shape, generator=gen)
        z = torch.randint(0, 2, (anchors, 1, 28, 28), generator=gen) * 2.0 - 1
        label = torch.full((anchors,), CLASSES)
        with torch.no_grad():
            first = t[:anchors]
            (denoised, velocity), (product, _) = torch.func.jvp(
                lambda y: core.both(y, torch.ones_like(first), first, label), (x[:anchors],), (z,))
            trace = (z * product).sum((1, 2, 3))
            known = DIM - first * target.known_divergence(first, first)
            start, near, far = x[anchors:], t[anchors:], s[anchors:]
            middle = torch.exp(0.5 * (here + there)[anchors:])
            u1, z1 = target.averages(start, near, middle)
            u2, z2 = target.averages(start + wide(middle - near) * u1, middle, far)
            share = wide((middle - near) / torch.where(far == near, torch.ones_like(far), far - near))
            u = torch.cat([velocity, share * u1 + (1 - share) * u2])
            half = mean_unit(near, middle) * z1 + mean_unit(middle, far) * z2
            learned = torch.cat([trace - known, 0.5 * half])
        error_u, error_z = map_errors(model, x, t, s, u, learned)
        return error_u.mean() + 0.3 * error_z.mean()

    kept = run.path.with_name("mnist-edm-check.pt")
    vgen = torch.Generator().manual_seed(10)
    x = dequantize(test[: args.check], vgen)
    if not kept.exists():
        torch.save(trajectory(core, x, vgen, probes=args.probes), kept)
    end, integral = torch.load(kept, weights_only=True)
    truth = (log_prior(end) + integral).numpy()

    def report(student):
        lines = []
        for steps in (8, 2):
            times = np.exp(np.linspace(LOW, HIGH, steps + 1))
            there, total = walk(student, x, times)
            back, _ = walk(student, end, times[::-1])
            lines.append(f"{steps} steps: {agreement(truth, (log_prior(there) + total).numpy(), DIM)}, state "
                         f"{((there - end) / SIGMA_MAX).square().mean().sqrt():.4f}, to data {(back - x).square().mean().sqrt():.4f}")
        return "; ".join(lines)

    run.go(args.steps, args.rate, draw_loss, report, args.every)


# Exports.


def put_in(card, section, name, line):
    """Write one entry of a section, before `provenance`, and leave every other line as it is."""
    lines = card.read_text().splitlines()
    entry = f"  {name}: {line}"
    if section + ":" not in lines:
        at = lines.index("provenance:")
        lines[at:at] = [section + ":", entry]
    else:
        at = lines.index(section + ":") + 1
        end = next((i for i in range(at, len(lines)) if not lines[i].startswith(" ")), len(lines))
        kept = [l for l in lines[at:end] if not l.startswith(f"  {name}:")]
        lines[at:end] = kept + [entry]
    card.write_text("\n".join(lines) + "\n")


def note(card, kind, kept, args):
    put_in(card, "provenance", kind, f'"{kept["step"]} steps of {args.batch}, seeds {SEEDS[kind]} and {SEEDS[kind] + 100}, '
           f'{kept["seconds"] / 60:.0f} minutes of wall time, {kept["cpu"] / 60:.0f} of CPU, {processor()}; '
           f'python scripts/train_mnist_maps.py {kind} --data FOLDER --steps {kept["step"]} --batch {args.batch}"')


def export_part(kind, args, images, core, folder, checkpoints):
    kept = torch.load(checkpoints / f"mnist-edm-{kind}.pt", weights_only=True)
    gen = torch.Generator().manual_seed(31)
    sigma = torch.tensor([0.02, 0.05, 0.3, 1.0, 5.0, 40.0, 0.005])
    x = dequantize(images[:7], gen)
    x = x + wide(sigma) * torch.randn(x.shape, generator=gen)
    label = torch.tensor([0, 3, 10, 9, 10, 1, 5])
    card, condition = folder / "card.yaml", "conditions: {label: {input: label, null: 10}}"
    if kind == "f2d2":
        state = kept["average"]
        model = Student(core, (state["counts"].tolist(), state["variances"].tolist()))
        model.load_state_dict(state)
        to = torch.tensor([80.0, 0.05, 0.002, 0.3, 80.0, 0.002, 0.3])
        export(model.eval().requires_grad_(False), folder / "f2d2.onnx", (x, sigma, to), *Student.names)
        digest = sha256(folder / "f2d2.onnx")
        same = f"file: f2d2.onnx, sha256: {digest}, inputs: {{x: x, from: sigma, to: to}}"
        put_in(card, "flow_maps", "f2d2", f"{{{same}, outputs: {{velocity: velocity, divergence: divergence}}, rule: two-time}}")
        # The same map without its head: its density is then the determinant of its Jacobian.
        put_in(card, "flow_maps", "map", f"{{{same}, outputs: {{velocity: velocity}}}}")
    else:
        head = Head(core.pixels, Encoder() if kind == "stad" else OnFeatures(core))
        head.load_state_dict(kept["average"])
        head.eval().requires_grad_(False)
        if kind == "stad":
            export(head, folder / "stad.onnx", (x, sigma, label), *Head.names)
            put_in(card, "divergence_heads", "stad", f"{{file: stad.onnx, sha256: {sha256(folder / 'stad.onnx')}, "
                   f"inputs: {{x: x, time: sigma}}, {condition}, output: divergence}}")
        else:
            export(Joint(head), folder / "network.onnx", (x, sigma, label), *Joint.names)
            digest = sha256(folder / "network.onnx")
            lines = [f"  sha256: {digest}" if l.startswith("  sha256:") else l for l in card.read_text().splitlines()]
            card.write_text("\n".join(lines) + "\n")
            put_in(card, "divergence_heads", "joint", f"{{file: network.onnx, sha256: {digest}, "
                   f"inputs: {{x: x, time: sigma}}, {condition}, output: divergence}}")
    note(card, kind, kept, args)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=SEEDS)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--width", type=int, default=48)
    parser.add_argument("--every", type=int, default=250, help="steps between checkpoints")
    parser.add_argument("--check", type=int, default=256, help="test images that the checks use")
    parser.add_argument("--probes", type=int, default=PROBES, help="Hutchinson probes of the checks")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--checkpoints", type=Path, help="folder of checkpoints; default target/checkpoints")
    parser.add_argument("--out", type=Path, help="folder of the model; default models/mnist-edm")
    parser.add_argument("--export", action="store_true", help="export the checkpoint as it is")
    args = parser.parse_args()
    args.steps = args.steps or STEPS[args.part]
    torch.set_num_threads(args.threads)
    checkpoints = args.checkpoints or MODELS.parent / "target" / "checkpoints"
    images, labels = read(args.data, "train-images-idx3-ubyte.gz"), read(args.data, "train-labels-idx1-ubyte.gz")
    core = the_denoiser(images, checkpoints, args.width)
    if not args.export:
        test = read(args.data, "t10k-images-idx3-ubyte.gz")
        if args.part == "f2d2":
            train_map(args, images, test, core)
        else:
            train_head(args.part, args, images, labels, test, core)
    export_part(args.part, args, images, core, args.out or MODELS / "mnist-edm", checkpoints)


if __name__ == "__main__":
    main()
