"""Writes tests/data/ports: one Gaussian in graphs as exporters leave them.

    python scripts/make_ports.py

The data are N(m, diag v) over [2,2,3], different at every number. `data.npy` holds 64 samples, `noise.npy` as many
draws of a standard normal, and truth.npz what follows from them, in float64, by path:

    log_p_KIND    log-densities of the ODE from the data end to the prior end, with the card's prior, in closed form
    samples_KIND  the ends of the ODE from the prior end, std * noise, to the data end
    log_p_mixed   of `discrete` where a network is evaluated at the two indices around a time and mixed, as it must be
                  with whole indices; integrated by RK4 in 32 steps between indices (`mixed_error`: against 16)

    on `discrete` (100 steps, beta linear from 0.001 to 0.2), noise:
    plain         the index as float [N], ln(alpha) linear between indices
    column, scalar, one                          the same with the index as [N,1], [], [1]
    index, index_column, index_scalar            int64 [N], [N,1], [], sigma from a table
    batch8, batch8_index                         a baked batch of eight
    half, double                                 float16 and float64 throughout
    nhwc          channels last: the state is [2,3,2] (data_nhwc.npy)
    variances, variances_first                   the output has twice the channels; the prediction is one half
    several       four outputs, of which the third is the noise
    baked, unused                                a time input of no effect: to be refused

    on others:
    vp999         vp, noise, of 999 t
    flow1000, flow1000_index                     flow matching (data at 0), velocity, of 1000 t as float and int64
    unscaled      a card that feeds t in [0, 1] to the int64 input: to be refused
    endpoint      flow matching, a map (x, t, s) to the state at s
    consistency   edm, a map (x, sigma) to the state at sigma_min
"""

import numpy as np
import onnxruntime as ort

from common import ROOT
from onnx_graph import DOUBLE, FLOAT, HALF, WHOLE, Graph

HERE = ROOT / "tests/data/ports"
SHAPE, N = [2, 2, 3], 64
STEPS, ENDS = 100, (1e-3, 0.2)
BETAS, T_MIN = (0.1, 20.0), 1e-3
FLOW = (0.001, 0.999)
EDM = (0.02, 20.0)
LOG_ALPHA = 0.5 * np.cumsum(np.log1p(-np.linspace(*ENDS, STEPS)))
PLACE = np.arange(12).reshape(SHAPE)
MEAN, VARIANCE = (PLACE % 7 - 3) / 4, (1 + PLACE % 5) / 8      # exact in float16


# ---------------------------------------------------------------- paths and truth

def discrete(t):
    """alpha, sigma and their derivatives at (index + 1) / steps, ln(alpha) linear between indices."""
    i = int(np.clip(np.floor(t * STEPS - 1), 0, STEPS - 2))
    slope = (LOG_ALPHA[i + 1] - LOG_ALPHA[i]) * STEPS
    log_alpha = LOG_ALPHA[i] + slope * (t - (i + 1) / STEPS)
    alpha, sigma = np.exp(log_alpha), np.sqrt(-np.expm1(2 * log_alpha))
    return alpha, sigma, slope * alpha, -slope * alpha**2 / sigma


def vp(t):
    gap = BETAS[1] - BETAS[0]
    log_alpha, slope = -0.25 * t * t * gap - 0.5 * t * BETAS[0], -0.5 * (BETAS[0] + t * gap)
    alpha, sigma = np.exp(log_alpha), np.sqrt(-np.expm1(2 * log_alpha))
    return alpha, sigma, slope * alpha, -slope * alpha**2 / sigma


# The coefficients, the data end, the prior end and the prior's deviation.
PATHS = {
    "discrete": (discrete, 1 / STEPS, 1.0, 1.0),
    "vp": (vp, T_MIN, 1.0, 1.0),
    "flow": (lambda t: (1 - t, t, -1.0, 1.0), *FLOW, 1.0),
    "edm": (lambda t: (1.0, t, 0.0, 1.0), *EDM, EDM[1]),
}


def move(kind, x, t, s):
    """The state at s that is x at t, and half the log-determinant per number."""
    (a, b), (c, d) = PATHS[kind][0](t)[:2], PATHS[kind][0](s)[:2]
    spread = (c**2 * VARIANCE + d**2) / (a**2 * VARIANCE + b**2)
    return c * MEAN + np.sqrt(spread) * (x - a * MEAN), 0.5 * np.log(spread).sum()


