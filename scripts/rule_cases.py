"""Writes tests/data/graph/rules.npz: small models of one operator each, with reference Jacobian products.

    python scripts/rule_cases.py        # needs numpy, onnx and onnxruntime

Every case has three arrays, named by number and operator:
- `.onnx`: the bytes of a model with input `x` and output `y`, in float64 if ONNX Runtime has the operator in it,
  otherwise in float32;
- `.xv`: its input and three directions;
- `.jv`: the derivative of `y` along them, by central differences extrapolated four times. They are in extended
  precision if the reference evaluator computes in it, and exact if differences of two lengths agree, as for linear and
  piecewise linear operators (`.right` is then 1e-12). Otherwise they are in float64 (2e-9).
"""

import math
import pathlib

import numpy as np
import onnxruntime as ort
from onnx import TensorProto as T
from onnx import helper as H
from onnx import numpy_helper as NH
from onnx.reference import ReferenceEvaluator

OUT = pathlib.Path(__file__).resolve().parent.parent / "tests/data/graph/rules.npz"
R = np.random.default_rng(1)
C = []


def rn(*s):
    return R.standard_normal(s)


def pos(*s):
    return R.uniform(0.3, 2.0, s)


def u(*s):
    return R.uniform(-0.9, 0.9, s)


def short(x):
    """Numbers of few bits, none of them zero, which float32 holds exactly and which pack well."""
    return (np.floor(np.asarray(x) * 4096) + 0.5) / 4096


def add(op, x, consts=(), opsets=(22,), pos=0, nout=1, outi=0, dyn=True, formula=None, **attrs):
    """A case: the operator with `x` as its input number `pos` and constants as the others, perhaps with a formula for it."""
    for opset in {opsets[0], opsets[-1]} if op.startswith("Reduce") or op == "Split" else {opsets[-1]}:
        C.append(
            dict(
                op=op,
                x=short(x),
                consts=[short(a) if a is not None and a.dtype == np.float64 and a.size > 1 else a for a in consts],
                opset=opset,
                pos=pos,
                nout=nout,
                outi=outi,
                attrs=attrs,
                dyn=dyn,
                formula=formula,
            )
        )


for o in "Abs Atan Cos Erf Exp Identity Neg Sigmoid Sin Softplus Softsign Tanh Relu Elu Selu Celu LeakyRelu HardSigmoid Sinh Cosh Asinh Tan ThresholdedRelu Shrink".split():
    add(o, rn(3, 4) * 1.3)
for o in "Log Sqrt Reciprocal".split():
    add(o, pos(3, 4))
for o in "Asin Acos Atanh".split():
    add(o, u(3, 4))
add("Acosh", 1 + pos(3, 4))
add("Elu", rn(3, 4), alpha=0.7)
add("Selu", rn(3, 4), alpha=1.2, gamma=0.9)
add("Celu", rn(3, 4), alpha=1.7)
add("LeakyRelu", rn(3, 4), alpha=0.2)
add("HardSigmoid", rn(3, 4) * 3, alpha=0.3, beta=0.4)
add("ThresholdedRelu", rn(3, 4), alpha=0.5)
add("Shrink", rn(3, 4), lambd=0.6, bias=0.2)
add("HardSwish", rn(3, 4) * 4, opsets=(14, 22))
add("Mish", rn(3, 4), opsets=(18, 22))
add("Gelu", rn(3, 4), opsets=(20,))
add("Gelu", rn(3, 4), opsets=(20,), approximate="tanh")
add("Swish", rn(3, 4), opsets=(24,), alpha=1.3)
add("Clip", rn(3, 4), [np.array(-0.5), np.array(0.7)])
add("Clip", rn(3, 4), [np.array(-0.5)])
add("Clip", rn(3, 4), [None, np.array(0.5)])
for o in "Add Sub Mul Div Max Min".split():
    for s in [(3, 4), (4,), (1, 4), (1,), (), (2, 3, 4), (3, 1)]:
        add(o, pos(3, 4), [pos(*s)])
        add(o, pos(3, 4), [pos(*s)], pos=1)
add("Sum", rn(3, 4), [rn(4), rn(2, 3, 4)])
add("Mean", rn(3, 4), [rn(4), rn(2, 3, 4)])
add("Max", rn(3, 4), [rn(4), rn(2, 3, 4)])
add("Min", rn(3, 4), [rn(4), rn(2, 3, 4)])
add("Max", rn(4), [rn(3, 4), rn(2, 3, 4)], pos=1)
for e in (0.0, 1.0, 2.0, 3.0, 0.5, -1.0, 2.7, -0.5):
    add("Pow", pos(3, 4), [np.array(e)])
add("Pow", pos(3, 4), [rn(4)])
add("Pow", pos(3, 4), [pos(4)], pos=1)
add("Pow", rn(3, 4), [np.array(2, np.int64)])
add("PRelu", rn(3, 4), [rn(4)])
add("PRelu", rn(4), [rn(3, 4)], pos=1)
add("PRelu", rn(4, 1), [rn(2, 3, 4, 5)], pos=1)
add("Where", rn(3, 4), [R.random((3, 4)) > 0.5, rn(4)], pos=1)
add("Where", rn(4), [R.random((2, 3, 4)) > 0.5, rn(3, 4)], pos=2)
add("Cast", rn(3, 4), to=T.DOUBLE)
add("CastLike", rn(3, 4), [rn(1)], opsets=(15, 19))
# layout
add("Concat", rn(3, 4), [rn(3, 2), rn(3, 5)], axis=1)
add("Concat", rn(3, 4), [rn(3, 2), rn(3, 5)], axis=-1, pos=1)
add("Concat", rn(3, 4), [rn(2, 4)], axis=0)
add("Expand", rn(3, 1, 4), [np.array([2, 1, 5, 4])], dyn=False)
add("Expand", rn(3, 4), [np.array([1, 1])])
add("Flatten", rn(3, 4, 5))
add("Flatten", rn(3, 4, 5), axis=0)
add("Flatten", rn(3, 4, 5), axis=3)
add("Flatten", rn(3, 4, 5), axis=-1)
add("Reshape", rn(3, 4, 5), [np.array([0, 20])])
add("Reshape", rn(3, 4, 5), [np.array([-1, 5, 2, 2])])
add("Reshape", rn(3, 4, 5), [np.array([3, 20])], dyn=False, allowzero=1, opsets=(14, 21))
add("Squeeze", rn(3, 1, 4, 1), [np.array([1, -1])])
add("Squeeze", rn(3, 1, 4, 1), dyn=False)
add("Unsqueeze", rn(3, 4), [np.array([0, -1])])
add("Unsqueeze", rn(3, 4), [np.array([2])])
add("Transpose", rn(3, 4, 5))
add("Transpose", rn(3, 4, 5), perm=[1, 0, 2])
add("Transpose", rn(3, 4, 5), perm=[0, 2, 1])
add("Tile", rn(3, 4), [np.array([2, 3])])
add("Trilu", rn(3, 4, 4), opsets=(14, 18))
add("Trilu", rn(3, 4, 4), [np.array(1)], opsets=(14,), upper=0)
add("Slice", rn(5, 6, 4), [np.array([1]), np.array([4]), np.array([1])])
add("Slice", rn(5, 6), [np.array([0, 5]), np.array([9, -99]), np.array([0, -1]), np.array([1, -2])], dyn=False)
add("Slice", rn(5, 6), [np.array([1, 2]), np.array([2**62, 5])], dyn=False)
add("Slice", rn(5, 6), [np.array([-1]), np.array([-(2**62)]), np.array([1]), np.array([-1])])
add("Slice", rn(5, 7), [np.array([1]), np.array([2**31]), np.array([1], np.int32 if 0 else np.int64), np.array([3])])
add("Split", rn(3, 6), [np.array([2, 1, 3])], axis=1, nout=3, outi=2)
add("Split", rn(3, 6), [np.array([2, 4])], axis=-1, nout=2)
add("Split", rn(3, 6), axis=1, nout=2, outi=1, opsets=(13, 17))
add("Split", rn(3, 7), axis=1, nout=2, outi=1, num_outputs=2, opsets=(18, 22))
for m in ("constant", "reflect", "edge"):
    add("Pad", rn(3, 4, 5), [np.array([0, 1, 2, 0, 2, 1])], mode=m)
