"""Writes tests/data/pipelines: two latent pipelines of diffusers with random weights, and what diffusers makes of them.

    python scripts/tiny_pipelines.py

The folders are as optimum writes them: model_index.json, the scheduler's config, and ONNX files with the configs of
their models. The references lie beside the folders.

    latent    AutoencoderKL + UNet2DConditionModel + DDIMScheduler as in Stable Diffusion, conditioned on 3 vectors of
              8 numbers (`encoder_hidden_states`); `timestep` is a float without axes
    dit       AutoencoderKL + DiTTransformer2DModel + DDIMScheduler: labels 0 to 9 and null 10, learned variances,
              guidance 4; `timestep` is int64 [N]

    NAME.yaml      the card of the folder
    NAME_*.npy     noise, conditions and images, as they are given
    NAME.npz       timesteps      of DDIM in 10 steps, by diffusers
                   latents, images    DDIM's result by diffusers in float32, and decoded: decode(latents / scale)
                   latents_64     the same in float64
                   moments, encoded   of the images by the encoder, and the scaled mean
                   heun_log_p, heun_prior, heun_end   of the first encoded image, see `log_p`
    A key that ends in _W is that of guidance W; without such an end there is none.

Untrained networks change with every index, so that no grid of a few hundred steps follows their ODE: the references
are those of the grid.
"""

import json
import sys
import warnings

import numpy as np
import onnxruntime as ort
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiTTransformer2DModel, UNet2DConditionModel

from common import ROOT, save

HERE = ROOT / "tests/data/pipelines"
STEPS, TRAIN = 10, 1000


# ---------------------------------------------------------------- models

def autoencoder(channels):
    return AutoencoderKL(
        in_channels=3, out_channels=3, latent_channels=channels, sample_size=8, block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1, norm_num_groups=4).eval()


def unet():
    return UNet2DConditionModel(
        sample_size=(4, 6), in_channels=4, out_channels=4, layers_per_block=1, block_out_channels=(8, 16),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=8, attention_head_dim=4, norm_num_groups=4).eval()


def transformer():
    return DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=3, out_channels=6, num_layers=2, sample_size=4,
        patch_size=2, num_embeds_ada_norm=10, norm_num_groups=4).eval()


class Encoder(torch.nn.Module):
    def __init__(self, vae):
        super().__init__()
        self.vae = vae

    def forward(self, sample):
        return self.vae.encode(sample).latent_dist.parameters


class Decoder(Encoder):
    def forward(self, latent_sample):
        return self.vae.decode(latent_sample).sample


class Sample(torch.nn.Module):
    """The network with its output as a tensor."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, sample, timestep, condition):
        keys = {"class_labels": condition} if isinstance(self.model, DiTTransformer2DModel) else \
            {"encoder_hidden_states": condition}
        return self.model(sample, timestep=timestep, **keys, return_dict=False)[0]


def export(module, path, arguments, names, output, fixed=()):
    """Write an ONNX file with a dynamic batch, and hold it against torch."""
    batch = torch.export.Dim("batch_size")
    shapes = tuple({} if n in fixed else {0: batch} for n in names)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(module, tuple(arguments), input_names=list(names), output_names=[output],
                                    dynamic_shapes=shapes, opset_version=18, dynamo=True, external_data=False,
                                    verbose=False)
    save(program.model_proto, path)
    with torch.no_grad():
        want = module(*arguments).numpy()
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    got = session.run(None, {n: a.numpy() for n, a in zip(names, arguments)})[0]
    print(f"{path.relative_to(HERE)}: {path.stat().st_size} bytes, within {np.abs(got - want).max():.1e} of torch")
    assert np.abs(got - want).max() < 1e-5


def write_config(path, config):
    """A config as diffusers saves it, without what names a machine."""
    path.parent.mkdir(parents=True, exist_ok=True)
    config = {k: v for k, v in config.items() if k not in ("_name_or_path", "_use_default_values")}
    path.write_text(json.dumps(config, indent=2) + "\n")


def config_of(model, name):
    return {"_class_name": name, "_diffusers_version": "0.42.1", **dict(model.config)}


def image_shape(shape):
    return [3, 2 * shape[1], 2 * shape[2]]


def write_vae(folder, vae, shape):
    images, latents = torch.randn(3, *image_shape(shape)), torch.randn(3, *shape)
    export(Encoder(vae), folder / "vae_encoder/model.onnx", [images], ["sample"], "latent_parameters")
    export(Decoder(vae), folder / "vae_decoder/model.onnx", [latents], ["latent_sample"], "sample")
    for part in ("vae_encoder", "vae_decoder"):
        write_config(folder / part / "config.json", config_of(vae, "AutoencoderKL"))


# ---------------------------------------------------------------- references

def ddim(model, scheduler, x, condition, null, scale):
    """diffusers' DDIM (eta 0) with classifier-free guidance, and the times that it visits."""
    scheduler.set_timesteps(STEPS)
    channels = x.shape[1]
    with torch.no_grad():
        for t in scheduler.timesteps:
            def predict(c):
                time = t.expand(len(x)) if c.dtype == torch.int64 else t.to(x.dtype)
                return model(scheduler.scale_model_input(x, t), time, c)[:, :channels]
            noise = predict(condition)
            if scale != 1:
                base = predict(null)
                noise = base + scale * (noise - base)
            x = scheduler.step(noise, t, x).prev_sample
    return x, scheduler.timesteps.numpy()


