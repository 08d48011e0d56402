//! Named conventions: the log-likelihood as other programs would print it.
//!
//! Every convention is an affine function of log p, so a mean and its standard error convert
//! exactly. A convention whose constants do not suit a card's data has no number for them, and an
//! error says why.

use std::f64::consts::LN_2;

/// What a convention depends on besides the log-likelihood.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct ConventionContext {
    /// The numbers in one sample, D.
    pub dim: usize,
    /// The data's range in the model's coordinates. `None` if the card names none.
    pub range: Option<[f64; 2]>,
    /// The number of levels to which the data were quantized. `None` if the card names none.
    pub levels: Option<u32>,
}

/// The conversion value = scale · log p + offset, with log p in nats in the model's coordinates.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct AffineConversion {
    /// The factor of log p.
    pub scale: f64,
    /// The constant term.
    pub offset: f64,
}

impl AffineConversion {
    /// Converts a log-likelihood in nats.
    pub(crate) fn convert(&self, log_likelihood: f64) -> f64 {
        self.scale * log_likelihood + self.offset
    }

    /// Converts the standard error of a log-likelihood in nats.
    pub(crate) fn convert_stderr(&self, stderr: f64) -> f64 {
        self.scale.abs() * stderr
    }
}

/// One way to print a log-likelihood.
pub(crate) struct Convention {
    /// The name with which users choose the convention.
    pub name: &'static str,
    /// The unit of the converted value.
    pub unit: &'static str,
    /// The formula. In it log p is in nats in the model's coordinates, and D is the number of
    /// values in one sample.
    pub formula: &'static str,
    /// The public code from which the formula was read, or the definition.
    pub source: &'static str,
    /// What that code does besides the formula. This program does not repeat it.
    pub protocol: &'static str,
    /// The conversion for a context, or the reason why the convention does not apply.
    conversion: fn(&ConventionContext) -> Result<AffineConversion, String>,
}

impl Convention {
    /// The convention called `name`.
    pub(crate) fn by_name(name: &str) -> Option<&'static Convention> {
        CONVENTIONS.iter().find(|c| c.name == name)
    }

    /// The conversion for a card's data.
    ///
    /// # Errors
    /// Fails if the convention does not apply to the data. The message gives the reason.
    pub(crate) fn conversion_for(
        &self,
        context: &ConventionContext,
    ) -> Result<AffineConversion, String> {
        (self.conversion)(context)
    }
}

