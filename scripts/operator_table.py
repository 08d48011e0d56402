"""Writes crates/onnx-autodiff/src/operators.txt: which inputs, outputs and attributes the standard operators have, by opset.

    python scripts/operator_table.py        # needs onnx
"""

import pathlib

import onnx
from onnx import defs

OUT = pathlib.Path(__file__).resolve().parent.parent / "crates/onnx-autodiff/src/operators.txt"
OPSETS = range(13, 29)
KINDS = {
    defs.OpSchema.FormalParameterOption.Single: "r",
    defs.OpSchema.FormalParameterOption.Optional: "o",
    defs.OpSchema.FormalParameterOption.Variadic: "*",
}


def ports(formal):
    return "".join(KINDS[p.option] for p in formal) or "-"


def rows():
    versions = {}
    for schema in defs.get_all_schemas_with_history():
        if schema.domain == "" and schema.since_version <= OPSETS[-1]:
            versions.setdefault(schema.name, []).append(schema)
    for name in sorted(versions):
        known = sorted(versions[name], key=lambda s: s.since_version)
        following = [s.since_version for s in known[1:]] + [OPSETS[-1] + 1]
        before = None
        for schema, end in zip(known, following):
            if end <= OPSETS[0] or (schema.deprecated and not schema.inputs):
                continue
            attributes = sorted(n + "!" * a.required for n, a in schema.attributes.items())
            row = [ports(schema.inputs), ports(schema.outputs), *attributes]
            if row != before:
                yield " ".join([name, str(schema.since_version), *row])
            before = row


def main():
    head = [
        f"# Written by scripts/operator_table.py from onnx {onnx.__version__}: the operator, the first opset of this form,",
        "# its inputs and its outputs (r required, o optional, * any number), its attributes (! required).",
    ]
    OUT.write_text("\n".join([*head, *rows()]) + "\n")
    print(sum(1 for _ in rows()), "forms")


main()
