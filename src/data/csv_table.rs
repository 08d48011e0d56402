//! Text tables: CSV and its relatives.
//!
//! The separator and the decimal mark are detected from the file. A header and an index are not
//! samples. A column without numbers is excluded, and a note names it. A column with numbers only
//! in some rows is an error.

use anyhow::{Result, anyhow, bail};
use ndarray::{ArrayD, IxDyn};

use super::{NumberKind, ParsedArray};

/// The number of rows from which the separator is detected.
const SNIFFED_ROWS: usize = 64;

/// The cells of one table, as text.
struct CsvCells {
    rows: Vec<Vec<String>>,
    /// The line of each row in the file.
    lines: Vec<u64>,
    /// The decimal mark.
    decimal: char,
}

/// Reads a table of text that is separated by commas, semicolons or tabs.
///
/// # Errors
/// Fails if the text is not a table of numbers. The message names the line and the column.
pub(super) fn array_from_csv(bytes: &[u8]) -> Result<ParsedArray> {
    let text = decode_text(bytes)?;
    let separator = detect_separator(&text);
    let mut cells = CsvCells::read(&text, separator, None)?;
    if cells.rows.is_empty() {
        bail!("it has no rows");
    }
    let header = cells.detect_header();
    if let Some(CsvHeader { names, .. }) = &header {
        cells.rows.remove(0);
        cells.lines.remove(0);
        if cells.rows.is_empty() {
            bail!(
                "it has no rows below its header, {}",
                abbreviate_list(names.iter().map(String::as_str))
            );
        }
    }
    cells.to_array(header, separator)
}

/// Decodes UTF-8, with or without a byte order mark, or the UTF-16 that spreadsheets write.
fn decode_text(bytes: &[u8]) -> Result<String> {
    let wide = |of: fn([u8; 2]) -> u16| {
        let units = bytes[2..].chunks_exact(2).map(|b| of([b[0], b[1]]));
        char::decode_utf16(units)
            .collect::<Result<String, _>>()
            .map_err(|_| anyhow!("it is no table: its UTF-16 is damaged"))
    };
    match bytes {
        [0xFF, 0xFE, ..] => wide(u16::from_le_bytes),
        [0xFE, 0xFF, ..] => wide(u16::from_be_bytes),
        _ => {
            let text = std::str::from_utf8(bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes));
            text.map(str::to_owned)
                .map_err(|_| anyhow!("it is no table: its text is not UTF-8"))
        }
    }
}

/// The separator with which all cells of a row are numbers, otherwise the one with the most
/// numbers. It is a comma if no separator splits any row.
fn detect_separator(text: &str) -> u8 {
    let score = |separator: u8| {
        let cells = CsvCells::read(text, separator, Some(SNIFFED_ROWS)).ok();
        // The last of these rows is not a header.
        let row = cells.as_ref().and_then(|c| c.rows.last());
        let numbers = row.map_or(0, |r| {
            r.iter()
                .filter(|c| cells.as_ref().is_some_and(|t| t.parse_number(c).is_some()))
                .count()
        });
        (
            numbers > 0 && row.is_some_and(|r| r.len() == numbers),
            numbers,
            row.map_or(0, Vec::len),
        )
    };
    // If scores are equal, max_by_key takes the last candidate.
    let candidates = [b',', b'\t', b';']
        .into_iter()
        .filter(|s| separator_splits_any_row(text, *s));
    candidates.max_by_key(|s| score(*s)).unwrap_or(b',')
}

/// Whether a separator occurs in any row outside of quotes.
///
/// Only such separators are candidates. With a separator that never occurs, a comma between columns
/// would look like a decimal mark.
fn separator_splits_any_row(text: &str, separator: u8) -> bool {
    let mut reader = ::csv::ReaderBuilder::new();
    reader
        .has_headers(false)
        .flexible(true)
        .delimiter(separator);
    reader
        .from_reader(text.as_bytes())
        .records()
        .take(SNIFFED_ROWS)
        .flatten()
        .any(|record| record.len() > 1)
}

