//! Checks of data whose bits per dimension would not bound anything: quantized floats without
//! dequantization, and numbers outside the card's range.
//!
//! The density of a continuous model at the points of a lattice says nothing about the data. A
//! model with a narrow peak at every level has an unbounded likelihood (Theis, van den Oord &
//! Bethge, "A note on the evaluation of generative models", 2016, section 3.1).
//!
//! With any card, the checks look for the lattices that quantization usually leaves. A card that
//! names `levels` promises bits per dimension. Its data must be integers below the levels, or
//! dequantized floats in the range. For such a card the checks also look for repeated values, any
//! equally spaced values and half precision. They accept a grid of points, a constant array, and
//! halves and quarters written by hand.

use crate::num::stored_values::StoredValues;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::model::card::DataSpec;

mod affine;
mod range;
mod repeats;
mod standard_lattices;
mod subsample;

use subsample::Subsample;

/// What to do with data whose bits per dimension would not bound anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(transform = crate::registry::Aliases(&[]))]
pub enum LatticePolicy {
    /// Refuses the data.
    #[default]
    Refuse,
    /// Takes the data as they are. The column `bound` then says `none`.
    Allow,
}

/// A description of the lattice on which all values lie. `None` if the values look continuous.
///
/// `values` holds the samples along its first axis, and `shape` is the shape of one sample.
#[cfg(test)]
fn detect_lattice(
    values: &StoredValues,
    shape: &[usize],
    data: Option<DataSpec>,
) -> Option<String> {
    detect_lattice_in_subsample(&Subsample::from_array(values, shape), data)
}

/// A description of the lattice on which all values of a subsample lie. `None` if they look
/// continuous.
fn detect_lattice_in_subsample(subsample: &Subsample, data: Option<DataSpec>) -> Option<String> {
    // Constant samples may be intentional and do not show quantization.
    if !subsample.any_sample_varies() {
        return None;
    }
    let known = standard_lattices::detect_standard_lattice(subsample, data);
    let Some(DataSpec {
        range,
        levels: Some(levels),
    }) = data
    else {
        return known;
    };
    known
        .or_else(|| repeats::detect_two_values(subsample))
        .or_else(|| repeats::detect_half_precision(subsample))
        .or_else(|| affine::detect_affine_lattice(subsample))
        .or_else(|| {
            repeats::detect_repeated_values(
                subsample,
                range,
                (range[1] - range[0]) / f64::from(levels),
            )
        })
}

/// Why the log-likelihood of some data does not bound anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum DataMismatch {
    /// The floats were quantized and not dequantized. The text says how this shows.
    Quantized(String),
    /// The floats are outside the card's range, or the integers have another depth. The text is a
    /// clause with both ranges.
    OutOfRange(String),
}

/// Why floats do not match the card's `data`. `None` if they match.
///
/// `values` holds the samples along its first axis, and `shape` is the shape of one sample.
pub(crate) fn float_data_mismatch(
    values: &StoredValues,
    shape: &[usize],
    data: Option<DataSpec>,
) -> Option<DataMismatch> {
    let subsample = Subsample::from_array(values, shape);
    let quantized = detect_lattice_in_subsample(&subsample, data).map(DataMismatch::Quantized);
    quantized.or_else(|| {
        let DataSpec { range, levels } = data?;
        range::float_range_mismatch(values, &subsample, range, levels?)
            .map(DataMismatch::OutOfRange)
    })
}

/// Why integers do not match the card's `data`. `None` if they match.
///
/// `bytes` says that the file's number type holds only 0 to 255.
pub(crate) fn integer_data_mismatch(
    values: &StoredValues,
    bytes: bool,
    data: Option<DataSpec>,
) -> Option<DataMismatch> {
    range::integer_depth_mismatch(values, bytes, data?.levels?).map(DataMismatch::OutOfRange)
}

#[cfg(test)]
mod tests {
    use ndarray::{Array2, ArrayD};

