//! Conversion of samples to images of bytes, and of such images to the input of an extractor.

use anyhow::{Result, anyhow, bail};
use ndarray::{Array1, ArrayView1};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::preset::{PresetInput, TensorLayout};
use super::resize::Plane;

/// How a real number becomes a byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(transform = crate::registry::Aliases(&[("nearest", &["round"]), ("floor", &["truncate"])]))]
pub enum ByteRounding {
    /// The nearest byte, with halves rounded up.
    #[default]
    Nearest,
    /// The byte below, as a conversion of 255·x to an integer truncates. On average it darkens by half
    /// a level. Several published evaluations do this.
    Floor,
}

impl ByteRounding {
    /// Whether it is the default, which is not written.
    pub fn is_default(&self) -> bool {
        *self == ByteRounding::default()
    }

    /// What a reader of a statistic must know about its bytes; `None` for the default.
    pub fn note(self) -> Option<&'static str> {
        match self {
            ByteRounding::Nearest => None,
            ByteRounding::Floor => Some("floats became the byte below, not the nearest one"),
        }
    }
}

/// The meaning of the numbers of a sample: how they map to pixel values from black to white.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum PixelCoding {
    /// Integers from 0 (black) to levels − 1 (white).
    Levels(u32),
    /// Real numbers between the values of black and white, which become the nearest byte.
    Range([f64; 2]),
    /// Real numbers between the values of black and white, which become the byte below.
    FlooredRange([f64; 2]),
}

impl PixelCoding {
    /// Converts a number to a byte, from 0 for black to 255 for white. All conversions to bytes use
    /// this function.
    ///
    /// The number is rounded to the nearest byte, and halves are rounded up, unless the coding says
    /// that it becomes the byte below. A number outside the range becomes 0 or 255. For the range [−1, 1], the result is the integer part of 127.5 x +
    /// 128, clamped to 0 to 255.
    pub fn to_byte(self, value: f64) -> f64 {
        let (share, up) = match self {
            PixelCoding::Levels(levels) => (value / f64::from(levels.max(2) - 1), 0.5),
            PixelCoding::Range([lo, hi]) => ((value - lo) / (hi - lo), 0.5),
            PixelCoding::FlooredRange([lo, hi]) => ((value - lo) / (hi - lo), 0.0),
        };
        // A whole byte stays that byte, although the division above is rounded.
        let tolerance = if up == 0.0 { 1e-9 } else { 0.0 };
        (255.0 * share + up + tolerance).floor().clamp(0.0, 255.0)
    }

    /// The coding of real numbers in a range.
    pub fn of_range(range: [f64; 2], rounding: ByteRounding) -> PixelCoding {
        match rounding {
            ByteRounding::Nearest => PixelCoding::Range(range),
            ByteRounding::Floor => PixelCoding::FlooredRange(range),
        }
    }
}

/// The shape of one image, and the order of its numbers in a sample.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ImageShape {
    /// The number of channels, 1 or 3.
    pub channels: usize,
    /// The height in pixels.
    pub height: usize,
    /// The width in pixels.
    pub width: usize,
    /// Whether the channels are the last axis instead of the first.
    channels_last: bool,
}

impl ImageShape {
    /// The image shape for samples of shape \[H, W\], \[C, H, W\] or \[H, W, C\], with one or three
    /// channels.
    ///
    /// # Errors
    /// Fails for any other shape.
    pub fn from_dims(shape: &[usize]) -> Result<ImageShape> {
        let at = |channels, height, width, last| {
            Ok(ImageShape {
                channels,
                height,
                width,
                channels_last: last,
            })
        };
        match *shape {
            [h, w] => at(1, h, w, false),
            [c @ (1 | 3), h, w] => at(c, h, w, false),
            [h, w, c @ (1 | 3)] => at(c, h, w, true),
            _ => bail!(
                "samples of shape {shape:?} are not images; expected [H, W], [C, H, W] or \
                 [H, W, C] with C = 1 or 3"
            ),
        }
    }

    /// The position of a pixel's channel in a sample.
    fn index(&self, channel: usize, row: usize, column: usize) -> usize {
        match self.channels_last {
            false => (channel * self.height + row) * self.width + column,
            true => (row * self.width + column) * self.channels + channel,
        }
    }

    /// One channel of a sample, converted to bytes.
    pub fn plane(&self, sample: ArrayView1<f64>, channel: usize, coding: PixelCoding) -> Plane {
        let at = |i: usize| sample[self.index(channel, i / self.width, i % self.width)];
        let values = (0..self.height * self.width)
            .map(|i| coding.to_byte(at(i)))
            .collect();
        Plane {
            height: self.height,
            width: self.width,
            values,
        }
    }
}

/// One image of any size.
pub struct Image {
    /// The bytes of the image, in the order of `shape`.
    pub values: Array1<f64>,
    /// The size of the image and the order of its numbers.
    pub shape: ImageShape,
}

