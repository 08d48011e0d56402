//! File names as tables and pages show them.

use std::path::Path;

use crate::host::with_resolved_folder;

/// Whether two paths name the same file: the same name in the same folder, after links and dots are
/// resolved.
pub(super) fn same_file(a: &Path, b: &Path) -> bool {
    a == b || with_resolved_folder(a).is_some_and(|a| with_resolved_folder(b) == Some(a))
}

/// A file's name without its folders, as tables and pages show it.
pub(super) fn short_name(path: &Path) -> String {
    sanitize_file_name(&path.file_name().map_or_else(
        || path.display().to_string(),
        |n| n.to_string_lossy().into_owned(),
    ))
}

/// A file's name that is safe in tables and pages. Characters that a spreadsheet, Markdown or HTML
/// could interpret become `_`. A name that begins with such a character gets a `_` in front.
pub(super) fn sanitize_file_name(name: &str) -> String {
    let harmless = |c: char| {
        if c.is_alphanumeric() || " _-.,()[]+:".contains(c) {
            c
        } else {
            '_'
        }
    };
    let kept: String = name.chars().map(harmless).collect();
    match kept.chars().next() {
        Some(c) if c.is_alphanumeric() || c == '_' => kept,
        _ => format!("_{kept}"),
    }
}
