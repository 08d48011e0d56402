"""Exports the field's own networks to ONNX, with float64 references of their Jacobian products.

    python scripts/export_zoo.py --out zoo [--only REGEX] [--opsets 17,18,20,21,23] [--bench]
    python scripts/export_zoo.py --fixtures          # writes tests/data/graph

Every network is a small configuration with seeded random weights, in both export styles of PyTorch: `ts`, the
TorchScript exporter, and `dynamo`, the exporter built on torch.export. Beside each
`<library>-<model>-<style>-op<opset>.onnx` is an `.npz` with
- the graph's inputs by name (N = 3, float32 or int64);
- `v` [4, N, ...], float32 tangents of `x`;
- `y` and `jv` [4, N, ...] in float64;
- `w`, a float32 cotangent of the output, and `wj` = w^T J in float64.
The references come from torch's forward and reverse mode with the float32 weights cast to float64. `--bench` makes
networks of a useful size instead, on which the costs are measured. Needs the versions in requirements-zoo.txt.
"""

import argparse
import copy
import io
import json
import math
import re
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

ROOT = Path(__file__).resolve().parent.parent
FIXTURES = ROOT / "tests" / "data" / "graph"
STYLES = ("ts", "dynamo")
NEWEST = {"ts": 20, "dynamo": 23}
OLDEST = {"ts": 13, "dynamo": 18}

# What tests/data/graph holds: each network in both styles, each opset somewhere.
SHIPPED = {
    "plain-mlp": "ts-13 dynamo-20",
    "plain-unet": "ts-17 dynamo-21",
    "plain-dit": "ts-18 dynamo-20 dynamo-23",
    "plain-rope": "dynamo-23",
    "diffusers-unet2d": "ts-17 dynamo-20",
    "diffusers-fir": "dynamo-18",
    "diffusers-conditional": "ts-17 dynamo-20",
    "diffusers-dit": "ts-20 dynamo-23",
    "ddpm_pytorch-unet": "ts-17 dynamo-20",
    "torchcfm-unet": "dynamo-20",
    "torchcfm-mlp": "ts-17",
    "flow_matching-unet": "ts-17 dynamo-21",
    "edm-ddpmpp": "ts-17 dynamo-20",
}


# ---------------------------------------------------------------------------------------------------------------------
# Networks of our own
# ---------------------------------------------------------------------------------------------------------------------


def waves(t, count, longest=10000.0):
    frequencies = torch.exp(torch.arange(count, dtype=torch.float32) * (-math.log(longest) / count)).to(t.dtype)
    angles = t[:, None] * frequencies
    return torch.cat([torch.sin(angles), torch.cos(angles)], 1)


class Mlp(nn.Module):
    def __init__(self, dim, width, depth):
        super().__init__()
        self.first = nn.Linear(dim + 32, width)
        self.blocks = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.last = nn.Linear(width, dim)

    def forward(self, x, t):
        h = self.first(torch.cat([x, waves(100.0 * t, 16)], 1))
        for block in self.blocks:
            h = h + block(F.silu(h))
        return self.last(F.silu(h))


class Residual(nn.Module):
    """GroupNorm, SiLU, convolution, twice; the time shifts, or scales and shifts, in between."""

    def __init__(self, cin, cout, emb, groups, scale_shift=False):
        super().__init__()
        self.scale_shift = scale_shift
        self.norm0, self.conv0 = nn.GroupNorm(groups, cin, eps=1e-5), nn.Conv2d(cin, cout, 3, padding=1)
        self.affine = nn.Linear(emb, 2 * cout if scale_shift else cout)
        self.norm1, self.conv1 = nn.GroupNorm(groups, cout, eps=1e-5), nn.Conv2d(cout, cout, 3, padding=1)
        self.skip = nn.Conv2d(cin, cout, 1) if cin != cout else nn.Identity()

    def forward(self, x, emb):
        h = self.conv0(F.silu(self.norm0(x)))
        params = self.affine(F.silu(emb))[:, :, None, None]
        if self.scale_shift:
            scale, shift = params.chunk(2, 1)
            h = F.silu(self.norm1(h) * (1 + scale) + shift)
        else:
            h = F.silu(self.norm1(h + params))
        return self.skip(x) + self.conv1(h)


