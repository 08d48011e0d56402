"""Cards: the file and what was seen when it was made."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import _html

# The keys whose entries have a line each.
BLOCKS = ("network", "conditions")
FIRST_LINE = "# Written by flowgauge.export"


@dataclass(frozen=True)
class Card:
    """The card of a model. It stands for its file wherever a card is asked for.

    `differences` has the largest difference between the ONNX file and the module, relative to the
    output's largest value, by file and by the module's precision; `None` where the module could
    not be called in double precision.
    """

    path: Path
    name: str
    shape: tuple[int, ...]
    differences: dict[str, dict[str, float | None]] = field(default_factory=dict)
    guesses: tuple[str, ...] = ()
    inspection: str = field(default="", repr=False)

    def __fspath__(self) -> str:
        return str(self.path)

    @property
    def text(self) -> str:
        """The card itself."""
        return self.path.read_text(encoding="utf-8")

    def __str__(self) -> str:
        lines = [f"{self.path}: {self.name}, shape {list(self.shape)}"]
        for file, gaps in self.differences.items():
            gap, gap64 = gaps["float32"], gaps["float64"]
            double = "no reference in float64" if gap64 is None else f"{gap64:.1e} in float64"
            lines.append(f"{file}: differs from the module by {gap:.1e} in float32, {double}")
        return "\n".join([*lines, *(f"guessed: {guess}" for guess in self.guesses)])

    def _repr_html_(self) -> str:
        return _html.preformatted(f"{self}\n\n{self.text}")


def scalar(value: Any) -> str:
    """A value of YAML in one line. JSON is YAML; plain words read better without quotes.

    >>> scalar({"kind": "edm", "sigma_max": 80.0}), scalar("null"), scalar([1, 2])
    ('{kind: edm, sigma_max: 80.0}', '"null"', '[1, 2]')
    """
    words = {"true", "false", "null", "yes", "no", "on", "off", "y", "n"}
    if isinstance(value, str):
        plain = value[:1].isalpha() and all(c.isalnum() or c in "-_./" for c in value)
        return value if plain and value.lower() not in words else json.dumps(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{scalar(str(k))}: {scalar(v)}" for k, v in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(scalar, value)) + "]"
    if isinstance(value, os.PathLike):
        return scalar(os.fspath(value))
    return json.dumps(value, allow_nan=False)


def card_text(keys: Mapping[str, Any], comments: list[str]) -> str:
    """The text of a card."""
    lines = [FIRST_LINE, *(f"# {line}" for comment in comments for line in wrapped(comment))]
    return "\n".join([*lines, *block(keys, "")]) + "\n"


def block(keys: Mapping[str, Any], indent: str) -> list[str]:
    """Entries with a line each."""
    lines = []
    for key, value in keys.items():
        name = f"{indent}{key if key == 'null' else scalar(key)}:"
        if key in BLOCKS and value:
            lines += [name, *block(value, indent + "  ")]
        else:
            lines.append(f"{name} {scalar(value)}")
    return lines


def wrapped(text: str) -> list[str]:
    """A text in lines of at most 98 characters."""
    import textwrap

    return textwrap.wrap(text, 98) or [""]


def with_keys(text: str, keys: Mapping[str, Any]) -> str:
    """A card that the program drafted, with these top-level keys in the place of its own.

    >>> print(with_keys("name: a\\nshape: [2]\\n", {"name": "b", "guidance": {"scale": 4.0}}))
    name: b
    shape: [2]
    guidance: {scale: 4.0}
    <BLANKLINE>
    """
    kept, keep = block({"name": keys["name"]}, ""), True
    for line in text.splitlines():
        if line[:1] not in ("", " ", "#"):
            keep = line.partition(":")[0] not in keys
        if keep:
            kept.append(line)
    more = {key: value for key, value in keys.items() if key != "name"}
    return "\n".join([*kept, *block(more, "")]) + "\n"
