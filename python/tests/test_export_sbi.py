"""Posterior estimators of sbi: the program's log-densities of θ are sbi's own."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

import flowgauge

pytestmark = [pytest.mark.torch, pytest.mark.needs("torch", "onnx", "onnxscript", "yaml", "sbi")]

if importlib.util.find_spec("torch") is not None:
    import torch

# Arguments of sbi's builder, and what the card must say.
ESTIMATORS = {
    "fmpe": ({}, "velocity", "flow-matching"),
    "fmpe-composed": ({"compose_standardization": True}, "velocity", "flow-matching"),
    "vp": ({"sde_type": "vp", "z_score_theta": "none"}, "score", "vp"),
    "vp-scaled": ({"sde_type": "vp"}, "velocity", "vp"),
    "sub-vp": ({"sde_type": "subvp", "z_score_theta": "none"}, "score", "sub-vp"),
    "ve": ({"sde_type": "ve", "z_score_theta": "none"}, "score", "ve"),
    "ve-scaled": ({"sde_type": "ve"}, "velocity", "ve"),
    "ve-composed": (
        {"sde_type": "ve", "compose_standardization": True},
        "velocity",
        "flow-matching",
    ),
}


def make_posterior(options):
    """A posterior with an untrained network, for parameters that are neither centred nor scaled."""
    from sbi.inference import FMPE, NPSE
    from sbi.neural_nets import posterior_flow_nn, posterior_score_nn

    torch.manual_seed(1)
    theta = torch.randn(200, 2) * torch.tensor([1.5, 0.3]) + torch.tensor([0.5, -1.0])
    x = theta @ torch.randn(2, 3) + 0.5 * torch.randn(200, 3)
    build = posterior_score_nn if "sde_type" in options else posterior_flow_nn
    estimator = build(model="mlp", hidden_features=24, num_layers=2, **options)(theta, x).eval()
    with torch.no_grad():
        for parameter in estimator.net.parameters():
            parameter += 0.05 * torch.randn(parameter.shape)
    trainer = (NPSE if "sde_type" in options else FMPE)(
        prior=torch.distributions.MultivariateNormal(torch.zeros(2), 9 * torch.eye(2)),
        show_progress_bars=False,
    )
    posterior = trainer.append_simulations(theta, x).build_posterior(estimator)
    return posterior, theta[:6], x[:6]


def log_densities(posterior, theta, x):
    """sbi's own, by its ODE in double precision, one observation for each θ."""
    estimator, ode = (
        posterior.potential_fn.vector_field_estimator,
        posterior.potential_fn.neural_ode,
    )
    ode.mean_base, ode.std_base = ode.mean_base.double(), ode.std_base.double()
    theta, x, kept = theta.double(), x.double(), torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        estimator.double()
        shift = estimator.log_abs_det().item() if estimator.compose_enabled else 0.0
        state = estimator.to_z(theta) if estimator.compose_enabled else theta
        with torch.no_grad():
            values = [
                ode(x[i : i + 1], atol=1e-8, rtol=1e-8).log_prob(state[i : i + 1]).item() - shift
                for i in range(len(theta))
            ]
    finally:
        torch.set_default_dtype(kept)
    return np.array(values)


@pytest.mark.parametrize("kind", ESTIMATORS)
def test_log_densities_are_those_of_sbi(tmp_path, monkeypatch, kind):
    import yaml

    monkeypatch.chdir(tmp_path)  # sbi writes its logs here.
    options, prediction, path = ESTIMATORS[kind]
    posterior, theta, x = make_posterior(options)
    card = flowgauge.export(posterior, out="m")
    keys = yaml.safe_load(card.text)
    assert keys["network"]["prediction"] == prediction
    assert keys["path"]["kind"] == path
    assert keys["network"]["conditions"] == {"x_o": {"input": "x_o"}}
    gaps = card.differences[keys["network"]["file"]]
    assert gaps["float32"] <= 1e-5
    assert gaps["float64"] <= 1e-5
    got = flowgauge.likelihood(
        card, theta, divergence="exact", solver={"dopri5": {"rtol": 1e-7, "atol": 1e-7}},
        condition={"x_o": x}, no_check=True, quiet=True,
    ).samples["log_likelihood"]  # fmt: skip
    assert np.abs(np.asarray(got) - log_densities(posterior, theta, x)).max() < 2e-4


def test_an_estimator_alone_is_its_posterior(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    posterior, _, _ = make_posterior({})
    estimator = posterior.potential_fn.vector_field_estimator
    one, two = flowgauge.export(posterior, out="one"), flowgauge.export(estimator, out="two")
    assert one.text.replace("name: one", "name: two") == two.text
    assert not any(name.startswith("flowgauge") for name, _ in estimator.named_buffers())
