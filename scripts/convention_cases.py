"""Writes tests/data/readings: right cards and cards with one field spoilt, for the check of a card by data.

    python scripts/convention_cases.py

`cases.yaml` is a list of

    name       a name of its own
    folder     the folder of the card's files, from the root of the repository
    data       the data, from the root of the repository; conditions: the same for each condition
    verdict    agrees | disagrees | slight (wrong, with an excess below 1.4) | refused (without data)
    spoilt     the field that is wrong, with the right value as `right`; absent where the card is right
    excess     for wrong ones: the denoising error by the card over that by the right card, geometric mean over a
               dozen noise levels, computed here; absent where the error by the card overflows
    card       the card

Four networks that exist only
here have readings that the repository's others lack: v-prediction on the cosine path, a score on the ve path, EDM's
ln(sigma)/4, and the velocity of flow matching with its sign turned (a right card does not exist for it).
"""

import copy
from pathlib import Path

import numpy as np
import onnxruntime as ort
import yaml

from common import ROOT
from make_ports import FLOW, MEAN, SHAPE, VARIANCE, wide
from onnx_graph import Graph

HERE = ROOT / "tests/data/readings"
DATA = "tests/data"
LEVELS, ROWS, LEAST = 12, 64, 1.4
VE, COSINE = (0.01, 20.0), (0.008, 1e-3, 0.99)


# ---------------------------------------------------------------- networks of their own

def gaussian(name, time, coefficients, prediction, output):
    """A network of the Gaussian of tests/data/ports, of a time input by the name `time`."""
    g = Graph()
    alpha, sigma = coefficients(g, wide(g, time))
    spread = g("Add", g("Mul", g("Mul", alpha, alpha) if alpha else 1.0, VARIANCE), g("Mul", sigma, sigma))
    away = g("Sub", "x", g("Mul", alpha, MEAN) if alpha else MEAN)
    score = g("Neg", g("Div", away, spread))
    noise = g("Neg", g("Mul", sigma, score))
    denoised = g("Sub", "x", g("Mul", sigma, noise))
    if alpha:
        denoised = g("Div", denoised, alpha)
    result = {
        "score": lambda: score,
        "denoised": lambda: denoised,
        "v": lambda: g("Sub", g("Mul", alpha, noise), g("Mul", sigma, denoised)),
        "negated": lambda: g("Sub", denoised, noise),
    }[prediction]()
    g("Identity", result, name=output)
    state = ["N", *SHAPE]
    g.save(HERE / f"{name}.onnx", {"x": state, time: ["N"]}, {output: state})


def write_networks():
    s = COSINE[0]

    def cosine(g, t):
        angle = g("Mul", g("Add", t, s), np.pi / 2 / (1 + s))
        alpha = g("Div", g("Cos", angle), np.cos(np.pi / 2 * s / (1 + s)))
        return alpha, g("Sqrt", g("Sub", 1.0, g("Mul", alpha, alpha)))

    def ve(g, t):
        return None, g("Mul", VE[0], g("Exp", g("Mul", t, np.log(VE[1] / VE[0]))))

    gaussian("v_cosine", "t", cosine, "v", "v")
    gaussian("score_ve", "t", ve, "score", "score")
    gaussian("edm_log", "c_noise", lambda g, c: (None, g("Exp", g("Mul", c, 4.0))), "denoised", "denoised")
    gaussian("negated", "t", lambda g, t: (g("Sub", 1.0, t), t), "negated", "velocity")


def card(name, file, time_input, output, prediction, path, **more):
    return {"name": name, "shape": SHAPE,
            "network": {"file": file, "inputs": {"x": "x", "time": time_input}, "output": output,
                        "prediction": prediction, **more}, "path": path}


