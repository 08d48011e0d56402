"""The verbs of the program as functions.

Keyword names are the command line's options, with `_` for `-`.

Every function runs the program, hands over its files and returns an object that reads them. All of
them take

- `provider`: the execution provider, `"cpu"`, `"openvino"`, `"cuda"` or `"tensorrt"`;
- `batch`: the number of samples in one call of the network;
- `threads`: the number of all threads together;
- `ort_lib`: the library of ONNX Runtime, instead of the one in this Python's `onnxruntime`;
- `progress`: the form of progress on standard error, `"auto"`, `"bar"`, `"plain"`, `"json"` or
  `"none"`;
- `json`: whether the program prints one document, which `document` of the result reads;
- `color`: where the program writes colours, `"auto"`, `"always"` or `"never"`;
- `quiet`: whether progress and fewer notes are left out on standard error.

Arrays may be of NumPy or torch, data frames, or files. An estimator, a solver, a sampler or a
metric is its name or a dictionary, such as `{"hutchinson": {"probes": 8}}`. Without `out` the
result lies in a temporary folder that lives as long as the object.

They raise `InputRefused` where an input is at fault, `Interrupted` where the program was stopped,
and `FlowgaugeError` where something measured failed.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, overload

from ._arguments import options, several, write_config
from ._errors import FlowgaugeError
from ._process import Completed, call
from ._results import (
    GateResult,
    InspectResult,
    LikelihoodResult,
    MetricsResult,
    Result,
    ReweightResult,
    RunResult,
    SampleResult,
    Temporary,
    TextResult,
    VerifyResult,
)

PathLike = str | os.PathLike[str]
Array = Any  # An array of NumPy or torch, or a data frame.
Spec = str | Mapping[str, Any]
Range = str | Sequence[float]

R = TypeVar("R", bound=Result)


def _write(
    verb: str,
    kind: type[R],
    file: str,
    arguments: Mapping[str, Any],
    positional: Sequence[str] = (),
    accept: Sequence[int] = (0,),
) -> R:
    """Calls a verb that writes one file, `out` or `file` in a temporary folder."""
    values = dict(arguments)
    keep = Temporary()
    out = values.pop("out")
    path = keep.path / file if out is None else Path(out)
    given = options(values, keep.path)
    try:
        done = _call(verb, [*given, f"--out={path}", *positional], values, accept)
    except FlowgaugeError as error:
        error.result = kind(path, "", error.returncode, keep) if path.exists() else None
        raise
    finally:
        if list(keep.path.glob("*.partial")):
            keep.leave()  # A message names what was finished before a signal.
    return kind(path, done.stdout, done.returncode, keep)


def _call(
    verb: str, arguments: Sequence[str], values: Mapping[str, Any], accept: Sequence[int] = (0,)
) -> Completed:
    provider = values.get("provider") or "cpu"
    return call([verb, *arguments], accept=accept, provider=str(provider))


def likelihood(
    model: PathLike,
    data: Array | PathLike,
    *,
    divergence: Spec,
    solver: Spec | None = None,
    layout: str | None = None,
    dequantization: Spec | None = None,
    convention: str | Sequence[str] | None = None,
    encode: str | None = None,
    lattice: str | None = None,
    precision: str | None = None,
    seed: int | None = None,
    out: PathLike | None = None,
    no_check: bool = False,
    condition: Mapping[str, Any] | str | Sequence[str] | None = None,
    guidance: float | Spec | None = None,
    provider: str | None = None,
    batch: int | None = None,
    threads: int | None = None,
    ort_lib: PathLike | None = None,
    progress: str | None = None,
    json: bool = False,
    color: str | None = None,
    quiet: bool = False,
) -> LikelihoodResult:
    """Computes the log-likelihood of each sample of `data` under `model`, in nats.

    `model` is a card. `data` has the card's shape behind the number of samples. `divergence` is the
    estimator of the divergence and `solver` the ODE solver; a flow map needs none. `condition` maps
    the card's conditions to an array with one value per sample, a number for all, or `None`.

    Raises `FlowgaugeError` where rows failed; its `result` has the others.
    """
    return _write("likelihood", LikelihoodResult, "likelihood.csv", dict(locals()))


def sample(
    model: PathLike,
    count: int | None = None,
    *,
    sampler: Spec | None = None,
    scheduler: PathLike | None = None,
    density: Spec | None = None,
    steps: int | None = None,
    seed: int | None = None,
    noise: Array | PathLike | None = None,
    step_noise: Array | PathLike | None = None,
    layout: str | None = None,
    out: PathLike | None = None,
    latents: bool = False,
    float64: bool = False,
    png: PathLike | None = None,
    condition: Mapping[str, Any] | str | Sequence[str] | None = None,
    guidance: float | Spec | None = None,
    provider: str | None = None,
    batch: int | None = None,
    threads: int | None = None,
    ort_lib: PathLike | None = None,
    progress: str | None = None,
    json: bool = False,
    color: str | None = None,
    quiet: bool = False,
) -> SampleResult:
    """Draws `count` samples from `model`, or continues the states `noise` at the prior end.

    The samples are `result.array`. With `density` the log-density of each, in nats, is
    `result.samples`; the sampler must then follow an ODE.
    """
    return _write("sample", SampleResult, "samples.npy", dict(locals()))


def metrics(
    generated: Array | PathLike,
    reference: Array | PathLike,
    *,
    floor: Array | PathLike | None = None,
    train: Array | PathLike | None = None,
    test: Array | PathLike | None = None,
    extractor: PathLike | None = None,
    range: Range | None = None,
    bytes: str | None = None,
    layout: str | Mapping[str, str] | Sequence[str] | None = None,
    levels: int | None = None,
    metric: Spec | Sequence[Spec] | None = None,
    save_reference: PathLike | None = None,
    no_cache: bool = False,
    seed: int | None = None,
    out: PathLike | None = None,
    provider: str | None = None,
    batch: int | None = None,
    threads: int | None = None,
    ort_lib: PathLike | None = None,
    progress: str | None = None,
    json: bool = False,
    color: str | None = None,
    quiet: bool = False,
) -> MetricsResult:
    """Compares generated samples with reference samples by statistics.

    Without `metric` these are all that the number of samples allows. `range` holds the values of
    black and white in floats, such as `(-1, 1)`, and `bytes` says how they are rounded: `"nearest"`
    or `"floor"`. `save_reference` is an `.npz` for the mean and the covariance of the reference.
    """
    return _write("metrics", MetricsResult, "metrics.csv", dict(locals()))


def reweight(
    samples: Array | PathLike,
    log_density: Any,
    *,
    energy: PathLike | None = None,
    energy_scale: float | None = None,
    model: PathLike | None = None,
    observable: PathLike | Sequence[PathLike] | None = None,
    layout: str | None = None,
    out: PathLike | None = None,
    plots: PathLike | None = None,
    provider: str | None = None,
    batch: int | None = None,
    threads: int | None = None,
    ort_lib: PathLike | None = None,
    progress: str | None = None,
    json: bool = False,
    color: str | None = None,
    quiet: bool = False,
) -> ReweightResult:
    """Reweights samples to the density exp(−energy): effective sample size, log Z and means.

    `log_density` is a table with the columns `sample` and `log_likelihood` (nats): a file, a data
    frame, or the result of `sample(…, density=…)` or `likelihood`.
    """
    return _write("reweight", ReweightResult, "reweight.csv", dict(locals()))


def inspect(
    file: PathLike,
    *,
    data: Array | PathLike | None = None,
    layout: str | None = None,
    condition: Mapping[str, Any] | str | Sequence[str] | None = None,
    guidance: float | Spec | None = None,
    provider: str | None = None,
    batch: int | None = None,
    threads: int | None = None,
    ort_lib: PathLike | None = None,
    progress: str | None = None,
    json: bool = False,
    color: str | None = None,
    quiet: bool = False,
) -> InspectResult:
    """Describes a card or an ONNX file, and runs a card's network.

    With `data` it is seen whether the card reads its network right. `result.ok` is false where it
    does not, or where the network fails; the reasons are in `result.text`.
    """
    values = dict(locals())
    file = values.pop("file")
    with tempfile.TemporaryDirectory(prefix="flowgauge-") as folder:
        given = options(values, Path(folder))
        done = _call("inspect", [*given, os.fspath(file)], values, accept=(0, 1))
    return InspectResult(file, "\n".join([done.stdout, done.message]), done.returncode)


def run(
    config: Mapping[str, Any] | PathLike,
    *,
    out: PathLike | None = None,
    seed: int | None = None,
    set: Mapping[str, Any] | str | Sequence[str] | None = None,
    shard: str | None = None,
    claim: bool = False,
    lease: str | None = None,
    time_limit: str | None = None,
    grace: str | None = None,
    retry: bool = False,
    no_check: bool = False,
    provider: str | None = None,
    batch: int | None = None,
    threads: int | None = None,
    ort_lib: PathLike | None = None,
    progress: str | None = None,
    json: bool = False,
    color: str | None = None,
    quiet: bool = False,
) -> RunResult:
    """Carries out a config: likelihoods, samples and metrics. The same call continues it.

    `config` is a YAML file, or a dictionary with the same keys, in which arrays may stand for files
    of data. Its files are looked for from the current folder. The config and the arrays of a
    dictionary are written to the folder `OUT.inputs` beside the run directory `out`, which is
    `reports/NAME` unless it is given: whoever continues or verifies the run needs them.

    With `claim` any number of processes with the same call share the trials. `lease`, `time_limit`
    and `grace` are times such as `"55m"`. `out` may be an address of an object store, such as
    `"s3://bucket/prefix"`, if `config` is a file; tables are then read there, or from a folder that
    `report` writes.

    Raises `FlowgaugeError` where trials failed; its `result` has the others.
    """
    values = dict(locals())
    config = values.pop("config")
    fresh: Path | None = None
    directory = Path(out) if out is not None else None
    if isinstance(config, Mapping):
        if "://" in str(out or ""):
            raise ValueError(
                f"{out}: the files of a dictionary would be written beside it; expected a config file"
            )
        directory = directory or Path("reports") / str(config.get("name"))
        inputs = directory.with_name(directory.name + ".inputs")
        fresh = None if inputs.exists() else inputs
        config = write_config(config, inputs, "config.yaml")
    given = options(values, Path())
    try:
        done = _call("run", [*given, os.fspath(config)], values)
    except FlowgaugeError as error:
        if error.returncode == 2 and fresh is not None:
            shutil.rmtree(fresh)
        if error.returncode == 1 and directory is not None and (directory / "tables").exists():
            error.result = RunResult(directory, "", 1)
        raise
    return RunResult(_directory(done.stdout, out), done.stdout)


def _directory(printed: str, out: PathLike | None) -> PathLike:
    """The run directory, which the program prints last where it was not given."""
    pages = re.findall(r"; report: (.*)[/\\]index\.html\"?,?$", printed, re.MULTILINE)
    return str(pages[-1]) if pages and out is None else out or ""


def plan(
    config: Mapping[str, Any] | PathLike,
    *,
    seed: int | None = None,
    set: Mapping[str, Any] | str | Sequence[str] | None = None,
    no_timing: bool = False,
    provider: str | None = None,
    batch: int | None = None,
    threads: int | None = None,
    ort_lib: PathLike | None = None,
    progress: str | None = None,
    json: bool = False,
    color: str | None = None,
    quiet: bool = False,
) -> TextResult:
    """Lists the trials that `run` would carry out, with their cost in network evaluations.

    The networks are called for a moment to estimate the time, unless `no_timing` is set.
    """
    values = dict(locals())
    config = values.pop("config")
    with tempfile.TemporaryDirectory(prefix="flowgauge-") as folder:
        if isinstance(config, Mapping):
            config = write_config(config, Path(folder), "config.yaml")
        given = options(values, Path(folder))
        done = _call("plan", [*given, os.fspath(config)], values)
    return TextResult(config, done.stdout)


@overload
def report(
    dirs: PathLike | Sequence[PathLike],
    *,
    out: PathLike | None = None,
    export: None = None,
    columns: str | Sequence[str] | None = None,
    claims: PathLike | None = None,
    hub_dataset: Mapping[str, str] | str | Sequence[str] | None = None,
    figures: PathLike | None = None,
    width: str | None = None,
    font: PathLike | None = None,
    font_size: str | None = None,
    json: bool = False,
    color: str | None = None,
    quiet: bool = False,
) -> RunResult: ...


@overload
def report(
    dirs: PathLike | Sequence[PathLike],
    *,
    export: str,
    out: PathLike | None = None,
    columns: str | Sequence[str] | None = None,
    claims: PathLike | None = None,
    hub_dataset: Mapping[str, str] | str | Sequence[str] | None = None,
    figures: PathLike | None = None,
    width: str | None = None,
    font: PathLike | None = None,
    font_size: str | None = None,
    json: bool = False,
    color: str | None = None,
    quiet: bool = False,
) -> str: ...


def report(
    dirs: PathLike | Sequence[PathLike],
    *,
    out: PathLike | None = None,
    export: str | None = None,
    columns: str | Sequence[str] | None = None,
    claims: PathLike | None = None,
    hub_dataset: Mapping[str, str] | str | Sequence[str] | None = None,
    figures: PathLike | None = None,
    width: str | None = None,
    font: PathLike | None = None,
    font_size: str | None = None,
    json: bool = False,
    color: str | None = None,
    quiet: bool = False,
) -> RunResult | str:
    """Rebuilds the tables, the figures and the page of run directories, or exports what they say.

    With several directories and `out` there is one report of all of them in that folder. Without
    `out` every run gets its own; the last of them is returned.

    With `export`, such as `"latex"`, `"markdown"` or `"json"`, the text is returned; with `out` it
    is written there, and the paths of the files are returned. `columns` chooses the columns of
    tables, and `claims` is the file of published numbers whose verdicts are exported too.

    With `figures` the figures for a paper are written to that folder, as SVG and PDF of this `width`,
    such as `"column"` or `"84mm"`, in the letters of `font` and `font_size`.
    """
    values = {
        "out": out,
        "export": export,
        "columns": columns if columns is None else ",".join(several(columns)),
        "claims": claims,
        "hub_dataset": hub_dataset,
        "figures": figures,
        "width": width,
        "font": font,
        "font_size": font_size,
        "json": json,
        "color": color,
        "quiet": quiet,
    }
    given = options(values, Path())
    folders = [os.fspath(folder) for folder in several(dirs)]
    done = _call("report", [*given, *folders], {})
    if export is not None:
        return done.stdout
    return RunResult(_directory(done.stdout, out) or folders[-1], done.stdout)


def verify(
    dir: PathLike,
    *,
    fraction: float | None = None,
    seed: int | None = None,
    out: PathLike | None = None,
    provider: str | None = None,
    batch: int | None = None,
    threads: int | None = None,
    ort_lib: PathLike | None = None,
    progress: str | None = None,
    json: bool = False,
    color: str | None = None,
    quiet: bool = False,
) -> VerifyResult:
    """Computes a random part of a run's rows again.

    `result.ok` says whether all match, and `result.table` has the verdict of each.
    """
    values = dict(locals())
    directory = os.fspath(values.pop("dir"))
    return _write("verify", VerifyResult, "verify.csv", values, [directory], accept=(0, 1))


def gate(
    dir: PathLike | Sequence[PathLike],
    *,
    claims: Mapping[str, Any] | PathLike,
    out: PathLike | None = None,
    json: bool = False,
    color: str | None = None,
    quiet: bool = False,
) -> GateResult:
    """Compares a run, or all shards of one, with published numbers.

    `result.verdict` is `pass`, `fail` or `inconclusive`, and `result.claims` has every claim.
    """
    values = dict(locals())
    folders = [os.fspath(folder) for folder in several(values.pop("dir"))]
    return _write("gate", GateResult, "gate.csv", values, folders, accept=(0, 1, 3))
