//! `flowgauge list`: every kind with what it is, when to use it, its source and its parameters. The
//! parameters are read from the JSON schemas of the types, so that they cannot differ from what is
//! accepted.

use anyhow::{Result, bail};
use clap::Args;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value as Json;

use super::Exit;
use super::console::{Answer, JsonArgs};
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
use crate::registry::{Described, normalize_name};
use crate::sample::Sampler;
use crate::solve::Solver;
use crate::solve::adaptive::Controller;
use crate::stein::SteinTest;
use crate::yaml;
use crate::yaml::schema_type::{AliasedName, ObjectKeys, SchemaForm, SchemaType};

/// The examples of the help.
const EXAMPLES: &str = "\
Examples:
  flowgauge list
  flowgauge list samplers
  flowgauge list hutchinson --json";

/// The arguments of `flowgauge list`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct ListArgs {
    /// A family, such as `samplers`, or the name of a kind, such as `hutchinson` [default: everything]
    name: Option<String>,
    #[command(flatten)]
    json: JsonArgs,
}

/// The kinds that stand at one place of a config, a card or a command line.
#[derive(Debug, Serialize)]
struct KindFamily {
    /// The word by which users choose the family.
    family: &'static str,
    #[serde(skip)]
    title: &'static str,
    kinds: Vec<ListedKind>,
}

/// A kind, or a key of a family without kinds.
#[derive(Debug, Serialize)]
struct ListedKind {
    name: String,
    aliases: Vec<String>,
    what: String,
    when: String,
    source: String,
    parameters: Vec<ListedParameter>,
    /// The parameters in the words of a line.
    #[serde(skip)]
    summary: String,
}

/// A parameter of a kind.
#[derive(Debug, Serialize)]
struct ListedParameter {
    name: String,
    /// The default; null if the parameter is unset or required.
    default: Json,
    required: bool,
    /// The words that it may be, or the kinds of its family; empty for numbers and texts.
    choices: Vec<String>,
    what: String,
}

impl ListArgs {
    /// Prints the kinds of every family, of one family, or those of one name.
    ///
    /// # Errors
    /// Fails if nothing has the name.
    pub(super) fn execute(self) -> Result<Exit> {
        let mut families = all_families();
        let mut is_full = false;
        if let Some(name) = &self.name {
            let wanted = normalize_name(name);
            let is_family = |family: &KindFamily| {
                [family.family, family.family.trim_end_matches('s')].contains(&wanted.as_str())
            };
            if families.iter().any(is_family) {
                families.retain(is_family);
            } else {
                is_full = true;
                let known = known_names(&families);
                for family in &mut families {
                    family.kinds.retain(|kind| kind.is_called(&wanted));
                }
                families.retain(|family| !family.kinds.is_empty());
                if families.is_empty() {
                    bail!("{}", unknown_name(name, &known));
                }
            }
        }
        let kinds: usize = families.iter().map(|family| family.kinds.len()).sum();
        let line = match (&self.name, families.len()) {
            (Some(name), 1) if is_full => {
                format!("{name}: one of the {}", families[0].title)
            }
            (_, 1) => format!("{kinds} {}", families[0].title),
            (_, count) => format!("{kinds} kinds in {count} families"),
        };
        let mut answer = Answer::new("list", line);
        for family in &families {
            answer.heading(family.title);
            for kind in &family.kinds {
                kind.describe(is_full)
                    .into_iter()
                    .for_each(|line| answer.say(line));
            }
        }
        answer.set("families", &families);
        Ok(answer.show(self.json, None, Exit::Success))
    }
}

/// Every name that the command takes.
fn known_names(families: &[KindFamily]) -> Vec<String> {
    let kinds = families.iter().flat_map(|family| &family.kinds);
    let families = families.iter().map(|family| family.family.to_owned());
    families
        .chain(kinds.map(|kind| kind.name.clone()))
        .collect()
}

/// The message for a name that nothing has.
fn unknown_name(name: &str, known: &[String]) -> String {
    let near = known
        .iter()
        .map(|other| (strsim::damerau_levenshtein(name, other), other))
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, other)| *distance <= other.len() / 3);
    match near {
        Some((_, other)) => format!("list {name}: no kind has this name; `{other}` is near"),
        None => format!(
            "list {name}: no kind has this name; expected a family or a kind that `flowgauge list` shows"
        ),
    }
}

