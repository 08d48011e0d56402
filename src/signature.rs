//! The kind of a file, recognized by its first bytes, and advice if it is not the expected kind.
//!
//! Checkpoints are recognized but never opened, because a pickle can run code.

use std::path::Path;

/// The kind of file that is expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ExpectedFile {
    /// The config of a run.
    Config,
    /// The card of a model.
    Card,
    /// Published numbers for `flowgauge gate`.
    Claims,
    /// The preset of a feature extractor.
    Preset,
    /// An ONNX file.
    Onnx,
    /// An array of samples, or a folder of images.
    Array,
    /// One image.
    Image,
}

impl ExpectedFile {
    /// The kind in words, to follow `expected`.
    fn description(self) -> &'static str {
        match self {
            ExpectedFile::Config => "a config in YAML",
            ExpectedFile::Card => "a model card in YAML",
            ExpectedFile::Claims => "claims in YAML",
            ExpectedFile::Preset => "a preset in YAML",
            ExpectedFile::Onnx => "an ONNX file",
            ExpectedFile::Array => {
                "an array: .npy, .npz, .safetensors, .csv, .parquet, IDX or a folder of images"
            }
            ExpectedFile::Image => "an image, such as .png or .jpg",
        }
    }

    /// The kind as one word, to follow `the`.
    fn noun(self) -> &'static str {
        match self {
            ExpectedFile::Config => "config",
            ExpectedFile::Card => "card",
            ExpectedFile::Claims => "claims",
            ExpectedFile::Preset => "preset",
            ExpectedFile::Onnx | ExpectedFile::Array | ExpectedFile::Image => "file",
        }
    }

    /// How to make the expected file from a file of weights.
    fn weights_advice(self) -> &'static str {
        match self {
            ExpectedFile::Onnx => {
                "export the network with `torch.onnx.export` and name the .onnx file"
            }
            ExpectedFile::Card => {
                "export the network to ONNX and describe it in a card.yaml beside it"
            }
            _ => "save the array with `numpy.save`",
        }
    }
}

/// The kinds of files that are recognized: those that are expected somewhere, and those that are
/// often given by mistake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FileKind {
    /// A file of no bytes.
    Empty,
    /// A pointer of git-lfs, whose content was not fetched.
    LfsPointer,
    /// A pointer of git-annex, whose content was not fetched.
    AnnexPointer,
    /// A web page, or XML.
    Html,
    Npy,
    Npz,
    /// A PyTorch checkpoint in its zip format.
    TorchZip,
    /// Another zip archive.
    Zip,
    Pickle,
    Hdf5,
    Safetensors,
    Parquet,
    Onnx,
    /// A TensorFlow SavedModel.
    SavedModel,
    /// A file of weights in the format of llama.cpp.
    Gguf,
    /// A PNG, JPEG, GIF or RIFF (WebP) file.
    Picture,
    Gzip,
    Pdf,
}

/// The kind of a file that begins with `bytes`; `None` if it is not recognized. A few kilobytes are
/// enough, except for archives, which must be given as a whole.
pub(crate) fn detect_file_kind(bytes: &[u8]) -> Option<FileKind> {
    let begins = |with: &[u8]| bytes.starts_with(with);
    let head = &bytes[..bytes.len().min(512)];
    let lower = String::from_utf8_lossy(head)
        .trim_start_matches('\u{feff}')
        .trim_start()
        .to_lowercase();
    // A zip archive lists its members at its end, which finds a member far behind the first ones.
    const NEAR: usize = 1 << 14;
    let (start, end) = (
        &bytes[..bytes.len().min(NEAR)],
        &bytes[bytes.len().saturating_sub(NEAR)..],
    );
    let holds = |word: &[u8]| {
        [start, end]
            .iter()
            .any(|part| part.windows(word.len()).any(|w| w == word))
    };
    Some(match bytes {
        [] => FileKind::Empty,
        _ if begins(b"version https://git-lfs.github.com/spec/") => FileKind::LfsPointer,
        _ if begins(b"/annex/objects/") || lower.starts_with("../.git/annex/objects/") => {
            FileKind::AnnexPointer
        }
        _ if lower.starts_with("<!doctype html")
            || lower.starts_with("<html")
            || lower.starts_with("<?xml") =>
        {
            FileKind::Html
        }
        _ if begins(b"\x93NUMPY") => FileKind::Npy,
        _ if begins(b"PK\x03\x04") && (holds(b"data.pkl") || holds(b"/constants.pkl")) => {
            FileKind::TorchZip
        }
        _ if begins(b"PK\x03\x04") && holds(b".npy") => FileKind::Npz,
        _ if begins(b"PK\x03\x04") => FileKind::Zip,
        [0x80, 2..=5, ..] => FileKind::Pickle,
        _ if begins(b"\x89HDF\r\n\x1a\n") => FileKind::Hdf5,
        _ if begins(b"PAR1") => FileKind::Parquet,
        _ if begins(b"GGUF") => FileKind::Gguf,
        _ if begins(b"\x89PNG")
            || begins(b"\xff\xd8\xff")
            || begins(b"GIF8")
            || begins(b"RIFF") =>
        {
            FileKind::Picture
        }
        _ if begins(b"\x1f\x8b") => FileKind::Gzip,
        _ if begins(b"%PDF") => FileKind::Pdf,
        // A .safetensors file begins with the length of its JSON header, then the header's brace.
        [_, _, _, _, 0, 0, 0, 0, b'{', b'"', ..] => FileKind::Safetensors,
        // Field 1 of a SavedModel is its version, 1. A graph follows, with words that only
        // TensorFlow uses.
        [0x08, 0x01, 0x12, ..] if holds(b"saved_model") || holds(b"tensorflow") => {
            FileKind::SavedModel
        }
        // Field 1 of an ONNX model is its IR version. The key of another field of the model
        // follows.
        [
            0x08,
            1..=20,
            0x12 | 0x1a | 0x22 | 0x28 | 0x32 | 0x3a | 0x42,
            ..,
        ] => FileKind::Onnx,
        _ => return None,
    })
}

