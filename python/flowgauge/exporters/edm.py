"""EDM's preconditioned networks, as they come out of its pickles: D(x; σ) on x = x₀ + σ ε."""

from __future__ import annotations

import math
from typing import Any

from .reading import Condition, Given, Graph, Reading, batch_of, example_state, is_a

NAMES = ("EDMPrecond", "VPPrecond", "VEPrecond", "iDDPMPrecond")
# EDM samples between these levels; its network takes any.
SIGMA_MIN, SIGMA_MAX = 0.002, 80.0


def matches(net: Any) -> bool:
    """Whether this is one of EDM's four preconditionings."""
    return is_a(net, None, *NAMES) and hasattr(net, "img_resolution")


def read(net: Any, given: Given) -> Reading:
    """Reads the denoiser. Classes are one-hot rows; no class is a row of zeros."""
    import torch

    state = example_state(net, given, "x")
    if state is None:
        state = torch.randn(3, net.img_channels, net.img_resolution, net.img_resolution)
    x = batch_of(state)
    classes = int(getattr(net, "label_dim", 0) or 0)
    inputs = {"x": x, "sigma": torch.tensor([0.1, 1.0, 10.0])}
    conditions = {}
    if classes:
        inputs["class_labels"] = torch.eye(classes)[torch.arange(3) % classes]
        conditions["label"] = Condition("class_labels", [0.0] * classes)

    def call(net: Any, x: Any, sigma: Any, label: Any = None) -> Any:
        return net(x, sigma, label, force_fp32=True)

    sigma_min, sigma_max = float(net.sigma_min), float(net.sigma_max)
    path = {
        "kind": "edm",
        "sigma_min": sigma_min if sigma_min > 0 else SIGMA_MIN,
        "sigma_max": sigma_max if math.isfinite(sigma_max) else SIGMA_MAX,
    }
    remarks = []
    if (sigma_min, sigma_max) != (path["sigma_min"], path["sigma_max"]):
        remarks.append("The network takes any noise level; these are the levels of EDM's sampler.")
    graph = Graph("denoiser.onnx", net, call, inputs, "denoised")
    return Reading(
        graph,
        "x",
        "sigma",
        "denoised",
        path,
        {"feed": "sigma"},
        conditions,
        prior={"std": path["sigma_max"]},
        remarks=remarks,
    )
