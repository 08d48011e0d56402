"""Runs diffusers' schedulers on a Gaussian mixture and writes tests/data/samplers/diffusers.npz.

Every scheduler is run twice with its own code: as it ships, in float32 ("f32"), and with torch's
default dtype and the name `float32` inside its module set to float64 ("f64"), which changes no formula.
The model is closed-form: E[x0 | x] of a two-dimensional mixture at (alpha, sigma).

Conventions differ. Each case is built so that both do the same:
- diffusers lowers the order at the end only below 15 steps, and always before sigma = 0;
- its DPM-Solver++ counts the step to sigma = 0 as the last one, while flowgauge denoises after the grid;
- its `linspace` timesteps are rounded to integers: 9 steps over 999 need no rounding;
- its DDIM ends one index beyond the table; `set_alpha_to_one=False` ends it at index 0;
- its Heun scheduler works on x / alpha in sigma / alpha, as an edm path does.
"""

import importlib
import pathlib

import numpy as np
import torch

MEANS = np.array([[-1.0, 0.4], [0.8, -0.2]])
WEIGHTS = np.array([0.3, 0.7])
VARIANCES = np.array([0.04, 0.09])
START = np.array([[0.9, -0.3], [-1.4, 0.8], [0.1, 1.7]])


def denoised(x, alpha, sigma):
    """E[x0 | x] in float64."""
    x = np.asarray(x, dtype=np.float64)
    variance = alpha**2 * VARIANCES + sigma**2
    gap = x[:, None, :] - alpha * MEANS[None]
    log = np.log(WEIGHTS) - np.log(variance) - 0.5 * (gap**2).sum(-1) / variance
    r = np.exp(log - log.max(1, keepdims=True))
    r /= r.sum(1, keepdims=True)
    return (r[..., None] * (MEANS + alpha * VARIANCES[:, None] / variance[:, None] * gap)).sum(1)


class Double:
    """A module whose float32 is its float64."""

    def __init__(self, module):
        self._module = module

    def __getattr__(self, name):
        return getattr(self._module, "float64" if name == "float32" else name)


def schedulers(module, double):
    module = importlib.reload(importlib.import_module(f"diffusers.schedulers.{module}"))
    if double:
        module.torch, module.np = Double(torch), Double(np)
    return module


def run(scheduler, start, model, dtype):
    x = torch.tensor(start, dtype=dtype)
    for i, t in enumerate(scheduler.timesteps):
        x = scheduler.step(torch.tensor(model(i, t, x.numpy()), dtype=dtype), t, x).prev_sample
    assert x.dtype == dtype
    return x.numpy().astype(np.float64)


def vp(bars):
    """alpha and sigma of a variance-preserving state from sigma / alpha."""
    return 1 / np.sqrt(1 + bars**2), bars / np.sqrt(1 + bars**2)


