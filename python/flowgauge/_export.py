"""Exports a network to ONNX with its card, and holds the file against the network."""

from __future__ import annotations

import copy
import hashlib
import importlib.util
import os
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ._arguments import plain_value, to_array
from ._card import FIRST_LINE, Card, card_text, with_keys, wrapped
from ._double import double_copy, in_double
from ._errors import ExportError, FlowgaugeError, GuessWarning
from ._process import call as call_program
from ._verbs import inspect
from .exporters import read_network
from .exporters.jax import is_jax, read_jax, write_jax
from .exporters.reading import PREDICTIONS, Condition, Given, Graph, Reading, path_of

# ONNX files hold at most 2 GiB; above this many bytes of weights these lie beside the graph.
EXTERNAL_FROM = 1_500_000_000
BATCHES = (1, 2, 5)


def export(
    net: Any,
    example: Any = None,
    *,
    path: str | Mapping[str, Any] | None = None,
    prediction: str | None = None,
    out: str | os.PathLike[str] = "model",
    name: str | None = None,
    inputs: Mapping[str, str] | None = None,
    output: str | None = None,
    channels: Sequence[int] | None = None,
    time: Mapping[str, Any] | None = None,
    conditions: Mapping[str, Any] | None = None,
    preconditioning: str | Mapping[str, Any] | None = None,
    prior: Mapping[str, Any] | None = None,
    data: Mapping[str, Any] | None = None,
    guidance: Mapping[str, Any] | None = None,
    provenance: Mapping[str, Any] | None = None,
    scheduler: Any = None,
    vae: Any = None,
    opset: int = 18,
    tolerance: float = 1e-5,
    force: bool = False,
) -> Card:
    """Writes `net` as ONNX and its card into the folder `out`, checks both, and returns the card.

    `net` is a `torch.nn.Module`, a function of torch tensors, or a function of JAX arrays. The
    networks of diffusers (and whole pipelines), EDM, flow_matching, torchcfm, sbi and
    denoising-diffusion-pytorch are known. For all others `path` and `prediction` must be given, and
    `example` is what the network takes: a tuple such as `(x, t)` in its order, or a dictionary of
    arguments by name. The first axis of each is the batch. For networks that are known `example`
    may be left out, or be a batch of states.

    `net` itself is not changed: a copy on the CPU, in single precision and in evaluation mode, is
    exported. The batch axis of the ONNX file is open.

    The other arguments are keys of the card: `path` and `prediction`; `inputs`, which names the
    arguments `x` and `time`; `output`, `channels`, `time`, `conditions` and `preconditioning` of the
    network; `prior`, `data`, `guidance`, `name` and `provenance`. Further arguments of the network
    become conditions. `null` in `conditions` may be an array.

    `scheduler` (an object of diffusers, its config or its file) and `vae` (an AutoencoderKL) belong
    to a network of diffusers that is given without its pipeline.

    The ONNX file is run on batches of 1, 2 and 5 with random states and times, and compared with
    the module in single and in double precision, relative to the output's largest value.

    Raises `ExportError` where something must be said, where the module cannot be traced, where the
    difference in single precision is above `tolerance`, or where `flowgauge inspect` finds a fault;
    and where `out` holds a card that was not written by this function, without `force`. Warns by
    `GuessWarning` where something was guessed.
    """
    keys = {
        "path": path,
        "prediction": prediction,
        "inputs": inputs,
        "output": output,
        "channels": list(channels) if channels is not None else None,
        "time": time,
        "conditions": conditions,
        "preconditioning": preconditioning,
        "prior": prior,
        "data": data,
        "guidance": guidance,
        "provenance": provenance,
    }
    if prediction is not None and prediction not in PREDICTIONS:
        raise ExportError(f"prediction {prediction!r}: expected one of {', '.join(PREDICTIONS)}", 2)
    if scheduler is not None and (path is not None or prediction is not None):
        raise ExportError("scheduler: it says path and prediction; expected it or these", 2)
    folder = Path(out)
    card = folder / "card.yaml"
    if card.exists() and not force and not card.read_text("utf-8").startswith(FIRST_LINE):
        raise ExportError(f"{card}: it was not written by flowgauge.export; expected force=True", 2)

    given = Given(example, keys, scheduler, vae)
    jax = is_jax(net, example)
    if jax:
        reading = read_jax(net, given)
    else:
        _need("torch", "onnx", "onnxscript")
        given.vae = _ready(vae) if vae is not None else None
        reading = read_network(_ready(net), given)
    _override(reading, keys)
    differences = {}
    for graph in [reading.graph, *reading.parts]:
        (folder / graph.file).parent.mkdir(parents=True, exist_ok=True)
        if jax:
            write_jax(graph, folder / graph.file, opset)
        else:
            _write_onnx(graph, folder / graph.file, opset)
        differences[graph.file] = _compare(graph, reading, folder / graph.file, tolerance, jax)
    name = name or _plain_name(folder)
    for guess in reading.guesses:
        warnings.warn(guess, GuessWarning, stacklevel=2)
    _write_card(card, name, reading, keys)
    result = inspect(card, quiet=True)
    if not result.ok:
        raise ExportError(f"{card}: {result.text}", 1, result)
    shape = tuple(int(size) for size in reading.shape)
    return Card(card, name, shape, differences, tuple(reading.guesses), result.text)


