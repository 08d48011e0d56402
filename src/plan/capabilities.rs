//! Checks whether a model supports an estimator, a sampler or initial states, according to its
//! card.

use anyhow::{Result, anyhow, bail};

use crate::data::{Dataset, LikelihoodBound};
use crate::divergence::{DiscreteBound, DivergenceEstimator, FiniteDifference, ReverseVariance};
use crate::flow::flow_map::{FlowMapStepRule, MapVolume};
use crate::flow::path::ProbabilityPath;
use crate::graph::ElemType;
use crate::lattice::LatticePolicy;
use crate::model::loaded::Model;
use crate::num::Batch;
use crate::rows::BoundKind;
use crate::sample::Sampler;
use crate::trace::Estimator;

/// Checks that the model supports an estimator.
///
/// # Errors
/// Fails if it does not. The message names the card and what it lacks.
pub fn check_estimator_supported(model: &Model, estimator: &DivergenceEstimator) -> Result<()> {
    estimator.check(model.dim()).map_err(|e| anyhow!(e))?;
    let unknown = |head: &&str| !model.card.divergence_heads.contains_key(*head);
    match (&model.card.one_call, estimator) {
        (Some(_), DivergenceEstimator::OneCall(_)) if model.guidance.is_some() => {
            return model
                .check_has_velocity()
                .map_err(|e| anyhow!("{e}; there is nothing to guide, expected no `guidance`"));
        }
        (Some(_), DivergenceEstimator::OneCall(_)) => return Ok(()),
        (Some(_), _) => {
            return model
                .check_has_velocity()
                .map_err(|e| anyhow!("{e}; expected `one-call`, not `{}`", estimator.label()));
        }
        (None, DivergenceEstimator::OneCall(_)) => bail!(
            "{}: `one-call` needs a card of `kind: flow` or `kind: density`",
            model.path.display()
        ),
        (None, _) => {}
    }
    match estimator {
        DivergenceEstimator::DiscreteBound(_) | DivergenceEstimator::FiniteDifference(_)
            if model.prior.centred.is_some() =>
        {
            Err(anyhow!(
                "{}: `{}` is not defined on the subspace of `prior.centred`; expected `exact`, \
                 `hutchinson` or `nelbo`",
                model.path.display(),
                estimator.label()
            ))
        }
        DivergenceEstimator::FlowMap(_)
        | DivergenceEstimator::ClosedForm(_)
        | DivergenceEstimator::ContinuousBound(_)
        | DivergenceEstimator::DiscreteBound(_)
            if model.guidance.is_some() =>
        {
            Err(anyhow!(
                "{}: `{}` is not the log-likelihood of a guided flow; expected an estimator of the \
                 divergence, or `guidance: 1`",
                model.path.display(),
                estimator.label()
            ))
        }
        _ if estimator.head().filter(unknown).is_some() => {
            let known: Vec<&str> = model
                .card
                .divergence_heads
                .keys()
                .map(String::as_str)
                .collect();
            let has = if known.is_empty() {
                "it has none".to_owned()
            } else {
                format!("it has {}", known.join(", "))
            };
            let head = estimator.head().unwrap_or_default();
            Err(anyhow!(
                "{}: the card has no divergence head `{head}`; {has}",
                model.path.display()
            ))
        }
        DivergenceEstimator::FlowMap(few) => {
            let spec = model.flow_map_spec(&few.map)?;
            let at = || format!("{}: flow_maps.{}", model.path.display(), few.map);
            let rule = few.rule.unwrap_or(spec.rule());
            if few.has_log_determinants() {
                spec.check_supports_log_determinants(rule, few.steps)
            } else {
                spec.check_supports_likelihood(rule)
            }
            .map_err(|e| anyhow!("{}: {e}", at()))?;
            if let (FlowMapStepRule::ForwardAverage, ProbabilityPath::Edm { sigma_min, .. }) =
                (rule, model.curve.path())
            {
                bail!(
                    "{}: rule forward-average evaluates the map one step beyond the data end, \
                     where the time of an `edm` path is below sigma_min = {sigma_min} and below zero; \
                     expected `rule: two-time`",
                    at()
                );
            }
            few.times(&model.curve)
                .map(drop)
                .map_err(|e| anyhow!("flow-map: {e}"))
        }
        DivergenceEstimator::ClosedForm(_) if model.card.closed_form.is_none() => Err(anyhow!(
            "{}: the card has no `closed_form`",
            model.path.display()
        )),
        DivergenceEstimator::DiscreteBound(bound) => check_discrete_bound(model, bound)
            .map_err(|e| anyhow!("{}: vlb: {e}", model.path.display())),
        _ => Ok(()),
    }
}

