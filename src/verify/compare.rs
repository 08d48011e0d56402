//! Two readings of one row: the same, apart by rounding, or another number.
//!
//! - **match**: the same text, or numbers within [`MATCH_ULPS`] units in the last place.
//! - **drift**: within 2⁻¹⁵ of the sum of the magnitudes that the number is made of (256 roundings of float32, in
//!   which networks run), and where a solver chose its steps, within one of its tolerances more, since a step that
//!   is only just accepted on one machine is refused on another. What another processor, runtime or provider does,
//!   and now and then another batch, since the runtime rounds a matrix product by its size. Between ONNX Runtime
//!   1.20 and 1.31 the largest difference was a third of this. The nodes of a profile lie where
//!   a solver chose: they drift by [`PROFILE_DRIFT`] of the largest.
//! - **mismatch**: anything else.
//!
//! What the clock measured is not compared.

use crate::plan::{RowMagnitudes, TrialWork};

/// How two readings of one row stand to each other, the worse the greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RowVerdict {
    Match,
    Drift,
    Mismatch,
}

impl RowVerdict {
    pub fn as_str(self) -> &'static str {
        match self {
            RowVerdict::Match => "match",
            RowVerdict::Drift => "drift",
            RowVerdict::Mismatch => "mismatch",
        }
    }
}

/// Units in the last place of a double that still are a match: sums in another order inside one library.
const MATCH_ULPS: u64 = 4;

/// Of the magnitudes behind a number, what roundings of networks may move: 256 · 2⁻²³.
pub const DRIFT_TOLERANCE: f64 = 1.0 / (1 << 15) as f64;

/// Solvers that choose their steps may take other ones: this share of the evaluations is drift.
const STEP_COUNT_DRIFT: f64 = 0.25;

/// Nodes that a solver chose lie elsewhere where its error estimates were rounded otherwise: this share of the
/// largest in their column is drift.
const PROFILE_DRIFT: f64 = 0.01;

/// The ends of a 95 % interval.
pub const INTERVAL_COLUMNS: [&str; 2] = ["low", "high"];

/// A table as text, with the line of every row.
pub struct VerifyTable {
    pub columns: Vec<String>,
    pub rows: Vec<(u64, Vec<String>)>,
}

impl VerifyTable {
    /// # Errors
    /// Where the bytes are no table.
    pub fn read(bytes: &[u8]) -> Result<VerifyTable, String> {
        let mut reader = csv::Reader::from_reader(bytes);
        let columns = reader
            .headers()
            .map_err(|e| e.to_string())?
            .iter()
            .map(str::to_owned)
            .collect();
        let mut rows = Vec::new();
        for record in reader.records() {
            let record = record.map_err(|e| e.to_string())?;
            let line = record.position().map_or(0, |p| p.line());
            rows.push((line, record.iter().map(str::to_owned).collect()));
        }
        Ok(VerifyTable { columns, rows })
    }

    /// The table with those of its columns that pass.
    pub fn retain_columns(&self, pass: impl Fn(&str) -> bool) -> VerifyTable {
        let kept: Vec<usize> = (0..self.columns.len())
            .filter(|i| pass(&self.columns[*i]))
            .collect();
        let cells = |row: &[String]| {
            kept.iter()
                .map(|i| row[*i].clone())
                .collect::<Vec<String>>()
        };
        let rows = self
            .rows
            .iter()
            .map(|(line, row)| (*line, cells(row)))
            .collect();
        VerifyTable {
            columns: cells(&self.columns),
            rows,
        }
    }

    pub fn column_index(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|c| c == name)
    }

    pub fn cell(&self, row: usize, name: &str) -> Option<&str> {
        Some(
            self.rows
                .get(row)?
                .1
                .get(self.column_index(name)?)?
                .as_str(),
        )
    }

    pub fn number(&self, row: usize, name: &str) -> Option<f64> {
        self.cell(row, name)?
            .parse()
            .ok()
            .filter(|v: &f64| v.is_finite())
    }

    /// The largest magnitude of a column.
    fn max_abs(&self, name: &str) -> f64 {
        (0..self.rows.len())
            .filter_map(|i| self.number(i, name))
            .fold(0.0, |a, b| a.max(b.abs()))
    }
}

