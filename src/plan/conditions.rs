//! Conditions of a model, from what the user wrote: files are read, and every condition of the card
//! gets its values.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use ndarray::{ArrayD, Axis, IxDyn};

use crate::data::Dataset;
use crate::flow::guidance::{Guidance, GuidanceSetting};
use crate::model::card::Card;
use crate::model::conditions::{Condition, ConditionSource, ConditionValues, Conditions};

/// The conditions and the guidance under which a model is measured, as the user wrote them.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ModelSetting {
    /// The values of the conditions by name.
    pub conditions: BTreeMap<String, Option<ConditionSource>>,
    /// The guidance; `None` keeps the card's.
    pub guidance: Option<GuidanceSetting>,
}

impl ModelSetting {
    /// The guidance for a model of this card; `None` keeps the card's.
    pub fn guidance_for(&self, card: &Card) -> Option<Guidance> {
        let interval = card
            .guidance
            .as_ref()
            .and_then(|guidance| guidance.interval);
        self.guidance
            .map(|guidance| guidance.with_interval(interval))
    }

    /// Reads the values of every condition of the card. `resolve` gives the path of a file that the
    /// user named.
    ///
    /// # Errors
    /// Fails if the card has no condition of a name, if a condition of the card has no values, or
    /// if a file cannot be read. The message names the condition.
    pub fn read_conditions(
        &self,
        card: &Card,
        seed: u64,
        resolve: impl Fn(&Path) -> Result<PathBuf>,
    ) -> Result<Conditions> {
        let names = card.condition_names();
        if let Some(unknown) = self.conditions.keys().find(|n| !names.contains(n.as_str())) {
            let known: Vec<&str> = names.iter().copied().collect();
            let has = match known.is_empty() {
                true => "it has none".to_owned(),
                false => format!("it has {}", known.join(", ")),
            };
            bail!("the card has no condition `{unknown}`; {has}");
        }
        let mut by_name = BTreeMap::new();
        for name in names {
            let source = self.conditions.get(name).ok_or_else(|| {
                anyhow!(
                    "the card's condition `{name}` has no values; expected a file with one value \
                     per sample, one number, `all:FILE`, `uniform:K`, `balanced:K` or null, as \
                     `conditions: {{{name}: …}}` or `--condition {name}=…`"
                )
            })?;
            let condition = read_condition(source.as_ref(), &resolve);
            by_name.insert(
                name.to_owned(),
                condition.with_context(|| format!("condition `{name}`"))?,
            );
        }
        Ok(Conditions { by_name, seed })
    }
}

/// Reads one condition; `None` stands for the null value.
fn read_condition(
    source: Option<&ConditionSource>,
    resolve: impl Fn(&Path) -> Result<PathBuf>,
) -> Result<Condition> {
    let number = |value: f64| ConditionValues::Constant(ArrayD::from_elem(IxDyn(&[]), value));
    let (mut sha256, mut path) = (None, None);
    let (values, source) = match source {
        None => (ConditionValues::Null, "null".to_owned()),
        Some(ConditionSource::Flag(flag)) => (number(f64::from(u8::from(*flag))), flag.to_string()),
        Some(ConditionSource::Number(value)) => (number(*value), value.to_string()),
        Some(ConditionSource::List(list)) => {
            let array = ArrayD::from_shape_vec(IxDyn(&[list.len()]), list.clone())?;
            (ConditionValues::Constant(array), format!("{list:?}"))
        }
        Some(ConditionSource::Text(text)) => {
            let values = match text.split_once(':') {
                Some(("uniform", classes)) => ConditionValues::Uniform {
                    classes: class_count(text, classes)?,
                },
                Some(("balanced", classes)) => ConditionValues::Balanced {
                    classes: class_count(text, classes)?,
                },
                Some(("all", file)) => {
                    let data = Dataset::read(&resolve(Path::new(file))?)?;
                    sha256 = Some(data.sha256);
                    path = Some(PathBuf::from(data.name));
                    ConditionValues::Constant(data.values.into_array())
                }
                _ => {
                    let data = Dataset::read(&resolve(Path::new(text))?)?;
                    if data.is_empty() {
                        bail!("{} holds no values", data.name);
                    }
                    sha256 = Some(data.sha256);
                    path = Some(PathBuf::from(data.name));
                    ConditionValues::PerSample(data.values.into_array())
                }
            };
            (values, text.clone())
        }
    };
    Ok(Condition {
        values,
        source,
        sha256,
        path,
    })
}

/// The number of classes in `uniform:K` or `balanced:K`.
fn class_count(text: &str, classes: &str) -> Result<u64> {
    match classes.parse() {
        Ok(classes) if classes > 0 && classes <= 1 << 40 => Ok(classes),
        _ => bail!("{text}: expected a number of classes from 1, such as uniform:1000"),
    }
}

/// Checks that every condition with one value per sample has as many values as there are samples.
///
/// # Errors
/// Fails if one has not. The message names the condition and both numbers.
pub fn check_condition_lengths(conditions: &Conditions, samples: usize, of: &str) -> Result<()> {
    for (name, condition) in &conditions.by_name {
        if let ConditionValues::PerSample(rows) = &condition.values
            && rows.len_of(Axis(0)) != samples
        {
            bail!(
                "condition `{name}`: {} holds {} values, but {of} {samples} samples; expected one \
                 value per sample",
                condition.source,
                rows.len_of(Axis(0))
            );
        }
    }
    Ok(())
}

/// The source of a condition as a plan describes it, for reopening a run. A file lies at `place`.
pub(super) fn planned_source(source: &str, place: Option<&Path>) -> Option<ConditionSource> {
    match place {
        Some(place) => {
            let role = if source.starts_with("all:") {
                "all:"
            } else {
                ""
            };
            Some(ConditionSource::Text(format!("{role}{}", place.display())))
        }
        None => ConditionSource::parse(source),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_read_as_they_are_described() {
        for text in [
            "3",
            "2.5",
            "[1.0, 0.0]",
            "true",
            "uniform:10",
            "balanced:3",
            "null",
        ] {
            let condition = read_condition(ConditionSource::parse(text).as_ref(), |path| {
                Ok(path.to_owned())
            })
            .expect(text);
            let again = read_condition(planned_source(&condition.source, None).as_ref(), |path| {
                Ok(path.to_owned())
            });
            assert_eq!(again.expect(text), condition, "{text}");
        }
        for (text, words) in [
            ("uniform:0", "number of classes"),
            ("balanced:many", "number of classes"),
            ("labels.npy", "labels.npy"),
        ] {
            let refused = read_condition(ConditionSource::parse(text).as_ref(), |path| {
                Ok(path.to_owned())
            });
            let message = format!("{:#}", refused.expect_err(text));
            assert!(message.contains(words), "{message}");
        }
    }
}
