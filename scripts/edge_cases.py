"""Writes tests/data/graph/outputs.npz and singular.npz: forms that exporters write rarely.

    python scripts/edge_cases.py        # needs numpy, onnx and onnxruntime

`outputs.npz` uses every output of every operator with several outputs, one at a time. A case is named by number,
operator and output. `.onnx` has the bytes of a model with input `x` and output `y`. `.x` is its input. If the operator
is differentiated, `.j` is the Jacobian, by central differences of the same file extrapolated twice. A case without
`.j` must be refused, with the name of its node.

`singular.npz` holds operators at points where a formula divides zero by zero. `.j` is written by hand: it has
PyTorch's value there (`torch.pow`, `torch.prod`, `torch.linalg.vector_norm`, `torch.maximum`, `torch.amax`,
`torch.clamp` and others), and is infinite if the derivative is.

`tests/data/edges/` holds networks `(x, t) -> y` for the command line: with such points, with axes that the file leaves
open, with a batch size inside, with a loop.
"""

import math
import pathlib

import ml_dtypes
import numpy as np
import onnxruntime as ort
from onnx import TensorProto as T
from onnx import helper as H
from onnx import numpy_helper as NH

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "tests/data/graph"
EDGES = FOLDER.parent / "edges"
R = np.random.default_rng(7)
INF, NAN = np.inf, np.nan
INT4 = ml_dtypes.int4
REAL = {T.DOUBLE: np.float64, T.FLOAT: np.float32}


def rn(*s):
    return np.round(R.standard_normal(s), 3)


def model(nodes, x, consts, opset, et, shape=None):
    """A model of nodes `(operator, inputs, outputs, attributes)`, whose names are separated by spaces, `-` for none."""
    split = lambda names: ["" if n == "-" else n for n in names.split()]  # noqa: E731
    real = lambda a: a.astype(REAL[et]) if np.asarray(a).dtype == np.float64 else np.asarray(a)  # noqa: E731
    made = [H.make_node(op, split(i), split(o), name=f"node{n}", **a) for n, (op, i, o, a) in enumerate(nodes)]
    stored = [NH.from_array(real(np.asarray(a)), name) for name, a in consts.items()]
    dims = list(x.shape) if shape is None else shape
    ports = [H.make_tensor_value_info("x", et, dims)], [H.make_tensor_value_info("y", et, None)]
    graph = H.make_graph(made, "case", *ports, stored)
    return H.make_model(graph, opset_imports=[H.make_opsetid("", opset)], ir_version=10)


def load(made):
    options = ort.SessionOptions()
    options.log_severity_level = 4
    # Products with weights of four bits would round the input to eight.
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    return ort.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])


def either(build, x):
    """In float64 where ONNX Runtime has the operators in it, else in float32."""
    for et in (T.DOUBLE, T.FLOAT):
        try:
            made = build(et)
            session = load(made)
            session.run(["y"], {"x": x.astype(REAL[et])})
            return made, session, et
        except Exception as error:
            problem = error
    raise problem


def jacobian(session, x, et):
    """Central differences extrapolated twice, y along the first axis."""

    def f(x):
        return np.asarray(session.run(["y"], {"x": x.astype(REAL[et])})[0], np.float64).ravel()

    columns = []
    h = 4e-3 if et == T.DOUBLE else 3e-2
    for i in range(x.size):
        e = np.zeros(x.size)
        e[i] = 1
        e = e.reshape(x.shape)
        d = [(f(x + s * e) - f(x - s * e)) / (2 * s) for s in (h, h / 2, h / 4)]
        for p in (4, 16):
            d = [(p * b - a) / (p - 1) for a, b in zip(d, d[1:])]
        columns.append(d[0])
    return np.stack(columns, 1)


# Every output alone.
OUTPUTS = {}


def output(op, place, nodes, x, consts=None, opset=22, refused=False):
    """`nodes` may be a function of the element type, for subgraphs that declare it."""
    name = f"{len({n.split('.')[0] for n in OUTPUTS}):03}-{op}-{place}"
    of = nodes if callable(nodes) else lambda et: nodes
    if refused:
        made = model(of(T.FLOAT), x, consts or {}, opset, T.FLOAT)
    else:
        made, session, et = either(lambda et: model(of(et), x, consts or {}, opset, et), x)
        OUTPUTS[f"{name}.j"] = np.nan_to_num(jacobian(session, x, et))
    OUTPUTS[f"{name}.onnx"] = np.frombuffer(made.SerializeToString(), np.uint8)
    OUTPUTS[f"{name}.x"] = x


def alone(places, place, name="y"):
    """The names of outputs of which one is used: the others are left out as far as may be, or there for nothing."""
    return [
        " ".join(name if i == place else "-" if i else "o0" for i in range(place + 1)),
        " ".join(name if i == place else f"o{i}" for i in range(places)),
    ]


