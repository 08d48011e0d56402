"""Makes the flow map of models/moons: a two-time F2D2 student by Lagrangian self-distillation (LSD).

    python scripts/train_moons_maps.py [train] [export]

The teacher is velocity.onnx. Seeded; one thread; about 7 CPU-minutes.
"""

import sys

import numpy as np
import torch
from torch import nn

from common import MODELS, export
from flow_maps import (FlowMap, TwoTimeTrunk, agreement, card_entry, check_against_file, checkpoint, lagrangian,
                       load_weights, log_slope, put_in_card, train, walk)
from onnx64 import with_trace
from train_moons import POOL, T_MAX, T_MIN, Velocity, features, gaussian_slope, moons

HERE = MODELS / "moons"
STEPS, BATCH = 6_000, 768
EDGE = 0.02                      # keeps the clock finite on [0, 1]


def spread(t):
    """Standard deviation at time t of data with unit variance."""
    return torch.sqrt(t * t + (1 - t) * (1 - t))


class Frame(nn.Module):
    """x = spread(t) xi; the clock is the log-SNR, made finite at both ends."""

    floor = (0.0, 0.0)

    def into(self, x, t):
        return x / spread(t)[:, None]

    def out(self, xi, t):
        return xi * spread(t)[:, None]

    def clock(self, t):
        return torch.log((t + EDGE) / (1 + EDGE - t))

    def time(self, clock):
        return (1 + 2 * EDGE) * torch.sigmoid(clock) - EDGE

    def clock_slope(self, t, s):
        """(tau_s - tau_t)/(s - t)."""
        return log_slope(s + EDGE, t + EDGE) + log_slope(1 + EDGE - s, 1 + EDGE - t)

    def gaussian_velocity(self, xi, t, s):
        """(k(s) - k(t))/(s - t) xi."""
        return (2 * (s + t - 1) / (spread(s) + spread(t)))[:, None] * xi

    def gaussian_divergence(self, t, s):
        """2 (ln k(s) - ln k(t))/(s - t), two dimensions."""
        return 2 * (s + t - 1) * log_slope(spread(s).square(), spread(t).square())

    def features(self, xi, t):
        return torch.cat([xi, torch.sin(2 * xi), torch.cos(2 * xi), torch.sin(4 * xi), torch.cos(4 * xi)], 1)

    def shown(self, t, s):
        return 0.25 * self.clock(t), 0.25 * self.clock(s)

    def scales(self, t, s):
        """What is left of the velocity is of unit size in t, of the divergence in the clock."""
        return 1 / self.clock_slope(t, s)[:, None], 1.0


def student():
    torch.manual_seed(41)
    return FlowMap(Frame(), TwoTimeTrunk(10, 2, 128, 4))


def the_teacher(velocity, frame):
    """w = dxi/dtau and one Hutchinson sample of its divergence."""

    def teacher(xi, t, probe):
        scale = spread(t)[:, None]
        w, product = torch.func.jvp(lambda y: velocity.residual(y, t) / scale, (xi * scale,), (probe * scale,))
        pace = frame.clock_slope(t, t)
        return w / pace[:, None], (product * probe).sum(1) / pace

    return teacher


def draw_clocks(count, frame, gen):
    """Pairs over the whole square, in both directions: half uniform in t, half uniform in the clock; a quarter
    on the diagonal, a quarter near it."""
    t = torch.rand((2, count), generator=gen)
    low, high = frame.clock(torch.tensor([0.0, 1.0]))
    ends = torch.where(torch.rand((2, count), generator=gen) < 0.5, frame.clock(t),
                       low + (high - low) * torch.rand((2, count), generator=gen))
    kind = torch.rand(count, generator=gen)
    reach = torch.where(kind < 0.25, 0.0, torch.where(kind < 0.5, 0.25 * torch.rand(count, generator=gen), 1.0))
    return ends[0], ends[0] + reach * (ends[1] - ends[0])


