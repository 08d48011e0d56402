//! Ranks of true parameters, and what they say of a model's calibration.

use std::collections::BTreeMap;

use anyhow::{Result, anyhow};

use super::{CollectedRows, TabulateWork, TrialFiles};
use crate::calibration::{CalibrationTest, RankGroup};
use crate::num::key::RngKey;
use crate::plan::CalibrationWork;
use crate::rows::{CalibrationRow, RankRow};

/// The tests of a run's rows by their labels.
pub(super) type TestsByLabel = BTreeMap<String, CalibrationTest>;

impl TabulateWork for CalibrationWork {
    fn add_rows(&self, files: &TrialFiles, collected: &mut CollectedRows) -> Result<()> {
        let tests = self.tests.iter().map(|test| (test.label(), test.clone()));
        collected.calibration_tests.extend(tests);
        collected.tables.ranks.extend(files.rows::<RankRow>()?);
        Ok(())
    }
}

/// What ranks of one test have in common: model, dataset, sampler, estimator, solver and test, and the
/// number of draws.
type RankKey<'a> = ([&'a str; 6], usize);

fn rank_key(row: &RankRow) -> RankKey<'_> {
    let names = [
        &row.model,
        &row.dataset,
        &row.sampler,
        &row.estimator,
        &row.solver,
        &row.test,
    ];
    (names.map(String::as_str), row.draws)
}

/// Sorts ranks by what they have in common, then by parameter and observation.
pub(super) fn sort_ranks(ranks: &mut [RankRow]) {
    let order = |row: &RankRow| (row.parameter, row.sample);
    ranks.sort_by(|a, b| rank_key(a).cmp(&rank_key(b)).then(order(a).cmp(&order(b))));
}

/// The statistics of sorted ranks: the rows of each test on one model, dataset and sampler.
///
/// # Errors
/// Fails if a row of ranks is not one that this program writes.
pub(super) fn calibration_rows(
    ranks: &[RankRow],
    tests: &TestsByLabel,
    seed: u64,
) -> Result<Vec<CalibrationRow>> {
    let mut rows = Vec::new();
    for same in ranks.chunk_by(|a, b| rank_key(a) == rank_key(b)) {
        let first = &same[0];
        let Some(test) = tests.get(&first.test) else {
            continue;
        };
        let groups: Vec<RankGroup> = same
            .chunk_by(|a, b| a.parameter == b.parameter)
            .map(|rows| rank_group(rows).map_err(|e| anyhow!("ranks of {}: {e}", first.test)))
            .collect::<Result<_>>()?;
        let found = test.statistics(&groups, RngKey { seed });
        rows.extend(found.into_iter().map(|found| CalibrationRow {
            model: first.model.clone(),
            dataset: first.dataset.clone(),
            sampler: first.sampler.clone(),
            estimator: first.estimator.clone(),
            solver: first.solver.clone(),
            test: first.test.clone(),
            parameter: found.parameter,
            statistic: found.statistic.to_owned(),
            level: found.level,
            n: found.n,
            failed: found.failed,
            draws: first.draws,
            value: found.value,
            stderr: found.stderr,
            low: found.interval.map(|ends| ends[0]),
            high: found.interval.map(|ends| ends[1]),
            p: found.p,
            guidance: String::new(),
        }));
    }
    Ok(rows)
}

/// The ranks of one parameter, or of all together.
fn rank_group(rows: &[RankRow]) -> Result<RankGroup, String> {
    let ranked = || rows.iter().filter(|row| row.rank.is_some());
    let ranks: Vec<usize> = ranked().filter_map(|row| row.rank).collect();
    let failed = rows.len() - ranks.len();
    let values = ranked().filter_map(|row| row.value).collect();
    RankGroup::new(rows[0].parameter, ranks, rows[0].draws, failed, values)
}
