"""Any module or function: roles, conditions, what is refused, and what is left alone."""

from __future__ import annotations

import importlib.util
import math

import numpy as np
import pytest

import flowgauge

pytestmark = [pytest.mark.torch, pytest.mark.needs("torch", "onnx", "onnxscript", "yaml")]

if importlib.util.find_spec("torch") is not None:
    import torch
    from torch import nn

    import networks

FLOW = {"path": {"kind": "flow-matching", "data_at": 1}, "prediction": "velocity"}


def read(card):
    import yaml

    return yaml.safe_load(card.text)


def euler(net, x, steps):
    with torch.no_grad():
        for i in range(steps):
            x = x + net(x, torch.full((len(x),), i / steps)) / steps
    return x


def test_a_module_and_its_samples(tmp_path):
    torch.manual_seed(0)
    net, x = networks.Mlp(), torch.randn(4, 2)
    card = flowgauge.export(net, (x, torch.rand(4)), out=tmp_path / "moons", **FLOW)
    keys = read(card)
    assert (keys["name"], keys["shape"]) == ("moons", [2])
    assert keys["network"]["inputs"] == {"x": "x", "time": "t"}
    assert card.shape == (2,)
    assert "differs from the module by" in str(card)
    assert "prediction: velocity" in card._repr_html_()
    got = flowgauge.sample(card, noise=x, sampler={"euler": {"steps": 5}}, quiet=True)
    assert np.abs(got.array - euler(net, x, 5).numpy()).max() < 1e-5
    # The file names nothing of the machine that wrote it.
    written = (tmp_path / "moons/network.onnx").read_bytes()
    assert b".py" not in written
    assert str(tmp_path).encode() not in written


def test_the_log_likelihood_of_a_linear_flow_is_known(tmp_path):
    """dx/dt = A x from N(0, I): x₁ is Gaussian, and its log-density is known."""

    class Linear(nn.Module):
        def forward(self, x, t):
            return 0.5 * x + 0 * t[:, None]

    x = torch.randn(6, 3)
    card = flowgauge.export(Linear(), (x, torch.rand(6)), out=tmp_path / "m", **FLOW)
    got = flowgauge.likelihood(
        card, x, divergence="exact", solver={"rk4": {"steps": 20}}, no_check=True, quiet=True
    ).samples["log_likelihood"]
    std = math.exp(0.5)
    want = torch.distributions.Normal(0.0, std).log_prob(x).sum(1)
    assert np.abs(np.asarray(got) - want.numpy()).max() < 1e-5


def test_arguments_by_name_become_conditions(tmp_path):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.labels = networks.Mlp(), nn.Embedding(5, 2)

        def forward(self, y, noisy, context, level):
            return self.net(noisy + self.labels(y) + context.sum(1), level)

    torch.manual_seed(0)
    net, noisy = Net(), torch.randn(3, 2)
    y, context, level = torch.tensor([4, 0, 2]), torch.randn(3, 6, 2), torch.rand(3)
    card = flowgauge.export(
        net, {"noisy": noisy, "level": level, "y": y, "context": context},
        inputs={"x": "noisy", "time": "level"}, out=tmp_path / "m", name="net",
        conditions={"label": {"input": "y", "null": 4}, "context": {
            "input": "context", "null": np.zeros((6, 2), np.float32)}}, **FLOW,
    )  # fmt: skip
    assert list(read(card)["network"]["conditions"]) == ["label", "context"]
    assert np.load(tmp_path / "m/null_context.npy").shape == (6, 2)

    def field(x, t):
        return net(y, x, context, t)

    got = flowgauge.sample(
        card, noise=noisy, sampler={"euler": {"steps": 4}},
        condition={"label": y, "context": context}, quiet=True,
    )  # fmt: skip
    assert np.abs(got.array - euler(field, noisy, 4).numpy()).max() < 1e-5


