"""Runs improved-diffusion's own variational bound on tiny networks and writes tests/data/vlb.

    python scripts/vlb_references.py PATH-TO-A-CLONE-OF-improved-diffusion

The code is https://github.com/openai/improved-diffusion, file improved_diffusion/gaussian_diffusion.py
(`_vb_terms_bpd` and `_prior_bpd`). Every case is run twice: as it ships, in float32 ("f32"), and with
`Tensor.float` replaced by `Tensor.double` ("f64"), which changes no formula. The network is
eps = tanh(A x + b t), and the variance's output is sin(B x + c t). Terms are in nats per sample.

`constant.onnx` expects the same data everywhere and has the same output for all variances, so that its terms have
no noise; `truth.npz` has their sums, in float64, for the integers of `integers.npy`.
"""

import math
import pathlib
import sys

import numpy as np
import onnx
import torch as th
from onnx import helper

HERE = pathlib.Path(__file__).parent.parent / "tests/data/vlb"
STEPS = 24
DIM = 4
# The constant network.
MEAN, OUTPUT = 0.25, -0.375
ENDS, COUNT = (0.001, 0.2), 50


def network(weights, dtype):
    a, b, c, d = (th.tensor(w, dtype=dtype) for w in weights)

    def call(x, t, learned):
        flat = x.reshape(len(x), DIM)
        t = t.to(dtype)[:, None] / STEPS
        eps = th.tanh(flat @ a.T + t * b).reshape(x.shape)
        variance = th.sin(flat @ c.T + t * d).reshape(x.shape)
        return th.cat([eps, variance], dim=1) if learned else eps

    return call


def main():
    sys.path.insert(0, sys.argv[1])
    from improved_diffusion import gaussian_diffusion as gd

    rng = np.random.default_rng(17)
    weights = [rng.normal(size=s) for s in [(DIM, DIM), DIM, (DIM, DIM), DIM]]
    integers = np.array([[0, 255, 128, 3], [17, 90, 200, 254], [255, 255, 0, 1]])
    clean = integers / 127.5 - 1.0
    noise = rng.normal(size=(STEPS, len(clean), DIM))
    out = {"weights": np.concatenate([w.ravel() for w in weights]), "integers": integers.astype(float)}
    single = th.Tensor.float
    for schedule in ["linear", "cosine"]:
        for variance in ["FIXED_SMALL", "FIXED_LARGE", "LEARNED_RANGE"]:
            for clip in [True, False]:
                for kind, dtype in [("f64", th.float64), ("f32", th.float32)]:
                    th.Tensor.float = th.Tensor.double if kind == "f64" else single
                    diffusion = gd.GaussianDiffusion(
                        betas=gd.get_named_beta_schedule(schedule, STEPS),
                        model_mean_type=gd.ModelMeanType.EPSILON,
                        model_var_type=getattr(gd.ModelVarType, variance),
                        loss_type=gd.LossType.KL,
                    )
                    call = network(weights, dtype)
                    learned = variance == "LEARNED_RANGE"
                    # Images with one row: batch, channels, height, width.
                    x0 = th.tensor(clean, dtype=dtype).reshape(len(clean), DIM, 1, 1)
                    states, terms = [], []
                    for step in range(STEPS):
                        t = th.tensor([step] * len(clean))
                        e = th.tensor(noise[step], dtype=dtype).reshape(x0.shape)
                        x_t = diffusion.q_sample(x0, t, noise=e)
                        found = diffusion._vb_terms_bpd(
                            lambda x, t: call(x, t, learned), x0, x_t, t, clip_denoised=clip
                        )
                        states.append(x_t.reshape(len(clean), DIM).double().numpy())
                        terms.append(found["output"].double().numpy() * DIM * math.log(2.0))
                    prior = diffusion._prior_bpd(x0).double().numpy() * DIM * math.log(2.0)
                    name = f"{schedule}.{variance}.{'clip' if clip else 'free'}.{kind}"
                    out[name + ".terms"] = np.stack(terms)
                    out[name + ".prior"] = prior
                    if kind == "f64":
                        out[f"{schedule}.betas"] = diffusion.betas
                        out[f"{schedule}.states"] = np.stack(states)
    th.Tensor.float = single
    HERE.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(HERE / "improved_diffusion.npz", **out)
    print(HERE / "improved_diffusion.npz", len(out), "arrays")
    constant_network(gd)


def constant_network(gd):
    """Writes the network, its card, its data and the terms of its bounds."""
    node = helper.make_node
    value = lambda name, v: helper.make_tensor(name, onnx.TensorProto.FLOAT, [], [v])
    graph = helper.make_graph(
        [
            node("Mul", ["x", "zero"], ["nothing"]),
            node("Add", ["nothing", "mean"], ["expected"]),
            node("Add", ["nothing", "share"], ["shares"]),
            node("Concat", ["expected", "shares"], ["out"], axis=1),
        ],
        "constant",
        [
            helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", 1, 2, 2]),
            helper.make_tensor_value_info("t", onnx.TensorProto.FLOAT, ["N"]),
        ],
        [helper.make_tensor_value_info("out", onnx.TensorProto.FLOAT, ["N", 2, 2, 2])],
        [value("zero", 0.0), value("mean", MEAN), value("share", OUTPUT)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, HERE / "constant.onnx")
    (HERE / "constant.yaml").write_text(
        f"""name: constant
shape: [1, 2, 2]
network:
  file: constant.onnx
  inputs: {{x: x, time: t}}
  output: out
  prediction: denoised
  time: {ignored: true}
  channels: [0, 1]
  variance_channels: [1, 2]
path: {{kind: discrete, betas: {{linear: [{ENDS[0]}, {ENDS[1]}]}}, steps: {COUNT}}}
data: {{range: [-1, 1], levels: 256}}
provenance: {{script: scripts/vlb_references.py, licence: MIT OR Apache-2.0}}
"""
    )
    integers = np.array([[0, 255, 128, 3], [17, 90, 200, 254], [159, 160, 160, 161]], np.uint8)
    np.save(HERE / "integers.npy", integers.reshape(-1, 1, 2, 2))
    th.Tensor.float = th.Tensor.double
    x0 = th.tensor(integers / 127.5 - 1.0).reshape(-1, 1, 2, 2)
    out = {}
    for variance, name in [
        ("FIXED_SMALL", "fixed-small"),
        ("FIXED_LARGE", "fixed-large"),
        ("LEARNED_RANGE", "learned"),
    ]:
        diffusion = gd.GaussianDiffusion(
            betas=np.linspace(*ENDS, COUNT),
            model_mean_type=gd.ModelMeanType.START_X,
            model_var_type=getattr(gd.ModelVarType, variance),
            loss_type=gd.LossType.KL,
        )

        def call(x, t):
            mean = th.full_like(x, MEAN)
            return th.cat([mean, th.full_like(x, OUTPUT)], 1) if name == "learned" else mean

        found = diffusion.calc_bpd_loop(call, x0)
        nats = 4 * math.log(2.0)
        terms = found["vb"].numpy() * nats
        out[name] = np.stack(
            # The last column of the loop is the first step, with the decoder.
            [found["prior_bpd"].numpy() * nats, terms[:, :-1].sum(1), terms[:, -1]],
            axis=1,
        )
    np.savez(HERE / "truth.npz", **out)
    print(out)


if __name__ == "__main__":
    main()
