//! Conditions: further inputs of a network with a value of its own for each sample, such as class
//! labels, embeddings and observations.
//!
//! A value is looked up by its sample's number, so that it does not depend on the order or the
//! company of samples. A sample's number without its conditions
//! ([`without_conditions`](crate::num::key::without_conditions)) gets the null value of each
//! condition.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use ndarray::{ArrayD, ArrayViewD, Axis, IxDyn};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::constants::{Constant, accepted_values, can_represent, describe_sizes, is_batch_axis};
use super::onnx::SessionPort;
use super::session_tensors::TensorFormat;
use crate::num::key::{Purpose, RngKey, SampleId, has_conditions, unpack_draw};
use crate::num::shape;

/// An input of a network that gets one value per sample. The values come from the config or the
/// command line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ConditionSpec {
    /// The name of the graph's input.
    pub input: String,
    /// The value that stands for «no condition»: a number, a list of numbers or the name of a
    /// `.npy` file. Guidance needs it. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub null: Option<Constant>,
}

/// The values of a condition as users write them: a number, a list of numbers, the name of a file
/// with one value per sample, `uniform:K` or `balanced:K`. An absent value stands for null.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(
    untagged,
    expecting = "expected a number, a list of numbers, the name of a file with one value per sample, uniform:K, balanced:K or null"
)]
pub enum ConditionSource {
    /// A flag, the same for all samples.
    Flag(bool),
    /// One number, the same for all samples.
    Number(f64),
    /// A list of numbers, the same for all samples.
    List(Vec<f64>),
    /// The name of a file, `uniform:K` or `balanced:K`.
    Text(String),
}

impl ConditionSource {
    /// Reads the value of `--condition NAME=VALUE`; `None` stands for null.
    pub fn parse(text: &str) -> Option<ConditionSource> {
        let list = || serde_json::from_str::<Vec<f64>>(text).ok();
        match text {
            "null" => None,
            "true" | "false" => Some(ConditionSource::Flag(text == "true")),
            _ => Some(match (text.parse(), list()) {
                (Ok(number), _) => ConditionSource::Number(number),
                (_, Some(list)) => ConditionSource::List(list),
                _ => ConditionSource::Text(text.to_owned()),
            }),
        }
    }
}

/// The values of one condition for all samples.
#[derive(Debug, Clone, PartialEq)]
pub enum ConditionValues {
    /// Every sample gets the null value of the card.
    Null,
    /// Every sample gets the same value; a single number has no axes.
    Constant(ArrayD<f64>),
    /// Sample i gets row i.
    PerSample(ArrayD<f64>),
    /// Each sample gets a random class, 0 to `classes` − 1, that depends on the seed and the sample
    /// alone.
    Uniform {
        /// The number of classes.
        classes: u64,
    },
    /// Sample i gets the class i mod `classes`.
    Balanced {
        /// The number of classes.
        classes: u64,
    },
}

/// The values of one condition, and how the user gave them.
#[derive(Debug, Clone, PartialEq)]
pub struct Condition {
    /// The values.
    pub values: ConditionValues,
    /// The source of the values as the user wrote it, such as `labels.npy` or `uniform:10`.
    pub source: String,
    /// The SHA-256 hash of the file with the values, if they come from one.
    pub sha256: Option<String>,
    /// The path of the file with the values, with the name of an array in it.
    pub path: Option<PathBuf>,
}

/// The values of all conditions of a model, by the card's names.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Conditions {
    /// The conditions by name.
    pub by_name: BTreeMap<String, Condition>,
    /// The seed of random classes.
    pub seed: u64,
}

/// The description of a condition's values in a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedCondition {
    /// The source of the values as the user wrote it.
    pub source: String,
    /// The SHA-256 hash of the file with the values, if they come from one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
}

impl Conditions {
    /// Whether the samples have values of their own.
    pub fn vary(&self) -> bool {
        self.by_name.values().any(|condition| {
            !matches!(
                condition.values,
                ConditionValues::Null | ConditionValues::Constant(_)
            )
        })
    }

    /// The conditions that are the same for all samples in words, such as `label 3`.
    pub(super) fn constant_words(&self) -> Vec<String> {
        let constant = |(name, condition): (&String, &Condition)| {
            let same = matches!(
                condition.values,
                ConditionValues::Null | ConditionValues::Constant(_)
            );
            (same && condition.source.len() <= 20).then(|| format!("{name} {}", condition.source))
        };
        self.by_name.iter().filter_map(constant).collect()
    }

