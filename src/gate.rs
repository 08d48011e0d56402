//! Compares a run with published numbers, with one equivalence test per claim.
//!
//! A claim passes if the whole confidence interval of the measured value lies inside the claimed
//! interval, for example the claimed value ± its tolerance. It fails if the two intervals do not
//! overlap. Otherwise it is inconclusive, and more data or more probes could decide it. A claim
//! that passes is thus shown to hold, and not merely not refuted (two one-sided tests; Schuirmann
//! 1987).

use std::collections::BTreeSet;

use anyhow::{Result, anyhow, bail};

use crate::num::stats;
use crate::rows::{ClaimResult, Tables, TextTable};

pub(crate) mod claims;

use claims::{Claim, Claims};

/// The outcome of a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ClaimVerdict {
    /// The confidence interval lies inside the claimed interval.
    Pass,
    /// The confidence interval lies outside the claimed interval, or the run has no number.
    Fail,
    /// The confidence interval lies partly inside the claimed interval.
    Inconclusive,
}

impl ClaimVerdict {
    /// The word for the verdict in tables.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            ClaimVerdict::Pass => "pass",
            ClaimVerdict::Fail => "fail",
            ClaimVerdict::Inconclusive => "inconclusive",
        }
    }
}

/// Compares tables with claims, in the order of the claims.
///
/// # Errors
/// Fails if a claim names a table, a column or a row that does not exist. The message names the
/// claim's key.
pub(crate) fn check_claims(
    tables: &Tables,
    claims: &Claims,
) -> Result<Vec<(ClaimVerdict, ClaimResult)>> {
    let tables = tables
        .files()?
        .into_iter()
        .filter(|(_, bytes)| !bytes.is_empty());
    let tables: Vec<(&str, ClaimTable)> = tables
        .map(|(name, bytes)| Ok((name, ClaimTable(TextTable::read(&bytes)?))))
        .collect::<Result<_>>()?;
    let each = claims.claims.iter().enumerate();
    each.map(|(i, claim)| {
        let name = claim.name.clone().unwrap_or_else(|| format!("claims.{i}"));
        check_claim(
            &tables,
            claim,
            name,
            claim.confidence.unwrap_or(claims.confidence),
        )
        .map_err(|e| anyhow!("claims.{i}.{e}"))
    })
    .collect()
}

/// A table that claims speak of.
struct ClaimTable(TextTable);

impl ClaimTable {
    /// The index of the column `name`.
    ///
    /// # Errors
    /// Fails if the table has no such column. The message begins with `key`.
    fn column_index(&self, table: &str, key: &str, name: &str) -> Result<usize> {
        self.0.column_index(name).ok_or_else(|| {
            anyhow!(
                "{key}: no column `{name}` in {table}; its columns are {}",
                self.0.columns.join(", ")
            )
        })
    }

    /// The only row that matches the claim's `where`.
    ///
    /// # Errors
    /// Fails if no row or several rows match.
    fn matching_row(&self, claim: &Claim) -> Result<&[String]> {
        let mut matching: Vec<&[String]> = self.0.rows.iter().map(|(_, row)| &row[..]).collect();
        for (name, wanted) in &claim.row_filter {
            let column = self.column_index(&claim.table, "where", name)?;
            let still_matching: Vec<_> = matching
                .iter()
                .filter(|row| wanted.matches(&row[column]))
                .copied()
                .collect();
            if still_matching.is_empty() {
                let there = if matching.len() < self.0.rows.len() {
                    " among the rows that match the keys before it"
                } else {
                    ""
                };
                let values = list_distinct_values(matching.iter().map(|row| row[column].as_str()));
                bail!(
                    "where.{name}: no row of {} has `{wanted}`{there}; the values are {values}",
                    claim.table
                );
            }
            matching = still_matching;
        }
        match &matching[..] {
            [row] => Ok(row),
            several => {
                let differs = |column: &usize| {
                    several
                        .iter()
                        .any(|row| row[*column] != several[0][*column])
                };
                let words = |column: &usize| {
                    several
                        .iter()
                        .all(|row| row[*column].parse::<f64>().is_err())
                };
                let columns = || (0..self.0.columns.len()).filter(differs);
                let named: Vec<usize> = match columns().any(|c| words(&c)) {
                    true => columns().filter(words).collect(),
                    false => columns().collect(),
                };
                let by = |column: &usize| {
                    format!(
                        "{} ({})",
                        self.0.columns[*column],
                        list_distinct_values(several.iter().map(|row| row[*column].as_str()))
                    )
                };
                let by: Vec<String> = named.iter().take(4).map(by).collect();
                bail!(
                    "where: {} rows of {} match; expected one. They differ in {}",
                    several.len(),
                    claim.table,
                    by.join("; ")
                )
            }
        }
    }