/// Every family, in the order of the list.
fn all_families() -> Vec<KindFamily> {
    vec![
        family::<DivergenceEstimator>("estimators", "estimators"),
        family::<Solver>("solvers", "solvers"),
        family::<Controller>("controllers", "controllers of adaptive solvers"),
        family::<GridSpacing>("grids", "grids and schedules"),
        family::<Sampler>("samplers", "samplers"),
        family::<Metric>("metrics", "metrics"),
        family::<CalibrationTest>("calibration-tests", "calibration tests"),
        family::<Dequantization>("dequantizations", "dequantizations"),
        conventions(),
        keys::<SteinTest>("stein-tests", "keys of stein tests"),
        keys::<ErrorBudgetSetting>("budgets", "keys of budgets"),
        keys::<DensityGrid>("densities", "keys of densities over the plane"),
        family::<Prediction>("predictions", "predictions"),
        family::<Preconditioning>("preconditionings", "preconditionings"),
        keys::<TimeInputSpec>("time-feeds", "keys of time feeds"),
        family::<ProbabilityPath>("paths", "paths"),
        family::<Betas>("betas", "betas of discrete paths"),
        keys::<DivergenceHeadSpec>("divergence-heads", "keys of divergence heads"),
    ]
}

/// The kinds of a type.
fn family<T: JsonSchema + Described>(family: &'static str, title: &'static str) -> KindFamily {
    let schema = yaml::schema_with_aliases::<T>();
    let mut kinds = listed_kinds(&schema, &schema);
    let descriptions = T::descriptions();
    for kind in &mut kinds {
        if let Some(found) = descriptions.iter().find(|d| d.name == kind.name) {
            kind.what = found.what.to_owned();
            kind.when = found.when.to_owned();
            kind.source = found.source.to_owned();
        }
    }
    KindFamily {
        family,
        title,
        kinds,
    }
}

/// The keys of a type without kinds.
fn keys<T: JsonSchema>(family: &'static str, title: &'static str) -> KindFamily {
    let schema = yaml::schema_with_aliases::<T>();
    KindFamily {
        family,
        title,
        kinds: listed_kinds(&schema, &schema),
    }
}

/// The conventions of log-likelihoods.
fn conventions() -> KindFamily {
    let kinds = convention::CONVENTIONS.iter().map(|c| ListedKind {
        name: c.name.to_owned(),
        aliases: Vec::new(),
        what: format!("{}: {}.", c.unit, c.formula),
        when: match c.protocol {
            "" => format!("To print {}.", c.unit),
            protocol => format!("To compare with that program, which takes {protocol}."),
        },
        source: c.source.to_owned(),
        parameters: Vec::new(),
        summary: String::new(),
    });
    KindFamily {
        family: "conventions",
        title: "conventions",
        kinds: kinds.collect(),
    }
}

impl ListedKind {
    /// Whether the kind has this name, in the form in which names are compared.
    fn is_called(&self, wanted: &str) -> bool {
        std::iter::once(&self.name)
            .chain(&self.aliases)
            .any(|name| normalize_name(name.trim_end_matches(':')) == wanted)
    }

    /// The lines of the kind; with `is_full` one line for each parameter.
    fn describe(&self, is_full: bool) -> Vec<String> {
        let also = match self.aliases.is_empty() {
            true => String::new(),
            false => format!("also {}", self.aliases.join(", ")),
        };
        let summary = if is_full { "" } else { &self.summary };
        let rest: Vec<&str> = [summary, &also]
            .into_iter()
            .filter(|part| !part.is_empty())
            .collect();
        let first = format!("  {:<18} {}", self.name, rest.join("; "));
        let mut lines = vec![first.trim_end().to_owned()];
        for (label, text) in [
            ("", &self.what),
            ("use: ", &self.when),
            ("source: ", &self.source),
        ] {
            if !text.is_empty() {
                lines.push(format!("      {label}{text}"));
            }
        }
        for parameter in self.parameters.iter().filter(|_| is_full) {
            let default = match (&parameter.default, parameter.required) {
                (_, true) => "required".to_owned(),
                (Json::Null, _) => "unset".to_owned(),
                (value, _) => describe_default(value),
            };
            let choices = match parameter.choices.is_empty() {
                true => String::new(),
                false => format!(" ({})", parameter.choices.join(" | ")),
            };
            lines.push(format!("    {}: {default}{choices}", parameter.name));
            if !parameter.what.is_empty() {
                lines.push(format!("        {}", parameter.what));
            }
        }
        lines
    }
}

