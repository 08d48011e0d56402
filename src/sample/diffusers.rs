//! The card's keys and the sampler that follow a scheduler of diffusers, from its
//! `scheduler_config.json`.

use serde_json::{Map, Value, json};

use crate::flow::path::{Betas, IndexInterpolation, PathCurve, ProbabilityPath};
use crate::flow::prediction::Prediction;
use crate::model::card::{Card, TimeInputSpec, TimeVariable};

/// A scheduler of diffusers in the terms of cards and samplers.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct DiffusersScheduler {
    /// The name of the scheduler's class, such as `DDIMScheduler`.
    pub(crate) class: String,
    /// The path on which the network was trained.
    pub(crate) path: ProbabilityPath,
    /// The quantity that the network predicts.
    pub(crate) prediction: Prediction,
    /// The values that the network's time input gets.
    pub(crate) time: TimeInputSpec,
    /// The sampler as a user writes it, without `steps`: `{name: {key: value, …}}`.
    pub(crate) sampler: Value,
    /// Whether the sampler follows the scheduler step by step. If not, `notes` say why.
    pub(crate) followed: bool,
    /// What a user should know: quirks that are followed, and what is not followed.
    pub(crate) notes: Vec<String>,
}

impl DiffusersScheduler {
    /// Checks that a card describes the network as the scheduler does, so that its sampler follows
    /// the scheduler.
    ///
    /// # Errors
    /// Fails if the scheduler is not followed, or if the card has another path or prediction. The
    /// message gives the card's lines that are expected.
    pub(crate) fn check_card(&self, card: &Card, curve: &PathCurve) -> Result<(), String> {
        if !self.followed {
            return Err(format!(
                "{}; give --sampler in the place of --scheduler",
                self.notes.join("; ")
            ));
        }
        if card.network.prediction != self.prediction {
            return Err(format!(
                "the scheduler takes network.prediction as {}, but the card has {}",
                yaml_text(&self.prediction),
                yaml_text(&card.network.prediction)
            ));
        }
        let own = self.path.curve()?;
        // The times of evaluations may lie between indices, where interpolations differ.
        let same = |share: f64| {
            let t = own.data_end() + share * (own.prior_end() - own.data_end());
            let (a, b) = (own.at(t), curve.at(t));
            (a.alpha - b.alpha).abs() < 1e-9 && (a.sigma - b.sigma).abs() < 1e-9
        };
        let ends = own.data_end() == curve.data_end() && own.prior_end() == curve.prior_end();
        if ends && (0..=4321).all(|i| same(f64::from(i) / 4321.0)) {
            return Ok(());
        }
        Err(format!(
            "the scheduler has another path than the card; expected `path: {}` in the card",
            yaml_text(&self.path)
        ))
    }
}

/// A value in the notation that YAML and JSON share.
fn yaml_text(value: &impl serde::Serialize) -> String {
    serde_json::to_value(value).unwrap_or_default().to_string()
}

/// ᾱ at the last index of schedulers in σ/α with `rescale_betas_zero_snr`, 2⁻²⁴.
const LAST_ALPHA_BAR: f64 = 1.0 / 16_777_216.0;

/// A configuration with the class's defaults for missing keys.
struct SchedulerConfig<'a> {
    class: &'a str,
    keys: &'a Map<String, Value>,
}

