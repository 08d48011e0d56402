"""Writes tests/data/sbi: posterior networks of the package sbi as ONNX files, and sbi's own log-probabilities.

    python scripts/sbi_references.py            # with sbi==0.27.0, see requirements-sbi.txt

Two parameters theta ~ N(0, I), observations x = theta A + noise [3]. Each network is trained briefly: what matters is
that both programs read it alike. NAME.yaml is the card, NAME.onnx takes the state, the time and one observation a
sample, with all that sbi standardizes inside.

    fmpe      flow matching as sbi makes it by default: data at 0, base N(0, I) at 1, velocity
    npse_vp   score on sbi's vp path (beta 0.01 to 10, times 0.001 to 1) without z-scored parameters: base N(0, I)
    npse_ve   score on sbi's ve path (sigma 0.0001 to 10, times 0.001 to 1) in standardized parameters
              (`compose_standardization`): base N(0, 1 + 10^2)
    npse_z    npse_vp as sbi makes it by default: the base is N(alpha m, alpha^2 s^2 + sigma^2) at time 1, with mean m
              and deviation s of the training parameters. The graph is the velocity of y = (theta_t - alpha_t m) / b,
              with b the base's deviation, so that the base is N(0, I)

    NAME_data.npy     states y that the cards speak of; log p(theta) = log p(y) - log_scale
    observations.npy  one observation for each
    NAME.npz          theta, x, log_scale, and of log p(theta | x): `log_prob` as sbi computes it in float32 with its
                      default tolerances, which are off by up to 2e-3 nats, and `log_prob_64` in float64 with
                      tolerances of 1e-9

At the end every card's reading is integrated by RK4 over the ONNX file in float32, with differences for the trace.
"""

import os
import sys
import tempfile
import warnings

import numpy as np
import onnxruntime as ort
import torch
from sbi.inference import FMPE, NPSE
from sbi.neural_nets import posterior_flow_nn, posterior_score_nn

from common import ROOT, save

HERE = ROOT / "tests/data/sbi"
PAIRS, D = 20, 2
MIX = torch.tensor([[1.0, -0.5, 0.3], [0.4, 0.8, -1.0]])
TIMES = {"fmpe": (0.0, 1.0), "npse_vp": (1e-3, 1.0), "npse_ve": (1e-3, 1.0), "npse_z": (1e-3, 1.0)}


def simulate(n):
    theta = torch.randn(n, D)
    return theta, theta @ MIX + 0.5 * torch.randn(n, 3)


def train(name, theta, x):
    prior = torch.distributions.MultivariateNormal(torch.zeros(D), torch.eye(D))
    small = {"model": "mlp", "hidden_features": 24, "num_layers": 2}
    if name == "fmpe":
        trainer = FMPE(prior=prior, vf_estimator=posterior_flow_nn(**small), show_progress_bars=False)
    else:
        options = {
            "npse_vp": {"sde_type": "vp", "z_score_theta": "none"},
            "npse_ve": {"sde_type": "ve", "compose_standardization": True},
            "npse_z": {"sde_type": "vp"},
        }[name]
        trainer = NPSE(prior=prior, vf_estimator=posterior_score_nn(**small, **options), show_progress_bars=False)
    estimator = trainer.append_simulations(theta, x).train(max_num_epochs=40, training_batch_size=100)
    return trainer.build_posterior(estimator)


class AsCard(torch.nn.Module):
    """The network as the card reads it: the velocity or the score of the card's state."""

    def __init__(self, name, estimator):
        super().__init__()
        self.z, self.estimator = name == "npse_z", estimator
        if self.z:
            self.register_buffer("shift", estimator.mean_0.reshape(1, -1))
            self.register_buffer("scale", estimator._std_base.reshape(1, -1))

    def forward(self, state, time, x):
        if not self.z:
            return self.estimator.forward(state, x, time)
        of = self.estimator
        mean = of.mean_t_fn(time) * self.shift                       # alpha_t m
        theta = self.scale * state + mean
        slope = -0.5 * of.noise_schedule(time)[:, None] * mean       # its derivative
        return (of.ode_fn(theta, x, time) - slope) / self.scale

    def to_state(self, theta):
        """The card's state at the data end, and log|d theta / d state|."""
        of = self.estimator
        if self.z:
            time = torch.tensor([of.t_min], dtype=theta.dtype)
            return (theta - of.mean_t_fn(time) * self.shift) / self.scale, self.scale.log().sum().item()
        if of.compose_enabled:
            return of.to_z(theta), of.log_abs_det().item()
        return theta, 0.0


def log_probs(posterior, theta, x):
    """sbi's log-probabilities, one observation for each theta."""
    return np.array([posterior.log_prob(theta[i:i + 1], x=x[i:i + 1]).item() for i in range(len(theta))])


def tight_log_probs(posterior, theta, x):
    """The same by sbi's ODE in float64; its posterior's `log_prob` takes observations in float32 only."""
    estimator, ode = posterior.potential_fn.vector_field_estimator, posterior.potential_fn.neural_ode
    ode.mean_base, ode.std_base = ode.mean_base.double(), ode.std_base.double()
    compose = estimator.compose_enabled
    state, shift = (estimator.to_z(theta), estimator.log_abs_det().item()) if compose else (theta, 0.0)
    with torch.no_grad():
        return np.array([ode(x[i:i + 1], atol=1e-9, rtol=1e-9).log_prob(state[i:i + 1]).item() - shift
                         for i in range(len(theta))])


