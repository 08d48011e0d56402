//! What a graph's time input is given, and whether it can take it and heeds it.

use anyhow::{Result, bail};
use ndarray::ArrayD;

use super::card::{Card, TimeInputSpec, TimeVariable};
use super::onnx::TensorFormat;
use crate::flow::path::{PathCurve, ProbabilityPath};
use crate::flow::preconditioning::Preconditioning;
use crate::graph;
use crate::num::Batch;
use crate::num::key::{Purpose, RngKey};

/// What a time input is given, with every default decided: `feed`(t) · `scale` + `offset`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TimeInput {
    pub feed: TimeVariable,
    pub scale: f64,
    pub offset: f64,
    /// What an input of whole numbers does between two of them; rounded unless said.
    pub interpolate: Option<bool>,
    /// Whether the card says that the output does not depend on time.
    pub ignored: bool,
}

impl Card {
    /// What the network's time input is given: what the scalings outside it ask for, the index of a `discrete` path,
    /// or t, unless the card says.
    pub fn time_input(&self) -> TimeInput {
        let usual = match (&self.network.preconditioning, &self.path) {
            (Some(Preconditioning::Edm { .. }), _) => TimeVariable::LogSigmaOver4,
            _ => self.default_time_variable(),
        };
        TimeInput::new(self.network.time.unwrap_or_default(), usual)
    }

    /// What the time input of a head or of the closed form is given: the network's own unless it says.
    pub fn head_time_input(&self, given: Option<TimeInputSpec>) -> TimeInput {
        given.map_or_else(
            || self.time_input(),
            |given| TimeInput::new(given, self.time_input().feed),
        )
    }

    /// What a flow map's times are given: what it says, what the card says of the network, or the path's usual feed.
    pub fn flow_map_time_input(&self, given: Option<TimeInputSpec>) -> TimeInput {
        TimeInput::new(
            given.or(self.network.time).unwrap_or_default(),
            self.default_time_variable(),
        )
    }

    fn default_time_variable(&self) -> TimeVariable {
        if matches!(self.path, ProbabilityPath::Discrete { .. }) {
            TimeVariable::Index
        } else {
            TimeVariable::T
        }
    }
}

impl TimeInput {
    fn new(given: TimeInputSpec, usual: TimeVariable) -> TimeInput {
        let TimeInputSpec {
            feed,
            scale,
            offset,
            interpolate,
            ignored,
        } = given;
        TimeInput {
            feed: feed.unwrap_or(usual),
            scale,
            offset,
            interpolate,
            ignored,
        }
    }

    /// What the input is given at the card's time `t`.
    pub fn value_at(&self, curve: &PathCurve, t: f64) -> f64 {
        let value = match self.feed {
            TimeVariable::T => t,
            TimeVariable::Sigma => curve.at(t).sigma,
            TimeVariable::LogSigmaOver4 => curve.at(t).sigma.ln() / 4.0,
            TimeVariable::Index => curve.discrete_time_index(t),
        };
        value * self.scale + self.offset
    }

    /// As a card says it: `index`, `999 sigma + 1`.
    pub fn formula(&self) -> String {
        let scale = if self.scale == 1.0 {
            String::new()
        } else {
            format!("{} ", self.scale)
        };
        let offset = match self.offset {
            0.0 => String::new(),
            o if o < 0.0 => format!(" - {}", -o),
            o => format!(" + {o}"),
        };
        format!("{scale}{}{offset}", self.feed.as_str())
    }

    /// What the input is given at both ends of the path, from data to prior.
    fn values_at_ends(&self, curve: &PathCurve) -> [f64; 2] {
        [curve.data_end(), curve.prior_end()].map(|t| self.value_at(curve, t))
    }

    /// What an input is given over the path, and how whole numbers come about, in words.
    pub fn description(&self, port: &graph::Port, curve: &PathCurve) -> String {
        let [from, to] = self.values_at_ends(curve).map(|v| v as f32);
        let whole = match (
            tensor_format_of(port.elem).is_some_and(is_integer_format),
            self.interpolate,
        ) {
            (false, _) => "",
            (true, Some(true)) => "; between two whole numbers both are evaluated and mixed",
            (true, Some(false)) => "; whole numbers alone",
            (true, None) => {
                "; rounded to whole numbers, so that the network is constant in time around each"
            }
        };
        let ignored = if self.ignored {
            "; ignored, as the card says"
        } else {
            ""
        };
        format!(
            "{} ({}), from {from} to {to}{whole}{ignored}",
            self.formula(),
            port.elem
        )
    }

