//! Comparison of a stored row with the same row recomputed. There are three verdicts:
//!
//! - **match**: the texts are equal, or the numbers differ by at most [`MATCH_ULPS`] units in the
//!   last place.
//! - **drift**: the difference is at most 2⁻¹⁵ of the sum of the magnitudes behind the number. This
//!   is 256 roundings of float32, in which networks run. If a solver chose its steps, one of its
//!   tolerances is added, because a step that is barely accepted on one machine is rejected on
//!   another. The nodes of a profile are chosen by a solver too: they may differ by
//!   [`PROFILE_DRIFT`] of the largest value in the column.
//! - **mismatch**: anything else.
//!
//! Drift comes from another processor, runtime or execution provider. It can also come from another
//! batch size, because the runtime rounds a matrix product depending on its size. Between ONNX
//! Runtime 1.20 and 1.31, the largest difference was a third of the allowed drift.
//!
//! Columns of measured time are not compared.

use crate::plan::{RowMagnitudes, TrialWork};
use crate::rows::TextTable;

/// The result of a comparison. A worse verdict is greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum RowVerdict {
    Match,
    Drift,
    Mismatch,
}

impl RowVerdict {
    /// The word for the verdict in tables and on the terminal.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            RowVerdict::Match => "match",
            RowVerdict::Drift => "drift",
            RowVerdict::Mismatch => "mismatch",
        }
    }
}

/// The largest distance of two matching numbers, in units in the last place of float64. A library
/// can add the same numbers in another order.
const MATCH_ULPS: u64 = 4;

/// The share of the magnitudes behind a number by which the rounding of networks may change it:
/// 2⁻¹⁵ = 256 · 2⁻²³.
pub(super) const DRIFT_TOLERANCE: f64 = 1.0 / (1 << 15) as f64;

/// The share by which the number of evaluations may differ if a solver chooses its steps.
const STEP_COUNT_DRIFT: f64 = 0.25;

/// The drift of rows at nodes that a solver chose, as a share of the largest value in the column.
/// The nodes move if the solver's error estimates are rounded differently.
const PROFILE_DRIFT: f64 = 0.01;

/// The columns that explain a number in words. Versions word them differently, so they are not
/// compared.
pub(super) const EXPLANATION_COLUMNS: [&str; 7] = [
    "knob", "measured", "note", "reason", "formula", "source", "protocol",
];

/// The columns with the ends of a 95 % confidence interval.
pub(super) const INTERVAL_COLUMNS: [&str; 2] = ["low", "high"];

impl TextTable {
    /// The table with only those columns whose names `pass` accepts.
    pub(super) fn retain_columns(&self, pass: impl Fn(&str) -> bool) -> TextTable {
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
        TextTable {
            columns: cells(&self.columns),
            rows,
        }
    }

    /// The text of a cell. `None` if the table does not have the row or the column.
    pub(super) fn cell(&self, row: usize, name: &str) -> Option<&str> {
        Some(
            self.rows
                .get(row)?
                .1
                .get(self.column_index(name)?)?
                .as_str(),
        )
    }

    /// The number in a cell. `None` if the cell is absent, is no number, or is not finite.
    pub(super) fn number(&self, row: usize, name: &str) -> Option<f64> {
        self.cell(row, name)?
            .parse()
            .ok()
            .filter(|v: &f64| v.is_finite())
    }

    /// The largest absolute value in a column, 0 if it has no number.
    fn max_abs(&self, name: &str) -> f64 {
        (0..self.rows.len())
            .filter_map(|i| self.number(i, name))
            .fold(0.0, |a, b| a.max(b.abs()))
    }
}

/// The comparison of a cell. For a row, it is the worst comparison of its cells.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct RowComparison {
    pub verdict: RowVerdict,
    /// The column of the cell. It is empty if the row matches.
    pub column: String,
    /// The text of the stored cell.
    pub stored: String,
    /// The text of the recomputed cell.
    pub recomputed: String,
    /// The stored number minus the recomputed number. `None` if one is no number.
    pub difference: Option<f64>,
    /// The largest absolute difference that is drift.
    pub tolerance: Option<f64>,
}

