//! A drafted config for a card, and its text in YAML with a comment on every key.

use super::card_text::yaml_string;
use crate::flow::path::ProbabilityPath;

/// The most dimensions at which the exact trace is proposed; above them it costs more than it is worth.
const MOST_EXACT_DIMENSIONS: u64 = 64;
/// The number of samples whose log-likelihood is proposed.
const LIKELIHOOD_SAMPLES: usize = 256;
/// The number of samples that are drawn.
const DRAWN_SAMPLES: usize = 1024;
/// The file that stands for data that are not known.
const PLACEHOLDER: &str = "PLACEHOLDER.npy";

/// What a config is drafted from.
#[derive(Debug, Clone)]
pub(crate) struct ConfigFacts {
    /// The name of the model.
    pub name: String,
    /// The card, relative to the config.
    pub card: String,
    /// The data, relative to the config, and the number of its samples; `None` if no file was given.
    pub data: Option<(String, usize)>,
    /// The shape of one sample of the data.
    pub shape: Vec<usize>,
    /// The number of levels of integer data, if the card names it.
    pub levels: Option<u32>,
    /// The number of Jacobian products of the exact trace; `None` if the network cannot be
    /// differentiated.
    pub trace_terms: Option<u64>,
    /// Whether the network has kinks, such as those of ReLU.
    pub has_kinks: bool,
    /// Whether the model gives its density in one call, without a path.
    pub is_one_call: bool,
    /// Whether the card has the closed form of the density.
    pub has_closed_form: bool,
    /// The heads of the card that predict the divergence.
    pub heads: Vec<String>,
    /// The conditions of the card, and whether each has a value that stands for no condition.
    pub conditions: Vec<(String, bool)>,
    /// The path of the card.
    pub path: ProbabilityPath,
}

/// The config as text. It is valid, and `flowgauge plan` takes it as soon as its placeholders are
/// replaced.
pub(crate) fn draft_config(facts: &ConfigFacts) -> String {
    let mut lines = ConfigLines::default();
    lines.comment(0, "Each comment says what the key below it means. `flowgauge plan` prints what this costs, and `flowgauge run` carries it out.");
    if facts.has_placeholders() {
        lines.comment(
            0,
            &format!("REPLACE every {PLACEHOLDER}: it stands for a file that only you know."),
        );
    }
    lines.blank();
    lines.comment(
        0,
        "The name of the run, whose directory is reports/<name> unless --out names another.",
    );
    lines.key(0, "name", &yaml_string(&facts.name));
    lines.comment(
        0,
        "The seed of all random numbers, a whole number; the same seed gives the same digits.",
    );
    lines.key(0, "seed", "0");
    lines.blank();
    lines.comment(0, "Log-likelihoods: one entry for each model and dataset. They are in nats, and in bits per dimension too where the card says how many levels the data have.");
    lines.key(0, "likelihood", "");
    lines.model(facts);
    lines.data(facts);
    lines.conditions(facts);
    let known = facts.data.as_ref().map(|(_, samples)| *samples);
    let samples = known.map_or(LIKELIHOOD_SAMPLES, |known| known.min(LIKELIHOOD_SAMPLES));
    lines.comment(
        4,
        "The number of samples, from the beginning of the data; without the key all of them.",
    );
    lines.key(4, "samples", &samples.to_string());
    lines.comment(4, "The estimators of the divergence; the first is the one that the others are compared with. `flowgauge list estimators` shows all.");
    lines.key(4, "estimators", "");
    facts
        .estimators()
        .iter()
        .for_each(|(entry, why)| lines.item(6, entry, why));
    if !facts.is_one_call {
        lines.comment(4, "The solver of the path from the data to the prior. rtol and atol are relative and absolute tolerances of each step, without unit. `flowgauge list solvers` shows all.");
        lines.key(4, "solvers", "");
        let (entry, why) = facts.solver();
        lines.item(6, entry, why);
        lines.blank();
        lines.comment(
            0,
            "Samples of the model and their statistics against data: one entry for each model.",
        );
        lines.key(0, "samples", "");
        lines.model(facts);
        lines.comment(
            4,
            "The samplers; steps are without unit. `flowgauge list samplers` shows all.",
        );
        lines.key(4, "samplers", "");
        let (entry, why) = facts.sampler();
        lines.item(6, entry, why);
        lines.comment(4, "The number of samples that each sampler draws.");
        lines.key(4, "count", &DRAWN_SAMPLES.to_string());
        lines.conditions(facts);
        lines.comment(4, "The samples that the statistics compare with.");
        lines.key(4, "reference", &facts.data_file());
        lines.comment(4, "The statistics, of the raw numbers; for images name an `extractor: inception-v3` here. `flowgauge list metrics` shows all, with their units in the documentation.");
        lines.key(4, "metrics", "");
        lines.item(
            6,
            "frechet",
            "the distance of fitted normal distributions, in squared units of the data",
        );
        lines.item(
            6,
            "kernel",
            "a discrepancy whose mean does not depend on the number of samples, without unit",
        );
    }
    lines.text()
}

