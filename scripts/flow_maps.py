"""Shared by the scripts that train flow maps: the student, its coordinates, the losses of F2D2, a check.

A flow map takes a state at time t to time s in one evaluation. Beside the average velocity u it predicts
the average divergence D, both in the card's own time and in true units:

    x_s = x_t + (s - t) u(x_t, t, s),        integral of div from t to s = (s - t) D(x_t, t, s).

Everything is learned in coordinates in which Gaussian data do not move. If data were N(m, C), the flow
would carry x_t = m + U k(t) xi with constant xi, where k(t)^2 are the variances at time t. So let xi be the
state, and tau(t) a clock in which the rest is spread evenly. The network learns only

    xi_s = xi_t + (tau_s - tau_t) r(xi_t, t, s),    (tau_s - tau_t) z(xi_t, t, s),

the average velocity and divergence of the flow in these coordinates. The conditions that define a flow map
(semigroup, Lagrangian, Eulerian) do not change under a change of coordinates. So the losses are the
published ones, in (xi, tau). A network of zeros is the exact map of the Gaussian.

F2D2: Ai, He, Gu, Salakhutdinov, Kolter, Boffi, Simchowitz, arXiv 2512.02636.
"""

import time

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import nn

from common import MODELS, Average, learning_rate, scalar, sha256, silu


def log_slope(a, b):
    """(ln a - ln b)/(a - b) for a, b > 0, as exact on the diagonal as off it.

    ln a - ln b = 2 (ln sqrt a - ln sqrt b) and a - b = (sqrt a - sqrt b)(sqrt a + sqrt b): five such
    halvings bring a ratio of 1e6 down to 1.54, where the series of artanh is short.
    """
    slope = 1.0
    for _ in range(5):
        a, b = torch.sqrt(a), torch.sqrt(b)
        slope = slope * 2 / (a + b)
    q = (a - b) / (a + b)
    q2 = q * q
    series = 1 + q2 * (1 / 3 + q2 * (1 / 5 + q2 * (1 / 7 + q2 * (1 / 9))))
    return slope * 2 / (a + b) * series


class TwoTimeTrunk(nn.Module):
    """Residual MLP conditioned on two times by scale and shift; one backbone, two heads."""

    def __init__(self, features, dim, width, blocks, hidden=64, frequencies=(1.0, 2.0, 4.0, 8.0)):
        super().__init__()
        self.register_buffer("frequencies", torch.tensor(frequencies))
        self.embed = nn.Linear(3 * (1 + 2 * len(frequencies)), 32)
        self.first = nn.Linear(features, width)
        self.scales = nn.ModuleList(nn.Linear(32, width) for _ in range(blocks))
        self.shifts = nn.ModuleList(nn.Linear(32, width) for _ in range(blocks))
        self.blocks = nn.ModuleList(nn.Linear(width, width) for _ in range(blocks))
        self.velocity = nn.Linear(width + features, dim)
        self.hidden = nn.Linear(width + features, hidden)
        self.divergence = nn.Linear(hidden, 1)
        for layer in (self.velocity, self.divergence):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        for scale, block in zip(self.scales, self.blocks):
            nn.init.zeros_(scale.weight)
            nn.init.zeros_(scale.bias)
            nn.init.normal_(block.weight, std=(1.0 / width / blocks) ** 0.5)

    def forward(self, features, here, there):
        """`here`, `there`: clocks [N] of about unit size."""
        times = []
        for clock in (here[:, None], there[:, None], (there - here)[:, None]):
            waves = clock * self.frequencies
            times += [clock, torch.sin(waves), torch.cos(waves)]
        emb = silu(self.embed(torch.cat(times, 1)))
        h = self.first(features)
        for block, scale, shift in zip(self.blocks, self.scales, self.shifts):
            h = h + block(silu(h * (1 + scale(emb)) + shift(emb)))
        last = torch.cat([silu(h), features], 1)
        return self.velocity(last), self.divergence(silu(self.hidden(last))).squeeze(1)


