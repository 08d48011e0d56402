//! The path, the prediction and the times of a diffusers scheduler, from its
//! `scheduler_config.json`.

use anyhow::{Result, bail};

use super::card_text::{Origin, yaml_list, yaml_map, yaml_number, yaml_string};
use super::json_file::JsonFile;

/// What the config of a scheduler says about the model.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct SchedulerReading {
    /// The card's path in YAML.
    pub(super) path: String,
    /// Where the path is known from.
    pub(super) path_origin: Origin,
    /// The card's name of the prediction.
    pub(super) prediction: &'static str,
    /// Where the prediction is known from.
    pub(super) prediction_origin: Origin,
    /// The keys of the card's `time` with their YAML.
    pub(super) time: Vec<(&'static str, String)>,
    /// Where the values of the time input are known from.
    pub(super) time_origin: Origin,
    /// Whether the time input may take whole numbers.
    pub(super) allows_whole_times: bool,
    /// The scalings outside the graph, in YAML.
    pub(super) preconditioning: Option<(String, Origin)>,
    /// The range to which pipelines with this scheduler scale images, in YAML.
    pub(super) range: &'static str,
    /// Settings that belong to a sampler and not to the card.
    pub(super) remarks: Vec<String>,
}

/// Schedulers over the betas of DDPM, with the defaults of β₀, β₁ and the schedule.
const BETA_SCHEDULERS: [(&str, [f64; 2], &str); 23] = [
    ("DDIMInverseScheduler", [1e-4, 0.02], "linear"),
    ("DDIMParallelScheduler", [1e-4, 0.02], "linear"),
    ("DDIMScheduler", [1e-4, 0.02], "linear"),
    ("DDPMParallelScheduler", [1e-4, 0.02], "linear"),
    ("DDPMScheduler", [1e-4, 0.02], "linear"),
    ("DEISMultistepScheduler", [1e-4, 0.02], "linear"),
    ("DPMSolverMultistepInverseScheduler", [1e-4, 0.02], "linear"),
    ("DPMSolverMultistepScheduler", [1e-4, 0.02], "linear"),
    ("DPMSolverSDEScheduler", [0.00085, 0.012], "linear"),
    ("DPMSolverSinglestepScheduler", [1e-4, 0.02], "linear"),
    ("EulerAncestralDiscreteScheduler", [1e-4, 0.02], "linear"),
    ("EulerDiscreteScheduler", [1e-4, 0.02], "linear"),
    ("HeunDiscreteScheduler", [0.00085, 0.012], "linear"),
    (
        "KDPM2AncestralDiscreteScheduler",
        [0.00085, 0.012],
        "linear",
    ),
    ("KDPM2DiscreteScheduler", [0.00085, 0.012], "linear"),
    ("LCMScheduler", [0.00085, 0.012], "scaled_linear"),
    ("LMSDiscreteScheduler", [1e-4, 0.02], "linear"),
    ("PNDMScheduler", [1e-4, 0.02], "linear"),
    ("RePaintScheduler", [1e-4, 0.02], "linear"),
    ("SASolverScheduler", [1e-4, 0.02], "linear"),
    ("TCDScheduler", [0.00085, 0.012], "scaled_linear"),
    ("UnCLIPScheduler", [1e-4, 0.02], "squaredcos_cap_v2"),
    ("UniPCMultistepScheduler", [1e-4, 0.02], "linear"),
];

/// Schedulers of flow matching.
const FLOW_SCHEDULERS: [&str; 3] = [
    "FlowMatchEulerDiscreteScheduler",
    "FlowMatchHeunDiscreteScheduler",
    "FlowMatchLCMScheduler",
];

/// Schedulers over EDM's noise levels.
const EDM_SCHEDULERS: [&str; 2] = ["EDMDPMSolverMultistepScheduler", "EDMEulerScheduler"];

/// The scheduler of variance-exploding score networks.
const SCORE_VE_SCHEDULER: &str = "ScoreSdeVeScheduler";

