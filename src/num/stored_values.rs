//! Arrays of samples in the number type of their file: in memory, or in a file that the system maps into memory as far
//! as it is read.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use memmap2::Mmap;
use ndarray::{Array2, ArrayD, ArrayViewMut1, IxDyn};

use super::source::RowSource;

/// The numbers of an array, the samples one after the other and each in row-major order.
#[derive(Debug, Clone)]
enum Numbers {
    /// Numbers of any type, in double precision.
    F64(Vec<f64>),
    /// Numbers of single or half precision.
    F32(Vec<f32>),
    /// Bytes, an eighth of the memory of double precision.
    U8(Vec<u8>),
    /// Numbers in a file.
    Mapped(MappedNumbers),
}

/// The type of little-endian numbers in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MappedFormat {
    /// Bytes.
    U8,
    /// Single precision.
    F32,
    /// Double precision.
    F64,
}

impl MappedFormat {
    /// The bytes of one number.
    pub fn bytes(self) -> usize {
        match self {
            MappedFormat::U8 => 1,
            MappedFormat::F32 => 4,
            MappedFormat::F64 => 8,
        }
    }
}

/// Numbers in a mapped file.
#[derive(Debug, Clone)]
pub struct MappedNumbers {
    /// The file.
    pub map: Arc<Mmap>,
    /// The position of the first number.
    pub start: usize,
    /// The type of the numbers.
    pub format: MappedFormat,
}

/// An array of samples, with the samples along its first axis. Values are given in double precision.
#[derive(Debug, Clone)]
pub struct StoredValues {
    shape: Vec<usize>,
    numbers: Numbers,
}

impl StoredValues {
    /// An array of bytes.
    ///
    /// # Panics
    /// Panics if the shape has another number of elements.
    pub fn from_bytes(shape: &[usize], bytes: Vec<u8>) -> StoredValues {
        assert_eq!(
            shape.iter().product::<usize>(),
            bytes.len(),
            "one number per element"
        );
        StoredValues {
            shape: shape.to_vec(),
            numbers: Numbers::U8(bytes),
        }
    }

    /// An array in a mapped file.
    ///
    /// # Panics
    /// Panics if the file ends before the array.
    pub fn from_map(shape: &[usize], mapped: MappedNumbers) -> StoredValues {
        let size = shape.iter().product::<usize>() * mapped.format.bytes();
        assert!(
            mapped.start + size <= mapped.map.len(),
            "the array lies in the file"
        );
        StoredValues {
            shape: shape.to_vec(),
            numbers: Numbers::Mapped(mapped),
        }
    }

    /// The shape of the array.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The number of samples.
    pub fn samples(&self) -> usize {
        self.shape.first().copied().unwrap_or(0)
    }

    /// The number of values in one sample.
    pub fn width(&self) -> usize {
        self.shape.iter().skip(1).product()
    }

