//! `flowgauge list`: every kind with its parameters. The list is read from the JSON schemas of the
//! types, so that it cannot differ from what is accepted.

use anyhow::Result;
use clap::Args;
use schemars::JsonSchema;
use serde_json::Value as Json;

use super::Exit;
use crate::calibration::CalibrationTest;
use crate::config::{DensityGrid, ErrorBudgetSetting};
use crate::convention;
use crate::dequantization::Dequantization;
use crate::divergence::DivergenceEstimator;
use crate::flow::grid::GridSpacing;
use crate::flow::path::{Betas, ProbabilityPath};
use crate::flow::preconditioning::Preconditioning;
use crate::flow::prediction::Prediction;
use crate::metric::Metric;
use crate::model::card::{DivergenceHeadSpec, TimeInputSpec};
use crate::sample::Sampler;
use crate::solve::Solver;
use crate::solve::adaptive::Controller;
use crate::stein::SteinTest;
use crate::yaml;
use crate::yaml::schema_type::{AliasedName, ObjectKeys, SchemaForm, SchemaType};

/// The arguments of `flowgauge list`: none.
#[derive(Debug, Args)]
pub(super) struct ListArgs {}

impl ListArgs {
    /// Prints the kinds of every family.
    ///
    /// # Errors
    /// Never fails.
    pub(super) fn execute(self) -> Result<Exit> {
        print_kinds::<DivergenceEstimator>("estimators");
        print_kinds::<Solver>("solvers");
        print_kinds::<Controller>("controllers of adaptive solvers");
        print_kinds::<GridSpacing>("grids and schedules");
        print_kinds::<Sampler>("samplers");
        print_kinds::<Metric>("metrics");
        print_kinds::<CalibrationTest>("calibration tests");
        print_kinds::<Dequantization>("dequantizations");
        outln!("conventions");
        convention::CONVENTIONS
            .iter()
            .for_each(|c| outln!("  {:<18} {}: {}", c.name, c.unit, c.formula));
        print_kinds::<SteinTest>("stein tests");
        print_kinds::<ErrorBudgetSetting>("budgets");
        print_kinds::<DensityGrid>("densities over the plane");
        print_kinds::<Prediction>("predictions");
        print_kinds::<Preconditioning>("preconditionings");
        print_kinds::<TimeInputSpec>("time feeds");
        print_kinds::<ProbabilityPath>("paths");
        print_kinds::<Betas>("betas of discrete paths");
        print_kinds::<DivergenceHeadSpec>("divergence heads");
        Ok(Exit::Success)
    }
}

/// Prints a title and one line for each kind of a type: its name, its parameters with their
/// defaults and choices, and its aliases.
fn print_kinds<T: JsonSchema>(title: &str) {
    outln!("{title}");
    let schema = yaml::schema_with_aliases::<T>();
    for (name, parameters) in kind_lines(&schema, &schema) {
        outln!("{}", format!("  {name:<18} {parameters}").trim_end());
    }
}

/// Name and description of each kind, or of each key if the type has no kinds.
fn kind_lines(root: &Json, schema: &Json) -> Vec<(String, String)> {
    match SchemaType::from_schema(root, schema).form {
        SchemaForm::Family(kinds) => (kinds.iter())
            .map(|k| {
                (
                    k.name.name.to_owned(),
                    parameters_and_aliases(root, k.parameters, None, &k.name),
                )
            })
            .collect(),
        SchemaForm::Tagged { tag, kinds } => (kinds.iter())
            .map(|k| {
                (
                    k.name.name.to_owned(),
                    parameters_and_aliases(root, k.parameters, Some(tag), &k.name),
                )
            })
            .collect(),
        SchemaForm::Choice(names) => names
            .iter()
            .map(|n| (n.name.to_owned(), other_names(n)))
            .collect(),
        SchemaForm::Object(keys) => (keys.known.iter())
            .map(|(key, schema)| {
                let text = describe_parameter(root, key, schema, &keys);
                (
                    format!("{key}:"),
                    text.split_once(": ")
                        .map_or(text.clone(), |(_, rest)| rest.to_owned()),
                )
            })
            .collect(),
        SchemaForm::AnyOf(schemas) => schemas.iter().flat_map(|s| kind_lines(root, s)).collect(),
        _ => vec![(
            SchemaType::from_schema(root, schema).describe(root),
            String::new(),
        )],
    }
}

/// The parameters and the aliases of a kind. `tag` is the key that names the kind; it is no
/// parameter.
fn parameters_and_aliases(
    root: &Json,
    parameters: Option<&Json>,
    tag: Option<&str>,
    name: &AliasedName,
) -> String {
    let shown = match parameters.map(|p| (p, SchemaType::from_schema(root, p).form)) {
        Some((_, SchemaForm::Object(keys))) => {
            let known = keys.known.iter().filter(|(key, _)| Some(*key) != tag);
            known
                .map(|(key, schema)| describe_parameter(root, key, schema, &keys))
                .collect::<Vec<_>>()
                .join(", ")
        }
        Some((schema, _)) => SchemaType::from_schema(root, schema).describe(root),
        None => String::new(),
    };
    [shown, other_names(name)]
        .into_iter()
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join("; ")
}

/// `also fid`: the aliases of a name, without those that differ only in case, `_` or spaces.
fn other_names(name: &AliasedName) -> String {
    let mut seen = vec![crate::registry::normalize_name(name.name)];
    let mut others = Vec::new();
    for alias in &name.aliases {
        let plain = crate::registry::normalize_name(alias);
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

/// One parameter with its default and its choices, such as
/// `distribution: rademacher (rademacher | gaussian | sphere)`.
fn describe_parameter(root: &Json, key: &str, schema: &Json, keys: &ObjectKeys) -> String {
    let shape = SchemaType::from_schema(root, schema);
    let default = match schema.get("default") {
        Some(Json::Null) | None if keys.required.contains(&key) => "required".to_owned(),
        None if matches!(shape.form, SchemaForm::Bool) && schema["type"] == "boolean" => {
            "false".to_owned()
        }
        Some(Json::Null) | None => "unset".to_owned(),
        Some(Json::String(text)) => text.clone(),
        Some(other) => other
            .to_string()
            .replace('"', "")
            .replace(',', ", ")
            .replace(':', ": "),
    };
    match describe_choices(root, &shape) {
        Some(choices) => format!("{key}: {default} ({choices})"),
        None => format!("{key}: {default}"),
    }
}

/// The choices of a parameter, or the keys of a nested one; `None` if it is a number or a text.
fn describe_choices<'a>(root: &'a Json, shape: &SchemaType<'a>) -> Option<String> {
    let names: Vec<&str> = match &shape.form {
        SchemaForm::Choice(names) => names.iter().map(|n| n.name).collect(),
        SchemaForm::Family(kinds) => kinds.iter().map(|k| k.name.name).collect(),
        SchemaForm::Object(keys) => {
            let inner = keys
                .known
                .iter()
                .map(|(key, schema)| describe_parameter(root, key, schema, keys));
            return Some(format!("{{{}}}", inner.collect::<Vec<_>>().join(", ")));
        }
        _ => return None,
    };
    Some(names.join(" | "))
}
