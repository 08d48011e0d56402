"""Writes tests/data/conditions: conditional and guided models whose likelihoods are known, as tiny ONNX graphs.

    python scripts/make_conditions.py

The constants of the graphs are float32, and the truths use the same numbers in float64. A truth `log_p` is that of
the card: the probability-flow ODE from the data end to the prior end, and the card's prior there. It differs from the
density of the data by what the prior end and the data end leave out; `log_density` is the density of the data.

    gaussian     four classes N(m_c, U diag(v_c) U^T) and a null class, by an int64 label; edm, denoised, with a head
    onehot       the same by a one-hot vector, where zeros are the null class, as EDM's networks have it
    mixture      the posterior of a two-component mixture prior under a linear model with Gaussian noise, by three
                 independent observations [N,3,2]; vp, noise
    flow         the Gaussians on flow matching, velocity; with a head, a closed form and a flow map, all by label
    guided       four classes N(m_c, tau^2 I) and a null class of the same tau, on flow matching; `guided-worse` has
                 other means, and `autoguided` is guided by it

    truth.npz of each holds the samples `x`, the condition and what follows from them: see the functions below.

Guidance by a null of the same tau is that of N(m_0 + w (m_c - m_0), tau^2 I) exactly. With unequal widths it is a
linear field with no data behind it, and for the mixture no linear one: these truths are integrated by DOP853 with
tolerances of 1e-12. The closed forms are checked by the same integration.
"""

import numpy as np
from scipy.integrate import solve_ivp

from common import ROOT
from onnx_graph import WHOLE, Graph

HERE = ROOT / "tests/data/conditions"
D, N, CLASSES, NULL = 4, 128, 4, 4
EDM = (0.02, 20.0)
BETAS, T_MIN = (0.1, 20.0), 0.001
FLOW = (0.001, 0.99)                       # data at 1: noise at 0.001, data at 0.99
INTERVAL = (0.3, 5.0)


def f32(value):
    """The float64 of the number that a float32 graph holds."""
    return np.asarray(value, np.float32).astype(np.float64)


# ---------------------------------------------------------------- the truth in float64

class Affine:
    """x = alpha x_0 + sigma eps: `at(t)` gives alpha, sigma and their derivatives."""

    def __init__(self, at, data_end, prior_end, std):
        self.at, self.data_end, self.prior_end, self.std = at, data_end, prior_end, std

    def prior(self, x):
        d = x.shape[1]
        return -0.5 * (x**2).sum(1) / self.std**2 - d * np.log(self.std) - 0.5 * d * np.log(2 * np.pi)

    def time_of_ratio(self, ratio):
        low, high = self.data_end, self.prior_end
        for _ in range(200):
            middle = 0.5 * (low + high)
            a, s, _, _ = self.at(middle)
            low, high = (middle, high) if s / a < ratio else (low, middle)
        return 0.5 * (low + high)


def vp(t):
    gap = BETAS[1] - BETAS[0]
    log_alpha, slope = -0.25 * t * t * gap - 0.5 * t * BETAS[0], -0.5 * (BETAS[0] + t * gap)
    alpha, sigma = np.exp(log_alpha), np.sqrt(-np.expm1(2 * log_alpha))
    return alpha, sigma, slope * alpha, -slope * alpha**2 / sigma


PATHS = {
    "edm": Affine(lambda t: (1.0, t, 0.0, 1.0), *EDM, EDM[1]),
    "vp": Affine(vp, T_MIN, 1.0, 1.0),
    "flow": Affine(lambda t: (t, 1 - t, 1.0, -1.0), FLOW[1], FLOW[0], 1.0),
}


def gaussian_log_density(y, mean, variance):
    return -0.5 * ((y - mean) ** 2 / variance + np.log(2 * np.pi * variance)).sum(1)


def gaussian_move(path, y, mean, variance, t, s):
    """The state at s of the flow of N(mean, variance) that is at y at t, and the log-determinant of that map."""
    (at, st, _, _), (as_, ss, _, _) = path.at(t), path.at(s)
    spread = (as_**2 * variance + ss**2) / (at**2 * variance + st**2)
    return as_ * mean + np.sqrt(spread) * (y - at * mean), 0.5 * np.log(spread).sum(1)