add("Pad", rn(3, 4, 5), [np.array([0, 1, 2, 0, 2, 1]), np.array(1.5)])
add("Pad", rn(3, 4, 5), [np.array([0, -1, 2, 0, 2, -1])])
add("Pad", rn(3, 4, 5), [np.array([1, 2]), np.array(0.0), np.array([-1])], opsets=(18, 21))
add("Pad", rn(3, 4, 5), [np.array([0, 1, 2, 0, 2, 1])], mode="wrap", opsets=(19, 21))
# product
add("MatMul", rn(3, 4), [rn(4, 5)])
add("MatMul", rn(4, 5), [rn(3, 4)], pos=1, dyn=False)
add("MatMul", rn(2, 3, 4), [rn(4, 5)])
add("MatMul", rn(3, 4), [rn(2, 4, 5)])
add("MatMul", rn(2, 3, 4, 5), [rn(3, 5, 2)])
add("MatMul", rn(5, 2), [rn(2, 3, 4, 5)], pos=1, dyn=False)
add("MatMul", rn(3, 5, 2), [rn(2, 1, 4, 5)], pos=1)
add("MatMul", rn(4), [rn(4, 5)], dyn=False)
add("MatMul", rn(4), [rn(2, 4, 5)], dyn=False)
add("MatMul", rn(3, 4), [rn(4)])
add("MatMul", rn(4), [rn(3, 4)], pos=1, dyn=False)
add("MatMul", rn(4), [rn(4)], dyn=False)
add("MatMul", rn(4), [rn(2, 3, 4)], pos=1, dyn=False)
add("MatMul", rn(2, 3, 4), [rn(4)])
for ta in (0, 1):
    for tb in (0, 1):
        a = rn(4, 3) if ta else rn(3, 4)
        b = rn(5, 4) if tb else rn(4, 5)
        add("Gemm", a, [b, rn(5)], alpha=0.7, beta=1.3, transA=ta, transB=tb, dyn=False)
        add("Gemm", b, [a, rn(3, 5)], pos=1, alpha=0.7, beta=1.3, transA=ta, transB=tb, dyn=False)
add("Gemm", rn(5), [rn(3, 4), rn(4, 5)], pos=2, beta=0.3, dyn=False)
add("Gemm", rn(3, 1), [rn(3, 4), rn(4, 5)], pos=2, beta=0.3, dyn=False)
add("Gemm", rn(3, 4), [rn(4, 5)])
for eq, xs, os, p in [
    ("ij,jk->ik", (3, 4), [(4, 5)], 0),
    ("ij,jk->ik", (4, 5), [(3, 4)], 1),
    ("nhwpqc->nchpwq", (2, 2, 2, 3, 3, 1), [], 0),
    ("bij,bjk", (2, 3, 4), [(2, 4, 5)], 0),
    ("ij->", (3, 4), [], 0),
    ("ii->i", (4, 4), [], 0),
    ("bhqd,bhkd->bhqk", (2, 3, 4, 5), [(2, 3, 6, 5)], 0),
    ("...ij,...jk->...ik", (2, 3, 4), [(2, 4, 5)], 0),
    ("a,b->ab", (3,), [(4,)], 1),
    ("ij,ij,j->i", (3, 4), [(3, 4), (4,)], 1),
]:
    add("Einsum", rn(*xs), [rn(*o) for o in os], pos=p, equation=eq, dyn=False)
# conv
add("Conv", rn(2, 3, 8, 7), [rn(4, 3, 3, 3), rn(4)], pads=[1, 1, 1, 1])
add("Conv", rn(2, 3, 8, 7), [rn(4, 3, 3, 3)], strides=[2, 2], pads=[1, 0, 1, 1])
add("Conv", rn(2, 4, 8, 7), [rn(4, 1, 3, 3)], group=4, dilations=[2, 1])
add("Conv", rn(2, 4, 8, 8), [rn(6, 2, 3, 2)], group=2, strides=[3, 2], pads=[0, 1, 2, 1])
add("Conv", rn(2, 3, 9), [rn(4, 3, 3)], strides=[2])
add("Conv", rn(2, 3, 5, 5, 5), [rn(2, 3, 2, 2, 2)])
add("Conv", rn(2, 3, 8, 7), [rn(4, 3, 3, 3)], auto_pad="SAME_UPPER", strides=[2, 2])
add("Conv", rn(2, 3, 8, 7), [rn(4, 3, 3, 3)], auto_pad="SAME_LOWER")
add("Conv", rn(2, 3, 8, 7), [rn(4, 3, 3, 3)], auto_pad="VALID", strides=[2, 2])
add("ConvTranspose", rn(2, 3, 5, 4), [rn(3, 4, 3, 3), rn(4)], strides=[2, 2], pads=[1, 1, 1, 1], output_padding=[1, 1])
add("ConvTranspose", rn(2, 4, 5, 4), [rn(4, 2, 4, 4)], strides=[2, 2], pads=[1, 1, 1, 1], group=2)
add("ConvTranspose", rn(2, 3, 5), [rn(3, 4, 3)], dilations=[2])
add("ConvTranspose", rn(2, 3, 5, 4), [rn(3, 4, 3, 3)], strides=[2, 2], output_shape=[10, 8])
add("ConvTranspose", rn(2, 3, 5, 4), [rn(3, 4, 2, 2)], strides=[2, 2], auto_pad="SAME_UPPER")
# gather
add("Gather", rn(5, 4), [np.array([[0, 2], [1, -1]])], axis=1)
add("Gather", rn(5, 4, 3), [np.array(1)], axis=1)
add("Gather", rn(5, 4), [np.array([4, 0, 0])], axis=0, dyn=False)
add("Gather", rn(5, 4), [np.array([1])], axis=-1)
add("GatherElements", rn(3, 4), [np.array([[0, 3], [1, 1], [2, 0]])], axis=1)
add("GatherElements", rn(3, 4), [np.array([[0, 2, 1, 0]])], axis=0, dyn=False)
add("GatherND", rn(3, 4, 2), [np.array([[0, 1], [2, 3]])], dyn=False)
add("GatherND", rn(3, 4, 2), [np.array([[1], [0], [3]])], batch_dims=1, dyn=False)
for red in (None, "add"):
    a = {} if red is None else dict(reduction=red)
    add(
        "ScatterElements",
        rn(3, 4),
        [np.array([[1, 0], [2, 3], [0, 1]]), rn(3, 2)],
        axis=1,
        opsets=(16, 18),
        dyn=False,
        **a,
    )
    add(
        "ScatterElements",
        rn(3, 2),
        [rn(3, 4), np.array([[1, 0], [2, 3], [0, 1]])],
        pos=2,
        axis=1,
        opsets=(16, 18),
        dyn=False,
        **a,
    )
    add("ScatterND", rn(3, 4, 2), [np.array([[0, 1], [2, 3]]), rn(2, 2)], opsets=(16, 18), dyn=False, **a)
    add("ScatterND", rn(2, 2), [rn(3, 4, 2), np.array([[0, 1], [2, 3]])], pos=2, opsets=(16, 18), dyn=False, **a)
