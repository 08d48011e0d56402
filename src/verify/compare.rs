//! Two readings of one row: the same, apart by rounding, or another number.
//!
//! - **match**: the same text, or numbers within [`ULPS`] units in the last place.
//! - **drift**: within 2⁻¹⁵ of the sum of the magnitudes that the number is made of (256 roundings of float32, in
//!   which networks run), and where a solver chose its steps, within one of its tolerances more, since a step that
//!   is only just accepted on one machine is refused on another. What another processor, runtime or provider does,
//!   and now and then another batch, since the runtime rounds a matrix product by its size. Between ONNX Runtime
//!   1.20 and 1.31 the largest difference was a third of this. The nodes of a profile lie where
//!   a solver chose: they drift by [`ELSEWHERE`] of the largest.
//! - **mismatch**: anything else.
//!
//! What the clock measured is not compared.

use crate::plan::Work;

/// How two readings of one row stand to each other, the worse the greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    Match,
    Drift,
    Mismatch,
}

impl Verdict {
    pub fn as_str(self) -> &'static str {
        match self {
            Verdict::Match => "match",
            Verdict::Drift => "drift",
            Verdict::Mismatch => "mismatch",
        }
    }
}

/// Units in the last place of a double that still are a match: sums in another order inside one library.
const ULPS: u64 = 4;

/// Of the magnitudes behind a number, what roundings of networks may move: 256 · 2⁻²³.
pub const DRIFT: f64 = 1.0 / (1 << 15) as f64;

/// Solvers that choose their steps may take other ones: this share of the evaluations is drift.
const OTHER_STEPS: f64 = 0.25;

/// Nodes that a solver chose lie elsewhere where its error estimates were rounded otherwise: this share of the
/// largest in their column is drift.
const ELSEWHERE: f64 = 0.01;

/// The ends of a 95 % interval.
pub const INTERVAL: [&str; 2] = ["low", "high"];

/// A table as text, with the line of every row.
pub struct Table {
    pub columns: Vec<String>,
    pub rows: Vec<(u64, Vec<String>)>,
}

impl Table {
    /// # Errors
    /// Where the bytes are no table.
    pub fn read(bytes: &[u8]) -> Result<Table, String> {
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
        Ok(Table { columns, rows })
    }

    /// The table with those of its columns that pass.
    pub fn with_columns(&self, pass: impl Fn(&str) -> bool) -> Table {
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
        Table {
            columns: cells(&self.columns),
            rows,
        }
    }

    pub fn column(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|c| c == name)
    }

    pub fn cell(&self, row: usize, name: &str) -> Option<&str> {
        Some(self.rows.get(row)?.1.get(self.column(name)?)?.as_str())
    }

    pub fn number(&self, row: usize, name: &str) -> Option<f64> {
        self.cell(row, name)?
            .parse()
            .ok()
            .filter(|v: &f64| v.is_finite())
    }

    /// The largest magnitude of a column.
    fn largest(&self, name: &str) -> f64 {
        (0..self.rows.len())
            .filter_map(|i| self.number(i, name))
            .fold(0.0, |a, b| a.max(b.abs()))
    }
}

/// One comparison, the worst of a row.
#[derive(Debug, Clone, PartialEq)]
pub struct Compared {
    pub verdict: Verdict,
    pub column: String,
    pub stored: String,
    pub recomputed: String,
    pub difference: Option<f64>,
    pub tolerance: Option<f64>,
}

impl Compared {
    pub fn equal() -> Compared {
        let none = String::new;
        let (column, stored, recomputed) = (none(), none(), none());
        Compared {
            verdict: Verdict::Match,
            column,
            stored,
            recomputed,
            difference: None,
            tolerance: None,
        }
    }

    /// Two texts; numbers where both are.
    pub fn texts(column: &str, stored: &str, recomputed: &str, tolerance: f64) -> Compared {
        let named = |verdict, difference, tolerance| Compared {
            verdict,
            column: column.to_owned(),
            stored: stored.to_owned(),
            recomputed: recomputed.to_owned(),
            difference,
            tolerance,
        };
        if stored == recomputed {
            return Compared::equal();
        }
        let number = |text: &str| text.parse::<f64>().ok().filter(|v| v.is_finite());
        let (Some(a), Some(b)) = (number(stored), number(recomputed)) else {
            return named(Verdict::Mismatch, None, None);
        };
        if ulps(a, b) <= ULPS {
            return Compared::equal();
        }
        let verdict = if (a - b).abs() <= tolerance {
            Verdict::Drift
        } else {
            Verdict::Mismatch
        };
        named(verdict, Some(a - b), Some(tolerance))
    }