def outputs():
    for place in range(3):
        for names in alone(3, place):
            for axis in (-1, 1):
                scale = rn(5) if axis == -1 else rn(4, 5)
                consts = {"g": scale, "b": scale[::-1].copy()}
                node = ("LayerNormalization", "x g b", names, dict(axis=axis, epsilon=1e-3))
                output("LayerNormalization", place, [node], rn(2, 4, 5), consts)
    node = ("LayerNormalization", "x g", "o m i", {})
    mixed = [node, ("Mul", "o i", "a", {}), ("Sub", "a m", "y", {})]
    output("LayerNormalization", 2, mixed, rn(2, 5), {"g": rn(5)})
    node = ("LayerNormalization", "z x", "y m i", {})
    output("LayerNormalization", 0, [node, ("Add", "m i", "unused", {})], rn(5), {"z": rn(3, 5)})
    for opset in (23, 24):
        for place in range(4):
            for names in alone(4, place):
                a = dict(q_num_heads=2, kv_num_heads=2)
                node = ("Attention", "x x x", names, a)
                output("Attention", place, [node], rn(2, 3, 4), opset=opset)
    heads = [("Transpose", "x", "q", dict(perm=[0, 2, 1, 3]))]
    for mode in range(4):
        for mask in (False, True):
            a = dict(qk_matmul_output_mode=mode, softcap=1.5, scale=0.7)
            node = ("Attention", "q k k" + " m" * mask, "o - - y", a)
            output("Attention", 3, [*heads, node], rn(2, 3, 2, 4), {"k": rn(2, 2, 5, 4), "m": rn(3, 5)}, 23)
    for place in range(3):
        node = ("Attention", "q q q - pk pv", alone(3, place)[1], {})
        past = {"pk": rn(2, 2, 2, 4), "pv": rn(2, 2, 2, 4)}
        output("Attention", place, [*heads, node], rn(2, 3, 2, 4), past, 23)
    for mode in (0, 1, 3):
        node = ("Attention", "q q q", "o - - y", dict(is_causal=1, qk_matmul_output_mode=mode))
        output("Attention", 3, [*heads, node], rn(1, 3, 2, 4), opset=23)
    # What is barred has no derivative, whatever a runtime says it is.
    node = ("Attention", "q q q", "o - - y", dict(is_causal=1, qk_matmul_output_mode=2))
    output("Attention", 3, [*heads, node], rn(1, 3, 2, 4), opset=23)
    grouped = dict(q_num_heads=4, kv_num_heads=2)
    for place in range(3):
        part = [("Slice", "x s e a", "k", {}), ("Attention", "x k k", alone(3, place)[0], grouped)]
        bounds = {"s": np.array([0]), "e": np.array([4]), "a": np.array([2])}
        output("Attention", place, part, rn(2, 3, 8), bounds, 23)
    cast = ("Cast", "i", "y", dict(to=T.FLOAT))
    to = lambda et: ("Cast", "i", "y", dict(to=et))  # noqa: E731
    whole(cast, to)
    split = {"p": np.array([2, 1, 3])}
    for place in range(3):
        names = " ".join("y" if i == place else f"o{i}" for i in range(3))
        output("Split", place, [("Split", "x p", names, dict(axis=1))], rn(2, 6), split)
    quantized()
    remaining()


def quantized():
    """Weights stored in few bits are constants like others; what depends on the input has no derivative behind them."""
    w, s = R.integers(-60, 60, (4, 3)), np.array([0.02, 0.05, 0.01], np.float32)
    add = ("MatMul", "x f", "y", {})
    tensor = {"w": w.astype(np.int8), "s": np.float32(0.03), "z": np.int8(5)}
    output("DequantizeLinear", 0, [("DequantizeLinear", "w s z", "f", {}), add], rn(2, 4), tensor, 13)
    channel = {"w": w.astype(np.int8), "s": s, "z": np.zeros(3, np.int8)}
    output("DequantizeLinear", 0, [("DequantizeLinear", "w s z", "f", dict(axis=1)), add], rn(2, 4), channel, 18)
    unsigned = {"w": (w + 60).astype(np.uint8), "s": np.float32(0.03)}
    output("DequantizeLinear", 0, [("DequantizeLinear", "w s", "f", {}), add], rn(2, 4), unsigned, 21)
    blocks = {"w": w.astype(np.int8), "s": np.array([[0.02] * 3, [0.05] * 3], np.float32)}
    node = ("DequantizeLinear", "w s", "f", dict(axis=0, block_size=2))
    output("DequantizeLinear", 0, [node, add], rn(2, 4), blocks, 21)
    pair = [("QuantizeLinear", "v s z", "q", {}), ("DequantizeLinear", "q s z", "f", {}), add]
    output("DequantizeLinear", 0, pair, rn(2, 4), {**tensor, "v": rn(4, 3).astype(np.float32)}, 13)
    kernel = {"w": R.integers(-60, 60, (3, 2, 3, 3)).astype(np.int8), "s": s, "z": np.zeros(3, np.int8)}
    conv = [("DequantizeLinear", "w s z", "f", dict(axis=0)), ("Conv", "x f", "y", dict(pads=[1, 1, 1, 1]))]
    output("DequantizeLinear", 0, conv, rn(1, 2, 4, 4), kernel, 18)
    four = [("QuantizeLinear", "v s z", "q", {}), ("DequantizeLinear", "q s z", "f", {}), add]
    consts = {"v": rn(4, 3).astype(np.float32), "s": np.float32(0.3), "z": np.array(1).astype(INT4)}
    output("DequantizeLinear", 0, four, rn(2, 4), consts, 21)
    output("QuantizeLinear", 0, [("QuantizeLinear", "x s z", "q", {}), *pair[1:]], rn(4, 3), tensor, 13, True)
    scaled = [("DequantizeLinear", "w x", "y", dict(axis=1))]
    output("DequantizeLinear", 0, scaled, np.abs(rn(3)), {"w": w.astype(np.int8)}, 13)
    eight = [("Cast", "x", "e", dict(to=T.FLOAT8E4M3FN)), ("Cast", "e", "y", dict(to=T.FLOAT))]
    output("Cast", 0, eight, rn(2, 3), {}, 19, True)


