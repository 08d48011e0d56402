"""Any module or function: the caller says the path and the prediction."""

from __future__ import annotations

from typing import Any

from .._errors import ExportError
from .reading import (
    PATHS,
    PREDICTIONS,
    Condition,
    Given,
    Graph,
    Reading,
    batch_of,
    example_arguments,
    is_float,
    path_of,
)

STATES = ["x", "x_t", "xt", "sample", "hidden_states", "state", "input", "theta", "y_t"]
TIMES = ["t", "time", "times", "timestep", "timesteps", "sigma", "sigmas", "noise_labels"]


def read(net: Any, given: Given) -> Reading:
    """Reads a network whose arguments are told by their names, or by `inputs`."""
    keys = given.keys
    missing = [name for name in ("path", "prediction") if keys.get(name) is None]
    if missing:
        raise ExportError(
            f"{type(net).__module__}.{type(net).__qualname__} is not one of the networks that are "
            f"known, so that {' and '.join(missing)} must be given: path is one of "
            f"{', '.join(PATHS)}, or a dictionary with its kind and its keys; prediction is one of "
            f"{', '.join(PREDICTIONS)}",
            2,
        )
    arguments = example_arguments(net, given.example)
    if not arguments or "" in arguments:
        raise ExportError(
            "example: expected the arguments of the network, such as (x, t) in the order in which "
            'it takes them, or a dictionary {"x": x, "t": t} that it takes by name',
            2,
        )
    by_name = isinstance(given.example, dict)
    roles = keys.get("inputs") or {}
    x = roles.get("x") or _first(arguments, STATES)
    if x is None:
        floats = [n for n, a in arguments.items() if is_float(a) and a.ndim > 1]
        x = floats[0] if len(floats) == 1 else None
    time = roles.get("time") or _first(arguments, TIMES)
    unknown = [name for name in (x, time) if name is not None and name not in arguments]
    if x is None or unknown:
        raise ExportError(
            f"which argument is the state is not known: the example has {', '.join(arguments)}; "
            'give inputs={"x": NAME, "time": NAME}',
            2,
        )
    rest = [name for name in arguments if name not in (x, time)]
    if time is None and any(arguments[n].ndim < 2 for n in rest):
        raise ExportError(
            f"which argument is the time is not known: the example has {', '.join(arguments)}; "
            'give inputs={"x": NAME, "time": NAME}',
            2,
        )
    count = len(arguments[x])
    scalar = tuple(n for n, a in arguments.items() if a.ndim == 0)
    wrong = [n for n, a in arguments.items() if n not in scalar and len(a) != count]
    if wrong:
        raise ExportError(
            f"example: {wrong[0]} has {len(arguments[wrong[0]])} rows, expected the batch, {count}",
            2,
        )
    order = list(arguments)

    def call(net: Any, *values: Any) -> Any:
        return net(**dict(zip(order, values, strict=True))) if by_name else net(*values)

    named = _conditions(keys.get("conditions"), rest)
    batch = {n: a if n in scalar else batch_of(a) for n, a in arguments.items()}
    graph = Graph("network.onnx", net, call, batch, keys.get("output") or "output", scalar)
    return Reading(
        graph,
        x,
        time,
        keys["prediction"],
        path_of(keys["path"]),
        conditions=named,
        channels=keys.get("channels"),
    )


def _first(arguments: dict[str, Any], names: list[str]) -> str | None:
    return next((name for name in names if name in arguments), None)


def _conditions(given: Any, rest: list[str]) -> dict[str, Condition]:
    """The conditions by the card's names; further arguments that are not named keep their own."""
    named = {
        name: Condition(value) if isinstance(value, str) else Condition(**value)
        for name, value in (given or {}).items()
    }
    unknown = [c.input for c in named.values() if c.input not in rest]
    if unknown:
        raise ExportError(
            f"conditions: the network has no further argument {unknown[0]}; it has {rest}", 2
        )
    taken = {condition.input for condition in named.values()}
    return {**named, **{name: Condition(name) for name in rest if name not in taken}}
