"""Tiny instances of the libraries' networks, with random weights of which none is zero."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F


def awaken(net: Any, seed: int = 0) -> Any:
    """Gives every weight that starts at zero a value: it would hide what it multiplies."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim < 2:
                parameter += 0.1 * noise
            elif not parameter.any():
                parameter += noise / math.sqrt(parameter[0].numel())
    return net.eval()


class Mlp(nn.Module):
    """f(x, t) of a vector."""

    def __init__(self, dim: int = 2, width: int = 24) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(dim + 2, width), nn.Linear(width, dim)

    def forward(self, x, t):
        t = t.expand(x.shape[0])
        waves = torch.stack([torch.sin(3 * t), torch.cos(3 * t)], -1)
        return self.last(torch.tanh(self.first(torch.cat([x, waves], -1))))


# --- diffusers


def unet2d(**more):
    from diffusers import UNet2DModel

    sizes = {
        "sample_size": 8, "in_channels": 1, "out_channels": 1, "block_out_channels": (8, 16),
        "layers_per_block": 1, "norm_num_groups": 4, "attention_head_dim": 8,
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    }  # fmt: skip
    return awaken(UNet2DModel(**{**sizes, **more}))


def unet2d_condition(**more):
    from diffusers import UNet2DConditionModel

    sizes = {
        "sample_size": (4, 6), "in_channels": 4, "out_channels": 4, "layers_per_block": 1,
        "block_out_channels": (8, 16), "cross_attention_dim": 8, "attention_head_dim": 4,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"), "norm_num_groups": 4,
    }  # fmt: skip
    return awaken(UNet2DConditionModel(**{**sizes, **more}))


def dit():
    from diffusers import DiTTransformer2DModel

    return awaken(
        DiTTransformer2DModel(
            num_attention_heads=2, attention_head_dim=8, in_channels=3, out_channels=6,
            num_layers=2, sample_size=4, patch_size=2, num_embeds_ada_norm=10, norm_num_groups=4,
        )
    )  # fmt: skip


def pixart(**more):
    from diffusers import PixArtTransformer2DModel

    sizes = {
        "num_attention_heads": 2, "attention_head_dim": 8, "in_channels": 4, "out_channels": 8,
        "num_layers": 2, "sample_size": 8, "patch_size": 2, "cross_attention_dim": 16,
        "caption_channels": 12, "norm_num_groups": 4, **more,
    }  # fmt: skip
    if "attention_head_dim" in more:
        sizes["cross_attention_dim"] = 2 * more["attention_head_dim"]
    return awaken(PixArtTransformer2DModel(**sizes))


def autoencoder(channels: int):
    from diffusers import AutoencoderKL

    return awaken(
        AutoencoderKL(
            in_channels=3, out_channels=3, latent_channels=channels, sample_size=8,
            block_out_channels=(8, 16), down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2, layers_per_block=1, norm_num_groups=4,
        )
    )  # fmt: skip


# --- EDM, from the paper (Karras et al. 2022, table 1 and appendix F)


class Weights(torch.autograd.Function):
    """Attention weights with a derivative by hand, as networks of this kind have them."""

    @staticmethod
    def forward(ctx, q, k):
        scaled = k.to(torch.float32) / math.sqrt(k.shape[1])
        weights = torch.einsum("ncq,nck->nqk", q.to(torch.float32), scaled).softmax(2)
        ctx.save_for_backward(q, k, weights)
        return weights.to(q.dtype)

    @staticmethod
    def backward(ctx, gradient):
        q, k, weights = ctx.saved_tensors
        inner = weights * (gradient - (gradient * weights).sum(2, keepdim=True))
        inner = inner / math.sqrt(k.shape[1])
        return torch.einsum("nck,nqk->ncq", k, inner), torch.einsum("ncq,nqk->nck", q, inner)


