"""Cards and ONNX files of the libraries' networks, held against what the libraries compute.

The program draws samples or computes likelihoods from each card, and the same is computed by the
library's own objects, or by the formulas of the library's paper, in torch.
"""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

import flowgauge

pytestmark = [pytest.mark.torch, pytest.mark.needs("torch", "onnx", "onnxscript", "yaml")]

if importlib.util.find_spec("torch") is not None:
    import torch

    import networks

    torch.set_num_threads(1)


def read(card):
    import yaml

    def named(value):
        """YAML's word for nothing is the name of a key of conditions."""
        if isinstance(value, dict):
            return {"null" if k is None else k: named(v) for k, v in value.items()}
        return value

    return named(yaml.safe_load(card.text))


def noise(*shape, seed=5):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def gap(got, want):
    want = want.detach().double().numpy()
    return np.abs(np.asarray(got, dtype=np.float64) - want).max() / np.abs(want).max()


def agrees(card):
    """The ONNX files compute what the modules compute, in both precisions."""
    for gaps in card.differences.values():
        assert gaps["float32"] <= 1e-5
        assert gaps["float64"] is not None
        assert gaps["float64"] <= 1e-5
    # Batches of one, two and three agree in the program too.
    assert card.inspection.count("  ok     batch of") == 2


def sigma_path(steps):
    return {"schedule": "karras", "steps": steps, "denoise_to_zero": True}


# --- diffusers


def ddim(net, scheduler, x, steps, **more):
    """The loop of diffusers' pipelines, with its own scheduler."""
    scheduler.set_timesteps(steps)
    channels = x.shape[1]
    with torch.no_grad():
        for t in scheduler.timesteps:
            output = net(x, timestep=t.repeat(len(x)), **more, return_dict=False)[0]
            x = scheduler.step(output[:, :channels], t, x, return_dict=False)[0]
    return x


def follows_ddim(card, net, scheduler, shape, condition=None, **more):
    """The program follows the scheduler from the card, as the pipeline does."""
    x = noise(3, *shape)
    want = ddim(net, scheduler, x, 6, **more)
    got = flowgauge.sample(
        card,
        noise=x,
        scheduler=card.path.parent / "scheduler/scheduler_config.json",
        steps=6,
        condition=condition,
        latents="latent" in read(card),
        quiet=True,
    )
    assert gap(got, want) < 1e-5


@pytest.mark.needs("diffusers")
def test_unet2d_with_its_scheduler(tmp_path):
    from diffusers import DDIMScheduler

    net = networks.unet2d()
    scheduler = DDIMScheduler(
        beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction", clip_sample=False
    )
    card = flowgauge.export(net, scheduler=scheduler, out=tmp_path / "m", name="unet")
    agrees(card)
    keys = read(card)
    assert (keys["name"], keys["network"]["prediction"]) == ("unet", "v")
    assert keys["path"] == {"kind": "discrete", "betas": "squaredcos", "steps": 1000}
    assert keys["network"]["time"] == {"feed": "index"}
    follows_ddim(card, net, scheduler, (1, 8, 8))


@pytest.mark.needs("diffusers")
def test_unet2d_with_classes_and_other_betas(tmp_path):
    from diffusers import DDIMScheduler

    net = networks.unet2d(num_class_embeds=5)
    scheduler = DDIMScheduler(trained_betas=np.linspace(1e-3, 0.3, 50), num_train_timesteps=50)
    scheduler.register_to_config(clip_sample=False)
    card = flowgauge.export(net, scheduler=scheduler, out=tmp_path / "m")
    agrees(card)
    keys = read(card)
    assert keys["network"]["conditions"] == {"label": {"input": "class_labels"}}
    assert keys["path"] == {"kind": "discrete", "betas": "scheduler/betas.npy", "steps": 50}
    labels = torch.tensor([0, 4, 2])
    follows_ddim(card, net, scheduler, (1, 8, 8), {"label": labels}, class_labels=labels)


