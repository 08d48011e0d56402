"""Looks at the report's page as a reader does, in Chromium without a network: see `scripts/test-page`.

Every page is copied alone into an empty folder first, as if it had been sent by mail. The hostile page is the first
one with names that would be live in HTML, Markdown, LaTeX or a spreadsheet.
"""

import argparse
import csv
import html
import io
import math
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Locator, Page, TimeoutError, sync_playwright

ROOT = Path(__file__).resolve().parent.parent
HOSTILE = [
    "<img src=x onerror=alert(1)>",
    "=cmd()|' /C calc'!A0",
    "$\\input{x}$ & 50% #1 ~ ^",
    "[x](http://b) `c` *d* _e_ a|b @user www.z.org",
    "</script><script>alert(1)</script>",
    "[0] -- \"q\", 'r'",
    "@SUM(A1), probes 10",
    "@SUM(A1), probes 9",
]
# `MODELS` is the folder of models, `DATA` a file with a hostile name.
RUNS = {
    "digits": """name: page
likelihood:
  - {model: MODELS/digits/card.yaml, data: MODELS/digits/heldout.npy, samples: 12, solvers: [{heun: {steps: 4}}],
     estimators: [exact, {hutchinson: {probes: 2}}, {learned: {head: stad}}], budget: {samples: 4}}
""",
    "moons": """# <script>alert(1)</script> </code><img src=x onerror=alert(1)>
name: page
likelihood:
  - {model: MODELS/moons/card.yaml, data: DATA, samples: 24, solvers: [{heun: {steps: 8}}],
     estimators: [exact, {hutchinson: {probes: 2}}, {hutch++: {matvecs: 3}}, {learned: {head: stad}}]}
samples:
  - {model: MODELS/moons/card.yaml, samplers: [{heun: {steps: 8}}, {euler: {steps: 4}}], count: 64,
     reference: MODELS/moons/heldout.npy, metrics: [frechet, kernel]}
""",
}
HOSTILE_FILE = "=cmd() $input{x}$ [a](b) `c` <img src=x onerror=alert(1)>.npy"
ABSENT = "–"
failures: list[str] = []


def hold(what: str, holds: bool, shown: object = "") -> None:
    if not holds:
        failures.append(what)
    print(f"{'ok    ' if holds else 'FAILED'} {what}{'' if holds else f': {shown}'}", flush=True)


@dataclass
class Report:
    """A page alone in a folder, and the folder of the report with the files beside it."""

    name: str
    page: Path
    files: Path


class Visit:
    """A page in a browser, and what it did that no page should do."""

    def __init__(self, browser, report: Report, width=1280, theme="light", script=True, clipboard=True):
        self.context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=theme, java_script_enabled=script, offline=True,
            reduced_motion="reduce", accept_downloads=True, permissions=["clipboard-read", "clipboard-write"],
        )
        if not clipboard:
            self.context.add_init_script("Object.defineProperty(navigator, 'clipboard', {value: undefined})")
        self.page: Page = self.context.new_page()
        self.wrong: list[str] = []
        self.page.on("console", lambda message: message.type in ("error", "warning") and self.wrong.append(message.text))
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.wrong.append(f"dialog {dialog.message}"), dialog.dismiss()))
        self.page.on("request", lambda request: self.request(request.url))
        self.own = report.page.as_uri()
        self.page.goto(self.own)

    def request(self, url: str) -> None:
        if url.split("#")[0] != self.own and not url.startswith(("data:", "blob:")):
            self.wrong.append(f"request of {url}")

    def __enter__(self) -> "Visit":
        return self

    def __exit__(self, *_) -> None:
        self.context.close()


# ---- What a table says, read from the page without its script

READ_TABLES = """() => [...document.querySelectorAll("table.data")].map((table) => {
  const text = (cell) => {
    const copy = cell.cloneNode(true);
    for (const kind of copy.querySelectorAll(".kind")) kind.textContent = ` (${kind.textContent})`;
    return copy.textContent.replace(/\\s+/g, " ").trim();
  };
  const cells = (row) => [...row.cells].map((cell) => ({
    text: text(cell), v: cell.dataset.v ?? null, e: cell.dataset.e ?? null, number: cell.classList.contains("n"),
    key: cell.dataset.key, unit: cell.dataset.unit ?? "", off: cell.hasAttribute("data-off"), span: cell.colSpan,
  }));
  return {caption: table.dataset.caption, name: table.dataset.name, headings: cells(table.tHead.rows[0]),
          rows: [...table.tBodies[0].rows].map(cells)};
})"""