def truth(velocity, x, steps=100):
    """Exact trace, Heun, uniform steps: log p at T_MAX in float64, and the states at T_MIN."""
    v64 = velocity.double()
    x = x.double()
    total = torch.zeros(len(x), dtype=torch.float64)
    times = np.linspace(T_MAX, T_MIN, steps + 1)
    with torch.no_grad():
        at = lambda x, t: with_trace(lambda y: v64(y, torch.full((len(y),), float(t), dtype=torch.float64)), x)
        for here, there in zip(times[:-1], times[1:]):
            h = there - here
            v0, d0 = at(x, here)
            v1, d1 = at(x + h * v0, there)
            x, total = x + h * 0.5 * (v0 + v1), total + h * 0.5 * (d0 + d1)
    velocity.float()
    return (-0.5 * x.square().sum(1) - np.log(2 * np.pi) + total).numpy(), x.float()


def fresh(count, seed):
    """Points at the data end, not the held-out ones."""
    eps = np.random.default_rng(seed).standard_normal((count, 2))
    return torch.from_numpy((T_MAX * moons(count, seed + 1) + (1 - T_MAX) * eps).astype(np.float32))


def make_report(velocity):
    """Against the teacher on fresh points: likelihood data to prior, and points prior to data."""
    x = fresh(1024, 90)
    exact, end = truth(velocity, x)

    def report(model):
        for steps in (8, 4, 2, 1):
            times = np.linspace(T_MAX, T_MIN, steps + 1)
            there, integral = walk(model, x, times)
            log_p = (-0.5 * there.double().square().sum(1) - np.log(2 * np.pi) + integral).numpy()
            back, again = walk(model, end, times[::-1])
            from_noise = (-0.5 * end.double().square().sum(1) - np.log(2 * np.pi) - again).numpy()
            print(f"  {steps}: {agreement(exact, log_p, 2)}; state rms {(there - end).square().mean().sqrt():.4f}"
                  f"; to data rms {(back - x).square().mean().sqrt():.4f}, correlation"
                  f" {np.corrcoef(exact, from_noise)[0, 1]:.4f}", flush=True)

    return report


def train_map(velocity):
    gen = torch.Generator().manual_seed(42)
    model = student()
    frame, teacher = model.frame, the_teacher(velocity, model.frame)
    pool = torch.from_numpy(moons(POOL, 4))

    def draw_loss(_):
        here, there = draw_clocks(BATCH, frame, gen)
        t = frame.time(here)[:, None]
        x0 = pool[torch.randint(len(pool), (BATCH,), generator=gen)]
        x = t * x0 + (1 - t) * torch.randn(x0.shape, generator=gen)
        probe = torch.randint(0, 2, x.shape, generator=gen) * 2.0 - 1
        loss_r, loss_z = lagrangian(model, teacher, frame.into(x, t[:, 0]), here, there, probe)
        return loss_r.mean(), loss_z.mean()

    return train("moons lsd", model, draw_loss, STEPS, 2e-3, checkpoint("moons", "lsd"), make_report(velocity))


def export_map():
    model = student()
    kept = torch.load(checkpoint("moons", "lsd"))
    model.load_state_dict(kept["state"])
    t = torch.tensor([0.99, 0.001, 0.3, 0.5, 0.9, 0.99, 0.7])
    s = torch.tensor([0.001, 0.99, 0.3, 0.1, 0.95, 0.99, 0.6])
    x = fresh(7, 5)
    export(model.eval(), HERE / "lsd.onnx", (x, t, s), ("x", "t", "s"), ("velocity", "divergence"))
    put_in_card(HERE / "card.yaml", {"lsd": card_entry(HERE / "lsd.onnx", {"x": "x", "from": "t", "to": "s"})})


if __name__ == "__main__":
    torch.set_num_threads(1)
    parts = sys.argv[1:]
    velocity = load_weights(Velocity(), HERE / "velocity.onnx")
    check_against_file(velocity, HERE / "velocity.onnx", (fresh(64, 3), torch.linspace(0, 1, 64)))
    if not parts or "train" in parts:
        train_map(velocity)
    if not parts or "export" in parts:
        export_map()