@pytest.mark.needs("diffusers")
def test_what_a_bare_unet2d_does_not_say_is_guessed_aloud(tmp_path):
    with pytest.warns(flowgauge.GuessWarning, match="the scheduler is not given"):
        card = flowgauge.export(networks.unet2d(), out=tmp_path / "m")
    assert card.guesses
    assert "# Guessed: the scheduler is not given" in card.text
    assert read(card)["path"]["betas"] == {"linear": [0.0001, 0.02]}


@pytest.mark.needs("diffusers")
def test_unet2d_condition_with_its_autoencoder(tmp_path):
    from diffusers import DDIMScheduler

    net, vae = networks.unet2d_condition(), networks.autoencoder(4)
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False
    )
    context, null = noise(3, 5, 8), noise(5, 8, seed=6)
    example = {"sample": noise(2, 4, 4, 6), "encoder_hidden_states": context}
    card = flowgauge.export(
        net, example, scheduler=scheduler, vae=vae, out=tmp_path / "m",
        conditions={"context": {"null": null}}, guidance={"scale": 3.0},
    )  # fmt: skip
    agrees(card)
    keys = read(card)
    assert keys["network"]["conditions"]["context"]["null"] == "null.npy"
    assert keys["path"]["betas"] == {"scaled-linear": [0.00085, 0.012]}
    assert keys["latent"]["scale"] == 0.18215
    assert keys["latent"]["shape"] == [3, 8, 12]

    def guided(x, timestep, return_dict):
        weak = net(x, timestep, null.expand(3, 5, 8), return_dict=False)[0]
        strong = net(x, timestep, context, return_dict=False)[0]
        return (weak + 3.0 * (strong - weak),)

    follows_ddim(card, guided, scheduler, (4, 4, 6), {"context": context})
    x = noise(3, 4, 4, 6)
    want = ddim(guided, scheduler, x, 6)
    want = vae.decode(want / 0.18215, return_dict=False)[0]
    images = flowgauge.sample(
        card, noise=x, scheduler=tmp_path / "m/scheduler/scheduler_config.json", steps=6,
        condition={"context": context}, quiet=True,
    )  # fmt: skip
    assert gap(images, want) < 1e-4

    # The encoder: the log-density of images is that of their scaled latent means.
    spec = {"divergence": {"hutchinson": {"probes": 1}}, "solver": {"heun": {"steps": 3}}}
    means = vae.encode(want).latent_dist.mean * 0.18215
    parts = [
        flowgauge.likelihood(
            card, data, **spec, condition={"context": context}, lattice="allow", quiet=True
        ).samples["prior_log_density"]
        for data in (want, means)
    ]
    assert gap(parts[0], torch.tensor(np.asarray(parts[1]))) < 1e-4


@pytest.mark.needs("diffusers")
def test_dit_pipeline(tmp_path):
    from diffusers import DDIMScheduler, DiTPipeline

    scheduler = DDIMScheduler(clip_sample=False)
    net = networks.dit()
    pipeline = DiTPipeline(net, networks.autoencoder(3), scheduler)
    card = flowgauge.export(pipeline, out=tmp_path / "m")
    agrees(card)
    keys = read(card)
    assert keys["network"]["channels"] == [0, 3]
    assert keys["network"]["conditions"] == {"label": {"input": "class_labels", "null": 10}}
    assert keys["path"] == {"kind": "discrete", "betas": {"linear": [0.0001, 0.02]}, "steps": 1000}
    labels = torch.tensor([3, 0, 9])
    follows_ddim(card, net, scheduler, (3, 4, 4), {"label": labels}, class_labels=labels)
    # The pipeline of the caller is as it was.
    assert pipeline.transformer is net
    assert next(net.parameters()).requires_grad


@pytest.mark.needs("diffusers")
def test_pixart(tmp_path):
    from diffusers import DDIMScheduler

    net, scheduler, context = networks.pixart(), DDIMScheduler(clip_sample=False), noise(3, 5, 12)
    example = {"hidden_states": noise(3, 4, 8, 8), "encoder_hidden_states": context}
    card = flowgauge.export(net, example, scheduler=scheduler, out=tmp_path / "m")
    agrees(card)
    assert read(card)["network"]["channels"] == [0, 4]
    added = {"added_cond_kwargs": {"resolution": None, "aspect_ratio": None}}
    follows_ddim(
        card,
        net,
        scheduler,
        (4, 8, 8),
        {"context": context},
        encoder_hidden_states=context,
        **added,
    )


