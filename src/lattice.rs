//! Float data that lie on a lattice: quantized values that nobody dequantized.
//!
//! The density of a continuous model at the points of a lattice says nothing about the data: a model that puts a
//! narrow peak on every level has a likelihood without bound (Theis, van den Oord & Bethge, "A note on the
//! evaluation of generative models", 2016, section 3.1). Only lattices that quantization leaves are looked for,
//! so that a grid of points, a constant array or hand-written halves and quarters are no reason to refuse.

use std::collections::HashSet;

use ndarray::ArrayD;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::model::card::DataSpec;

/// What is done about float data on a lattice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(transform = crate::registry::Aliases(&[]))]
pub enum Lattice {
    #[default]
    Refuse,
    /// They are taken as they are.
    Allow,
}

/// Equally spaced values low, low + step, …, low + count·step, and how much must lie on them.
struct Candidate {
    what: String,
    low: f64,
    step: f64,
    count: f64,
    /// Numbers in all, and different ones among them, below which chance or habit explains as much.
    least: (usize, usize),
    /// Whether some value must be there twice, since a ramp may lie on such a lattice as well.
    twice: bool,
}

/// More different values than any quantization that is looked for.
const MOST: usize = 1 << 16;

/// The lattice that all values lie on, in words; `None` where they look continuous.
pub fn found(values: &ArrayD<f64>, data: Option<DataSpec>) -> Option<String> {
    let different = different(values)?;
    // Constant samples may be meant: it takes an image to be quantized.
    let varied = values.outer_iter().any(|s| s.iter().any(|v| *v != s.iter().copied().next().unwrap_or(*v)));
    if !varied {
        return None;
    }
    let counts = (values.len(), different.len());
    let enough = |c: &Candidate| counts.0 >= c.least.0 && counts.1 >= c.least.1 && !(c.twice && counts.0 == counts.1);
    let on = |c: &Candidate| {
        // What float32 makes of one step.
        let slack = 4.0 * f64::from(f32::EPSILON) * (c.low.abs() / c.step + c.count);
        let place = |v: f64| (v - c.low) / c.step;
        let sits = |v: &f64| {
            let k = place(*v);
            (k - k.round()).abs() <= slack.max(1e-6) && (-0.5..=c.count + 0.5).contains(&k)
        };
        slack < 0.05 && different.iter().all(sits)
    };
    let known = candidates(data).into_iter().find(|c| enough(c) && on(c)).map(|c| c.what);
    known.or_else(|| spaced(counts, &different))
}

/// The different values, sorted; `None` where there are too many to be levels.
fn different(values: &ArrayD<f64>) -> Option<Vec<f64>> {
    let mut seen = HashSet::new();
    for v in values {
        // −0 and 0 are one value.
        if seen.insert((v + 0.0).to_bits()) && seen.len() > MOST {
            return None;
        }
    }
    let mut sorted: Vec<f64> = seen.into_iter().map(f64::from_bits).collect();
    sorted.sort_by(f64::total_cmp);
    Some(sorted)
}

fn candidates(data: Option<DataSpec>) -> Vec<Candidate> {
    let mut all = Vec::new();
    let mut add = |what: String, low: f64, step: f64, count: f64, least: (usize, usize)| {
        // Nobody writes 255ths by hand: those need no repeats.
        let twice = least.0 > 8;
        all.push(Candidate { what, low, step, count, least, twice });
    };
    if let Some(DataSpec { range: [low, high], levels: Some(levels) }) = data {
        let (last, width) = (f64::from(levels) - 1.0, high - low);
        // A handful of numbers may be halves and quarters by habit; nobody writes 255ths.
        let least = if levels >= 64 { (8, 4) } else { (64, 4) };
        add(format!("the card's {levels} levels, {low} + {width}·k/{last}"), low, width / last, last, least);
        let cell = width / f64::from(levels);
        add(format!("the card's {levels} levels, {low} + {width}·k/{levels}"), low, cell, last + 1.0, (64, 8));
        let centre = low + cell / 2.0;
        add(format!("the centres of the card's {levels} levels"), centre, cell, last, (64, 8));
        add(format!("the whole numbers from 0 to {last}"), 0.0, 1.0, last, (16, 4));
    }
    add("the 256 values k/255 from 0 to 1".to_owned(), 0.0, 1.0 / 255.0, 255.0, (8, 4));
    add("the 256 values 2k/255 − 1 from −1 to 1".to_owned(), -1.0, 2.0 / 255.0, 255.0, (8, 4));
    add("the whole numbers from 0 to 255".to_owned(), 0.0, 1.0, 255.0, (256, 32));
    all
}

/// Any few equally spaced values, where there are so many numbers that it cannot be a grid or an example.
fn spaced(counts: (usize, usize), different: &[f64]) -> Option<String> {
    if counts.0 < 1 << 14 || !(4..=256).contains(&counts.1) {
        return None;
    }
    let step = different.windows(2).map(|p| p[1] - p[0]).fold(f64::INFINITY, f64::min);
    let largest = different.iter().fold(0.0, |a: f64, v| a.max(v.abs()));
    let slack = 8.0 * f64::from(f32::EPSILON) * largest / step + 1e-4;
    let place = |v: &f64| (v - different[0]) / step;
    let even =
        slack < 0.02 && different.iter().all(|v| (place(v) - place(v).round()).abs() <= slack * place(v).max(1.0));
    (even && place(&different[counts.1 - 1]) < 1024.0)
        .then(|| format!("{} equally spaced values, {step:.6} apart", counts.1))
}