def _need(*packages: str) -> None:
    missing = [p for p in packages if importlib.util.find_spec(p) is None]
    if missing:
        raise ExportError(
            f"export needs {', '.join(missing)}; install with `pip install 'flowgauge[export]'`", 2
        )


def _ready(net: Any) -> Any:
    """A copy of a module on the CPU, in single precision and evaluation mode; anything else as it is.

    The modules inside a pipeline or a posterior are copied in their places.
    """
    import torch

    if isinstance(net, torch.nn.Module):
        return copy.deepcopy(net).cpu().float().eval().requires_grad_(False)
    if hasattr(net, "components"):
        return _Parts(net)
    inside = getattr(getattr(net, "potential_fn", None), "vector_field_estimator", None)
    return net if inside is None else _ready(inside)


def _Parts(pipeline: Any) -> Any:
    """A pipeline whose networks are copies, under the class of the pipeline."""
    import torch

    wanted = ("unet", "transformer", "vae", "vqvae")
    parts = {
        name: _ready(part) if isinstance(part, torch.nn.Module) and name in wanted else part
        for name, part in pipeline.components.items()
    }
    kind = type(pipeline)
    copied = type(kind.__name__, (kind,), {"__init__": lambda self: None, "components": parts})
    return copied()


def _override(reading: Reading, keys: Mapping[str, Any]) -> None:
    """Puts what the caller said in the place of what was read."""
    if keys["path"] is not None:
        reading.path = path_of(keys["path"])
    for key in ("prediction", "channels", "prior", "data"):
        if keys[key] is not None:
            setattr(reading, key, keys[key])
    if keys["time"] is not None:
        reading.time_keys = dict(keys["time"])
    conditions = {} if reading.configs is not None else keys["conditions"] or {}
    for name, value in conditions.items():
        condition = Condition(value) if isinstance(value, str) else Condition(**value)
        same = [n for n, c in reading.conditions.items() if c.input == condition.input]
        if not same:
            inputs = [c.input for c in reading.conditions.values()]
            raise ExportError(
                f"conditions.{name}: the network has no such input; it has {inputs}", 2
            )
        reading.conditions = {
            (name if n == same[0] else n): (condition if n == same[0] else c)
            for n, c in reading.conditions.items()
        }


def _plain_name(folder: Path) -> str:
    """The name of a folder in the letters that a card allows."""
    name = re.sub(r"[^A-Za-z0-9 _.,()\[\]+-]", "_", folder.absolute().name)[:100]
    return name if re.match(r"[A-Za-z0-9_]", name) else f"_{name}"[:100]


# --- the graph


