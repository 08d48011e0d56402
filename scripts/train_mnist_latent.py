"""Makes models/mnist-latent: a variational autoencoder of 8 latents at 7x7 for MNIST, and a flow of its latents.

    python scripts/train_mnist_latent.py vae|flow|export --data FOLDER [--steps N]

`vae` trains encoder and decoder, `flow` the velocity of the scaled latents (data at t = 1) with labels dropped at random,
`export` writes three ONNX files and the card. Trainings can be stopped: the same command goes on at the last
checkpoint. Seeded; two threads; two minutes for the autoencoder and three for the flow.
"""

import argparse
import math
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from common import MODELS, Average, export, sha256, silu, write_card
from mnist import CLASSES, HASHES, LEVELS, Attention, Block, Run, TimeAndLabel, clock, read, wide
from train_mnist import DECAY, drop, processor, stratified

CHANNELS, SIDE = 8, 7
SEEDS = {"vae": 85, "flow": 86}
STEPS = {"vae": 400, "flow": 1_000}
RATES = {"vae": 1e-3, "flow": 2e-3}
RESTRAINT = 0.02                    # the weight of the latents' divergence from a standard normal distribution


class Plain(nn.Module):
    """Residual block without an embedding."""

    def __init__(self, channels):
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(8, channels), nn.GroupNorm(8, channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)

    def forward(self, h):
        return h + self.conv2(silu(self.norm2(self.conv1(silu(self.norm1(h))))))


class Encoder(nn.Module):
    """Images in [-1, 1] to mean and log-variance, [N, 16, 7, 7]."""

    names = ("image",), ("moments",)

    def __init__(self, width=32):
        super().__init__()
        self.layers = nn.Sequential(
            nn.PixelUnshuffle(2), nn.Conv2d(4, width, 3, padding=1), Plain(width),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1), Plain(2 * width), Plain(2 * width))
        self.out = nn.Conv2d(2 * width, 2 * CHANNELS, 1)

    def forward(self, image):
        mean, log_variance = self.out(silu(self.layers(image))).chunk(2, 1)
        # Between -12 and 2, smoothly.
        return torch.cat([mean, 7 * torch.tanh(log_variance / 7) - 5], 1)


class Decoder(nn.Module):
    """Latents to images in [-1, 1]."""

    names = ("latent",), ("image",)

    def __init__(self, width=32):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(CHANNELS, 2 * width, 3, padding=1), Plain(2 * width), Plain(2 * width),
            nn.Conv2d(2 * width, 4 * width, 1), nn.PixelShuffle(2), Plain(width), Plain(width))
        self.out = nn.Conv2d(width, 4, 3, padding=1)

    def logits(self, latent):
        return F.pixel_shuffle(self.out(silu(self.layers(latent))), 2)

    def forward(self, latent):
        return 2 * torch.sigmoid(self.logits(latent)) - 1


