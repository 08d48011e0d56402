//! Authenticity (Alaa et al. 2022) and memorization (Yoon et al. 2023): generated samples too near to training data.
//!
//! Where no training data are named, the reference is taken for them. Standard errors are those of [`super::parts`], over
//! the generated samples and over the training data, which the samples need not be independent of; they are absent below
//! 16 of either.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::nearest::Nearest;
use super::parts::{DIVISIONS, PARTS, Parts, Quarters, Replicates, Term, WAYS, part};
use super::sample::Sample;
use super::{Role, Sets, Statistic, notes, pairs};
use crate::num::key::Key;
use crate::num::stats::Estimate;

/// The share of generated samples that lie farther from their nearest reference sample than that one from its
/// nearest other. AuthPct is 100 times it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Authenticity {}

/// The share of generated samples whose nearest reference sample is nearer than `ratio` times the second nearest.
///
/// In D dimensions a smooth law gives ratio^D without any copying, which is next to nothing only for many.
/// Training data that hold a sample twice hide copies of it, which a note says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Memorization {
    pub ratio: f64,
}

impl Default for Memorization {
    fn default() -> Self {
        Memorization { ratio: 1.0 / 3.0 }
    }
}

/// Fewest samples of a quarter.
const LEAST: usize = 4;

impl Statistic for Authenticity {
    fn check(&self, generated: usize, reference: usize) -> Result<(), String> {
        enough("authenticity", generated, reference)
    }

    fn compared(&self) -> Role {
        Role::Train
    }

    fn biased(&self) -> bool {
        false
    }

    fn compute(
        &self,
        generated: &Sample,
        reference: &Sample,
        key: Key,
    ) -> Result<Estimate, String> {
        let parts = Parts::drawn(generated.len(), reference.len(), LEAST, key);
        let found = self.replicates(generated, reference, parts.as_ref())?;
        Ok(Estimate {
            value: found.whole(),
            stderr: found.stderr(),
            n: generated.len(),
        })
    }

    fn least_part(&self) -> usize {
        LEAST
    }

    fn on_parts(
        &self,
        generated: &Sample,
        reference: &Sample,
        parts: &Parts,
    ) -> Result<Option<Replicates>, String> {
        self.replicates(generated, reference, Some(parts)).map(Some)
    }

    fn notes(&self, sets: Sets<&Sample>) -> Vec<String> {
        notes::copies_that_hide(sets.of(Role::Train))
            .into_iter()
            .collect()
    }
}

impl Authenticity {
    fn replicates(
        &self,
        generated: &Sample,
        train: &Sample,
        parts: Option<&Parts>,
    ) -> Result<Replicates, String> {
        let own = nearest_others(train, parts)?;
        counted(generated, train, parts, 1, |found, division_and_way| {
            found
                .first()
                .is_some_and(|(distance, at)| own[*at].of(division_and_way) < *distance)
        })
    }
}

impl Statistic for Memorization {
    fn check(&self, generated: usize, reference: usize) -> Result<(), String> {
        enough("memorization", generated, reference)?;
        let fine = self.ratio > 0.0 && self.ratio <= 1.0;
        fine.then_some(()).ok_or_else(|| {
            format!(
                "memorization: ratio is {}, expected above 0 and up to 1",
                self.ratio
            )
        })
    }

    fn compared(&self) -> Role {
        Role::Train
    }

    fn biased(&self) -> bool {
        false
    }

    fn compute(
        &self,
        generated: &Sample,
        reference: &Sample,
        key: Key,
    ) -> Result<Estimate, String> {
        let parts = Parts::drawn(generated.len(), reference.len(), LEAST, key);
        let found = self.replicates(generated, reference, parts.as_ref())?;
        Ok(Estimate {
            value: found.whole(),
            stderr: found.stderr(),
            n: generated.len(),
        })
    }

    fn least_part(&self) -> usize {
        LEAST
    }

    fn on_parts(
        &self,
        generated: &Sample,
        reference: &Sample,
        parts: &Parts,
    ) -> Result<Option<Replicates>, String> {
        self.replicates(generated, reference, Some(parts)).map(Some)
    }

