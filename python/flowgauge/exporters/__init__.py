"""Exporters: what is known about the networks of each library, a file per family.

A family is a module with two functions, `matches(net)` and `read(net, given)`. It is added by its
file and its name in `FAMILIES`. Libraries are told by the names of classes and never imported.
"""

from __future__ import annotations

from typing import Any, Protocol

from .._errors import ExportError
from . import (
    denoising_diffusion,
    diffusers,
    edm,
    flow_matching,
    plain,
    sbi,
    torchcfm,
)
from .reading import Given, Reading


class Family(Protocol):
    """The networks of one library."""

    def matches(self, net: Any) -> bool:
        """Whether `net` is one of them."""

    def read(self, net: Any, given: Given) -> Reading:
        """Reads it."""


FAMILIES: list[Family] = [denoising_diffusion, diffusers, edm, flow_matching, sbi, torchcfm]


def read_network(net: Any, given: Given) -> Reading:
    """Reads a network by its family, or as any other callable."""
    for family in FAMILIES:
        if family.matches(net):
            _refuse_unused(net, family, given)
            return family.read(net, given)
    _refuse_unused(net, None, given)
    return plain.read(net, given)


def _refuse_unused(net: Any, family: Family | None, given: Given) -> None:
    """Refuses what the caller said and nothing would be done with."""
    said = []
    if family is not diffusers:
        said += [name for name in ("scheduler", "vae") if getattr(given, name) is not None]
    if family is not None:
        said += [name for name in ("inputs", "output") if given.keys.get(name) is not None]
    if said:
        raise ExportError(f"{said[0]}: it does not belong to a {type(net).__name__}", 2)
