"""Makes models/posterior: posteriors of two simulators whose true posteriors are known, as conditional flows.

    python scripts/train_posterior.py --task two-moons|linear [train] [export] [data]

One network learns the posteriors of all observations from simulations, which never repeat. Beside it stands the true
posterior: as a density of its own (two-moons), or as the closed form of the card (linear). `data` draws the parameters
and observations that configs/posterior.yaml takes. Both tasks are defined below; they are those of the benchmark sbibm
(Lueckmann et al. 2021). A training can be stopped at any time: the same command goes on at the last checkpoint.
Seeded; one thread; a few minutes.
"""

import argparse
import math
import platform
import shlex
from pathlib import Path

import numpy as np
import torch

from common import MODELS, Average, export, sha256, write_card
from flow_matching import Velocity, draw_time, matching_loss
from mnist import Run
from onnx_graph import DOUBLE, FLOAT, Graph

DECAY = 0.999


class TwoMoons:
    """Two parameters, uniform on [-1, 1]^2. The observation is a point of a thin half circle, moved by the parameters:

        x = (1/4 + r cos a - |u|, r sin a + w),  r ~ N(0.1, 0.01^2),  a uniform on (-pi/2, pi/2),

    with u = (theta_1 + theta_2)/sqrt 2 and w = (theta_2 - theta_1)/sqrt 2, which are theta turned by 45 degrees. The sign
    of u is lost, so that the posterior is two half circles, cut off where they leave the prior's square.
    """

    name, dim, seed = "two-moons", 2, 141
    width, blocks, octaves, steps = 128, 4, (1.0, 2.0, 4.0), 8000
    count = 1000
    covariance = np.eye(2) / 3
    radius, thickness, centre = 0.1, 0.01, 0.25

    def draw(self, count, gen):
        """Parameters and observations, float32."""
        theta = 2 * torch.rand((count, 2), generator=gen) - 1
        r = self.radius + self.thickness * torch.randn(count, generator=gen)
        a = math.pi * (torch.rand(count, generator=gen) - 0.5)
        u, w = self.turned(theta)
        return theta, torch.stack([self.centre + r * torch.cos(a) - u.abs(), r * torch.sin(a) + w], 1)

    @staticmethod
    def turned(theta):
        return (theta[:, 0] + theta[:, 1]) / math.sqrt(2), (theta[:, 1] - theta[:, 0]) / math.sqrt(2)

    @staticmethod
    def grid(radii=16, angles=512):
        """Radii in units of the thickness about the mean, and angles, each of the same probability: midpoints."""
        middle = (np.arange(radii) + 0.5) / radii
        normal = math.sqrt(2) * torch.erfinv(torch.from_numpy(2 * middle - 1)).numpy()
        return normal, math.pi * ((np.arange(angles) + 0.5) / angles - 0.5)

    def write_truth(self, folder):
        """The posterior's log-density as a graph: that of the half circle over the mass which the square leaves of it."""
        g = Graph(DOUBLE)
        part = lambda value, j: g("Gather", value, np.array(j), axis=1)
        root = 1 / math.sqrt(2)
        t1, t2, x1, x2 = part("theta", 0), part("theta", 1), part("observation", 0), part("observation", 1)
        u, w = g("Mul", g("Add", t1, t2), root), g("Mul", g("Sub", t2, t1), root)
        across = g("Sub", g("Add", x1, g("Abs", u)), self.centre)
        along = g("Sub", x2, w)
        square = g("Add", g("Mul", across, across), g("Mul", along, along))
        r = g("Sqrt", square)
        z = g("Mul", g("Sub", r, self.radius), 1 / self.thickness)
        density = g("Sub", g("Mul", g("Mul", z, z), -0.5), g("Log", r))
        density = g("Add", density, -math.log(math.pi * self.thickness * math.sqrt(2 * math.pi)))
        # The mass: the share of the half circle, in both signs of u, whose parameters are inside the square.
        normal, angles = self.grid()
        radii = (self.radius + self.thickness * normal)[:, None]
        points = self.centre + (radii * np.cos(angles)).ravel(), (radii * np.sin(angles)).ravel()
        height = g("Sub", points[0][None], g("Unsqueeze", x1, np.array([1])))
        wide = g("Sub", g("Unsqueeze", x2, np.array([1])), points[1][None])
        # |theta_1| and |theta_2| are both at most 1 where |u| + |w| is at most sqrt 2, for both signs of u alike.
        inside = g("And", g("Greater", height, np.float64(0)),
                   g("LessOrEqual", g("Add", height, g("Abs", wide)), np.float64(math.sqrt(2))))
        mass = g("ReduceMean", g("Cast", inside, to=DOUBLE), np.array([1]), keepdims=0)
        # No less than half a point, so that an observation from outside the prior has finite numbers.
        mass = g("Max", mass, np.float64(0.5 / radii.size / angles.size))
        density = g("Sub", density, g("Log", g("Mul", mass, 2.0)))
        # Outside the half circle's range of angles and outside the square there is no density; e^-1000 stands for none.
        outside = g("Or", g("LessOrEqual", across, np.float64(0)),
                    g("Greater", g("Add", g("Abs", u), g("Abs", w)), np.float64(math.sqrt(2))))
        g("Where", outside, np.float64(-1000.0), density, name="log_density")
        g.save(folder / "two-moons-truth.onnx", {"theta": ["N", 2], "observation": ["N", 2]}, {"log_density": ["N"]})
        write_card(folder / "two-moons-truth.yaml", {
            "kind": "density",
            "name": "two-moons-truth",
            "shape": [2],
            "network": {"file": "two-moons-truth.onnx", "sha256": sha256(folder / "two-moons-truth.onnx"),
                        "inputs": {"x": "theta"}, "conditions": {"observation": {"input": "observation"}},
                        "outputs": {"log_density": "log_density"}},
            "provenance": {"trained_on": "nothing: the posterior of the simulator, its mass by 8192 points",
                           "licence": "MIT OR Apache-2.0", "script": "scripts/train_posterior.py"},
        })
        return {}


