"""Makes models/moons: a flow-matching velocity for two moons, and a Stein divergence head.

    python scripts/train_moons.py [velocity] [head] [card]

Data at t = 1: x_t = t x_0 + (1 - t) eps, velocity = dx/dt. Without arguments it makes all three in that
order. Seeded; one thread; about a quarter of an hour.
"""

import sys
import time

import numpy as np
import torch
from sklearn.datasets import make_moons
from torch import nn

from common import (MODELS, Average, Trunk, export, learning_rate, sha256, stein_loss, write_card)

HERE = MODELS / "moons"
NOISE = 0.07
CENTRE, SCALE = (0.5, 0.25), (0.87, 0.5)   # of noiseless moons: after them, unit scale
POOL = 200_000
# The card's range of times.  Both networks are trained on all of [0, 1]; the card stops short of the
# ends so that the score, the log-SNR and sigma/alpha, by which samplers step, are finite there.  The
# state at t_max is 0.99 x_0 + 0.01 eps; the moons' own noise is 7 to 14 times that.
T_MIN, T_MAX = 0.001, 0.99
# Extra smoothing of the states on which the head is trained, see train_head.
EXTRA = 0.06
VELOCITY_STEPS, VELOCITY_BATCH = 16_000, 1024
HEAD_STEPS, HEAD_BATCH = 16_000, 1024


def moons(count, seed):
    points, _ = make_moons(count, noise=NOISE, random_state=seed)
    return ((points - np.array(CENTRE)) / np.array(SCALE)).astype(np.float32)


def clock(t):
    """What the networks are shown of time: a log-SNR that is finite on [0, 1]."""
    return 0.25 * torch.log((t + 0.02) / (1.02 - t))


def features(x, t):
    """The state at unit scale, and two octaves of waves: moons are thin, plain MLPs are smooth."""
    t = t[:, None]
    x = x / torch.sqrt(t * t + (1 - t) * (1 - t))
    return torch.cat([x, torch.sin(2 * x), torch.cos(2 * x), torch.sin(4 * x), torch.cos(4 * x)], 1)


def gaussian_slope(t):
    """If the data were N(0, I), the velocity would be this times x."""
    return (2 * t - 1) / (t * t + (1 - t) * (1 - t))


class Velocity(nn.Module):
    def __init__(self, width=160, blocks=4):
        super().__init__()
        self.trunk = Trunk(10, 2, width, blocks)

    def residual(self, x, t):
        return self.trunk(features(x, t), clock(t))

    def forward(self, x, t):
        return gaussian_slope(t)[:, None] * x + self.residual(x, t)


class Divergence(nn.Module):
    """+div of dx/dt: the Gaussian part's constant plus what is learned."""

    def __init__(self, width=160, blocks=4):
        super().__init__()
        self.trunk = Trunk(10, 1, width, blocks)

    def scale(self, t):
        """How much of the divergence there is to learn: off the ridges it grows as 1/(1 - t), up to a point."""
        return (1.55 - t) / (1.05 - t)

    def residual(self, x, t):
        return self.scale(t) * self.trunk(features(x, t), clock(t)).squeeze(1)

    def forward(self, x, t):
        return 2 * gaussian_slope(t) + self.residual(x, t)


def CHECKPOINT(name):
    folder = MODELS.parent / "target" / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"moons-{name}.pt"


def draw_time(count, gen):
    """Half uniform, half denser towards the data end, where the field has most to say."""
    u = torch.rand(count, generator=gen)
    return torch.where(torch.rand(count, generator=gen) < 0.5, u, 1 - u * u)


def train_velocity(pool):
    torch.manual_seed(1)
    gen = torch.Generator().manual_seed(2)
    model = Velocity()
    average = Average(model, 0.9995)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, betas=(0.9, 0.99))
    began, running = time.time(), 0.0
    for step in range(VELOCITY_STEPS):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, VELOCITY_STEPS, 2e-3)
        x0 = pool[torch.randint(len(pool), (VELOCITY_BATCH,), generator=gen)]
        eps = torch.randn(x0.shape, generator=gen)
        t = draw_time(VELOCITY_BATCH, gen)
        x = t[:, None] * x0 + (1 - t[:, None]) * eps
        loss = (model(x, t) - (x0 - eps)).square().sum(1).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        average.update(model)
        running += (loss.item() - running) / min(step + 1, 1000)
        if step % 1000 == 999:
            print(f"velocity {step + 1} loss {running:.4f} {time.time() - began:.0f} s", flush=True)
    torch.save({"state": average.model.state_dict(), "step": VELOCITY_STEPS}, CHECKPOINT("velocity"))