def predict_between(model, x, index, condition):
    """The noise at a fractional index: as it is for a float input, mixed from two indices for a whole one."""
    def at(i):
        time = torch.full((len(x),), i) if condition.dtype == torch.int64 else torch.tensor(i, dtype=x.dtype)
        return model(x, time, condition)[:, :x.shape[1]]
    if condition.dtype != torch.int64:
        return at(index)
    low = min(int(np.floor(index)), TRAIN - 2)
    first = at(low)
    return first if index == low else first + (index - low) * (at(low + 1) - first)


def log_p(model, log_alpha, x, condition, null, scale):
    """log p of one latent [1,C,H,W], the prior's term of it, and the state at the prior end.

    Heun's method in 20 equal steps of t = (index + 1)/1000 from 0.001 to 1, of state and integral together: d(x, l)/dt
    = (v, div v), with the exact trace, by one backward pass through as many copies of the state as it has numbers.
    ln(alpha) is linear between indices, and an index between two is fed as it is, or mixed for an input of integers.
    """
    dim = x.numel()
    basis = torch.eye(dim, dtype=x.dtype).reshape(dim, *x.shape[1:])

    def coefficients(t):
        i = int(np.clip(np.floor(t * TRAIN - 1 + 1e-9), 0, TRAIN - 2))
        slope = (log_alpha[i + 1] - log_alpha[i]) * TRAIN
        value = log_alpha[i] + slope * (t - (i + 1) / TRAIN)
        return slope, np.sqrt(-np.expm1(2 * value))

    def field(t, x):
        slope, sigma = coefficients(t)
        index = t * TRAIN - 1
        many = x.detach().repeat(dim, 1, 1, 1).requires_grad_()
        def of(c):
            return predict_between(model, many, index, c.repeat(dim, *[1] * (c.ndim - 1)))
        noise = of(condition)
        if scale != 1:
            base = of(null)
            noise = base + scale * (noise - base)
        jacobian, = torch.autograd.grad((noise * basis).sum(), many)
        trace = (jacobian * basis).sum()
        # v = (alpha'/alpha) (x - noise / sigma), on a path with alpha^2 + sigma^2 = 1
        return slope * (x - noise[:1].detach() / sigma), float(slope * (dim - trace / sigma))

    integral, times = 0.0, np.linspace(1 / TRAIN, 1, 21)
    for t, s in zip(times, times[1:]):
        h = s - t
        v1, d1 = field(t, x)
        v2, d2 = field(s, x + h * v1)
        x, integral = x + h / 2 * (v1 + v2), integral + h / 2 * (d1 + d2)
    prior = float(-0.5 * (x**2).sum() - 0.5 * dim * np.log(2 * np.pi))
    return prior + integral, prior, x.numpy()


def references(name, model, vae, scheduler, shape, condition, null, scales):
    """Run diffusers from stored noise and write NAME.npz."""
    rng = np.random.default_rng(5)
    n = len(condition)
    noise = rng.normal(size=(n, *shape)).astype(np.float32)
    images = np.tanh(rng.normal(size=(n, *image_shape(shape)))).astype(np.float32)
    out, factor = {}, vae.config.scaling_factor
    double = lambda c: c if c.dtype == torch.int64 else c.double()
    for scale in scales:
        key = "" if scale == 1 else f"_{scale:g}"
        latents, out["timesteps"] = ddim(model, scheduler, torch.from_numpy(noise), condition, null, scale)
        with torch.no_grad():
            out[f"images{key}"] = vae.decode(latents / factor).sample.numpy()
        out[f"latents{key}"] = latents.numpy()
        out[f"latents_64{key}"] = ddim(model.double(), scheduler, torch.from_numpy(noise).double(), double(condition),
                                       double(null), scale)[0].numpy()
        model.float()
        gap = np.abs(out[f"latents{key}"] - out[f"latents_64{key}"]).max()
        print(f"{name}, guidance {scale:g}: float32 within {gap:.1e} of float64; latents up to "
              f"{np.abs(latents.numpy()).max():.1f}, images up to {np.abs(out[f'images{key}']).max():.2f}")
        assert gap < 1e-4
    with torch.no_grad():
        out["moments"] = vae.encode(torch.from_numpy(images)).latent_dist.parameters.numpy()
    out["encoded"] = out["moments"][:, :shape[0]] * factor

    log_alpha = 0.5 * np.cumsum(np.log1p(-scheduler.betas.double().numpy()))
    start = torch.from_numpy(out["encoded"][:1]).double()
    model.double()
    first, none = double(condition)[:1], double(null)[:1]
    for scale in scales:
        key = "" if scale == 1 else f"_{scale:g}"
        out[f"heun_log_p{key}"], out[f"heun_prior{key}"], out[f"heun_end{key}"] = log_p(
            model, log_alpha, start, first, none, scale)
        print(f"{name}, guidance {scale:g}: log p by Heun in 20 steps {out[f'heun_log_p{key}']:.5f}")
    model.float()
    np.savez(HERE / f"{name}.npz", **out)
    np.save(HERE / f"{name}_noise.npy", noise)
    np.save(HERE / f"{name}_images.npy", images)