class SongUNet(nn.Module):
    """Two resolutions with skips, group norms, and the noise level and the class in every block."""

    def __init__(self, channels: int, width: int, label_dim: int) -> None:
        super().__init__()
        self.width = width
        self.map_noise = nn.Linear(width, 4 * width)
        self.map_label = nn.Linear(label_dim, 4 * width) if label_dim else None
        self.first = nn.Conv2d(channels, width, 3, padding=1)
        self.blocks = nn.ModuleList(Block(c, width, 4 * width) for c in (width, width, 2 * width))
        self.qkv = nn.Conv2d(width, 3 * width, 1)
        self.last = nn.Sequential(
            nn.GroupNorm(2, width), nn.SiLU(), nn.Conv2d(width, channels, 3, padding=1)
        )

    def forward(self, x, noise_labels, class_labels, augment_labels=None):
        frequencies = torch.arange(self.width // 2, dtype=torch.float32, device=x.device)
        frequencies = (1 / 10000) ** (frequencies / (self.width // 2))
        angles = noise_labels.ger(frequencies.to(noise_labels.dtype))
        emb = self.map_noise(torch.cat([angles.cos(), angles.sin()], 1).to(x.dtype))
        if self.map_label is not None:
            emb = emb + self.map_label(class_labels * math.sqrt(class_labels.shape[1]))
        h = self.blocks[0](self.first(x), F.silu(emb))
        low = self.blocks[1](F.avg_pool2d(h, 2), F.silu(emb))
        q, k, v = self.qkv(low).reshape(x.shape[0], 3, self.width, -1).unbind(1)
        attended = torch.einsum("nqk,nck->ncq", Weights.apply(q, k), v)
        low = low + attended.reshape(low.shape)
        up = F.interpolate(low, scale_factor=2.0, mode="nearest")
        return self.last(self.blocks[2](torch.cat([h, up], 1), F.silu(emb)))


class Block(nn.Module):
    def __init__(self, cin: int, cout: int, emb: int) -> None:
        super().__init__()
        self.norm, self.conv = nn.GroupNorm(2, cin), nn.Conv2d(cin, cout, 3, padding=1)
        self.affine = nn.Linear(emb, cout)
        self.norm1, self.conv1 = nn.GroupNorm(2, cout), nn.Conv2d(cout, cout, 3, padding=1)
        self.skip = nn.Conv2d(cin, cout, 1) if cin != cout else nn.Identity()

    def forward(self, x, emb):
        h = self.conv(F.silu(self.norm(x))) + self.affine(emb)[:, :, None, None]
        return self.skip(x) + self.conv1(F.silu(self.norm1(h)))


class Precond(nn.Module):
    """D(x; σ) = c_skip x + c_out F(c_in x, c_noise), with everything in single precision."""

    def __init__(self, label_dim: int = 0, size: int = 8, channels: int = 1) -> None:
        super().__init__()
        self.img_resolution, self.img_channels, self.label_dim = size, channels, label_dim
        self.use_fp16 = False
        self.model = SongUNet(channels, 8, label_dim)

    def forward(self, x, sigma, class_labels=None, force_fp32=False, **kwargs):
        x = x.to(torch.float32)
        sigma = sigma.to(torch.float32).reshape(-1, 1, 1, 1)
        if self.label_dim == 0:
            class_labels = None
        elif class_labels is None:
            class_labels = torch.zeros([1, self.label_dim], device=x.device)
        else:
            class_labels = class_labels.to(torch.float32).reshape(-1, self.label_dim)
        dtype = torch.float16 if self.use_fp16 and not force_fp32 else torch.float32
        skip, out, scale, noise = self.numbers(sigma)
        inner = self.model((scale * x).to(dtype), noise.flatten(), class_labels, **kwargs)
        assert inner.dtype == dtype
        return skip * x + out * inner.to(torch.float32)


class EDMPrecond(Precond):
    sigma_min, sigma_max, sigma_data = 0, float("inf"), 0.5

    def numbers(self, sigma):
        total = sigma**2 + self.sigma_data**2
        skip, out = self.sigma_data**2 / total, sigma * self.sigma_data / total.sqrt()
        return skip, out, 1 / total.sqrt(), sigma.log() / 4


class VPPrecond(Precond):
    beta_d, beta_min, M, epsilon_s = 19.9, 0.1, 1000, 1e-5

    @property
    def sigma_min(self):
        return float(self.level(torch.tensor(self.epsilon_s)))

    @property
    def sigma_max(self):
        return float(self.level(torch.tensor(1.0)))

    def level(self, t):
        return ((0.5 * self.beta_d * t**2 + self.beta_min * t).exp() - 1).sqrt()

    def numbers(self, sigma):
        log = (1 + sigma**2).log()
        t = ((self.beta_min**2 + 2 * self.beta_d * log).sqrt() - self.beta_min) / self.beta_d
        return 1, -sigma, 1 / (sigma**2 + 1).sqrt(), (self.M - 1) * t


class VEPrecond(Precond):
    sigma_min, sigma_max = 0.02, 100

    def numbers(self, sigma):
        return 1, sigma, 1, (0.5 * sigma).log()


class iDDPMPrecond(Precond):
    """The noise level goes to the network as the index of the nearest training step."""

    def __init__(self, *args: Any, steps: int = 1000) -> None:
        super().__init__(*args)
        self.M = steps
        angles = torch.arange(steps + 1, dtype=torch.float64) / steps / (1 + 0.008) * math.pi / 2
        bars = torch.sin(angles) ** 2
        levels = torch.zeros(steps + 1, dtype=torch.float64)
        for j in range(steps, 0, -1):
            ratio = (bars[j - 1] / bars[j]).clip(min=0.001)
            levels[j - 1] = ((levels[j] ** 2 + 1) / ratio - 1).sqrt()
        self.register_buffer("u", levels.float())
        self.sigma_min, self.sigma_max = float(levels[steps - 1]), float(levels[0])

    def numbers(self, sigma):
        levels = self.u.to(torch.float32).reshape(1, -1, 1)
        index = torch.cdist(sigma.reshape(1, -1, 1), levels).argmin(2).reshape(sigma.shape)
        noise = (self.M - 1 - index).to(torch.float32)
        return 1, -sigma, 1 / (sigma**2 + 1).sqrt(), noise


# --- flow matching


def torchcfm_unet(**more):
    from torchcfm.models.unet.unet import UNetModelWrapper

    sizes = {
        "dim": (1, 8, 8), "num_channels": 32, "num_res_blocks": 1, "channel_mult": (1,),
        "attention_resolutions": "8", "num_heads": 4,
    }  # fmt: skip
    return awaken(UNetModelWrapper(**{**sizes, **more}))


def torchcfm_mlp():
    from torchcfm.models import MLP

    return MLP(3, w=16, time_varying=True).eval()


class Labelled(nn.Module):
    """A velocity with a class."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.labels = Mlp(), nn.Embedding(4, 2)

    def forward(self, x, t, label):
        return self.net(x + self.labels(label), t)


def flow_matching_wrapper():
    from flow_matching.utils import ModelWrapper

    return ModelWrapper(Labelled()).eval()


def gaussian_diffusion(**more):
    from denoising_diffusion_pytorch import GaussianDiffusion, Unet

    unet = Unet(8, dim_mults=(1, 2), channels=1, attn_dim_head=8, attn_heads=2, flash_attn=False)
    return awaken(GaussianDiffusion(unet, image_size=8, **{"timesteps": 100, **more}))
