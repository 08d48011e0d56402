// The controls of the page, which is whole without them. Names come from users: texts are only set as texts.
"use strict";
const ABSENT = "–";
const all = (selector, within = document) => [...within.querySelectorAll(selector)];

/** An element. Attributes that are functions are listeners. */
function make(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(key, value);
    else element.setAttribute(key, value);
  }
  element.append(...children);
  return element;
}

const button = (text, label, click) => make("button", { type: "button", "aria-label": label, click }, text);

// ---- Tables

/** The text of a cell on one line, with its small print in brackets. */
function textOf(cell) {
  const copy = cell.cloneNode(true);
  for (const small of all(".kind", copy)) small.replaceWith(` (${small.textContent})`);
  return copy.textContent.replace(/\s+/g, " ").trim();
}

const isNumeric = (cell) => cell.classList.contains("n");

/** A table with a row of headings, whose cells may span columns, and which columns are shown. */
class Grid {
  constructor(table) {
    this.table = table;
    this.headings = [...table.tHead.rows[0].cells];
    this.body = table.tBodies[0];
    this.rows = [...this.body.rows];
    this.shown = this.headings.map((heading) => !heading.hasAttribute("data-off"));
    // The cell of each column: one that spans columns stands there more than once.
    const spread = (row) => [...row.cells].flatMap((cell) => Array(cell.colSpan).fill(cell));
    this.cells = new Map([...table.rows].map((row) => [row, spread(row)]));
    this.layOut();
  }

  layOut() {
    for (const cells of this.cells.values()) {
      for (const cell of cells) {
        const span = cells.filter((other, at) => other === cell && this.shown[at]).length;
        cell.hidden = span === 0;
        cell.colSpan = span || 1;
      }
    }
  }

  /** The shown cells, headings first and rows as they stand; undefined where the cell on the left goes on. */
  shownCells() {
    const rows = [...this.table.rows].filter((row) => !row.hidden).map((row) => this.cells.get(row));
    const shown = rows.map((cells) => cells.filter((_, at) => this.shown[at]));
    return shown.map((cells) => cells.map((cell, i) => (cell === cells[i - 1] ? undefined : cell)));
  }

  /** The texts of the shown cells in some form. */
  texts(form) {
    return this.shownCells().map((cells) => cells.map((cell) => (cell ? form(textOf(cell)) : "")));
  }

  /** One text for each shown column of texts, another for each of numbers. */
  alignment(left, right) {
    return this.shownCells()[0].map((heading) => (isNumeric(heading) ? right : left));
  }

  /** Orders rows by a column: 1 upwards, -1 downwards, 0 as they came. Missing values come last. */
  sort(column, direction) {
    const natural = new Intl.Collator("en", { numeric: true });
    const numeric = isNumeric(this.headings[column]);
    const compare = (a, b) => parseFloat(a) - parseFloat(b) || natural.compare(a, b);
    const keyed = this.rows.map((row) => {
      const cell = this.cells.get(row)[column];
      const key = numeric ? Number(cell.dataset.v?.replace("inf", "Infinity") || NaN) : textOf(cell);
      return { row, key, missing: ["", ABSENT, NaN].includes(key) };
    });
    keyed.sort((a, b) => direction && (a.missing - b.missing || direction * compare(a.key, b.key)));
    this.body.append(...keyed.map(({ row }) => row));
    for (const heading of this.headings) heading.ariaSort = null;
    if (direction) this.headings[column].ariaSort = direction > 0 ? "ascending" : "descending";
  }

  /** Shows the rows that contain a text, and returns how many. */
  filter(text) {
    const wanted = text.trim().toLowerCase();
    for (const row of this.rows) {
      const texts = [...row.cells].filter((cell) => !cell.hidden).map(textOf);
      row.hidden = !texts.join("\n").toLowerCase().includes(wanted);
    }
    return this.rows.filter((row) => !row.hidden).length;
  }
}

// ---- What is copied: shown rows and columns

/** Numbers in full, and their standard errors in columns of their own. */
function asCsv(grid) {
  const [headings, ...body] = grid.shownCells();
  const lines = [[], ...body.map(() => [])];
  headings.forEach((heading, i) => {
    const { key = textOf(heading), unit } = heading.dataset;
    const title = (name) => csvText(unit && unit !== key ? `${name} [${unit}]` : name);
    const hasErrors = body.some((row) => row[i]?.dataset.e);
    const push = (line, value, error) => lines[line].push(value, ...(hasErrors ? [error] : []));
    push(0, title(key), title(`${key}_stderr`));
    body.forEach((row, r) => push(r + 1, row[i] && (row[i].dataset.v ?? csvText(textOf(row[i]))), row[i]?.dataset.e));
  });
  return lines.map((line) => line.join(",") + "\n").join("");
}

