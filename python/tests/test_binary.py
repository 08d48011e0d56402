"""The program and ONNX Runtime's library are found, or it is said where they were looked for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import flowgauge
from flowgauge import _binary


def program(folder: Path, name: str = _binary.PROGRAM) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / name
    file.write_text("#!/bin/sh\nexit 0\n")
    file.chmod(0o755)
    return file


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """A Python and a PATH without the program."""
    monkeypatch.delenv("FLOWGAUGE_BIN", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    monkeypatch.setattr(_binary.sys, "executable", str(tmp_path / "bin/python"))
    monkeypatch.setattr(_binary.sysconfig, "get_path", lambda *_: str(tmp_path / "scripts"))
    return tmp_path


def test_the_variable_comes_first(nowhere, monkeypatch):
    program(nowhere / "bin")
    named = program(nowhere / "named", "other")
    monkeypatch.setenv("FLOWGAUGE_BIN", str(named))
    assert _binary.find_program() == named


def test_a_variable_that_names_nothing_is_refused(nowhere, monkeypatch):
    program(nowhere / "bin")
    monkeypatch.setenv("FLOWGAUGE_BIN", str(nowhere / "missing"))
    with pytest.raises(flowgauge.ProgramNotFound, match=r"FLOWGAUGE_BIN=.*missing"):
        _binary.find_program()


def test_the_program_beside_python_is_found_before_path(nowhere):
    on_path = program(nowhere / "path", "flowgauge")
    assert _binary.find_program() == on_path
    scripts = program(nowhere / "scripts")
    assert _binary.find_program() == scripts
    beside = program(nowhere / "bin")
    assert _binary.find_program() == beside


def test_the_message_says_where_it_was_looked_for(nowhere):
    with pytest.raises(flowgauge.ProgramNotFound, match="scripts.*pip install flowgauge"):
        _binary.find_program()


def test_the_library_of_this_python_is_named_unless_the_user_names_one(monkeypatch):
    monkeypatch.delenv("ORT_DYLIB_PATH", raising=False)
    library = Path(_binary.environment()["ORT_DYLIB_PATH"])
    assert library.is_file()
    assert library.parent.parts[-2:] == ("onnxruntime", "capi")
    monkeypatch.setenv("ORT_DYLIB_PATH", "/mine.so")
    assert _binary.environment()["ORT_DYLIB_PATH"] == "/mine.so"


def test_onnxruntime_is_not_imported():
    code = (
        "import flowgauge._binary as b, sys; b.environment(); print('onnxruntime' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_library_without_the_provider_is_not_named(monkeypatch, tmp_path):
    monkeypatch.delenv("ORT_DYLIB_PATH", raising=False)
    capi = tmp_path / "onnxruntime/capi"
    capi.mkdir(parents=True)
    (capi.parent / "__init__.py").write_text("")
    pattern = _binary.LIBRARIES.get(sys.platform, "libonnxruntime.so*")
    library = capi / pattern.replace("*", "")
    library.touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert _binary.runtime_library() == library
    assert _binary.runtime_library("cuda") is None
    assert "ORT_DYLIB_PATH" not in _binary.environment("cuda")
    (capi / "libonnxruntime_providers_cuda.so").touch()
    assert _binary.runtime_library("cuda") == library


def test_python_m_runs_the_program():
    command = [sys.executable, "-m", "flowgauge"]
    done = subprocess.run([*command, "--version"], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stdout.startswith("flowgauge")
    refused = subprocess.run([*command, "nonsense"], capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "nonsense" in refused.stderr


def test_python_m_says_that_there_is_no_program(tmp_path):
    variables = {**os.environ, "FLOWGAUGE_BIN": str(tmp_path / "missing")}
    done = subprocess.run(
        [sys.executable, "-m", "flowgauge", "list"],
        capture_output=True, text=True, check=False, env=variables,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("flowgauge: FLOWGAUGE_BIN=")