OWN = {
    "v-cosine": card("v-cosine", "v_cosine.onnx", "t", "v", "v",
                     {"kind": "cosine", "s": COSINE[0], "t_min": COSINE[1], "t_max": COSINE[2]}),
    "score-ve": card("score-ve", "score_ve.onnx", "t", "score", "score",
                     {"kind": "ve", "sigma_min": VE[0], "sigma_max": VE[1]}),
    "edm-log": card("edm-log", "edm_log.onnx", "c_noise", "denoised", "denoised",
                    {"kind": "edm", "sigma_min": 0.02, "sigma_max": 20.0}, time={"feed": "log-sigma-over-4"}),
    "negated": card("negated", "negated.onnx", "t", "velocity", "velocity",
                    {"kind": "flow-matching", "data_at": 0, "t_min": FLOW[0], "t_max": FLOW[1]}),
}

# name: card or None for OWN, data, conditions
RIGHT = {
    "digits": ("models/digits/card.yaml", "models/digits/heldout.npy", {}),
    "moons": ("models/moons/card.yaml", "models/moons/heldout.npy", {}),
    "mixture": ("models/mixture/card.yaml", "models/mixture/heldout.npy", {}),
    **{f"conditions-{n}": (f"{DATA}/conditions/{n}.yaml", f"{DATA}/conditions/{f}/data.npy",
                           {k: f"{DATA}/conditions/{f}/{a}"})
       for n, f, k, a in [("gaussian/gaussian", "gaussian", "label", "labels.npy"),
                          ("gaussian/onehot", "gaussian", "classes", "onehot.npy"),
                          ("mixture/card", "mixture", "observations", "observations.npy"),
                          ("flow/card", "flow", "label", "labels.npy"),
                          ("guided/plain", "guided", "label", "labels.npy")]},
    **{f"ports-{n}": (f"{DATA}/ports/{n}.yaml", f"{DATA}/ports/data{'_nhwc' if n == 'nhwc' else ''}.npy", {})
       for n in ("plain", "column", "scalar", "index", "index_column", "index_scalar", "batch8", "batch8_index", "half",
                 "double", "nhwc", "variances", "variances_first", "several", "vp999", "flow1000", "flow1000_index")},
    **{n: (None, f"{DATA}/ports/data.npy", {}) for n in ("v-cosine", "score-ve", "edm-log")},
}