class Linear:
    """Ten parameters theta ~ N(0, 0.1 I), observed with noise: x = theta + N(0, 0.1 I). The posterior is N(x/2, 0.05 I)."""

    name, dim, seed = "linear", 10, 151
    width, blocks, octaves, steps = 64, 3, (), 3000
    count = 1000
    variance = noise = 0.1
    covariance = 0.1 * np.eye(10)

    def draw(self, count, gen):
        theta = math.sqrt(self.variance) * torch.randn((count, self.dim), generator=gen)
        return theta, theta + math.sqrt(self.noise) * torch.randn(theta.shape, generator=gen)

    def write_truth(self, folder):
        """The log-density of t theta + (1 - t) eps under an observation, N(t x/2, 0.05 t^2 + (1 - t)^2)."""
        gain = self.variance / (self.variance + self.noise)
        g = Graph(FLOAT)
        t = g.column("t")
        gap = g("Sub", "theta", g("Mul", g("Mul", t, gain), "observation"))
        rest = g("Sub", 1.0, "t")
        variance = g("Add", g("Mul", g("Mul", "t", "t"), gain * self.noise), g("Mul", rest, rest))
        square = g("Div", g.total(g("Mul", gap, gap)), variance)
        spread = g("Mul", g("Add", g("Log", variance), math.log(2 * math.pi)), float(self.dim))
        g("Mul", g("Add", square, spread), -0.5, name="log_density")
        g.save(folder / "linear-truth.onnx", {"theta": ["N", self.dim], "t": ["N"], "observation": ["N", self.dim]},
               {"log_density": ["N"]})
        return {"closed_form": {"file": "linear-truth.onnx", "sha256": sha256(folder / "linear-truth.onnx"),
                                "inputs": {"x": "theta", "time": "t"},
                                "conditions": {"observation": {"input": "observation"}}, "output": "log_density"}}


TASKS = {task.name: task for task in (TwoMoons, Linear)}


def begin(task, args):
    """A training at its first step."""
    torch.manual_seed(task.seed)
    _, seen = task.draw(100_000, torch.Generator().manual_seed(task.seed + 200))
    model = Velocity(task.covariance, args.width, args.blocks, task.octaves, (seen.mean(0), seen.std(0)))
    return Run(f"posterior-{task.name}", model, torch.optim.AdamW(model.parameters(), betas=(0.9, 0.99)),
               Average(model, DECAY), torch.Generator().manual_seed(task.seed + 100), args.checkpoints)


