"""Shared by scripts that write ONNX graphs operator by operator."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT, DOUBLE, HALF, WHOLE = TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.INT64
NUMPY = {FLOAT: np.float32, DOUBLE: np.float64, HALF: np.float16}


class Graph:
    """Nodes by operator; numbers become constants of the graph's kind, whole numbers become int64."""

    def __init__(self, kind=FLOAT):
        self.kind, self.nodes, self.constants = kind, [], []

    def constant(self, value):
        value = np.asarray(value)
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(
            value.astype(np.int64 if value.dtype.kind == "i" else NUMPY[self.kind]), name))
        return name

    def __call__(self, operator, *inputs, name=None, **attributes):
        inputs = [i if isinstance(i, str) else self.constant(i) for i in inputs]
        output = name or f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [output], name=output, **attributes))
        return output

    def column(self, value, axes=(1,)):
        return self("Unsqueeze", value, np.array(axes))

    def total(self, value, axis=-1, name=None):
        return self("ReduceSum", value, np.array([axis]), keepdims=0, name=name)

    def save(self, path, inputs, outputs):
        """Write the graph. `inputs` and `outputs` map names to shapes, or to (kind, shape)."""
        def port(name, of):
            kind, shape = of if isinstance(of, tuple) else (self.kind, of)
            return helper.make_tensor_value_info(name, kind, shape)
        path = Path(path)
        graph = helper.make_graph(self.nodes, path.stem, [port(*i) for i in inputs.items()],
                                  [port(*o) for o in outputs.items()], self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9,
                                  producer_name="flowgauge scripts")
        onnx.checker.check_model(model, full_check=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        onnx.save(model, path)
