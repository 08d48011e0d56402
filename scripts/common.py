"""Shared by the training scripts: a small residual network, averaged weights, ONNX export, cards.

Everything uses only operators that any ONNX runtime has (MatMul/Gemm, Add, Mul, Sigmoid, Sin, Cos, Sqrt, Log,
Concat), because the exported graphs are meant to be differentiated and moved between runtimes.
"""

import copy
import gzip
import hashlib
import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch
from torch import nn

ROOT = Path(__file__).resolve().parent.parent
MODELS = ROOT / "models"


def silu(x):
    return x * torch.sigmoid(x)


class Trunk(nn.Module):
    """Residual MLP with additive time conditioning in every block.

    `features` are shown to the first layer and again to the last one, so that whatever is linear
    in them costs the trunk nothing.  The network is twice differentiable everywhere (SiLU, no
    ReLU): the Stein objective needs the gradient of a head, and likelihoods need a smooth
    Jacobian.
    """

    def __init__(self, features, out, width, blocks, dropout=0.0, frequencies=(1.0, 2.0, 4.0, 8.0)):
        super().__init__()
        self.register_buffer("frequencies", torch.tensor(frequencies))
        self.embed = nn.Linear(1 + 2 * len(frequencies), 32)
        self.first = nn.Linear(features, width)
        self.times = nn.ModuleList(nn.Linear(32, width) for _ in range(blocks))
        self.blocks = nn.ModuleList(nn.Linear(width, width) for _ in range(blocks))
        self.dropout = nn.Dropout(dropout)
        self.last = nn.Linear(width + features, out)
        # Starting from zero means starting from the analytic part of the model.
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)
        for block in self.blocks:
            nn.init.normal_(block.weight, std=(1.0 / width / blocks) ** 0.5)

    def forward(self, features, time):
        time = time[:, None]
        waves = time * self.frequencies
        emb = silu(self.embed(torch.cat([time, torch.sin(waves), torch.cos(waves)], 1)))
        h = self.first(features)
        for block, shift in zip(self.blocks, self.times):
            h = h + block(self.dropout(silu(h + shift(emb))))
        return self.last(torch.cat([silu(h), features], 1))


class Average:
    """Exponential moving average of the weights, warmed up so that early steps are forgotten."""

    def __init__(self, model, decay):
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay
        self.steps = 0

    def update(self, model):
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        with torch.no_grad():
            for mine, theirs in zip(self.model.parameters(), model.parameters()):
                mine.lerp_(theirs, 1 - decay)


def learning_rate(step, steps, peak, warmup=200):
    """Linear warm-up, then a cosine down to 1 % of the peak."""
    if step < warmup:
        return peak * (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    return peak * (0.01 + 0.99 * 0.5 * (1 + np.cos(np.pi * done)))


def stein_loss(head, field, score, x, weight):
    """The Langevin-Stein objective for `head` ~ div(field), with no Jacobian of the field.

    For x ~ p and any smooth h,  E[(h - div F)^2] = E[h^2 + 2 F.grad h + 2 h F.score] + const, by
    integration by parts.  `score` may be the conditional score of the noising kernel, or its
    average over anything that x does not determine: the expectation is the same, the variance is
    not.  F.grad h is a directional derivative of the scalar head, taken by forward mode.
    """
    h, directional = torch.func.jvp(head, (x,), (field,))
    return (weight * (h * h + 2 * h * (field * score).sum(1) + 2 * directional)).mean()


def export(model, path, arguments, names, output, tolerance=2e-5):
    """Write `model` as an ONNX file with a dynamic batch axis N, and check it against torch, both in float32."""
    model = copy.deepcopy(model).eval().float()
    batch = torch.export.Dim("N")
    program = torch.onnx.export(
        model, tuple(arguments), input_names=list(names), output_names=list(output),
        dynamic_shapes=tuple({0: batch} for _ in arguments), opset_version=18, dynamo=True,
        external_data=False, verbose=False,
    )
    proto = program.model_proto
    save(proto, path)
    with torch.no_grad():
        want = model(*arguments)
    want = want if isinstance(want, (tuple, list)) else (want,)
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    got = session.run(None, {n: a.numpy() for n, a in zip(names, arguments)})
    for name, w, g in zip(output, want, got):
        gap = float(np.max(np.abs(w.numpy() - g) / (1 + np.abs(w.numpy()))))
        print(f"{path.name}: {name} differs from torch by {gap:.1e} (relative to 1 + |value|)")
        assert gap < tolerance, "the exported graph does not compute what the model computes"


def save(proto, path):
    """Save a checked graph: standard domain only, weights inside, nothing that names a machine."""
    proto.ir_version = min(proto.ir_version, 10)
    proto.producer_name, proto.producer_version, proto.doc_string = "flowgauge scripts", "", ""
    del proto.metadata_props[:]
    opsets = [o for o in proto.opset_import if o.domain in ("", "ai.onnx")]
    del proto.opset_import[:]
    proto.opset_import.extend(opsets)
    for value in [*proto.graph.input, *proto.graph.output, *proto.graph.value_info,
                  *proto.graph.initializer, *proto.graph.node]:
        value.doc_string = ""
        if hasattr(value, "metadata_props"):
            del value.metadata_props[:]
    del proto.graph.metadata_props[:]
    del proto.graph.value_info[:]
    proto.graph.name = Path(path).stem
    assert not proto.functions, "local functions are not for everyone"
    onnx.checker.check_model(proto, full_check=True)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    onnx.save(proto, str(path))


def sha256(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def unpacked(path, expected):
    """The content of a gzip file, after a check of the file's SHA-256."""
    packed = Path(path).read_bytes()
    found = hashlib.sha256(packed).hexdigest()
    if found != expected:
        raise SystemExit(f"{path}: SHA-256 is {found}, expected {expected}")
    return gzip.decompress(packed)


def scalar(value):
    """One YAML flow value; JSON is YAML, but plain words read better without quotes."""
    if isinstance(value, str) and value and all(c.isalnum() or c in "-_./" for c in value):
        return value
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k}: {scalar(v)}" for k, v in value.items()) + "}"
    return json.dumps(value)


def write_card(path, card):
    """Write nested dicts as the two-level YAML of the interface; leaves in flow style."""
    lines = []
    for key, value in card.items():
        if not isinstance(value, dict) or key in ("prior", "data", "closed_form"):
            lines.append(f"{key}: {scalar(value)}")
            continue
        lines.append(f"{key}:")
        lines += [f"  {k}: {scalar(v)}" for k, v in value.items()]
    Path(path).write_text("\n".join(lines) + "\n")
