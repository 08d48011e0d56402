#!/usr/bin/env python3
"""Checks every card of docs/families.md against `flowgauge schema card` and with the program.

    python scripts/check_families.py FLOWGAUGE

Each YAML block of the page that names a `network` is a whole card. Its networks are not there, so the
program must refuse it for the missing file and for nothing else: all other faults of a card are
reported first. Needs jsonschema and PyYAML for the schema; without them the program alone checks.
"""

import json
import pathlib
import re
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs/families.md"


def cards(text):
    """The cards of the page, with the line that each begins on."""
    for found in re.finditer(r"^```yaml\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        if re.search(r"^network:", found.group(1), re.MULTILINE):
            yield text.count("\n", 0, found.start()) + 2, found.group(1)


def schema_faults(program, text):
    """What the schema says of one card; nothing where its packages are not installed."""
    try:
        import jsonschema
        import yaml
    except ImportError:
        return []
    printed = subprocess.run([program, "schema", "card"], check=True, capture_output=True, text=True)
    # The program takes the word `null` as a key like any other.
    card = yaml.safe_load(re.sub(r"\bnull:", '"null":', text))
    validator = jsonschema.Draft202012Validator(json.loads(printed.stdout))
    return [f"{'.'.join(map(str, fault.path))}: {fault.message[:200]}" for fault in validator.iter_errors(card)]


def program_faults(program, text):
    """What the program says of one card, but for the file that is not there."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "card.yaml")
        path.write_text(text, encoding="utf-8")
        said = subprocess.run([program, "inspect", "card.yaml"], cwd=folder, capture_output=True, text=True)
    lines = [line for line in said.stderr.splitlines() if line.strip()]
    is_missing_file = len(lines) == 1 and " network.file: " in lines[0]
    return [] if is_missing_file else lines or ["the program accepts a card whose network is not there"]


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    program, found, failed = str(pathlib.Path(sys.argv[1]).resolve()), 0, False
    for line, text in cards(PAGE.read_text(encoding="utf-8")):
        found += 1
        for fault in schema_faults(program, text) + program_faults(program, text):
            failed = True
            print(f"docs/families.md:{line}: {fault}", file=sys.stderr)
    if found < 12:
        failed = True
        print(f"docs/families.md: only {found} cards were found", file=sys.stderr)
    print(f"{found} cards were checked")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