/// Checks that the card has what a discrete bound needs.
fn check_discrete_bound(model: &Model, bound: &DiscreteBound) -> Result<(), String> {
    let card = &model.card;
    let ProbabilityPath::Discrete { steps, .. } = model.curve.path() else {
        return Err(format!(
            "the path is `{}`, expected `discrete`: the bound is a sum over the steps of a \
             discrete path; `nelbo` is the bound for every path",
            card.path.kind()
        ));
    };
    bound.check_steps(*steps)?;
    if bound.variance == ReverseVariance::Learned {
        if card.network.variance_channels.is_none() {
            return Err(
                "variance: learned needs `network.variance_channels` on the card: the part of the \
                 output that holds the variances"
                    .to_owned(),
            );
        }
        if card.network.preconditioning.is_some() {
            return Err(
                "variance: learned is not defined with `network.preconditioning`".to_owned(),
            );
        }
    }
    if !bound.is_discretized() {
        return Ok(());
    }
    let remedy = "expected `decoder: continuous`, which bounds a density";
    if card.latent.is_some() {
        return Err(format!(
            "a discretized decoder needs states that are the data, not latents; {remedy}"
        ));
    }
    match card.data.and_then(|data| data.levels) {
        Some(_) => Ok(()),
        None => Err(format!(
            "a discretized decoder needs `data.levels` on the card; {remedy}"
        )),
    }
}

/// Checks that a finite-difference step is not lost in the rounding of the network's inputs, for
/// paths that begin at `data`. Other estimators always pass.
///
/// # Errors
/// Fails if the step is too small. The message names the smallest step that is resolved.
pub fn check_difference_step(
    model: &Model,
    estimator: &DivergenceEstimator,
    data: &Dataset,
) -> Result<()> {
    let DivergenceEstimator::FiniteDifference(difference) = estimator else {
        return Ok(());
    };
    let graph = model.network_graph()?;
    let format = graph
        .taken_in(&model.card.network.inputs.x)
        .unwrap_or(ElemType::FLOAT);
    let largest = match model.card.data.filter(|_| data.is_quantized(&model.card)) {
        Some(scaled) => scaled.range[0].abs().max(scaled.range[1].abs()),
        None => {
            let (low, high) = data.values.min_and_max();
            low.abs().max(high.abs())
        }
    };
    let smallest =
        FiniteDifference::smallest_step(&model.curve, largest, format.spacing().unwrap_or(0.0));
    let at = format!(
        "finite-difference: step is {}, but {}",
        difference.step,
        graph.file()
    );
    if smallest > 1.0 {
        bail!(
            "{at} takes states in {format}, which resolves no step at all for numbers of size \
             {largest:.3}; expected another estimator, or the network in float32"
        );
    }
    // The message shows two digits. Rounding up makes the shown step large enough.
    let digit = 10f64.powf(smallest.log10().floor() - 1.0);
    let smallest = (smallest / digit).ceil() * digit;
    if difference.step < smallest * (1.0 - 1e-9) {
        bail!(
            "{at} takes states in {format}: the step is lost in the rounding of numbers of size \
             {largest:.3}; expected at least {smallest:.1e}"
        );
    }
    Ok(())
}

/// Checks that data are integers where an estimator bounds the probability of integers.
///
/// # Errors
/// Fails if they are floats: these would be rounded to levels in silence.
pub fn check_discretized_data(
    model: &Model,
    estimator: &DivergenceEstimator,
    data: &Dataset,
) -> Result<()> {
    match estimator {
        DivergenceEstimator::DiscreteBound(bound)
            if bound.is_discretized() && !data.is_quantized(&model.card) =>
        {
            Err(anyhow!(
                "vlb: {} holds floats, but a discretized decoder gives the probability of integers; \
                 expected integers, or `decoder: continuous`, which bounds a density",
                data.name
            ))
        }
        _ => Ok(()),
    }
}

/// The largest distance of a state's centre of mass from zero, relative to the length of the state:
/// the rounding of float32.
const MAX_CENTRE_OFFSET: f64 = 1e-5;

/// Checks that states have their centre of mass at zero where the model is one of a centred system.
///
/// # Errors
/// Fails if they do not. The message says how far they are from it.
pub fn check_centred_states(model: &Model, data: &Dataset) -> Result<()> {
    let Some(system) = model.prior.centred else {
        return Ok(());
    };
    let offset = system.largest_offset(&data.first_rows(data.len()));
    if offset > MAX_CENTRE_OFFSET {
        bail!(
            "{}: a centre of mass of the {} particles lies off zero, by {offset:.1e} of the length of \
             its state; expected states with their centre subtracted: the density is one of such \
             states (`prior.centred` on {})",
            data.name,
            system.particles,
            model.path.display()
        );
    }
    Ok(())
}

