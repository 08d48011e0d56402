"""Makes models/protein and models/kin40k: two densities of one table, a flow-matching velocity and a normalizing flow.

    python scripts/train_tabular.py --set protein|kin40k --data FOLDER [velocity] [flow] [export] [heldout]

FOLDER has protein.csv.gz and kin40k.csv.gz of treforevans/uci_datasets, which are checked by their SHA-256. Without
parts it does all four in that order; `heldout` writes the test rows to data/SET-heldout.npy, where configs/tabular.yaml
reads them, and needs no training. Both models see the same z-scored rows. A training can be stopped at any time: the
same command goes on at the last checkpoint. Seeded; one thread; a few minutes.
"""

import argparse
import platform
import shlex
from pathlib import Path

import numpy as np
import torch
from torch import nn

from common import MODELS, ROOT, Average, export, sha256, silu, unpacked, write_card
from flow_matching import Standard, Velocity, distinct_rows, draw_time, matching_loss, rows_at_atoms
from mnist import Run

HASHES = {
    "protein": "f709d0107c3ee90ab019b9e5d77fc2ae182158958cb70b1903236a51334fd01b",
    "kin40k": "9bee7f2a9f39aa61a015f239378368601fb3978c5bb9a96433e88a55d40883ba",
}
SEEDS = {"protein": 121, "kin40k": 131}
DECAY = 0.999
OUTLIER = 10.0                      # rows beyond so many standard deviations are left out


def read(folder, name):
    """The table [N, D] of a set, after a check of its SHA-256."""
    text = unpacked(Path(folder) / f"{name}.csv.gz", HASHES[name]).decode()
    return np.loadtxt(text.splitlines(), delimiter=",", ndmin=2)


def columns_with_a_density(rows):
    """Columns that are no whole-number scale and no near copy of an earlier column."""
    kept = []
    for j, column in enumerate(rows.T):
        whole = len(np.unique(column)) < 0.01 * len(column)
        copied = any(abs(np.corrcoef(column, rows[:, k])[0, 1]) > 0.98 for k in kept)
        if not whole and not copied:
            kept.append(j)
    return kept


class Table:
    """A set in standard preprocessing: `train`, `validation` and `test` as z-scores, and what was done."""

    def __init__(self, rows, seed):
        distinct = distinct_rows(rows)
        atoms = rows_at_atoms(distinct[:, columns_with_a_density(distinct)])
        self.columns = columns_with_a_density(distinct)
        used = distinct[~atoms][:, self.columns]
        used = used[np.random.default_rng(seed).permutation(len(used))]
        test = len(used) // 10
        validation = (len(used) - test) // 10
        parts = np.split(used, [test, test + validation])
        first = Standard(parts[2])
        near = [part[(np.abs(first(part)) <= OUTLIER).all(1)] for part in parts]
        self.standard = Standard(near[2])
        self.test, self.validation, self.train = (torch.from_numpy(self.standard(p)).float() for p in near)
        self.log = (f"{len(rows)} rows, {len(rows) - len(distinct)} repeated, {int(atoms.sum())} at atoms, "
                    f"{len(used) - sum(map(len, near))} outliers; columns {self.columns} of {rows.shape[1]}; "
                    f"{len(self.train)} training, {len(self.validation)} validation, {len(self.test)} test rows; "
                    f"log volume {self.standard.log_volume():.6f}")


class Masked(nn.Linear):
    """A linear layer, some of whose weights are zero for good."""

    def __init__(self, mask):
        super().__init__(mask.shape[1], mask.shape[0])
        self.register_buffer("mask", mask)

    def forward(self, x):
        return x @ (self.weight * self.mask).T + self.bias


class Autoregressive(nn.Module):
    """Means and log-scales of every coordinate, each from the coordinates before it (MADE, Germain et al. 2015)."""

    def __init__(self, dim, width):
        super().__init__()
        inputs, hidden = torch.arange(dim), torch.arange(width) % (dim - 1)
        later = lambda below, above: (above[:, None] >= below[None, :]).float()
        self.first = Masked(later(inputs, hidden))
        self.second = Masked(later(hidden, hidden))
        strictly = (inputs[:, None] > hidden[None, :]).float()
        self.mean, self.scale = Masked(strictly), Masked(strictly)
        for layer in (self.mean, self.scale):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x):
        hidden = silu(self.second(silu(self.first(x))))
        return self.mean(hidden), 4 * torch.tanh(self.scale(hidden) / 4)