/// Why a file with these bytes is not the expected kind, and what to do; `None` if it may be.
pub(crate) fn explain_mismatch(bytes: &[u8], expected: ExpectedFile) -> Option<String> {
    let kind = detect_file_kind(bytes)?;
    let words = expected.description();
    let array = expected == ExpectedFile::Array;
    Some(match kind {
        FileKind::Empty => format!("it is empty, expected {words}"),
        FileKind::LfsPointer => "it is a git-lfs pointer, not the file itself; \
             `git lfs pull` in its repository fetches it"
            .to_owned(),
        FileKind::AnnexPointer => "it is a git-annex pointer, not the file itself; \
             `git annex get` in its repository fetches it"
            .to_owned(),
        FileKind::Html => {
            format!(
                "it is a web page, perhaps an error page saved under this name, expected {words}; \
                 download it again"
            )
        }
        FileKind::TorchZip | FileKind::Pickle => format!(
            "it is a PyTorch checkpoint or another pickle, \
             which is not opened because it can run code; expected {words}: {}",
            expected.weights_advice()
        ),
        FileKind::Hdf5 => {
            format!(
                "it is an HDF5 file, such as Keras weights, expected {words}: {}",
                expected.weights_advice()
            )
        }
        FileKind::SavedModel => {
            format!("it is a TensorFlow SavedModel, expected {words}; `tf2onnx` converts it")
        }
        FileKind::Gguf => format!("it is a GGUF file of weights, expected {words}"),
        FileKind::Onnx if expected == ExpectedFile::Onnx => return None,
        FileKind::Onnx if expected == ExpectedFile::Card => {
            "it is an ONNX file, expected the model card: a card.yaml beside it that describes it"
                .to_owned()
        }
        FileKind::Onnx => format!("it is an ONNX file, expected {words}"),
        FileKind::Safetensors if array => return None,
        FileKind::Safetensors if matches!(expected, ExpectedFile::Onnx | ExpectedFile::Card) => {
            format!(
                "it is a .safetensors file of weights, expected {words}: {}",
                expected.weights_advice()
            )
        }
        FileKind::Npy | FileKind::Npz | FileKind::Safetensors | FileKind::Parquet if !array => {
            format!("it is a file of data (an array), expected {words}")
        }
        FileKind::Picture if expected != ExpectedFile::Image && !array => {
            format!("it is an image, expected {words}")
        }
        FileKind::Zip if array => return None,
        FileKind::Zip => format!("it is a zip archive, expected {words}; unpack it first"),
        FileKind::Gzip if array => return None,
        FileKind::Gzip => format!("it is compressed (gzip), expected {words}; unpack it first"),
        FileKind::Pdf => format!("it is a PDF, expected {words}"),
        FileKind::Npy
        | FileKind::Npz
        | FileKind::Parquet
        | FileKind::Picture
        | FileKind::Safetensors => return None,
    })
}

