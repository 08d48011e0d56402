// The controls of the page: they sort, filter and copy tables, show the values of figures, save files, and switch the
// theme. The page is whole without them. Names come from users, so that texts are only ever set as text.
"use strict";
(() => {
  const ABSENT = "–";
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];

  /** An element with attributes, listeners (keys with "on") and children. */
  function make(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [key, value] of Object.entries(attributes)) {
      if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
      else element.setAttribute(key, value);
    }
    element.append(...children);
    return element;
  }

  const button = (text, onclick) => make("button", { type: "button", onclick }, text);

  // ---- Tables

  /** The text of a cell on one line, with its small print in brackets. */
  function textOf(cell) {
    const copy = cell.cloneNode(true);
    for (const small of all(".kind", copy)) {
      small.prepend(" (");
      small.append(")");
    }
    return copy.textContent.replace(/\s+/g, " ").trim();
  }

  /** The number of a cell, or NaN. */
  const numberOf = (cell) => Number(cell?.dataset.v?.replace("inf", "Infinity") || NaN);

  /** The headings and body rows of a table, where cells may span columns, and which columns are shown. */
  class Grid {
    constructor(table) {
      this.table = table;
      this.headings = [...table.tHead.rows[0].cells];
      this.body = table.tBodies[0];
      this.rows = [...this.body.rows];
      this.shown = this.headings.map((heading) => !heading.hasAttribute("data-off"));
      // For each row, the cell of each column. A cell stands more than once if it spans columns.
      this.cells = new Map(this.rows.map((row) => [row, [...row.cells].flatMap((cell) => Array(cell.colSpan).fill(cell))]));
      this.layOut();
    }

    /** Hides and shows cells as `shown` says. */
    layOut() {
      this.headings.forEach((heading, at) => (heading.hidden = !this.shown[at]));
      for (const cells of this.cells.values()) {
        for (const cell of new Set(cells)) {
          const span = cells.filter((other, at) => other === cell && this.shown[at]).length;
          cell.hidden = span === 0;
          cell.colSpan = Math.max(span, 1);
        }
      }
    }

    /** The indices of the shown columns. */
    columns() {
      return this.headings.keys().filter((at) => this.shown[at]).toArray();
    }

    /** The cells of the shown rows and columns; undefined where a cell to the left goes on. */
    shownCells() {
      const columns = this.columns();
      const rows = [...this.body.rows].filter((row) => !row.hidden).map((row) => this.cells.get(row));
      return rows.map((cells) => columns.map((at, i) => (cells[at] === cells[columns[i - 1]] ? undefined : cells[at])));
    }

    /** Orders the rows by a column: 1 upwards, -1 downwards, 0 as they came. What is missing comes last. */
    sort(column, direction) {
      const isNumber = this.headings[column].classList.contains("n");
      const natural = new Intl.Collator("en", { numeric: true });
      const values = new Map(this.rows.map((row) => {
        const cell = this.cells.get(row)[column];
        return [row, isNumber ? numberOf(cell) : textOf(cell)];
      }));
      const isMissing = (value) => value === "" || value === ABSENT || Number.isNaN(value);
      const compare = (a, b) => (isNumber ? a - b || 0 : natural.compare(a, b));
      const ordered = direction === 0 ? this.rows : this.rows.toSorted((one, other) => {
        const [a, b] = [values.get(one), values.get(other)];
        return isMissing(a) - isMissing(b) || (isMissing(a) ? 0 : direction * compare(a, b));
      });
      this.body.append(...ordered);
      for (const heading of this.headings) heading.removeAttribute("aria-sort");
      if (direction) this.headings[column].setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
    }

    /** Shows the rows that contain the text, and returns how many. */
    filter(text) {
      const wanted = text.trim().toLowerCase();
      for (const row of this.rows) {
        const cells = [...row.cells].filter((cell) => !cell.hidden);
        row.hidden = !cells.map(textOf).join("\n").toLowerCase().includes(wanted);
      }
      return this.rows.filter((row) => !row.hidden).length;
    }
  }

  // ---- Forms of a table to copy

  const NUMBER = /^-?(\d[\d.]*(e[-+]?\d+)?|inf)$|^nan$/i;

  /** A field of CSV. A text that a spreadsheet would take for a formula gets an apostrophe. */
  function csvField(text) {
    const safe = /^[=+\-@\t\r]/.test(text) && !NUMBER.test(text) ? `'${text}` : text;
    return /[",\n\r]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
  }

  /** Numbers in full, each with its standard error in a column of its own if the column has any. */
  function asCsv(grid) {
    const rows = grid.shownCells();
    const lines = [[], ...rows.map(() => [])];
    grid.columns().forEach((at, i) => {
      const { key, unit } = grid.headings[at].dataset;
      const name = key || textOf(grid.headings[at]);
      const title = (suffix) => name + suffix + (unit && unit !== name ? ` [${unit}]` : "");
      const hasErrors = rows.some((row) => row[i]?.dataset.e);
      lines[0].push(title(""), ...(hasErrors ? [title("_stderr")] : []));
      rows.forEach((row, r) => {
        const text = row[i] ? row[i].dataset.v ?? textOf(row[i]) : "";
        lines[r + 1].push(text === ABSENT ? "" : text, ...(hasErrors ? [row[i]?.dataset.e ?? ""] : []));
      });
    });
    return lines.map((line) => line.map(csvField).join(",") + "\n").join("");
  }

  /** A text in which nothing is live in Markdown or in the HTML that it becomes. */
  function markdownText(text) {
    const entity = (c) => `&#${c.charCodeAt(0)};`;
    return text.replace(/[&<>@#:]/g, (c) => `\0${c}`).replace(/[\\`*_{}[\]()!|~$]/g, "\\$&")
      .replace(/\0(.)/g, (_, c) => entity(c)).replaceAll("www.", "www&#46;");
  }

  /** The headings and rows of shown texts, with the caption above. */
  function asMarkdown(grid) {
    const line = (texts) => `| ${texts.join(" | ")} |\n`;
    const headings = grid.columns().map((at) => grid.headings[at]);
    const text = (cell) => (cell ? markdownText(textOf(cell)) : "");
    return `${markdownText(grid.table.dataset.caption ?? "")}\n\n` + line(headings.map(text))
      + line(headings.map((heading) => (heading.classList.contains("n") ? "--:" : "---")))
      + grid.shownCells().map((row) => line(row.map(text))).join("");
  }

  const RAISED = "⁰¹²³⁴⁵⁶⁷⁸⁹⁻";
  const LATEX = {
    "\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "<": "\\textless{}",
    ">": "\\textgreater{}", "|": "\\textbar{}", '"': "\\textquotedbl{}", "`": "\\textasciigrave{}",
    "'": "\\textquotesingle{}", "-": "{-}", "–": "--", "−": "$-$", "±": "$\\pm$", "×": "$\\times$", "·": "$\\cdot$",
    "√": "$\\surd$", "≤": "$\\le$", "≥": "$\\ge$", "∞": "$\\infty$", "∫": "$\\int$", "Σ": "$\\Sigma$", "σ": "$\\sigma$",
    "α": "$\\alpha$", "λ": "$\\lambda$", "π": "$\\pi$", "…": "\\ldots{}",
  };
  const raised = (text) => `^{${[...text].map((c) => "0123456789-"[RAISED.indexOf(c)]).join("")}}`;

  /** A text in which nothing is a command of LaTeX. What pdflatex may not have becomes a question mark. */
  function latexText(text) {
    return text.replace(/[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+|[^ ]/gu, (c) => {
      if (RAISED.includes(c[0])) return `$${raised(c)}$`;
      return LATEX[c] ?? (/[&%$#_{}]/.test(c) ? `\\${c}` : /[!-~À-ž]/.test(c) ? c : "?");
    });
  }

  /** A shown number in math mode, or another text. */
  function latexCell(text) {
    if (!/\d/.test(text) || !/^[\d.,()[\]±×−⁰¹²³⁴⁵⁶⁷⁸⁹⁻ ]+$/.test(text)) return latexText(text);
    const math = text.replaceAll("−", "-").replaceAll("±", "\\pm").replaceAll("×", "\\times ")
      .replace(/,(?=\d)/g, "{,}").replace(/ (?=[[(])/g, "\\ ").replace(/[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+/g, raised);
    return `$${math}$`;
  }

  /** A table of booktabs. */
  function asLatex(grid) {
    const line = (texts) => `    ${texts.join(" & ")} \\\\\n`;
    const headings = grid.columns().map((at) => grid.headings[at]);
    const { name, caption } = grid.table.dataset;
    return "% The preamble needs \\usepackage{booktabs}.\n\\begin{table}\n  \\centering\n"
      + `  \\caption{${latexText(caption ?? "")}}\n  \\label{tab:${(name ?? "").replace(/[^\w-]/g, "")}}\n`
      + `  \\begin{tabular}{@{}${headings.map((th) => (th.classList.contains("n") ? "r" : "l")).join("")}@{}}\n`
      + "    \\toprule\n" + line(headings.map((th) => latexText(textOf(th)))) + "    \\midrule\n"
      + grid.shownCells().map((row) => line(row.map((cell) => (cell ? latexCell(textOf(cell)) : "")))).join("")
      + "    \\bottomrule\n  \\end{tabular}\n\\end{table}\n";
  }

  /** Puts a text on the clipboard. Browsers that keep it from files on disk copy a selection. */
  async function copy(text) {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch {
      const focus = document.activeElement;
      const area = make("textarea", { "aria-hidden": "true", style: "position:fixed;opacity:0" });
      area.value = text;
      document.body.append(area);
      area.select();
      const done = document.execCommand("copy");
      area.remove();
      focus?.focus();
      return done;
    }
  }

  // ---- The tools above a table

  function addSorting(grid) {
    let [column, direction] = [-1, 0];
    grid.headings.forEach((heading, at) => {
      const sort = button("", () => {
        direction = column !== at ? 1 : [1, -1, 0][[0, 1, -1].indexOf(direction)];
        column = at;
        grid.sort(column, direction);
      });
      sort.append(...heading.childNodes);
      heading.append(sort);
    });
  }

  function columnsMenu(grid, changed) {
    const labels = grid.headings.slice(1).map((heading, i) => {
      const box = make("input", { type: "checkbox", onchange: () => {
        grid.shown[i + 1] = box.checked;
        grid.layOut();
        changed();
      } });
      box.checked = grid.shown[i + 1];
      return make("label", {}, box, " ", textOf(heading));
    });
    const close = (event) => {
      if (event.key !== "Escape" || !menu.open) return;
      menu.open = false;
      menu.firstChild.focus();
    };
    const menu = make("details", { class: "columns", onkeydown: close },
      make("summary", {}, "Columns"), make("div", {}, ...labels));
    return menu;
  }

  function addTools(table) {
    const grid = new Grid(table);
    if (grid.rows.length < 2) return;
    addSorting(grid);
    const caption = table.dataset.caption ?? "";
    const said = make("span", { role: "status" });
    const show = () => {
      const count = grid.filter(filter.value);
      said.textContent = filter.value.trim() ? `${count} of ${grid.rows.length} rows` : "";
    };
    const filter = make("input", { type: "search", placeholder: "Filter rows", "aria-label": `Filter rows: ${caption}`, oninput: show });
    const forms = Object.entries({ CSV: asCsv, Markdown: asMarkdown, LaTeX: asLatex }).map(([name, form]) => {
      const start = button(name, async () => {
        const done = await copy(form(grid));
        said.textContent = done ? `Copied as ${name}` : "The browser did not let the page copy";
      });
      start.setAttribute("aria-label", `Copy as ${name}`);
      return start;
    });
    const tools = make("div", { class: "tools", role: "group", "aria-label": `Tools: ${caption}` },
      filter, columnsMenu(grid, show), make("span", {}, "Copy as"), ...forms, said);
    (table.closest(".scroll") ?? table).before(tools);
  }

  // ---- Files

  function save(blob, name) {
    const link = make("a", { href: URL.createObjectURL(blob), download: name });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  }

  /** Links to files beside the page save the copies that are in the page, so that they work in a page alone. */
  function addFiles() {
    const files = JSON.parse(document.getElementById("files")?.textContent || "{}");
    document.addEventListener("click", async (event) => {
      const name = event.target.closest("a[data-file]")?.dataset.file;
      if (!name || !Object.hasOwn(files, name) || !window.DecompressionStream) return;
      event.preventDefault();
      const packed = Uint8Array.from(atob(files[name]), (c) => c.charCodeAt(0));
      const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
      save(new Blob([await new Response(stream).arrayBuffer()], { type: "text/csv" }), name.split("/").pop());
    });
  }

  // ---- Figures

  /** The drawing as a file of its own, in the colours of white paper. */
  function svgFile(svg) {
    const copy = svg.cloneNode(true);
    copy.querySelector(".tips")?.remove();
    for (const name of ["tabindex", "aria-roledescription", "aria-describedby"]) copy.removeAttribute(name);
    copy.setAttribute("role", "img");
    return new Blob([new XMLSerializer().serializeToString(copy)], { type: "image/svg+xml" });
  }

  async function savePng(svg, name) {
    const address = URL.createObjectURL(svgFile(svg));
    const image = new Image();
    image.src = address;
    await image.decode();
    const [width, height] = [2 * svg.width.baseVal.value, 2 * svg.height.baseVal.value];
    const canvas = make("canvas", { width, height });
    canvas.getContext("2d").drawImage(image, 0, 0, width, height);
    URL.revokeObjectURL(address);
    canvas.toBlob((blob) => save(blob, name), "image/png");
  }

  const tooltip = make("div", { class: "tooltip", role: "status" });
  let shownTip = null;

  /** Shows the value of a mark beside it, or of none. */
  function showTip(tip) {
    shownTip?.classList.remove("on");
    shownTip = tip;
    tooltip.textContent = tip?.dataset.tip ?? "";
    tip?.classList.add("on");
    placeTip();
  }

  function placeTip() {
    if (!shownTip) return;
    const [mark, box] = [shownTip.getBoundingClientRect(), tooltip.getBoundingClientRect()];
    const left = Math.min(Math.max(4, (mark.left + mark.right - box.width) / 2), document.documentElement.clientWidth - box.width - 4);
    const above = mark.top - box.height - 6;
    tooltip.style.left = `${left}px`;
    tooltip.style.top = `${above >= 0 ? above : mark.bottom + 6}px`;
  }

  /** The keys that walk through the values: from the index and the number of values to the next index. */
  const STEPS = {
    ArrowRight: (at, count) => Math.min(at + 1, count - 1), ArrowDown: (at, count) => Math.min(at + 1, count - 1),
    ArrowLeft: (at) => Math.max(at - 1, 0), ArrowUp: (at) => Math.max(at - 1, 0), Home: () => 0, End: (_, count) => count - 1,
  };

  function addTips(svg) {
    const tips = all(".tips [data-tip]", svg);
    if (tips.length === 0) return;
    let at = 0;
    const attributes = { tabindex: 0, role: "application", "aria-roledescription": "figure with values", "aria-describedby": "walk" };
    for (const [key, value] of Object.entries(attributes)) svg.setAttribute(key, value);
    svg.addEventListener("pointerover", (event) => showTip(event.target.closest("[data-tip]")));
    svg.addEventListener("pointerleave", () => showTip(null));
    svg.addEventListener("blur", () => showTip(null));
    svg.addEventListener("focus", () => svg.matches(":focus-visible") && showTip(tips[at]));
    svg.addEventListener("keydown", (event) => {
      if (event.key === "Escape") return showTip(null);
      if (!Object.hasOwn(STEPS, event.key) || event.ctrlKey || event.altKey || event.metaKey) return;
      event.preventDefault();
      at = shownTip ? STEPS[event.key](at, tips.length) : at;
      tips[at].scrollIntoView({ block: "nearest", inline: "nearest" });
      showTip(tips[at]);
    });
  }

  function addFigureTools(figure) {
    const svg = figure.querySelector(".drawing > svg");
    if (!svg) return;
    addTips(svg);
    const caption = figure.querySelector("figcaption");
    const place = caption.querySelector(".files") ?? caption.appendChild(make("span", { class: "files" }));
    all('a[href$=".svg"], a[href$=".png"]', place).forEach((link) => link.remove());
    place.prepend(button("SVG", () => save(svgFile(svg), `${figure.id}.svg`)), button("PNG", () => savePng(svg, `${figure.id}.png`)));
    for (const one of all("button", place)) one.setAttribute("aria-label", `Save as ${one.textContent}`);
  }

  // ---- The page

  function addThemeButton() {
    const system = matchMedia("(prefers-color-scheme: dark)");
    const root = document.documentElement;
    const isDark = () => (root.dataset.theme ?? (system.matches ? "dark" : "light")) === "dark";
    const label = () => (toggle.textContent = isDark() ? "Light colours" : "Dark colours");
    const toggle = button("", () => {
      root.dataset.theme = isDark() ? "light" : "dark";
      label();
    });
    system.addEventListener("change", label);
    label();
    document.querySelector("nav")?.append(toggle);
  }

  /** Paper cannot be unfolded, so that everything is open while the page is printed. */
  function openForPrint() {
    let opened = [];
    addEventListener("beforeprint", () => {
      opened = all("details:not([open], .columns)");
      for (const details of opened) details.open = true;
    });
    addEventListener("afterprint", () => opened.forEach((details) => (details.open = false)));
  }

  document.body.append(tooltip, make("p", { id: "walk", hidden: "" }, "Arrow keys walk through the values."));
  addEventListener("scroll", placeTip, { capture: true, passive: true });
  addEventListener("keydown", (event) => event.key === "Escape" && showTip(null));
  all("table.data").forEach(addTools);
  all("figure.plot").forEach(addFigureTools);
  addFiles();
  addThemeButton();
  openForPrint();
})();