def whole(cast, to):
    """Integers and truth values have no derivative but zero; their neighbours have."""
    pool = dict(kernel_shape=[2, 2], strides=[2, 2])
    for names in alone(2, 0):
        output("MaxPool", 0, [("MaxPool", "x", names, pool)], rn(1, 2, 4, 4))
        output("Dropout", 0, [("Dropout", "x", names, {})], rn(2, 3))
        output("TopK", 0, [("TopK", "x k", "y i", dict(axis=1))], rn(2, 6), {"k": np.array([2])})
    for names in alone(2, 1, "i"):
        for op, node, x, consts in [
            ("MaxPool", ("MaxPool", "x", names, pool), rn(1, 2, 4, 4), {}),
            ("Dropout", ("Dropout", "x", names, {}), rn(2, 3), {}),
            ("TopK", ("TopK", "x k", names, dict(axis=1)), rn(2, 6), {"k": np.array([2])}),
        ]:
            for et in (T.DOUBLE, T.FLOAT):
                try:
                    made = model([node, to(et)], x, consts, 22, et)
                    session = load(made)
                    break
                except Exception:
                    continue
            name = f"{len({n.split('.')[0] for n in OUTPUTS}):03}-{op}-1"
            OUTPUTS[f"{name}.onnx"] = np.frombuffer(made.SerializeToString(), np.uint8)
            OUTPUTS[f"{name}.x"] = x
            OUTPUTS[f"{name}.j"] = jacobian(session, x, et) * 0


def remaining():
    """Training, loops, losses and what is not differentiated, each output alone."""
    bn = {name: np.abs(rn(3)) + 1 for name in "gbmv"}
    for place in range(5):
        names = alone(5, place)[1]
        output("BatchNormalization", place, [("BatchNormalization", "x g b m v", names, {})], rn(2, 3), bn, 13, True)
    for place in range(3):
        node = ("BatchNormalization", "x g b m v", alone(3, place)[1], dict(training_mode=1))
        output("BatchNormalization", place, [node], rn(2, 3), bn, 15, True)
    for place in range(3):
        node = ("DynamicQuantizeLinear", "x", alone(3, place, "i")[1], {})
        nodes = [node, ("Cast", "i", "y", dict(to=T.FLOAT))]
        output("DynamicQuantizeLinear", place, nodes, rn(2, 3), refused=True)
    for op, gates, places in (("RNN", 1, 2), ("GRU", 3, 2), ("LSTM", 4, 3)):
        w = {"w": rn(1, gates * 2, 3), "r": rn(1, gates * 2, 2)}
        for place in range(places):
            node = (op, "x w r", alone(places, place)[0], dict(hidden_size=2))
            output(op, place, [node], rn(4, 1, 3), w)
    for place in range(2):
        node = ("SoftmaxCrossEntropyLoss", "x l", alone(2, place)[1], {})
        output("SoftmaxCrossEntropyLoss", place, [node], rn(2, 3), {"l": np.array([0, 2])})
    for place in range(4):
        node = ("Unique", "x", alone(4, place, "i")[1], {})
        cast = ("Cast", "i", "y", dict(to=T.FLOAT))
        output("Unique", place, [node, cast], rn(6))
    info = H.make_tensor_value_info
    for place in range(3):
        names = [info(n, T.FLOAT, [3]) for n in ("u0", "u1", "u2")]
        state = [info(f"v{i}", T.FLOAT, [3]) for i in range(3)]
        inner = [H.make_node("Identity", ["c"], ["c1"])]
        inner += [H.make_node("Tanh", [f"v{i}"], [f"u{i}"]) for i in range(3)]
        ports = [info("i", T.INT64, []), info("c", T.BOOL, []), *state]
        body = H.make_graph(inner, "body", ports, [info("c1", T.BOOL, []), *names])
        node = ("Loop", "n - x x x", alone(3, place)[1], dict(body=body))
        output("Loop", place, [node], rn(3), {"n": np.array(2)}, 18)
        row = [info(f"v{i}", T.FLOAT, []) for i in range(3)]
        ends = [info(f"u{i}", T.FLOAT, []) for i in range(3)]
        steps = [H.make_node("Tanh", [f"v{i}"], [f"u{i}"]) for i in range(3)]
        scan = ("Scan", "x x x", alone(3, place)[1], dict(body=H.make_graph(steps, "body", row, ends), num_scan_inputs=3))
        output("Scan", place, [scan], rn(3), opset=18)
        flat = [info(n, T.FLOAT, [3]) for n in ("u0", "u1", "u2")]
        ones = [H.make_node("Tanh", ["v"], [f"u{i}"]) for i in range(3)]
        body = H.make_graph(ones, "body", [info("v", T.FLOAT, [3])], flat)
        nodes = [
            ("SequenceConstruct", "x x", "s", {}),
            ("SequenceMap", "s", alone(3, place, "q")[1], dict(body=body)),
            ("SequenceAt", "q zero", "y", {}),
        ]
        output("SequenceMap", place, nodes, rn(3), {"zero": np.array(0)}, 18, True)
    # A sum from the last column to the first, its steps back to front.
    names = [info(n, T.FLOAT, [2]) for n in ("s", "e", "s1", "k")]
    steps = [H.make_node("Add", ["s", "e"], ["s1"]), H.make_node("Tanh", ["s1"], ["k"])]
    body = H.make_graph(steps, "body", names[:2], names[2:])
    turned = dict(scan_input_axes=[1], scan_input_directions=[1], scan_output_axes=[1], scan_output_directions=[1])
    scan = ("Scan", "a x", "o0 y", dict(body=body, num_scan_inputs=1, **turned))
    x = np.array([[0.3, -0.7, 1.1], [0.9, 0.2, -0.4]])
    output("Scan", 1, [scan], x, {"a": np.zeros(2)}, opset=18)


