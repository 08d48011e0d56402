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

    Where sbi's ODE is in other coordinates, or ends in a base that is not centred and round, the
    graph is the velocity of an affine map of its state that changes with time: the map leads to θ
    at the data end, and from the base to a prior of the card. This changes no log-density.
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

    flow = is_a(of, "sbi.", "FlowMatchingEstimator")
    if flow and not of.compose_enabled:
        path = {"kind": "flow-matching", "data_at": 0}
        return reading(direct, "velocity", path, time_keys={"feed": "t"})
    if of.compose_enabled:
        path = {"kind": "flow-matching", "data_at": 0, "t_min": t_min(of), "t_max": t_max(of)}
        remark = (
            "θ is standardized inside, by its deviations as they are at the data end. The velocity "
            "is right, and so are its ODE and log-densities; the path is not a straight one, so "
            "that a check by data and samplers that need the noise do not apply."
        )
        velocity = MappedVelocity(of, 1.0)
        return reading(velocity, "velocity", path, time_keys={"feed": "t"}, remarks=[remark])
    if bool((of.mean_0 == 0).all() and (of.std_0 == 1).all()):
        return reading(direct, "score", **score_keys(of, score=True))
    keys = score_keys(of, score=False)
    remark = (
        "sbi's ODE ends in a base with the mean and the deviation of θ in it. The velocity is that "
        "of a state that is θ at the data end, and whose base is the prior."
    )
    velocity = MappedVelocity(of, keys["prior"]["std"], is_a(of, "sbi.", "VEScoreEstimator"))
    return reading(velocity, "velocity", **keys, remarks=[remark])


def t_min(of: Any) -> float:
    """The time at which sbi's ODE ends."""
    return float(of.t_min)


def t_max(of: Any) -> float:
    """The time at which sbi's ODE begins."""
    return float(of.t_max)


def score_keys(of: Any, score: bool) -> dict[str, Any]:
    """The path of an estimator of scores, and the prior that its base is or is mapped to.

    The card's ve path begins at its time 0. Its score is fed with sbi's time, and its mapped
    velocity with the card's own.
    """
    std = float((of.std_base**2).mean().sqrt())
    if is_a(of, "sbi.", "VEScoreEstimator"):
        growth = of.sigma_max / of.sigma_min
        ends = [float(of.sigma_min * growth**time) for time in (t_min(of), t_max(of))]
        path = {"kind": "ve", "sigma_min": ends[0], "sigma_max": ends[1]}
        span = t_max(of) - t_min(of)
        time = {"feed": "t", "scale": span, "offset": t_min(of)} if score else {"feed": "t"}
        return {"path": path, "time_keys": time, "prior": {"std": std}}
    if t_max(of) != 1.0:
        raise ExportError(f"t_max is {t_max(of)}, and the path of a card ends at 1", 2)
    path = {
        "kind": "vp" if is_a(of, "sbi.", "VPScoreEstimator") else "sub-vp",
        "beta_min": float(of.beta_min),
        "beta_max": float(of.beta_max),
        "t_min": t_min(of),
    }
    return {"path": path, "time_keys": {"feed": "t"}, "prior": {"std": std}}


class MappedVelocity:
    """The velocity of y = (u − a(s)) / b(s), for sbi's state u and s from 0 at the data end to 1.

    a = (1 − s) a₀ + s a₁ and b = b₀^(1 − s) b₁^s, where θ = (u − a₀) / b₀ at the data end, and
    N(0, std²) = (u − a₁) / b₁ at the prior end. With `unit_time` the velocity is that of a time
    from 0 to 1, and not of sbi's.
    """

    def __init__(self, of: Any, std: float, unit_time: bool = False) -> None:
        import torch

        zero = torch.zeros(1, *of.input_shape)
        self.first, self.span, self.unit_time = t_min(of), t_max(of) - t_min(of), unit_time
        origin = of.to_z(zero) if of.compose_enabled else zero
        self.values = {
            "flowgauge_a0": origin,
            "flowgauge_b0": (of.to_z(zero + 1) - origin) if of.compose_enabled else zero + 1,
            "flowgauge_a1": of.mean_base.reshape(1, -1) + zero,
            "flowgauge_b1": of.std_base.reshape(1, -1) / std + zero,
        }
        # As buffers they follow the network to double precision.
        for name, value in self.values.items():
            of.register_buffer(name, value.detach().clone(), persistent=False)

    def __call__(self, of: Any, y: Any, t: Any, x: Any) -> Any:
        a0, b0, a1, b1 = (getattr(of, name) for name in self.values)
        s = t if self.unit_time else (t - self.first) / self.span
        rate = b1.log() - b0.log()
        a = a0 + s[:, None] * (a1 - a0)
        b = b0 * (s[:, None] * rate).exp()
        slope = self.span * of.ode_fn(b * y + a, x, self.first + self.span * s)
        velocity = (slope - (a1 - a0)) / b - rate * y
        return velocity if self.unit_time else velocity / self.span
