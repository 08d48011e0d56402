"""Makes models/digits: an EDM denoiser, a Stein divergence head and a classifier for 8x8 digits.

    python scripts/train_digits.py [denoiser] [head] [classifier] [card]
    python scripts/train_digits.py --seed N [--width W] [--steps N] [--out FOLDER] head head-alone
    python scripts/train_digits.py --denoiser-steps N --keep STEP... --checkpoints FOLDER --out FOLDER -- denoiser

Without parts it makes the first four. Seeded; one thread; about a quarter of an hour. Options train heads of other seeds, sizes and
lengths, and `head-alone` exports the head and nothing else. `--keep` exports the denoiser as it is at these steps, with a card each.
"""

import argparse
import math
import time
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

from common import (MODELS, Average, Trunk, export, learning_rate, sha256, silu, stein_loss,
                    write_card)
from flow_maps import check_against_file, checkpoint, load_weights

HERE = MODELS / "digits"
SPLIT_SEED = 20261122
LEVELS, WIDTH = 17, 2 / 17          # grey levels, and the width of one level in [-1, 1]
SIGMA_MIN, SIGMA_MAX = 0.02, 20.0
DENOISER_STEPS, DENOISER_BATCH = 12_000, 512
HEAD_STEPS, HEAD_BATCH, HEAD_WIDTH = 12_000, 512, 192
GENERATED = 40_000                  # images that the denoiser makes, for training the head
CHECKED = 6_000                     # and for looking at its objective


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
    reach = torch.sqrt(sigma * sigma + 1e-4) / 1.702
    return torch.sigmoid((x + 1) / reach), torch.sigmoid((x + 1 - WIDTH) / reach)


class Denoiser(nn.Module):
    """EDM preconditioning, pixel by pixel: mean and variance of each pixel are known."""

    def __init__(self, mean, std, width=192, blocks=4, dropout=0.15):
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

    def __init__(self, mean, std, eigenvalues, width=HEAD_WIDTH, blocks=3):
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
        return self.trunk(torch.cat(features, 1), torch.log(sigma) * 0.25).squeeze(1)

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


def draw_head_sigma(count, gen):
    """Three in five where the trace varies most between images, the rest over the whole range."""
    middle = torch.rand(count, generator=gen) < 0.6
    return torch.where(middle, draw_sigma(count, gen, 0.08, 2.5), draw_sigma(count, gen))


def train_denoiser(train, args):
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
    for step in range(args.denoiser_steps + 1):
        if step % 500 == 0:
            with torch.no_grad():
                error = ((average.model(vx, vsigma) - vx0) / vsigma[:, None]).square().sum(1)
            figure = error.mean().item()
            thirds = [error[(vsigma > a) & (vsigma <= b)].mean().item()
                      for a, b in ((0, 0.1), (0.1, 0.5), (0.5, 30))]
            mark = ""
            if figure < best and step:
                best, mark = figure, " kept"
                torch.save({"state": average.model.state_dict(), "step": step}, checkpoint("digits", "denoiser", args.checkpoints))
            print(f"denoiser {step} validation {figure:.4f} {thirds} {time.time() - began:.0f} s{mark}",
                  flush=True)
        if step in args.keep:
            name = f"denoiser-{step}"
            export(average.model, args.out / f"{name}.onnx", shown_states(train), ("x", "sigma"), ("denoised",))
            write_card(args.out / f"{name}.yaml", plain_card(f"digits-{step}", args.out / f"{name}.onnx"))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, args.denoiser_steps, 1.5e-3)
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


def new_denoiser(train):
    mean, cov = moments(torch.from_numpy(train).float())
    return Denoiser(mean.float(), cov.diagonal().sqrt().float())


def load_denoiser(train, args):
    model = new_denoiser(train)
    kept = torch.load(checkpoint("digits", "denoiser", args.checkpoints))
    model.load_state_dict(kept["state"])
    return model.eval().requires_grad_(False), kept["step"]