def subgraph(inputs, outputs, nodes, et):
    """A body or a branch of nodes like those of a model; numbers are of one type, but for `i`, `n` and truth values."""
    split = lambda names: ["" if n == "-" else n for n in names.split()]  # noqa: E731
    types = dict.fromkeys(("i", "j", "n", "n1"), T.INT64) | dict.fromkeys(("on", "go", "in", "out"), T.BOOL)
    port = lambda name: H.make_tensor_value_info(name, types.get(name, et), [] if name in types else None)  # noqa: E731
    made = [H.make_node(op, split(i), split(o), **a) for op, i, o, a in nodes]
    return H.make_graph(made, "body", [port(n) for n in inputs.split()], [port(n) for n in outputs.split()])


def at_run_time():
    """Choices, loops, scans and recurrent layers that nothing but the run decides."""
    w = np.array([[0.4, -0.7, 0.2], [0.9, 0.3, -0.5], [-0.1, 0.6, 0.8]])
    x = np.array([[0.3, -0.7, 1.1], [0.9, 0.2, -0.4]])
    consts = {"w": w, "none": np.array(0.0), "first": np.array([0]), "one": np.array(1), "two": np.array(2)}
    on = ("Identity", "on", "go", {})

    def steps(count):
        """The number of steps, as it follows from the input."""
        least = ("ReduceMin", "x", "least", dict(keepdims=0))
        scaled = [least, ("Mul", "least none", "nothing", {}), ("Add", "nothing count", "f", {})]
        return [*scaled, ("Cast", "f", "n", dict(to=T.INT64))], {**consts, "count": np.array(float(count))}

    def branches(yes, no, et):
        return dict(then_branch=subgraph("", "p", yes, et), else_branch=subgraph("", "q", no, et))

    wave = [("MatMul", "s w", "m", {}), ("Mul", "m gate", "g", {}), ("Tanh", "g", "s1", {}), ("Mul", "s1 x", "kept", {})]
    for place, count in ((0, 3), (0, 0), (1, 4)):
        before, known = steps(count)

        def carrying(et):
            body = dict(body=subgraph("i on s", "go s1 kept", [on, *wave], et))
            loop = ("Loop", "n - x", "y o" if place == 0 else "o k", body)
            total = [("ReduceSum", "k first", "y", dict(keepdims=0))] if place == 1 else []
            return [*before, ("Sigmoid", "x", "gate", {}), loop, *total]

        output("Loop", place, carrying, x, known, 18)
    before, known = steps(4)

    def nested(et):
        inner = [("Identity", "in", "out", {}), ("Mul", "t s", "a", {}), ("Sin", "a", "t1", {})]
        inner = dict(body=subgraph("j in t", "out t1", inner, et))
        other = branches([("Loop", "n - gate", "p", inner)], [("MatMul", "s w", "q", {})], et)
        even = [("Mod", "i two", "odd", {}), ("Cast", "odd", "flag", dict(to=T.BOOL)), ("If", "flag", "c", other)]
        body = dict(body=subgraph("i on s", "go s1", [on, *even, ("Tanh", "c", "s1", {})], et))
        return [*before, ("Sigmoid", "x", "gate", {}), ("Loop", "n - x", "y", body)]

    output("Loop", 0, nested, x, known, 18)

    def early(et):
        # It stops where the sum has grown enough, and counts its steps.
        step = [("Mul", "s two_", "a", {}), ("Sin", "a", "b", {}), ("Add", "a b", "s1", {}), ("Add", "n one", "n1", {})]
        stop = [("ReduceSumSquare", "s1", "all", dict(keepdims=0)), ("Less", "all far", "go", {})]
        body = dict(body=subgraph("i on s n", "go s1 n1 b", [*step, *stop], et))
        return [("Loop", "- yes x zero", "o m k", body), ("ReduceSum", "k first", "t", dict(keepdims=0)), ("Mul", "o t", "y", {})]

    stop = {"two_": np.array(1.3), "far": np.array(90.0), "yes": np.array(True), "zero": np.array(0)}
    output("Loop", 0, early, x, {**consts, **stop}, 18)
    bound = [("Unsqueeze", "n first", "end", {})]
    for turned in (False, True):
        before, known = steps(2)

        def scanned(et):
            step = [("MatMul", "s w", "m", {}), ("Add", "m e", "a", {}), ("Mul", "a f", "b", {}), ("Tanh", "b", "s1", {})]
            step += [("Mul", "s1 e", "kept", {})]
            way = int(turned)
            lines = dict(scan_input_axes=[0, 1], scan_input_directions=[way, 0])
            lines |= dict(scan_output_axes=[1], scan_output_directions=[way])
            scan = dict(body=subgraph("s e f", "s1 kept", step, et), num_scan_inputs=2, **lines)
            cut = [*bound, ("Slice", "x first end first", "part", {}), ("Transpose", "part", "across", dict(perm=[1, 0]))]
            start = ("ReduceSum", "x first", "s0", dict(keepdims=0))
            last = [("Transpose", "k", "rows", dict(perm=[1, 0])), ("Mul", "rows o", "y", {})]
            return [*before, *cut, start, ("Scan", "s0 part across", "o k", scan), *last]

        output("Scan", 1, scanned, x, known, 18)

    def chosen(et):
        sides = branches([("Mul", "x gate", "p", {})], [("MatMul", "gate w", "q", {})], et)
        return [("ReduceSum", "x first", "t", {}), ("Sigmoid", "x", "gate", {}), ("ReduceMax", "t", "m", dict(keepdims=0)),
                ("Greater", "m bar", "flag", {}), ("If", "flag", "c", sides), ("Mul", "c x", "y", {})]  # fmt: skip

    for bar in (1.0, 2.0):
        output("If", 0, chosen, x, {**consts, "bar": np.array(bar)}, 18)
    x = np.sin(np.arange(18.0)).reshape(3, 2, 3)
    before, known = steps(3)
    cut = [*before, *bound, ("Slice", "x first end first", "part", {})]
    weights = lambda *shape: np.round(0.6 * np.cos(np.arange(math.prod(shape)) ** 1.3), 3).reshape(shape)  # noqa: E731
    for op, gates, places in (("RNN", 1, 2), ("GRU", 3, 2), ("LSTM", 4, 3)):
        wide = {"W": weights(2, gates * 2, 3), "R": weights(2, gates * 2, 2), "B": weights(2, gates * 4)}
        for place in range(places):
            names = " ".join("y" if i == place else f"o{i}" for i in range(places))
            node = (op, "part W R B lengths", names, dict(hidden_size=2, direction="bidirectional"))
            output(op, place, [*cut, node], x, {**known, **wide, "lengths": np.array([3, 2], np.int32)})