impl SchedulerConfig<'_> {
    /// A number, or the default where the key is missing or null.
    fn number(&self, key: &str, default: f64) -> Result<f64, String> {
        Ok(self.optional_number(key)?.unwrap_or(default))
    }

    /// A number; `None` where the key is missing or null.
    fn optional_number(&self, key: &str) -> Result<Option<f64>, String> {
        match self.keys.get(key) {
            None | Some(Value::Null) => Ok(None),
            // Python writes infinite numbers as words or not at all.
            Some(Value::String(text)) => text
                .to_lowercase()
                .replace("infinity", "inf")
                .parse()
                .map(Some)
                .map_err(|_| format!("{key} is {text:?}, expected a number")),
            Some(value) => value
                .as_f64()
                .map(Some)
                .ok_or_else(|| format!("{key} is {value}, expected a number")),
        }
    }

    /// A count.
    fn count(&self, key: &str, default: usize) -> Result<usize, String> {
        let value = self.number(key, default as f64)?;
        if value.fract() != 0.0 || !(0.0..=1e6).contains(&value) {
            return Err(format!(
                "{key} is {value}, expected a whole number from 0 to 1000000"
            ));
        }
        Ok(value as usize)
    }

    /// A flag, or the default where the key is missing or null.
    fn flag(&self, key: &str, default: bool) -> Result<bool, String> {
        match self.keys.get(key) {
            None | Some(Value::Null) => Ok(default),
            Some(value) => value
                .as_bool()
                .ok_or_else(|| format!("{key} is {value}, expected true or false")),
        }
    }

    /// A word, or the default where the key is missing or null.
    fn word<'s>(&'s self, key: &str, default: &'s str) -> Result<&'s str, String> {
        match self.keys.get(key) {
            None | Some(Value::Null) => Ok(default),
            Some(value) => value
                .as_str()
                .ok_or_else(|| format!("{key} is {value}, expected a word")),
        }
    }

    /// Whether the class works in σ/α and starts at ᾱ = 2⁻²⁴ in the place of 0.
    fn works_in_sigma(&self) -> bool {
        !matches!(
            self.class,
            "DDIMScheduler" | "DDPMScheduler" | "PNDMScheduler"
        )
    }

    /// The betas of the class.
    fn betas(&self, steps: usize) -> Result<Betas, String> {
        if let Some(Value::Array(list)) = self.keys.get("trained_betas") {
            let values: Option<Vec<f64>> = list.iter().map(Value::as_f64).collect();
            return values
                .map(Betas::Values)
                .ok_or_else(|| "trained_betas holds what is not a number".to_owned());
        }
        let latent = ["HeunDiscreteScheduler", "DPMSolverSDEScheduler"].contains(&self.class);
        let (first, last) = if latent {
            (0.00085, 0.012)
        } else {
            (1e-4, 0.02)
        };
        let ends = [
            self.number("beta_start", first)?,
            self.number("beta_end", last)?,
        ];
        match self.word("beta_schedule", "linear")? {
            "linear" => Ok(Betas::Linear(ends)),
            "scaled_linear" => Ok(Betas::ScaledLinear(ends)),
            "squaredcos_cap_v2" => Ok(Betas::Squaredcos),
            "sigmoid" if ends == [1e-4, 0.02] => Ok(Betas::Sigmoid),
            "sigmoid" => Ok(Betas::sigmoid_between(ends, steps.max(2))),
            other => Err(format!(
                "beta_schedule is {other}, expected linear, scaled_linear, squaredcos_cap_v2, \
                 sigmoid or trained_betas"
            )),
        }
    }

    /// The prediction of the network.
    fn prediction(&self) -> Result<Prediction, String> {
        match self.word("prediction_type", "epsilon")? {
            "epsilon" => Ok(Prediction::Noise),
            "sample" | "original_sample" => Ok(Prediction::Denoised),
            "v_prediction" => Ok(Prediction::V),
            "flow_prediction" => Ok(Prediction::Velocity),
            other => Err(format!(
                "prediction_type is {other}, expected epsilon, sample, v_prediction or \
                 flow_prediction"
            )),
        }
    }
}

/// A sampler's keys while they are collected, with what was found on the way.
#[derive(Default)]
struct SamplerDraft {
    keys: Map<String, Value>,
    /// What is linear between two indices, where a grid needs it.
    interpolation: IndexInterpolation,
    /// Why the scheduler is not followed.
    missing: Vec<String>,
    notes: Vec<String>,
}

impl SamplerDraft {
    fn set(&mut self, key: &str, value: impl Into<Value>) {
        self.keys.insert(key.to_owned(), value.into());
    }
}