add("TopK", rn(3, 6), [np.array([2])], nout=2, axis=1)
add("TopK", rn(3, 6), [np.array([2])], nout=2, axis=-1, largest=0)
# reduce
for o in "ReduceSum ReduceMean ReduceMax ReduceMin ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceProd ReduceSumSquare".split():
    for kd in (0, 1):
        for ax in ([1], [-1, 0], None):
            dyn = True
            if o == "ReduceSum":
                add(o, pos(3, 4, 2), [np.array(ax)] if ax else [], keepdims=kd)
            else:
                add(o, pos(3, 4, 2), keepdims=kd, opsets=(13, 17), **(dict(axes=ax) if ax else {}))
                add(o, pos(3, 4, 2), [np.array(ax)] if ax else [], keepdims=kd, opsets=(18, 20))
add("ReduceSum", rn(3, 4), noop_with_empty_axes=1)
for e in (0, 1):
    for r in (0, 1):
        add("CumSum", rn(3, 4), [np.array(1)], exclusive=e, reverse=r)
# resample
add("AveragePool", rn(2, 3, 8, 7), kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 1])
add("AveragePool", rn(2, 3, 8, 7), kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 1], count_include_pad=1)
add("AveragePool", rn(2, 3, 8, 7), kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)
add("AveragePool", rn(2, 3, 8), kernel_shape=[2], strides=[2])
add("AveragePool", rn(2, 3, 8, 8), kernel_shape=[2, 2], strides=[2, 2])
add("AveragePool", rn(2, 3, 8, 8), kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER")
add("MaxPool", rn(2, 3, 8, 7), kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 1])
add("MaxPool", rn(2, 3, 8, 8), kernel_shape=[2, 2], strides=[2, 2])
add("MaxPool", rn(2, 3, 8, 8), kernel_shape=[2, 2], strides=[2, 2], nout=2)
add("GlobalAveragePool", rn(2, 3, 4, 5))
add("GlobalMaxPool", rn(2, 3, 4, 5))
add("DepthToSpace", rn(2, 8, 3, 4), blocksize=2)
add("DepthToSpace", rn(2, 8, 3, 4), blocksize=2, mode="CRD")
add("SpaceToDepth", rn(2, 3, 4, 6), blocksize=2)
for mode in ("nearest", "linear", "cubic"):
    for ct in ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"):
        kw = dict(nearest_mode="floor") if mode == "nearest" else {}
        add(
            "Resize",
            rn(2, 3, 4, 6),
            [None, np.array([1, 1, 2, 2], np.float32)],
            mode=mode,
            coordinate_transformation_mode=ct,
            **kw,
        )
        add(
            "Resize",
            rn(2, 3, 4, 6),
            [None, None, np.array([2, 3, 7, 5])],
            mode=mode,
            coordinate_transformation_mode=ct,
            dyn=False,
            **kw,
        )
        add(
            "Resize",
            rn(2, 3, 6, 6),
            [None, np.array([1, 1, 0.5, 0.5], np.float32)],
            mode=mode,
            coordinate_transformation_mode=ct,
            **kw,
        )
add("Resize", rn(2, 3, 4, 6), [None, None, np.array([7, 5])], axes=[2, 3], mode="linear", opsets=(18, 19))
add(
    "Resize",
    rn(2, 3, 6, 6),
    [None, np.array([1, 1, 0.5, 0.5], np.float32)],
    mode="linear",
    antialias=1,
    opsets=(18, 19),
)
add(
    "Resize", rn(2, 3, 6, 6), [None, np.array([1, 1, 0.5, 0.5], np.float32)], mode="cubic", antialias=1, opsets=(18, 19)
)
# softmax, norm
for ax in (0, 1, -1):
    add("Softmax", rn(3, 4, 5), axis=ax)
    add("LogSoftmax", rn(3, 4, 5), axis=ax)
add("LayerNormalization", rn(3, 4, 5), [rn(5), rn(5)], opsets=(17,))
add("LayerNormalization", rn(3, 4, 5), [rn(4, 5), rn(4, 5)], opsets=(17,), axis=1, epsilon=1e-3)
add("LayerNormalization", rn(3, 4, 5), [rn(5)], opsets=(17,))
add("LayerNormalization", rn(5), [rn(3, 4, 5), rn(5)], pos=1, opsets=(17,))
add("LayerNormalization", rn(5), [rn(3, 4, 5), rn(5)], pos=2, opsets=(17,))
add("RMSNormalization", rn(3, 4, 5), [rn(5)], opsets=(23,))
add("RMSNormalization", rn(3, 4, 5), [rn(4, 5)], opsets=(23,), axis=1)
add("InstanceNormalization", rn(2, 3, 4, 5), [rn(3), rn(3)], epsilon=1e-3)
add("InstanceNormalization", rn(2, 3, 9), [np.ones(3), np.zeros(3)])
add("InstanceNormalization", rn(3), [rn(2, 3, 4), rn(3)], pos=1)
add("InstanceNormalization", rn(3), [rn(2, 3, 4), rn(3)], pos=2)
add("GroupNormalization", rn(2, 6, 4, 5), [rn(6), rn(6)], num_groups=3, opsets=(21,))
add("GroupNormalization", rn(2, 6, 4), [rn(6), rn(6)], num_groups=2, opsets=(21,), epsilon=1e-2)
add("GroupNormalization", rn(2, 6, 4, 5), [rn(3), rn(3)], num_groups=3, opsets=(18,))
add("BatchNormalization", rn(2, 3, 4, 5), [rn(3), rn(3), rn(3), pos(3)], opsets=(14, 15), epsilon=1e-3)
add("BatchNormalization", rn(2, 3), [rn(3), rn(3), rn(3), pos(3)], opsets=(15,))
add("LpNormalization", rn(3, 4))
add("LpNormalization", rn(3, 4), axis=0, p=1)
add("MeanVarianceNormalization", rn(2, 3, 4, 5))
add("LRN", rn(2, 7, 4, 5), size=3, alpha=0.3, beta=0.6, bias=1.2)
add("LRN", rn(2, 7, 4, 5), size=4, alpha=0.3)
add("Dropout", rn(3, 4), [np.array(0.5), np.array(False)])
add("Dropout", rn(3, 4))
add("DFT", rn(2, 8, 1), opsets=(17,))
add("DFT", rn(2, 8, 2), opsets=(17,), inverse=1)
add("DFT", rn(2, 8, 1), opsets=(17,), onesided=1)
add("DFT", rn(2, 8, 4, 2), [None, np.array(-2)], opsets=(20,))
add("DFT", rn(2, 8, 4, 1), [None, np.array(1)], opsets=(20,))

