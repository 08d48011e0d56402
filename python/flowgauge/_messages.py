"""What the program prints on standard error: notes, its progress, and the message of its error.

Notes and progress are shown as they come. The last message is held back until it is known whether
the program failed, because it is then the text of an exception.
"""

from __future__ import annotations

import json
import re
import sys
from typing import Any, Protocol

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
PREFIXES = ("flowgauge: ", "error: ")


def plain(text: str) -> str:
    """Returns text without the escape sequences and ends of line of a terminal.

    >>> plain("\\x1b[2Kdigits: 40 %\\r")
    'digits: 40 %'
    """
    return ESCAPES.sub("", text).strip("\r\n")


def text_of_event(text: str) -> str:
    """Returns the text of a note or an error that `--progress json` wrote, or the text itself.

    >>> text_of_event('{"event":"error","text":"x.npy: it is missing"}')
    'x.npy: it is missing'
    >>> text_of_event("x.npy: it is missing")
    'x.npy: it is missing'
    """
    try:
        event = json.loads(text)
    except ValueError:
        return text
    return str(event.get("text", text)) if isinstance(event, dict) else text


def _is_progress(text: str) -> bool:
    """Whether the beginning of a line can neither be a message nor ends inside an escape.

    >>> [_is_progress(text) for text in ("\\x1b[2Kdigits", "\\x1b[2Kflowg", "\\x1b[2")]
    [True, False, False]
    """
    shown = plain(text)
    message = any(p.startswith(shown) or shown.startswith(p) for p in PREFIXES)
    return not message and re.search(r"\x1b(\[[0-9;?]*)?$", text) is None


class Display(Protocol):
    """Where standard error is shown."""

    terminal: bool

    def note(self, raw: str) -> None:
        """Shows a line that stays."""

    def progress(self, raw: str) -> None:
        """Shows a line that is replaced by the next one."""

    def close(self) -> None:
        """Removes the line of progress."""


class Stream:
    """Python's standard error, a terminal or not."""

    def __init__(self) -> None:
        self.terminal = bool(getattr(sys.stderr, "isatty", lambda: False)())

    def note(self, raw: str) -> None:
        print(raw if self.terminal else plain(raw) + "\n", end="", file=sys.stderr, flush=True)

    progress = note

    def close(self) -> None:
        pass


class Notebook:
    """A cell of a notebook: the progress is one line that changes in its place."""

    terminal = True

    def __init__(self, display: Any) -> None:
        self.display = display
        self.shown: Any = None

    def note(self, raw: str) -> None:
        print(plain(raw), file=sys.stderr, flush=True)

    def progress(self, raw: str) -> None:
        text = plain(raw).strip()
        if not text:
            return
        line = {"text/plain": text}
        if self.shown is None:
            self.shown = self.display.display(line, raw=True, display_id=True)
        else:
            self.shown.update(line, raw=True)

    def close(self) -> None:
        if self.shown is not None:
            self.shown.update({"text/plain": ""}, raw=True)
            self.shown = None


def choose_display() -> Display:
    """Returns the display for this session. IPython is used only where it already runs."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    if shell is not None and hasattr(shell, "kernel"):
        import importlib

        return Notebook(importlib.import_module("IPython.display"))
    return Stream()


class Messages:
    """Sorts the text of standard error, piece by piece."""

    def __init__(self, display: Display) -> None:
        self.display = display
        self.rest = ""
        self.held: list[str] = []
        self.last: list[str] = []

    def feed(self, text: str) -> None:
        """Takes the next piece of text."""
        *lines, self.rest = re.split(r"(?<=[\r\n])", (self.rest + text).replace("\r\n", "\n"))
        for line in lines:
            self._line(line)
        if "\x1b" in self.rest and _is_progress(self.rest):
            self._line(self.rest)
            self.rest = ""

    def _line(self, line: str) -> None:
        if plain(line).startswith(PREFIXES):
            self.idle()
            self.held = [line]
        elif "\x1b" in line or line.endswith("\r"):
            self.idle()
            self.display.progress(line)
        elif self.held:
            self.held.append(line)
        elif plain(line):
            self.last = [line]
            self.display.note(line)

    def idle(self) -> None:
        """Shows what was held back: more has come, or the program goes on."""
        for line in self.held:
            self.display.note(line)
        if self.held:
            self.last, self.held = self.held, []

    def finish(self, failed: bool) -> str:
        """Ends the display and returns the program's last message where it failed."""
        if self.rest:
            self._line(self.rest)
            self.rest = ""
        if not failed:
            self.idle()
        self.display.close()
        text = "\n".join(plain(line) for line in self.held or self.last)
        for prefix in PREFIXES:
            text = text.removeprefix(prefix)
        return text_of_event(text).strip() if failed else ""