def tables_of(browser, report: Report) -> list[dict]:
    with Visit(browser, report, script=False) as visit:
        tables = visit.page.evaluate(READ_TABLES)
    for table in tables:
        # A cell over several columns stands in the first of those that are shown.
        table["grid"] = [[(cell, at == 0) for cell in row for at in range(cell["span"])] for row in table["rows"]]
    return tables


def number(cell: dict) -> float:
    return float(cell["v"]) if cell["v"] else math.nan


def shown(table: dict) -> tuple[list[dict], list[list[dict | None]]]:
    """The columns that are shown at first: headings, and cells in full width."""
    columns = [at for at, heading in enumerate(table["headings"]) if not heading["off"]]
    rows = []
    for row in table["grid"]:
        cells = [row[at][0] for at in columns]
        rows.append([None if i and cell is cells[i - 1] else cell for i, cell in enumerate(cells)])
    return [table["headings"][at] for at in columns], rows


# ---- Checks: each takes a browser, a report and its tables


def sorts(browser, report: Report, tables: list[dict]) -> None:
    with Visit(browser, report) as visit:
        page = visit.page
        page.evaluate("document.querySelectorAll('details').forEach((d) => (d.open = true))")
        page.evaluate("document.querySelectorAll('table.data tbody').forEach((b) => [...b.rows].forEach((r, i) => (r.id = `r${i}`)))")
        for at, table in enumerate(tables):
            if len(table["rows"]) < 2:
                continue
            element = page.locator("table.data").nth(at)
            order = lambda: element.evaluate("(t) => [...t.tBodies[0].rows].map((row) => Number(row.id.slice(1)))")
            came = list(range(len(table["rows"])))
            for column, heading in enumerate(table["headings"]):
                if heading["off"]:
                    continue
                head = element.locator("thead th").nth(column)
                cells = [row[column][0] for row in table["grid"]]
                keys = [number(cell) if heading["number"] else cell["text"] for cell in cells]
                missing = [i for i in came if keys[i] in ("", ABSENT) or keys[i] != keys[i]]
                present = [i for i in came if i not in missing]
                seen = []
                for expected in ("ascending", "descending", None):
                    head.locator("button").press("Enter")
                    seen.append(order())
                    if head.get_attribute("aria-sort") != expected:
                        hold(f"aria-sort of {heading['text']} in {table['caption']}", False, head.get_attribute("aria-sort"))
                if heading["number"]:
                    right = [sorted(present, key=lambda i: keys[i]) + missing, sorted(present, key=lambda i: -keys[i]) + missing]
                else:
                    # How texts compare is the browser's; that both directions agree and digits count as numbers is ours.
                    texts = lambda ids: [keys[i] for i in ids[: len(present)]]
                    right = [seen[0], seen[1]] if texts(seen[0]) == texts(seen[1])[::-1] else [[], []]
                    right = right if seen[0][len(present) :] == missing and sorted(seen[0]) == came else [[], []]
                if seen != [*right, came]:
                    hold(f"order by {heading['text']} in {table['caption']}", False, f"{seen} of {keys}")
                texts_up = [str(keys[i]) for i in seen[0]]
                if set(HOSTILE[-2:]) <= set(texts_up) and texts_up.index(HOSTILE[-1]) > texts_up.index(HOSTILE[-2]):
                    hold("9 before 10", False, texts_up)
        changed = page.evaluate("document.querySelectorAll('[aria-sort]').length")
        hold(f"{report.name}: {len(tables)} tables were sorted by each of their columns", changed == 0, changed)


def filters(browser, report: Report, tables: list[dict]) -> None:
    with Visit(browser, report) as visit:
        for table, tools, element in with_tools(visit.page, tables):
            wanted = table["rows"][-1][0]["text"][:14]
            headings, rows = shown(table)
            matching = [i for i, row in enumerate(rows) if wanted.lower() in "\n".join(c["text"] for c in row if c).lower()]
            tools.get_by_role("searchbox").fill(wanted)
            seen = element.evaluate("(t) => [...t.tBodies[0].rows].flatMap((row, i) => (row.checkVisibility() ? [i] : []))")
            said = tools.get_by_role("status").inner_text()
            fine = seen == matching and said == f"{len(matching)} of {len(rows)} rows"
            hold(f"{report.name}: {table['caption']}: filter", fine, f"{wanted}: {seen}, not {matching}; {said}")
            tools.get_by_role("searchbox").fill("")
            hold("    which is undone", tools.get_by_role("status").inner_text() == "")
            break