def cases(double):
    dtype = torch.float64 if double else torch.float32
    torch.set_default_dtype(dtype)
    out = {}
    discrete = dict(num_train_timesteps=1000, beta_start=1e-4, beta_end=0.02, beta_schedule="linear")
    common = dict(discrete, prediction_type="sample", timestep_spacing="linspace", final_sigmas_type="sigma_min")

    def on_vp(name, scheduler, steps):
        scheduler.set_timesteps(steps)
        bars = scheduler.sigmas.numpy().astype(np.float64)
        out[name] = run(scheduler, START, lambda i, t, x: denoised(x, *vp(bars[i])), dtype)

    module = schedulers("scheduling_dpmsolver_multistep", double)
    dpm = lambda **k: module.DPMSolverMultistepScheduler(**{**common, **k})
    on_vp("ddim_discrete", dpm(solver_order=1), 9)
    on_vp("2m_discrete_lower", dpm(solver_order=2), 9)
    on_vp("3m_discrete_lower", dpm(solver_order=3), 9)
    on_vp("2m_discrete", dpm(solver_order=2, lower_order_final=False), 27)
    on_vp("3m_discrete", dpm(solver_order=3, lower_order_final=False), 27)

    def on_flow(name, scheduler, steps):
        scheduler.set_timesteps(steps)
        sigmas = scheduler.sigmas.numpy().astype(np.float64)
        out[name + "_times"] = sigmas
        # prediction_type "flow_prediction": the velocity eps - x0.
        velocity = lambda i, t, x: (x - denoised(x, 1 - sigmas[i], sigmas[i])) / sigmas[i]
        out[name] = run(scheduler, START, velocity, dtype)

    flow = dict(prediction_type="flow_prediction", use_flow_sigmas=True, final_sigmas_type="zero")
    on_flow("2m_flow", dpm(**flow, solver_order=2), 10)
    on_flow("3m_flow", dpm(**flow, solver_order=3), 10)

    module = schedulers("scheduling_unipc_multistep", double)
    unipc = lambda **k: module.UniPCMultistepScheduler(**{**common, **k})
    for order in (1, 2, 3):
        for kind in ("bh1", "bh2"):
            on_vp(f"unipc{order}{kind}_discrete_lower", unipc(solver_order=order, solver_type=kind), 9)
            full = unipc(solver_order=order, solver_type=kind, lower_order_final=False)
            on_vp(f"unipc{order}{kind}_discrete", full, 9)
    on_flow("unipc3bh2_flow", unipc(**flow, solver_order=3, solver_type="bh2"), 10)

    module = schedulers("scheduling_ddim", double)
    ddim = module.DDIMScheduler(
        **discrete, prediction_type="sample", timestep_spacing="trailing", set_alpha_to_one=False, clip_sample=False
    )
    ddim.set_timesteps(8)
    powers = ddim.alphas_cumprod.numpy().astype(np.float64)
    at = lambda t: (np.sqrt(powers[int(t)]), np.sqrt(1 - powers[int(t)]))
    out["ddim_trailing"] = run(ddim, START, lambda i, t, x: denoised(x, *at(t)), dtype)

    edm = dict(sigma_min=0.002, sigma_max=80.0, sigma_data=0.5)

    def on_edm(name, scheduler, steps):
        scheduler.set_timesteps(steps)
        sigmas = scheduler.sigmas.numpy().astype(np.float64)

        def network(i, t, x):
            s, d = sigmas[i], 0.5
            skip, scale = d**2 / (s**2 + d**2), s * d / np.sqrt(s**2 + d**2)
            return (denoised(x, 1.0, s) - skip * x.astype(np.float64)) / scale

        out[name] = run(scheduler, START * 80.0, network, dtype)

    module = schedulers("scheduling_edm_dpmsolver_multistep", double)
    for order in (1, 2, 3):
        solver = module.EDMDPMSolverMultistepScheduler(
            **edm, solver_order=order, lower_order_final=False, final_sigmas_type="zero"
        )
        on_edm(f"{order}m_edm", solver, 16)
    module = schedulers("scheduling_edm_euler", double)
    on_edm("euler_edm", module.EDMEulerScheduler(**edm), 16)

    module = schedulers("scheduling_heun_discrete", double)
    heun = module.HeunDiscreteScheduler(**discrete, prediction_type="sample", use_karras_sigmas=True)
    heun.set_timesteps(12)
    sigmas = heun.sigmas.numpy().astype(np.float64)
    out["heun_karras_times"] = sigmas
    start = START * sigmas[0]
    out["heun_karras"] = run(heun, start, lambda i, t, x: denoised(x, 1.0, sigmas[i]), dtype)

    module = schedulers("scheduling_flow_match_euler_discrete", double)
    euler = module.FlowMatchEulerDiscreteScheduler()
    euler.set_timesteps(sigmas=np.linspace(1, 0.1, 10).tolist())
    levels = euler.sigmas.numpy().astype(np.float64)
    velocity = lambda i, t, x: (x - denoised(x, 1 - levels[i], levels[i])) / levels[i]
    out["euler_flow"] = run(euler, START, velocity, dtype)
    return out


if __name__ == "__main__":
    folder = pathlib.Path(__file__).parent.parent / "tests" / "data" / "samplers"
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {"start": START}
    for kind in ("f32", "f64"):
        for name, value in cases(kind == "f64").items():
            if np.isnan(value).any():
                raise SystemExit(f"{name} {kind}: not a number")
            arrays[f"{name}.{kind}"] = value
    for name in sorted(k[:-4] for k in arrays if k.endswith(".f32")):
        gap = np.abs(arrays[name + ".f32"] - arrays[name + ".f64"]).max()
        print(f"{name:28} f32 against f64: {gap:.1e}")
    np.savez_compressed(folder / "diffusers.npz", **arrays)