    /// The sources of all conditions in words, such as `label labels.npy`, without folders.
    pub(super) fn source_words(&self) -> Vec<String> {
        let words = |(name, condition): (&String, &Condition)| {
            let file = std::path::Path::new(&condition.source).file_name();
            let source = file.map_or(condition.source.clone(), |f| {
                f.to_string_lossy().into_owned()
            });
            let plain: String = source.chars().take(40).collect();
            format!("{name} {plain}")
        };
        self.by_name.iter().map(words).collect()
    }

    /// Describes the conditions for a plan.
    pub fn planned(&self) -> BTreeMap<String, PlannedCondition> {
        let planned = |condition: &Condition| PlannedCondition {
            source: condition.source.clone(),
            sha256: condition.sha256.clone(),
        };
        self.by_name
            .iter()
            .map(|(name, condition)| (name.clone(), planned(condition)))
            .collect()
    }

    /// The value of a condition for a sample; `None` for the null value and for a condition without
    /// values. Rows of arrays are repeated if there are more samples than rows.
    fn value(&self, name: &str, sample: SampleId) -> Option<ArrayD<f64>> {
        if !has_conditions(sample) {
            return None;
        }
        let sample = unpack_draw(sample).0;
        let class = |class: u64| ArrayD::from_elem(IxDyn(&[]), class as f64);
        match &self.by_name.get(name)?.values {
            ConditionValues::Null => None,
            ConditionValues::Constant(value) => Some(value.clone()),
            ConditionValues::PerSample(rows) => {
                let row = sample as usize % rows.len_of(Axis(0));
                Some(rows.index_axis(Axis(0), row).to_owned())
            }
            ConditionValues::Uniform { classes } => {
                let key = RngKey { seed: self.seed };
                let place = self.by_name.keys().position(|known| known == name);
                let draw = key.uniform_at(Purpose::Condition, sample, place? as u64, 0);
                Some(class((draw * *classes as f64) as u64))
            }
            ConditionValues::Balanced { classes } => Some(class(sample % classes)),
        }
    }

    /// The numbers of a sample's conditions that differ between samples, in the order of their names.
    pub fn varying_numbers(&self, sample: SampleId) -> Vec<f64> {
        let varies = |condition: &Condition| {
            !matches!(
                condition.values,
                ConditionValues::Null | ConditionValues::Constant(_)
            )
        };
        let names = self
            .by_name
            .iter()
            .filter(|(_, condition)| varies(condition));
        names
            .filter_map(|(name, _)| self.value(name, sample))
            .flat_map(IntoIterator::into_iter)
            .collect()
    }

    /// The values of a sample's conditions as text, such as `label=3`, for the rows of tables. Only
    /// conditions of one number are written; the text is empty if there are none.
    pub fn describe_sample(&self, sample: SampleId) -> String {
        let text = |(name, condition): (&String, &Condition)| {
            if condition.values == ConditionValues::Null {
                return Some(format!("{name}=null"));
            }
            let value = self.value(name, sample)?;
            (value.len() == 1).then(|| format!("{name}={}", value.iter().next().unwrap_or(&0.0)))
        };
        let parts: Vec<String> = self.by_name.iter().filter_map(text).collect();
        parts.join(" ")
    }

    /// The values of some samples' conditions as words for a message, empty without conditions.
    pub fn describe_samples(&self, samples: &[SampleId]) -> String {
        if self.by_name.is_empty() {
            return String::new();
        }
        let values: Vec<String> = samples.iter().map(|s| self.describe_sample(*s)).collect();
        format!(" (conditions {})", values.join("; "))
    }

    /// Samples with the lowest and the highest value of each condition of one whole number, among
    /// the first `count` samples. A call with them finds labels that the network does not know.
    pub fn extreme_samples(&self, count: SampleId) -> Vec<SampleId> {
        let mut found = Vec::new();
        for name in self.by_name.keys() {
            let number = |sample: SampleId| {
                let value = self.value(name, sample)?;
                (value.len() == 1).then(|| value.iter().copied().next().unwrap_or_default())
            };
            let numbered = || (0..count).filter_map(|sample| Some((number(sample)?, sample)));
            found.extend(numbered().min_by(|a, b| a.0.total_cmp(&b.0)).map(|p| p.1));
            found.extend(numbered().max_by(|a, b| a.0.total_cmp(&b.0)).map(|p| p.1));
        }
        found.sort_unstable();
        found.dedup();
        found
    }
}

