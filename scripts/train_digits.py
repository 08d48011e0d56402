"""Make models/digits: an EDM denoiser, a Stein divergence head and a classifier for 8x8 digits.

    python scripts/train_digits.py [denoiser] [head] [classifier] [card]

Without arguments all four are made in that order.  Seeded; one thread; about half an hour.
"""

import math
import sys
import time

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

from common import (MODELS, Average, Trunk, export, learning_rate, sha256, silu, stein_loss,
                    write_card)

HERE = MODELS / "digits"
SPLIT_SEED = 20261122
LEVELS, WIDTH = 17, 2 / 17          # grey levels, and the width of one level in [-1, 1]
SIGMA_MIN, SIGMA_MAX = 0.02, 20.0
DENOISER_STEPS, DENOISER_BATCH = 14_000, 384
HEAD_STEPS, HEAD_BATCH = 12_000, 512


def split():
    """1,500 training and 297 held-out images: a seeded permutation of scikit-learn's order."""
    digits = load_digits()
    order = np.random.default_rng(SPLIT_SEED).permutation(len(digits.data))
    images, labels = digits.data.astype(np.uint8)[order], digits.target.astype(np.uint8)[order]
    return images[:1500], labels[:1500], images[1500:], labels[1500:]


def dequantize(raw, generator):
    u = torch.rand(raw.shape, generator=generator)
    return -1 + WIDTH * (raw + u)


def edges(x, sigma):
    """Smooth steps at both ends of the lowest grey level, as wide as the noise.

    More than half of all pixels are background, and dequantized background is a box of width
    2/17: what is left to know about it at small sigma is on which side of the box's walls x lies.
    1.702 makes the logistic function a normal distribution function, nearly.
    """
    sharp = 1.702 / torch.sqrt(sigma * sigma + 1e-4)
    return torch.sigmoid((x + 1) * sharp), torch.sigmoid((x + 1 - WIDTH) * sharp)


class Denoiser(nn.Module):
    """EDM preconditioning, pixel by pixel: mean and variance of each pixel are known."""

    def __init__(self, mean, std, width=224, blocks=4, dropout=0.15):
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("variance", std * std)
        self.register_buffer("std", std)
        self.trunk = Trunk(3 * 64, 64, width, blocks, dropout)

    def forward(self, x, sigma):
        s = sigma[:, None]
        total = self.variance + s * s
        norm = torch.sqrt(total)
        centred = x - self.mean
        low, high = edges(x, s)
        raw = self.trunk(torch.cat([centred / norm, low, high], 1), torch.log(sigma) * 0.25)
        return self.mean + centred * (self.variance / total) + raw * (s * self.std / norm)


class Divergence(nn.Module):
    """div F for F = D - x, as the Wiener filter's constant plus a learned part.

    `forward` gives +div of dx/dsigma = (x - D)/sigma, which is -div F / sigma.
    """

    def __init__(self, mean, std, eigenvalues, width=208, blocks=3):
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("variance", std * std)
        self.register_buffer("eigenvalues", eigenvalues)
        self.trunk = Trunk(5 * 64, 1, width, blocks)

    def parts(self, sigma):
        """Trace of the Wiener filter, and the scale on which traces vary around it."""
        s2 = (sigma * sigma)[:, None]
        shrink = self.eigenvalues / (self.eigenvalues + s2)
        return shrink.sum(1), (shrink * (1 - shrink)).sum(1)

    def residual(self, x, sigma):
        s = sigma[:, None]
        low, high = edges(x, s)
        features = [(x - self.mean) / torch.sqrt(self.variance + s * s), low, high,
                    low * (1 - low), high * (1 - high)]
        return self.trunk(torch.cat(features, 1), torch.log(sigma) * 0.25)[:, 0]

    def forward(self, x, sigma):
        wiener, scale = self.parts(sigma)
        return (64.0 - wiener - scale * self.residual(x, sigma)) / sigma


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two, self.three = nn.Linear(64, 96), nn.Linear(96, 32), nn.Linear(32, 10)

    def forward(self, image):
        features = silu(self.two(silu(self.one(image))))
        return features, self.three(features)


def moments(raw):
    """Mean and covariance of the dequantized training images, in closed form."""
    centre = -1 + WIDTH * (raw.double() + 0.5)
    mean = centre.mean(0)
    cov = torch.cov(centre.T, correction=0) + torch.eye(64, dtype=torch.float64) * WIDTH**2 / 12
    return mean, cov


def draw_sigma(count, generator, low=SIGMA_MIN * 0.9, high=SIGMA_MAX * 1.1):
    u = torch.rand(count, generator=generator)
    return torch.exp(math.log(low) + u * math.log(high / low))


def train_denoiser(train):
    """Log-uniform sigma, EDM weights; the checkpoint with the best validation likelihood is kept.

    The validation figure is the one of the I-MMSE bound, the mean of |D - x0|^2 / sigma^2 over
    log-uniform sigma, so that choosing by it is choosing by likelihood.
    """
    torch.manual_seed(1)
    gen = torch.Generator().manual_seed(2)
    raw = torch.from_numpy(train).float()
    fit, check = raw[:1380], raw[1380:]
    mean, cov = moments(raw)
    model = Denoiser(mean.float(), cov.diagonal().sqrt().float())
    average = Average(model, 0.9995)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05, betas=(0.9, 0.99))
    vgen = torch.Generator().manual_seed(3)
    vx0 = dequantize(check.repeat(40, 1), vgen)
    vsigma = draw_sigma(len(vx0), vgen, SIGMA_MIN, SIGMA_MAX)
    vx = vx0 + vsigma[:, None] * torch.randn(vx0.shape, generator=vgen)
    best, began = math.inf, time.time()
    for step in range(DENOISER_STEPS + 1):
        if step % 500 == 0:
            with torch.no_grad():
                error = ((average.model(vx, vsigma) - vx0) / vsigma[:, None]).square().sum(1)
            figure = error.mean().item()
            thirds = [error[(vsigma > a) & (vsigma <= b)].mean().item()
                      for a, b in ((0, 0.1), (0.1, 0.5), (0.5, 30))]
            mark = ""
            if figure < best and step:
                best, mark = figure, " kept"
                torch.save({"state": average.model.state_dict(), "step": step}, CHECKPOINT("denoiser"))
            print(f"denoiser {step} validation {figure:.4f} {thirds} {time.time() - began:.0f} s{mark}",
                  flush=True)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, DENOISER_STEPS, 1.5e-3)
        rows = torch.randint(len(fit), (DENOISER_BATCH,), generator=gen)
        x0 = dequantize(fit[rows], gen)
        sigma = draw_sigma(DENOISER_BATCH, gen)
        s = sigma[:, None]
        x = x0 + s * torch.randn(x0.shape, generator=gen)
        weight = (s * s + model.variance) / (s * s * model.variance)
        loss = (weight * (model(x, sigma) - x0).square()).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        average.update(model)


def CHECKPOINT(name):
    folder = MODELS.parent / "target" / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"digits-{name}.pt"


if __name__ == "__main__":
    torch.set_num_threads(1)
    parts = sys.argv[1:]
    train, train_labels, heldout, heldout_labels = split()
    HERE.mkdir(parents=True, exist_ok=True)
    if not parts or "denoiser" in parts:
        train_denoiser(train)