    use super::{detect_lattice as found_in, *};
    use crate::num::key::{Purpose, RngKey};

    fn found(values: &ArrayD<f64>, data: Option<DataSpec>) -> Option<String> {
        found_in(&values.clone().into(), &values.shape()[1..], data)
    }

    fn bytes(range: [f64; 2]) -> Option<DataSpec> {
        Some(DataSpec {
            range,
            levels: Some(256),
        })
    }

    fn whole(rows: usize, d: usize, levels: f64) -> Array2<f64> {
        let u = RngKey { seed: 4 }.uniform(Purpose::Check, 0, 0, rows * d);
        u.mapv(|u| (u * levels).floor())
            .into_shape_with_order((rows, d))
            .expect("its size")
    }

    /// The numbers of `f`, rounded to float32 as a file holds them.
    fn stored(x: Array2<f64>, f: impl Fn(f64) -> f64) -> ArrayD<f64> {
        x.mapv(|v| f64::from(f(v) as f32)).into_dyn()
    }

    #[test]
    fn lattice_is_detected_on_every_usual_scale() {
        let x = || whole(4, 12, 256.0);
        for card in [bytes([-1.0, 1.0]), bytes([0.0, 1.0]), None] {
            assert!(
                found(&stored(x(), |v| v / 127.5 - 1.0), card).is_some(),
                "{card:?}"
            );
            assert!(
                found(&stored(x(), |v| v / 255.0), card).is_some(),
                "{card:?}"
            );
            assert!(
                found(&x().mapv(|v| v / 255.0).into_dyn(), card).is_some(),
                "{card:?}"
            );
        }
        assert!(
            found(&stored(x(), |v| v), bytes([-1.0, 1.0]))
                .expect("whole")
                .contains("whole numbers")
        );
        assert!(found(&stored(whole(8, 64, 256.0), |v| v), None).is_some());
        let range = [-1.0, 1.0];
        assert!(
            found(
                &stored(whole(8, 64, 256.0), |v| v / 128.0 - 1.0),
                bytes(range)
            )
            .is_some()
        );
        assert!(
            found(
                &stored(whole(8, 64, 256.0), |v| (v + 0.5) / 128.0 - 1.0),
                bytes(range)
            )
            .is_some()
        );
        let digits = Some(DataSpec {
            range,
            levels: Some(17),
        });
        assert!(
            found(&stored(whole(2, 64, 17.0), |v| v / 8.0 - 1.0), digits)
                .expect("17")
                .contains("17 levels")
        );
        let many = Some(DataSpec {
            range: [0.0, 1.0],
            levels: Some(65536),
        });
        assert!(found(&stored(whole(4, 64, 65536.0), |v| v / 65535.0), many).is_some());
        assert!(
            found(&stored(whole(300, 64, 5.0), |v| 0.3 * v - 0.7), None)
                .expect("five")
                .contains("5 equally")
        );
    }