/// Every convention, with this program's own units first.
pub(crate) const CONVENTIONS: &[Convention] = &[
    Convention {
        name: "nats",
        unit: "nats",
        formula: "log p",
        source: "the natural logarithm of the model's density",
        protocol: "",
        conversion: |_| {
            Ok(AffineConversion {
                scale: 1.0,
                offset: 0.0,
            })
        },
    },
    Convention {
        name: "nats-per-dim",
        unit: "nats/dim",
        formula: "(−log p) / D",
        source: "the negative log-density per number",
        protocol: "",
        conversion: |s| {
            Ok(AffineConversion {
                scale: -1.0 / s.dim as f64,
                offset: 0.0,
            })
        },
    },
    Convention {
        name: "bits-per-dim",
        unit: "bits/dim",
        formula: "(−log p) / (D ln 2) + log2(levels / (hi − lo))",
        source: "the change of variables from one level's width to the model's coordinates",
        protocol: "",
        conversion: |s| {
            let (Some([low, high]), Some(levels)) = (s.range, s.levels) else {
                return Err(
                    "the card names no `data: {range, levels}`: the data are not quantized"
                        .to_owned(),
                );
            };
            Ok(bits_per_dim_conversion(
                s,
                (f64::from(levels) / (high - low)).log2(),
            ))
        },
    },
    Convention {
        name: "score_sde",
        unit: "bits/dim",
        formula: "(−log p) / (D ln 2) + 7 − inverse_scaler(−1)",
        source: "yang-song/score_sde_pytorch, likelihood.py",
        protocol: "RK45 at rtol = atol = 1e-5 with one error norm for the whole batch, time cut at \
                   1e-5, one fixed Rademacher probe per image, five passes over the test set with \
                   fresh uniform noise",
        conversion: |s| {
            require_256_levels(s)?;
            match s.range {
                Some([-1.0, 1.0]) => Ok(bits_per_dim_conversion(s, 7.0)),
                Some([0.0, 1.0]) => Ok(bits_per_dim_conversion(s, 8.0)),
                range => Err(format!(
                    "its scalers handle only data in [-1, 1] and [0, 1], not {}",
                    format_range(range)
                )),
            }
        },
    },
    Convention {
        name: "ffjord",
        unit: "bits/dim",
        formula: "−(log p_y / D − ln 256) / ln 2, with log p_y = log p + D ln(hi − lo) the density \
                  of y in [0, 1]",
        source: "rtqichen/ffjord, train_cnf.py",
        protocol: "(255 y + u) / 256 as dequantization, a logit layer inside the model, the mean \
                   of batch means",
        conversion: |s| {
            require_256_levels(s)?;
            let [low, high] = s.range.ok_or("the card names no range")?;
            Ok(bits_per_dim_conversion(s, 8.0 - (high - low).log2()))
        },
    },
    Convention {
        name: "f2d2",
        unit: "bits/dim",
        formula: "−(log p + D ln 2 − D ln 256) / (D ln 2)",
        source: "Keely-Ai/F2D2, nll.py",
        protocol: "few-step Euler with a learned divergence times 20000, y clamped to [0, 1], the \
                   mean of batch means",
        conversion: |s| {
            require_256_levels(s)?;
            match s.range {
                Some([-1.0, 1.0]) => Ok(bits_per_dim_conversion(s, 7.0)),
                range => Err(format!(
                    "its constants presume data in [-1, 1], not {}",
                    format_range(range)
                )),
            }
        },
    },
    Convention {
        name: "flow_matching",
        unit: "nats",
        formula: "log p",
        source: "facebookresearch/flow_matching, flow_matching/solver/ode_solver.py, \
                 compute_likelihood",
        protocol: "one fixed Rademacher probe unless `exact_divergence` is set; dequantization and \
                   bits/dim are left to the caller",
        conversion: |_| {
            Ok(AffineConversion {
                scale: 1.0,
                offset: 0.0,
            })
        },
    },
];

/// The conversion to bits/dim with the given offset.
fn bits_per_dim_conversion(s: &ConventionContext, offset: f64) -> AffineConversion {
    AffineConversion {
        scale: -1.0 / (s.dim as f64 * LN_2),
        offset,
    }
}

/// Fails if the data do not have 256 levels, because the convention's constants are for 8 bits.
fn require_256_levels(s: &ConventionContext) -> Result<(), String> {
    match s.levels {
        Some(256) => Ok(()),
        Some(levels) => Err(format!(
            "its constants presume 256 levels, but these data have {levels}"
        )),
        None => Err(
            "its constants presume 256 levels, but the card names none: the data are not quantized"
                .to_owned(),
        ),
    }
}