def test_a_function_and_a_half_precision_module(tmp_path):
    torch.manual_seed(0)
    net, x = networks.Mlp().half(), torch.randn(2, 2)
    example = (x, torch.rand(2))
    card = flowgauge.export(net, example, out=tmp_path / "half", **FLOW)
    assert next(net.parameters()).dtype == torch.float16
    single = networks.Mlp()
    single.load_state_dict(net.state_dict())
    got = flowgauge.sample(card, noise=x, sampler={"euler": {"steps": 2}}, quiet=True).array
    assert np.abs(got - euler(single, x, 2).numpy()).max() < 1e-5

    # A function owns copies of the modules around it, without their dropout.
    drop = nn.Dropout(0.9).train()

    def function(x, t, *, factor=1.0):
        return factor * drop(single(x, t))

    for name, call in {"function": function, "method": single.forward}.items():
        card = flowgauge.export(call, example, out=tmp_path / name, **FLOW)
        assert card.differences["network.onnx"]["float64"] < 1e-5
        again = flowgauge.sample(card, noise=x, sampler={"euler": {"steps": 2}}, quiet=True).array
        assert np.abs(got - again).max() < 1e-5
    assert drop.training
    assert next(single.parameters()).dtype == torch.float32


def test_wrappers_of_torch_are_taken_off(tmp_path):
    torch.manual_seed(0)
    net, x = networks.Mlp(), torch.randn(3, 2)
    wrapped = torch.optim.swa_utils.AveragedModel(torch.nn.DataParallel(torch.compile(net)))
    card = flowgauge.export(wrapped, (x, torch.rand(3)), out=tmp_path / "m", **FLOW)
    got = flowgauge.sample(card, noise=x, sampler={"euler": {"steps": 2}}, quiet=True)
    assert np.abs(got.array - euler(net, x, 2).numpy()).max() < 1e-5


def test_the_network_is_left_as_it_is(tmp_path):
    net = networks.Mlp().train()
    state = {name: value.clone() for name, value in net.state_dict().items()}
    flowgauge.export(net, (torch.randn(2, 2), torch.rand(2)), out=tmp_path, **FLOW)
    assert net.training
    assert all(parameter.requires_grad for parameter in net.parameters())
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in state.items())


def test_dropout_is_off(tmp_path):
    class Net(networks.Mlp):
        def forward(self, x, t):
            return torch.dropout(super().forward(x, t), 0.9, self.training)

    net = Net().train()
    card = flowgauge.export(net, (torch.randn(2, 2), torch.rand(2)), out=tmp_path / "m", **FLOW)
    assert card.differences["network.onnx"]["float32"] < 1e-6
    assert net.training


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"path": None}, "path must be given: path is one of edm, ve, vp"),
        ({"path": None, "prediction": None}, "path and prediction must be given"),
        ({"prediction": "epsilom"}, "prediction 'epsilom': expected one of denoised, noise"),
        ({"path": "flow-matching"}, "data_at is not given"),
        ({"inputs": {"x": "z"}}, "which argument is the state"),
        ({"conditions": {"label": "y"}}, "no further argument y"),
        ({"path": {"kind": "edmm"}}, "edmm"),
        ({"scheduler": {}}, "it says path and prediction"),
        ({"vae": object()}, "vae: it does not belong to a Mlp"),
    ],
)
def test_what_is_not_said_is_asked_for(tmp_path, change, words):
    example = (torch.randn(2, 2), torch.rand(2))
    arguments = {**FLOW, **change}
    if arguments["path"] == "flow-matching":
        assert "data_at" not in arguments
    with pytest.raises(flowgauge.FlowgaugeError, match=words) as caught:
        flowgauge.export(networks.Mlp(), example, out=tmp_path / "m", **arguments)
    assert caught.value.returncode == 2


def test_an_example_without_roles_is_refused(tmp_path):
    x = torch.randn(2, 2)
    with pytest.raises(flowgauge.ExportError, match="expected the arguments of the network"):
        flowgauge.export(networks.Mlp(), x, out=tmp_path / "m", **FLOW)
    with pytest.raises(flowgauge.ExportError, match=r"t has 3 rows, expected the batch, 2"):
        flowgauge.export(networks.Mlp(), (x, torch.rand(3)), out=tmp_path / "m", **FLOW)


