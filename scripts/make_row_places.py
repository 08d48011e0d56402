"""Writes tests/data/row_places: networks whose sums run over five numbers, which ONNX Runtime adds differently in
different rows of a call.

    python scripts/make_row_places.py

`softmax.onnx` gives the softmax of five mixtures of the state, so that it can be an encoder and a decoder; `energy.onnx`
gives the logarithm of the sum of their exponentials; `velocity.onnx` is minus the state. card.yaml is a latent model of
them.
"""

import numpy as np

from common import ROOT
from onnx_graph import Graph

HERE = ROOT / "tests" / "data" / "row_places"
SIZE = 5
STATES = {"x": ["N", SIZE]}

CARD = """name: row-places
shape: [5]
network: {file: velocity.onnx, inputs: {x: x}, output: velocity, prediction: velocity}
path: {kind: linear, t_min: 0.01, t_max: 0.99}
latent:
  encoder: {file: softmax.onnx, input: x, output: softmax, kind: mean}
  decoder: {file: softmax.onnx, input: x, output: softmax}
  scale: 1.0
  shift: 0.0
  shape: [5]
energy: {file: energy.onnx, input: x, output: energy}
"""


def main():
    mixing = np.random.default_rng(3).normal(size=(SIZE, SIZE))

    def exponentials(g, keepdims):
        """The exponentials of the mixtures, and their sum."""
        each = g("Exp", g("MatMul", "x", mixing))
        return each, g("ReduceSum", each, np.array([1]), keepdims=keepdims)

    g = Graph()
    g("Div", *exponentials(g, 1), name="softmax")
    g.save(HERE / "softmax.onnx", STATES, {"softmax": ["N", SIZE]})
    g = Graph()
    g("Log", exponentials(g, 0)[1], name="energy")
    g.save(HERE / "energy.onnx", STATES, {"energy": ["N"]})
    g = Graph()
    g("Neg", "x", name="velocity")
    g.save(HERE / "velocity.onnx", STATES, {"velocity": ["N", SIZE]})
    (HERE / "card.yaml").write_text(CARD, encoding="utf-8")


if __name__ == "__main__":
    main()
