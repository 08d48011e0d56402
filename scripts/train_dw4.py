"""Makes models/dw4: a flow-matching velocity for four particles in a double well, a flow map, and the energy.

    python scripts/train_dw4.py --data FOLDER [velocity] [trajectories] [map] [card]

FOLDER has dem_train_split_DW4.npy and dem_val_split_DW4.npy: the files data/*_split_DW4.npy of jarridrb/DEM (MIT),
with `dem_` before their names. Data at t = 1: x_t = t x_1 + (1 - t) eps on the subspace of zero centre of mass.
Without parts it makes all four in that order. Seeded; one thread; about 23 minutes of one core.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from common import MODELS, Average, export, learning_rate, sha256, write_card
from dw4 import DIM, DIMS, PARTICLES, Energy, FlowMap, Velocity, basis, centre, centred_noise, variance
from onnx64 import jacobian_products

HERE = MODELS / "dw4"
VELOCITY_STEPS, VELOCITY_BATCH = 14_000, 512
# The teacher's trajectories that the map is trained on; CHUNK at a time, INTERVALS steps each.
PLAIN, WITH_JACOBIAN, CHUNK, INTERVALS = 24_576, 8192, 512, 32
MAP_STEPS, MAP_BATCH, MAP_JACOBIANS = 8000, 512, 192
# Weights of the losses of Jacobians and of the cycle.
SLANT, CYCLE = 0.3, 0.3


def checkpoint(name):
    folder = MODELS.parent / "target" / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"dw4-{name}.pt"


def load(cls, name):
    model = cls()
    model.load_state_dict(torch.load(checkpoint(name))["state"])
    return model.eval().requires_grad_(False)


def read(folder, split):
    """The states of a split, centred, in float32."""
    states = np.load(folder / f"dem_{split}_split_DW4.npy", allow_pickle=False)
    assert states.ndim == 2 and states.shape[1] == DIM, f"{split}: shape {states.shape}, expected [N, {DIM}]"
    return torch.from_numpy(centre(states.astype(np.float64)).astype(np.float32))


def draw_time(count, gen):
    """Half uniform, half denser towards the data end, where the field has most to say."""
    u = torch.rand(count, generator=gen)
    return torch.where(torch.rand(count, generator=gen) < 0.5, u, 1 - u * u)


def matching_loss(model, data, gen, count, t):
    """Squared error of the conditional velocity x_1 - eps, sample by sample."""
    x1 = data[torch.randint(len(data), (count,), generator=gen)]
    eps = centred_noise(count, gen)
    x = t[:, None] * x1 + (1 - t[:, None]) * eps
    return (model(x, t) - (x1 - eps)).square().sum(1)


def train_velocity(folder):
    torch.manual_seed(51)
    gen = torch.Generator().manual_seed(52)
    data, val = read(folder, "train"), read(folder, "val")
    model = Velocity()
    average = Average(model, 0.9995)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, betas=(0.9, 0.99))
    began, running = time.time(), 0.0
    for step in range(1, VELOCITY_STEPS + 1):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, VELOCITY_STEPS, 2e-3)
        loss = matching_loss(model, data, gen, VELOCITY_BATCH, draw_time(VELOCITY_BATCH, gen)).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        average.update(model)
        running += (loss.item() - running) / min(step, 1000)
        if step % 1000 == 0:
            with torch.no_grad():
                same = torch.Generator().manual_seed(53)
                held = matching_loss(average.model, val, same, 16384, draw_time(16384, same)).mean().item()
            print(f"velocity {step} loss {running:.4f}, of the validation split {held:.4f}, "
                  f"{time.time() - began:.0f} s, {time.process_time():.0f} CPU s", flush=True)
            torch.save({"state": average.model.state_dict(), "step": step}, checkpoint("velocity"))


def follow(velocity, x, times, jacobian):
    """States (and Jacobians with respect to the start) at `times` [K + 1, N], by one RK4 step from each to the next.

    Jacobians are in the orthonormal basis of the subspace, [6, 6]; every sample has times of its own.
    """
    to = basis().float()
    tangents = to.T[:, None, :].expand(-1, len(x), -1) if jacobian else None

    def slope(state, t):
        x, moved = state
        if moved is None:
            return velocity(x, t), None
        v, products = jacobian_products(lambda y: velocity(y, t), x, moved)
        return v, products

    def add(state, k, h):
        return tuple(None if a is None else a + h[:, None] * b for a, b in zip(state, k))

    state, states, jacobians = (x, tangents), [], []
    for here, there in zip(times[:-1], times[1:]):
        states.append(state)
        h = there - here
        k1 = slope(state, here)
        k2 = slope(add(state, k1, h / 2), here + h / 2)
        k3 = slope(add(state, k2, h / 2), here + h / 2)
        k4 = slope(add(state, k3, h), there)
        for k, weight in ((k1, 1 / 6), (k2, 1 / 3), (k3, 1 / 3), (k4, 1 / 6)):
            state = add(state, k, weight * h)
    states.append(state)
    xs = torch.stack([x for x, _ in states], 1)
    if jacobian:
        # [K + 1, 6, N, 8] -> [N, K + 1, row, column]
        jacobians = torch.einsum("kjnd,di->nkij", torch.stack([moved for _, moved in states]), to)
    return xs, jacobians


def draw_trajectories():
    """The teacher's own trajectories from noise to data, with each sample's times, some with Jacobians."""
    velocity = load(Velocity, "velocity")
    gen = torch.Generator().manual_seed(61)
    kept, began = {}, time.time()
    for name, count in (("plain", PLAIN), ("jacobian", WITH_JACOBIAN)):
        parts = []
        for _ in range(count // CHUNK):
            x = centred_noise(CHUNK, gen)
            ends = torch.zeros(1, CHUNK), torch.ones(1, CHUNK)
            inner = torch.arange(1, INTERVALS)[:, None] + torch.rand((INTERVALS - 1, CHUNK), generator=gen) - 0.5
            times = torch.cat([ends[0], inner / INTERVALS, ends[1]])
            with torch.no_grad():
                xs, jacobians = follow(velocity, x, times, name == "jacobian")
            parts.append((times.T, xs) + ((jacobians,) if name == "jacobian" else ()))
        kept[name] = tuple(torch.cat(arrays) for arrays in zip(*parts))
        print(f"trajectories {name}: {count}, {time.time() - began:.0f} s", flush=True)
    torch.save(kept, checkpoint("trajectories"))


def draw_ends(count, gen):
    """Indices of times (from, to): a third from end to end, the rest anywhere; both directions."""
    ends = torch.randint(0, INTERVALS + 1, (2, count), generator=gen)
    kind = torch.rand(count, generator=gen)
    here = torch.where(kind < 0.35, 0, ends[0])
    there = torch.where(kind < 0.35, INTERVALS, ends[1])
    swap = torch.rand(count, generator=gen) < 0.5
    return torch.where(swap, there, here), torch.where(swap, here, there)


def train_map():
    """Regression on the teacher's flow, in values and in Jacobians, with a cycle.

    The Jacobian's error is measured as |J^-1 J_map e - e|^2 for a random direction e, J the teacher's: what
    matters to a log-density is the relative error, also in directions in which the flow contracts.
    """
    torch.manual_seed(71)
    gen = torch.Generator().manual_seed(72)
    velocity = load(Velocity, "velocity")
    kept = torch.load(checkpoint("trajectories"))
    times, xs = (torch.cat([kept["plain"][i], kept["jacobian"][i]]) for i in range(2))
    jacobians, to = kept["jacobian"][2], basis().float()
    model = FlowMap()
    average = Average(model, 0.999)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, betas=(0.9, 0.99))
    began, cpu, running = time.time(), time.process_time(), np.zeros(3)
    for step in range(1, MAP_STEPS + 1):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, MAP_STEPS, 2e-3)
        # Rows with Jacobians first.
        row = torch.cat([PLAIN + torch.randint(WITH_JACOBIAN, (MAP_JACOBIANS,), generator=gen),
                         torch.randint(len(xs), (MAP_BATCH - MAP_JACOBIANS,), generator=gen)])
        here, there = draw_ends(MAP_BATCH, gen)
        x, y, t, s = xs[row, here], xs[row, there], times[row, here], times[row, there]
        same = here == there
        with torch.no_grad():
            slope = velocity(x, t)
        span = torch.where(same, 1.0, s - t)[:, None]
        want = torch.where(same[:, None], slope, (y - x) / span)
        few = slice(0, MAP_JACOBIANS)
        e = torch.randn((MAP_JACOBIANS, 6), generator=gen)
        u, du = torch.func.jvp(lambda state: model(state, t[few], s[few]), (x[few],), (e @ to.T,))
        u = torch.cat([u, model(x[MAP_JACOBIANS:], t[MAP_JACOBIANS:], s[MAP_JACOBIANS:])])
        value = (u - want).square().sum(1).mean()
        at = row[few] - PLAIN
        moved = e + (s - t)[few, None] * (du @ to)
        back = torch.linalg.solve(jacobians[at, there[few]], moved[:, :, None])
        error = (jacobians[at, here[few]] @ back)[:, :, 0] - e
        # Between two basins of the data the flow's Jacobian has no bound: large errors count linearly.
        slant = (torch.sqrt(1 + error.square().sum(1)) - 1).mean()
        ended = x[MAP_JACOBIANS:] + (s - t)[MAP_JACOBIANS:, None] * u[MAP_JACOBIANS:]
        again = ended + (t - s)[MAP_JACOBIANS:, None] * model(ended, s[MAP_JACOBIANS:], t[MAP_JACOBIANS:])
        cycle = (again - x[MAP_JACOBIANS:]).square().sum(1).mean()
        loss = value + SLANT * slant + CYCLE * cycle
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        average.update(model)
        running += (np.array([value.item(), slant.item(), cycle.item()]) - running) / min(step, 500)
        if step % 500 == 0 or step == MAP_STEPS:
            print(f"map {step}: values {running[0]:.4f}, Jacobians {running[1]:.4f}, cycle {running[2]:.4f}, "
                  f"{time.time() - began:.0f} s, {time.process_time() - cpu:.0f} CPU s", flush=True)
            torch.save({"state": average.model.state_dict(), "step": step}, checkpoint("map"))


def export_all():
    velocity, flow_map, energy = load(Velocity, "velocity"), load(FlowMap, "map"), Energy().eval()
    gen = torch.Generator().manual_seed(81)
    t = torch.tensor([0.0, 0.001, 0.3, 0.5, 0.9, 0.99, 1.0])
    s = torch.tensor([1.0, 0.5, 0.3, 0.0, 0.95, 0.0, 0.0])
    x = torch.sqrt(variance(t))[:, None] * centred_noise(7, gen)
    export(velocity, HERE / "velocity.onnx", (x, t), ("x", "t"), ("v",))
    export(flow_map, HERE / "falcon.onnx", (x, t, s), ("x", "t", "s"), ("u",))
    export(energy, HERE / "energy.onnx", (2 * centred_noise(7, gen),), ("x",), ("u",))
    hashed = lambda file: {"file": file, "sha256": sha256(HERE / file)}
    write_card(HERE / "card.yaml", {
        "name": "dw4",
        "shape": [DIM],
        "network": {
            **hashed("velocity.onnx"), "inputs": {"x": "x", "time": "t"}, "output": "v",
            "prediction": "velocity", "time": {"feed": "t"},
        },
        "path": {"kind": "flow-matching", "data_at": 1, "t_min": 0.0, "t_max": 1.0},
        "prior": {"std": 1.0, "centred": {"particles": PARTICLES, "dims": DIMS}},
        "flow_maps": {"falcon": {
            **hashed("falcon.onnx"), "inputs": {"x": "x", "from": "t", "to": "s"},
            "outputs": {"velocity": "u"}}},
        "energy": {**hashed("energy.onnx"), "input": "x", "output": "u"},
        "provenance": {
            "trained_on": "the DW4 training split of jarridrb/DEM: 100000 states of four particles in the plane",
            "data_licence": "MIT", "steps": VELOCITY_STEPS, "map_steps": MAP_STEPS, "ema": True,
            "licence": "MIT OR Apache-2.0", "script": "scripts/train_dw4.py",
        },
    })


if __name__ == "__main__":
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("parts", nargs="*")
    options = parser.parse_args()
    parts = options.parts or ["velocity", "trajectories", "map", "card"]
    if "velocity" in parts:
        train_velocity(options.data)
    if "trajectories" in parts:
        draw_trajectories()
    if "map" in parts:
        train_map()
    if "card" in parts:
        HERE.mkdir(parents=True, exist_ok=True)
        export_all()