    #[test]
    fn unquantized_data_pass_the_lattice_check() {
        let key = RngKey { seed: 1 };
        let cards = [
            None,
            bytes([-1.0, 1.0]),
            bytes([0.0, 1.0]),
            Some(DataSpec {
                range: [-1.0, 1.0],
                levels: None,
            }),
        ];
        for card in cards.into_iter().chain([Some(DataSpec {
            range: [-1.0, 1.0],
            levels: Some(17),
        })]) {
            let passes = |x: ArrayD<f64>| assert_eq!(found(&x, card), None, "{card:?}");
            for (rows, d) in [(1, 1), (1, 2), (2, 2), (5, 3), (64, 64), (300, 64)] {
                let normal = key.normal(Purpose::Check, 0, 0, rows * d);
                let normal = normal.into_shape_with_order((rows, d)).expect("its size");
                passes(stored(normal.clone(), |v| v));
                passes(normal.into_dyn());
                passes(Array2::zeros((rows, d)).into_dyn());
                passes(Array2::ones((rows, d)).into_dyn());
                // Some coordinates are constant, and the others are continuous.
                passes(
                    Array2::from_shape_fn(
                        (rows, d),
                        |(i, j)| if j > 0 { 0.5 } else { (i as f64).sin() },
                    )
                    .into_dyn(),
                );
            }
            // Dequantized data, corners, constant images, a grid in the plane, eighths, and a ramp.
            let u = key
                .uniform(Purpose::Check, 1, 0, 64 * 64)
                .into_shape_with_order((64, 64))
                .expect("its size");
            passes(stored((whole(64, 64, 256.0) + u) / 256.0, |v| {
                2.0 * v - 1.0
            }));
            passes(
                Array2::from_shape_fn((8, 64), |(i, j)| if (i + j) % 2 == 0 { 1.0 } else { -1.0 })
                    .into_dyn(),
            );
            passes(Array2::from_shape_fn((9, 64), |(i, _)| i as f64 / 4.0 - 1.0).into_dyn());
            passes(
                Array2::from_shape_fn((289, 2), |(i, j)| [i % 17, i / 17][j] as f64 / 4.0 - 2.0)
                    .into_dyn(),
            );
            passes(
                Array2::from_shape_fn((64, 64), |(i, j)| {
                    ((i * 64 + j) * 37 % 23) as f64 / 8.0 - 1.5
                })
                .into_dyn(),
            );
            passes(Array2::from_shape_fn((4, 64), |(i, j)| (i * 64 + j) as f64 / 256.0).into_dyn());
        }
        let written = ndarray::array![[0.5, -1.0], [0.25, 0.0], [1.0, -0.75], [0.125, 0.5]];
        assert_eq!(found(&written.into_dyn(), bytes([-1.0, 1.0])), None);
    }

    /// Images of random bytes.
    fn images(n: usize, shape: [usize; 3], seed: u64) -> ArrayD<f64> {
        let u = RngKey { seed }.uniform(Purpose::Check, 0, 0, n * shape.iter().product::<usize>());
        let whole = u.mapv(|u| (u * 256.0).floor());
        whole
            .into_shape_with_order(vec![n, shape[0], shape[1], shape[2]])
            .expect("its size")
    }

    fn with(mut x: ArrayD<f64>, f: impl Fn(f64, &[usize]) -> f64) -> ArrayD<f64> {
        x.indexed_iter_mut()
            .for_each(|(at, v)| *v = f64::from(f(*v, ndarray::Dimension::slice(&at)) as f32));
        x
    }

