"""Writes the facts about operators: `src/operators.txt`, `OPERATORS.md` and its summary in the README of the crate
onnx-autodiff.

    cargo build --release -p onnx-autodiff --examples
    python scripts/operator_table.py            # needs onnx and onnxruntime; onnx-ad==0.3.0 for its column
    python scripts/operator_table.py --check    # writes nothing; exits 1 if one of them is stale

`operators.txt` holds the inputs, outputs and attributes of the standard operators by opset, from the onnx package.

`OPERATORS.md` says of every operator what the crate does with it. The facts come from the crate itself
(`examples/operators`) and from test runs. Every file of one operator of `tests/data/graph` is differentiated in both
modes and run; it counts if its derivative is right. For operators that no runtime has yet, the onnx package's own
examples count, which its evaluator runs. If onnx-ad is not installed, its column is kept as it was written.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import onnx
from onnx import defs

ROOT = Path(__file__).resolve().parent.parent
CRATE = ROOT / "crates/onnx-autodiff"
FORMS, TABLE, FRONT = CRATE / "src/operators.txt", CRATE / "OPERATORS.md", CRATE / "README.md"
BEGIN, END = "<!-- written by scripts/operator_table.py -->", "<!-- until here -->"
OPSETS = range(13, 29)
STANDARD = 25
KINDS = {
    defs.OpSchema.FormalParameterOption.Single: "r",
    defs.OpSchema.FormalParameterOption.Optional: "o",
    defs.OpSchema.FormalParameterOption.Variadic: "*",
}


# ---------------------------------------------------------------------------------------------------------------------
# Forms
# ---------------------------------------------------------------------------------------------------------------------


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


def forms():
    head = [
        f"# Written by scripts/operator_table.py from onnx {onnx.__version__}: the operator, the first opset of this form,",
        "# its inputs and its outputs (r required, o optional, * any number), its attributes (! required).",
    ]
    return "\n".join([*head, *rows()]) + "\n"


# ---------------------------------------------------------------------------------------------------------------------
# Support
# ---------------------------------------------------------------------------------------------------------------------

WORDS = {
    "constant": "constant: its derivative is zero",
    "rule": "a rule of its own",
    "parts": "as what it consists of",
    "lowered": "replaced by what it consists of when the file is read",
    "subgraphs": "what is known of it before it runs takes its place; else a choice or a loop of tangents",
    "refused": "refused",
}


# Operators that no runtime has yet, and what their examples are called.
UNSEEN = {"CausalConvWithState": "causal_conv_with_state", "LinearAttention": "linear_attention", "SwiGLU": "swiglu"}


def supported(program):
    """What the crate says of each operator: its lines as fields."""
    done = subprocess.run([program], capture_output=True, text=True, check=True)
    return [line.split("\t") for line in done.stdout.splitlines()]


def since():
    """The opset in which each operator of the standard came, and those that left it."""
    first, gone = {}, set()
    for schema in defs.get_all_schemas_with_history():
        if schema.domain == "":
            first[schema.name] = min(schema.since_version, first.get(schema.name, 10**6))
    for schema in defs.get_all_schemas():
        if schema.domain == "" and schema.deprecated:
            gone.add(schema.name)
    return first, gone


def right(differentiate, unseen):
    """How many files of each operator have the right derivative, by mode; `unseen` are those that no runtime has."""
    from compare_onnx_ad import Ours, examples, judge, operators

    tool, counts = Ours(differentiate), Counter()
    with tempfile.TemporaryDirectory() as temporary:
        path, out, original = (Path(temporary) / name for name in ("case.onnx", "derived.onnx", "original.onnx"))
        cases = [*operators(None, True, original)]
        cases += [case for op, name in unseen.items() for case in examples(name) if case.op == op]
        for case in cases:
            path.write_bytes(case.data)
            for mode in ("jvp", "vjp"):
                verdict, why = judge(tool, mode, case, path, out, cotangents(case))
                counts[case.op, mode, verdict == "right"] += 1
                if verdict not in ("right", "refused"):
                    sys.exit(f"{case.name}, {mode}: {verdict}: {why}")
    return counts


def cotangents(case):
    import numpy as np

    return np.random.default_rng(5).standard_normal((2, *case.jv.shape[1:]))


def of_onnx_ad():
    """How onnx-ad 0.3.0 treats each operator, by its own tables; none where it is not installed."""
    try:
        from onnx_ad import __version__, control, expand, lower, recurrent, rules  # noqa: F401
    except ImportError:
        return None
    if __version__ != "0.3.0":
        sys.exit(f"onnx-ad is {__version__}; the column is of 0.3.0")
    found = {op: "zero" if rule is rules.FORWARD["Floor"] else "rule" for op, rule in rules.FORWARD.items()}
    found |= dict.fromkeys(lower.LOWERINGS, "lowered") | dict.fromkeys(recurrent.GATES, "lowered")
    for schema in defs.get_all_schemas():
        body = schema.has_function or schema.has_context_dependent_function
        if schema.domain == "" and body and schema.name not in found:
            found[schema.name] = "by its body"
    return found


def kept():
    """onnx-ad's column as it stands in the table."""
    lines = [line.split(" | ") for line in TABLE.read_text().splitlines() if line.startswith("| `")]
    found = {fields[0].strip("| `"): fields[4].strip() for fields in lines if len(fields) >= 6}
    named = next((line for line in TABLE.read_text().splitlines() if line.startswith("onnx-ad names")), "")
    found |= dict.fromkeys(re.findall("`([^`]+)`", named.split(" besides")[0]), "named")
    return {name: word for name, word in found.items() if word != "–"}


