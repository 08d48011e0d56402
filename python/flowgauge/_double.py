"""A module in double precision, as a reference that is nearly exact."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def double_copy(net: Any) -> Any:
    """A copy of a module with its weights in double precision."""
    return copy.deepcopy(net).double()


@contextmanager
def in_double() -> Iterator[None]:
    """Lets modules compute in double precision that ask for single precision by name.

    Networks cast to `torch.float32` on their way, and compare the types of tensors with it. Here
    such a cast gives double precision, and a tensor in double precision says that it is single.
    """
    import torch
    from torch.overrides import TorchFunctionMode

    single, double = torch.float32, torch.float64

    def swap(value: Any) -> Any:
        if value is single:
            return double
        if isinstance(value, (list, tuple)) and not isinstance(value, torch.Size):
            return type(value)(map(swap, value)) if any(v is single for v in value) else value
        return value

    class Double(TorchFunctionMode):
        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            kwargs = {key: swap(value) for key, value in (kwargs or {}).items()}
            if func is torch.Tensor.float:
                func = torch.Tensor.double
            result = func(*map(swap, args), **kwargs)
            return single if result is double else result

    kept = torch.get_default_dtype()
    torch.set_default_dtype(double)
    try:
        with Double():
            yield
    finally:
        torch.set_default_dtype(kept)