/// Checks that the model supports a sampler.
///
/// # Errors
/// Fails if it does not. The message names the card and what it lacks.
pub fn check_sampler_supported(model: &Model, sampler: &Sampler) -> Result<()> {
    model.check_has_velocity()?;
    if let Some(why) = Some(sampler)
        .filter(|s| s.needs_vjp())
        .and_then(|_| model.vjp_unsupported())
    {
        bail!(
            "{}: {} takes products with the transposed Jacobian, which the network does not have: \
             {why}; expected no `lipschitz`",
            model.path.display(),
            sampler.name()
        );
    }
    let Some(used) = sampler.flow_map() else {
        return Ok(());
    };
    if model.guidance.is_some() {
        bail!(
            "{}: flow_maps.{}: a flow map is not guided; expected another sampler, or `guidance: 1`",
            model.path.display(),
            used.name
        );
    }
    let spec = model.flow_map_spec(used.name)?;
    let at = |e: String| anyhow!("{}: flow_maps.{}: {e}", model.path.display(), used.name);
    spec.check_supports_sampling().map_err(at)?;
    spec.check_steps(used.steps).map_err(at)?;
    if used.density || used.gradient {
        spec.check_has_divergence().map_err(at)?;
    }
    Ok(())
}

/// The estimator with the values that it takes from the model written out. A flow map gets its
/// rule, unless the estimator and the card both use `two-time`, and its volume, unless it is the
/// map's own divergence. NA-Hutch++ takes no products with
/// the transpose if the network supports no VJPs.
pub fn with_card_defaults(model: &Model, estimator: DivergenceEstimator) -> DivergenceEstimator {
    match estimator {
        DivergenceEstimator::FlowMap(mut few) => {
            let card = model
                .flow_map_spec(&few.map)
                .map(|spec| spec.rule())
                .unwrap_or_default();
            let has_divergence = model
                .flow_map_spec(&few.map)
                .is_ok_and(|spec| spec.outputs.divergence.is_some());
            few.volume = few
                .volume
                .or((!has_divergence).then_some(MapVolume::LogDet))
                .filter(|volume| *volume == MapVolume::LogDet);
            few.rule = Some(few.rule.unwrap_or(card))
                .filter(|rule| [*rule, card] != [FlowMapStepRule::TwoTime; 2]);
            DivergenceEstimator::FlowMap(few)
        }
        DivergenceEstimator::Trace(Estimator::NaHutchPlusPlus(mut na)) => {
            na.transposed = na.transposed && model.vjp_unsupported().is_none();
            DivergenceEstimator::Trace(Estimator::NaHutchPlusPlus(na))
        }
        other => other,
    }
}

/// The states at the prior end that a file holds, unchanged: rows × dim.
///
/// # Errors
/// Fails if they do not have the model's shape.
pub fn initial_states(noise: &Dataset, model: &Model) -> Result<Batch> {
    noise.check_shape(&model.card)?;
    check_centred_states(model, noise)?;
    Ok(noise.first_rows(noise.len()))
}

/// What a log-likelihood under a model says about data; see [`Dataset::likelihood_bound`]. One of a
/// latent says nothing about the data.
///
/// # Errors
/// Fails if a log-likelihood would bound nothing and `lattice` does not allow this.
pub fn likelihood_bound(
    model: &Model,
    data: &Dataset,
    lattice: LatticePolicy,
) -> Result<LikelihoodBound> {
    if model.card.latent.is_some() {
        return Ok(LikelihoodBound {
            kind: BoundKind::Latent,
            reason: None,
        });
    }
    data.likelihood_bound(&model.card, lattice)
}

/// Checks that a latent model can encode data.
///
/// # Errors
/// Fails if the card has no encoder, or if the data are to be dequantized.
pub fn check_encodable(model: &Model, dequantized: bool) -> Result<()> {
    let latent = model.card.latent.as_ref();
    if latent.is_none_or(|latent| latent.encoder.is_none()) {
        bail!(
            "{}: the data have the shape of decoded samples, but the card has no `latent.encoder`; \
             expected latents of shape {:?}",
            model.path.display(),
            model.card.shape
        );
    }
    if dequantized {
        bail!(
            "dequantization: the log-likelihood is one of latents, which are not quantized; leave \
             the key out"
        );
    }
    Ok(())
}

/// The largest number of samples with `dim` numbers each that one array in memory can hold.
pub fn max_samples(dim: usize) -> usize {
    (1 << 30) / dim.max(1)
}