FLOW_PATH = {"kind": "flow-matching", "data_at": 0, "t_min": 0.001, "t_max": 0.999}
DISCRETE = {"kind": "discrete", "betas": {"linear": [1e-3, 0.2]}, "steps": 100}
# right card, field, wrong value
SPOILT = [
    ("digits", "network.prediction", "noise"),
    ("digits", "network.prediction", "velocity"),
    ("digits", "network.time", {"feed": "log-sigma-over-4"}),
    ("digits", "network.time", {"feed": "sigma", "scale": 1000.0}),
    ("digits", "path", {"kind": "vp", "beta_min": 0.1, "beta_max": 20.0, "t_min": 0.001}),
    ("moons", "network.prediction", "noise"),
    ("moons", "network.prediction", "denoised"),
    ("moons", "network.prediction", "v"),
    ("moons", "path.data_at", 0),
    ("moons", "network.time", {"feed": "t", "scale": -1.0, "offset": 1.0}),
    ("moons", "network.time", {"feed": "t", "scale": 1000.0}),
    ("mixture", "network.prediction", "score"),
    ("mixture", "network.time", {"feed": "log-sigma-over-4"}),
    ("conditions-gaussian/gaussian", "network.prediction", "noise"),
    ("conditions-gaussian/onehot", "network.prediction", "v"),
    ("conditions-mixture/card", "network.prediction", "score"),
    ("conditions-mixture/card", "network.prediction", "v"),
    ("conditions-mixture/card", "network.time", {"feed": "t", "scale": 999.0}),
    ("conditions-mixture/card", "path.beta_max", 2.0),
    ("conditions-mixture/card", "path.kind", "sub-vp"),
    ("conditions-flow/card", "path.data_at", 0),
    ("conditions-flow/card", "network.prediction", "denoised"),
    ("conditions-guided/plain", "network.time", {"feed": "t", "offset": 1.0}),
    ("ports-plain", "network.prediction", "denoised"),
    ("ports-plain", "network.prediction", "v"),
    ("ports-plain", "path.betas", {"scaled-linear": [1e-3, 0.2]}),
    ("ports-plain", "path.betas", {"linear": [1e-4, 0.02]}),
    ("ports-plain", "network.time", {"feed": "t"}),
    ("ports-plain", "network.time", {"feed": "index", "scale": 10.0}),
    ("ports-plain", "network.time", {"feed": "sigma"}),
    ("ports-index", "network.prediction", "v"),
    ("ports-variances", "network.channels", [2, 4]),
    ("ports-several", "network.output", "rest"),
    ("ports-vp999", "network.time", {"feed": "t"}),
    ("ports-vp999", "path.beta_max", 5.0),
    ("ports-flow1000", "path.data_at", 1),
    ("ports-flow1000", "network.time", {"feed": "t"}),
    ("ports-flow1000", "network.prediction", "noise"),
    ("ports-flow1000", "path", {"kind": "vp", "beta_min": 0.1, "beta_max": 20.0, "t_min": 0.001}),
    ("v-cosine", "network.prediction", "noise"),
    ("v-cosine", "network.prediction", "velocity"),
    ("v-cosine", "path", {"kind": "vp", "beta_min": 0.1, "beta_max": 20.0, "t_min": 0.001}),
    ("score-ve", "network.prediction", "noise"),
    ("score-ve", "network.prediction", "denoised"),
    ("score-ve", "path.sigma_max", 2.0),
    ("edm-log", "network.time", {"feed": "sigma"}),
]
REFUSED = [
    ("ports-flow1000_index", "network.time", {"feed": "t", "interpolate": True}),
    ("digits", "network.time", {"feed": "index"}),
    ("moons", "network.time", {"feed": "index"}),
]


# ---------------------------------------------------------------- the reading of a card in numpy

def coefficients(path):
    """alpha, sigma and their derivatives as a function of t, and the data end and the prior end."""
    kind = path["kind"]

    def preserving(log_alpha, slope, power=0.5):
        alpha, rest = np.exp(log_alpha), -np.expm1(2 * log_alpha)
        sigma = rest**power
        return alpha, sigma, slope * alpha, -2 * slope * alpha**2 * power * rest ** (power - 1)

    if kind in ("vp", "sub-vp"):
        low, gap = path["beta_min"], path["beta_max"] - path["beta_min"]
        power = 0.5 if kind == "vp" else 1.0
        return (lambda t: preserving(-0.25 * t * t * gap - 0.5 * t * low, -0.5 * (low + t * gap), power),
                path["t_min"], 1.0)
    if kind == "cosine":
        s = path["s"]
        angle = lambda t: (t + s) / (1 + s) * np.pi / 2
        return (lambda t: preserving(np.log(np.cos(angle(t)) / np.cos(angle(0))),
                                     -np.tan(angle(t)) * np.pi / 2 / (1 + s)), path["t_min"], path["t_max"])
    if kind == "flow-matching":
        low, high = path.get("t_min", 0.0), path.get("t_max", 1.0)
        if path.get("data_at", 0) == 0:
            return lambda t: (1 - t, t, -1.0, 1.0), low, high
        return lambda t: (t, 1 - t, 1.0, -1.0), high, low
    if kind == "edm":
        return lambda t: (1.0, t, 0.0, 1.0), path["sigma_min"], path["sigma_max"]
    if kind == "ve":
        growth = np.log(path["sigma_max"] / path["sigma_min"])
        sigma = lambda t: path["sigma_min"] * np.exp(growth * t)
        return lambda t: (1.0, sigma(t), 0.0, growth * sigma(t)), 0.0, 1.0
    (schedule, (a, b)), n = next(iter(path["betas"].items())), path["steps"]
    betas = np.linspace(a, b, n) if schedule == "linear" else np.linspace(a**0.5, b**0.5, n) ** 2
    table = 0.5 * np.cumsum(np.log1p(-betas))

    def at(t):
        i = int(np.clip(np.floor(t * n - 1), 0, n - 2))
        slope = (table[i + 1] - table[i]) * n
        return preserving(table[i] + slope * (t - (i + 1) / n), slope)
    return at, 1 / n, 1.0


