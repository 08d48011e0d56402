//! A table for a terminal: aligned columns, and names that are shortened where the terminal is narrow.

use anstyle::Style;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use super::HEADING;

/// The side on which a column is aligned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Align {
    /// Names. The column is shortened where the terminal is narrow.
    Left,
    /// Numbers. The column is never shortened.
    Right,
}

/// A cell of a table.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Cell {
    text: String,
    style: Style,
}

impl Cell {
    /// A cell in a style.
    pub(crate) fn styled(text: impl Into<String>, style: Style) -> Cell {
        Cell {
            text: on_one_line(&text.into()),
            style,
        }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Cell {
        Cell::styled(text, Style::new())
    }
}

/// The text without line breaks and other control characters, which would break a table.
fn on_one_line(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

/// A table with a heading for each column.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct AlignedTable {
    headings: Vec<(Cell, Align)>,
    rows: Vec<Vec<Cell>>,
}

/// The least width to which a column of names is shortened.
const LEAST_WIDTH: usize = 10;
/// What stands between two columns.
const GAP: &str = "  ";
/// What stands before each line.
const INDENT: &str = "  ";

impl AlignedTable {
    /// A table without rows.
    pub(crate) fn new<const N: usize>(headings: [(&str, Align); N]) -> AlignedTable {
        AlignedTable::with_headings(headings.iter().map(|(text, align)| (*text, *align)))
    }

    /// A table without rows, whose number of columns is not fixed.
    pub(crate) fn with_headings<'a>(
        headings: impl IntoIterator<Item = (&'a str, Align)>,
    ) -> AlignedTable {
        let heading = |(text, align)| (Cell::styled(text, HEADING), align);
        AlignedTable {
            headings: headings.into_iter().map(heading).collect(),
            rows: Vec::new(),
        }
    }

    /// Appends a row. Missing cells are empty.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        let mut cells: Vec<Cell> = cells.into_iter().take(self.headings.len()).collect();
        cells.resize(self.headings.len(), Cell::from(""));
        self.rows.push(cells);
    }

    /// Whether there are no rows.
    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The table without the columns in which every cell is empty or a dash.
    pub(crate) fn without_empty_columns(mut self) -> AlignedTable {
        let is_empty = |cell: &Cell| ["", "–"].contains(&cell.text.as_str());
        for column in (0..self.headings.len()).rev() {
            if self.rows.iter().all(|row| is_empty(&row[column])) {
                self.headings.remove(column);
                self.rows
                    .iter_mut()
                    .for_each(|row| drop(row.remove(column)));
            }
        }
        self
    }

    /// The lines of the table. `width` is the number of columns of the terminal, if there is one.
    ///
    /// Where the table is too wide, the longest names are shortened. Where that is not enough, each row
    /// is a block of lines, one for each cell.
    pub(crate) fn render(&self, width: Option<usize>) -> String {
        let lines = || std::iter::once(self.headings.iter().map(|(cell, _)| cell).collect());
        let rows = self
            .rows
            .iter()
            .map(|row| row.iter().collect::<Vec<&Cell>>());
        let lines: Vec<Vec<&Cell>> = lines().chain(rows).collect();
        let widest = |column: usize| {
            let widths = lines.iter().map(|line| line[column].text.width());
            widths.max().unwrap_or(0)
        };
        let mut widths: Vec<usize> = (0..self.headings.len()).map(widest).collect();
        if width.is_some_and(|width| !self.shorten(&mut widths, width)) {
            return self.render_blocks();
        }
        let mut out = String::new();
        for line in lines {
            let cells = line.iter().zip(&widths).zip(&self.headings);
            let cells: Vec<String> = cells
                .map(|((cell, width), (_, align))| padded(cell, *width, *align))
                .collect();
            out += &format!("{INDENT}{}\n", cells.join(GAP).trim_end());
        }
        out
    }

    /// Lowers the widths of columns of names until the table fits; false if it cannot fit.
    fn shorten(&self, widths: &mut [usize], width: usize) -> bool {
        let edges = INDENT.len() + GAP.len() * widths.len().saturating_sub(1);
        loop {
            let total = edges + widths.iter().sum::<usize>();
            if total <= width {
                return true;
            }
            let names = (0..widths.len()).filter(|i| self.headings[*i].1 == Align::Left);
            let Some(longest) = names
                .filter(|i| widths[*i] > LEAST_WIDTH)
                .max_by_key(|i| widths[*i])
            else {
                return false;
            };
            widths[longest] -= 1;
        }
    }