    /// Everything that a card with levels must refuse, and the words that say why.
    #[test]
    fn undequantized_data_are_refused_under_levels() {
        use half::{bf16, f16};
        const MEAN: [f64; 3] = [0.485, 0.456, 0.406];
        const STD: [f64; 3] = [0.229, 0.224, 0.225];
        let noise = |at: &[usize]| {
            let i = at.iter().fold(7u64, |a, i| {
                a.wrapping_mul(1_000_003).wrapping_add(*i as u64)
            });
            RngKey { seed: 9 }.uniform(Purpose::Check, i, 0, 1)[0]
        };
        let dequantized = move |v: f64, at: &[usize]| 2.0 * (v + noise(at)) / 256.0 - 1.0;
        for (n, shape) in [(2, [3, 4, 4]), (20, [3, 8, 8]), (4, [1, 28, 28])] {
            let x = || images(n, shape, 3);
            let table: Vec<(&str, ArrayD<f64>)> = vec![
                (
                    "equally spaced",
                    with(x(), |v, at| (v / 255.0 - MEAN[at[1]]) / STD[at[1]]),
                ),
                (
                    "equally spaced",
                    with(x(), |v, _| (v / 255.0 - 0.1307) / 0.3081),
                ),
                // In float64 throughout, as NumPy computes it.
                (
                    "equally spaced",
                    x().mapv(|v| (v / 255.0 - 0.1307) / 0.3081),
                ),
                // The mean and deviation of each image, and of each channel of an image.
                (
                    "equally spaced",
                    with(x(), |v, at| {
                        (v / 255.0 - 0.4 - 0.01 * at[0] as f64) / (0.2 + 0.003 * at[0] as f64)
                    }),
                ),
                (
                    "rounded to bfloat16",
                    with(x(), |v, at| bf16::from_f64(dequantized(v, at)).to_f64()),
                ),
                (
                    "rounded to float16",
                    with(x(), |v, at| f16::from_f64(dequantized(v, at)).to_f64()),
                ),
                (
                    "rounded to float16",
                    with(x(), |v, at| {
                        f16::from_f64((v / 255.0 - MEAN[at[1]]) / STD[at[1]]).to_f64()
                    }),
                ),
                (
                    "spaced",
                    with(x(), |v, at| {
                        (2.0 * (256.0 * v + (256.0 * noise(at)).floor()) / 65535.0) - 1.0
                    }),
                ),
                (
                    "spaced",
                    with(x(), |v, at| (dequantized(v, at) * 1e4).round() / 1e4),
                ),
                ("two values", with(x(), |v, _| f64::from(v > 200.0))),
                (
                    "two values",
                    with(x(), |v, _| if v > 99.0 { 1.0 } else { -1.0 }),
                ),
                (
                    "",
                    with(x(), |v, _| f64::from(v > 90.0) + f64::from(v > 200.0) - 1.0),
                ),
            ];
            for (why, x) in table {
                let said = found(&x, bytes([-1.0, 1.0]));
                assert!(
                    said.as_deref().is_some_and(|s| s.contains(why)),
                    "{why}: {shape:?} {said:?}"
                );
            }
        }
        // Only many numbers show these: the values are on no lattice but repeat.
        let x = || images(20, [3, 8, 8], 3);
        for (what, x) in [
            ("gamma", with(x(), |v, _| 2.0 * (v / 255.0).powf(2.2) - 1.0)),
            (
                "logit",
                with(x(), |v, _| {
                    (0.05 + 0.9 * v / 256.0).ln() - (0.95 - 0.9 * v / 256.0).ln()
                }),
            ),
            (
                "black stays black",
                with(
                    x(),
                    |v, at| if v < 200.0 { -1.0 } else { dequantized(v, at) },
                ),
            ),
        ] {
            assert!(
                found(&x, bytes([-1.0, 1.0])).is_some_and(|s| s.contains("different")),
                "{what}"
            );
        }
        // The mean and deviation of each pixel.
        let pixel = |v: f64, at: &[usize]| {
            let i = (at[1] * 31 + at[2] * 7 + at[3]) as f64;
            (v / 255.0 - 0.3 - 0.2 * (0.7 * i).sin()) / (0.25 + 0.05 * (1.3 * i).cos())
        };
        for n in [4, 20] {
            let said = found(&with(images(n, [3, 8, 8], 3), pixel), bytes([-1.0, 1.0]))
                .expect("a lattice");
            assert!(said.contains("each position"), "{n}: {said}");
        }
        // One channel is a mask, or was not dequantized.
        let x = with(images(20, [4, 8, 8], 3), |v, at| {
            if at[1] < 3 {
                dequantized(v, at)
            } else {
                v / 99.0
            }
        });
        assert!(
            found(&x, bytes([-1.0, 1.0]))
                .expect("a lattice")
                .contains("channel 3")
        );
        let x = with(images(20, [8, 8, 3], 3), |v, at| {
            if at[3] != 1 {
                dequantized(v, at)
            } else {
                v / 99.0
            }
        });
        assert!(
            found(&x, bytes([-1.0, 1.0]))
                .expect("a lattice")
                .contains("channel 1")
        );
    }

