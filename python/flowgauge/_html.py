"""HTML for notebooks. Every text is escaped: names come from users."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy.typing as npt

from ._frames import shown_cells


def table(columns: Mapping[str, Sequence[Any] | npt.NDArray[Any]], limit: int = 20) -> str:
    """A table.

    >>> table({"model": ["<b>"]})
    '<table><thead><tr><th>model</th></tr></thead><tbody><tr><td>&lt;b&gt;</td></tr></tbody></table>'
    """
    names, rows, count = shown_cells(columns, limit)
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    more = f"<p>… {count} rows</p>" if count > limit else ""
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}"


def paragraph(text: str) -> str:
    """A paragraph of plain text."""
    return f"<p>{escape(text)}</p>"


def preformatted(text: str) -> str:
    """Text with its line breaks."""
    return f"<pre>{escape(text)}</pre>"


def picture(file: Path) -> str:
    """An SVG or PNG file as an image, in which no script can run."""
    kind = "svg+xml" if file.suffix == ".svg" else "png"
    data = base64.b64encode(file.read_bytes()).decode()
    return f'<img alt="{escape(file.stem)}" src="data:image/{kind};base64,{data}">'
