"""flowgauge measures log-likelihoods and samples of diffusion and flow models.

`export` writes a network as ONNX with its card, `evaluate` measures one in a single call, and the
other functions are the verbs of the program `flowgauge`.

    import flowgauge

    card = flowgauge.export(net, (x, t), path="flow-matching", prediction="velocity", out="model")
    result = flowgauge.evaluate(card, data, samples=1000)
    print(result)
"""

from ._card import Card
from ._errors import (
    ExportError,
    FlowgaugeError,
    GuessWarning,
    InputRefused,
    Interrupted,
    ProgramNotFound,
)
from ._evaluate import evaluate
from ._export import export
from ._results import Figure, RunResult
from ._verbs import (
    gate,
    inspect,
    likelihood,
    metrics,
    plan,
    report,
    reweight,
    run,
    sample,
    verify,
)

__all__ = [
    "Card",
    "ExportError",
    "Figure",
    "FlowgaugeError",
    "GuessWarning",
    "InputRefused",
    "Interrupted",
    "ProgramNotFound",
    "RunResult",
    "evaluate",
    "export",
    "gate",
    "inspect",
    "likelihood",
    "metrics",
    "plan",
    "report",
    "reweight",
    "run",
    "sample",
    "verify",
]
