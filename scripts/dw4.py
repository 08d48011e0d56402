"""What train_dw4.py trains and exports: four particles in the plane, networks that respect their symmetries, the energy.

States are rows (x1, y1, ..., x4, y4). Every network sees differences of positions only, so that it does not
change with the centre of mass; what it returns has its mean over the particles at zero. Distances are invariant
to rotations and reflections, and all layers treat the particles alike. So networks are equivariant to the
permutations of the particles and to the rotations and reflections of the plane.

There is no reshape and no index in the graphs: pairs are made by products with constant matrices.
"""

from itertools import combinations

import numpy as np
import torch
from torch import nn

from common import silu

PARTICLES, DIMS = 4, 2
DIM = PARTICLES * DIMS
PAIRS = list(combinations(range(PARTICLES), 2))
# The standard deviation of the data in the six dimensions of the subspace; the path's Gaussian part.
SIGMA = 2.1
# The energy: the sum over pairs of A (d - D0)^4 + B (d - D0)^2.
A, B, D0 = 0.9, -4.0, 4.0


def centre(x):
    """States with the mean over the particles removed."""
    x = x.reshape(len(x), PARTICLES, DIMS)
    return (x - x.mean(1, keepdims=True)).reshape(len(x), DIM)


def centred_noise(count, gen, dtype=torch.float32):
    """Standard normal on the subspace of zero centre of mass: six dimensions."""
    return centre(torch.randn((count, DIM), generator=gen, dtype=dtype))


def basis():
    """An orthonormal basis of the subspace, [8, 6], in float64 (Helmert's matrix, coordinate by coordinate)."""
    columns = []
    for k in range(1, PARTICLES):
        weights = np.array([1.0] * k + [-k] + [0.0] * (PARTICLES - k - 1)) / np.sqrt(k * (k + 1))
        columns += [np.kron(weights, axis) for axis in np.eye(DIMS)]
    return torch.from_numpy(np.stack(columns, 1))


def incidence(signed):
    """[pairs, particles]: 1 at the first particle and -1 (or 1) at the second one."""
    matrix = np.zeros((len(PAIRS), PARTICLES))
    for row, (i, j) in enumerate(PAIRS):
        matrix[row, i], matrix[row, j] = 1.0, -1.0 if signed else 1.0
    return matrix


class Pairs(nn.Module):
    """The constant matrices of the pairs."""

    def __init__(self):
        super().__init__()
        signed = incidence(True)
        for axis in range(DIMS):
            # x @ difference = coordinate `axis` of x_i - x_j, [N, pairs]
            difference = np.kron(signed, np.eye(DIMS)[axis]).T
            self.register_buffer(f"difference{axis}", torch.tensor(difference, dtype=torch.float32))
            # a @ common: adds a to coordinate `axis` of both particles, less the mean over all particles.
            common = np.kron(np.abs(signed) - 2 / PARTICLES, np.eye(DIMS)[axis])
            self.register_buffer(f"common{axis}", torch.tensor(common, dtype=torch.float32))
        self.register_buffer("gather", torch.tensor(incidence(False).T, dtype=torch.float32))
        self.register_buffer("spread_out", torch.tensor(incidence(False), dtype=torch.float32))
        self.register_buffer("signed", torch.tensor(signed, dtype=torch.float32))

    def differences(self, x):
        """The components of x_i - x_j for all pairs: two arrays [N, pairs]."""
        return x @ self.difference0, x @ self.difference1


class Energy(nn.Module):
    """The double-well energy in units of kT: x [N, 8] to u [N]."""

    def __init__(self):
        super().__init__()
        self.pairs = Pairs()

    def forward(self, x):
        dx, dy = self.pairs.differences(x)
        d = torch.sqrt(dx * dx + dy * dy) - D0
        d2 = d * d
        return (d2 * (A * d2 + B)).sum(1)


def clock(t):
    """What the networks are shown of time: a log-SNR that is finite on [0, 1]."""
    return 0.25 * torch.log((t + 0.02) / (1.02 - t))


def variance(t):
    """The variance at time t of a Gaussian of variance SIGMA^2 at t = 1."""
    return SIGMA**2 * t * t + (1 - t) * (1 - t)


def gaussian_slope(t, s):
    """(k(s) - k(t))/(s - t) for k = sqrt(variance): x times this over k(t) is the Gaussian's average velocity."""
    return ((SIGMA**2 + 1) * (s + t) - 2) / (torch.sqrt(variance(s)) + torch.sqrt(variance(t)))


