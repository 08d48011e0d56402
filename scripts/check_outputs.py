#!/usr/bin/env python3
"""Checks that what README.md and docs/ show as the program's output is what it prints.

    python scripts/check_outputs.py FLOWGAUGE

The commands of each page's `console` blocks run in order, in a folder with the files of models/moons.
A YAML block after "Write `NAME`" becomes that file. Then

- the lines below a command are those that it prints on standard output, all of them or none,
- the lines of a `text` block are lines that a command of these pages prints, or of a table that it writes.

Seconds and costs, which a clock measured, and blank lines are left out of the comparison. Another
processor may round the last digits otherwise. Needs only Python.
"""

import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGES = ["docs/start.md", "README.md", "docs/metrics-reference.md"]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def plain(line):
    """A line without what a clock measured, and without differences of spaces at its end."""
    line = re.sub(r"(,| ) +[\d.]+ (ms|s)$", "", line.rstrip())
    return re.sub(r"(–|\d)\s+\d+$", r"\1", line) if line.startswith("  ") else line


def commands(block):
    """The commands of a console block, each with the lines below it."""
    found, is_open = [], False
    for line in block.splitlines():
        if is_open or line.startswith("$ "):
            part = line.removeprefix("$ ").strip()
            found += [] if is_open else [["", []]]
            found[-1][0] = f"{found[-1][0]} {part.removesuffix(chr(92)).strip()}".strip()
            is_open = part.endswith("\\")
        elif found:
            found[-1][1].append(line)
    return found


def run_page(page, program, folder, seen):
    """Faults of the console blocks of one page; what they print is added to `seen`."""
    text = (ROOT / page).read_text(encoding="utf-8")
    for block in BLOCK.finditer(text):
        language, inside = block.groups()
        named = re.search(r"Write `([\w.-]+)`:?\s*$", text[: block.start()])
        if language == "yaml" and named:
            (folder / named.group(1)).write_text(inside, encoding="utf-8")
        for command, below in commands(inside) if language == "console" else []:
            words = shlex.split(command, comments=True)
            if words[0] != "flowgauge":
                continue
            ran = subprocess.run([program, *words[1:]], cwd=folder, capture_output=True, text=True)
            printed = [plain(line) for line in ran.stdout.splitlines()]
            seen.update(printed)
            if ran.returncode != 0:
                yield f"{page}: {command}: exit status {ran.returncode}: {ran.stderr.strip()}"
            elif below and [plain(line) for line in below if line] != [line for line in printed if line]:
                yield f"{page}: {command}: prints\n" + ran.stdout.rstrip()
    for table in folder.glob("*.csv"):
        seen.update(plain(line) for line in table.read_text(encoding="utf-8").splitlines())


def text_faults(page, seen):
    text = (ROOT / page).read_text(encoding="utf-8")
    for block in BLOCK.finditer(text):
        for line in block.group(2).splitlines() if block.group(1) == "text" else []:
            if line.strip() not in ("", "…") and plain(line) not in seen:
                yield f"{page}: no command prints: {line}"


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    program, faults, seen = os.path.abspath(sys.argv[1]), [], set()
    for page in PAGES:
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            for file in (ROOT / "models/moons").iterdir():
                shutil.copy(file, folder)
            faults += run_page(page, program, folder, seen)
    faults += [fault for page in PAGES for fault in text_faults(page, seen)]
    print("\n".join(faults), file=sys.stderr, end="\n" if faults else "")
    print(f"{len(PAGES)} pages were checked")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
