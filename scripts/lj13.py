"""Shared by chains_lj13.py and train_lj13.py: thirteen Lennard-Jones particles in space, a network with their symmetries, the energy.

States are rows (x1, y1, z1, ..., x13, y13, z13). The energy, in units of kT, is

    sum over pairs of (1/d)^12 - 2 (1/d)^6   +   1/2 sum over particles of |x - centre of mass|^2,

which is LJ13 with epsilon = tau = r_m = 1 as noegroup/bgflow and lollcat/se3-augmented-coupling-flows compute it: the sum over ordered
pairs has the factor epsilon/(2 tau). The data of jarridrb/DEM have no factor 1/2, and so twice this pair energy.

The network sees distances only, and returns central forces between the particles. So it is equivariant to permutations, rotations and
reflections, and what it returns has its mean over the particles at zero.
"""

from itertools import combinations

import numpy as np
import torch
from torch import nn

from common import silu

PARTICLES, DIMS = 13, 3
DIM = PARTICLES * DIMS
PAIRS = list(combinations(range(PARTICLES), 2))
# The standard deviation of the data in the 36 dimensions of the subspace; the path's Gaussian part.
SIGMA = 0.9


def incidence(signed):
    """[pairs, particles]: 1 at the first particle and -1 (or 1) at the second one."""
    matrix = np.zeros((len(PAIRS), PARTICLES))
    for row, (i, j) in enumerate(PAIRS):
        matrix[row, i], matrix[row, j] = 1.0, -1.0 if signed else 1.0
    return matrix


def centred_noise(count, gen, dtype=torch.float32):
    """Standard normal on the subspace of zero centre of mass: 36 dimensions."""
    x = torch.randn((count, PARTICLES, DIMS), generator=gen, dtype=dtype)
    return (x - x.mean(1, keepdim=True)).reshape(count, DIM)


class Energy(nn.Module):
    """The energy in units of kT: x [N, 39] to u [N]."""

    def __init__(self):
        super().__init__()
        # Two pairs stand twice, the second time without weight: a sum of 80 terms in f32 does not depend on a sample's place in
        # the batch, as one of 78 does.
        signed = incidence(True)
        self.register_buffer("signed", torch.tensor(np.concatenate([signed, signed[:2]]), dtype=torch.float32))
        self.register_buffer("weights", torch.tensor([1.0] * len(PAIRS) + [0.0] * 2))

    def forward(self, x):
        d = self.signed @ x.reshape(-1, PARTICLES, DIMS)
        d2 = (d * d).sum(2)
        # The sum over the particles of |x - centre|^2 is the sum over pairs of d^2, divided by their number.
        inverse6 = 1 / (d2 * d2 * d2)
        return ((inverse6 * (inverse6 - 2) + d2 * (0.5 / PARTICLES)) * self.weights).sum(1)


def clock(t):
    """What the network is shown of time: a log-SNR that is finite on [0, 1]."""
    return 0.25 * torch.log((t + 0.02) / (1.02 - t))


def variance(t):
    """The variance at time t of a Gaussian of variance SIGMA^2 at t = 1."""
    return SIGMA**2 * t * t + (1 - t) * (1 - t)


class Trunk(nn.Module):
    """Residual message passing between the 78 pairs, by way of the 13 particles.

    A block takes pairs to particles (sums over the pairs of a particle) and back (sums over the particles of a pair), with a
    nonlinearity at each.
    """

    def __init__(self, width, blocks, frequencies=(3.0, 6.0, 12.0, 24.0), time_frequencies=(1.0, 2.0, 4.0, 8.0)):
        super().__init__()
        self.register_buffer("signed", torch.tensor(incidence(True), dtype=torch.float32))
        self.register_buffer("ends", torch.tensor(incidence(False), dtype=torch.float32))
        self.register_buffer("frequencies", torch.tensor(frequencies))
        self.register_buffer("time_frequencies", torch.tensor(time_frequencies))
        self.features = 2 + 2 * len(frequencies)
        self.embed = nn.Linear(1 + 2 * len(time_frequencies), 32)
        self.first = nn.Linear(self.features, width)
        linear = lambda size, bias=True: nn.ModuleList(nn.Linear(size, width, bias=bias) for _ in range(blocks))
        self.times, self.node_times = linear(32), linear(32)
        self.ins, self.nodes, self.keeps, self.backs, self.outs = (
            linear(width, False), linear(width, False), linear(width, False), linear(width), linear(width))
        for out in self.outs:
            nn.init.normal_(out.weight, std=(1.0 / width / blocks) ** 0.5)
            nn.init.zeros_(out.bias)

    def differences(self, x):
        """x_i - x_j for all pairs, [N, pairs, 3]."""
        return self.signed @ x.reshape(-1, PARTICLES, DIMS)

    def see(self, differences, t):
        """Invariants of the pairs at unit scale, [N, pairs, features]: smooth in the squared distance."""
        q = (differences * differences).sum(2) / (2 * DIMS * variance(t))[:, None]
        q = q[:, :, None]
        r = torch.sqrt(q + 0.003)
        waves = r * self.frequencies
        return torch.cat([q, r, torch.sin(waves), torch.cos(waves)], 2)

    def forward(self, seen, time):
        """Hidden values of the pairs [N, pairs, width]; `time` [N] is of about unit size."""
        time = time[:, None]
        waves = time * self.time_frequencies
        emb = silu(self.embed(torch.cat([time, torch.sin(waves), torch.cos(waves)], 1)))
        e = self.first(seen)
        for i in range(len(self.ins)):
            a = silu(self.ins[i](e) + self.times[i](emb)[:, None, :])
            # A particle has twelve pairs: their sum, over the root of their number.
            h = silu(self.nodes[i](self.ends.T @ a) * (PARTICLES - 1) ** -0.5 + self.node_times[i](emb)[:, None, :])
            m = silu(self.keeps[i](a) + self.ends @ self.backs[i](h))
            e = e + self.outs[i](m)
        return silu(e)


class Velocity(nn.Module):
    """dx/dt [N, 39]: the velocity of a Gaussian with the data's variance, plus central forces between the particles."""

    def __init__(self, width=40, blocks=3):
        super().__init__()
        self.trunk = Trunk(width, blocks)
        self.last = nn.Linear(width + self.trunk.features, 1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, x, t):
        d = self.trunk.differences(x)
        seen = self.trunk.see(d, t)
        force = self.last(torch.cat([self.trunk(seen, clock(t)), seen], 2))
        # The sum over j of (x_i - x_j) is PARTICLES times the centred x_i.
        gaussian = (SIGMA**2 * t - (1 - t)) / (variance(t) * PARTICLES)
        pulls = (force + gaussian[:, None, None]) * d
        return (self.trunk.signed.T @ pulls).reshape(-1, DIM)
