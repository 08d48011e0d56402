"""Times flowgauge's log-likelihoods against PyTorch, eager and compiled, and raw calls of ONNX Runtime, in one run.

    python scripts/bench_pytorch.py [--program target/release/flowgauge] [--diffusers] [--out ratios.csv]
    python scripts/bench_pytorch.py --quick                    # a few evaluations of each: does it work here?
    python scripts/bench_pytorch.py --only mlp --only "unet, 1 probe"

The networks have random weights from a fixed seed and are exported to a temporary folder. They are velocities of
flow matching: a perceptron of 64 dimensions with four layers of 256 and SiLU at 256 samples, and a U-Net of 32x32x3
with GroupNorm, SiLU and attention at 8x8 at 4 samples. --diffusers adds the UNet2DModel that the field calls CIFAR-10
(35.7 million weights) at 4 samples.

Both sides follow Heun's method with the same fixed steps, so they make the same number of evaluations. Both use the
same number of threads. The script times many steps minus few steps, per evaluation of the whole batch. So the start
of a process, the opening of sessions and the reading of files are left out on both sides. flowgauge's start is beside
the table. Wall time and CPU time (resource.getrusage, of children for flowgauge) are medians over interleaved rounds.
A ratio is the time of the other program divided by flowgauge's: above 1, flowgauge is faster. The reported ratio is
the smaller one of the wall and the CPU ratio.

All groups take tens of minutes on two cores. They need a machine that does nothing else. The script prints at the end
what other programs took meanwhile.

Before a group is timed, both sides must have computed the same:
- exact log-likelihoods agree within 1e-3 nats;
- paths end at the same prior densities;
- 16 probes differ by no more than their standard errors allow;
- the programs in PyTorch agree with one another, and with the derived graph, on one set of probes.
The script exits 1 if they do not.
"""

import argparse
import csv
import logging
import math
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable

import numpy as np
import onnxruntime as ort
import torch
from torch import nn
from torch.func import jacfwd, jacrev, jvp, vjp, vmap
from torch.nn import functional as F

from common import ROOT, export, write_card

# ---------------------------------------------------------------------------------------------------------------------
# Networks
# ---------------------------------------------------------------------------------------------------------------------


class Perceptron(nn.Module):
    """Four layers of SiLU over state and time, and a linear one back to the state."""

    def __init__(self, dim=64, width=256, layers=4):
        super().__init__()
        sizes = [dim + 1] + [width] * layers
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in zip(sizes, sizes[1:]))
        self.last = nn.Linear(width, dim)

    def forward(self, x, t):
        h = torch.cat([x, t[:, None]], 1)
        for layer in self.hidden:
            h = F.silu(layer(h))
        return self.last(h)


class Block(nn.Module):
    """A residual block of two convolutions that is told the time."""

    def __init__(self, inside, outside, embedding):
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(8, inside), nn.GroupNorm(8, outside)
        self.conv1 = nn.Conv2d(inside, outside, 3, padding=1)
        self.conv2 = nn.Conv2d(outside, outside, 3, padding=1)
        self.time = nn.Linear(embedding, outside)
        self.skip = nn.Identity() if inside == outside else nn.Conv2d(inside, outside, 1)

    def forward(self, x, emb):
        h = self.conv1(F.silu(self.norm1(x))) + self.time(emb)[:, :, None, None]
        return self.skip(x) + self.conv2(F.silu(self.norm2(h)))


class Attention(nn.Module):
    """Attention of one head over all pixels, written out so that forward-mode differentiation passes it."""

    def __init__(self, channels):
        super().__init__()
        self.norm = nn.GroupNorm(8, channels)
        self.qkv, self.out = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)

    def forward(self, x):
        tokens = self.norm(x).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(tokens).chunk(3, 2)
        weights = torch.softmax(q @ k.transpose(1, 2) / math.sqrt(q.shape[2]), 2)
        return x + self.out(weights @ v).transpose(1, 2).reshape(x.shape)


