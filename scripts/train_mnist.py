"""Makes models/mnist-edm, models/mnist-fm and models/mnist-vp: one U-Net on MNIST, three paths.

    python scripts/train_mnist.py --family edm|fm|vp --data FOLDER [--steps N] [--start CHECKPOINT] [--export]

FOLDER has the four files *-ubyte.gz of MNIST, which are checked by their SHA-256. Labels are dropped at random, so one
network is conditional (label 0 to 9) and unconditional (label 10), and can be guided. A training can be stopped at
any time: the same command goes on at the last checkpoint. `--start` begins with another family's averaged weights.
When the steps are done, the network is exported, compared with torch, and its card written; `--export` does only this.
Seeded; two threads; about an hour for `edm`, minutes for the others from its weights.
"""

import argparse
import hashlib
import math
import platform
import shlex
import sys
from pathlib import Path

import numpy as np
import torch

from common import MODELS, Average, export, sha256, write_card
from mnist import (CLASSES, FAMILIES, HASHES, LEVELS, SIGMA_MAX, SIGMA_MIN, Denoiser, Ddpm, Pixels, Run, dequantize,
                   read, wide)

SEEDS = {"edm": 81, "fm": 82, "vp": 83}
STEPS = {"edm": 10_000, "fm": 1_000, "vp": 1_500}
DROP = 0.15                         # the share of labels that are dropped
DATA_STD = 0.6                      # of all pixels; EDM's sigma_data
DECAY = 0.9985
LOW, HIGH = math.log(SIGMA_MIN), math.log(SIGMA_MAX)


def stratified(count, gen):
    """Uniform on [0, 1), one in each of `count` equal parts, in random order."""
    u = (torch.arange(count) + torch.rand(count, generator=gen)) / count
    return u[torch.randperm(count, generator=gen)]


