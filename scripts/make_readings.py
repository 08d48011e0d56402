"""Makes tests/data/readings: one Gaussian mixture as networks of several conventions, with their cards.

    python scripts/make_readings.py

The mixture is that of models/mixture (scripts/make_mixture.py). Each graph scales the state x to y = x/alpha,
which is x_0 + r eps with r = sigma/alpha, computes the exact denoiser D(y, r), and turns it into what a network
of that convention would predict, from a time that is fed as such networks have it. Every graph is compared with
float64 at states along its path.
"""

import json

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from common import MODELS, ROOT, save

HERE = ROOT / "tests/data/readings"
SIGMA_DATA = 0.5
BETA_MIN, BETA_MAX, COSINE_S = 0.1, 20.0, 0.008
STEPS = 1000


def mixture():
    found = json.loads((MODELS / "mixture/mixture.json").read_text())
    return tuple(np.array(found[key]) for key in ("weights", "means", "variances"))


def denoiser(y, r):
    """E(x_0 | y) in float64 for y = x_0 + r eps; r has one value per row."""
    weights, means, variances = mixture()
    total = variances[None] + r[:, None] ** 2
    gap = y[:, None] - means[None]
    logs = np.log(weights) - 0.5 * y.shape[1] * np.log(total) - 0.5 * (gap**2).sum(2) / total
    share = np.exp(logs - logs.max(1, keepdims=True))
    share /= share.sum(1, keepdims=True)
    centre = means[None] + (variances[None] / total)[:, :, None] * gap
    return (share[:, :, None] * centre).sum(1)


class Builder:
    """A graph of scalars per row ([N, 1]) and states ([N, D]); a float becomes a constant."""

    def __init__(self):
        self.nodes, self.initializers = [], []

    def constant(self, value):
        name = f"c{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def __call__(self, operator, *inputs, output=None, **attributes):
        names = [i if isinstance(i, str) else self.constant(np.float32(i)) for i in inputs]
        output = output or f"{operator.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, names, [output], **attributes))
        return output

    def denoised(self, y, r):
        """D(y, r); nothing is divided by r."""
        weights, means, variances = mixture()
        f, dim = np.float32, means.shape[1]
        middle = self.constant(np.array([1], np.int64))
        last = self.constant(np.array([-1], np.int64))
        spread = self.constant(variances.astype(f)[None])
        total = self("Add", spread, self("Mul", r, r))
        gap = self("Sub", self("Unsqueeze", y, middle), self.constant(means.astype(f)[None]))
        distance = self("ReduceSum", self("Mul", gap, gap), last, keepdims=0)
        exponent = self("Mul", self("Div", distance, total), 0.5)
        volume = self("Mul", self("Log", total), dim / 2)
        joint = self("Sub", self("Sub", self.constant(np.log(weights).astype(f)[None]), volume), exponent)
        share = self("Unsqueeze", self("Softmax", joint, axis=1), middle)
        shrunk = self("Mul", self("Unsqueeze", self("Div", spread, total), last), gap)
        centre = self("Add", shrunk, self.constant(means.astype(f)[None]))
        return self("Squeeze", self("MatMul", share, centre), middle)

    def save(self, name, time_type):
        inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 8]),
                  helper.make_tensor_value_info("time", time_type, ["N"])]
        outputs = [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["N", 8])]
        graph = helper.make_graph(self.nodes, name, inputs, outputs, self.initializers)
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        save(proto, HERE / f"{name}.onnx")


def column(g):
    return g("Unsqueeze", "time", g.constant(np.array([-1], np.int64)))


def from_alpha_sigma(g, alpha, sigma, prediction):
    """The prediction of a network whose state is alpha x_0 + sigma eps."""
    d = g.denoised(g("Div", "x", alpha), g("Div", sigma, alpha))
    if prediction == "denoised":
        return g("Identity", d, output="out")
    noise = g("Div", g("Sub", "x", g("Mul", alpha, d)), sigma)
    if prediction == "noise":
        return g("Identity", noise, output="out")
    if prediction == "score":
        return g("Neg", g("Div", noise, sigma), output="out")
    if prediction == "v":
        return g("Sub", g("Mul", alpha, noise), g("Mul", sigma, d), output="out")
    return g("Sub", noise, d, output="out")                     # the velocity of data at 0


def vp(g, t):
    log_alpha = g("Add", g("Mul", g("Mul", t, t), -0.25 * (BETA_MAX - BETA_MIN)), g("Mul", t, -0.5 * BETA_MIN))
    alpha = g("Exp", log_alpha)
    return alpha, g("Sqrt", g("Sub", 1.0, g("Mul", alpha, alpha)))


def ddpm(g):
    betas = np.linspace(1e-4, 0.02, STEPS)
    alpha_bar = np.cumprod(1 - betas)
    tables = [g.constant(np.sqrt(v).astype(np.float32)[:, None]) for v in (alpha_bar, 1 - alpha_bar)]
    alpha, sigma = [g("Gather", table, "time", axis=0) for table in tables]
    from_alpha_sigma(g, alpha, sigma, "noise")
    return TensorProto.INT64


def score(g):
    alpha, sigma = vp(g, g("Div", column(g), 999.0))
    from_alpha_sigma(g, alpha, sigma, "score")


def sub_vp(g):
    alpha, sigma = vp(g, column(g))
    from_alpha_sigma(g, alpha, g("Mul", sigma, sigma), "noise")


