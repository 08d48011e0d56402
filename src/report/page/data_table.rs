//! Tables of results. The page's script sorts, filters and copies them, so that every number stands in
//! its cell at full precision beside the text that is shown.

use std::borrow::Cow;

use maud::{Markup, PreEscaped, html};

use crate::report::number_format::{format_count, format_with_error, if_finite};
use crate::report::text::{sanitize_line, slug};

/// A column of a table.
pub(super) struct Column<'a> {
    /// The name of the column in a copied table.
    key: Cow<'a, str>,
    heading: Cow<'a, str>,
    unit: &'static str,
    /// The explanation that appears when the pointer rests on the heading, or an empty text.
    meaning: Cow<'a, str>,
    is_number: bool,
    /// Whether the column is hidden at first.
    is_off: bool,
}

impl<'a> Column<'a> {
    /// A column of texts.
    pub(super) fn text(key: &'a str, heading: &'a str) -> Column<'a> {
        Column {
            key: key.into(),
            heading: heading.into(),
            unit: "",
            meaning: "".into(),
            is_number: false,
            is_off: false,
        }
    }

    /// A column of numbers in this unit, which may be empty.
    pub(super) fn number(
        key: impl Into<Cow<'a, str>>,
        heading: impl Into<Cow<'a, str>>,
        unit: &'static str,
    ) -> Column<'a> {
        Column {
            key: key.into(),
            heading: heading.into(),
            unit,
            meaning: "".into(),
            is_number: true,
            is_off: false,
        }
    }

    /// The column with an explanation.
    pub(super) fn meaning(self, meaning: impl Into<Cow<'a, str>>) -> Column<'a> {
        let meaning = meaning.into();
        Column { meaning, ..self }
    }

    /// The column, hidden at first.
    pub(super) fn off(self) -> Column<'a> {
        Column {
            is_off: true,
            ..self
        }
    }
}

/// A table of results: its name, what it shows, its columns, and its rows as markup.
pub(super) fn data_table(name: &str, caption: &str, columns: &[Column], rows: Markup) -> Markup {
    let caption = sanitize_line(caption);
    html! {
        div.scroll tabindex="0" role="region" aria-label=(caption) {
            table.data data-name=(slug(name)) data-caption=(caption) {
                thead { tr { @for column in columns {
                    th.n[column.is_number] scope="col" data-key=(sanitize_line(&column.key))
                        data-unit=[(!column.unit.is_empty()).then_some(column.unit)]
                        data-off=[column.is_off.then_some("")]
                        title=[(!column.meaning.is_empty()).then_some(&column.meaning)] {
                        (name_markup(&column.heading))
                    }
                } } }
                tbody { (rows) }
            }
        }
    }
}

/// The cell of a number with its standard error.
pub(super) fn value_cell(value: Option<f64>, error: Option<f64>) -> Markup {
    html! {
        td.n data-v=[if_finite(value)] data-e=[if_finite(value).and(if_finite(error))] {
            (format_with_error(value, error))
        }
    }
}

/// The cell of a number that is shown as this text, with emphasis or without.
pub(super) fn shown_cell(value: Option<f64>, text: &str, emphasized: bool) -> Markup {
    html! { td.n.off[emphasized] data-v=[if_finite(value)] { (text) } }
}

/// The cell of a count or of a mean of counts.
pub(super) fn count_cell(count: f64) -> Markup {
    shown_cell(Some(count), &format_count(count), false)
}

/// A name that may break after a bracket or an underscore, and nowhere inside a word.
pub(super) fn name_markup(name: &str) -> Markup {
    let escaped = html! { (sanitize_line(name)) }.into_string();
    let breakable = escaped.replace('(', "(<wbr>").replace('_', "_<wbr>");
    PreEscaped(breakable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_hold_full_precision_and_names_break_between_words() {
        assert_eq!(
            value_cell(Some(-0.123456789), Some(0.0123)).into_string(),
            "<td class=\"n\" data-v=\"-0.123456789\" data-e=\"0.0123\">−0.123 ± 0.012</td>"
        );
        assert_eq!(
            value_cell(None, Some(1.0)).into_string(),
            "<td class=\"n\">–</td>"
        );
        assert_eq!(
            name_markup("<hutchinson(a_b=8)").into_string(),
            "&lt;hutchinson(<wbr>a_<wbr>b=8)"
        );
    }
}
