//! Images: reads folders of images, and writes samples as a grid in one image.

use std::io::Cursor;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use ndarray::{ArrayD, IxDyn};
use sha2::{Digest, Sha256};

use super::{NumberKind, ParsedArray};
use crate::features::images::{Image, ImageShape, PixelCoding};
use crate::host::hex;
use crate::num::Batch;
use crate::num::stored_values::StoredValues;
use crate::signature::{self, ExpectedFile};

/// The extensions of files that are read as images.
const IMAGE_EXTENSIONS: [&str; 13] = [
    "png", "jpg", "jpeg", "webp", "bmp", "tif", "tiff", "gif", "ppm", "pgm", "pnm", "tga", "qoi",
];

/// The images of a folder in the order of their names. They are read one at a time.
pub struct ImageFolder {
    /// The image files.
    files: Vec<PathBuf>,
    /// The SHA-256 of the bytes of all files, in hexadecimal.
    pub sha256: String,
    /// What else is in the folder and is not read. Each note continues a sentence that begins with
    /// the folder's name.
    pub notes: Vec<String>,
}

impl ImageFolder {
    /// Finds the images of a folder.
    ///
    /// # Errors
    /// Fails if the folder holds no image, or if a file cannot be read.
    pub fn open(folder: &Path) -> Result<ImageFolder> {
        let (mut files, mut others, mut folders) = (Vec::new(), Vec::new(), Vec::new());
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            let name = path
                .file_name()
                .map(|n| n.to_string_lossy().into_owned())
                .unwrap_or_default();
            let extension = path
                .extension()
                .map(|e| e.to_string_lossy().to_lowercase())
                .unwrap_or_default();
            match () {
                // These files come from file managers and hold no data.
                () if name.starts_with('.') || ["Thumbs.db", "desktop.ini"].contains(&&*name) => {}
                () if path.is_dir() => folders.push(name),
                () if IMAGE_EXTENSIONS.contains(&&*extension) => files.push(path),
                () => others.push(name),
            }
        }
        files.sort();
        let mut notes = Vec::new();
        if let Some(some) = describe_ignored_entries(folders, "folder") {
            notes.push(format!(
                "{some} inside it: images are read only from the folder itself"
            ));
        }
        if let Some(some) = describe_ignored_entries(others, "file") {
            notes.push(format!("{some} in it: no image (.png, .jpg, .webp, .bmp, .tif, .gif, .ppm, .tga, .qoi), so not read"));
        }
        if files.is_empty() {
            bail!(
                "the folder holds no image (.png, .jpg, .webp, .bmp, .tif, .gif, .ppm, .tga, .qoi){}",
                notes.iter().map(|n| format!("; {n}")).collect::<String>()
            );
        }
        let mut hash = Sha256::new();
        for file in &files {
            hash.update(std::fs::read(file).with_context(|| file.display().to_string())?);
        }
        Ok(ImageFolder {
            files,
            sha256: hex(&hash.finalize()),
            notes,
        })
    }

    /// The number of images.
    pub fn len(&self) -> usize {
        self.files.len()
    }

    /// Whether there are no images. This is never the case after [`ImageFolder::open`].
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// The images as bytes, grey or in colour, of any size. A number of 16 bits becomes the nearest
    /// byte.
    pub fn images(&self) -> impl Iterator<Item = Result<Image>> {
        let mut first = None;
        self.files.iter().map(move |file| {
            let image = DecodedImage::read(file)?;
            image.check_same_depth(first.get_or_insert((file.clone(), image.is_16_bit)))?;
            let (grey, [width, height]) = (image.is_grey(), image.size());
            let mut values = Vec::new();
            image.append_channels(&mut values, grey);
            if image.is_16_bit {
                values
                    .iter_mut()
                    .for_each(|v| *v = PixelCoding::Levels(1 << 16).to_byte(*v));
            }
            let shape = if grey {
                vec![height, width]
            } else {
                vec![3, height, width]
            };
            Ok(Image {
                values: values.into(),
                shape: ImageShape::from_dims(&shape)?,
            })
        })
    }
}

/// The number of ignored entries and the first few names. `None` if there are none.
fn describe_ignored_entries(mut names: Vec<String>, what: &str) -> Option<String> {
    names.sort();
    let all = names
        .iter()
        .take(4)
        .map(|n| format!("`{n}`"))
        .collect::<Vec<_>>()
        .join(", ");
    match names.len() {
        0 => None,
        1 => Some(format!("there is 1 {what} ({all})")),
        n if n <= 4 => Some(format!("there are {n} {what}s ({all})")),
        n => Some(format!("there are {n} {what}s ({all}, …)")),
    }
}