@pytest.mark.needs("diffusers")
def test_further_conditions_of_diffusers(tmp_path):
    """SDXL's pooled embedding and sizes, and PixArt's resolution and aspect ratio."""
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(clip_sample=False)
    net = networks.unet2d_condition(
        addition_embed_type="text_time", addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=64,
    )  # fmt: skip
    values = {"context": noise(3, 77, 8), "text_embeds": noise(3, 16), "time_ids": noise(3, 6)}
    card = flowgauge.export(net, scheduler=scheduler, out=tmp_path / "xl")
    agrees(card)
    added = {name: values[name] for name in ("text_embeds", "time_ids")}
    follows_ddim(
        card, net, scheduler, (4, 4, 6), values, encoder_hidden_states=values["context"],
        added_cond_kwargs=added,
    )  # fmt: skip

    net = networks.pixart(attention_head_dim=12, use_additional_conditions=True)
    sizes = {"resolution": 512 * (1 + noise(3, 2) ** 2), "aspect_ratio": 1 + noise(3, 1) ** 2}
    context = noise(3, 77, 12)
    card = flowgauge.export(net, scheduler=scheduler, out=tmp_path / "pixart")
    agrees(card)
    follows_ddim(
        card, net, scheduler, (4, 8, 8), {"context": context, **sizes},
        encoder_hidden_states=context, added_cond_kwargs=sizes,
    )  # fmt: skip


@pytest.mark.needs("diffusers")
def test_a_table_of_times_takes_whole_numbers(tmp_path):
    from diffusers import DDIMScheduler

    net = networks.unet2d(time_embedding_type="learned", num_train_timesteps=50)
    scheduler = DDIMScheduler(num_train_timesteps=50, clip_sample=False)
    card = flowgauge.export(net, scheduler=scheduler, out=tmp_path / "m")
    agrees(card)
    assert read(card)["network"]["time"] == {"feed": "index", "interpolate": True}
    follows_ddim(card, net, scheduler, (1, 8, 8))


@pytest.mark.needs("diffusers")
def test_flow_matching_scheduler(tmp_path):
    from diffusers import FlowMatchEulerDiscreteScheduler

    net, scheduler = networks.unet2d(), FlowMatchEulerDiscreteScheduler(shift=3.0)
    card = flowgauge.export(net, scheduler=scheduler, out=tmp_path / "m")
    keys = read(card)
    assert keys["path"] == {"kind": "flow-matching", "data_at": 0}
    assert keys["network"]["time"] == {"feed": "t", "scale": 1000}
    assert keys["network"]["prediction"] == "velocity"
    x = noise(3, 1, 8, 8)
    scheduler.set_timesteps(6)
    want = x
    with torch.no_grad():
        for t in scheduler.timesteps:
            output = net(want, t.repeat(3), return_dict=False)[0]
            want = scheduler.step(output, t, want, return_dict=False)[0]
    got = flowgauge.sample(
        card, noise=x, scheduler=tmp_path / "m/scheduler/scheduler_config.json", steps=6, quiet=True
    )
    assert gap(got, want) < 1e-5


@pytest.mark.needs("diffusers")
def test_an_autoencoder_alone_is_refused(tmp_path):
    with pytest.raises(flowgauge.ExportError, match="give it as `vae` with the network"):
        flowgauge.export(networks.autoencoder(4), out=tmp_path / "m")
    assert not (tmp_path / "m").exists()


# --- EDM


