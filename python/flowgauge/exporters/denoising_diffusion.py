"""denoising-diffusion-pytorch: GaussianDiffusion, and its U-Net alone."""

from __future__ import annotations

from typing import Any

from .._errors import ExportError
from .reading import Given, Graph, Reading, batch_of, example_state, is_a, path_of, require_state

PACKAGE = "denoising_diffusion_pytorch."
PREDICTIONS = {"pred_noise": "noise", "pred_x0": "denoised", "pred_v": "v"}


def matches(net: Any) -> bool:
    """Whether this is the U-Net or the diffusion around it."""
    return is_a(net, PACKAGE, "Unet", "GaussianDiffusion")


def read(net: Any, given: Given) -> Reading:
    """Reads the U-Net with the objective and the betas of its diffusion.

    The betas of a U-Net alone are guessed, unless the caller says path and prediction.
    """
    import torch

    diffusion = net if is_a(net, PACKAGE, "GaussianDiffusion") else None
    unet = diffusion.model if diffusion is not None else net
    if unet.self_condition:
        raise ExportError(
            "the U-Net conditions itself on its last estimate, so that it is no function of state "
            "and time, and has no density; expected self_condition=False",
            2,
        )
    state = example_state(net, given, "x", "img")
    if state is None and diffusion is not None:
        state = torch.randn(3, unet.channels, *diffusion.image_size)
    x = batch_of(require_state(state, "the U-Net"))
    inputs = {"x": x, "t": torch.tensor([1.0, 400.0, 900.0])}
    graph = Graph("network.onnx", unet, lambda net, x, t: net(x, t), inputs, "output")
    channels = [0, unet.channels] if unet.out_dim == 2 * unet.channels else None
    reading = Reading(graph, "x", "t", "v", {}, {"feed": "index"}, channels=channels)
    if diffusion is not None:
        reading.prediction = PREDICTIONS[diffusion.objective]
        reading.arrays["betas.npy"] = diffusion.betas.double().cpu().numpy()
        reading.path = discrete("betas.npy", len(diffusion.betas))
        if diffusion.unnormalize(torch.tensor(-1.0)) == 0.0:
            reading.data = {"range": [-1, 1], "levels": 256}
            reading.remarks.append("Images from 0 to 1 are scaled to −1 to 1 before the network.")
    elif given.says_path():
        reading.path = path_of(given.keys["path"])
        reading.time_keys = {}
    else:
        reading.path = discrete("sigmoid", 1000)
        reading.guesses.append(
            "path and prediction are the defaults of GaussianDiffusion (1000 sigmoid betas, v), "
            "which the U-Net does not say; export the GaussianDiffusion, or give path and "
            "prediction"
        )
    return reading


def discrete(betas: str, steps: int) -> dict[str, Any]:
    """A path over training steps."""
    return {"kind": "discrete", "betas": betas, "steps": steps}