def time_of_ratio(at, data_end, prior_end, ratio):
    low, high = data_end, prior_end
    for _ in range(100):
        middle = (low + high) / 2
        a, s = at(middle)[:2]
        low, high = (middle, high) if s < ratio * a else (low, middle)
    return (low + high) / 2


def reader(folder, spec):
    """The denoiser of a card: (x, t) -> the estimate of the data."""
    net, path = spec["network"], spec["path"]
    at = coefficients(path)[0]
    run = ort.InferenceSession(str(ROOT / folder / net["file"]), providers=["CPUExecutionProvider"])
    ports = {i.name: i for i in run.get_inputs()}
    kinds = {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(float16)": np.float16,
             "tensor(int64)": np.int64}
    time = net.get("time") or {}
    feed = time.get("feed") or ("index" if path["kind"] == "discrete" else "t")

    def one(x, value, conditions):
        port = ports[net["inputs"]["time"]]
        batch = net.get("batch") or len(x)
        out = []
        for rows in range(0, len(x), batch):
            part = slice(rows, rows + batch)
            feeds = {net["inputs"]["x"]: x[part].astype(kinds[ports[net["inputs"]["x"]].type]),
                     port.name: np.full([n if isinstance(n, int) else len(x[part]) for n in port.shape], value,
                                        kinds[port.type])}
            for name, c in (net.get("conditions") or {}).items():
                feeds[c["input"]] = conditions[name][part]
            out.append(run.run([net["output"]], feeds)[0].astype(float))
        out = np.concatenate(out)
        return out[:, slice(*net["channels"])] if "channels" in net else out

    def network(x, t, conditions):
        value = {"t": t, "sigma": at(t)[1], "log-sigma-over-4": np.log(at(t)[1]) / 4,
                 "index": t * path.get("steps", 0) - 1}[feed] * time.get("scale", 1.0) + time.get("offset", 0.0)
        if kinds[ports[net["inputs"]["time"]].type] is not np.int64:
            return one(x, value, conditions)
        low = int(np.floor(value + 1e-9))
        first = one(x, low, conditions)
        return first if value - low < 1e-6 else first + (value - low) * (one(x, low + 1, conditions) - first)

    def denoise(x, t, conditions):
        a, s, da, ds = at(t)
        q, power, f = da * s - ds * a, a * a + s * s, network(x, t, conditions)
        return {"denoised": lambda: f, "noise": lambda: (x - s * f) / a, "velocity": lambda: (s * f - ds * x) / q,
                "score": lambda: (x + s * s * f) / a, "v": lambda: (a * x - s * f) / power}[net["prediction"]]()
    return at, denoise


def errors(folder, spec, data, conditions, ratios):
    """Mean squared denoising errors per number at noise levels sigma/alpha."""
    at, denoise = reader(folder, spec)
    ends = coefficients(spec["path"])[1:]
    noise = np.random.default_rng(4).normal(size=data.shape)
    out = []
    for ratio in ratios:
        t = time_of_ratio(at, *ends, ratio)
        a, s = at(t)[:2]
        with np.errstate(all="ignore"):
            gap = denoise(a * data + s * noise, t, conditions) - data
        out.append((gap**2).mean())
    return np.array(out)


def load(path, spec):
    data = np.load(ROOT / path)[:ROWS].astype(float)
    if path.startswith("models/digits"):
        data = data / 16 * 2 - 1
    return data.reshape(len(data), *spec["shape"])