/// A range in words.
fn format_range(range: Option<[f64; 2]>) -> String {
    range.map_or("an unknown range".to_owned(), |[low, high]| {
        format!("[{low}, {high}]")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes_in(range: [f64; 2]) -> ConventionContext {
        ConventionContext {
            dim: 3072,
            range: Some(range),
            levels: Some(256),
        }
    }

    fn value(name: &str, context: &ConventionContext, log_likelihood: f64) -> Option<f64> {
        Some(
            Convention::by_name(name)
                .expect(name)
                .conversion_for(context)
                .ok()?
                .convert(log_likelihood),
        )
    }

    /// T8: uniform bytes have 8 bits/dim in every convention if the density is uniform over the
    /// range, such as ½ per dimension on [−1, 1].
    #[test]
    fn uniform_bytes_are_eight_bits_in_every_convention() {
        let d = 3072.0;
        for (range, each) in [
            ([-1.0, 1.0], 0.5f64),
            ([0.0, 1.0], 1.0),
            ([0.0, 256.0], 1.0 / 256.0),
        ] {
            let (context, log_p) = (bytes_in(range), d * each.ln());
            for convention in CONVENTIONS.iter().filter(|c| c.unit == "bits/dim") {
                let Ok(linear) = convention.conversion_for(&context) else {
                    continue;
                };
                assert!(
                    (linear.convert(log_p) - 8.0).abs() < 1e-12,
                    "{} {range:?}",
                    convention.name
                );
            }
            assert!(
                value("bits-per-dim", &context, log_p).is_some()
                    && value("ffjord", &context, log_p).is_some()
            );
        }
    }

    /// T8: N(0, 1) with E x² = 1/3 gives 1.566197 bits of density and 7 bits of offset.
    #[test]
    fn normal_density_has_known_bits_per_dim() {
        let context = ConventionContext {
            dim: 1,
            ..bytes_in([-1.0, 1.0])
        };
        let log_p = -(0.5 * (2.0 * std::f64::consts::PI).ln() + 1.0 / 6.0);
        for name in ["bits-per-dim", "score_sde", "ffjord", "f2d2"] {
            let got = value(name, &context, log_p).expect(name);
            assert!((got - 8.566_197).abs() < 1e-6, "{name}: {got}");
        }
        assert_eq!(value("nats-per-dim", &context, log_p), Some(-log_p));
        assert_eq!(value("flow_matching", &context, log_p), Some(log_p));
    }

    /// The formulas of the public code, written as they are there, give the same numbers.
    #[test]
    fn conventions_match_the_published_code() {
        let (d, log_p) = (3072.0, -4321.5f64);
        let ln = |v: f64| v.ln();
        for (range, inverse_scaled) in [([-1.0, 1.0], 0.0), ([0.0, 1.0], -1.0)] {
            let theirs = -log_p / ln(2.0) / d + (7.0 - inverse_scaled);
            let ours = value("score_sde", &bytes_in(range), log_p).expect("applies");
            assert!((ours - theirs).abs() < 1e-12, "{range:?}: {ours} {theirs}");
        }
        let f2d2 = -((log_p + d * ln(2.0) - d * ln(256.0)) / (d * ln(2.0)));
        assert!(
            (value("f2d2", &bytes_in([-1.0, 1.0]), log_p).expect("applies") - f2d2).abs() < 1e-12
        );
        // FFJORD's data are in [0, 1]. The same density on [−1, 1] is half as large per dimension.
        let ffjord = -((log_p + d * ln(2.0)) / d - ln(256.0)) / ln(2.0);
        assert!(
            (value("ffjord", &bytes_in([-1.0, 1.0]), log_p).expect("applies") - ffjord).abs()
                < 1e-12
        );
    }

    #[test]
    fn conventions_refuse_data_with_other_levels_or_range() {
        let digits = ConventionContext {
            dim: 64,
            range: Some([-1.0, 1.0]),
            levels: Some(17),
        };
        let plane = ConventionContext {
            dim: 2,
            range: None,
            levels: None,
        };
        for name in ["score_sde", "ffjord", "f2d2"] {
            let why = |s: &ConventionContext| {
                Convention::by_name(name)
                    .expect(name)
                    .conversion_for(s)
                    .expect_err(name)
            };
            assert!(why(&digits).contains("17"), "{name}");
            assert!(why(&plane).contains("not quantized"), "{name}");
        }
        assert_eq!(value("f2d2", &bytes_in([0.0, 1.0]), -1.0), None);
        assert_eq!(value("score_sde", &bytes_in([0.0, 255.0]), -1.0), None);
        assert_eq!(value("bits-per-dim", &plane, -1.0), None);
        assert!(
            (value("bits-per-dim", &digits, 0.0).expect("levels") - 8.5f64.log2()).abs() < 1e-15
        );
    }

    #[test]
    fn convention_stderr_scales_with_the_unit() {
        let linear = Convention::by_name("score_sde")
            .expect("listed")
            .conversion_for(&bytes_in([-1.0, 1.0]))
            .expect("applies");
        assert!((linear.convert_stderr(3072.0 * LN_2) - 1.0).abs() < 1e-12);
    }
}
