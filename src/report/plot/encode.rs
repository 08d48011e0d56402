//! Texts as values of attributes, and pixels as PNG.

use anyhow::Result;
use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::{ColorType, ImageEncoder};

/// A text as the value of an attribute.
pub(super) fn escaped(text: &str) -> String {
    maud::html! { (text) }.into_string()
}

/// The image as PNG bytes.
pub(super) fn encode_png(
    rgb: &[u8],
    (width, height): (u32, u32),
    compression: CompressionType,
) -> Result<Vec<u8>> {
    let mut png = Vec::new();
    PngEncoder::new_with_quality(&mut png, compression, FilterType::Adaptive).write_image(
        rgb,
        width,
        height,
        ColorType::Rgb8,
    )?;
    Ok(png)
}