# Singular points.
SINGULAR = {}


def singular(op, nodes, x, j, consts=None, opset=22):
    name = f"{len(SINGULAR) // 3:03}-{op}"
    x = np.asarray(x, np.float64)
    made, session, et = either(lambda et: model(nodes, x, consts or {}, opset, et), x)
    y = session.run(["y"], {"x": x.astype(REAL[et])})[0]
    j = np.asarray(j, np.float64)
    assert j.shape == (y.size, x.size), (name, j.shape, y.shape)
    SINGULAR[f"{name}.onnx"] = np.frombuffer(made.SerializeToString(), np.uint8)
    SINGULAR[f"{name}.x"], SINGULAR[f"{name}.j"] = x, j


def each(op, x, slopes, consts=None, opset=22, inputs="x", **attributes):
    """An elementwise operator, by its slopes."""
    singular(op, [(op, inputs, "y", attributes)], x, np.diag(np.asarray(slopes, np.float64)), consts, opset)


def rows(*gradients):
    """The Jacobian of one number per row."""
    n, width = len(gradients), len(gradients[0])
    j = np.zeros((n, n * width))
    for i, g in enumerate(gradients):
        j[i, i * width : (i + 1) * width] = g
    return j


def products_and_powers():
    x = [[2, 0, 3], [0, 0, 3], [2, 4, 3], [0, 0, 0]]
    j = rows([0, 6, 0], [0, 0, 0], [12, 6, 8], [0, 0, 0])
    for keep in (0, 1):
        singular("ReduceProd", [("ReduceProd", "x", "y", dict(axes=[1], keepdims=keep))], x, j, opset=17)
        singular("ReduceProd", [("ReduceProd", "x a", "y", dict(keepdims=keep))], x, j, {"a": np.array([1])}, 20)
    singular("ReduceProd", [("ReduceProd", "x", "y", dict(keepdims=0))], [-2, 0, 3], [[0, -6, 0]], opset=20)
    each("Pow", [0, 0, 0, 0, -2, -2, -2, 0], [0, 1, 0, 0, 0, 1, -4, 0], {"e": np.array([0.0, 1, 2, 3, 0, 1, 2, 1.5])}, inputs="x e")
    for e, slope in ((0.0, 0), (1.0, 1), (2.0, 0), (3.0, 0), (1.5, 0), (0.5, INF), (-1.0, -INF)):
        each("Pow", [0], [slope], {"e": np.array(e)}, inputs="x e")
        later = [("Relu", "e", "r", {}), ("Pow", "x r", "y", {})]
        if e >= 0:
            singular("Pow", later, [0], [[slope]], {"e": np.array([e])})
    each("Pow", [-2, -1], [-12 * -1, 3], {"e": np.array(3, np.int64)}, inputs="x e")
    each("Pow", [0, 0], [0, 0], {"e": np.array([0, 2], np.int64)}, inputs="x e")
    bases = {"b": np.array([0.0, 0, 0, 2, 1])}
    each("Pow", [2, 1, 0, 3, 5], [0, 0, 0, 8 * np.log(2), 0], bases, inputs="b x")
    later = [("Relu", "b", "r", {}), ("Pow", "r x", "y", {})]
    singular("Pow", later, [2, 0, 3], np.diag([0, 0, 8 * np.log(2)]), {"b": np.array([0.0, 0, 2])})


