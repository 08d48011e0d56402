//! The claims file: published numbers, and the rows of a run that they are compared with.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::divergence::DivergenceEstimator;
use crate::metric::Metric;
use crate::model::card::check_plain_name;
use crate::sample::Sampler;
use crate::signature::{self, ExpectedFile};
use crate::solve::Solver;
use crate::yaml::{self, Document, Fault};

/// A claims file, `claims.yaml`: published numbers with tolerances, to compare with the tables of a
/// run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Claims {
    /// The confidence level of the intervals of measured values, above 0 and below 1. The default
    /// is 0.95.
    #[serde(default = "default_confidence")]
    pub confidence: f64,
    /// The claims, at least one.
    pub claims: Vec<Claim>,
}

fn default_confidence() -> f64 {
    0.95
}

/// One published number: either `value` with `tolerance`, or one or both of the bounds `at-least`
/// and `at-most`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Claim {
    /// The claim's name in the verdicts. The default is its position in the file, such as
    /// `claims.0`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Where the number was published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// The table of the run that contains the measured value, such as `summary`, `metrics` or
    /// `pairs`.
    pub table: String,
    /// Columns of the table with the values that identify the row. Exactly one row must match.
    #[serde(default, rename = "where")]
    pub row_filter: BTreeMap<String, ExpectedCell>,
    /// The column that contains the measured value.
    pub column: String,
    /// The column with the standard error of the measured value, or `none` to decide by the value
    /// alone. The default is `<column>_stderr`, or `stderr` for the columns `value`,
    /// `log_likelihood` and `mean`. If there is no such column, the value alone decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stderr: Option<String>,
    /// The published value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<f64>,
    /// How far the measured value may lie from `value`, on either side, at least 0. Required with
    /// `value`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tolerance: Option<f64>,
    /// The published lower bound of the value.
    #[serde(default, rename = "at-least", skip_serializing_if = "Option::is_none")]
    pub at_least: Option<f64>,
    /// The published upper bound of the value.
    #[serde(default, rename = "at-most", skip_serializing_if = "Option::is_none")]
    pub at_most: Option<f64>,
    /// How far the measured value may lie beyond a bound, at least 0. The default is 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub margin: Option<f64>,
    /// The confidence level for this claim. The default is the level of the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confidence: Option<f64>,
}

/// The expected value of a cell: a number, a text, true or false. Numbers are compared as numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "expected a number, a text, true or false")]
pub(crate) enum ExpectedCell {
    Flag(bool),
    Number(f64),
    Text(String),
}

impl std::fmt::Display for ExpectedCell {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            ExpectedCell::Flag(flag) => write!(f, "{flag}"),
            ExpectedCell::Number(number) => write!(f, "{number}"),
            ExpectedCell::Text(text) => write!(f, "{text}"),
        }
    }
}

impl ExpectedCell {
    /// Replaces any accepted spelling of a kind by the label that tables contain.
    fn normalize_label(&mut self, column: &str) {
        let ExpectedCell::Text(text) = self else {
            return;
        };
        let label = match column {
            "estimator" | "reference" => {
                yaml::from_yaml_str::<DivergenceEstimator>(text).map(|e| e.label())
            }
            "solver" | "reference_solver" => yaml::from_yaml_str::<Solver>(text).map(|s| s.label()),
            "sampler" | "baseline" => yaml::from_yaml_str::<Sampler>(text).map(|s| s.label()),
            "metric" => yaml::from_yaml_str::<Metric>(text).map(|m| m.name().to_owned()),
            _ => return,
        };
        if let Ok(label) = label {
            *text = label;
        }
    }

    /// Whether a cell with this text has the expected value.
    pub(crate) fn matches(&self, text: &str) -> bool {
        match self {
            ExpectedCell::Flag(flag) => text == flag.to_string(),
            ExpectedCell::Number(number) => text.parse() == Ok(*number),
            ExpectedCell::Text(wanted) => text == wanted,
        }
    }
}

impl Claims {
    /// Reads a claims file.
    ///
    /// # Errors
    /// Fails if the file cannot be read or is not a valid claims file. The message names the file,
    /// and the line and key of every fault.
    pub(crate) fn read(path: &Path) -> Result<Claims> {
        let name = path.display();
        let text = signature::read_yaml_text(path, ExpectedFile::Claims)
            .map_err(|e| anyhow!("{name}: {e}"))?;
        Claims::parse(&text).with_context(|| name.to_string())
    }

    /// Parses the text of a claims file.
    fn parse(text: &str) -> Result<Claims> {
        let mut document = Document::parse(text)?;
        if document.root.get("claims").is_none()
            && let Some(key) = ["network", "likelihood", "samples"]
                .iter()
                .find(|k| document.root.get(k).is_some())
        {
            bail!(
                "a file with `{key}` is no file of claims; \
                 expected `claims:` with published numbers"
            );
        }
        let (claims, mut faults) = document.read_partly::<Claims>();
        let Some(mut claims) = claims else {
            return Err(document.report_faults(faults).into());
        };
        let found = claims.check();
        faults = document.locate(faults);
        faults.extend(
            found
                .into_iter()
                .filter(|f| faults.is_empty() || !f.key.is_empty())
                .collect::<Vec<_>>(),
        );
        if !faults.is_empty() {
            return Err(document.report_faults(faults).into());
        }
        for (column, cell) in claims
            .claims
            .iter_mut()
            .flat_map(|claim| &mut claim.row_filter)
        {
            cell.normalize_label(column);
        }
        Ok(claims)
    }

