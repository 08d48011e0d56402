"""Prints the tables of docs/report.md from the tables of its runs.

    python scripts/report_tables.py [FOLDER]

FOLDER (default: reports/zoo) has a folder for every config of configs/report, as scripts/report leaves them. Only the standard library.
"""

import csv
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent


def rows(folder, config, table):
    path = folder / config / f"{table}.csv"
    return list(csv.DictReader(path.open())) if path.exists() else []


def number(text, digits=3):
    if text in ("", None):
        return ""
    value = float(text)
    return f"{value:.{digits}g}" if abs(value) < 1000 else f"{value:,.0f}"


def with_error(row, column, error=None):
    """Value ± error, with two digits of the error."""
    value, spread = row[column], row[error or f"{column}_stderr"]
    if value in ("", None):
        return ""
    if spread in ("", None) or float(spread) == 0:
        return number(value)
    digits = max(0, 1 - int(f"{float(spread):.1e}".split("e")[1]))
    return f"{float(value):.{digits}f} ± {float(spread):.{digits}f}"


def table(head, lines):
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for line in lines:
        print("| " + " | ".join(line) + " |")
    print()


def errors(folder, config, keep=lambda row: True):
    """Each estimator against the first of its entry. Products are counted, because the clock of a shared machine is no measure."""
    lines, last = [], None
    for row in filter(keep, rows(folder, config, "summary")):
        group = (row["model"], row["dataset"])
        name = f"{row['model'].split(' (')[0]}, {row['dataset']}" if group != last else ""
        last = group
        bias = with_error(row, "bias")
        lines.append([name, row["estimator"], with_error(row, "nats"), bias, number(row["rmse"]), number(row["correlation"], 4),
                      number(row["jvps"]), number(row["head_calls"])])
    table(["data", "estimator", "log p, nats", "bias", "RMSE", "correlation", "products", "head calls"], lines)


def stein(folder, config):
    """The largest |z| over strata and test functions, and its Bonferroni p-value."""
    worst = {}
    for row in rows(folder, config, "stein"):
        key = (row["model"].split(" (")[0], row["dataset"], row["head"])
        if row["z"] and (key not in worst or abs(float(row["z"])) > abs(float(worst[key]["z"]))):
            worst[key] = row
    table(["data", "head", "largest abs z", "its p, all tests counted", "at σ from", "to"],
          [[f"{m}, {d}", h, number(str(abs(float(r["z"])))), number(r["p"], 2), number(r["from"], 2), number(r["to"], 2)]
           for (m, d, h), r in worst.items()])


def conventions(folder, config):
    lines = []
    for row in rows(folder, config, "summary"):
        lines.append([row["model"].split(" (")[0], row["estimator"], row["kind"], row["bound"], row["draws"],
                      with_error(row, "bits_per_dim"), number(row["evaluations"]), number(row["jvps"])])
    table(["model", "estimator", "kind", "bound", "draws", "bits/dim", "evaluations", "products"], lines)
    seen, lines = set(), []
    for row in rows(folder, config, "conventions"):
        first = (row["model"], row["estimator"], row["kind"])
        seen.add(first)
        if len({s for s in seen}) == 1:
            lines.append([row["convention"], row["unit"], with_error(row, "value", "stderr"), row["reason"] or row["formula"]])
    table(["convention", "unit", "value", "formula, or why it does not apply"], lines)


def samplers(folder, config):
    lines = [[r["sampler"], r["baseline"], r["metric"], f"{float(r['difference']):+.3g}",
              f"[{float(r['low']):+.3g}, {float(r['high']):+.3g}]"] for r in rows(folder, config, "contrasts")]
    table(["sampler", "without", "statistic", "with − without", "95 % interval"], lines)


def main():
    folder = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "reports/zoo"
    shown = (("regimes", errors), ("heads", errors), ("heads", stein), ("maps", errors), ("mnist", errors), ("mnist", stein),
             ("conventions", conventions), ("f2d2", errors), ("exact", errors), ("samplers", samplers))
    for title, show in shown:
        if (folder / title).is_dir():
            print(f"## {title}\n")
            show(folder, title)


if __name__ == "__main__":
    main()
