"""Messages, exit statuses, progress and Ctrl-C of the child."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
import types
from pathlib import Path

import numpy as np
import pytest

import flowgauge
from flowgauge import _messages
from flowgauge._process import call

posix = pytest.mark.skipif(os.name != "posix", reason="uses a shell and signals")


@pytest.fixture
def script(tmp_path, monkeypatch):
    """Stands in for the program: a shell script."""

    def write(text):
        file = tmp_path / "program"
        file.write_text("#!/bin/sh\n" + text)
        file.chmod(0o755)
        monkeypatch.setenv("FLOWGAUGE_BIN", str(file))

    return write


@posix
@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (1, flowgauge.FlowgaugeError),
        (2, flowgauge.InputRefused),
        (75, flowgauge.Interrupted),
        (130, flowgauge.Interrupted),
        (143, flowgauge.Interrupted),
    ],
)
def test_an_exit_status_is_an_error_with_the_last_message(script, capfd, status, kind):
    script(f"""
echo 'flowgauge: a note' >&2
echo 'flowgauge: bad.yaml: 2 faults' >&2
echo '  line 2: unknown key' >&2
exit {status}
""")
    with pytest.raises(flowgauge.FlowgaugeError) as caught:
        call(["run"])
    assert type(caught.value) is kind
    assert str(caught.value) == "bad.yaml: 2 faults\n  line 2: unknown key"
    assert caught.value.returncode == status
    # The note was shown, and the message of the error is not shown twice.
    assert capfd.readouterr().err == "flowgauge: a note\n"


@posix
def test_a_child_that_is_killed_says_so(script):
    script("kill -9 $$")
    with pytest.raises(flowgauge.FlowgaugeError, match="exit status -9") as caught:
        call(["run"])
    assert caught.value.returncode == -9


@posix
def test_notes_of_a_success_are_shown_and_output_is_returned(script, capfd):
    script("echo result; echo 'flowgauge: a note' >&2; echo 'flowgauge: 40 %' >&2")
    done = call(["run"])
    assert (done.stdout, done.message) == ("result\n", "")
    assert capfd.readouterr().err == "flowgauge: a note\nflowgauge: 40 %\n"


@posix
def test_a_message_is_shown_while_the_program_goes_on(script):
    script("echo 'flowgauge: a note' >&2; sleep 1.5; exit 1")
    with pytest.raises(flowgauge.FlowgaugeError, match="a note"):
        call(["run"])


@posix
def test_the_user_s_library_and_arguments_reach_the_child(script, monkeypatch):
    monkeypatch.setenv("ORT_DYLIB_PATH", "/mine.so")
    script('echo "$ORT_DYLIB_PATH $*"')
    assert call(["run", "a b"]).stdout == "/mine.so run a b\n"


class Recorder:
    """A display that keeps what it is told."""

    terminal = True

    def __init__(self):
        self.told = []

    def note(self, raw):
        self.told.append(("note", _messages.plain(raw)))

    def progress(self, raw):
        self.told.append(("progress", _messages.plain(raw)))

    def close(self):
        self.told.append(("close", ""))


def test_progress_of_a_terminal_is_told_from_notes_in_any_pieces():
    text = (
        "\r\x1b[2Kdigits: 10 %\r\x1b[2K\rflowgauge: a note\n\r\x1b[2Kdigits: 90 %\r\x1b[2K"
        "flowgauge: it failed\n  with a reason\n"
    )
    display = Recorder()
    messages = _messages.Messages(display)
    for character in text:
        messages.feed(character)
    assert messages.finish(failed=True) == "it failed\n  with a reason"
    told = [(kind, line) for kind, line in display.told if line]
    assert ("note", "flowgauge: a note") in told
    assert not any("failed" in line for _, line in told)
    shown = "".join(line for kind, line in told if kind == "progress")
    assert "digits: 10 %" in shown
    assert "digits: 90 %" in shown


@posix
def test_a_notebook_shows_one_line_that_changes(script, monkeypatch, capfd):
    lines = []

    class Handle:
        def update(self, data, raw):
            lines.append(data["text/plain"])

    def display(data, raw, display_id):
        lines.append(data["text/plain"])
        return Handle()

    shell = types.SimpleNamespace(kernel=object())
    ipython = types.ModuleType("IPython")
    ipython.get_ipython = lambda: shell
    inner = types.ModuleType("IPython.display")
    inner.display = display
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", inner)
    # The child sees a terminal, which it does not from a pipe.
    script(r"""