    /// The worse of two: by the verdict, then by how far the difference reaches towards its tolerance.
    pub fn worse(self, other: Compared) -> Compared {
        let share = |c: &Compared| {
            c.difference
                .zip(c.tolerance)
                .map_or(0.0, |(d, t)| d.abs() / t.max(f64::MIN_POSITIVE))
        };
        let of = |c: &Compared| (c.verdict, share(c));
        if of(&other) > of(&self) { other } else { self }
    }
}

/// Doubles between two of one sign.
fn ulps(a: f64, b: f64) -> u64 {
    if a == b {
        return 0;
    }
    if a.is_sign_negative() != b.is_sign_negative() {
        return u64::MAX;
    }
    a.to_bits().abs_diff(b.to_bits())
}

/// Holds row `i` of what was stored against row `j` of what was recomputed, column by column.
pub fn rows(
    work: &Work,
    dim: usize,
    stored: &Table,
    i: usize,
    again: &Table,
    j: usize,
) -> Compared {
    let clock = |name: &str| name.contains("seconds") || name == "cost";
    // Intervals follow from a difference and its error, and tables make them anew.
    let derived = |name: &str| INTERVAL.contains(&name);
    let mut worst = Compared::equal();
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
            worst = worst.worse(Compared::texts(
                name,
                old,
                new,
                tolerance(work, dim, name, again, j),
            ));
        }
    }
    worst
}

/// Two numbers of rows that should be one.
pub fn counts(work: &Work, stored: usize, recomputed: usize) -> Compared {
    let other_steps = matches!(work, Work::Profile(_)) && work.tolerances().is_some();
    let few = stored.abs_diff(recomputed) as f64 <= OTHER_STEPS * recomputed as f64;
    Compared {
        verdict: if other_steps && few {
            Verdict::Drift
        } else {
            Verdict::Mismatch
        },
        stored: format!("{stored} rows"),
        recomputed: format!("{recomputed} rows"),
        ..Compared::equal()
    }
}

/// How far a number may drift, from what it is made of.
fn tolerance(work: &Work, dim: usize, column: &str, again: &Table, j: usize) -> f64 {
    let size = |name: &str| again.number(j, name).map_or(0.0, f64::abs);
    let chosen = work.tolerances();
    if ["evaluations", "jvps", "head_calls"].contains(&column) {
        return chosen.map_or(0.0, |_| OTHER_STEPS * size(column));
    }
    let dim = dim as f64;
    let scale = match (work, column) {
        // Nothing here is made by a network.
        (_, "sample" | "step" | "steps" | "population" | "n" | "draws") => return 0.0,
        (Work::Likelihood(_), _) => {
            let nats = size("prior_log_density") + size("divergence_integral");
            match column {
                "nats_per_dim" => nats / dim,
                "bits_per_dim" => nats / (dim * std::f64::consts::LN_2),
                _ => nats,
            }
        }
        // A prior log-density and a divergence integral are some nats per dimension each.
        (Work::Budget(_) | Work::Density { .. }, _) => size(column) + 10.0 * dim,
        (Work::Profile(_), _) if chosen.is_some() => return ELSEWHERE * again.largest(column),
        (Work::Profile(_), _) => again.largest(column),
        _ => statistic(column, &size),
    };
    let [rtol, atol] = chosen.unwrap_or_default();
    (DRIFT + rtol) * scale + atol
}

/// The magnitude behind a mean: itself, and the spread of what was averaged.
fn statistic(column: &str, size: &dyn Fn(&str) -> f64) -> f64 {
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
    fn a_number_matches_drifts_or_is_another() {
        let verdict = |a: &str, b: &str| Compared::texts("c", a, b, 1e-3).verdict;
        assert_eq!(verdict("1.5", "1.5"), Verdict::Match);
        assert_eq!(verdict("0.1", "0.10000000000000002"), Verdict::Match);
        assert_eq!(verdict("0.1", "0.1000000001"), Verdict::Drift);
        assert_eq!(verdict("0.1", "0.102"), Verdict::Mismatch);
        assert_eq!(verdict("0.1", "-0.1"), Verdict::Mismatch);
        for (a, b) in [
            ("", "0.1"),
            ("0.1", ""),
            ("ok", "non-finite"),
            ("NaN", "0.1"),
            ("inf", "1"),
            ("a", "b"),
        ] {
            assert_eq!(verdict(a, b), Verdict::Mismatch, "{a} {b}");
        }
        // The sign of nothing is nothing.
        assert_eq!(verdict("0", "-0"), Verdict::Match);
    }

    #[test]
    fn the_worst_column_speaks_for_its_row() {
        let drift = Compared::texts("a", "1", "1.0001", 1e-3);
        let more = Compared::texts("b", "1", "1.0009", 1e-3);
        let other = Compared::texts("c", "ok", "non-finite", 0.0);
        assert_eq!(Compared::equal().worse(drift.clone()), drift);
        assert_eq!(drift.clone().worse(more.clone()), more);
        assert_eq!(more.clone().worse(drift), more);
        assert_eq!(other.clone().worse(more), other);
    }
}
