#!/usr/bin/env python3
"""Checks that the reference pages have every key of a card, a config and a file of claims.

    python scripts/check_reference.py FLOWGAUGE             # exits 1 if a page lacks a key or is stale
    python scripts/check_reference.py FLOWGAUGE --write     # writes the tables again

FLOWGAUGE is the program; its `schema` is what the pages must agree with. On a page the tables stand
between two comments, and all other text is written by hand:

    <!-- keys card/NetworkSpec -->       the keys of one definition
    <!-- values card/Prediction -->      the words of an enumeration, or the forms of a value
    <!-- kinds config/Solver -->         every kind of a family, each with its keys
    <!-- kinds config/Sampler without SamplerSchedule -->   the same, without keys that another table has
    <!-- end -->

A definition whose keys are on no page is an error, and so is a key that no table has. Needs only
Python.
"""

import argparse
import json
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGES = {
    "docs/card-reference.md": ["card"],
    "docs/config-reference.md": ["config", "claims"],
}
BLOCK = re.compile(r"<!-- (keys|values|kinds) (\w+)/(\w+)(?: without (\w+))? -->\n(.*?)<!-- end -->", re.DOTALL)
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def anchor(heading):
    """A heading as links name it."""
    text = heading.strip().lower()
    kept = "".join(c for c in text if c.isalnum() or c in " -_")
    return kept.replace(" ", "-")


def one_line(text):
    """A description as the cell of a table: all of its paragraphs on one line."""
    text = re.sub(r"\[(`[^`]+`)\]", r"\1", text or "")
    text = " ".join(text.split())
    return text.replace("\\[", "[").replace("\\]", "]").replace("|", "\\|")


def split_default(text):
    """The meaning of a key, and what the description says of its default."""
    found = re.search(r" ?\(default: ([^()]*)\)", text)
    if found:
        return text[: found.start()] + text[found.end() :], found.group(1)
    found = re.search(r" ?(?:Default:|The default is) (.+?)\.(?= |$)", text)
    if found and not found.group(1).startswith("see "):
        return (text[: found.start()] + text[found.end() :]).strip(), found.group(1)
    return text, None


class Schema:
    """One schema, and where its definitions stand on a page."""

    def __init__(self, program, kind):
        printed = subprocess.run([program, "schema", kind], check=True, capture_output=True, text=True)
        root = json.loads(printed.stdout)
        self.definitions = root.pop("$defs", {})
        if "properties" in root:
            self.definitions[root["title"]] = root
            self.roots = [root["title"]]
        else:
            self.roots = [target(part) for part in root["anyOf"]]
        self.kind = kind
        self.places = {}

    def definition(self, name):
        found = self.definitions[name]
        inner = target(found)
        return self.definition(inner) | {"description": found.get("description", "")} if inner else found

    def own_properties(self, name):
        return self.definition(name).get("properties", {})

    def reachable(self):
        """Every definition that a file can use, from its root."""
        found, left = [], list(self.roots)
        while left:
            name = left.pop()
            if name not in found:
                found.append(name)
                left += re.findall(r'"#/\$defs/(\w+)"', json.dumps(self.definitions[name]))
        return found

    def kinds(self, name):
        """The kinds of a family or of a tagged union: names, definition of the keys, schema."""
        found = self.definition(name)
        for part in found.get("oneOf", []) + found.get("anyOf", []):
            keys = part.get("properties", {})
            if "kind" in keys:
                yield keys["kind"]["enum"], {k: v for k, v in keys.items() if k != "kind"}, part, None
            elif keys:
                names = list(keys)
                inner = target(keys[names[0]])
                schema = self.definition(inner) if inner else keys[names[0]]
                yield names, schema.get("properties", {}), schema, inner

    def value(self, schema, required=False):
        """What a key takes, in words."""
        name = target(schema)
        if name in self.places:
            return f"[{self.places[name][0]}](#{anchor(self.places[name][0])})"
        if name:
            return self.value(self.definition(name))
        if "const" in schema:
            return f"`{schema['const']}`"
        if "enum" in schema:
            return words([f"`{n}`" for n in without_underscores(schema["enum"])])
        if "oneOf" in schema:
            return words([f"`{part['enum'][0] if 'enum' in part else part['const']}`" for part in schema["oneOf"]])
        if "anyOf" in schema:
            parts = [self.value(part) for part in schema["anyOf"] if part.get("type") != "null"]
            parts = list(dict.fromkeys(part for part in parts if part))
            if parts[1:] == ["a list of " + plural(parts[0])] or parts[1:] == ["a list of " + parts[0]]:
                return parts[0] + ", or a list of these"
            return words(parts)
        if schema.get("pattern", "").endswith("npy$"):
            return "the name of a `.npy` file"
        if "pattern" in schema:
            return ""
        return self.plain_value(schema)

    def plain_value(self, schema):
        kinds = schema.get("type", "any value")
        kind = next(k for k in kinds if k != "null") if isinstance(kinds, list) else kinds
        if kind == "array":
            inner = self.value(schema["items"])
            if schema.get("maxItems"):
                return "[" + ", ".join([inner.removeprefix("a ")] * schema["maxItems"]) + "]"
            return "a list of " + plural(inner)
        if kind == "object" and schema.get("maxProperties") == 1:
            name, inner = next(iter(schema["properties"].items()))
            return f"`{{{name}: …}}` with {self.value(inner)}"
        if kind == "object":
            inner = schema.get("additionalProperties")
            return "names, each with " + self.value(inner) if isinstance(inner, dict) else "keys and values"
        known = {"integer": "a whole number", "number": "a number", "string": "text", "boolean": "`true` or `false`"}
        return known[kind]

    def table(self, properties, required):
        rows = ["| key | value | default | meaning |", "|---|---|---|---|"]
        for name, schema in properties.items():
            meaning, default = split_default(one_line(schema.get("description")))
            if name in required:
                default = "required"
            elif default is None and "default" in schema:
                default = json.dumps(schema["default"]).replace('"', "")
            rows.append(f"| `{name}` | {self.value(schema)} | {default or 'none'} | {meaning} |")
        return rows

    def render(self, form, name, without):
        """The lines of one block."""
        if form == "keys":
            schema = self.definition(name)
            return self.table(schema["properties"], schema.get("required", []))
        if form == "values":
            return self.value_table(name)
        left_out = self.own_properties(without) if without else {}
        lines = []
        for names, keys, schema, _ in self.kinds(name):
            others = without_underscores(names)[1:]
            also = f" (also {words([f'`{n}`' for n in others])})" if others else ""
            lines += ["", f"**`{names[0]}`**{also}. {one_line(schema.get('description'))}".rstrip(), ""]
            keys = {k: v for k, v in keys.items() if k not in left_out}
            if keys:
                lines += self.table(keys, schema.get("required", []))
        return lines[1:]

    def value_table(self, name):
        rows = ["| value | also | meaning |", "|---|---|---|"]
        for part in self.definition(name)["oneOf"]:
            names = part["enum"] if "enum" in part else [part["const"]]
            others = ", ".join(f"`{n}`" for n in without_underscores(names)[1:])
            rows.append(f"| `{names[0]}` | {others} | {one_line(part.get('description'))} |")
        return rows


