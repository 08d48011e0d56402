//! `flowgauge inspect CARD|MODEL.onnx`: describes a model, and runs the network of a card.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use ndarray::{Axis, s};
use serde::Serialize;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::console::{Answer, JsonArgs};
use super::readings::{add_reading_check, read_checked_data};
use super::setting::SettingArgs;
use super::{Exit, RuntimeArgs};
use crate::flow::field::{EvalError, JacobianOperator, OneCallDensity, Points, VectorField};
use crate::flow::truncation::Truncation;
use crate::graph::{self, Mode};
use crate::host::hex;
use crate::hub;
use crate::model::flow_map::FlowMapDerivatives;
use crate::model::loaded::{JacobianOptions, Model, SessionOptions, Velocity};
use crate::model::one_call::OneCall;
use crate::num::key::{Purpose, RngKey};
use crate::num::shape::AxisLayout;
use crate::num::{Batch, TangentBatch};

/// The examples of the help.
const EXAMPLES: &str = "\
Examples:
  flowgauge inspect models/digits/card.yaml --data models/digits/heldout.npy
  flowgauge inspect models/moons/velocity.onnx --json";

/// The arguments of `flowgauge inspect`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct InspectArgs {
    /// A model card (YAML), or an ONNX file
    file: PathBuf,
    /// Data of the model: print how well they are denoised by each reading of the card's network
    ///
    /// At most 64 samples are noised at 12 levels, and the network is read under every prediction,
    /// sign, direction of time, feed, path and scaling. Exit status 1 if another reading denoises the
    /// data much better than the card's. It costs at most 200 evaluations.
    #[arg(long, value_name = "FILE|FOLDER")]
    data: Option<PathBuf>,
    /// The order of the axes of `--data` if it differs from the card's, one letter per axis
    #[arg(long, value_name = "LETTERS", requires = "data")]
    layout: Option<AxisLayout>,
    #[command(flatten)]
    setting: SettingArgs,
    #[command(flatten)]
    json: JsonArgs,
    #[command(flatten)]
    pub(super) runtime_args: RuntimeArgs,
}

impl InspectArgs {
    /// The call that inspects the card at `file`.
    pub(super) fn of_card(file: PathBuf, runtime_args: RuntimeArgs) -> InspectArgs {
        InspectArgs {
            file,
            data: None,
            layout: None,
            setting: SettingArgs::default(),
            json: JsonArgs::default(),
            runtime_args,
        }
    }

    /// Prints what is known of the model. For a card, the exit status tells whether its network
    /// passed.
    ///
    /// # Errors
    /// Fails if the file cannot be read, or if the networks of a card cannot be opened.
    pub(super) fn execute(self) -> Result<Exit> {
        let json = self.json;
        let (answer, exit) = self.inspect()?;
        Ok(answer.show(json, None, exit))
    }

