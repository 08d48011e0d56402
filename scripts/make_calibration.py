"""Writes tests/data/calibration: a conditional model that is an exact Gaussian posterior, as a tiny ONNX graph.

    python scripts/make_calibration.py

Four parameters theta ~ N(0, I) and observations x = theta + s noise, so that the posterior is N(x g, s^2 g) with
g = 1/(1 + s^2). The graph is its denoiser at noise level sigma. Its input `width` multiplies the posterior's standard
deviations: 1 in `exact.yaml`, 0.9 in `narrow.yaml`.

    theta.npy          the true parameters of 600 observations
    observations.npy   the observations
"""

import numpy as np

from common import ROOT
from onnx_graph import Graph

HERE = ROOT / "tests/data/calibration"
N, NOISE = 600, np.array([0.3, 0.6, 1.0, 2.0], np.float32)
GAIN = 1 / (1 + NOISE**2)


def write_denoiser(path):
    """D = m + v/(v + sigma^2) (x - m), with m and v of the posterior."""
    g = Graph()
    square = g.column(g("Mul", "sigma", "sigma"))
    mean = g("Mul", "observation", GAIN)
    variance = g("Mul", g("Mul", "width", "width"), NOISE**2 * GAIN)
    gain = g("Div", variance, g("Add", variance, square))
    g("Add", g("Mul", g("Sub", "x", mean), gain), mean, name="denoised")
    d = len(NOISE)
    g.save(path, {"x": ["N", d], "sigma": ["N"], "observation": ["N", d], "width": []}, {"denoised": ["N", d]})


def main():
    write_denoiser(HERE / "gaussian.onnx")
    for name, width in [("exact", 1.0), ("narrow", 0.9)]:
        (HERE / f"{name}.yaml").write_text(f"""name: posterior-{name}
shape: [{len(NOISE)}]
network:
  file: gaussian.onnx
  inputs: {{x: x, time: sigma}}
  conditions: {{observation: {{input: observation}}}}
  constants: {{width: {width}}}
  output: denoised
  prediction: denoised
  time: {{feed: sigma}}
path: {{kind: edm, sigma_min: 0.005, sigma_max: 50.0}}
""")
    rng = np.random.default_rng(11)
    theta = rng.normal(size=(N, len(NOISE))).astype(np.float32)
    np.save(HERE / "theta.npy", theta)
    np.save(HERE / "observations.npy", (theta + NOISE * rng.normal(size=theta.shape)).astype(np.float32))


if __name__ == "__main__":
    main()