    /// Every row as lines of heading and cell, for terminals that are too narrow for the columns.
    fn render_blocks(&self) -> String {
        let widest = self.headings.iter().map(|(cell, _)| cell.text.width());
        let widest = widest.max().unwrap_or(0);
        let block = |row: &Vec<Cell>| -> String {
            let cells = self.headings.iter().zip(row);
            let cells = cells.filter(|(_, cell)| !cell.text.is_empty());
            cells
                .map(|((heading, _), cell)| {
                    let heading = padded(heading, widest, Align::Left);
                    let cell = padded(cell, 0, Align::Left);
                    format!("{INDENT}{heading}{GAP}{cell}\n")
                })
                .collect()
        };
        let blocks: Vec<String> = self.rows.iter().map(block).collect();
        blocks.join("\n")
    }
}

/// The cell's text in its style, padded to the width, or shortened to it.
fn padded(cell: &Cell, width: usize, align: Align) -> String {
    let text = match align {
        Align::Left if width > 0 => shortened(&cell.text, width),
        _ => cell.text.clone(),
    };
    let space = " ".repeat(width.saturating_sub(text.width()));
    let text = match cell.style.is_plain() || text.is_empty() {
        true => text,
        false => format!("{}{text}{}", cell.style.render(), cell.style.render_reset()),
    };
    match align {
        Align::Left => text + &space,
        Align::Right => space + &text,
    }
}

/// The beginning of a text that is too long, with an ellipsis in the place of the rest.
pub(crate) fn shortened(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let (mut out, mut used) = (String::new(), 1);
    for c in text.chars() {
        used += c.width().unwrap_or(0);
        if used > width {
            break;
        }
        out.push(c);
    }
    out + "…"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> AlignedTable {
        let mut table = AlignedTable::new([
            ("estimator", Align::Left),
            ("bits/dim ± SE", Align::Right),
            ("cost", Align::Right),
        ]);
        table.row(["exact".into(), "2.152 ± 0.016".into(), "5120".into()]);
        table.row([
            "hutchinson(probes=8 distribution=gaussian)".into(),
            "12.161 ± 0.030".into(),
            "720".into(),
        ]);
        table
    }

    fn plain(text: &str) -> String {
        anstream::adapter::strip_str(text).to_string()
    }

    #[test]
    fn columns_are_aligned_and_headings_are_bold() {
        let text = table().render(None);
        assert!(text.starts_with("  \u{1b}[1mestimator"), "{text:?}");
        let text = plain(&text);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines.iter().all(|line| line.width() == lines[0].width()));
        assert_eq!(
            lines[1],
            format!("  exact{}  2.152 ± 0.016  5120", " ".repeat(38))
        );
    }

    #[test]
    fn names_are_shortened_and_numbers_are_not() {
        for width in 40..80 {
            let text = plain(&table().render(Some(width)));
            assert!(text.lines().all(|line| line.width() <= width), "{text}");
            assert_eq!(text.lines().count(), 3, "{text}");
            assert!(text.contains("12.161 ± 0.030"), "{text}");
        }
        let narrow = plain(&table().render(Some(50)));
        assert!(
            narrow.contains("  hutchinson(probes=8 distr…  "),
            "{narrow}"
        );
        assert!(plain(&table().render(None)).contains("distribution=gaussian)"));
    }

    #[test]
    fn a_very_narrow_terminal_gets_a_line_for_each_cell() {
        let text = plain(&table().render(Some(20)));
        assert!(text.contains("  bits/dim ± SE  12.161 ± 0.030\n"), "{text}");
        assert_eq!(text.lines().count(), 7, "{text}");
    }

    #[test]
    fn control_characters_and_wide_letters_keep_the_columns() {
        let mut table = AlignedTable::new([("name", Align::Left), ("n", Align::Right)]);
        table.row(["模型\u{1b}[31m\nx".into(), "1".into()]);
        table.row(["m".into(), "22".into()]);
        let text = plain(&table.render(None));
        let widths: Vec<usize> = text.lines().map(|line| line.width()).collect();
        assert_eq!(widths, [widths[0]; 3], "{text}");
    }

    #[test]
    fn empty_columns_are_left_out() {
        let mut table = AlignedTable::new([("a", Align::Left), ("b", Align::Right)]);
        table.row(["x".into(), "–".into()]);
        assert_eq!(
            plain(&table.without_empty_columns().render(None)),
            "  a\n  x\n"
        );
    }
}