/// Each kind, or each key if the type has no kinds.
fn listed_kinds(root: &Json, schema: &Json) -> Vec<ListedKind> {
    match SchemaType::from_schema(root, schema).form {
        SchemaForm::Family(kinds) => (kinds.iter())
            .map(|k| listed_kind(root, k.parameters, None, &k.name))
            .collect(),
        SchemaForm::Tagged { tag, kinds } => (kinds.iter())
            .map(|k| listed_kind(root, k.parameters, Some(tag), &k.name))
            .collect(),
        SchemaForm::Choice(names) => names
            .iter()
            .map(|name| listed_kind(root, None, None, name))
            .collect(),
        SchemaForm::Object(keys) => (keys.known.iter())
            .map(|(key, schema)| ListedKind {
                name: format!("{key}:"),
                aliases: Vec::new(),
                what: first_line(schema),
                when: String::new(),
                source: String::new(),
                parameters: Vec::new(),
                summary: describe_parameter(root, key, schema, &keys)
                    .split_once(": ")
                    .map(|(_, rest)| rest.to_owned())
                    .unwrap_or_default(),
            })
            .collect(),
        SchemaForm::AnyOf(schemas) => schemas.iter().flat_map(|s| listed_kinds(root, s)).collect(),
        _ => vec![ListedKind {
            name: SchemaType::from_schema(root, schema).describe(root),
            aliases: Vec::new(),
            what: first_line(schema),
            when: String::new(),
            source: String::new(),
            parameters: Vec::new(),
            summary: String::new(),
        }],
    }
}

/// A kind with its parameters. `tag` is the key that names the kind; it is no parameter.
fn listed_kind(
    root: &Json,
    parameters: Option<&Json>,
    tag: Option<&str>,
    name: &AliasedName,
) -> ListedKind {
    let (mut listed, mut summary) = (Vec::new(), String::new());
    match parameters.map(|p| (p, SchemaType::from_schema(root, p).form)) {
        Some((_, SchemaForm::Object(keys))) => {
            let known = keys.known.iter().filter(|(key, _)| Some(*key) != tag);
            let mut texts = Vec::new();
            for (key, schema) in known {
                texts.push(describe_parameter(root, key, schema, &keys));
                let default = match schema.get("default") {
                    None if schema["type"] == "boolean" => Json::Bool(false),
                    default => default.cloned().unwrap_or(Json::Null),
                };
                listed.push(ListedParameter {
                    name: (*key).to_owned(),
                    default,
                    required: is_required(key, schema, &keys),
                    choices: choice_names(&SchemaType::from_schema(root, schema)),
                    what: first_line(schema),
                });
            }
            summary = texts.join(", ");
        }
        Some((schema, _)) => summary = SchemaType::from_schema(root, schema).describe(root),
        None => {}
    }
    ListedKind {
        name: name.name.to_owned(),
        aliases: other_names(name),
        what: String::new(),
        when: String::new(),
        source: String::new(),
        parameters: listed,
        summary,
    }
}

/// The description of a schema on one line.
fn first_line(schema: &Json) -> String {
    let text = schema.get("description").and_then(Json::as_str);
    let text = text.unwrap_or_default();
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ")
}

/// The aliases of a name, without those that differ only in case, `_` or spaces.
fn other_names(name: &AliasedName) -> Vec<String> {
    let mut seen = vec![normalize_name(name.name)];
    let mut others = Vec::new();
    for alias in &name.aliases {
        let plain = normalize_name(alias);
        if !seen.contains(&plain) {
            others.push((*alias).to_owned());
            seen.push(plain);
        }
    }
    others
}

fn is_required(key: &str, schema: &Json, keys: &ObjectKeys) -> bool {
    let default = schema.get("default");
    default.is_none_or(Json::is_null) && keys.required.contains(&key)
}

/// A default in the words of YAML.
fn describe_default(value: &Json) -> String {
    match value {
        Json::String(text) => text.clone(),
        other => other
            .to_string()
            .replace('"', "")
            .replace(',', ", ")
            .replace(':', ": "),
    }
}