impl CsvCells {
    /// Splits the text into cells. `most` limits the number of rows.
    fn read(text: &str, separator: u8, most: Option<usize>) -> Result<CsvCells> {
        let mut reader = ::csv::ReaderBuilder::new()
            .has_headers(false)
            .delimiter(separator)
            .from_reader(text.as_bytes());
        let mut cells = CsvCells {
            rows: Vec::new(),
            lines: Vec::new(),
            decimal: '.',
        };
        for record in reader.records().take(most.unwrap_or(usize::MAX)) {
            let record = record.map_err(|e| {
                unequal_lengths_error(&e, text).unwrap_or_else(|| anyhow!("it is no table: {e}"))
            })?;
            cells
                .lines
                .push(record.position().map_or(0, |at| line_of_record(at, text)));
            cells
                .rows
                .push(record.iter().map(|c| c.trim().to_owned()).collect());
        }
        if separator != b',' && cells.has_decimal_commas() {
            cells.decimal = ',';
        }
        cells.check_no_gaps()?;
        Ok(cells)
    }

    /// Whether numbers are written with decimal commas: some contain one comma, and none contains a
    /// point.
    fn has_decimal_commas(&self) -> bool {
        let all = || self.rows.iter().flatten();
        let comma = |c: &&String| c.contains(',') && c.replacen(',', ".", 1).parse::<f64>().is_ok();
        let point = |c: &String| c.contains('.') && c.parse::<f64>().is_ok();
        all().any(|c| comma(&c)) && !all().any(point)
    }

    /// Checks that a table with one column has no blank line between its rows, because that is a
    /// missing number.
    fn check_no_gaps(&self) -> Result<()> {
        let single = self.rows.first().is_some_and(|r| r.len() == 1);
        match self.lines.windows(2).find(|l| single && l[1] > l[0] + 1) {
            Some(lines) if !self.rows.iter().flatten().any(|c| c.contains('\n')) => {
                bail!(
                    "line {}, column 1: it is empty, expected a number",
                    lines[0] + 1
                )
            }
            _ => Ok(()),
        }
    }

    /// The number in a cell. `None` if it is not a number.
    fn parse_number(&self, cell: &str) -> Option<f64> {
        match self.decimal {
            ',' => cell.replacen(',', ".", 1).parse().ok(),
            _ => cell.parse().ok(),
        }
    }