def gaussian_log_p(path, y, mean, variance):
    """log p of the ODE from the data end to the prior end; `y` in the coordinates of the variances."""
    end, volume = gaussian_move(path, y, mean, variance, path.data_end, path.prior_end)
    return path.prior(end) + volume


def gaussian_velocity(path, y, mean, variance, t):
    a, s, da, ds = path.at(t)
    return da * mean + (a * da * variance + s * ds) / (a**2 * variance + s**2) * (y - a * mean)


def integrate(velocity, x, times):
    """Follow dx/dt = velocity(x, t, samples) with its divergence (by complex steps), all samples in one system."""
    n, d = x.shape
    samples, tilt = np.repeat(np.arange(n), d), np.tile(1e-30j * np.eye(d), (n, 1))

    def field(t, flat):
        v = velocity(np.repeat(flat.reshape(n, d + 1)[:, :d], d, axis=0) + tilt, t, samples).reshape(n, d, d)
        return np.column_stack([v[:, 0].real, np.trace(v.imag, axis1=1, axis2=2) / 1e-30]).ravel()

    state = np.column_stack([x, np.zeros(n)]).ravel()
    for pair in zip(times, times[1:]):
        # A hair inside, because a guided field jumps at the breaks.
        inside = [pair[0] + 1e-13 * (pair[1] - pair[0]), pair[1] - 1e-13 * (pair[1] - pair[0])]
        state = solve_ivp(field, inside, state, "DOP853", rtol=1e-12, atol=1e-12).y[:, -1]
    return state.reshape(n, d + 1)[:, :d], state.reshape(n, d + 1)[:, d]


def numerical_log_p(path, velocity, x, breaks=()):
    ends, volumes = integrate(velocity, x, [path.data_end, *breaks, path.prior_end])
    return path.prior(ends) + volumes


def close(name, got, want, tolerance):
    gap = float(np.abs(got - want).max())
    print(f"{name}: {gap:.1e}")
    assert gap < tolerance, name


# ---------------------------------------------------------------- Gaussians by label

RNG = np.random.default_rng(16)
# Orthogonal without rounding, and not symmetric.
U = np.array([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [-1, 1, 1, -1]]) / 2
MEANS = f32(np.vstack([RNG.normal(0, 1.2, (CLASSES, D)), np.zeros((1, D))]))
VARIANCES = f32(np.vstack([RNG.uniform(0.05, 1.5, (CLASSES, D)), np.full((1, D), 2.0)]))


def by_label(g, table, label="label"):
    return g("Gather", table, label, axis=0)


def write_denoiser(path, label, shape, take):
    """D = m + U v/(v + sigma^2) U^T (x - m) and its trace; `take` looks a table up."""
    g = Graph()
    square = g.column(g("Mul", "sigma", "sigma"))
    mean, variance = take(g, MEANS), take(g, VARIANCES)
    gain = g("Div", variance, g("Add", variance, square))
    turned = g("Mul", g("MatMul", g("Sub", "x", mean), U), gain)
    g("Add", g("MatMul", turned, U.T), mean, name="denoised")
    g.total(gain, name="trace")
    g.save(path, {"x": ["N", D], "sigma": ["N"], label: shape}, {"denoised": ["N", D], "trace": ["N"]})


def from_onehot(g, table):
    """Rows of a table by a one-hot vector of the classes; zeros take the null class."""
    return g("Add", g("MatMul", "classes", table[:CLASSES] - table[NULL]), table[NULL])


def draw(labels, table, variances, scale=1.3):
    """Samples a little wider than their classes, so that tails are met."""
    noise = np.random.default_rng(1).normal(size=(len(labels), D)) * scale
    return f32(table[labels] + (noise * np.sqrt(variances[labels])) @ U.T)


def labels_of(seed, null=8):
    """Every class, shuffled; the last few samples are of the null class."""
    labels = np.concatenate([np.arange(N - null) % CLASSES, np.full(null, NULL)])
    return np.random.default_rng(seed).permutation(labels).astype(np.int64)


