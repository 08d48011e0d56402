"""Shared by the trainings of small flows on vectors: the velocity, its loss, and rows of a table as states.

The data are at t = 1: x_t = t x_1 + (1 - t) eps, and the velocity is dx/dt. If the data were N(0, C), the velocity would
be linear, and the rest of x_1 - eps would have a known variance in each eigendirection of C. The network learns that rest
in these units. So a network of zeros is the flow of the Gaussian, and all directions and times have the same weight.
"""

import math

import numpy as np
import torch
from torch import nn

from common import Trunk

# Noise levels (1 - t)/t of the half of the times that are log-uniform in them.
LOW, HIGH = math.log(1e-3), math.log(10.0)


def clock(t):
    """What the network is shown of time: a log-SNR that is finite on [0, 1]."""
    return 0.25 * torch.log((t + 0.002) / (1.002 - t))


def draw_time(count, gen):
    """Half uniform, half log-uniform in the noise level: near the data the field has most to say."""
    u = torch.rand(count, generator=gen)
    level = torch.exp(LOW + (HIGH - LOW) * torch.rand(count, generator=gen))
    return torch.where(torch.rand(count, generator=gen) < 0.5, u, 1 / (1 + level))


class Velocity(nn.Module):
    """v(x, t) or v(x, t, observation), for data without mean and with the given covariance."""

    def __init__(self, covariance, width, blocks, octaves=(), observation=None):
        """`observation`: the means and standard deviations of what is observed, or None."""
        super().__init__()
        values, vectors = np.linalg.eigh(np.atleast_2d(covariance))
        self.octaves = octaves
        self.register_buffer("values", torch.from_numpy(values).float())
        self.register_buffer("vectors", torch.from_numpy(vectors.copy()).float())
        features = dim = len(values)
        if observation is not None:
            mean, std = (torch.as_tensor(a).float() for a in observation)
            self.register_buffer("observed_mean", mean)
            self.register_buffer("observed_std", std)
            features += len(mean)
        self.trunk = Trunk(features * (1 + 2 * len(octaves)), dim, width, blocks)

    def parts(self, x, t, observation=None):
        """In eigendirections: the Gaussian's velocity, the unit of the rest, and the rest in that unit."""
        t = t[:, None]
        total = t * t * self.values + (1 - t) * (1 - t)
        y = x @ self.vectors
        seen = y / torch.sqrt(total)
        if observation is not None:
            seen = torch.cat([seen, (observation - self.observed_mean) / self.observed_std], 1)
        waves = [wave(k * seen) for k in self.octaves for wave in (torch.sin, torch.cos)]
        rest = self.trunk(torch.cat([seen, *waves], 1), clock(t.squeeze(1)))
        return (t * self.values - (1 - t)) / total * y, torch.sqrt(self.values / total), rest

    def forward(self, x, t, observation=None):
        linear, unit, rest = self.parts(x, t, observation)
        return (linear + unit * rest) @ self.vectors.T


def matching_loss(model, x1, t, eps, observation=None):
    """The squared error of the conditional velocity x_1 - eps in the units of its rest, sample by sample."""
    x = t[:, None] * x1 + (1 - t[:, None]) * eps
    linear, unit, rest = model.parts(x, t, observation)
    return (rest - ((x1 - eps) @ model.vectors - linear) / unit).square().mean(1)


def distinct_rows(rows):
    """The rows without repetitions, in the order in which they first appear."""
    return rows[np.sort(np.unique(rows, axis=0, return_index=True)[1])]


def rows_at_atoms(rows, share=0.005):
    """Which rows have a value that more than `share` of all rows have in that column: there a density is unbounded."""
    found = np.zeros(len(rows), bool)
    for column in rows.T:
        values, where, counts = np.unique(column, return_inverse=True, return_counts=True)
        found |= (counts > share * len(rows))[where]
    return found


class Standard:
    """z-scores by the mean and the standard deviation of training rows."""

    def __init__(self, rows):
        self.mean, self.std = rows.mean(0), rows.std(0)

    def __call__(self, rows):
        return (rows - self.mean) / self.std

    def log_volume(self):
        """ln p(rows) = ln p(z-scores) - log_volume: the sum of ln std, in nats."""
        return float(np.log(self.std).sum())