def norms():
    x, a = [[0, 0], [3, 4]], {"a": np.array([1])}
    singular("ReduceL2", [("ReduceL2", "x a", "y", dict(keepdims=0))], x, rows([0, 0], [0.6, 0.8]), a)
    singular("ReduceL2", [("ReduceL2", "x", "y", dict(axes=[1]))], x, rows([0, 0], [0.6, 0.8]), opset=17)
    singular("ReduceL1", [("ReduceL1", "x a", "y", {})], [[0, -2], [0, 0]], rows([0, -1], [0, 0]), a)
    q = np.zeros((4, 4))
    q[2:, 2:] = [[0.128, -0.096], [-0.096, 0.072]]
    singular("LpNormalization", [("LpNormalization", "x", "y", {})], x, q)
    q = np.zeros((4, 4))
    q[2:, 2:] = [[4 / 49, -3 / 49], [-4 / 49, 3 / 49]]
    singular("LpNormalization", [("LpNormalization", "x", "y", dict(p=1))], x, q)
    square = [("Mul", "x x", "s", {}), ("ReduceSum", "s a", "t", dict(keepdims=0)), ("Sqrt", "t", "y", {})]
    singular("Sqrt", square, [[3, 4]], rows([0.6, 0.8]), a)
    # As PyTorch: the root of a sum of squares has no derivative at the origin.
    singular("Sqrt", square, [[0, 0]], rows([NAN, NAN]), a)
    for op in ("ReduceSumSquare", "ReduceSum"):
        slope = 0 if op == "ReduceSumSquare" else 1
        singular(op, [(op, "x a", "y", {})], [[0, 0]], rows([slope, slope]), a)


def running_products():
    """The product of the factors so far but one, where that one alone is zero."""
    axis, x = {"a": np.array(0)}, [2, 0, 3, 0, 5]
    j = [[1, 0, 0, 0, 0], [0, 2, 0, 0, 0], [0, 6, 0, 0, 0], [0] * 5, [0] * 5]
    singular("CumProd", [("CumProd", "x a", "y", {})], x, j, axis, 26)
    j = [[0] * 5, *j[:4]]
    singular("CumProd", [("CumProd", "x a", "y", dict(exclusive=1))], x, j, axis, 26)
    j = [[0] * 5, [0] * 5, [0, 0, 0, 15, 0], [0, 0, 0, 5, 0], [0, 0, 0, 0, 1]]
    singular("CumProd", [("CumProd", "x a", "y", dict(reverse=1))], x, j, axis, 26)


def kinks():
    for op, x, slopes, attributes in [
        ("Abs", [0, -0.0, 2, -2], [0, 0, 1, -1], {}),
        ("Sign", [0, 1], [0, 0], {}),
        ("Floor", [0, 1], [0, 0], {}),
        ("Relu", [0, 1, -1], [0, 1, 0], {}),
        ("LeakyRelu", [0, 1], [0.25, 1], dict(alpha=0.25)),
        ("Elu", [0, 1], [1, 1], {}),
        ("Elu", [0, 1], [0.5, 1], dict(alpha=0.5)),
        ("Celu", [0, 1], [1, 1], dict(alpha=0.5)),
        ("Selu", [0, 1], [np.float32(1.6732632) * float(np.float32(1.0507010)), np.float32(1.0507010)], {}),
        ("Softsign", [0], [1], {}),
        ("HardSigmoid", [-2, 2, 0], [0, 0, 0.25], dict(alpha=0.25, beta=0.5)),
        ("HardSwish", [-3, 3, 0], [0, 1, 0.5], {}),
        ("Shrink", [0.5, -0.5, 1], [0, 0, 1], {}),
        ("ThresholdedRelu", [1, 2], [0, 1], {}),
        ("Log", [0], [INF], {}),
        ("Sqrt", [0], [INF], {}),
        ("Reciprocal", [0], [-INF], {}),
        ("Asin", [1], [INF], {}),
        ("Acos", [1], [-INF], {}),
        ("Acosh", [1], [INF], {}),
        ("Atanh", [1], [INF], {}),
    ]:
        each(op, x, slopes, **attributes)
    each("PRelu", [0, 1], [0.25, 1], {"s": np.array([0.25, 0.25])}, inputs="x s")
    each("PRelu", [0.25, 0.25], [0, -2], {"z": np.array([0.0, -2])}, inputs="z x")
    bounds = {"l": np.array(-1.0), "h": np.array(1.0)}
    each("Clip", [-1, 1, 0, 2, -2], [1, 1, 1, 0, 0], bounds, inputs="x l h")
    each("Max", [0, 1, -1], [0.5, 1, 0], {"z": np.array(0.0)}, inputs="x z")
    each("Min", [0, 1, -1], [0.5, 0, 1], {"z": np.array(0.0)}, inputs="z x")
    each("Max", [0, 1], [1 / 3, 1], {"z": np.array(0.0), "w": np.array([0.0, 0.5])}, inputs="x z w")
    each("Max", [2, -2], [1, 1], inputs="x x")
    each("Mul", [0, 0], [0, 0], inputs="x x")
    each("Div", [0, 0], [0.5, -0.25], {"c": np.array([2.0, -4])}, inputs="x c")
    each("Div", [1, 2], [0, 0], {"c": np.array([0.0, 0])}, inputs="c x")
    each("Softplus", [0, 200, -200], [0.5, 1, np.exp(-200.0)])
    each("Sigmoid", [0, 1000, -1000], [0.25, 0, 0])
    each("Tanh", [0, 1000, -1000], [1, 0, 0])