/// Reads a scheduler_config.json. Python writes infinite numbers as words that JSON does not have,
/// which become texts here.
///
/// # Errors
/// Fails if the text is not JSON otherwise.
pub(crate) fn parse_scheduler_config(text: &str) -> Result<Value, String> {
    let text = [("-Infinity", "-inf"), ("Infinity", "inf"), ("NaN", "nan")]
        .iter()
        .fold(text.to_owned(), |text, (word, number)| {
            text.replace(&format!(": {word}"), &format!(": \"{number}\""))
        });
    serde_json::from_str(&text).map_err(|e| format!("it is not valid JSON: {e}"))
}

/// The path, the prediction, the time input and the sampler of a scheduler.
///
/// # Errors
/// Fails if the configuration names no class, a class without a path that is known here, or a wrong
/// value. The message names the key.
pub(crate) fn from_scheduler_config(json: &Value) -> Result<DiffusersScheduler, String> {
    let keys = json
        .as_object()
        .ok_or("a scheduler's configuration is not an object of keys and values")?;
    let class = keys
        .get("_class_name")
        .and_then(Value::as_str)
        .ok_or("_class_name is missing, expected the class of a scheduler of diffusers")?;
    let config = SchedulerConfig { class, keys };
    if class == "FlowMatchEulerDiscreteScheduler" {
        return flow_match_euler(&config);
    }
    if class.starts_with("EDM") || !keys.contains_key("num_train_timesteps") {
        return Err(format!(
            "_class_name is {class}, which is not among the schedulers with betas or of flow \
             matching that are known here: {}",
            KNOWN.join(", ")
        ));
    }
    if config.flag("use_flow_sigmas", false)? {
        return flow_sigmas(&config);
    }
    let steps = config.count("num_train_timesteps", 1000)?;
    let zero = config.flag("rescale_betas_zero_snr", false)?;
    let betas = config.betas(steps)?;
    let base = ProbabilityPath::Discrete {
        betas,
        steps,
        zero_terminal_snr: zero,
        last_alpha_bar: (zero && config.works_in_sigma()).then_some(LAST_ALPHA_BAR),
        interpolation: IndexInterpolation::LogAlpha,
    };
    let curve = base.curve()?;
    let mut draft = SamplerDraft::default();
    let name = match class {
        "DDIMScheduler" => ddim_keys(&config, &mut draft)?,
        "DDPMScheduler" => ddpm_keys(&config, &mut draft)?,
        "EulerDiscreteScheduler" => {
            spaced_keys(&config, &mut draft, "linspace")?;
            sigma_keys(&config, &mut draft, None)?;
            if config.word("interpolation_type", "linear")? != "linear" {
                draft.missing.push("interpolation_type".to_owned());
            }
            if config.word("timestep_type", "discrete")? != "discrete" {
                draft.missing.push("timestep_type".to_owned());
            }
            "ddim"
        }
        "EulerAncestralDiscreteScheduler" => {
            spaced_keys(&config, &mut draft, "linspace")?;
            sigma_keys(&config, &mut draft, None)?;
            "euler-ancestral"
        }
        "HeunDiscreteScheduler" => {
            spaced_keys(&config, &mut draft, "linspace")?;
            sigma_keys(&config, &mut draft, None)?;
            draft.set("variable", "sigma");
            clip_keys(&config, &mut draft, false)?;
            "heun"
        }
        "DPMSolverSDEScheduler" => {
            spaced_keys(&config, &mut draft, "linspace")?;
            sigma_keys(&config, &mut draft, None)?;
            // The middle of a step is at a noise level, whose index is found in its logarithm.
            if draft.interpolation == IndexInterpolation::LogAlpha {
                draft.interpolation = IndexInterpolation::LogSigma;
            }
            "dpmpp-sde"
        }
        "DPMSolverMultistepScheduler" => dpm_solver_keys(&config, &mut draft, &curve)?,
        "UniPCMultistepScheduler" => unipc_keys(&config, &mut draft)?,
        other => {
            spaced_keys(&config, &mut draft, "leading")?;
            draft.missing.push(format!("_class_name {other}"));
            "ddim"
        }
    };
    if config.flag("thresholding", false)? {
        draft.missing.push("thresholding".to_owned());
    }
    if config.word("variance_type", "")?.starts_with("learned") {
        draft.notes.push(
            "the network's output has the channels of a learned variance after those of the \
             prediction"
                .to_owned(),
        );
    }
    let mut path = base;
    if let ProbabilityPath::Discrete { interpolation, .. } = &mut path {
        *interpolation = draft.interpolation;
    }
    let scaled = ["ddim", "euler-ancestral", "heun", "dpmpp-sde"].contains(&name);
    if scaled && config.works_in_sigma() && class != "DPMSolverMultistepScheduler" {
        draft.notes.push(format!(
            "the latents of {class} are x/alpha; given noise is x = alpha x0 + sigma eps, which the \
             network sees first"
        ));
    }
    Ok(finish(
        &config,
        path,
        config.prediction()?,
        TimeVariable::Index,
        1.0,
        name,
        draft,
    ))
}