class UNet(nn.Module):
    """A U-Net over 32, 16 and 8 pixels a side, with attention at 8: 3.0 million weights."""

    def __init__(self, channels=3, base=64, embedding=128):
        super().__init__()
        self.register_buffer("frequencies", torch.exp(torch.linspace(0, math.log(1000), 32)))
        self.embed = nn.Sequential(nn.Linear(64, embedding), nn.SiLU(), nn.Linear(embedding, embedding), nn.SiLU())
        self.first = nn.Conv2d(channels, base, 3, padding=1)
        self.down1 = Block(base, base, embedding)
        self.shrink1 = nn.Conv2d(base, base, 3, stride=2, padding=1)
        self.down2 = Block(base, 2 * base, embedding)
        self.shrink2 = nn.Conv2d(2 * base, 2 * base, 3, stride=2, padding=1)
        self.down3 = Block(2 * base, 2 * base, embedding)
        self.middle1, self.middle2 = (Block(2 * base, 2 * base, embedding) for _ in range(2))
        self.attention = Attention(2 * base)
        self.up3 = Block(4 * base, 2 * base, embedding)
        self.grow2 = nn.Conv2d(2 * base, 2 * base, 3, padding=1)
        self.up2 = Block(4 * base, 2 * base, embedding)
        self.grow1 = nn.Conv2d(2 * base, 2 * base, 3, padding=1)
        self.up1 = Block(3 * base, base, embedding)
        self.norm, self.last = nn.GroupNorm(8, base), nn.Conv2d(base, channels, 3, padding=1)

    def forward(self, x, t):
        waves = t[:, None] * self.frequencies
        emb = self.embed(torch.cat([torch.sin(waves), torch.cos(waves)], 1))
        h1 = self.down1(self.first(x), emb)
        h2 = self.down2(self.shrink1(h1), emb)
        h3 = self.down3(self.shrink2(h2), emb)
        h = self.middle2(self.attention(self.middle1(h3, emb)), emb)
        h = self.up3(torch.cat([h, h3], 1), emb)
        h = self.grow2(F.interpolate(h, scale_factor=2.0, mode="nearest"))
        h = self.up2(torch.cat([h, h2], 1), emb)
        h = self.grow1(F.interpolate(h, scale_factor=2.0, mode="nearest"))
        h = self.up1(torch.cat([h, h1], 1), emb)
        return self.last(F.silu(self.norm(h)))


class Diffusers(nn.Module):
    """UNet2DModel as google/ddpm-cifar10-32 configures it, told times of [0, 1] as the indices that it was made for."""

    def __init__(self):
        super().__init__()
        from diffusers import UNet2DModel

        self.inner = UNet2DModel(
            sample_size=32, in_channels=3, out_channels=3, layers_per_block=2, block_out_channels=(128, 256, 256, 256),
            down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
            attention_head_dim=None, downsample_padding=0, flip_sin_to_cos=False, freq_shift=1, norm_eps=1e-6,
        )

    def forward(self, x, t):
        return self.inner(x, 999.0 * t).sample


@dataclass
class Network:
    """A network as both sides see it: a module, and the files of a card."""

    name: str
    module: nn.Module
    graph: Path
    card: Path
    data: Path
    x: torch.Tensor

    def __call__(self, x, t):
        return self.module(x, t)

    @property
    def dim(self):
        return self.x[0].numel()

    @classmethod
    def make(cls, name, build, shape, count, folder):
        """The network with seeded weights, exported, with its card and `count` states of normal noise beside it."""
        torch.manual_seed(0)
        module = build().eval().requires_grad_(False)
        x = torch.randn(count, *shape, generator=torch.Generator().manual_seed(1))
        folder = folder / name
        folder.mkdir()
        network = cls(name, module, folder / "velocity.onnx", folder / "card.yaml", folder / "x.npy", x)
        example = (x[:3], torch.linspace(0.1, 0.9, 3))
        export(module, network.graph, example, ["x", "t"], ["velocity"])
        np.save(network.data, x.numpy())
        write_card(network.card, {
            "name": name,
            "shape": list(shape),
            "network": {"file": "velocity.onnx", "inputs": {"x": "x", "time": "t"}, "output": "velocity",
                        "prediction": "velocity", "time": {"feed": "t"}},
            "path": {"kind": "flow-matching", "data_at": 0},
        })
        weights = sum(p.numel() for p in module.parameters())
        print(f"{name}: {weights:,} weights, states of {'x'.join(map(str, shape))}, {count} samples", flush=True)
        return network


BUILDS = {"mlp": (Perceptron, (64,), 256), "unet": (UNet, (3, 32, 32), 4), "cifar10": (Diffusers, (3, 32, 32), 4)}

# ---------------------------------------------------------------------------------------------------------------------
# Programs in PyTorch: each gives v and an estimate of div v, of every sample, at one time
# ---------------------------------------------------------------------------------------------------------------------