def cell(counts, op):
    done = [counts[op, mode, True] for mode in ("jvp", "vjp")]
    if not any(done):
        return "–"
    return f"{done[0]} and {done[1]}"


def table(options):
    known, (first, gone) = supported(options.operators), since()
    # ONNX Runtime writes one operator of its own to the standard domain.
    standard = [fields for fields in known if fields[1] in first and not fields[0]]
    names = {fields[1] for fields in standard}
    missing = sorted(set(first) - names - gone)
    if missing:
        sys.exit(f"the crate does not know {', '.join(missing)}")
    theirs = of_onnx_ad() or kept()
    counts = right(options.differentiate, UNSEEN)
    body = []
    for _, name, kind, low, _, why in standard:
        opset = f"{first[name]}" + ("" if int(low) <= max(first[name], OPSETS[0]) else f", read from {low}")
        opset += ", left out since" if name in gone else ""
        body.append([f"`{name}`", opset, kind, cell(counts, name), theirs.get(name, "–"), why])
    fused = [[f"`{domain or 'ai.onnx'}.{name}`", kind] for domain, name, kind, *_ in known if domain or name not in first]
    return page(standard, body, fused, first, theirs)


def lines(head, body):
    return ["| " + " | ".join(head) + " |", "|" + "---|" * len(head), *("| " + " | ".join(r) + " |" for r in body)]


def summary(standard, first):
    """How many operators there are of each kind."""
    kinds = Counter(fields[2] for fields in standard)
    old = Counter(fields[2] for fields in standard if first[fields[1]] <= STANDARD)
    counts = [[kind, words, str(old[kind]), str(kinds[kind] - old[kind])] for kind, words in WORDS.items()]
    return lines(["kind", "what becomes of the operator", f"up to opset {STANDARD}", f"opsets {STANDARD + 1} to {OPSETS[-1]}"], counts)


def front(options):
    """The README with the summary in its place."""
    first, _ = since()
    standard = [fields for fields in supported(options.operators) if fields[1] in first and not fields[0]]
    before, rest = FRONT.read_text().split(BEGIN)
    _, after = rest.split(END)
    return "\n".join([before + BEGIN, "", *summary(standard, first), "", END + after])


def page(standard, body, fused, first, theirs):
    extra = sorted(set(theirs) - {fields[1] for fields in standard})
    behind = [f"`{f[1]}`" for f in standard if f[2] == "refused" and f[1] in theirs]
    text = [
        "# Operators",
        "",
        "Written by `scripts/operator_table.py`, whose `--check` holds it against the crate: the kinds are what the crate says"
        " of itself (`cargo run -p onnx-autodiff --example operators`), the numbers are files that were differentiated and run.",
        "",
        f"Models of opset 9 to {OPSETS[-1]} are read, those up to 12 as of {OPSETS[0]}. Of the operators of the standard domain:",
        "",
        *summary(standard, first),
        "",
        "The column of right derivatives counts files of one operator whose derivative agrees with its reference, in forward and"
        " in reverse mode: those of `tests/data/graph`; of " + ", ".join(f"`{n}`" for n in UNSEEN) + ", which ONNX"
        " Runtime 1.31 lacks, the examples of the onnx package, run by its evaluator. The last column but one is what"
        " onnx-ad 0.3.0 does with the operator by its own tables.",
        "",
        *lines(["operator", "opset", "kind", "right derivatives", "onnx-ad", "refused, or in other forms refused, because"], body),
        "",
        f"onnx-ad names {', '.join(f'`{n}`' for n in extra) or 'nothing'} besides, which the standard lacks. Of what it names this"
        f" crate refuses {', '.join(behind) or 'nothing'}.",
        "",
        "## Fused operators of ONNX Runtime",
        "",
        "Replaced by what they consist of when the file is read; a form that is not known to the last detail is refused.",
        "",
        *lines(["operator", "kind"], fused),
    ]
    return "\n".join(text) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where a table is stale")
    parser.add_argument("--examples", type=Path, default=ROOT / "target/release/examples", help="the built examples")
    options = parser.parse_args()
    options.operators, options.differentiate = (str(options.examples / name) for name in ("operators", "differentiate"))
    stale = False
    for path, made in ((FORMS, forms), (FRONT, lambda: front(options)), (TABLE, lambda: table(options))):
        text = made()
        if not path.exists() or path.read_text() != text:
            stale = True
            print(f"{path.relative_to(ROOT)} " + ("is stale" if options.check else "written"))
            if not options.check:
                path.write_text(text)
    return 1 if stale and options.check else 0


if __name__ == "__main__":
    sys.exit(main())