    /// Every fault of the file that its schema does not express.
    fn check(&self) -> Vec<Fault> {
        if self.claims.is_empty() {
            return vec![Fault::new(
                "claims",
                "the list is empty; expected at least one claim",
            )];
        }
        let sound = |c: f64| c > 0.0 && c < 1.0;
        let unsound = |c: f64| format!("{c}, expected a number above 0 and below 1");
        let mut found = Vec::new();
        if !sound(self.confidence) {
            found.push(Fault::new("confidence", unsound(self.confidence)));
        }
        let mut names = BTreeSet::new();
        for (i, claim) in self.claims.iter().enumerate() {
            let at = |key: &str| format!("claims.{i}.{key}");
            found.extend(
                claim
                    .check()
                    .map(|(key, message)| Fault::new(at(key), message)),
            );
            if let Some(confidence) = claim.confidence.filter(|c| !sound(*c)) {
                found.push(Fault::new(at("confidence"), unsound(confidence)));
            }
            if claim.name.as_ref().is_some_and(|name| !names.insert(name)) {
                found.push(Fault::new(
                    at("name"),
                    "another claim has the same name; expected a unique name",
                ));
            }
        }
        found
    }
}

impl Claim {
    /// The claimed interval, which includes its ends. The whole confidence interval must lie inside
    /// it.
    pub(crate) fn claimed_interval(&self) -> [f64; 2] {
        let (tolerance, margin) = (self.tolerance.unwrap_or(0.0), self.margin.unwrap_or(0.0));
        match self.value {
            Some(value) => [value - tolerance, value + tolerance],
            None => [
                self.at_least.map_or(f64::NEG_INFINITY, |v| v - margin),
                self.at_most.map_or(f64::INFINITY, |v| v + margin),
            ],
        }
    }

    /// The first faulty key, and what is wrong with it.
    fn check(&self) -> Option<(&'static str, String)> {
        if let Some(Err(message)) = self.name.as_deref().map(check_plain_name) {
            return Some(("name", message));
        }
        let numbers = [
            ("value", self.value),
            ("tolerance", self.tolerance),
            ("at-least", self.at_least),
            ("at-most", self.at_most),
            ("margin", self.margin),
        ];
        if let Some((key, Some(bad))) = numbers
            .iter()
            .find(|(_, v)| v.is_some_and(|v| !v.is_finite()))
        {
            return Some((key, format!("{bad}, expected a finite number")));
        }
        if let Some((key, Some(bad))) = [numbers[1], numbers[4]]
            .iter()
            .find(|(_, v)| v.is_some_and(|v| v < 0.0))
        {
            return Some((key, format!("{bad}, expected at least 0")));
        }
        let bounded = self.at_least.is_some() || self.at_most.is_some();
        let (key, message) = match (self.value.is_some(), bounded) {
            (true, true) => (
                "value",
                "it stands beside a bound; expected either `value` and `tolerance`, or `at-least` \
                 and `at-most` with an optional `margin`",
            ),
            (false, false) => (
                "value",
                "absent; expected `value` and `tolerance`, or `at-least`, or `at-most`",
            ),
            (true, _) if self.tolerance.is_none() => (
                "tolerance",
                "absent; expected how far the measured value may lie from `value`",
            ),
            (true, _) if self.margin.is_some() => {
                ("margin", "only for bounds; a `value` has a `tolerance`")
            }
            (_, true) if self.tolerance.is_some() => {
                ("tolerance", "only for a `value`; a bound has a `margin`")
            }
            _ if self.claimed_interval()[0] > self.claimed_interval()[1] => (
                "at-least",
                "it is above `at-most`, so no number satisfies both",
            ),
            _ => return None,
        };
        Some((key, message.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A claim matches the rows of a kind, whichever of its accepted spellings it uses.
    #[test]
    fn aliases_match_rows_by_label() {
        let text = "claims: [{table: a, column: b, at-least: 0, where: {\
                    estimator: hutch(probes=8), solver: 'rk45(atol=1e-6)', reference: stad, \
                    metric: fid, sampler: dpmpp_2m, model: fid}}]";
        let place = Claims::parse(text)
            .expect("right")
            .claims
            .remove(0)
            .row_filter;
        for (column, label) in [
            ("estimator", "hutchinson(probes=8)"),
            ("solver", "dopri5(atol=1e-6)"),
            ("reference", "stad"),
            ("metric", "frechet"),
            ("sampler", "dpmpp-2m"),
            ("model", "fid"),
        ] {
            assert_eq!(place[column].to_string(), label, "{column}");
        }
    }

    #[test]
    fn invalid_claim_is_reported_by_key() {
        let refused = |text: &str| -> String {
            let claims =
                Claims::parse(&format!("claims: [{{table: summary, column: nats{text}}}]"));
            format!("{:#}", claims.expect_err(text))
        };
        for (text, word) in [
            ("", "claims.0.value: absent"),
            (", value: 1", "tolerance: absent"),
            (", value: 1, tolerance: -1", "tolerance: -1"),
            (", value: .nan, tolerance: 1", "value: NaN"),
            (", value: 1, tolerance: 1, at-least: 2", "beside a bound"),
            (
                ", value: 1, tolerance: 1, margin: 2",
                "margin: only for bounds",
            ),
            (
                ", at-least: 1, tolerance: 1",
                "tolerance: only for a `value`",
            ),
            (", at-least: 1, margin: .inf", "margin: inf"),
            (", at-least: 2, at-most: 1", "above `at-most`"),
            (", at-least: 1, confidence: 1", "claims.0.confidence: 1"),
            (", at-least: 1, name: '=1'", "claims.0.name"),
            (", atleast: 1", "atleast"),
            (", at-least: x", "number"),
        ] {
            let message = refused(text);
            assert!(message.contains(word), "{text}: {message}");
        }
    }
}