def dot(a, b):
    """The inner product of every sample, over what axes it has."""
    return (a * b).flatten(1).sum(1)


def one_pass(network, x, t, probes):
    """For each probe the network once with its graph, and one reverse pass that gives the product vᵀJ."""
    total = 0.0
    for z in probes:
        x = x.detach().requires_grad_(True)
        v = network(x, t)
        (product,) = torch.autograd.grad(dot(v, z).sum(), x)
        total = total + dot(product, z)
    return v.detach(), total / len(probes)


def flowfusion(network, x, t, probes):
    """As flowfusion has it: v with a graph, and one reverse pass that is asked for a graph of its own."""
    (z,) = probes
    with torch.enable_grad():
        x = x.detach().requires_grad_(True)
        v = network(x, t)
        (product,) = torch.autograd.grad(v, x, z, create_graph=True, retain_graph=True)
        return v.detach(), dot(product, z).detach()


def flowfusion_exact(network, x, t, _):
    """As flowfusion has it: v with a graph, and apart from it the trace of each sample's torch.func.jacrev, under vmap."""
    with torch.enable_grad():
        x = x.detach().requires_grad_(True)
        v = network(x, t)

        def trace(x, t):
            return torch.trace(jacrev(lambda x: network(x[None], t[None])[0].flatten())(x).flatten(1))

        return v.detach(), vmap(trace)(x, t).detach()


def one_graph(network, x, t, probes):
    """The network once with its graph, which every probe's reverse pass goes through."""
    x = x.detach().requires_grad_(True)
    v = network(x, t)
    total = 0.0
    for i, z in enumerate(probes):
        (product,) = torch.autograd.grad(dot(v, z).sum(), x, retain_graph=i + 1 < len(probes))
        total = total + dot(product, z)
    return v.detach(), total / len(probes)


def score_sde(network, x, t, probes):
    """As score_sde has it: the drift without a graph, and once more with one for the divergence of a probe.

    Its conversions from and to flat arrays of NumPy are left out.
    """
    (z,) = probes
    v = network(x, t)
    with torch.enable_grad():
        x = x.detach().requires_grad_(True)
        (product,) = torch.autograd.grad((network(x, t) * z).sum(), x)
    return v, dot(product, z)


def forward_mode(network, x, t, probes):
    """torch.func.jvp of one probe."""
    (z,) = probes
    v, product = jvp(lambda x: network(x, t), (x,), (z,))
    return v, dot(product, z)


def vmap_jvp(network, x, t, probes):
    """torch.func.vmap over the probes of torch.func.jvp, which computes v once."""
    v, products = vmap(lambda z: jvp(lambda x: network(x, t), (x,), (z,)), out_dims=(None, 0))(probes)
    return v, (products * probes).flatten(2).sum(2).mean(0)


def vmap_jvp_basis(network, x, t, _):
    """The same over the whole basis, which makes the trace exact."""
    d = x[0].numel()
    basis = torch.eye(d).reshape(d, 1, *x.shape[1:]).expand(d, *x.shape)
    v, mean = vmap_jvp(network, x, t, basis)
    return v, mean * d


def exact_of(jacobian):
    """The exact trace by torch.func.jacfwd or jacrev of one sample, under vmap."""

    def evaluate(network, x, t, _):
        def single(x, t):
            v = network(x[None], t[None])[0]
            return v, v

        matrices, v = vmap(jacobian(single, has_aux=True))(x, t)
        d = x[0].numel()
        return v, matrices.reshape(len(x), d, d).diagonal(dim1=1, dim2=2).sum(1)

    return evaluate


def reverse_passes(create_graph):
    """The exact trace as flow_matching has it: one reverse pass for each coordinate.

    Its release 1.0.10 asks each for a graph of its own (create_graph), which nothing uses; without that it is leaner.
    """

    def evaluate(network, x, t, _):
        with torch.enable_grad():
            x = x.detach().requires_grad_(True)
            v = network(x, t).flatten(1)
            total = 0.0
            for i in range(v.shape[1]):
                column = v[:, i]
                options = {"create_graph": True} if create_graph else {"retain_graph": i + 1 < v.shape[1]}
                (row,) = torch.autograd.grad(column, x, torch.ones_like(column), **options)
                total = total + row.flatten(1)[:, i]
        return v.detach().reshape(x.shape), total.detach()

    return evaluate


