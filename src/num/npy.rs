//! Arrays in NumPy's `.npy` format. The bytes are not trusted: every size in the header is checked
//! against the file.

use anyhow::{Result, anyhow, bail};
use ndarray::ArrayD;

use super::stored_values::StoredValues;

/// The kind of numbers in a `.npy` file, according to its header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NpyFormat {
    /// Floating-point numbers of 16, 32 or 64 bits.
    Floats,
    /// Integers of any other type.
    Integers,
    /// Integers of a type that holds only 0 to 255.
    Uint8,
    /// Pairs of bytes without a type, which NumPy writes for bfloat16.
    Void2,
}

/// The array of a `.npy` file and the kind of its numbers.
///
/// # Errors
/// Fails if the bytes are not a valid `.npy` array, or if its number format is not supported.
pub fn parse_npy(bytes: &[u8]) -> Result<(StoredValues, NpyFormat)> {
    use ndarray_npy::ReadNpyExt;
    let plain = single_quoted_header(bytes)?;
    let described = dtype_of_header(&plain).to_owned();
    check_declared_size(&plain, bytes.len())?;
    macro_rules! read {
        ($ty:ty, $format:expr) => {{
            let array = ArrayD::<$ty>::read_npy(bytes)
                .map_err(|e| anyhow!("it is not a valid .npy array: {e}"))?;
            (array.mapv(|v| v as f64).into(), $format)
        }};
        // Types that are stored as they are.
        (own $ty:ty, $format:expr) => {{
            let array = ArrayD::<$ty>::read_npy(bytes)
                .map_err(|e| anyhow!("it is not a valid .npy array: {e}"))?;
            (array.into(), $format)
        }};
    }
    Ok(match &described[..] {
        "f2" => (
            read_npy_bit_patterns(bytes)?
                .mapv(|bits| half::f16::from_bits(bits).to_f32())
                .into(),
            NpyFormat::Floats,
        ),
        "V2" => (
            read_npy_bit_patterns(bytes)?
                .mapv(|bits| half::bf16::from_bits(bits).to_f32())
                .into(),
            NpyFormat::Void2,
        ),
        "f4" => read!(own f32, NpyFormat::Floats),
        "f8" => read!(own f64, NpyFormat::Floats),
        "i1" => read!(i8, NpyFormat::Integers),
        "i2" => read!(i16, NpyFormat::Integers),
        "i4" => read!(i32, NpyFormat::Integers),
        "i8" => read!(i64, NpyFormat::Integers),
        "u1" => read!(own u8, NpyFormat::Uint8),
        "u2" => read!(u16, NpyFormat::Integers),
        "u4" => read!(u32, NpyFormat::Integers),
        "u8" => read!(u64, NpyFormat::Integers),
        "" => bail!("it is not a .npy array (its header names no number format)"),
        other => bail!(
            "it holds numbers of format `{other}`; expected float32, float64, float16, bfloat16 or \
             integers (f4, f8, f2, V2, i1 to u8)"
        ),
    })
}

/// An array of 16-bit numbers, as the integers with the same bits.
///
/// The reader of `.npy` files knows no 16-bit floats. The header is therefore changed to say `u2`.
fn read_npy_bit_patterns(bytes: &[u8]) -> Result<ArrayD<u16>> {
    use ndarray_npy::ReadNpyExt;
    let find = |text: &[u8], from: usize| {
        bytes[from..]
            .windows(text.len())
            .position(|w| w == text)
            .map(|i| from + i)
    };
    let descr = find(b"descr", 0).unwrap_or(0);
    let at = find(b"f2", descr)
        .or_else(|| find(b"V2", descr))
        .filter(|at| *at > 0 && *at < bytes.len().min(1 << 16));
    let at =
        at.ok_or_else(|| anyhow!("it is not a .npy array (its header names no number format)"))?;
    let order = if bytes[at - 1] == b'>' { b'>' } else { b'<' };
    let head = [&bytes[..at - 1], &[order, b'u', b'2']].concat();
    let whole = std::io::Read::chain(&head[..], &bytes[at + 2..]);
    ArrayD::<u16>::read_npy(whole).map_err(|e| anyhow!("it is not a valid .npy array: {e}"))
}

/// The number format, such as `f4` or `u1`, and the shape in the header of a `.npy` file.
///
/// # Errors
/// Fails if there is no header, or if it does not contain exactly one shape.
pub fn npy_format_and_shape(bytes: &[u8]) -> Result<(String, Vec<usize>)> {
    let plain = single_quoted_header(bytes)?;
    Ok((dtype_of_header(&plain).to_owned(), declared_shape(&plain)?))
}

/// The header with single quotes only. It is a Python dictionary, whose strings may have either
/// quotes.
fn single_quoted_header(bytes: &[u8]) -> Result<String> {
    Ok(npy_header(bytes)?.replace('"', "'"))
}

/// The number format in a header, without the byte order.
fn dtype_of_header(plain: &str) -> &str {
    let described = plain
        .split("'descr':")
        .nth(1)
        .and_then(|d| d.split('\'').nth(1))
        .unwrap_or("");
    described.trim_start_matches(['<', '>', '|', '='])
}

