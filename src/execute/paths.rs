//! What the kinds of work that follow paths share.

use anyhow::Result;

use super::Executor;
use crate::likelihood::{LikelihoodResult, LikelihoodTask, NodeDivergence};
use crate::num::key::SampleId;
use crate::plan::LikelihoodWork;

impl Executor<'_> {
    /// What the paths of a likelihood trial are followed with.
    pub(super) fn likelihood_task<'t>(&'t self, w: &'t LikelihoodWork) -> LikelihoodTask<'t> {
        let model = &self.prepared.models[w.model];
        LikelihoodTask {
            curve: &model.curve,
            prior: model.prior,
            solver: &w.solver,
            estimators: &w.estimators,
            key: self.key(),
        }
    }

    /// The results of every sample under every estimator, and with `record` the divergences at all
    /// nodes. A profile has one draw of dequantization noise, so that its nodes belong to one path.
    pub(super) fn evaluate_likelihoods(
        &self,
        w: &LikelihoodWork,
        samples: &[SampleId],
        record: bool,
    ) -> Result<(Vec<LikelihoodResult>, Vec<NodeDivergence>)> {
        let (model, data) = (&self.prepared.models[w.model], &self.prepared.data[w.data]);
        let states = |batch: &[SampleId]| data.states(&model.card, self.key(), batch);
        let dequantization = w.dequantization.as_ref().filter(|_| !record);
        self.pools[w.model].dequantized_log_likelihoods(
            &self.likelihood_task(w),
            dequantization,
            samples,
            record,
            states,
        )
    }
}