for p in (0, 1, 2):

    def qkv(q, k, v):
        a = [q, k, v]
        x = a.pop(p)
        return x, a

    x, c = qkv(rn(2, 2, 3, 4), rn(2, 2, 5, 4), rn(2, 2, 5, 6))
    add("Attention", x, c, opsets=(23,), pos=p)
    x, c = qkv(rn(2, 2, 3, 4), rn(2, 2, 5, 4), rn(2, 2, 5, 6))
    add("Attention", x, c + [rn(3, 5)], opsets=(23,), pos=p, scale=0.3, softcap=2.0)
    x, c = qkv(rn(2, 2, 5, 4), rn(2, 2, 5, 4), rn(2, 2, 5, 6))
    add("Attention", x, c, opsets=(23,), pos=p, is_causal=1)
    m = R.random((2, 1, 5, 5)) > 0.3
    x, c = qkv(rn(2, 2, 5, 4), rn(2, 2, 5, 4), rn(2, 2, 5, 6))
    add("Attention", x, c + [m], opsets=(23,), pos=p)
    x, c = qkv(rn(2, 3, 12), rn(2, 5, 6), rn(2, 5, 8))
    add("Attention", x, c, opsets=(23,), pos=p, q_num_heads=4, kv_num_heads=2)
add("RotaryEmbedding", rn(2, 3, 4, 8), [rn(10, 4), rn(10, 4), R.integers(0, 10, (2, 4))], opsets=(23,))
add(
    "RotaryEmbedding",
    rn(2, 4, 24),
    [rn(10, 2), rn(10, 2), R.integers(0, 10, (2, 4))],
    opsets=(23,),
    num_heads=3,
    rotary_embedding_dim=4,
    interleaved=1,
)
add("RotaryEmbedding", rn(2, 4, 24), [rn(2, 4, 4), rn(2, 4, 4)], opsets=(23,), num_heads=3, interleaved=1)
# Rows long enough for the product that takes the means away; from a generator of its own, so that no other case moves.
LATER = np.random.default_rng(2).standard_normal
add("InstanceNormalization", LATER((1, 2, 1024)), [LATER(2), LATER(2)])


def later(*s):
    return LATER(s)


def spread(w, c, a):
    """A transposed convolution of the constant image by the filters `w`, over two axes."""
    (x,), group, strides, (top, left, bottom, right) = c[:1], a.get("group", 1), a["strides"], a["pads"]
    n, channels, rows, columns = x.shape
    each, (height, width) = w.shape[1], w.shape[2:]
    y = np.zeros((n, group * each, (rows - 1) * strides[0] + height, (columns - 1) * strides[1] + width), w.dtype)
    for i in range(channels):
        g = i // (channels // group)
        for p in range(rows):
            for q in range(columns):
                place = np.s_[p * strides[0] : p * strides[0] + height, q * strides[1] : q * strides[1] + width]
                y[(np.s_[:], np.s_[g * each : (g + 1) * each], *place)] += x[:, i, p, q, None, None, None] * w[i]
    return y[:, :, top : y.shape[2] - bottom, left : y.shape[3] - right]


# convolutions by weights and bias
CONVS = (
    ((2, 3, 8, 7), (4, 3, 3, 3), dict(pads=[1, 0, 1, 1], strides=[2, 2])),
    ((2, 4, 8, 8), (6, 2, 3, 2), dict(group=2, strides=[3, 2], pads=[0, 1, 2, 1], dilations=[2, 1])),
    ((2, 3, 9), (4, 3, 3), dict(strides=[2], kernel_shape=[3])),
    ((1, 2, 5, 5, 4), (2, 2, 2, 2, 2), {}),
    ((2, 3, 8, 7), (4, 3, 3, 3), dict(auto_pad="SAME_UPPER", strides=[2, 2])),
    ((2, 4, 6, 6), (4, 1, 3, 3), dict(auto_pad="SAME_LOWER", group=4)),
)
TURNED = (
    ((2, 3, 5, 4), (3, 4, 3, 3), dict(strides=[2, 2], pads=[1, 1, 1, 1], output_padding=[1, 1])),
    ((2, 4, 5, 4), (4, 2, 4, 4), dict(strides=[2, 2], pads=[1, 1, 1, 1], group=2)),
    ((2, 3, 5), (3, 4, 3), dict(dilations=[2])),
    ((2, 3, 5, 4), (3, 4, 3, 3), dict(strides=[2, 2], pads=[0, 1, 1, 0], group=3) ),
    ((2, 3, 5, 4), (3, 4, 2, 2), dict(strides=[2, 2], auto_pad="SAME_UPPER")),
)
for op, forms in (("Conv", CONVS), ("ConvTranspose", TURNED)):
    for x, w, kw in forms:
        formula = spread if op == "ConvTranspose" and "group" in kw else None
        add(op, later(*w), [later(*x)], pos=1, dyn=False, formula=formula, **kw)
add("Conv", later(4), [later(2, 3, 8, 7), later(4, 3, 3, 3)], pos=2, dyn=False)
add("ConvTranspose", later(2), [later(2, 3, 5), later(3, 2, 3)], pos=2, dyn=False)


# sampling
for mode, old in (("linear", "bilinear"), ("nearest", "nearest"), ("cubic", "bicubic")):
    for padding in ("zeros", "border", "reflection"):
        for aligned in (0, 1):
            kw = dict(padding_mode=padding, align_corners=aligned)
            # Nearly all places lie inside, and some far outside; none at the kinks between pixels.
            places = np.where(np.abs(later(2, 3, 5, 2)) > 1, later(2, 3, 5, 2), later(2, 3, 5, 2) / 3)
            add("GridSample", later(2, 3, 4, 5), [places], opsets=(20,), mode=mode, **kw)
            add("GridSample", places, [later(2, 3, 4, 5)], opsets=(16,), pos=1, mode=old, dyn=False, **kw)
            if mode != "cubic":
                places = later(2, 2, 3, 2, 3) * 0.8
                add("GridSample", later(2, 2, 3, 4, 3), [places], opsets=(20,), mode=mode, dyn=False, **kw)
                add("GridSample", places, [later(2, 2, 3, 4, 3)], opsets=(22,), pos=1, mode=mode, **kw)

# recurrent layers
LINES = {
    "Affine": lambda v, a, b: a * v + b,
    "Elu": lambda v, a, b: np.where(v >= 0, v, a * (np.exp(v) - 1)),
    "HardSigmoid": lambda v, a, b: np.clip(a * v + b, 0, 1),
    "LeakyRelu": lambda v, a, b: np.where(v >= 0, v, a * v),
    "Relu": lambda v, a, b: np.maximum(v, 0),
    "ScaledTanh": lambda v, a, b: a * np.tanh(b * v),
    "Sigmoid": lambda v, a, b: 1 / (1 + np.exp(-v)),
    "Softplus": lambda v, a, b: np.log(1 + np.exp(v)),
    "Softsign": lambda v, a, b: v / (1 + np.abs(v)),
    "Tanh": lambda v, a, b: np.tanh(v),
    "ThresholdedRelu": lambda v, a, b: np.where(v > a, v, 0),
}
ALPHA = dict(Affine=1.0, Elu=1.0, HardSigmoid=0.2, LeakyRelu=0.01, ScaledTanh=1.0, ThresholdedRelu=1.0)
BETA = dict(Affine=0.0, HardSigmoid=0.5, ScaledTanh=1.0)
USUAL = dict(RNN=["Tanh"], GRU=["Sigmoid", "Tanh"], LSTM=["Sigmoid", "Tanh", "Tanh"])