impl ConfigFacts {
    /// Whether something stands for a file that is not known.
    fn has_placeholders(&self) -> bool {
        self.data.is_none() || self.conditions.iter().any(|(_, has_null)| !has_null)
    }

    /// The data file in YAML.
    fn data_file(&self) -> String {
        match &self.data {
            Some((file, _)) => yaml_string(file),
            None => PLACEHOLDER.to_owned(),
        }
    }

    /// The estimators, each with the reason.
    fn estimators(&self) -> Vec<(String, &'static str)> {
        if self.is_one_call {
            return vec![(
                "one-call".to_owned(),
                "the log-density that the model gives in one call",
            )];
        }
        let mut found = Vec::new();
        match self.trace_terms {
            Some(terms) if terms <= MOST_EXACT_DIMENSIONS => {
                found.push(("exact".to_owned(), "the whole trace of the Jacobian"));
                if terms > 8 {
                    found.push((
                        "{hutchinson: {probes: 8}}".to_owned(),
                        "the mean over 8 random probes, to see what they cost and lose",
                    ));
                }
            }
            Some(_) => found.push((
                "{hutchinson: {probes: 8, along: fresh}}".to_owned(),
                "the mean over 8 random probes, drawn afresh at every node",
            )),
            None => found.push((
                "{finite-difference: {probes: 8}}".to_owned(),
                "differences of the velocity, since the network cannot be differentiated",
            )),
        }
        if self.has_closed_form {
            found.push((
                "closed-form".to_owned(),
                "the card's closed form, which is the truth",
            ));
        }
        let head = |name: &String| {
            let entry = format!("{{learned: {{head: {}}}}}", yaml_string(name));
            (entry, "the divergence that a head of the card predicts")
        };
        found.extend(self.heads.iter().map(head));
        found
    }

    /// The solver, with the reason.
    fn solver(&self) -> (&'static str, &'static str) {
        match (&self.path, self.has_kinks) {
            (ProbabilityPath::Discrete { .. }, _) => (
                "{bosh3: {rtol: 1.0e-2, atol: 1.0e-2}}",
                "adaptive steps of low order, since a time index between two whole numbers is interpolated",
            ),
            (_, true) => (
                "{bosh3: {rtol: 1.0e-4, atol: 1.0e-4}}",
                "adaptive steps of low order, since the network has kinks",
            ),
            (_, false) => (
                "{dopri5: {rtol: 1.0e-5, atol: 1.0e-5}}",
                "adaptive steps, since the network is smooth",
            ),
        }
    }

    /// The sampler, with the reason.
    fn sampler(&self) -> (&'static str, &'static str) {
        match self.path {
            ProbabilityPath::FlowMatching { .. } => (
                "{heun: {steps: 16}}",
                "Heun's method, with two evaluations of the network in each step",
            ),
            _ => (
                "{dpmpp-2m: {steps: 18}}",
                "DPM-Solver++ of second order, with one evaluation of the network in each step",
            ),
        }
    }

    /// What the data file holds, in words.
    fn describe_data(&self) -> String {
        let sizes: Vec<String> = self.shape.iter().map(usize::to_string).collect();
        let numbers = match self.levels {
            Some(levels) => format!(
                "whole numbers from 0 to {}, which are scaled to the card's range and get uniform noise",
                levels.saturating_sub(1)
            ),
            None => "floats in the coordinates of the model".to_owned(),
        };
        format!(
            "The samples, an array of shape [number, {}]: {numbers}. A .npy, .npz, .safetensors, .csv, .parquet or IDX file, or a folder of images.",
            sizes.join(", ")
        )
    }
}

/// The lines of a config.
#[derive(Default)]
struct ConfigLines {
    lines: Vec<String>,
}

/// The width at which comments are broken into lines.
const COMMENT_WIDTH: usize = 100;

impl ConfigLines {
    fn blank(&mut self) {
        self.lines.push(String::new());
    }