/// Settings that change how a sampler steps, and not the model.
const SAMPLER_SETTINGS: [&str; 8] = [
    "timestep_spacing",
    "steps_offset",
    "shift",
    "flow_shift",
    "use_dynamic_shifting",
    "use_karras_sigmas",
    "final_sigmas_type",
    "clip_sample",
];

/// Reads the config of a scheduler. `betas_file` is the file with a table of betas that lies in the
/// folder, as the card names it.
///
/// # Errors
/// Fails if the scheduler is not known, if a value has the wrong type, or if a setting has no
/// counterpart in a card.
pub(super) fn read_scheduler(
    config: &JsonFile,
    betas_file: Option<&str>,
) -> Result<SchedulerReading> {
    let class = match config.string("_class_name")? {
        Some(class) => class,
        None => bail!(
            "{}: it has no _class_name, expected the config of a scheduler of diffusers",
            config.name
        ),
    };
    let mut reading = if FLOW_SCHEDULERS.contains(&class.as_str()) {
        flow_reading(config, &class, None)
    } else if EDM_SCHEDULERS.contains(&class.as_str()) {
        edm_reading(config)
    } else if class == SCORE_VE_SCHEDULER {
        score_reading(config)
    } else if let Some((_, ends, schedule)) =
        (BETA_SCHEDULERS.iter()).find(|(known, ..)| *known == class)
    {
        let prediction = config.string("prediction_type")?;
        match config.flag("use_flow_sigmas")? || prediction.as_deref() == Some("flow_prediction") {
            true => flow_reading(config, &class, prediction.as_deref()),
            false => beta_reading(config, *ends, schedule, prediction.as_deref(), betas_file),
        }
    } else {
        let known = (BETA_SCHEDULERS.iter().map(|(name, ..)| *name))
            .chain(FLOW_SCHEDULERS)
            .chain(EDM_SCHEDULERS)
            .chain([SCORE_VE_SCHEDULER]);
        bail!(
            "{}: the scheduler `{class}` is not known; expected {}",
            config.name,
            crate::yaml::one_of(known)
        );
    }?;
    let settings: Vec<String> = SAMPLER_SETTINGS
        .into_iter()
        .filter_map(|key| Some(format!("{key}: {}", config.get(key)?)))
        .collect();
    if !settings.is_empty() {
        reading.remarks.push(format!(
            "Settings of the {class} that belong to a sampler and not to the card: {}.",
            settings.join(", ")
        ));
    }
    Ok(reading)
}

/// A number of a config, or diffusers' default.
///
/// # Errors
/// Fails if the value is no number.
fn number_or(config: &JsonFile, key: &str, default: f64, missing: &mut Vec<String>) -> Result<f64> {
    Ok(config.number(key)?.unwrap_or_else(|| {
        missing.push(key.to_owned());
        default
    }))
}

/// The origin of values that were read under `keys`, of which some are `missing` in the config.
fn read_or_default(config: &JsonFile, keys: &str, missing: &[String]) -> Origin {
    match missing {
        [] => Origin::read(config.place(keys)),
        missing => Origin::guessed(format!(
            "{} has no {}: diffusers' defaults",
            config.name,
            missing.join(", ")
        )),
    }
}

/// The prediction of a scheduler over betas.
///
/// # Errors
/// Fails if the type of the prediction is not known.
fn prediction_of(config: &JsonFile, named: Option<&str>) -> Result<(&'static str, Origin)> {
    let prediction = match named {
        Some("epsilon") | None => "noise",
        Some("v_prediction") => "v",
        Some("sample") => "denoised",
        Some(other) => bail!(
            "{}: prediction_type is {other}, expected epsilon, v_prediction, sample or \
             flow_prediction",
            config.name
        ),
    };
    let origin = match named {
        Some(named) => Origin::read(format!("{named}: {}", config.place("prediction_type"))),
        None => read_or_default(config, "", &["prediction_type".to_owned()]),
    };
    Ok((prediction, origin))
}

