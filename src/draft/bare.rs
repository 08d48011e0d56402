//! Cards for single graphs, by the conventions of the package that trained them.

use anyhow::{Result, bail};

use super::card_text::{CardDraft, DraftEntry, Origin, plain_name, yaml_string};
use super::graph_facts::{GraphFacts, describe_port};
use super::kind::DraftKind;
use super::network_block::{ConfiguredSizes, NetworkReading, draft_network, is_image};
use super::roles::{GivenFacts, LABEL_NAMES, PortNames, PortRoles, find_roles, is_named};
use super::scheduler::edm_path;
use crate::graph::Port;

/// The ports of EDM's networks.
const EDM_PORTS: PortNames = PortNames {
    state: &["x"],
    time: &["sigma", "noise_labels", "c_noise"],
    output: &["d", "denoised", "d_x"],
};
/// The ports of velocities.
const FLOW_PORTS: PortNames = PortNames {
    state: &["x", "xt", "x_t"],
    time: &["t", "time"],
    output: &["v", "velocity", "vt", "u", "vector_field"],
};
/// The ports of score networks.
const SCORE_PORTS: PortNames = PortNames {
    state: &["x"],
    time: &["labels", "time_cond", "used_sigmas", "sigmas", "sigma", "t"],
    output: &["score", "output", "h"],
};
/// The ports of DDPM's networks.
const DDPM_PORTS: PortNames = PortNames {
    state: &["x", "x_t", "sample"],
    time: &["t", "timesteps", "timestep", "time"],
    output: &[
        "eps",
        "epsilon",
        "noise",
        "noise_pred",
        "predicted_noise",
        "out_sample",
    ],
};
/// The ports of posterior estimators.
const SBI_PORTS: PortNames = PortNames {
    state: &[
        "theta",
        "theta_t",
        "thetas",
        "parameters",
        "input",
        "inputs",
    ],
    time: &["t", "time", "times"],
    output: &["velocity", "v", "score", "vector_field"],
};
/// The ports of any network.
const ANY_PORTS: PortNames = PortNames {
    state: &["x"],
    time: &["t"],
    output: &[
        "v",
        "velocity",
        "denoised",
        "d",
        "score",
        "eps",
        "epsilon",
        "noise",
        "noise_pred",
        "out_sample",
        "out_hidden_states",
        "sample",
        "output",
        "out",
        "y",
    ],
};

/// Names of outputs that are velocities.
const VELOCITY_OUTPUTS: &[&str] = &["v", "velocity", "vt", "u", "vector_field", "flow"];
/// Names of outputs that are noise.
const NOISE_OUTPUTS: &[&str] = &[
    "eps",
    "epsilon",
    "noise",
    "noise_pred",
    "predicted_noise",
    "eps_pred",
    "out_sample",
];
/// Names of outputs that are denoised data.
const DENOISED_OUTPUTS: &[&str] = &[
    "denoised",
    "d",
    "d_x",
    "x0",
    "x_0",
    "x_start",
    "pred_x0",
    "pred_xstart",
    "x_hat",
];
/// Names of outputs that are scores.
const SCORE_OUTPUTS: &[&str] = &["score", "scores"];
/// Names of inputs that take indices of training steps.
const INDEX_NAMES: &[&str] = &["timestep", "timesteps"];

/// How a graph is read: its network and its path.
struct GraphReading {
    network: NetworkReading,
    path: (String, Origin),
    prior: Option<(String, Origin)>,
    remarks: Vec<String>,
}

