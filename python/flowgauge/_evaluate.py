"""A model measured in one call."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ._arguments import save_array, several, to_array
from ._card import Card
from ._export import export
from ._results import RunResult, Temporary
from ._verbs import Array, PathLike, Spec, run

# The exact divergence is affordable up to here (docs/choosing.md); beyond, it is estimated.
EXACT_UP_TO = 64
PROBES = 8
SOLVER = {"dopri5": {"rtol": 1e-5, "atol": 1e-5}}
METRICS = ("frechet", "kernel")


def evaluate(
    model: Any,
    data: Array | PathLike,
    *,
    samples: int | None = None,
    divergence: Spec | Sequence[Spec] | None = None,
    solver: Spec | Sequence[Spec] | None = None,
    sampler: Spec | Sequence[Spec] = "heun",
    metric: Spec | Sequence[Spec] = METRICS,
    reference: Array | PathLike | None = None,
    floor: Array | PathLike | None = None,
    extractor: PathLike | None = None,
    condition: Mapping[str, Any] | None = None,
    guidance: Any = None,
    dequantization: Spec | None = None,
    lattice: str | None = None,
    layout: str | None = None,
    seed: int | None = None,
    out: PathLike | None = None,
    no_check: bool = False,
    provider: str | None = None,
    batch: int | None = None,
    threads: int | None = None,
    ort_lib: PathLike | None = None,
    quiet: bool = False,
    **export_arguments: Any,
) -> RunResult:
    """Measures the log-likelihood of `data` under a model, and with `samples` its samples.

    `model` is a card, or a network, which is exported with `export_arguments` (see `export`).

    `divergence` is an estimator, or several of which the first is the reference. Without it the
    divergence is exact up to 64 dimensions of the state, and estimated by Hutchinson with 8 probes
    beyond; the column `estimator` of `result.summary` says which. `solver` is `dopri5` with
    tolerances of 1e-5 unless it is given.

    With `samples=N` as many are drawn by `sampler` and compared with `reference`, which is `data`
    unless it is given, by each `metric`: the Fréchet and the kernel distance unless they are given.

    `condition` maps the card's conditions to arrays with one value for each of `data`; samples take
    them in turn.

    The run directory is `out`, with its inputs in `OUT.inputs`, or a temporary folder that lives as
    long as the result. Raises what `export` and `run` raise.
    """
    keep = Temporary() if out is None else None
    directory = keep.path / "run" if keep is not None else Path(str(out))
    inputs = directory.with_name(directory.name + ".inputs")
    exported = not isinstance(model, (str, os.PathLike))
    if exported:
        export_arguments.setdefault("name", type(model).__name__)
        model = export(model, out=inputs / "model", **export_arguments)
    elif export_arguments:
        raise TypeError(f"{', '.join(export_arguments)}: only for a network, and this is a card")

    array = to_array(data)
    if array is not None:
        data = save_array(array, inputs, "data")
    estimators = several(divergence or default_divergence(model, data))
    entry = _entry(
        model=model,
        data=data,
        conditions=condition,
        guidance=guidance,
        dequantization=dequantization,
        lattice=lattice,
        layout=layout,
    )
    config: dict[str, Any] = {
        "name": "evaluation",
        "estimators": list(estimators),
        "solvers": list(several(solver or SOLVER)),
        "likelihood": [entry],
    }
    if samples is not None:
        drawn = _entry(
            model=model,
            samplers=list(several(sampler)),
            count=samples,
            reference=data if reference is None else reference,
            floor=floor,
            extractor=extractor,
            conditions=_in_turn(condition, samples),
            guidance=guidance,
            layout=layout,
            metrics=list(several(metric)),
        )
        config["samples"] = [drawn]
    result = run(
        config,
        out=directory,
        seed=seed,
        no_check=no_check,
        provider=provider,
        batch=batch,
        threads=threads,
        ort_lib=ort_lib,
        quiet=quiet,
    )
    result._keep = keep
    return result


def _entry(**keys: Any) -> dict[str, Any]:
    return {key: value for key, value in keys.items() if value is not None}


def _in_turn(condition: Mapping[str, Any] | None, count: int) -> dict[str, Any] | None:
    """The values of conditions for `count` samples: arrays begin again at their end."""
    if condition is None:
        return None
    turned = {}
    for name, value in condition.items():
        array = to_array(value)
        rows = array is not None and array.ndim > 0
        turned[name] = array[np.arange(count) % len(array)] if array is not None and rows else value
    return turned


def default_divergence(model: Any, data: Any) -> Spec:
    """The exact divergence for states of up to 64 numbers, else Hutchinson's estimate.

    The number is that of the card that was just made, or of the data where they say it.
    """
    shape: Sequence[int] | None = None
    if isinstance(model, Card):
        shape = model.shape
    elif str(data).endswith(".npy") and Path(data).is_file():
        shape = np.load(data, mmap_mode="r").shape[1:]
    if shape is not None and np.prod(shape, dtype=int) <= EXACT_UP_TO:
        return "exact"
    return {"hutchinson": {"probes": PROBES}}