def lines(op, a, directions):
    """The activations of each direction as functions."""
    names = a.get("activations", USUAL[op] * directions)
    alphas, betas = iter(a.get("activation_alpha", [])), iter(a.get("activation_beta", []))
    found = []
    for n in names:
        p = f32(next(alphas, ALPHA[n])) if n in ALPHA else 0
        q = f32(next(betas, BETA[n])) if n in BETA else 0
        found.append(lambda v, n=n, p=p, q=q: LINES[n](v, p, q))
    each = len(names) // directions
    return [found[i * each : (i + 1) * each] for i in range(directions)]


def recurrent(op, a, out, x, w, r, b=None, lens=None, h0=None, c0=None, p=None):
    """All outputs of a recurrent layer, of which one is taken."""
    steps, n, _ = x.shape
    directions, hidden = r.shape[0], r.shape[2]
    sides = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}[a.get("direction", "forward")]
    gates = r.shape[1] // hidden
    bound = f32(a["clip"]) if "clip" in a else np.inf
    ys, hs, cs = [], [], []
    for d, (back, acts) in enumerate(zip(sides, lines(op, a, directions))):
        f = [lambda v, act=act: act(np.clip(v, -bound, bound)) for act in acts]
        wb = b[d, : gates * hidden] if b is not None else np.zeros(gates * hidden)
        rb = b[d, gates * hidden :] if b is not None else np.zeros(gates * hidden)
        h = h0[d] if h0 is not None else np.zeros((n, hidden), x.dtype)
        c = c0[d] if c0 is not None else np.zeros((n, hidden), x.dtype)
        y = [None] * steps
        for t in range(steps)[:: -1 if back else 1]:
            i = np.split(x[t] @ w[d].T + wb, gates, 1)
            s = np.split(h @ r[d].T + rb, gates, 1)
            if op == "RNN":
                new, cell = f[0](i[0] + s[0]), c
            elif op == "GRU":
                z, q = f[0](i[0] + s[0]), f[0](i[1] + s[1])
                rh, bh = r[d, 2 * hidden :].T, rb[2 * hidden :]
                part = q * s[2] if a.get("linear_before_reset") else (q * h) @ rh + bh
                new, cell = (1 - z) * f[1](i[2] + part) + z * h, c
            else:
                pi, po, pf = np.split(p[d], 3) if p is not None else (0, 0, 0)
                enter = f[0](i[0] + s[0] + pi * c)
                forget = 1 - enter if a.get("input_forget") else f[0](i[2] + s[2] + pf * c)
                cell = forget * c + enter * f[1](i[3] + s[3])
                new = f[0](i[1] + s[1] + po * cell) * f[2](cell)
            inside = (t < lens)[:, None] if lens is not None else np.ones((n, 1), bool)
            y[t] = np.where(inside, new, 0)
            h, c = np.where(inside, new, h), np.where(inside, cell, c)
        ys.append(np.stack(y)), hs.append(h), cs.append(c)
    return [np.stack(ys, 1), np.stack(hs), np.stack(cs)][out]


def add_recurrent(op, pos=0, out=0, n=2, state=False, peep=False, bias=True, lens=None, steps=4, **a):
    gates = dict(RNN=1, GRU=3, LSTM=4)[op]
    d, i, h = 2 if a.get("direction") == "bidirectional" else 1, 3, 2
    w = [later(steps, n, i), later(d, gates * h, i) / 2, later(d, gates * h, h) / 2]
    w += [later(d, 2 * gates * h) / 2 if bias else None]
    w += [lens, later(d, n, h) if state else None]
    if op == "LSTM":
        w += [later(d, n, h) if state else None, later(d, 3 * h) if peep else None]
    x = w.pop(pos)
    while len(w) > pos and w[-1] is None:
        w.pop()

    def formula(x, c, a):
        c = [np.asarray(v, np.float64) if v is not None and v.dtype == np.float64 else v for v in c]
        return recurrent(op, a, out, *c[:pos], x, *c[pos:])

    nout = 3 if op == "LSTM" else 2
    add(op, x, w, opsets=(14, 22), pos=pos, nout=nout, outi=out, dyn=False, formula=formula, hidden_size=h, **a)


for op in ("RNN", "GRU", "LSTM"):
    inputs = (0, 1, 2, 3, 5) + ((6, 7) if op == "LSTM" else ())
    for pos in inputs:
        add_recurrent(op, pos, state=True, peep=True, direction="bidirectional")
    for out in range(3 if op == "LSTM" else 2):
        add_recurrent(op, out=out, direction="reverse")
        add_recurrent(op, out=out, lens=np.array([4, 2], np.int32), direction="bidirectional", state=True)
    add_recurrent(op, bias=False, clip=0.4)
add_recurrent("GRU", linear_before_reset=1)
add_recurrent("GRU", 2, linear_before_reset=1, state=True, direction="bidirectional", out=1)
add_recurrent("GRU", 3, linear_before_reset=1)
add_recurrent("LSTM", input_forget=1, peep=True)
for name in LINES:
    kw = dict(activation_alpha=[0.7]) if name in ALPHA else {}
    kw |= dict(activation_beta=[0.3]) if name in BETA else {}
    add_recurrent("RNN", activations=[name], **kw)
add_recurrent("LSTM", activations=["HardSigmoid", "LeakyRelu", "Softsign"], activation_alpha=[0.3, 0.2])
add_recurrent("GRU", activations=["Affine", "Elu"], activation_alpha=[0.3, 0.8], activation_beta=[0.1])


# spectra, of lengths of which ONNX Runtime is exact: of others its own are right to 1e-8
for opset in (17, 20):

    def add_dft(x, length=None, axis=1, **kw):
        consts = [None if length is None else np.array(length)]
        if opset >= 20:
            consts.append(np.array(axis))
        elif length is None:
            consts = []
        add("DFT", x, consts, opsets=(opset,), **kw, **(dict(axis=axis) if opset < 20 else {}))

    for length in (4, 8, 16):
        add_dft(later(2, 8, 1), length)
        add_dft(later(2, 8, 2), length, inverse=1)
        add_dft(later(2, 8, 1), length, onesided=1)
    add_dft(later(2, 3, 9, 1), 8, axis=2, onesided=1, dyn=False)
    add_dft(later(2, 5, 2), inverse=1, onesided=1)
    add_dft(later(2, 5, 2), 8, inverse=1, onesided=1)
for shape, kw in (((2, 16, 1), {}), ((2, 16, 1), dict(onesided=0)), ((2, 17, 2), dict(onesided=0))):
    add("STFT", later(*shape), [np.array(3), later(8)], opsets=(17,), **kw)
    add("STFT", later(*shape), [np.array(4), None, np.array(8)], opsets=(17,), dyn=False, **kw)
    add("STFT", later(8), [later(*shape), np.array(4)], opsets=(17,), pos=2, dyn=False, **kw)

# scattering that multiplies or compares
TWICE = np.array([[1, 0, 1], [2, 3, 2], [0, 1, 3]])
for red in ("mul", "max", "min"):
    kw = dict(opsets=(18,), dyn=False, reduction=red)
    add("ScatterElements", later(3, 4), [TWICE, later(3, 3)], axis=1, **kw)
    add("ScatterElements", later(3, 3), [later(3, 4), TWICE], pos=2, axis=1, **kw)
    add("ScatterND", later(3, 4, 2), [np.array([[0, 1], [2, 3], [0, 1]]), later(3, 2)], **kw)
    add("ScatterND", later(3, 2), [later(3, 4, 2), np.array([[0, 1], [2, 3], [0, 1]])], pos=2, **kw)