def one_vjp(network, x, t, probes):
    """torch.func.vjp of one probe: v and vᵀJ by one forward and one reverse pass."""
    (z,) = probes
    v, back = vjp(lambda x: network(x, t), x)
    (product,) = back(z)
    return v, dot(product, z)


class Compiled:
    """A program under torch.compile, which compiles it at the first call for each network."""

    def __init__(self, program):
        self.program = program
        self.made = {}

    def __call__(self, network, x, t, probes):
        if network.name not in self.made:
            module = network.module
            self.made[network.name] = torch.compile(lambda x, t, probes: self.program(module, x, t, probes))
        return self.made[network.name](x, t, probes)

    def refusal(self, network, probes):
        """Why it cannot be compiled for a network, or None. It needs a C++ compiler."""
        try:
            with torch.no_grad():
                self(network, network.x, torch.full((len(network.x),), 0.5), probes)
        except Exception as error:  # The compiler's errors have no type in common.
            return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        return None


ONE_PASS, SCORE_SDE = "torch: one pass, v and vᵀJ", "torch: score_sde's loop"
PROGRAMS = {
    "1 probe": {
        ONE_PASS: torch.enable_grad()(one_pass),
        SCORE_SDE: score_sde,
        "torch: flowfusion's": flowfusion,
        "torch: func.jvp": forward_mode,
        "torch.compile: func.vjp": Compiled(one_vjp),
    },
    "16 probes": {
        ONE_PASS + ", 16 times": torch.enable_grad()(one_pass),
        "torch: one forward, 16 reverse passes": torch.enable_grad()(one_graph),
        "torch: vmap(jvp)": vmap_jvp,
        "torch.compile: vmap(jvp)": Compiled(vmap_jvp),
    },
    "exact": {
        "torch: flow_matching's loop": reverse_passes(create_graph=True),
        "torch: flow_matching's loop, leaner": reverse_passes(create_graph=False),
        "torch: flowfusion's": flowfusion_exact,
        "torch: vmap(jacfwd)": exact_of(jacfwd),
        "torch: vmap(jacrev)": exact_of(jacrev),
        "torch: vmap(jvp) of the basis": vmap_jvp_basis,
        "torch.compile: vmap(jvp) of the basis": Compiled(vmap_jvp_basis),
    },
}
ESTIMATORS = {"1 probe": "{hutchinson: {probes: 1}}", "16 probes": "{hutchinson: {probes: 16}}", "exact": "exact"}


@torch.no_grad()
def heun(evaluate, network, probes, steps):
    """Heun's method from the data at t = 0 to the prior at t = 1: the prior's log-density and the divergence's sum."""
    x, integral, h = network.x, torch.zeros(len(network.x), dtype=torch.float64), 1.0 / steps
    for i in range(steps):
        v0, d0 = evaluate(network, x, x.new_full((len(x),), i * h), probes)
        v1, d1 = evaluate(network, x + h * v0, x.new_full((len(x),), (i + 1) * h), probes)
        x = x + h / 2 * (v0 + v1)
        integral += h / 2 * (d0 + d1)
    end = x.double()
    prior = -0.5 * dot(end, end) - network.dim / 2 * math.log(2 * math.pi)
    return prior.numpy(), integral.numpy()


# ---------------------------------------------------------------------------------------------------------------------
# Programs outside PyTorch
# ---------------------------------------------------------------------------------------------------------------------


class Failure(Exception):
    """Says why nothing can be timed."""


class Flowgauge:
    """The program as its users call it."""

    def __init__(self, program, network, estimator, options, folder):
        self.out = folder / "out.csv"
        self.command = [program, "likelihood", "--model", network.card, "--data", network.data, "--divergence",
                        ESTIMATORS[estimator], "--threads", str(options.threads), "--out", self.out, "--quiet"]
        if options.batch:
            self.command += ["--batch", str(options.batch)]

    def run(self, steps):
        """Follow the path of all samples and write the table."""
        solver = f"{{heun: {{steps: {steps}, grid: uniform}}}}"
        call([*self.command, "--solver", solver])

    def rows(self, steps):
        """The columns of the table, and the evaluations that it counts."""
        self.run(steps)
        with open(self.out) as file:
            rows = list(csv.DictReader(file))
        columns = ("log_likelihood", "prior_log_density", "divergence_integral", "stderr", "evaluations")
        return {name: np.array([float(row[name] or "nan") for row in rows]) for name in columns}