/// The classes whose schedulers are followed.
const KNOWN: &[&str] = &[
    "DDIMScheduler",
    "DDPMScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSDEScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "FlowMatchEulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "UniPCMultistepScheduler",
];

/// The result, with a note for everything that is not followed.
fn finish(
    config: &SchedulerConfig,
    path: ProbabilityPath,
    prediction: Prediction,
    feed: TimeVariable,
    scale: f64,
    name: &str,
    mut draft: SamplerDraft,
) -> DiffusersScheduler {
    let followed = draft.missing.is_empty();
    for what in &draft.missing {
        draft
            .notes
            .push(format!("{what} of {} is not followed", config.class));
    }
    DiffusersScheduler {
        class: config.class.to_owned(),
        path,
        prediction,
        time: TimeInputSpec {
            feed: Some(feed),
            scale,
            ..TimeInputSpec::default()
        },
        sampler: json!({ name: draft.keys }),
        followed,
        notes: draft.notes,
    }
}

/// The keys of `timestep_spacing` and `steps_offset`.
fn spaced_keys(
    config: &SchedulerConfig,
    draft: &mut SamplerDraft,
    default: &str,
) -> Result<(), String> {
    let spacing = config.word("timestep_spacing", default)?;
    if !["leading", "trailing", "linspace"].contains(&spacing) {
        return Err(format!(
            "timestep_spacing is {spacing}, expected leading, trailing or linspace"
        ));
    }
    draft.set("spacing", spacing);
    let offset = config.count("steps_offset", 0)?;
    if spacing == "leading" && offset > 0 {
        draft.set("steps_offset", offset);
    }
    Ok(())
}

/// The keys of noise levels: `use_karras_sigmas` and its kin, and `final_sigmas_type`. Unless levels
/// are given, `linspace` has fractional indices, over which σ/α is linear.
///
/// `rounding` is how the index of a level is rounded; `None` if it is not.
fn sigma_keys(
    config: &SchedulerConfig,
    draft: &mut SamplerDraft,
    rounding: Option<[&str; 3]>,
) -> Result<(), String> {
    let kinds = [
        ("use_karras_sigmas", "karras", 0),
        ("use_exponential_sigmas", "log-snr", 1),
        ("use_lu_lambdas", "log-snr", 2),
    ];
    let mut leveled = false;
    for (key, schedule, which) in kinds {
        if !config.flag(key, false)? {
            continue;
        }
        leveled = true;
        draft.set("schedule", schedule);
        draft.interpolation = IndexInterpolation::LogSigma;
        if let Some(rounding) = rounding {
            draft.set("rounding", rounding[which]);
        }
        for end in ["sigma_min", "sigma_max"] {
            if let Some(level) = config.optional_number(end)? {
                draft.set(end, level);
            }
        }
    }
    if config.flag("use_beta_sigmas", false)? {
        draft.missing.push("use_beta_sigmas".to_owned());
    }
    if !leveled && config.word("timestep_spacing", "linspace")? == "linspace" && rounding.is_none()
    {
        draft.interpolation = IndexInterpolation::Sigma;
    }
    match config.word("final_sigmas_type", "zero")? {
        "zero" => draft.set("final_sigmas_type", "zero"),
        "sigma_min" => draft.set("final_sigmas_type", "sigma-min"),
        other => {
            return Err(format!(
                "final_sigmas_type is {other}, expected zero or sigma_min"
            ));
        }
    }
    Ok(())
}