#[cfg(test)]
mod tests {
    use ndarray::Array2;

    use super::*;
    use crate::num::key::{Key, Purpose};

    fn bytes(range: [f64; 2]) -> Option<DataSpec> {
        Some(DataSpec { range, levels: Some(256) })
    }

    fn whole(rows: usize, d: usize, levels: f64) -> Array2<f64> {
        let u = Key { seed: 4 }.uniform(Purpose::Check, 0, 0, rows * d);
        u.mapv(|u| (u * levels).floor()).into_shape_with_order((rows, d)).expect("its size")
    }

    /// As a float32 file holds it.
    fn stored(x: Array2<f64>, f: impl Fn(f64) -> f64) -> ArrayD<f64> {
        x.mapv(|v| f64::from(f(v) as f32)).into_dyn()
    }

    #[test]
    fn quantized_floats_are_found_on_every_usual_scale() {
        let x = || whole(4, 12, 256.0);
        for card in [bytes([-1.0, 1.0]), bytes([0.0, 1.0]), None] {
            assert!(found(&stored(x(), |v| v / 127.5 - 1.0), card).is_some(), "{card:?}");
            assert!(found(&stored(x(), |v| v / 255.0), card).is_some(), "{card:?}");
            assert!(found(&x().mapv(|v| v / 255.0).into_dyn(), card).is_some(), "{card:?}");
        }
        assert!(found(&stored(x(), |v| v), bytes([-1.0, 1.0])).expect("whole").contains("whole numbers"));
        assert!(found(&stored(whole(8, 64, 256.0), |v| v), None).is_some());
        let range = [-1.0, 1.0];
        assert!(found(&stored(whole(8, 64, 256.0), |v| v / 128.0 - 1.0), bytes(range)).is_some());
        assert!(found(&stored(whole(8, 64, 256.0), |v| (v + 0.5) / 128.0 - 1.0), bytes(range)).is_some());
        let digits = Some(DataSpec { range, levels: Some(17) });
        assert!(found(&stored(whole(2, 64, 17.0), |v| v / 8.0 - 1.0), digits).expect("17").contains("17 levels"));
        let many = Some(DataSpec { range: [0.0, 1.0], levels: Some(65536) });
        assert!(found(&stored(whole(4, 64, 65536.0), |v| v / 65535.0), many).is_some());
        assert!(found(&stored(whole(300, 64, 5.0), |v| 0.3 * v - 0.7), None).expect("five").contains("5 equally"));
    }

    #[test]
    fn data_that_are_not_quantized_pass() {
        let key = Key { seed: 1 };
        let cards = [None, bytes([-1.0, 1.0]), bytes([0.0, 1.0]), Some(DataSpec { range: [-1.0, 1.0], levels: None })];
        for card in cards.into_iter().chain([Some(DataSpec { range: [-1.0, 1.0], levels: Some(17) })]) {
            let passes = |x: ArrayD<f64>| assert_eq!(found(&x, card), None, "{card:?}\n{x}");
            for (rows, d) in [(1, 1), (1, 2), (2, 2), (5, 3), (64, 64), (300, 64)] {
                let normal = key.normal(Purpose::Check, 0, 0, rows * d);
                let normal = normal.into_shape_with_order((rows, d)).expect("its size");
                passes(stored(normal.clone(), |v| v));
                passes(normal.into_dyn());
                passes(Array2::zeros((rows, d)).into_dyn());
                passes(Array2::ones((rows, d)).into_dyn());
                // Some coordinates rest, the rest is continuous.
                passes(
                    Array2::from_shape_fn((rows, d), |(i, j)| if j > 0 { 0.5 } else { (i as f64).sin() }).into_dyn(),
                );
            }
            // Properly dequantized data, corners, constant images, a grid of the plane, written eighths, a ramp.
            let u = key.uniform(Purpose::Check, 1, 0, 64 * 64).into_shape_with_order((64, 64)).expect("its size");
            passes(stored((whole(64, 64, 256.0) + u) / 256.0, |v| 2.0 * v - 1.0));
            passes(Array2::from_shape_fn((8, 64), |(i, j)| if (i + j) % 2 == 0 { 1.0 } else { -1.0 }).into_dyn());
            passes(Array2::from_shape_fn((9, 64), |(i, _)| i as f64 / 4.0 - 1.0).into_dyn());
            passes(Array2::from_shape_fn((289, 2), |(i, j)| [i % 17, i / 17][j] as f64 / 4.0 - 2.0).into_dyn());
            passes(Array2::from_shape_fn((64, 64), |(i, j)| ((i * 64 + j) * 37 % 23) as f64 / 8.0 - 1.5).into_dyn());
            passes(Array2::from_shape_fn((4, 64), |(i, j)| (i * 64 + j) as f64 / 256.0).into_dyn());
        }
        let written = ndarray::array![[0.5, -1.0], [0.25, 0.0], [1.0, -0.75], [0.125, 0.5]];
        assert_eq!(found(&written.into_dyn(), bytes([-1.0, 1.0])), None);
    }
}