def prior(x, std):
    flat = x.reshape(len(x), -1) / std
    return -0.5 * (flat**2).sum(1) - flat.shape[1] * np.log(std * np.sqrt(2 * np.pi))


def noise_at(x, alpha, sigma):
    return sigma * (x - alpha * MEAN) / (alpha**2 * VARIANCE + sigma**2)


def mixed_noise(x, t):
    """The noise prediction at the two indices around t, mixed in proportion."""
    index = t * STEPS - 1
    low = int(np.clip(np.floor(index), 0, STEPS - 2))
    ends = [noise_at(x, np.exp(LOG_ALPHA[i]), np.sqrt(-np.expm1(2 * LOG_ALPHA[i]))) for i in (low, low + 1)]
    return ends[0] + (index - low) * (ends[1] - ends[0])


def follow(kind, prediction, network, x, times):
    """log p by RK4 over `times`, for networks that are affine in every number separately."""
    at, _, _, std = PATHS[kind]

    def velocity(x, t):
        alpha, sigma, da, ds = at(t)
        of = network(x, t)
        return of if prediction == "velocity" else da / alpha * x + (ds - da * sigma / alpha) * of

    def field(x, t):
        v = velocity(x, t)
        return v, (velocity(x + 1, t) - v).reshape(len(x), -1).sum(1)

    volume = np.zeros(len(x))
    for t, s in zip(times, times[1:]):
        h = s - t
        e = 1e-9 * h                                 # within the interval, where ln(alpha) has no kink
        v1, d1 = field(x, t + e)
        v2, d2 = field(x + h / 2 * v1, t + h / 2)
        v3, d3 = field(x + h / 2 * v2, t + h / 2)
        v4, d4 = field(x + h * v3, s - e)
        x = x + h / 6 * (v1 + 2 * v2 + 2 * v3 + v4)
        volume = volume + h / 6 * (d1 + 2 * d2 + 2 * d3 + d4)
    return prior(x, std) + volume


def indices(parts):
    return np.arange((STEPS - 1) * parts + 1) / (parts * STEPS) + 1 / STEPS


# ---------------------------------------------------------------- graphs

def wide(g, t):
    """A column of numbers [N] or a number [] over the state."""
    return g("Reshape", t, np.array([-1, 1, 1, 1]))


def predict(g, alpha, sigma, x="x", mean=MEAN, variance=VARIANCE):
    """eps = sigma (x - alpha m) / (alpha^2 v + sigma^2)."""
    spread = g("Add", g("Mul", g("Mul", alpha, alpha), variance), g("Mul", sigma, sigma))
    return g("Mul", sigma, g("Div", g("Sub", x, g("Mul", alpha, mean)), spread))


def between(g, t):
    """alpha and sigma at a float index: ln(alpha) linear between the entries of its table."""
    low = g("Floor", g("Clip", t, g.constant(0.0), g.constant(STEPS - 2.0)))
    first = g("Cast", low, to=WHOLE)
    here, there = g("Gather", LOG_ALPHA, first), g("Gather", LOG_ALPHA[1:], first)
    log_alpha = g("Add", here, g("Mul", g("Sub", t, low), g("Sub", there, here)))
    alpha = g("Exp", log_alpha)
    return alpha, g("Sqrt", g("Sub", 1.0, g("Mul", alpha, alpha)))


def table(g, t):
    """alpha and sigma at a whole index."""
    alpha = np.exp(LOG_ALPHA)
    return g("Gather", alpha, t), g("Gather", np.sqrt(1 - alpha**2), t)


def write(name, time, kind=FLOAT, whole=False, batch="N", layout=None, finish=None, outputs=None, take=None):
    g = Graph(kind)
    alpha, sigma = (take or (table if whole else between))(g, "t")
    mean, variance, shape = MEAN, VARIANCE, SHAPE
    if layout:
        mean, variance = MEAN.transpose(layout), VARIANCE.transpose(layout)
        shape = list(mean.shape)
    noise = predict(g, wide(g, alpha), wide(g, sigma), mean=mean, variance=variance)
    state = [batch, *shape]
    (finish or (lambda g, noise: g("Identity", noise, name="noise")))(g, noise)
    g.save(HERE / f"{name}.onnx", {"x": state, "t": (WHOLE if whole else kind, time)},
           outputs or {"noise": state})


