"""Where the program is, and which ONNX Runtime it gets."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import sysconfig
from pathlib import Path

from ._errors import ProgramNotFound

PROGRAM = "flowgauge.exe" if os.name == "nt" else "flowgauge"
LIBRARIES = {"win32": "onnxruntime.dll", "darwin": "libonnxruntime*.dylib"}


def find_program() -> Path:
    """Returns the path of the program `flowgauge`.

    It is the file that the environment variable FLOWGAUGE_BIN names, or the program beside this
    Python, where pip puts it, or the first one on PATH.

    Raises `ProgramNotFound` where there is none.
    """
    named = os.environ.get("FLOWGAUGE_BIN")
    if named:
        found = shutil.which(named)
        if found is None:
            raise ProgramNotFound(f"FLOWGAUGE_BIN={named}: there is no such program", 2)
        return Path(found)
    schemes = [sysconfig.get_preferred_scheme("prefix"), sysconfig.get_preferred_scheme("user")]
    folders = [Path(sys.executable).parent]
    folders += [Path(sysconfig.get_path("scripts", scheme)) for scheme in schemes]
    for folder in folders:
        if (folder / PROGRAM).is_file():
            return folder / PROGRAM
    found = shutil.which("flowgauge")
    if found is not None:
        return Path(found)
    searched = ", ".join(dict.fromkeys(str(folder) for folder in folders))
    raise ProgramNotFound(
        f"the program flowgauge was not found in {searched} or on PATH; install it with "
        "`pip install flowgauge`, or name it with the environment variable FLOWGAUGE_BIN",
        2,
    )


def runtime_library(provider: str = "cpu") -> Path | None:
    """Returns the library in the `onnxruntime` package of this Python, without importing it.

    It is `None` where the package is not installed, or lacks the execution provider. The program
    then searches by itself.
    """
    spec = importlib.util.find_spec("onnxruntime")
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / "capi"
    pattern = LIBRARIES.get(sys.platform, "libonnxruntime.so*")
    if provider != "cpu" and not any(folder.glob(f"*onnxruntime_providers_{provider}*")):
        return None
    return next(iter(sorted(folder.glob(pattern))), None)


def environment(provider: str = "cpu") -> dict[str, str]:
    """Returns the environment of the program: this one, with ONNX Runtime's library named.

    An `ORT_DYLIB_PATH` that the user has set stays.
    """
    variables = dict(os.environ)
    if not variables.get("ORT_DYLIB_PATH"):
        library = runtime_library(provider)
        if library is not None:
            variables["ORT_DYLIB_PATH"] = str(library)
    return variables
