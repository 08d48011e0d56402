"""Differentiates files written by ONNX Runtime's optimizers, and compares them with the same model without optimization.

    python scripts/check_fused.py [--program target/release/examples/differentiate] FILE.onnx|FOLDER ...
    python scripts/check_fused.py --operators     # models of one fused operator each, against the runtime's own kernels

Each file is saved by the graph optimizer at the extended and the full level, and by the optimizer for transformers as
each type of model. ONNX Runtime on the CPU computes y, J·V and Vᵀ·J of the original and the optimized file. The bound
is max |error| / max |reference| <= 5e-5, except if the optimizer's file is itself another network; the script prints
this. For one operator: y against its kernel <= 1e-5, J·V against central differences of the kernel <= 5e-3, Vᵀ·J
against J·V <= 5e-5. Files in the blocked layout of the full level must be refused. Prints Markdown; exits 1 if
anything fails.
"""

import argparse
import collections
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

ROOT = Path(__file__).resolve().parent.parent
PRODUCTS, PRIMAL, DIFFERENCES = 5e-5, 1e-5, 5e-3
LEVELS = {"extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED, "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL}
# Else the runtime would fuse the parts again, and its kernel would be compared with itself.
PLAIN = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
TYPES = ("unet", "vae", "clip", "bert", "gpt2", "mmdit")
MICROSOFT = "com.microsoft"


def session(model, level=None, save=None):
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    if level is not None:
        options.graph_optimization_level = level
    if save:
        options.optimized_model_filepath = str(save)
    return ort.InferenceSession(str(model), options, ["CPUExecutionProvider"])


def differentiate(program, path, mode, out, *ports):
    """None, or why the file is refused."""
    done = subprocess.run([program, path, mode, out, *ports], capture_output=True, text=True, timeout=300)
    return done.stderr.strip() if done.returncode else None


def off(found, reference):
    """The largest error, in units of the largest number."""
    scale = max(abs(reference).max(), 1e-30) if reference.size else 1.0
    return float(abs(found.astype(np.float64) - reference).max() / scale) if reference.size else 0.0


def fused(path):
    """The operators outside the standard domain, counted."""
    nodes = onnx.load(str(path), load_external_data=False).graph.node
    standard = {s.name for s in onnx.defs.get_all_schemas() if not s.domain}
    return collections.Counter(
        n.op_type if n.domain in ("", MICROSOFT) else f"{n.domain.split('.')[-1]}.{n.op_type}"
        for n in nodes if n.domain not in ("", "ai.onnx") or n.op_type not in standard
    )


# ---------------------------------------------------------------------------------------------------------------------
# Files
# ---------------------------------------------------------------------------------------------------------------------


def optimized(path, folder):
    """The file as each optimizer writes it, by the optimizer's name."""
    from onnxruntime.transformers.optimizer import optimize_model

    for name, level in LEVELS.items():
        out = folder / f"{name}.onnx"
        session(path, level, out)
        yield name, out
    seen = set()
    for kind in TYPES:
        out = folder / f"{kind}.onnx"
        try:
            optimize_model(str(path), model_type=kind, opt_level=0).save_model_to_file(str(out))
        except Exception as error:  # the optimizer's own
            print(f"{path.stem}: the optimizer for {kind} fails: {error}", file=sys.stderr)
            continue
        if not valid(out):
            print(f"{path.stem}: the optimizer for {kind} writes what the runtime refuses", file=sys.stderr)
            continue
        if fused(out) and str(sorted(fused(out).items())) not in seen:
            seen.add(str(sorted(fused(out).items())))
            yield kind, out


def valid(path):
    """Whether the runtime takes the file, but for operators that it has on other processors alone."""
    try:
        session(path)
    except Exception as error:
        return "NOT_IMPLEMENTED" in str(error)
    return True


