//! Writing results. A file appears complete or not at all, a symbolic link is followed, and a pipe
//! or a device is written into directly.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use same_file::is_same_file;
use sha2::{Digest, Sha256};

use crate::host::{hex, with_resolved_folder};

/// The kind of a result, which decides the suffix of the file's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OutputKind {
    /// A CSV table. Only tables, cards and configs can go to standard output (`-`).
    Table,
    /// A card in YAML.
    Card,
    /// A config in YAML.
    Config,
    /// A NumPy array.
    Array,
    /// A NumPy archive of several arrays.
    Archive,
    /// An ONNX model.
    Onnx,
    /// A PNG picture.
    Picture,
}

impl OutputKind {
    /// Every kind.
    #[cfg(test)]
    const ALL: [OutputKind; 7] = [
        OutputKind::Archive,
        OutputKind::Table,
        OutputKind::Card,
        OutputKind::Config,
        OutputKind::Array,
        OutputKind::Onnx,
        OutputKind::Picture,
    ];

    /// The suffix of files of this kind, without the dot.
    pub(crate) fn suffix(self) -> &'static str {
        match self {
            OutputKind::Table => "csv",
            OutputKind::Card | OutputKind::Config => "yaml",
            OutputKind::Array => "npy",
            OutputKind::Archive => "npz",
            OutputKind::Onnx => "onnx",
            OutputKind::Picture => "png",
        }
    }

    /// A clause that names the format, for messages.
    fn description(self) -> &'static str {
        match self {
            OutputKind::Table => "a table is written as CSV",
            OutputKind::Card => "a card is written as YAML",
            OutputKind::Config => "a config is written as YAML",
            OutputKind::Array => "samples are written as a NumPy array",
            OutputKind::Archive => "statistics are written as a NumPy archive",
            OutputKind::Onnx => "a model is written as ONNX",
            OutputKind::Picture => "a picture is written as PNG",
        }
    }
}

/// The destination of a result, as the user named it. It is checked before anything is computed.
///
/// A symbolic link stays, and the file it points to is replaced. Pipes and devices are written
/// into. A file never exists in part: it is written under another name in the same folder and then
/// renamed. It keeps the permissions of the file that it replaces. [`Output::write`] writes a
/// result that is complete; [`Output::begin`] writes rows as they are computed.
#[derive(Debug, Clone)]
pub(crate) struct Output {
    /// The option that names the result, such as `--out`, for messages.
    flag: &'static str,
    /// The path as the user wrote it.
    path: PathBuf,
    /// What the path leads to.
    target: Target,
}

/// What the path of a result leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Target {
    /// Standard output.
    Stdout,
    /// A pipe or a device.
    Stream(PathBuf),
    /// A file, whether it exists or not, with all symbolic links resolved.
    File(PathBuf),
}

