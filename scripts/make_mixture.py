"""Makes models/mixture: an 8-D Gaussian mixture whose denoiser and divergence are closed forms.

    python scripts/make_mixture.py

The graphs are written operator by operator. Nothing is learned and nothing approximated, so they differ
from the float64 formulas only by rounding. Isotropic components, x_sigma = x_0 + sigma eps,
V_k = c_k + sigma^2. The graphs are arranged to avoid cancellation in f32:

    s_k  = c_k / V_k,  t_k = sigma^2 / V_k = 1 - s_k,  r = softmax(log w_k + log N(x; m_k, V_k))
    mu_k = m_k + s_k (x - m_k)                       mean of component k's posterior
    D    = sum_k r_k mu_k                            no division by sigma anywhere
    div of dx/dsigma = (d - tr J_D) / sigma
         = (1/sigma) [ sum_k r_k d t_k - sum_k r_k |mu_k - D|^2 / sigma^2 ]

The last line uses tr J_D = tr Cov[x_0 | x] / sigma^2. The covariance of a mixture is the mean of the
covariances, d c_k sigma^2 / V_k each, plus the covariance of the means. Both terms are sums of
nonnegative numbers, so at sigma = 0.02 nothing like 1 - 0.999 is formed. With
mu_k - D = (x - D) - t_k (x - m_k), the spread divided by sigma is computed from the scores:

    (mu_k - D)/sigma = sigma (g_k - gbar),  g_k = (m_k - x)/V_k,  gbar = sum_k r_k g_k
"""

import json

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from common import MODELS, save, sha256, write_card

HERE = MODELS / "mixture"
SEED = 20261123
DIM, COMPONENTS = 8, 5
SIGMA_MIN, SIGMA_MAX = 0.02, 80.0
HELDOUT = 512


def draw_mixture():
    """Unequal weights, means about 1.5 from the origin, standard deviations from 0.15 to 0.6."""
    rng = np.random.default_rng(SEED)
    weights = np.array([0.32, 0.26, 0.20, 0.14, 0.08])
    means = np.round(rng.normal(0, 0.75, (COMPONENTS, DIM)), 3)
    variances = np.round(np.array([0.30, 0.15, 0.45, 0.22, 0.60])[rng.permutation(COMPONENTS)] ** 2, 4)
    return weights, means, variances


def reference(x, sigma, weights, means, variances):
    """log p_sigma, denoiser and divergence in float64, by way of the score and its divergence."""
    total = variances[None] + sigma[:, None] ** 2
    gap = x[:, None] - means[None]
    logs = (np.log(weights) - 0.5 * DIM * np.log(2 * np.pi * total)
            - 0.5 * (gap**2).sum(2) / total)
    top = logs.max(1, keepdims=True)
    log_density = top[:, 0] + np.log(np.exp(logs - top).sum(1))
    r = np.exp(logs - log_density[:, None])
    g = -gap / total[:, :, None]
    score = (r[:, :, None] * g).sum(1)
    div_score = (r * ((g**2).sum(2) - DIM / total)).sum(1) - (score**2).sum(1)
    return log_density, x + sigma[:, None] ** 2 * score, -sigma * div_score


class Graph:
    """A graph under construction: constants by value, nodes by operator, names by what they hold."""

    def __init__(self, constants):
        self.nodes = []
        self.initializers = [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()]

    def __call__(self, operator, inputs, output, **attributes):
        self.nodes.append(helper.make_node(operator, inputs, [output], name=output, **attributes))
        return output

    def save(self, path, output, shape):
        inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", DIM]),
                  helper.make_tensor_value_info("sigma", TensorProto.FLOAT, ["N"])]
        outputs = [helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)]
        used = {name for node in self.nodes for name in node.input}
        kept = [i for i in self.initializers if i.name in used]
        graph = helper.make_graph(self.nodes, path.stem, inputs, outputs, kept)
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        save(proto, path)


def constants(weights, means, variances):
    f = np.float32
    return {
        "log_weights": (np.log(weights) - 0.5 * DIM * np.log(2 * np.pi)).astype(f)[None],
        "means": means.astype(f)[None],
        "variances": variances.astype(f)[None],
        "half": f(0.5), "half_dim": f(DIM / 2), "dim": f(DIM),
        "last": np.array([-1], np.int64), "middle": np.array([1], np.int64),
    }


def common_part(g):
    """sigma [N,1], V_k [N,K], x - m_k [N,K,D] and log w_k N(x; m_k, V_k) [N,K]."""
    g("Unsqueeze", ["sigma", "last"], "sigma_column")
    g("Mul", ["sigma_column", "sigma_column"], "sigma_squared")
    g("Add", ["variances", "sigma_squared"], "total_variance")
    g("Unsqueeze", ["x", "middle"], "x_row")
    g("Sub", ["x_row", "means"], "gap")
    g("Mul", ["gap", "gap"], "gap_squared")
    g("ReduceSum", ["gap_squared", "last"], "distance", keepdims=0)
    g("Div", ["distance", "total_variance"], "scaled_distance")
    g("Mul", ["scaled_distance", "half"], "exponent")
    g("Log", ["total_variance"], "log_variance")
    g("Mul", ["log_variance", "half_dim"], "log_volume")
    g("Sub", ["log_weights", "log_volume"], "log_peak")
    g("Sub", ["log_peak", "exponent"], "log_joint")


