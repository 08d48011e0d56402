"""Prints the tables of docs/report.md from the tables of its runs.

    python scripts/report_tables.py [FOLDER]

FOLDER (default: reports/zoo) has a folder for every config of configs/report, as scripts/report leaves them. Only the standard library.
"""

import csv
import math
import pathlib
import re
import statistics
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
    """SteinDiff against the sampler itself at equal evaluations, and what the sampler without it reaches at its cost."""
    metrics = {(r["model"], r["sampler"], r["metric"]): r for r in rows(folder, config, "metrics")}
    lines = []
    for r in rows(folder, config, "contrasts"):
        key = (r["model"], r["baseline"], r["metric"])
        plain, corrected = metrics[key], metrics[r["model"], r["sampler"], r["metric"]]
        same = r"steps=\d+ ?|denoise_to_zero=true ?"
        rivals = [m for (model, sampler, metric), m in metrics.items()
                  if (model, metric) == (key[0], key[2]) and re.sub(same, "", sampler) == re.sub(same, "", r["baseline"])
                  and float(m["evaluations"]) <= float(corrected["cost"])]
        best = max(rivals, key=lambda m: float(m["evaluations"]))
        low, high = float(r["low"]), float(r["high"])
        sign = "better" if high < 0 else "worse" if low > 0 else "none resolved" if low != high else "no difference"
        lines.append([r["model"], r["baseline"], number(plain["evaluations"]), r["metric"], with_error(plain, "value", "stderr"),
                      f"{float(r['difference']):+.3g} [{low:+.3g}, {high:+.3g}]", sign, number(corrected["jvps"]), number(corrected["cost"]),
                      f"{with_error(best, 'value', 'stderr')} at {number(best['evaluations'])}"])
    table(["model", "sampler", "evaluations", "statistic", "without", "with − without, 95 % interval", "", "products", "cost",
           "without it at that cost"], lines)


def statistics_of_samples(folder, config):
    found = rows(folder, config, "metrics")
    names = list(dict.fromkeys(r["metric"] for r in found))
    cells = {}
    for r in found:
        cells.setdefault((r["model"], r["sampler"], r["evaluations"], r["n_generated"]), {})[r["metric"]] = with_error(r, "value", "stderr")
    table(["model", "sampler", "evaluations", "samples", *names],
          [[model, sampler, number(e), n, *(c.get(name, "") for name in names)] for (model, sampler, e, n), c in cells.items()])


def fisher(correlation, n):
    """The 95 % interval of a correlation by Fisher's z."""
    if abs(correlation) >= 1:
        return ""
    half = 1.96 / math.sqrt(n - 3)
    return "[{:.3f}, {:.3f}]".format(*(math.tanh(math.atanh(correlation) + sign * half) for sign in (-1, 1)))


def seeds(folder, config):
    """Each head and map against the exact trace, then the spread between seeds against the standard error within one."""
    groups, lines = {}, []
    for row in rows(folder, config, "summary"):
        if not row["bias"] or "log-det" in row["estimator"]:
            continue
        bias, n = float(row["bias"]), int(row["bias_n"])
        interval = with_error(row, "bias")
        lines.append([row["dataset"], row["estimator"], interval, number(row["rmse"]), number(row["correlation"], 4),
                      fisher(float(row["correlation"]), n)])
        # A network is named by its kind, its size, its steps and, last, its seed; the shipped one has seed 0.
        name = row["estimator"].replace("learned(stad)", "learned(stad-192-12000-0)").replace("(shortcut ", "(shortcut-5000-0 ")
        found = re.match(r"(.*)-(\d+)([ )].*)", name)
        if found:
            key = (row["dataset"], found[1] + found[3])
            groups.setdefault(key, []).append((bias, float(row["bias_stderr"]), float(row["rmse"]), float(row["correlation"])))
    table(["data", "estimator", "bias, nats", "RMSE", "correlation", "95 % interval"], lines)
    lines = []
    for (dataset, name), of in groups.items():
        if len(of) < 2:
            continue
        bias, error, rmse, correlation = zip(*of)
        lines.append([dataset, name, str(len(of)), f"{statistics.mean(bias):+.2f}", f"{statistics.stdev(bias):.2f}",
                      f"{statistics.mean(error):.2f}", f"{statistics.mean(rmse):.3g} ({min(rmse):.3g} to {max(rmse):.3g})",
                      f"{min(correlation):.4f} to {max(correlation):.4f}"])
    table(["data", "estimator", "seeds", "mean bias", "its spread between seeds", "standard error within a seed", "RMSE", "correlation"], lines)