def test_a_baked_batch_is_refused_with_the_way_out(tmp_path):
    class Baked(networks.Mlp):
        def forward(self, x, t):
            return super().forward(x, t).reshape(len(x), 2)

    with pytest.raises(flowgauge.ExportError, match=r"expected x.shape\[0\]"):
        flowgauge.export(Baked(), (torch.randn(4, 2), torch.rand(4)), out=tmp_path / "m", **FLOW)


def test_an_output_of_another_shape_is_refused(tmp_path):
    class Wide(networks.Mlp):
        def forward(self, x, t):
            return torch.cat([super().forward(x, t)] * 2, 1)

    example = (torch.randn(4, 2), torch.rand(4))
    with pytest.raises(flowgauge.ExportError, match=r"output has shape \[1, 4\].*`channels`"):
        flowgauge.export(Wide(), example, out=tmp_path / "m", **FLOW)
    card = flowgauge.export(Wide(), example, out=tmp_path / "m", channels=[0, 2], **FLOW)
    assert read(card)["network"]["channels"] == [0, 2]


def test_a_network_that_gives_nan_is_refused(tmp_path):
    class Root(networks.Mlp):
        def forward(self, x, t):
            return torch.sqrt(super().forward(x, t))

    with pytest.raises(flowgauge.ExportError, match="gives NaN"):
        flowgauge.export(Root(), (torch.randn(4, 2), torch.rand(4)), out=tmp_path / "m", **FLOW)


def test_one_time_for_all_samples(tmp_path):
    torch.manual_seed(0)
    net, x = networks.Mlp(), torch.randn(3, 2)
    card = flowgauge.export(net, (x, torch.tensor(0.5)), out=tmp_path / "m", **FLOW)
    got = flowgauge.sample(card, noise=x, sampler={"euler": {"steps": 4}}, quiet=True)
    assert np.abs(got.array - euler(net, x, 4).numpy()).max() < 1e-5


def test_the_check_goes_over_all_times():
    """Times of the check are those that the card feeds, whatever the path."""
    from flowgauge._compare import fed_times
    from flowgauge.exporters.reading import Reading

    def span(path, **time):
        reading = Reading(None, "x", "t", "noise", path, time)
        values = fed_times(reading, 2000, np.random.default_rng(0))
        return values.min(), values.max()

    near = {"rel": 0.01, "abs": 0.01}
    edm = {"kind": "edm", "sigma_min": 0.01, "sigma_max": 10.0}
    assert span(edm) == pytest.approx((0.01, 10), **near)
    assert span(edm, feed="log-sigma-over-4") == pytest.approx(
        (math.log(0.01) / 4, math.log(10) / 4), **near
    )
    discrete = {"kind": "discrete", "steps": 100}
    assert span(discrete) == (0, 99)
    assert span(discrete, scale=2, offset=1) == (1, 199)
    assert span({"kind": "vp"}, scale=999) == pytest.approx((0, 999), abs=2)
    assert span({"kind": "ve"}) == pytest.approx((0, 1), **near)
    assert span({"kind": "ve"}, feed="sigma") == pytest.approx((0.01, 50), **near)


def test_a_file_that_differs_is_refused(tmp_path, monkeypatch):
    """The check is against the module: a graph that was made of other weights fails it."""
    from flowgauge import _export

    def write_other(graph, file, opset):
        kept = graph.net
        graph.net = networks.awaken(networks.Mlp(), seed=9)
        write_onnx(graph, file, opset)
        graph.net = kept

    write_onnx = _export.write_onnx
    monkeypatch.setattr(_export, "write_onnx", write_other)
    with pytest.raises(flowgauge.ExportError, match="it differs from the module by"):
        flowgauge.export(
            networks.Mlp(), (torch.randn(2, 2), torch.rand(2)), out=tmp_path / "m", **FLOW
        )


