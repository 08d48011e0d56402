"""Makes models/lj13: a flow-matching velocity for thirteen Lennard-Jones particles, and the energy.

    python scripts/train_lj13.py [--checkpoints FOLDER] [--steps 3250] [velocity] [export]

FOLDER has lj13-chains.npz, which chains_lj13.py writes, and gets the checkpoint, from which a training that was stopped goes on. Data at
t = 1: x_t = t x_1 + (1 - t) eps on the subspace of zero centre of mass. Without parts it makes both. Seeded; one thread; about
5 CPU-minutes.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from common import MODELS, ROOT, Average, export, learning_rate, sha256, write_card
from lj13 import DIM, DIMS, PARTICLES, Energy, Velocity, centred_noise, variance

BATCH = 256
# Held-out states that are shipped: every fifth of the split, which is 120 sweeps of a chain.
HELDOUT_EACH = 5


def read(folder, split):
    states = np.load(folder / "lj13-chains.npz", allow_pickle=False)[split]
    assert states.ndim == 2 and states.shape[1] == DIM, f"{split}: shape {states.shape}, expected [N, {DIM}]"
    return torch.from_numpy(states)


def draw_time(count, gen):
    """Half uniform, half denser towards the data end, where the field has most to say."""
    u = torch.rand(count, generator=gen)
    return torch.where(torch.rand(count, generator=gen) < 0.5, u, 1 - u * u)


def matching_loss(model, data, gen, count):
    """Squared error of the conditional velocity x_1 - eps, sample by sample."""
    x1 = data[torch.randint(len(data), (count,), generator=gen)]
    eps, t = centred_noise(count, gen), draw_time(count, gen)
    x = t[:, None] * x1 + (1 - t[:, None]) * eps
    return (model(x, t) - (x1 - eps)).square().sum(1)


def held_out_loss(model, states):
    """The same draws every time, in parts that fit a cache."""
    gen = torch.Generator().manual_seed(93)
    with torch.no_grad():
        return torch.cat([matching_loss(model, states, gen, BATCH) for _ in range(32)]).mean().item()


def train_velocity(folder, steps, every):
    torch.manual_seed(91)
    gen = torch.Generator().manual_seed(92)
    train, validation = read(folder, "train"), read(folder, "validation")
    model = Velocity()
    average = Average(model, 0.9995)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, betas=(0.9, 0.99))
    file, done, spent = folder / "lj13-velocity.pt", 0, 0.0
    if file.exists():
        kept = torch.load(file)
        model.load_state_dict(kept["model"])
        average.model.load_state_dict(kept["state"])
        optimizer.load_state_dict(kept["optimizer"])
        gen.set_state(kept["generator"])
        done, spent, average.steps = kept["step"], kept["cpu"], kept["step"]
    began, running = time.process_time() - spent, None
    for step in range(done + 1, steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = float(learning_rate(step, steps, 2e-3))
        loss = matching_loss(model, train, gen, BATCH).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        average.update(model)
        running = loss.item() if running is None else running + (loss.item() - running) / 500
        if step % every == 0 or step == steps:
            cpu = time.process_time() - began
            print(f"velocity {step} of {steps}: loss {running:.4f}, validation {held_out_loss(average.model, validation):.4f}, "
                  f"{cpu:.0f} CPU s", flush=True)
            torch.save({"model": model.state_dict(), "state": average.model.state_dict(), "optimizer": optimizer.state_dict(),
                        "generator": gen.get_state(), "step": step, "cpu": cpu}, file)


def export_all(folder, out):
    kept = torch.load(folder / "lj13-velocity.pt")
    velocity = Velocity()
    velocity.load_state_dict(kept["state"])
    out.mkdir(parents=True, exist_ok=True)
    gen = torch.Generator().manual_seed(94)
    heldout = read(folder, "heldout")[::HELDOUT_EACH]
    np.save(out / "heldout.npy", heldout.numpy())
    t = torch.tensor([0.0, 0.001, 0.3, 0.5, 0.9, 0.99, 1.0])
    x = torch.sqrt(variance(t))[:, None] * centred_noise(7, gen)
    export(velocity, out / "velocity.onnx", (x, t), ("x", "t"), ("v",))
    export(Energy().eval(), out / "energy.onnx", (heldout[:7],), ("x",), ("u",))
    hashed = lambda file: {"file": file, "sha256": sha256(out / file)}
    write_card(out / "card.yaml", {
        "name": "lj13",
        "shape": [DIM],
        "network": {
            **hashed("velocity.onnx"), "inputs": {"x": "x", "time": "t"}, "output": "v",
            "prediction": "velocity", "time": {"feed": "t"},
        },
        "path": {"kind": "flow-matching", "data_at": 1, "t_min": 0.0, "t_max": 1.0},
        "prior": {"std": 1.0, "centred": {"particles": PARTICLES, "dims": DIMS}},
        "energy": {**hashed("energy.onnx"), "input": "x", "output": "u"},
        "provenance": {
            "trained_on": "states of the Markov chains of scripts/chains_lj13.py with its seed of 11; heldout.npy is of chains of its own",
            "heldout_sha256": sha256(out / "heldout.npy"),
            "steps": kept["step"], "batch": BATCH, "ema": True, "cpu_minutes": round(kept["cpu"] / 60),
            "licence": "MIT OR Apache-2.0", "script": "scripts/train_lj13.py",
        },
    })


if __name__ == "__main__":
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--checkpoints", type=Path, default=ROOT / "target/checkpoints")
    parser.add_argument("--out", type=Path, default=MODELS / "lj13")
    parser.add_argument("--steps", type=int, default=3250)
    parser.add_argument("--every", type=int, default=250)
    parser.add_argument("parts", nargs="*")
    options = parser.parse_args()
    parts = options.parts or ["velocity", "export"]
    if "velocity" in parts:
        train_velocity(options.checkpoints, options.steps, options.every)
    if "export" in parts:
        export_all(options.checkpoints, options.out)
