//! Arrays in NumPy's `.npy` format, from bytes that may claim anything.

use anyhow::{Result, anyhow, bail};
use ndarray::ArrayD;

/// The array of a .npy file of any of the plain number formats, and whether those are integers.
///
/// # Errors
/// Where the bytes are no whole array.
pub fn npy(bytes: &[u8]) -> Result<(ArrayD<f64>, bool)> {
    use ndarray_npy::ReadNpyExt;
    let plain = plain_header(bytes)?;
    let described = number_format(&plain).to_owned();
    declared_size(&plain, bytes.len())?;
    macro_rules! read {
        ($ty:ty, $integer:expr) => {{
            let array = ArrayD::<$ty>::read_npy(bytes).map_err(|e| anyhow!("it is no whole .npy array: {e}"))?;
            (array.mapv(|v| v as f64), $integer)
        }};
    }
    Ok(match &described[..] {
        "f4" => read!(f32, false),
        "f8" => read!(f64, false),
        "i1" => read!(i8, true),
        "i2" => read!(i16, true),
        "i4" => read!(i32, true),
        "i8" => read!(i64, true),
        "u1" => read!(u8, true),
        "u2" => read!(u16, true),
        "u4" => read!(u32, true),
        "u8" => read!(u64, true),
        "" => bail!("it is no .npy array (its header names no number format)"),
        other => bail!("it holds numbers of format `{other}`; expected float32, float64 or integers"),
    })
}

/// The number format, such as `f4` or `u1`, and the shape that a .npy file's first bytes declare.
///
/// # Errors
/// Where there is no header, or not one shape in it.
pub fn described(bytes: &[u8]) -> Result<(String, Vec<usize>)> {
    let plain = plain_header(bytes)?;
    Ok((number_format(&plain).to_owned(), declared_shape(&plain)?))
}

/// The header, a Python dictionary whose strings may be quoted either way, quoted one way.
fn plain_header(bytes: &[u8]) -> Result<String> {
    Ok(npy_header(bytes)?.replace('"', "'"))
}

fn number_format(plain: &str) -> &str {
    let described = plain.split("'descr':").nth(1).and_then(|d| d.split('\'').nth(1)).unwrap_or("");
    described.trim_start_matches(['<', '>', '|', '='])
}

/// The whole text of a .npy header; its length is the file's own claim and is held against the file.
///
/// # Errors
/// Where there is no header, or not the whole of it.
pub fn npy_header(bytes: &[u8]) -> Result<String> {
    let field = |range: std::ops::Range<usize>| bytes.get(range).filter(|_| bytes.starts_with(b"\x93NUMPY"));
    let (start, length): (usize, usize) = match (field(6..7), field(8..10), field(8..12)) {
        (Some([1]), Some(l), _) => (10, usize::from(l[0]) | usize::from(l[1]) << 8),
        (Some([2 | 3]), _, Some(l)) => (12, u32::from_le_bytes([l[0], l[1], l[2], l[3]]) as usize),
        _ => bail!("it is no .npy array (no header)"),
    };
    let text = start.checked_add(length).and_then(|end| bytes.get(start..end));
    let text = text.ok_or_else(|| anyhow!("its header claims {length} bytes: it is truncated or damaged"))?;
    Ok(String::from_utf8_lossy(text).into_owned())
}

/// A header may claim any shape: refuse one that the file cannot hold before anything is allocated.
///
/// # Errors
/// Where there is no one shape, or the file is too short for it.
pub fn declared_size(header: &str, available: usize) -> Result<()> {
    let shape = declared_shape(header)?;
    if shape.iter().fold(1usize, |count, size| count.saturating_mul(*size)) > available {
        let shape = shape.iter().map(usize::to_string).collect::<Vec<_>>().join(", ");
        bail!("its header claims shape ({shape}), but the file has only {available} bytes: it is truncated or damaged");
    }
    Ok(())
}

/// The shape that a header declares.
///
/// # Errors
/// Where there is no one shape.
pub fn declared_shape(header: &str) -> Result<Vec<usize>> {
    // Of two shapes a reader may take either, so that one is all that is accepted.
    let shapes: Vec<&str> = header.split("'shape':").skip(1).collect();
    let sizes = |s: &'_ str| Some(s.split_once('(')?.1.split_once(')')?.0.to_owned());
    let [Some(shape)] = &shapes.iter().map(|s| sizes(s)).collect::<Vec<_>>()[..] else {
        bail!("its header names no shape");
    };
    let sizes = shape.split(',').map(str::trim).filter(|s| !s.is_empty());
    let size =
        |s: &str| s.trim_end_matches('L').parse().map_err(|_| anyhow!("its shape ({shape}) is no list of sizes"));
    sizes.map(size).collect()
}
