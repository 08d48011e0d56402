//! `flowgauge plan CONFIG`

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use super::{Exit, RuntimeArgs};
use crate::config::ConfigFile;

#[derive(Debug, Args)]
pub struct PlanArgs {
    /// The config to plan
    config: PathBuf,
    /// Overrides the config's seed
    #[arg(long)]
    seed: Option<u64>,
    /// Changes the config: `likelihood.0.samples=16`
    #[arg(long, value_name = "KEY.PATH=VALUE")]
    set: Vec<String>,
    /// Taken so that a `run` command line can be planned as it stands; none of it changes a plan, and networks run for
    /// `steps: auto` alone
    #[command(flatten)]
    runtime_args: RuntimeArgs,
}

impl PlanArgs {
    pub fn execute(self) -> Result<Exit> {
        let written = ConfigFile::read(&self.config, &self.set)?;
        let prepared = self.runtime_args.prepare(&written, self.seed, None)?;
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
        let (mut evaluations, mut products, mut guessed) = (0, 0, false);
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
            guessed |= cost.guessed;
        }
        outln!(
            "{} trials, {evaluations} evaluations and {products} Jacobian products or head calls",
            plan.trials.len()
        );
        prepared.skipped.iter().for_each(|what| outln!("{what}"));
        if guessed {
            outln!(
                "~ a guess: adaptive solvers choose their steps, and SteinDiff where UniPC predicts once more"
            );
        }
        Ok(Exit::Success)
    }
}