def _module(graph: Graph) -> Any:
    """The module of a graph, which takes its inputs in their order."""
    import torch

    class Called(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = graph.net

        def forward(self, *values: Any) -> Any:
            return tensor_of(graph.call(self.net, *values))

    return Called().eval()


def tensor_of(output: Any) -> Any:
    """The tensor in what a network returns: itself, the first of several, or `.sample`."""
    if isinstance(output, (tuple, list)):
        return output[0]
    if isinstance(output, Mapping):
        return next(iter(output.values()))
    return getattr(output, "sample", output) if not hasattr(output, "shape") else output


def _write_onnx(graph: Graph, file: Path, opset: int) -> None:
    """Traces a module and writes it with an open batch axis, without anything that names a machine."""
    import logging

    import torch

    module = _module(graph)
    batch = torch.export.Dim("batch")
    axes = tuple({} if name in graph.scalar else {0: batch} for name in graph.inputs)
    kept = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), graph.within(), torch.no_grad(), exact_squeezes():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                module,
                tuple(graph.inputs.values()),
                input_names=list(graph.inputs),
                output_names=[graph.output],
                dynamic_shapes=(axes,),
                opset_version=opset,
                dynamo=True,
                verbose=False,
            )
    except Exception as error:
        reason = str(error).strip().split("\n\n")[0]
        raise ExportError(f"{file.name}: the network cannot be traced: {reason}") from error
    finally:
        logging.disable(kept)
    model: Any = program.model  # type: ignore[union-attr]
    for owner in _owners(model):
        owner.metadata_props.clear()
        owner.doc_string = None
    model.producer_name, model.producer_version = "flowgauge", None
    size = sum(p.numel() * p.element_size() for p in module.parameters())
    for old in (file, file.with_name(file.name + ".data")):
        old.unlink(missing_ok=True)
    program.save(str(file), external_data=size > EXTERNAL_FROM)  # type: ignore[union-attr]


@contextmanager
def exact_squeezes() -> Iterator[None]:
    """Leaves out `squeeze` of an axis that is longer than 1.

    It changes nothing in torch, but is exported as an operator that fails.
    """
    import torch
    from torch.overrides import TorchFunctionMode

    class Exact(TorchFunctionMode):
        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            if func in (torch.Tensor.squeeze, torch.squeeze) and len(args) == 2 and not kwargs:
                size = args[0].shape[args[1]] if isinstance(args[1], int) else 1
                if isinstance(size, int) and size != 1:
                    return args[0]
            return func(*args, **(kwargs or {}))

    with Exact():
        yield


def _owners(model: Any) -> list[Any]:
    """All that carries notes in an ONNX model."""
    owners = [model, model.graph, *model.graph.inputs, *model.graph.outputs]
    for node in model.graph.all_nodes():
        owners += [node, *node.outputs]
    return owners + list(model.graph.initializers.values())


# --- the check


