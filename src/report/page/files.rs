//! Small files inside the page, so that its links hold when it is mailed: the tables and the data of the
//! figures, compressed. A larger file is named as a file beside the page.

use std::collections::BTreeMap;
use std::io::Write as _;

use anyhow::Result;
use base64::Engine as _;
use maud::{Markup, PreEscaped, html};

/// The largest total size of the files in the page, in bytes of its text.
const MAX_EMBEDDED_BYTES: usize = 48_000;

/// The files that the page contains: their paths beside the page, and their compressed bytes as text.
pub(super) struct EmbeddedFiles {
    files: BTreeMap<String, String>,
}

impl EmbeddedFiles {
    /// Takes the smallest of these files, as many as fit. Empty files are left out.
    ///
    /// # Errors
    /// Fails if a file cannot be compressed.
    pub(super) fn new(files: Vec<(String, &[u8])>) -> Result<EmbeddedFiles> {
        let mut packed = Vec::new();
        for (path, bytes) in files.into_iter().filter(|(_, bytes)| !bytes.is_empty()) {
            // The header has no time, so that equal files give equal bytes.
            let mut encoder =
                flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
            encoder.write_all(bytes)?;
            let text = base64::engine::general_purpose::STANDARD.encode(encoder.finish()?);
            packed.push((path, text));
        }
        packed.sort_by(|a, b| (a.1.len(), &a.0).cmp(&(b.1.len(), &b.0)));
        let mut total = 0;
        let files = packed.into_iter().take_while(|(_, text)| {
            total += text.len();
            total <= MAX_EMBEDDED_BYTES
        });
        Ok(EmbeddedFiles {
            files: files.collect(),
        })
    }

    /// A link to the file at this path, if the page contains it.
    pub(super) fn link(&self, path: &str, text: &str) -> Option<Markup> {
        self.files.contains_key(path).then(|| {
            html! { a.file href=(path) data-file=(path) download { (text) } }
        })
    }

    /// The files as an element that the page's script reads.
    pub(super) fn markup(&self) -> Markup {
        // Paths are slugs and names of tables, and the texts are base64: neither ends the element.
        let json = serde_json::to_string(&self.files).unwrap_or_else(|_| "{}".to_owned());
        html! { script id="files" type="application/json" { (PreEscaped(json)) } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha2::{Digest, Sha256};

    #[test]
    fn small_files_are_in_the_page_and_large_ones_are_not() {
        // Bytes that no compression makes smaller.
        let random = (0..100_000u32).map(|i| Sha256::digest(i.to_le_bytes())[0]);
        let large: Vec<u8> = random.collect();
        let files = EmbeddedFiles::new(vec![
            ("tables/large.csv".to_owned(), &large[..]),
            ("tables/small.csv".to_owned(), b"a,b\n1,2\n"),
            ("tables/none.csv".to_owned(), b""),
        ])
        .expect("files");
        assert!(files.link("tables/small.csv", "small.csv").is_some());
        assert!(files.link("tables/large.csv", "large.csv").is_none());
        assert!(files.link("tables/none.csv", "none.csv").is_none());
        let text = files.markup().into_string();
        assert!(text.contains("{\"tables/small.csv\":\"H4sI"), "{text}");
    }
}
