"""Results of the verbs on the models that come with the repository."""

from __future__ import annotations

import json
import os
import subprocess

import numpy as np
import pytest

import flowgauge
from flowgauge import _html
from flowgauge._binary import environment, find_program

EXACT = {"divergence": "exact", "solver": {"heun": {"steps": 8}}, "quiet": True}


def values(frame, name):
    return np.asarray(frame[name], dtype=float)


def test_likelihood_of_an_array_is_that_of_the_command(models, tmp_path):
    card, x = models / "mixture/card.yaml", np.load(models / "mixture/heldout.npy")[:9]
    result = flowgauge.likelihood(card, x, **EXACT)
    np.save(tmp_path / "x.npy", x)
    subprocess.run(
        [find_program(), "likelihood", "--model", card, "--data", tmp_path / "x.npy", "--quiet",
         "--divergence", "exact", "--solver", "{heun: {steps: 8}}", "--out", tmp_path / "l.csv"],
        check=True, env=environment(), capture_output=True,
    )  # fmt: skip
    assert result.path.read_bytes() == (tmp_path / "l.csv").read_bytes()
    assert len(result.samples["log_likelihood"]) == 9
    assert "mean log-likelihood" in repr(result)
    assert "log_likelihood" in repr(result)


def test_closed_form_is_what_the_mixture_says(models):
    """The known density of the mixture, whatever the solver."""
    card, x = models / "mixture/card.yaml", models / "mixture/heldout.npy"
    tight = {"dopri5": {"rtol": 1e-8, "atol": 1e-8}}
    exact = flowgauge.likelihood(
        card, x, divergence="exact", solver=tight, precision="float64", quiet=True
    )
    known = flowgauge.likelihood(
        card, x, divergence="closed-form", solver="heun", precision="float64", quiet=True
    )
    gap = values(exact.samples, "log_likelihood") - values(known.samples, "log_likelihood")
    assert np.abs(gap).mean() < 1e-3


def test_a_temporary_result_lives_as_long_as_its_object(models):
    x = np.load(models / "moons/heldout.npy")[:3]
    result = flowgauge.likelihood(models / "moons/card.yaml", x, **EXACT)
    path = result.path
    assert path.exists()
    del result
    assert not path.exists()


def test_out_is_kept(models, tmp_path):
    x = np.load(models / "moons/heldout.npy")[:3]
    out = tmp_path / "rows.csv"
    result = flowgauge.likelihood(models / "moons/card.yaml", x, out=out, **EXACT)
    del result
    assert out.exists()


def test_sample_and_metrics_and_reweight(models):
    card = models / "dw4/card.yaml"
    drawn = flowgauge.sample(
        card, 40, sampler={"heun": {"steps": 4}}, density="exact", quiet=True, seed=3
    )
    assert drawn.array.shape == (40, 8)
    assert np.asarray(drawn, dtype=np.float64).dtype == np.float64
    assert len(drawn.samples["log_likelihood"]) == 40
    again = flowgauge.sample(card, 40, sampler={"heun": {"steps": 4}}, quiet=True, seed=3)
    assert np.array_equal(drawn.array, again.array)
    assert again.samples is None

    weights = flowgauge.reweight(drawn, drawn, model=card, quiet=True)
    ess = dict(zip(weights.quantities["quantity"], weights.quantities["value"], strict=True))["ess"]
    assert 0 < ess <= 1
    # The same table as a data frame, or a dictionary.
    for table in (drawn.samples, {n: np.asarray(drawn.samples[n]) for n in drawn.samples}):
        same = flowgauge.reweight(drawn.array, table, model=card, quiet=True)
        assert same.path.read_bytes() == weights.path.read_bytes()

    result = flowgauge.metrics(
        drawn, again.array, floor=again.array[:20], quiet=True,
        metric=["energy", {"mmd-rbf": {"bandwidth": 1.0}}],
    )  # fmt: skip
    assert list(result.metrics["metric"]) == ["energy", "mmd-rbf"]
    assert abs(values(result.metrics, "value")[0]) < 1e-9
    assert len(result.floor["metric"]) == 2


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    from conftest import ROOT

    folder = tmp_path_factory.mktemp("run")
    config = {
        "name": "tiny",
        "estimators": ["exact", {"hutchinson": {"probes": np.int64(2)}}],
        "solvers": [{"heun": {"steps": 6}}],
        "likelihood": [
            {
                "model": ROOT / "models/moons/card.yaml",
                "data": np.load(ROOT / "models/moons/heldout.npy")[:24],
            }
        ],
    }
    return config, flowgauge.run(config, out=folder / "out", quiet=True)