/// An input of an opened network that gets one value per sample.
#[derive(Debug, Clone)]
pub(super) struct ConditionInput {
    /// The name of the graph's input.
    pub(super) name: String,
    /// The name of the condition in the card.
    condition: String,
    /// The shape of one sample's value at the input, without the batch axis.
    shape: Vec<usize>,
    /// Whether the input has a batch axis.
    has_batch_axis: bool,
    /// Whether a single class becomes a row with a one at its place.
    one_hot: bool,
    /// The value for «no condition», in the input's shape. Zero if the card has none.
    null: ArrayD<f64>,
    /// The values of the work.
    given: Arc<Conditions>,
}

impl ConditionInput {
    /// Checks the values of the condition `condition` against the input `port` that takes them.
    /// `null` is the card's null value, if it has one, and `batch` the only batch size that the graph
    /// takes, if there is only one. Without values, as for a check of a model
    /// alone, every sample gets the null value or 0.
    ///
    /// # Errors
    /// Fails if a value does not fit the input, or if the null value is asked for and missing. The
    /// message says what is expected.
    pub(super) fn new(
        port: &SessionPort,
        condition: &str,
        null: Option<ArrayD<f64>>,
        given: &Arc<Conditions>,
        batch: Option<usize>,
    ) -> Result<ConditionInput> {
        let (has_batch_axis, sizes) = match port.shape.split_first() {
            Some((first, rest)) if is_batch_axis(*first, batch) => (true, rest),
            _ => (false, &port.shape[..]),
        };
        let known = given.by_name.get(condition);
        let values = known.map(|known| &known.values);
        // The shape of one sample's value, before it takes the input's shape.
        let (found, source): (Option<Vec<usize>>, &str) = match values {
            None | Some(ConditionValues::Null) => (None, "null"),
            Some(ConditionValues::Constant(value)) => (Some(value.shape().to_vec()), "value"),
            Some(ConditionValues::PerSample(rows)) => (
                Some(rows.shape()[1..].to_vec()),
                "array of one value per sample",
            ),
            Some(ConditionValues::Uniform { .. } | ConditionValues::Balanced { .. }) => {
                (Some(Vec::new()), "class")
            }
        };
        if !has_batch_axis
            && !matches!(
                values,
                None | Some(ConditionValues::Null | ConditionValues::Constant(_))
            )
        {
            bail!(
                "input `{}` takes one value for the whole batch, but the samples have values of \
                 their own; expected a graph whose input has a batch axis, [N] or [N, …]",
                port.name
            );
        }
        let null_shape = null.as_ref().map(|null| null.shape().to_vec());
        let classes = match sizes {
            [classes] if *classes > 1 => Some(*classes as usize),
            _ => None,
        };
        let single = |shape: &[usize]| shape.iter().all(|n| *n == 1);
        let one_hot = classes.is_some() && found.as_deref().is_some_and(single);
        let shaped = |shape: &[usize], what: &str| -> Result<Vec<usize>> {
            if sizes.iter().all(|n| *n == 1) && single(shape) {
                return Ok(vec![1; sizes.len()]);
            }
            shape::shape_at_port(shape, sizes).ok_or_else(|| {
                anyhow!(
                    "the {what} has shape {shape:?} for one sample, but input `{}` takes {} for \
                     each sample",
                    port.name,
                    describe_sizes(sizes)
                )
            })
        };
        let shape = match (&found, &null_shape) {
            _ if one_hot => vec![classes.unwrap_or_default()],
            (Some(found), _) => shaped(found, source)?,
            (None, Some(null)) => shaped(null, "null value")?,
            (None, None) => sizes.iter().map(|n| (*n).max(1) as usize).collect(),
        };
        if values == Some(&ConditionValues::Null) && null.is_none() {
            bail!(
                "the card names no `null` value for it; expected `null: …` under the condition, or \
                 values for the samples"
            );
        }
        let null = match null {
            None => ArrayD::zeros(IxDyn(&shape)),
            Some(null) => {
                check_representable(port, null.view(), "the null value")?;
                let own = shaped(null.shape(), "null value")?;
                if own != shape && !single(null.shape()) {
                    bail!(
                        "the null value has shape {own:?}, but the values of samples have {shape:?}"
                    );
                }
                match single(null.shape()) && shape.iter().product::<usize>() > 1 {
                    true => {
                        ArrayD::from_elem(IxDyn(&shape), null.iter().copied().next().unwrap_or(0.0))
                    }
                    false => null
                        .as_standard_layout()
                        .into_owned()
                        .into_shape_with_order(IxDyn(&shape))?,
                }
            }
        };
        match values {
            Some(ConditionValues::Constant(array) | ConditionValues::PerSample(array)) => {
                check_representable(port, array.view(), source)?;
                if let Some(classes) = classes.filter(|_| one_hot) {
                    check_classes(array.view(), classes as u64, &port.name)?;
                }
            }
            Some(
                ConditionValues::Uniform { classes: wanted }
                | ConditionValues::Balanced { classes: wanted },
            ) => {
                if let Some(classes) = classes.filter(|classes| *wanted > *classes as u64) {
                    bail!(
                        "{wanted} classes, but input `{}` takes {classes}",
                        port.name
                    );
                }
            }
            _ => {}
        }
        Ok(ConditionInput {
            name: port.name.clone(),
            condition: condition.to_owned(),
            shape,
            has_batch_axis,
            one_hot,
            null,
            given: given.clone(),
        })
    }

