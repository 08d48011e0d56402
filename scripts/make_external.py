"""tests/data/external: a network whose weights lie in a file beside it.

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


if __name__ == "__main__":
    main()