    /// The number of samples behind the claim's value.
    ///
    /// A column such as `bias_n` gives the number for `bias`, and `pairs` that for `difference`.
    /// Without such a column, the smallest number of samples in the row is used.
    fn sample_count(&self, claim: &Claim, row: &[String]) -> Option<usize> {
        let count = |i: usize| row[i].parse::<usize>().ok();
        let columns = || self.0.columns.iter().enumerate();
        let counts_samples = |name: &str| {
            let of_pairs = name == "pairs" && claim.column == "difference";
            let own = name.strip_suffix("_n");
            of_pairs || own.is_some_and(|stem| claim.column.starts_with(stem))
        };
        let own = columns()
            .filter(|(_, name)| counts_samples(name))
            .max_by_key(|(_, name)| name.len());
        if let Some((i, _)) = own {
            return count(i);
        }
        let all = columns().filter(|(_, name)| {
            ["n", "n_other", "n_generated", "n_reference"].contains(&name.as_str())
        });
        all.filter_map(|(i, _)| count(i)).min()
    }

    /// The column with the standard error of the claim's column. `None` if there is no such column,
    /// or if the claim says `none`.
    ///
    /// # Errors
    /// Fails if the claim names a column that does not exist.
    fn stderr_column(&self, claim: &Claim) -> Result<Option<usize>> {
        if let Some(named) = &claim.stderr {
            return (named != "none")
                .then(|| self.column_index(&claim.table, "stderr", named))
                .transpose();
        }
        // A column `stderr` has the unit of these columns, and another unit than all other columns.
        let plain = ["value", "log_likelihood", "mean"]
            .contains(&claim.column.as_str())
            .then_some("stderr");
        let own = format!("{}_stderr", claim.column);
        Ok(self
            .0
            .columns
            .iter()
            .position(|c| *c == own || Some(c.as_str()) == plain))
    }
}

/// Up to eight distinct values, and the number of the others.
fn list_distinct_values<'a>(values: impl Iterator<Item = &'a str>) -> String {
    const SHOWN: usize = 8;
    let all: BTreeSet<&str> = values.collect();
    let shown: Vec<&str> = all.iter().take(SHOWN).copied().collect();
    let more = if all.len() > SHOWN {
        format!(" and {} more", all.len() - SHOWN)
    } else {
        String::new()
    };
    format!("{}{more}", shown.join(", "))
}

