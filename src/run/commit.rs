//! One trial: it is executed, its files are written, and its line is appended to the journal.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};

use super::begin::runtime_fingerprint;
use crate::execute::{Executor, TrialOutput};
use crate::host::hex;
use crate::journal::{Event, array_file, row_file, step_file};
use crate::output::{write_atomic, write_new};
use crate::plan::Trial;

/// What becomes of files of a trial that are there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ExistingFiles {
    /// They are replaced.
    Replace,
    /// They are kept if they say the same, since another process may be about to commit them.
    KeepIfSame,
    /// They are kept, since another process has committed them.
    Keep,
}

/// Writes the files of a finished trial. Returns the event that commits it.
///
/// # Errors
/// Fails if a file cannot be written.
pub(super) fn write_trial(
    executor: &Executor,
    dir: &Path,
    trial: &Trial,
    output: TrialOutput,
    existing: ExistingFiles,
    began: Instant,
) -> Result<Event> {
    let write = |path: &Path, bytes: &[u8]| write_file(path, bytes, existing);
    let sha256 = write(&row_file(dir, &trial.id), &output.csv)?;
    let array = output
        .array
        .map(|bytes| write(&array_file(dir, &trial.id), &bytes))
        .transpose()?;
    let steps = output
        .steps
        .map(|bytes| write(&step_file(dir, &trial.id), &bytes))
        .transpose()?;
    Ok(Event::Finished {
        trial: trial.id.clone(),
        rows: output.rows,
        sha256,
        array_sha256: array,
        steps_sha256: steps,
        under: Some(runtime_fingerprint(executor.runtime, executor.machine)),
        seconds: began.elapsed().as_secs_f64(),
    })
}

/// Writes one file of a trial, or keeps the one that is there. Returns the hash of the file that is
/// there in the end.
///
/// # Errors
/// Fails if the file cannot be written or read.
fn write_file(path: &Path, bytes: &[u8], existing: ExistingFiles) -> Result<String> {
    if existing == ExistingFiles::Replace {
        return write_atomic(path, bytes);
    }
    if write_new(path, bytes)? {
        return Ok(hex(&Sha256::digest(bytes)));
    }
    let there = std::fs::read(path).with_context(|| path.display().to_string())?;
    match existing == ExistingFiles::Keep || says_the_same(&there, bytes) {
        true => Ok(hex(&Sha256::digest(&there))),
        false => write_atomic(path, bytes),
    }
}

/// Whether two files of a trial are equal, or are tables that differ in measured times alone.
fn says_the_same(a: &[u8], b: &[u8]) -> bool {
    a == b || matches!((without_times(a), without_times(b)), (Ok(a), Ok(b)) if a == b)
}

/// The cells of a table without the columns of times; an error if it is not a whole table.
fn without_times(table: &[u8]) -> Result<Vec<Vec<String>>> {
    ensure!(table.ends_with(b"\n"), "its last line is torn");
    let mut reader = csv::Reader::from_reader(table);
    let columns = reader.headers()?.clone();
    let kept: Vec<usize> = (0..columns.len())
        .filter(|i| !columns[*i].contains("seconds"))
        .collect();
    let row = |record: &csv::StringRecord| kept.iter().map(|i| record[*i].to_owned()).collect();
    let mut rows = vec![row(&columns)];
    for record in reader.records() {
        rows.push(row(&record?));
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_differ_in_times_alone_are_kept() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("rows/a.csv");
        let (first, second) = ("x,seconds\n1,0.5\n", "x,seconds\n1,0.7\n");
        let other = "x,seconds\n2,0.5\n";
        let write = |text: &str, existing| {
            let told = write_file(&path, text.as_bytes(), existing).expect("written");
            let there = std::fs::read(&path).expect("read");
            assert_eq!(told, hex(&Sha256::digest(&there)), "the hash is the file's");
            String::from_utf8(there).expect("text")
        };
        assert_eq!(write(first, ExistingFiles::KeepIfSame), first);
        assert_eq!(write(second, ExistingFiles::KeepIfSame), first);
        assert_eq!(write(other, ExistingFiles::Keep), first);
        assert_eq!(write(other, ExistingFiles::KeepIfSame), other);
        assert_eq!(write(second, ExistingFiles::Replace), second);
        std::fs::write(&path, &first[..12]).expect("torn");
        assert_eq!(write(first, ExistingFiles::KeepIfSame), first);
        let array = [0u8, 255, 10, 1];
        assert!(says_the_same(&array, &array) && !says_the_same(&array, &array[1..]));
    }
}