/// An image without transparency, with 8 or 16 bits per number. Palettes are resolved to colours,
/// and fewer bits are scaled to 8.
struct DecodedImage {
    file: PathBuf,
    image: image::DynamicImage,
    /// Whether its numbers have 16 bits.
    is_16_bit: bool,
}

impl DecodedImage {
    /// Reads and decodes an image.
    ///
    /// # Errors
    /// Fails if the file cannot be read or decoded, or if some of its pixels are transparent.
    fn read(file: &Path) -> Result<DecodedImage> {
        use image::DynamicImage as D;
        let name = || file.display().to_string();
        let bytes = std::fs::read(file).with_context(name)?;
        if let Some(why) = signature::explain_mismatch(&bytes, ExpectedFile::Image) {
            bail!("{}: {why}", name());
        }
        // A Targa file has no signature, so that its name decides.
        let format = match image::guess_format(&bytes) {
            Err(_) => image::ImageFormat::from_path(file).ok(),
            Ok(format) => Some(format),
        };
        let image = match format {
            Some(format) => image::load_from_memory_with_format(&bytes, format),
            None => image::load_from_memory(&bytes),
        };
        let image = image.with_context(|| format!("{}: it cannot be decoded", name()))?;
        let (opaque, is_16_bit) = match &image {
            D::ImageLuma8(_) | D::ImageRgb8(_) => (true, false),
            D::ImageLuma16(_) | D::ImageRgb16(_) => (true, true),
            D::ImageLumaA8(i) => (i.pixels().all(|p| p.0[1] == u8::MAX), false),
            D::ImageRgba8(i) => (i.pixels().all(|p| p.0[3] == u8::MAX), false),
            D::ImageLumaA16(i) => (i.pixels().all(|p| p.0[1] == u16::MAX), true),
            D::ImageRgba16(i) => (i.pixels().all(|p| p.0[3] == u16::MAX), true),
            _ => bail!(
                "{}: its numbers have the type {:?}, expected 8 or 16 bits",
                name(),
                image.color()
            ),
        };
        if !opaque {
            bail!(
                "{}: some of its pixels are transparent, so their stored colours are not what is \
                 seen; put the image on a background",
                name()
            );
        }
        Ok(DecodedImage {
            file: file.to_owned(),
            image,
            is_16_bit,
        })
    }

    /// Checks that the image has the same depth as the first image.
    fn check_same_depth(&self, (first, is_16_bit): &(PathBuf, bool)) -> Result<()> {
        let bits = |is_16_bit: bool| if is_16_bit { 16 } else { 8 };
        if *is_16_bit != self.is_16_bit {
            bail!(
                "{} has {} bits per number, but {} has {}; expected images of one depth",
                self.file.display(),
                bits(self.is_16_bit),
                first.display(),
                bits(*is_16_bit)
            );
        }
        Ok(())
    }

    /// Whether the image is grey.
    fn is_grey(&self) -> bool {
        !self.image.color().has_color()
    }

    /// The width and the height.
    fn size(&self) -> [usize; 2] {
        [self.image.width() as usize, self.image.height() as usize]
    }

    /// Appends the numbers of the image, one channel after the other.
    fn append_channels(&self, values: &mut Vec<f64>, grey: bool) {
        let image = &self.image;
        match (grey, self.is_16_bit) {
            (true, false) => values.extend(image.to_luma8().pixels().map(|p| f64::from(p.0[0]))),
            (true, true) => values.extend(image.to_luma16().pixels().map(|p| f64::from(p.0[0]))),
            (false, false) => {
                let rgb = image.to_rgb8();
                (0..3).for_each(|c| values.extend(rgb.pixels().map(|p| f64::from(p.0[c]))));
            }
            (false, true) => {
                let rgb = image.to_rgb16();
                (0..3).for_each(|c| values.extend(rgb.pixels().map(|p| f64::from(p.0[c]))));
            }
        }
    }
}