/// The text of a `.npy` header. Its length comes from the file and is checked against the file's
/// size.
///
/// # Errors
/// Fails if there is no header, or if it is incomplete.
pub fn npy_header(bytes: &[u8]) -> Result<String> {
    let field = |range: std::ops::Range<usize>| {
        bytes.get(range).filter(|_| bytes.starts_with(b"\x93NUMPY"))
    };
    let (start, length): (usize, usize) = match (field(6..7), field(8..10), field(8..12)) {
        (Some([1]), Some(l), _) => (10, usize::from(l[0]) | usize::from(l[1]) << 8),
        (Some([2 | 3]), _, Some(l)) => (12, u32::from_le_bytes([l[0], l[1], l[2], l[3]]) as usize),
        _ => bail!("it is not a .npy array (it has no header)"),
    };
    let text = start
        .checked_add(length)
        .and_then(|end| bytes.get(start..end));
    let text = text
        .ok_or_else(|| anyhow!("its header claims {length} bytes: it is truncated or damaged"))?;
    Ok(String::from_utf8_lossy(text).into_owned())
}

/// Checks that a file of `available` bytes can hold the shape in its header, before memory for it
/// is allocated.
///
/// # Errors
/// Fails if the header does not contain exactly one shape, or if the file is too short for it.
pub fn check_declared_size(header: &str, available: usize) -> Result<()> {
    let shape = declared_shape(header)?;
    if shape
        .iter()
        .fold(1usize, |count, size| count.saturating_mul(*size))
        > available
    {
        let shape = shape
            .iter()
            .map(usize::to_string)
            .collect::<Vec<_>>()
            .join(", ");
        bail!(
            "its header claims shape ({shape}), but the file has only {available} bytes: it is \
             truncated or damaged"
        );
    }
    Ok(())
}

/// The shape in a header.
///
/// # Errors
/// Fails if the header does not contain exactly one shape.
pub fn declared_shape(header: &str) -> Result<Vec<usize>> {
    // If a header had two shapes, the reader might use the one that was not checked.
    let shapes: Vec<&str> = header.split("'shape':").skip(1).collect();
    let sizes = |s: &'_ str| Some(s.split_once('(')?.1.split_once(')')?.0.to_owned());
    let [Some(shape)] = &shapes.iter().map(|s| sizes(s)).collect::<Vec<_>>()[..] else {
        bail!("its header names no shape");
    };
    let sizes = shape.split(',').map(str::trim).filter(|s| !s.is_empty());
    let size = |s: &str| {
        s.trim_end_matches('L')
            .parse()
            .map_err(|_| anyhow!("its shape ({shape}) is not a list of sizes"))
    };
    sizes.map(size).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(descr: &str, order: &str, shape: &str, numbers: &[u8]) -> Vec<u8> {
        let header =
            format!("{{'descr': '{descr}', 'fortran_order': {order}, 'shape': {shape}, }}\n");
        let length = u16::try_from(header.len()).expect("short").to_le_bytes();
        [
            b"\x93NUMPY\x01\x00",
            &length[..],
            header.as_bytes(),
            numbers,
        ]
        .concat()
    }

    #[test]
    fn float16_npy_reads_in_either_byte_and_axis_order() {
        use half::{bf16, f16};
        let values = [0.5, -1.25, 3.0, 0.0, 65504.0, -0.000_061_035_156_25];
        let bytes =
            |of: &dyn Fn(f64) -> [u8; 2]| values.iter().flat_map(|v| of(*v)).collect::<Vec<u8>>();
        let low = bytes(&|v| f16::from_f64(v).to_le_bytes());
        let high = bytes(&|v| f16::from_f64(v).to_be_bytes());
        let wide = bytes(&|v| bf16::from_f64(v).to_le_bytes());
        for (descr, numbers, format) in [
            ("<f2", &low, NpyFormat::Floats),
            (">f2", &high, NpyFormat::Floats),
            ("<V2", &wide, NpyFormat::Void2),
            ("|V2", &wide, NpyFormat::Void2),
        ] {
            let (array, is) = parse_npy(&file(descr, "False", "(2, 3)", numbers)).expect(descr);
            let wanted = values.map(|v| {
                if is == NpyFormat::Void2 {
                    bf16::from_f64(v).to_f64()
                } else {
                    v
                }
            });
            let array = array.into_array();
            assert_eq!((array.shape(), is), (&[2, 3][..], format));
            assert!(array.iter().eq(&wanted), "{descr}: {array}");
            let (turned, _) = parse_npy(&file(descr, "True", "(3, 2)", numbers)).expect(descr);
            assert_eq!(turned.into_array().t(), array, "{descr}");
            assert!(parse_npy(&file(descr, "False", "(2, 3)", &numbers[..11])).is_err());
        }
        for other in ["<f16", "|V1", "<c8", "|b1", "|S2"] {
            let error = parse_npy(&file(other, "False", "(1, 1)", &[0; 16]))
                .expect_err(other)
                .to_string();
            assert!(
                error.contains("expected float32, float64, float16, bfloat16"),
                "{other}: {error}"
            );
        }
    }
}
