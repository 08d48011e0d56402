"""Posterior estimators of the package sbi: flow matching (FMPE) and scores (NPSE)."""

from __future__ import annotations

from typing import Any

from .._errors import ExportError
from .reading import Condition, Given, Graph, Reading, is_a

ESTIMATORS = (
    "FlowMatchingEstimator",
    "SubVPScoreEstimator",
    "VEScoreEstimator",
    "VPScoreEstimator",
)


def matches(net: Any) -> bool:
    """Whether this is an estimator of vector fields, or a posterior made of one."""
    return is_a(net, "sbi.", *ESTIMATORS) or is_a(estimator_of(net), "sbi.", *ESTIMATORS)


def estimator_of(net: Any) -> Any:
    """The estimator inside a posterior."""
    inside = getattr(net, "potential_fn", None)
    return getattr(inside, "vector_field_estimator", None)


def read(net: Any, given: Given) -> Reading:
    """Reads an estimator so that the state at the data end is θ itself, in sbi's own units.

    Where sbi's ODE is in other coordinates, or ends in a base that is not N(0, I), the graph is the
    velocity of an affine map of its state that changes with time: the map is the identity at the
    data end, and takes the base to N(0, I) at the prior end. This changes no log-density.
    """
    import torch

    of = net if is_a(net, "sbi.", *ESTIMATORS) else estimator_of(net)
    if len(of.input_shape) != 1:
        raise ExportError(f"θ has shape {tuple(of.input_shape)}, expected one axis", 2)
    inputs = {
        "theta": torch.randn(3, *of.input_shape),
        "t": torch.tensor([0.2, 0.5, 0.9]),
        "x_o": torch.randn(3, *of.condition_shape),
    }
    conditions = {"x_o": Condition("x_o")}

    def direct(of: Any, theta: Any, t: Any, x: Any) -> Any:
        return of.forward(theta, x, t)

    def reading(call: Any, prediction: str, path: dict[str, Any], **more: Any) -> Reading:
        graph = Graph(f"{prediction}.onnx", of, call, inputs, prediction)
        return Reading(graph, "theta", "t", prediction, path, conditions=conditions, **more)

    standard = not of.compose_enabled
    if is_a(of, "sbi.", "FlowMatchingEstimator") and standard:
        path = {"kind": "flow-matching", "data_at": 0}
        return reading(direct, "velocity", path, time_keys={"feed": "t"})
    if not is_a(of, "sbi.", "FlowMatchingEstimator"):
        unscaled = bool((of.mean_0 == 0).all() and (of.std_0 == 1).all())
        if standard and unscaled and of.t_max == 1.0:
            return reading(direct, "score", **score_keys(of))
    return reading(
        MappedVelocity(of),
        "velocity",
        {"kind": "flow-matching", "data_at": 0, "t_min": t_min(of), "t_max": float(of.t_max)},
        time_keys={"feed": "t"},
        remarks=[
            "The velocity is that of θ in coordinates in which the base of sbi's ODE is N(0, I). "
            "Only its ODE has a meaning: samplers that need the noise or the denoised data do not.",
        ],
    )


def t_min(of: Any) -> float:
    """The time at which sbi's ODE ends."""
    return float(of.t_min)


def score_keys(of: Any) -> dict[str, Any]:
    """The path of an estimator of scores whose base is centred and has equal deviations."""
    prior = {"std": float(of.std_base.flatten()[0])}
    if is_a(of, "sbi.", "VEScoreEstimator"):
        growth = of.sigma_max / of.sigma_min
        first, span = t_min(of), float(of.t_max) - t_min(of)
        path = {
            "kind": "ve",
            "sigma_min": float(of.sigma_min * growth**first),
            "sigma_max": float(of.sigma_max),
        }
        # The card's ve path begins at its time 0.
        time = {"feed": "t", "scale": span, "offset": first}
        return {"path": path, "time_keys": time, "prior": prior}
    kind = "vp" if is_a(of, "sbi.", "VPScoreEstimator") else "sub-vp"
    path = {
        "kind": kind,
        "beta_min": float(of.beta_min),
        "beta_max": float(of.beta_max),
        "t_min": t_min(of),
    }
    return {"path": path, "time_keys": {"feed": "t"}, "prior": prior}


class MappedVelocity:
    """The velocity of y = (u − a(t)) / b(t), for sbi's state u.

    With s from 0 at the data end to 1 at the prior end, a = (1 − s) a₀ + s a₁ and
    b = b₀^(1 − s) b₁^s. a₁ and b₁ are the mean and the deviation of the base, and a₀ and b₀ lead
    from θ to sbi's state at the data end.
    """

    def __init__(self, of: Any) -> None:
        import torch

        zero = torch.zeros(1, *of.input_shape)
        self.first, self.last = t_min(of), float(of.t_max)
        origin = of.to_z(zero) if of.compose_enabled else zero
        self.names = {
            "flowgauge_a0": origin,
            "flowgauge_b0": (of.to_z(zero + 1) - origin) if of.compose_enabled else zero + 1,
            "flowgauge_a1": of.mean_base.reshape(1, -1) + zero,
            "flowgauge_b1": of.std_base.reshape(1, -1) + zero,
        }
        # As buffers they follow the network to double precision.
        for name, value in self.names.items():
            of.register_buffer(name, value.detach().clone(), persistent=False)

    def __call__(self, of: Any, y: Any, t: Any, x: Any) -> Any:
        a0, b0, a1, b1 = (getattr(of, name) for name in self.names)
        span = self.last - self.first
        s = ((t - self.first) / span)[:, None]
        rate = (b1.log() - b0.log()) / span
        a = (1 - s) * a0 + s * a1
        b = b0 * (span * s * rate).exp()
        return (of.ode_fn(b * y + a, x, t) - (a1 - a0) / span) / b - rate * y
