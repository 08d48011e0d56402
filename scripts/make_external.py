"""Makes tests/data/external: a network with its weights in a file beside it, and one with weights too large for a message.

    python scripts/make_external.py
"""

from pathlib import Path

import onnx

DATA = Path(__file__).parent.parent / "tests" / "data"


def main():
    model = onnx.load(DATA / "graph" / "plain-mlp-ts-op13.onnx")
    (DATA / "external").mkdir(exist_ok=True)
    weights = "network.onnx.data"
    (DATA / "external" / weights).unlink(missing_ok=True)
    onnx.save_model(
        model,
        DATA / "external" / "network.onnx",
        save_as_external_data=True,
        location=weights,
        size_threshold=0,
        convert_attribute=False,
    )
    onnx.save(large(), DATA / "external" / "large.onnx")


def large(rows=9_000_000, width=64):
    """The velocity sin(w x) t for one row w of a table of 2.3 GB, which the test that needs it makes of nothing."""
    table = onnx.TensorProto(name="table", data_type=onnx.TensorProto.FLOAT, dims=[rows, width])
    table.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", "large.bin"), ("offset", 0), ("length", 4 * rows * width)):
        table.external_data.add(key=key, value=str(value))
    floats, integers = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64
    row = onnx.helper.make_tensor("row", integers, [1], [rows // 2])
    last = onnx.helper.make_tensor("last", integers, [1], [-1])
    nodes = [
        onnx.helper.make_node("Gather", ["table", "row"], ["w"], axis=0),
        onnx.helper.make_node("Mul", ["x", "w"], ["z"]),
        onnx.helper.make_node("Sin", ["z"], ["s"]),
        onnx.helper.make_node("Unsqueeze", ["t", "last"], ["column"]),
        onnx.helper.make_node("Mul", ["s", "column"], ["v"]),
    ]
    ports = [onnx.helper.make_tensor_value_info(name, floats, ["N", width]) for name in ("x", "v")]
    times = onnx.helper.make_tensor_value_info("t", floats, ["N"])
    graph = onnx.helper.make_graph(nodes, "large", [ports[0], times], [ports[1]], [table, row, last])
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)


if __name__ == "__main__":
    main()