def test_a_run_has_tables_figures_and_a_page(finished):
    _, result = finished
    assert list(result.summary["estimator"]) == ["exact", "hutchinson(probes=2)"]
    assert len(result.samples["log_likelihood"]) == 48
    assert {"summary", "samples", "pairs"} <= set(result.tables)
    assert len(result.table("pairs")["difference"]) == 1
    with pytest.raises(KeyError, match="there is no table 'nonsense'"):
        result.table("nonsense")
    with pytest.raises(KeyError):
        result.table("../config")
    assert result.page.read_text().startswith("<!DOCTYPE html>")
    names = [figure.name for figure in result.figures]
    assert "histogram-moons" in names
    figure = result.figures[names.index("histogram-moons")]
    assert figure.svg.startswith(b"<svg")
    assert figure.png.startswith(b"\x89PNG")
    assert "data:image/svg+xml;base64," in figure._repr_html_()
    assert repr(result).splitlines()[0].startswith("model")
    assert repr(result).splitlines()[-1] == f"report: {result.page}"


def test_a_run_is_planned_resumed_reported_verified_and_gated(finished):
    config, result = finished
    plan = flowgauge.plan(config)
    assert "24 samples" in plan.text or "samples 0 to 23" in plan.text
    journal = (result.path / "journal.jsonl").read_bytes()
    again = flowgauge.run(config, out=result.path, quiet=True)
    assert (again.path / "journal.jsonl").read_bytes() == journal
    assert flowgauge.report(result).page == result.page
    assert "\\toprule" in flowgauge.report(result, export="latex")
    chosen = flowgauge.report(result, export="markdown", columns=["estimator", "nats"])
    assert "| estimator | nats |" in chosen
    verified = flowgauge.verify(result, fraction=1.0)
    assert verified.ok
    assert set(verified.table["verdict"]) == {"match"}
    nats = values(result.summary, "nats")[0]
    for value, verdict in [(nats, "inconclusive"), (nats + 9, "fail")]:
        claim = {"table": "summary", "where": {"estimator": "exact"}, "column": "nats"}
        claims = {"claims": [{**claim, "value": value, "tolerance": 1e-6}]}
        gated = flowgauge.gate(result, claims=claims)
        assert gated.verdict == verdict
        assert list(gated.claims["verdict"]) == [verdict]