def export(module, path, state, x):
    batch = torch.export.Dim("N")
    time = torch.linspace(0.1, 0.9, len(state))
    output = "velocity" if module.z or "fmpe" in path.stem else "score"
    program = torch.onnx.export(module, (state, time, x), input_names=["theta", "t", "x"], output_names=[output],
                                dynamic_shapes=({0: batch},) * 3, opset_version=18, dynamo=True, external_data=False,
                                verbose=False)
    save(program.model_proto, path)
    run = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    with torch.no_grad():
        want = module(state, time, x).numpy()
    got = run.run(None, {"theta": state.numpy(), "t": time.numpy(), "x": x.numpy()})[0]
    gap = np.abs(got - want).max() / (1 + np.abs(want).max())
    print(f"{path.name}: differs from torch by {gap:.1e}, {path.stat().st_size} bytes, "
          f"{sorted({n.op_type for n in program.model_proto.graph.node})}")
    assert gap < 1e-5
    return run, output


# ---------------------------------------------------------------- the cards, and their reading

SIGMA_MIN, VE_STD = 1e-4 * (10 / 1e-4) ** 1e-3, 101.0**0.5
CARDS = {
    "fmpe": "  prediction: velocity\npath: {kind: flow-matching, data_at: 0}\n",
    "npse_vp": "  prediction: score\npath: {kind: vp, beta_min: 0.01, beta_max: 10.0, t_min: 0.001}\n",
    # sbi's times begin at 0.001; the card's ve path has that noise level at 0.
    "npse_ve": "  prediction: score\n  time: {feed: t, scale: 0.999, offset: 0.001}\n"
               f"path: {{kind: ve, sigma_min: {SIGMA_MIN!r}, sigma_max: 10.0}}\nprior: {{std: {VE_STD!r}}}\n",
    # A velocity needs no path but its ends.
    "npse_z": "  prediction: velocity\npath: {kind: flow-matching, data_at: 0, t_min: 0.001}\n",
}


def write_card(name, output):
    (HERE / f"{name}.yaml").write_text(f"""name: sbi-{name.replace("_", "-")}
shape: [{D}]
network:
  file: {name}.onnx
  inputs: {{x: theta, time: t}}
  conditions: {{observation: {{input: x}}}}
  output: {output}
{CARDS[name]}""")


def by_card(name, run, state, x, steps):
    """log p of the states by the card, in the card's own time."""
    def network(y, t):
        return run.run(None, {"theta": y.astype(np.float32), "t": np.full(len(y), t, np.float32),
                              "x": x.astype(np.float32)})[0].astype(float)

    def velocity(y, t):
        if name in ("fmpe", "npse_z"):
            return network(y, t)
        if name == "npse_ve":
            growth = np.log(10 / SIGMA_MIN)
            sigma = SIGMA_MIN * np.exp(growth * t)
            return -growth * sigma**2 * network(y, 0.999 * t + 0.001)
        beta = 0.01 + t * 9.99
        return -0.5 * beta * (y + network(y, t))

    def field(y, t):
        h = 1e-2
        trace = sum((velocity(y + h * e, t) - velocity(y - h * e, t)) @ e / (2 * h) for e in np.eye(D))
        return velocity(y, t), trace

    first, last = {"npse_ve": (0.0, 1.0)}.get(name, TIMES[name])
    times = first + (last - first) * np.linspace(0, 1, steps + 1)
    y, integral = state, np.zeros(len(state))
    for t, s in zip(times, times[1:]):
        h = s - t
        v1, d1 = field(y, t)
        v2, d2 = field(y + h / 2 * v1, t + h / 2)
        v3, d3 = field(y + h / 2 * v2, t + h / 2)
        v4, d4 = field(y + h * v3, s)
        y = y + h / 6 * (v1 + 2 * v2 + 2 * v3 + v4)
        integral += h / 6 * (d1 + 2 * d2 + 2 * d3 + d4)
    std = VE_STD if name == "npse_ve" else 1.0
    return -0.5 * (y**2).sum(1) / std**2 - D * np.log(std * np.sqrt(2 * np.pi)) + integral


def make(name):
    torch.manual_seed(11)
    posterior = train(name, *simulate(1000))
    estimator = posterior.potential_fn.vector_field_estimator.eval()
    torch.manual_seed(12)
    theta, x = simulate(PAIRS)                   # the same pairs for every network
    default = log_probs(posterior, theta, x)
    module = AsCard(name, estimator).eval()
    run, output = export(module, HERE / f"{name}.onnx", theta, x)
    write_card(name, output)

    torch.set_default_dtype(torch.float64)
    try:
        estimator.double()
        module.double()
        tight = tight_log_probs(posterior, theta.double(), x.double())
        state, log_scale = module.to_state(theta.double())
    finally:
        torch.set_default_dtype(torch.float32)
    state = state.numpy()
    mine = by_card(name, run, state, x.numpy(), 100) - log_scale
    print(f"{name}: sbi's default differs from float64 by {np.abs(default - tight).max():.1e} nats, "
          f"the card's reading by {np.abs(mine - tight).max():.1e}")
    assert np.abs(mine - tight).max() < 1e-3
    np.savez(HERE / f"{name}.npz", theta=theta.numpy(), x=x.numpy(), log_scale=log_scale, log_prob=default,
             log_prob_64=tight)
    np.save(HERE / f"{name}_data.npy", state)


def main():
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    HERE.mkdir(parents=True, exist_ok=True)
    os.chdir(tempfile.mkdtemp())                 # where sbi writes its logs
    for name in sys.argv[1:] or CARDS:
        make(name)
    np.save(HERE / "observations.npy", np.load(HERE / "fmpe.npz")["x"])


if __name__ == "__main__":
    main()