    fn notes(&self, sets: Sets<&Sample>) -> Vec<String> {
        notes::copies_that_hide(sets.of(Role::Train))
            .into_iter()
            .collect()
    }
}

impl Memorization {
    fn replicates(
        &self,
        generated: &Sample,
        train: &Sample,
        parts: Option<&Parts>,
    ) -> Result<Replicates, String> {
        let square = self.ratio * self.ratio;
        counted(generated, train, parts, 2, |found, _| {
            let [first, second] = [0, 1].map(|i| found.get(i).map_or(f64::INFINITY, |(d, _)| *d));
            first < square * second
        })
    }
}

fn enough(name: &str, generated: usize, reference: usize) -> Result<(), String> {
    let fine = generated >= 2 && reference >= 3;
    fine.then_some(()).ok_or_else(|| {
        format!(
            "{name}: {generated} generated and {reference} reference samples, expected at least 2 generated and 3 reference samples"
        )
    })
}

/// A squared distance among all samples and, by division and way, among those of each part.
struct Own {
    whole: f64,
    parts: [[f64; WAYS]; DIVISIONS],
}

impl Own {
    fn of(&self, division_and_way: Option<(usize, usize)>) -> f64 {
        division_and_way.map_or(self.whole, |(division, way)| self.parts[division][way])
    }
}

/// Neighbours that are at hand at first: a quarter's nearest is hardly ever farther down.
const AT_HAND: usize = 32;

/// How far every sample lies from its nearest other.
fn nearest_others(train: &Sample, parts: Option<&Parts>) -> Result<Vec<Own>, String> {
    let rows = train.all()?;
    let found = pairs::by_rows(rows, rows, |first, distances| {
        let of_row = |(i, row): (usize, _)| {
            let mut nearest = Nearest::of(
                row,
                Some(first + i),
                if parts.is_some() { AT_HAND } else { 1 },
            );
            let distance = |found: Option<(f64, usize)>| found.map_or(f64::INFINITY, |(d, _)| d);
            let mut own = Own {
                whole: distance(nearest.get(0)),
                parts: [[0.0; WAYS]; DIVISIONS],
            };
            if let Some(quarters) = parts.map(|parts| &parts.reference) {
                nearest.within(&quarters[first + i], quarters, 1, |division, way, found| {
                    own.parts[division][way] = distance(found.first().copied());
                });
            }
            own
        };
        distances
            .rows()
            .into_iter()
            .enumerate()
            .map(of_row)
            .collect::<Vec<_>>()
    });
    Ok(found.into_iter().flatten().collect())
}

/// The share of generated samples that `yes` is said to, of whose `count` nearest training samples: of all, or of those
/// in one part, which is then named by its division and way.
fn counted(
    generated: &Sample,
    train: &Sample,
    parts: Option<&Parts>,
    count: usize,
    yes: impl Fn(&[(f64, usize)], Option<(usize, usize)>) -> bool + Sync,
) -> Result<Replicates, String> {
    let quarters = parts.map(|parts| &parts.reference[..]);
    let yes = |found: &[(f64, usize)], of| i8::from(yes(found, of));
    let found = pairs::by_rows(generated.all()?, train.all()?, |_, distances| {
        let term = |row| {
            let mut nearest = Nearest::of(row, None, if parts.is_some() { AT_HAND } else { count });
            let all: Vec<(f64, usize)> = (0..count).map_while(|i| nearest.get(i)).collect();
            let in_parts = quarters.map(|quarters| {
                std::array::from_fn(|division| {
                    in_parts(&mut nearest, quarters, division, count, &yes)
                })
            });
            Term {
                whole: yes(&all, None),
                parts: in_parts,
            }
        };
        distances.rows().into_iter().map(term).collect::<Vec<_>>()
    });
    Ok(Replicates::Terms(generated.as_they_came(&found.concat())))
}

