//! From an entry under `calibration` to its trials.

use anyhow::{Result, anyhow, bail};

use super::builder::PlanBuilder;
use super::capabilities::{check_difference_step, max_samples, with_card_defaults};
use super::conditions::ModelSetting;
use super::{CalibrationDensity, CalibrationWork, TrialWork};
use crate::calibration::local_c2st::LocalC2st;
use crate::calibration::{CalibrationTest, ParameterBox};
use crate::config::CalibrationEntry;
use crate::num::shape::RequestedLayout;
use crate::solve::Solver;

impl PlanBuilder<'_> {
    /// Checks an entry under `calibration` and adds its trials.
    pub(super) fn add_calibration_entry(
        &mut self,
        key: &str,
        entry: &CalibrationEntry,
        setting: &ModelSetting,
    ) {
        let model = self.add_model(&entry.model, setting);
        let Some(model) = self.ok_or_fault(&format!("{key}.model"), model) else {
            return self.check_readable(&format!("{key}.data"), &entry.data);
        };
        let layout = entry.layout.as_ref().map(RequestedLayout::unconditional);
        let data = self.add_data(&entry.data, model, None, layout, None);
        let Some(data) = self.ok_or_fault(&format!("{key}.data"), data) else {
            return;
        };
        let lengths = self.check_conditions(model, data);
        self.ok_or_nested_fault(&format!("{key}.conditions"), lengths);
        if !self.config_file.has_fault_near(key)
            && !self.faults.iter().any(|f| f.key.starts_with(key))
        {
            let planned = self.plan_calibration(entry, model, data);
            self.ok_or_nested_fault(key, planned);
        }
    }

    /// Adds the trials of an entry whose model, data and conditions are right.
    ///
    /// # Errors
    /// Fails if the parameters, the numbers of observations or of draws, the sampler, the density or a
    /// test is at fault, or if an earlier entry has the same ranks. The message begins with the key
    /// below the entry's.
    fn plan_calibration(
        &mut self,
        entry: &CalibrationEntry,
        model: usize,
        data: usize,
    ) -> Result<()> {
        let (opened, parameters) = (&self.prepared.models[model], &self.prepared.data[data]);
        if opened.card.latent.is_some() {
            bail!("model: its draws are latents, not parameters; expected a card without `latent`");
        }
        if parameters.is_quantized(&opened.card) {
            bail!(
                "data: parameters are real numbers, but these are quantized by the card's `levels`"
            );
        }
        let available = parameters.len();
        let observations = entry.samples.unwrap_or(available);
        if observations > available {
            bail!(
                "samples: {observations}, but {} has only {available}",
                entry.data.display()
            );
        }
        let most = max_samples(opened.dim());
        if entry.draws > most {
            bail!("draws: {}, expected at most {most}", entry.draws);
        }
        let tests = planned_tests(entry)?;
        if tests.iter().any(|t| matches!(t, CalibrationTest::Tarp(_))) {
            let truths = parameters.first_rows(observations);
            if let Some(constant) = ParameterBox::of(truths.view()).constant_parameter() {
                bail!(
                    "tests: tarp divides distances by the spread of each parameter, but parameter \
                     {constant} is the same in all observations; expected parameters that vary, or \
                     other tests"
                );
            }
        }
        if tests.iter().any(|test| test.needs_classifiers()) {
            let observed = opened.conditions.varying_numbers(0).len();
            LocalC2st::check_sizes(opened.dim(), observed)
                .map_err(|e| anyhow!("tests: local-c2st: {e}"))?;
        }
        let config = &self.config_file.config;
        let solver = entry.solver.as_ref().or(config.solvers.first()).cloned();
        let density = entry.density.as_ref().map(|estimator| CalibrationDensity {
            estimator: with_card_defaults(opened, estimator.clone()),
            solver: solver.unwrap_or_else(|| {
                Solver::from_name("dopri5").expect("dopri5 is among the solvers")
            }),
        });
        if let Some(density) = &density {
            check_difference_step(opened, &density.estimator, parameters)?;
        }
        let work = |first: usize, count: usize| CalibrationWork {
            model,
            data,
            sampler: entry.sampler.clone(),
            draws: entry.draws,
            density: density.clone(),
            tests: tests.clone(),
            observations,
            first,
            count,
        };
        let whole = work(0, observations);
        whole.check(&self.prepared)?;
        self.check_new_ranks(&whole)?;
        let chunk = entry.observations_per_trial(config.chunk);
        for first in (0..observations).step_by(chunk) {
            self.add_trial(work(first, chunk.min(observations - first)))?;
        }
        Ok(())
    }

    /// Checks that no earlier entry has ranks of the same test on the same draws: observations would
    /// count twice.
    ///
    /// # Errors
    /// Fails if an earlier entry has them.
    fn check_new_ranks(&self, work: &CalibrationWork) -> Result<()> {
        let same_draws = |there: &&CalibrationWork| {
            (there.model, there.data, there.draws) == (work.model, work.data, work.draws)
                && there.sampler == work.sampler
        };
        let earlier = self
            .prepared
            .plan
            .trials
            .iter()
            .filter_map(|trial| match &trial.work {
                TrialWork::Calibration(there) => Some(&**there),
                _ => None,
            });
        for there in earlier.filter(same_draws) {
            let both = work.tests.iter().find(|test| {
                there.tests.contains(test)
                    && (!test.needs_density() || there.density == work.density)
            });
            if let Some(both) = both {
                bail!(
                    "tests: `{}` of the same draws is already in an earlier entry; list each once",
                    both.label()
                );
            }
        }
        Ok(())
    }
}

/// The tests of an entry, each once. By default these are all tests that it allows and that need no
/// classifiers.
///
/// # Errors
/// Fails if a test is listed twice.
fn planned_tests(entry: &CalibrationEntry) -> Result<Vec<CalibrationTest>> {
    let Some(tests) = &entry.tests else {
        let allowed = |test: &CalibrationTest| {
            !test.needs_classifiers() && (entry.density.is_some() || !test.needs_density())
        };
        return Ok(CalibrationTest::defaults()
            .into_iter()
            .filter(allowed)
            .collect());
    };
    for (i, test) in tests.iter().enumerate() {
        if tests[..i].contains(test) {
            return Err(anyhow!("tests.{i}: `{}` is there twice", test.label()));
        }
    }
    Ok(tests.clone())
}