class SelfAttention(nn.Module):
    """Over the pixels of an image, by the fused operator."""

    def __init__(self, channels, heads, groups):
        super().__init__()
        self.heads, self.norm = heads, nn.GroupNorm(groups, channels)
        self.qkv, self.out = nn.Conv2d(channels, 3 * channels, 1), nn.Conv2d(channels, channels, 1)

    def forward(self, x):
        n, c, height, width = x.shape
        qkv = self.qkv(self.norm(x)).reshape(n, 3, self.heads, c // self.heads, height * width)
        q, k, v = qkv.transpose(3, 4).unbind(1)
        h = F.scaled_dot_product_attention(q, k, v)
        return x + self.out(h.transpose(2, 3).reshape(n, c, height, width))


class LegacyAttention(nn.Module):
    """Over the pixels, by Einsum, queries and keys scaled before the product."""

    def __init__(self, channels, heads, groups):
        super().__init__()
        self.heads, self.norm = heads, nn.GroupNorm(groups, channels)
        self.qkv, self.out = nn.Conv1d(channels, 3 * channels, 1), nn.Conv1d(channels, channels, 1)

    def forward(self, x):
        n, c, *size = x.shape
        flat = x.reshape(n, c, -1)
        width = c // self.heads
        q, k, v = self.qkv(self.norm(flat)).reshape(n * self.heads, 3 * width, -1).split(width, 1)
        scale = width**-0.25
        weight = torch.softmax(torch.einsum("bct,bcs->bts", q * scale, k * scale), -1)
        h = torch.einsum("bts,bcs->bct", weight, v).reshape(n, c, -1)
        return (flat + self.out(h)).reshape(n, c, *size)


class UNet(nn.Module):
    """Two resolutions or more; strided convolutions down, nearest neighbours and a convolution up."""

    def __init__(self, channels, width, mults, blocks, heads, groups, attend):
        super().__init__()
        self.width, self.blocks, emb = width, blocks, 4 * width
        self.embed = nn.Sequential(nn.Linear(width, emb), nn.SiLU(), nn.Linear(emb, emb))
        self.first = nn.Conv2d(channels, width, 3, padding=1)
        self.down, self.up, widths, c = nn.ModuleList(), nn.ModuleList(), [width], width
        for level, mult in enumerate(mults):
            for _ in range(blocks):
                attention = SelfAttention(width * mult, heads, groups) if level in attend else nn.Identity()
                self.down.append(nn.ModuleList([Residual(c, width * mult, emb, groups), attention]))
                c = width * mult
                widths.append(c)
            if level + 1 < len(mults):
                self.down.append(nn.Conv2d(c, c, 3, stride=2, padding=1))
                widths.append(c)
        self.middle = nn.ModuleList([Residual(c, c, emb, groups), SelfAttention(c, heads, groups)])
        for level, mult in reversed(list(enumerate(mults))):
            for _ in range(blocks + 1):
                attention = SelfAttention(width * mult, heads, groups) if level in attend else nn.Identity()
                self.up.append(nn.ModuleList([Residual(c + widths.pop(), width * mult, emb, groups), attention]))
                c = width * mult
            if level:
                self.up.append(nn.Conv2d(c, c, 3, padding=1))
        self.last = nn.Sequential(nn.GroupNorm(groups, c), nn.SiLU(), nn.Conv2d(c, channels, 3, padding=1))

    def forward(self, x, t):
        emb = self.embed(waves(1000.0 * t, self.width // 2))
        h = self.first(x)
        kept = [h]
        for layer in self.down:
            h = layer(h) if isinstance(layer, nn.Conv2d) else layer[1](layer[0](h, emb))
            kept.append(h)
        h = self.middle[1](self.middle[0](h, emb))
        for layer in self.up:
            if isinstance(layer, nn.Conv2d):
                h = layer(F.interpolate(h, scale_factor=2.0, mode="nearest"))
            else:
                h = layer[1](layer[0](torch.cat([h, kept.pop()], 1), emb))
        return self.last(h)


class FlowUNet(nn.Module):
    """In the way of the flow-matching examples: classes, scale-shift norms, average pooling, Einsum attention."""

    def __init__(self, channels, width, classes, heads, groups):
        super().__init__()
        self.width, emb = width, 4 * width
        self.embed = nn.Sequential(nn.Linear(width, emb), nn.SiLU(), nn.Linear(emb, emb))
        self.classes = nn.Embedding(classes, emb)
        self.first = nn.Conv2d(channels, width, 3, padding=1)
        self.a = Residual(width, width, emb, groups, True)
        self.b = Residual(width, 2 * width, emb, groups, True)
        self.attend0 = LegacyAttention(2 * width, heads, groups)
        self.c = Residual(2 * width, 2 * width, emb, groups, True)
        self.attend1 = LegacyAttention(2 * width, heads, groups)
        self.d = Residual(4 * width, 2 * width, emb, groups, True)
        self.e = Residual(3 * width, width, emb, groups, True)
        self.last = nn.Sequential(nn.GroupNorm(groups, width), nn.SiLU(), nn.Conv2d(width, channels, 3, padding=1))

    def forward(self, x, t, label):
        emb = self.embed(waves(1000.0 * t, self.width // 2)) + self.classes(label)
        top = self.a(self.first(x), emb)
        low = self.attend0(self.b(F.avg_pool2d(top, 2, 2), emb))
        h = self.attend1(self.c(low, emb))
        h = self.d(torch.cat([h, low], 1), emb)
        h = F.interpolate(h, size=(top.shape[2], top.shape[3]), mode="nearest")
        return self.last(self.e(torch.cat([h, top], 1), emb))


class Filtered(nn.Module):
    """Halve or double an image by a separable filter on every channel, then a convolution."""

    def __init__(self, cin, cout, up):
        super().__init__()
        self.up, self.cin, self.conv = up, cin, nn.Conv2d(cin, cout, 3, padding=1)
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
        self.register_buffer("filter", (taps[:, None] * taps / taps.sum() ** 2)[None, None])

    def forward(self, x):
        kernel = self.filter.repeat(self.cin, 1, 1, 1)
        if self.up:
            x = F.conv_transpose2d(x, 4 * kernel, stride=2, padding=1, groups=self.cin)
        else:
            x = F.conv2d(x, kernel, stride=2, padding=1, groups=self.cin)
        return self.conv(x)


class Scaled(nn.Module):
    """A residual block whose sums are scaled by sqrt(1/2)."""

    def __init__(self, cin, cout, emb, groups, attend):
        super().__init__()
        self.body, self.cout = Residual(cin, cout, emb, groups, True), cout
        self.norm = nn.GroupNorm(groups, cout, eps=1e-6) if attend else None
        self.qkv, self.out = nn.Conv2d(cout, 3 * cout, 1), nn.Conv2d(cout, cout, 1)

    def forward(self, x, emb):
        h = self.body(x, emb) * math.sqrt(0.5)
        if self.norm is None:
            return h
        n, c, height, width = h.shape
        q, k, v = self.qkv(self.norm(h)).reshape(n, c, 3, height * width).unbind(2)
        weight = torch.einsum("ncq,nck->nqk", q, k / math.sqrt(c)).softmax(2)
        a = torch.einsum("nqk,nck->ncq", weight, v)
        return (self.out(a.reshape(n, c, height, width)) + h) * math.sqrt(0.5)


class EdmNet(nn.Module):
    """F(c_in x; c_noise), in the way of DDPM++ as EDM uses it."""

    def __init__(self, channels, width, groups):
        super().__init__()
        self.width, emb = width, 4 * width
        self.embed = nn.ModuleList([nn.Linear(width, emb), nn.Linear(emb, emb)])
        self.first = nn.Conv2d(channels, width, 3, padding=1)
        self.a = Scaled(width, width, emb, groups, False)
        self.down = Filtered(width, 2 * width, up=False)
        self.b = Scaled(2 * width, 2 * width, emb, groups, True)
        self.c = Scaled(2 * width, 2 * width, emb, groups, True)
        self.d = Scaled(4 * width, 2 * width, emb, groups, False)
        self.up = Filtered(2 * width, width, up=True)
        self.e = Scaled(2 * width, width, emb, groups, False)
        self.norm, self.last = nn.GroupNorm(groups, width, eps=1e-6), nn.Conv2d(width, channels, 3, padding=1)

    def forward(self, x, noise):
        emb = waves(noise, self.width // 2)
        emb = torch.cat([emb[:, self.width // 2 :], emb[:, : self.width // 2]], 1)
        for layer in self.embed:
            emb = F.silu(layer(emb))
        top = self.a(self.first(x), emb)
        low = self.b(self.down(top), emb)
        h = self.d(torch.cat([self.c(low, emb), low], 1), emb)
        h = self.e(torch.cat([self.up(h), top], 1), emb)
        return self.last(F.silu(self.norm(h)))


class Edm(nn.Module):
    """D(x; sigma) = c_skip x + c_out F(c_in x; c_noise)."""

    def __init__(self, net, data_std=0.5):
        super().__init__()
        self.net, self.data_std = net, data_std

    def forward(self, x, sigma):
        s = sigma.reshape(-1, 1, 1, 1)
        total = s**2 + self.data_std**2
        c_skip, c_out, c_in = self.data_std**2 / total, s * self.data_std / total.sqrt(), 1 / total.sqrt()
        return c_skip * x + c_out * self.net(c_in * x, sigma.log() / 4)


class DitBlock(nn.Module):
    def __init__(self, dim, heads, rotary):
        super().__init__()
        self.heads, self.rotary = heads, rotary
        self.norm0 = nn.RMSNorm(dim, eps=1e-6) if rotary else nn.LayerNorm(dim, eps=1e-6, elementwise_affine=False)
        self.norm1 = nn.RMSNorm(dim, eps=1e-6) if rotary else nn.LayerNorm(dim, eps=1e-6, elementwise_affine=False)
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.wide, self.narrow = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)
        self.modulate = nn.Linear(dim, 6 * dim)

    def rotate(self, x):
        length, half = x.shape[2], x.shape[3] // 2
        angles = torch.arange(length, dtype=x.dtype)[:, None] * 100.0 ** (-torch.arange(half, dtype=x.dtype) / half)
        a, b = x[..., :half], x[..., half:]
        return torch.cat([a * angles.cos() - b * angles.sin(), b * angles.cos() + a * angles.sin()], -1)

    def forward(self, h, emb):
        n, tokens, dim = h.shape
        shift0, scale0, gate0, shift1, scale1, gate1 = self.modulate(F.silu(emb))[:, None].chunk(6, -1)
        a = self.norm0(h) * (1 + scale0) + shift0
        q, k, v = self.qkv(a).reshape(n, tokens, 3, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        if self.rotary:
            q, k = self.rotate(q), self.rotate(k)
        a = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, tokens, dim)
        h = h + gate0 * self.out(a)
        a = self.norm1(h) * (1 + scale1) + shift1
        return h + gate1 * self.narrow(F.gelu(self.wide(a), approximate="tanh"))


class Dit(nn.Module):
    """Patches, adaptive layer norms; with `rotary`, RMS norms and rotary positions instead."""

    def __init__(self, channels, size, patch, dim, depth, heads, rotary=False):
        super().__init__()
        self.patch, self.grid, self.channels, self.dim = patch, size // patch, channels, dim
        self.into = nn.Conv2d(channels, dim, patch, stride=patch)
        self.positions = None if rotary else nn.Parameter(torch.randn(1, self.grid**2, dim) * 0.1)
        self.embed = nn.Sequential(nn.Linear(dim, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.blocks = nn.ModuleList(DitBlock(dim, heads, rotary) for _ in range(depth))
        self.norm, self.modulate = nn.LayerNorm(dim, eps=1e-6, elementwise_affine=False), nn.Linear(dim, 2 * dim)
        self.last = nn.Linear(dim, patch * patch * channels)

    def forward(self, x, t):
        emb = self.embed(waves(1000.0 * t, self.dim // 2))
        h = self.into(x).flatten(2).transpose(1, 2)
        if self.positions is not None:
            h = h + self.positions
        for block in self.blocks:
            h = block(h, emb)
        shift, scale = self.modulate(F.silu(emb))[:, None].chunk(2, -1)
        h = self.last(self.norm(h) * (1 + scale) + shift)
        h = h.reshape(-1, self.grid, self.grid, self.patch, self.patch, self.channels)
        h = torch.einsum("nhwpqc->nchpwq", h)
        return h.reshape(-1, self.channels, self.grid * self.patch, self.grid * self.patch)


# ---------------------------------------------------------------------------------------------------------------------
# The libraries' networks, called as f(x, ...)
# ---------------------------------------------------------------------------------------------------------------------


class Timed(nn.Module):
    """f(x, t)."""

    def __init__(self, net, call):
        super().__init__()
        self.net, self.call = net, call

    def forward(self, x, t):
        return self.call(self.net, x, t)


class Labelled(Timed):
    def forward(self, x, t, label):
        return self.call(self.net, x, t, label)


class Conditioned(Timed):
    def forward(self, x, t, context):
        return self.call(self.net, x, t, context)


def diffusers_unet2d(bench, **kind):
    from diffusers import UNet2DModel

    widths, size, channels = ((64, 128), 32, 3) if bench else ((8, 16), 8, 1)
    net = UNet2DModel(
        sample_size=size, block_out_channels=widths, layers_per_block=2 if bench else 1,
        norm_num_groups=32 if bench else 4, attention_head_dim=32 if bench else 8,
        **{
            "in_channels": channels, "out_channels": channels,
            "down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
            **kind,
        },
    )
    return Timed(net, lambda net, x, t: net(x, t).sample)


def diffusers_fir(bench):
    down, up = ("AttnSkipDownBlock2D", "AttnSkipUpBlock2D") if bench else ("SkipDownBlock2D", "SkipUpBlock2D")
    return diffusers_unet2d(
        bench, time_embedding_type="fourier", center_input_sample=True, mid_block_scale_factor=math.sqrt(2),
        in_channels=3, out_channels=3,
        down_block_types=("SkipDownBlock2D", down), up_block_types=(up, "SkipUpBlock2D"),
    )


def diffusers_conditional(bench):
    from diffusers import UNet2DConditionModel

    # Attention where it is affordable: over 256 pixels, not 1024.
    down, up = ("DownBlock2D", "CrossAttnDownBlock2D"), ("CrossAttnUpBlock2D", "UpBlock2D")
    net = UNet2DConditionModel(
        sample_size=32 if bench else 8, in_channels=3 if bench else 2, out_channels=3 if bench else 2,
        block_out_channels=(64, 128) if bench else (4, 8), layers_per_block=1, norm_num_groups=32 if bench else 2,
        cross_attention_dim=64 if bench else 12, attention_head_dim=4 if bench else 2,
        down_block_types=down if bench else down[::-1], up_block_types=up if bench else up[::-1],
    )
    return Conditioned(net, lambda net, x, t, c: net(x, t, c).sample)


def diffusers_dit(bench):
    from diffusers import DiTTransformer2DModel

    net = DiTTransformer2DModel(
        num_attention_heads=4 if bench else 2, attention_head_dim=64 if bench else 8, in_channels=3 if bench else 2,
        out_channels=3 if bench else 2, num_layers=6 if bench else 2, sample_size=32 if bench else 8,
        patch_size=4 if bench else 2, num_embeds_ada_norm=10, norm_num_groups=1,
    )
    return Labelled(net, lambda net, x, t, label: net(x, t, label).sample)


def ddpm_pytorch(bench):
    from denoising_diffusion_pytorch import Unet

    net = Unet(
        64 if bench else 8, dim_mults=(1, 2), channels=3 if bench else 1, full_attn=(False, True), flash_attn=False,
        attn_dim_head=32 if bench else 8, attn_heads=4 if bench else 2,
    )
    return Timed(net, lambda net, x, t: net(x, t))


def torchcfm_unet(bench):
    import torchcfm.models.unet.unet as library

    # Recomputing in the backward pass is a custom autograd function, which neither exporter nor forward mode has.
    library.checkpoint = lambda function, inputs, params, flag: function(*inputs)
    net = library.UNetModelWrapper(
        dim=(3, 32, 32) if bench else (1, 8, 8), num_channels=64 if bench else 32, num_res_blocks=2 if bench else 1,
        channel_mult=(1, 2) if bench else (1,), attention_resolutions="16" if bench else "8", num_heads=4,
    )
    return Timed(net, lambda net, x, t: net(t, x))


def torchcfm_mlp(bench):
    from torchcfm.models import MLP

    net = MLP(64 if bench else 6, w=512 if bench else 48, time_varying=True)
    return Timed(net, lambda net, x, t: net(torch.cat([x, t[:, None]], -1)))


# Other configurations of the same libraries: other blocks, odd sizes, more levels.  Checked, not shipped.


def diffusers_variant(bench):
    from diffusers import UNet2DModel

    net = UNet2DModel(
        sample_size=12, in_channels=1, out_channels=1, block_out_channels=(8, 8, 16), layers_per_block=1, norm_num_groups=4,
        attention_head_dim=4, resnet_time_scale_shift="scale_shift", upsample_type="resnet", downsample_type="resnet",
        add_attention=True, num_class_embeds=10, act_fn="gelu",
        down_block_types=("ResnetDownsampleBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D", "ResnetUpsampleBlock2D"),
    )
    return Labelled(net, lambda net, x, t, label: net(x, t, label).sample)


def diffusers_kandinsky(bench):
    from diffusers import UNet2DConditionModel

    net = UNet2DConditionModel(
        sample_size=8, in_channels=2, out_channels=2, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
        cross_attention_dim=12, attention_head_dim=4, use_linear_projection=True, only_cross_attention=(False, True),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn", resnet_time_scale_shift="scale_shift", act_fn="mish",
        down_block_types=("SimpleCrossAttnDownBlock2D", "ResnetDownsampleBlock2D"),
        up_block_types=("ResnetUpsampleBlock2D", "SimpleCrossAttnUpBlock2D"),
    )
    return Conditioned(net, lambda net, x, t, c: net(x, t, c).sample)


def ddpm_pytorch_odd(bench):
    """Three levels, Fourier features of time that are learned."""
    from denoising_diffusion_pytorch import Unet

    net = Unet(
        8, dim_mults=(1, 2, 2), channels=1, attn_dim_head=8, attn_heads=2, learned_sinusoidal_cond=True,
        full_attn=(False, False, True),
    )
    return Timed(net, lambda net, x, t: net(x, t))


def ddpm_pytorch_1d(bench):
    from denoising_diffusion_pytorch import Unet1D

    return Timed(Unet1D(8, dim_mults=(1, 2), channels=2, attn_dim_head=8, attn_heads=2), lambda net, x, t: net(x, t))


def ddpm_pytorch_karras(bench):
    """Magnitude-preserving layers: weights normalized in the graph."""
    from denoising_diffusion_pytorch import KarrasUnet

    net = KarrasUnet(
        image_size=8, dim=8, dim_max=16, channels=1, num_downsamples=1, num_blocks_per_stage=1, attn_res=(4,), attn_dim_head=8,
        fourier_dim=8, dropout=0.0,
    )
    return Timed(net, lambda net, x, t: net(x, t))


def ddpm_pytorch_uvit(bench):
    from denoising_diffusion_pytorch.simple_diffusion import UViT

    net = UViT(8, dim_mults=(1, 2), channels=1, vit_depth=2, attn_dim_head=8, attn_heads=2, downsample_factor=2)
    return Timed(net, lambda net, x, t: net(x, t))


def torchcfm_variant(bench):
    import torchcfm.models.unet.unet as library

    torchcfm_unet(False)
    net = library.UNetModelWrapper(
        dim=(1, 8, 8), num_channels=32, num_res_blocks=1, channel_mult=(1, 1), attention_resolutions="4", num_heads=2,
        class_cond=True, num_classes=10, use_scale_shift_norm=True, resblock_updown=True, use_new_attention_order=True,
    )
    return Labelled(net, lambda net, x, t, label: net(t, x, label))


@dataclass
class Zoo:
    build: Callable
    shape: tuple  # of a sample, small and for the bench
    bench_shape: tuple
    times: tuple = (0.0, 1.0)
    time: str = "t"
    extra: str = ""  # "label", "context" or none
    scalar_time: bool = False
    small_only: bool = False


def small(x):
    return (x, 8, 8)


ZOO = {
    "plain-mlp": Zoo(lambda b: Mlp(64, 512, 3) if b else Mlp(5, 32, 2), (5,), (64,)),
    "plain-unet": Zoo(
        lambda b: UNet(3, 64, (1, 2, 2), 2, 4, 32, {1}) if b else UNet(2, 8, (1, 2), 1, 2, 4, {1}), small(2), (3, 32, 32)
    ),
    "plain-dit": Zoo(lambda b: Dit(3, 32, 4, 256, 6, 4) if b else Dit(2, 8, 2, 16, 2, 2), small(2), (3, 32, 32)),
    "plain-rope": Zoo(
        lambda b: Dit(3, 32, 4, 256, 6, 4, True) if b else Dit(2, 8, 2, 16, 2, 2, True), small(2), (3, 32, 32)
    ),
    "diffusers-unet2d": Zoo(diffusers_unet2d, small(1), (3, 32, 32), (1.0, 999.0)),
    "diffusers-unet2d_scalar_time": Zoo(diffusers_unet2d, small(1), (3, 32, 32), (1.0, 999.0), scalar_time=True),
    "diffusers-fir": Zoo(diffusers_fir, small(3), (3, 32, 32), (0.1, 5.0)),
    "diffusers-conditional": Zoo(diffusers_conditional, small(2), (3, 32, 32), (1.0, 999.0), extra="context"),
    "diffusers-dit": Zoo(diffusers_dit, small(2), (3, 32, 32), (1.0, 999.0), extra="label"),
    "ddpm_pytorch-unet": Zoo(ddpm_pytorch, small(1), (3, 32, 32), (1.0, 999.0)),
    "torchcfm-unet": Zoo(torchcfm_unet, small(1), (3, 32, 32)),
    "torchcfm-mlp": Zoo(torchcfm_mlp, (6,), (64,)),
    "flow_matching-unet": Zoo(
        lambda b: FlowUNet(3, 128, 10, 4, 32) if b else FlowUNet(1, 8, 10, 2, 4), small(1), (3, 32, 32), extra="label"
    ),
    "edm-ddpmpp": Zoo(
        lambda b: Edm(EdmNet(3, 128, 32)) if b else Edm(EdmNet(1, 8, 4)), small(1), (3, 32, 32), (0.05, 20.0), "sigma"
    ),
    "diffusers-variant": Zoo(diffusers_variant, (1, 12, 12), (), (1.0, 999.0), extra="label", small_only=True),
    "diffusers-kandinsky": Zoo(diffusers_kandinsky, (2, 8, 8), (), (1.0, 999.0), extra="context", small_only=True),
    "ddpm_pytorch-odd": Zoo(ddpm_pytorch_odd, (1, 12, 12), (), small_only=True),
    "ddpm_pytorch-unet1d": Zoo(ddpm_pytorch_1d, (2, 16), (), (1.0, 999.0), small_only=True),
    "ddpm_pytorch-karras": Zoo(ddpm_pytorch_karras, small(1), (), small_only=True),
    "ddpm_pytorch-uvit": Zoo(ddpm_pytorch_uvit, small(1), (), small_only=True),
    "torchcfm-variant": Zoo(torchcfm_variant, small(1), (), extra="label", small_only=True),
}


# ---------------------------------------------------------------------------------------------------------------------
# Weights, inputs, references, export
# ---------------------------------------------------------------------------------------------------------------------


def awaken(net, generator):
    """No weight stays at zero, no norm at the identity: what a network starts from hides most of its Jacobian."""
    with torch.no_grad():
        for parameter in net.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim < 2:
                parameter += 0.1 * noise
            elif not parameter.any():
                parameter += noise / math.sqrt(parameter[0].numel())


def inputs_of(zoo, bench, count, generator):
    shape = zoo.bench_shape if bench else zoo.shape
    low, high = zoo.times
    inputs = {"x": torch.randn(count, *shape, generator=generator)}
    times = low * (high / low) ** torch.rand(count, generator=generator) if low else torch.rand(count, generator=generator)
    inputs[zoo.time] = times[0] if zoo.scalar_time else times
    if zoo.extra == "label":
        inputs["label"] = torch.arange(count) * 3 % 10
    if zoo.extra == "context":
        inputs["context"] = torch.randn(count, 5, 64 if bench else 12, generator=generator)
    return inputs


@contextmanager
def doubled():
    """Upcasts written into a network (`.float()`) become casts to float64, so that no step of a reference is rounded."""
    single = torch.Tensor.float
    torch.Tensor.float = torch.Tensor.double
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.Tensor.float = single


def double_copy(net):
    net = copy.deepcopy(net).double()
    for module in net.modules():
        if module.__dict__.get("dtype") is torch.float32:
            module.dtype = torch.float64
    return net


def references(net, inputs, generator):
    x, *rest = inputs.values()
    x, rest = x.double(), [r.double() if r.is_floating_point() else r for r in rest]
    v = torch.randn(4, *x.shape, generator=generator)
    v[2] = v[2].sign()
    net = double_copy(net)

    def f(x):
        return net(x, *rest)

    with doubled():
        jv = torch.stack([torch.func.jvp(f, (x,), (tangent.double(),))[1] for tangent in v])
        y, pull = torch.func.vjp(f, x)
        w = torch.randn(y.shape, generator=generator)
        (wj,) = pull(w.double())
    assert all(a.dtype == torch.float64 and a.isfinite().all() for a in (y, jv, wj))
    inner = ((jv * w).flatten(1).sum(1) - (v * wj).flatten(1).sum(1)).abs().max() / jv.abs().max()
    assert inner < 1e-10, f"forward and reverse references disagree by {inner}"
    return {name: a.detach().numpy() for name, a in dict(v=v, y=y, jv=jv, w=w, wj=wj).items()}


def export(net, inputs, style, opset, path):
    names = list(inputs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        options = {"input_names": names, "output_names": ["y"], "opset_version": opset, "verbose": False}
        if style == "ts":
            axes = {name: {0: "N"} for name in [*names, "y"] if name == "y" or inputs[name].ndim}
            torch.onnx.export(net, tuple(inputs.values()), str(path), dynamo=False, dynamic_axes=axes, **options)
        else:
            batch = torch.export.Dim("N")
            shapes = {name: {0: batch} if value.ndim else None for name, value in inputs.items()}
            torch.onnx.export(
                net, tuple(inputs.values()), str(path), dynamo=True, dynamic_shapes=shapes, external_data=False, **options
            )
    strip(path)


def strip(path):
    """Stack traces and the like are dropped: most of a small file, and different on every machine."""
    model = onnx.load(str(path))
    owners = [model, model.graph, *model.functions, *model.graph.initializer]
    for body in (model.graph, *model.functions):
        owners += [*body.node, *body.value_info]
    for owner in [*owners, *model.graph.input, *model.graph.output]:
        owner.ClearField("doc_string")
        owner.ClearField("metadata_props")
    onnx.save(model, str(path))


def make(name, bench):
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    zoo = ZOO[name]
    net = zoo.build(bench).eval().requires_grad_(False)
    awaken(net, generator)
    return net, inputs_of(zoo, bench, 3, generator), generator


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", default="", help="a regular expression on library-model-style-opset")
    parser.add_argument("--opsets", default="13,17,18,20,21,23")
    parser.add_argument("--bench", action="store_true")
    parser.add_argument("--fixtures", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    out = FIXTURES if options.fixtures else options.out
    out.mkdir(parents=True, exist_ok=True)
    log, log_path = {}, out / "exports.json"
    if log_path.exists():
        log = json.loads(log_path.read_text())
    for name in ZOO:
        if options.fixtures:
            shipped = (w.split("-") for w in SHIPPED.get(name, "").split())
            wanted = [(style, int(opset)) for style, opset in shipped]
        else:
            wanted = [(s, o) for s in STYLES for o in map(int, options.opsets.split(",")) if OLDEST[s] <= o <= NEWEST[s]]
        wanted = [(s, o) for s, o in wanted if re.search(options.only, f"{name}-{s}-op{o}")]
        if not wanted or options.bench and ZOO[name].small_only:
            continue
        net, inputs, generator = make(name, options.bench)
        arrays = {key: value.numpy() for key, value in inputs.items()} | references(net, inputs, generator)
        count = sum(p.numel() for p in net.parameters())
        print(f"{name}: {count} parameters, |y| {abs(arrays['y']).max():.3g}, |J v| {abs(arrays['jv']).max():.3g}")
        for style, opset in wanted:
            stem, start = f"{name}-{style}-op{opset}", time.time()
            path = out / f"{stem}.onnx"
            try:
                with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
                    export(net, inputs, style, opset, path)
                np.savez_compressed(path.with_suffix(".npz"), **arrays)
                log[stem] = {"exported": True, "parameters": count}
            except Exception as error:
                path.unlink(missing_ok=True)
                log[stem] = {"exported": False, "why": f"{type(error).__name__}: {error}"[:600]}
            print(f"  {stem}: {log[stem].get('why', 'ok').splitlines()[0][:160]} ({time.time() - start:.1f} s)", flush=True)
            if not options.fixtures:
                log_path.write_text(json.dumps(log, indent=1))
    failed = [stem for stem, entry in log.items() if not entry["exported"]]
    print(f"{len(log) - len(failed)} exported, {len(failed)} not")
    return 1 if options.fixtures and failed else 0


if __name__ == "__main__":
    sys.exit(main())