    /// What is known of the model, and whether the network of a card passed.
    ///
    /// # Errors
    /// Fails if the file cannot be read, or if the networks of a card cannot be opened.
    pub(super) fn inspect(mut self) -> Result<(Answer, Exit)> {
        self.file = hub::local_path(&self.file)?;
        let extension = self
            .file
            .extension()
            .map(|e| e.to_string_lossy().to_lowercase())
            .unwrap_or_default();
        if extension == "onnx" {
            if self.data.is_some() {
                bail!("--data: expected a card; a bare graph does not say how it is read");
            }
            let bytes = std::fs::read(&self.file)
                .with_context(|| format!("{}: it cannot be read", self.file.display()))?;
            let model = load_or_skim(&self.file)?;
            let sha256 = hex(&Sha256::digest(&bytes));
            let mut answer = Answer::new("inspect", "");
            let facts = add_graph(
                &mut answer,
                &self.file.display().to_string(),
                &model,
                &sha256,
                &GraphDifferentiability::default(),
            );
            let line = format!("{}: {}", self.file.display(), facts.sentence());
            answer.set("graph", facts);
            return Ok((answer.ending_in(line), Exit::Success));
        }
        let model = self
            .setting
            .apply_or_null(Model::open(&self.file)?, self.data.is_some())?;
        let data = match &self.data {
            Some(data) => Some(read_checked_data(&model, data, self.layout.as_ref())?),
            None => None,
        };
        if let Some(data) = data.as_ref().filter(|_| !self.runtime_args.quiet) {
            data.print_notes();
        }
        let card = &model.card;
        let mut answer = Answer::new("inspect", "");
        answer.set_path("card", &self.file);
        answer.set("name", &card.name);
        answer.set("shape", &card.shape);
        match &card.one_call {
            None => self.add_path(&mut answer, &model)?,
            Some(one_call) => {
                answer.say(format!(
                    "card {}: {}, shape {:?}, kind {}",
                    self.file.display(),
                    card.name,
                    card.shape,
                    one_call.kind()
                ));
                answer.say(one_call.describe().to_string());
                if let OneCall::Flow { .. } = one_call {
                    answer.say(format!("latents N(0, {}^2 I)", model.prior.std));
                }
            }
        }
        let given = model
            .describe_constants()?
            .into_iter()
            .chain(model.describe_times()?)
            .chain(model.describe_kinks()?)
            .chain(model.describe_setting());
        let given: serde_json::Map<_, _> =
            given.map(|(input, value)| (input, value.into())).collect();
        for (input, value) in &given {
            answer.say(format!("{input}: {}", value.as_str().unwrap_or_default()));
        }
        answer.set("inputs", given);
        if let Some(terms) = model
            .trace_terms()
            .filter(|_| card.one_call.is_none())
            .filter(|terms| *terms < model.dim() as u64)
        {
            answer.say(format!(
                "exact trace: {terms} Jacobian products in {} dimensions, \
                 since the Jacobian is block diagonal",
                model.dim()
            ));
        }
        for (name, head) in &card.divergence_heads {
            let parametrization = serde_json::to_value(head.parametrization)?;
            let place = if card.is_joint(name) {
                "an output of the network's own calls"
            } else {
                "a network of its own"
            };
            answer.say(format!(
                "divergence head {name}: {}, {place}",
                parametrization.as_str().unwrap_or_default()
            ));
        }
        let mut files = Vec::new();
        for file in &model.files {
            let at = &file.path;
            answer.heading(file.key.as_str());
            if !file.is_network() {
                answer.say(at.display().to_string());
                answer.say(format!("  sha256 {}", file.sha256));
                files.push(json!({
                    "key": file.key,
                    "file": at.display().to_string(),
                    "sha256": file.sha256,
                }));
                continue;
            }
            let facts = add_graph(
                &mut answer,
                &at.display().to_string(),
                &load_or_skim(at)?,
                &file.sha256,
                &graph_differentiability(&model, &file.key, at)?,
            );
            files.push(json!({ "key": file.key, "graph": facts }));
        }
        answer.set("files", files);
        let findings = match card.one_call {
            None => self.check_network(&model)?,
            Some(_) => self.check_one_call(&model)?,
        };
        answer.heading("the network as it runs");
        for (what, fine) in &findings {
            answer.say(format!(
                "  {} {what}",
                if *fine { "ok    " } else { "FAILED" }
            ));
        }
        let checks = findings
            .iter()
            .map(|(what, fine)| json!({ "what": what, "ok": fine }));
        answer.set("checks", checks.collect::<Vec<_>>());
        for placement in self.runtime_args.runtime()?.placements() {
            answer.say(format!(
                "  nodes of {}: {}",
                placement.graph,
                placement.describe(self.runtime_args.provider)
            ));
        }
        let passed = findings.iter().filter(|(_, passed)| *passed).count();
        let mut fine = passed == findings.len();
        let mut line = format!(
            "{}: {}, {passed} of {} checks of the network passed",
            self.file.display(),
            card.name,
            findings.len()
        );
        if let Some((what, _)) = findings.iter().find(|(_, passed)| !passed) {
            let failed = findings.iter().filter(|(_, passed)| !passed).count();
            errln!(
                "flowgauge: {}: {failed} of {} checks of the network failed, the first: {what}",
                self.file.display(),
                findings.len()
            );
        }
        if card.one_call.is_some() {
            answer.say(
                "whether a density integrates to one is estimated by `mass: {samples: 4096}` in a \
                 config",
            );
        } else if let Some(data) = &data {
            let report = add_reading_check(&mut answer, &model, data, &self.runtime_args)?;
            line = report.sentence();
            fine &= !report.disagrees();
        }
        let exit = if fine { Exit::Success } else { Exit::Failed };
        Ok((answer.ending_in(line), exit))
    }

