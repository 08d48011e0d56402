//! The time input of a graph: the values that it gets, and checks that it can take and uses them.

use anyhow::{Result, bail};
use ndarray::ArrayD;

use super::card::{Card, TimeInputSpec, TimeVariable};
use super::session_tensors::TensorFormat;
use crate::flow::path::{PathCurve, ProbabilityPath};
use crate::flow::preconditioning::Preconditioning;
use crate::graph;
use crate::num::Batch;
use crate::num::key::{Purpose, RngKey};

/// The values that a time input gets, with all defaults applied: `feed`(t) · `scale` + `offset`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TimeInput {
    /// The function of the card's time.
    pub feed: TimeVariable,
    /// The factor of the function.
    pub scale: f64,
    /// The number that is added to the scaled function.
    pub offset: f64,
    /// The treatment of a time between two whole numbers, for an input of integers: `Some(false)` is
    /// an error; otherwise the two neighbouring indices are evaluated and interpolated.
    pub interpolate: Option<bool>,
    /// Whether the card declares that the output does not depend on time.
    pub ignored: bool,
}

impl Card {
    /// Returns the time input of the network. If the card names no function of time, it is
    /// ln(σ)/4 for an `edm` preconditioning, the index on a `discrete` path, and t otherwise.
    pub fn time_input(&self) -> TimeInput {
        let usual = match (&self.network.preconditioning, &self.path) {
            (Some(Preconditioning::Edm { .. }), _) => TimeVariable::LogSigmaOver4,
            _ => self.default_time_variable(),
        };
        TimeInput::new(self.network.time.unwrap_or_default(), usual)
    }

    /// Returns the time input of a head or of the closed form. If the card gives none, it is the
    /// time input of the network.
    pub fn head_time_input(&self, given: Option<TimeInputSpec>) -> TimeInput {
        given.map_or_else(
            || self.time_input(),
            |given| TimeInput::new(given, self.time_input().feed),
        )
    }

    /// Returns the time input of a flow map. If the card gives none, it is `network.time`. If that
    /// names no function of time, it is the index on a `discrete` path, and t otherwise.
    pub fn flow_map_time_input(&self, given: Option<TimeInputSpec>) -> TimeInput {
        TimeInput::new(
            given.or(self.network.time).unwrap_or_default(),
            self.default_time_variable(),
        )
    }

    /// Returns the function of time that a network without preconditioning gets by default.
    fn default_time_variable(&self) -> TimeVariable {
        if matches!(self.path, ProbabilityPath::Discrete { .. }) {
            TimeVariable::Index
        } else {
            TimeVariable::T
        }
    }
}

impl TimeInput {
    /// Applies the defaults; `usual` is the function of time if the card names none.
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

    /// Returns the value that the input gets at the card's time `t`.
    pub fn value_at(&self, curve: &PathCurve, t: f64) -> f64 {
        let value = match self.feed {
            TimeVariable::T => t,
            TimeVariable::Sigma => curve.at(t).sigma,
            TimeVariable::LogSigmaOver4 => curve.at(t).sigma.ln() / 4.0,
            TimeVariable::Index => curve.discrete_time_index(t),
        };
        value * self.scale + self.offset
    }

    /// Whether a time between two whole numbers is interpolated, for an input of integers.
    pub fn interpolates(&self) -> bool {
        self.interpolate != Some(false)
    }

    /// Whether a time input of whole numbers is interpolated between two of them at time `t`.
    pub(super) fn falls_between_indices(&self, curve: &PathCurve, t: f64) -> bool {
        let index = self.value_at(curve, t);
        self.interpolates() && !self.ignored && !is_near_whole(index)
    }

    /// Returns the formula of the value for messages, such as `index` or `999 sigma + 1`.
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

    /// Returns the values at the data end and at the prior end.
    fn values_at_ends(&self, curve: &PathCurve) -> [f64; 2] {
        [curve.data_end(), curve.prior_end()].map(|t| self.value_at(curve, t))
    }

    /// Describes the values over the path, and their conversion to whole numbers, for the user.
    pub fn description(&self, port: &graph::Port, curve: &PathCurve) -> String {
        let [from, to] = self.values_at_ends(curve).map(|v| v as f32);
        let whole = match (
            tensor_format_of(port.elem).is_some_and(is_integer_format),
            self.interpolates(),
        ) {
            (false, _) => "",
            (true, true) => "; between two whole numbers both outputs are evaluated and mixed",
            (true, false) => "; whole numbers only",
        };
        let ignored = if self.ignored {
            "; ignored, as the card declares"
        } else {
            ""
        };
        format!(
            "{} ({}), from {from} to {to}{whole}{ignored}",
            self.formula(),
            port.elem
        )
    }