    /// Returns the input's tensor for the samples of a batch.
    pub(super) fn batch_values(&self, samples: &[SampleId]) -> ArrayD<f64> {
        if !self.has_batch_axis {
            return self.sample_value(samples.first().copied().unwrap_or_default());
        }
        let shape = [&[samples.len()], &self.shape[..]].concat();
        let mut values = ArrayD::zeros(IxDyn(&shape));
        for (mut row, sample) in values.outer_iter_mut().zip(samples) {
            row.assign(&self.sample_value(*sample));
        }
        values
    }

    /// Returns the value of one sample, in the input's shape.
    fn sample_value(&self, sample: SampleId) -> ArrayD<f64> {
        let Some(value) = self.given.value(&self.condition, sample) else {
            return self.null.clone();
        };
        if self.one_hot {
            let class = value.iter().copied().next().unwrap_or_default() as usize;
            let mut row = ArrayD::zeros(IxDyn(&self.shape));
            if let Some(place) = row.get_mut([class]) {
                *place = 1.0;
            }
            return row;
        }
        value
            .as_standard_layout()
            .into_owned()
            .into_shape_with_order(IxDyn(&self.shape))
            .expect("the shape was checked when the network was opened")
    }
}

/// Checks that the tensor format of an input can represent all values, and that indices are not
/// negative: a negative index would silently count from the end of a table.
fn check_representable(port: &SessionPort, values: ArrayViewD<f64>, what: &str) -> Result<()> {
    if let Some(bad) = values.iter().find(|v| !can_represent(port.format, **v)) {
        bail!(
            "the {} holds {bad}, but input `{}` takes {}",
            what.trim_start_matches("the "),
            port.name,
            accepted_values(port.format)
        );
    }
    let whole = matches!(port.format, TensorFormat::I32 | TensorFormat::I64);
    match values.iter().find(|v| **v < 0.0) {
        Some(bad) if whole => bail!(
            "the {} holds {bad}, but input `{}` takes classes and other whole numbers from 0",
            what.trim_start_matches("the "),
            port.name
        ),
        _ => Ok(()),
    }
}

/// Checks that all values are classes, 0 to `classes` − 1.
fn check_classes(values: ArrayViewD<f64>, classes: u64, input: &str) -> Result<()> {
    let known = |v: f64| v.fract() == 0.0 && v >= 0.0 && v < classes as f64;
    match values.iter().find(|v| !known(**v)) {
        Some(bad) => bail!(
            "{bad} is no class of input `{input}`, which takes one of {classes} classes; expected 0 \
             to {}",
            classes - 1
        ),
        None => Ok(()),
    }
}

