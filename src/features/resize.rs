//! Image resizing as in the packages that define the published statistics, up to the last digit of
//! float32.
//!
//! A plane holds f64 numbers that represent the float32 numbers of the packages. Sums are computed
//! in f64 and rounded to f32 once per pass.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How images are resized to the size of the network's input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(transform = crate::registry::Aliases(&[]))]
pub enum Resize {
    /// No resizing: images must have the right size.
    #[default]
    None,
    /// Bicubic with a = −½ as in Pillow: the filter is widened for smaller outputs. Values are
    /// floats, clamped to 0 to 255 and not rounded. clean-fid uses this method.
    Clean,
    /// Bilinear as in Pillow: the filter is widened for smaller outputs. Values are floats, clamped
    /// to 0 to 255 and not rounded.
    CleanBilinear,
    /// Bilinear without half-pixel centres and without a widened filter, in float32. TensorFlow
    /// 1.x, torch-fidelity and the FID ports to PyTorch use this method.
    Tensorflow,
    /// Bicubic with a = −¾ and half-pixel centres, without a widened filter and without clamping.
    /// This is `interpolate` of PyTorch, which the code of CMMD uses.
    Torch,
}

/// One channel of an image.
#[derive(Debug, Clone, PartialEq)]
pub struct Plane {
    /// The height in pixels.
    pub height: usize,
    /// The width in pixels.
    pub width: usize,
    /// The pixels, row by row.
    pub values: Vec<f64>,
}

impl Resize {
    /// Resizes a plane to the given height and width.
    ///
    /// # Errors
    /// Fails for [`Resize::None`] if the plane has another size.
    pub fn apply(self, plane: Plane, height: usize, width: usize) -> Result<Plane, String> {
        let (rows, columns) = match self {
            Resize::None if (plane.height, plane.width) == (height, width) => return Ok(plane),
            Resize::None => {
                return Err(format!(
                    "images are {}×{}, but the extractor takes {height}×{width}, and its preset \
                     does not resize images",
                    plane.height, plane.width
                ));
            }
            Resize::Clean => (
                pillow_taps(plane.height, height, 2.0, &keys_cubic_filter),
                pillow_taps(plane.width, width, 2.0, &keys_cubic_filter),
            ),
            Resize::CleanBilinear => (
                pillow_taps(plane.height, height, 1.0, &triangle_filter),
                pillow_taps(plane.width, width, 1.0, &triangle_filter),
            ),
            Resize::Tensorflow => return Ok(tensorflow_bilinear(&plane, height, width)),
            Resize::Torch => (
                torch_bicubic_taps(plane.height, height),
                torch_bicubic_taps(plane.width, width),
            ),
        };
        let mut out = resize_vertical(&resize_horizontal(&plane, &columns), &rows);
        if matches!(self, Resize::Clean | Resize::CleanBilinear) {
            out.values.iter_mut().for_each(|v| *v = v.clamp(0.0, 255.0));
        }
        Ok(out)
    }
}

/// The filter of one output pixel along one axis: a weighted sum of input pixels.
struct FilterTaps {
    /// The indices of the input pixels.
    source_indices: Vec<usize>,
    /// The weight of each input pixel.
    weights: Vec<f64>,
}

/// The cubic convolution filter of Keys (1981), with a = −½.
fn keys_cubic_filter(x: f64) -> f64 {
    cubic_convolution(x, -0.5)
}

/// The filter of bilinear interpolation.
fn triangle_filter(x: f64) -> f64 {
    (1.0 - x.abs()).max(0.0)
}

/// The cubic convolution filter with parameter a, which is 0 for |x| ≥ 2.
fn cubic_convolution(x: f64, a: f64) -> f64 {
    let x = x.abs();
    match x {
        _ if x < 1.0 => ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0,
        _ if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * a,
        _ => 0.0,
    }
}

/// The filters of Pillow for an axis of `old` input pixels and `new` output pixels. If the image
/// shrinks, the kernel is stretched by the same factor. It is cut off at the border, and the
/// weights sum to 1. `reach` is the kernel's radius before stretching.
fn pillow_taps(old: usize, new: usize, reach: f64, kernel: &dyn Fn(f64) -> f64) -> Vec<FilterTaps> {
    let step = old as f64 / new as f64;
    let stretch = step.max(1.0);
    let support = reach * stretch;
    (0..new)
        .map(|i| {
            let centre = (i as f64 + 0.5) * step;
            let first = (centre - support + 0.5).max(0.0) as usize;
            let last = ((centre + support + 0.5) as usize).min(old);
            let raw: Vec<f64> = (first..last)
                .map(|j| kernel((j as f64 - centre + 0.5) * (1.0 / stretch)))
                .collect();
            let sum: f64 = raw.iter().sum();
            FilterTaps {
                source_indices: (first..last).collect(),
                weights: raw.iter().map(|w| w / sum).collect(),
            }
        })
        .collect()
}

/// The bicubic filters of PyTorch for an axis of `old` input pixels and `new` output pixels. Each
/// has four weights. Indices are clamped at the border, and coordinates are float32.
fn torch_bicubic_taps(old: usize, new: usize) -> Vec<FilterTaps> {
    let step = old as f32 / new as f32;
    (0..new)
        .map(|i| {
            let centre = (i as f32 + 0.5) * step - 0.5;
            let base = centre.floor();
            let at = |k: f64| (f64::from(base) + k).clamp(0.0, old as f64 - 1.0) as usize;
            let offsets = [-1.0, 0.0, 1.0, 2.0];
            let weight = |k: f64| cubic_convolution(f64::from(centre - base) - k, -0.75);
            FilterTaps {
                source_indices: offsets.map(at).to_vec(),
                weights: offsets.map(weight).to_vec(),
            }
        })
        .collect()
}