/// Compares one claim with the tables. `confidence` is the level of the confidence interval.
///
/// # Errors
/// Fails if the table, column or row does not exist, or if the cell contains a text. The message
/// begins with the key within the claim.
fn check_claim(
    tables: &[(&str, ClaimTable)],
    claim: &Claim,
    name: String,
    confidence: f64,
) -> Result<(ClaimVerdict, ClaimResult)> {
    let Some((_, sheet)) = tables.iter().find(|(table, _)| *table == claim.table) else {
        let known: Vec<&str> = tables.iter().map(|(table, _)| *table).collect();
        let known = if known.is_empty() {
            "none".to_owned()
        } else {
            known.join(", ")
        };
        bail!(
            "table: this run has no rows of `{}`; its tables with rows: {known}",
            claim.table
        );
    };
    let (column, stderr) = (
        sheet.column_index(&claim.table, "column", &claim.column)?,
        sheet.stderr_column(claim)?,
    );
    let row = sheet.matching_row(claim)?;
    let number = |key: &str, column: usize| -> Result<Option<f64>> {
        let text = &row[column];
        let value = text.parse::<f64>().ok().filter(|v| v.is_finite());
        if value.is_none() && !text.is_empty() && text.parse::<f64>().is_err() {
            bail!(
                "{key}: `{}` holds `{text}`, which is not a number",
                sheet.0.columns[column]
            );
        }
        Ok(value)
    };
    let measured = number("column", column)?;
    let stderr = stderr
        .map(|column| number("stderr", column))
        .transpose()?
        .flatten();
    let cell = |name: &str| {
        sheet
            .0
            .columns
            .iter()
            .position(|c| c == name)
            .and_then(|c| row[c].parse::<usize>().ok())
    };
    let [low, high] = claim.claimed_interval();
    let width = stderr.map_or(0.0, |stderr| {
        stats::confidence_half_width(stderr, sheet.sample_count(claim, row), confidence)
    });
    let interval = measured.map(|m| [m - width, m + width]);
    let verdict = interval.map_or(ClaimVerdict::Fail, |i| interval_verdict(i, [low, high]));
    let mut notes = Vec::new();
    if measured.is_none() {
        notes.push("the run has no number for this claim".to_owned());
    }
    if let Some(failed) = cell("failed").filter(|n| *n > 0) {
        notes.push(format!("{failed} failed samples are excluded"));
    }
    let finite = |v: f64| Some(v).filter(|v| v.is_finite());
    let result = ClaimResult {
        verdict: verdict.as_str(),
        claim: name,
        table: claim.table.clone(),
        column: claim.column.clone(),
        measured,
        stderr,
        low: interval.map(|i| i[0]),
        high: interval.map(|i| i[1]),
        claimed_low: finite(low),
        claimed_high: finite(high),
        confidence,
        decided_by: if stderr.is_some() {
            "interval"
        } else {
            "value"
        },
        note: notes.join("; "),
        source: sanitize_csv_text(claim.source.as_deref().unwrap_or_default()),
    };
    Ok((verdict, result))
}

/// The verdict for a confidence interval and a claimed interval. Both include their ends.
fn interval_verdict([low, high]: [f64; 2], claimed: [f64; 2]) -> ClaimVerdict {
    if low >= claimed[0] && high <= claimed[1] {
        ClaimVerdict::Pass
    } else if high < claimed[0] || low > claimed[1] {
        ClaimVerdict::Fail
    } else {
        ClaimVerdict::Inconclusive
    }
}

