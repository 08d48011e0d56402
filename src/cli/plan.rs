//! `flowgauge plan CONFIG`: prints the trials of a config.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use super::{Exit, RuntimeArgs};
use crate::config::ConfigFile;

/// The arguments of `flowgauge plan`.
#[derive(Debug, Args)]
pub(super) struct PlanArgs {
    /// The config file (YAML)
    config: PathBuf,
    /// Override the config's seed
    #[arg(long)]
    seed: Option<u64>,
    /// Change a value of the config, such as `likelihood.0.samples=16`; may be repeated
    #[arg(long, value_name = "KEY.PATH=VALUE")]
    set: Vec<String>,
    // They are accepted so that the command line of a `run` can be planned unchanged. None of them
    // changes a plan, and networks run only for `steps: auto`.
    #[command(flatten)]
    runtime_args: RuntimeArgs,
}

impl PlanArgs {
    /// Prints each trial with its cost.
    ///
    /// # Errors
    /// Fails if the config, a card or the data are wrong.
    pub(super) fn execute(self) -> Result<Exit> {
        let config_file = ConfigFile::read(&self.config, &self.set)?;
        let prepared = self.runtime_args.prepare(&config_file, self.seed, None)?;
        if !self.runtime_args.quiet {
            prepared.print_notes();
        }
        let plan = &prepared.plan;
        for model in &plan.models {
            outln!("{}: {}", model.name, model.truncation);
            let given = model
                .constants
                .iter()
                .chain(&model.times)
                .chain(&model.kinks);
            given.for_each(|(input, value)| outln!("{}: {input}: {value}", model.name));
        }
        prepared
            .steps
            .iter()
            .for_each(|found| outln!("{}", found.describe()));
        outln!(
            "{:>12}  {:>14}  {:>14}  work",
            "trial",
            "evaluations",
            "products"
        );
        let (mut evaluations, mut products, mut estimated) = (0, 0, false);
        for trial in &plan.trials {
            let cost = trial.work.cost(&prepared);
            let mark = if cost.guessed { "~" } else { "" };
            outln!(
                "{:>12}  {:>14}  {:>14}  {}",
                trial.id,
                format!("{mark}{}", cost.evaluations),
                format!("{mark}{}", cost.products),
                trial.work.describe(plan)
            );
            evaluations += cost.evaluations;
            products += cost.products;
            estimated |= cost.guessed;
        }
        outln!(
            "{} trials, {evaluations} evaluations and {products} Jacobian products or head calls",
            plan.trials.len()
        );
        prepared.skipped.iter().for_each(|what| outln!("{what}"));
        if estimated {
            outln!(
                "~ an estimate: adaptive solvers choose their own steps; \
                 for SteinDiff an upper bound, since UniPC predicts once more at some steps only"
            );
        }
        Ok(Exit::Success)
    }
}
