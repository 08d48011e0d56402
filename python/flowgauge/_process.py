"""Runs the program as a child, shows what it says, and turns its exit status into an error."""

from __future__ import annotations

import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO

from ._binary import environment, find_program
from ._errors import error_of
from ._messages import Messages, choose_display

# How long the last message is held back while the program goes on, in seconds.
PATIENCE = 0.5


@dataclass(frozen=True)
class Completed:
    """What a call of the program gave: its standard output, its exit status and its last message.

    The message is empty where the program succeeded.
    """

    stdout: str
    returncode: int
    message: str


def _terminal() -> tuple[int, int]:
    """Opens a pseudo-terminal, so that the program shows its progress as on a real one."""
    import fcntl
    import pty
    import struct
    import termios
    import tty

    ours, theirs = pty.openpty()
    tty.setraw(theirs)
    size = shutil.get_terminal_size((100, 24))
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", size.lines, size.columns, 0, 0))
    return ours, theirs


def _pump(stream: IO[bytes], name: str, pieces: queue.SimpleQueue[tuple[str, bytes]]) -> None:
    """Puts what a stream brings into the queue, and an empty piece at its end."""
    while True:
        try:
            piece = os.read(stream.fileno(), 65536)
        except OSError:  # A pseudo-terminal ends so on Linux when the program has closed it.
            piece = b""
        pieces.put((name, piece))
        if not piece:
            return


def call(
    arguments: Sequence[str], *, accept: Sequence[int] = (0,), provider: str = "cpu"
) -> Completed:
    """Runs `flowgauge` with these arguments and returns its standard output.

    Notes and progress appear on standard error, or as one line in a notebook. Ctrl-C is passed on:
    the first lets the program end in good order, the second ends it at once, the third kills it.

    Raises `FlowgaugeError`, or one of its subclasses, where the exit status is not in `accept`.
    """
    command = [str(find_program()), *arguments]
    display = choose_display()
    messages = Messages(display)
    ours, theirs = -1, subprocess.PIPE
    if display.terminal and os.name == "posix":
        ours, theirs = _terminal()
    # In a session of its own the program gets Ctrl-C from here alone, and not twice.
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=theirs,
        env=environment(provider),
        start_new_session=os.name == "posix",
    )
    if ours >= 0:
        os.close(theirs)
    stderr = os.fdopen(ours, "rb", buffering=0) if ours >= 0 else child.stderr
    assert stderr is not None
    assert child.stdout is not None
    pieces: queue.SimpleQueue[tuple[str, bytes]] = queue.SimpleQueue()
    streams = [(child.stdout, "out"), (stderr, "err")]
    threads = [
        threading.Thread(target=_pump, args=(*pair, pieces), daemon=True) for pair in streams
    ]
    for thread in threads:
        thread.start()

    output, interrupts, open_streams = bytearray(), 0, len(threads)
    try:
        while open_streams or child.poll() is None:
            try:
                name, piece = pieces.get(timeout=PATIENCE)
                if not piece:
                    open_streams -= 1
                elif name == "out":
                    output += piece
                else:
                    messages.feed(piece.decode("utf-8", "replace"))
            except queue.Empty:
                if child.poll() is None:
                    messages.idle()
            except KeyboardInterrupt:
                interrupts += 1
                _stop(child, interrupts)
        returncode = child.wait()
    finally:
        if child.poll() is None:
            child.terminate()
            child.wait()
        for thread in threads:
            thread.join()
        child.stdout.close()
        stderr.close()
    failed = returncode not in accept
    message = messages.finish(failed or returncode != 0)
    if interrupts:
        raise KeyboardInterrupt(message)
    if failed:
        raise error_of(message, returncode)
    return Completed(output.decode("utf-8", "replace"), returncode, message)


def _stop(child: subprocess.Popen[bytes], interrupts: int) -> None:
    """Passes Ctrl-C on to the program, and kills it the third time."""
    if child.poll() is not None:
        return
    if interrupts > 2 or sys.platform == "win32":
        child.kill()
    else:
        child.send_signal(signal.SIGINT)