def extremes():
    a = {"a": np.array([1])}
    ties = [[1, 1, 0], [2, 2, 2]]
    third = 1 / 3
    singular("ReduceMax", [("ReduceMax", "x a", "y", {})], ties, rows([0.5, 0.5, 0], [third] * 3), a)
    ties = [[1, 1, 2], [0, 0, 0]]
    singular("ReduceMin", [("ReduceMin", "x a", "y", {})], ties, rows([0.5, 0.5, 0], [third] * 3), a)
    pooled = [[[1, 1, 0, 0]]]
    singular("GlobalMaxPool", [("GlobalMaxPool", "x", "y", {})], pooled, [[0.5, 0.5, 0, 0]])
    pool = dict(kernel_shape=[2], strides=[2])
    singular("MaxPool", [("MaxPool", "x", "y", pool)], pooled, [[1, 0, 0, 0], [0, 0, 1, 0]])
    singular("TopK", [("TopK", "x k", "y i", {})], [1, 1, 1], [[1, 0, 0], [0, 1, 0]], {"k": np.array([2])})


def choices():
    """What is not chosen is not felt, infinite or undefined as it may be there."""
    zero = {"z": np.array(0.0)}
    over = ("Greater", "x z", "c", {})
    plogp = [("Log", "x", "l", {}), ("Mul", "x l", "p", {}), ("Equal", "x z", "c", {}), ("Where", "c z p", "y", {})]
    singular("Where", plogp, [0, 1, 2], np.diag([0, 1, 1 + np.log(2)]), zero)
    singular("Where", [over, ("Sqrt", "x", "s", {}), ("Where", "c s z", "y", {})], [0, 4, -1], np.diag([0, 0.25, 0]), zero)
    scaled = [over, ("Log", "x", "s", {}), ("Neg", "s", "n", {}), ("Sub", "x n", "m", {}), ("Where", "c m z", "y", {})]
    singular("Where", scaled, [0, 2], np.diag([0, 1.5]), zero)
    twice = [over, ("Log", "x", "s", {}), ("Mul", "s s", "q", {}), ("Where", "c q x", "y", {})]
    singular("Where", twice, [0, 2], np.diag([1, np.log(2)]), zero)
    reciprocal = [("Reciprocal", "x", "r", {}), ("Where", "f r x", "y", {})]
    singular("Where", reciprocal, [0, 2], np.diag([1, -0.25]), {"f": np.array([False, True])})
    unit = [
        ("ReduceL2", "x a", "n", dict(keepdims=1)),
        ("Greater", "n z", "c", {}),
        ("Div", "x n", "u", {}),
        ("Where", "c u z", "y", {}),
    ]
    q = np.zeros((4, 4))
    q[2:, 2:] = [[0.128, -0.096], [-0.096, 0.072]]
    singular("Where", unit, [[0, 0], [3, 4]], q, {**zero, "a": np.array([1])})
    rooted = [
        ("Mul", "x x", "s", {}),
        ("ReduceSum", "s a", "t", dict(keepdims=1)),
        ("Greater", "t z", "c", {}),
        ("Sqrt", "t", "n", {}),
        ("Where", "c n z", "y", {}),
    ]
    singular("Where", rooted, [[0, 0], [3, 4]], rows([0, 0], [0.6, 0.8]), {**zero, "a": np.array([1])})
    angle = [("Split", "x h", "a b", dict(axis=0)), ("Div", "a b", "q", {}), ("Atan", "q", "y", {})]
    halves = {"h": np.array([2, 2])}
    j = np.array([[0, 0, -0.5, 0], [0, 0.5, 0, -0.5]])
    singular("Atan", angle, [2, 1, 0, 1], j, halves)
    singular("Atan", angle, [0, 1, 3, -1], [[1 / 3, 0, 0, 0], [0, -0.5, 0, -0.5]], halves)
    each("Atan", [0, 1], [1, 0.5])


def network(name, nodes, shape, consts, opset=18, says=None):
    """A network of a state of the given axes, some of them names, and one time per sample."""
    made = model(nodes, np.zeros(1), consts, opset, T.FLOAT, ["N", *shape])
    made.graph.input.append(H.make_tensor_value_info("t", T.FLOAT, ["N"]))
    made.graph.output[0].CopyFrom(H.make_tensor_value_info("y", T.FLOAT, says or ["N", *shape]))
    EDGES.mkdir(exist_ok=True)
    (EDGES / f"{name}.onnx").write_bytes(made.SerializeToString())


