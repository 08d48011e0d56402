//! What rows say in words: closed sets of names, so that no program compares texts.

use serde::{Deserialize, Serialize};

/// Declares an enum whose variants are written by their names.
macro_rules! names {
    ($(#[$meta:meta])* pub enum $Enum:ident { $($(#[$variant:meta])* $name:literal => $Variant:ident,)+ }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
        pub enum $Enum {
            $($(#[$variant])* #[serde(rename = $name)] $Variant,)+
        }

        impl $Enum {
            /// The name in tables and on the page.
            pub fn as_str(self) -> &'static str {
                match self {
                    $($Enum::$Variant => $name,)+
                }
            }
        }

        impl std::fmt::Display for $Enum {
            fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }
    };
}

names! {
    /// The kind of an estimator's values. A column never mixes kinds.
    #[derive(Default)]
    pub enum EstimateKind {
        /// The log-likelihood of the ODE with the exact trace.
        #[default]
        "ode-exact" => OdeExact,
        /// An unbiased estimate with a standard error.
        "ode-stochastic" => OdeStochastic,
        /// The value of a learned head, without a correction.
        "learned" => Learned,
        /// The exact log-density of an analytic model.
        "closed-form" => ClosedForm,
        /// An estimate from finite differences.
        "finite-difference" => FiniteDifference,
        /// The log-likelihood from a few steps of a flow map.
        "few-step" => FewStep,
        /// The log-density of the samples of a flow map, by exact log-determinants of its few steps.
        "few-step-exact" => FewStepExact,
        /// The log-likelihood from a few steps under the biased rule of the authors' code. It is
        /// never mixed with other kinds.
        "few-step-forward-average" => FewStepForwardAverage,
        /// A variational lower bound, from denoising errors.
        "elbo" => Elbo,
        /// The log-density that a normalizing flow, or a graph of the density, gives in one call.
        "one-call" => OneCall,
        /// Like `ode-exact`, for the flow of a guided velocity.
        "ode-exact-guided" => OdeExactGuided,
        /// Like `ode-stochastic`, for the flow of a guided velocity.
        "ode-stochastic-guided" => OdeStochasticGuided,
        /// Like `learned`, for the flow of a guided velocity.
        "learned-guided" => LearnedGuided,
        /// Like `finite-difference`, for the flow of a guided velocity.
        "finite-difference-guided" => FiniteDifferenceGuided,
    }
}

impl EstimateKind {
    /// The same kind for the flow of a guided velocity. The density of such a flow is not the
    /// model's conditional density. Flow maps and closed forms are not guided.
    pub fn guided(self) -> EstimateKind {
        match self {
            EstimateKind::OdeExact => EstimateKind::OdeExactGuided,
            EstimateKind::OdeStochastic => EstimateKind::OdeStochasticGuided,
            EstimateKind::Learned => EstimateKind::LearnedGuided,
            EstimateKind::FiniteDifference => EstimateKind::FiniteDifferenceGuided,
            other => other,
        }
    }

    /// The kind of the estimator, whether the velocity is guided or not.
    pub fn of_estimator(self) -> EstimateKind {
        match self {
            EstimateKind::OdeExactGuided => EstimateKind::OdeExact,
            EstimateKind::OdeStochasticGuided => EstimateKind::OdeStochastic,
            EstimateKind::LearnedGuided => EstimateKind::Learned,
            EstimateKind::FiniteDifferenceGuided => EstimateKind::FiniteDifference,
            other => other,
        }
    }

    /// Whether the number belongs to a solver's path. Flow maps have steps of their own, and
    /// variational bounds and one-call models have none.
    pub fn follows_path(self) -> bool {
        !self.is_few_step() && !matches!(self, EstimateKind::Elbo | EstimateKind::OneCall)
    }

    /// Whether the number comes from a few steps of a flow map, under whichever rule.
    pub fn is_few_step(self) -> bool {
        matches!(
            self,
            EstimateKind::FewStep
                | EstimateKind::FewStepExact
                | EstimateKind::FewStepForwardAverage
        )
    }
}

names! {
    /// How one sample's path ended.
    #[derive(Default)]
    pub enum Status {
        /// The path reached its end.
        #[default]
        "ok" => Ok,
        /// The solver tried `max_steps` steps and did not reach the end.
        "max-steps" => MaxSteps,
        /// The step that the tolerance needs is too small to change the time.
        "step-too-small" => StepTooSmall,
        /// The state or the velocity is infinite or NaN.
        "non-finite" => NonFinite,
        /// The tolerance is smaller than the rounding error of the velocity.
        "below-rounding" => BelowRounding,
        /// A step of a flow map has a Jacobian with a negative determinant, so that the map is not
        /// the flow of any velocity there.
        "not-orientable" => NotOrientable,
        /// No state was found that the flow map takes to the sample.
        "not-inverted" => NotInverted,
    }
}

names! {
    /// How a log-likelihood relates to the data.
    #[derive(Default)]
    pub enum BoundKind {
        /// The row was written by a version that did not say.
        #[default]
        "" => Unknown,
        /// The log-density at the given point, of data that are not dequantized.
        "density" => Density,
        /// A lower bound: of the discrete log-probability by one uniform draw of dequantization noise
        /// or the mean of several, or of the log-density by denoising errors.
        "elbo" => Elbo,
        /// A tighter lower bound by importance sampling.
        "iw-elbo" => IwElbo,
        /// The log-density of a latent, as an encoder gives it or as it was given. It is not one of
        /// the data.
        "latent" => Latent,
        /// No bound: quantized floats without dequantization, or data that do not match the card,
        /// both allowed by `lattice: allow`.
        "none" => None,
    }
}

impl BoundKind {
    /// Whether the number is a lower bound.
    pub fn is_bound(self) -> bool {
        matches!(self, BoundKind::Elbo | BoundKind::IwElbo)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_csv_holds() {
        let mut writer = csv::WriterBuilder::new()
            .has_headers(false)
            .from_writer(Vec::new());
        let row = (
            EstimateKind::FewStepForwardAverage,
            Status::BelowRounding,
            BoundKind::Unknown,
            BoundKind::IwElbo,
        );
        writer.serialize(row).expect("a row");
        let bytes = writer.into_inner().expect("bytes");
        assert_eq!(bytes, b"few-step-forward-average,below-rounding,,iw-elbo\n");
        let mut reader = csv::ReaderBuilder::new()
            .has_headers(false)
            .from_reader(&bytes[..]);
        let read: Vec<(EstimateKind, Status, BoundKind, BoundKind)> =
            reader.deserialize().map(|r| r.expect("a row")).collect();
        assert_eq!(read, [row]);
    }
}