def loss_of(model, task, count, gen):
    theta, seen = task.draw(count, gen)
    t, eps = draw_time(count, gen), torch.randn(theta.shape, generator=gen)
    return matching_loss(model, theta, t, eps, seen).mean()


def train(task, args):
    run = begin(task, args)

    def report(average):
        with torch.no_grad():
            held = loss_of(average, task, 16_384, torch.Generator().manual_seed(5))
        return f"fresh {held:.4f}"

    run.go(args.steps, args.rate, lambda: loss_of(run.model, task, args.batch, run.gen), report, every=args.every)


def export_all(task, args):
    run = begin(task, args)
    run.resume()
    if run.step == 0:
        raise SystemExit(f"{run.path}: there is no training to export")
    args.out.mkdir(parents=True, exist_ok=True)
    t = torch.tensor([0.0, 0.001, 0.3, 0.5, 0.9, 0.999, 1.0])
    theta, seen = task.draw(7, torch.Generator().manual_seed(6))
    state = t[:, None] * theta + (1 - t[:, None]) * torch.randn(theta.shape, generator=torch.Generator().manual_seed(7))
    file = args.out / f"{task.name}.onnx"
    export(run.average.model, file, (state, t, seen), ("theta", "t", "observation"), ("v",))
    truth = task.write_truth(args.out)
    write_card(args.out / f"{task.name}.yaml", {
        "name": f"posterior-{task.name}",
        "shape": [task.dim],
        "network": {"file": file.name, "sha256": sha256(file), "inputs": {"x": "theta", "time": "t"},
                    "conditions": {"observation": {"input": "observation"}}, "output": "v",
                    "prediction": "velocity", "time": {"feed": "t"}},
        "path": {"kind": "flow-matching", "data_at": 1, "t_min": 0.0, "t_max": 1.0},
        "prior": {"std": 1.0},
        **truth,
        "provenance": {
            "trained_on": f"simulations of the task {task.name}, {run.step * args.batch} of them, each used once",
            "steps": run.step,
            "batch": args.batch,
            "ema": DECAY,
            "seeds": [task.seed, task.seed + 100, task.seed + 200],
            "weights": sum(p.numel() for p in run.model.parameters()),
            "hardware": f"{args.hardware or platform.processor() or platform.machine()}, 1 thread",
            "wall_minutes": round(run.seconds / 60, 1),
            "cpu_minutes": round(run.cpu / 60, 1),
            "command": args.command,
            "licence": "MIT OR Apache-2.0",
            "script": "scripts/train_posterior.py",
        },
    })


def write_data(task, args):
    """Parameters of the prior and one observation of each; the true posterior's own draws, therefore."""
    args.out.mkdir(parents=True, exist_ok=True)
    theta, seen = task.draw(task.count, torch.Generator().manual_seed(task.seed + 300))
    np.save(args.out / f"{task.name}-theta.npy", theta.numpy())
    np.save(args.out / f"{task.name}-observations.npy", seen.numpy())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=TASKS, required=True)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--width", type=int)
    parser.add_argument("--blocks", type=int)
    parser.add_argument("--every", type=int, default=250, help="steps between checkpoints")
    parser.add_argument("--hardware", help="the processor's name, for the card")
    parser.add_argument("--checkpoints", type=Path, help="folder of checkpoints; default target/checkpoints")
    parser.add_argument("--out", type=Path, default=MODELS / "posterior")
    parser.add_argument("parts", nargs="*", metavar="PART", help="train, export, data")
    args = parser.parse_args()
    parts = {"train": train, "export": export_all, "data": write_data}
    unknown = set(args.parts) - set(parts)
    if unknown:
        parser.error(f"there is no part {', '.join(sorted(unknown))}; parts are {', '.join(parts)}")
    task = TASKS[args.task]()
    args.command = shlex.join(["python", "scripts/train_posterior.py", "--task", task.name])
    for key in ("steps", "width", "blocks"):
        default = getattr(task, key)
        if getattr(args, key) not in (None, default):
            args.command += f" --{key} {getattr(args, key)}"
        setattr(args, key, getattr(args, key) or default)
    for key in ("batch", "rate"):
        if getattr(args, key) != parser.get_default(key):
            args.command += f" --{key} {getattr(args, key)}"
    torch.set_num_threads(1)
    for name in args.parts or parts:
        parts[name](task, args)


if __name__ == "__main__":
    main()