def guided_gaussian(path, labels, weight, interval=None):
    """The guided velocity at complex states, in the coordinates of the graphs."""
    def velocity(x, t, i):
        def of(c):
            return gaussian_velocity(path, x @ U, MEANS[c] @ U, VARIANCES[c], t) @ U.T
        a, s, _, _ = path.at(t)
        inside = interval is None or interval[0] <= s / a <= interval[1]
        null = np.full_like(labels[i], NULL)
        return of(null) + weight * (of(labels[i]) - of(null)) if inside else of(labels[i])
    return velocity


def gaussian():
    folder = HERE / "gaussian"
    write_denoiser(folder / "gaussian.onnx", "label", (WHOLE, ["N"]), by_label)
    write_denoiser(folder / "onehot.onnx", "classes", ["N", CLASSES], from_onehot)
    path, labels = PATHS["edm"], labels_of(2)
    x = draw(labels, MEANS, VARIANCES)
    y, mean, variance = x @ U, MEANS[labels] @ U, VARIANCES[labels]
    truth = {
        "x": x, "label": labels, "u": U, "means": MEANS, "variances": VARIANCES,
        "log_p": gaussian_log_p(path, y, mean, variance),
        "log_density": gaussian_log_density(y, mean, variance),
        "log_density_end": gaussian_log_density(y, mean, variance + path.data_end**2),
    }
    few = slice(0, 32)
    close("gaussian, closed form against DOP853", numerical_log_p(path, guided_gaussian(path, labels, 1.0), x[few]),
          truth["log_p"][few], 1e-8)
    truth["guided_x"], truth["guided_label"] = x[few], labels[few]
    for weight in (1.5, 4.0):
        truth[f"guided_{weight:g}"] = numerical_log_p(path, guided_gaussian(path, labels, weight), x[few])
    breaks = [path.time_of_ratio(r) for r in INTERVAL]
    truth["guided_1.5_interval"] = numerical_log_p(
        path, guided_gaussian(path, labels, 1.5, INTERVAL), x[few], breaks)
    np.savez(folder / "truth.npz", **truth)
    np.save(folder / "data.npy", x.astype(np.float32))
    np.save(folder / "labels.npy", labels)
    np.save(folder / "onehot.npy", np.eye(CLASSES + 1, dtype=np.float32)[labels][:, :CLASSES])
    np.save(folder / "null.npy", np.zeros(CLASSES, np.float32))
    for name, port, key, null in [("gaussian", "label", "label", NULL), ("onehot", "classes", "classes", "null.npy")]:
        (folder / f"{name}.yaml").write_text(f"""name: conditional-{name}
shape: [{D}]
network:
  file: {name}.onnx
  inputs: {{x: x, time: sigma}}
  conditions: {{{key}: {{input: {port}, null: {null}}}}}
  output: denoised
  prediction: denoised
  time: {{feed: sigma}}
path: {{kind: edm, sigma_min: {EDM[0]}, sigma_max: {EDM[1]}}}
divergence_heads:
  exact: {{file: {name}.onnx, inputs: {{x: x, time: sigma}}, conditions: {{{key}: {{input: {port}}}}}, output: trace, parametrization: denoiser-trace}}
""")


# ---------------------------------------------------------------- a posterior by observations

OBSERVATIONS, NOISE = 3, 0.5
LOG_WEIGHTS = np.log([0.35, 0.65])
CENTRES, WIDTHS = f32([[-1.0, 0.5], [0.8, -0.3]]), f32([0.6, 0.4])
MIX = np.array([[0.8, -0.6], [0.6, 0.8]]) @ np.diag([1.5, 0.7])          # y = theta MIX + noise


def posterior_numbers():
    """Of each component: precision matrix's eigenvalues in a common basis, and what is linear in the mean of y."""
    turn, values, _ = np.linalg.svd(MIX)                       # MIX MIX^T = turn diag(values^2) turn^T
    informed = OBSERVATIONS * values**2 / NOISE**2
    variances = 1 / (1 / WIDTHS[:, None] ** 2 + informed)                 # [K,2], of the posterior in the basis
    offset = CENTRES @ turn / WIDTHS[:, None] ** 2
    gain = MIX.T @ turn * OBSERVATIONS / NOISE**2                         # mean of y -> basis
    marginal = [np.linalg.inv(MIX.T @ MIX * w**2 + np.eye(2) * NOISE**2 / OBSERVATIONS) for w in WIDTHS]
    return tuple(map(f32, (turn, variances, offset, gain, marginal, CENTRES @ MIX,
                           LOG_WEIGHTS + [0.5 * np.linalg.slogdet(m)[1] for m in marginal])))