class Flow(nn.Module):
    """z and ln |det dz/dx| of a masked autoregressive flow (Papamakarios et al. 2017) behind a whitening of the data.

    The whitening is by eigenvectors of the covariance, which turns the axes, or by its Cholesky factor, by which each
    column is a residual of those before it.
    """

    def __init__(self, covariance, layers, width, whitening="cholesky"):
        super().__init__()
        values, vectors = np.linalg.eigh(covariance)
        if whitening == "eigenvectors":
            whiten = vectors / np.sqrt(values)
        else:
            whiten = np.linalg.inv(np.linalg.cholesky(covariance)).T
        self.register_buffer("whiten", torch.from_numpy(whiten).float())
        self.register_buffer("volume", torch.tensor(-0.5 * np.log(values).sum()).float())
        dim = len(values)
        self.register_buffer("reverse", torch.eye(dim).flip(0))
        self.layers = nn.ModuleList(Autoregressive(dim, width) for _ in range(layers))

    def forward(self, x):
        z = x @ self.whiten
        log_det = 0 * z.sum(1) + self.volume
        for layer in self.layers:
            mean, scale = layer(z)
            z = ((z - mean) * torch.exp(-scale)) @ self.reverse
            log_det = log_det - scale.sum(1)
        return z, log_det

    def log_density(self, x):
        z, log_det = self(x)
        return log_det - 0.5 * z.square().sum(1) - 0.5 * z.shape[1] * np.log(2 * np.pi)


def models(table, args):
    covariance = np.cov(table.train.double().numpy().T)
    return {"velocity": Velocity(covariance, args.width, args.blocks, octaves=(1.0, 2.0)),
            "flow": Flow(covariance, args.layers, args.flow_width, args.whitening)}


def begin(part, table, args):
    """A training at its first step: the run, and a generator of batches of training rows."""
    seed = SEEDS[args.set] + (part == "flow")
    torch.manual_seed(seed)
    gen = torch.Generator().manual_seed(seed + 100)
    model = models(table, args)[part]
    run = Run(f"{args.set}-{part}", model, torch.optim.AdamW(model.parameters(), betas=(0.9, 0.99)),
              Average(model, DECAY), gen, args.checkpoints)
    return run, lambda: table.train[torch.randint(len(table.train), (args.batch,), generator=gen)]


def train_velocity(table, args):
    run, batch = begin("velocity", table, args)
    draw = lambda x1, gen: (draw_time(len(x1), gen), torch.randn(x1.shape, generator=gen))

    def report(average):
        same = torch.Generator().manual_seed(5)
        with torch.no_grad():
            held = matching_loss(average, table.validation, *draw(table.validation, same)).mean()
        return f"validation {held:.4f}"

    def draw_loss():
        x1 = batch()
        return matching_loss(run.model, x1, *draw(x1, run.gen)).mean()

    run.go(args.steps, args.rate, draw_loss, report, every=args.every)
    return run


def train_flow(table, args):
    run, batch = begin("flow", table, args)

    def report(average):
        with torch.no_grad():
            return f"validation {-average.log_density(table.validation).mean():.4f} nats"

    run.go(args.flow_steps, args.rate, lambda: -run.model.log_density(batch()).mean(), report, every=args.every)
    return run