impl GraphReading {
    /// A reading in which the time input gets `feed`, and no scalings are outside the graph.
    fn new(
        prediction: (&'static str, Origin),
        time: (Vec<(&'static str, String)>, Origin),
        path: (String, Origin),
    ) -> GraphReading {
        GraphReading {
            network: NetworkReading {
                prediction: prediction.0,
                prediction_origin: prediction.1,
                time: time.0,
                time_origin: time.1,
                allows_whole_times: false,
                preconditioning: None,
                sole_condition: None,
            },
            path,
            prior: None,
            remarks: Vec::new(),
        }
    }

    /// The same reading with a remark at the end of the card.
    fn with_remark(mut self, text: &str) -> GraphReading {
        self.remarks.push(text.to_owned());
        self
    }

    /// The same reading, for a time input that may take whole numbers.
    fn with_whole_times(mut self) -> GraphReading {
        self.network.allows_whole_times = true;
        self
    }

    /// The same reading, guessed as a whole.
    fn guessed(mut self, why: &str) -> GraphReading {
        let guess = |origin: &mut Origin| {
            if let Origin::Convention(words) = origin {
                *origin = Origin::guessed(format!("{why}; {words}"));
            }
        };
        guess(&mut self.network.prediction_origin);
        guess(&mut self.network.time_origin);
        guess(&mut self.path.1);
        if let Some((_, origin)) = &mut self.prior {
            guess(origin);
        }
        if let Some((_, origin)) = &mut self.network.preconditioning {
            guess(origin);
        }
        self
    }
}

/// The value of `time` that feeds a function of the card's time.
fn feed(name: &str) -> Vec<(&'static str, String)> {
    vec![("feed", name.to_owned())]
}

/// Drafts a card for a single graph of the given kind, which is not [`DraftKind::Diffusers`].
///
/// # Errors
/// Fails if something that a card needs cannot be determined. The message names the file and what
/// would help.
pub(crate) fn draft_bare_graph(
    kind: DraftKind,
    graph: &GraphFacts,
    given: &GivenFacts,
) -> Result<CardDraft> {
    let names = match kind {
        DraftKind::Edm => EDM_PORTS,
        DraftKind::Torchcfm | DraftKind::FlowMatching => FLOW_PORTS,
        DraftKind::ScoreSde => SCORE_PORTS,
        DraftKind::Ddpm => DDPM_PORTS,
        DraftKind::Sbi => SBI_PORTS,
        DraftKind::Onnx => ANY_PORTS,
        DraftKind::Diffusers => bail!("--from diffusers: expected a folder with model_index.json"),
    };
    let roles = find_roles(graph, &names, given)?;
    let reading = match kind {
        DraftKind::Edm => edm_graph(&roles),
        DraftKind::Torchcfm => flow_graph("torchcfm", 1),
        DraftKind::FlowMatching => flow_graph("flow_matching", 1),
        DraftKind::ScoreSde => score_graph(&roles),
        DraftKind::Ddpm => ddpm_graph(&roles),
        DraftKind::Sbi => {
            let mut reading = sbi_graph(&roles);
            reading.network.sole_condition = Some("x_o");
            reading
        }
        DraftKind::Onnx | DraftKind::Diffusers => any_graph(&roles),
    };
    if roles.time.is_none() && reading.network.prediction != "velocity" {
        bail!(
            "{}: no input is recognized as the time, and a network that predicts {} needs it; \
             expected an input with one number per sample, named {}; the graph has {}",
            graph.file,
            reading.network.prediction,
            names.time.first().copied().unwrap_or("t"),
            graph.list_inputs()
        );
    }
    let sizes = ConfiguredSizes::default();
    let keys = draft_network(graph, &roles, &reading.network, &sizes, given, &|_| None)?;

    let mut draft = CardDraft::new(kind, graph.file.as_str());
    draft.push(DraftEntry::new(
        "name",
        yaml_string(&plain_name(&given.name)),
        Origin::read("the name of the file or its folder"),
    ));
    draft.push(keys.shape_entry);
    draft.push(keys.network_entry);
    draft.push(DraftEntry::new("path", reading.path.0, reading.path.1));
    if let Some((yaml, origin)) = reading.prior {
        draft.push(DraftEntry::new("prior", yaml, origin));
    }
    for remark in reading.remarks {
        draft.remark(remark);
    }
    for port in roles
        .further
        .iter()
        .filter(|port| is_named(port, LABEL_NAMES))
    {
        draft.remark(label_remark(port));
    }
    if graph.draws {
        draft.remark("The graph draws random numbers itself: the same input gives other outputs.");
    }
    if is_image(&keys.shape) {
        draft.remark(
            "For bits per dimension of images of bytes that were scaled to [-1, 1], add: \
             data: {range: [-1, 1], levels: 256}",
        );
    }
    Ok(draft)
}

/// What the values of a label's input are.
fn label_remark(port: &Port) -> String {
    let what = match (port.elem.is_float(), port.dims.len()) {
        (true, 2) => "one vector per sample, usually one-hot",
        _ => "one class per sample",
    };
    format!(
        "The condition of {} takes {what}; `null` names the class that means no class, where \
         the network was trained with one.",
        describe_port(port)
    )
}

/// A denoiser of EDM, or the network inside its preconditioning.
fn edm_graph(roles: &PortRoles) -> GraphReading {
    let path = (
        edm_path(0.002, 80.0),
        Origin::guessed("EDM's default noise levels, which the graph does not say"),
    );
    let inner = ["noise_labels", "c_noise"].contains(&roles.time_name().as_str());
    let mut reading = match inner {
        false => GraphReading::new(
            ("denoised", Origin::convention("EDM's D(x; sigma)")),
            (
                feed("sigma"),
                Origin::convention("EDM's networks take sigma"),
            ),
            path,
        ),
        true => {
            let why = format!(
                "input `{}` belongs to the network F inside D",
                roles.time_name()
            );
            let mut reading = GraphReading::new(
                (
                    "denoised",
                    Origin::convention("EDM's preconditioning makes D of F"),
                ),
                (
                    feed("log-sigma-over-4"),
                    Origin::convention("EDM's c_noise"),
                ),
                path,
            );
            reading.network.preconditioning =
                Some(("{edm: {sigma_data: 0.5}}".to_owned(), Origin::guessed(why)));
            reading
        }
    };
    let std = Origin::convention("the largest sigma of the path");
    reading.prior = Some(("{std: 80}".to_owned(), std));
    reading
}

/// A velocity on the straight path.
fn flow_graph(package: &str, data_at: u8) -> GraphReading {
    let times = format!("data at time {data_at}, noise at time {}", 1 - data_at);
    GraphReading::new(
        (
            "velocity",
            Origin::convention(format!("networks of {package} give dx/dt")),
        ),
        (Vec::new(), Origin::convention("the time itself")),
        (
            format!("{{kind: flow-matching, data_at: {data_at}}}"),
            Origin::convention(format!("{package}: {times}")),
        ),
    )
}

/// A network of score_sde. Which SDE it belongs to is not in the graph.
fn score_graph(roles: &PortRoles) -> GraphReading {
    let other = "The SDE is not in the graph. For VE: prediction: score, time: {feed: sigma}, \
                 path: {kind: ve, sigma_min: 0.01, sigma_max: 50}. For sub-VP: \
                 path: {kind: sub-vp}. A graph of the score function itself, with t from 0 to 1: \
                 prediction: score, without `time`.";
    let time = roles.time_name();
    let reading = if time.contains("sigma") {
        GraphReading::new(
            (
                "score",
                Origin::convention("networks of score_sde for VE give the score"),
            ),
            (
                feed("sigma"),
                Origin::convention("networks for VE take sigma"),
            ),
            (
                "{kind: ve, sigma_min: 0.01, sigma_max: 50}".to_owned(),
                Origin::guessed(format!(
                    "input `{time}` belongs to the VE SDE; sigma_max is that of CIFAR-10"
                )),
            ),
        )
    } else if time == "t" && is_named(roles.output, SCORE_OUTPUTS) {
        let why = "input `t` and output `score` belong to the score function";
        GraphReading::new(
            ("score", Origin::guessed(why)),
            (feed("t"), Origin::guessed(why)),
            vp_path(),
        )
    } else {
        GraphReading::new(
            (
                "noise",
                Origin::guessed("networks for VP give -std * score, which is the noise"),
            ),
            (
                vec![("feed", "t".to_owned()), ("scale", "999".to_owned())],
                Origin::convention("networks of score_sde for VP take labels 999 t"),
            ),
            vp_path(),
        )
        .with_whole_times()
    };
    reading.with_remark(other)
}

/// The variance-preserving path with the defaults of score_sde.
fn vp_path() -> (String, Origin) {
    (
        "{kind: vp, beta_min: 0.1, beta_max: 20}".to_owned(),
        Origin::guessed("the VP SDE with the betas of score_sde; the last lines name the others"),
    )
}

/// A noise prediction of DDPM.
fn ddpm_graph(roles: &PortRoles) -> GraphReading {
    let prediction = match () {
        () if is_named(roles.output, DENOISED_OUTPUTS) => {
            let words = format!("the output is named `{}`", roles.output.name);
            ("denoised", Origin::guessed(words))
        }
        () => (
            "noise",
            Origin::convention("DDPM's networks give the noise"),
        ),
    };
    GraphReading::new(
        prediction,
        (
            feed("index"),
            Origin::convention("DDPM's networks take the index of the step"),
        ),
        (
            "{kind: discrete, betas: {linear: [0.0001, 0.02]}, steps: 1000}".to_owned(),
            Origin::guessed("DDPM's betas, which the graph does not say"),
        ),
    )
    .with_whole_times()
    .with_remark(
        "The betas are not in the graph. Networks of improved-diffusion may have \
         betas: squaredcos, and latent diffusion has betas: {scaled-linear: [0.00085, 0.012]}.",
    )
}

/// A posterior estimator of sbi: a velocity (FMPE) or a score (NPSE).
fn sbi_graph(roles: &PortRoles) -> GraphReading {
    if is_named(roles.output, SCORE_OUTPUTS) {
        let why = format!("the output is named `{}`", roles.output.name);
        // sbi's times run from 0.001 to 1, and its noise levels are 0.0001·(10/0.0001)^t. The card's
        // path begins at the first of them.
        let time = vec![
            ("feed", "t".to_owned()),
            ("scale", "0.999".to_owned()),
            ("offset", "0.001".to_owned()),
        ];
        let sde = "the default SDE of sbi's NPSE, which the graph does not say";
        let mut reading = GraphReading::new(
            ("score", Origin::guessed(why)),
            (
                time,
                Origin::guessed(format!("{sde}: its times begin at 0.001")),
            ),
            (
                "{kind: ve, sigma_min: 0.00010115794542598986, sigma_max: 10}".to_owned(),
                Origin::guessed(sde),
            ),
        );
        let std = Origin::guessed(format!("{sde}: its base has the variance 1 + sigma_max^2"));
        reading.prior = Some(("{std: 10.04987562112089}".to_owned(), std));
        return reading.with_remark(
            "For NPSE with sde_type vp: path: {kind: vp, beta_min: 0.01, beta_max: 10, t_min: 0.001}, \
             no time and no prior. For subvp: path: {kind: sub-vp, beta_min: 0.01, beta_max: 10, \
             t_min: 0.01}, prior: {std: 0.99666}, and no time.",
        );
    }
    let mut reading = flow_graph("sbi (FMPE)", 0);
    if !is_named(roles.output, VELOCITY_OUTPUTS) {
        let why = format!(
            "the output `{}` is taken for the velocity of FMPE, not for the score of NPSE",
            roles.output.name
        );
        reading.network.prediction_origin = Origin::guessed(why);
    }
    reading.with_remark(
        "The noise of FMPE has the standard deviation t + noise_scale, usually t + 0.001; the \
         card's path has t. Its velocity is followed as it is.",
    )
}

/// Any network: its ports' names and types say which convention is most likely.
fn any_graph(roles: &PortRoles) -> GraphReading {
    let (time, output) = (roles.time_name(), roles.output);
    let out = output.name.clone();
    let index = roles.has_whole_times() || INDEX_NAMES.contains(&time.as_str());
    if is_named(output, SCORE_OUTPUTS) {
        return score_graph(roles).guessed(&format!("output `{out}`"));
    }
    if ["sigma", "sigmas", "noise_labels", "c_noise"].contains(&time.as_str()) {
        return edm_graph(roles).guessed(&format!("input `{time}`"));
    }
    if is_named(output, VELOCITY_OUTPUTS) {
        let why = format!("output `{out}`");
        if index {
            let mut reading = flow_graph("diffusers", 0).with_whole_times();
            reading.network.time = vec![("feed", "t".to_owned()), ("scale", "1000".to_owned())];
            reading.network.time_origin = Origin::convention("diffusers feeds 1000 t");
            return reading.guessed(&why);
        }
        return flow_graph("most packages", 1)
            .guessed(&why)
            .with_remark(DIRECTION_REMARK);
    }
    if index || is_named(output, NOISE_OUTPUTS) || is_named(output, DENOISED_OUTPUTS) {
        let why = match index {
            true => format!("input `{time}`"),
            false => format!("output `{out}`"),
        };
        return ddpm_graph(roles).guessed(&why);
    }
    flow_graph("most packages", 1)
        .guessed("no port's name says more")
        .with_remark(DIRECTION_REMARK)
}

/// What to change where a guessed flow runs the other way.
const DIRECTION_REMARK: &str = "Where data are at time 0: path: {kind: flow-matching, data_at: 0}.";