def feeds(path):
    """Seeded inputs for a file, a batch of two where the batch is open, and the name of the first float input."""
    rng, feed = np.random.default_rng(0), {}
    with np.load(path.with_suffix(".npz")) if path.with_suffix(".npz").exists() else {} as stored:
        for port in session(path).get_inputs():
            if port.name in stored:
                batched = port.shape and isinstance(port.shape[0], str)
                feed[port.name] = stored[port.name][:2] if batched else stored[port.name]
                continue
            shape = [2 if i == 0 else n if isinstance(n, int) else 8 for i, n in enumerate(port.shape)]
            integer = "int" in port.type
            feed[port.name] = rng.integers(0, 10, shape) if integer else rng.normal(size=shape).astype(np.float32)
    return feed


def products(program, path, feed, wrt, y_name, folder):
    """y, J·V for three tangents, Vᵀ·J; or why not."""
    rng, out = np.random.default_rng(1), folder / "derived.onnx"
    refusal = differentiate(program, path, "jvp", out, wrt, y_name)
    if refusal:
        return refusal
    tangents = rng.normal(size=(3, *feed[wrt].shape)).astype(np.float32)
    y, jv = session(out).run([y_name, f"{y_name}_tangent"], feed | {f"{wrt}_tangent": tangents})
    refusal = differentiate(program, path, "vjp", out, wrt, y_name)
    if refusal:
        return refusal
    cotangent = rng.normal(size=y.shape).astype(np.float32)
    (wj,) = session(out).run([f"{wrt}_cotangent"], feed | {f"{y_name}_cotangent": cotangent})
    return y, jv, wj


def changes(path, file, feed, y_name, found):
    """What the optimizer itself changes (as where it takes one form of Gelu for another), if the found y is that of its
    file and not the original's."""
    try:
        own, original = (session(p, PLAIN).run([y_name], feed)[0] for p in (file, path))
    except Exception:  # an operator that the runtime has on other processors alone
        return None
    if off(found, own) <= PRIMAL < off(own, original):
        return f"the optimizer changes y by {off(own, original):.1e}; y is its file's to {off(found, own):.1e}"
    return None


def check_file(program, path, folder):
    feed = feeds(path)
    stored = {t.name for t in onnx.load(str(path)).graph.initializer}
    ports = [p for p in onnx.load(str(path)).graph.input if p.name not in stored]
    wrt = next(p.name for p in ports if p.type.tensor_type.elem_type == TensorProto.FLOAT)
    y_name = onnx.load(str(path)).graph.output[0].name
    reference, failed = products(program, path, feed, wrt, y_name, folder), 0
    assert not isinstance(reference, str), reference
    for name, file in optimized(path, folder):
        operators = ", ".join(f"{op} {n}" for op, n in sorted(fused(file).items()))
        found = products(program, file, feed, wrt, y_name, folder)
        if isinstance(found, str):
            blocked = "nchwc" in operators and "in blocks of a size" in found
            failed += not blocked
            verdict = "refused: blocked layout" if blocked else f"**{found[:300]}**"
        else:
            errors = [off(a, b) for a, b in zip(found, reference)]
            verdict = " | ".join(f"{e:.1e}" for e in errors)
            if max(errors) <= PRODUCTS:
                pass
            elif changed := changes(path, file, feed, y_name, found[0]):
                verdict += f" | {changed}"
            else:
                failed += 1
                verdict = f"**{verdict}**"
        print(f"| {path.stem} | {name} | {operators} | {verdict} |", flush=True)
    return failed


# ---------------------------------------------------------------------------------------------------------------------
# Operators
# ---------------------------------------------------------------------------------------------------------------------

R = np.random.default_rng(2)


def real(*shape):
    return R.normal(size=shape).astype(np.float32)


def erf(x):
    from math import erf

    return np.vectorize(erf)(x)


def exact_gelu(x):
    return x * (1 + erf(x / np.sqrt(2))) / 2


def silu(x):
    return x / (1 + np.exp(-x))


