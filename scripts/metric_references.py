"""Computes sample statistics with the field's own packages and writes tests/data/metrics/references.npz.

- prdc: precision, recall, density, coverage at k = 3 and 5
- torch-fidelity: the Frechet distance, and the kernel distances of equal counts
- scipy: the Frechet distance by sqrtm, the energy distance (squared: theirs is a root)
- scikit-learn: the Gaussian kernel, logistic regression
- POT: sliced and one-dimensional Wasserstein distances along given directions
- clean-fid: the Frechet distance, kernel distances of equal counts, antialiased resizing by Pillow
- dgm-eval: the Frechet distance by eigenvalues, Vendi scores, AuthPct
- cmmd-pytorch: CMMD
- torch-fidelity: inception scores, and its resizing like TensorFlow's; torch: bicubic resizing

clean-fid is the pip package. https://github.com/layer6ai-labs/dgm-eval and https://github.com/sayakpaul/cmmd-pytorch are
not packages, so name checkouts of them: metric_references.py DGM_EVAL CMMD_PYTORCH. The script loads only single files
of them, and needs none of their image networks.

Features: "full" (60 x 6 against 45 x 6), "wide" (12 x 20 against 15 x 20: fewer samples than
columns) and "flat" (60 x 8 against 45 x 8, of rank 5, one column constant).
"""

import importlib.util
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
import torch
from onnx import TensorProto, helper
from scipy.spatial.distance import cdist

# torch-fidelity and clean-fid import torchvision for their image networks alone, which are not used here.
for name in ("torchvision", "torchvision.transforms", "torchvision.transforms.functional", "torchvision.datasets",
             "torchvision.models", "cleanfid.features"):
    sys.modules.setdefault(name, types.ModuleType(name))
for owner, names in {"torchvision.datasets": ["CIFAR10", "CIFAR100", "STL10"], "torchvision.models": ["vgg16"],
                     "torchvision.transforms": ["Compose", "Resize", "CenterCrop", "functional"],
                     "cleanfid.features": ["build_feature_extractor", "get_reference_statistics"]}.items():
    for name in names:
        setattr(sys.modules[owner], name, type(name, (), {}))
from torch_fidelity.metric_fid import fid_statistics_to_metric  # noqa: E402
from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x  # noqa: E402
from torch_fidelity.metric_isc import isc_features_to_metric  # noqa: E402
from torch_fidelity.metric_kid import kernel_mmd  # noqa: E402
import cleanfid.fid as cleanfid_fid  # noqa: E402
from cleanfid.resize import make_resizer  # noqa: E402


def module(path):
    """One file of a checkout, by itself."""
    spec = importlib.util.spec_from_file_location(pathlib.Path(path).stem + "_of_theirs", path)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


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
    checkouts = [pathlib.Path(folder) for folder in sys.argv[1:3]]
    dgm = lambda name: module(checkouts[0] / "dgm_eval" / "metrics" / f"{name}.py")  # noqa: E731
    cmmd = module(checkouts[1] / "distance.py").mmd
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
        statistics = [part for a in (x, y) for part in (a.mean(0), np.cov(a, rowvar=False))]
        out[f"{name}_frechet_clean"] = cleanfid_fid.frechet_distance(*statistics)
        out[f"{name}_frechet_dgm"] = dgm("fd").compute_efficient_FD_with_reps(x, y)
        for q in (0.5, 1, 2):
            out[f"{name}_vendi_{q}"] = dgm("vendi").compute_vendi_score(x, q=q)
        out[f"{name}_authpct"] = dgm("authpct").compute_authpct(y, x)
        unit = [a / np.linalg.norm(a, axis=1, keepdims=True) for a in (x, y)]
        out[f"{name}_cmmd"] = float(cmmd(*unit))
        for splits in (1, 3):
            scores = isc_features_to_metric(torch.tensor(x), splits=splits, shuffle=False)
            out[f"{name}_inception-score_{splits}"] = scores["inception_score_mean"]
    x, y = sets["full"]
    # One subset of all samples, whose order is shuffled and does not matter.
    out["equal_kernel_clean"] = cleanfid_fid.kernel_distance(x[:45], y, num_subsets=1, max_subset_size=45)
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
    np.savez_compressed(folder / "resize.npz", **resized(np.random.default_rng(6)))
    mean_network(folder / "mean.onnx")
    grey_network(folder / "grey.onnx")
    for key, value in out.items():
        if np.ndim(value) == 0:
            print(f"{key:28} {value:.15g}")


def mean_network(path):
    """An extractor whose answer is known: the mean and the sum of each channel."""
    port = lambda name, shape: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)  # noqa: E731
    nodes = [
        helper.make_node("ReduceMean", ["images"], ["means"], axes=[2, 3], keepdims=0),
        helper.make_node("Constant", [], ["pixels"], value_float=24.0),
        helper.make_node("Mul", ["means", "pixels"], ["sums"]),
    ]
    graph = helper.make_graph(nodes, "mean", [port("images", ["N", 3, 4, 6])], [port("means", ["N", 3]), port("sums", ["N", 3])])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())


def grey_network(path):
    """A denoiser of grey images of 4 x 6 that are normal with mean 0 and variance 1: x/(1 + sigma^2)."""
    port = lambda name, shape: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)  # noqa: E731
    nodes = [
        helper.make_node("Mul", ["sigma", "sigma"], ["square"]),
        helper.make_node("Constant", [], ["one"], value_float=1.0),
        helper.make_node("Add", ["square", "one"], ["variance"]),
        helper.make_node("Constant", [], ["axes"], value_ints=[1, 2, 3]),
        helper.make_node("Unsqueeze", ["variance", "axes"], ["divisor"]),
        helper.make_node("Div", ["x", "divisor"], ["denoised"]),
    ]
    graph = helper.make_graph(nodes, "grey", [port("x", ["N", 1, 4, 6]), port("sigma", ["N"])], [port("denoised", ["N", 1, 4, 6])])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())


def resized(rng):
    """One grey image larger and one smaller than the sizes they come to, by every package."""
    out = {}
    for image, shape in {"small": (11, 13), "large": (37, 29)}.items():
        pixels = rng.integers(0, 256, shape).astype(np.float32)
        out[image] = pixels
        for height, width in ((17, 23), (9, 8), (40, 12)):
            size = f"{height}x{width}"
            for name, kernel in {"clean": "bicubic", "clean-bilinear": "bilinear"}.items():
                resizer = make_resizer("PIL", False, kernel, (width, height))
                out[f"{image}_{name}_{size}"] = resizer(np.stack([pixels] * 3, -1))[..., 0]
            batch = torch.tensor(pixels)[None, None]
            like_tensorflow = interpolate_bilinear_2d_like_tensorflow1x(batch, size=(height, width), align_corners=False)
            out[f"{image}_tensorflow_{size}"] = like_tensorflow[0, 0].numpy()
            bicubic = torch.nn.functional.interpolate(batch, size=(height, width), mode="bicubic")
            out[f"{image}_torch_{size}"] = bicubic[0, 0].numpy()
    return out


if __name__ == "__main__":
    main()