def edm_sampler(net, x, steps, low, high, labels=None):
    """Algorithm 1 of the EDM paper: Heun over ρ = 7, and Euler in the last step to 0."""
    ramp = torch.arange(steps, dtype=torch.float64) / (steps - 1)
    levels = (high ** (1 / 7) + ramp * (low ** (1 / 7) - high ** (1 / 7))) ** 7
    levels = torch.cat([levels, torch.zeros(1)])

    def slope(x, sigma):
        denoised = net(x, sigma.repeat(len(x)), labels).double()
        return (x - denoised) / sigma

    x = x.double()
    with torch.no_grad():
        for sigma, after in zip(levels, levels[1:], strict=False):
            d = slope(x, sigma)
            ahead = x + (after - sigma) * d
            x = ahead if after == 0 else x + (after - sigma) * (d + slope(ahead, after)) / 2
    return x


@pytest.mark.parametrize(
    ("kind", "levels"),
    [
        ("EDMPrecond", (0.002, 80.0)),
        ("VPPrecond", (0.001, 152.2)),
        ("VEPrecond", (0.02, 100.0)),
        ("iDDPMPrecond", (0.0064, 20291.0)),
    ],
)
def test_edm_preconditioning(tmp_path, kind, levels):
    net = networks.awaken(getattr(networks, kind)())
    card = flowgauge.export(net, out=tmp_path / "m")
    agrees(card)
    keys = read(card)
    assert keys["network"]["prediction"] == "denoised"
    assert keys["network"]["time"] == {"feed": "sigma"}
    path = keys["path"]
    assert path["kind"] == "edm"
    assert (path["sigma_min"], path["sigma_max"]) == pytest.approx(levels, rel=0.03)
    x = noise(3, 1, 8, 8) * path["sigma_max"]
    want = edm_sampler(net, x, 6, path["sigma_min"], path["sigma_max"])
    got = flowgauge.sample(card, noise=x, sampler={"heun": sigma_path(6)}, float64=True, quiet=True)
    assert gap(got, want) < 1e-5


def test_edm_with_classes(tmp_path):
    net = networks.awaken(networks.EDMPrecond(label_dim=3))
    card = flowgauge.export(net, out=tmp_path / "m")
    agrees(card)
    assert read(card)["network"]["conditions"] == {
        "label": {"input": "class_labels", "null": [0.0, 0.0, 0.0]}
    }
    x, labels = 80 * noise(3, 1, 8, 8), torch.tensor([2, 0, 1])
    want = edm_sampler(net, x, 6, 0.002, 80.0, torch.eye(3)[labels])
    got = flowgauge.sample(
        card, noise=x, sampler={"heun": sigma_path(6)}, condition={"label": labels}, quiet=True
    )
    assert gap(got, want) < 1e-5
    null = flowgauge.sample(
        card, noise=x, sampler={"heun": sigma_path(6)}, condition={"label": None}, quiet=True
    )
    assert gap(null, edm_sampler(net, x, 6, 0.002, 80.0, torch.zeros(3, 3))) < 1e-5


# --- flow matching


def euler(velocity, x, steps):
    """From noise at time 0 to data at time 1."""
    with torch.no_grad():
        for i in range(steps):
            x = x + velocity(x, torch.full((len(x),), i / steps)) / steps
    return x


def flows(card, velocity, x, condition=None):
    """The program's samples, and their log-density, are those of the velocity with data at 1."""
    keys = read(card)
    assert keys["path"] == {"kind": "flow-matching", "data_at": 1}
    assert keys["network"]["prediction"] == "velocity"
    got = flowgauge.sample(
        card, noise=x, sampler={"euler": {"steps": 8}}, condition=condition, quiet=True
    )
    assert gap(got, euler(velocity, x, 8)) < 1e-5


@pytest.mark.needs("torchcfm")
def test_torchcfm_unet(tmp_path):
    import torchcfm.models.unet.unet as library

    kept = library.checkpoint
    net = networks.torchcfm_unet()
    card = flowgauge.export(net, out=tmp_path / "m")
    agrees(card)
    flows(card, lambda x, t: net(t, x), noise(3, 1, 8, 8))
    assert library.checkpoint is kept


@pytest.mark.needs("torchcfm")
def test_torchcfm_unet_with_classes(tmp_path):
    net = networks.torchcfm_unet(class_cond=True, num_classes=10)
    card = flowgauge.export(net, out=tmp_path / "m")
    agrees(card)
    labels = torch.tensor([7, 0, 3])
    flows(card, lambda x, t: net(t, x, labels), noise(3, 1, 8, 8), {"label": labels})