impl Output {
    /// Checks the path in the value of `flag`. `inputs` are the files that this call reads, which
    /// the result must not replace.
    ///
    /// # Errors
    /// Fails if the path is a folder, has the suffix of another kind, is an input, or cannot be
    /// written.
    pub(crate) fn new(
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

    /// Whether the result goes to standard output. Nothing else may be printed there then.
    pub(crate) fn is_stdout(&self) -> bool {
        self.target == Target::Stdout
    }

    /// A second result in the same folder, with `suffix` instead of the suffix of this one.
    ///
    /// # Errors
    /// Fails if this result is not a file, or if [`Output::new`] refuses the path.
    pub(crate) fn sibling(
        &self,
        kind: OutputKind,
        flag: &'static str,
        suffix: &str,
        inputs: &[PathBuf],
    ) -> Result<Output> {
        let Target::File(_) = self.target else {
            let (own, named) = (self.flag, self.path.display());
            bail!(
                "{flag}: its result is written beside the file of {own}, \
                 but {own} {named} is not a file; expected a file"
            );
        };
        Output::new(kind, flag, &self.path.with_extension(suffix), inputs)
    }

    /// `inputs` followed by this file. With this list as its inputs, another result of the same
    /// call cannot be written to the same file.
    pub(crate) fn appended_to(&self, inputs: &[PathBuf]) -> Vec<PathBuf> {
        inputs.iter().chain([&self.path]).cloned().collect()
    }

    /// Checks that the file is none of `inputs`, by its path and by its identity (hard links).
    ///
    /// # Errors
    /// Fails if the file is an input.
    fn check_not_an_input(&self, inputs: &[PathBuf]) -> Result<()> {
        let Target::File(to) = &self.target else {
            return Ok(());
        };
        // Only files are opened for the comparison: opening a pipe would wait for its writer.
        let same = |input: &&PathBuf| {
            with_resolved_folder(input) == with_resolved_folder(to)
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

    /// Writes a complete result.
    ///
    /// # Errors
    /// Fails if the disk or the device refuses. No part of a file stays then.
    pub(crate) fn write(&self, bytes: &[u8]) -> Result<()> {
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

    /// Begins a result that is written in parts, such as rows as they are computed.
    ///
    /// Standard output, a pipe and a device receive each part at once. The parts of a file go to a
    /// partial file with `.partial` added to the name, which [`Writer::finish`] renames. Without
    /// `finish`, after an error or a signal, the file itself is unchanged. The partial file then
    /// keeps what was written; it is removed if nothing was written. A writer of a table therefore
    /// flushes after each batch of rows, and writes its header together with the first batch.
    ///
    /// # Errors
    /// Fails if the file cannot be created, or if another process is writing it.
    pub(crate) fn begin(&self) -> Result<Writer> {
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

    /// The first part of messages: option, path, and that it cannot be written.
    fn context(&self) -> String {
        format!(
            "{} {}: it cannot be written",
            self.flag,
            self.path.display()
        )
    }

    /// Creates the missing folders of a file, and prints a note if there were any.
    ///
    /// # Errors
    /// Fails if a folder cannot be created.
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

/// Writes a result in parts; see [`Output::begin`].
#[derive(Debug)]
pub(crate) struct Writer {
    /// The first part of messages.
    context: String,
    sink: Sink,
    /// Whether the reader of a pipe has closed it. This is not an error; later parts are dropped.
    reader_gone: bool,
}

/// Where the parts of a result are written.
#[derive(Debug)]
enum Sink {
    Stdout(io::Stdout),
    Stream(File),
    Partial(PartialFile),
}

impl Sink {
    /// The writer of the bytes.
    fn writer(&mut self) -> &mut dyn Write {
        match self {
            Sink::Stdout(stdout) => stdout,
            Sink::Stream(file) => file,
            Sink::Partial(partial) => partial,
        }
    }
}

impl Writer {
    /// Completes the result: renames the partial file.
    ///
    /// # Errors
    /// Fails if the disk or the device refuses.
    pub(crate) fn finish(mut self) -> Result<()> {
        self.flush()?;
        match self.sink {
            Sink::Partial(partial) => partial.finish().context(self.context),
            Sink::Stdout(_) | Sink::Stream(_) => Ok(()),
        }
    }

    /// Turns the error of a closed pipe into `otherwise`, and adds the path to the message of any
    /// other error.
    ///
    /// # Errors
    /// Fails with every other error.
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

/// The partial file of a result, which is renamed when the result is complete.
#[derive(Debug)]
struct PartialFile {
    /// The final path.
    to: PathBuf,
    /// The path of the partial file.
    path: PathBuf,
    file: File,
    /// Whether anything was written.
    written: bool,
    /// Whether the file was renamed.
    finished: bool,
}

impl PartialFile {
    /// Creates and locks an empty partial file.
    ///
    /// # Errors
    /// Fails if the file cannot be created, or if another process has locked it.
    fn begin(to: &Path) -> Result<PartialFile> {
        let mut name = to.as_os_str().to_owned();
        name.push(".partial");
        let path = PathBuf::from(name);
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .map_err(explain_io_error)?;
        // Only a lock of another process is an error: some file systems have no locks.
        if let Err(TryLockError::WouldBlock) = file.try_lock() {
            bail!(
                "another process is writing {}; wait for it, or choose another name",
                path.display()
            );
        }
        // The file is emptied only under the lock, so that another process loses nothing.
        file.set_len(0).map_err(explain_io_error)?;
        Ok(PartialFile {
            to: to.to_owned(),
            path,
            file,
            written: false,
            finished: false,
        })
    }

    /// Renames the partial file to the final path.
    ///
    /// # Errors
    /// Fails if the disk refuses.
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

/// Writes a complete file by the rules of [`Output`], and returns its SHA-256 in hexadecimal.
/// Missing folders are created.
///
/// # Errors
/// Fails if the disk refuses, or if the path is a pipe or a device. No part of the file stays then.
pub(crate) fn write_atomic(path: &Path, bytes: &[u8]) -> Result<String> {
    let context = || format!("{}: it cannot be written", path.display());
    match resolve_target(path).with_context(context)? {
        Target::File(to) => replace_file(&to, bytes).with_context(context)?,
        Target::Stream(_) | Target::Stdout => {
            bail!(
                "{}: it is a pipe or a device, expected a file",
                path.display()
            )
        }
    }
    Ok(hex(&Sha256::digest(bytes)))
}

/// Writes a complete file that does not exist yet, and returns whether it did so. Of several
/// processes that write one file at the same time, exactly one does. Missing folders are created.
///
/// # Errors
/// Fails if the disk refuses.
pub(crate) fn write_new(path: &Path, bytes: &[u8]) -> Result<bool> {
    let context = || format!("{}: it cannot be written", path.display());
    let mut file = temporary_beside(path).with_context(context)?;
    let written = file
        .write_all(bytes)
        .and_then(|()| file.as_file().sync_all());
    written.map_err(explain_io_error).with_context(context)?;
    match file.persist_noclobber(path) {
        Ok(_) => Ok(true),
        Err(e) if e.error.kind() == ErrorKind::AlreadyExists => Ok(false),
        Err(e) => Err(explain_io_error(e.error)).with_context(context),
    }
}

/// Makes a file with a short text if there is none of that name, and returns whether it did so. The
/// name appears before its text, which nothing syncs: it is for claims, whose loss costs no result.
///
/// # Errors
/// Fails if the disk refuses.
pub(crate) fn create_exclusive(path: &Path, text: &str) -> Result<bool> {
    let context = || format!("{}: it cannot be written", path.display());
    match OpenOptions::new().write(true).create_new(true).open(path) {
        Ok(mut file) => {
            let written = file.write_all(text.as_bytes());
            written.map_err(explain_io_error).with_context(context)?;
            Ok(true)
        }
        Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(false),
        Err(e) => Err(explain_io_error(e)).with_context(context),
    }
}

/// Writes a text over the same file, which is created if there is none. Whoever reads it in between
/// may see a mixture of both texts: it is for what is written again and again.
///
/// # Errors
/// Fails if the disk refuses.
pub(crate) fn overwrite_in_place(path: &Path, text: &str) -> Result<()> {
    let context = || format!("{}: it cannot be written", path.display());
    let mut options = OpenOptions::new();
    let opened = options.write(true).create(true).truncate(false).open(path);
    let written = opened.and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_data()
    });
    written.map_err(explain_io_error).with_context(context)
}

/// Writes a file that need not outlast this process, such as one of a copy. Missing folders are
/// created.
///
/// # Errors
/// Fails if the disk refuses.
pub(crate) fn write_unsynced(path: &Path, bytes: &[u8]) -> Result<()> {
    let written = std::fs::create_dir_all(folder_of(path))
        .and_then(|()| std::fs::write(path, bytes))
        .map_err(explain_io_error);
    written.with_context(|| format!("{}: it cannot be written", path.display()))
}

/// Appends to a file that need not outlast this process, and creates it if there is none.
///
/// # Errors
/// Fails if the disk refuses.
pub(crate) fn append_unsynced(path: &Path, bytes: &[u8]) -> Result<()> {
    let opened = OpenOptions::new().create(true).append(true).open(path);
    let written = opened.and_then(|mut file| file.write_all(bytes));
    written
        .map_err(explain_io_error)
        .with_context(|| format!("{}: it cannot be written", path.display()))
}

/// Checks that files can be written in a folder, before anything is computed for it. The folder
/// need not exist.
///
/// # Errors
/// Fails if the path is not a folder, or if the folder is read-only.
pub(crate) fn check_output_folder(path: &Path) -> Result<()> {
    let context = || format!("{}: it cannot be written", path.display());
    if path.exists() && !path.is_dir() {
        bail!(
            "{}: it is not a folder, expected a folder or a new path",
            path.display()
        );
    }
    check_takes_files(&path.join("file")).with_context(context)
}

/// Creates or replaces a file.
///
/// # Errors
/// Fails if the disk refuses. The old file is unchanged then.
fn replace_file(to: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = temporary_beside(to)?;
    file.write_all(bytes).map_err(explain_io_error)?;
    file.as_file().sync_all().map_err(explain_io_error)?;
    keep_permissions(to, file.as_file()).map_err(explain_io_error)?;
    file.persist(to).map_err(|e| explain_io_error(e.error))?;
    Ok(())
}

/// How the names of temporary files begin and end.
const TEMPORARY: (&str, &str) = (".flowgauge-", ".tmp");

/// Whether this is the name of a temporary file, which becomes a result when it is complete.
pub(crate) fn is_temporary(name: &str) -> bool {
    name.starts_with(TEMPORARY.0) && name.ends_with(TEMPORARY.1)
}

/// Removes the temporary files that killed processes left in a folder. Files that a process still
/// writes are locked, and stay. On a file system without locks, all stay.
pub(crate) fn remove_abandoned_files(folder: &Path) {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    for entry in entries.filter(|e| is_temporary(&e.file_name().to_string_lossy())) {
        if let Ok(file) = OpenOptions::new().write(true).open(entry.path())
            && file.try_lock().is_ok()
        {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// An empty file with a name of its own in the folder of another file, locked as long as it is
/// open. The folder is created if it is missing.
///
/// # Errors
/// Fails if the disk refuses.
fn temporary_beside(to: &Path) -> Result<tempfile::NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(TEMPORARY.0).suffix(TEMPORARY.1);
    // Temporary files are private by default. Results get the usual permissions (0666 minus the
    // umask).
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    std::fs::create_dir_all(folder_of(to)).map_err(explain_io_error)?;
    loop {
        let file = builder
            .tempfile_in(folder_of(to))
            .map_err(explain_io_error)?;
        // Another process may have taken it for an abandoned one before it was locked.
        let taken = matches!(file.as_file().try_lock(), Err(TryLockError::WouldBlock));
        if !taken && file.path().exists() {
            return Ok(file);
        }
    }
}

/// Gives a new file the permissions of the file that it will replace, and its owner if this user
/// may set it.
///
/// # Errors
/// Fails if the permissions cannot be set.
fn keep_permissions(replaced: &Path, file: &File) -> io::Result<()> {
    let Ok(old) = std::fs::metadata(replaced) else {
        return Ok(());
    };
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let new = file.metadata()?;
        if (new.uid(), new.gid()) != (old.uid(), old.gid()) {
            let _ = std::os::unix::fs::fchown(file, Some(old.uid()), Some(old.gid()));
        }
    }
    file.set_permissions(old.permissions())
}

/// The target of the path `-`.
///
/// # Errors
/// Fails if the result is neither a table nor a card.
fn stdout_target(kind: OutputKind) -> Result<Target> {
    match kind {
        OutputKind::Table | OutputKind::Card | OutputKind::Config => Ok(Target::Stdout),
        _ => Err(anyhow!(
            "only tables and cards can go to standard output; expected a file whose name ends in .{}",
            kind.suffix()
        )),
    }
}

/// What the user's path leads to.
///
/// # Errors
/// Fails if it cannot be written, or if it is a file with the suffix of another kind.
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

/// Checks the suffix of a file's name. A name without a suffix is accepted.
///
/// # Errors
/// Fails if the suffix belongs to another kind.
fn check_suffix(kind: OutputKind, named: &Path) -> Result<()> {
    let Some(suffix) = named.extension() else {
        return Ok(());
    };
    let is_yaml = matches!(kind, OutputKind::Card | OutputKind::Config);
    let short = is_yaml && suffix.eq_ignore_ascii_case("yml");
    if !suffix.eq_ignore_ascii_case(kind.suffix()) && !short {
        let standard = if matches!(
            kind,
            OutputKind::Table | OutputKind::Card | OutputKind::Config
        ) {
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

/// Follows symbolic links to the target.
///
/// # Errors
/// Fails if the path is a folder or empty, or if its links form a circle.
fn resolve_target(named: &Path) -> Result<Target> {
    if named.as_os_str().to_string_lossy().ends_with('/') {
        bail!("it is a folder, expected a file to write");
    }
    if named.as_os_str().is_empty() {
        bail!("it is an empty name, expected the name of a file");
    }
    let mut at = named.to_owned();
    // Linux follows at most 40 links.
    for _ in 0..40 {
        let metadata = match std::fs::symlink_metadata(&at) {
            Ok(metadata) => metadata,
            Err(e) if [ErrorKind::NotFound, ErrorKind::NotADirectory].contains(&e.kind()) => {
                return Ok(Target::File(at));
            }
            Err(e) => return Err(explain_io_error(e)),
        };
        match own_descriptor(&at).as_deref() {
            Some("1") => return Ok(Target::Stdout),
            Some(_) => return Ok(Target::Stream(at)),
            None if metadata.is_symlink() => {
                let next = std::fs::read_link(&at).map_err(explain_io_error)?;
                at = folder_of(&at).join(next);
            }
            None if metadata.is_dir() => bail!("it is a folder, expected a file to write"),
            None if metadata.is_file() => return Ok(Target::File(at)),
            None => return Ok(Target::Stream(at)),
        }
    }
    bail!("its symbolic links lead in a circle")
}

/// The number of the file descriptor of this process that a path names, such as 63 for
/// `/dev/fd/63`; `None` for any other path. A descriptor is written into and never replaced: it may
/// be a pipe, and a shell that redirects to it would not see a new file of the same name.
fn own_descriptor(path: &Path) -> Option<String> {
    let folder = folder_of(path).canonicalize().ok()?;
    let open_files = [Path::new("/proc/self/fd"), Path::new("/dev/fd")];
    let own = open_files
        .iter()
        .any(|f| f.canonicalize().is_ok_and(|f| f == folder));
    own.then(|| path.file_name().map(|n| n.to_string_lossy().into_owned()))
        .flatten()
}

/// Checks that a path which is not a file is a pipe or a character device.
///
/// # Errors
/// Fails if it is a disk or a socket, or if it cannot be opened.
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
        // Only a device is opened here: opening a pipe would wait for its reader.
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

/// Checks that a file can be created, with a temporary file in the nearest folder that exists.
/// Missing folders are created only when the file is written.
///
/// # Errors
/// Fails if no file can be created there.
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

/// Explains the error of a disk or a device in words.
fn explain_io_error(error: io::Error) -> anyhow::Error {
    match error.kind() {
        // The cause is kept, because a full disk has an exit status of its own
        // (`cli::error_status`).
        ErrorKind::StorageFull => anyhow::Error::new(error).context("no space is left there"),
        ErrorKind::QuotaExceeded => {
            anyhow::Error::new(error).context("the quota of its disk is used up")
        }
        ErrorKind::ReadOnlyFilesystem => anyhow!("its file system is read-only"),
        ErrorKind::PermissionDenied => anyhow!("it is read-only for this user"),
        _ => error.into(),
    }
}

/// The folder of a file; `.` if the path has none.
fn folder_of(file: &Path) -> &Path {
    or_current_dir(file.parent().unwrap_or(Path::new(".")))
}

/// `.` instead of an empty path.
fn or_current_dir(folder: &Path) -> &Path {
    if folder.as_os_str().is_empty() {
        Path::new(".")
    } else {
        folder
    }
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
                match kind.suffix() == other.suffix() {
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
        let mut writer = output.begin().expect("begun a second time");
        writer.write_all(b"two").expect("written");
        writer.finish().expect("in its place");
        assert_eq!(read(&path), "two");
        assert!(!partial.exists());
    }

    #[test]
    fn only_abandoned_temporary_files_are_removed() {
        let folder = folder();
        let path = |name: &str| folder.path().join(name);
        let mut held = temporary_beside(&path("a")).expect("a file");
        held.write_all(b"whole").expect("written");
        for name in [".flowgauge-dead00.tmp", ".mine.tmp", "a.tmp"] {
            std::fs::write(path(name), "torn").expect("written");
        }
        remove_abandoned_files(folder.path());
        assert!(!path(".flowgauge-dead00.tmp").exists());
        assert!(path(".mine.tmp").exists() && path("a.tmp").exists());
        held.persist(path("a")).expect("its writer was at work");
        remove_abandoned_files(&path("none"));
    }

    #[test]
    fn files_appear_whole_while_others_tidy_up() {
        let folder = folder();
        let path = folder.path().join("a");
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                for i in 0..200 {
                    write_atomic(&path, format!("{i}").as_bytes()).expect("written");
                }
            });
            while !writer.is_finished() {
                remove_abandoned_files(folder.path());
            }
        });
        assert_eq!(std::fs::read(&path).expect("a file"), b"199");
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