/// The images of a folder as one array, with their hash. The shape is N × H × W if all images are
/// grey, otherwise N × 3 × H × W.
///
/// # Errors
/// Fails if the folder holds no image, or if the images differ in size or depth.
pub(super) fn array_from_image_folder(folder: &Path) -> Result<(ParsedArray, String)> {
    let ImageFolder {
        files,
        sha256,
        notes,
    } = ImageFolder::open(folder)?;
    let decoded = files
        .iter()
        .map(|file| DecodedImage::read(file))
        .collect::<Result<Vec<_>>>()?;
    let grey = decoded.iter().all(DecodedImage::is_grey);
    let first = &decoded[0];
    let [width, height] = first.size();
    let (mut wide, mut bytes, mut channels) = (Vec::new(), Vec::new(), Vec::new());
    for image in &decoded {
        image.check_same_depth(&(first.file.clone(), first.is_16_bit))?;
        if image.size() != [width, height] {
            bail!(
                "{} is {}×{}, but {} is {width}×{height}: images of several sizes need an \
                 extractor whose preset resizes",
                image.file.display(),
                image.size()[0],
                image.size()[1],
                first.file.display()
            );
        }
        channels.clear();
        image.append_channels(&mut channels, grey);
        match first.is_16_bit {
            true => wide.extend_from_slice(&channels),
            false => bytes.extend(channels.iter().map(|v| *v as u8)),
        }
    }
    let shape = if grey {
        vec![files.len(), height, width]
    } else {
        vec![files.len(), 3, height, width]
    };
    let (values, numbers) = if first.is_16_bit {
        let wide = ArrayD::from_shape_vec(IxDyn(&shape), wide)?;
        (wide.into(), NumberKind::Integers)
    } else {
        let bytes = StoredValues::from_bytes(&shape, bytes);
        (bytes, NumberKind::Uint8)
    };
    Ok((
        ParsedArray {
            values,
            number_kind: numbers,
            are_features: false,
            notes,
        },
        sha256,
    ))
}

/// The largest number of samples in a grid.
const MAX_GRID_SAMPLES: usize = 256;

/// The first samples side by side in one PNG image. The grid is as square as possible.
///
/// `shape` is the shape of one sample: `[H, W]`, `[C, H, W]`, `[H, W, C]`, or `[D]` if D is a
/// square number. `range` gives the values of black and white. Without it they are the smallest and
/// the largest value. Values are rounded like in [`PixelCoding::to_byte`].
///
/// # Errors
/// Fails if samples of this shape are not images.
pub fn png_grid(samples: &Batch, shape: &[usize], range: Option<[f64; 2]>) -> Result<Vec<u8>> {
    let side = |d: usize| (d as f64).sqrt().round() as usize;
    let shape = match *shape {
        [d] if side(d) * side(d) == d => ImageShape::from_dims(&[side(d), side(d)])?,
        _ => ImageShape::from_dims(shape)?,
    };
    let finite = || samples.iter().copied().filter(|v| v.is_finite());
    let extremes = || {
        [
            finite().fold(f64::INFINITY, f64::min),
            finite().fold(f64::NEG_INFINITY, f64::max),
        ]
    };
    let coding = PixelCoding::Range(range.unwrap_or_else(extremes));
    let count = samples.nrows().min(MAX_GRID_SAMPLES);
    let columns = (1..=count).find(|c| c * c >= count).unwrap_or(1);
    let (width, height) = (
        columns * shape.width,
        count.div_ceil(columns) * shape.height,
    );
    let mut picture = image::RgbImage::new(u32::try_from(width)?, u32::try_from(height)?);
    for (i, sample) in samples.rows().into_iter().take(count).enumerate() {
        let planes: Vec<_> = (0..shape.channels)
            .map(|c| shape.plane(sample, c, coding))
            .collect();
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
    fn png_grid_holds_the_samples() {
        let samples =
            Array2::from_shape_fn((5, 16), |(i, j)| (i * 16 + j) as f64 / 79.0 * 2.0 - 1.0);
        let grid = |shape: &[usize]| {
            let bytes = png_grid(&samples, shape, Some([-1.0, 1.0])).expect("an image");
            image::load_from_memory(&bytes).expect("a PNG").to_rgb8()
        };
        for shape in [&[16][..], &[4, 4], &[1, 4, 4]] {
            let picture = grid(shape);
            assert_eq!(picture.dimensions(), (12, 8));
            // Sample 4 is the second of the second row; its number 6 at row 1, column 2.
            let byte = PixelCoding::Range([-1.0, 1.0]).to_byte(samples[[4, 6]]) as u8;
            assert_eq!(picture.get_pixel(4 + 2, 4 + 1).0, [byte; 3]);
            assert_eq!(picture.get_pixel(11, 7).0, [0; 3]);
        }
        assert!(png_grid(&samples, &[2, 8, 1, 1], None).is_err());
        assert!(png_grid(&samples, &[15], None).is_err());
    }
}
