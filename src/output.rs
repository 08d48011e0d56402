//! Files as they are written: whole, through links, and into pipes and devices as these are.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use same_file::is_same_file;
use sha2::{Digest, Sha256};

use crate::model::library::hex;

/// What a verb writes, which decides how the file's name ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputKind {
    /// CSV; also to standard output, as `-`.
    Table,
    /// A NumPy array.
    Array,
    /// An ONNX model.
    Onnx,
    /// A PNG picture.
    Picture,
}

impl OutputKind {
    /// Every kind, for tests.
    pub const ALL: [OutputKind; 4] = [
        OutputKind::Table,
        OutputKind::Array,
        OutputKind::Onnx,
        OutputKind::Picture,
    ];

    /// How names of this kind end, without the dot.
    pub fn suffix(self) -> &'static str {
        match self {
            OutputKind::Table => "csv",
            OutputKind::Array => "npy",
            OutputKind::Onnx => "onnx",
            OutputKind::Picture => "png",
        }
    }

    fn description(self) -> &'static str {
        match self {
            OutputKind::Table => "a table is written as CSV",
            OutputKind::Array => "samples are written as a NumPy array",
            OutputKind::Onnx => "a model is written as ONNX",
            OutputKind::Picture => "a picture is written as PNG",
        }
    }
}

/// Where a verb's result goes, as the user named it: checked before anything is computed, written at the end.
///
/// A symbolic link stays, and what it leads to is replaced. Pipes and devices are written into. A file is never
/// there in part: it is written beside its place and renamed, and keeps the permissions of the file it replaces.
/// A result that is whole at the end goes through [`Output::write`]. Rows that come one by one go through
/// [`Output::begin`].
#[derive(Debug, Clone)]
pub struct Output {
    flag: &'static str,
    path: PathBuf,
    target: Target,
}

/// What a name leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Target {
    Stdout,
    /// A pipe or a device.
    Stream(PathBuf),
    /// A file, there or not, by the path that links lead to.
    File(PathBuf),
}

impl Output {
    /// Checks the value of `flag`; `inputs` are the files that this call reads, which the result must not replace.
    ///
    /// # Errors
    /// Where the name is a folder's, ends as another kind of file, is an input's, or cannot be written.
    pub fn new(
        kind: OutputKind,
        flag: &'static str,
        named: &Path,
        inputs: &[PathBuf],
    ) -> Result<Output> {
        let context = || format!("{flag} {}", named.display());
        let target = if named == Path::new("-") {
            stdout_target(kind)
        } else {
            writable_target(kind, named)
        };
        let output = Output {
            flag,
            path: named.to_owned(),
            target: target.with_context(context)?,
        };
        output.check_not_an_input(inputs).with_context(context)?;
        Ok(output)
    }

    /// Whether the result goes to standard output, so that nothing else may.
    pub fn is_stdout(&self) -> bool {
        self.target == Target::Stdout
    }

    /// A file beside this one, with `suffix` in place of its own.
    ///
    /// # Errors
    /// Where this is no file, and as [`Output::new`].
    pub fn sibling(
        &self,
        kind: OutputKind,
        flag: &'static str,
        suffix: &str,
        inputs: &[PathBuf],
    ) -> Result<Output> {
        let Target::File(_) = self.target else {
            let (own, named) = (self.flag, self.path.display());
            bail!(
                "{flag}: what it adds is written beside the file of {own}, and {named} is none; expected a file"
            );
        };
        Output::new(kind, flag, &self.path.with_extension(suffix), inputs)
    }

    /// `inputs` with this file: two results of one call must not meet in one file.
    pub fn appended_to(&self, inputs: &[PathBuf]) -> Vec<PathBuf> {
        inputs.iter().chain([&self.path]).cloned().collect()
    }

    fn check_not_an_input(&self, inputs: &[PathBuf]) -> Result<()> {
        let Target::File(to) = &self.target else {
            return Ok(());
        };
        // To open a pipe would wait for its writer.
        let same = |input: &&PathBuf| {
            canonicalize_parent(input) == canonicalize_parent(to)
                || (input.is_file() && is_same_file(input, to).unwrap_or(false))
        };
        match inputs.iter().find(same) {
            Some(input) if *input == self.path => {
                bail!("this call also reads or writes it; expected another name")
            }
            Some(input) => {
                bail!(
                    "it is {}, which this call also reads or writes; expected another name",
                    input.display()
                )
            }
            None => Ok(()),
        }
    }