    /// A comment, broken into lines between words.
    fn comment(&mut self, indent: usize, text: &str) {
        let lead = format!("{}#", " ".repeat(indent));
        let mut line = lead.clone();
        for word in text.split_whitespace() {
            if line.chars().count() + 1 + word.chars().count() > COMMENT_WIDTH && line != lead {
                self.lines.push(std::mem::replace(&mut line, lead.clone()));
            }
            line += &format!(" {word}");
        }
        self.lines.push(line);
    }

    /// A key; without a value its entries follow.
    fn key(&mut self, indent: usize, key: &str, value: &str) {
        let line = format!("{}{key}: {value}", " ".repeat(indent));
        self.lines.push(line.trim_end().to_owned());
    }

    /// An entry of a list with the reason behind it.
    fn item(&mut self, indent: usize, entry: &str, why: &str) {
        self.lines
            .push(format!("{}- {entry}  # {why}", " ".repeat(indent)));
    }

    /// The first key of an entry.
    fn model(&mut self, facts: &ConfigFacts) {
        self.comment(
            2,
            "The model card. Paths are relative to the folder of this file.",
        );
        self.lines
            .push(format!("  - model: {}", yaml_string(&facts.card)));
    }

    fn data(&mut self, facts: &ConfigFacts) {
        self.comment(4, &facts.describe_data());
        if facts.data.is_none() {
            self.comment(
                4,
                "PLACEHOLDER: no file of data was given; write its name here.",
            );
        }
        self.key(4, "data", &facts.data_file());
    }

    fn conditions(&mut self, facts: &ConfigFacts) {
        if facts.conditions.is_empty() {
            return;
        }
        self.comment(4, "The values of the card's conditions: a file with one value for each sample, a number or a list for all, uniform:K or balanced:K for K classes, or null for no condition.");
        self.key(4, "conditions", "");
        for (name, has_null) in &facts.conditions {
            if !has_null {
                self.comment(
                    6,
                    "PLACEHOLDER: the card has no value for «no condition»; write a value here.",
                );
            }
            let value = if *has_null { "null" } else { PLACEHOLDER };
            self.key(6, &yaml_string(name), value);
        }
    }

    fn text(&self) -> String {
        self.lines.join("\n") + "\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> ConfigFacts {
        ConfigFacts {
            name: "m".to_owned(),
            card: "card.yaml".to_owned(),
            data: None,
            shape: vec![3, 32, 32],
            levels: Some(256),
            trace_terms: Some(3072),
            has_kinks: false,
            is_one_call: false,
            has_closed_form: false,
            heads: Vec::new(),
            conditions: vec![("label".to_owned(), true), ("text".to_owned(), false)],
            path: ProbabilityPath::FlowMatching {
                data_at: 0,
                t_min: 0.0,
                t_max: 1.0,
            },
        }
    }

    #[test]
    fn what_is_not_known_is_marked() {
        let text = draft_config(&facts());
        assert!(text.contains("\n# REPLACE every PLACEHOLDER.npy"), "{text}");
        assert!(text.contains("    data: PLACEHOLDER.npy\n"), "{text}");
        assert!(text.contains("      text: PLACEHOLDER.npy\n"), "{text}");
        assert!(text.contains("      label: null\n"), "{text}");
        let known = ConfigFacts {
            data: Some(("x.npy".to_owned(), 40)),
            conditions: Vec::new(),
            ..facts()
        };
        let text = draft_config(&known);
        assert!(!text.contains("PLACEHOLDER"), "{text}");
        assert!(text.contains("    samples: 40\n"), "{text}");
    }

    #[test]
    fn the_estimator_follows_the_dimension() {
        let of = |trace_terms| {
            let facts = ConfigFacts {
                trace_terms,
                ..facts()
            };
            facts.estimators()[0].0.clone()
        };
        assert_eq!(of(Some(64)), "exact");
        assert_eq!(of(Some(65)), "{hutchinson: {probes: 8, along: fresh}}");
        assert_eq!(of(None), "{finite-difference: {probes: 8}}");
    }

    #[test]
    fn every_key_has_a_comment() {
        let text = draft_config(&facts());
        let lines: Vec<&str> = text.lines().collect();
        for (i, line) in lines.iter().enumerate() {
            let bare = line.trim_start();
            let is_key = !bare.starts_with('#') && !bare.is_empty() && !bare.starts_with("- {");
            if is_key && !line.contains('#') && !line.starts_with("      ") {
                assert!(lines[i - 1].trim_start().starts_with('#'), "{line}");
            }
            assert!(line.chars().count() <= 110, "{line}");
        }
    }
}