def twice(first):
    """Noise and what a learned variance could be, along the channels."""
    def finish(g, noise):
        other = g("Tanh", g("Mul", "x", 3.0))
        g("Concat", *((noise, other) if first else (other, noise)), axis=1, name="noise")
    return finish


def several(g, noise):
    g("Mul", g("ReduceSum", "x", np.array([1, 2, 3]), keepdims=0), 0.5, name="energy")
    g("Mul", "x", 7.0, name="hidden")
    g("Identity", noise, name="noise")
    g("Sub", "x", noise, name="rest")


def constant_time(used):
    """The noise level of index 40 whatever the time: an export that took the time for a constant."""
    def take(g, t):
        index = g("Mul", t, 0.0) if used else g("Mul", g("ReduceMean", "x", np.array([1, 2, 3]), keepdims=0), 0.0)
        return between(g, g("Add", index, 40.0))
    return take


def write_discrete():
    write("plain", ["N"])
    write("column", ["N", 1])
    write("scalar", [])
    write("one", [1])
    write("index", ["N"], whole=True)
    write("index_column", ["N", 1], whole=True)
    write("index_scalar", [], whole=True)
    write("batch8", [8], batch=8)
    write("batch8_index", [], batch=8, whole=True)
    write("half", ["N"], kind=HALF)
    write("double", ["N"], kind=DOUBLE)
    write("nhwc", ["N"], layout=(1, 2, 0))
    both = ["N", 2 * SHAPE[0], *SHAPE[1:]]
    write("variances", ["N"], finish=twice(True), outputs={"noise": both})
    write("variances_first", ["N"], finish=twice(False), outputs={"noise": both})
    state = ["N", *SHAPE]
    write("several", ["N"], finish=several,
          outputs={"energy": ["N"], "hidden": state, "noise": state, "rest": state})
    write("baked", ["N"], take=constant_time(True))
    write("unused", ["N"], take=constant_time(False))


def write_others():
    state = ["N", *SHAPE]
    g = Graph()
    t = g("Div", "t", 999.0)
    log_alpha = g("Add", g("Mul", g("Mul", t, t), -0.25 * (BETAS[1] - BETAS[0])), g("Mul", t, -0.5 * BETAS[0]))
    alpha = g("Exp", log_alpha)
    sigma = g("Sqrt", g("Sub", 1.0, g("Exp", g("Mul", log_alpha, 2.0))))
    g("Identity", predict(g, wide(g, alpha), wide(g, sigma)), name="noise")
    g.save(HERE / "vp999.onnx", {"x": state, "t": ["N"]}, {"noise": state})

    for name, whole in (("flow1000", False), ("flow1000_index", True)):
        g = Graph()
        t = g("Div", g("Cast", "t", to=FLOAT) if whole else "t", 1000.0)
        sigma = wide(g, t)
        alpha = g("Sub", 1.0, sigma)
        spread = g("Add", g("Mul", g("Mul", alpha, alpha), VARIANCE), g("Mul", sigma, sigma))
        slope = g("Div", g("Sub", sigma, g("Mul", alpha, VARIANCE)), spread)
        g("Sub", g("Mul", slope, g("Sub", "x", g("Mul", alpha, MEAN))), MEAN, name="velocity")
        g.save(HERE / f"{name}.onnx", {"x": state, "t": (WHOLE if whole else FLOAT, ["N"])}, {"velocity": state})

    g = Graph()                                      # the state at s of the flow that is at x at t
    ends = []
    for name in ("t", "s"):
        sigma = wide(g, name)
        alpha = g("Sub", 1.0, sigma)
        ends.append((alpha, g("Add", g("Mul", g("Mul", alpha, alpha), VARIANCE), g("Mul", sigma, sigma))))
    (a, here), (b, there) = ends
    away = g("Mul", g("Sqrt", g("Div", there, here)), g("Sub", "x", g("Mul", a, MEAN)))
    g("Add", away, g("Mul", b, MEAN), name="end")
    g.save(HERE / "endpoint.onnx", {"x": state, "t": ["N"], "s": ["N"]}, {"end": state})

    for name, output in (("consistency", "end"), ("denoiser", "denoised")):
        g = Graph()
        spread = g("Add", g("Mul", wide(g, "sigma"), wide(g, "sigma")), VARIANCE)
        gain = g("Div", VARIANCE, spread) if name == "denoiser" else g("Sqrt", g("Div", VARIANCE + EDM[0]**2, spread))
        g("Add", g("Mul", gain, g("Sub", "x", MEAN)), MEAN, name=output)
        g.save(HERE / f"{name}.onnx", {"x": state, "sigma": ["N"]}, {output: state})