def call(command):
    """Run a command and be silent, unless it fails."""
    try:
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    except OSError as error:
        raise Failure(f"--program: {error}") from error
    if done.returncode:
        name = f"`{Path(command[0]).name} {command[1]}`"
        raise Failure(f"{name} ended with status {done.returncode}: {done.stderr.strip()}")
    return done.stdout


@dataclass
class Layout:
    """A way to lay a batch out over the threads: so many sessions, so many threads in each, so many samples a call."""

    sessions: int
    threads: int
    chunk: int

    def __str__(self):
        several = lambda n, word: f"{n} {word}" + ("" if n == 1 else "s")
        each = several(self.threads, "thread")
        return f"{several(self.sessions, 'session')} of {each}, {several(self.chunk, 'sample')} a call"


class Raw:
    """Calls of a derived graph and nothing else, as often as a path evaluates it."""

    def __init__(self, graph, feed, outputs, layout, batch):
        self.layout, self.outputs = layout, outputs
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = layout.threads, 1
        options.log_severity_level = 3
        # As in flowgauge: threads that spin would charge CPU time for nothing.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        open_one = lambda: ort.InferenceSession(str(graph), options, ["CPUExecutionProvider"])
        self.idle = [open_one() for _ in range(layout.sessions)]
        # Tangents have an axis of probes before that of the batch.
        axis = {name: int(name.endswith("_tangent")) for name in feed}
        self.feeds = [
            {name: np.ascontiguousarray(a.take(range(first, min(first + layout.chunk, batch)), axis[name]))
             for name, a in feed.items()}
            for first in range(0, batch, layout.chunk)
        ]
        self.pool = ThreadPoolExecutor(layout.sessions)

    def once(self):
        """What the graph gives for the whole batch, by output; the last axis of those of two axes is the batch."""
        parts = [self.idle[0].run(self.outputs, feed) for feed in self.feeds]
        axes = {name: int(name.endswith("_quadratic")) for name in self.outputs}
        return {name: np.concatenate([p[i] for p in parts], axes[name]) for i, name in enumerate(self.outputs)}

    def run(self, steps):
        """Evaluate every part of the batch as often as this number of Heun's steps does."""

        def follow(feed):
            session = self.idle.pop()
            for _ in range(2 * steps):
                session.run(self.outputs, feed)
            self.idle.append(session)

        list(self.pool.map(follow, self.feeds))


def layouts(batch, threads):
    """Every thread its own session and part of the batch, in larger and smaller calls, or all threads in one session."""
    chunks = {math.ceil(batch / threads), math.ceil(batch / threads / 2), min(32, math.ceil(batch / threads))}
    found = [Layout(threads, 1, chunk) for chunk in sorted(chunks, reverse=True)]
    return found + ([Layout(1, threads, batch)] if threads > 1 else [])


def fastest(graph, feed, outputs, batch, threads, steps):
    """The layout with the least wall time, each tried after a first call."""
    tried = []
    for layout in layouts(batch, threads):
        raw = Raw(graph, feed, outputs, layout, batch)
        raw.run(1)
        began = time.perf_counter()
        raw.run(steps)
        tried.append((time.perf_counter() - began, len(tried), raw))
    return min(tried)[2]


# ---------------------------------------------------------------------------------------------------------------------
# Measurement
# ---------------------------------------------------------------------------------------------------------------------


@dataclass
class Contender:
    """One program of a group, with what its rounds took: wall and CPU seconds for each evaluation of the batch."""

    name: str
    run: Callable[[int], object]
    child: bool = False
    rounds: list = field(default_factory=list)
    starts: list = field(default_factory=list)

    def timed(self, steps):
        """Wall and CPU seconds of a run."""
        who = resource.RUSAGE_CHILDREN if self.child else resource.RUSAGE_SELF
        used = lambda: sum(resource.getrusage(who)[:2])
        cpu, wall = used(), time.perf_counter()
        self.run(steps)
        return np.array([time.perf_counter() - wall, used() - cpu])

    def measure(self, few, many):
        """Add a round: many steps less few, for each evaluation, and what is left of the few for the start."""
        short, long = self.timed(few), self.timed(many)
        each = (long - short) / (2 * (many - few))
        self.rounds.append(each)
        self.starts.append(short - 2 * few * each)

    def medians(self):
        """The median wall and CPU seconds."""
        return np.median(self.rounds, 0)