    /// Writes a result that is whole.
    ///
    /// # Errors
    /// Where the disk or the device refuses; nothing half-written stays.
    pub fn write(&self, bytes: &[u8]) -> Result<()> {
        if let Target::File(to) = &self.target {
            return self
                .make_folder(to)
                .and_then(|()| replace_file(to, bytes))
                .with_context(|| self.context());
        }
        let mut writer = self.begin()?;
        writer.write_all(bytes).map_err(anyhow::Error::from)?;
        writer.finish()
    }

    /// Begins a result that comes in parts, such as rows as they are computed.
    ///
    /// Parts for `-`, a pipe or a device go straight through. Parts for a file go to a sibling with `.partial`
    /// behind its name, which [`Writer::finish`] renames into place. Without `finish`, after an error or a signal,
    /// the file stays what it was and the sibling keeps what was written; nothing stays where nothing was written.
    /// So the writer of a table flushes after each batch of rows, and writes its header together with the first.
    ///
    /// # Errors
    /// Where the place takes no file, or another process is writing it.
    pub fn begin(&self) -> Result<Writer> {
        let sink = match &self.target {
            Target::Stdout => Ok(Sink::Stdout(io::stdout())),
            Target::Stream(path) => OpenOptions::new()
                .append(true)
                .open(path)
                .map(Sink::Stream)
                .map_err(explain_io_error),
            Target::File(to) => self
                .make_folder(to)
                .and_then(|()| PartialFile::begin(to))
                .map(Sink::Partial),
        };
        Ok(Writer {
            context: self.context(),
            sink: sink.with_context(|| self.context())?,
            reader_gone: false,
        })
    }

    fn context(&self) -> String {
        format!(
            "{} {}: it cannot be written",
            self.flag,
            self.path.display()
        )
    }

    /// Makes the folders that are missing, and says so.
    fn make_folder(&self, to: &Path) -> Result<()> {
        let folder = folder_of(to);
        if !folder.exists() {
            std::fs::create_dir_all(folder).map_err(explain_io_error)?;
            errln!(
                "flowgauge: {} {}: the folder {} was made",
                self.flag,
                self.path.display(),
                folder.display()
            );
        }
        Ok(())
    }
}

/// A result on its way; see [`Output::begin`].
#[derive(Debug)]
pub struct Writer {
    context: String,
    sink: Sink,
    /// Whether the reader of a pipe has gone away, which is no error.
    reader_gone: bool,
}

#[derive(Debug)]
enum Sink {
    Stdout(io::Stdout),
    Stream(File),
    Partial(PartialFile),
}

impl Sink {
    fn writer(&mut self) -> &mut dyn Write {
        match self {
            Sink::Stdout(stdout) => stdout,
            Sink::Stream(file) => file,
            Sink::Partial(partial) => partial,
        }
    }
}

impl Writer {
    /// Puts the result into its place.
    ///
    /// # Errors
    /// Where the disk or the device refuses.
    pub fn finish(mut self) -> Result<()> {
        self.flush()?;
        match self.sink {
            Sink::Partial(partial) => partial.finish().context(self.context),
            Sink::Stdout(_) | Sink::Stream(_) => Ok(()),
        }
    }

    /// A reader that has gone away is no error, and is told nothing more.
    fn ignore_broken_pipe<T>(&mut self, result: io::Result<T>, otherwise: T) -> io::Result<T> {
        match result {
            Err(e)
                if e.kind() == ErrorKind::BrokenPipe && !matches!(self.sink, Sink::Partial(_)) =>
            {
                self.reader_gone = true;
                Ok(otherwise)
            }
            Err(e) if e.kind() == ErrorKind::Interrupted => Err(e),
            Err(e) => Err(io::Error::new(
                e.kind(),
                format!("{}: {:#}", self.context, explain_io_error(e)),
            )),
            Ok(done) => Ok(done),
        }
    }
}

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.reader_gone {
            return Ok(bytes.len());
        }
        let result = self.sink.writer().write(bytes);
        self.ignore_broken_pipe(result, bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.reader_gone {
            return Ok(());
        }
        let result = self.sink.writer().flush();
        self.ignore_broken_pipe(result, ())
    }
}