# ---------------------------------------------------------------- cards

PATH_LINES = {
    "discrete": f"path: {{kind: discrete, betas: {{linear: [{ENDS[0]}, {ENDS[1]}]}}, steps: {STEPS}}}",
    "vp": f"path: {{kind: vp, beta_min: {BETAS[0]}, beta_max: {BETAS[1]}, t_min: {T_MIN}}}",
    "flow": f"path: {{kind: flow-matching, data_at: 0, t_min: {FLOW[0]}, t_max: {FLOW[1]}}}",
    "edm": f"path: {{kind: edm, sigma_min: {EDM[0]}, sigma_max: {EDM[1]}}}",
}


def card(name, path="discrete", file=None, output="noise", prediction="noise", time=None, more=(), shape=SHAPE,
         inputs="{x: x, time: t}", rest=()):
    lines = [f"name: ports-{name}".replace("_", "-"), f"shape: {shape}", "network:", f"  file: {file or name}.onnx",
             f"  inputs: {inputs}", f"  output: {output}", f"  prediction: {prediction}"]
    lines += [f"  time: {time}"] if time else []
    lines += [f"  {line}" for line in more] + [PATH_LINES[path], *rest]
    (HERE / f"{name}.yaml").write_text("\n".join(lines) + "\n")


def write_cards():
    for name in ("plain", "column", "scalar", "one", "half", "double", "several", "baked", "unused"):
        card(name)
    mixing = "{feed: index, interpolate: true}"
    for name in ("index", "index_column", "index_scalar"):
        card(name, time=mixing)
    card("index_whole", file="index", time="{feed: index, interpolate: false}")
    card("batch8", more=["batch: 8"])
    card("batch8_index", time=mixing, more=["batch: 8"])
    card("nhwc", shape=[2, 3, 2])
    card("variances", more=["channels: [0, 2]"])
    card("variances_first", more=["channels: [2, 4]"])
    card("vp999", "vp", time="{feed: t, scale: 999}")
    flow = {"path": "flow", "output": "velocity", "prediction": "velocity"}
    card("flow1000", **flow, time="{feed: t, scale: 1000}")
    card("flow1000_index", **flow, time="{feed: t, scale: 1000, interpolate: true}")
    card("unscaled", **flow, file="flow1000_index", time="{feed: t, interpolate: true}")
    end = "outputs: {endpoint: end}"
    card("endpoint", **flow, file="flow1000", time="{feed: t, scale: 1000}", rest=[
        "flow_maps:", f"  endpoint: {{file: endpoint.onnx, inputs: {{x: x, from: t, to: s}}, time: {{feed: t}}, {end}}}"])
    card("consistency", "edm", file="denoiser", output="denoised", prediction="denoised",
         inputs="{x: x, time: sigma}", rest=[
             "flow_maps:",
             f"  consistency: {{file: consistency.onnx, inputs: {{x: x, from: sigma}}, {end}, direction: to-data}}"])


# ---------------------------------------------------------------- the check

def session(name):
    return ort.InferenceSession(str(HERE / f"{name}.onnx"), providers=["CPUExecutionProvider"])