def posterior_of(context):
    """Log-weights [M,K] and means [M,K,2] (in the basis) of the posterior of each row of observations [M,3,2]."""
    _, variances, offset, gain, marginal, centres, weights = posterior_numbers()
    mean = context.mean(1)
    gap = mean[:, None] - centres
    logits = weights - 0.5 * np.einsum("mki,kij,mkj->mk", gap, marginal, gap)
    logits -= np.logaddexp.reduce(logits, axis=1, keepdims=True)
    return logits, variances * (offset + (mean @ gain)[:, None])


def write_mixture(path):
    """eps = sigma sum r_k (x - alpha m_k) / (alpha^2 v_k + sigma^2), in the basis; times t of the card."""
    turn, variances, offset, gain, marginal, centres, weights = posterior_numbers()
    g = Graph()
    mean = g("ReduceMean", "observations", np.array([1]), keepdims=0)     # [N,2]
    gap = g("Sub", g.column(mean), centres)                               # [N,K,2]
    bent = g("Squeeze", g("MatMul", g.column(gap, (2,)), marginal), np.array([2]))
    logits = g("Sub", weights, g("Mul", g.total(g("Mul", gap, bent)), 0.5))
    means = g("Mul", g("Add", g.column(g("MatMul", mean, gain)), offset), variances)
    t = g.column("t")
    log_alpha = g("Add", g("Mul", g("Mul", t, t), -0.25 * (BETAS[1] - BETAS[0])), g("Mul", t, -0.5 * BETAS[0]))
    alpha2 = g("Exp", g("Mul", log_alpha, 2.0))
    sigma2 = g("Sub", 1.0, alpha2)
    wide = lambda v: g.column(v, (2,))
    total = g("Add", g("Mul", wide(alpha2), variances), wide(sigma2))     # [N,K,2]
    y = g.column(g("MatMul", "x", turn))
    away = g("Sub", y, g("Mul", wide(g("Exp", log_alpha)), means))
    push = g("Div", away, total)
    power = g("Add", g.total(g("Mul", away, push)), g.total(g("Log", total)))
    r = g("Softmax", g("Sub", logits, g("Mul", power, 0.5)), axis=1)
    score = g.total(g("Mul", g.column(r, (2,)), push), axis=1)
    g("Mul", g("MatMul", score, turn.T), g("Sqrt", sigma2), name="noise")
    g.save(path, {"x": ["N", 2], "t": ["N"], "observations": ["N", OBSERVATIONS, 2]}, {"noise": ["N", 2]})


def mixture_noise(x, t, logits, means):
    """The same in float64, of complex states [M,2]."""
    turn, variances = posterior_numbers()[:2]
    alpha, sigma, _, _ = vp(t)
    total = alpha**2 * variances + sigma**2
    away = (x @ turn)[:, None] - alpha * means
    power = logits - 0.5 * (away**2 / total + np.log(total)).sum(2)
    r = np.exp(power - power.real.max(1, keepdims=True))
    r /= r.sum(1, keepdims=True)
    return sigma * (r[..., None] * away / total).sum(1) @ turn.T


def mixture_log_density(x, logits, means, t):
    """log p_t(x) of every row, alpha and sigma at t (0: the data)."""
    turn, variances = posterior_numbers()[:2]
    alpha, sigma = (1.0, 0.0) if t == 0 else vp(t)[:2]
    total = alpha**2 * variances + sigma**2
    away = (x @ turn)[:, None] - alpha * means
    return np.logaddexp.reduce(logits - 0.5 * (away**2 / total + np.log(2 * np.pi * total)).sum(2), axis=1)