/// Reads the null value of a condition. `bytes` is the content of its file, if it is in one.
///
/// # Errors
/// Fails if the file is not a `.npy` array.
pub(super) fn null_value(spec: &ConditionSpec, bytes: &[u8]) -> Result<Option<ArrayD<f64>>> {
    spec.null
        .as_ref()
        .map(|null| null.values(bytes).context("null"))
        .transpose()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::num::key::{pack_draw, without_conditions};

    fn port(format: TensorFormat, shape: &[i64]) -> SessionPort {
        SessionPort {
            name: "c".to_owned(),
            format,
            shape: shape.to_vec(),
        }
    }

    fn given(values: ConditionValues) -> Arc<Conditions> {
        let condition = Condition {
            values,
            source: "test".to_owned(),
            sha256: None,
            path: None,
        };
        Arc::new(Conditions {
            by_name: [("label".to_owned(), condition)].into(),
            seed: 5,
        })
    }

    fn number(value: f64) -> ArrayD<f64> {
        ArrayD::from_elem(IxDyn(&[]), value)
    }

    fn labels(list: &[f64]) -> ConditionValues {
        ConditionValues::PerSample(
            ArrayD::from_shape_vec(IxDyn(&[list.len()]), list.to_vec()).expect("as many"),
        )
    }

    #[test]
    fn values_follow_the_sample_and_not_the_row() {
        let conditions = given(labels(&[4.0, 0.0, 7.0]));
        let input = ConditionInput::new(
            &port(TensorFormat::I64, &[-1]),
            "label",
            Some(number(9.0)),
            &conditions,
            None,
        )
        .expect("it fits");
        let at = |samples: &[SampleId]| input.batch_values(samples).into_raw_vec_and_offset().0;
        assert_eq!(at(&[2, 0, 1]), [7.0, 4.0, 0.0]);
        // A draw of dequantization noise has the condition of its sample.
        assert_eq!(at(&[pack_draw(2, 3), without_conditions(2)]), [7.0, 9.0]);
        assert_eq!(conditions.describe_sample(2), "label=7");
        assert_eq!(conditions.extreme_samples(3), [1, 2]);
    }

    #[test]
    fn classes_become_one_hot_rows() {
        let input = ConditionInput::new(
            &port(TensorFormat::F32, &[-1, 3]),
            "label",
            None,
            &given(labels(&[2.0, 0.0])),
            None,
        )
        .expect("it fits");
        assert_eq!(
            input
                .batch_values(&[0, 1, without_conditions(0)])
                .into_raw_vec_and_offset()
                .0,
            [0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0]
        );
    }

    #[test]
    fn random_classes_depend_on_seed_and_sample() {
        let conditions = given(ConditionValues::Uniform { classes: 10 });
        let class = |sample| conditions.value("label", sample).expect("a class")[[]];
        let drawn: Vec<f64> = (0..2000).map(class).collect();
        assert!(
            drawn
                .iter()
                .all(|c| c.fract() == 0.0 && (0.0..10.0).contains(c))
        );
        for wanted in 0..10 {
            let share = drawn.iter().filter(|c| **c == f64::from(wanted)).count();
            assert!((140..260).contains(&share), "{wanted}: {share}");
        }
        assert_eq!(drawn[17], class(17));
        let balanced = given(ConditionValues::Balanced { classes: 3 });
        assert_eq!(balanced.value("label", 7).expect("a class")[[]], 1.0);
    }

    #[test]
    fn unfitting_values_are_refused() {
        let refused = |shape: &[i64], format, null, values| {
            let made =
                ConditionInput::new(&port(format, shape), "label", null, &given(values), None);
            made.expect_err("it does not fit").to_string()
        };
        use TensorFormat::{F32, I64};
        for (message, words) in [
            (refused(&[-1], I64, None, labels(&[0.5])), "whole numbers"),
            (refused(&[-1], I64, None, labels(&[1.0, -1.0])), "from 0"),
            (
                refused(&[-1, 3], F32, None, labels(&[3.0])),
                "expected 0 to 2",
            ),
            (refused(&[1], I64, None, labels(&[3.0, 1.0])), "batch axis"),
            (
                refused(&[-1], I64, None, ConditionValues::Null),
                "no `null` value",
            ),
            (
                refused(&[-1, 3], F32, None, ConditionValues::Uniform { classes: 4 }),
                "takes 3",
            ),
            (
                refused(
                    &[-1, 3],
                    F32,
                    None,
                    ConditionValues::PerSample(ArrayD::zeros(IxDyn(&[5, 2]))),
                ),
                "[3]",
            ),
            (
                refused(&[-1], I64, Some(number(0.5)), labels(&[1.0])),
                "the null value holds 0.5",
            ),
        ] {
            assert!(message.contains(words), "{message}");
        }
    }
}