/// The number of training steps.
///
/// # Errors
/// Fails if it is no whole number.
fn training_steps(config: &JsonFile, missing: &mut Vec<String>) -> Result<usize> {
    Ok(config.size("num_train_timesteps")?.unwrap_or_else(|| {
        missing.push("num_train_timesteps".to_owned());
        1000
    }))
}

/// A discrete path with the betas of the config.
///
/// # Errors
/// Fails if the betas or the times have no counterpart in a card.
fn beta_reading(
    config: &JsonFile,
    [start, end]: [f64; 2],
    schedule: &str,
    prediction: Option<&str>,
    betas_file: Option<&str>,
) -> Result<SchedulerReading> {
    let mut missing = Vec::new();
    let steps = training_steps(config, &mut missing)?;
    if config.string("timestep_type")?.as_deref() == Some("continuous") {
        bail!(
            "{}: timestep_type is continuous, expected discrete: a card has no such time input",
            config.name
        );
    }
    let (betas, keys) = if let Some(length) = config.list_length("trained_betas")? {
        if length != steps {
            bail!(
                "{}: trained_betas has {length} entries, expected num_train_timesteps, {steps}",
                config.name
            );
        }
        let Some(file) = betas_file else {
            bail!(
                "{}: trained_betas is a table, which a card names as a file; write it with \
                 `numpy.save(\"scheduler/betas.npy\", numpy.array(config[\"trained_betas\"]))` \
                 and call again",
                config.name
            );
        };
        (yaml_string(file), "trained_betas, num_train_timesteps")
    } else {
        let schedule = match config.string("beta_schedule")? {
            Some(named) => named,
            None => {
                missing.push("beta_schedule".to_owned());
                schedule.to_owned()
            }
        };
        let mut ends = || -> Result<String> {
            Ok(yaml_list([
                yaml_number(number_or(config, "beta_start", start, &mut missing)?),
                yaml_number(number_or(config, "beta_end", end, &mut missing)?),
            ]))
        };
        let both = "beta_schedule, beta_start, beta_end, num_train_timesteps";
        match schedule.as_str() {
            "linear" => (yaml_map([("linear", ends()?)]), both),
            "scaled_linear" => (yaml_map([("scaled-linear", ends()?)]), both),
            "squaredcos_cap_v2" => (
                "squaredcos".to_owned(),
                "beta_schedule, num_train_timesteps",
            ),
            "sigmoid" => match ends()?.as_str() {
                "[0.0001, 0.02]" => ("sigmoid".to_owned(), both),
                other => bail!(
                    "{}: the sigmoid schedule has the betas {other}, expected [0.0001, 0.02], \
                     the only ones that a card has; write the betas to scheduler/betas.npy and \
                     name them by hand",
                    config.name
                ),
            },
            other => bail!(
                "{}: beta_schedule is {other}, expected linear, scaled_linear, squaredcos_cap_v2 \
                 or sigmoid",
                config.name
            ),
        }
    };
    let mut path = vec![
        ("kind", "discrete".to_owned()),
        ("betas", betas),
        ("steps", steps.to_string()),
    ];
    let mut keys = keys.to_owned();
    if config.flag("rescale_betas_zero_snr")? {
        path.push(("zero_terminal_snr", "true".to_owned()));
        keys += ", rescale_betas_zero_snr";
    }
    let (prediction, prediction_origin) = prediction_of(config, prediction)?;
    Ok(SchedulerReading {
        path: yaml_map(path),
        path_origin: read_or_default(config, &keys, &missing),
        prediction,
        prediction_origin,
        time: vec![("feed", "index".to_owned())],
        time_origin: Origin::convention("diffusers feeds the index of the training step"),
        allows_whole_times: true,
        preconditioning: None,
        range: "[-1, 1]",
        remarks: Vec::new(),
    })
}