def mixture():
    folder = HERE / "mixture"
    write_mixture(folder / "mixture.onnx")
    rng = np.random.default_rng(3)
    component = rng.choice(2, N, p=np.exp(LOG_WEIGHTS))
    theta = CENTRES[component] + WIDTHS[component, None] * rng.normal(size=(N, 2))
    context = f32((theta @ MIX)[:, None] + NOISE * rng.normal(size=(N, OBSERVATIONS, 2)))
    x, path = f32(theta), PATHS["vp"]
    logits, means = posterior_of(context)
    null = np.zeros((1, OBSERVATIONS, 2))
    null_logits, null_means = posterior_of(null)

    def velocity(weight, interval=None):
        def field(x, t, i):
            a, s, da, ds = path.at(t)
            noise = mixture_noise(x, t, logits[i], means[i])
            if weight != 1 and (interval is None or interval[0] <= s / a <= interval[1]):
                base = mixture_noise(x, t, null_logits, null_means)
                noise = base + weight * (noise - base)
            return da / a * x + (ds - da * s / a) * noise
        return field

    log_p = numerical_log_p(path, velocity(1.0), x)
    ends, volumes = integrate(velocity(1.0), x[:8], [path.data_end, path.prior_end])
    close("mixture, change of density against its divergence", volumes,
          mixture_log_density(x[:8], logits[:8], means[:8], path.data_end)
          - mixture_log_density(ends, logits[:8], means[:8], 1.0), 1e-6)
    few = slice(0, 32)
    breaks = [path.time_of_ratio(r) for r in INTERVAL]
    np.savez(folder / "truth.npz", x=x, observations=context, log_p=log_p,
             log_density=mixture_log_density(x, logits, means, 0),
             log_density_end=mixture_log_density(x, logits, means, path.data_end),
             **{"guided_1.5": numerical_log_p(path, velocity(1.5), x[few]),
                "guided_1.5_interval": numerical_log_p(path, velocity(1.5, INTERVAL), x[few], breaks)})
    np.save(folder / "data.npy", x.astype(np.float32))
    np.save(folder / "observations.npy", context.astype(np.float32))
    np.save(folder / "null.npy", null[0].astype(np.float32))
    (folder / "card.yaml").write_text(f"""name: conditional-mixture
shape: [2]
network:
  file: mixture.onnx
  inputs: {{x: x, time: t}}
  conditions: {{observations: {{input: observations, null: null.npy}}}}
  output: noise
  prediction: noise
path: {{kind: vp, beta_min: {BETAS[0]}, beta_max: {BETAS[1]}, t_min: {T_MIN}}}
""")


# ---------------------------------------------------------------- flow matching: field, head, closed form, map

def flow_spread(g, t, variance):
    """S = t^2 v + (1 - t)^2 for a column of times."""
    noise = g("Sub", 1.0, t)
    return g("Add", g("Mul", g("Mul", t, t), variance), g("Mul", noise, noise))


def write_flow(folder):
    ports = {"x": ["N", D], "t": ["N"], "label": (WHOLE, ["N"])}
    g = Graph()
    t = g.column("t")
    mean, variance = by_label(g, MEANS), by_label(g, VARIANCES)
    slope = g("Div", g("Sub", g("Mul", t, g("Add", variance, 1.0)), 1.0), flow_spread(g, t, variance))
    away = g("MatMul", g("Sub", "x", g("Mul", t, mean)), U)
    g("Add", g("MatMul", g("Mul", away, slope), U.T), mean, name="velocity")
    g.save(folder / "flow.onnx", ports, {"velocity": ["N", D]})

    g = Graph()
    t = g.column("t")
    variance = by_label(g, VARIANCES)
    slope = g("Div", g("Sub", g("Mul", t, g("Add", variance, 1.0)), 1.0), flow_spread(g, t, variance))
    g.total(g("Add", slope, g("Mul", "x", 0.0)), name="divergence")
    g.save(folder / "divergence.onnx", ports, {"divergence": ["N"]})

    g = Graph()
    t = g.column("t")
    variance = flow_spread(g, t, by_label(g, VARIANCES))
    away = g("MatMul", g("Sub", "x", g("Mul", t, by_label(g, MEANS))), U)
    power = g("Add", g("Div", g("Mul", away, away), variance), g("Log", g("Mul", variance, 2 * np.pi)))
    g("Mul", g.total(power), -0.5, name="log_density")
    g.save(folder / "log_density.onnx", ports, {"log_density": ["N"]})

    # With S_s - S_t = (s - t) P:  u = m + P / (S_t + sqrt(S_t S_s)) (x - t m),  D = sum P / (S_t + S_s) a(w),
    # w = (s - t) P / (S_t + S_s), a(w) = atanh(w) / w, by its series where w is small.
    g = Graph()
    t, s = g.column("t"), g.column("s")
    mean, variance = by_label(g, MEANS), by_label(g, VARIANCES)
    at_t, at_s = flow_spread(g, t, variance), flow_spread(g, s, variance)
    p = g("Sub", g("Mul", g("Add", s, t), g("Add", variance, 1.0)), 2.0)
    k = g("Div", p, g("Add", at_t, g("Sqrt", g("Mul", at_t, at_s))))
    away = g("MatMul", g("Sub", "x", g("Mul", t, mean)), U)
    g("Add", g("MatMul", g("Mul", away, k), U.T), mean, name="u")
    rate = g("Div", p, g("Add", at_t, at_s))
    w = g("Mul", g("Sub", s, t), rate)
    near = g("Less", g("Abs", w), 0.03)
    safe = g("Where", near, 0.5, w)
    far = g("Div", g("Mul", g("Log", g("Div", g("Add", 1.0, safe), g("Sub", 1.0, safe))), 0.5), safe)
    square = g("Mul", w, w)
    series = g("Add", g("Mul", square, g("Add", g("Mul", square, 0.2), 1 / 3)), 1.0)
    g.total(g("Mul", rate, g("Where", near, series, far)), name="d")
    g.save(folder / "map.onnx", ports | {"s": ["N"]}, {"u": ["N", D], "d": ["N"]})


