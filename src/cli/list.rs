//! `flowgauge list`: every kind with its parameters, read from the schemas of the types themselves.

use anyhow::Result;
use clap::Args;
use schemars::JsonSchema;
use serde_json::Value as Json;

use super::Exit;
use crate::config::{Budgeting, DensityGrid};
use crate::convention;
use crate::dequantization::Dequantization;
use crate::divergence::Divergence;
use crate::flow::grid::Spacing;
use crate::flow::path::{Betas, Path};
use crate::flow::preconditioning::Preconditioning;
use crate::flow::prediction::Prediction;
use crate::metric::Metric;
use crate::model::card::{Head, TimeFeed};
use crate::sample::Sampler;
use crate::solve::Solver;
use crate::solve::adaptive::Controller;
use crate::stein::Stein;
use crate::yaml;
use crate::yaml::form::{Form, Keys, Name, Shape};

#[derive(Debug, Args)]
pub struct List {}

impl List {
    pub fn execute(self) -> Result<Exit> {
        section::<Divergence>("estimators");
        section::<Solver>("solvers");
        section::<Controller>("controllers of adaptive solvers");
        section::<Spacing>("grids and schedules");
        section::<Sampler>("samplers");
        section::<Metric>("metrics");
        section::<Dequantization>("dequantizations");
        say!("conventions");
        convention::ALL
            .iter()
            .for_each(|c| say!("  {:<18} {}: {}", c.name, c.unit, c.formula));
        section::<Stein>("stein tests");
        section::<Budgeting>("budgets");
        section::<DensityGrid>("densities over the plane");
        section::<Prediction>("predictions");
        section::<Preconditioning>("preconditionings");
        section::<TimeFeed>("time feeds");
        section::<Path>("paths");
        section::<Betas>("betas of discrete paths");
        section::<Head>("divergence heads");
        Ok(Exit::Well)
    }
}

/// Each kind of a type on a line: its parameters with their defaults, what they may be, and its other names.
fn section<T: JsonSchema>(title: &str) {
    say!("{title}");
    let schema = yaml::schema::<T>();
    for (name, parameters) in lines(&schema, &schema) {
        say!("{}", format!("  {name:<18} {parameters}").trim_end());
    }
}

/// Names and what stands beside them.
fn lines(root: &Json, schema: &Json) -> Vec<(String, String)> {
    match Shape::of(root, schema).form {
        Form::Kinds(kinds) => (kinds.iter())
            .map(|k| {
                (
                    k.name.name.to_owned(),
                    beside(root, k.parameters, None, &k.name),
                )
            })
            .collect(),
        Form::Tagged { tag, kinds } => (kinds.iter())
            .map(|k| {
                (
                    k.name.name.to_owned(),
                    beside(root, k.parameters, Some(tag), &k.name),
                )
            })
            .collect(),
        Form::Word(names) => names
            .iter()
            .map(|n| (n.name.to_owned(), other_names(n)))
            .collect(),
        Form::Keys(keys) => (keys.known.iter())
            .map(|(key, schema)| {
                let text = parameter(root, key, schema, &keys);
                (
                    format!("{key}:"),
                    text.split_once(": ")
                        .map_or(text.clone(), |(_, rest)| rest.to_owned()),
                )
            })
            .collect(),
        Form::Either(schemas) => schemas.iter().flat_map(|s| lines(root, s)).collect(),
        _ => vec![(Shape::of(root, schema).words(root), String::new())],
    }
}

/// A kind's parameters and its other names.
fn beside(root: &Json, parameters: Option<&Json>, tag: Option<&str>, name: &Name) -> String {
    let shown = match parameters.map(|p| (p, Shape::of(root, p).form)) {
        Some((_, Form::Keys(keys))) => {
            let known = keys.known.iter().filter(|(key, _)| Some(*key) != tag);
            known
                .map(|(key, schema)| parameter(root, key, schema, &keys))
                .collect::<Vec<_>>()
                .join(", ")
        }
        Some((schema, _)) => Shape::of(root, schema).words(root),
        None => String::new(),
    };
    [shown, other_names(name)]
        .into_iter()
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join("; ")
}

/// Names that are not spellings of one another.
fn other_names(name: &Name) -> String {
    let mut seen = vec![crate::registry::plain(name.name)];
    let mut others = Vec::new();
    for alias in &name.aliases {
        let plain = crate::registry::plain(alias);
        if !seen.contains(&plain) {
            others.push(*alias);
            seen.push(plain);
        }
    }
    if others.is_empty() {
        String::new()
    } else {
        format!("also {}", others.join(", "))
    }
}

/// `distribution: rademacher (rademacher | gaussian | sphere)`.
fn parameter(root: &Json, key: &str, schema: &Json, keys: &Keys) -> String {
    let shape = Shape::of(root, schema);
    let default = match schema.get("default") {
        Some(Json::Null) | None if keys.required.contains(&key) => "required".to_owned(),
        None if matches!(shape.form, Form::Flag) => "false".to_owned(),
        Some(Json::Null) | None => "unset".to_owned(),
        Some(Json::String(text)) => text.clone(),
        Some(other) => other
            .to_string()
            .replace('"', "")
            .replace(',', ", ")
            .replace(':', ": "),
    };
    match choices(root, &shape) {
        Some(choices) => format!("{key}: {default} ({choices})"),
        None => format!("{key}: {default}"),
    }
}

/// What a parameter may be, where that is a short list.
fn choices<'a>(root: &'a Json, shape: &Shape<'a>) -> Option<String> {
    let names: Vec<&str> = match &shape.form {
        Form::Word(names) => names.iter().map(|n| n.name).collect(),
        Form::Kinds(kinds) => kinds.iter().map(|k| k.name.name).collect(),
        Form::Keys(keys) => {
            let inner = keys
                .known
                .iter()
                .map(|(key, schema)| parameter(root, key, schema, keys));
            return Some(format!("{{{}}}", inner.collect::<Vec<_>>().join(", ")));
        }
        _ => return None,
    };
    Some(names.join(" | "))
}