impl RowComparison {
    /// The comparison of a row that matches.
    pub(crate) fn equal() -> RowComparison {
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

    /// Compares two cells, as numbers if both are finite numbers, otherwise as texts. `tolerance`
    /// is the largest absolute difference that is drift.
    pub(crate) fn compare_cells(
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

    /// The worse of two comparisons: the one with the worse verdict, then the one with the larger
    /// difference relative to its tolerance.
    pub(crate) fn worse_of(self, other: RowComparison) -> RowComparison {
        let share = |c: &RowComparison| {
            c.difference
                .zip(c.tolerance)
                .map_or(0.0, |(d, t)| d.abs() / t.max(f64::MIN_POSITIVE))
        };
        let of = |c: &RowComparison| (c.verdict, share(c));
        if of(&other) > of(&self) { other } else { self }
    }
}

/// The distance of two numbers in units in the last place. It is `u64::MAX` if their signs differ.
fn ulp_distance(a: f64, b: f64) -> u64 {
    if a == b {
        return 0;
    }
    if a.is_sign_negative() != b.is_sign_negative() {
        return u64::MAX;
    }
    a.to_bits().abs_diff(b.to_bits())
}

/// Compares row `i` of the stored table with row `j` of the recomputed table, column by column.
/// Columns that the stored table lacks are not compared. `dim` is the model's number of dimensions.
pub(super) fn compare_rows(
    work: &TrialWork,
    dim: usize,
    stored: &TextTable,
    i: usize,
    again: &TextTable,
    j: usize,
) -> RowComparison {
    let clock = |name: &str| name.contains("seconds") || name == "cost";
    // Intervals follow from a difference and its error, which are compared. Tables compute them
    // again.
    let derived =
        |name: &str| INTERVAL_COLUMNS.contains(&name) || EXPLANATION_COLUMNS.contains(&name);
    let mut worst = RowComparison::equal();
    for name in again
        .columns
        .iter()
        .filter(|name| !clock(name) && !derived(name))
    {
        let (Some(old), Some(new)) = (stored.cell(i, name), again.cell(j, name)) else {
            continue;
        };
        // Earlier versions estimated no error of fixed steps, and measured rounding by perturbed
        // states instead of float64. What one of the two did not measure is not compared.
        let is_unmeasured = match name.as_str() {
            "solver_error" | "float64" => old.is_empty(),
            "ahead" | "behind" => new.is_empty(),
            _ => false,
        };
        if old == new || is_unmeasured {
            continue;
        }
        let tolerance = drift_tolerance(work, dim, name, again, j);
        worst = worst.worse_of(match name.as_str() {
            "observables" => compare_observables(old, new, tolerance),
            _ => RowComparison::compare_cells(name, old, new, tolerance),
        });
    }
    worst
}

/// Compares cells of `observables`, which hold pairs `name=value`, value by value. `tolerance` is that
/// of a small value; a larger one adds its own roundings.
fn compare_observables(stored: &str, recomputed: &str, tolerance: f64) -> RowComparison {
    let pairs = |text: &str| -> Option<Vec<(String, String)>> {
        let pair = |pair: &str| {
            let (name, value) = pair.rsplit_once('=')?;
            Some((name.to_owned(), value.to_owned()))
        };
        text.split_whitespace().map(pair).collect()
    };
    let names = |pairs: &[(String, String)]| -> Vec<String> {
        pairs.iter().map(|(name, _)| name.clone()).collect()
    };
    match (pairs(stored), pairs(recomputed)) {
        (Some(old), Some(new)) if names(&old) == names(&new) => {
            let values = old.iter().zip(&new);
            values.fold(RowComparison::equal(), |worst, ((name, old), (_, new))| {
                let size = new.parse::<f64>().map_or(0.0, f64::abs);
                let column = format!("observables.{name}");
                let tolerance = tolerance + DRIFT_TOLERANCE * size;
                worst.worse_of(RowComparison::compare_cells(&column, old, new, tolerance))
            })
        }
        _ => RowComparison::compare_cells("observables", stored, recomputed, 0.0),
    }
}

/// Compares the number of stored rows with the number of recomputed rows, which differ.
pub(super) fn compare_row_counts(
    work: &TrialWork,
    stored: usize,
    recomputed: usize,
) -> RowComparison {
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

/// The largest absolute difference of a number that is drift, from the magnitudes behind it.
fn drift_tolerance(work: &TrialWork, dim: usize, column: &str, again: &TextTable, j: usize) -> f64 {
    let size = |name: &str| again.number(j, name).map_or(0.0, f64::abs);
    let chosen = work.tolerances();
    if ["evaluations", "jvps", "head_calls"].contains(&column) {
        return chosen.map_or(0.0, |_| STEP_COUNT_DRIFT * size(column));
    }
    // These numbers do not depend on a network, so they must be equal.
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

/// The magnitude behind a mean: its absolute value plus the standard deviation of the averaged
/// numbers, which is the standard error times √n.
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
    fn observables_are_compared_value_by_value() {
        let verdict = |a: &str, b: &str| compare_observables(a, b, 1e-4).verdict;
        assert_eq!(verdict("u=1 v=0.1", "u=1 v=0.1"), RowVerdict::Match);
        assert_eq!(verdict("u=1 v=0.1", "u=1.00001 v=0.1"), RowVerdict::Drift);
        assert_eq!(
            verdict("u=1000 v=0.1", "u=1000.01 v=0.1"),
            RowVerdict::Drift
        );
        assert_eq!(verdict("u=1 v=0.1", "u=1 v=0.2"), RowVerdict::Mismatch);
        assert_eq!(verdict("u=1 v=0.1", "u=1 w=0.1"), RowVerdict::Mismatch);
        assert_eq!(verdict("u=1 v=0.1", "u=1"), RowVerdict::Mismatch);
        let worst = compare_observables("u=1 v=0.1", "u=1.00001 v=0.2", 1e-4);
        assert_eq!(worst.column, "observables.v");
    }

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
        // Zero and negative zero are equal.
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