def _compare(
    graph: Graph, reading: Reading, file: Path, tolerance: float, jax: bool
) -> dict[str, float | None]:
    """The largest differences between the file and the module in both precisions.

    Raises `ExportError` where that in single precision is above the tolerance.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(file), options, ["CPUExecutionProvider"])
    used = {port.name for port in session.get_inputs()}
    rng = np.random.default_rng(0)
    cases = [check_inputs(graph, reading, count, rng) for count in BATCHES]
    single = jax_outputs(graph, cases) if jax else _outputs(graph, cases)
    double = None if jax else _double_outputs(graph, cases)
    gaps: dict[str, float | None] = {"float32": 0.0, "float64": None if double is None else 0.0}
    for i, case in enumerate(cases):
        feeds = {name: value for name, value in case.items() if name in used}
        try:
            got = session.run(None, feeds)[0]
        except Exception as error:
            raise ExportError(
                f"{file}: the ONNX file does not run on a batch of {BATCHES[i]}. Where the network "
                "takes the batch size as a number, such as by len(x), it is fixed in the graph: "
                f"expected x.shape[0]. ONNX Runtime says: {error}"
            ) from error
        if got.shape != single[i].shape:
            raise ExportError(
                f"{file}: the output has shape {got.shape}, expected {single[i].shape}"
            )
        if graph is reading.graph:
            _check_shape(file, got.shape, case[reading.x].shape, reading.channels)
        gaps["float32"] = max(gaps["float32"] or 0.0, difference(got, single[i]))
        if double is not None:
            gaps["float64"] = max(gaps["float64"] or 0.0, difference(got, double[i]))
    gap = gaps["float32"]
    if gap is None or not gap <= tolerance:
        raise ExportError(
            f"{file}: it differs from the module by {gap:.1e} of the output's largest value, "
            f"expected at most {tolerance:.1e}; the difference to the module in double precision is "
            f"{gaps['float64']}"
        )
    return gaps


def _check_shape(
    file: Path, got: Sequence[int], state: Sequence[int], channels: Sequence[int] | None
) -> None:
    """Refuses an output that has not the shape of the state."""
    expected = list(state)
    if channels is not None:
        expected[1] = channels[1] - channels[0]
        got = [got[0], min(channels[1], got[1]) - channels[0], *got[2:]] if len(got) > 1 else got
    if list(got) != expected:
        hint = "" if channels is not None else "; `channels` names the part that is the prediction"
        raise ExportError(
            f"{file}: the output has shape {list(got)}, and the state has {list(state)}{hint}", 2
        )


def difference(got: Any, want: Any) -> float:
    """The largest difference relative to the largest value."""
    scale = float(np.abs(want).max(initial=0.0))
    gap = float(np.abs(got.astype(np.float64) - want).max(initial=0.0))
    return gap / scale if scale > 0 else gap


def check_inputs(
    graph: Graph, reading: Reading, count: int, rng: np.random.Generator
) -> dict[str, Any]:
    """Random states and times, and the conditions of the example, for one batch."""
    inputs: dict[str, Any] = {}
    times = None
    for name, example in graph.inputs.items():
        values = np.asarray(example)
        if name in graph.scalar:
            inputs[name] = values
        elif graph is reading.graph and name == reading.time:
            times = fed_times(reading, count, rng)
            rounded = times if values.dtype.kind == "f" else np.round(times)
            shape = (count, *values.shape[1:])
            inputs[name] = np.broadcast_to(
                rounded.reshape(count, *[1] * (values.ndim - 1)), shape
            ).astype(values.dtype)
        elif graph is not reading.graph or name == reading.x:
            inputs[name] = rng.standard_normal((count, *values.shape[1:])).astype(values.dtype)
        else:
            inputs[name] = values[np.arange(count) % len(values)]
    if times is not None and reading.path.get("kind") in ("edm", "ve"):
        # The states of these paths are as large as their noise.
        levels = np.sqrt(1 + noise_levels(reading, times) ** 2)
        x = inputs[reading.x]
        inputs[reading.x] = (x * levels.reshape(-1, *[1] * (x.ndim - 1))).astype(x.dtype)
    return {name: np.ascontiguousarray(value) for name, value in inputs.items()}


def fed_times(reading: Reading, count: int, rng: np.random.Generator) -> Any:
    """Values of the time input, spread over the path as the card feeds them."""
    path, keys = reading.path, reading.time_keys
    kind = path.get("kind", "discrete")
    u = rng.uniform(size=count)
    feed = keys.get("feed") or ("index" if kind == "discrete" else "t")
    if kind in ("edm", "ve"):
        low, high = _levels(path)
        t = low * (high / low) ** u if kind == "edm" or feed != "t" else u
        value = np.log(t) / 4 if feed == "log-sigma-over-4" else t
    elif feed == "index":
        value = np.floor(u * int(path.get("steps", 1000)))
    else:
        low, high = float(path.get("t_min", 0.0)), float(path.get("t_max", 1.0))
        value = low + (high - low) * u
        if feed == "log-sigma-over-4":
            value = np.log(value + 1e-3) / 4
    return value * float(keys.get("scale", 1.0)) + float(keys.get("offset", 0.0))


def _levels(path: Mapping[str, Any]) -> tuple[float, float]:
    low, high = (0.002, 80.0) if path["kind"] == "edm" else (0.01, 50.0)
    return float(path.get("sigma_min", low)), float(path.get("sigma_max", high))


def noise_levels(reading: Reading, fed: Any) -> Any:
    """The noise levels of fed times on the paths edm and ve."""
    keys, (low, high) = reading.time_keys, _levels(reading.path)
    value = (fed - float(keys.get("offset", 0.0))) / float(keys.get("scale", 1.0))
    feed = keys.get("feed") or "t"
    if feed == "log-sigma-over-4":
        return np.exp(4 * value)
    return low * (high / low) ** value if feed == "t" and reading.path["kind"] == "ve" else value


def _outputs(graph: Graph, cases: Sequence[Mapping[str, Any]]) -> list[Any]:
    """The module's outputs in single precision."""
    import torch

    module = _module(graph)
    with torch.no_grad(), graph.within():
        return [module(*map(torch.from_numpy, case.values())).numpy() for case in cases]


def _double_outputs(graph: Graph, cases: Sequence[Mapping[str, Any]]) -> list[Any] | None:
    """The outputs of a copy of the module in double precision; `None` where it cannot be called so."""
    import torch

    def wide(value: Any) -> Any:
        tensor = torch.from_numpy(value)
        return tensor.double() if tensor.is_floating_point() else tensor

    try:
        module = double_copy(_module(graph))
        inputs = [[wide(value) for value in case.values()] for case in cases]
        with torch.no_grad(), graph.within(), in_double():
            outputs = [module(*values) for values in inputs]
        return [output.numpy() for output in outputs]
    except Exception:
        return None