def target(schema):
    """The definition that a schema refers to, also if it may be absent."""
    if not isinstance(schema, dict):
        return None
    if "$ref" in schema:
        return schema["$ref"].rsplit("/", 1)[1]
    parts = [part for part in schema.get("anyOf", []) if part.get("type") != "null"]
    return target(parts[0]) if len(parts) == 1 else None


def without_underscores(names):
    """Names, without those that differ from another one only by `_` in the place of `-`."""
    return [n for n in names if "_" not in n or n.replace("_", "-") not in names]


def plural(phrase):
    if "](#" in phrase or "`" in phrase:
        return phrase
    return {"text": "texts"}.get(phrase, phrase.removeprefix("a ") + "s")


def words(parts):
    return " or ".join(filter(None, [", ".join(parts[:-1]), parts[-1]])) if parts else ""


def check_page(page, schemas, write):
    """Faults of one page; with `write`, its tables are written."""
    text = (ROOT / page).read_text(encoding="utf-8")
    for match in BLOCK.finditer(text):
        form, kind, name, _, _ = match.groups()
        schema = schemas[kind]
        if name not in schema.definitions:
            return [f"{page}: {kind}/{name} is no definition of `flowgauge schema {kind}`"]
        before = [h.group(1) for h in HEADING.finditer(text, 0, match.start())]
        schema.places[name] = (before[-1], form)
        if form == "kinds":
            schema.places |= {inner: (before[-1], form) for *_, inner in schema.kinds(name) if inner}

    def block(match):
        form, kind, name, without, _ = match.groups()
        opening = match.group(0).split("\n", 1)[0]
        return "\n".join([opening, *schemas[kind].render(form, name, without), "<!-- end -->"])

    wanted = BLOCK.sub(block, text)
    faults = []
    for kind in PAGES[page]:
        for name in schemas[kind].reachable():
            schema = schemas[kind].definition(name)
            if "properties" in schema and name not in schemas[kind].places:
                keys = ", ".join(schema["properties"])
                faults.append(f"{page}: no table has {kind}/{name} with its keys {keys}")
    if wanted != text and write:
        (ROOT / page).write_text(wanted, encoding="utf-8")
    elif wanted != text:
        old, new = text.splitlines(), wanted.splitlines()
        at = next((i for i, (a, b) in enumerate(zip(old, new)) if a != b), min(len(old), len(new)))
        faults.append(f"{page}:{at + 1}: the tables are stale; `python scripts/check_reference.py FLOWGAUGE --write`")
    return faults


def undefined_metrics(program):
    """The statistics that `flowgauge list` names and docs/metrics-reference.md does not define."""
    listed = subprocess.run([program, "list"], check=True, capture_output=True, text=True).stdout
    metrics = re.search(r"^metrics\n((?:  .*\n)+)", listed, re.MULTILINE).group(1)
    text = (ROOT / "docs/metrics-reference.md").read_text(encoding="utf-8")
    names = re.findall(r"^  (\S+)", metrics, re.MULTILINE)
    defined = set()
    for cell in re.findall(r"^\| ([^|]*) \|", text, re.MULTILINE):
        defined.update(re.findall(r"`([^`]+)`", cell))
    return [f"docs/metrics-reference.md: no `{name}`" for name in names if name not in defined]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("program", help="the program flowgauge")
    parser.add_argument("--write", action="store_true", help="write the tables")
    given = parser.parse_args()
    faults = []
    for page, kinds in PAGES.items():
        faults += check_page(page, {kind: Schema(given.program, kind) for kind in kinds}, given.write)
    faults += undefined_metrics(given.program)
    print("\n".join(faults), file=sys.stderr, end="\n" if faults else "")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