def shipped_denoiser(train):
    """The denoiser of models/digits from its file."""
    denoiser = load_weights(new_denoiser(train), HERE / "denoiser.onnx")
    gen = torch.Generator().manual_seed(3)
    sigma = torch.exp(torch.linspace(math.log(SIGMA_MIN) - 0.1, math.log(SIGMA_MAX) + 0.1, 64))
    x = dequantize(torch.from_numpy(train[:64]).float(), gen)
    check_against_file(denoiser, HERE / "denoiser.onnx", (x + sigma[:, None] * torch.randn(x.shape, generator=gen), sigma))
    return denoiser


def the_denoiser(train, args):
    """The one that was just trained, or the shipped one."""
    if checkpoint("digits", "denoiser", args.checkpoints).exists():
        return load_denoiser(train, args)[0]
    return shipped_denoiser(train)


def generate_many(denoiser, count, gen):
    return torch.cat([generate(denoiser, min(2000, count - done), gen) for done in range(0, count, 2000)])


def generate(denoiser, count, gen, steps=30):
    """Images of the model itself, by Heun's method, rounded to grey levels."""
    ramp = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    sigmas = SIGMA_MAX * (SIGMA_MIN / SIGMA_MAX) ** ramp
    x = SIGMA_MAX * torch.randn((count, 64), generator=gen)
    slope = lambda x, s: (x - denoiser(x, torch.full((len(x),), float(s)))) / float(s)
    for here, there in zip(sigmas[:-1], sigmas[1:]):
        first = slope(x, here)
        second = slope(x + float(there - here) * first, there)
        x = x + float(there - here) * 0.5 * (first + second)
    return torch.floor((x + 1) / WIDTH).clamp(0, LEVELS - 1)