    /// Says how the network of a model with a velocity is read, and its path.
    ///
    /// # Errors
    /// Fails if a part of the card cannot be written as JSON.
    fn add_path(&self, answer: &mut Answer, model: &Model) -> Result<()> {
        let card = &model.card;
        answer.say(format!(
            "card {}: {}, shape {:?}, {} prediction",
            self.file.display(),
            card.name,
            card.shape,
            serde_json::to_value(card.network.prediction)?
                .as_str()
                .unwrap_or_default()
        ));
        answer.say(format!("path {}", serde_json::to_string(&card.path)?));
        answer.set("prediction", card.network.prediction);
        answer.set("path", &card.path);
        answer.set("prior_std", model.prior.std);
        answer.say(format!(
            "prior N(0, {}^2 I) at time {}, data at time {}",
            model.prior.std,
            model.curve.prior_end(),
            model.curve.data_end()
        ));
        answer.say(format!(
            "cut off {}",
            Truncation::new(&model.curve, model.prior).describe(card.network.prediction)
        ));
        if let Some(preconditioning) = card.network.preconditioning {
            answer.say(format!(
                "preconditioning outside the graph {}",
                serde_json::to_string(&preconditioning)?
            ));
        }
        Ok(())
    }

    /// Calls a one-call model with batches of 1 and 3 samples. Each finding is a sentence, and whether
    /// the check passed.
    ///
    /// # Errors
    /// Fails if the graph cannot be opened.
    fn check_one_call(&self, model: &Model) -> Result<Vec<(String, bool)>> {
        let options = SessionOptions {
            provider: self.runtime_args.machine().provider,
            threads: 1,
        };
        let mut density = model.one_call(self.runtime_args.runtime()?, options)?;
        let (key, dim) = (RngKey { seed: 0 }, model.dim());
        let mut x = Batch::zeros((3, dim));
        for (i, mut row) in x.rows_mut().into_iter().enumerate() {
            row.assign(&key.normal(Purpose::Check, i as u64, 0, dim));
        }
        let (samples, t) = ([0, 1, 2], [model.curve.data_end(); 3]);
        let at = Points::new(&samples, &t, &x);
        let all = match density.log_density(at) {
            Ok(all) => all,
            Err(error) => return Ok(vec![(format!("batch of 3: {error}"), false)]),
        };
        let what = "the log-determinants";
        let volume =
            model.check_one_call_volume(self.runtime_args.runtime()?, options, &samples, &x);
        let volume = match volume {
            Ok(Some(check)) => Some((check.sentence(), check.agrees())),
            Ok(None) if matches!(model.card.one_call, Some(OneCall::Flow { .. })) => {
                let why = "not checked: too many dimensions, or another shape of the latent";
                Some((format!("{what} were {why}"), true))
            }
            Ok(None) => None,
            Err(error) => Some((format!("{what} were not checked: {error:#}"), true)),
        };
        let finite = all.iter().all(|terms| terms.log_density.is_finite());
        let mut found = vec![("log-densities of 3 samples are finite".to_owned(), finite)];
        let scale = all
            .iter()
            .fold(1.0f64, |most, terms| most.max(terms.log_density.abs()));
        let what = "every sample alone agrees with a batch of 3".to_owned();
        let alone: Result<Vec<f64>, _> = (0..3)
            .map(|i| Ok(density.log_density(at.select(&[i]).points())?[0].log_density))
            .collect::<Result<_, EvalError>>();
        found.push(match alone {
            Ok(alone) => {
                let gaps = alone
                    .iter()
                    .zip(&all)
                    .map(|(a, b)| (a - b.log_density).abs());
                agreement_finding(what, gaps.fold(0.0, f64::max) / scale)
            }
            Err(error) => (format!("{what}: {error}"), false),
        });
        found.extend(volume);
        Ok(found)
    }

