//! `flowgauge plan CONFIG`

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use super::Exit;
use crate::config::Written;
use crate::plan;

#[derive(Debug, Args)]
pub struct Plan {
    /// The config to plan
    config: PathBuf,
    /// Overrides the config's seed
    #[arg(long)]
    seed: Option<u64>,
    /// Changes the config: `likelihood.0.samples=16`
    #[arg(long, value_name = "KEY.PATH=VALUE")]
    set: Vec<String>,
}

impl Plan {
    pub fn execute(self) -> Result<Exit> {
        let written = Written::read(&self.config, &self.set)?;
        let plan = plan::prepare(&written, self.seed)?.plan;
        println!("{:>12}  {:>14}  {:>14}  work", "trial", "evaluations", "products");
        let (mut evaluations, mut products, mut guessed) = (0, 0, false);
        for trial in &plan.trials {
            let cost = trial.work.cost(&plan);
            let mark = if cost.guessed { "~" } else { "" };
            println!(
                "{:>12}  {:>14}  {:>14}  {}",
                trial.id,
                format!("{mark}{}", cost.evaluations),
                format!("{mark}{}", cost.products),
                trial.work.describe(&plan)
            );
            evaluations += cost.evaluations;
            products += cost.products;
            guessed |= cost.guessed;
        }
        println!("{} trials, {evaluations} evaluations and {products} Jacobian products or head calls", plan.trials.len());
        if guessed {
            println!("~ a guess: adaptive solvers choose their steps, and a schedule's steps depend on its spacing");
        }
        Ok(Exit::Well)
    }
}