/// One comparison, the worst of a row.
#[derive(Debug, Clone, PartialEq)]
pub struct RowComparison {
    pub verdict: RowVerdict,
    pub column: String,
    pub stored: String,
    pub recomputed: String,
    pub difference: Option<f64>,
    pub tolerance: Option<f64>,
}

impl RowComparison {
    pub fn equal() -> RowComparison {
        let none = String::new;
        let (column, stored, recomputed) = (none(), none(), none());
        RowComparison {
            verdict: RowVerdict::Match,
            column,
            stored,
            recomputed,
            difference: None,
            tolerance: None,
        }
    }

    /// Two texts; numbers where both are.
    pub fn compare_cells(
        column: &str,
        stored: &str,
        recomputed: &str,
        tolerance: f64,
    ) -> RowComparison {
        let named = |verdict, difference, tolerance| RowComparison {
            verdict,
            column: column.to_owned(),
            stored: stored.to_owned(),
            recomputed: recomputed.to_owned(),
            difference,
            tolerance,
        };
        if stored == recomputed {
            return RowComparison::equal();
        }
        let number = |text: &str| text.parse::<f64>().ok().filter(|v| v.is_finite());
        let (Some(a), Some(b)) = (number(stored), number(recomputed)) else {
            return named(RowVerdict::Mismatch, None, None);
        };
        if ulp_distance(a, b) <= MATCH_ULPS {
            return RowComparison::equal();
        }
        let verdict = if (a - b).abs() <= tolerance {
            RowVerdict::Drift
        } else {
            RowVerdict::Mismatch
        };
        named(verdict, Some(a - b), Some(tolerance))
    }

    /// The worse of two: by the verdict, then by how far the difference reaches towards its tolerance.
    pub fn worse_of(self, other: RowComparison) -> RowComparison {
        let share = |c: &RowComparison| {
            c.difference
                .zip(c.tolerance)
                .map_or(0.0, |(d, t)| d.abs() / t.max(f64::MIN_POSITIVE))
        };
        let of = |c: &RowComparison| (c.verdict, share(c));
        if of(&other) > of(&self) { other } else { self }
    }
}

/// Doubles between two of one sign.
fn ulp_distance(a: f64, b: f64) -> u64 {
    if a == b {
        return 0;
    }
    if a.is_sign_negative() != b.is_sign_negative() {
        return u64::MAX;
    }
    a.to_bits().abs_diff(b.to_bits())
}

/// Holds row `i` of what was stored against row `j` of what was recomputed, column by column.
pub fn compare_rows(
    work: &TrialWork,
    dim: usize,
    stored: &VerifyTable,
    i: usize,
    again: &VerifyTable,
    j: usize,
) -> RowComparison {
    let clock = |name: &str| name.contains("seconds") || name == "cost";
    // Intervals follow from a difference and its error, and tables make them anew.
    let derived = |name: &str| INTERVAL_COLUMNS.contains(&name);
    let mut worst = RowComparison::equal();
    for name in again
        .columns
        .iter()
        .filter(|name| !clock(name) && !derived(name))
    {
        let (Some(old), Some(new)) = (stored.cell(i, name), again.cell(j, name)) else {
            continue;
        };
        // Earlier versions told nothing of fixed steps.
        let untold = *name == "solver_error" && old.is_empty();
        if old != new && !untold {
            worst = worst.worse_of(RowComparison::compare_cells(
                name,
                old,
                new,
                drift_tolerance(work, dim, name, again, j),
            ));
        }
    }
    worst
}