def load(cls, name):
    model = cls()
    kept = torch.load(CHECKPOINT(name))
    model.load_state_dict(kept["state"])
    return model.eval().requires_grad_(False), kept["step"]


def train_head(pool):
    """The Langevin-Stein objective in its denoising form, made to stay finite at the data end.

    The conditional score of x_t given x_0 is -eps/(1 - t): its variance has no bound as t -> 1.  But
    the objective has the same minimiser under any positive density, so the head at time t is
    trained on states t x_0 + tau eps with tau^2 = (1 - t)^2 + EXTRA^2, whose conditional score is
    -eps/tau: bounded by 1/EXTRA, and a little wider than the flow's own states, which also
    covers their tails.  Pairs +eps and -eps cancel the term of order 1/tau; the field is the
    velocity less its Gaussian part, whose divergence is known.
    """
    torch.manual_seed(11)
    gen = torch.Generator().manual_seed(12)
    velocity, _ = load(Velocity, "velocity")
    model = Divergence()
    average = Average(model, 0.9995)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, betas=(0.9, 0.99))
    began, running, half = time.time(), 0.0, HEAD_BATCH // 2
    for step in range(HEAD_STEPS):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, HEAD_STEPS, 2e-3)
        x0 = pool[torch.randint(len(pool), (half,), generator=gen)].repeat(2, 1)
        eps = torch.randn((half, 2), generator=gen)
        eps = torch.cat([eps, -eps])
        t = draw_time(half, gen).repeat(2)
        tau = torch.sqrt((1 - t) ** 2 + EXTRA**2)[:, None]
        x = t[:, None] * x0 + tau * eps
        with torch.no_grad():
            field = velocity.residual(x, t)
        loss = stein_loss(lambda y: model.residual(y, t), field, -eps / tau, x,
                          1 / model.scale(t) ** 2)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        average.update(model)
        running += (loss.item() - running) / min(step + 1, 1000)
        if step % 1000 == 999:
            print(f"head {step + 1} objective {running:.4f} {time.time() - began:.0f} s", flush=True)
            torch.save({"state": average.model.state_dict(), "step": step + 1}, CHECKPOINT("head"))


def export_all():
    velocity, steps = load(Velocity, "velocity")
    head, head_steps = load(Divergence, "head")
    t = torch.tensor([0.0, 0.001, 0.3, 0.5, 0.9, 0.99, 1.0])
    x = torch.from_numpy(moons(7, 5)) * t[:, None]
    x = x + (1 - t[:, None]) * torch.randn(x.shape, generator=torch.Generator().manual_seed(6))
    export(velocity, HERE / "velocity.onnx", (x, t), ("x", "t"), ("velocity",))
    export(head, HERE / "stad.onnx", (x, t), ("x", "t"), ("divergence",))
    write_card(HERE / "card.yaml", {
        "name": "moons",
        "shape": [2],
        "network": {
            "file": "velocity.onnx", "sha256": sha256(HERE / "velocity.onnx"),
            "inputs": {"x": "x", "time": "t"}, "output": "velocity",
            "prediction": "velocity", "time": {"feed": "t"},
        },
        "path": {"kind": "flow-matching", "data_at": 1, "t_min": T_MIN, "t_max": T_MAX},
        "prior": {"std": 1.0},
        "divergence_heads": {"stad": {
            "file": "stad.onnx", "inputs": {"x": "x", "time": "t"}, "output": "divergence",
            "scale": 1.0}},
        "provenance": {
            "trained_on": f"{POOL} points of scikit-learn's make_moons with noise {NOISE}, standardised",
            "steps": steps, "head_steps": head_steps, "ema": True,
            "licence": "MIT OR Apache-2.0", "script": "scripts/train_moons.py",
        },
    })


def save_data(pool):
    """Training points as they are (t = 1); held-out points are fresh, and at the card's data end."""
    np.save(HERE / "train.npy", pool[:4096].numpy())
    eps = np.random.default_rng(7).standard_normal((1024, 2))
    np.save(HERE / "heldout.npy", (T_MAX * moons(1024, 8) + (1 - T_MAX) * eps).astype(np.float32))


if __name__ == "__main__":
    torch.set_num_threads(1)
    parts = sys.argv[1:]
    HERE.mkdir(parents=True, exist_ok=True)
    pool = torch.from_numpy(moons(POOL, 4))
    if not parts or "velocity" in parts:
        train_velocity(pool)
    if not parts or "head" in parts:
        train_head(pool)
    if not parts or "card" in parts:
        save_data(pool)
        export_all()
