//! The form in which progress is shown, and every line on standard error, which takes the same form.

use std::io::Write;
use std::sync::atomic::{AtomicU8, Ordering};

use serde_json::json;

/// The form in which progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ProgressForm {
    /// A bar on a terminal, and lines elsewhere.
    Auto,
    /// A line on the terminal that is redrawn; lines where there is no terminal.
    Bar,
    /// A line every minute.
    Plain,
    /// One JSON object per line, notes included.
    Json,
    /// Nothing.
    None,
}

/// Every form, by its name.
const FORMS: [(&str, ProgressForm); 5] = [
    ("auto", ProgressForm::Auto),
    ("bar", ProgressForm::Bar),
    ("plain", ProgressForm::Plain),
    ("json", ProgressForm::Json),
    ("none", ProgressForm::None),
];

/// The place of the chosen form in [`FORMS`]; one process has one standard error.
static CHOSEN: AtomicU8 = AtomicU8::new(0);

impl ProgressForm {
    /// The form of this name.
    ///
    /// # Errors
    /// Fails if there is none.
    pub(crate) fn from_name(name: &str) -> Result<ProgressForm, String> {
        let known = FORMS.iter().find(|(known, _)| *known == name);
        known
            .map(|(_, form)| *form)
            .ok_or_else(|| format!("expected {}", FORMS.map(|(name, _)| name).join(", ")))
    }

    /// Makes this the form of the process.
    pub(crate) fn choose(self) {
        let place = FORMS.iter().position(|(_, form)| *form == self);
        CHOSEN.store(place.unwrap_or_default() as u8, Ordering::Relaxed);
    }

    /// The form of the process.
    pub(super) fn chosen() -> ProgressForm {
        FORMS[usize::from(CHOSEN.load(Ordering::Relaxed))].1
    }
}

/// Prints one line on standard error: as it is, or as an object with the key `event` in the form
/// `json`. A closed standard error is ignored, so that the program goes on.
pub(crate) fn print_note(text: std::fmt::Arguments) {
    match ProgressForm::chosen() {
        ProgressForm::Json => {
            let text = text.to_string();
            let text = text.strip_prefix("flowgauge: ").unwrap_or(&text);
            print_event(&json!({ "event": "note", "text": text }));
        }
        _ => {
            // One call writes the whole line, so that lines of several processes are not mixed.
            let _ = anstream::stderr().write_all(format!("{text}\n").as_bytes());
        }
    }
}

/// Prints the error that ends the program, on standard error.
pub fn print_error(error: &anyhow::Error) {
    match ProgressForm::chosen() {
        ProgressForm::Json => {
            print_event(&json!({ "event": "error", "text": format!("{error:#}") }));
        }
        _ => print_note(format_args!("flowgauge: {error:#}")),
    }
}

/// Prints one object on a line of standard error.
pub(super) fn print_event(event: &serde_json::Value) {
    // One call writes the whole line, so that lines of several threads are not mixed.
    let _ = std::io::stderr().write_all(format!("{event}\n").as_bytes());
}
