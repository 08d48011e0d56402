//! CSV files as text: tables whose columns are known by name only.

/// A CSV table as text, with the line number of every row.
pub(crate) struct TextTable {
    pub columns: Vec<String>,
    /// Each row with its line in the file, counted from 1.
    pub rows: Vec<(u64, Vec<String>)>,
}

impl TextTable {
    /// Parses a CSV file with a header line.
    ///
    /// # Errors
    /// Fails if the bytes are no CSV table.
    pub(crate) fn read(bytes: &[u8]) -> Result<TextTable, csv::Error> {
        let mut reader = csv::Reader::from_reader(bytes);
        let columns = reader.headers()?.iter().map(str::to_owned).collect();
        let mut rows = Vec::new();
        for record in reader.records() {
            let record = record?;
            let line = record.position().map_or(0, |p| p.line());
            rows.push((line, record.iter().map(str::to_owned).collect()));
        }
        Ok(TextTable { columns, rows })
    }

    /// The position of a column. `None` if the table does not have it.
    pub(crate) fn column_index(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|c| c == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_have_their_lines_and_columns_their_names() {
        let table = TextTable::read(b"a,b\n1,\"x\ny\"\n2,\n").expect("a table");
        assert_eq!(table.column_index("b"), Some(1));
        assert_eq!(table.column_index("c"), None);
        let rows = [(2, vec!["1", "x\ny"]), (4, vec!["2", ""])];
        let rows = rows.map(|(line, row)| (line, row.into_iter().map(str::to_owned).collect()));
        assert_eq!(table.rows, rows);
        assert!(TextTable::read(b"a,b\n1\n").is_err());
    }
}