/// Why `path` cannot be read, if it is a link to a missing file, such as a file of git-annex that
/// was not fetched; `None` if it is no such link.
pub(crate) fn explain_missing(path: &Path) -> Option<String> {
    if let Ok(target) = path.read_link()
        && !path.exists()
    {
        let target = target.to_string_lossy();
        return Some(match target.contains(".git/annex/") {
            true => "it is a git-annex link whose file is missing; \
                 `git annex get` in its repository fetches it"
                .into(),
            false => format!("it is a link to {target}, which does not exist"),
        });
    }
    None
}

/// Reads the text of a file that is expected to be YAML. The YAML itself is not parsed.
///
/// # Errors
/// Fails if the file cannot be read, is not UTF-8, or is another kind of file. The message does not
/// name the file.
pub(crate) fn read_yaml_text(path: &Path, expected: ExpectedFile) -> Result<String, String> {
    if let Some(why) = explain_missing(path) {
        return Err(why);
    }
    if path.is_dir() {
        return Err(format!(
            "it is a folder, expected {}",
            expected.description()
        ));
    }
    let bytes =
        std::fs::read(path).map_err(|e| format!("the {} cannot be read: {e}", expected.noun()))?;
    if let Some(why) = explain_mismatch(&bytes, expected) {
        return Err(why);
    }
    String::from_utf8(bytes)
        .map_err(|_| format!("it is not UTF-8 text, expected {}", expected.description()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first bytes of a file of each kind, and a word of the message if a card, an ONNX file
    /// and an array are expected. An empty word means that there is no message.
    #[test]
    fn every_file_kind_is_refused_with_advice() {
        let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n";
        let cases: [(&[u8], FileKind, [&str; 3]); 15] = [
            (b"", FileKind::Empty, ["it is empty"; 3]),
            (
                pointer.as_bytes(),
                FileKind::LfsPointer,
                ["`git lfs pull`"; 3],
            ),
            (
                b"/annex/objects/SHA256E-s3--0.onnx\n",
                FileKind::AnnexPointer,
                ["`git annex get`"; 3],
            ),
            (b"\n<!DOCTYPE html><html>", FileKind::Html, ["web page"; 3]),
            (
                b"\x93NUMPY\x01\x00",
                FileKind::Npy,
                ["file of data", "file of data", ""],
            ),
            (
                b"PK\x03\x04....a.npy",
                FileKind::Npz,
                ["file of data", "file of data", ""],
            ),
            (
                b"PK\x03\x04....archive/data.pkl",
                FileKind::TorchZip,
                ["PyTorch", "torch.onnx.export", "numpy.save"],
            ),
            (
                b"PK\x03\x04....word/document.xml",
                FileKind::Zip,
                ["zip", "zip", ""],
            ),
            (
                b"\x80\x02}q\x00.",
                FileKind::Pickle,
                ["pickle", "torch.onnx.export", "can run code"],
            ),
            (
                b"\x89HDF\r\n\x1a\n\x00",
                FileKind::Hdf5,
                ["HDF5", "HDF5", "HDF5"],
            ),
            (
                b"\x40\0\0\0\0\0\0\0{\"w\":",
                FileKind::Safetensors,
                ["weights", "weights", ""],
            ),
            (
                b"\x08\x08\x12\x07pytorch",
                FileKind::Onnx,
                ["card.yaml", "", "ONNX"],
            ),
            (
                b"\x08\x01\x12\x05\x12..saved_model",
                FileKind::SavedModel,
                ["SavedModel", "tf2onnx", "SavedModel"],
            ),
            (
                b"\x89PNG\r\n\x1a\n",
                FileKind::Picture,
                ["an image", "an image", ""],
            ),
            (
                b"PAR1\x15",
                FileKind::Parquet,
                ["file of data", "file of data", ""],
            ),
        ];
        for (bytes, expected, words) in cases {
            assert_eq!(detect_file_kind(bytes), Some(expected));
            for (wanted, word) in [ExpectedFile::Card, ExpectedFile::Onnx, ExpectedFile::Array]
                .into_iter()
                .zip(words)
            {
                match explain_mismatch(bytes, wanted) {
                    Some(why) => assert!(
                        !word.is_empty() && why.contains(word),
                        "{expected:?} {wanted:?}: {why}"
                    ),
                    None => assert_eq!(word, "", "{expected:?} {wanted:?}"),
                }
            }
        }
        for text in ["name: a\nshape: [2]\n", "a,b\n1,2\n", "0.5 1.5\n"] {
            assert_eq!(detect_file_kind(text.as_bytes()), None, "{text}");
        }
    }
}