@dataclass
class Group:
    """One estimator on one network, with the steps that make a run last a second or more."""

    network: str
    estimator: str
    few: int
    many: int
    # Steps beyond the few, with --quick.
    quick: int

    @property
    def name(self):
        return f"{self.network}, {self.estimator}"


GROUPS = [
    Group("mlp", "1 probe", 20, 200, 20),
    Group("mlp", "16 probes", 3, 30, 3),
    Group("mlp", "exact", 1, 8, 1),
    Group("unet", "1 probe", 2, 42, 2),
    Group("unet", "16 probes", 1, 3, 1),
    Group("cifar10", "1 probe", 2, 20, 2),
]


def agree(what, a, b, bound):
    """Demand that two sides computed the same."""
    gap = float(np.abs(np.asarray(a) - np.asarray(b)).max())
    print(f"  {what}: largest difference {gap:.1e}", flush=True)
    if not gap <= bound:
        raise Failure(f"{what} differ by {gap:.1e}, more than {bound:.0e}: not the same thing would be timed")


def check(group, network, ours, programs, probes):
    """Hold flowgauge's rows and every program in PyTorch against one another, after a few steps."""
    steps = max(2, group.few)
    rows = ours.rows(steps)
    if not (rows["evaluations"] == 2 * steps).all():
        raise Failure(f"flowgauge counts {rows['evaluations'].max():.0f} evaluations in {steps} steps, not {2 * steps}")
    results = {name: heun(program, network, probes, steps) for name, program in programs.items()}
    (first, (prior, integral)), *rest = results.items()
    scale = max(1.0, network.dim / 1000)
    for name, (theirs, sums) in rest:
        agree(f"log-likelihoods of {name} and {first}, nats", prior + integral, theirs + sums, 1e-3 * scale)
    agree("prior log-densities of flowgauge and torch, nats", rows["prior_log_density"], prior, 1e-3 * scale)
    if group.estimator == "exact":
        agree("exact log-likelihoods of flowgauge and torch, nats", rows["log_likelihood"], prior + integral, 1e-3)
    if group.estimator == "16 probes":
        standard = (rows["divergence_integral"] - integral) / (math.sqrt(2) * rows["stderr"])
        spread = float(np.sqrt(np.mean(standard**2)))
        print(f"  divergences of flowgauge and torch, other probes: {spread:.2f} standard errors apart", flush=True)
        if not spread <= 3:
            raise Failure(f"divergences by 16 probes are {spread:.1f} standard errors apart")


def raw_contenders(program, group, network, probes, options, folder):
    """Raw calls of the graphs that flowgauge derives, held against PyTorch, each in its fastest layout."""
    x, t = network.x.numpy(), np.full(len(network.x), 0.3, np.float32)
    reference = next(iter(PROGRAMS[group.estimator].values()))
    with torch.no_grad():
        v, divergences = reference(network, network.x, torch.from_numpy(t), probes)
    found = []
    modes = {"jvp": "forward graph", "vjp": "reverse graph"}
    for mode in modes if group.estimator == "1 probe" else ["jvp"]:
        graph = folder / f"{network.name}-{mode}.onnx"
        if not graph.exists():
            call([program, "differentiate", network.graph, "--mode", mode, "--out", graph])
        if mode == "jvp":
            if group.estimator == "exact":
                d = network.dim
                tangents = np.broadcast_to(np.eye(d, dtype=np.float32).reshape(d, 1, *x.shape[1:]), (d, *x.shape))
            else:
                tangents = probes.numpy()
            feed, outputs = {"x": x, "t": t, "x_tangent": tangents}, ["velocity", "velocity_quadratic"]
        else:
            feed, outputs = {"x": x, "t": t, "velocity_cotangent": probes[0].numpy()}, ["velocity", "x_cotangent"]
        raw = fastest(graph, feed, outputs, len(x), options.threads, group.few)
        given = raw.once()
        if mode == "vjp":
            divergence = dot(torch.from_numpy(given["x_cotangent"]), probes[0]).numpy()
        else:
            divergence = given["velocity_quadratic"].sum(0) / (1 if group.estimator == "exact" else len(probes))
        bound = 1e-4 * max(1.0, float(divergences.abs().max()))
        agree(f"v of the {modes[mode]} and torch", given["velocity"], v.numpy(), 1e-4)
        agree(f"divergences of the {modes[mode]} and torch", divergence, divergences.numpy(), bound)
        print(f"  ONNX Runtime, {modes[mode]}: {raw.layout}", flush=True)
        found.append(Contender(f"ONNX Runtime: {modes[mode]}", raw.run))
    return found