    /// Runs the velocity with batches of 1, 2 and 3 samples, with permuted samples, and at both
    /// ends of the path. Each finding is a sentence, and whether the check passed.
    ///
    /// # Errors
    /// Fails if a network of the card cannot be opened, or contradicts the velocity.
    fn check_network(&self, model: &Model) -> Result<Vec<(String, bool)>> {
        let options = SessionOptions {
            provider: self.runtime_args.machine().provider,
            threads: 1,
        };
        let mut field = model.velocity(self.runtime_args.runtime()?, options)?;
        // To open another network of the card is to compare it with the velocity.
        let runtime = self.runtime_args.runtime()?;
        let card = &model.card;
        card.divergence_heads
            .keys()
            .try_for_each(|name| model.head(name, runtime, options).map(drop))?;
        let nothing = FlowMapDerivatives::default();
        card.flow_maps
            .keys()
            .try_for_each(|name| model.flow_map(name, runtime, options, nothing).map(drop))?;
        if card.closed_form.is_some() {
            model.closed_form(runtime, options)?;
        }
        if card.latent.as_ref().is_some_and(|l| l.encoder.is_some()) {
            model.encoder(runtime, options)?;
        }
        model.decoder(runtime, options)?;
        let key = RngKey { seed: 0 };
        let (start, end) = (model.curve.data_end(), model.curve.prior_end());
        let middle = model.curve.time_of_ratio(1.0);
        let states = |t: f64| {
            let scale = model.curve.at(t);
            let scale = (scale.alpha.powi(2) + scale.sigma.powi(2)).sqrt();
            let mut x = Batch::zeros((3, model.dim()));
            for (i, mut row) in x.rows_mut().into_iter().enumerate() {
                row.assign(&(key.normal(Purpose::Check, i as u64, 0, model.dim()) * scale));
            }
            x
        };
        let x = states(middle);
        let t = vec![middle; 3];
        let mut found = Vec::new();
        let samples = [0, 1, 2];
        let at = Points::new(&samples, &t, &x);
        let Ok(three) = field.velocity(at) else {
            let error = field
                .velocity(at)
                .err()
                .map(|e| e.to_string())
                .unwrap_or_default();
            found.push((format!("batch of 3: {error}"), false));
            return Ok(found);
        };
        let scale = three.iter().fold(1e-12f64, |a, b| a.max(b.abs()));
        let gap = |a: &Batch, b: &Batch| (a - b).iter().fold(0.0f64, |m, v| m.max(v.abs())) / scale;
        for n in [1usize, 2] {
            let what = format!("batch of {n} agrees with a batch of 3");
            found.push(
                match field.velocity(at.select(&samples.map(|i| i as usize)[..n]).points()) {
                    Ok(v) => agreement_finding(what, gap(&v, &three.slice(s![..n, ..]).to_owned())),
                    Err(e) => (format!("{what}: {e}"), false),
                },
            );
        }
        let order = [2, 0, 1];
        let permuted = field.velocity(at.select(&order).points())?;
        found.push(agreement_finding(
            "permuted samples agree: no sample depends on another".to_owned(),
            gap(&permuted, &three.select(Axis(0), &order)),
        ));
        let second = field.velocity(at)?;
        found.push(agreement_finding(
            "the same call twice agrees".to_owned(),
            gap(&second, &three),
        ));
        found.extend(self.check_jacobian_products(model, options, at));
        found.extend(check_interpolation(&mut field)?);
        for (name, t) in [("data", start), ("prior", end)] {
            let v = field.velocity(Points::new(&samples, &[t; 3], &states(t)))?;
            found.push((
                format!("finite at the {name} end (time {t})"),
                v.iter().all(|v| v.is_finite()),
            ));
        }
        Ok(found)
    }