def with_tools(page: Page, tables: list[dict]):
    """The tables with two rows or more, each with its tools and its element, in sight."""
    page.evaluate("document.querySelectorAll('details:not(.columns)').forEach((d) => (d.open = true))")
    hold("tools are above tables with two rows or more", page.locator(".tools").count() == sum(len(t["rows"]) > 1 for t in tables))
    for at, table in enumerate(tables):
        if len(table["rows"]) > 1:
            element = page.locator("table.data").nth(at)
            yield table, element.locator("xpath=ancestor::*[contains(@class,'scroll')][1]/preceding-sibling::*[1]"), element


def columns(browser, report: Report, tables: list[dict]) -> None:
    with Visit(browser, report) as visit:
        for table, tools, element in with_tools(visit.page, tables):
            menu = tools.locator("details.columns")
            menu.locator("summary").press("Enter")
            boxes = menu.get_by_role("checkbox")
            is_on = lambda: [boxes.nth(i).is_checked() for i in range(boxes.count())]
            heads = lambda: element.evaluate("(t) => [...t.tHead.rows[0].cells].slice(1).map((cell) => cell.checkVisibility())")
            widths = lambda: element.evaluate(
                "(t) => [...t.rows].map((row) => [...row.cells].reduce((n, c) => n + (c.checkVisibility() ? c.colSpan : 0), 0))")
            hold(f"{report.name}: {table['caption']}: columns", is_on() == heads() == [not h["off"] for h in table["headings"][1:]])
            uneven = []
            for i in range(boxes.count()):
                boxes.nth(i).set_checked(not boxes.nth(i).is_checked())
                uneven += [widths()] if set(widths()) != {1 + sum(is_on())} else []
            hold("    are hidden and shown", is_on() == heads() == [h["off"] for h in table["headings"][1:]])
            hold("    and all rows are as wide", not uneven, uneven)
            visit.page.keyboard.press("Escape")
            hold("    Escape closes the menu", menu.get_attribute("open") is None)


def copies(browser, report: Report, tables: list[dict]) -> None:
    for clipboard in (True, False):
        with Visit(browser, report, clipboard=clipboard) as visit:
            how = "" if clipboard else " without the clipboard's interface"
            for table, tools, _ in with_tools(visit.page, tables):
                for form, reader in {"CSV": read_csv, "Markdown": read_markdown, "LaTeX": read_latex}.items():
                    tools.get_by_role("button", name=f"Copy as {form}", exact=True).click()
                    try:
                        tools.get_by_text(f"Copied as {form}").wait_for(timeout=3000)
                        problems = reader(pasted(visit.page), table)
                    except Exception as error:  # A browser that refuses, or a text that cannot be read.
                        problems = [repr(error)]
                    hold(f"{report.name}: {table['caption']}: copied as {form}{how}", not problems, problems[:3])
                if not clipboard:
                    break


def pasted(page: Page) -> str:
    """What a reader gets who pastes."""
    page.evaluate("document.body.append(Object.assign(document.createElement('textarea'), {id: 'paste'}))")
    page.locator("#paste").focus()
    page.keyboard.press("Control+V")
    text = page.locator("#paste").input_value()
    page.evaluate("document.getElementById('paste').remove()")
    return text


def compared(found: list, expected: list) -> list:
    return [f"{a!r}, not {b!r}" for a, b in zip(found, expected) if a != b] + (
        [f"{len(found)} fields, not {len(expected)}"] if len(found) != len(expected) else [])


def read_csv(text: str, table: dict) -> list:
    headings, rows = shown(table)
    found = list(csv.reader(io.StringIO(text)))
    expected: list[list[str]] = [[] for _ in range(len(rows) + 1)]
    for at, heading in enumerate(headings):
        errors = any(row[at] and row[at]["e"] for row in rows)
        unit = f" [{heading['unit']}]" if heading["unit"] and heading["unit"] != heading["key"] else ""
        for suffix in ["", "_stderr"] if errors else [""]:
            expected[0].append(inert_field(heading["key"] + suffix + unit))
            for line, row in zip(expected[1:], rows):
                cell = row[at] or {"text": "", "v": None, "e": None}
                text_of = "" if cell["text"] == ABSENT else inert_field(cell["text"])
                line.append((cell["v"] if cell["v"] is not None else text_of) if suffix == "" else cell["e"] or "")
    live = [field for line in found for field in line if re.match(r"[=+@]|-(?![\d.]+(e[-+]?\d+)?$|inf$)", field)]
    return live + [problem for pair in zip(found, expected, strict=True) for problem in compared(*pair)]