/// One parameter with its default and its choices, such as
/// `distribution: rademacher (rademacher | gaussian | sphere)`.
fn describe_parameter(root: &Json, key: &str, schema: &Json, keys: &ObjectKeys) -> String {
    let shape = SchemaType::from_schema(root, schema);
    let default = match schema.get("default") {
        _ if is_required(key, schema, keys) => "required".to_owned(),
        None if matches!(shape.form, SchemaForm::Bool) && schema["type"] == "boolean" => {
            "false".to_owned()
        }
        Some(Json::Null) | None => "unset".to_owned(),
        Some(value) => describe_default(value),
    };
    match describe_choices(root, &shape) {
        Some(choices) => format!("{key}: {default} ({choices})"),
        None => format!("{key}: {default}"),
    }
}

/// The words of a choice, or the names of a family; empty for other types.
fn choice_names(shape: &SchemaType) -> Vec<String> {
    match &shape.form {
        SchemaForm::Choice(names) => names.iter().map(|n| n.name.to_owned()).collect(),
        SchemaForm::Family(kinds) => kinds.iter().map(|k| k.name.name.to_owned()).collect(),
        _ => Vec::new(),
    }
}

/// The choices of a parameter, or the keys of a nested one; `None` if it is a number or a text.
fn describe_choices<'a>(root: &'a Json, shape: &SchemaType<'a>) -> Option<String> {
    if let SchemaForm::Object(keys) = &shape.form {
        let inner = keys
            .known
            .iter()
            .map(|(key, schema)| describe_parameter(root, key, schema, keys));
        return Some(format!("{{{}}}", inner.collect::<Vec<_>>().join(", ")));
    }
    let names = choice_names(shape);
    (!names.is_empty()).then(|| names.join(" | "))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Families that are keys of an object have the descriptions of their schema, and need no source.
    const KEYS: [&str; 5] = [
        "stein-tests",
        "budgets",
        "densities",
        "time-feeds",
        "divergence-heads",
    ];

    #[test]
    fn every_kind_says_what_it_is_and_when_to_use_it() {
        for family in all_families() {
            for kind in &family.kinds {
                let place = format!("{} {}", family.family, kind.name);
                if KEYS.contains(&family.family) {
                    continue;
                }
                for (what, text) in [("what", &kind.what), ("when", &kind.when)] {
                    assert!(text.ends_with('.'), "{place}: {what}: {text:?}");
                }
            }
        }
    }

    #[test]
    fn every_description_is_of_a_kind_that_exists() {
        fn check<T: JsonSchema + Described>() {
            let listed = family::<T>("", "").kinds;
            let listed: Vec<&str> = listed.iter().map(|kind| kind.name.as_str()).collect();
            let described: Vec<&str> = T::descriptions().iter().map(|d| d.name).collect();
            assert_eq!(listed, described);
        }
        check::<DivergenceEstimator>();
        check::<Solver>();
        check::<Controller>();
        check::<GridSpacing>();
        check::<Sampler>();
        check::<Metric>();
        check::<CalibrationTest>();
        check::<Dequantization>();
        check::<Prediction>();
        check::<Preconditioning>();
        check::<ProbabilityPath>();
        check::<Betas>();
    }

    /// A source names its year, and an arXiv number or a DOI has its form.
    #[test]
    fn sources_are_well_formed() {
        for family in all_families()
            .iter()
            .filter(|family| family.family != "conventions")
        {
            for kind in &family.kinds {
                for source in kind.source.split("; ").filter(|source| !source.is_empty()) {
                    let place = format!("{} {}: {source}", family.family, kind.name);
                    let has_year = source.split([' ', ',']).any(|word| {
                        word.len() == 4 && (1900..2100).contains(&word.parse().unwrap_or(0))
                    });
                    assert!(has_year, "{place}");
                    if let Some((_, number)) = source.split_once("arXiv:") {
                        let (month, rest) = number.split_once('.').expect("a dot");
                        let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
                        assert!(digits(month) && month.len() == 4, "{place}");
                        assert!(digits(rest) && rest.len() == 5, "{place}");
                    }
                    if let Some((_, doi)) = source.split_once("doi:") {
                        assert!(doi.starts_with("10.") && doi.contains('/'), "{place}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_misspelt_name_is_near_one_that_exists() {
        let known = known_names(&all_families());
        assert!(unknown_name("hutchinsen", &known).contains("`hutchinson` is near"));
        assert!(unknown_name("nothing at all", &known).contains("expected a family"));
    }
}