# parts of images
add("Col2Im", later(2, 12, 9), [np.array([4, 4]), np.array([2, 2])], opsets=(18,))
kw = dict(strides=[2, 1], pads=[1, 0, 1, 1], dilations=[2, 1])
add("Col2Im", later(2, 12, 3), [np.array([4, 3]), np.array([3, 2])], opsets=(18,), **kw)
UNPOOLED = np.array([[[[0, 3], [10, 13]], [[17, 22], [29, 26]]]])
add("MaxUnpool", later(1, 2, 2, 2), [UNPOOLED], kernel_shape=[2, 2], strides=[2, 2])
ROIS = np.array([[0.7, 1.2, 5.1, 4.3], [-0.6, 2.1, 3.2, 9.4], [1.3, 0.2, 1.6, 0.4]])
for mode in ("avg", "max"):
    for how in ("half_pixel", "output_half_pixel"):
        kw = dict(mode=mode, output_height=2, output_width=3, sampling_ratio=2, spatial_scale=0.9)
        kw |= dict(coordinate_transformation_mode=how, opsets=(16,), dyn=False)
        add("RoiAlign", later(2, 3, 5, 6), [ROIS, np.array([0, 1, 1])], **kw)
        add("RoiAlign", ROIS, [later(2, 3, 5, 6), np.array([0, 1, 1])], pos=1, **kw)


def pool_regions(x, c, a):
    """The largest of each bin of regions whose corners are whole numbers, times the scale."""
    (rois,), (rows, columns), scale = c, a["pooled_shape"], f32(a.get("spatial_scale", 1.0))
    y = np.zeros((len(rois), x.shape[1], rows, columns), x.dtype)
    for r, (n, *corners) in enumerate(rois):
        left, top, right, bottom = (math.floor(v * scale + 0.5) for v in corners)
        for i in range(rows):
            for j in range(columns):
                tall, wide = max(bottom - top + 1, 1) / rows, max(right - left + 1, 1) / columns
                t, b = top + math.floor(i * tall), top + math.ceil((i + 1) * tall)
                p, q = left + math.floor(j * wide), left + math.ceil((j + 1) * wide)
                part = x[int(n), :, max(t, 0) : max(b, 0), max(p, 0) : max(q, 0)]
                y[r, :, i, j] = part.max((1, 2)) if part.size else 0
    return y


REGIONS = np.array([[0, 0.4, 1.2, 5.1, 4.3], [1, 2.3, 0, 3.2, 9.4], [1, 7.2, 7.2, 9, 9]])
kw = dict(opsets=(21,), dyn=False, formula=pool_regions)
add("MaxRoiPool", later(2, 3, 5, 6), [REGIONS], pooled_shape=[2, 2], **kw)
add("MaxRoiPool", later(2, 3, 5, 6), [REGIONS], pooled_shape=[3, 2], spatial_scale=0.75, **kw)

# deformed convolutions
for place in range(5):
    forms = [later(2, 4, 5, 6), later(6, 2, 3, 2), later(2, 24, 3, 3), later(6), later(2, 12, 3, 3)]
    kw = dict(group=2, offset_group=2, strides=[2, 2], pads=[1, 0, 1, 1], dilations=[1, 2])
    x = forms.pop(place)
    add("DeformConv", x, forms, opsets=(19, 22), pos=place, dyn=False, **kw)
add("DeformConv", later(2, 2, 5, 5), [later(2, 2, 3, 3), later(2, 18, 3, 3)], kernel_shape=[3, 3], opsets=(19,), dyn=False)


# sequences, caches, grids
LENGTHS = np.array([1, 4, 3])
add("ReverseSequence", later(4, 3, 2), [LENGTHS], opsets=(10, 22), dyn=False)
add("ReverseSequence", later(3, 4, 2), [LENGTHS], opsets=(10, 22), time_axis=1, batch_axis=0)
for mode, starts in (("linear", [1, 4]), ("circular", [5, 2])):
    add("TensorScatter", later(2, 3, 6, 4), [later(2, 3, 2, 4), np.array(starts)], opsets=(24,), mode=mode, dyn=False)
    add("TensorScatter", later(2, 3, 2, 4), [later(2, 3, 6, 4), np.array(starts)], opsets=(24,), pos=1, mode=mode)
add("TensorScatter", later(2, 2, 4), [later(2, 6, 4)], opsets=(24,), pos=1, axis=1)
for aligned in (0, 1):
    add("AffineGrid", later(2, 2, 3), [np.array([2, 3, 4, 5])], opsets=(20,), align_corners=aligned, dyn=False)
    add("AffineGrid", later(2, 3, 4), [np.array([2, 3, 4, 5, 2])], opsets=(20,), align_corners=aligned, dyn=False)
add("CenterCropPad", later(4, 5, 3), [np.array([3, 8, 3])], opsets=(18,), dyn=False)
add("CenterCropPad", later(4, 5, 3), [np.array([2, 7])], opsets=(18,), axes=[-1, 1])
add("Compress", later(4, 5), [np.array([True, False, True, True])], opsets=(11, 22), axis=0, dyn=False)
add("Compress", later(3, 4), [np.array([False, True, True])], opsets=(11, 22))
kw = dict(opsets=(11, 22), dyn=False)
add("Range", np.array(0.7), [np.array(3.1), np.array(0.5)], formula=lambda x, c, a: x + c[1] * np.arange(5), **kw)
add("Range", np.array(0.5), [np.array(0.2), np.array(3.1)], pos=2, formula=lambda x, c, a: c[0] + x * np.arange(6), **kw)
for place in (0, 1):
    add("Mod", later(3, 4) * 3, [later(4)], opsets=(13, 22), pos=place, fmod=1)
# norms and determinants
for p in (1, 2, 3):
    norm = lambda x, c, a: (np.abs(x) ** a["p"]).sum((2, 3), keepdims=True) ** (1 / np.longdouble(a["p"]))  # noqa: E731
    add("GlobalLpPool", later(2, 3, 4, 5), opsets=(21,), formula=norm, p=p)
    add("LpPool", later(2, 3, 7, 6), opsets=(22,), p=p, kernel_shape=[3, 2], strides=[2, 1], pads=[1, 0, 1, 1])
add("LpPool", later(2, 3, 7, 6), opsets=(18, 22), kernel_shape=[2, 2], dilations=[2, 1])
for n in (1, 2, 3, 4):
    add("Det", later(3, n, n))
# losses
TARGETS = np.array([[0, 3, 1, 1, 2], [2, 2, 0, 1, 3]])
for op in ("SoftmaxCrossEntropyLoss", "NegativeLogLikelihoodLoss"):
    for red in ("none", "sum", "mean"):
        add(op, later(2, 4, 5), [TARGETS], opsets=(13, 22), reduction=red)
        add(op, later(2, 4, 5), [TARGETS, np.abs(later(4)) + 0.5], opsets=(13, 22), reduction=red, ignore_index=1)
add("SoftmaxCrossEntropyLoss", later(3, 4), [np.array([0, 1, 3])], opsets=(13, 22), nout=2, outi=1)