/// Two numbers of rows that should be one.
pub fn compare_row_counts(work: &TrialWork, stored: usize, recomputed: usize) -> RowComparison {
    let other_steps = work.has_adaptive_nodes();
    let few = stored.abs_diff(recomputed) as f64 <= STEP_COUNT_DRIFT * recomputed as f64;
    RowComparison {
        verdict: if other_steps && few {
            RowVerdict::Drift
        } else {
            RowVerdict::Mismatch
        },
        stored: format!("{stored} rows"),
        recomputed: format!("{recomputed} rows"),
        ..RowComparison::equal()
    }
}

/// How far a number may drift, from what it is made of.
fn drift_tolerance(
    work: &TrialWork,
    dim: usize,
    column: &str,
    again: &VerifyTable,
    j: usize,
) -> f64 {
    let size = |name: &str| again.number(j, name).map_or(0.0, f64::abs);
    let chosen = work.tolerances();
    if ["evaluations", "jvps", "head_calls"].contains(&column) {
        return chosen.map_or(0.0, |_| STEP_COUNT_DRIFT * size(column));
    }
    // No network computes these.
    if ["sample", "step", "steps", "population", "n", "draws"].contains(&column) {
        return 0.0;
    }
    if work.has_adaptive_nodes() {
        return PROFILE_DRIFT * again.max_abs(column);
    }
    let row = RowMagnitudes {
        column,
        size: &size,
        column_max: &|| again.max_abs(column),
        dim: dim as f64,
    };
    let scale = work
        .magnitude(&row)
        .unwrap_or_else(|| statistic_magnitude(column, &size));
    let [rtol, atol] = chosen.unwrap_or_default();
    (DRIFT_TOLERANCE + rtol) * scale + atol
}

/// The magnitude behind a mean: itself, and the spread of what was averaged.
fn statistic_magnitude(column: &str, size: &dyn Fn(&str) -> f64) -> f64 {
    let root_n = ["n", "n_generated"]
        .map(size)
        .into_iter()
        .fold(1.0, f64::max)
        .sqrt();
    if ["z", "p"].contains(&column) {
        return root_n;
    }
    let stderr = ["stderr", "residual_stderr", "difference_stderr"]
        .map(size)
        .into_iter()
        .fold(0.0, f64::max);
    size(column) + stderr * root_n
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_classified_as_match_drift_or_mismatch() {
        let verdict = |a: &str, b: &str| RowComparison::compare_cells("c", a, b, 1e-3).verdict;
        assert_eq!(verdict("1.5", "1.5"), RowVerdict::Match);
        assert_eq!(verdict("0.1", "0.10000000000000002"), RowVerdict::Match);
        assert_eq!(verdict("0.1", "0.1000000001"), RowVerdict::Drift);
        assert_eq!(verdict("0.1", "0.102"), RowVerdict::Mismatch);
        assert_eq!(verdict("0.1", "-0.1"), RowVerdict::Mismatch);
        for (a, b) in [
            ("", "0.1"),
            ("0.1", ""),
            ("ok", "non-finite"),
            ("NaN", "0.1"),
            ("inf", "1"),
            ("a", "b"),
        ] {
            assert_eq!(verdict(a, b), RowVerdict::Mismatch, "{a} {b}");
        }
        // The sign of nothing is nothing.
        assert_eq!(verdict("0", "-0"), RowVerdict::Match);
    }

    #[test]
    fn worse_of_keeps_the_worst_column() {
        let drift = RowComparison::compare_cells("a", "1", "1.0001", 1e-3);
        let more = RowComparison::compare_cells("b", "1", "1.0009", 1e-3);
        let other = RowComparison::compare_cells("c", "ok", "non-finite", 0.0);
        assert_eq!(RowComparison::equal().worse_of(drift.clone()), drift);
        assert_eq!(drift.clone().worse_of(more.clone()), more);
        assert_eq!(more.clone().worse_of(drift), more);
        assert_eq!(other.clone().worse_of(more), other);
    }
}