class FlowMap(nn.Module):
    """`forward(x, t, s)` is the exported graph: average velocity and average +div, in true units.

    `second` says what the third input is: "to" (the time s itself) or "step" (s - t).
    """

    def __init__(self, frame, trunk, second="to"):
        super().__init__()
        self.frame, self.trunk, self.second = frame, trunk, second

    def averages(self, xi, t, s):
        """Average velocity r [N, D] and divergence z [N] of the flow in the frame, over the clock."""
        raw_r, raw_z = self.trunk(self.frame.features(xi, t), *self.frame.shown(t, s))
        scale_r, scale_z = self.frame.scales(t, s)
        return scale_r * raw_r, scale_z * raw_z

    def forward(self, x, t, s):
        if self.second == "step":
            s = t + s
        frame = self.frame
        xi = frame.into(x, t)
        r, z = self.averages(xi, t, s)
        pace = frame.clock_slope(t, s)
        u = frame.gaussian_velocity(xi, t, s) + frame.out(pace[:, None] * r, s)
        return u, frame.gaussian_divergence(t, s) + pace * z


def load_weights(model, path):
    """Fill `model` with the weights of the ONNX file that was exported from it."""
    kept = {i.name: torch.from_numpy(numpy_helper.to_array(i).copy()) for i in onnx.load(str(path)).graph.initializer}
    state = model.state_dict()
    model.load_state_dict({name: kept[name].reshape(state[name].shape) for name in state})
    return model.eval().requires_grad_(False)


def check_against_file(model, path, arguments):
    """The teacher in torch is the file that users run: largest difference, relative to 1 + |value|."""
    import onnxruntime as ort

    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    got = session.run(None, {i.name: a.numpy() for i, a in zip(session.get_inputs(), arguments)})[0]
    with torch.no_grad():
        want = model(*arguments).numpy()
    gap = float(np.max(np.abs(want - got) / (1 + np.abs(want))))
    print(f"teacher {path.name}: torch and ONNX Runtime differ by {gap:.1e}")
    assert gap < 1e-5


# The losses.  Each returns squared errors [N] of r and z, in units of the frame's scales.
# `teacher(xi, t, probe)` gives w = dxi/dtau and probe' J probe, one Hutchinson sample of div w.
# All of them hold at s = t too, where they are velocity matching and divergence matching.


def squares(frame, t, s, error_r, error_z):
    """The floors keep what is negligible from being learned to the same relative accuracy."""
    scale_r, scale_z = frame.scales(t, s)
    floor_r, floor_z = frame.floor
    return (error_r / (scale_r + floor_r)).square().mean(1), (error_z / (scale_z + floor_z)).square()


def lagrangian(model, teacher, xi, here, there, probe):
    """LSD: d/ds [(s-t) r] = w(X(xi, t, s), s) and d/ds [(s-t) z] = div w(X(xi, t, s), s)."""
    frame = model.frame
    t, s = frame.time(here), frame.time(there)
    (r, z), (dr, dz) = torch.func.jvp(
        lambda clock: model.averages(xi, t, frame.time(clock)), (there,), (torch.ones_like(there),))
    span = (there - here)[:, None]
    with torch.no_grad():
        w, div = teacher(xi + span * r, s, probe)
    return squares(frame, t, s, r + span * dr - w, z + span[:, 0] * dz.detach() - div)


def eulerian(model, teacher, xi, here, there, probe):
    """MeanFlow: r = w + (s-t)(d/dt + w.grad) r at (xi, t), and the same for z with div w."""
    frame = model.frame
    t, s = frame.time(here), frame.time(there)
    span = (there - here)[:, None]
    with torch.no_grad():
        w, div = teacher(xi, t, probe)
        _, (dr, dz) = torch.func.jvp(
            lambda state, clock: model.averages(state, frame.time(clock), s), (xi, here), (w, torch.ones_like(here)))
    r, z = model.averages(xi, t, s)
    return squares(frame, t, s, r - (w + span * dr), z - (div + span[:, 0] * dz))