def jax_outputs(graph: Graph, cases: Sequence[Mapping[str, Any]]) -> list[Any]:
    """The outputs of a function of JAX arrays."""
    return [np.asarray(graph.call(graph.net, *case.values())) for case in cases]


# --- the card


def _write_card(card: Path, name: str, reading: Reading, keys: Mapping[str, Any]) -> None:
    """Writes the card, with the files that it names."""
    folder = card.parent
    comments = [*reading.remarks, *(f"Guessed: {guess}." for guess in reading.guesses)]
    comments.append("flowgauge inspect CARD --data X.npy tells whether data agree with it.")
    if reading.configs is not None:
        _draft_card(card, name, reading, keys, comments)
        return
    for file, array in reading.arrays.items():
        np.save(folder / file, array)
    inputs = {"x": reading.x, **({"time": reading.time} if reading.time else {})}
    network: dict[str, Any] = {
        "file": reading.graph.file,
        "sha256": hashlib.sha256((folder / reading.graph.file).read_bytes()).hexdigest(),
        "inputs": inputs,
        "output": reading.graph.output,
        "prediction": reading.prediction,
    }
    if reading.channels is not None:
        network["channels"] = list(reading.channels)
    if reading.time_keys and reading.time:
        network["time"] = reading.time_keys
    if keys["preconditioning"] is not None:
        network["preconditioning"] = keys["preconditioning"]
    if reading.conditions:
        network["conditions"] = {
            condition: _condition(value, condition, folder)
            for condition, value in reading.conditions.items()
        }
    content: dict[str, Any] = {
        "name": name,
        "shape": reading.shape,
        "network": network,
        "path": reading.path,
    }
    optional = {key: keys[key] for key in ("guidance", "provenance")}
    for key, value in {"prior": reading.prior, "data": reading.data, **optional}.items():
        if value is not None:
            content[key] = value
    card.write_text(card_text(plain_value(content), comments), encoding="utf-8")


def _condition(condition: Condition, name: str, folder: Path) -> dict[str, Any]:
    """The entry of a condition. A null value of many numbers becomes a file."""
    if condition.null is None:
        return {"input": condition.input}
    null, array = condition.null, to_array(condition.null)
    if array is None and isinstance(null, (list, tuple)):
        array = np.asarray(null, dtype=np.float32)
    if array is not None and array.ndim and (array.ndim > 1 or len(array) > 16):
        file = re.sub(r"\W", "_", f"null_{name}") + ".npy"
        np.save(folder / file, array)
        return {"input": condition.input, "null": file}
    return {"input": condition.input, "null": array.tolist() if array is not None else null}


def _draft_card(
    card: Path, name: str, reading: Reading, keys: Mapping[str, Any], comments: list[str]
) -> None:
    """Lets the program draft the card of a folder of diffusers, and adds what the caller said."""
    write_configs: Callable[[Path], None] | None = reading.configs
    assert write_configs is not None
    # The program takes the null value of a text from the file null.npy beside the configs.
    conditions = dict(keys["conditions"] or {})
    context = conditions.pop("context", {})
    null = to_array(context.get("null")) if isinstance(context, Mapping) else None
    unused = [k for k in ("time", "channels", "preconditioning") if keys[k] is not None]
    unused += [f"conditions.{name}" for name in conditions]
    unused += ["conditions.context"] if context and null is None else []
    if unused:
        raise ExportError(
            f"{', '.join(unused)}: the card of a network with a scheduler is drafted from the "
            "configs of diffusers; give path and prediction instead of the scheduler, or edit "
            f"{card}",
            2,
        )
    write_configs(card.parent)
    (card.parent / "null.npy").unlink(missing_ok=True)
    if null is not None:
        np.save(card.parent / "null.npy", null)
    draft = ["card", "--from=diffusers", f"--out={card}", "--force", "--quiet", str(card.parent)]
    try:
        call_program(draft)
    except FlowgaugeError as error:
        raise ExportError(f"{card}: {error}", error.returncode) from error
    added = {k: keys[k] for k in ("prior", "data", "guidance", "provenance") if keys[k] is not None}
    text = with_keys(card.read_text("utf-8"), plain_value({"name": name, **added}))
    head = "".join(f"# {line}\n" for comment in comments for line in wrapped(comment))
    card.write_text(f"{FIRST_LINE}\n{head}{text}", encoding="utf-8")