def export_all(table, args):
    folder = args.out or MODELS / args.set
    folder.mkdir(parents=True, exist_ok=True)
    runs = {part: begin(part, table, args)[0] for part in ("velocity", "flow")}
    for run in runs.values():
        run.resume()
        if run.step == 0:
            raise SystemExit(f"{run.path}: there is no training to export")
    t = torch.tensor([0.0, 0.001, 0.3, 0.5, 0.9, 0.999, 1.0])
    x = t[:, None] * table.validation[:7] + (1 - t[:, None]) * torch.randn(
        (7, len(table.columns)), generator=torch.Generator().manual_seed(6))
    export(runs["velocity"].average.model, folder / "velocity.onnx", (x, t), ("x", "t"), ("v",))
    # A flow that is trained stretches narrow directions by orders of magnitude, and rounding with them.
    export(runs["flow"].average.model, folder / "flow.onnx", (table.validation[:7],), ("x",), ("z", "log_det"),
           tolerance=5e-4)
    provenance = lambda part: {
        "trained_on": f"{args.set} of treforevans/uci_datasets (MIT): {table.log}",
        "data_sha256": HASHES[args.set],
        "log_volume": round(table.standard.log_volume(), 6),
        "mean": [float(f"{v:.8g}") for v in table.standard.mean],
        "std": [float(f"{v:.8g}") for v in table.standard.std],
        "steps": runs[part].step,
        "batch": args.batch,
        "ema": DECAY,
        "seeds": [SEEDS[args.set] + (part == "flow"), SEEDS[args.set] + (part == "flow") + 100],
        "weights": sum(p.numel() for p in runs[part].model.parameters()),
        "hardware": f"{args.hardware or platform.processor() or platform.machine()}, 1 thread",
        "wall_minutes": round(runs[part].seconds / 60, 1),
        "cpu_minutes": round(runs[part].cpu / 60, 1),
        "command": args.command,
        "licence": "MIT OR Apache-2.0",
        "script": "scripts/train_tabular.py",
    }
    hashed = lambda file: {"file": file, "sha256": sha256(folder / file)}
    shape = [len(table.columns)]
    write_card(folder / "card.yaml", {
        "name": args.set,
        "shape": shape,
        "network": {**hashed("velocity.onnx"), "inputs": {"x": "x", "time": "t"}, "output": "v",
                    "prediction": "velocity", "time": {"feed": "t"}},
        "path": {"kind": "flow-matching", "data_at": 1, "t_min": 0.0, "t_max": 1.0},
        "prior": {"std": 1.0},
        "provenance": provenance("velocity"),
    })
    write_card(folder / "flow.yaml", {
        "kind": "flow",
        "name": f"{args.set}-maf",
        "shape": shape,
        "network": {**hashed("flow.onnx"), "inputs": {"x": "x"}, "outputs": {"latent": "z", "log_det": "log_det"}},
        "prior": {"std": 1.0},
        "provenance": provenance("flow"),
    })


def write_heldout(table, args):
    folder = args.heldout or ROOT / "data"
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / f"{args.set}-heldout.npy", table.test.numpy())
    print(f"written: {folder.name}/{args.set}-heldout.npy, {tuple(table.test.shape)}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", choices=HASHES, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=12_000, help="of the velocity")
    parser.add_argument("--flow-steps", type=int, default=6000, help="of the normalizing flow")
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--blocks", type=int, default=4)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--flow-width", type=int, default=96)
    parser.add_argument("--whitening", choices=("cholesky", "eigenvectors"), default="cholesky", help="of the normalizing flow")
    parser.add_argument("--every", type=int, default=250, help="steps between checkpoints")
    parser.add_argument("--hardware", help="the processor's name, for the cards")
    parser.add_argument("--checkpoints", type=Path, help="folder of checkpoints; default target/checkpoints")
    parser.add_argument("--out", type=Path, help="folder of the model; default models/SET")
    parser.add_argument("--heldout", type=Path, help="folder of the test rows; default data")
    parser.add_argument("parts", nargs="*", metavar="PART", help="velocity, flow, export, heldout")
    args = parser.parse_args()
    parts = {"velocity": train_velocity, "flow": train_flow, "export": export_all, "heldout": write_heldout}
    unknown = set(args.parts) - set(parts)
    if unknown:
        parser.error(f"there is no part {', '.join(sorted(unknown))}; parts are {', '.join(parts)}")
    args.command = shlex.join(["python", "scripts/train_tabular.py", "--set", args.set, "--data", "FOLDER"])
    changed = {"steps", "flow_steps", "batch", "rate", "width", "blocks", "layers", "flow_width", "whitening"}
    args.command += "".join(f" --{k.replace('_', '-')} {getattr(args, k)}" for k in sorted(changed)
                            if getattr(args, k) != parser.get_default(k))
    torch.set_num_threads(1)
    table = Table(read(args.data, args.set), SEEDS[args.set])
    print(f"{args.set}: {table.log}", flush=True)
    for name in args.parts or parts:
        parts[name](table, args)


if __name__ == "__main__":
    main()
