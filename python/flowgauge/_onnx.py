"""Traces a network and writes it as ONNX, with an open batch axis."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ._errors import ExportError
from ._messages import plain
from .exporters.reading import Graph

# ONNX files hold at most 2 GiB; above this many bytes of weights these lie beside the graph.
EXTERNAL_FROM = 1_500_000_000


def module_of(graph: Graph) -> Any:
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


def write_onnx(graph: Graph, file: Path, opset: int) -> None:
    """Writes the module of a graph. Nothing in the file names the machine."""
    import torch

    module = module_of(graph)
    batch = torch.export.Dim("batch")
    axes = tuple({} if name in graph.scalar else {0: batch} for name in graph.inputs)
    try:
        with torch.no_grad(), graph.within():
            module(*graph.inputs.values())
    except Exception as error:
        shapes = ", ".join(f"{n} {list(value.shape)}" for n, value in graph.inputs.items())
        raise ExportError(
            f"{file.name}: the network fails when it is called with {shapes}: {error}", 2
        ) from error
    kept = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), graph.within(), torch.no_grad(), exact_squeezes():
            warnings.simplefilter("ignore")
            program: Any = torch.onnx.export(
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
        cause = error.__cause__ or error
        reason = plain(str(cause)).strip().split("\n\n")[0]
        raise ExportError(
            f"{file.name}: the network cannot be traced by torch.export: {reason}"
        ) from error
    finally:
        logging.disable(kept)
    model = program.model
    for owner in _owners(model):
        owner.metadata_props.clear()
        owner.doc_string = None
    model.producer_name, model.producer_version = "flowgauge", None
    size = sum(p.numel() * p.element_size() for p in module.parameters())
    for old in (file, file.with_name(file.name + ".data")):
        old.unlink(missing_ok=True)
    program.save(str(file), external_data=size > EXTERNAL_FROM)


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
