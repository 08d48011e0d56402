#!/usr/bin/env python3
"""Checks that the documentation is a whole book.

    python scripts/check_book.py

- docs/SUMMARY.md, the table of contents of mdBook, names every page of docs/ once and no other.
- docs/README.md, the index of the pages where they are, names every page too.
- Every link and every anchor of the pages and of the README leads somewhere.

If mdbook is installed, the book is also built, in a temporary folder. Needs only Python.
"""

import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
LINK = re.compile(r"\]\(([^)\s]+)\)")
FENCE = re.compile(r"^ *```.*?^ *```$", re.DOTALL | re.MULTILINE)


def anchors(page):
    """The headings of a page as links name them, and its named elements."""
    text = page.read_text(encoding="utf-8")
    found = set(re.findall(r'id="([^"]+)"', text))
    for heading in re.findall(r"^#+ (.+)$", FENCE.sub("", text), re.MULTILINE):
        kept = "".join(c for c in heading.strip().lower() if c.isalnum() or c in " -_")
        found.add(kept.replace(" ", "-"))
    return found


def links(page):
    """The links of a page, without those in code blocks."""
    return LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8")))


def link_faults(page):
    for link in links(page):
        file, _, heading = link.partition("#")
        if "://" in file:
            continue
        target = (page.parent / file).resolve() if file else page
        if not target.exists():
            yield f"{page.relative_to(ROOT)}: {link}: no such file"
        elif heading and target.suffix == ".md" and heading not in anchors(target):
            yield f"{page.relative_to(ROOT)}: {link}: no such heading"


def contents_faults():
    pages = {page.name for page in DOCS.glob("*.md")} - {"SUMMARY.md"}
    for index, wanted in [("SUMMARY.md", pages), ("README.md", pages - {"README.md"})]:
        named = [link.partition("#")[0] for link in links(DOCS / index)]
        yield from (f"docs/{index}: {page} is missing" for page in sorted(wanted - set(named)))
        if index == "SUMMARY.md":
            yield from (f"docs/{index}: {page} is named twice" for page in sorted({p for p in named if named.count(p) > 1}))


def build_faults():
    if shutil.which("mdbook") is None:
        return
    with tempfile.TemporaryDirectory() as folder:
        built = subprocess.run(["mdbook", "build", str(ROOT), "-d", folder], capture_output=True, text=True)
        said = built.stdout + built.stderr
        # A preprocessor that was made for another version of mdBook is warned of, and works.
        if built.returncode != 0 or "ERROR" in said:
            yield "mdbook: " + said.strip()


def main():
    pages = sorted(DOCS.glob("*.md")) + [ROOT / "README.md"]
    faults = [*contents_faults(), *(fault for page in pages for fault in link_faults(page)), *build_faults()]
    print("\n".join(faults), file=sys.stderr, end="\n" if faults else "")
    print(f"{len(pages)} pages were checked")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