def inert_field(text: str) -> str:
    return "'" + text if text[:1] in "=+-@" and text else text


def read_markdown(text: str, table: dict) -> list:
    headings, rows = shown(table)
    lines = text.splitlines()
    if unescaped_markdown(lines[0]) != table["caption"] or lines[1] != "":
        return lines[:2]
    found = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[2:]]
    problems = compared(found.pop(1), ["--:" if heading["number"] else "---" for heading in headings])
    for line, cells in zip(found, [headings, *rows], strict=True):
        problems += compared([unescaped_markdown(cell) for cell in line], [cell["text"] if cell else "" for cell in cells])
        bare = re.sub(r"&#?\w+;|\\.", "", " ".join(line))
        problems += re.findall(r"[<>`*_\[\]|@#$&]|www\.|http:", bare)
    return problems


def unescaped_markdown(text: str) -> str:
    return re.sub(r"\\([!-/:-@[-`{-~])|(&#\d+;)", lambda m: m[1] or html.unescape(m[2]), text)


def read_latex(text: str, table: dict) -> list:
    headings, rows = shown(table)
    parts = re.split(r"\\(?:toprule|midrule|bottomrule)\n", text)
    problems = compared(re.findall(r"\\begin\{tabular\}\{@\{\}(\w*)@\{\}\}", text), ["".join("lr"[h["number"]] for h in headings)])
    problems += [] if f"\\label{{tab:{table['name']}}}" in text else ["label"]
    lines = [line.strip().removesuffix(" \\\\") for part in parts[1:3] for line in part.strip().splitlines()]
    for line, cells in zip(lines, [headings, *rows], strict=True):
        found = re.split(r" (?<!\\)& ", f" {line} ".replace("  ", " \0 "))
        for tex, cell in zip(found, cells, strict=True):
            problems += latex_problems(tex.strip(" \0"), cell["text"] if cell else "")
    return problems


LATEX_COMMANDS = {"backslash": "\\", "asciitilde": "~", "asciicircum": "^", "less": "<", "greater": ">", "bar": "|", "asciigrave": "`"}


