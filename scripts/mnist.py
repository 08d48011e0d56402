"""Shared by the scripts that make the zoo on MNIST: the images, the network of all three paths, its exported forms.

A pixel of MNIST is either background or ink. Four in five are background: one of 256 grey levels, so that
dequantized background is uniform on a box of width 2/256. The posterior mean of a noised pixel x = alpha x0 + sigma eps
is a mixture of the two cases,

    E[x0 | x] = g D_background + (1 - g) D_ink,        g = P(background | x).

For independent pixels with Gaussian cases, all three terms are known in closed form. The U-Net adds what the other
pixels tell: to the logit of g, and to both means in the units of EDM's preconditioning. So a network of zeros is
the denoiser of independent pixels, and its divergence is known too. Noise, velocity and denoised image are three
readings of one network, for every path with x = alpha x0 + sigma eps.
"""

import math
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from common import MODELS, silu, unpacked

LEVELS, WIDTH = 256, 2 / 256        # grey levels, and the width of one level in [-1, 1]
CLASSES = 10                        # labels 0 to 9; label 10 means «no label»
SIGMA_MIN, SIGMA_MAX = 0.002, 80.0  # noise levels sigma/alpha on which every network of the zoo is trained
HASHES = {
    "train-images-idx3-ubyte.gz": "06fbe7c3931daa1b3e01c7109d997f04e30ece655a543c916424761004264a82",
    "train-labels-idx1-ubyte.gz": "abb65e81d7146f5120702b2aa5460d6f0f8e43055fb7b5baee6e3d41fd285ae9",
    "t10k-images-idx3-ubyte.gz": "422aca1f22120e5c11c5a014e020c05d24f247d5c401979476924810fd9fb271",
    "t10k-labels-idx1-ubyte.gz": "b7ef4abd01750c8f3ea55fc27a16ffac217d362687021ac4c5032886135f4640",
}


def read(folder, name):
    """An IDX file of bytes as an array, after a check of its SHA-256."""
    raw = unpacked(Path(folder) / name, HASHES[name])
    dims = raw[3]
    shape = [int.from_bytes(raw[4 + 4 * i : 8 + 4 * i], "big") for i in range(dims)]
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * dims).reshape(shape)


def dequantize(images, gen):
    """Bytes [N, 28, 28] as floats [N, 1, 28, 28]: -1 + 2 (X + u)/256 with uniform u."""
    raw = torch.from_numpy(np.array(images)).float()[:, None]
    return -1 + WIDTH * (raw + torch.rand(raw.shape, generator=gen))


class Block(nn.Module):
    """Residual block with group normalization; the embedding gives scale and shift."""

    def __init__(self, inside, outside, embedding):
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(8, inside), nn.GroupNorm(8, outside)
        self.conv1 = nn.Conv2d(inside, outside, 3, padding=1)
        self.conv2 = nn.Conv2d(outside, outside, 3, padding=1)
        self.film = nn.Linear(embedding, 2 * outside)
        self.skip = nn.Conv2d(inside, outside, 1) if inside != outside else nn.Identity()
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.film.weight)

    def forward(self, h, emb):
        scale, shift = self.film(emb)[:, :, None, None].chunk(2, 1)
        y = self.norm2(self.conv1(silu(self.norm1(h))))
        return self.skip(h) + self.conv2(silu(y * (1 + scale) + shift))