/// What is said of the nearest training samples in each part of one division.
fn in_parts(
    nearest: &mut Nearest,
    quarters: &[Quarters],
    division: usize,
    count: usize,
    yes: &impl Fn(&[(f64, usize)], Option<(usize, usize)>) -> i8,
) -> [i8; PARTS] {
    let mut found: [Vec<(f64, usize)>; PARTS] = Default::default();
    let (mut i, mut open) = (0, PARTS);
    while open > 0 {
        let Some((distance, at)) = nearest.get(i) else {
            break;
        };
        for way in 0..WAYS {
            let list = &mut found[part(quarters[at][division], way)];
            if list.len() < count {
                list.push((distance, at));
                open -= usize::from(list.len() == count);
            }
        }
        i += 1;
    }
    let way = |part: usize| if part < 4 { 0 } else { (part - 2) / 2 };
    std::array::from_fn(|part| yes(&found[part], Some((division, way(part)))))
}

#[cfg(test)]
mod tests {
    use ndarray::{Array2, concatenate};

    use super::*;
    use crate::metric::testing::{self, normal};

    fn both(x: &Array2<f64>, y: &Array2<f64>) -> [f64; 2] {
        let authenticity = testing::compute(&Authenticity {}, x, y, 0)
            .expect("fine")
            .value;
        [
            authenticity,
            testing::compute(&Memorization::default(), x, y, 0)
                .expect("fine")
                .value,
        ]
    }

    #[test]
    fn copies_are_neither_authentic_nor_overlooked() {
        let (train, fresh) = (normal(1, 50, 8, 0.0, 1.0), normal(2, 30, 8, 9.0, 1.0));
        let copies = train.slice(ndarray::s![..30, ..]).to_owned() + 1e-3;
        assert_eq!(both(&copies, &train), [0.0, 1.0]);
        assert_eq!(both(&fresh, &train), [1.0, 0.0]);
        let half = concatenate![ndarray::Axis(0), copies, fresh];
        assert_eq!(both(&half, &train), [0.5, 0.5]);
    }

    #[test]
    fn for_a_smooth_law_memorization_is_the_ratio_to_the_dimension() {
        let (x, y) = (normal(1, 3000, 2, 0.0, 1.0), normal(2, 4000, 2, 0.0, 1.0));
        let got = testing::compute(&Memorization { ratio: 0.5 }, &x, &y, 0).expect("fine");
        assert!(
            (got.value - 0.25).abs() < 4.0 * got.stderr.expect("many"),
            "{got:?}"
        );
    }

    #[test]
    fn copies_within_the_training_data_hide_what_is_copied_and_are_noted() {
        let train = normal(1, 50, 8, 0.0, 1.0);
        let copies = train.slice(ndarray::s![..30, ..]).to_owned() + 1e-3;
        let twice = concatenate![ndarray::Axis(0), train, train.slice(ndarray::s![..20, ..])];
        let [authenticity, memorization] = both(&copies, &twice);
        assert!(
            authenticity == 20.0 / 30.0 && memorization == 10.0 / 30.0,
            "{authenticity} {memorization}"
        );
        let (x, y) = (
            Sample::new(&copies).expect("finite"),
            Sample::new(&twice).expect("finite"),
        );
        for metric in [&Authenticity {} as &dyn Statistic, &Memorization::default()] {
            let notes = metric.notes(Sets::two(&x, &y));
            assert!(
                notes.len() == 1 && notes[0].contains("40 of 70"),
                "{notes:?}"
            );
            assert!(metric.notes(Sets::two(&y, &x)).is_empty());
        }
    }

    /// Of samples that are copied now and then, from training data that are drawn anew each time.
    #[test]
    fn the_standard_error_is_the_spread_over_repeated_draws_of_copies() {
        use crate::num::key::Purpose;
        let draw = |i: u64| {
            let (train, mut x) = (
                normal(2 * i, 80, 6, 0.0, 1.0),
                normal(2 * i + 1, 100, 6, 0.0, 1.0),
            );
            let chosen = Key { seed: i }.uniform(Purpose::Check, 1, 0, 200);
            for (j, mut row) in x
                .rows_mut()
                .into_iter()
                .enumerate()
                .filter(|(j, _)| chosen[*j] < 0.2)
            {
                row *= 0.1;
                row += &train.row((80.0 * chosen[100 + j]) as usize);
            }
            (x, train)
        };
        for metric in [&Authenticity {} as &dyn Statistic, &Memorization::default()] {
            testing::honest(0.15, |i| {
                let (x, train) = draw(i);
                testing::compute(metric, &x, &train, i).expect("fine")
            });
        }
    }
}