    /// Runs the derived graph of the network once, as a likelihood does. `None` if the network has
    /// an operator that cannot be differentiated.
    fn check_jacobian_products(
        &self,
        model: &Model,
        options: SessionOptions,
        at: Points,
    ) -> Option<(String, bool)> {
        let card = &model.card.network;
        let graph = model.network_graph_with_known_axes().ok()?;
        if !graph::obstacles(&graph, Mode::Jvp, Some(&card.inputs.x), Some(&card.output)).is_empty()
        {
            return None;
        }
        let what = "products with the Jacobian are finite";
        let z = TangentBatch::ones((1, at.rows(), at.x.ncols()));
        let tangents = self
            .runtime_args
            .runtime()
            .and_then(|runtime| model.jacobian(runtime, options, JacobianOptions::default()));
        let product = tangents.and_then(|mut tangents| Ok(tangents.quadratic_form(at, &z)?));
        Some(match product {
            Ok(product) => (what.to_owned(), product.iter().all(|v| v.is_finite())),
            Err(error) => (format!("{what}: {error:#}"), false),
        })
    }
}

/// What the interpolation between two whole indices of time costs: how far the output at an index is
/// from the mean of its neighbours. Between two indices the error is about a quarter of that. `None`
/// if the network's time takes fractions.
///
/// # Errors
/// Fails if the network cannot be run.
fn check_interpolation(field: &mut Velocity) -> Result<Option<(String, bool)>> {
    let Some(errors) = field.field.network.interpolation_errors()? else {
        return Ok(None);
    };
    let worst = errors.iter().fold(0.0f64, |a, b| a.max(*b));
    let mean = errors.iter().sum::<f64>() / errors.len().max(1) as f64;
    Ok(Some((
        format!(
            "between two indices of time the mixed output errs by about {mean:.1e} of its size, at \
             most {worst:.1e}, from {} indices",
            errors.len()
        ),
        worst.is_finite(),
    )))
}

/// An ONNX model with its weights, or without them if they are too large for one protobuf message.
fn load_or_skim(file: &Path) -> Result<graph::Model, graph::GraphError> {
    match graph::load_onnx(file) {
        Err(graph::GraphError::TooLarge { .. }) => graph::skim_onnx(file),
        model => model,
    }
}

/// A finding that passes if `gap` is at most 1e-4 of the largest value.
fn agreement_finding(what: String, gap: f64) -> (String, bool) {
    let fine = gap <= 1e-4;
    (
        format!("{what} (largest difference {gap:.1e} of the largest value)"),
        fine,
    )
}

/// Which graph is differentiated, and between which ports. Absent parts have the defaults of
/// `flowgauge differentiate`.
#[derive(Default)]
struct GraphDifferentiability {
    /// The graph, if it is not the one in the file.
    model: Option<graph::Model>,
    /// The input to differentiate with respect to.
    input: Option<String>,
    /// The output that is differentiated in forward mode, and the output in reverse mode.
    outputs: [Option<String>; 2],
}

/// What is differentiated in the network at `key` of the card, with the axis sizes that the card
/// gives. `at` is the network's file.
///
/// # Errors
/// Fails if the graph cannot be read.
fn graph_differentiability(model: &Model, key: &str, at: &Path) -> Result<GraphDifferentiability> {
    let card = &model.card;
    if key == "network.file" {
        let (input, output) = (
            Some(card.network.inputs.x.clone()),
            Some(card.network.output.clone()),
        );
        return Ok(GraphDifferentiability {
            model: Some(model.network_graph_with_known_axes()?),
            input,
            outputs: [output.clone(), output],
        });
    }
    let map = key
        .strip_prefix("flow_maps.")
        .and_then(|k| k.strip_suffix(".file"));
    if let Some((name, spec)) = map.and_then(|name| Some((name, card.flow_maps.get(name)?))) {
        let graph = model.flow_map_graph_with_known_axes(name, load_or_skim(at)?)?;
        let outputs = [
            spec.outputs.velocity.clone(),
            spec.outputs.divergence.clone(),
        ];
        return Ok(GraphDifferentiability {
            model: Some(graph),
            input: Some(spec.inputs.x.clone()),
            outputs,
        });
    }
    Ok(GraphDifferentiability::default())
}