    /// Whether a number is written without a decimal mark and without an exponent.
    fn is_integer_text(cell: &str) -> bool {
        let digits = cell.trim_start_matches(['-', '+']);
        !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())
    }

    /// The header, if the first row names columns and is not a sample.
    fn detect_header(&self) -> Option<CsvHeader> {
        let (first, below) = self.rows.split_first()?;
        let header = |counts| {
            Some(CsvHeader {
                names: first.clone(),
                last_count: counts,
            })
        };
        if first.iter().all(|c| self.parse_number(c).is_none()) {
            return header(None);
        }
        // An unnamed column is an index, so a count after it names columns and is not a sample.
        if first.len() > 1 && first[0].is_empty() && is_counting_sequence(&first[1..]) {
            return header(None);
        }
        if !is_counting_sequence(first) || below.is_empty() {
            return None;
        }
        let all_integers = |row: &[String]| {
            row.iter()
                .filter(|c| self.parse_number(c).is_some())
                .all(|c| CsvCells::is_integer_text(c))
        };
        let floats = below.iter().any(|row| !all_integers(row));
        let only_floats = || {
            below
                .iter()
                .flatten()
                .all(|c| !CsvCells::is_integer_text(c))
        };
        // 0, 1, …, 9 may be a sample of whole numbers. It is a sample if the next row continues the
        // count.
        let next_row_continues = || self.parse_number(&below[0][0]) == Some(first.len() as f64);
        let is_header = match first.len() {
            1 | 2 => floats && only_floats(),
            n => floats || (n >= 8 && !next_row_continues()),
        };
        is_header.then(|| CsvHeader {
            names: first.clone(),
            last_count: Some(first.len() - 1),
        })
    }

    /// The numeric columns as an array.
    fn to_array(&self, header: Option<CsvHeader>, separator: u8) -> Result<ParsedArray> {
        let width = self.rows[0].len();
        let name = |column: usize| match &header {
            Some(CsvHeader {
                names,
                last_count: None,
            }) if !names[column].is_empty() => format!("`{}`", names[column]),
            _ => format!("{}", column + 1),
        };
        let column = |i: usize| self.rows.iter().map(move |r| r[i].as_str());
        let mut notes = Vec::new();
        if let Some(last) = header.as_ref().and_then(|h| h.last_count) {
            let of = if last > 3 {
                format!("0, 1, …, {last}")
            } else {
                (0..=last)
                    .map(|i| i.to_string())
                    .collect::<Vec<_>>()
                    .join(", ")
            };
            notes.push(format!(
                "its first line, {of}, is taken as a header and not as a sample"
            ));
        }
        let index = header.as_ref().is_some_and(|h| h.first_column_is_unnamed())
            && width > 1
            && self.first_column_is_index();
        if index {
            notes.push(
                "its first column has no name and numbers the rows: it is an index and is left out"
                    .to_owned(),
            );
        }
        let mut numeric = Vec::new();
        let mut left_out = Vec::new();
        for i in usize::from(index)..width {
            match column(i).any(|c| self.parse_number(c).is_some()) {
                true => numeric.push(i),
                false => left_out.push(format!(
                    "{} ({})",
                    name(i),
                    describe_non_numeric(column(i), separator)
                )),
            }
        }
        if numeric.is_empty() {
            bail!("it has no column of numbers: {}", left_out.join(", "));
        }
        if !left_out.is_empty() {
            notes.push(non_numeric_columns_note(&left_out));
        }
        let mut values = Vec::with_capacity(self.rows.len() * numeric.len());
        for (row, line) in self.rows.iter().zip(&self.lines) {
            for i in &numeric {
                let value = self.parse_number(&row[*i]).ok_or_else(|| {
                    anyhow!(
                        "line {line}, column {}: {:?} is no number, but others of that column are",
                        i + 1,
                        row[*i]
                    )
                })?;
                values.push(value);
            }
        }
        let whole = self
            .rows
            .iter()
            .all(|r| numeric.iter().all(|i| CsvCells::is_integer_text(&r[*i])));
        let numbers = if whole {
            NumberKind::IntegerText
        } else {
            NumberKind::Floats
        };
        Ok(ParsedArray {
            values: ArrayD::from_shape_vec(IxDyn(&[self.rows.len(), numeric.len()]), values)?
                .into(),
            number_kind: numbers,
            are_features: false,
            notes,
        })
    }

    /// Whether the first column holds different integers, as an index does even if rows were
    /// dropped or shuffled.
    fn first_column_is_index(&self) -> bool {
        let mut seen = std::collections::HashSet::new();
        self.rows
            .iter()
            .all(|r| CsvCells::is_integer_text(&r[0]) && seen.insert(r[0].as_str()))
    }
}

/// The first row of a table, if it is a header.
struct CsvHeader {
    names: Vec<String>,
    /// The last number, if the names are 0, 1, ….
    last_count: Option<usize>,
}

impl CsvHeader {
    /// Whether the first column has no name, or the name that pandas gives to an unnamed column.
    fn first_column_is_unnamed(&self) -> bool {
        self.last_count.is_none() && ["", "Unnamed: 0"].contains(&self.names[0].as_str())
    }
}

/// Whether the cells are 0, 1, …, n − 1.
fn is_counting_sequence(cells: &[String]) -> bool {
    cells
        .iter()
        .enumerate()
        .all(|(i, c)| CsvCells::is_integer_text(c) && c.parse() == Ok(i))
}

/// The line of a record. The reader reports the position before the blank lines that it skips.
fn line_of_record(position: &::csv::Position, text: &str) -> u64 {
    let rest = text.as_bytes().iter().skip(position.byte() as usize);
    let skipped = rest
        .take_while(|b| matches!(b, b'\r' | b'\n'))
        .filter(|b| **b == b'\n')
        .count();
    position.line() + skipped as u64
}