    /// Checks, before anything is evaluated, that a time input can take its values over the path.
    /// `key` is the card's key of the network, such as `network`.
    ///
    /// # Errors
    /// Fails if rounding would leave fewer than three different whole numbers. Fails also if the
    /// card sets `interpolate` for an input that takes fractions.
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
                    "{key}.time.interpolate: {interpolate}, but input `{name}` takes fractions \
                     ({format}), so that no time is rounded; leave the key out"
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
                "a scale that gives the indices on which the network was trained, such as \
                 `time: {{feed: t, scale: 999}}` for 1000 indices on `{}`",
                other.kind()
            ),
        };
        bail!(
            "input `{name}` takes whole numbers ({format}), but {key}.time gives it {} from {from} \
             to {to}: after rounding, almost all times of the path are the same; expected {right}",
            self.formula()
        )
    }
}

impl TimeInput {
    /// Checks a time input of a flow map, like [`TimeInput::check`]. The times of flow maps are not
    /// interpolated, so `interpolate` does not matter for an input that takes fractions.
    ///
    /// # Errors
    /// Fails if rounding would leave fewer than three different whole numbers, or if an input of
    /// whole numbers has `interpolate: true`.
    pub(super) fn check_flow_map(
        &self,
        name: &str,
        format: TensorFormat,
        curve: &PathCurve,
        key: &str,
    ) -> Result<()> {
        if is_integer_format(format) && self.interpolate == Some(true) {
            bail!(
                "{key}.time.interpolate: true, but a flow map is not interpolated between indices; \
                 expected false"
            );
        }
        TimeInput {
            interpolate: None,
            ..*self
        }
        .check(name, format, curve, key)
    }
}

/// Whether an index is a whole number up to rounding, such as 499.9999999. It then needs no
/// interpolation.
pub(super) fn is_near_whole(index: f64) -> bool {
    (index - index.round()).abs() < 1e-6
}

/// Whether an input takes only whole numbers.
pub(super) fn is_integer_format(format: TensorFormat) -> bool {
    matches!(
        format,
        TensorFormat::I32 | TensorFormat::I64 | TensorFormat::Bool
    )
}

/// Returns the format of a port with the given element type, if flowgauge supports that type.
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

/// Returns ONNX's name of a format.
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

/// Returns the times and states at which the time dependence of a graph is tested. The times are
/// the two ends of the path and the time at which σ = α. The states are four random states with the
/// scale of that middle time.
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

/// Whether the outputs at several times are bitwise identical; `None` if fewer than two of them are
/// finite.
pub(super) fn outputs_identical(outputs: &[Vec<ArrayD<f64>>]) -> Option<bool> {
    let finite =
        |arrays: &&Vec<ArrayD<f64>>| arrays.iter().all(|a| a.iter().all(|v| v.is_finite()));
    let finite: Vec<&Vec<ArrayD<f64>>> = outputs.iter().filter(finite).collect();
    (finite.len() > 1).then(|| finite.windows(2).all(|pair| pair[0] == pair[1]))
}

/// Compares whether the output depends on the time inputs with what the card declares.
///
/// `time_dependent` is the result of the test, `None` if it was not possible; then nothing is
/// checked. If the exact output may be independent of time (`may_ignore`), an undeclared
/// independence is only reported.
///
/// # Errors
/// Fails if the output does not depend on time and the card does not declare it, or if the output
/// depends on time and the card declares `ignored: true`.
pub(super) fn check_time_dependence(
    time: &TimeInput,
    time_dependent: Option<bool>,
    inputs: &str,
    file: &str,
    key: &str,
    may_ignore: bool,
) -> Result<()> {
    match time_dependent {
        Some(false) if !time.ignored && may_ignore => {
            errln!(
                "flowgauge: {file}: {inputs} changes nothing: the field does not depend on time; \
                 declare this with `{key}.time: {{ignored: true}}`"
            );
            Ok(())
        }
        Some(false) if !time.ignored => bail!(
            "{file}: {inputs} changes nothing: the output is the same at both ends of the path and \
             in the middle. Expected an input on which the output depends; if the field itself \
             does not depend on time, declare `{key}.time: {{ignored: true}}`"
        ),
        Some(true) if time.ignored => {
            bail!(
                "{file}: {key}.time.ignored is true, but the output depends on {inputs}; leave the \
                 key out"
            )
        }
        _ => Ok(()),
    }
}