def test_a_config_file_has_its_own_place_shards_and_changes(models, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    entry = {"model": f"{models}/moons/card.yaml", "data": f"{models}/moons/heldout.npy"}
    config = {
        "name": "mine", "estimators": ["exact"], "solvers": [{"heun": {"steps": 4}}],
        "likelihood": [{**entry, "samples": 16, "profile": 0, "budget": False}], "chunk": 8,
    }  # fmt: skip
    (tmp_path / "config.yaml").write_text(json.dumps(config))
    for shard in ("1/2", "2/2"):
        result = flowgauge.run("config.yaml", shard=shard, quiet=True)
    assert str(result.path) == os.path.join("reports", "mine")
    assert list(result.summary["n"]) == [16]
    other = flowgauge.run(
        "config.yaml", out="other", set={"likelihood.0.samples": 8, "name": "other"}, quiet=True
    )
    assert list(other.summary["n"]) == [8]
    both = flowgauge.report([result, other], out="both")
    assert both.page.exists()
    assert str(both.path) == "both"


def test_values_become_options(tmp_path):
    from flowgauge._arguments import options

    given = {
        "range": (-1, 1),
        "layout": {"reference": "NHWC"},
        "metric": ["frechet", {"kernel": {"subsets": np.int64(3)}}],
        "no_cache": True,
        "quiet": False,
        "seed": None,
        "levels": np.int64(17),
        "guidance": 1.5,
        "condition": {"label": 3, "context": None, "x": np.float32(0.5)},
        "extractor": tmp_path / "e.onnx",
    }
    assert options(given, tmp_path) == [
        "--range=-1,1",
        "--layout=reference=NHWC",
        "--metric=frechet",
        '--metric={"kernel": {"subsets": 3}}',
        "--no-cache",
        "--levels=17",
        "--guidance=1.5",
        "--condition=label=3",
        "--condition=context=null",
        "--condition=x=0.5",
        f"--extractor={tmp_path / 'e.onnx'}",
    ]
    assert list(tmp_path.iterdir()) == []
    (option,) = options({"condition": {"label": np.array([1, 2])}}, tmp_path)
    file = option.removeprefix("--condition=label=")
    assert np.load(file).tolist() == [1, 2]


def test_a_changed_row_is_a_mismatch(finished):
    import shutil

    _, result = finished
    # The run names its inputs from its own place, so that the copy lies beside it.
    copy = result.path.parent / "copy"
    shutil.copytree(result.path, copy)
    file = next(f for f in (copy / "rows").glob("*.csv") if "log_likelihood" in f.read_text())
    header, first, *rest = file.read_text().splitlines()
    at = header.split(",").index("log_likelihood")
    cells = first.split(",")
    cells[at] = str(float(cells[at]) + 1)
    file.write_text("\n".join([header, ",".join(cells), *rest]) + "\n")
    verified = flowgauge.verify(copy, fraction=1.0)
    assert not verified.ok
    assert "mismatch" in set(verified.table["verdict"])


def test_an_evaluation_says_which_estimator_it_took(models, tmp_path):
    x = np.load(models / "moons/heldout.npy")[:32]
    small = flowgauge.evaluate(
        models / "moons/card.yaml", x, samples=40, metric="energy", quiet=True, out=tmp_path / "e"
    )
    assert list(small.summary["estimator"]) == ["exact"]
    assert list(small.metrics["metric"]) == ["energy"]
    assert values(small.metrics, "n_generated")[0] == 40
    # 96 numbers are more than are traced exactly.
    wide = np.zeros((2, 96), dtype=np.float32)
    np.save(tmp_path / "wide.npy", wide)
    from flowgauge._evaluate import default_divergence

    assert default_divergence("card.yaml", tmp_path / "wide.npy") == {"hutchinson": {"probes": 8}}
    with pytest.raises(TypeError, match="prediction: only for a network"):
        flowgauge.evaluate(models / "moons/card.yaml", x, prediction="velocity")


def test_inspect_says_whether_data_agree(models, tmp_path):
    card, x = models / "moons/card.yaml", np.load(models / "moons/heldout.npy")
    assert flowgauge.inspect(card, data=x).text.splitlines()[-1] == "card agrees with the data"
    text = card.read_text().replace("data_at: 1", "data_at: 0")
    for file in card.parent.glob("*.onnx"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "card.yaml").write_text(text)
    wrong = flowgauge.inspect(tmp_path / "card.yaml", data=x)
    assert not wrong.ok
    assert "card disagrees" in wrong.text


def test_refused_inputs_leave_nothing(models, tmp_path):
    out = tmp_path / "rows.csv"
    with pytest.raises(flowgauge.InputRefused, match=r"samples have shape \[3\]") as caught:
        flowgauge.likelihood(models / "moons/card.yaml", np.zeros((4, 3)), out=out, **EXACT)
    assert caught.value.returncode == 2
    assert caught.value.result is None
    config = {"name": "x", "estimators": ["exact"], "likelihoods": []}
    with pytest.raises(flowgauge.InputRefused, match="unknown key `likelihoods`"):
        flowgauge.run(config, out=tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_a_list_of_condition_values_is_ambiguous(models):
    with pytest.raises(flowgauge.InputRefused, match="condition label: a list may mean"):
        flowgauge.sample(models / "moons/card.yaml", 2, condition={"label": [0, 1]})


def test_names_are_inert_in_notebooks(tmp_path):
    from flowgauge._results import TableResult

    file = tmp_path / "t.csv"
    file.write_text('model,"<i>"\n<script>alert(1)</script>,"a & b"\n')
    html = TableResult(file, "<b>note</b>")._repr_html_()
    assert "<script>" not in html
    assert "<b>" not in html
    assert "<i>" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert _html.preformatted("<x>") == "<pre>&lt;x&gt;</pre>"


def test_files_of_a_config_are_looked_for_from_here(models, tmp_path, monkeypatch):
    from flowgauge._arguments import write_config

    monkeypatch.chdir(models)
    (tmp_path / "in").mkdir()
    entry = {"model": "moons/card.yaml", "data": "moons/heldout.npy", "extractor": "inception-v3"}
    entry["conditions"] = {"a": "all:moons/train.npy", "b": "uniform:10"}
    text = write_config({"likelihood": [entry]}, tmp_path / "in", "c.yaml").read_text()
    assert f'"{models}/moons/card.yaml"' in text
    assert f'"all:{models}/moons/train.npy"' in text
    assert '"inception-v3"' in text
    assert '"uniform:10"' in text


def test_a_document_is_read(finished):
    config, result = finished
    plan = flowgauge.plan(config, json=True, no_timing=True)
    assert plan.document["verb"] == "plan"
    assert plan.document["time"] is None
    reported = flowgauge.report(result, json=True)
    summary = reported.document["reports"][0]["tables"]["summary"]
    assert [row["nats"] for row in summary] == list(values(result.summary, "nats"))
    with pytest.raises(ValueError, match="json=True"):
        _ = flowgauge.plan(config, no_timing=True).document
    with pytest.raises(flowgauge.InputRefused, match=r"^(?!\{).*missing\.yaml"):
        flowgauge.plan("missing.yaml", progress="json")
