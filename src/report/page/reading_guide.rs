//! How to read the numbers: every convention that a figure or table relies on.

use maud::{Markup, html};

use crate::report::view::ReportView;

/// Definitions, in the order in which a reader meets them.
pub fn reading_guide_section(view: &ReportView) -> Markup {
    let samples = !view.tables.metrics.is_empty();
    html! {
        section #reading {
            h2 { "How to read these numbers" }
            dl.notes {
                dt { "Log-likelihood" }
                dd {
                    "The natural logarithm of the model's density at the array that was evaluated, after any "
                    "dequantization and scaling, in nats per sample: "
                    span.math { "log p(x₀) = log p_prior(x_T) + ∫ div v dt" }
                    ", along dx/dt = v from data to noise, with + div. A model's own time direction, sign and "
                    "scale are converted to this one convention."
                }
                dt { "Bits per dimension" }
                dd {
                    span.math { "bits/dim = −log p / (D ln 2) + log₂(levels / (hi − lo))" }
                    ": the density turned into bits for one integer value, where the data were quantized to "
                    i { "levels" } " values over [lo, hi] and dequantized with uniform noise. Fewer is better. "
                    "Where data are not quantized there are no bits/dim, only nats."
                }
                dt { "What each ± is" }
                dd {
                    "Beside a mean over samples: one standard error over the data. Beside a bias or "
                    "difference: one standard error of the mean of paired differences, the same samples on "
                    "both sides. "
                    "Beside a single sample, and as " i { "probe SE" } ": one standard error over the "
                    "estimator's random probes. Brackets and bars in figures are 95 % intervals by "
                    "Student's t: ± 1.96 standard errors of many values, more of few. "
                    "A value without ± has no known error: of one sample, or of a deterministic estimator."
                }
                dt { "The solver's part" }
                dd {
                    "Beside a mean, " i { "solver" } " is how much of it the solver's finite steps make: the mean as it "
                    "stands less that of infinitely many steps, measured on a few samples with finer steps. More samples "
                    "do not make it smaller. " i { "None" } " is less than a rounding of the number."
                }
                dt { "Bias, RMSE, r, calibration" }
                dd {
                    "Against the run's reference estimator, paired per sample: the mean difference, the root "
                    "mean square difference, and Pearson's correlation. Calibration is the root mean square of "
                    "difference over reported standard error: near 1 where the reported errors are honest, "
                    "above 1 where they are too small."
                }
                dt { "Kinds of numbers" }
                dd { ul {
                    li { b { "ode-exact" } ": every diagonal entry of the Jacobian, no sampling; exact up to "
                    "the solver." }
                    li { b { "ode-stochastic" } ": a randomized estimate of the trace, right in the mean, with "
                    "an error that it reports." }
                    li { b { "learned" } ": a trained head in place of the divergence; its bias does not "
                    "shrink with more probes." }
                    li { b { "few-step" } ": a learned map over finite times; not the likelihood of the ODE "
                    "but of the map." }
                    li { b { "closed-form" } ": the known density of an analytic model, without any solver." }
                } }
                dt { "What a number bounds" }
                dd { ul {
                    li { b { "density" } " (not written out): the log-density at the given floats." }
                    li { b { "elbo" } ": integers with uniform noise. The mean over noise of the log-density is a lower "
                    "bound of the logarithm of the discrete probability, so bits/dim are an upper bound." }
                    li { b { "iw-elbo" } ": the logarithm of the mean density over several draws of noise: a tighter "
                    "bound, which approaches the discrete probability as the draws become more." }
                    li { b { "none" } " (bounds nothing): floats that were quantized and not dequantized, or data that "
                    "are not what the card says, which " code { "lattice: allow" } " takes as they are." }
                } }
                dt { "Cost" }
                dd {
                    "Per sample, in evaluations of the network; a Jacobian product and a call of a learned "
                    "head count at the ratio of time measured on the machine of the run. Seconds and cost "
                    "depend on that machine, everything else does not."
                }
                @if samples {
                    dt { "Statistics of samples" }
                    dd {
                        "A Fréchet or kernel distance depends on the features, on both sample counts and on "
                        "the reference set: compare it only within this page. Even a perfect model does not "
                        "reach zero with finitely many samples; the row "
                        i { "data against data" } " is the floor near which it would lie. Features that are not "
                        "those of the usual Inception network give numbers that are not comparable with "
                        "published FIDs."
                    }
                }
                dt { "Failed samples" }
                dd { "A sample whose path ended in too many steps, too small a step or a number that is not "
                "finite has a status and no value. It is counted, shown, and enters no average." }
                dt { "–" }
                dd { "There is no such number here. It does not stand for zero." }
            }
        }
    }
}