def bench(group, network, options, folder):
    """Check and time one group; one line for each program other than flowgauge."""
    print(f"\n{group.name}", flush=True)
    many = group.few + group.quick if options.quick else group.many
    programs = PROGRAMS[group.estimator]
    if network.name == "cifar10":
        programs = {name: programs[name] for name in (ONE_PASS, SCORE_SDE)}
    generator = torch.Generator().manual_seed(2)
    count = {"1 probe": 1, "16 probes": 16, "exact": 0}[group.estimator]
    probes = torch.randint(0, 2, (count, *network.x.shape), generator=generator) * 2.0 - 1.0
    for name, program in [(n, p) for n, p in programs.items() if isinstance(p, Compiled)]:
        if refusal := program.refusal(network, probes):
            print(f"  {name}: left out, because it cannot be compiled: {refusal}", flush=True)
            programs = {other: p for other, p in programs.items() if other != name}
    ours = Flowgauge(options.program, network, group.estimator, options, folder)
    check(group, network, ours, programs, probes)
    contenders = [Contender("flowgauge", ours.run, child=True)]
    for name, program in programs.items():
        contenders.append(Contender(name, lambda steps, p=program: heun(p, network, probes, steps)))
    contenders += raw_contenders(options.program, group, network, probes, options, folder)
    for turn in range(options.repeats):
        for contender in contenders:
            contender.measure(group.few, many)
        print(f"  round {turn + 1} of {options.repeats}", flush=True)
    mine, *others = contenders
    start = np.median(mine.starts, 0)
    lines = []
    for other in others:
        (wall, cpu), (their_wall, their_cpu) = mine.medians(), other.medians()
        ratios = [divided(their_wall, wall), divided(their_cpu, cpu)]
        each = [smaller([divided(b[0], a[0]), divided(b[1], a[1])]) for a, b in zip(mine.rounds, other.rounds)]
        lines.append({
            "network": group.network, "estimator": group.estimator, "against": other.name,
            "flowgauge_wall_ms": 1e3 * wall, "flowgauge_cpu_ms": 1e3 * cpu,
            "other_wall_ms": 1e3 * their_wall, "other_cpu_ms": 1e3 * their_cpu,
            "wall_ratio": ratios[0], "cpu_ratio": ratios[1], "ratio": smaller(ratios),
            "lowest": smaller(each), "highest": float(np.max(each)),
            "flowgauge_start_wall_s": start[0], "flowgauge_start_cpu_s": start[1],
            "evaluations": 2 * (many - group.few), "rounds": options.repeats,
        })
    return lines


def divided(other, mine):
    """A ratio of times, which is no number where noise has eaten one of them."""
    return float(other / mine) if other > 0 and mine > 0 else math.nan


def smaller(ratios):
    """The least of some ratios, which is no number where one of them is none."""
    return float(np.min(ratios))


# ---------------------------------------------------------------------------------------------------------------------
# Output
# ---------------------------------------------------------------------------------------------------------------------


def table(lines):
    """Print the ratios as Markdown, then what flowgauge takes over raw calls, then what its start takes."""
    print("\nMilliseconds for each evaluation of the batch with its divergence, wall (CPU), medians. Ratios are the other")
    print("program's time by flowgauge's: above 1 flowgauge is faster. The range is the smaller ratio's over rounds.\n")
    print("| network, estimator | against | flowgauge ms | other ms | wall | CPU | smaller | range |")
    print("|---|---|" + "---:|" * 6)
    for line in lines:
        print(f"| {line['network']}, {line['estimator']} | {line['against']} "
              f"| {line['flowgauge_wall_ms']:.1f} ({line['flowgauge_cpu_ms']:.1f}) "
              f"| {line['other_wall_ms']:.1f} ({line['other_cpu_ms']:.1f}) "
              f"| {line['wall_ratio']:.2f} | {line['cpu_ratio']:.2f} | **{line['ratio']:.2f}** "
              f"| {line['lowest']:.2f}–{line['highest']:.2f} |")
    print("\nThe other way round, flowgauge over raw calls of the derived graphs, the larger of wall and CPU:\n")
    print("| network, estimator | graph | flowgauge / raw |\n|---|---|---:|")
    for line in lines:
        if line["against"].startswith("ONNX Runtime"):
            graph = line["against"].split(": ")[1]
            print(f"| {line['network']}, {line['estimator']} | {graph} | {1 / line['ratio']:.2f} |")
    print("\nIn none of it, flowgauge's start, in seconds, wall (CPU):\n")
    for name, wall, cpu in dict.fromkeys((f"{line['network']}, {line['estimator']}", line["flowgauge_start_wall_s"],
                                          line["flowgauge_start_cpu_s"]) for line in lines):
        print(f"- {name}: {wall:.1f} ({cpu:.1f})")


