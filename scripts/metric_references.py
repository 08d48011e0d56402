"""Computes sample statistics with the field's own packages and writes tests/data/metrics/references.npz.

- prdc: precision, recall, density, coverage at k = 3 and 5
- torch-fidelity: the Frechet distance, and the kernel distances of equal counts
- scipy: the Frechet distance by sqrtm, the energy distance (squared: theirs is a root)
- scikit-learn: the Gaussian kernel, logistic regression
- POT: sliced and one-dimensional Wasserstein distances along given directions

Features: "full" (60 x 6 against 45 x 6), "wide" (12 x 20 against 15 x 20: fewer samples than
columns) and "flat" (60 x 8 against 45 x 8, of rank 5, one column constant).
"""

import pathlib
import sys
import types

import numpy as np
import ot
import prdc
import scipy.linalg
import scipy.stats
import sklearn.linear_model
import sklearn.metrics.pairwise as pairwise
from scipy.spatial.distance import cdist

# torch-fidelity imports torchvision for its image networks alone, which are not used here.
for name in ("torchvision", "torchvision.transforms", "torchvision.transforms.functional", "torchvision.datasets",
             "torchvision.models"):
    sys.modules.setdefault(name, types.ModuleType(name))
for owner, names in {"torchvision.datasets": ["CIFAR10", "CIFAR100", "STL10"], "torchvision.models": ["vgg16"],
                     "torchvision.transforms": ["Compose", "Resize", "CenterCrop", "functional"]}.items():
    for name in names:
        setattr(sys.modules[owner], name, type(name, (), {}))
from torch_fidelity.metric_fid import fid_statistics_to_metric  # noqa: E402
from torch_fidelity.metric_kid import kernel_mmd  # noqa: E402


def frechet_scipy(x, y):
    s, t = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    # sqrtm of a singular product loses digits; eigenvalues of the symmetric form do not.
    root = scipy.linalg.sqrtm(s) if np.linalg.matrix_rank(s) == len(s) else None
    if root is None:
        values, vectors = np.linalg.eigh(s)
        root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    inner = np.linalg.eigvalsh(root @ t @ root)
    gap = x.mean(0) - y.mean(0)
    return gap @ gap + np.trace(s) + np.trace(t) - 2 * np.sqrt(np.clip(inner, 0, None)).sum()


def frechet_fidelity(x, y):
    statistics = [{"mu": a.mean(0), "sigma": np.cov(a, rowvar=False)} for a in (x, y)]
    result = fid_statistics_to_metric(*statistics, verbose=False)
    return float(next(iter(result.values())))


def mmd_rbf(x, y, bandwidth):
    kernel = lambda a, b: pairwise.rbf_kernel(a, b, gamma=1 / (2 * bandwidth**2))
    m, n = len(x), len(y)
    xx, yy = kernel(x, x), kernel(y, y)
    within = (xx.sum() - m) / (m * (m - 1)) + (yy.sum() - n) / (n * (n - 1))
    return within - 2 * kernel(x, y).mean()


def main():
    rng = np.random.default_rng(5)
    out = {}
    sets = {
        "full": (rng.standard_normal((60, 6)), 1.2 * rng.standard_normal((45, 6)) + 0.4),
        "wide": (rng.standard_normal((12, 20)), 1.5 * rng.standard_normal((15, 20)) - 0.2),
    }
    mix = rng.standard_normal((5, 7))
    flat = [np.hstack([rng.standard_normal((n, 5)) @ mix * s, np.full((n, 1), 0.3)]) for n, s in ((60, 1.0), (45, 0.8))]
    sets["flat"] = tuple(flat)
    for name, (x, y) in sets.items():
        out[f"{name}_generated"], out[f"{name}_reference"] = x, y
        out[f"{name}_frechet_scipy"] = frechet_scipy(x, y)
        out[f"{name}_frechet_fidelity"] = frechet_fidelity(x, y)
        for k in (3, 5):
            for key, value in prdc.compute_prdc(real_features=y, fake_features=x, nearest_k=k).items():
                out[f"{name}_{key}_{k}"] = value
        out[f"{name}_energy"] = 2 * cdist(x, y).mean() - cdist(x, x).mean() - cdist(y, y).mean()
        for bandwidth in (0.7, 3.0):
            out[f"{name}_mmd-rbf_{bandwidth}"] = mmd_rbf(x, y, bandwidth)
        directions = rng.standard_normal((x.shape[1], 40))
        directions /= np.linalg.norm(directions, axis=0)
        out[f"{name}_directions"] = directions.T.copy()
        for p in (1, 2):
            out[f"{name}_sliced_{p}"] = ot.sliced_wasserstein_distance(x, y, projections=directions, p=p)
    x, y = sets["full"]
    out["line_energy"] = scipy.stats.energy_distance(x[:, 0], y[:, 0]) ** 2
    out["line_wasserstein_1"] = scipy.stats.wasserstein_distance(x[:, 0], y[:, 0])
    out["line_wasserstein_3"] = float(ot.emd2_1d(x[:, 0], y[:, 0], metric="minkowski", p=3)) ** (1 / 3)
    # torch-fidelity's kernel distance takes equal counts.
    out["equal_kernel"] = float(kernel_mmd(x[:45], y, kid_kernel="poly"))
    out["equal_mmd-rbf_0.7"] = float(kernel_mmd(x[:45], y, kid_kernel="rbf", kid_kernel_rbf_sigma=0.7))
    rows, classes = np.vstack([x, y]), np.r_[np.ones(60), np.zeros(45)]
    model = sklearn.linear_model.LogisticRegression(C=1.0, tol=1e-12, max_iter=10_000).fit(rows, classes)
    out["logistic"] = np.r_[model.coef_[0], model.intercept_]
    folder = pathlib.Path(__file__).parent.parent / "tests" / "data" / "metrics"
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(folder / "references.npz", **{k: np.atleast_1d(np.asarray(v, float)) for k, v in out.items()})
    for key, value in out.items():
        if np.ndim(value) == 0:
            print(f"{key:28} {value:.15g}")


if __name__ == "__main__":
    main()
