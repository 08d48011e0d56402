"""Makes tests/data/closed_forms: tiny ONNX graphs of cases whose likelihoods are known.

    python scripts/make_closed_forms.py

Each graph is written operator by operator in float32, so it differs from the formulas only by rounding.
The tests compute the formulas themselves, in float64, from the numbers in `closed_forms.json`.

    gaussian   N(m, U diag(c) U^T) on edm, a denoiser; a second output is the trace of its Jacobian
    flow       the same distribution on flow matching, a velocity
    product    three independent two-component mixtures on the line, rotated by U, on edm, a denoiser
    dirac      two points +a and -a on edm, a denoiser: a tanh(a.x / sigma^2)
    linear     dx/dt = (1 + t) A x + b with a nonsymmetric A, data at t = 0
    raw        a small random network F to be wrapped as EDM does, and `inside` with the wrapping in the graph
"""

import json

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from common import ROOT, save

HERE = ROOT / "tests/data/closed_forms"
D = 3
SIGMA_MIN, SIGMA_MAX = 0.02, 20.0


class Graph:
    """A graph of x [N,3] and one time [N]: constants by value, nodes by operator."""

    def __init__(self, time):
        self.time, self.nodes, self.constants = time, [], {}

    def constant(self, value, kind=np.float32):
        name = f"c{len(self.constants)}"
        self.constants[name] = numpy_helper.from_array(np.asarray(value, kind), name)
        return name

    def __call__(self, operator, *inputs, name=None, **attributes):
        inputs = [i if isinstance(i, str) else self.constant(i) for i in inputs]
        output = name or f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [output], name=output, **attributes))
        return output

    def column(self, value):
        return self("Unsqueeze", value, self.constant([-1], np.int64))

    def total(self, value, name=None):
        return self("ReduceSum", value, self.constant([-1], np.int64), keepdims=0, name=name)

    def save(self, name, outputs):
        def port(n, shape):
            return helper.make_tensor_value_info(n, TensorProto.FLOAT, shape)
        shape = {"divergence": ["N"], "trace": ["N"]}
        graph = helper.make_graph(
            self.nodes, name, [port("x", ["N", D]), port(self.time, ["N"])],
            [port(o, shape.get(o, ["N", D])) for o in outputs], list(self.constants.values()))
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        save(proto, HERE / f"{name}.onnx")


def gaussian(u, c, m):
    g = Graph("sigma")
    square = g.column(g("Mul", "sigma", "sigma"))
    gain = g("Div", c, g("Add", square, c))                       # c / (c + sigma^2)
    turned = g("MatMul", g("Sub", "x", m), u)
    g("Add", g("MatMul", g("Mul", turned, gain), u.T), m, name="denoised")
    g.total(gain, name="trace")
    g.save("gaussian", ["denoised", "trace"])


def flow(u, c, m):
    g = Graph("t")
    t = g.column("t")
    alpha = g("Sub", np.float32(1), t)
    spread = g("Add", g("Mul", g("Mul", alpha, alpha), c), g("Mul", t, t))
    slope = g("Div", g("Sub", t, g("Mul", alpha, c)), spread)     # (alpha alpha' c + sigma sigma') / S
    turned = g("MatMul", g("Sub", "x", g("Mul", alpha, m)), u)
    g("Sub", g("MatMul", g("Mul", turned, slope), u.T), m, name="velocity")
    g.total(slope, name="divergence")
    g.save("flow", ["velocity", "divergence"])


def product(u, w, m, c):
    """Per coordinate y of x U: r = softmax over two components, D = sum r (m + c (y - m) / (c + sigma^2))."""
    g = Graph("sigma")
    square = g.column(g.column(g("Mul", "sigma", "sigma")))       # [N,1,1]
    spread = g("Add", c[None, None], square)                      # [N,1,2]
    y = g.column(g("MatMul", "x", u))                             # [N,D,1]
    gap = g("Sub", y, m[None, None])                              # [N,D,2]
    exponent = g("Div", g("Mul", g("Mul", gap, gap), np.float32(-0.5)), spread)
    peak = g("Sub", np.log(w)[None, None], g("Mul", g("Log", spread), np.float32(0.5)))
    r = g("Softmax", g("Add", exponent, peak), axis=-1)
    mean = g("Add", g("Mul", g("Div", c[None, None], spread), gap), m[None, None])
    g("MatMul", g.total(g("Mul", r, mean)), u.T, name="denoised")
    g.save("product", ["denoised"])


def dirac(a):
    g = Graph("sigma")
    square = g.column(g("Mul", "sigma", "sigma"))
    g("Mul", g("Tanh", g("Div", g("MatMul", "x", a[:, None]), square)), a, name="denoised")
    g.save("dirac", ["denoised"])


def linear(a, b):
    g = Graph("t")
    scale = g("Add", g.column("t"), np.float32(1))
    g("Add", g("Mul", g("MatMul", "x", a.T), scale), b, name="velocity")
    g.save("linear", ["velocity"])