/// The key of `clip_sample` and `clip_sample_range`.
fn clip_keys(
    config: &SchedulerConfig,
    draft: &mut SamplerDraft,
    default: bool,
) -> Result<(), String> {
    if config.flag("clip_sample", default)? {
        draft.set("clip_sample", config.number("clip_sample_range", 1.0)?);
    }
    Ok(())
}

/// The keys of DDIM.
fn ddim_keys(config: &SchedulerConfig, draft: &mut SamplerDraft) -> Result<&'static str, String> {
    spaced_keys(config, draft, "leading")?;
    if config.word("timestep_spacing", "leading")? == "linspace" {
        draft.set("rounding", "nearest");
        draft.notes.push(
            "DDIM with linspace evaluates the network at one index and steps as from it by \
             N/steps indices, although the next evaluation is at another index; stride follows this"
                .to_owned(),
        );
    }
    draft.set("stride", true);
    let to_one = config.flag("set_alpha_to_one", true)?;
    draft.set(
        "final_sigmas_type",
        if to_one { "zero" } else { "sigma-min" },
    );
    clip_keys(config, draft, true)?;
    Ok("ddim")
}

/// The keys of DDPM.
fn ddpm_keys(config: &SchedulerConfig, draft: &mut SamplerDraft) -> Result<&'static str, String> {
    spaced_keys(config, draft, "leading")?;
    if config.word("timestep_spacing", "leading")? == "linspace" {
        draft.set("rounding", "nearest");
    }
    draft.set("final_sigmas_type", "zero");
    match config.word("variance_type", "fixed_small")? {
        "fixed_small" | "fixed_small_log" => {}
        "fixed_large" => draft.set("variance", "fixed-large"),
        other => draft.missing.push(format!("variance_type {other}")),
    }
    clip_keys(config, draft, true)?;
    Ok("ddpm")
}

/// The keys of DPM-Solver++ and its SDE form.
fn dpm_solver_keys(
    config: &SchedulerConfig,
    draft: &mut SamplerDraft,
    curve: &PathCurve,
) -> Result<&'static str, String> {
    multistep_grid_keys(config, draft)?;
    let clipped = config.number("lambda_min_clipped", f64::NEG_INFINITY)?;
    if clipped > f64::NEG_INFINITY && draft.keys.contains_key("spacing") {
        let total = config.count("num_train_timesteps", 1000)?;
        let above = |i: &usize| {
            let s = curve.at((i + 1) as f64 / total as f64);
            s.half_log_snr() >= clipped
        };
        draft.set("index_count", (0..total).filter(above).count());
    }
    let order = config.count("solver_order", 2)?;
    if !config.flag("lower_order_final", true)? {
        draft.set("lower_order_final", false);
    } else if order > 1 {
        draft.set("lower_order_below", 15);
    }
    if config.flag("euler_at_final", false)? {
        draft.set("euler_at_final", true);
    }
    let rule = match config.word("solver_type", "midpoint")? {
        "heun" => "heun",
        _ => "midpoint",
    };
    let algorithm = config.word("algorithm_type", "dpmsolver++")?;
    let name = match (algorithm, order) {
        ("dpmsolver++" | "deis", 1) => "ddim",
        ("dpmsolver++" | "deis", 2) => "dpmpp-2m",
        ("dpmsolver++" | "deis", 3) => "dpmpp-3m",
        ("sde-dpmsolver++", 1) => "euler-ancestral",
        ("sde-dpmsolver++", 2) => "dpmpp-2m-sde",
        _ => {
            draft
                .missing
                .push(format!("algorithm_type {algorithm} of order {order}"));
            "dpmpp-2m"
        }
    };
    match (name, rule) {
        ("dpmpp-2m" | "dpmpp-2m-sde", "heun") => draft.set("solver_type", rule),
        ("dpmpp-3m", "heun") => draft.missing.push("solver_type heun of order 3".to_owned()),
        _ => {}
    }
    Ok(name)
}