/// Applies one filter per output column to every row.
fn resize_horizontal(plane: &Plane, taps: &[FilterTaps]) -> Plane {
    let mut values = Vec::with_capacity(plane.height * taps.len());
    for row in plane.values.chunks_exact(plane.width) {
        values.extend(taps.iter().map(|tap| weighted_sum_f32(tap, |j| row[j])));
    }
    Plane {
        height: plane.height,
        width: taps.len(),
        values,
    }
}

/// Applies one filter per output row to every column.
fn resize_vertical(plane: &Plane, taps: &[FilterTaps]) -> Plane {
    let mut values = Vec::with_capacity(plane.width * taps.len());
    for tap in taps {
        values.extend(
            (0..plane.width).map(|x| weighted_sum_f32(tap, |j| plane.values[j * plane.width + x])),
        );
    }
    Plane {
        height: taps.len(),
        width: plane.width,
        values,
    }
}

/// The weighted sum of a filter, computed in f64 and rounded to f32.
fn weighted_sum_f32(tap: &FilterTaps, value: impl Fn(usize) -> f64) -> f64 {
    let sum: f64 = tap
        .source_indices
        .iter()
        .zip(&tap.weights)
        .map(|(j, w)| value(*j) * w)
        .sum();
    f64::from(sum as f32)
}

/// Bilinear resizing as in TensorFlow 1.x. All operations are in float32 and in the order of its
/// kernel: first along x in both rows, then between the rows.
fn tensorflow_bilinear(plane: &Plane, height: usize, width: usize) -> Plane {
    let at = |i: usize, old: usize, new: usize| {
        let x = i as f32 * (old as f64 / new as f64) as f32;
        let low = x as usize;
        (low.min(old - 1), (low + 1).min(old - 1), x - low as f32)
    };
    let value = |y: usize, x: usize| plane.values[y * plane.width + x] as f32;
    let mut values = Vec::with_capacity(height * width);
    for i in 0..height {
        let (top, bottom, dy) = at(i, plane.height, height);
        for j in 0..width {
            let (left, right, dx) = at(j, plane.width, width);
            let along = |y: usize| value(y, left) + (value(y, right) - value(y, left)) * dx;
            let (above, below) = (along(top), along(bottom));
            values.push(f64::from(above + (below - above) * dy));
        }
    }
    Plane {
        height,
        width,
        values,
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use ndarray::Array2;
    use ndarray_npy::NpzReader;

    use super::*;

    /// The reference values come from Pillow, torch-fidelity and PyTorch, run by
    /// scripts/metric_references.py.
    #[test]
    fn resize_matches_reference_packages() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/metrics/resize.npz");
        let mut references = NpzReader::new(File::open(path).expect(path)).expect("an archive");
        let mut read = |name: &str| -> Array2<f32> {
            references
                .by_name(name)
                .unwrap_or_else(|e| panic!("{name}: {e}"))
        };
        for image in ["small", "large"] {
            let old = read(image);
            for (name, resize, tolerance) in [
                // One unit in the last place of float32 below 256, because the order of a sum may
                // decide a tie.
                ("clean", Resize::Clean, 1.6e-5),
                ("clean-bilinear", Resize::CleanBilinear, 1.6e-5),
                ("tensorflow", Resize::Tensorflow, 0.0),
                // The weights of PyTorch are float32. Coordinates up to 40 are accurate to 2e-6,
                // and slopes are up to 1.5 · 255.
                ("torch", Resize::Torch, 1e-3),
            ] {
                for size in ["17x23", "9x8", "40x12"] {
                    let want = read(&format!("{image}_{name}_{size}"));
                    let plane = Plane {
                        height: old.nrows(),
                        width: old.ncols(),
                        values: old.iter().map(|v| f64::from(*v)).collect(),
                    };
                    let got = resize
                        .apply(plane, want.nrows(), want.ncols())
                        .expect("resized");
                    let worst = got
                        .values
                        .iter()
                        .zip(&want)
                        .map(|(a, b)| (a - f64::from(*b)).abs())
                        .fold(0.0, f64::max);
                    println!("{image} {name} {size}: {worst:e}");
                    assert!(worst <= tolerance, "{image} {name} {size}: {worst:e}");
                }
            }
        }
    }

    #[test]
    fn resize_keeps_constants_and_none_refuses_other_sizes() {
        let plane = Plane {
            height: 5,
            width: 7,
            values: vec![31.0; 35],
        };
        for resize in [
            Resize::Clean,
            Resize::CleanBilinear,
            Resize::Tensorflow,
            Resize::Torch,
        ] {
            let out = resize.apply(plane.clone(), 3, 11).expect("resized");
            assert_eq!((out.height, out.width), (3, 11));
            assert!(
                out.values.iter().all(|v| (v - 31.0).abs() < 1e-4),
                "{resize:?}"
            );
        }
        assert_eq!(Resize::None.apply(plane.clone(), 5, 7), Ok(plane.clone()));
        assert!(
            Resize::None
                .apply(plane, 3, 11)
                .is_err_and(|e| e.contains("5×7") && e.contains("3×11"))
        );
    }
}