/// The sibling of a file that is being written.
#[derive(Debug)]
struct PartialFile {
    to: PathBuf,
    path: PathBuf,
    file: File,
    written: bool,
    finished: bool,
}

impl PartialFile {
    fn begin(to: &Path) -> Result<PartialFile> {
        let mut name = to.as_os_str().to_owned();
        name.push(".partial");
        let path = PathBuf::from(name);
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .map_err(explain_io_error)?;
        // A file system without locks is no reason not to write.
        if let Err(std::fs::TryLockError::WouldBlock) = file.try_lock() {
            bail!(
                "another process is writing {}; wait for it, or give another name",
                path.display()
            );
        }
        file.set_len(0).map_err(explain_io_error)?;
        Ok(PartialFile {
            to: to.to_owned(),
            path,
            file,
            written: false,
            finished: false,
        })
    }

    fn finish(mut self) -> Result<()> {
        self.file.sync_all().map_err(explain_io_error)?;
        keep_permissions(&self.to, &self.file).map_err(explain_io_error)?;
        std::fs::rename(&self.path, &self.to).map_err(explain_io_error)?;
        self.finished = true;
        Ok(())
    }
}

impl Write for PartialFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.written |= count > 0;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for PartialFile {
    fn drop(&mut self) {
        if !self.finished && !self.written {
            let _ = std::fs::remove_file(&self.path);
        } else if !self.finished {
            errln!(
                "flowgauge: what was written so far is in {}",
                self.path.display()
            );
        }
    }
}

/// Writes a file whole, by the rules of [`Output`]. Its SHA-256.
///
/// # Errors
/// Where the disk refuses; nothing half-written stays.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<String> {
    let context = || format!("{}: it cannot be written", path.display());
    let write = |to: &Path| -> Result<()> {
        std::fs::create_dir_all(folder_of(to)).map_err(explain_io_error)?;
        replace_file(to, bytes)
    };
    match resolve_target(path).with_context(context)? {
        Target::File(to) => write(&to).with_context(context)?,
        Target::Stream(_) | Target::Stdout => {
            bail!(
                "{}: a pipe or a device is there, expected a file or nothing",
                path.display()
            )
        }
    }
    Ok(hex(&Sha256::digest(bytes)))
}

/// Refuses a folder that could not take files, before anything is computed for it; it need not be there.
///
/// # Errors
/// Where something else is in its place, or it is read-only.
pub fn check_output_folder(path: &Path) -> Result<()> {
    let context = || format!("{}: it cannot be written", path.display());
    if path.exists() && !path.is_dir() {
        bail!("{}: it is no folder", path.display());
    }
    check_takes_files(&path.join("file")).with_context(context)
}

/// Replaces a file, in a folder that is there.
fn replace_file(to: &Path, bytes: &[u8]) -> Result<()> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".").suffix(".tmp");
    // Temporary files are private; results are as open as the user's other files.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut file = builder
        .tempfile_in(folder_of(to))
        .map_err(explain_io_error)?;
    file.write_all(bytes).map_err(explain_io_error)?;
    file.as_file().sync_all().map_err(explain_io_error)?;
    keep_permissions(to, file.as_file()).map_err(explain_io_error)?;
    file.persist(to).map_err(|e| explain_io_error(e.error))?;
    Ok(())
}

/// Gives a new file the owner, where this user may, and the permissions of the one that it will replace.
fn keep_permissions(replaced: &Path, file: &File) -> io::Result<()> {
    let Ok(there) = std::fs::metadata(replaced) else {
        return Ok(());
    };
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let new = file.metadata()?;
        if (new.uid(), new.gid()) != (there.uid(), there.gid()) {
            let _ = std::os::unix::fs::fchown(file, Some(there.uid()), Some(there.gid()));
        }
    }
    file.set_permissions(there.permissions())
}