    /// Continuous data of many kinds, which a card with levels accepts.
    #[test]
    fn continuous_data_pass_the_lattice_check() {
        let key = RngKey { seed: 11 };
        let uniform = |n: usize| key.uniform(Purpose::Check, 2, 0, n);
        for (n, shape) in [
            (1, [1, 2, 2]),
            (2, [3, 4, 4]),
            (20, [3, 8, 8]),
            (60, [1, 28, 28]),
            (300, [2, 1, 1]),
        ] {
            let count = n * shape.iter().product::<usize>();
            let u = uniform(count)
                .into_shape_with_order(vec![n, shape[0], shape[1], shape[2]])
                .expect("its size");
            let noise = |at: &[usize]| u[at];
            let x = || images(n, shape, 5);
            for levels in [2, 17, 256, 65536] {
                let card = Some(DataSpec {
                    range: [-1.0, 1.0],
                    levels: Some(levels),
                });
                let passes = |what: &str, x: ArrayD<f64>| {
                    assert_eq!(found(&x, card), None, "{what} {levels} {shape:?}")
                };
                let scale = f64::from(levels) / 256.0;
                let cells = |v: f64, at: &[usize]| (v * scale).floor() + noise(at);
                passes(
                    "dequantized",
                    with(x(), |v, at| 2.0 * cells(v, at) / f64::from(levels) - 1.0),
                );
                // A dark background, where a cell contains only few float32 numbers.
                passes(
                    "dark",
                    with(x(), |v, at| {
                        2.0 * cells(if v < 230.0 { 0.0 } else { v }, at) / f64::from(levels) - 1.0
                    }),
                );
                passes(
                    "bright",
                    with(x(), |v, at| {
                        2.0 * cells(if v < 230.0 { 255.99 } else { v }, at) / f64::from(levels)
                            - 1.0
                    }),
                );
                // With the noise added in float32, as the usual programs do it.
                passes(
                    "float32 throughout",
                    with(x(), |v, at| {
                        let sum = (v * scale).floor() as f32 + noise(at) as f32;
                        f64::from(sum / levels as f32 * 2.0 - 1.0)
                    }),
                );
                passes(
                    "dequantized and standardized",
                    with(x(), |v, at| ((v + noise(at)) / 256.0 - 0.485) / 0.229),
                );
                passes(
                    "a logit",
                    with(x(), |v, at| {
                        let p = 0.05 + 0.9 * (v + noise(at)) / 256.0;
                        (p / (1.0 - p)).ln()
                    }),
                );
                passes(
                    "with a frame",
                    with(x(), |v, at| {
                        if at[2] == 0 {
                            -1.0
                        } else {
                            (v + noise(at)) / 128.0 - 1.0
                        }
                    }),
                );
                passes(
                    "clipped",
                    with(x(), |v, at| {
                        ((v + noise(at)) / 100.0 - 1.2).clamp(-1.0, 1.0)
                    }),
                );
                passes(
                    "smooth",
                    with(x(), |_, at| {
                        (0.1 + 0.7321 * at[0] as f64
                            + 0.3271 * at[2] as f64
                            + 0.0117 * at[3] as f64)
                            .sin()
                    }),
                );
                // Repeated samples, mirrored samples, and grey images with three channels.
                passes(
                    "again",
                    with(x(), |v, at| {
                        (v + 17.0 * u[[at[0] % 2, at[1], at[2], at[3]]]) / 99.0 - v / 99.0
                    }),
                );
                passes(
                    "mirrored",
                    with(x(), |_, at| {
                        2.0 * u[[at[0], at[1], at[2], at[3].min(shape[2] - 1 - at[3])]] - 1.0
                    }),
                );
                passes(
                    "grey",
                    with(x(), |_, at| 2.0 * u[[at[0], 0, at[2], at[3]]] - 1.0),
                );
                passes(
                    "six decimals",
                    with(x(), |v, at| {
                        (((v + noise(at)) / 128.0 - 1.0) * 1e6).round() / 1e6
                    }),
                );
            }
            // Tables with repeated values and few decimals, and molecules with fixed atoms, have
            // cards without levels. From 16384 numbers on, a few equally spaced values are refused
            // with any card.
            if count >= 1 << 14 {
                continue;
            }
            for card in [
                None,
                Some(DataSpec {
                    range: [-1.0, 1.0],
                    levels: None,
                }),
            ] {
                let passes = |what: &str, x: ArrayD<f64>| {
                    assert_eq!(found(&x, card), None, "{what} {shape:?}")
                };
                passes("one decimal", with(x(), |v, _| (v / 20.0).round() / 10.0));
                passes("ages", with(x(), |v, _| 18.0 + (v / 8.0).floor()));
                passes(
                    "standardized",
                    with(x(), |v, at| ((v / 9.0).floor() - 11.0 * at[1] as f64) / 7.3),
                );
                passes(
                    "float16",
                    with(x(), |v, at| {
                        half::f16::from_f64((v + noise(at)) / 99.0).to_f64()
                    }),
                );
                passes(
                    "fixed atoms",
                    with(x(), |v, at| {
                        if at[3] == 0 {
                            0.0
                        } else {
                            v / 256.0 + noise(at)
                        }
                    }),
                );
            }
        }
    }