/// The grid's keys of DPM-Solver++ and UniPC, which choose one index more and leave out the last.
fn multistep_grid_keys(config: &SchedulerConfig, draft: &mut SamplerDraft) -> Result<(), String> {
    spaced_keys(config, draft, "linspace")?;
    // Times become integers by truncation, also where the code before does not round them.
    let cosine = config.word("beta_schedule", "linear")? == "squaredcos_cap_v2"
        && config.class == "DPMSolverMultistepScheduler";
    let rounded = if cosine { "down" } else { "nearest" };
    sigma_keys(config, draft, Some([rounded, "down", rounded]))?;
    if draft.keys.contains_key("schedule") {
        // The levels go between the ends of the path, whatever the spacing.
        draft.keys.remove("spacing");
        draft.keys.remove("steps_offset");
        draft.notes.push(format!(
            "{} evaluates the network at rounded indices, and uses the noise levels that were not \
             rounded; rounding follows this",
            config.class
        ));
        return Ok(());
    }
    match draft.keys.get("spacing").and_then(Value::as_str) {
        Some("linspace") => {
            draft.set("drop_last", true);
            draft.set("rounding", "nearest");
        }
        Some("leading") => draft.set("drop_last", true),
        _ => {}
    }
    Ok(())
}

/// The keys of UniPC.
fn unipc_keys(config: &SchedulerConfig, draft: &mut SamplerDraft) -> Result<&'static str, String> {
    multistep_grid_keys(config, draft)?;
    unipc_own_keys(config, draft)?;
    Ok("unipc")
}

/// The keys of UniPC that do not belong to its grid.
fn unipc_own_keys(config: &SchedulerConfig, draft: &mut SamplerDraft) -> Result<(), String> {
    let order = config.count("solver_order", 2)?;
    if (1..=3).contains(&order) {
        draft.set("order", order);
    } else {
        draft.missing.push(format!("solver_order {order}"));
    }
    let variant = match config.word("solver_type", "bh2")? {
        "bh1" => "bh1",
        _ => "bh2",
    };
    draft.set("variant", variant);
    if !config.flag("lower_order_final", true)? {
        draft.set("lower_order_final", false);
    }
    if !config.flag("predict_x0", true)? {
        draft.missing.push("predict_x0 false".to_owned());
    }
    if !matches!(config.keys.get("solver_p"), None | Some(Value::Null)) {
        draft.missing.push("solver_p".to_owned());
    }
    let disabled = config
        .keys
        .get("disable_corrector")
        .and_then(Value::as_array);
    if disabled.is_some_and(|d| !d.is_empty()) {
        draft.missing.push("disable_corrector".to_owned());
    }
    Ok(())
}

/// The path of flow matching with time from 0 (data) to 1.
fn flow_path() -> ProbabilityPath {
    ProbabilityPath::FlowMatching {
        data_at: 0,
        t_min: 0.0,
        t_max: 1.0,
    }
}

/// Notes on a dynamic shift, which depends on the size of the images.
fn dynamic_shift_notes(config: &SchedulerConfig, draft: &mut SamplerDraft) -> Result<(), String> {
    draft.notes.push(
        "use_dynamic_shifting: the shift depends on the number of tokens of an image; give the \
         sampler mu (a shift of e^mu), and `schedule: uniform` in the place of spacing where a \
         pipeline passes sigmas from 1 to 1/steps"
            .to_owned(),
    );
    if config.word("time_shift_type", "exponential")? == "linear" {
        draft.notes.push(
            "time_shift_type is linear: give the sampler mu's value as shift, and not as mu"
                .to_owned(),
        );
    }
    Ok(())
}