    /// The number of values.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there are no values.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The values of one sample in row-major order.
    ///
    /// # Panics
    /// Panics if there is no such sample.
    pub fn sample(&self, sample: usize) -> Cow<'_, [f64]> {
        let width = self.width();
        self.values(sample * width..(sample + 1) * width)
    }

    /// The values at some positions in row-major order.
    fn values(&self, range: Range<usize>) -> Cow<'_, [f64]> {
        match &self.numbers {
            Numbers::F64(values) => Cow::Borrowed(&values[range]),
            Numbers::F32(values) => values[range].iter().map(|v| f64::from(*v)).collect(),
            Numbers::U8(values) => values[range].iter().map(|v| f64::from(*v)).collect(),
            Numbers::Mapped(mapped) => {
                let size = mapped.format.bytes();
                let bytes =
                    &mapped.map[mapped.start + range.start * size..mapped.start + range.end * size];
                match mapped.format {
                    MappedFormat::U8 => bytes.iter().map(|v| f64::from(*v)).collect(),
                    MappedFormat::F32 => numbers_of(bytes, |b| f64::from(f32::from_le_bytes(b))),
                    MappedFormat::F64 => numbers_of(bytes, f64::from_le_bytes),
                }
            }
        }
    }

    /// Writes the values of one sample to a row.
    ///
    /// # Panics
    /// Panics if there is no such sample, or if the row has another number of elements.
    pub fn write_sample(&self, sample: usize, mut row: ArrayViewMut1<f64>) {
        let values = self.sample(sample);
        assert_eq!(row.len(), values.len(), "one value per element");
        row.iter_mut()
            .zip(&*values)
            .for_each(|(to, from)| *to = *from);
    }

    /// The values of all samples, one after the other.
    pub fn all_samples(&self) -> impl Iterator<Item = Cow<'_, [f64]>> {
        (0..self.samples()).map(|sample| self.sample(sample))
    }

    /// The smallest and the largest value; (∞, −∞) if there are none.
    pub fn min_and_max(&self) -> (f64, f64) {
        let within = |(low, high): (f64, f64), v: &f64| (low.min(*v), high.max(*v));
        self.all_samples()
            .fold((f64::INFINITY, f64::NEG_INFINITY), |ends, sample| {
                sample.iter().fold(ends, within)
            })
    }

    /// The first value of which a condition holds.
    pub fn find_value(&self, holds: impl Fn(f64) -> bool) -> Option<f64> {
        self.all_samples()
            .find_map(|sample| sample.iter().copied().find(|value| holds(*value)))
    }

    /// The first `n` samples as rows.
    pub fn first_rows(&self, n: usize) -> Array2<f64> {
        let mut rows = Array2::zeros((n.min(self.samples()), self.width()));
        for (sample, row) in rows.rows_mut().into_iter().enumerate() {
            self.write_sample(sample, row);
        }
        rows
    }

    /// The whole array in double precision. It is moved if it is already in double precision.
    pub fn into_array(self) -> ArrayD<f64> {
        let shape = IxDyn(&self.shape);
        let values = match self.numbers {
            Numbers::F64(values) => values,
            _ => self.values(0..self.len()).into_owned(),
        };
        ArrayD::from_shape_vec(shape, values).expect("one value per element")
    }

    /// The whole array in double precision.
    pub fn to_array(&self) -> ArrayD<f64> {
        self.clone().into_array()
    }
}

impl RowSource for StoredValues {
    fn size(&self) -> (usize, usize) {
        (self.samples(), self.width())
    }

    fn read_rows(&self, at: &[usize]) -> Result<Array2<f64>, String> {
        let mut rows = Array2::zeros((at.len(), self.width()));
        for (row, sample) in rows.rows_mut().into_iter().zip(at) {
            self.write_sample(*sample, row);
        }
        Ok(rows)
    }
}

/// Numbers of N bytes each.
fn numbers_of<const N: usize>(
    bytes: &[u8],
    number: impl Fn([u8; N]) -> f64,
) -> Cow<'static, [f64]> {
    let chunks = bytes.chunks_exact(N);
    chunks
        .map(|b| number(b.try_into().expect("N bytes")))
        .collect()
}

/// The elements in row-major order.
fn row_major<T: Clone>(array: ArrayD<T>) -> Vec<T> {
    match array.is_standard_layout() {
        true => array.into_raw_vec_and_offset().0,
        false => array.iter().cloned().collect(),
    }
}

impl From<ArrayD<f64>> for StoredValues {
    fn from(array: ArrayD<f64>) -> StoredValues {
        StoredValues {
            shape: array.shape().to_vec(),
            numbers: Numbers::F64(row_major(array)),
        }
    }
}

impl From<ArrayD<f32>> for StoredValues {
    fn from(array: ArrayD<f32>) -> StoredValues {
        StoredValues {
            shape: array.shape().to_vec(),
            numbers: Numbers::F32(row_major(array)),
        }
    }
}

