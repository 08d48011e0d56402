#!/usr/bin/env python3
"""Holds what `flowgauge report --export` writes against the programs that read it.

    python scripts/test_exports.py FLOWGAUGE

Runs a small config and reads every form by another program: LaTeX by pdflatex (of Debian's
texlive-latex-recommended), JUnit by junitparser, model-index by huggingface_hub, the research object by
roc-validator, the logbook by trackio, parquet by pandas. What is not installed is said and left out; `--all` makes that
an error.
"""

import importlib.util
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
CONFIG = """
name: exports
likelihood:
  - {{model: {models}/moons/card.yaml, data: {models}/moons/heldout.npy, samples: 24, solvers: [{{heun: {{steps: 6}}}}],
     estimators: [exact, {{hutchinson: {{probes: 2}}}}, {{nelbo: {{draws: 8}}}}]}}
samples:
  - {{model: {models}/moons/card.yaml, count: 64, reference: {models}/moons/heldout.npy, metrics: [frechet, energy],
     samplers: [{{heun: {{steps: 16}}}}, {{euler: {{steps: 1}}}}], baseline: {{euler: {{steps: 1}}}}}}
"""
CLAIMS = """
claims:
  - {name: "likelihood of moons_1 [a]", table: summary, where: {estimator: exact}, column: nats, at-least: -100}
  - {name: "not so", table: summary, where: {estimator: exact}, column: nats, at-least: 100, source: "Table 1 of #3 & 50% <b>|$x$"}
"""


def installed(name):
    return importlib.util.find_spec(name) is not None


def latex(export, folder):
    if shutil.which("pdflatex") is None:
        return "pdflatex is not installed"
    body = export("latex")
    document = "\\documentclass{article}\n\\usepackage[T1]{fontenc}\n\\usepackage{textcomp}\n\\usepackage{booktabs}\n" \
        "\\usepackage{amsmath}\n\\begin{document}\n" + body + "\\end{document}\n"
    (folder / "paper.tex").write_text(document)
    subprocess.run(["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "paper.tex"], cwd=folder, check=True,
                   capture_output=True)
    assert (folder / "paper.pdf").stat().st_size > 10_000


def junit(export, folder):
    if not installed("junitparser"):
        return "junitparser is not installed"
    from junitparser import JUnitXml

    cases = [case for suite in JUnitXml.fromstring(export("junit", "--claims=claims.yaml").encode()) for case in suite]
    assert [case.is_passed for case in cases] == [True, False], cases
    assert cases[0].name == "likelihood of moons_1 [a]", cases[0].name


def model_index(export, folder):
    if not installed("huggingface_hub") or not installed("yaml"):
        return "huggingface_hub is not installed"
    import yaml
    from huggingface_hub import ModelCardData

    metadata = yaml.safe_load(export("model-index"))
    data = ModelCardData(**metadata, ignore_metadata_errors=False)
    assert len(data.eval_results) == 7, data.eval_results
    assert {result.metric_type for result in data.eval_results} == {"log_likelihood", "frechet", "energy"}


def ro_crate(export, folder):
    if shutil.which("rocrate-validator") is None and not installed("rocrate_validator"):
        return "roc-validator is not installed"
    export("ro-crate", "--out=done")
    validator = shutil.which("rocrate-validator") or str(pathlib.Path(sys.executable).parent / "rocrate-validator")
    done = subprocess.run([validator, "validate", "--no-paging", "-p", "ro-crate-1.1", "-l", "required", "done"], cwd=folder,
                          capture_output=True, text=True)
    if "URLError" in done.stdout or "not available" in done.stdout:
        return "the context of RO-Crate, which the validator fetches, is out of reach"
    assert done.returncode == 0, done.stdout + done.stderr


def trackio(export, folder):
    if not installed("trackio"):
        return "trackio is not installed"
    export("trackio", "--claims=claims.yaml", "--out=book")
    program = str(pathlib.Path(sys.executable).parent / "trackio")
    run = lambda *words: subprocess.run([program, "logbook", *words], cwd=folder / "book", check=True, capture_output=True,
                                        text=True).stdout
    run("sync")
    text = run("read", ".")
    for words in ["Verdicts", "not so", "likelihood of moons", "SHA-256"]:
        assert words in text, text
    assert (folder / "book/.trackio/logbook/index.html").exists()


def parquet(export, folder):
    if not installed("pandas") or not installed("pyarrow"):
        return "pandas with pyarrow is not installed"
    import pandas

    export("parquet", "--out=tables")
    table, csv = pandas.read_parquet(folder / "tables/summary.parquet"), pandas.read_csv(folder / "done/tables/summary.csv")
    for column in ["estimator", "nats", "nats_stderr", "n"]:
        assert list(table[column]) == list(csv[column]), column


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    program, strict = str(pathlib.Path(sys.argv[1]).resolve()), "--all" in sys.argv[2:]
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        (folder / "run.yaml").write_text(CONFIG.format(models=ROOT / "models"))
        (folder / "claims.yaml").write_text(CLAIMS)
        subprocess.run([program, "run", "run.yaml", "--out", "done", "--quiet"], cwd=folder, check=True, capture_output=True)

        def export(form, *more):
            done = subprocess.run([program, "report", "done", "--export", form, *more], cwd=folder, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            return done.stdout

        json.loads(export("json", "--claims=claims.yaml"))
        left_out = 0
        for check in [latex, junit, model_index, ro_crate, trackio, parquet]:
            why = check(export, folder)
            left_out += why is not None
            print(f"{check.__name__}: {why or 'ok'}")
    if strict and left_out:
        sys.exit(f"{left_out} forms were not checked")


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
