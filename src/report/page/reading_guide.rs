//! The section that explains how to read the numbers: every convention that a figure or a table
//! uses.

use maud::{Markup, html};

use crate::report::view::ReportView;

/// The definitions, in the order in which a reader needs them.
pub(super) fn reading_guide_section(view: &ReportView) -> Markup {
    let samples = !view.tables.metrics.is_empty();
    let calibration = !view.tables.calibration.is_empty();
    html! {
        section #reading {
            h2 { "How to read these numbers" }
            dl.notes {
                dt { "Log-likelihood" }
                dd {
                    "The natural logarithm of the model's density at the evaluated array, after "
                    "any dequantization and scaling, in nats per sample: "
                    span.math { "log p(x₀) = log p_prior(x_T) + ∫ div v dt" }
                    ". The path dx/dt = v runs from data to noise, and the divergence has a plus "
                    "sign. The time direction, sign and scale of every model are converted to this "
                    "convention."
                }
                dt { "Bits per dimension" }
                dd {
                    span.math { "bits/dim = −log p / (D ln 2) + log₂(levels / (hi − lo))" }
                    ": the density in bits for one integer value, if the data were quantized to "
                    i { "levels" } " values over [lo, hi] and dequantized with uniform noise. "
                    "Lower is better. Data that are not quantized have no bits/dim, only nats."
                }
                dt { "The meaning of ±" }
                dd {
                    "Beside a mean over samples it is one standard error over the data. Beside a "
                    "bias or a difference it is one standard error of the mean of paired "
                    "differences, with the same samples on both sides. Beside a single sample, and "
                    "in the column " i { "probe SE" } ", it is one standard error over the "
                    "estimator's random probes. Brackets, and bars in figures, are 95 % confidence "
                    "intervals by Student's t: ± 1.96 standard errors for many values, and more "
                    "for few. A value without ± has no known error, because it comes from one "
                    "sample or from a deterministic estimator."
                }
                dt { "The solver's bias" }
                dd {
                    "Beside a mean, " i { "solver" } " is the part of the mean that comes from the "
                    "solver's finite steps: the mean minus that of infinitely many steps. It is "
                    "measured on a few samples with finer steps. More samples do not reduce it. "
                    i { "None" } " means that it is smaller than the rounding of the number."
                }
                dt { "Bias, RMSE, r, calibration" }
                dd {
                    "They compare an estimator with the run's reference estimator, paired per "
                    "sample: the mean difference, the root mean square difference, and Pearson's "
                    "correlation. Calibration is the root mean square of the difference divided by "
                    "the reported standard error, over the samples whose probes differ. It is near 1 if "
                    "the reported errors are right, "
                    "and above 1 if they are too small."
                }
                dt { "Kinds of numbers" }
                dd { ul {
                    li { b { "ode-exact" } ": every diagonal entry of the Jacobian, without "
                    "sampling. The only error is that of the solver." }
                    li { b { "ode-stochastic" } ": a randomized estimate of the trace. It is right "
                    "in the mean and reports its error." }
                    li { b { "learned" } ": a trained head in place of the divergence. More probes "
                    "do not reduce its bias." }
                    li { b { "few-step" } ": a learned map over finite times. It gives the "
                    "likelihood of the map, not of the ODE." }
                    li { b { "few-step-exact" } ": the density of the samples of a learned map, by "
                    "exact log-determinants of its steps. It is normalised if the map is "
                    "one-to-one, and it is not the density of the ODE." }
                    li { b { "elbo" } ": a variational lower bound of the log-density under the "
                    "reverse stochastic process, from denoising errors. It equals the density of "
                    "the ODE only for an exact score, and takes no Jacobian." }
                    li { b { "one-call" } ": the log-density that a normalizing flow gives in one call, "
                    "or a graph of the density itself. It is exact for that model." }
                    li { b { "closed-form" } ": the known density of an analytic model, without a "
                    "solver." }
                } }
                dt { "What a number bounds" }
                dd { ul {
                    li { b { "density" } " (not shown in the tables): the log-density at the given "
                    "floats." }
                    li { b { "elbo" } ": integers with uniform noise. The mean of the log-density "
                    "over the noise is a lower bound of the logarithm of the discrete probability, "
                    "so bits/dim are an upper bound." }
                    li { b { "iw-elbo" } ": the logarithm of the mean density over several draws "
                    "of noise. This bound is tighter, and it approaches the logarithm of the "
                    "discrete probability with more draws." }
                    li { b { "none" } " (bounds nothing): floats that were quantized and not "
                    "dequantized, or data that do not match the card, which "
                    code { "lattice: allow" } " accepts." }
                } }
                dt { "Cost" }
                dd {
                    "Per sample, in evaluations of the network. Jacobian products and calls of a "
                    "learned head count by the ratio of the times that were measured on the "
                    "machine of the run. Only seconds and cost depend on that machine."
                }
                @if samples {
                    dt { "Statistics of samples" }
                    dd {
                        "A Fréchet or kernel distance depends on the features, on both sample "
                        "counts and on the reference set: compare it only within this page. With "
                        "finitely many samples, even a perfect model does not reach zero: it would "
                        "lie near the floor, which is the statistic of "
                        i { "data against data" } ". Features other than those of the usual "
                        "Inception network give numbers that are not comparable with published "
                        "FIDs."
                    }
                }
                @if calibration {
                    dt { "Calibration" }
                    dd {
                        "For each observation with known parameters, the true value is ranked among "
                        "draws under that observation. Uniform ranks are necessary for a posterior, "
                        "not sufficient: draws from the prior have uniform ranks of every parameter "
                        "too. Brackets are 95 % intervals over observations: binomial for "
                        i { "coverage" } ", and by resampled observations for " i { "tarp" } "."
                    }
                }
                dt { "Failed samples" }
                dd { "A sample fails if its path takes too many steps, needs too small a step, or "
                "reaches a number that is not finite. Then it has a status and no value. Failed "
                "samples are counted and shown, but excluded from averages." }
                dt { "–" }
                dd { "There is no such number. The dash does not mean zero." }
            }
        }
    }
}