test -t 2 || exit 9
printf '\r\033[2Kdigits: 10 %%' >&2; printf '\r\033[2Kdigits: 90 %%' >&2; printf '\r\033[2K' >&2
echo 'flowgauge: a note' >&2
""")
    call(["run"])
    assert lines == ["digits: 10 %", "digits: 90 %", ""]
    assert capfd.readouterr().err == "flowgauge: a note\n"


LONG = """
import flowgauge, numpy, sys
model, out = sys.argv[1:]
data = numpy.random.default_rng(0).normal(size=(4000, 8)).astype("float32")
config = {
    "name": "long", "chunk": 32, "estimators": ["exact"], "solvers": [{"rk4": {"steps": 400}}],
    "likelihood": [{"model": model, "data": data, "profile": 0, "budget": False}],
}
flowgauge.run(config, out=out, threads=1)
"""


@posix
def test_ctrl_c_ends_the_run_in_good_order_and_the_same_call_resumes(models, tmp_path):
    out = tmp_path / "run"
    command = [sys.executable, "-c", LONG, str(models / "mixture/card.yaml"), str(out)]
    python = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    journal = out / "journal.jsonl"
    deadline = time.monotonic() + 60
    while not (journal.exists() and journal.read_text()):
        assert python.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    python.send_signal(signal.SIGINT)
    _, stderr = python.communicate(timeout=60)
    assert python.returncode != 0
    assert "KeyboardInterrupt" in stderr
    assert "same command" in stderr
    finished = journal.read_text().splitlines()
    assert 0 < len(finished) < 125
    # The child has gone, so that the directory is free, and what is finished stays.
    again = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while len(journal.read_text().splitlines()) <= len(finished):
        assert again.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    again.send_signal(signal.SIGINT)
    again.communicate(timeout=60)
    assert journal.read_text().splitlines()[: len(finished)] == finished


@posix
def test_what_was_finished_before_a_signal_is_not_removed(script, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    script("""
for option; do case "$option" in --out=*) out=${option#--out=} ;; esac; done
echo rows > "$out.partial"
echo "flowgauge: stopped; the finished rows are in $out.partial" >&2
exit 130
""")
    with pytest.raises(flowgauge.Interrupted) as caught:
        flowgauge.likelihood("card.yaml", "x.npy", divergence="exact")
    partial = str(caught.value).rpartition(" ")[2]
    assert caught.value.result is None
    del caught
    assert Path(partial).read_text() == "rows\n"


def test_a_failed_row_keeps_the_others(models, tmp_path):
    """A sample that needs more steps than allowed has a status, and the error has the result."""
    x = np.load(models / "moons/heldout.npy")[:4]
    with pytest.raises(flowgauge.FlowgaugeError) as caught:
        flowgauge.likelihood(
            models / "moons/card.yaml", x, divergence="exact", no_check=True,
            solver={"dopri5": {"rtol": 1e-9, "atol": 1e-9, "max_steps": 3}},
        )  # fmt: skip
    assert caught.value.returncode == 1
    assert list(caught.value.result.samples["status"]) == ["max-steps"] * 4


def test_dictionary_is_not_run_at_an_address(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="expected a config file"):
        flowgauge.run({"name": "x"}, out="s3://bucket/x")
    assert not list(tmp_path.iterdir())