def draw_time(family, count, gen):
    """Half as the family has it, half uniform in ln(sigma/alpha), over which likelihoods are integrated; uniform indices."""
    if family == "vp":
        return torch.floor(Ddpm.steps * torch.cat([stratified(count // 2, gen), stratified(count - count // 2, gen)]))
    half = count // 2
    log_uniform = torch.exp(LOW + (HIGH - LOW) * stratified(count - half, gen))
    u = stratified(half, gen)
    if family == "edm":
        normal = math.sqrt(2) * torch.erfinv(2 * u.clamp(1e-4, 1 - 1e-4) - 1)
        return torch.cat([torch.exp(1.2 * normal - 1.2).clamp(SIGMA_MIN, SIGMA_MAX), log_uniform])
    return torch.cat([u, 1 / (1 + log_uniform)]).clamp(1 / (1 + SIGMA_MAX), 1 / (1 + SIGMA_MIN))


def drop(labels, gen):
    return torch.where(torch.rand(len(labels), generator=gen) < DROP, CLASSES, labels)


def discrete_bound(mean_noise, share, x0, x, index):
    """Terms of the variational bound in bits per dimension [N]; gradients reach the variance alone."""
    betas = torch.linspace(Ddpm.low, Ddpm.high, Ddpm.steps, dtype=torch.float64)
    bars = torch.cumprod(1 - betas, 0)
    before = torch.cat([torch.ones(1, dtype=torch.float64), bars[:-1]])
    small = betas * (1 - before) / (1 - bars)
    small_log = torch.log(torch.cat([small[1:2], small[1:]]))
    i = index.long()
    at = lambda table: wide(table[i].float())
    v = (share + 1) / 2
    log_variance = v * at(torch.log(betas)) + (1 - v) * at(small_log)
    predicted = (x - at(torch.sqrt(1 - bars)) * mean_noise.detach()) / at(torch.sqrt(bars))
    on_clean, on_noised = at(betas * torch.sqrt(before) / (1 - bars)), at((1 - before) * torch.sqrt(1 - betas) / (1 - bars))
    gap = on_clean * (predicted - x0)
    kl = 0.5 * (log_variance - at(small_log) + (at(torch.exp(small_log)) + gap * gap) * torch.exp(-log_variance) - 1)
    # At index 0 the term is the likelihood of the grey level itself.
    std = torch.exp(0.5 * log_variance)
    gap, half = x0 - (on_clean * predicted + on_noised * x), 1 / 255
    above, below = (torch.special.ndtr((gap + d) / std) for d in (half, -half))
    above, below = torch.where(x0 > 0.999, 1.0, above), torch.where(x0 < -0.999, 0.0, below)
    decoder = -torch.log((above - below).clamp(min=1e-12))
    return torch.where(wide(index) < 0.5, decoder, kl).mean((1, 2, 3)) / math.log(2)


def loss(family, core, x0, label, time, eps):
    alpha, sigma = FAMILIES[family].levels(time)
    a, s = wide(alpha), wide(sigma)
    x = a * x0 + s * eps
    with torch.autocast("cpu", torch.bfloat16):
        raw = core.raw(x, alpha, sigma, label)
    raw = raw.float()
    denoised, noise = core.pixels.read(x, a, s, raw[:, :3])
    if family == "edm":
        weight = (s * s + DATA_STD**2) / (s * DATA_STD) ** 2
        return (weight * (denoised - x0).square()).mean()
    if family == "fm":
        return (denoised - noise - (x0 - eps)).square().mean()
    # The hybrid loss of improved-diffusion, with the whole bound at a thousandth; it is one of grey levels.
    half = len(x0) // 2
    bound = Ddpm.steps * discrete_bound(noise[:half], raw[:half, 3:4], x0[:half], x[:half], time[:half])
    return (noise - eps).square().mean() + 1e-3 * bound.mean()


def held_out(family, images):
    """Noise errors at fixed levels as an upper bound in bits/dim (integrated over ln sigma), without labels."""
    gen = torch.Generator().manual_seed(7)
    count = len(images)
    u = (torch.arange(count) + 0.5) / count
    low, high = (LOW, HIGH) if family != "vp" else (math.log(0.0101), math.log(150.0))
    s = torch.exp(low + (high - low) * u)
    alpha, sigma = {"edm": (torch.ones_like(s), s), "fm": (1 / (1 + s), s / (1 + s)),
                    "vp": (torch.rsqrt(1 + s * s), s * torch.rsqrt(1 + s * s))}[family]
    x0 = dequantize(images, gen)
    x = wide(alpha) * x0 + wide(sigma) * torch.randn(x0.shape, generator=gen)
    label = torch.full((count,), CLASSES)

    def report(core):
        with torch.no_grad():
            denoised = torch.cat([core.both(*part)[0] for part in zip(*(v.split(128) for v in (x, alpha, sigma, label)))])
        error = ((denoised - x0) / wide(s)).square().mean((1, 2, 3))
        bits = ((high - low) * error.mean() + 0.5 * (1 + math.log(2 * math.pi) + 2 * low)) / math.log(2) + 7
        fifths = " ".join(f"{part.mean():.4f}" for part in error.chunk(5))
        return f"held-out bound {bits:.4f} bits/dim, noise errors by fifths of ln sigma {fifths}"

    return report


def build(family, images, width):
    return Denoiser(Pixels.of(images), width, extra=1 if family == "vp" else 0)


def start_from(core, path):
    """The weights of another family's average; channels that it does not have stay zero."""
    kept = torch.load(path, weights_only=True)["average"]
    own = core.state_dict()
    for name, value in kept.items():
        if own[name].shape == value.shape:
            own[name] = value
        else:
            own[name][: len(value)] = value
    core.load_state_dict(own)


def train(args, images, labels, test):
    torch.manual_seed(SEEDS[args.family])
    gen = torch.Generator().manual_seed(SEEDS[args.family] + 100)
    core = build(args.family, images, args.width)
    if args.start:
        start_from(core, args.start)
    average = Average(core, DECAY)
    optimizer = torch.optim.AdamW(core.parameters(), lr=args.rate, weight_decay=0.01, betas=(0.9, 0.99))
    run = Run(f"mnist-{args.family}", core, optimizer, average, gen, args.checkpoints)
    labels = torch.from_numpy(labels.astype(np.int64))

    def draw_loss():
        rows = torch.randint(len(images), (args.batch,), generator=gen)
        x0 = dequantize(images[rows.numpy()], gen)
        if args.family == "vp":
            # The discrete bound is one of grey levels as they are, the others are of dequantized ones: half and half.
            half = args.batch // 2
            x0[:half] = torch.from_numpy(images[rows[:half].numpy()]).float()[:, None] / 127.5 - 1
        time = draw_time(args.family, args.batch, gen)
        eps = torch.randn(x0.shape, generator=gen)
        return loss(args.family, core, x0, drop(labels[rows], gen), time, eps)

    run.go(args.steps, args.rate, draw_loss, held_out(args.family, test[: args.check]), args.every)
    return run.path


def card_of(family, name, folder, provenance):
    network = {
        "file": "network.onnx", "sha256": sha256(folder / "network.onnx"),
        "inputs": {"x": "x", "time": FAMILIES[family].names[0][1]},
        "conditions": {"label": {"input": "label", "null": CLASSES}},
        "output": FAMILIES[family].names[1][0],
    }
    card = {"name": name, "shape": [1, 28, 28], "network": network}
    if family == "edm":
        network |= {"prediction": "denoised", "time": {"feed": "sigma"}}
        card |= {"path": {"kind": "edm", "sigma_min": SIGMA_MIN, "sigma_max": SIGMA_MAX}, "prior": {"std": SIGMA_MAX}}
    elif family == "fm":
        network |= {"prediction": "velocity", "time": {"feed": "t"}}
        card |= {"path": {"kind": "flow-matching", "data_at": 1, "t_min": round(1 / (1 + SIGMA_MAX), 6),
                          "t_max": round(1 / (1 + SIGMA_MIN), 6)}}
    else:
        network |= {"channels": [0, 1], "variance_channels": [1, 2], "prediction": "noise", "time": {"feed": "index"}}
        card |= {"path": {"kind": "discrete", "betas": {"linear": [Ddpm.low, Ddpm.high]}, "steps": Ddpm.steps}}
    return card | {"data": {"range": [-1, 1], "levels": LEVELS}, "provenance": provenance}


def processor():
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.processor() or platform.machine()
    return f"{model}, {torch.get_num_threads()} thread" + "s" * (torch.get_num_threads() > 1)


def export_family(args, images, path):
    kept = torch.load(path, weights_only=True)
    core = build(args.family, images, args.width)
    core.load_state_dict(kept["average"])
    core.eval().requires_grad_(False)
    model = FAMILIES[args.family](core)
    gen = torch.Generator().manual_seed(31)
    s = torch.tensor([0.02, 0.05, 0.3, 1.0, 5.0, 40.0, 0.005])
    time = {"edm": s, "fm": 1 / (1 + s), "vp": torch.tensor([0.0, 3.0, 40.0, 200.0, 500.0, 999.0, 0.5])}[args.family]
    alpha, sigma = model.levels(time)
    x = wide(alpha) * dequantize(images[:7], gen)
    x = x + wide(sigma) * torch.randn(x.shape, generator=gen)
    folder = Path(args.out) if args.out else MODELS / f"mnist-{args.family}"
    export(model, folder / "network.onnx", (x, time, torch.tensor([0, 3, 10, 9, 10, 1, 5])), *model.names)
    provenance = {
        "trained_on": "MNIST, 60,000 training images (LeCun, Cortes, Burges; CC BY-SA 3.0)",
        "data_sha256": HASHES["train-images-idx3-ubyte.gz"], "labels_sha256": HASHES["train-labels-idx1-ubyte.gz"],
        "steps": kept["step"], "batch": args.batch, "ema": DECAY,
        "seeds": [SEEDS[args.family], SEEDS[args.family] + 100],
        "weights": sum(p.numel() for p in core.parameters()),
        "hardware": processor(), "wall_minutes": round(kept["seconds"] / 60, 1), "cpu_minutes": round(kept["cpu"] / 60, 1),
        "command": f"python scripts/train_mnist.py --family {args.family} --data FOLDER --steps {kept['step']} --batch {args.batch}"
                   + (f" --rate {args.rate:g}" if args.rate != 1e-3 else "") + (" --start mnist-edm.pt" if args.start else ""),
        "licence": "MIT OR Apache-2.0", "script": "scripts/train_mnist.py",
    }
    if args.start:
        provenance["started_from"] = "the averaged weights of mnist-edm"
    if args.note:
        provenance["note"] = args.note
    write_card(folder / "card.yaml", card_of(args.family, f"mnist-{args.family}", folder, provenance))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=FAMILIES, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--width", type=int, default=48)
    parser.add_argument("--every", type=int, default=250, help="steps between checkpoints")
    parser.add_argument("--check", type=int, default=1024, help="test images of the held-out bound")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--start", type=Path, help="a checkpoint whose averaged weights are the first ones")
    parser.add_argument("--checkpoints", type=Path, help="folder of checkpoints; default target/checkpoints")
    parser.add_argument("--out", type=Path, help="folder of the model; default models/mnist-FAMILY")
    parser.add_argument("--note", help="a remark on the training for the card")
    parser.add_argument("--export", action="store_true", help="export the checkpoint as it is")
    args = parser.parse_args()
    args.steps = args.steps or STEPS[args.family]
    torch.set_num_threads(args.threads)
    images, labels = read(args.data, "train-images-idx3-ubyte.gz"), read(args.data, "train-labels-idx1-ubyte.gz")
    folder = Path(args.checkpoints or MODELS.parent / "target" / "checkpoints")
    path = folder / f"mnist-{args.family}.pt"
    if not args.export:
        path = train(args, images, labels, read(args.data, "t10k-images-idx3-ubyte.gz"))
    export_family(args, images, path)


if __name__ == "__main__":
    main()
