"""Shared by the tests of the training scripts: a script as its command runs it, its cards, files that are not the data set's."""

import subprocess
import sys


def run_script(module, *arguments):
    sys.argv = [module.__name__, *map(str, arguments)]
    module.main()


def inspect(program, card):
    """The program, if there is one, can evaluate and differentiate what a training wrote."""
    if program:
        said = subprocess.run([program, "inspect", card], capture_output=True, text=True)
        assert said.returncode == 0, said.stderr
        others = ("kind: flow", "kind: density")
        assert any(kind in card.read_text() for kind in others) or "every operator can be differentiated" in said.stdout, said.stdout
    print(card.read_text())


def refuses_other_data(read, folder, name, file):
    """`read(folder, name)` reads `file`, and refuses it when its bytes are others than the data set's."""
    (folder / file).write_bytes(b"other")
    try:
        read(folder, name)
    except SystemExit as message:
        assert "SHA-256" in str(message) and file in str(message)
    else:
        raise AssertionError("a file with another hash was read")
