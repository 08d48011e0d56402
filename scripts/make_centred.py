"""Writes tests/data/centred: a normal distribution of three particles in the plane with zero centre of mass.

    python scripts/make_centred.py

The states lie in a subspace of four dimensions with an orthonormal basis U (6 x 4), in which the data are N(0, diag L).
On x_t = t x_1 + (1 - t) eps, with eps standard normal on the subspace, S_t = t^2 L + (1 - t)^2 and

    v(x, t) = U ((t L - (1 - t)) / S_t * U'x)          X(x, t, s) = U (sqrt(S_s / S_t) * U'x)

The velocity's graph also has a term that takes the centre of mass into the subspace. It is zero on centred states,
but not in the Jacobian. All graphs are in float64. truth.npz has the log-densities of data.npy on the subspace.
"""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from common import ROOT

HERE = ROOT / "tests" / "data" / "centred"
PARTICLES, DIMS = 3, 2
VARIANCES = np.array([0.2, 0.6, 1.5, 3.0])


def basis():
    """An orthonormal basis of the centred states, turned so that no axis lies along a particle."""
    rng = np.random.default_rng(5)
    spanning = rng.normal(size=(PARTICLES, DIMS, 4))
    spanning -= spanning.mean(0)
    return np.linalg.qr(spanning.reshape(PARTICLES * DIMS, 4))[0]


def graph(name, inputs, nodes, constants, output):
    size = PARTICLES * DIMS
    ports = [helper.make_tensor_value_info("x", TensorProto.DOUBLE, ["N", size])]
    ports += [helper.make_tensor_value_info(t, TensorProto.DOUBLE, ["N"]) for t in inputs]
    out = helper.make_tensor_value_info(output, TensorProto.DOUBLE, ["N", size])
    weights = [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()]
    made = helper.make_graph([helper.make_node(op, a, [b]) for op, a, b in nodes], name, ports, [out], weights)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, HERE / f"{name}.onnx")


def variance(t, to):
    """Nodes for S_t = t^2 L + (1 - t)^2, one row per sample."""
    return [
        ("Unsqueeze", [t, "axis"], f"{t}_column"),
        ("Mul", [f"{t}_column", f"{t}_column"], f"{t}_square"),
        ("Mul", [f"{t}_square", "L"], f"{t}_data"),
        ("Sub", ["one", f"{t}_column"], f"{t}_rest"),
        ("Mul", [f"{t}_rest", f"{t}_rest"], f"{t}_noise"),
        ("Add", [f"{t}_data", f"{t}_noise"], to),
    ]


def main():
    HERE.mkdir(parents=True, exist_ok=True)
    u = basis()
    rng = np.random.default_rng(6)
    mean = np.kron(np.ones((PARTICLES, PARTICLES)) / PARTICLES, np.eye(DIMS))
    aside = mean @ rng.normal(size=(PARTICLES * DIMS, 4)) @ u.T
    constants = {"U": u, "UT": u.T.copy(), "L": VARIANCES, "one": np.array(1.0), "axis": np.array([1])}
    graph(
        "velocity",
        ["t"],
        variance("t", "S")
        + [
            ("MatMul", ["x", "U"], "y"),
            ("Mul", ["t_column", "L"], "gain"),
            ("Sub", ["gain", "t_rest"], "slope"),
            ("Div", ["slope", "S"], "rate"),
            ("Mul", ["rate", "y"], "moved"),
            ("MatMul", ["moved", "UT"], "inside"),
            ("MatMul", ["x", "aside"], "beside"),
            ("Add", ["inside", "beside"], "v"),
        ],
        {**constants, "aside": aside},
        "v",
    )
    graph(
        "map",
        ["t", "s"],
        variance("t", "S")
        + [node for node in variance("s", "R")]
        + [
            ("MatMul", ["x", "U"], "y"),
            ("Div", ["R", "S"], "ratio"),
            ("Sqrt", ["ratio"], "scale"),
            ("Mul", ["scale", "y"], "moved"),
            ("MatMul", ["moved", "UT"], "X"),
        ],
        constants,
        "X",
    )
    y = rng.normal(size=(48, 4)) * np.sqrt(VARIANCES)
    np.save(HERE / "data.npy", y @ u.T)
    log_p = -0.5 * (y**2 / VARIANCES + np.log(2 * np.pi * VARIANCES)).sum(1)
    np.savez(HERE / "truth.npz", log_p=log_p, covariance=u @ np.diag(VARIANCES) @ u.T)
    (HERE / "card.yaml").write_text(
        """name: centred
shape: [6]
network:
  file: velocity.onnx
  inputs: {x: x, time: t}
  output: v
  prediction: velocity
path: {kind: flow-matching, data_at: 1}
prior: {std: 1.0, centred: {particles: 3, dims: 2}}
flow_maps:
  map: {file: map.onnx, inputs: {x: x, from: t, to: s}, outputs: {endpoint: X}}
  back: {file: map.onnx, inputs: {x: x, from: t, to: s}, outputs: {endpoint: X}, direction: to-data}
provenance: {script: scripts/make_centred.py, licence: MIT OR Apache-2.0}
"""
    )


if __name__ == "__main__":
    main()