def build(path_of, values):
    g = Graph(values)
    common_part(g)
    g("ReduceLogSumExp", ["log_joint"], "log_density", axes=[1], keepdims=0)
    g.save(path_of("log_density.onnx"), "log_density", ["N"])

    g = Graph(values)
    common_part(g)
    g("Softmax", ["log_joint"], "responsibility", axis=1)
    g("Div", ["variances", "total_variance"], "shrinkage")
    g("Unsqueeze", ["shrinkage", "last"], "shrinkage_column")
    g("Mul", ["shrinkage_column", "gap"], "shrunk_gap")
    g("Add", ["means", "shrunk_gap"], "component_mean")
    g("Unsqueeze", ["responsibility", "middle"], "responsibility_row")
    g("MatMul", ["responsibility_row", "component_mean"], "denoised_row")
    g("Squeeze", ["denoised_row", "middle"], "denoised")
    g.save(path_of("denoiser.onnx"), "denoised", ["N", DIM])

    g = Graph(values)
    common_part(g)
    g("Softmax", ["log_joint"], "responsibility", axis=1)
    g("Div", ["sigma_column", "total_variance"], "noise_share")        # sigma / V_k
    g("Mul", ["noise_share", "responsibility"], "mean_share_terms")
    g("ReduceSum", ["mean_share_terms", "last"], "mean_share", keepdims=0)
    g("Mul", ["mean_share", "dim"], "expansion")                       # sum r_k d sigma / V_k
    g("Unsqueeze", ["total_variance", "last"], "total_variance_column")
    g("Div", ["gap", "total_variance_column"], "pull")                 # -g_k
    g("Unsqueeze", ["responsibility", "middle"], "responsibility_row")
    g("MatMul", ["responsibility_row", "pull"], "mean_pull")
    g("Sub", ["pull", "mean_pull"], "spread")
    g("Mul", ["spread", "spread"], "spread_squared")
    g("ReduceSum", ["spread_squared", "last"], "spread_norm", keepdims=0)
    g("Mul", ["spread_norm", "responsibility"], "spread_terms")
    g("ReduceSum", ["spread_terms", "last"], "spread_mean", keepdims=0)
    g("Mul", ["spread_mean", "sigma"], "contraction")                  # sigma sum r_k |g_k - gbar|^2
    g("Sub", ["expansion", "contraction"], "divergence")
    g.save(path_of("divergence.onnx"), "divergence", ["N"])


def draw(count, sigma, rng, weights, means, variances):
    k = rng.choice(COMPONENTS, size=count, p=weights)
    spread = np.sqrt(variances[k] + sigma**2)[:, None]
    return means[k] + spread * rng.standard_normal((count, DIM))


def check(weights, means, variances):
    """Hold the three graphs against float64, at states that the flow visits and at some it does not."""
    rng = np.random.default_rng(SEED + 2)
    worst = {}
    for sigma in (0.02, 0.05, 0.2, 0.5, 1.0, 2.0, 8.0, 30.0, 80.0):
        for off in (1.0, 1.5):   # 1.5: half as far again from the mean as the mixture's own samples
            x = draw(256, sigma, rng, weights, means, variances)
            x = (x.mean(0) + off * (x - x.mean(0))).astype(np.float32)
            t = np.full(256, sigma, np.float32)
            truth = reference(x.astype(np.float64), t.astype(np.float64), weights, means, variances)
            for name, output, want in zip(("log_density", "denoiser", "divergence"),
                                          ("log_density", "denoised", "divergence"), truth):
                session = ort.InferenceSession(str(HERE / f"{name}.onnx"), providers=["CPUExecutionProvider"])
                got = session.run([output], {"x": x, "sigma": t})[0]
                gap = np.abs(got - want) / (np.abs(want) + np.abs(want).mean())
                worst[name] = max(worst.get(name, 0.0), float(gap.max()))
    for name, gap in worst.items():
        print(f"{name}: largest relative difference from float64 {gap:.1e}")
        assert gap < 2e-5


def main():
    HERE.mkdir(parents=True, exist_ok=True)
    weights, means, variances = draw_mixture()
    (HERE / "mixture.json").write_text(json.dumps(
        {"weights": weights.tolist(), "means": means.tolist(), "variances": variances.tolist()}, indent=1) + "\n")
    build(lambda name: HERE / name, constants(weights, means, variances))
    heldout = draw(HELDOUT, SIGMA_MIN, np.random.default_rng(SEED + 1), weights, means, variances)
    np.save(HERE / "heldout.npy", heldout.astype(np.float32))
    check(weights, means, variances)
    write_card(HERE / "card.yaml", {
        "name": "mixture",
        "shape": [DIM],
        "network": {
            "file": "denoiser.onnx", "sha256": sha256(HERE / "denoiser.onnx"),
            "inputs": {"x": "x", "time": "sigma"}, "output": "denoised",
            "prediction": "denoised", "time": {"feed": "sigma"},
        },
        "path": {"kind": "edm", "sigma_min": SIGMA_MIN, "sigma_max": SIGMA_MAX},
        "prior": {"std": SIGMA_MAX},
        "divergence_heads": {"closed-form": {
            "file": "divergence.onnx", "inputs": {"x": "x", "time": "sigma"}, "output": "divergence", "scale": 1.0}},
        "closed_form": {"file": "log_density.onnx", "inputs": {"x": "x", "time": "sigma"},
                        "output": "log_density"},
        "provenance": {"trained_on": "nothing: closed forms of a seeded Gaussian mixture", "steps": 0,
                       "ema": False, "licence": "MIT OR Apache-2.0", "script": "scripts/make_mixture.py"},
    })


if __name__ == "__main__":
    main()
