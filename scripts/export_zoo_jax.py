"""Exports networks made with JAX to ONNX, with float64 references: the same files as export_zoo.py, by jax2onnx.

    python scripts/export_zoo_jax.py [--out zoo]         # without --out: writes tests/data/graph

Needs the versions in requirements-zoo-jax.txt, in an environment of its own.
"""

import argparse
import logging
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import onnx
from flax import nnx
from jax2onnx import to_onnx

FIXTURES = Path(__file__).resolve().parent.parent / "tests" / "data" / "graph"
FREQUENCIES = np.array([1, 2, 4, 8], np.float32)


def waves(t):
    angles = t[:, None] * FREQUENCIES
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], -1)


def standardize(h, axes):
    h = h - h.mean(axes, keepdims=True)
    return h * jax.lax.rsqrt(h.var(axes, keepdims=True) + 1e-5)


def convolve(x, kernel, stride=1):
    layout = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), "SAME", dimension_numbers=layout)


def mlp(p, x, t):
    h = jnp.concatenate([x, waves(t)], -1) @ p["first"]
    h = h + jax.nn.silu(h) @ p["middle"]
    return jax.nn.gelu(standardize(h, -1)) @ p["last"]


def conv(p, x, t):
    """Channels last; a group norm, attention at half the size, a repeat to come back."""
    h = convolve(x, p["first"]) + (waves(t) @ p["time"])[:, None, None]
    h = jax.nn.silu(standardize(h.reshape(-1, 8, 8, 4, 4), (1, 2, 4)).reshape(-1, 8, 8, 16))
    d = convolve(h, p["down"], 2).reshape(-1, 16, 16)
    weight = jax.nn.softmax(jnp.einsum("nqc,nkc->nqk", d @ p["q"], d @ p["k"]) / 4, -1)
    d = (d + jnp.einsum("nqk,nkc->nqc", weight, d @ p["v"])).reshape(-1, 4, 4, 16)
    d = jnp.repeat(jnp.repeat(d, 2, 1), 2, 2)
    return convolve(jax.nn.softplus(h + d), p["last"])


class FlaxNet(nnx.Module):
    """Flax's own layers: Conv, GroupNorm, LayerNorm, MultiHeadAttention, ConvTranspose."""

    def __init__(self, rngs, attention=nnx.dot_product_attention):
        self.first = nnx.Conv(1, 16, (3, 3), rngs=rngs)
        self.time = nnx.Linear(8, 16, rngs=rngs)
        self.norm = nnx.GroupNorm(16, num_groups=4, rngs=rngs)
        self.down = nnx.Conv(16, 16, (3, 3), strides=(2, 2), rngs=rngs)
        self.token_norm = nnx.LayerNorm(16, rngs=rngs)
        self.attend = nnx.MultiHeadAttention(num_heads=2, in_features=16, decode=False, attention_fn=attention, rngs=rngs)
        self.up = nnx.ConvTranspose(16, 16, (2, 2), strides=(2, 2), rngs=rngs)
        self.last = nnx.Conv(16, 1, (3, 3), rngs=rngs)

    def __call__(self, x, t):
        h = nnx.swish(self.norm(self.first(x) + self.time(waves(t))[:, None, None]))
        d = self.down(h).reshape(-1, 16, 16)
        d = (d + self.attend(self.token_norm(d))).reshape(-1, 4, 4, 16)
        return self.last(nnx.gelu(h + self.up(d)))


def attention(q, k, v, **_):
    """The library's takes its softmax in float32 whatever it is given; for references only."""
    weight = jax.nn.softmax(jnp.einsum("nqhc,nkhc->nhqk", q, k) / np.sqrt(q.shape[-1]), -1)
    return jnp.einsum("nhqk,nkhc->nqhc", weight, v)


def weights(rng, **shapes):
    return {k: (rng.standard_normal(s) / np.sqrt(np.prod(s[:-1]))).astype(np.float32) for k, s in shapes.items()}


def zoo():
    rng = np.random.default_rng(0)
    p = weights(rng, first=(14, 32), middle=(32, 32), last=(32, 6))
    yield "jax-mlp", mlp, mlp, p, (6,), 21
    p = weights(
        rng, first=(3, 3, 2, 16), time=(8, 16), down=(3, 3, 16, 16), q=(16, 16), k=(16, 16), v=(16, 16), last=(3, 3, 16, 2)
    )
    yield "jax-conv", conv, conv, p, (8, 8, 2), 23
    shipped, state = nnx.split(FlaxNet(nnx.Rngs(0)))
    double, _ = nnx.split(FlaxNet(nnx.Rngs(0), attention))
    flax = [lambda p, x, t, d=d: nnx.merge(d, p)(x, t) for d in (shipped, double)]
    yield "flax-unet", *flax, state, (8, 8, 1), 23


def references(f, p, x, t, rng):
    """In float64, with the float32 weights."""
    v = rng.standard_normal((4, *x.shape)).astype(np.float32)
    v[2] = np.sign(v[2])
    with jax.enable_x64(True):
        p = jax.tree.map(lambda a: jnp.asarray(np.asarray(a), jnp.float64) if a.dtype == jnp.float32 else a, p)

        def g(x):
            return f(p, x, jnp.asarray(t, jnp.float64))

        x = jnp.asarray(x, jnp.float64)
        jv = np.stack([jax.jvp(g, (x,), (jnp.asarray(tangent, jnp.float64),))[1] for tangent in v])
        y, pull = jax.vjp(g, x)
        w = rng.standard_normal(y.shape).astype(np.float32)
        (wj,) = pull(jnp.asarray(w, jnp.float64))
        y, wj = np.asarray(y), np.asarray(wj)
    assert y.dtype == jv.dtype == wj.dtype == np.float64
    inner = abs((jv * w).sum(tuple(range(1, jv.ndim))) - (v * wj).sum(tuple(range(1, v.ndim)))).max()
    assert inner < 1e-10 * abs(jv).max() * w.size, inner
    return dict(v=v, y=y, jv=jv, w=w, wj=wj)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=FIXTURES)
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    logging.disable(logging.WARNING)
    rng = np.random.default_rng(1)
    for name, f, double, p, shape, opset in zoo():
        x = rng.standard_normal((3, *shape)).astype(np.float32)
        t = rng.random(3).astype(np.float32)
        model = to_onnx(
            lambda x, t, f=f, p=p: f(p, x, t), [("N", *shape), ("N",)], opset=opset, input_names=["x", "t"], output_names=["y"]
        )
        path = out / f"{name}-jax2onnx-op{opset}.onnx"
        onnx.save(model, str(path))
        np.savez_compressed(path.with_suffix(".npz"), x=x, t=t, **references(double, p, x, t, rng))
        print(path.name, path.stat().st_size, "bytes", sorted({n.op_type for n in model.graph.node}))


if __name__ == "__main__":
    main()