class PairTrunk(nn.Module):
    """Residual message passing between the six pairs, by way of the four particles.

    A block takes pairs to particles (sums over the pairs of a particle) and back (sums over the particles of a
    pair), with a nonlinearity at each. Sums over pairs alone would not tell three short pairs in a triangle from
    three in a star.
    """

    def __init__(self, width, blocks, clocks=1, frequencies=(3.0, 6.0, 12.0), time_frequencies=(1.0, 2.0, 4.0, 8.0)):
        super().__init__()
        self.pairs = Pairs()
        self.register_buffer("frequencies", torch.tensor(frequencies))
        self.register_buffer("time_frequencies", torch.tensor(time_frequencies))
        features = 2 + 2 * len(frequencies)
        self.embed = nn.Linear(clocks * (1 + 2 * len(time_frequencies)), 32)
        self.first = nn.Linear(features, width)
        linear = lambda size, bias=True: nn.ModuleList(nn.Linear(size, width, bias=bias) for _ in range(blocks))
        self.times, self.node_times = linear(32), linear(32)
        self.ins, self.nodes, self.keeps, self.backs, self.outs = (
            linear(width, False), linear(width, False), linear(width, False), linear(width), linear(width))
        for out in self.outs:
            nn.init.normal_(out.weight, std=(1.0 / width / blocks) ** 0.5)
            nn.init.zeros_(out.bias)
        self.features = features

    def see(self, dx, dy, t):
        """Invariants of the pairs at unit scale, [N, pairs, features]: smooth in the squared distance."""
        q = (dx * dx + dy * dy) / (4 * variance(t))[:, None]
        q = q[:, :, None]
        r = torch.sqrt(q + 0.01)
        waves = r * self.frequencies
        return torch.cat([q, r, torch.sin(waves), torch.cos(waves)], 2)

    def forward(self, seen, clocks):
        """Hidden values of the pairs [N, pairs, width]; `clocks` are arrays [N] of about unit size."""
        times = []
        for time in clocks:
            time = time[:, None]
            waves = time * self.time_frequencies
            times += [time, torch.sin(waves), torch.cos(waves)]
        emb = silu(self.embed(torch.cat(times, 1)))
        e = self.first(seen)
        for i in range(len(self.ins)):
            a = silu(self.ins[i](e) + self.times[i](emb)[:, None, :])
            h = silu(self.nodes[i](self.pairs.gather @ a) + self.node_times[i](emb)[:, None, :])
            m = silu(self.keeps[i](a) + self.pairs.spread_out @ self.backs[i](h))
            e = e + self.outs[i](m)
        return silu(e)


class Velocity(nn.Module):
    """dx/dt [N, 8]: central forces between the particles.

    The velocity of a flow from centred noise to data with these symmetries is a combination of x and of the
    score. Both are gradients of invariant functions, hence combinations of x_i - x_j with symmetric factors.
    """

    def __init__(self, width=56, blocks=3):
        super().__init__()
        self.trunk = PairTrunk(width, blocks)
        self.last = nn.Linear(width + self.trunk.features, 1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, x, t):
        pairs = self.trunk.pairs
        dx, dy = pairs.differences(x)
        seen = self.trunk.see(dx, dy, t)
        hidden = self.trunk(seen, [clock(t)])
        force = self.last(torch.cat([hidden, seen], 2)).squeeze(2)
        # The sum over j of (x_i - x_j) is PARTICLES times the centred x_i.
        force = force + (gaussian_slope(t, t) / torch.sqrt(variance(t)) / PARTICLES)[:, None]
        return (force * dx) @ pairs.difference0.T + (force * dy) @ pairs.difference1.T


class FlowMap(nn.Module):
    """u(x, t, s) [N, 8], the average of dx/dt between t and s: x_s = x + (s - t) u.

    Central forces do not change the angular momentum, which is zero. But a body that deforms without angular
    momentum can turn (a falling cat does), so u has a second part, in which the pull on i differs from that on j.
    It is zero at s = t.
    """

    def __init__(self, width=56, blocks=3):
        super().__init__()
        self.trunk = PairTrunk(width, blocks, clocks=3)
        self.last = nn.Linear(width + self.trunk.features, 1)
        self.particle = nn.Linear(width, width)
        self.skew = nn.Linear(width, width)
        self.skew_last = nn.Linear(width, 1, bias=False)
        for layer in (self.last, self.skew_last):
            nn.init.zeros_(layer.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, x, t, s):
        pairs = self.trunk.pairs
        dx, dy = pairs.differences(x)
        seen = self.trunk.see(dx, dy, t)
        here, there = clock(t), clock(s)
        hidden = self.trunk(seen, [here, there, there - here])
        force = self.last(torch.cat([hidden, seen], 2)).squeeze(2)
        force = force + (gaussian_slope(t, s) / torch.sqrt(variance(t)) / PARTICLES)[:, None]
        # Odd under the exchange of i and j: a difference of particles times something even.
        odd = pairs.signed @ silu(self.particle(pairs.gather @ hidden))
        skew = (s - t)[:, None] * self.skew_last(odd * self.skew(hidden)).squeeze(2)
        return (force * dx) @ pairs.difference0.T + (force * dy) @ pairs.difference1.T + \
            (skew * dx) @ pairs.common0 + (skew * dy) @ pairs.common1