def flow():
    folder = HERE / "flow"
    write_flow(folder)
    path, labels = PATHS["flow"], labels_of(5)
    x = draw(labels, MEANS, VARIANCES)
    y, mean, variance = x @ U, MEANS[labels] @ U, VARIANCES[labels]
    noise = f32(np.random.default_rng(6).normal(size=(N, D)))
    sampled, _ = gaussian_move(path, noise @ U, mean, variance, path.prior_end, path.data_end)
    truth = {
        "x": x, "label": labels, "u": U, "means": MEANS, "variances": VARIANCES,
        "log_p": gaussian_log_p(path, y, mean, variance),
        "log_density": gaussian_log_density(y, mean, variance),
        "log_density_end": gaussian_log_density(y, path.data_end * mean,
                                                path.data_end**2 * variance + (1 - path.data_end) ** 2),
        "noise": noise, "samples": sampled @ U.T,
    }
    close("flow, closed form against DOP853", numerical_log_p(path, guided_gaussian(path, labels, 1.0), x[:16]),
          truth["log_p"][:16], 1e-8)
    np.savez(folder / "truth.npz", **truth)
    np.save(folder / "data.npy", x.astype(np.float32))
    np.save(folder / "labels.npy", labels)
    by = "conditions: {label: {input: label}}"
    (folder / "card.yaml").write_text(f"""name: conditional-flow
shape: [{D}]
network:
  file: flow.onnx
  inputs: {{x: x, time: t}}
  conditions: {{label: {{input: label, null: {NULL}}}}}
  output: velocity
  prediction: velocity
path: {{kind: flow-matching, data_at: 1, t_min: {FLOW[0]}, t_max: {FLOW[1]}}}
divergence_heads:
  exact: {{file: divergence.onnx, inputs: {{x: x, time: t}}, {by}, output: divergence}}
flow_maps:
  exact: {{file: map.onnx, inputs: {{x: x, from: t, to: s}}, {by}, outputs: {{velocity: u, divergence: d}}}}
closed_form: {{file: log_density.onnx, inputs: {{x: x, time: t}}, {by}, output: log_density}}
""")


# ---------------------------------------------------------------- guidance with equal widths

TAU = float(np.float32(0.4))
WORSE = f32(np.vstack([0.6 * MEANS[:CLASSES] + 0.3, np.full((1, D), 0.2)]))


def write_guided(folder):
    ports = {"x": ["N", D], "t": ["N"], "label": (WHOLE, ["N"])}
    g = Graph()
    t = g.column("t")
    mean = by_label(g, MEANS)
    slope = g("Div", g("Sub", g("Mul", t, TAU**2 + 1.0), 1.0), flow_spread(g, t, TAU**2))
    g("Add", g("Mul", slope, g("Sub", "x", g("Mul", t, mean))), mean, name="velocity")
    g.save(folder / "guided.onnx", ports, {"velocity": ["N", D]})
    g = Graph()                            # the worse network predicts the data: m + t tau^2 / S (x - t m)
    t = g.column("t")
    mean = by_label(g, WORSE)
    gain = g("Div", g("Mul", t, TAU**2), flow_spread(g, t, TAU**2))
    g("Add", g("Mul", gain, g("Sub", "x", g("Mul", t, mean))), mean, name="denoised")
    g.save(folder / "worse.onnx", ports, {"denoised": ["N", D]})


