//! Large `.npy` files whose numbers stay in the file until they are needed.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use memmap2::Mmap;
use sha2::{Digest, Sha256};

use super::NumberKind;
use crate::host::hex;
use crate::num::npy::{check_declared_size, declared_shape, npy_header};
use crate::num::stored_values::{MappedFormat, MappedNumbers, StoredValues};

/// Smaller files are read as a whole.
const MIN_FILE_BYTES: u64 = 1 << 26;

/// Where the numbers of a `.npy` file are that holds them as the processor does, one sample after the
/// other.
struct PlainNpy {
    /// The shape of the array, with at least one sample.
    shape: Vec<usize>,
    format: MappedFormat,
    /// The position in the file at which the numbers begin.
    start: usize,
}

impl PlainNpy {
    /// Reads the header of a `.npy` file of at least `large` bytes. `None` for other files and other
    /// layouts, which are left to the reader of whole files: it knows them all and says what is wrong.
    ///
    /// # Errors
    /// Fails if the file cannot be read, or if its header claims more numbers than the file holds.
    fn find(path: &Path, large: u64) -> Result<Option<PlainNpy>> {
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
        let format = match () {
            () if compact.contains("'descr':'<f4'") => MappedFormat::F32,
            () if compact.contains("'descr':'<f8'") => MappedFormat::F64,
            () if compact.contains("'descr':'|u1'") => MappedFormat::U8,
            () => return Ok(None),
        };
        let shape = declared_shape(&header).with_context(claimed)?;
        let prefix = if head[6] == 1 { 10 } else { 12 };
        let start = prefix + header.len();
        let whole = start + shape.iter().product::<usize>() * format.bytes() == length as usize;
        let plain = compact.contains("'fortran_order':False")
            && shape.first().is_some_and(|rows| *rows > 0)
            && whole;
        Ok(plain.then_some(PlainNpy {
            shape,
            format,
            start,
        }))
    }
}

/// An array that stays in its file, and the SHA-256 of the file's bytes in hexadecimal.
pub(super) struct MappedNpy {
    pub values: StoredValues,
    pub number_kind: NumberKind,
    pub sha256: String,
}

impl MappedNpy {
    /// Maps a large `.npy` file into memory. `None` if the file should be read as a whole.
    ///
    /// # Errors
    /// Fails if the file cannot be read, or if its header claims more numbers than the file holds.
    pub(super) fn open(path: &Path) -> Result<Option<MappedNpy>> {
        MappedNpy::open_if_at_least(path, MIN_FILE_BYTES)
    }

    /// Maps a `.npy` file of at least `large` bytes.
    fn open_if_at_least(path: &Path, large: u64) -> Result<Option<MappedNpy>> {
        let Some(PlainNpy {
            shape,
            format,
            start,
        }) = PlainNpy::find(path, large)?
        else {
            return Ok(None);
        };
        let name = || format!("{}: the data cannot be read", path.display());
        let file = File::open(path).with_context(name)?;
        // SAFETY: the map is read-only. Whoever shortens the file during a run ends the process, and
        // whoever changes it is found out by its hash.
        let map = unsafe { Mmap::map(&file) }.with_context(name)?;
        let sha256 = hex(&Sha256::digest(&map));
        let mapped = MappedNumbers {
            map: Arc::new(map),
            start,
            format,
        };
        Ok(Some(MappedNpy {
            values: StoredValues::from_map(&shape, mapped),
            number_kind: match format {
                MappedFormat::U8 => NumberKind::Uint8,
                MappedFormat::F32 | MappedFormat::F64 => NumberKind::Floats,
            },
            sha256,
        }))
    }
}

#[cfg(test)]
mod tests {
    use ndarray::Array3;
    use ndarray_npy::WriteNpyExt;

    use super::*;

    #[test]
    fn mapped_arrays_match_arrays_in_memory() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("a.npy");
        let values = Array3::from_shape_fn((7, 2, 3), |(i, j, k)| (30 * i + 10 * j + k) as u8);
        let double = values.mapv(f64::from);
        let write = |what: &str| {
            let file = File::create(&path).expect(what);
            match what {
                "bytes" => values.write_npy(file),
                "single" => values.mapv(f32::from).write_npy(file),
                "double" => double.write_npy(file),
                "signed" => values.mapv(i16::from).write_npy(file),
                _ => double
                    .t()
                    .as_standard_layout()
                    .into_owned()
                    .reversed_axes()
                    .write_npy(file),
            }
            .expect(what);
        };
        for what in ["bytes", "single", "double"] {
            write(what);
            let mapped = MappedNpy::open_if_at_least(&path, 0)
                .expect(what)
                .expect(what);
            let read = super::super::Dataset::read(&path).expect(what);
            assert_eq!(mapped.values, read.values, "{what}");
            assert_eq!(
                mapped.values.to_array(),
                double.clone().into_dyn(),
                "{what}"
            );
            assert_eq!(mapped.number_kind, read.number_kind, "{what}");
            assert_eq!(mapped.sha256, read.sha256, "{what}");
        }
        for what in ["signed", "columns first"] {
            write(what);
            assert!(
                MappedNpy::open_if_at_least(&path, 0).expect(what).is_none(),
                "{what}"
            );
        }
        write("bytes");
        assert!(MappedNpy::open(&path).expect("a small file").is_none());
        let whole = std::fs::read(&path).expect("bytes");
        std::fs::write(&path, &whole[..whole.len() - 1]).expect("cut");
        // What is wrong with it is said by the reader of whole files.
        let cut = MappedNpy::open_if_at_least(&path, 0);
        assert!(cut.is_ok_and(|mapped| mapped.is_none()));
        assert!(super::super::Dataset::read(&path).is_err());
    }
}
