"""`python -m flowgauge …` runs the program with ONNX Runtime of this Python."""

from __future__ import annotations

import os
import subprocess
import sys

from ._binary import environment, find_program
from ._errors import ProgramNotFound


def provider_of(arguments: list[str]) -> str:
    """The provider that a command line asks for.

    >>> provider_of(["run", "--provider", "cuda"]), provider_of(["--provider=openvino"])
    ('cuda', 'openvino')
    """
    for i, argument in enumerate(arguments):
        if argument.startswith("--provider="):
            return argument.partition("=")[2]
        if argument == "--provider" and i + 1 < len(arguments):
            return arguments[i + 1]
    return "cpu"


def main() -> int:
    """Runs the program in the place of this process, and on Windows as its child."""
    arguments = sys.argv[1:]
    try:
        program = str(find_program())
    except ProgramNotFound as error:
        print(f"flowgauge: {error}", file=sys.stderr)
        return 2
    variables = environment(provider_of(arguments))
    if os.name == "posix":
        os.execve(program, [program, *arguments], variables)
    return subprocess.call([program, *arguments], env=variables)


if __name__ == "__main__":
    raise SystemExit(main())
