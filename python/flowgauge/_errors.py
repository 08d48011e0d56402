"""The errors of this package. Each carries the message of the program that it comes from."""

from __future__ import annotations

from typing import Any


class FlowgaugeError(Exception):
    """The program `flowgauge` failed.

    Its text is the program's own message. `returncode` is the program's exit status: 1 where
    something measured failed, negative where a signal ended it. `result` holds what was written
    nevertheless, such as the rows of a likelihood of which some failed, and is `None` otherwise.
    """

    def __init__(self, message: str, returncode: int = 1, result: Any = None) -> None:
        super().__init__(message)
        self.returncode = returncode
        self.result = result


class InputRefused(FlowgaugeError):
    """An input is at fault (exit status 2), and nothing was run."""


class Interrupted(FlowgaugeError):
    """The program was stopped by a signal or by a limit of time (exit status 75, 130 or 143).

    After status 75 the same call continues where it stopped. After the others the finished part is
    in a file that the message names.
    """


class ProgramNotFound(FlowgaugeError):
    """The program `flowgauge` is not installed beside this package."""


class ExportError(FlowgaugeError):
    """A network could not be exported, or its ONNX file does not compute what the network does."""


class GuessWarning(UserWarning):
    """Something that the network does not say was guessed, and the card may be wrong."""


def error_of(message: str, returncode: int) -> FlowgaugeError:
    """Returns the error for an exit status of the program."""
    kinds: dict[int, type[FlowgaugeError]] = {
        2: InputRefused, 75: Interrupted, 130: Interrupted, 143: Interrupted,
        -2: Interrupted, -15: Interrupted,
    }  # fmt: skip
    text = message or f"flowgauge ended with exit status {returncode}, without a message"
    return kinds.get(returncode, FlowgaugeError)(text, returncode)