fn stdout_target(kind: OutputKind) -> Result<Target> {
    match kind {
        OutputKind::Table => Ok(Target::Stdout),
        _ => Err(anyhow!(
            "only tables go to standard output; expected a file whose name ends in .{}",
            kind.suffix()
        )),
    }
}

/// What a user's name leads to, where it may be written.
fn writable_target(kind: OutputKind, named: &Path) -> Result<Target> {
    let target = resolve_target(named)?;
    match &target {
        Target::Stdout => {}
        Target::Stream(path) => check_stream(path)?,
        Target::File(to) => {
            check_suffix(kind, named)?;
            if std::fs::metadata(to).is_ok_and(|there| there.permissions().readonly()) {
                bail!("it is read-only; expected a file that may be replaced, or another name");
            }
            check_takes_files(to)?;
        }
    }
    Ok(target)
}

fn check_suffix(kind: OutputKind, named: &Path) -> Result<()> {
    let Some(suffix) = named.extension() else {
        return Ok(());
    };
    if !suffix.eq_ignore_ascii_case(kind.suffix()) {
        let standard = if kind == OutputKind::Table {
            ", or `-` for standard output"
        } else {
            ""
        };
        bail!(
            "{}; expected a name that ends in .{}{standard}",
            kind.description(),
            kind.suffix()
        );
    }
    Ok(())
}

/// Follows links to what is to be written.
fn resolve_target(named: &Path) -> Result<Target> {
    if named.as_os_str().to_string_lossy().ends_with('/') {
        bail!("it is a folder, expected a file to write");
    }
    if named.as_os_str().is_empty() {
        bail!("it is no name, expected that of a file");
    }
    let mut at = named.to_owned();
    // As many links as Linux follows.
    for _ in 0..40 {
        let there = match std::fs::symlink_metadata(&at) {
            Ok(there) => there,
            Err(e) if [ErrorKind::NotFound, ErrorKind::NotADirectory].contains(&e.kind()) => {
                return Ok(Target::File(at));
            }
            Err(e) => return Err(explain_io_error(e)),
        };
        match own_descriptor(&at).as_deref() {
            Some("1") => return Ok(Target::Stdout),
            Some(_) => return Ok(Target::Stream(at)),
            None if there.is_symlink() => {
                let next = std::fs::read_link(&at).map_err(explain_io_error)?;
                at = folder_of(&at).join(next);
            }
            None if there.is_dir() => bail!("it is a folder, expected a file to write"),
            None if there.is_file() => return Ok(Target::File(at)),
            None => return Ok(Target::Stream(at)),
        }
    }
    bail!("its symbolic links lead in a circle")
}

/// The number of an open file of this process that a path is a name of, such as `/dev/fd/63`. Such a file is
/// written into: it may be a pipe, and a shell that redirects into it knows no other by its name.
fn own_descriptor(path: &Path) -> Option<String> {
    let folder = folder_of(path).canonicalize().ok()?;
    let open_files = [Path::new("/proc/self/fd"), Path::new("/dev/fd")];
    let own = open_files
        .iter()
        .any(|f| f.canonicalize().is_ok_and(|f| f == folder));
    own.then(|| path.file_name().map(|n| n.to_string_lossy().into_owned()))
        .flatten()
}

/// Refuses what is neither file, pipe nor character device.
fn check_stream(path: &Path) -> Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        let kind = std::fs::metadata(path)
            .map_err(explain_io_error)?
            .file_type();
        if kind.is_block_device() || kind.is_socket() {
            let what = if kind.is_socket() {
                "a socket"
            } else {
                "a disk"
            };
            bail!("it is {what}, expected a file, a pipe or a character device");
        }
        // A pipe would wait for its reader.
        if kind.is_char_device() {
            OpenOptions::new()
                .append(true)
                .open(path)
                .map_err(explain_io_error)?;
        }
    }
    let _ = path;
    Ok(())
}