def mean_and_error(values, sign="+"):
    if len(values) < 2:
        return f"{values[0]:{sign}.0f}" if values else ""
    return f"{statistics.mean(values):{sign}.1f} ± {statistics.stdev(values) / len(values) ** 0.5:.1f}"


def own_samples(folder, config):
    """The log-densities of images that a map draws: by its head and its determinant as they are drawn, and by the ODE at the same images."""
    lines = []
    for steps in (8, 4, 2, 1):
        drawn = rows(folder, config, f"determinant-{steps}")
        head, determinant = by_sample(rows(folder, config, f"head-{steps}")), by_sample(drawn)
        ode = by_sample(r for r in rows(folder, config, "samples")
                        if r["dataset"] == f"head-{steps}.npy" and r["estimator"].startswith("hutchinson"))
        cells = [mean_and_error(list(head.values()), ""), mean_and_error(list(ode.values()), "")]
        for one, other in ((head, ode), (head, determinant), (determinant, ode)):
            shared = sorted(set(one) & set(other))
            cells.append(f"{mean_and_error([one[s] - other[s] for s in shared])} ({len(shared)})")
        shared = sorted(set(head) & set(ode))
        correlation = statistics.correlation([head[s] for s in shared], [ode[s] for s in shared]) if shared else math.nan
        lines.append([str(steps), *cells, f"{correlation:.3f} {fisher(correlation, len(shared))}", f"{len(drawn) - len(determinant)} of {len(drawn)}"])
    table(["steps", "log q by the head", "by the ODE", "head − ODE", "head − determinant", "determinant − ODE", "correlation, head and ODE",
           "no determinant"], lines)
    errors(folder, config)


def by_sample(found):
    return {r["sample"]: float(r["log_likelihood"]) for r in found if r["log_likelihood"]}


def ranks(folder, config):
    """Likelihood beside sample quality, model by model, with Kendall's tau between each pair of columns."""
    values = {}
    for row in rows(folder, config, "summary"):
        values.setdefault(row["model"].split(" (")[0], {})[row["estimator"].split("(")[0]] = (row["bits_per_dim"], with_error(row, "bits_per_dim"))
    for row in rows(folder, config, "metrics"):
        values.setdefault(row["model"].split(" (")[0], {})[row["metric"]] = (row["value"], with_error(row, "value", "stderr"))
    names = list(dict.fromkeys(name for of in values.values() for name in of))
    table(["model", *names], [[model, *(of.get(name, ("", ""))[1] for name in names)] for model, of in values.items()])
    complete = [of for of in values.values() if len(of) == len(names)]
    table(["Kendall's tau", *names], [[a, *(f"{kendall([(float(of[a][0]), float(of[b][0])) for of in complete]):+.2f}" for b in names)]
                                      for a in names])


def kendall(pairs):
    """Concordant less discordant pairs, over all pairs."""
    signs = [(a - c) * (b - d) for i, (a, b) in enumerate(pairs) for c, d in pairs[:i]]
    return sum((s > 0) - (s < 0) for s in signs) / len(signs) if signs else math.nan


def main():
    folder = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "reports/zoo"
    shown = (("regimes", errors), ("heads", errors), ("heads", stein), ("maps", errors), ("mnist", errors), ("mnist", stein),
             ("conventions", conventions), ("f2d2", errors), ("exact", errors), ("samplers", samplers), ("map-samples", statistics_of_samples),
             ("own-samples", own_samples), ("seeds", seeds), ("ranks", ranks), ("ranks-mnist", ranks))
    for title, show in shown:
        if (folder / title).is_dir():
            print(f"## {title}\n")
            show(folder, title)


if __name__ == "__main__":
    main()