def networks():
    c = np.array([[0.0, 0, 0.3]])
    node = ("ReduceProd", "x a", "p", dict(keepdims=1))
    network("product", [node, ("Mul", "p c", "y", {})], [3], {"a": np.array([1]), "c": c})
    e, c = np.array([[0.0, 1, 2]]), np.array([[0.1, 0.2, 0.3]])
    network("powers", [("Pow", "x e", "p", {}), ("Mul", "p c", "y", {})], [3], {"e": e, "c": c})
    column = {"axes": np.array([1])}
    # A loop whose number of steps is not known before it runs, the same unrolled, and what is not differentiated.
    loop = [
        ("ReduceMax", "t", "m", dict(keepdims=0)),
        ("Mul", "m zero", "z", {}),
        ("Add", "z three", "f", {}),
        ("Cast", "f", "n", dict(to=T.INT64)),
        ("Unsqueeze", "t axes", "c", {}),
        ("Loop", "n - x", "o", dict(body=tanh_loop())),
        ("Mul", "o c", "y", {}),
    ]
    network("loop", loop, [3], {**column, "zero": np.array(0.0), "three": np.array(3.0)})
    unrolled = [("Tanh", a, b, {}) for a, b in ("xa", "ab", "bo")]
    network("unrolled", [("Unsqueeze", "t axes", "c", {}), *unrolled, ("Mul", "o c", "y", {})], [3], column)
    sequence = [
        ("SplitToSequence", "x", "parts", dict(axis=1)),
        ("SequenceAt", "parts place", "p", {}),
        ("Mul", "p x", "y", {}),
    ]
    network("sequence", sequence, [3], {"place": np.array(1)})
    for name, target in (("batch_of_one", [1.0, 2.0]), ("five_by_seven", [5.0, 7.0])):
        # What depends on an input is not known before anything runs.
        nodes = [
            ("ReduceMax", "t", "m", dict(keepdims=0)),
            ("Mul", "m zero", "n", {}),
            ("Add", "s n", "f", {}),
            ("Cast", "f", "i", dict(to=T.INT64)),
            ("Reshape", "x i", "r", {}),
        ]
        network(name, [*nodes, ("Neg", "r", "y", {})], [2], {"s": np.array(target), "zero": np.array(0.0)})
    pixels = {"one": np.array([1, 2, 3]), "up": np.array([1, 1, 2, 2], np.float32)}
    weights = {"w": 0.2 * rn(4, 1, 3, 3), "v": 0.2 * rn(1, 4, 3, 3), "b": 0.2 * rn(4)}
    pad = dict(pads=[1, 1, 1, 1])
    plane = [
        ("Conv", "x w b", "a", pad),
        ("AveragePool", "a", "p", dict(kernel_shape=[2, 2], strides=[2, 2])),
        ("Resize", "p - up", "q", dict(mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor")),
        ("Unsqueeze", "t one", "c", {}),
        ("Add", "q c", "h", {}),
        ("Sigmoid", "h", "s", {}),
        ("Mul", "h s", "g", {}),
        ("Conv", "g v", "y", pad),
    ]
    for name, axes, says in (
        ("plane", [1, 8, 8], None),
        ("open_plane", [1, "h", "w"], ["conv_dim_0", 1, "conv_dim_2", "conv_dim_3"]),
        ("open_square", [1, "h", "h"], ["M", 1, "h", "h"]),
        ("unnamed_plane", [None, None, None], [None, None, None, None]),
    ):
        network(name, plane, axes, {**pixels, **weights}, says=says)
    groups = {"g": np.array([0, 2, -1]), "o": np.ones(2), "z": np.zeros(2)}
    grouped = [
        ("Conv", "x w b", "a", pad),
        ("Shape", "a", "shape", {}),
        ("Reshape", "a g", "r", {}),
        ("InstanceNormalization", "r o z", "n", {}),
        ("Reshape", "n shape", "m", {}),
        ("Unsqueeze", "t one", "c", {}),
        ("Add", "m c", "h", {}),
        ("Tanh", "h", "s", {}),
        ("Conv", "s v", "y", pad),
    ]
    for name, axes, says in (("channel", [1, 8, 8], None), ("open_channel", ["c", 8, 8], ["n", "c", 8, 8])):
        network(name, grouped, axes, {**pixels, **weights, **groups}, says=says)
    # Rows of as many numbers as the tangents of a norm are worth a product of matrices for.
    long = [
        ("InstanceNormalization", "x o z", "n", {}),
        ("Unsqueeze", "t one", "c", {}),
        ("Add", "n c", "h", {}),
        ("Tanh", "h", "y", {}),
    ]
    network("long_rows", long, [2, 32, 32], {"one": pixels["one"], "o": groups["o"], "z": groups["z"]})
    # Tokens that a network leaves to themselves.
    w = (np.arange(16).reshape(4, 4) % 7 - 3) / 8
    tokens = [
        ("MatMul", "x w", "m", {}),
        ("Unsqueeze", "t two", "c", {}),
        ("Add", "m c", "h", {}),
        ("Tanh", "h", "y", {}),
    ]
    network("tokens", tokens, [8, 4], {"w": w, "two": np.array([1, 2])})
    # Inner values that have the names which its derivatives add.
    names = ["x_tangent", "y_tangent", "y_quadratic", "y_trace", "y_trace_terms", "y_cotangent", "x_cotangent", "o"]
    chain = [("Tanh", a, b, {}) for a, b in zip(["x", *names], names)]
    network("taken", [("Unsqueeze", "t axes", "c", {}), *chain, ("Mul", "o c", "y", {})], [3], column)


def tanh_loop():
    info = H.make_tensor_value_info
    inner = [H.make_node("Identity", ["c"], ["c1"]), H.make_node("Tanh", ["v"], ["u"])]
    ports = [info("i", T.INT64, []), info("c", T.BOOL, []), info("v", T.FLOAT, None)]
    return H.make_graph(inner, "body", ports, [info("c1", T.BOOL, []), info("u", T.FLOAT, None)])


outputs()
networks()
products_and_powers()
norms()
kinks()
extremes()
choices()
at_run_time()
running_products()
for name, arrays in (("outputs", OUTPUTS), ("singular", SINGULAR)):
    np.savez_compressed(FOLDER / f"{name}.npz", **arrays)
    cases = len({n.split(".")[0] for n in arrays})
    print(name, cases, "cases,", (FOLDER / f"{name}.npz").stat().st_size, "bytes")
