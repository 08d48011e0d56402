"""Prints the paired differences of the log-densities of two models on the same rows of data.

    python scripts/paired_models.py REPORT MODEL MODEL ...

REPORT is the folder of a run. Every model is compared with the first one named, on each data set that both have, sample
by sample from tables/samples.csv: the mean difference in nats with one standard error, the standard deviation of the
differences, and the correlation. Failed rows are left out in pairs. A model with several estimators takes part once for
each. Needs only Python.
"""

import csv
import math
import pathlib
import sys


def read(report):
    """By model, dataset, solver and estimator: the log-density of each sample."""
    found = {}
    with open(pathlib.Path(report) / "tables" / "samples.csv", newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["log_likelihood"]:
                key = row["model"], row["dataset"], row["solver"], row["estimator"]
                found.setdefault(key, {})[int(row["sample"])] = float(row["log_likelihood"])
    return found


def moments(values):
    mean = math.fsum(values) / len(values)
    return mean, math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1))


def compare(one, other):
    """n, mean difference, its standard error, standard deviation of the differences, correlation."""
    both = sorted(one.keys() & other.keys())
    a, b = [one[i] for i in both], [other[i] for i in both]
    mean, spread = moments([y - x for x, y in zip(a, b)])
    (mean_a, std_a), (mean_b, std_b) = moments(a), moments(b)
    covariance = math.fsum((x - mean_a) * (y - mean_b) for x, y in zip(a, b)) / (len(both) - 1)
    return len(both), mean, spread / math.sqrt(len(both)), spread, covariance / (std_a * std_b)


def main():
    if len(sys.argv) < 4:
        raise SystemExit(__doc__)
    report, first, *others = sys.argv[1:]
    found = read(report)
    for model in (first, *others):
        if not any(key[0] == model for key in found):
            raise SystemExit(f"{report}: no rows of the model {model}; there are {', '.join(sorted({k[0] for k in found}))}")
    print(f"| minus {first} | data | n | mean, nats | standard deviation | correlation |\n|---|---|---|---|---|---|")
    for one, rows in found.items():
        for other, theirs in found.items():
            if one[0] == first and other[0] in others and one[1] == other[1]:
                n, mean, error, spread, correlation = compare(rows, theirs)
                print(f"| {other[0]}, {other[3]} | {one[1]} | {n} | {mean:+.4f} ± {error:.4f} | {spread:.3f} | {correlation:.4f} |")


if __name__ == "__main__":
    main()