/// Refuses a file whose folder takes none; missing folders are made when the file is written.
fn check_takes_files(file: &Path) -> Result<()> {
    let folder = file
        .ancestors()
        .skip(1)
        .map(or_current_dir)
        .find(|p| p.exists())
        .unwrap_or(Path::new("."));
    if !folder.is_dir() {
        bail!("it cannot be written: {} is no folder", folder.display());
    }
    tempfile::tempfile_in(folder)
        .map_err(explain_io_error)
        .with_context(|| format!("the folder {}", folder.display()))?;
    Ok(())
}

/// Why a disk or a device refuses, in words.
fn explain_io_error(error: io::Error) -> anyhow::Error {
    match error.kind() {
        // With the cause: a full disk is a failure while running, and no fault of the input.
        ErrorKind::StorageFull => anyhow::Error::new(error).context("no space is left there"),
        ErrorKind::QuotaExceeded => {
            anyhow::Error::new(error).context("the quota of its disk is used up")
        }
        ErrorKind::ReadOnlyFilesystem => anyhow!("its file system is read-only"),
        ErrorKind::PermissionDenied => anyhow!("it is read-only for this user"),
        _ => error.into(),
    }
}

fn folder_of(file: &Path) -> &Path {
    or_current_dir(file.parent().unwrap_or(Path::new(".")))
}

fn or_current_dir(folder: &Path) -> &Path {
    if folder.as_os_str().is_empty() {
        Path::new(".")
    } else {
        folder
    }
}

/// A path by one name of its folder, for files that are not there yet.
fn canonicalize_parent(path: &Path) -> Option<PathBuf> {
    Some(folder_of(path).canonicalize().ok()?.join(path.file_name()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().expect("a temporary folder")
    }

    fn refusal(kind: OutputKind, path: &Path, inputs: &[PathBuf]) -> String {
        format!(
            "{:#}",
            Output::new(kind, "--out", path, inputs).expect_err("it is refused")
        )
    }

    #[test]
    fn each_output_kind_accepts_only_its_suffix() {
        let folder = folder();
        for kind in OutputKind::ALL {
            for other in OutputKind::ALL {
                let path = folder.path().join(format!("a.{}", other.suffix()));
                match kind == other {
                    true => drop(Output::new(kind, "--out", &path, &[]).expect("its own suffix")),
                    false => {
                        assert!(refusal(kind, &path, &[]).contains(&format!(".{}", kind.suffix())))
                    }
                }
            }
            let upper = folder
                .path()
                .join(format!("a.{}", kind.suffix().to_uppercase()));
            for path in [upper, folder.path().join("a")] {
                Output::new(kind, "--out", &path, &[]).expect("another spelling, or no suffix");
            }
        }
    }

    #[test]
    fn partial_file_is_renamed_on_finish() {
        let folder = folder();
        let (path, partial) = (
            folder.path().join("a.csv"),
            folder.path().join("a.csv.partial"),
        );
        std::fs::write(&path, "old").expect("written");
        let output = Output::new(OutputKind::Table, "--out", &path, &[]).expect("a file");
        drop(output.begin().expect("begun"));
        assert!(!partial.exists(), "nothing was written");
        let mut writer = output.begin().expect("begun");
        writer.write_all(b"one").expect("written");
        let busy = format!("{:#}", output.begin().expect_err("one is at work"));
        assert!(busy.contains("another process"), "{busy}");
        drop(writer);
        let read = |path: &Path| std::fs::read_to_string(path).expect("a file");
        assert_eq!(
            (read(&path).as_str(), read(&partial).as_str()),
            ("old", "one")
        );
        let mut writer = output.begin().expect("begun anew");
        writer.write_all(b"two").expect("written");
        writer.finish().expect("in its place");
        assert_eq!(read(&path), "two");
        assert!(!partial.exists());
    }

    #[test]
    fn two_outputs_cannot_share_a_file() {
        let folder = folder();
        let first =
            Output::new(OutputKind::Array, "--out", &folder.path().join("a"), &[]).expect("a file");
        let message = refusal(
            OutputKind::Picture,
            &folder.path().join("a"),
            &first.appended_to(&[]),
        );
        assert!(message.contains("also reads or writes"), "{message}");
    }
}
