//! Rows of a large `.npy` file that are read on demand.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use ndarray::Array2;

use crate::num::npy::{check_declared_size, declared_shape, npy_header};
use crate::num::source::RowSource;

/// A `.npy` file of float32 or float64 with the samples along its first axis. Its rows stay in the
/// file until they are needed.
pub struct NpyRows {
    path: PathBuf,
    /// The number of samples.
    rows: usize,
    /// The numbers in one sample.
    columns: usize,
    /// The shape of one sample.
    pub shape: Vec<usize>,
    /// The bytes of one number.
    number_bytes: usize,
    /// The position in the file at which the numbers begin.
    data_offset: u64,
}

/// Smaller files are read as a whole.
const MIN_FILE_BYTES: u64 = 1 << 26;
/// Files with shorter rows are read as a whole.
const MIN_ROW_BYTES: usize = 512;

impl NpyRows {
    /// Opens a large `.npy` file. `None` if the file should be read as a whole: other kinds of
    /// files, small files, and files with short rows.
    ///
    /// # Errors
    /// Fails if the file cannot be read, or if its header claims more numbers than the file holds.
    pub fn open(path: &Path) -> Result<Option<NpyRows>> {
        NpyRows::open_if_at_least(path, MIN_FILE_BYTES, MIN_ROW_BYTES)
    }

    /// Opens a `.npy` file of at least `large` bytes with rows of at least `row` bytes.
    fn open_if_at_least(path: &Path, large: u64, row: usize) -> Result<Option<NpyRows>> {
        let npy = path
            .extension()
            .is_some_and(|e| e.eq_ignore_ascii_case("npy"));
        if !npy || !path.is_file() || std::fs::metadata(path).is_ok_and(|m| m.len() < large) {
            return Ok(None);
        }
        let name = || format!("{}: the data cannot be read", path.display());
        let mut file = File::open(path).with_context(name)?;
        let length = file.metadata().with_context(name)?.len();
        let mut head = vec![0; length.min(1 << 17) as usize];
        file.read_exact(&mut head).with_context(name)?;
        let header = npy_header(&head)
            .with_context(|| path.display().to_string())?
            .replace('"', "'");
        let claimed = || path.display().to_string();
        check_declared_size(&header, length as usize).with_context(claimed)?;
        let compact: String = header.split_whitespace().collect();
        let width = match () {
            () if compact.contains("'descr':'<f4'") => 4,
            () if compact.contains("'descr':'<f8'") => 8,
            () => return Ok(None),
        };
        let sizes = declared_shape(&header).with_context(claimed)?;
        let Some((&rows, shape)) = sizes.split_first() else {
            return Ok(None);
        };
        let (shape, columns) = (shape.to_vec(), shape.iter().product::<usize>());
        let prefix = if head[6] == 1 { 10 } else { 12 };
        let start = (prefix + header.len()) as u64;
        let whole = start + (rows * columns * width) as u64 == length;
        // Other layouts are left to the reader of whole files, which knows them all and says what
        // is wrong.
        let plain = compact.contains("'fortran_order':False")
            && rows > 0
            && columns * width >= row
            && whole;
        Ok(plain.then(|| NpyRows {
            path: path.to_owned(),
            rows,
            columns,
            shape,
            number_bytes: width,
            data_offset: start,
        }))
    }
}

impl RowSource for NpyRows {
    fn shape(&self) -> (usize, usize) {
        (self.rows, self.columns)
    }

    fn read_rows(&self, at: &[usize]) -> Result<Array2<f64>, String> {
        let failed = |e: std::io::Error| format!("{}: {e}", self.path.display());
        let mut file = File::open(&self.path).map_err(failed)?;
        let mut out = Array2::zeros((at.len(), self.columns));
        let mut bytes = vec![0; self.columns * self.number_bytes];
        for (mut row, i) in out.rows_mut().into_iter().zip(at) {
            file.seek(SeekFrom::Start(self.data_offset + (i * bytes.len()) as u64))
                .map_err(failed)?;
            file.read_exact(&mut bytes).map_err(failed)?;
            for (to, from) in row.iter_mut().zip(bytes.chunks_exact(self.number_bytes)) {
                *to = match from.try_into() {
                    Ok(four) => f64::from(f32::from_le_bytes(four)),
                    Err(_) => f64::from_le_bytes(from.try_into().expect("eight bytes")),
                };
            }
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use ndarray::Array3;
    use ndarray_npy::WriteNpyExt;

    use super::*;

    #[test]
    fn npy_rows_match_the_whole_array() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let values =
            Array3::from_shape_fn((7, 2, 3), |(i, j, k)| (100 * i + 10 * j + k) as f32 / 7.0);
        let double = values.mapv(f64::from);
        let flat = double
            .clone()
            .into_shape_with_order((7, 6))
            .expect("42 numbers");
        let file = |name: &str| folder.path().join(name);
        values
            .write_npy(File::create(file("a.npy")).expect("a file"))
            .expect("written");
        double
            .write_npy(File::create(file("b.npy")).expect("a file"))
            .expect("written");
        for name in ["a.npy", "b.npy"] {
            let stored = NpyRows::open_if_at_least(&file(name), 0, 0)
                .expect("whole")
                .expect("plain");
            assert_eq!((stored.shape(), &stored.shape[..]), ((7, 6), &[2, 3][..]));
            let at = [6, 0, 3, 3];
            assert_eq!(
                stored.read_rows(&at).expect("there"),
                flat.select(ndarray::Axis(0), &at),
                "{name}"
            );
        }
        // Small files, short rows and other layouts are read at once.
        assert!(NpyRows::open(&file("a.npy")).expect("whole").is_none());
        assert!(
            NpyRows::open_if_at_least(&file("a.npy"), 0, 25)
                .expect("whole")
                .is_none()
        );
        double
            .t()
            .write_npy(File::create(file("c.npy")).expect("a file"))
            .expect("written");
        assert!(
            NpyRows::open_if_at_least(&file("c.npy"), 0, 0)
                .expect("whole")
                .is_none()
        );
        // A truncated file is left to the reader of whole files, which gives the error.
        let bytes = std::fs::read(file("a.npy")).expect("bytes");
        std::fs::write(file("d.npy"), &bytes[..bytes.len() - 4]).expect("written");
        assert!(
            NpyRows::open_if_at_least(&file("d.npy"), 0, 0)
                .expect("a header")
                .is_none()
        );
    }
}