    #[test]
    fn data_outside_the_card_range_or_depth_are_refused() {
        let u = || {
            RngKey { seed: 2 }
                .uniform(Purpose::Check, 0, 0, 640)
                .into_shape_with_order(vec![10, 64])
                .expect("its size")
        };
        let card = |range: [f64; 2], levels: u32| {
            Some(DataSpec {
                range,
                levels: Some(levels),
            })
        };
        let why = |x: ArrayD<f64>, card| match float_data_mismatch(&x.into(), &[64], card) {
            Some(DataMismatch::OutOfRange(why)) => why,
            other => format!("{other:?}"),
        };
        let signed = [-1.0, 1.0];
        for (says, x, range) in [
            ("beyond the card's range [-1, 1]", u() * 256.0, signed),
            ("beyond", u() * 2.0 - 0.98, signed),
            ("beyond", u() * 2.0 - 1.0, [0.0, 1.0]),
            ("of the range [0, 1]", u(), signed),
            ("of the range [0, 1]", u() * 0.96 + 0.02, signed),
            ("of the range [-0.5, 0.5]", u() - 0.5, signed),
            ("of the range [0, 1]", u(), [0.0, 256.0]),
            ("None", u() * 2.0 - 1.0, signed),
            ("None", u() * 2.007 - 1.0035, signed),
            ("None", u() * 256.0, [0.0, 256.0]),
            ("None", u(), [0.0, 1.0]),
            // Low contrast, or a bright or dark scene, does not mean another range.
            ("None", u() * 0.9 - 0.3, signed),
            ("None", u() * 0.5 + 0.3, signed),
            ("None", u() - 1.0, signed),
            ("None", u() * 0.5, [0.0, 1.0]),
        ] {
            let found = why(x.into_dyn(), card(range, 256));
            assert!(found.contains(says), "{says}: {found}");
        }
        assert_eq!(
            float_data_mismatch(
                &(u() * 256.0).into_dyn().into(),
                &[64],
                Some(DataSpec {
                    range: signed,
                    levels: None
                })
            ),
            None
        );
        let whole = |levels: f64| u().mapv(|v| (v * levels).floor()).into_dyn();
        for (refused, x, bytes, levels) in [
            (true, whole(256.0), true, 65536),
            (true, whole(256.0), false, 65536),
            (true, whole(256.0), true, 1024),
            (true, whole(2.0), true, 256),
            (true, whole(17.0), false, 256),
            (false, whole(17.0), true, 17),
            (false, whole(2.0), true, 2),
            (false, whole(256.0), true, 256),
            (false, whole(65536.0), false, 65536),
            (false, whole(60.0), true, 256),
            (false, ArrayD::zeros(vec![10, 64]), false, 256),
        ] {
            assert_eq!(
                integer_data_mismatch(&x.into(), bytes, card(signed, levels)).is_some(),
                refused,
                "{bytes} {levels}"
            );
        }
    }
}