def network(name, layout=None, half=None):
    """The graph as a function of one time, in chunks of eight; whole indices are mixed."""
    run = session(name)
    port = {i.name: i for i in run.get_inputs()}
    kind = {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(float16)": np.float16}
    x_kind, t_kind = kind[port["x"].type], kind.get(port["t"].type, np.int64)

    def one(x, value):
        shape = [8 if isinstance(n, str) else n for n in port["t"].shape]
        chunks = []
        for rows in x.reshape(-1, 8, *x.shape[1:]):
            rows = rows.transpose(0, *(1 + np.array(layout))) if layout else rows
            feeds = {"x": rows.astype(x_kind), "t": np.full(shape, value, t_kind)}
            out = run.run(["noise" if not name.startswith("flow") else "velocity"], feeds)[0].astype(float)
            out = out[:, :2] if half == 0 else out[:, 2:] if half == 1 else out
            chunks.append(out.transpose(0, 3, 1, 2) if layout else out)
        return np.concatenate(chunks)

    def of(x, t):
        value = {"vp999": 999 * t, "flow1000": 1000 * t, "flow1000_index": 1000 * t}.get(name, t * STEPS - 1)
        if t_kind is not np.int64:
            return one(x, value)
        low = int(np.floor(value))
        low = min(low, STEPS - 2) if not name.startswith("flow") else low
        first = one(x, low)
        return first + (value - low) * (one(x, low + 1) - first)
    return of


def check(x, truth):
    def close(name, got, want, tolerance):
        gap = float((np.abs(got - want) / (1 + np.abs(want))).max())
        print(f"{name}: {gap:.1e} relative to 1 + |value|")
        assert gap < tolerance, name

    times = indices(2)
    small = x[:8]
    for name, options, tolerance in [
            ("plain", {}, 1e-5), ("column", {}, 1e-5), ("scalar", {}, 1e-5), ("one", {}, 1e-5), ("batch8", {}, 1e-5),
            ("double", {}, 1e-6), ("half", {}, 3e-2), ("several", {}, 1e-5), ("nhwc", {"layout": (1, 2, 0)}, 1e-5),
            ("variances", {"half": 0}, 1e-5), ("variances_first", {"half": 1}, 1e-5)]:
        got = follow("discrete", "noise", network(name, **options), small, times)
        close(name, got, truth["log_p_discrete"][:8], tolerance)
    for name in ("index", "index_column", "index_scalar", "batch8_index"):
        close(name, follow("discrete", "noise", network(name), small, times), truth["log_p_mixed"][:8], 1e-5)
    grid = T_MIN + (1 - T_MIN) * np.linspace(0, 1, 401) ** 2
    close("vp999", follow("vp", "noise", network("vp999"), small, grid), truth["log_p_vp"][:8], 1e-5)
    grid = np.linspace(*FLOW, 400)
    for name, tolerance in (("flow1000", 1e-5), ("flow1000_index", 1e-4)):
        close(name, follow("flow", "velocity", network(name), small, grid), truth["log_p_flow"][:8], tolerance)
    n = truth["noise"]
    times = {k: np.full(N, v, np.float32) for k, v in (("t", FLOW[1]), ("s", FLOW[0]), ("sigma", EDM[1]))}
    end = session("endpoint").run(None, {"x": n.astype(np.float32), "t": times["t"], "s": times["s"]})[0]
    close("endpoint", end, truth["samples_flow"], 1e-5)
    x_end = (EDM[1] * n).astype(np.float32)
    close("consistency", session("consistency").run(None, {"x": x_end, "sigma": times["sigma"]})[0],
          truth["samples_edm"], 1e-5)


def main():
    HERE.mkdir(parents=True, exist_ok=True)
    write_discrete()
    write_others()
    write_cards()
    rng = np.random.default_rng(17)
    x = (MEAN + np.sqrt(VARIANCE) * rng.normal(size=(N, *SHAPE))).astype(np.float32).astype(float)
    noise = rng.normal(size=(N, *SHAPE)).astype(np.float32).astype(float)
    truth = {"x": x, "noise": noise, "mean": MEAN, "variance": VARIANCE}
    for kind, (_, data_end, prior_end, std) in PATHS.items():
        end, volume = move(kind, x, data_end, prior_end)
        truth[f"log_p_{kind}"] = prior(end, std) + volume
        truth[f"samples_{kind}"] = move(kind, std * noise, prior_end, data_end)[0]
    plain = follow("discrete", "noise", lambda x, t: noise_at(x, *discrete(t)[:2]), x, indices(32))
    print(f"RK4 against the closed form: {np.abs(plain - truth['log_p_discrete']).max():.1e}")
    truth["log_p_mixed"] = follow("discrete", "noise", mixed_noise, x, indices(32))
    truth["mixed_error"] = np.abs(truth["log_p_mixed"] - follow("discrete", "noise", mixed_noise, x, indices(16))).max()
    print(f"mixed indices: RK4 within {truth['mixed_error']:.1e}; "
          f"{np.abs(truth['log_p_mixed'] - truth['log_p_discrete']).max():.3f} nats from the exact field")
    np.savez(HERE / "truth.npz", **truth)
    np.save(HERE / "data.npy", x.astype(np.float32))
    np.save(HERE / "data_nhwc.npy", x.transpose(0, 2, 3, 1).astype(np.float32))
    np.save(HERE / "noise.npy", noise.astype(np.float32))
    check(x, truth)


if __name__ == "__main__":
    main()
