//! Images: folders of them in, one grid of samples out.

use std::io::Cursor;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use ndarray::{ArrayD, IxDyn};
use sha2::{Digest, Sha256};

use super::Numbers;
use crate::features::images::{Coding, Image, Shape};
use crate::model::library::hex;
use crate::num::Batch;
use crate::signature::{self, Wanted};

/// The images of a folder in the order of their names, read one at a time.
pub struct Folder {
    files: Vec<PathBuf>,
    /// Of all files' bytes.
    pub sha256: String,
}

impl Folder {
    /// # Errors
    /// Where the folder holds no image, or a file cannot be read.
    pub fn open(folder: &Path) -> Result<Folder> {
        let mut files: Vec<PathBuf> = std::fs::read_dir(folder)?.flatten().map(|e| e.path()).collect();
        let extension = |p: &Path| p.extension().map(|e| e.to_string_lossy().to_lowercase()).unwrap_or_default();
        files.retain(|p| ["png", "jpg", "jpeg"].contains(&extension(p).as_str()));
        files.sort();
        if files.is_empty() {
            bail!("the folder holds no .png or .jpg image");
        }
        let mut hash = Sha256::new();
        for file in &files {
            hash.update(std::fs::read(file).with_context(|| file.display().to_string())?);
        }
        Ok(Folder { files, sha256: hex(&hash.finalize()) })
    }

    pub fn len(&self) -> usize {
        self.files.len()
    }

    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Images of any sizes, grey or in colour.
    pub fn images(&self) -> impl Iterator<Item = Result<Image>> {
        self.files.iter().map(|file| {
            let image = decoded(file)?;
            let grey = !image.color().has_color();
            let mut values = Vec::new();
            append(&mut values, &image, grey);
            let (width, height) = (image.width() as usize, image.height() as usize);
            let shape = if grey { vec![height, width] } else { vec![3, height, width] };
            Ok(Image { values: values.into(), shape: Shape::of(&shape)? })
        })
    }
}

fn decoded(file: &Path) -> Result<image::DynamicImage> {
    let bytes = std::fs::read(file).with_context(|| file.display().to_string())?;
    if let Some(why) = signature::refusal(&bytes, Wanted::Image) {
        bail!("{}: {why}", file.display());
    }
    image::load_from_memory(&bytes).with_context(|| format!("{}: it cannot be decoded", file.display()))
}

/// Its bytes, one channel after the other.
fn append(values: &mut Vec<f64>, image: &image::DynamicImage, grey: bool) {
    if grey {
        values.extend(image.to_luma8().pixels().map(|p| f64::from(p.0[0])));
    } else {
        let rgb = image.to_rgb8();
        (0..3).for_each(|c| values.extend(rgb.pixels().map(|p| f64::from(p.0[c]))));
    }
}

/// A folder's images as one array: [N, H, W] where all are grey, else [N, 3, H, W].
pub fn folder(folder: &Path) -> Result<(ArrayD<f64>, Numbers, String)> {
    let Folder { files, sha256 } = Folder::open(folder)?;
    let decoded = files.iter().map(|file| decoded(file)).collect::<Result<Vec<_>>>()?;
    let grey = decoded.iter().all(|i| !i.color().has_color());
    let (width, height) = (decoded[0].width(), decoded[0].height());
    let mut values = Vec::new();
    for (file, image) in files.iter().zip(&decoded) {
        if (image.width(), image.height()) != (width, height) {
            bail!(
                "{} is {}×{}, but {} is {width}×{height}: only an extractor whose preset resizes takes images of \
                 several sizes",
                file.display(),
                image.width(),
                image.height(),
                files[0].display()
            );
        }
        append(&mut values, image, grey);
    }
    let (w, h) = (width as usize, height as usize);
    let shape = if grey { vec![files.len(), h, w] } else { vec![files.len(), 3, h, w] };
    Ok((ArrayD::from_shape_vec(IxDyn(&shape), values)?, Numbers::Integers, sha256))
}

/// Samples of a grid, at most.
const SHOWN: usize = 256;

/// The first samples side by side as a PNG, in as square a grid as they allow.
///
/// `shape` is that of one sample: `[H, W]`, `[C, H, W]`, `[H, W, C]`, or `[D]` with D a square. `range` is where black and white lie,
/// the samples' own extremes where absent; rounding is [`Coding::byte`]'s.
///
/// # Errors
/// For shapes that are no images.
pub fn png_grid(samples: &Batch, shape: &[usize], range: Option<[f64; 2]>) -> Result<Vec<u8>> {
    let side = |d: usize| (d as f64).sqrt().round() as usize;
    let shape = match *shape {
        [d] if side(d) * side(d) == d => Shape::of(&[side(d), side(d)])?,
        _ => Shape::of(shape)?,
    };
    let finite = || samples.iter().copied().filter(|v| v.is_finite());
    let extremes = || [finite().fold(f64::INFINITY, f64::min), finite().fold(f64::NEG_INFINITY, f64::max)];
    let coding = Coding::Range(range.unwrap_or_else(extremes));
    let count = samples.nrows().min(SHOWN);
    let columns = (1..=count).find(|c| c * c >= count).unwrap_or(1);
    let (width, height) = (columns * shape.width, count.div_ceil(columns) * shape.height);
    let mut picture = image::RgbImage::new(u32::try_from(width)?, u32::try_from(height)?);
    for (i, sample) in samples.rows().into_iter().take(count).enumerate() {
        let planes: Vec<_> = (0..shape.channels).map(|c| shape.plane(sample, c, coding)).collect();
        let (left, top) = (i % columns * shape.width, i / columns * shape.height);
        for at in 0..shape.width * shape.height {
            let byte = |c: usize| planes[c.min(planes.len() - 1)].values[at] as u8;
            let (x, y) = (left + at % shape.width, top + at / shape.width);
            picture.put_pixel(x as u32, y as u32, image::Rgb([byte(0), byte(1), byte(2)]));
        }
    }
    let mut bytes = Vec::new();
    picture.write_to(&mut Cursor::new(&mut bytes), image::ImageOutputFormat::Png)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use ndarray::Array2;

    use super::*;

    #[test]
    fn a_grid_read_back_holds_the_samples() {
        let samples = Array2::from_shape_fn((5, 16), |(i, j)| (i * 16 + j) as f64 / 79.0 * 2.0 - 1.0);
        let grid = |shape: &[usize]| {
            let bytes = png_grid(&samples, shape, Some([-1.0, 1.0])).expect("an image");
            image::load_from_memory(&bytes).expect("a PNG").to_rgb8()
        };
        for shape in [&[16][..], &[4, 4], &[1, 4, 4]] {
            let picture = grid(shape);
            assert_eq!(picture.dimensions(), (12, 8));
            // Sample 4 is the second of the second row; its number 6 at row 1, column 2.
            let byte = Coding::Range([-1.0, 1.0]).byte(samples[[4, 6]]) as u8;
            assert_eq!(picture.get_pixel(4 + 2, 4 + 1).0, [byte; 3]);
            assert_eq!(picture.get_pixel(11, 7).0, [0; 3]);
        }
        assert!(png_grid(&samples, &[2, 8, 1, 1], None).is_err());
        assert!(png_grid(&samples, &[15], None).is_err());
    }
}