# ---------------------------------------------------------------- the two pipelines

LATENT_LINES = """latent:
  encoder: {{file: {0}/vae_encoder/model.onnx, input: sample, output: latent_parameters, kind: moments}}
  decoder: {{file: {0}/vae_decoder/model.onnx, input: latent_sample, output: sample}}
  scale: 0.18215
  shift: 0.0
  shape: {1}
data: {{range: [-1, 1], levels: 256}}
"""


def latent():
    torch.manual_seed(0)
    folder, vae, network, shape = HERE / "latent", autoencoder(4), unet(), [4, 4, 6]
    model = Sample(network).eval()
    scheduler = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
                              set_alpha_to_one=False, steps_offset=1)
    context = torch.randn(4, 3, 8)
    write_vae(folder, vae, shape)
    export(model, folder / "unet/model.onnx", [torch.randn(3, *shape), torch.tensor(7.0), context[:3]],
           ["sample", "timestep", "encoder_hidden_states"], "out_sample", fixed=["timestep"])
    write_config(folder / "unet/config.json", config_of(network, "UNet2DConditionModel"))
    write_config(folder / "scheduler/scheduler_config.json", config_of(scheduler, "DDIMScheduler"))
    write_config(folder / "model_index.json", {
        "_class_name": "StableDiffusionPipeline", "_diffusers_version": "0.42.1", "feature_extractor": [None, None],
        "image_encoder": [None, None], "requires_safety_checker": False, "safety_checker": [None, None],
        "scheduler": ["diffusers", "DDIMScheduler"], "text_encoder": [None, None], "tokenizer": [None, None],
        "unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"]})
    null = torch.randn(1, 3, 8).expand(4, 3, 8)
    np.save(HERE / "latent_context.npy", context.numpy())
    np.save(HERE / "latent_null.npy", null[0].numpy())
    (HERE / "latent.yaml").write_text("""name: tiny-latent
shape: {SHAPE}
network:
  file: latent/unet/model.onnx
  inputs: {x: sample, time: timestep}
  conditions: {context: {input: encoder_hidden_states, null: latent_null.npy}}
  output: out_sample
  prediction: noise
  time: {feed: index}
path: {kind: discrete, betas: {scaled-linear: [0.00085, 0.012]}, steps: 1000}
""".replace("{SHAPE}", str(shape)) + LATENT_LINES.format("latent", image_shape(shape)))
    references("latent", model, vae, scheduler, shape, context, null, (1.0, 3.0))


def dit():
    torch.manual_seed(1)
    folder, vae, network, shape = HERE / "dit", autoencoder(3), transformer(), [3, 4, 4]
    model = Sample(network).eval()
    scheduler = DDIMScheduler(beta_start=1e-4, beta_end=0.02, beta_schedule="linear", clip_sample=False)
    labels = torch.tensor([3, 0, 9, 7])
    write_vae(folder, vae, shape)
    export(model, folder / "transformer/model.onnx", [torch.randn(3, *shape), torch.tensor([7, 500, 999]), labels[:3]],
           ["hidden_states", "timestep", "class_labels"], "out_hidden_states")
    write_config(folder / "transformer/config.json", config_of(network, "DiTTransformer2DModel"))
    write_config(folder / "scheduler/scheduler_config.json", config_of(scheduler, "DDIMScheduler"))
    write_config(folder / "model_index.json", {
        "_class_name": "DiTPipeline", "_diffusers_version": "0.42.1",
        "id2label": {str(i): str(i) for i in range(10)}, "scheduler": ["diffusers", "DDIMScheduler"],
        "transformer": ["diffusers", "DiTTransformer2DModel"], "vae": ["diffusers", "AutoencoderKL"]})
    np.save(HERE / "dit_labels.npy", labels.numpy())
    (HERE / "dit.yaml").write_text("""name: tiny-dit
shape: {SHAPE}
network:
  file: dit/transformer/model.onnx
  inputs: {x: hidden_states, time: timestep}
  conditions: {label: {input: class_labels, null: 10}}
  output: out_hidden_states
  channels: [0, 3]
  prediction: noise
  time: {feed: index, interpolate: true}
path: {kind: discrete, betas: {linear: [0.0001, 0.02]}, steps: 1000}
guidance: {scale: 4.0}
""".replace("{SHAPE}", str(shape)) + LATENT_LINES.format("dit", image_shape(shape)))
    references("dit", model, vae, scheduler, shape, labels, torch.full((4,), 10), (4.0, 1.0))


def main():
    torch.set_num_threads(1)
    for name in sys.argv[1:] or ("latent", "dit"):
        {"latent": latent, "dit": dit}[name]()


if __name__ == "__main__":
    main()
