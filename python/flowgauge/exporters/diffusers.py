"""Models and pipelines of diffusers.

The files are laid out as diffusers' own exporters do it, with the configs beside them, and the
program drafts the card from these: `flowgauge card --from diffusers`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .._errors import ExportError
from .reading import (
    Condition,
    Given,
    Graph,
    Reading,
    batch_of,
    example_arguments,
    example_state,
    is_a,
    path_of,
)

PACKAGE = "diffusers."
NETWORKS = (
    "DiTTransformer2DModel",
    "PixArtTransformer2DModel",
    "UNet2DConditionModel",
    "UNet2DModel",
)
# The schedules with which these networks are mostly trained, where no scheduler says it.
USUAL = {
    "UNet2DConditionModel": {
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "beta_end": 0.012,
    }
}
LINEAR = {"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02}
# The number of vectors of text where no example says it.
TOKENS = 77


def matches(net: Any) -> bool:
    """Whether this is a model or a pipeline of diffusers."""
    return is_a(net, PACKAGE, "DiffusionPipeline", "ModelMixin")


def read(net: Any, given: Given) -> Reading:
    """Reads a pipeline by its parts, or a network with the scheduler that the caller gives."""
    if not is_a(net, PACKAGE, "DiffusionPipeline"):
        return read_model(net, given, given.scheduler, given.vae, "DiffusionPipeline")
    parts = dict(net.components)
    networks = [parts[name] for name in ("unet", "transformer") if parts.get(name) is not None]
    if len(networks) != 1:
        raise ExportError(
            f"the pipeline {type(net).__name__} has the parts {', '.join(parts)}; expected one "
            "network, unet or transformer",
            2,
        )
    vae = given.vae or parts.get("vae") or parts.get("vqvae")
    scheduler = given.scheduler or parts.get("scheduler")
    return read_model(networks[0], given, scheduler, vae, type(net).__name__)


def read_model(net: Any, given: Given, scheduler: Any, vae: Any, pipeline: str) -> Reading:
    """Reads a network with its scheduler and its autoencoder."""
    if not is_a(net, PACKAGE, *NETWORKS):
        kind = type(net).__name__
        hint = "; give it as `vae` with the network" if kind.startswith("Autoencoder") else ""
        raise ExportError(
            f"diffusers' {kind} is not one of the networks that are known: {', '.join(NETWORKS)}"
            f"{hint}",
            2,
        )
    if vae is not None and not is_a(vae, PACKAGE, "AutoencoderKL"):
        raise ExportError(f"the autoencoder is a {type(vae).__name__}, expected AutoencoderKL", 2)
    folder = "unet" if type(net).__name__.startswith("UNet") else "transformer"
    inputs, call, state = network_inputs(net, given)
    graph = Graph(f"{folder}/model.onnx", net, call, inputs, f"out_{state}")
    channels = inputs[state].shape[1]
    more = net.config.out_channels == 2 * channels
    reading = Reading(
        graph,
        state,
        "timestep",
        "noise",
        {},
        conditions={name: Condition(name) for name in inputs if name not in (state, "timestep")},
        channels=[0, channels] if more else None,
    )
    if vae is not None:
        reading.parts = autoencoder(vae, reading.shape)
    if scheduler is None and given.says_path():
        if vae is not None:
            raise ExportError("vae: it needs the scheduler of its pipeline; give `scheduler`", 2)
        reading.prediction, reading.path = given.keys["prediction"], path_of(given.keys["path"])
        return reading
    config = scheduler_config(scheduler)
    if config is None:
        config = usual_config(type(net).__name__)
        reading.guesses.append(
            f"the scheduler is not given, so that {config['beta_schedule']} betas from "
            f"{config['beta_start']} to {config['beta_end']} in 1000 steps and a prediction of the "
            "noise are guessed; give `scheduler`, or path and prediction"
        )
    # The times of the check; the card's path is drafted.
    reading.path = {"kind": "discrete", "steps": config.get("num_train_timesteps") or 1000}
    reading.configs = configs_writer(net, vae, config, folder, pipeline)
    return reading


def network_inputs(net: Any, given: Given) -> tuple[dict[str, Any], Callable[..., Any], str]:
    """An example of the inputs by name, the call that takes them, and the name of the state."""
    import torch

    config = net.config
    transformer = not type(net).__name__.startswith("UNet")
    state = "hidden_states" if transformer else "sample"
    example = {n: batch_of(a) for n, a in example_arguments(net, given.example).items()}
    x = example_state(net, given, state)
    if x is None:
        size = config.sample_size
        if size is None:
            raise ExportError("the config has no sample_size; give `example`, a batch of states", 2)
        height, width = size if isinstance(size, (list, tuple)) else (size, size)
        x = torch.randn(3, config.in_channels, height, width)
    times = torch.tensor([10.0, 500.0, 990.0])
    if config.get("time_embedding_type") == "learned":
        times = (times / 1000 * config.num_train_timesteps).long()
    inputs = {state: batch_of(x), "timestep": times}

    def add(name: str, default: Any) -> None:
        inputs[name] = example.get(name, default)

    added: list[str] = []
    if is_a(net, PACKAGE, "UNet2DConditionModel"):
        width = config.encoder_hid_dim or config.cross_attention_dim
        width = width[0] if isinstance(width, (list, tuple)) else width
        add("encoder_hidden_states", torch.randn(3, TOKENS, width))
        if config.addition_embed_type == "text_time":
            count = 6  # Original size, crop, target size.
            pooled = config.projection_class_embeddings_input_dim
            pooled -= count * config.addition_time_embed_dim
            add("text_embeds", torch.randn(3, pooled))
            add("time_ids", torch.rand(3, count) * 1000)
            added = ["text_embeds", "time_ids"]
        elif config.addition_embed_type is not None:
            raise ExportError(f"addition_embed_type {config.addition_embed_type} is not known", 2)
    elif is_a(net, PACKAGE, "PixArtTransformer2DModel"):
        add("encoder_hidden_states", torch.randn(3, TOKENS, config.caption_channels))
        if net.use_additional_conditions:
            add("resolution", torch.full((3, 2), 1024.0))
            add("aspect_ratio", torch.ones(3, 1))
            added = ["resolution", "aspect_ratio"]
    elif is_a(net, PACKAGE, "DiTTransformer2DModel"):
        add("class_labels", torch.arange(3) % config.num_embeds_ada_norm)
    if not transformer and config.class_embed_type is None and config.num_class_embeds:
        add("class_labels", torch.arange(3) % config.num_class_embeds)
    elif not transformer and config.class_embed_type is not None:
        raise ExportError(f"class_embed_type {config.class_embed_type} is not known", 2)
    names = list(inputs)

    def call(net: Any, *values: Any) -> Any:
        named = dict(zip(names, values, strict=True))
        if is_a(net, PACKAGE, "PixArtTransformer2DModel"):
            named["added_cond_kwargs"] = {"resolution": None, "aspect_ratio": None}
        if added:
            named["added_cond_kwargs"] = {name: named.pop(name) for name in added}
        return net(**named, return_dict=False)[0]

    return inputs, call, state


def autoencoder(vae: Any, latent: list[int]) -> list[Graph]:
    """The encoder and the decoder of a latent model."""
    import torch

    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    image = [vae.config.in_channels, *(factor * size for size in latent[1:])]
    return [
        Graph(
            "vae_encoder/model.onnx",
            vae,
            lambda vae, x: vae.encode(x, return_dict=False)[0].parameters,
            {"sample": torch.randn(3, *image)},
            "latent_parameters",
        ),
        Graph(
            "vae_decoder/model.onnx",
            vae,
            lambda vae, z: vae.decode(z, return_dict=False)[0],
            {"latent_sample": torch.randn(3, *latent)},
            "sample",
        ),
    ]


def scheduler_config(scheduler: Any) -> dict[str, Any] | None:
    """The config of a scheduler: of the object, a dictionary, a file or a folder."""
    if scheduler is None:
        return None
    if isinstance(scheduler, (str, os.PathLike)):
        file = Path(scheduler)
        file = file / "scheduler_config.json" if file.is_dir() else file
        config: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return config
    if isinstance(scheduler, Mapping):
        return dict(scheduler)
    return {"_class_name": type(scheduler).__name__, **plain_config(scheduler.config)}


def usual_config(kind: str) -> dict[str, Any]:
    """The scheduler with which a network of this class is mostly used."""
    betas = USUAL.get(kind, LINEAR)
    return {
        "_class_name": "DDPMScheduler",
        **betas,
        "num_train_timesteps": 1000,
        "prediction_type": "epsilon",
    }


def plain_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of a config that JSON has."""

    def plain(value: Any) -> Any:
        if isinstance(value, np.ndarray) or hasattr(value, "tolist"):
            return value.tolist()
        return list(value) if isinstance(value, tuple) else value

    return {key: plain(value) for key, value in config.items() if not key.startswith("_")}


def configs_writer(
    net: Any, vae: Any, scheduler: dict[str, Any], folder: str, pipeline: str
) -> Callable[[Path], None]:
    """Returns what writes the configs into the folder of the card."""
    configs: dict[str, Any] = {
        f"{folder}/config.json": {"_class_name": type(net).__name__, **plain_config(net.config)},
        "scheduler/scheduler_config.json": scheduler,
    }
    index = {
        "_class_name": pipeline,
        folder: ["diffusers", type(net).__name__],
        "scheduler": ["diffusers", scheduler.get("_class_name")],
    }
    if vae is not None:
        config = {"_class_name": type(vae).__name__, **plain_config(vae.config)}
        configs["vae_encoder/config.json"] = configs["vae_decoder/config.json"] = config
        index["vae"] = ["diffusers", type(vae).__name__]
    configs["model_index.json"] = index

    def write(out: Path) -> None:
        for name, config in configs.items():
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            (out / name).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        if scheduler.get("trained_betas") is not None:
            betas = np.asarray(scheduler["trained_betas"], dtype=np.float64)
            np.save(out / "scheduler/betas.npy", betas)

    return write