def levels(*paths):
    """A dozen levels inside what all paths reach, from sigma/alpha 0.1 to 5 at most."""
    low, high = 0.1, 5.0
    for path in paths:
        at, first, last = coefficients(path)
        low, high = max(low, at(first)[1] / at(first)[0] * 1.01), min(high, at(last)[1] / at(last)[0] * 0.99)
    return np.geomspace(low, high, LEVELS)


def bare(spec, folder):
    """The card without what its reading does not need: heads, maps, hashes, provenance."""
    spec = {k: v for k, v in copy.deepcopy(spec).items() if k in ("name", "shape", "network", "path", "prior", "data")}
    spec["network"].pop("sha256", None)
    assert (ROOT / folder / spec["network"]["file"]).exists()
    return spec


def spoil(spec, field, value):
    spec = copy.deepcopy(spec)
    *into, last = field.split(".")
    at = spec
    for key in into:
        at = at[key]
    right = at.get(last)
    at[last] = value
    if last in ("path", "kind"):
        spec.pop("prior", None)
    return spec, right


def main():
    HERE.mkdir(parents=True, exist_ok=True)
    write_networks()
    cases, right = [], {}
    for name, (file, data, conditions) in RIGHT.items():
        folder = str(Path(file).parent) if file else f"{DATA}/readings"
        spec = bare(yaml.safe_load((ROOT / file).read_text()) if file else OWN[name], folder)
        values = load(data, spec)
        given = {k: np.load(ROOT / v)[:ROWS] for k, v in conditions.items()}
        case = {"name": name.replace("/", "-"), "folder": folder, "data": data,
                **({"conditions": conditions} if conditions else {})}
        ratios = levels(spec["path"])
        relative = errors(folder, spec, values, given, ratios) / values.var(0).mean()
        print(f"{case['name']}: error relative to the best constant {relative[0]:.3f} to {relative[-1]:.3f}")
        assert relative[0] < 0.2 and relative.max() < 1.3, name
        right[name] = (case, spec, values, given)
        cases.append({**case, "verdict": "agrees", "card": spec})
    for number, (name, field, value) in enumerate([*SPOILT, *REFUSED, ("negated", None, None)]):
        if field is None:
            spec, was = OWN["negated"], None
            case = {"name": "negated", "folder": f"{DATA}/readings", "data": f"{DATA}/ports/data.npy"}
            values, given = load(case["data"], spec), {}
            best = yaml.safe_load((ROOT / f"{DATA}/ports/flow1000.yaml").read_text())
            best_folder = f"{DATA}/ports"
        else:
            case, best, values, given = right[name]
            best_folder = case["folder"]
            spec, was = spoil(best, field, value)
        case = {**case, "name": f"{case['name']}-{number}", "spoilt": field or "sign"}
        if was is not None:
            case["right"] = was
        if (name, field, value) in REFUSED:
            cases.append({**case, "verdict": "refused", "card": spec})
            continue
        ratios = levels(spec["path"], best["path"])
        with np.errstate(all="ignore"):
            ours = errors(case["folder"], spec, values, given, ratios)
            excess = ours / errors(best_folder, best, values, given, ratios)
            mean = float(np.exp(np.log(excess).mean()))
        mean = mean if np.isfinite(mean) else float("inf")
        verdict = "disagrees" if mean >= LEAST else "slight"
        print(f"{case['name']}: {field} {value}: error {mean:.2f} times the right card's, {verdict}")
        # An error that overflows has no excess to write down.
        excess = {"excess": round(mean, 3)} if np.isfinite(mean) else {}
        cases.append({**case, "verdict": verdict, **excess, "card": spec})
    wrong = sum(c["verdict"] == "disagrees" for c in cases)
    print(f"{len(RIGHT)} right cards, {wrong} wrong, {len(REFUSED)} refused")
    assert wrong >= 30
    plain = yaml.SafeDumper
    plain.ignore_aliases = lambda *_: True
    (HERE / "cases.yaml").write_text(
        yaml.dump(cases, Dumper=plain, sort_keys=False, default_flow_style=None, width=118))


if __name__ == "__main__":
    main()