/** A text that a spreadsheet would take for a formula gets an apostrophe. */
function csvText(text) {
  if (text === ABSENT) return "";
  const safe = text.replace(/^[=+\-@]/, "'$&");
  return /[",]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

function asMarkdown(grid) {
  const rows = grid.texts(markdownText);
  rows.splice(1, 0, grid.alignment("---", "--:"));
  return `${markdownText(grid.table.dataset.caption)}\n\n${rows.map((row) => `| ${row.join(" | ")} |\n`).join("")}`;
}

/** A text in which nothing is live in Markdown, nor in the HTML that it becomes. */
function markdownText(text) {
  const escaped = (c) => ("&<>@#:.".includes(c) ? `&#${c.charCodeAt(0)};` : `\\${c}`);
  return text.replace(/[&<>@#:\\`*_{}[\]()!|~$]|(?<=www)\./g, escaped);
}

/** A table of booktabs. */
function asLatex(grid) {
  const { name, caption } = grid.table.dataset;
  const [headings, ...rows] = grid.texts(latexCell).map((row) => `    ${row.join(" & ")} \\\\\n`);
  return `% The preamble needs \\usepackage{booktabs}.
\\begin{table}
  \\centering
  \\caption{${latexText(caption)}}
  \\label{tab:${name}}
  \\begin{tabular}{@{}${grid.alignment("l", "r").join("")}@{}}
    \\toprule
${headings}    \\midrule
${rows.join("")}    \\bottomrule
  \\end{tabular}
\\end{table}
`;
}

const SUPERSCRIPTS = "⁰¹²³⁴⁵⁶⁷⁸⁹⁻";
const raised = (text) => `^{${[...text].map((c) => "0123456789-"[SUPERSCRIPTS.indexOf(c)]).join("")}}`;
const MATH = { "−": "-", "±": "\\pm ", "×": "\\times ", "·": "\\cdot ", "σ": "\\sigma " };
const COMMANDS = {
  "\\": "backslash", "~": "asciitilde", "^": "asciicircum", "<": "less", ">": "greater", "|": "bar", "`": "asciigrave",
};

/** A text in which nothing is a command. What pdflatex may not have becomes a question mark. */
function latexText(text) {
  return text.replace(/[⁰¹²³⁴-⁹⁻]+|[^\d\sA-Za-z]/gu, (c) => {
    if (SUPERSCRIPTS.includes(c[0])) return `$${raised(c)}$`;
    if (c in MATH) return `$${MATH[c].trim()}$`;
    if (c in COMMANDS) return `\\text${COMMANDS[c]}{}`;
    if ("&%$#_{}".includes(c)) return `\\${c}`;
    // A bracket or star would belong to the line's end before it.
    if ("[*-".includes(c)) return `{${c}}`;
    return c === ABSENT ? "--" : /[!-~À-ž]/.test(c) ? c : "?";
  });
}

/** A number in math mode, or a text. */
function latexCell(text) {
  if (!/\d/.test(text) || !/^[\d.,()[\]±×−⁰¹²³⁴-⁹⁻ ]+$/.test(text)) return latexText(text);
  const math = text.replace(/[−×]|± ?/g, (c) => MATH[c[0]]).replace(/,(?=\d)/g, "{,}").replace(/ (?=[[(])/g, "\\ ");
  return `$${math.replace(/[⁰¹²³⁴-⁹⁻]+/g, raised)}$`;
}

/** Puts a text on the clipboard; where the browser keeps that from files on disk, as a selection. */
async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const focused = document.activeElement;
    const area = make("textarea", { style: "position:fixed;opacity:0" }, text);
    document.body.append(area);
    area.select();
    const copied = document.execCommand("copy");
    area.remove();
    focused.focus();
    return copied;
  }
}

/** Makes headings buttons: a click sorts upwards, the next downwards, the third as the rows came. */
function addSorting(grid) {
  grid.headings.forEach((heading, at) => {
    const click = () => grid.sort(at, { ascending: -1, descending: 0 }[heading.ariaSort] ?? 1);
    heading.append(make("button", { type: "button", click }, ...heading.childNodes));
  });
}

/** A box for each column but the first, which names the rows. */
function columnsMenu(grid, changed) {
  const choices = grid.headings.slice(1).map((heading, i) => {
    const box = make("input", { type: "checkbox", change: () => {
      grid.shown[i + 1] = box.checked;
      grid.layOut();
      changed();
    } });
    box.checked = grid.shown[i + 1];
    return make("label", {}, box, " ", textOf(heading));
  });
  const summary = make("summary", {}, "Columns");
  const keydown = ({ key }) => {
    if (key === "Escape" && menu.open) summary.click();
  };
  const menu = make("details", { class: "columns", keydown }, summary, make("div", {}, ...choices));
  return menu;
}

function addTools(table) {
  const grid = new Grid(table);
  if (grid.rows.length < 2) return;
  const said = make("span", { role: "status" });
  const input = () => {
    const count = grid.filter(filter.value);
    said.textContent = filter.value.trim() && `${count} of ${grid.rows.length} rows`;
  };
  const filter = make("input", { type: "search", placeholder: "Filter rows", "aria-label": "Filter rows", input });
  const forms = Object.entries({ CSV: asCsv, Markdown: asMarkdown, LaTeX: asLatex }).map(([name, form]) =>
    button(name, `Copy as ${name}`, async () => {
      said.textContent = (await copy(form(grid))) ? `Copied as ${name}` : "The browser does not let the page copy";
    }));
  const attributes = { class: "tools", role: "group", "aria-label": `Tools of ${table.dataset.caption}` };
  const tools = make("div", attributes, filter, columnsMenu(grid, input), "Copy as", ...forms, said);
  table.closest(".scroll").before(tools);
  addSorting(grid);
}

// ---- Files

function save(blob, name) {
  make("a", { href: URL.createObjectURL(blob), download: name }).click();
}

/** Links to files beside the page save the copies inside it, so that a page works alone. */
function addFiles() {
  const files = JSON.parse(document.getElementById("files")?.textContent ?? "{}");
  document.addEventListener("click", async (event) => {
    const name = event.target.closest("[data-file]")?.dataset.file;
    if (!Object.hasOwn(files, name) || !window.DecompressionStream) return;
    event.preventDefault();
    const packed = new Blob([Uint8Array.from(atob(files[name]), (c) => c.charCodeAt(0))]);
    const content = new Response(packed.stream().pipeThrough(new DecompressionStream("gzip")));
    save(await content.blob(), name.split("/").pop());
  });
}

// ---- Figures

/** The drawing as a file, in its colours of white paper. */
function svgFile(svg) {
  const copy = svg.cloneNode(true);
  for (const tip of all(".tip", copy)) tip.remove();
  return new Blob([new XMLSerializer().serializeToString(copy)], { type: "image/svg+xml" });
}

async function savePng(file, name) {
  const image = new Image();
  image.src = URL.createObjectURL(file);
  await image.decode();
  const canvas = make("canvas", { width: 2 * image.width, height: 2 * image.height });
  canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
  canvas.toBlob((blob) => save(blob, name));
}

const STEPS = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1, Home: -1e9, End: 1e9 };
const tooltip = make("div", { class: "tooltip", role: "status" });
let mark = null;

/** Shows the value of a mark, or none. */
function showTip(next) {
  mark?.classList.remove("on");
  mark = next;
  mark?.classList.add("on");
  tooltip.textContent = mark?.dataset.tip ?? "";
  placeTip();
}

function placeTip() {
  if (!mark) return;
  const [at, { width, height }] = [mark.getBoundingClientRect(), tooltip.getBoundingClientRect()];
  const most = document.documentElement.clientWidth - width - 4;
  const left = Math.max(4, Math.min((at.left + at.right - width) / 2, most));
  tooltip.style.translate = `${left}px ${at.top < height + 6 ? at.bottom + 6 : at.top - height - 6}px`;
}

/** The points of a series, each once. A marker of corners is at its middle; an area has no points. */
function pointsOf(series) {
  const found = new Map();
  const add = (x, y) => found.set(`${x},${y}`, [x, y]);
  for (const { cx, cy } of all("circle", series)) add(cx.baseVal.value, cy.baseVal.value);
  for (const line of all("polyline", series)) for (const { x, y } of line.points) add(x, y);
  for (const dots of all("path.dots", series)) {
    for (const [, x, y] of dots.getAttribute("d").matchAll(/M(\S+) (\S+?)h/g)) add(Number(x), Number(y));
  }
  for (const { points } of all("polygon", series)) {
    const corners = [...points];
    const middle = (of) => corners.reduce((sum, corner) => sum + of(corner), 0) / corners.length;
    if (corners.length < 5) add(middle(({ x }) => x), middle(({ y }) => y));
  }
  return [...found.values()];
}

/** The value on an axis at a part of its length, as precise as the drawing is. */
function valueAt({ label, scale, unit, range: [low, high], names }, part) {
  const place = low + part * (high - low);
  if (names.length > 0) return names[names.length - 1 - Math.round(place)] ?? "";
  const step = 10 ** Math.floor(Math.log10((high - low) / 500));
  const value = { linear: Math.round(place / step) * step, log: 10 ** place }[scale] ?? unit * Math.sinh(place * Math.LN10);
  const digits = `${Number(value.toPrecision(3 + (scale === "linear")))}`.replace("-", "−");
  return `${label.split(":")[0]} ${digits}`;
}

/** Gives values to the series that have none of their own. */
function addSeriesTips(svg) {
  for (const panel of all(".panel", svg)) {
    const { frame: [left, top, right, bottom], x, y } = JSON.parse(panel.dataset.axes);
    for (const series of all(".series", panel).filter((series) => !series.querySelector(".tip"))) {
      for (const [cx, cy] of pointsOf(series)) {
        const texts = [valueAt(x, (cx - left) / (right - left)), valueAt(y, (bottom - cy) / (bottom - top))];
        const tip = document.createElementNS(svg.namespaceURI, "circle");
        const looks = { class: "tip", cx, cy, r: 60, fill: "none", "pointer-events": "all" };
        for (const [key, value] of Object.entries(looks)) tip.setAttribute(key, value);
        tip.dataset.tip = `${series.dataset.name}: ${texts.filter(Boolean).join(", ")}`;
        series.append(tip);
      }
    }
  }
}

function addTips(svg) {
  if (!svg.querySelector(".tip, .series")) return;
  let marks = [];
  // A cloud has thousands of points: they get values when a reader comes near.
  const prepare = () => {
    if (marks.length > 0) return;
    addSeriesTips(svg);
    marks = all("[data-tip]", svg);
  };
  svg.addEventListener("pointerenter", prepare);
  svg.addEventListener("focus", prepare);
  let at = 0;
  svg.tabIndex = 0;
  svg.role = "application";
  svg.setAttribute("aria-describedby", "walk");
  svg.onpointerover = ({ target }) => showTip(target.closest("[data-tip]"));
  svg.onpointerleave = svg.onblur = () => showTip(null);
  svg.onfocus = () => svg.matches(":focus-visible") && showTip(marks[at]);
  svg.onkeydown = (event) => {
    if (!(event.key in STEPS) || event.altKey) return;
    event.preventDefault();
    if (mark) at = Math.max(0, Math.min(at + STEPS[event.key], marks.length - 1));
    marks[at].scrollIntoView({ block: "nearest", inline: "nearest" });
    showTip(marks[at]);
  };
}

function addFigureTools(figure) {
  const svg = figure.querySelector(".drawing > svg");
  if (!svg) return;
  const file = svgFile(svg);
  addTips(svg);
  const caption = figure.querySelector("figcaption");
  caption.append(make("span", { class: "files" },
    button("SVG", "Save as SVG", () => save(file, `${figure.id}.svg`)),
    button("PNG", "Save as PNG", () => savePng(file, `${figure.id}.png`))));
}

// ---- The page

/** Changes from the system's theme to the other one, and back. */
function addThemeButton() {
  const { dataset } = document.documentElement;
  const system = () => (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
  const change = () => (dataset.theme = (dataset.theme ?? system()) === "dark" ? "light" : "dark");
  document.querySelector("nav").append(button("Light / dark", "Light / dark colours", change));
}

document.body.append(tooltip, make("p", { id: "walk", hidden: "" }, "Arrow keys walk through the values."));
addEventListener("scroll", placeTip, { capture: true, passive: true });
addEventListener("keydown", ({ key }) => key === "Escape" && showTip(null));
all("table.data").forEach(addTools);
all("figure.plot").forEach(addFigureTools);
addFiles();
addThemeButton();