    /// Refuses a time input that cannot take what it is given over the path, before anything is evaluated; `key` is
    /// the card's, such as `network`.
    ///
    /// # Errors
    /// Where rounding to whole numbers would leave less than three of them, or interpolation is asked of an input
    /// that takes fractions.
    pub(super) fn check(
        &self,
        name: &str,
        format: TensorFormat,
        curve: &PathCurve,
        key: &str,
    ) -> Result<()> {
        if self.ignored {
            return Ok(());
        }
        let (whole, boolean, format) = (
            is_integer_format(format),
            format == TensorFormat::Bool,
            format_name(format),
        );
        if !whole {
            if let Some(interpolate) = self.interpolate {
                bail!(
                    "{key}.time.interpolate: {interpolate}, but input `{name}` takes fractions ({format}): it is given \
                     every time as it is; leave the key out"
                );
            }
            return Ok(());
        }
        let [from, to] = self.values_at_ends(curve);
        if (to - from).abs() >= 2.0 && !boolean {
            return Ok(());
        }
        let right = match curve.path() {
            ProbabilityPath::Discrete { .. } => {
                "`time: {feed: index}`, the default of a discrete path".to_owned()
            }
            other => format!(
                "a scale that makes the indices of it that the network was trained on, such as \
                 `time: {{feed: t, scale: 999}}` for 1000 of them on `{}`",
                other.kind()
            ),
        };
        bail!(
            "input `{name}` takes whole numbers ({format}), but {key}.time gives it {} from {from} to {to}: rounded, \
             almost all times of the path are the same to the network; expected {right}",
            self.formula()
        )
    }
}

impl TimeInput {
    /// As [`TimeInput::check`], for an input of a flow map, whose times are not interpolated: what is said of the network's
    /// own time is not said of it where it takes fractions.
    ///
    /// # Errors
    /// As [`TimeInput::check`].
    pub(super) fn check_flow_map(
        &self,
        name: &str,
        format: TensorFormat,
        curve: &PathCurve,
        key: &str,
    ) -> Result<()> {
        if is_integer_format(format) && self.interpolate == Some(true) {
            bail!(
                "{key}.time.interpolate: true, but a flow map is not interpolated between indices; expected false"
            );
        }
        TimeInput {
            interpolate: None,
            ..*self
        }
        .check(name, format, curve, key)
    }
}

/// Whether an input takes whole numbers alone.
pub(super) fn is_integer_format(format: TensorFormat) -> bool {
    matches!(
        format,
        TensorFormat::I32 | TensorFormat::I64 | TensorFormat::Bool
    )
}

/// The format of a port of this type, where this program feeds it.
pub(super) fn tensor_format_of(elem: graph::ElemType) -> Option<TensorFormat> {
    [
        TensorFormat::F16,
        TensorFormat::Bf16,
        TensorFormat::F32,
        TensorFormat::F64,
        TensorFormat::I32,
        TensorFormat::I64,
        TensorFormat::Bool,
    ]
    .into_iter()
    .find(|format| format_name(*format) == elem.to_string())
}

fn format_name(format: TensorFormat) -> &'static str {
    match format {
        TensorFormat::F16 => "float16",
        TensorFormat::Bf16 => "bfloat16",
        TensorFormat::F32 => "float32",
        TensorFormat::F64 => "float64",
        TensorFormat::I32 => "int32",
        TensorFormat::I64 => "int64",
        TensorFormat::Bool => "bool",
    }
}

/// Times and states at which a graph is asked whether it heeds its time: the two ends of the path and the middle,
/// and a few random states of the middle's size.
pub(super) fn time_test_points(curve: &PathCurve, dim: usize) -> ([f64; 3], Batch) {
    let middle = curve.time_of_ratio(1.0);
    let at = curve.at(middle);
    let size = at.alpha.hypot(at.sigma);
    let mut x = Batch::zeros((4, dim));
    for (i, mut row) in x.rows_mut().into_iter().enumerate() {
        row.assign(&(RngKey { seed: 0 }.normal(Purpose::Check, i as u64, 1, dim) * size));
    }
    ([curve.data_end(), middle, curve.prior_end()], x)
}

/// Whether outputs at several times are the same to the last bit; `None` where fewer than two are finite.
pub(super) fn outputs_identical(outputs: &[Vec<ArrayD<f64>>]) -> Option<bool> {
    let finite =
        |arrays: &&Vec<ArrayD<f64>>| arrays.iter().all(|a| a.iter().all(|v| v.is_finite()));
    let finite: Vec<&Vec<ArrayD<f64>>> = outputs.iter().filter(finite).collect();
    (finite.len() > 1).then(|| finite.windows(2).all(|pair| pair[0] == pair[1]))
}

/// Refuses a graph whose output does not depend on a time input, unless the card says so, and one that the card says
/// this of and whose output does. What cannot be judged passes. Where the true output may not
/// depend on time (`may_ignore`), that it does not is said.
pub(super) fn check_time_dependence(
    time: &TimeInput,
    heeded: Option<bool>,
    inputs: &str,
    file: &str,
    key: &str,
    may_ignore: bool,
) -> Result<()> {
    match heeded {
        Some(false) if !time.ignored && may_ignore => {
            errln!(
                "flowgauge: {file}: {inputs} changes nothing: the field does not depend on time; \
                 `{key}.time: {{ignored: true}}` says that it need not"
            );
            Ok(())
        }
        Some(false) if !time.ignored => bail!(
            "{file}: {inputs} changes nothing: the output is the same at both ends of the path and in the middle. \
             Expected an input that the network heeds; or, where the field itself does not depend on time, \
             `{key}.time: {{ignored: true}}`"
        ),
        Some(true) if time.ignored => {
            bail!(
                "{file}: {key}.time.ignored is true, but the output depends on {inputs}; leave the key out"
            )
        }
        _ => Ok(()),
    }
}