def v(g):
    def cosine(t):
        return g("Cos", g("Mul", g("Add", t, COSINE_S), np.pi / 2 / (1 + COSINE_S)))
    alpha = g("Div", cosine(column(g)), np.cos(np.pi / 2 * COSINE_S / (1 + COSINE_S)))
    from_alpha_sigma(g, alpha, g("Sqrt", g("Sub", 1.0, g("Mul", alpha, alpha))), "v")


def rectified(g):
    t = g("Div", column(g), 1000.0)
    from_alpha_sigma(g, g("Sub", 1.0, t), g("Mul", t, 1.0), "velocity")


def ve(g):
    sigma = g("Exp", g("Mul", column(g), 4.0))
    from_alpha_sigma(g, g("Add", g("Mul", sigma, 0.0), 1.0), sigma, "score")


def raw(g):
    """F of D = c_skip x + c_out F(c_in x, ln(sigma)/4)."""
    sigma = g("Exp", g("Mul", column(g), 4.0))
    power = g("Add", g("Mul", sigma, sigma), SIGMA_DATA**2)
    root = g("Sqrt", power)
    state = g("Mul", "x", root)
    d = g.denoised(state, sigma)
    rest = g("Sub", d, g("Div", g("Mul", state, SIGMA_DATA**2), power))
    g("Div", rest, g("Div", g("Mul", sigma, SIGMA_DATA), root), output="out")


def truth(name, x, t):
    """What the graph must give in float64 for the state x and the time t, both as they are fed."""
    t = t.astype(np.float64)[:, None]
    x = x.astype(np.float64)

    def vp_alpha(t):
        return np.exp(-0.25 * t**2 * (BETA_MAX - BETA_MIN) - 0.5 * t * BETA_MIN)

    def parts(alpha, sigma):
        d = denoiser(x / alpha, (sigma / alpha)[:, 0])
        return alpha, sigma, d, (x - alpha * d) / sigma

    if name == "ddpm":
        alpha = np.sqrt(np.cumprod(1 - np.linspace(1e-4, 0.02, STEPS)))[t.astype(int)]
        return parts(alpha, np.sqrt(1 - alpha**2))[3]
    if name == "score":
        alpha = vp_alpha(t / 999)
        _, sigma, _, noise = parts(alpha, np.sqrt(1 - alpha**2))
        return -noise / sigma
    if name == "sub_vp":
        alpha = vp_alpha(t)
        return parts(alpha, 1 - alpha**2)[3]
    if name == "v":
        alpha = np.cos(np.pi / 2 * (t + COSINE_S) / (1 + COSINE_S)) / np.cos(np.pi / 2 * COSINE_S / (1 + COSINE_S))
        alpha, sigma, d, noise = parts(alpha, np.sqrt(1 - alpha**2))
        return alpha * noise - sigma * d
    if name == "rectified":
        _, _, d, noise = parts(1 - t / 1000, t / 1000)
        return noise - d
    sigma = np.exp(4 * t)
    if name == "ve":
        return -parts(np.ones_like(sigma), sigma)[3] / sigma
    power = sigma**2 + SIGMA_DATA**2
    state = x * np.sqrt(power)
    d = denoiser(state, sigma[:, 0])
    return (d - SIGMA_DATA**2 / power * state) / (sigma * SIGMA_DATA / np.sqrt(power))


GRAPHS = {"ddpm": ddpm, "score": score, "sub_vp": sub_vp, "v": v, "rectified": rectified, "ve": ve, "raw": raw}
TIMES = {"ddpm": (50, 950), "score": (50, 950), "sub_vp": (0.05, 0.95), "v": (0.05, 0.95),
         "rectified": (20, 980), "ve": (-0.7, 0.9), "raw": (-0.7, 0.9)}
CARDS = {
    "ddpm": "prediction: noise}\npath: {kind: discrete, betas: {linear: [1.0e-4, 0.02]}, steps: 1000}",
    "score": "prediction: score, time: {feed: t, scale: 999}}\npath: {kind: vp}",
    "sub_vp": "prediction: noise}\npath: {kind: sub-vp}",
    "v": "prediction: v}\npath: {kind: cosine}",
    "rectified": "prediction: velocity, time: {feed: t, scale: 1000}}\n"
                 "path: {kind: flow-matching, data_at: 0, t_min: 0.001, t_max: 0.999}",
    "ve": "prediction: score, time: {feed: log-sigma-over-4}}\npath: {kind: ve}",
    "raw": "prediction: denoised, preconditioning: {edm: {sigma_data: 0.5}}}\n"
           "path: {kind: edm, sigma_min: 0.02, sigma_max: 80}",
}


def main():
    HERE.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(20261129)
    for name, build in GRAPHS.items():
        g = Builder()
        kind = build(g) or TensorProto.FLOAT
        g.save(name, kind)
        (HERE / f"{name}.yaml").write_text(
            f"name: {name.replace('_', '-')}\nshape: [8]\n"
            f"network: {{file: {name}.onnx, inputs: {{x: x, time: time}}, output: out,\n          {CARDS[name]}\n")
        dtype = np.int64 if kind == TensorProto.INT64 else np.float32
        t = np.linspace(*TIMES[name], 64).astype(dtype)
        x = rng.normal(0, 1, (64, 8)).astype(np.float32)
        session = ort.InferenceSession(str(HERE / f"{name}.onnx"), providers=["CPUExecutionProvider"])
        got = session.run(["out"], {"x": x, "time": t})[0]
        want = truth(name, x, t)
        gap = float(np.max(np.abs(got - want) / (1 + np.abs(want))))
        print(f"{name}: largest difference from float64 {gap:.1e} (relative to 1 + |value|)")
        assert gap < 1e-3, name


if __name__ == "__main__":
    main()