def train_head(train, args):
    """The Langevin-Stein objective in its denoising form, arranged for low variance.

    The minimiser is div F wherever p is positive, whatever p is, so that p may be chosen: one in
    four are training images, the others are images that the denoiser itself generates.  Without
    these the head is good around 1,500 images only, and there the denoiser's trace is not what
    it is elsewhere: it knows them a little too well.

    The field is not F = D - x but R = D - W with W the Wiener filter of the training images, whose
    divergence is a known constant per sigma.  The target's noise, (R.eps)/sigma, falls from about
    sqrt(2 d) = 11 to between 0.03 and 4.  Pairs +eps and -eps cancel what is odd in eps.
    """
    torch.manual_seed(11 + 1000 * args.seed)
    gen = torch.Generator().manual_seed(12 + 1000 * args.seed)
    denoiser = the_denoiser(train, args)
    mean, cov = moments(torch.from_numpy(train).float())
    eigenvalues, basis = torch.linalg.eigh(cov)
    mean, eigenvalues, basis = mean.float(), eigenvalues.float(), basis.float()
    raw = torch.from_numpy(train).float()
    made = generate_many(denoiser, args.generated, gen)
    print(f"head: generated {len(made)} images, mean level {made.mean():.3f} against {raw.mean():.3f}")
    model = Divergence(mean, cov.diagonal().sqrt().float(), eigenvalues, args.width)
    average = Average(model, 0.9995)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01, betas=(0.9, 0.99))

    def loss_on(head, x0, sigma, eps):
        s = sigma[:, None]
        x = x0 + s * eps
        _, scale = head.parts(sigma)
        shrink = (eigenvalues / (eigenvalues + s * s))
        with torch.no_grad():
            wiener = mean + ((x - mean) @ basis * shrink) @ basis.T
            field = denoiser(x, sigma) - wiener
        # h = scale * residual estimates div R = tr J_D - tr J_W.
        return stein_loss(lambda y: scale * head.residual(y, sigma), field, -eps / s, x,
                          1 / (2 + scale * scale))

    vgen = torch.Generator().manual_seed(13)
    check = dequantize(generate(denoiser, args.check, vgen), vgen)
    vsigma = draw_sigma(len(check) // 2, vgen).repeat(2)
    veps = torch.randn((len(check) // 2, 64), generator=vgen)
    veps, check = torch.cat([veps, -veps]), check[: len(check) // 2].repeat(2, 1)
    began, cpu = time.time(), time.process_time()
    for step in range(args.steps + 1):
        if step % 1000 == 0 or step == args.steps:
            with torch.no_grad():
                figure = loss_on(average.model, check, vsigma, veps).item()
            print(f"head {step} objective on fresh images {figure:.4f} {time.time() - began:.0f} s, "
                  f"{time.process_time() - cpu:.0f} CPU s", flush=True)
            torch.save({"state": average.model.state_dict(), "step": step}, head_checkpoint(args))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, args.steps, 2e-3)
        half, eighth = args.batch // 2, args.batch // 8
        x0 = torch.cat([raw[torch.randint(len(raw), (eighth,), generator=gen)],
                        made[torch.randint(len(made), (half - eighth,), generator=gen)]])
        x0 = dequantize(x0, gen).repeat(2, 1)
        sigma = draw_head_sigma(half, gen).repeat(2)
        eps = torch.randn((half, 64), generator=gen)
        loss = loss_on(model, x0, sigma, torch.cat([eps, -eps]))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        average.update(model)


def variant(args):
    """Part of the names of files; nothing for the shipped head."""
    shipped = (args.width, args.steps, args.seed) == (HEAD_WIDTH, HEAD_STEPS, 0)
    return "" if shipped else f"-{args.width}-{args.steps}-{args.seed}"


def head_checkpoint(args):
    return checkpoint("digits", f"head{variant(args)}", args.checkpoints)


def load_head(train, args):
    mean, cov = moments(torch.from_numpy(train).float())
    model = Divergence(mean.float(), cov.diagonal().sqrt().float(), torch.linalg.eigvalsh(cov).float(), args.width)
    kept = torch.load(head_checkpoint(args))
    model.load_state_dict(kept["state"])
    return model.eval().requires_grad_(False), kept["step"]


def train_classifier(train, labels, heldout, heldout_labels, args):
    """Small and plain: its features are for Frechet and kernel distances, not for a contest."""
    torch.manual_seed(21)
    gen = torch.Generator().manual_seed(22)
    raw, target = torch.from_numpy(train).float(), torch.from_numpy(labels).long()
    model = Classifier()
    steps = 3000
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.05)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, 3e-3)
        rows = torch.randint(len(raw), (128,), generator=gen)
        # A little noise beyond dequantization: the features will be shown generated images.
        image = dequantize(raw[rows], gen)
        image = image + 0.15 * torch.randn(image.shape, generator=gen)
        loss = nn.functional.cross_entropy(model(image)[1], target[rows], label_smoothing=0.05)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        seen = dequantize(torch.from_numpy(heldout).float(), gen)
        right = (model(seen)[1].argmax(1) == torch.from_numpy(heldout_labels).long())
    print(f"classifier: {right.float().mean():.4f} of {len(heldout)} held-out images right")
    torch.save({"state": model.state_dict(), "step": steps}, checkpoint("digits", "classifier", args.checkpoints))


def shown_states(train):
    """Seven states and their noise levels, on which an exported graph is compared with torch."""
    gen = torch.Generator().manual_seed(31)
    sigma = torch.tensor([0.02, 0.05, 0.3, 1.0, 5.0, 20.0, 0.1])
    x = dequantize(torch.from_numpy(train[:7]).float(), gen)
    return x + sigma[:, None] * torch.randn(x.shape, generator=gen), sigma


def export_head(train, args):
    """The number of steps that the head was trained."""
    head, steps = load_head(train, args)
    export(head, args.out / f"stad{variant(args)}.onnx", shown_states(train), ("x", "sigma"), ("divergence",))
    return steps


def plain_card(name, denoiser):
    """The card of a denoiser alone."""
    return {
        "name": name,
        "shape": [64],
        "network": {
            "file": denoiser.name, "sha256": sha256(denoiser),
            "inputs": {"x": "x", "time": "sigma"}, "output": "denoised",
            "prediction": "denoised", "time": {"feed": "sigma"},
        },
        "path": {"kind": "edm", "sigma_min": SIGMA_MIN, "sigma_max": SIGMA_MAX},
        "prior": {"std": SIGMA_MAX},
        "data": {"range": [-1, 1], "levels": LEVELS},
    }


def export_all(train, args):
    denoiser, denoiser_steps = load_denoiser(train, args)
    x, sigma = shown_states(train)
    export(denoiser, args.out / "denoiser.onnx", (x, sigma), ("x", "sigma"), ("denoised",))
    classifier = Classifier()
    classifier.load_state_dict(torch.load(checkpoint("digits", "classifier", args.checkpoints))["state"])
    export(classifier, args.out / "features.onnx", (x,), ("image",), ("features", "logits"))
    card = plain_card("digits", args.out / "denoiser.onnx")
    head_steps = 0
    if head_checkpoint(args).exists():
        head_steps = export_head(train, args)
        card["divergence_heads"] = {"stad": {
            "file": f"stad{variant(args)}.onnx", "inputs": {"x": "x", "time": "sigma"}, "output": "divergence",
            "scale": 1.0}}
    card["provenance"] = {
        "trained_on": "1500 of the 1797 8x8 digits of scikit-learn (UCI Optical Recognition of "
                      "Handwritten Digits, CC BY 4.0)",
        "steps": denoiser_steps, "head_steps": head_steps, "ema": True,
        "licence": "MIT OR Apache-2.0", "script": "scripts/train_digits.py",
    }
    write_card(args.out / "card.yaml", card)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="of the head; 0 is the shipped one")
    parser.add_argument("--width", type=int, default=HEAD_WIDTH, help="of the head")
    parser.add_argument("--steps", type=int, default=HEAD_STEPS, help="of the head")
    parser.add_argument("--batch", type=int, default=HEAD_BATCH, help="of the head")
    parser.add_argument("--generated", type=int, default=GENERATED, help="images that the denoiser makes for the head")
    parser.add_argument("--check", type=int, default=CHECKED, help="images on which the head's objective is printed")
    parser.add_argument("--denoiser-steps", type=int, default=DENOISER_STEPS)
    parser.add_argument("--keep", type=int, nargs="+", default=[], metavar="STEP", help="steps at which the denoiser is exported")
    parser.add_argument("--checkpoints", type=Path, help="folder of checkpoints; default target/checkpoints")
    parser.add_argument("--out", type=Path, default=HERE, help="folder of the model; default models/digits")
    parser.add_argument("parts", nargs="*", metavar="PART", help="denoiser, classifier, head, card, head-alone")
    args = parser.parse_args()
    torch.set_num_threads(1)
    train, train_labels, heldout, heldout_labels = split()

    def card():
        np.save(args.out / "train.npy", train)
        np.save(args.out / "heldout.npy", heldout)
        np.save(args.out / "heldout_labels.npy", heldout_labels)
        export_all(train, args)

    parts = {
        "denoiser": lambda: train_denoiser(train, args),
        "classifier": lambda: train_classifier(train, train_labels, heldout, heldout_labels, args),
        "head": lambda: train_head(train, args),
        "card": card,
        "head-alone": lambda: export_head(train, args),
    }
    unknown = set(args.parts) - set(parts)
    if unknown:
        parser.error(f"there is no part {', '.join(sorted(unknown))}; parts are {', '.join(parts)}")
    args.out.mkdir(parents=True, exist_ok=True)
    for name in args.parts or [n for n in parts if n != "head-alone"]:
        parts[name]()


if __name__ == "__main__":
    main()
