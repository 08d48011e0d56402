#!/usr/bin/env python3
"""A preprocessor of mdBook: what becomes of links from docs/ to other files of the repository.

mdBook copies only docs/. With `repository = "URL"` under `[preprocessor.outside]` of book.toml such
links lead to URL/path; without it the link becomes its text and the path.
"""

import json
import posixpath
import re
import sys

LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!\w+://)([^)\s#]*)(#[^)\s]*)?\)")
FENCE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)


def rewrite(text, page, repository):
    """The text of one page with its links to the outside replaced; code blocks stay."""

    def link(match):
        image, words, file, heading = match.groups()
        path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), file))
        if not file or path.startswith("docs/"):
            return match.group(0)
        if repository:
            return f"{image}[{words}]({repository.rstrip('/')}/{path}{heading or ''})"
        return words if words.strip("`") == path else f"{words} (`{path}`)"

    parts, at = [], 0
    for fence in FENCE.finditer(text):
        parts += [LINK.sub(link, text[at : fence.start()]), fence.group(0)]
        at = fence.end()
    return "".join([*parts, LINK.sub(link, text[at:])])


def visit(items, repository):
    for item in items:
        chapter = item.get("Chapter") if isinstance(item, dict) else None
        if chapter:
            page = chapter.get("source_path") or chapter.get("path") or ""
            chapter["content"] = rewrite(chapter["content"], page, repository)
            visit(chapter.get("sub_items", []), repository)


def main():
    if len(sys.argv) > 1 and sys.argv[1] == "supports":
        sys.exit(0)
    context, book = json.load(sys.stdin)
    options = context["config"].get("preprocessor", {}).get("outside", {})
    visit(book.get("items", book.get("sections", [])), options.get("repository"))
    json.dump(book, sys.stdout)


if __name__ == "__main__":
    main()