impl From<ArrayD<u8>> for StoredValues {
    fn from(array: ArrayD<u8>) -> StoredValues {
        StoredValues {
            shape: array.shape().to_vec(),
            numbers: Numbers::U8(row_major(array)),
        }
    }
}

/// Arrays are equal if their shapes and values are, in whatever type they are stored.
impl PartialEq for StoredValues {
    fn eq(&self, other: &StoredValues) -> bool {
        self.shape == other.shape && self.all_samples().eq(other.all_samples())
    }
}

#[cfg(test)]
mod tests {
    use ndarray::{Array3, Axis};

    use super::*;

    #[test]
    fn all_number_types_give_the_same_values() {
        let bytes =
            Array3::from_shape_fn((3, 2, 5), |(i, j, k)| (40 * i + 7 * j + k) as u8).into_dyn();
        let double = bytes.mapv(f64::from);
        let file = tempfile::NamedTempFile::new().expect("a file");
        let mapped = |format: MappedFormat| {
            let mut content = vec![9; 11];
            for value in &double {
                match format {
                    MappedFormat::U8 => content.push(*value as u8),
                    MappedFormat::F32 => content.extend((*value as f32).to_le_bytes()),
                    MappedFormat::F64 => content.extend(value.to_le_bytes()),
                }
            }
            std::fs::write(file.path(), content).expect("written");
            // SAFETY: nothing else writes to this file while it is mapped.
            let map = unsafe { Mmap::map(file.as_file()) }.expect("a map");
            let numbers = MappedNumbers {
                map: Arc::new(map),
                start: 11,
                format,
            };
            let values = StoredValues::from_map(&[3, 2, 5], numbers);
            (
                values.to_array(),
                values.min_and_max(),
                values.first_rows(2),
            )
        };
        let mut found = vec![
            mapped(MappedFormat::U8),
            mapped(MappedFormat::F32),
            mapped(MappedFormat::F64),
        ];
        let mut reversed = double.clone();
        reversed.invert_axis(Axis(0));
        reversed.invert_axis(Axis(0));
        for values in [
            StoredValues::from(double.clone()),
            StoredValues::from(reversed),
            StoredValues::from(bytes.mapv(f32::from)),
            StoredValues::from(bytes.clone()),
            StoredValues::from_bytes(&[3, 2, 5], bytes.iter().copied().collect()),
        ] {
            assert_eq!(values, StoredValues::from(double.clone()));
            assert_eq!(
                (values.samples(), values.width(), values.len()),
                (3, 10, 30)
            );
            found.push((
                values.to_array(),
                values.min_and_max(),
                values.first_rows(2),
            ));
        }
        let rows = double.to_shape((3, 10)).expect("rows").into_owned();
        let stored = StoredValues::from(bytes.clone());
        assert_eq!(stored.size(), (3, 10));
        let read = stored.read_rows(&[2, 0, 2]).expect("in memory");
        assert_eq!(read, rows.select(Axis(0), &[2, 0, 2]));
        assert_eq!(stored.find_value(|v| v > 40.0), Some(41.0));
        assert_eq!(stored.find_value(|v| v > 91.0), None);
        let rows = rows.slice_move(ndarray::s![..2, ..]);
        for (array, ends, first) in found {
            assert_eq!(array, double);
            assert_eq!(ends, (0.0, 91.0));
            assert_eq!(first, rows);
        }
    }

    #[test]
    fn another_order_in_memory_is_the_same_array() {
        let array = ndarray::array![[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]];
        let turned = array.clone().reversed_axes().into_dyn();
        let values = StoredValues::from(turned.clone());
        assert_eq!(values.to_array(), turned);
        assert_eq!(&*values.sample(0), [1.0, 4.0]);
    }

    #[test]
    fn a_single_number_has_no_samples() {
        let values = StoredValues::from(ArrayD::from_elem(IxDyn(&[]), 2.0));
        assert_eq!((values.samples(), values.len()), (0, 1));
        assert_eq!(values.to_array()[[]], 2.0);
    }
}