def guided():
    folder = HERE / "guided"
    write_guided(folder)
    path, labels = PATHS["flow"], (np.random.default_rng(7).permutation(N) % CLASSES).astype(np.int64)
    rng = np.random.default_rng(8)
    x = f32(MEANS[labels] + TAU * rng.normal(size=(N, D)))
    noise = f32(rng.normal(size=(N, D)))
    variance = np.full((1, D), TAU**2)
    truth = {"x": x, "noise": noise, "label": labels, "means": MEANS, "worse": WORSE, "tau": TAU}

    def target(weight, base):
        return base + weight * (MEANS[labels] - base)

    def both(name, legs):
        """log p and samples along legs (mean, from, to), from the data end to the prior end."""
        state, volume = x, 0.0
        for mean, t, s in legs:
            state, more = gaussian_move(path, state, mean, variance, t, s)
            volume = volume + more
        truth[f"log_p_{name}"] = path.prior(state) + volume
        state = noise
        for mean, t, s in reversed(legs):
            state, _ = gaussian_move(path, state, mean, variance, s, t)
        truth[f"samples_{name}"] = state

    def check(name, base, weight, breaks=(), interval=None):
        def field(x, t, i):
            a, s, _, _ = path.at(t)
            of = lambda mean: gaussian_velocity(path, x, mean, variance, t)
            if interval and not interval[0] <= s / a <= interval[1]:
                return of(MEANS[labels[i]])
            return of(base[i]) + weight * (of(MEANS[labels[i]]) - of(base[i]))
        close(f"guided {name}, closed form against DOP853", numerical_log_p(path, field, x[:16], breaks),
              truth[f"log_p_{name}"][:16], 1e-8)

    ends, null = (path.data_end, path.prior_end), np.broadcast_to(MEANS[NULL], (N, D))
    for weight in (1.0, 1.5, 4.0):
        both(f"{weight:g}", [(target(weight, null), *ends)])
        check(f"{weight:g}", null, weight)
    both("auto_2", [(target(2.0, WORSE[labels]), *ends)])
    check("auto_2", WORSE[labels], 2.0)
    breaks = [path.time_of_ratio(r) for r in INTERVAL]
    both("1.5_interval", [(MEANS[labels], ends[0], breaks[0]), (target(1.5, null), *breaks),
                          (MEANS[labels], breaks[1], ends[1])])
    check("1.5_interval", null, 1.5, breaks, INTERVAL)
    np.savez(folder / "truth.npz", **truth, interval=INTERVAL, breaks=breaks)
    np.save(folder / "data.npy", x.astype(np.float32))
    np.save(folder / "noise.npy", noise.astype(np.float32))
    np.save(folder / "labels.npy", labels)
    rest = f"path: {{kind: flow-matching, data_at: 1, t_min: {FLOW[0]}, t_max: {FLOW[1]}}}\n"

    def card(file, name, network, output, prediction, null, guidance):
        (folder / f"{file}.yaml").write_text(f"""name: {name}
shape: [{D}]
network:
  file: {network}.onnx
  inputs: {{x: x, time: t}}
  conditions: {{label: {{input: label{null}}}}}
  output: {output}
  prediction: {prediction}
""" + rest + guidance)
    good = ("guided", "velocity", "velocity")
    card("plain", "guided-plain", *good, f", null: {NULL}", "")
    card("guided", "guided", *good, f", null: {NULL}", "guidance: {scale: 1.5}\n")
    card("interval", "guided-interval", *good, f", null: {NULL}",
         f"guidance: {{scale: 1.5, interval: [{INTERVAL[0]}, {INTERVAL[1]}]}}\n")
    card("worse", "guided-worse", "worse", "denoised", "denoised", "", "")
    card("autoguided", "autoguided", *good, "", "guidance: {scale: 2.0, with: worse.yaml}\n")
    card("no-null", "guided-without-null", *good, "", "guidance: {scale: 1.5}\n")