def machine(options):
    """One line for each thing that the figures depend on."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        named = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = named[0].split(":")[1].strip() if named else model
    version = call([options.program, "--version"]).strip()
    library = [line.split(" from ")[0] for line in call([options.program, "doctor"]).splitlines() if line.startswith("ONNX")]
    print(f"{model}, {os.cpu_count()} processors, {options.threads} threads on both sides")
    print(f"{version} with {', '.join(library)}; torch {torch.__version__}; ONNX Runtime {ort.__version__} for raw calls")
    if library and library[0].split()[-1] != ort.__version__:
        print("raw calls go to another version of ONNX Runtime than flowgauge's: install that one to compare the two")


class Others:
    """Counts the processor time that other programs take meanwhile, where the system tells it."""

    def __init__(self):
        self.before = self.now()

    @staticmethod
    def now():
        """All busy and all time of the processors in seconds, and of the busy time what is this program's own."""
        own = sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        try:
            ticks = [int(n) for n in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
        except (OSError, ValueError):
            return None
        # The fourth and fifth are idle time and waiting for disks.
        return np.array([sum(ticks) - sum(ticks[3:5]), sum(ticks)]) / os.sysconf("SC_CLK_TCK"), own

    def tell(self):
        """Print their share."""
        after = self.now()
        if self.before is None or after is None:
            return
        busy, whole = after[0] - self.before[0]
        share = max(0.0, busy - (after[1] - self.before[1])) / whole
        print(f"\nOther programs took {share:.0%} of the processors meanwhile.")
        if share > 0.05:
            print("Nothing here may be quoted: PyTorch's threads wait for one another and lose more by that than flowgauge's.")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", type=Path, default=ROOT / "target" / "release" / "flowgauge")
    parser.add_argument("--diffusers", action="store_true", help="time diffusers' UNet2DModel as well")
    parser.add_argument("--only", action="append", metavar="NAME", help="groups whose name holds NAME; may be repeated")
    parser.add_argument("--repeats", type=int, help="interleaved rounds (default: 5, with --quick 1)")
    parser.add_argument("--threads", type=int, default=2, help="threads on both sides (default: 2)")
    parser.add_argument("--batch", type=int, help="samples per network call of flowgauge (default: its own)")
    parser.add_argument("--quick", action="store_true", help="few evaluations: shows that it works, not how fast")
    parser.add_argument("--out", type=Path, metavar="CSV", help="write all figures here")
    options = parser.parse_args()
    options.repeats = options.repeats or (1 if options.quick else 5)
    groups = [g for g in GROUPS if g.network != "cifar10" or options.diffusers]
    groups = [g for g in groups if not options.only or any(name in g.name for name in options.only)]
    if not groups:
        names = "; ".join(g.name for g in GROUPS)
        parser.error(f"--only: no group holds that; there are {names} (cifar10 with --diffusers)")
    torch.set_num_threads(options.threads)
    # What the exporter says of torchvision and of coming versions is nothing to these networks, and what cannot be
    # compiled is said in one line.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    torch._logging.set_logs(all=logging.CRITICAL)
    warnings.simplefilter("ignore")
    lines, status, others = [], 0, Others()
    try:
        machine(options)
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            names = dict.fromkeys(g.network for g in groups)
            networks = {name: Network.make(name, *BUILDS[name], folder) for name in names}
            for group in groups:
                lines += bench(group, networks[group.network], options, folder)
    except Failure as failure:
        print(f"error: {failure}", file=sys.stderr)
        status = 1
    if lines:
        table(lines)
        others.tell()
    if lines and options.out:
        with open(options.out, "w", newline="") as file:
            writer = csv.DictWriter(file, list(lines[0]))
            writer.writeheader()
            writer.writerows(lines)
    return status


if __name__ == "__main__":
    sys.exit(main())