@pytest.mark.needs("torchcfm")
def test_torchcfm_mlp(tmp_path):
    net = networks.torchcfm_mlp()
    with pytest.raises(flowgauge.ExportError, match="inputs: it does not belong to a MLP"):
        flowgauge.export(net, out=tmp_path / "m", inputs={"x": "x"})
    card = flowgauge.export(net, out=tmp_path / "m")
    agrees(card)
    flows(card, lambda x, t: net(torch.cat([x, t[:, None]], -1)), noise(6, 3))


@pytest.mark.needs("flow_matching", "torchdiffeq")
def test_flow_matching_wrapper_and_its_likelihood(tmp_path):
    from flow_matching.solver import ODESolver

    net, x, labels = networks.flow_matching_wrapper(), noise(5, 2), torch.tensor([0, 3, 1, 2, 1])
    card = flowgauge.export(net, {"x": x, "label": labels}, out=tmp_path / "m")
    agrees(card)
    flows(card, lambda x, t: net(x, t, label=labels), x, {"label": labels})
    solver = ODESolver(velocity_model=net)
    _, want = solver.compute_likelihood(
        x_1=x, method="midpoint", step_size=0.01, exact_divergence=True, label=labels,
        log_p0=torch.distributions.MultivariateNormal(torch.zeros(2), torch.eye(2)).log_prob,
    )  # fmt: skip
    got = flowgauge.likelihood(
        card, x, divergence="exact", solver={"midpoint": {"steps": 100}},
        condition={"label": labels}, quiet=True,
    )  # fmt: skip
    assert np.abs(np.asarray(got.samples["log_likelihood"]) - want.detach().numpy()).max() < 1e-4


# --- denoising-diffusion-pytorch


@pytest.mark.needs("denoising_diffusion_pytorch")
@pytest.mark.parametrize(
    ("objective", "prediction"),
    [("pred_noise", "noise"), ("pred_x0", "denoised"), ("pred_v", "v")],
)
def test_gaussian_diffusion(tmp_path, objective, prediction):
    diffusion = networks.gaussian_diffusion(objective=objective)
    card = flowgauge.export(diffusion, out=tmp_path / "m")
    agrees(card)
    keys = read(card)
    assert keys["network"]["prediction"] == prediction
    assert keys["path"] == {"kind": "discrete", "betas": "betas.npy", "steps": 100}
    assert keys["data"] == {"range": [-1, 1], "levels": 256}
    x = want = noise(3, 1, 8, 8)
    times = [99, 80, 50, 20, 0]
    with torch.no_grad():
        for time, after in zip(times, times[1:], strict=False):
            t = torch.full((3,), time)
            predicted = diffusion.model_predictions(want, t)
            alpha = diffusion.alphas_cumprod[after]
            want = alpha.sqrt() * predicted.pred_x_start
            want = want + (1 - alpha).sqrt() * predicted.pred_noise
    grid = {"times": times[:-1], "final_sigmas_type": "sigma-min"}
    got = flowgauge.sample(card, noise=x, sampler={"ddim": grid}, quiet=True)
    assert gap(got, want) < 2e-5


@pytest.mark.needs("denoising_diffusion_pytorch")
def test_a_unet_without_its_diffusion(tmp_path):
    unet, x = networks.gaussian_diffusion().model, noise(2, 1, 8, 8)
    with pytest.raises(flowgauge.ExportError, match="give `example`, a batch of states"):
        flowgauge.export(unet, out=tmp_path / "m")
    with pytest.warns(flowgauge.GuessWarning, match="defaults of GaussianDiffusion"):
        card = flowgauge.export(unet, x, out=tmp_path / "m")
    assert read(card)["path"] == {"kind": "discrete", "betas": "sigmoid", "steps": 1000}
    path = {"kind": "discrete", "betas": "squaredcos", "steps": 200}
    card = flowgauge.export(unet, x, path=path, prediction="noise", out=tmp_path / "m")
    agrees(card)
    assert read(card)["path"] == path
    assert not card.guesses