# ---------------------------------------------------------------- the graphs against the formulas

def check_graphs():
    """Hold every graph against float64, at the times of its card."""
    import onnxruntime as ort

    def run(name, **feeds):
        session = ort.InferenceSession(str(HERE / name), providers=["CPUExecutionProvider"])
        return session.run(None, {k: v if v.dtype == np.int64 else v.astype(np.float32) for k, v in feeds.items()})

    def field(path, x, labels, t, means=MEANS, variances=VARIANCES, u=U):
        return np.stack([gaussian_velocity(path, x[i:i + 1] @ u, means[c] @ u, variances[c], t[i])[0] @ u.T
                         for i, c in enumerate(labels)])

    rng, labels = np.random.default_rng(9), labels_of(2)
    x = rng.normal(size=(N, D)) * 2
    sigma = f32(np.exp(rng.uniform(np.log(EDM[0]), np.log(EDM[1]), N)))
    want = x - sigma[:, None] * field(PATHS["edm"], x, labels, sigma)
    close("gaussian.onnx", run("gaussian/gaussian.onnx", x=x, sigma=sigma, label=labels)[0], want, 1e-5)
    onehot = np.eye(CLASSES + 1)[labels][:, :CLASSES]
    close("onehot.onnx", run("gaussian/onehot.onnx", x=x, sigma=sigma, classes=onehot)[0], want, 1e-5)
    t = f32(rng.uniform(*FLOW, N))
    s = f32(rng.uniform(*FLOW, N))
    s[:8] = t[:8]
    want = field(PATHS["flow"], x, labels, t)
    close("flow.onnx", run("flow/flow.onnx", x=x, t=t, label=labels)[0], want, 1e-3)
    ends = [gaussian_move(PATHS["flow"], x[i:i + 1] @ U, MEANS[c] @ U, VARIANCES[c][None], t[i], s[i])
            for i, c in enumerate(labels)]
    u, d = run("flow/map.onnx", x=x, t=t, s=s, label=labels)
    close("map.onnx, state", x + (s - t)[:, None] * u, np.concatenate([e[0] for e in ends]) @ U.T, 1e-5)
    close("map.onnx, volume", (s - t) * d, np.concatenate([e[1] for e in ends]), 1e-5)
    close("map.onnx at s = t", u[:8], want[:8], 1e-3)
    head = run("flow/divergence.onnx", x=x, t=t, label=labels)[0]
    close("divergence.onnx", d[:8], head[:8], 1e-3)
    close("log_density.onnx", run("flow/log_density.onnx", x=x, t=t, label=labels)[0] * 1e-3,
          1e-3 * np.array([gaussian_log_density(x[i:i + 1] @ U, t[i] * MEANS[c] @ U,
                                                t[i]**2 * VARIANCES[c][None] + (1 - t[i])**2)[0]
                           for i, c in enumerate(labels)]), 1e-5)
    equal = np.full((CLASSES + 1, D), TAU**2)
    v = field(PATHS["flow"], x, labels, t, MEANS, equal, np.eye(D))
    close("guided.onnx", run("guided/guided.onnx", x=x, t=t, label=labels)[0], v, 1e-3)
    v = field(PATHS["flow"], x, labels, t, WORSE, equal, np.eye(D))
    close("worse.onnx", run("guided/worse.onnx", x=x, t=t, label=labels)[0], x + (1 - t)[:, None] * v, 1e-5)
    t = f32(rng.uniform(T_MIN, 1, N))
    context = rng.normal(size=(N, OBSERVATIONS, 2))
    logits, means = posterior_of(context)
    x = rng.normal(size=(N, 2))
    want = np.stack([mixture_noise(x[i:i + 1], t[i], logits[i:i + 1], means[i:i + 1])[0] for i in range(N)])
    close("mixture.onnx", run("mixture/mixture.onnx", x=x, t=t, observations=context)[0], want.real, 1e-4)


def main():
    for folder in ("gaussian", "mixture", "flow", "guided"):
        (HERE / folder).mkdir(parents=True, exist_ok=True)
    gaussian()
    mixture()
    flow()
    guided()
    check_graphs()


if __name__ == "__main__":
    main()