/// A user's text for a CSV cell: on one line, and without leading characters that make it a formula
/// in a spreadsheet.
fn sanitize_csv_text(text: &str) -> String {
    let line: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    line.trim_start_matches(['=', '+', '-', '@', ' '])
        .trim_end()
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::SummaryRow;

    fn tables() -> Tables {
        let row = |estimator: &str, nats, stderr| SummaryRow {
            model: "m".into(),
            estimator: estimator.into(),
            n: 101,
            nats: Some(nats),
            nats_stderr: stderr,
            correlation: (estimator != "exact").then_some(0.98),
            ..SummaryRow::default()
        };
        let summary = vec![
            row("exact", -10.0, Some(0.5)),
            row("closed-form", -10.5, None),
        ];
        Tables {
            summary,
            ..Tables::default()
        }
    }

    fn held(claim: &str) -> Result<(ClaimVerdict, ClaimResult)> {
        let text = format!("claims: [{{table: summary, {claim}}}]");
        let claims: Claims = crate::yaml::from_yaml_str(&text)?;
        check_claims(&tables(), &claims).map(|mut found| found.remove(0))
    }

    /// Student's t with 100 degrees of freedom is 1.98397 at 95 %, so the interval is −10 ±
    /// 0.991986.
    #[test]
    fn claim_passes_only_with_its_whole_interval() {
        let verdict = |claim: &str| {
            held(&format!(
                "where: {{estimator: exact}}, column: nats, {claim}"
            ))
            .expect(claim)
            .0
        };
        for (claim, expected) in [
            ("value: -10, tolerance: 0.9921", ClaimVerdict::Pass),
            ("value: -10, tolerance: 0.9918", ClaimVerdict::Inconclusive),
            ("value: -10, tolerance: 0", ClaimVerdict::Inconclusive),
            ("value: -12, tolerance: 1", ClaimVerdict::Fail),
            ("value: -12, tolerance: 1.01", ClaimVerdict::Inconclusive),
            ("value: -12, tolerance: 1.008", ClaimVerdict::Fail),
            ("value: 10, tolerance: 1", ClaimVerdict::Fail),
            ("at-least: -10.9921", ClaimVerdict::Pass),
            ("at-least: -10.9918", ClaimVerdict::Inconclusive),
            ("at-least: -9.0079", ClaimVerdict::Fail),
            ("at-least: -9.0079, margin: 2", ClaimVerdict::Pass),
            ("at-most: -9.0079", ClaimVerdict::Pass),
            ("at-most: -9.0082", ClaimVerdict::Inconclusive),
            ("at-most: -11", ClaimVerdict::Fail),
            ("at-least: -11, at-most: -9", ClaimVerdict::Pass),
            // At 99 % the interval is wider: 2.6259 standard errors on either side.
            ("value: -10, tolerance: 1.3", ClaimVerdict::Pass),
            (
                "value: -10, tolerance: 1.3, confidence: 0.99",
                ClaimVerdict::Inconclusive,
            ),
            (
                "value: -10, tolerance: 1.3131, confidence: 0.99",
                ClaimVerdict::Pass,
            ),
            // Without a standard error the value alone decides.
            ("value: -10, tolerance: 0, stderr: none", ClaimVerdict::Pass),
            (
                "value: -10.001, tolerance: 1.0e-4, stderr: none",
                ClaimVerdict::Fail,
            ),
        ] {
            assert_eq!(verdict(claim), expected, "{claim}");
        }
        let alone =
            held("where: {estimator: closed-form}, column: nats, at-least: -10.5").expect("a row");
        assert_eq!((alone.0, alone.1.decided_by), (ClaimVerdict::Pass, "value"));
        let none =
            held("where: {estimator: exact}, column: correlation, at-least: 0.9").expect("a row");
        assert_eq!((none.0, none.1.measured), (ClaimVerdict::Fail, None));
    }

    #[test]
    fn claim_must_match_exactly_one_row() {
        let refused = |claim: &str| {
            held(&format!("{claim}, at-least: 0"))
                .expect_err(claim)
                .to_string()
        };
        for (claim, words) in [
            (
                "column: nats",
                &[
                    "claims.0.where: 2 rows of summary",
                    "estimator (closed-form, exact)",
                ][..],
            ),
            (
                "where: {estimator: exakt}, column: nats",
                &["where.estimator", "`exakt`", "closed-form, exact"],
            ),
            (
                "where: {estimater: exact}, column: nats",
                &["no column `estimater`", "estimator"],
            ),
            (
                "where: {estimator: exact, n: 5}, column: nats",
                &["where.n", "`5`", "101"],
            ),
            (
                "where: {estimator: exact}, column: bpd",
                &["claims.0.column", "no column `bpd`", "bits_per_dim"],
            ),
            (
                "where: {estimator: exact}, column: model",
                &["`model` holds `m`", "not a number"],
            ),
            (
                "where: {estimator: exact}, column: nats, stderr: error",
                &["claims.0.stderr", "no column `error`"],
            ),
        ] {
            let message = refused(claim);
            assert!(
                words.iter().all(|word| message.contains(word)),
                "{claim}: {message}"
            );
        }
        let numbers = held("where: {estimator: exact, n: 101.0}, column: nats, at-least: -20")
            .expect("equal numbers");
        assert_eq!(numbers.0, ClaimVerdict::Pass);
        let claims: Claims =
            crate::yaml::from_yaml_str("claims: [{table: metrics, column: value, at-least: 0}]")
                .expect("right");
        let message = check_claims(&tables(), &claims)
            .expect_err("no metrics")
            .to_string();
        assert!(
            message.contains("claims.0.table") && message.contains("summary"),
            "{message}"
        );
    }

    #[test]
    fn sanitized_text_is_no_formula() {
        assert_eq!(sanitize_csv_text("=HYPERLINK(1)\nx"), "HYPERLINK(1) x");
        assert_eq!(sanitize_csv_text("README, table 2"), "README, table 2");
    }
}