class Attention(nn.Module):
    """Self-attention of four heads over the positions."""

    def __init__(self, channels, heads=4):
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(8, channels)
        self.qkv, self.out = nn.Conv2d(channels, 3 * channels, 1), nn.Conv2d(channels, channels, 1)
        nn.init.zeros_(self.out.weight)

    def forward(self, h):
        n, c, height, width = h.shape
        q, k, v = self.qkv(self.norm(h)).reshape(n, 3, self.heads, c // self.heads, height * width).unbind(1)
        weights = torch.softmax(q.transpose(2, 3) @ k * (c // self.heads) ** -0.5, 3)
        return h + self.out((v @ weights.transpose(2, 3)).reshape(n, c, height, width))


class UNet(nn.Module):
    """Images [N, features, 28, 28] to [N, out, 28, 28]: patches of 2x2 pixels at 14x14, then 7x7 with attention."""

    def __init__(self, features, out, width=48, embedding=128, fine=16):
        super().__init__()
        deep = 2 * width
        self.first = nn.Conv2d(4 * features, width, 3, padding=1)
        self.down1 = Block(width, width, embedding)
        self.down = nn.Conv2d(width, deep, 3, stride=2, padding=1)
        self.down2 = Block(deep, deep, embedding)
        self.attention = Attention(deep)
        self.middle = Block(deep, deep, embedding)
        self.up2 = Block(2 * deep, deep, embedding)
        self.up = nn.Conv2d(deep, 4 * width, 1)
        self.up1 = Block(2 * width, width, embedding)
        self.norm = nn.GroupNorm(8, width)
        self.fine = nn.Conv2d(width, 4 * fine, 1)
        self.join = nn.Conv2d(fine + features, 24, 3, padding=1)
        self.last = nn.Conv2d(24, out, 3, padding=1)
        # Starting from zero means starting from the denoiser of independent pixels.
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def inner(self, features, emb):
        """The coarsest features [N, 2 width, 7, 7] and the finest [N, 24, 28, 28]."""
        h14 = self.down1(self.first(F.pixel_unshuffle(features, 2)), emb)
        h7 = self.down2(self.down(h14), emb)
        deep = self.up2(torch.cat([self.middle(self.attention(h7), emb), h7], 1), emb)
        h = self.up1(torch.cat([F.pixel_shuffle(self.up(deep), 2), h14], 1), emb)
        h = F.pixel_shuffle(self.fine(silu(self.norm(h))), 2)
        return deep, silu(self.join(torch.cat([h, features], 1)))

    def forward(self, features, emb):
        return self.last(self.inner(features, emb)[1])


class TimeAndLabel(nn.Module):
    """The embedding of ln(sigma/alpha) and of the label."""

    def __init__(self, embedding=128, frequencies=(1.0, 2.0, 4.0, 8.0, 16.0)):
        super().__init__()
        self.register_buffer("frequencies", torch.tensor(frequencies))
        self.time = nn.Linear(1 + 2 * len(frequencies), embedding)
        self.label = nn.Embedding(CLASSES + 1, embedding)
        self.mix = nn.Linear(embedding, embedding)
        nn.init.normal_(self.label.weight, std=0.5)

    def waves(self, clock):
        """Of a clock [N, 1] of about unit size."""
        waves = clock * self.frequencies
        return torch.cat([clock, torch.sin(waves), torch.cos(waves)], 1)

    def forward(self, clock, label):
        return silu(self.mix(silu(self.time(self.waves(clock)) + self.label(label))))


def wide(values):
    """[N] as [N, 1, 1, 1]."""
    return values[:, None, None, None]


def clock(alpha, sigma):
    """ln(sigma/alpha)/4, [N, 1], kept finite at both ends."""
    return 0.25 * (torch.log(sigma + 5e-4 * alpha) - torch.log(alpha + 5e-4 * sigma))[:, None]


class Pixels(nn.Module):
    """The closed forms of independent pixels: two Gaussian cases and how often each pixel is background."""

    def __init__(self, background=None, ink_mean=0.0, ink_std=1.0):
        super().__init__()
        background = torch.zeros(1, 1, 28, 28) if background is None else background
        self.register_buffer("background", background)     # logit of P(background), [1, 1, 28, 28]
        self.register_buffer("means", torch.tensor([-1 + WIDTH / 2, float(ink_mean)]))
        self.register_buffer("variances", torch.tensor([WIDTH**2 / 12, float(ink_std) ** 2]))

    @staticmethod
    def of(images):
        """From bytes [N, 28, 28]."""
        zero = (images == 0).mean(0)
        logit = np.log(zero + 1e-4) - np.log(1 - zero + 1e-4)
        ink = -1 + WIDTH * (images[images > 0] + 0.5)
        return Pixels(torch.from_numpy(logit).float()[None, None], ink.mean(), ink.std())

    def cases(self, x, a, s):
        """Of both cases: the distance from the mean and the total variance."""
        for mean, variance in zip(self.means, self.variances):
            yield x - a * mean, a * a * variance + s * s

    def logit(self, x, a, s):
        (b, vb), (i, vi) = self.cases(x, a, s)
        return self.background + 0.5 * (torch.log(vi / vb) + i * i / vi - b * b / vb)

    def features(self, x, a, s):
        """Six bounded maps of the noised image: of its size, of its distance from background, of the box's edges."""
        (b, vb), (i, vi) = self.cases(x, a, s)
        b = b / torch.sqrt(vb)
        reach = torch.sqrt(s * s + 1e-5 * a * a) / 1.702
        low, high = torch.sigmoid((x + a) / reach), torch.sigmoid((x + a * (1 - WIDTH)) / reach)
        near = 1 / (1 + 0.25 * b * b)
        return torch.cat([i / torch.sqrt(vi), b * torch.sqrt(near), near, low, high,
                          (0.2 * self.background).expand(x.shape)], 1)

    def read(self, x, a, s, out):
        """Denoised image and noise from the network's three channels, without cancellation at either end."""
        g = torch.sigmoid(self.logit(x, a, s) + out[:, :1])
        denoised, noise = 0.0, 0.0
        for k, (weight, (gap, total)) in enumerate(zip((g, 1 - g), self.cases(x, a, s))):
            unit = torch.sqrt(self.variances[k] / total) * out[:, 1 + k : 2 + k]
            denoised = denoised + weight * (self.means[k] + a * self.variances[k] * gap / total + s * unit)
            noise = noise + weight * (s * gap / total - a * unit)
        return denoised, noise

    def divergence(self, x, a, s):
        """Trace of the Jacobian of the denoiser of independent pixels, [N]: every pixel depends on itself alone."""
        (b, vb), (i, vi) = self.cases(x, a, s)
        g = torch.sigmoid(self.logit(x, a, s))
        (mb, mi), (wb, wi) = self.means, self.variances
        jump = (mb + a * wb * b / vb) - (mi + a * wi * i / vi)
        slope = g * a * wb / vb + (1 - g) * a * wi / vi + jump * g * (1 - g) * (i / vi - b / vb)
        return slope.sum((1, 2, 3))


class Denoiser(nn.Module):
    """One network for every path; `both(x, alpha, sigma, label)` gives denoised image and noise."""

    def __init__(self, pixels, width=48, extra=0):
        super().__init__()
        self.pixels, self.embed, self.unet = pixels, TimeAndLabel(), UNet(6, 3 + extra, width)

    def raw(self, x, alpha, sigma, label):
        """The network's channels: logit of background, corrections of both means, and extra channels."""
        a, s = wide(alpha), wide(sigma)
        return self.unet(self.pixels.features(x, a, s), self.embed(clock(alpha, sigma), label))

    def both(self, x, alpha, sigma, label):
        return self.pixels.read(x, wide(alpha), wide(sigma), self.raw(x, alpha, sigma, label))


# The three paths, as the exported graphs take them: x, a time, a label.


class Edm(nn.Module):
    """x = x0 + sigma eps; the denoised image."""

    names = ("x", "sigma", "label"), ("denoised",)

    def __init__(self, core):
        super().__init__()
        self.core = core

    @staticmethod
    def levels(sigma):
        return torch.ones_like(sigma), sigma

    def forward(self, x, sigma, label):
        return self.core.both(x, *self.levels(sigma), label)[0]


class FlowMatching(nn.Module):
    """x = t x0 + (1 - t) eps; the velocity x0 - eps."""

    names = ("x", "t", "label"), ("velocity",)

    def __init__(self, core):
        super().__init__()
        self.core = core

    @staticmethod
    def levels(t):
        return t, 1 - t

    def forward(self, x, t, label):
        denoised, noise = self.core.both(x, *self.levels(t), label)
        return denoised - noise


class Ddpm(nn.Module):
    """1,000 linear betas from 1e-4 to 0.02; noise and the share of ln beta in the variance, by index 0 to 999."""

    names = ("x", "index", "label"), ("output",)
    low, high, steps = 1e-4, 0.02, 1000

    def __init__(self, core):
        super().__init__()
        self.core = core

    @classmethod
    def levels(cls, index):
        """ln of alpha squared is the sum of ln(1 - beta): three power sums, so that it is smooth between indices."""
        slope = (cls.high - cls.low) / (cls.steps - 1)
        n, one = index + 1, 0.5 * index * (index + 1)
        two, three = one * (2 * index + 1) / 3, one * one
        first = cls.low * n + slope * one
        second = cls.low**2 * n + 2 * cls.low * slope * one + slope**2 * two
        third = cls.low**3 * n + 3 * cls.low**2 * slope * one + 3 * cls.low * slope**2 * two + slope**3 * three
        total = first + second / 2 + third / 3
        # 1 - exp(-total) without cancellation.
        tanh = torch.tanh(total / 2)
        return torch.exp(-total / 2), torch.sqrt(2 * tanh / (1 + tanh))

    def forward(self, x, index, label):
        alpha, sigma = self.levels(index)
        raw = self.core.raw(x, alpha, sigma, label)
        noise = self.core.pixels.read(x, wide(alpha), wide(sigma), raw[:, :3])[1]
        return torch.cat([noise, raw[:, 3:4]], 1)


FAMILIES = {"edm": Edm, "fm": FlowMatching, "vp": Ddpm}


# Training.


def rate(step, steps, peak, warmup=200):
    """Linear warm-up, constant, and linearly down to 1 % of the peak in the last quarter."""
    return peak * min(1, (step + 1) / warmup, 0.01 + 0.99 * 4 * max(0, steps - step) / steps)


class Run:
    """A training that can be stopped at any time: weights, their average, optimizer and generator in one file."""

    def __init__(self, name, model, optimizer, average, gen, folder):
        folder = Path(folder or MODELS.parent / "target" / "checkpoints")
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"{name}.pt"
        self.name, self.model, self.optimizer, self.average, self.gen = name, model, optimizer, average, gen
        self.step, self.seconds, self.cpu = 0, 0.0, 0.0

    def resume(self):
        if not self.path.exists():
            return
        kept = torch.load(self.path, weights_only=True)
        self.model.load_state_dict(kept["weights"])
        self.average.model.load_state_dict(kept["average"])
        self.average.steps = self.step = kept["step"]
        self.optimizer.load_state_dict(kept["optimizer"])
        self.gen.set_state(kept["generator"])
        self.seconds, self.cpu = kept["seconds"], kept["cpu"]
        print(f"{self.name}: goes on at step {self.step}", flush=True)

    def save(self):
        part = self.path.with_suffix(".tmp")
        torch.save({"weights": self.model.state_dict(), "average": self.average.model.state_dict(), "step": self.step,
                    "optimizer": self.optimizer.state_dict(), "generator": self.gen.get_state(),
                    "seconds": self.seconds, "cpu": self.cpu}, part)
        part.replace(self.path)

    def go(self, steps, peak, draw_loss, report, every=250):
        """Train up to `steps`; a checkpoint, the running loss and the time left `every` so many of them."""
        self.resume()
        running, count = 0.0, 0
        began, cpu, before, cpu_before = time.time(), time.process_time(), self.seconds, self.cpu
        start = self.step
        while self.step < steps:
            for group in self.optimizer.param_groups:
                group["lr"] = rate(self.step, steps, peak)
            loss = draw_loss()
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.average.update(self.model)
            self.step, count = self.step + 1, count + 1
            running += (loss.item() - running) / min(count, every)
            if self.step % every == 0 or self.step == steps:
                self.seconds = before + time.time() - began
                self.cpu = cpu_before + time.process_time() - cpu
                self.save()
                left = (time.time() - began) / (self.step - start) * (steps - self.step)
                print(f"{self.name} {self.step}/{steps} loss {running:.4f} {report(self.average.model)}; "
                      f"{self.seconds:.0f} s, {self.cpu:.0f} CPU s, {left / 60:.1f} min left", flush=True)
