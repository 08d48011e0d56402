"""Runs the authors' package of the feature likelihood divergence and writes tests/data/metrics/fld.npz.

    python scripts/fld_references.py CHECKOUT       # of https://github.com/marcojira/fld (not in any registry)

The package computes in torch's default type, which is float64 here. Its random draws are removed: its shuffles keep
the order. One set is fitted a second time with 37 training samples per step instead of 10,000.

Sets: "full" (60 generated x 6, 90 training, 50 held-out samples), "wide" (12 x 20, 15, 14: fewer samples than columns),
"copies" (half of the generated samples are training samples, some of them bit for bit).
"""

import pathlib
import sys
import types

import numpy as np
import torch

for name in ("matplotlib", "matplotlib.pyplot", "seaborn"):
    sys.modules.setdefault(name, types.ModuleType(name))
sys.path.insert(0, sys.argv[1])
import fld.metrics.FLD as of_fld  # noqa: E402
import fld.metrics.FLD_P as of_precision  # noqa: E402
import fld.MoG as mixtures  # noqa: E402

BATCH = 37


def as_it_is(tensor, size=None):
    return tensor if size is None else tensor[:size]


def distances(x, y):
    """What the package keeps as a comment, "more accurate but slower": a copy is at distance 0."""
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist") ** 2


def sets(rng):
    normal = lambda n, d, scale=1.0, shift=0.0: shift + scale * rng.standard_normal((n, d))  # noqa: E731
    full = normal(60, 6, 0.9, 0.3), normal(90, 6), normal(50, 6)
    wide = normal(12, 20, 1.2), normal(15, 20), normal(14, 20)
    train = normal(80, 4, 2.0, -1.0)
    copied = np.vstack([train[:10], train[10:20] + 1e-4 * normal(10, 4), normal(20, 4, 2.0, -1.0)])
    return {"full": full, "wide": wide, "copies": (copied, train, normal(40, 4, 2.0, -1.0))}


def main():
    torch.set_default_dtype(torch.float64)
    for module in (of_fld, of_precision, mixtures):
        module.shuffle = as_it_is
    mixtures.compute_dists = distances
    out = {}
    for name, arrays in sets(np.random.default_rng(11)).items():
        for part, array in zip(("generated", "train", "test"), arrays, strict=True):
            out[f"{name}_{part}"] = array
        generated, train, test = (torch.tensor(a) for a in arrays)
        out[f"{name}_fld"] = of_fld.FLD().compute_metric(train, test, generated)
        out[f"{name}_fld-gap"] = of_fld.FLD("gap").compute_metric(train, test, generated)
        out[f"{name}_fld-precision"] = of_precision.FLD_P().compute_metric(train, test, generated)
        mixture = mixtures.MoG(generated)
        out[f"{name}_widths"], losses = mixture.fit(train)
        out[f"{name}_epochs"] = len(losses)
        if name == "full":
            mixture = mixtures.MoG(generated)
            out[f"{name}_batch"] = BATCH
            out[f"{name}_widths_batch"] = mixture.fit(train, batch_size=BATCH)[0]
    path = pathlib.Path(__file__).parent.parent / "tests" / "data" / "metrics" / "fld.npz"
    np.savez_compressed(path, **{k: np.atleast_1d(np.asarray(v, float)) for k, v in out.items()})
    for key, value in out.items():
        if np.ndim(value) == 0:
            print(f"{key:24} {value:.15g}")


if __name__ == "__main__":
    main()