def shortcut(model, target, teacher, xi, here, there, probe, anchors):
    """Shortcut: a step is two half steps of the averaged student; the first `anchors` rows have s = t
    and are held to the teacher."""
    frame = model.frame
    t, s = frame.time(here), frame.time(there)
    with torch.no_grad():
        w, div = teacher(xi[:anchors], t[:anchors], probe[:anchors])
        start, middle = xi[anchors:], 0.5 * (here + there)[anchors:]
        half = 0.5 * (there - here)[anchors:, None]
        m = frame.time(middle)
        r1, z1 = target.averages(start, t[anchors:], m)
        r2, z2 = target.averages(start + half * r1, m, s[anchors:])
        want_r = torch.cat([w, 0.5 * (r1 + r2)])
        want_z = torch.cat([div, 0.5 * (z1 + z2)])
    r, z = model.averages(xi, t, s)
    return squares(frame, t, s, r - want_r, z - want_z)


def walk(model, x, times):
    """States and log-density change along `times` by the two-time rule: x at the end, sum (s-t) D."""
    total = torch.zeros(len(x), dtype=torch.float64)
    with torch.no_grad():
        for here, there in zip(times[:-1], times[1:]):
            t, s = (torch.full((len(x),), float(v)) for v in (here, there))
            u, d = FlowMap.forward(model, x, t, s if model.second == "to" else s - t)
            x = x + float(there - here) * u
            total += float(there - here) * d.double()
    return x, total


def agreement(truth, log_p, dim):
    """Correlation, bias in bits/dim with its standard error, RMSE in nats, of log p against the truth."""
    gap = log_p - truth
    bits = -gap / (dim * np.log(2))
    return (f"correlation {np.corrcoef(truth, log_p)[0, 1]:.4f} bias {bits.mean():+.4f} +- "
            f"{bits.std() / len(bits) ** 0.5:.4f} rmse {np.sqrt((gap**2).mean()):.3f}")


def train(name, model, draw_loss, steps, peak, checkpoint, report, decay=0.9995, every=1000):
    """Adam, warm-up and cosine, averaged weights; saved with every report.  Returns the average."""
    average = Average(model, decay)
    optimizer = torch.optim.Adam(model.parameters(), lr=peak, betas=(0.9, 0.99))
    began, cpu, running = time.time(), time.process_time(), np.zeros(2)
    for step in range(1, steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, peak)
        loss_r, loss_z = draw_loss(average.model)
        loss = loss_r + loss_z
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        average.update(model)
        running += (np.array([loss_r.item(), loss_z.item()]) - running) / min(step, 500)
        if step % every == 0 or step == steps:
            torch.save({"state": average.model.state_dict(), "step": step}, checkpoint)
            print(f"{name} {step} losses {running.round(4)} {time.time() - began:.0f} s, "
                  f"{time.process_time() - cpu:.0f} CPU s", flush=True)
            report(average.model)
    return average.model


def checkpoint(model_name, map_name, folder=None):
    folder = folder or MODELS.parent / "target" / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{model_name}-{map_name}.pt"


def put_in_card(card, maps):
    """Write the card's `flow_maps` again, before its `provenance`, and leave every other line as it is."""
    lines, inside = [], False
    for line in card.read_text().splitlines():
        inside = line == "flow_maps:" or (inside and line.startswith(" "))
        if not inside:
            lines.append(line)
    entries = [f"  {name}: {scalar(entry)}" for name, entry in maps.items()]
    at = lines.index("provenance:")
    card.write_text("\n".join(lines[:at] + ["flow_maps:"] + entries + lines[at:]) + "\n")


def card_entry(path, inputs):
    """A map's entry, with the file's hash."""
    return {"file": path.name, "sha256": sha256(path), "inputs": inputs,
            "outputs": {"velocity": "velocity", "divergence": "divergence"}, "divergence_scale": 1.0,
            "rule": "two-time"}
