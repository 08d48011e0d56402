"""Runs diffusers' schedulers on a Gaussian mixture and writes two archives in tests/data/samplers.

`diffusers.npz` has cases that flowgauge's own grids follow. `schedulers.npz` has whole schedulers: the
configuration of each, as in a scheduler_config.json, with the states that it leads to.

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

import importlib.machinery
import importlib.util
import json
import pathlib
import sys
import types

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


# The SDE scheduler imports torchsde for its noise, which is replayed here.
if importlib.util.find_spec("torchsde") is None:
    sys.modules["torchsde"] = types.ModuleType("torchsde")
    sys.modules["torchsde"].__spec__ = importlib.machinery.ModuleSpec("torchsde", None)


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


# Further schedulers, by name: the module, the class and its configuration, and the number of steps.
LINEAR = dict(beta_start=1e-4, beta_end=0.02, beta_schedule="linear")
SCALED = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
COSINE = dict(beta_schedule="squaredcos_cap_v2")
BETAS = {"linear": LINEAR, "scaled": SCALED, "cosine": COSINE}
CLASSES = {
    "ddim": ("scheduling_ddim", "DDIMScheduler"),
    "ddpm": ("scheduling_ddpm", "DDPMScheduler"),
    "euler": ("scheduling_euler_discrete", "EulerDiscreteScheduler"),
    "ancestral": ("scheduling_euler_ancestral_discrete", "EulerAncestralDiscreteScheduler"),
    "heun": ("scheduling_heun_discrete", "HeunDiscreteScheduler"),
    "dpm": ("scheduling_dpmsolver_multistep", "DPMSolverMultistepScheduler"),
    "unipc": ("scheduling_unipc_multistep", "UniPCMultistepScheduler"),
    "sde": ("scheduling_dpmsolver_sde", "DPMSolverSDEScheduler"),
    "flow": ("scheduling_flow_match_euler_discrete", "FlowMatchEulerDiscreteScheduler"),
}
PREDICTIONS = ("epsilon", "v_prediction", "sample")
SPACINGS = ("leading", "trailing", "linspace")


def scheduler_cases():
    """Yields name, class, configuration, number of steps and further arguments of a run."""
    plain = dict(clip_sample=False)
    for spacing in SPACINGS:
        for prediction in PREDICTIONS:
            for betas in BETAS:
                common = dict(BETAS[betas], prediction_type=prediction, timestep_spacing=spacing, steps_offset=1)
                tail = f"{spacing}_{prediction[:1]}_{betas}"
                # 7 and 12 steps leave remainders of 1000.
                yield f"ddim_{tail}", "ddim", dict(common, **plain), 7, {}
                yield f"ddim_eta_{tail}", "ddim", dict(common, **plain, set_alpha_to_one=False), 7, dict(eta=1.0)
                yield f"ddpm_{tail}", "ddpm", dict(common, **plain), 7, {}
                yield f"euler_{tail}", "euler", common, 12, {}
                if prediction != "sample":
                    yield f"ancestral_{tail}", "ancestral", common, 12, {}
                    if betas != "cosine":
                        yield f"sde_{tail}", "sde", common, 7, {}
                yield f"heun_{tail}", "heun", common, 7, {}
                yield f"dpm2_{tail}", "dpm", common, 12, {}
                yield f"dpm2sde_{tail}", "dpm", dict(common, algorithm_type="sde-dpmsolver++"), 12, {}
                yield f"unipc_{tail}", "unipc", common, 12, {}
        # Zero terminal SNR. A prediction of noise determines nothing at alpha = 0.
        for prediction in ("v_prediction", "sample"):
            zero = dict(SCALED, prediction_type=prediction, timestep_spacing=spacing, rescale_betas_zero_snr=True)
            tail = f"zero_{spacing}_{prediction[:1]}"
            yield f"ddim_{tail}", "ddim", dict(zero, **plain), 7, {}
            yield f"ddpm_{tail}", "ddpm", dict(zero, **plain), 7, {}
        for prediction in PREDICTIONS:
            zero = dict(SCALED, prediction_type=prediction, timestep_spacing=spacing, rescale_betas_zero_snr=True)
            tail = f"zero_{spacing}_{prediction[:1]}"
            yield f"euler_{tail}", "euler", zero, 12, {}
            yield f"dpm2_{tail}", "dpm", zero, 12, {}
            yield f"unipc_{tail}", "unipc", zero, 12, {}
    for prediction in PREDICTIONS:
        common = dict(SCALED, prediction_type=prediction)
        tail = prediction[:1]
        karras = dict(common, use_karras_sigmas=True)
        for kind in ("euler", "heun", "dpm", "unipc"):
            yield f"{kind}_karras_{tail}", kind, karras, 12, {}
            exponential = dict(common, use_exponential_sigmas=True)
            yield f"{kind}_exponential_{tail}", kind, exponential, 12, {}
        yield f"dpm_sde_karras_{tail}", "dpm", dict(karras, algorithm_type="sde-dpmsolver++"), 20, {}
        yield f"dpm_lu_{tail}", "dpm", dict(common, use_lu_lambdas=True), 12, {}
        yield f"dpm1_{tail}", "dpm", dict(common, solver_order=1), 12, {}
        yield f"dpm1sde_{tail}", "dpm", dict(common, solver_order=1, algorithm_type="sde-dpmsolver++"), 12, {}
        yield f"dpm2heun_{tail}", "dpm", dict(common, solver_type="heun"), 12, {}
        yield f"dpm2sdeheun_{tail}", "dpm", dict(common, solver_type="heun", algorithm_type="sde-dpmsolver++"), 12, {}
        yield f"dpm3_{tail}", "dpm", dict(common, solver_order=3), 12, {}
        yield f"dpm2_long_{tail}", "dpm", dict(common), 20, {}
        yield f"dpm2_min_{tail}", "dpm", dict(common, final_sigmas_type="sigma_min", lower_order_final=False), 20, {}
        yield f"dpm2_euler_{tail}", "dpm", dict(common, final_sigmas_type="sigma_min", euler_at_final=True), 20, {}
        yield f"dpm2_clipped_{tail}", "dpm", dict(COSINE, prediction_type=prediction, lambda_min_clipped=-5.1), 12, {}
        yield f"euler_min_{tail}", "euler", dict(common, final_sigmas_type="sigma_min"), 12, {}
        yield f"unipc3_{tail}", "unipc", dict(common, solver_order=3), 12, {}
        # With bh1 and final zero it multiplies infinity by zero.
        yield f"unipc_min_{tail}", "unipc", dict(common, solver_type="bh1", final_sigmas_type="sigma_min"), 12, {}
        for clip in (0.5, 1.0):
            clipped = dict(LINEAR, prediction_type=prediction, clip_sample=True, clip_sample_range=clip)
            yield f"ddim_clip{clip}_{tail}", "ddim", clipped, 8, {}
            yield f"ddim_clip_eta{clip}_{tail}", "ddim", clipped, 8, dict(eta=0.6)
            yield f"ddpm_clip{clip}_{tail}", "ddpm", clipped, 8, {}
            yield f"heun_clip{clip}_{tail}", "heun", clipped, 8, {}
        yield f"ddpm_large_{tail}", "ddpm", dict(common, variance_type="fixed_large", clip_sample=False), 8, {}
        yield f"ddpm_sigmoid_{tail}", "ddpm", dict(prediction_type=prediction, beta_schedule="sigmoid", clip_sample=False), 8, {}
        trained = np.linspace(1e-3, 0.3, 24).tolist()
        short = dict(num_train_timesteps=24, trained_betas=trained, prediction_type=prediction)
        yield f"ddim_trained_{tail}", "ddim", dict(short, **plain), 8, {}
    for shift in (1.0, 3.0):
        yield f"flow_shift{shift}", "flow", dict(shift=shift), 10, {}
    yield "flow_terminal", "flow", dict(shift=3.0, shift_terminal=0.1), 10, {}
    yield "flow_dynamic", "flow", dict(use_dynamic_shifting=True), 10, dict(mu=0.9)
    for kind in ("dpm", "unipc"):
        flow = dict(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
        yield f"{kind}_flow", kind, flow, 12, {}


def network(prediction, alphas, x, t):
    """The network's output at a time, which is an index between 0 and N - 1, in float64.

    Between two indices the noise level is interpolated linearly in its logarithm.
    """
    x = np.asarray(x, dtype=np.float64)
    if prediction == "flow":
        return (x - denoised(x, 1 - t, t)) / t
    if t == int(t):
        alpha, sigma = np.sqrt(alphas[int(t)]), np.sqrt(1 - alphas[int(t)])
    else:
        levels = np.log(np.sqrt(1 - alphas) / np.sqrt(alphas))
        alpha, sigma = vp(np.exp(np.interp(t, np.arange(len(levels)), levels)))
    d = denoised(x, alpha, sigma)
    if prediction == "sample":
        return d
    noise = (x - alpha * d) / sigma
    return noise if prediction == "epsilon" else alpha * noise - sigma * d


def run_scheduler(kind, config, steps, extra, double, noise):
    """The end of a run with given noise, at first the state that the network sees."""
    file, name = CLASSES[kind]
    flow = kind == "flow" or config.get("use_flow_sigmas", False)
    prediction = "flow" if flow else config.get("prediction_type", "epsilon")
    # The network has float64 tables of its own, which are those of the scheduler in float64.
    torch.set_default_dtype(torch.float64)
    alphas = None if flow else getattr(schedulers(file, True), name)(**config).alphas_cumprod.numpy()
    module = schedulers(file, double)
    dtype = torch.float64 if double else torch.float32
    torch.set_default_dtype(dtype)
    count = [0]

    def next_noise(*_, **__):
        count[0] += 1
        return torch.tensor(noise[count[0] - 1], dtype=dtype)

    module.randn_tensor = next_noise
    scheduler = getattr(module, name)(**config)
    set_extra = {k: v for k, v in extra.items() if k == "mu"}
    step_extra = {k: v for k, v in extra.items() if k == "eta"}
    scheduler.set_timesteps(steps, **set_extra)
    scheduler.noise_sampler = next_noise
    scaled = hasattr(scheduler, "scale_model_input") and kind in ("euler", "ancestral", "heun", "sde")
    x = torch.tensor(START, dtype=dtype)
    if scaled:
        x = x * (scheduler.sigmas[0] ** 2 + 1) ** 0.5
    total = scheduler.config.num_train_timesteps
    for i, t in enumerate(scheduler.timesteps):
        seen = scheduler.scale_model_input(x, t) if scaled else x
        time = float(t) / total if flow else float(t)
        output = torch.tensor(network(prediction, alphas, seen.numpy(), time), dtype=dtype)
        x = scheduler.step(output, t, x, **step_extra).prev_sample
    x = x.numpy().astype(np.float64)
    last = float(scheduler.sigmas[-1]) if scaled else 0.0
    return x / (last**2 + 1) ** 0.5


def scheduler_arrays():
    generator = np.random.default_rng(5)
    arrays = {"start": START, "noise": generator.standard_normal((64, *START.shape))}
    described, states = [], []
    for name, kind, config, steps, extra in scheduler_cases():
        config = {"num_train_timesteps": 1000, **config}
        ends = [run_scheduler(kind, config, steps, extra, double, arrays["noise"]) for double in (True, False)]
        if not all(np.isfinite(end).all() for end in ends):
            raise SystemExit(f"{name}: not a number")
        states.append(ends)
        print(f"{name:34} f32 against f64: {np.abs(ends[0] - ends[1]).max():.1e}")
        described.append({"name": name, "steps": steps, **extra, "config": {"_class_name": CLASSES[kind][1], **config}})
    # Cases × (float64, float32) × samples × dimensions, in the order of the descriptions.
    return dict(arrays, ends=np.array(states)), described


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
    arrays, described = scheduler_arrays()
    np.savez_compressed(folder / "schedulers.npz", **arrays)
    lines = ",\n".join(json.dumps(case) for case in described)
    (folder / "schedulers.json").write_text(f"[\n{lines}\n]\n")
