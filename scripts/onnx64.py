"""Runs an ONNX file in float64 with torch: the weights are the file's, the arithmetic is double.

The reference figures are computed with this module. It shares no code with the training scripts (only the
files that they wrote) nor with the program under test. torch can differentiate it.
"""

import onnx
import torch
from onnx import numpy_helper


def axes_of(node, values, attributes):
    if len(node.input) > 1 and node.input[1]:
        return [int(a) for a in values[node.input[1]]]
    return list(attributes["axes"])


def gemm(a, b, c=0.0, alpha=1.0, beta=1.0, transA=0, transB=0):
    a, b = (a.T if transA else a), (b.T if transB else b)
    return alpha * (a @ b) + beta * c


def unsqueeze(x, axes):
    for axis in sorted(axes):
        x = x.unsqueeze(axis)
    return x


ELEMENTWISE = {
    "Add": torch.add, "Sub": torch.sub, "Mul": torch.mul, "Div": torch.div, "MatMul": torch.matmul,
    "Sqrt": torch.sqrt, "Reciprocal": torch.reciprocal, "Sigmoid": torch.sigmoid, "Log": torch.log,
    "Exp": torch.exp, "Sin": torch.sin, "Cos": torch.cos, "Neg": torch.neg, "Pow": torch.pow,
    "Identity": lambda x: x,
}


def window(attributes, size):
    """Stride, padding and dilation of a symmetric window, as torch takes them."""
    pads = attributes.get("pads", [0] * 2 * size)
    if pads[:size] != pads[size:] or attributes.get("auto_pad", b"NOTSET") not in (b"NOTSET", "NOTSET"):
        raise NotImplementedError(f"padding {attributes}")
    one = [1] * size
    return attributes.get("strides", one), pads[:size], attributes.get("dilations", one), attributes.get("group", 1)


def conv(x, weight, bias=None, **attributes):
    stride, pad, dilation, group = window(attributes, x.dim() - 2)
    return torch.nn.functional.conv2d(x, weight, bias, stride, pad, dilation, group)


def conv_transpose(x, weight, bias=None, **attributes):
    stride, pad, dilation, group = window(attributes, x.dim() - 2)
    extra = attributes.get("output_padding", [0, 0])
    return torch.nn.functional.conv_transpose2d(x, weight, bias, stride, pad, extra, group, dilation)


def layer_norm(x, scale, bias=None, axis=-1, epsilon=1e-5, stash_type=1):
    return torch.nn.functional.layer_norm(x, x.shape[axis:], None, None, epsilon) * scale + (0 if bias is None else bias)


def constant(**attributes):
    value = torch.from_numpy(numpy_helper.to_array(attributes["value"]).copy())
    return value.double() if value.is_floating_point() else value


IMAGE = {
    "Conv": conv, "ConvTranspose": conv_transpose, "LayerNormalization": layer_norm, "Constant": constant,
    "Gather": lambda x, at, axis=0: x[(slice(None),) * axis + (at.long(),)],
    "Clip": lambda x, low=None, high=None: torch.clamp(x, low, high),
    "Floor": torch.floor,
    # Floats stay double, whatever the file says.
    "Cast": lambda x, to: x.long() if to == onnx.TensorProto.INT64 else x.double(),
}


class Graph:
    """graph(x, time) -> first output, for graphs of the operators that the scripts emit."""

    def __init__(self, path):
        self.graph = onnx.load(str(path)).graph
        self.inputs = [i.name for i in self.graph.input]
        self.constants = {}
        for tensor in self.graph.initializer:
            value = torch.from_numpy(numpy_helper.to_array(tensor).copy())
            self.constants[tensor.name] = value.double() if value.is_floating_point() else value

    def __call__(self, *arguments):
        values = dict(self.constants, **dict(zip(self.inputs, arguments)))
        for node in self.graph.node:
            given = [values[name] for name in node.input if name]
            attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            op = node.op_type
            if op in ELEMENTWISE:
                out = ELEMENTWISE[op](*given)
            elif op == "Gemm":
                out = gemm(*given, **attributes)
            elif op == "Concat":
                out = torch.cat(given, attributes["axis"])
            elif op == "Unsqueeze":
                out = unsqueeze(given[0], axes_of(node, values, attributes))
            elif op == "Squeeze":
                out = given[0].squeeze(axes_of(node, values, attributes))
            elif op == "ReduceSum":
                out = given[0].sum(axes_of(node, values, attributes), keepdim=bool(attributes.get("keepdims", 1)))
            elif op == "ReduceLogSumExp":
                out = torch.logsumexp(given[0], axes_of(node, values, attributes), bool(attributes.get("keepdims", 1)))
            elif op == "Softmax":
                out = torch.softmax(given[0], attributes.get("axis", -1))
            elif op in IMAGE:
                out = IMAGE[op](*given, **attributes)
            else:
                raise NotImplementedError(f"{node.name}: {op}")
            values[node.output[0]] = out
        return values[self.graph.output[0].name]


def jacobian_products(f, x, tangents):
    """J v for tangents [K, N, D] at x [N, D]: the primal once, the tangents in one batch."""
    value = f(x)
    products = torch.func.vmap(lambda v: torch.func.jvp(f, (x,), (v,))[1])(tangents)
    return value, products


def with_trace(f, x):
    """f(x) and the exact trace of its Jacobian, sample by sample, from D Jacobian products."""
    count, dim = x.shape
    basis = torch.eye(dim, dtype=x.dtype)[:, None, :].expand(dim, count, dim)
    value, products = jacobian_products(f, x, basis)
    return value, torch.einsum("inj,ij->n", products, torch.eye(dim, dtype=x.dtype))