impl PresetInput {
    /// Converts one sample to the input of the network: bytes, resizing, range and normalization,
    /// in the preset's layout.
    ///
    /// # Errors
    /// Fails if the image has more channels than the input, or if its size differs and the preset
    /// does not resize images.
    pub fn prepare(
        &self,
        sample: ArrayView1<f64>,
        shape: ImageShape,
        coding: PixelCoding,
    ) -> Result<Vec<f64>> {
        let [channels, height, width] = self.shape;
        if shape.channels > channels {
            bail!(
                "images have {} channels, but the extractor takes {channels}",
                shape.channels
            );
        }
        let mut planes = Vec::with_capacity(channels);
        for channel in 0..shape.channels {
            let plane = self
                .resize
                .apply(shape.plane(sample, channel, coding), height, width)
                .map_err(|e| anyhow!(e))?;
            planes.push(plane.values);
        }
        // The channel of a grey image is repeated.
        while planes.len() < channels {
            planes.push(planes[0].clone());
        }
        for (channel, plane) in planes.iter_mut().enumerate() {
            let of = |v: &Option<Vec<f64>>, none: f64| v.as_ref().map_or(none, |v| v[channel]);
            let (mean, std) = (of(&self.mean, 0.0), of(&self.std, 1.0));
            let [lo, hi] = self.range;
            plane
                .iter_mut()
                .for_each(|v| *v = (lo + (hi - lo) * (*v / 255.0) - mean) / std);
        }
        Ok(match self.layout {
            TensorLayout::Nchw => planes.concat(),
            TensorLayout::Nhwc => (0..height * width)
                .flat_map(|i| planes.iter().map(move |p| p[i]))
                .collect(),
        })
    }

    /// The shape of one prepared sample, without the batch axis.
    pub fn tensor_shape(&self) -> Vec<usize> {
        let [c, h, w] = self.shape;
        match self.layout {
            TensorLayout::Nchw => vec![c, h, w],
            TensorLayout::Nhwc => vec![h, w, c],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::features::resize::Resize;

    #[test]
    fn to_byte_rounds_half_up() {
        let range = PixelCoding::Range([-1.0, 1.0]);
        for (value, byte) in [
            (-1.0, 0.0),
            (1.0, 255.0),
            (-9.0, 0.0),
            (9.0, 255.0),
            (0.0, 128.0),
        ] {
            assert_eq!(range.to_byte(value), byte, "{value}");
        }
        for byte in 0..=255 {
            let exact = f64::from(byte) / 127.5 - 1.0;
            for value in [exact, exact + 0.49 / 127.5, exact - 0.49 / 127.5] {
                assert_eq!(range.to_byte(value), f64::from(byte));
                // The conversion `x * 127.5 + 128` to a byte that most packages use.
                assert_eq!(
                    range.to_byte(value),
                    (value * 127.5 + 128.0).clamp(0.0, 255.0).floor()
                );
            }
        }
        assert_eq!(PixelCoding::Range([0.0, 1.0]).to_byte(0.5 / 255.0), 1.0);
        assert_eq!(
            (0..17)
                .map(|v| PixelCoding::Levels(17).to_byte(f64::from(v)))
                .fold(0.0, f64::max),
            255.0
        );
        assert_eq!(PixelCoding::Levels(256).to_byte(77.0), 77.0);
    }

    #[test]
    fn prepare_applies_layout_channels_and_normalization() {
        let mut input = PresetInput {
            shape: [3, 2, 2],
            layout: TensorLayout::Nchw,
            resize: Resize::None,
            range: [0.0, 1.0],
            mean: Some(vec![0.0, 0.5, 0.0]),
            std: Some(vec![1.0, 1.0, 0.5]),
        };
        let grey = Array1::from(vec![0.0, 255.0, 51.0, 102.0]);
        let shape = ImageShape::from_dims(&[2, 2]).expect("grey");
        let planes = input
            .prepare(grey.view(), shape, PixelCoding::Levels(256))
            .expect("fits");
        let want = [
            0.0, 1.0, 0.2, 0.4, -0.5, 0.5, -0.3, -0.1, 0.0, 2.0, 0.4, 0.8,
        ];
        assert!(
            planes.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-15),
            "{planes:?}"
        );
        input.layout = TensorLayout::Nhwc;
        let pixels = input
            .prepare(grey.view(), shape, PixelCoding::Levels(256))
            .expect("fits");
        assert_eq!(
            pixels[..6],
            [
                planes[0], planes[4], planes[8], planes[1], planes[5], planes[9]
            ]
        );
        // The same colour image with channels first and last.
        let first = Array1::from_iter((0..12).map(f64::from));
        let last =
            Array1::from_iter((0..4).flat_map(|i| (0..3).map(move |c| f64::from(4 * c + i))));
        let of = |x: &Array1<f64>, shape: &[usize]| {
            input
                .prepare(
                    x.view(),
                    ImageShape::from_dims(shape).expect("colour"),
                    PixelCoding::Levels(256),
                )
                .expect("fits")
        };
        assert_eq!(of(&first, &[3, 2, 2]), of(&last, &[2, 2, 3]));
        assert!(ImageShape::from_dims(&[12]).is_err());
        input.shape[0] = 1;
        assert!(
            input
                .prepare(
                    first.view(),
                    ImageShape::from_dims(&[3, 2, 2]).expect("colour"),
                    PixelCoding::Levels(256)
                )
                .is_err()
        );
    }
}