/// The message for rows of different lengths, with the line. `None` for other errors.
fn unequal_lengths_error(error: &::csv::Error, text: &str) -> Option<anyhow::Error> {
    let ::csv::ErrorKind::UnequalLengths {
        pos: Some(at),
        expected_len,
        len,
    } = error.kind()
    else {
        return None;
    };
    Some(anyhow!(
        "it is no table: line {} has another number of cells ({len}) than those before it \
         ({expected_len})",
        line_of_record(at, text)
    ))
}

/// What a column holds instead of numbers, in a word or two.
fn describe_non_numeric<'a>(cells: impl Iterator<Item = &'a str>, separator: u8) -> &'static str {
    let filled: Vec<&str> = cells.filter(|c| !c.is_empty()).take(SNIFFED_ROWS).collect();
    let all = |is: &dyn Fn(&str) -> bool| filled.iter().all(|c| is(c));
    let number = |c: &str| c.parse::<f64>().is_ok();
    let one_comma = |c: &str| c.matches(',').count() == 1 && number(&c.replace(',', "."));
    match () {
        () if filled.is_empty() => "empty",
        () if all(&|c| ["true", "false", "yes", "no"].contains(&c.to_lowercase().as_str())) => {
            "true and false"
        }
        () if all(&|c| {
            c.strip_suffix('%')
                .is_some_and(|c| number(&c.trim().replace(',', ".")))
        }) =>
        {
            "percent signs"
        }
        () if all(&|c| c.contains(',') && has_digit_groups(c, ',', '.')) => "thousands separators",
        () if all(&|c| c.contains('.') && has_digit_groups(c, '.', ',')) => "thousands separators",
        () if all(&one_comma) && separator == b',' => "decimal commas",
        () if all(&|c| number(c.trim_start_matches(['$', '€', '£']).trim())) => "currency signs",
        () if all(&|c| c.split_whitespace().count() > 1 && c.split_whitespace().all(number)) => {
            "numbers between blanks"
        }
        () => "text",
    }
}

/// Whether the text is a number with some digits in groups of three.
fn has_digit_groups(text: &str, group: char, decimal: char) -> bool {
    let (whole, fraction) = text.split_once(decimal).unwrap_or((text, ""));
    let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    let mut groups = whole.trim_start_matches(['-', '+']).split(group);
    let first = groups.next().unwrap_or("");
    let mut rest = groups.peekable();
    (1..=3).contains(&first.len())
        && digits(first)
        && digits(fraction)
        && rest.peek().is_some()
        && rest.all(|g| g.len() == 3 && digits(g))
}

/// A note about columns without numbers.
pub(super) fn non_numeric_columns_note(columns: &[String]) -> String {
    match columns {
        [one] => format!("column {one} holds no numbers and is left out"),
        some => format!(
            "columns {} hold no numbers and are left out",
            abbreviate_list(some.iter().map(String::as_str))
        ),
    }
}