def latex_problems(tex: str, text: str) -> list:
    """Whether a cell typesets the text, and nothing in it is live."""
    simple = re.fullmatch(r"(−?)([\d.]+) ± ([\d.]+)", text)
    if simple:
        return compared([tex], [f"${'-' if simple[1] else ''}{simple[2]} \\pm {simple[3]}$"])
    plain = re.sub(r"\\text(\w+)\{\}", lambda m: f"\0{list(LATEX_COMMANDS).index(m[1])}\0", tex)
    plain = re.sub(r"\\([&%$#_{}])", lambda m: f"\1{ord(m[1])}\1", plain)
    plain = re.sub(r"\^\{([\d-]+)\}", lambda m: m[1].translate(str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")), plain)
    signs = {"pm": "± ", "times": "×", "cdot": "·", "sigma": "σ", None: " "}
    plain = re.sub(r"\\(?:(pm|times|cdot|sigma) ?| )", lambda m: signs[m[1]], plain)
    plain = plain.replace("{,}", ",").replace("{-}", "\2").replace("{[}", "[").replace("{*}", "*").replace("--", ABSENT)
    plain = re.sub(r"\$([^$]*)\$", lambda m: m[1].replace("-", "−"), plain).replace("\2", "-")
    live = re.findall(r"[\\{}$&#%_^~]", plain)
    plain = re.sub(r"\0(\d+)\0", lambda m: list(LATEX_COMMANDS.values())[int(m[1])], plain)
    plain = re.sub("\1(\\d+)\1", lambda m: chr(int(m[1])), plain)
    squeeze = lambda s: re.sub(r"\s", "", s)
    same = re.fullmatch("".join("." if c == "?" else re.escape(c) for c in squeeze(plain)), squeeze(text))
    return live + ([] if same else [f"{tex!r} for {text!r}"])


def downloads(browser, report: Report, tables: list[dict]) -> None:
    with Visit(browser, report) as visit:
        page = visit.page
        embedded = page.evaluate("Object.keys(JSON.parse(document.getElementById('files').textContent))")
        links = page.evaluate("[...document.querySelectorAll('a[data-file]')].map((a) => a.dataset.file)")
        hold(f"{report.name}: files are in the page", bool(embedded) and set(embedded) <= set(links), set(embedded) - set(links))
        for name in sorted(set(embedded)):
            saved, content = downloaded(page, page.locator(f'a[data-file="{name}"]').first)
            hold(f"    {name}", content == (report.files / name).read_bytes() and saved == Path(name).name, saved)
        figures = page.locator("figure.plot:has(.drawing svg)")
        for at in range(min(3, figures.count())):
            figure = figures.nth(at)
            size = figure.locator(".drawing svg").evaluate("(svg) => [2 * svg.width.baseVal.value, 2 * svg.height.baseVal.value]")
            for kind in ("SVG", "PNG"):
                saved, content = downloaded(page, figure.get_by_role("button", name=f"Save as {kind}"))
                name = f"{figure.get_attribute('id')}.{kind.lower()}"
                if kind == "SVG":
                    drawing = ElementTree.fromstring(content or b"<nothing/>")
                    fine = drawing.tag == "{http://www.w3.org/2000/svg}svg" and drawing.get("role") == "img"
                    fine &= not drawing.findall(".//*[@data-tip]") and len(drawing.findall(".//{*}text")) > 0
                else:
                    fine = content[:4] == b"\x89PNG" and list(struct.unpack(">II", content[16:24])) == size and len(content) > 5000
                hold(f"    {name}", fine and saved == name, (saved, content[:60]))


def downloaded(page: Page, link: Locator) -> tuple[str, bytes]:
    """The name and the content of what a click saves. Of many downloads in a row, Chromium loses one now and then."""
    for _ in range(3):
        try:
            with page.expect_download(timeout=5000) as download:
                link.click()
            return download.value.suggested_filename, Path(download.value.path()).read_bytes()
        except TimeoutError:
            continue
    return "nothing", b""


def tips(browser, report: Report, tables: list[dict]) -> None:
    with Visit(browser, report) as visit:
        page = visit.page
        tooltip = page.locator(".tooltip")
        drawings = page.locator(".drawing > svg:has(.tip, .series)")
        hold(f"{report.name}: figures have values", drawings.count() > 0)
        for at in range(min(6, drawings.count())):
            drawings.nth(at).dispatch_event("pointerenter")  # What gives its values to a cloud of points.
            marks = drawings.nth(at).locator("[data-tip]")
            values = marks.evaluate_all("(marks) => marks.map((mark) => mark.dataset.tip)")
            marks.first.scroll_into_view_if_needed()
            box = marks.first.bounding_box()
            centre = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
            page.mouse.move(*centre)
            under = page.evaluate("([x, y]) => document.elementFromPoint(x, y).dataset.tip", centre)
            place = tooltip.bounding_box()
            inside = place["x"] >= 0 and place["x"] + place["width"] <= 1280 and place["y"] >= 0
            by_mouse = (tooltip.inner_text(), under in values, inside)
            page.mouse.move(1, 1)
            left = tooltip.inner_text()
            by_keys = []
            drawings.nth(at).focus()
            for key in ("Home", "ArrowRight", "ArrowLeft", "End", "Escape"):
                page.keyboard.press(key)
                by_keys.append(tooltip.text_content())
            expected = [values[0], values[min(1, len(values) - 1)], values[0], values[-1], ""]
            name = drawings.nth(at).evaluate("(svg) => svg.closest('figure').id")
            hold(f"{report.name}: {name}: values by mouse", by_mouse == (under, True, True) and left == "", (by_mouse, left))
            hold(f"{report.name}: {name}: values by keys", by_keys == expected, (by_keys, expected))


# The worst contrast of texts on the page, and of marks in drawings: [ratio, what].
CONTRASTS = """() => {
  const context = Object.assign(document.createElement("canvas"), {width: 1, height: 1}).getContext("2d", {willReadFrequently: true});
  const rgba = (colour) => {
    context.clearRect(0, 0, 1, 1);
    context.fillStyle = colour;
    context.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = context.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = (top, below) => top.slice(0, 3).map((level, i) => level * top[3] + below[i] * (1 - top[3]));
  const ground = (element) => {
    if (!element) return [255, 255, 255];
    const own = rgba(getComputedStyle(element).backgroundColor);
    return own[3] === 1 ? own.slice(0, 3) : over(own, ground(element.parentElement));
  };
  const light = (colour) => colour.map((level) => (level /= 255) <= 0.04045 ? level / 12.92 : ((level + 0.055) / 1.055) ** 2.4)
    .reduce((sum, level, i) => sum + level * [0.2126, 0.7152, 0.0722][i], 0);
  const ratio = (a, b) => {
    const [low, high] = [light(a), light(b)].sort((x, y) => x - y);
    return (high + 0.05) / (low + 0.05);
  };
  const worst = {text: [99, ""], mark: [99, ""]};
  const note = (kind, value, what) => { if (value < worst[kind][0]) worst[kind] = [value, what]; };
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const element = walk.currentNode.parentElement;
    if (!walk.currentNode.data.trim() || !element.checkVisibility() || element.closest("script, .tooltip")) continue;
    const svg = element.closest("svg");
    const style = getComputedStyle(element);
    const below = ground(svg ? svg.parentElement : element);
    const colour = svg ? style.fill : style.color;
    note("text", ratio(over(rgba(colour), below), below), `${walk.currentNode.data.trim().slice(0, 40)} ${colour}`);
  }
  // Grids and fields are no marks, nor are bands behind them.
  const quiet = ["#FFFFFF", "#E8EAEE", "#F3F4F6", "#C8C8C8", "#E1E2E5", "none", "transparent"];
  for (const shape of document.querySelectorAll(".drawing svg :is(circle, polygon, polyline, path)")) {
    if (shape.closest(".tips") || Number(shape.getAttribute("opacity") ?? 1) < 0.3) continue;
    for (const paint of ["fill", "stroke"]) {
      const written = shape.getAttribute(paint);
      if (!written || quiet.includes(written)) continue;
      const below = ground(shape.closest(".drawing"));
      const colour = getComputedStyle(shape)[paint];
      note("mark", ratio(over(rgba(colour), below), below), `${written} became ${colour}`);
    }
  }
  return worst;
}"""
COLOURS = """() => [getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color,
  ...[".drawing svg > rect", ".drawing svg text"].map((s) => document.querySelector(s)).map((e) => e && getComputedStyle(e).fill)]"""


def themes(browser, report: Report, tables: list[dict]) -> None:
    colours = {}
    for theme in ("light", "dark"):
        with Visit(browser, report, theme=theme) as visit:
            visit.page.evaluate("document.querySelectorAll('details:not(.columns)').forEach((d) => (d.open = true))")
            other = {"light": "dark", "dark": "light"}[theme]
            colours[theme] = visit.page.evaluate(COLOURS)
            worst = visit.page.evaluate(CONTRASTS)
            hold(f"{report.name}: {theme}: texts have a contrast of 4.5", worst["text"][0] >= 4.5, worst["text"])
            # The palette of estimators is chosen for its hues; its orange and its light blue are pale on white.
            least = {"light": 2.2, "dark": 3.0}[theme]
            hold(f"{report.name}: {theme}: marks have a contrast of {least}", worst["mark"][0] >= least, worst["mark"])
            axe = Axe().run(visit.page, options={"resultTypes": ["violations"]}).response["violations"]
            grave = [f"{v['id']}: {v['nodes'][0]['html'][:90]}" for v in axe if v["impact"] in ("serious", "critical")]
            hold(f"{report.name}: {theme}: axe finds nothing serious", not grave, grave)
            visit.page.get_by_role("button", name="Light / dark").click()
            colours[theme, "changed"] = visit.page.evaluate(COLOURS)
            hold(f"{report.name}: the button makes it {other}", visit.page.locator("html").get_attribute("data-theme") == other)
    both = zip(colours["light"], colours["dark"])
    hold(f"{report.name}: page and drawings have two themes", all(a != b for a, b in both if a), colours)
    fine = colours["light"] == colours["dark", "changed"] and colours["dark"] == colours["light", "changed"]
    hold(f"{report.name}: the button gives the same as the system", fine, colours)


# What hangs on a place's scrolling (the hint that a table goes on) is computed by the browser with a frame, not with the layout.
FRAMES = """() => new Promise((done) => {
  let left = 5;
  const next = () => (left-- ? requestAnimationFrame(next) : done());
  next();
})"""

# Cells whose content is cut, tables that are wider than their place and do not say so, and words that are broken.
MISFITS = """() => {
  const found = [];
  for (const cell of document.querySelectorAll("th, td")) {
    if (cell.checkVisibility() && cell.scrollWidth > cell.clientWidth + 1) found.push(`cut: ${cell.textContent}`);
  }
  for (const place of document.querySelectorAll(".scroll, .drawing")) {
    if (!place.checkVisibility() || place.scrollWidth <= place.clientWidth) continue;
    const style = getComputedStyle(place);
    if (style.overflowX !== "auto" || !style.maskImage.includes("gradient")) found.push(`no hint: ${place.getAttribute("aria-label")}`);
  }
  const range = document.createRange();
  for (const root of document.querySelectorAll("td, th, li, h3, h4")) {
    const walk = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
    while (walk.nextNode()) {
      const node = walk.currentNode;
      if (!node.parentElement.checkVisibility() || node.parentElement.closest(".hash, svg")) continue;
      for (const word of node.data.matchAll(/[\\p{L}\\d.=]+/gu)) {
        range.setStart(node, word.index);
        range.setEnd(node, word.index + word[0].length);
        if (new Set([...range.getClientRects()].map((box) => Math.round(box.top))).size > 1) found.push(`broken: ${word[0]}`);
      }
    }
  }
  return found;
}"""


def widths(browser, report: Report, tables: list[dict]) -> None:
    for width in (380, 1280):
        with Visit(browser, report, width=width) as visit:
            visit.page.evaluate("document.querySelectorAll('details:not(.columns)').forEach((d) => (d.open = true))")
            wide = visit.page.evaluate("document.scrollingElement.scrollWidth")
            hold(f"{report.name}: nothing is wider than {width} px", wide <= width, wide)
            visit.page.evaluate(FRAMES)
            misfits = visit.page.evaluate(MISFITS)
            hold("    and nothing is cut or broken", not misfits, misfits[:5])


def prints(browser, report: Report, tables: list[dict]) -> None:
    with tempfile.TemporaryDirectory() as folder, Visit(browser, report, theme="dark") as visit:
        page, file = visit.page, Path(folder) / "page.pdf"
        texts = "(places) => [...document.querySelectorAll(places)].map((place) => place.textContent.trim())"
        headings = page.evaluate(texts, "h1, h2, h3, h4, summary")
        closed = [text[:30] for text in page.evaluate(texts, "details:not([open], .columns) .note")]
        page.pdf(path=file, format="A4")
        sheets = paper(file)
        hold(f"{report.name}: prints {len(sheets)} pages", 2 <= len(sheets) <= 60)
        last = [sheet["lines"][-1] for sheet in sheets if sheet["lines"]]
        alone = [line for line in last if any(squeezed(heading).startswith(squeezed(line)) for heading in headings)]
        hold("    no page ends with a heading", not alone, alone)
        text = squeezed(" ".join(line for sheet in sheets for line in sheet["lines"]))
        hold("    what is folded is printed", all(squeezed(words) in text for words in closed), closed)
        hold("    controls are not", "CopyasCSV" not in text and "Light/dark" not in text and "Columns" not in text)
        beyond = [word for sheet in sheets for word, right in sheet["words"] if right > sheet["width"] - 20]
        hold("    nothing is beyond the margin", not beyond, beyond[:5])
        # A table over several pages repeats its head on each.
        page.evaluate("""() => {
          const table = document.querySelector("details table.data") ?? document.querySelector("table.data");
          (table.querySelector("thead th button") ?? table.querySelector("thead th")).append(" Zebra");
          for (let i = 0; i < 200; i++) table.tBodies[0].append(table.tBodies[0].rows[0].cloneNode(true));
        }""")
        page.pdf(path=file, format="A4")
        heads = sum("Zebra" in " ".join(sheet["lines"]) for sheet in paper(file))
        hold("    a long table repeats its head", heads >= 5, f"on {heads} pages")


def squeezed(text: str) -> str:
    return re.sub(r"\s", "", text)


def paper(file: Path) -> list[dict]:
    """The pages of a PDF: their lines from top to bottom, and their words with where these end."""
    made = subprocess.run(["pdftotext", "-bbox-layout", file, "-"], capture_output=True, text=True, check=True).stdout
    sheets = []
    for sheet in ElementTree.fromstring(made).iterfind(".//{*}page"):
        lines = sorted(sheet.iterfind(".//{*}line"), key=lambda line: (round(float(line.get("yMax"))), float(line.get("xMin"))))
        words = [(word.text, float(word.get("xMax"))) for word in sheet.iterfind(".//{*}word")]
        texts = [" ".join(word.text or "" for word in line.iterfind("{*}word")) for line in lines]
        sheets.append({"width": float(sheet.get("width")), "lines": texts, "words": words})
    return sheets


def without_script(browser, report: Report, tables: list[dict]) -> None:
    with Visit(browser, report, script=False) as visit:
        page = visit.page
        controls = page.evaluate("[...document.querySelectorAll('button, input, select, .tools, .tooltip')].length")
        hold(f"{report.name}: without script: no dead controls", controls == 0, controls)
        page.evaluate("document.querySelectorAll('details').forEach((d) => (d.open = true))")
        hidden = page.evaluate("""[...document.querySelectorAll("main *, header *")]
          .filter((e) => !e.checkVisibility({visibilityProperty: true, opacityProperty: true}))
          .filter((e) => !e.closest("script, style, svg, wbr")).map((e) => e.outerHTML.slice(0, 80))""")
        hold("    everything is visible", not hidden, hidden[:3])
        links = page.evaluate("[...document.querySelectorAll('a[data-file]')].map((a) => a.getAttribute('href'))")
        hold("    files are linked", links and all((report.files / link).is_file() for link in links), links[:3])


def inert(browser, report: Report, tables: list[dict]) -> None:
    with Visit(browser, report) as visit:
        count = "(kinds) => kinds.map((kind) => document.querySelectorAll(kind).length)"
        visit.page.wait_for_timeout(200)
        kinds = ['img:not([src^="data:image/png"])', "script", "iframe, object, embed, base, form"]
        made = visit.page.evaluate(count, kinds)
        hold(f"{report.name}: names made no element", made == [0, 2, 0], made)
        hold(f"{report.name}: no error, no dialog, no request", not visit.wrong, visit.wrong)


CHECKS = [inert, sorts, filters, columns, copies, downloads, tips, themes, widths, prints, without_script]


# ---- Reports and pictures


def made(program: Path, at: Path) -> list[Path]:
    data = at / HOSTILE_FILE
    shutil.copy(ROOT / "models/moons/heldout.npy", data)
    folders = []
    for name, text in RUNS.items():
        config, out = at / f"{name}.yaml", at / name
        quoted = '"' + str(data).replace("\\", "\\\\").replace('"', '\\"') + '"'
        config.write_text(text.replace("MODELS", str(ROOT / "models")).replace("DATA", quoted))
        done = subprocess.run([program, "run", config, "--out", out, "--quiet"], capture_output=True, text=True)
        if done.returncode != 0:
            raise SystemExit(f"test-page: {name}: status {done.returncode}\n{done.stderr}")
        folders.append(out)
    return folders


def hostile(page: str) -> str:
    """The page if names were hostile: those of rows, captions and marks of drawings."""
    names = iter(html.escape(name) for _ in range(10_000) for name in HOSTILE)
    page = re.sub(r'(<table class="[^"]*\bdata\b.*?</table>)', lambda table: re.sub(
        r'(<th scope="row"[^>]*>).*?(?=</th>)', lambda head: head[1] + next(names), table[1], flags=re.S), page, flags=re.S)
    return re.sub(r'(data-caption|data-tip)="[^"]*"', lambda found: f'{found[1]}="{next(names)}"', page)


def pictures(browser, report: Report, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    places = {"top": "h1", "table": "table.data", "figure": "figure.plot"}
    for width, theme in [(1280, "light"), (1280, "dark"), (380, "light"), (380, "dark")]:
        with Visit(browser, report, width=width, theme=theme) as visit:
            for name, place in places.items():
                visit.page.locator(place).first.evaluate("(e) => scrollTo(0, e.getBoundingClientRect().top + scrollY - 90)")
                visit.page.screenshot(path=folder / f"{report.name}-{width}-{theme}-{name}.png")
            visit.page.pdf(path=folder / f"{report.name}.pdf", format="A4")


def main() -> None:
    options = argparse.ArgumentParser(prog="scripts/test-page", description=__doc__)
    options.add_argument("--page", type=Path, help="a page to look at instead of runs of a program")
    options.add_argument("--screenshots", type=Path, help="where pictures go")
    options.add_argument("program", nargs="?", type=Path)
    options.add_argument("reports", nargs="*", type=Path)
    given = options.parse_args()
    if not given.page and not given.program:
        options.error("name a program, or a page with --page")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        at = Path(folder)
        if given.page:
            pages = [given.page.resolve()]
        else:
            pages = [out / "index.html" for out in [*made(given.program.resolve(), at), *given.reports]]
        reports = []
        for page in [*pages, None]:
            # The page with hostile names is made of the first one.
            name, source = (page.parent.name, page) if page else ("hostile", pages[0])
            text = source.read_text(encoding="utf-8")
            alone = at / "alone" / f"{len(reports)}"
            alone.mkdir(parents=True)
            (alone / "index.html").write_text(text if page else hostile(text), encoding="utf-8")
            reports.append(Report(name, alone / "index.html", source.parent.resolve()))
        chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for report in reports:
            tables = tables_of(browser, report)
            hold(f"{report.name}: has tables of data", any(len(table["rows"]) > 1 for table in tables))
            for check in CHECKS:
                check(browser, report, tables)
            if given.screenshots:
                pictures(browser, report, given.screenshots)
        browser.close()
    print(f"{len(failures)} failures")
    sys.exit(1 if failures else 0)


main()