def wrapped(rng, sigma_data):
    first = rng.normal(0, 0.6, (D + 1, 16))
    last = rng.normal(0, 0.3, (16, D))

    def network(g, x, noise):
        seen = g("Concat", x, g.column(noise), axis=-1)
        return g("MatMul", g("Tanh", g("MatMul", seen, first)), last)

    g = Graph("noise")
    g("Identity", network(g, "x", "noise"), name="output")
    g.save("raw", ["output"])

    g = Graph("sigma")
    square = g.column(g("Mul", "sigma", "sigma"))
    power = g("Add", square, np.float32(sigma_data**2))
    root = g("Sqrt", power)
    skip = g("Div", np.float32(sigma_data**2), power)
    out = g("Div", g("Mul", g.column("sigma"), np.float32(sigma_data)), root)
    noise = g("Mul", g("Log", "sigma"), np.float32(0.25))
    f = network(g, g("Div", "x", root), noise)
    g("Add", g("Mul", skip, "x"), g("Mul", out, f), name="denoised")
    g.save("inside", ["denoised"])


CARDS = {
    "gaussian": f"""name: gaussian
shape: [{D}]
network: {{file: gaussian.onnx, inputs: {{x: x, time: sigma}}, output: denoised, prediction: denoised,
          time: {{feed: sigma}}}}
path: {{kind: edm, sigma_min: {SIGMA_MIN}, sigma_max: {SIGMA_MAX}}}
divergence_heads:
  joint: {{file: gaussian.onnx, inputs: {{x: x, time: sigma}}, output: trace, parametrization: denoiser-trace}}
  apart: {{file: ./gaussian.onnx, inputs: {{x: x, time: sigma}}, output: trace, parametrization: denoiser-trace,
          time: {{feed: sigma, scale: 1.0}}}}
""",
    "flow": f"""name: flow
shape: [{D}]
network: {{file: flow.onnx, inputs: {{x: x, time: t}}, output: velocity, prediction: velocity}}
path: {{kind: flow-matching, data_at: 0, t_min: 0.001, t_max: 0.98}}
divergence_heads:
  joint: {{file: flow.onnx, inputs: {{x: x, time: t}}, output: divergence}}
""",
    "product": f"""name: product
shape: [{D}]
network: {{file: product.onnx, inputs: {{x: x, time: sigma}}, output: denoised, prediction: denoised,
          time: {{feed: sigma}}}}
path: {{kind: edm, sigma_min: {SIGMA_MIN}, sigma_max: {SIGMA_MAX}}}
""",
    "dirac": f"""name: dirac
shape: [{D}]
network: {{file: dirac.onnx, inputs: {{x: x, time: sigma}}, output: denoised, prediction: denoised,
          time: {{feed: sigma}}}}
path: {{kind: edm, sigma_min: 0.1, sigma_max: {SIGMA_MAX}}}
""",
    "linear": f"""name: linear
shape: [{D}]
network: {{file: linear.onnx, inputs: {{x: x, time: t}}, output: velocity, prediction: velocity}}
path: {{kind: flow-matching, data_at: 0}}
""",
    "outside": f"""name: outside
shape: [{D}]
network: {{file: raw.onnx, inputs: {{x: x, time: noise}}, output: output, prediction: denoised,
          preconditioning: {{edm: {{sigma_data: 0.5}}}}}}
path: {{kind: edm, sigma_min: {SIGMA_MIN}, sigma_max: {SIGMA_MAX}}}
""",
    "inside": f"""name: inside
shape: [{D}]
network: {{file: inside.onnx, inputs: {{x: x, time: sigma}}, output: denoised, prediction: denoised,
          time: {{feed: sigma}}}}
path: {{kind: edm, sigma_min: {SIGMA_MIN}, sigma_max: {SIGMA_MAX}}}
""",
}


def main():
    HERE.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(20261122)
    u = np.linalg.qr(rng.normal(size=(D, D)))[0]
    numbers = {
        "u": u, "c": np.array([0.25, 1.0, 4.0]), "m": np.array([0.5, -1.0, 0.0]),
        "weights": np.array([0.3, 0.7]), "means": np.array([-1.0, 0.8]), "variances": np.array([0.04, 0.09]),
        "a": np.array([0.6, -0.5, 0.9]),
        "matrix": np.array([[0.3, 1.0, 0.0], [-0.4, -0.6, 0.5], [0.2, 0.0, 0.1]]),
        "shift": np.array([0.1, -0.2, 0.3]),
    }
    # The graphs hold these numbers in float32, and the formulas are to hold the same ones.
    numbers = {k: v.astype(np.float32).astype(np.float64) for k, v in numbers.items()}
    (HERE / "closed_forms.json").write_text(json.dumps({k: v.tolist() for k, v in numbers.items()}, indent=1) + "\n")
    n = numbers
    gaussian(n["u"], n["c"], n["m"])
    flow(n["u"], n["c"], n["m"])
    product(n["u"], n["weights"], n["means"], n["variances"])
    dirac(n["a"])
    linear(n["matrix"], n["shift"])
    wrapped(rng, 0.5)
    for name, text in CARDS.items():
        (HERE / f"{name}.yaml").write_text(text)


if __name__ == "__main__":
    main()