/// The first few items of a list.
pub(super) fn abbreviate_list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.collect();
    match names.len() {
        0..=8 => names.join(", "),
        n => format!("{} and {} more", names[..6].join(", "), n - 6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each table with the expected result: the numbers row by row and words of the notes, or the
    /// words of an error.
    #[test]
    fn csv_tables_of_every_kind() {
        type Read<'a> = Result<(usize, &'a [f64], &'a [&'a str]), &'a str>;
        let six = |from: f64| [0.0, 1.0, 2.0, 3.0, 4.0, 5.0].map(|i: f64| from + i);
        let floats = six(0.5);
        let table: &[(&str, Read)] = &[
            ("0.5,1.5\n2.5,3.5\n4.5,5.5\n", Ok((2, &floats, &[]))),
            ("0.5;1.5\n2.5;3.5\n4.5;5.5\n", Ok((2, &floats, &[]))),
            ("0,5;1,5\n2,5;3,5\n4,5;5,5\n", Ok((2, &floats, &[]))),
            ("0.5\t1.5\n2.5\t3.5\n4.5\t5.5", Ok((2, &floats, &[]))),
            (
                "0,5\t1,5\r\n2,5\t3,5\r\n4,5\t5,5\r\n",
                Ok((2, &floats, &[])),
            ),
            ("x;y;z\n0,5;1,5;2,5\n3,5;4,5;5,5\n", Ok((3, &floats, &[]))),
            (
                "\u{feff}x,y\n0.5,1.5\n 2.5 , 3.5\n\"4.5\",5.5\n",
                Ok((2, &floats, &[])),
            ),
            ("0.5\n1.5\n2.5\n3.5\n4.5\n5.5\n\n\n", Ok((1, &floats, &[]))),
            ("# x,y\n0.5,1.5\n2.5,3.5\n4.5,5.5\n", Ok((2, &floats, &[]))),
            // A separator inside quotes or other text does not separate.
            (
                "a,x,y\n\"p;q\",0.5,1.5\n\"r;s\",2.5,3.5\n\"t;u\",4.5,5.5\n",
                Ok((2, &floats, &["column `a` (text)"])),
            ),
            (
                "a;x;y\nb,c;0.5;1.5\nd,e;2.5;3.5\nf,g;4.5;5.5\n",
                Ok((2, &floats, &["column `a` (text)"])),
            ),
            // First rows that count: headers and samples.
            (
                "0,1,2\n0.5,1.5,2.5\n3.5,4.5,5.5\n",
                Ok((
                    3,
                    &floats,
                    &["its first line, 0, 1, 2, is taken as a header"],
                )),
            ),
            (
                "0,1\n0.5,1.5\n2.5,3.5\n4.5,5.5\n",
                Ok((2, &floats, &["0, 1, is taken as a header"])),
            ),
            ("0,1\n1,0\n", Ok((2, &[0.0, 1.0, 1.0, 0.0], &[]))),
            ("0,1\n0.5,2\n", Ok((2, &[0.0, 1.0, 0.5, 2.0], &[]))),
            ("0,1,2\n3,4,5\n", Ok((3, &six(0.0), &[]))),
            (
                "0,1,2,3,4,5,6,7\n9,9,9,9,9,9,9,9\n",
                Ok((8, &[9.0; 8], &["0, 1, …, 7, is taken as a header"])),
            ),
            // Indices.
            (
                ",0,1,2\n0,0.5,1.5,2.5\n1,3.5,4.5,5.5\n",
                Ok((3, &floats, &["first column has no name", "index"])),
            ),
            (
                ",x,y\n0,0.5,1.5\n1,2.5,3.5\n2,4.5,5.5\n",
                Ok((2, &floats, &["index"])),
            ),
            (
                "Unnamed: 0,x,y\n0,0.5,1.5\n1,2.5,3.5\n2,4.5,5.5\n",
                Ok((2, &floats, &["index"])),
            ),
            // Rows that were dropped, and shuffled ones.
            (
                ";x;y\n4;0,5;1,5\n0;2,5;3,5\n9;4,5;5,5\n",
                Ok((2, &floats, &["index"])),
            ),
            (",x\n0.5,1.5\n2.5,3.5\n4.5,5.5\n", Ok((2, &floats, &[]))),
            ("n,x\n0,0.5\n1,1.5\n", Ok((2, &[0.0, 0.5, 1.0, 1.5], &[]))),
            // Columns of no numbers.
            (
                "t,x\nTrue,0.5\nFalse,1.5\n",
                Ok((1, &floats[..2], &["`t` (true and false)"])),
            ),
            (
                "p,x\n10%,0.5\n2.5 %,1.5\n",
                Ok((1, &floats[..2], &["`p` (percent signs)"])),
            ),
            (
                "n,x\n\"1,234.5\",0.5\n\"12,345\",1.5\n",
                Ok((1, &floats[..2], &["`n` (thousands separators)"])),
            ),
            (
                "n;x\n1.234,5;0,5\n12.345;1,5\n",
                Err("line 2, column 1: \"1.234,5\" is no number"),
            ),
            (
                "c,x\n\"0,5\",0.5\n\"1,5\",1.5\n",
                Ok((1, &floats[..2], &["`c` (decimal commas)"])),
            ),
            (
                "$3,0.5,\n$4,1.5,\n",
                Ok((1, &floats[..2], &["columns 1 (currency signs), 3 (empty)"])),
            ),
            (
                "a,b\nTrue,x\nFalse,y\n",
                Err("no column of numbers: `a` (true and false), `b` (text)"),
            ),
            ("0.5 1.5\n2.5 3.5\n", Err("numbers between blanks")),
            ("x,y\n", Err("no rows below its header, x, y")),
            ("", Err("it has no rows")),
            // Numbers in some rows only.
            ("x,y\n1,2\n3,\n", Err("line 3, column 2: \"\" is no number")),
            (
                "x,y\n999,2\n\"1,000\",3\n",
                Err("line 3, column 1: \"1,000\" is no number"),
            ),
            (
                "1,2\nx,y\n3,4\n",
                Err("line 2, column 1: \"x\" is no number"),
            ),
            ("x,1\n2,3\n", Err("line 1, column 1: \"x\" is no number")),
            (
                "1,2\n3,4,5\n",
                Err("line 2 has another number of cells (3) than those before it (2)"),
            ),
            // A comma is not taken for a decimal mark because no other separator occurs.
            (
                "1,2\n3\n",
                Err("line 2 has another number of cells (1) than those before it (2)"),
            ),
            (
                "3\n1,2\n",
                Err("line 2 has another number of cells (2) than those before it (1)"),
            ),
            (
                "\"p;q\",1,2\n\"r;s\",3\n",
                Err("line 2 has another number of cells (2) than those before it (3)"),
            ),
            ("a;1,5\nb;2,5\n", Ok((1, &[1.5, 2.5], &["column 1 (text)"]))),
            ("0.5\n\n1.5\n", Err("line 2, column 1: it is empty")),
            (
                "0.5\r\n\r\n\r\n1.5\r\n",
                Err("line 2, column 1: it is empty"),
            ),
            // Blank lines of a wider table are no missing numbers, but they count as lines.
            (
                "x,y\n\n1,2\n\n3,z\n",
                Err("line 5, column 2: \"z\" is no number"),
            ),
            (
                "1,2\n\n3\n",
                Err("line 3 has another number of cells (1) than those before it (2)"),
            ),
        ];
        for (text, wanted) in table {
            match (array_from_csv(text.as_bytes()), wanted) {
                (Ok(read), Ok((width, numbers, notes))) => {
                    assert_eq!(
                        read.values.shape(),
                        [numbers.len() / width, *width],
                        "{text:?}"
                    );
                    let found = read.values.to_array();
                    assert!(found.iter().eq(*numbers), "{text:?}: {found}");
                    let said = read.notes.join("\n");
                    assert!(notes.iter().all(|n| said.contains(n)), "{text:?}: {said}");
                    assert_eq!(said.is_empty(), notes.is_empty(), "{text:?}: {said}");
                }
                (Err(error), Err(why)) => {
                    assert!(format!("{error:#}").contains(why), "{text:?}: {error:#}")
                }
                (Ok(read), Err(_)) => {
                    panic!(
                        "{text:?} is read as {} {:?}",
                        read.values.to_array(),
                        read.notes
                    )
                }
                (Err(error), Ok(_)) => panic!("{text:?}: {error:#}"),
            }
        }
        // Spreadsheets call this format Unicode text.
        let wide: Vec<u8> = "\u{feff}x\ty\n0,5\t1,5\n"
            .encode_utf16()
            .flat_map(u16::to_le_bytes)
            .collect();
        assert!(
            array_from_csv(&wide)
                .expect("read")
                .values
                .to_array()
                .iter()
                .eq(&[0.5, 1.5])
        );
        assert!(array_from_csv(b"caf\xe9,1\n").is_err_and(|e| e.to_string().contains("UTF-8")));
    }

    #[test]
    fn csv_of_whole_numbers_is_integer_text() {
        let numbers = |text: &str| array_from_csv(text.as_bytes()).expect("read").number_kind;
        assert_eq!(numbers("1,2\n3,4\n"), NumberKind::IntegerText);
        assert_eq!(numbers("x;y\n1;2\n-3;+4\n"), NumberKind::IntegerText);
        assert_eq!(numbers("1,2\n3,4.0\n"), NumberKind::Floats);
        assert_eq!(numbers("1,2\n3,4e0\n"), NumberKind::Floats);
    }
}
