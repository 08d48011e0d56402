//! What verbs print: tables, a last line that answers the question, or one JSON document.

use std::fmt::Arguments;

use anstyle::{AnsiColor, Style};
use clap::ColorChoice;

use crate::num::{format_decimals, format_with_stderr};

mod answer;
mod table;

#[cfg(test)]
pub(super) use answer::plain_text;
pub(super) use answer::{Answer, JsonArgs, Quantity};
pub(super) use table::{Align, AlignedTable, Cell};

/// The style of headings.
pub(super) const HEADING: Style = Style::new().bold();
/// The style of words that say that something is as it should be.
pub(super) const GOOD: Style = AnsiColor::Green.on_default();
/// The style of words that say that something cannot be decided, or is not exact.
pub(super) const UNSURE: Style = AnsiColor::Yellow.on_default();
/// The style of words that say that something is wrong.
pub(super) const WRONG: Style = AnsiColor::Red.on_default();

/// Sets for the whole process where colours are written. `auto` writes them on a terminal alone, and
/// heeds NO_COLOR and CLICOLOR_FORCE.
pub(super) fn choose_color(choice: ColorChoice) {
    match choice {
        ColorChoice::Auto => anstream::ColorChoice::Auto,
        ColorChoice::Always => anstream::ColorChoice::Always,
        ColorChoice::Never => anstream::ColorChoice::Never,
    }
    .write_global();
}

/// Writes to standard output, without escape sequences unless colours are wanted there. If that fails,
/// the process exits with status 2, except if the reader has closed the pipe.
pub(super) fn print_stdout(text: Arguments) {
    use std::io::{ErrorKind, Write};
    if let Err(error) = anstream::stdout().lock().write_fmt(text)
        && error.kind() != ErrorKind::BrokenPipe
    {
        errln!("flowgauge: standard output cannot be written: {error}");
        std::process::exit(2);
    }
}

/// The number of columns of the terminal that standard output is; `None` if it is no terminal.
fn terminal_width() -> Option<usize> {
    use std::io::{IsTerminal, stdout};
    let (width, _) = terminal_size::terminal_size_of(stdout())?;
    stdout().is_terminal().then_some(usize::from(width.0))
}

/// `value ± error` with as many decimals as the error suggests; a dash if there is no value. Very large
/// and very small numbers share a power of ten, as in `(-1.000 ± 0.010)e-7`. Without an error there are
/// five significant digits.
pub(super) fn with_error(value: Option<f64>, stderr: Option<f64>) -> String {
    let finite = |number: Option<f64>| number.filter(|number| number.is_finite());
    let Some(value) = finite(value) else {
        return "–".to_owned();
    };
    let Some(stderr) = finite(stderr).filter(|stderr| *stderr > 0.0) else {
        return significant_digits(value, 5);
    };
    let top = value.abs().max(stderr);
    if (1e-4..1e7).contains(&top) {
        return format_with_stderr(value, Some(stderr));
    }
    let exponent = top.log10().floor() as i32;
    let unit = 10f64.powi(exponent);
    let text = format_with_stderr(value / unit, Some(stderr / unit));
    format!("({text})e{exponent}")
}

/// A number with this many significant digits.
fn significant_digits(value: f64, digits: i32) -> String {
    if value == 0.0 {
        return "0".to_owned();
    }
    let exponent = value.abs().log10().floor() as i32;
    match exponent {
        -4..7 => format_decimals(value, (digits - 1 - exponent).clamp(0, 12) as usize),
        _ => format!("{value:.*e}", (digits - 1).max(0) as usize),
    }
}

/// A number with four decimals, or with one significant digit if all these decimals are zero.
pub(super) fn format_size(value: f64) -> String {
    let text = format_decimals(value, 4);
    match text.bytes().any(|b| (b'1'..=b'9').contains(&b)) || value == 0.0 {
        true => text,
        false => format!("{value:.0e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn value_and_error_have_the_same_decimals() {
        for (value, stderr, text) in [
            (1.0133, Some(0.406), "1.01 ± 0.41"),
            (2.15221, Some(0.0162), "2.152 ± 0.016"),
            (-1e-7, Some(1e-9), "(-1.000 ± 0.010)e-7"),
            (2.5e9, Some(3e7), "(2.500 ± 0.030)e9"),
            (-84.97, None, "-84.970"),
            (0.0, Some(0.0), "0"),
            (1e-9, None, "1.0000e-9"),
            (f64::NAN, None, "–"),
        ] {
            assert_eq!(with_error(Some(value), stderr), text);
        }
        assert_eq!(with_error(None, Some(1.0)), "–");
    }

    #[test]
    fn a_small_number_is_not_zero() {
        assert_eq!(format_size(-0.03), "-0.0300");
        assert_eq!(format_size(-2e-5), "-2e-5");
        assert_eq!(format_size(0.0), "0.0000");
    }
}
