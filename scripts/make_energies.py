"""Writes the graphs of tests/data/reweight: energies, observables and a Gaussian model whose samples are known."""

from pathlib import Path

import numpy as np

from onnx_graph import DOUBLE, FLOAT, Graph

FOLDER = Path(__file__).parent.parent / "tests/data/reweight"
DIM, VARIANCE = 6, 1.44


def squares(kind, factor, file, names=("x", "u"), keep=0):
    """factor · |x|² of states of any dimension."""
    g = Graph(kind)
    total = g("ReduceSum", g("Mul", "x", "x"), np.array([1]), keepdims=keep)
    g("Mul", total, factor, name=names[1])
    g.save(FOLDER / file, {names[0]: ["N", "D"]}, {names[1]: ["N", 1] if keep else ["N"]})


squares(DOUBLE, 0.5, "quadratic.onnx")
squares(FLOAT, 0.5, "quadratic_float.onnx", keep=1)
squares(DOUBLE, 1.0, "square.onnx", names=("x", "square"))

# Not one number per sample.
g = Graph(DOUBLE)
g("Mul", "x", "x", name="u")
g.save(FOLDER / "vector.onnx", {"x": ["N", "D"]}, {"u": ["N", "D"]})

# An energy that is no number outside a ball of radius 1.
g = Graph(DOUBLE)
g("Log", g("Sub", 1.0, g.total(g("Mul", "x", "x"), axis=1)), name="u")
g.save(FOLDER / "ball.onnx", {"x": ["N", "D"]}, {"u": ["N"]})

# The denoiser of N(0, VARIANCE I): x · VARIANCE/(VARIANCE + sigma²).
g = Graph(DOUBLE)
sigma = g.column("sigma")
g("Div", g("Mul", "x", VARIANCE), g("Add", VARIANCE, g("Mul", sigma, sigma)), name="denoised")
g.save(FOLDER / "gaussian.onnx", {"x": ["N", DIM], "sigma": ["N"]}, {"denoised": ["N", DIM]})