def group_norm(x, gamma, beta, groups=2, epsilon=1e-5):
    """Of [N, H, W, C], in float64."""
    n, h, w, c = x.shape
    rows = x.reshape(n, h * w, groups, c // groups)
    centred = rows - rows.mean((1, 3), keepdims=True)
    return (centred / np.sqrt((centred**2).mean((1, 3), keepdims=True) + epsilon)).reshape(x.shape) * gamma + beta


def nhwc_conv(x, w, b):
    """3×3, same size."""
    n, height, width, _ = x.shape
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    shifts = [(i, j, padded[:, i : i + height, j : j + width]) for i in range(3) for j in range(3)]
    return sum(np.einsum("nhwc,mc->nhwm", part, w[:, i, j]) for i, j, part in shifts) + b


def softmax(x):
    powers = np.exp(x - x.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


Case = collections.namedtuple("Case", "op inputs attributes outputs formula opset domain")


def case(op, inputs, outputs=1, formula=None, opset=17, domain=MICROSOFT, **attributes):
    """The first input is the state; the others are weights, or None where left out. `formula` is for an operator without
    a kernel on the CPU."""
    return Case(op, inputs, attributes, outputs, formula, opset, domain)


def layer_cases():
    x, skip, gamma, beta, bias = real(2, 3, 8), real(2, 3, 8), real(8), real(8), real(8)
    for opset in (14, 17, 23):
        for op, rest in (("SkipLayerNormalization", [gamma, beta]), ("SkipSimplifiedLayerNormalization", [gamma])):
            for outputs in (1, "y - - sum"):
                yield case(op, [x, skip, *rest], outputs, opset=opset, epsilon=1e-3)
                yield case(op, [x, skip, *rest, bias], outputs, opset=opset)
            yield case(op, [x, skip[0], *rest], opset=opset)
        yield case("SkipLayerNormalization", [x, skip, gamma], opset=opset)
        for outputs in (1, 2):
            yield case("SimplifiedLayerNormalization", [x, gamma], outputs, opset=opset, domain="", epsilon=1e-3)
            wide = [x, real(3, 8)]
            yield case("SimplifiedLayerNormalization", wide, outputs, opset=opset, domain="", axis=1)
    for outputs in (1, 3):
        yield case("LayerNormalization", [x, gamma, beta], outputs, opset=14, domain="", epsilon=1e-3)
        yield case("LayerNormalization", [x, real(3, 8)], outputs, opset=14, domain="", axis=-2)
        yield case("LayerNormalization", [x, real(3, 8), real(3, 8)], outputs, opset=14, domain="", axis=1)
    ids, segments = np.array([[1, 2, 0], [3, 1, 1]], np.int32), np.array([[0, 1, 1], [0, 0, 1]], np.int32)
    positions, mask = np.array([[2, 1, 0], [0, 3, 1]], np.int32), np.array([[1, 1, 0], [1, 1, 1]], np.int32)
    tables = [real(4, 8), real(5, 8), real(2, 8)]
    for opset in (14, 17):
        whole = [ids, segments, *tables, gamma, beta]
        yield case("EmbedLayerNormalization", [*whole, mask], "y lengths sum", opset=opset)
        yield case("EmbedLayerNormalization", [*whole, None, positions], "y - sum", opset=opset, epsilon=1e-3)
        yield case("EmbedLayerNormalization", [ids, None, *tables[:2], None, gamma, beta], "y -", opset=opset)


def elementwise_cases():
    x, bias = real(2, 3, 8), real(8)
    for opset in (17, 20):
        yield case("Gelu", [x], opset=opset)
        yield case("FastGelu", [x], opset=opset)
        yield case("FastGelu", [x, bias], opset=opset)
        yield case("BiasGelu", [x, bias], opset=opset)
        split = lambda x, b: (x + b)[..., :4] * exact_gelu((x + b)[..., 4:])
        yield case("BiasSplitGelu", [x, bias], opset=opset, formula=split)
    yield case("QuickGelu", [x])
    yield case("QuickGelu", [x], alpha=1.0)
    yield case("QuickGelu", [x], alpha=0.5)
    yield case("BiasAdd", [x, bias, real(2, 3, 8)], formula=lambda x, b, s: x + b + s)
    yield case("BiasDropout", [x, bias, real(2, 3, 8)], formula=lambda x, b, r: x + b + r)
    yield case("BiasDropout", [x, bias, None, np.float32(0.3)], formula=lambda x, b, r, p: x + b)
    yield case("BiasSoftmax", [x, real(2, 1, 8)], axis=2, is_inner_broadcast=1, formula=lambda x, b: softmax(x + b))
    yield case("BiasSoftmax", [x, real(3, 8)], axis=-1, is_inner_broadcast=0, formula=lambda x, b: softmax(x + b))
    flat = lambda x, b: softmax((x + b).reshape(2, 24)).reshape(2, 3, 8)
    yield case("BiasSoftmax", [x, real(3, 8)], axis=1, is_inner_broadcast=0, formula=flat)


ACTIVATIONS = {
    "Relu": {}, "Sigmoid": {}, "Tanh": {}, "LeakyRelu": {"alpha": 0.2}, "HardSigmoid": {"alpha": 0.3, "beta": 0.4},
    "Clip": {"min": -0.5, "max": 0.8}, "Softplus": {}, "Softsign": {}, "Elu": {"alpha": 0.7},
    "Selu": {"alpha": 1.5, "gamma": 1.1}, "ThresholdedRelu": {"alpha": 0.3},
}


def product_cases():
    for kind in ({}, {"alpha": 0.3}):
        for a, b, turns in (
            ((2, 3, 4), (4, 5), {}), ((2, 4, 3), (4, 5), {"transA": 1}), ((2, 3, 4), (5, 4), {"transB": 1}),
            ((2, 4, 3), (2, 5, 4), {"transA": 1, "transB": 1}), ((4,), (4, 5), {}), ((4,), (5, 4), {"transB": 1}),
            ((3, 2, 4), (2, 4, 5), {"transBatchA": 1}), ((2, 3, 4), (4, 2, 5), {"transBatchB": 1}),
            ((4, 2, 3), (5, 2, 4), {"transBatchA": 1, "transA": 1, "transBatchB": 1, "transB": 1}),
            ((3, 2, 6, 4), (2, 6, 4, 5), {"transBatchA": 1}),
        ):
            yield case("FusedMatMul", [real(*a), real(*b)], **turns, **kind)
    yield case("TransposeMatMul", [real(2, 4, 3), real(4, 5)], transA=1, alpha=0.5)
    relu = lambda a, b: np.maximum(0.5 * a @ b.T, 0)
    yield case("FusedMatMulActivation", [real(3, 4), real(5, 4)], activation="Relu", alpha=0.5, transB=1, formula=relu)
    for name, numbers in ACTIVATIONS.items():
        params = {f"activation_{k}": v for k, v in numbers.items()}
        if name not in ("Clip",):
            yield case("FusedGemm", [real(3, 4), real(4, 5), real(5)], activation=name, **params)
        if name in ("Relu", "Sigmoid", "Tanh", "LeakyRelu", "HardSigmoid", "Clip"):
            listed = {"activation_params": list(numbers.values())} if numbers else {}
            image = [real(1, 4, 6, 6), real(4, 2, 3, 3), real(4)]
            yield case("FusedConv", image, activation=name, group=2, pads=[1] * 4, strides=[2, 2], **listed)
    yield case("FusedGemm", [real(4, 3), real(5, 4)], activation="Relu", transA=1, transB=1, alpha=0.5)
    yield case("FusedGemm", [real(3, 4), real(4, 5), real(3, 1)], activation="Tanh", beta=0.5)
    image = [real(1, 4, 6, 6), real(4, 4, 3, 3), real(4), real(1, 4, 6, 6)]
    yield case("FusedConv", image, activation="Relu", pads=[1] * 4)
    yield case("FusedConv", image, pads=[1] * 4)
    nhwc = lambda x, w, b: nhwc_conv(x, w, b)
    yield case("NhwcConv", [real(2, 5, 6, 4), real(3, 3, 3, 4), real(3)], pads=[1] * 4, formula=nhwc)
    for bits, block in ((4, 16), (4, 32), (8, 16), (2, 16)):
        n, k = 6, 40
        count = -(-k // block)
        packed = R.integers(0, 256, (n, count, block * bits // 8)).astype(np.uint8)
        scales, zeros = abs(real(n * count)) / 8, R.integers(0, 256, n * -(-count * bits // 8)).astype(np.uint8)
        sizes = dict(N=n, K=k, bits=bits, block_size=block)
        for inputs in ([], [zeros], [None, None, real(n)]) if bits != 2 else ([],):
            yield case("MatMulNBits", [real(2, 3, k), packed, scales, *inputs], **sizes)


def image_cases():
    image = [real(2, 4, 5, 6), real(6), real(6)]
    for activation in (0, 1):
        formula = lambda x, g, b, a=activation: (silu if a else lambda y: y)(group_norm(x, g, b))
        yield case("GroupNorm", image, activation=activation, groups=2, formula=formula)
        first = lambda x, g, b, f=formula: f(x.transpose(0, 2, 3, 1), g, b).transpose(0, 3, 1, 2)
        turned = [image[0].transpose(0, 3, 1, 2), *image[1:]]
        yield case("GroupNorm", turned, activation=activation, groups=2, channels_last=0, formula=first)
        skip = [*image, real(2, 4, 5, 6), real(6)]
        both = lambda x, g, b, s, c, f=formula: (f(x + s + c, g, b), x + s + c)
        yield case("SkipGroupNorm", skip, 2, activation=activation, groups=2, formula=both)


def attention_cases():
    n, s, t, heads, width = 2, 3, 4, 2, 8
    q, k, v, wide = real(n, s, width), real(n, t, width), real(n, t, width), real(n, t, 12)
    own, bias = [real(n, s, width), real(n, s, width)], real(3 * width)
    masks = [
        np.array([2, 4], np.int32), np.array([[1, 1, 0, 1], [0, 1, 1, 1]], np.int32),
        np.maximum(R.integers(0, 2, (n, s, t)), np.eye(s, t, dtype=int)).astype(np.int32),
    ]
    added = [real(n, heads, s, t), real(1, heads, s, t), real(n, 1, s, t), real(1, 1, s, t)]
    mha = lambda inputs, outputs=1, **a: case("MultiHeadAttention", inputs, outputs, num_heads=heads, **a)
    yield mha([q, k, v])
    yield mha([q, k, wide])
    yield mha([q, k, wide, real(28)])
    yield mha([q, k, v], scale=0.3)
    yield mha([q, k, v, bias], 3)
    yield mha([q, *own], unidirectional=1)
    yield mha([q, real(n, heads, t, 4), real(n, heads, t, 4)])
    for mask in masks:
        yield mha([q, k, v, None, mask])
        yield mha([q, k, v, None, mask], mask_filter_value=-1.5)
    for more in added:
        yield mha([q, k, v, bias, masks[1], more], mask_filter_value=-1.5)
    past = [real(n, heads, 2, 4), real(n, heads, 2, 4)]
    yield mha([q, *own, None, None, None, *past], 3)
    yield mha([q, *own, bias, None, real(n, heads, s, s + 2), *past], 3, unidirectional=1)
    pair, triple = real(n, t, heads, 2, 4), real(n, s, heads, 3, 4)
    apart = lambda part, i: part[:, :, :, i].reshape(*part.shape[:2], -1)

    def plain(q, k, v):
        rows = [part.reshape(*part.shape[:2], heads, -1).transpose(0, 2, 1, 3) for part in (q, k, v)]
        y = softmax(rows[0] @ rows[1].swapaxes(2, 3) / 2) @ rows[2]
        return y.transpose(0, 2, 1, 3).reshape(n, s, -1)

    yield mha([q, pair], formula=lambda q, p: plain(q, apart(p, 0), apart(p, 1)))
    yield mha([triple], formula=lambda p: plain(*[apart(p, i) for i in range(3)]))
    x, weights, square = real(n, s, 6), real(6, 3 * width), [m[..., :s] for m in masks[1:]]
    # Each query sees itself: where all is barred, -10000 swallows the scores, and differences are noise.
    square[1] = np.maximum(R.integers(0, 2, (n, s, s)), np.eye(s, dtype=int)).astype(np.int32)
    ends = [np.array([2, 3], np.int32), np.array([2, 3, 0, 1], np.int32)]
    attention = lambda inputs, outputs=1, **a: case("Attention", inputs, outputs, num_heads=heads, **a)
    yield attention([x, weights, bias], scale=0.4)
    yield attention([x, real(6, 20), real(20)], qkv_hidden_sizes=[8, 8, 4])
    yield attention([x, weights, bias], unidirectional=1)
    for mask in [*ends, *square]:
        yield attention([x, weights, bias, mask])
        yield attention([x, weights, bias, mask], mask_filter_value=-1.5, unidirectional=1)
    for more in (real(n, heads, s, s), real(1, heads, s, s), real(n, 1, s, s), real(1, 1, s, s)):
        yield attention([x, weights, bias, None, None, more])
        yield attention([x, weights, bias, square[0], None, more], unidirectional=1)
    yield attention([x, weights, bias, None, real(2, n, heads, 2, 4)], 2, unidirectional=1)
    tables, offset = [real(9, 2), real(9, 2)], np.array([3], np.int64)
    places = np.array([[0, 4, 2], [1, 8, 3]], np.int64)
    for interleaved in (0, 1):
        for where in (offset, places):
            yield case("RotaryEmbedding", [q, where, *tables], interleaved=interleaved)
            yield case("RotaryEmbedding", [real(n, 2, s, 4), where, *tables], interleaved=interleaved)
            some = dict(num_heads=1, rotary_embedding_dim=4, interleaved=interleaved)
            yield case("RotaryEmbedding", [q, where, *tables], **some)


def single(case, open_batch):
    """A model of one node, whose first input is the state where it is of floats; names of the outputs."""
    names = case.outputs if isinstance(case.outputs, str) else " ".join(f"y{i}" for i in range(case.outputs))
    outputs = ["" if name == "-" else name for name in names.split()]
    constants, inputs, ports = [], [], []
    for i, value in enumerate(case.inputs):
        inputs.append("" if value is None else f"i{i}")
        if i == 0 and value.dtype == np.float32:
            dims = ["N", *value.shape[1:]] if open_batch else value.shape
            ports.append(helper.make_tensor_value_info("i0", TensorProto.FLOAT, dims))
        elif value is not None:
            constants.append(numpy_helper.from_array(np.asarray(value), f"i{i}"))
    node = helper.make_node(case.op, inputs, outputs, "fused", domain=case.domain, **case.attributes)
    typed = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs if name]
    for port in typed:
        if port.name == "lengths":
            port.type.tensor_type.elem_type = TensorProto.INT32
        port.type.tensor_type.ClearField("shape")
    nodes = [node]
    if not ports:  # A state beside integer inputs, on which nothing depends.
        ports = [helper.make_tensor_value_info("i", TensorProto.FLOAT, [1])]
        nodes.append(helper.make_node("Mul", ["i", outputs[0]], ["moved"], "moved"))
        typed.insert(0, helper.make_tensor_value_info("moved", TensorProto.FLOAT, None))
        typed[0].type.tensor_type.ClearField("shape")
    imports = [helper.make_opsetid("", case.opset), helper.make_opsetid(MICROSOFT, 1)]
    graph = helper.make_graph(nodes, "single", ports, typed, constants)
    return helper.make_model(graph, opset_imports=imports, ir_version=9), ports[0].name, [port.name for port in typed]


def check_case(program, case, folder, open_batch):
    """The largest errors of y, J·V and Vᵀ·J over all outputs."""
    model, wrt, outputs = single(case, open_batch)
    path, out = folder / "single.onnx", folder / "derived.onnx"
    onnx.save(model, str(path))
    x = case.inputs[0] if wrt == "i0" else np.float32([1.3])

    def kernel(x):
        if case.formula:
            given = [None if v is None else v.astype(np.float64) for v in [x, *case.inputs[1:]]]
            y = case.formula(*given)
            return y if isinstance(y, tuple) else (y,)
        return running.run(outputs, {wrt: x})

    running = None if case.formula else session(path, PLAIN)
    reference, errors = kernel(x), np.zeros(3)
    tangents = real(2, *x.shape)
    step = np.float32(1e-2)
    for place, name in enumerate(outputs):
        if reference[place].dtype.kind == "i":
            continue
        refusal = differentiate(program, path, "jvp", out, wrt, name)
        if refusal:
            return refusal
        y, jv = session(out, PLAIN).run([name, f"{name}_tangent"], {wrt: x, f"{wrt}_tangent": tangents})
        centre, moved = reference[place].astype(np.float64), {}
        for by in (step, -step, step / 2, -step / 2):
            moved[by] = np.stack([kernel(x + by * v)[place].astype(np.float64) for v in tangents])
        coarse, fine = ((moved[by] - moved[-by]) / (2 * by) for by in (step, step / 2))
        slopes = (4 * fine - coarse) / 3  # Without the error of second order in the step.
        if "activation" in case.attributes:  # Differences across a kink tell nothing, and must be few.
            smooth = abs(moved[step] - 2 * centre + moved[-step]) / step <= 2 * DIFFERENCES * abs(slopes).max()
            if smooth.mean() < 0.75:
                return f"only {smooth.mean():.2f} of the differences are usable"
            slopes = np.where(smooth, slopes, jv)
        cotangent = real(*y.shape)
        refusal = differentiate(program, path, "vjp", out, wrt, name)
        if refusal:
            return refusal
        (wj,) = session(out, PLAIN).run([f"{wrt}_cotangent"], {wrt: x, f"{name}_cotangent": cotangent})
        there, back = (jv * cotangent).sum(), (tangents * wj).sum()
        pairing = abs(there - back) / max(np.sqrt((jv**2).sum() * (cotangent**2).sum()), 1e-30)
        errors = np.maximum(errors, [off(y, reference[place]), off(jv, slopes), pairing])
    return errors


def check_operators(program, folder):
    kinds = (layer_cases, elementwise_cases, product_cases, image_cases, attention_cases)
    worst, counts, failed, refused = {}, collections.Counter(), 0, 0
    for case in (case for kind in kinds for case in kind()):
        for open_batch in (False, True):
            said = f"{case.op} {case.attributes} {[None if v is None else v.shape for v in case.inputs]} {case.opset}"
            try:
                found = check_case(program, case, folder, open_batch)
            except Exception as error:
                found = f"{type(error).__name__}: {error}"
            name = f"{case.op}{'' if case.domain else ' (standard domain)'}"
            counts[name] += 1
            if isinstance(found, str) and open_batch and "this form of a fused operator" in found:
                refused += 1  # A mask of a fixed batch, for example.
                continue
            if isinstance(found, str):
                failed += 1
                print(f"**{said}: {found[:400]}**")
                continue
            if not (found <= [PRIMAL, DIFFERENCES, PRODUCTS]).all():
                failed += 1
                print(f"**{said}: {found}**")
            worst[name] = np.maximum(worst.get(name, 0), found)
    print("\n| operator | models | y | J·V by differences | Vᵀ·J by J·V |\n|" + "---|" * 5)
    for name, errors in sorted(worst.items()):
        print(f"| {name} | {counts[name]} | " + " | ".join(f"{e:.1e}" for e in errors) + " |")
    print(f"\n{refused} models with an open batch are refused for it.\n")
    return failed


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="*", type=Path)
    parser.add_argument("--program", default=str(ROOT / "target" / "release" / "examples" / "differentiate"))
    parser.add_argument("--operators", action="store_true")
    options = parser.parse_args()
    failed = 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if options.operators:
            failed += check_operators(options.program, folder)
        if options.paths:
            print("| network | optimizer | operators | y | J·V | Vᵀ·J |\n|" + "---|" * 6)
        for path in [f for p in options.paths for f in (sorted(p.glob("*.onnx")) if p.is_dir() else [p])]:
            failed += check_file(options.program, path, folder)
    print(f"\n{failed} fail.")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