/// The scheduler of flow matching.
fn flow_match_euler(config: &SchedulerConfig) -> Result<DiffusersScheduler, String> {
    let steps = config.count("num_train_timesteps", 1000)? as f64;
    let mut draft = SamplerDraft::default();
    let shift = config.number("shift", 1.0)?;
    let shifted = |sigma: f64| shift * sigma / (1.0 + (shift - 1.0) * sigma);
    draft.set("spacing", "linspace");
    if config.flag("use_dynamic_shifting", false)? {
        draft.set("sigma_min", 1.0 / steps);
        dynamic_shift_notes(config, &mut draft)?;
    } else {
        draft.set("sigma_min", shifted(1.0 / steps));
        if shift != 1.0 {
            draft.set("shift", shift);
            draft.notes.push(
                "the lowest sigma is shifted twice, once when the scheduler is made and once with \
                 the grid; sigma_min has the first of the two shifts"
                    .to_owned(),
            );
        }
    }
    if let Some(end) = config
        .optional_number("shift_terminal")?
        .filter(|e| *e != 0.0)
    {
        draft.set("shift_terminal", end);
    }
    for key in [
        "invert_sigmas",
        "stochastic_sampling",
        "use_karras_sigmas",
        "use_exponential_sigmas",
        "use_beta_sigmas",
    ] {
        if config.flag(key, false)? {
            draft.missing.push(key.to_owned());
        }
    }
    Ok(finish(
        config,
        flow_path(),
        Prediction::Velocity,
        TimeVariable::T,
        steps,
        "euler",
        draft,
    ))
}

/// DPM-Solver++ and UniPC over the noise levels of flow matching (`use_flow_sigmas`).
fn flow_sigmas(config: &SchedulerConfig) -> Result<DiffusersScheduler, String> {
    let total = config.count("num_train_timesteps", 1000)?;
    let steps = total as f64;
    let mut draft = SamplerDraft::default();
    draft.set("spacing", "linspace");
    draft.set("drop_last", true);
    draft.set("index_count", total);
    draft.set("rounding", "down");
    if config.flag("use_dynamic_shifting", false)? {
        dynamic_shift_notes(config, &mut draft)?;
    } else {
        draft.set("shift", config.number("flow_shift", 1.0)?);
    }
    if let Some(end) = config
        .optional_number("shift_terminal")?
        .filter(|e| *e != 0.0)
    {
        draft.set("shift_terminal", end);
    }
    for key in [
        "use_karras_sigmas",
        "use_exponential_sigmas",
        "use_beta_sigmas",
        "thresholding",
    ] {
        if config.flag(key, false)? {
            draft.missing.push(key.to_owned());
        }
    }
    if config.word("final_sigmas_type", "zero")? != "zero" {
        draft.missing.push("final_sigmas_type".to_owned());
    }
    let name = if config.class == "UniPCMultistepScheduler" {
        draft.set("sigma_min", 1.0 / steps);
        draft.set("below_one", 1e-6);
        unipc_own_keys(config, &mut draft)?;
        "unipc"
    } else if config.class == "DPMSolverMultistepScheduler" {
        draft.set("sigma_min", 0.0);
        draft.set("sigma_max", 1.0 - 1.0 / steps);
        let curve = flow_path().curve()?;
        let (mut own, missing) = (SamplerDraft::default(), draft.missing.len());
        let name = dpm_solver_keys(config, &mut own, &curve)?;
        for key in [
            "lower_order_final",
            "lower_order_below",
            "euler_at_final",
            "solver_type",
        ] {
            if let Some(value) = own.keys.remove(key) {
                draft.keys.insert(key.to_owned(), value);
            }
        }
        draft.missing.splice(missing.., own.missing);
        name
    } else {
        draft
            .missing
            .push("use_flow_sigmas of this class".to_owned());
        "ddim"
    };
    let prediction = match config.prediction()? {
        Prediction::Noise | Prediction::V => {
            draft.missing.push("prediction_type".to_owned());
            Prediction::Velocity
        }
        other => other,
    };
    Ok(finish(
        config,
        flow_path(),
        prediction,
        TimeVariable::T,
        steps,
        name,
        draft,
    ))
}