def dequantized(x, c, a):
    """Whole numbers, less those that stand for zero, times their scales."""
    bits, zero = c[0].astype(np.float64), 0.0
    along = lambda v: v.reshape([-1 if i == a["axis"] else 1 for i in range(bits.ndim)])  # noqa: E731
    scale = np.repeat(x, a["block_size"], a["axis"])[:, : bits.shape[1]] if "block_size" in a else along(x) if x.ndim else x
    if len(c) > 1:
        zero = along(c[1].astype(np.float64)) if c[1].ndim else float(c[1])
    return (bits - zero) * scale


def grouped(x, *numbers):
    """Three groups of six channels, with a number for each channel or each group."""
    return group_norm(x, *(np.repeat(v, 6 // len(v)) for v in numbers), 3, f32(1e-5))


def cropped(x, c, a):
    """Linear interpolation between the ends of a region, along the axes that are resized; outside there is a constant."""
    region, _, sizes = c
    axes = a.get("axes", range(x.ndim))
    outside = np.zeros((1,) * x.ndim, bool)
    for i, axis in enumerate(axes):
        last, count, (start, end) = x.shape[axis] - 1, int(sizes[i]), np.asarray(region, np.float32)[[i, i + len(axes)]]
        step = (end - start) * last / (count - 1) if count > 1 else 0
        places = start * last + np.arange(count) * np.float64(step) if count > 1 else np.array([(start + end) * last / 2])
        low = np.clip(np.floor(places).astype(int), 0, max(last - 1, 0))
        weight = (places - low).reshape([-1 if j == axis else 1 for j in range(x.ndim)])
        outside = outside | ((places < 0) | (places > last)).reshape(weight.shape)
        x = np.take(x, low, axis) * (1 - weight) + np.take(x, np.minimum(low + 1, last), axis) * weight
    return np.where(outside, np.float32(a.get("extrapolation_value", 0)), x)


# parameters of norms, values by their places, numbers of few bits by their scales
for place in range(5):
    parts = [later(2, 3, 4), later(3), later(3), later(3), np.abs(later(3)) + 0.3]
    x = parts.pop(place)
    add("BatchNormalization", x, parts, opsets=(15,), pos=place, dyn=False, epsilon=1e-3)
for place in (1, 2):
    for opset, count in ((18, 3), (21, 6)):
        parts = [later(2, 6, 4, 5), later(count), later(count)]
        x = parts.pop(place)
        kw = dict(formula=lambda x, c, a, place=place: grouped(*c[:place], x, *c[place:]), num_groups=3)
        add("GroupNormalization", x, parts, opsets=(opset,), pos=place, dyn=False, **kw)
for axis in (-1, 0):
    add("OneHot", later(2), [np.array([2, 0, -1, 7]), np.array(3)], pos=2, dyn=False, axis=axis)
BITS = np.array([[3, -7, 100, 0], [-128, 5, 9, 1], [2, 2, -3, 4]], np.int8)
add("DequantizeLinear", later(), [BITS, np.array(3, np.int8)], opsets=(13, 19), pos=1, formula=dequantized, dyn=False)
add("DequantizeLinear", later(4), [BITS], opsets=(13, 21), pos=1, formula=dequantized, dyn=False, axis=1)
zeros = np.array([1, -2, 3], np.int8)
add("DequantizeLinear", later(3), [BITS, zeros], opsets=(13, 19), pos=1, formula=dequantized, dyn=False, axis=0)
kw = dict(opsets=(21,), formula=dequantized, dyn=False, axis=1, block_size=3)
add("DequantizeLinear", later(3, 2), [BITS], pos=1, **kw)
# running products
for exclusive in (0, 1):
    for reverse in (0, 1):
        x = later(3, 5)
        kw = dict(exclusive=exclusive, reverse=reverse)
        add("CumProd", x, [np.array(1)], opsets=(26,), **kw)
        add("CumProd", x, [np.array(-2)], opsets=(26,), dyn=False, **kw)
# distinct elements
add("Unique", later(2, 3), opsets=(11, 22), dyn=False)
add("Unique", later(2, 3), opsets=(11, 22), nout=4, sorted=0)
add("Unique", later(4, 3), opsets=(11, 22), axis=1, dyn=False)
add("Unique", later(4, 3), opsets=(11, 22), axis=0, nout=2, sorted=0, dyn=False)
# regions of images
REGION = np.array([0, 0, 0.1, 0.2, 1, 1, 0.7, 0.9], np.float32)
WIDE = np.array([0, 0, -0.2, 0.2, 1, 1, 0.7, 1.3], np.float32)
kw = dict(coordinate_transformation_mode="tf_crop_and_resize", mode="linear", dyn=False, formula=cropped)
# ONNX Runtime crops no axis whose length stays.
for sizes in ([2, 3, 3, 4], [2, 3, 6, 7]):
    add("Resize", later(2, 3, 5, 5), [REGION, None, np.array(sizes)], opsets=(13, 19), **kw)
    add("Resize", later(2, 3, 5, 5), [WIDE, None, np.array(sizes)], opsets=(13, 19), extrapolation_value=7.5, **kw)
add("Resize", later(2, 3, 5, 5), [REGION[[3, 7]], None, np.array([4])], opsets=(18, 19), axes=[3], **kw)
for pads in ([0, 0, 0, 0], [1, 0, 1, 1]):
    kw = dict(kernel_shape=[2, 3], strides=[2, 2], pads=pads, storage_order=1)
    add("MaxPool", later(2, 3, 6, 7), nout=1, **kw)
    add("MaxPool", later(2, 3, 6, 7), nout=2, **kw)
# Attention by what each query sees: places, lengths, masks of either kind, and caches
for place in range(3):

    def attended(q, k, v):
        parts = [later(*q), later(*k), later(*v)]
        return parts.pop(place), parts

    shapes = ((2, 2, 3, 4), (2, 2, 6, 4), (2, 2, 6, 5))
    x, c = attended(*shapes)
    add("Attention", x, c + [None, None, None, np.array([4, 6])], opsets=(24,), pos=place, dyn=False)
    x, c = attended(*shapes)
    add("Attention", x, c + [later(3, 6), None, None, np.array([3, 5])], opsets=(24,), pos=place, is_causal=1, dyn=False)
    x, c = attended(*shapes)
    mask = np.where(np.abs(later(3, 6)) < 0.4, -np.inf, later(3, 6))
    mask[:, 2] = 0.5
    add("Attention", x, c + [mask], opsets=(23,), pos=place, dyn=False)
    x, c = attended(*shapes)
    seen = later(3, 6) > 0.5
    seen[:, 0] = True
    add("Attention", x, c + [seen], opsets=(23,), pos=place, is_causal=1, dyn=False)
    x, c = attended((2, 2, 3, 4), (2, 2, 3, 4), (2, 2, 3, 5))
    past = [later(2, 2, 2, 4), later(2, 2, 2, 5)]
    add("Attention", x, c + [None, *past], opsets=(23,), pos=place, is_causal=1, nout=3, dyn=False)
add("Attention", later(3, 6), [later(2, 2, 3, 4), later(2, 2, 6, 4), later(2, 2, 6, 5)], opsets=(23,), pos=3, dyn=False)
for left, right, causal in ((2, -1, 0), (1, 1, 0), (3, -1, 1), (-1, 0, 0)):
    kw = dict(left_window_size=left, right_window_size=right, is_causal=causal, opsets=(25,), dyn=False)
    add("Attention", later(2, 2, 5, 4), [later(2, 2, 5, 4), later(2, 2, 5, 3)], **kw)


def build(c, et):
    real = {T.DOUBLE: np.float64, T.FLOAT: np.float32}[et]
    inits, names = [], []
    for i, a in enumerate(c["consts"]):
        names.append("" if a is None else f"c{i}")
        if a is not None:
            inits.append(NH.from_array(a.astype(real) if a.dtype == np.float64 else np.asarray(a), f"c{i}"))
    names.insert(c["pos"], "x")
    attrs = dict(c["attrs"])
    if c["op"] == "Cast":
        attrs["to"] = et
    outs = [f"o{i}" for i in range(c["nout"])]
    outs[c["outi"]] = "y"
    node = H.make_node(c["op"], names, outs, name="node", **attrs)
    shape = list(c["x"].shape)
    if c["dyn"] and shape:
        shape[0] = "N"
    ports = [H.make_tensor_value_info("x", et, shape)], [H.make_tensor_value_info("y", et, None)]
    return H.make_model(
        H.make_graph([node], "case", *ports, inits), opset_imports=[H.make_opsetid("", c["opset"])], ir_version=10
    )


def loads(model):
    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception:
        return None


def along(f, x, v, h=4e-4):
    """The derivative of f at x along v: Richardson's extrapolation of central differences."""
    d = [(f(x + s * v) - f(x - s * v)) / (2 * s) for s in (h, h / 2, h / 4, h / 8)]
    for p in (4, 16, 64):
        d = [(p * b - a) / (p - 1) for a, b in zip(d, d[1:])]
    return d[0]


def extended(c, double, f, x, v):
    """The derivative right to 1e-12, or None where nothing here can tell it."""
    near, nearer = [(f(x + s * v) - f(x - s * v)) / (2 * s) for s in (2.0**-8, 2.0**-9)]
    size = max(np.abs(near).max(), 1e-3)
    if np.abs(near - nearer).max() <= 1e-13 * size:
        return nearer
    if formula := c["formula"] or EXACT.get(c["op"]):
        if c["op"] in ("Erf", "Gelu"):
            return None
        wide = lambda x: formula(x, c["consts"], c["attrs"])  # noqa: E731
    else:
        evaluator = ReferenceEvaluator(double)
        wide = lambda x: evaluator.run(["y"], {"x": x})[0]  # noqa: E731
    try:
        y = wide(np.asarray(x, np.longdouble))
        if np.asarray(y).dtype != np.longdouble or np.abs(y - f(x)).max() > 1e-12 * max(np.abs(y).max(), 1e-3):
            return None
        d = along(wide, np.asarray(x, np.longdouble), np.asarray(v, np.longdouble))
    except Exception:
        return None
    # An intermediate in float64 would show.
    close = np.abs(np.asarray(d - along(f, x, v), np.float64)).max() <= 1e-8 * size
    rough = along(wide, np.asarray(x, np.longdouble), np.asarray(v, np.longdouble), 8e-4)
    return np.asarray(d, np.float64) if close and np.abs(rough - d).max() <= 1e-13 * size else None


def group_norm(x, scale, bias, groups, epsilon):
    parts = x.reshape(x.shape[0], groups, -1)
    hat = (parts - parts.mean(-1, keepdims=True)) / np.sqrt(parts.var(-1, keepdims=True) + epsilon)
    along = (1, -1) + (1,) * (x.ndim - 2)
    return hat.reshape(x.shape) * scale.reshape(along) + bias.reshape(along)


def local_response(x, size, alpha, beta, bias):
    padded = np.pad(x * x, ((0, 0), ((size - 1) // 2, size // 2), (0, 0), (0, 0)))
    total = sum(padded[:, i : i + x.shape[1]] for i in range(size))
    return x / (bias + alpha / size * total) ** beta


def gelu(x, approximate="none"):
    inner = np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)) if approximate == "tanh" else ERF(x / np.sqrt(2))
    return x * (1 + inner) / 2


def f32(value):
    """An attribute as the file holds it."""
    return float(np.float32(value))


ERF = np.vectorize(math.erf)
# Operators whose evaluators compute in single precision, or differ from the specification.
EXACT = {
    "Erf": lambda x, c, a: ERF(x),
    "Gelu": lambda x, c, a: gelu(x, **a),
    "GroupNormalization": lambda x, c, a: group_norm(x, *c, a["num_groups"], f32(a.get("epsilon", 1e-5))),
    "Mean": lambda x, c, a: sum([x, *c]) / (1 + len(c)),
    "MeanVarianceNormalization": lambda x, c, a: (
        (x - x.mean((0, 2, 3), keepdims=True)) / x.std((0, 2, 3), keepdims=True)
    ),
    "LRN": lambda x, c, a: local_response(
        x, a["size"], f32(a["alpha"]), f32(a.get("beta", 0.75)), f32(a.get("bias", 1))
    ),
}


# A body in which the operator's own definition computes in float32 gives no float64 answer; some kernels take float64
# and then refuse it.
SINGLE = ("GroupNormalization", "Shrink", "GRU", "LSTM")


def reference(c, double, session):
    """The operator in float64: by its formula, by ONNX Runtime, or else by the reference evaluator."""
    if formula := c["formula"] or EXACT.get(c["op"]):
        return lambda x: formula(x, c["consts"], c["attrs"])
    run = session if session and c["op"] != "Shrink" else ReferenceEvaluator(double)
    return lambda x: np.asarray(run.run(["y"], {"x": x})[0], np.float64)


def main():
    arrays = {}
    for c in C:
        double = build(c, T.DOUBLE)
        session = loads(double)
        model = double if session and c["op"] not in SINGLE else build(c, T.FLOAT)
        run = loads(model)
        if run is None:
            print("ONNX Runtime has no", c["op"], c["opset"], c["attrs"])
            continue
        try:
            f = reference(c, double, session)
            if c["formula"]:
                real = {"tensor(double)": np.float64, "tensor(float)": np.float32}[run.get_inputs()[0].type]
                y = f(c["x"])
                gap = np.abs(run.run(["y"], {"x": np.asarray(c["x"], real)})[0] - y).max() / max(np.abs(y).max(), 1e-3)
                if not gap < 1e-5:
                    print("ONNX Runtime computes another", c["op"], c["attrs"], f"{gap:.1e}")
            v = short(R.standard_normal((3, *c["x"].shape)))
            known = [extended(c, double, f, c["x"], d) for d in v]
            right = 2e-9 if any(d is None for d in known) else 1e-12
            jv = np.stack([along(f, c["x"], d) for d in v] if right > 1e-12 else known)
        except Exception as e:
            print("no reference for", c["op"], c["attrs"], str(e)[:80])
            continue
        name = f"{len(arrays) // 4:03}-{c['op']}"
        bytes_ = np.frombuffer(model.SerializeToString(), np.uint8)
        arrays |= {f"{name}.onnx": bytes_, f"{name}.xv": np.concatenate([c["x"][None], v]), f"{name}.jv": np.asarray(jv, np.float64)}
        arrays[f"{name}.right"] = np.array([right])
        if right > 1e-12:
            print("known to 1e-9 alone:", name, "double" if model is double else "single")
    np.savez_compressed(OUT, **arrays)
    print(len(arrays) // 4, "cases,", OUT.stat().st_size, "bytes")


main()
