//! What the kinds of work that follow paths share.

use super::Executor;
use crate::likelihood::LikelihoodTask;
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
}