class Coder(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = Encoder(), Decoder()


class Velocity(nn.Module):
    """x0 - eps of scaled latents x = t x0 + (1 - t) eps."""

    names = ("x", "t", "label"), ("velocity",)

    def __init__(self, width=64):
        super().__init__()
        self.embed = TimeAndLabel()
        self.first = nn.Conv2d(CHANNELS, width, 3, padding=1)
        self.blocks = nn.ModuleList(Block(width, width, 128) for _ in range(4))
        self.attentions = nn.ModuleList(Attention(width) for _ in range(2))
        self.norm = nn.GroupNorm(8, width)
        self.last = nn.Conv2d(width, CHANNELS, 3, padding=1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, x, t, label):
        emb = self.embed(clock(t, 1 - t), label)
        h = self.first(x)
        for block, attention in zip(self.blocks[::2], self.attentions):
            h = attention(block(h, emb))
        for block in self.blocks[1::2]:
            h = block(h, emb)
        # A Gaussian of variance 1 has the velocity x (2 t - 1)/(t^2 + (1 - t)^2).
        t = wide(t)
        total = t * t + (1 - t) * (1 - t)
        return x * (2 * t - 1) / total + self.last(silu(self.norm(h))) / torch.sqrt(total)


def to_unit(images):
    return torch.from_numpy(np.array(images)).float()[:, None] / 127.5 - 1


def train_vae(args, images, test):
    torch.manual_seed(SEEDS["vae"])
    gen = torch.Generator().manual_seed(SEEDS["vae"] + 100)
    coder = Coder()
    optimizer = torch.optim.AdamW(coder.parameters(), lr=args.rate, weight_decay=0.01, betas=(0.9, 0.99))
    run = Run("mnist-latent-vae", coder, optimizer, Average(coder, DECAY), gen, args.checkpoints)

    def terms(model, image, gen):
        mean, log_variance = model.encoder(image).chunk(2, 1)
        latent = mean + torch.exp(0.5 * log_variance) * torch.randn(mean.shape, generator=gen)
        target = 0.5 * (image + 1)
        distortion = F.binary_cross_entropy_with_logits(model.decoder.logits(latent), target, reduction="none")
        # Over what the best logit for a grey level costs.
        entropy = F.binary_cross_entropy(target, target, reduction="none")
        rate = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)
        return (distortion - entropy).sum((1, 2, 3)).mean(), rate.sum((1, 2, 3)).mean()

    def draw_loss():
        rows = torch.randint(len(images), (args.batch,), generator=gen)
        distortion, restraint = terms(coder, to_unit(images[rows.numpy()]), gen)
        return (distortion + RESTRAINT * restraint) / 100

    def report(average):
        with torch.no_grad():
            image = to_unit(test[:512])
            distortion, restraint = terms(average, image, torch.Generator().manual_seed(4))
            mean = average.encoder(image)[:, :CHANNELS]
            root = (average.decoder(mean) - image).square().mean().sqrt()
        return f"held out: distortion {distortion:.1f}, restraint {restraint:.0f} nats, rms {root:.4f}"

    run.go(args.steps, args.rate, draw_loss, report, args.every)


def the_coder(checkpoints):
    coder = Coder()
    coder.load_state_dict(torch.load(checkpoints / "mnist-latent-vae.pt", weights_only=True)["average"])
    return coder.eval().requires_grad_(False)