/// The straight path of flow matching, with data at time 0.
///
/// # Errors
/// Fails if the scheduler predicts something else than the flow.
fn flow_reading(
    config: &JsonFile,
    class: &str,
    prediction: Option<&str>,
) -> Result<SchedulerReading> {
    if let Some(other) = prediction.filter(|named| *named != "flow_prediction") {
        bail!(
            "{}: use_flow_sigmas is set, but prediction_type is {other}, expected flow_prediction",
            config.name
        );
    }
    let mut missing = Vec::new();
    let steps = training_steps(config, &mut missing)?;
    Ok(SchedulerReading {
        path: "{kind: flow-matching, data_at: 0}".to_owned(),
        path_origin: match prediction {
            Some(_) => Origin::read(config.place("use_flow_sigmas, prediction_type")),
            None => Origin::read(format!("{class}: {}", config.place("_class_name"))),
        },
        prediction: "velocity",
        prediction_origin: Origin::convention("flow matching of diffusers predicts noise - data"),
        time: vec![("feed", "t".to_owned()), ("scale", steps.to_string())],
        time_origin: read_or_default(config, "num_train_timesteps", &missing),
        allows_whole_times: true,
        preconditioning: None,
        range: "[-1, 1]",
        remarks: Vec::new(),
    })
}

/// EDM's path with EDM's preconditioning outside the graph.
///
/// # Errors
/// Fails if the preconditioning has no counterpart in a card.
fn edm_reading(config: &JsonFile) -> Result<SchedulerReading> {
    match config.string("prediction_type")?.as_deref() {
        Some("epsilon") | None => {}
        Some(other) => bail!(
            "{}: prediction_type is {other}, expected epsilon, the only preconditioning of EDM \
             that a card has",
            config.name
        ),
    }
    let mut missing = Vec::new();
    let sigma_min = number_or(config, "sigma_min", 0.002, &mut missing)?;
    let sigma_max = number_or(config, "sigma_max", 80.0, &mut missing)?;
    let path_origin = read_or_default(config, "sigma_min, sigma_max", &missing);
    let mut missing = Vec::new();
    let sigma_data = number_or(config, "sigma_data", 0.5, &mut missing)?;
    let scalings = yaml_map([("edm", yaml_map([("sigma_data", yaml_number(sigma_data))]))]);
    Ok(SchedulerReading {
        path: edm_path(sigma_min, sigma_max),
        path_origin,
        prediction: "denoised",
        prediction_origin: Origin::convention("EDM's preconditioning makes a denoiser of F"),
        time: vec![("feed", "log-sigma-over-4".to_owned())],
        time_origin: Origin::convention("EDM schedulers of diffusers feed ln(sigma)/4"),
        allows_whole_times: false,
        preconditioning: Some((scalings, read_or_default(config, "sigma_data", &missing))),
        range: "[-1, 1]",
        remarks: Vec::new(),
    })
}

/// Writes EDM's path as YAML.
pub(super) fn edm_path(sigma_min: f64, sigma_max: f64) -> String {
    yaml_map([
        ("kind", "edm".to_owned()),
        ("sigma_min", yaml_number(sigma_min)),
        ("sigma_max", yaml_number(sigma_max)),
    ])
}

/// The variance-exploding path of score networks.
///
/// # Errors
/// Fails if a value has the wrong type.
fn score_reading(config: &JsonFile) -> Result<SchedulerReading> {
    let mut missing = Vec::new();
    let sigma_min = number_or(config, "sigma_min", 0.01, &mut missing)?;
    let sigma_max = number_or(config, "sigma_max", 1348.0, &mut missing)?;
    let path = yaml_map([
        ("kind", "ve".to_owned()),
        ("sigma_min", yaml_number(sigma_min)),
        ("sigma_max", yaml_number(sigma_max)),
    ]);
    Ok(SchedulerReading {
        path,
        path_origin: read_or_default(config, "sigma_min, sigma_max", &missing),
        prediction: "score",
        prediction_origin: Origin::convention("the network of ScoreSdeVeScheduler is a score"),
        time: vec![("feed", "sigma".to_owned())],
        time_origin: Origin::convention("diffusers feeds the noise level"),
        allows_whole_times: false,
        preconditioning: None,
        range: "[0, 1]",
        remarks: Vec::new(),
    })
}
