"""Functions of torch tensors, as modules that own copies of the modules that they use."""

from __future__ import annotations

import copy
import types
from collections.abc import Callable
from typing import Any


def as_module(function: Callable[..., Any]) -> Any:
    """A module that calls a function, or a method of a module.

    Modules that the function has from its surroundings are copied into it, so that the copy can be
    set to evaluation and to double precision. Other callables are called as they are.
    """
    import torch

    class Function(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.flowgauge_function = function
            self.parts = torch.nn.ModuleDict(
                {name: copy.deepcopy(part) for name, part in captured(function).items()}
            )

        def forward(self, *values: Any, **named: Any) -> Any:
            return bound(self.flowgauge_function, dict(self.parts.items()))(*values, **named)

    return Function()


def captured(function: Callable[..., Any]) -> dict[str, Any]:
    """The modules that a function has from its surroundings, by their names there."""
    import torch

    if isinstance(function, types.MethodType):
        return {"self": function.__self__} if isinstance(function.__self__, torch.nn.Module) else {}
    if not isinstance(function, types.FunctionType):
        return {}
    code = function.__code__
    found = {n: function.__globals__[n] for n in code.co_names if n in function.__globals__}
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        try:
            found[name] = cell.cell_contents
        except ValueError:  # The surroundings have not assigned it yet.
            continue
    return {name: part for name, part in found.items() if isinstance(part, torch.nn.Module)}


def bound(function: Callable[..., Any], parts: dict[str, Any]) -> Callable[..., Any]:
    """The same function with other modules in its surroundings."""
    if not parts:
        return function
    if isinstance(function, types.MethodType):
        method: Callable[..., Any] = getattr(parts["self"], function.__name__)
        return method
    assert isinstance(function, types.FunctionType)
    code = function.__code__
    cells = zip(code.co_freevars, function.__closure__ or (), strict=True)
    closure = tuple(types.CellType(parts[n]) if n in parts else cell for n, cell in cells)
    names = {**function.__globals__, **parts}
    same = types.FunctionType(code, names, function.__name__, function.__defaults__, closure)
    same.__kwdefaults__ = function.__kwdefaults__
    return same