def encode(coder, images):
    """Mean and standard deviation of every latent."""
    with torch.no_grad():
        moments = torch.cat([coder.encoder(to_unit(part)) for part in np.array_split(images, max(1, len(images) // 500))])
    mean, log_variance = moments.chunk(2, 1)
    return mean, torch.exp(0.5 * log_variance)


def frame(mean, std):
    """Shift and scale after which drawn latents have mean 0 and variance 1."""
    shift = mean.mean().item()
    return shift, 1 / math.sqrt((mean - shift).square().mean().item() + std.square().mean().item())


def train_flow(args, images, labels, test):
    torch.manual_seed(SEEDS["flow"])
    gen = torch.Generator().manual_seed(SEEDS["flow"] + 100)
    coder = the_coder(args.checkpoints)
    mean, std = encode(coder, images)
    shift, scale = frame(mean, std)
    print(f"latents: shift {shift:.4f}, scale {scale:.4f}", flush=True)
    model = Velocity()
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.rate, weight_decay=0.01, betas=(0.9, 0.99))
    run = Run("mnist-latent-flow", model, optimizer, Average(model, DECAY), gen, args.checkpoints)
    labels = torch.from_numpy(labels.astype(np.int64))

    def loss(model, mean, std, label, t, gen):
        x0 = scale * (mean + std * torch.randn(mean.shape, generator=gen) - shift)
        eps = torch.randn(x0.shape, generator=gen)
        return (model(wide(t) * x0 + wide(1 - t) * eps, t, label) - (x0 - eps)).square().mean()

    def draw_loss():
        rows = torch.randint(len(mean), (args.batch,), generator=gen)
        t = stratified(args.batch, gen)
        return loss(model, mean[rows], std[rows], drop(labels[rows], gen), t, gen)

    held = encode(coder, test[:1024])

    def report(average):
        same = torch.Generator().manual_seed(5)
        with torch.no_grad():
            value = loss(average, *held, torch.full((len(held[0]),), CLASSES), stratified(len(held[0]), same), same)
        return f"held out {value:.4f}"

    run.go(args.steps, args.rate, draw_loss, report, args.every)


def export_all(args, images):
    coder = the_coder(args.checkpoints)
    shift, scale = frame(*encode(coder, images))
    kept = {part: torch.load(args.checkpoints / f"mnist-latent-{part}.pt", weights_only=True) for part in SEEDS}
    velocity = Velocity()
    velocity.load_state_dict(kept["flow"]["average"])
    velocity.eval().requires_grad_(False)
    gen = torch.Generator().manual_seed(31)
    folder = args.out or MODELS / "mnist-latent"
    x, t = torch.randn((7, CHANNELS, SIDE, SIDE), generator=gen), torch.tensor([0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0])
    export(velocity, folder / "velocity.onnx", (x, t, torch.tensor([0, 3, 10, 9, 10, 1, 5])), *Velocity.names)
    export(coder.encoder, folder / "encoder.onnx", (to_unit(images[:7]),), *Encoder.names)
    export(coder.decoder, folder / "decoder.onnx", (x,), *Decoder.names)
    named = lambda name: {"file": name, "sha256": sha256(folder / name)}
    about = {
        "trained_on": "MNIST, 60,000 training images (LeCun, Cortes, Burges; CC BY-SA 3.0)",
        "data_sha256": HASHES["train-images-idx3-ubyte.gz"], "labels_sha256": HASHES["train-labels-idx1-ubyte.gz"],
        "ema": DECAY, "hardware": processor(),
    }
    for part, one in kept.items():
        about |= {f"{part}_steps": one["step"], f"{part}_seeds": [SEEDS[part], SEEDS[part] + 100],
                  f"{part}_wall_minutes": round(one["seconds"] / 60, 1), f"{part}_cpu_minutes": round(one["cpu"] / 60, 1),
                  f"{part}_command": f"python scripts/train_mnist_latent.py {part} --data FOLDER --steps {one['step']} --batch {args.batch}"}
    write_card(folder / "card.yaml", {
        "name": "mnist-latent", "shape": [CHANNELS, SIDE, SIDE],
        "network": named("velocity.onnx") | {
            "inputs": {"x": "x", "time": "t"}, "conditions": {"label": {"input": "label", "null": CLASSES}},
            "output": "velocity", "prediction": "velocity", "time": {"feed": "t"}},
        "path": {"kind": "flow-matching", "data_at": 1},
        "latent": {"encoder": named("encoder.onnx") | {"input": "image", "output": "moments", "kind": "moments"},
                   "decoder": named("decoder.onnx") | {"input": "latent", "output": "image"},
                   "scale": round(scale, 6), "shift": round(shift, 6), "shape": [1, 28, 28]},
        "data": {"range": [-1, 1], "levels": LEVELS},
        "provenance": about | {"licence": "MIT OR Apache-2.0", "script": "scripts/train_mnist_latent.py"},
    })


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=[*SEEDS, "export"])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rate", type=float, help="the highest learning rate; default 0.001 for vae, 0.002 for flow")
    parser.add_argument("--every", type=int, default=250, help="steps between checkpoints")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--checkpoints", type=Path, default=MODELS.parent / "target" / "checkpoints")
    parser.add_argument("--out", type=Path, help="folder of the model; default models/mnist-latent")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    images, labels = read(args.data, "train-images-idx3-ubyte.gz"), read(args.data, "train-labels-idx1-ubyte.gz")
    if args.part == "export":
        export_all(args, images)
        return
    args.steps = args.steps or STEPS[args.part]
    args.rate = args.rate or RATES[args.part]
    test = read(args.data, "t10k-images-idx3-ubyte.gz")
    if args.part == "vae":
        train_vae(args, images, test)
    else:
        train_flow(args, images, labels, test)


if __name__ == "__main__":
    main()
