//! `flowgauge inspect CARD|MODEL.onnx`

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use ndarray::{Axis, s};
use sha2::{Digest, Sha256};

use super::{Exit, Running};
use crate::flow::field::VectorField;
use crate::flow::truncation::Truncation;
use crate::graph::{self, Dim, Mode};
use crate::model::library::hex;
use crate::model::opened::{Model, Options};
use crate::num::Batch;
use crate::num::key::{Key, Purpose};

#[derive(Debug, Args)]
pub struct Inspect {
    /// A card, or an ONNX file
    file: PathBuf,
    #[command(flatten)]
    running: Running,
}

impl Inspect {
    pub fn execute(self) -> Result<Exit> {
        let extension = self.file.extension().map(|e| e.to_string_lossy().to_lowercase()).unwrap_or_default();
        if extension == "onnx" {
            let bytes =
                std::fs::read(&self.file).with_context(|| format!("{}: it cannot be read", self.file.display()))?;
            describe(&self.file.display().to_string(), &looked_at(&self.file)?, &hex(&Sha256::digest(&bytes)), None);
            return Ok(Exit::Well);
        }
        let model = Model::open(&self.file)?;
        let card = &model.card;
        say!(
            "card {}: {}, shape {:?}, {} prediction",
            self.file.display(),
            card.name,
            card.shape,
            serde_json::to_value(card.network.prediction)?.as_str().unwrap_or_default()
        );
        say!("path {}", serde_json::to_string(&card.path)?);
        say!(
            "prior N(0, {}^2 I) at time {}, data at time {}",
            model.prior.std,
            model.curve.prior_end(),
            model.curve.data_end()
        );
        say!("cut off {}", Truncation::new(&model.curve, model.prior).sentence());
        if let Some(preconditioning) = card.network.preconditioning {
            say!("preconditioning outside the graph {}", serde_json::to_string(&preconditioning)?);
        }
        for (name, head) in &card.divergence_heads {
            let parametrization = serde_json::to_value(head.parametrization)?;
            let place =
                if card.is_joint(name) { "an output of the network's own calls" } else { "a network of its own" };
            say!("divergence head {name}: {}, {place}", parametrization.as_str().unwrap_or_default());
        }
        for file in &model.files {
            let at = self.file.parent().unwrap_or(Path::new("")).join(&file.name);
            say!("\n{}", file.key);
            if !file.is_network() {
                say!("{}\n  sha256 {}", at.display(), file.sha256);
                continue;
            }
            let roles =
                (file.key == "network.file").then_some((card.network.inputs.x.as_str(), card.network.output.as_str()));
            describe(&at.display().to_string(), &looked_at(&at)?, &file.sha256, roles);
        }
        let findings = self.run_network(&model)?;
        say!("\nthe network as it runs");
        findings.iter().for_each(|(what, fine)| say!("  {} {what}", if *fine { "ok    " } else { "FAILED" }));
        let fine = findings.iter().all(|f| f.1);
        Ok(if fine { Exit::Well } else { Exit::Failed })
    }

    /// Runs the velocity at batch 1, 2, 3 and permuted, and at both ends of time.
    fn run_network(&self, model: &Model) -> Result<Vec<(String, bool)>> {
        let options = Options { provider: self.running.machine().provider, threads: 1 };
        let mut field = model.velocity(self.running.runtime()?, options)?;
        let key = Key { seed: 0 };
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
        let Ok(three) = field.velocity(&t, &x) else {
            let error = field.velocity(&t, &x).err().map(|e| e.to_string()).unwrap_or_default();
            found.push((format!("batch of 3: {error}"), false));
            return Ok(found);
        };
        let scale = three.iter().fold(1e-12f64, |a, b| a.max(b.abs()));
        let gap = |a: &Batch, b: &Batch| (a - b).iter().fold(0.0f64, |m, v| m.max(v.abs())) / scale;
        for n in [1usize, 2] {
            let part = x.slice(s![..n, ..]).to_owned();
            let what = format!("batch of {n} agrees with a batch of 3");
            found.push(match field.velocity(&t[..n], &part) {
                Ok(v) => judged(what, gap(&v, &three.slice(s![..n, ..]).to_owned())),
                Err(e) => (format!("{what}: {e} (is the batch size baked in?)"), false),
            });
        }
        let order = [2, 0, 1];
        let permuted = field.velocity(&t, &x.select(Axis(0), &order))?;
        found.push(judged(
            "permuted samples agree: no sample feels another".to_owned(),
            gap(&permuted, &three.select(Axis(0), &order)),
        ));
        let again = field.velocity(&t, &x)?;
        found.push(judged("the same call twice agrees".to_owned(), gap(&again, &three)));
        for (name, t) in [("data", start), ("prior", end)] {
            let v = field.velocity(&[t; 3], &states(t))?;
            found.push((format!("finite at the {name} end (time {t})"), v.iter().all(|v| v.is_finite())));
        }
        Ok(found)
    }
}

/// A model with its data, or without its weights where those are too many for one message.
fn looked_at(file: &Path) -> Result<graph::Model, graph::GraphError> {
    match graph::Model::load(file) {
        Err(graph::GraphError::TooLarge { .. }) => graph::Model::skim(file),
        model => model,
    }
}

fn judged(what: String, gap: f64) -> (String, bool) {
    let fine = gap <= 1e-4;
    (format!("{what} (largest difference {gap:.1e} of the largest value)"), fine)
}

/// Ports, size, hash, operators and what can be differentiated.
fn describe(name: &str, model: &graph::Model, sha256: &str, roles: Option<(&str, &str)>) {
    say!("{name}");
    say!("  sha256 {sha256}, opset {}, {} parameters", model.opset(), model.parameters());
    for (kind, ports) in [("input", model.inputs()), ("output", model.outputs())] {
        for port in ports {
            let dims: Vec<String> = port.dims.iter().map(dimension).collect();
            say!("  {kind} {} {} [{}]", port.name, port.elem, dims.join(", "));
        }
    }
    let operators: Vec<String> = model.operators().iter().map(|(op, n)| format!("{op} {n}")).collect();
    say!("  operators: {}", operators.join(", "));
    let (input, output) = (roles.map(|r| r.0), roles.map(|r| r.1));
    for (mode, label) in [(Mode::Jvp, "forward (jvp)"), (Mode::Vjp, "reverse (vjp)")] {
        let obstacles = graph::obstacles(model, mode, input, output);
        if obstacles.is_empty() {
            say!("  {label}: every operator can be differentiated");
        } else {
            say!("  {label}: {} obstacles", obstacles.len());
            obstacles.iter().for_each(|o| say!("    node `{}` ({}): {}", o.node, o.op, o.reason));
        }
    }
}

fn dimension(dim: &Dim) -> String {
    match dim {
        Dim::Fixed(n) => n.to_string(),
        Dim::Symbol(name) => name.clone(),
        Dim::Unknown => "?".to_owned(),
    }
}