def test_a_graph_that_mixes_samples_is_refused_by_inspect(tmp_path):
    class Leaky(networks.Mlp):
        def forward(self, x, t):
            return super().forward(x - x.mean(0, keepdim=True), t)

    with pytest.raises(flowgauge.ExportError, match="FAILED batch of 1.*no sample depends"):
        flowgauge.export(Leaky(), (torch.randn(4, 2), torch.rand(4)), out=tmp_path / "m", **FLOW)


def test_a_card_of_another_hand_is_not_replaced(tmp_path):
    (tmp_path / "card.yaml").write_text("name: mine\n")
    arguments = {"example": (torch.randn(2, 2), torch.rand(2)), "out": tmp_path, **FLOW}
    with pytest.raises(flowgauge.ExportError, match="expected force=True"):
        flowgauge.export(networks.Mlp(), **arguments)
    assert (tmp_path / "card.yaml").read_text() == "name: mine\n"
    flowgauge.export(networks.Mlp(), force=True, **arguments)
    flowgauge.export(networks.Mlp(), **arguments)


def test_large_weights_lie_beside_the_graph(tmp_path, monkeypatch):
    from flowgauge import _onnx

    monkeypatch.setattr(_onnx, "EXTERNAL_FROM", 1000)
    example = (torch.randn(2, 2), torch.rand(2))
    card = flowgauge.export(networks.Mlp(width=600), example, out=tmp_path / "m", **FLOW)
    assert (tmp_path / "m/network.onnx.data").stat().st_size > 4000
    assert flowgauge.sample(card, 3, sampler={"euler": {"steps": 2}}, quiet=True).array.shape


def test_double_precision_sees_rounding_that_single_does_not(tmp_path):
    """A module that casts to single precision by name is called in double all the same."""
    from flowgauge._double import double_copy, in_double

    class Casting(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.tensor([1 / 3]))

        def forward(self, x):
            y = x.to(torch.float32) * self.weight
            assert y.dtype == torch.float32
            return y.float() + torch.arange(2, dtype=torch.float32) / 3

    x = torch.tensor([0.1, 0.2], dtype=torch.float64)
    net = Casting()
    with in_double():
        got = double_copy(net)(x).detach()
    weight = float(net.weight.item())
    assert got.numpy().dtype == np.float64
    assert got.tolist() == [0.1 * weight, 0.2 * weight + 1 / 3]
    assert net.weight.dtype == torch.float32


def test_evaluate_takes_a_module(tmp_path):
    torch.manual_seed(0)
    x = torch.randn(40, 2)
    result = flowgauge.evaluate(
        networks.Mlp(), x, example=(x, torch.rand(40)), samples=20, metric="energy",
        solver={"heun": {"steps": 6}}, out=tmp_path / "run", quiet=True, no_check=True, **FLOW,
    )  # fmt: skip
    assert list(result.summary["model"]) == ["Mlp"]
    assert list(result.summary["estimator"]) == ["exact"]
    assert list(result.metrics["sampler"]) == ["heun"]
    assert (tmp_path / "run.inputs/model/card.yaml").exists()


@pytest.mark.needs("jax", "jax2onnx")
def test_a_function_of_jax(tmp_path):
    import jax
    import jax.numpy as jnp

    weight = jnp.asarray(np.random.default_rng(0).normal(size=(3, 2)), jnp.float32)

    def field(x, t):
        return jnp.tanh(jnp.concatenate([x, t[:, None]], -1) @ weight)

    x = jax.random.normal(jax.random.key(0), (4, 2))
    card = flowgauge.export(field, (x, jnp.full(4, 0.5)), out=tmp_path / "m", **FLOW)
    assert card.differences["network.onnx"]["float32"] < 1e-6
    want = x
    for i in range(4):
        want = want + field(want, jnp.full(4, i / 4)) / 4
    got = flowgauge.sample(card, noise=x, sampler={"euler": {"steps": 4}}, quiet=True).array
    assert np.abs(got - np.asarray(want)).max() < 1e-5