/// What is known of a graph.
#[derive(Debug, Serialize)]
struct GraphSummary {
    file: String,
    sha256: String,
    opset: i64,
    parameters: u64,
    inputs: Vec<PortSummary>,
    outputs: Vec<PortSummary>,
    /// The number of nodes of each operator.
    operators: serde_json::Map<String, serde_json::Value>,
    /// What stands in the way of forward and of reverse differentiation; empty if nothing does.
    forward_obstacles: Vec<String>,
    reverse_obstacles: Vec<String>,
}

/// An input or output of a graph.
#[derive(Debug, Serialize)]
struct PortSummary {
    name: String,
    #[serde(rename = "type")]
    element: String,
    dims: String,
}

impl GraphSummary {
    /// The size of the graph, and in which modes it can be differentiated.
    fn sentence(&self) -> String {
        let modes = match (
            self.forward_obstacles.is_empty(),
            self.reverse_obstacles.is_empty(),
        ) {
            (true, true) => "it can be differentiated in both modes",
            (true, false) => "it can be differentiated in forward mode only",
            (false, true) => "it can be differentiated in reverse mode only",
            (false, false) => "it cannot be differentiated",
        };
        format!("{} parameters, {modes}", self.parameters)
    }
}

/// Says the inputs and outputs, size, hash and operators of a graph, and whether it can be
/// differentiated.
fn add_graph(
    answer: &mut Answer,
    name: &str,
    model: &graph::Model,
    sha256: &str,
    derivable: &GraphDifferentiability,
) -> GraphSummary {
    answer.say(name);
    answer.say(format!(
        "  sha256 {sha256}, opset {}, {} parameters",
        model.opset(),
        model.parameters()
    ));
    let mut listed = [Vec::new(), Vec::new()];
    for (place, (kind, ports)) in [("input", model.inputs()), ("output", model.outputs())]
        .into_iter()
        .enumerate()
    {
        for port in ports {
            let dims = if port.ranked {
                graph::listed(&port.dims)
            } else {
                "[?] (unknown rank)".to_owned()
            };
            answer.say(format!("  {kind} {} {} {dims}", port.name, port.elem));
            listed[place].push(PortSummary {
                name: port.name.clone(),
                element: port.elem.to_string(),
                dims,
            });
        }
    }
    let operators: Vec<String> = model
        .operators()
        .iter()
        .map(|(op, n)| format!("{op} {n}"))
        .collect();
    answer.say(format!("  operators: {}", operators.join(", ")));
    let mut found = Vec::new();
    let modes = [(Mode::Jvp, "forward (jvp)"), (Mode::Vjp, "reverse (vjp)")];
    for ((mode, label), output) in modes.into_iter().zip(&derivable.outputs) {
        let obstacles = graph::obstacles(
            derivable.model.as_ref().unwrap_or(model),
            mode,
            derivable.input.as_deref(),
            output.as_deref(),
        );
        if obstacles.is_empty() {
            answer.say(format!("  {label}: every operator can be differentiated"));
        } else {
            answer.say(format!("  {label}: {} obstacles", obstacles.len()));
            obstacles
                .iter()
                .for_each(|o| answer.say(format!("    {o}")));
        }
        found.push(obstacles.iter().map(ToString::to_string).collect());
    }
    let [inputs, outputs] = listed;
    let [forward_obstacles, reverse_obstacles] =
        <[Vec<String>; 2]>::try_from(found).unwrap_or_default();
    let operators = model
        .operators()
        .iter()
        .map(|(op, n)| (op.to_string(), json!(n)))
        .collect();
    GraphSummary {
        file: name.to_owned(),
        sha256: sha256.to_owned(),
        opset: model.opset(),
        parameters: model.parameters(),
        inputs,
        outputs,
        operators,
        forward_obstacles,
        reverse_obstacles,
    }
}
