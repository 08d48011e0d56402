//! The distribution of log-likelihoods over samples: one outline per estimator, with shared bins.

use super::CaptionedFigure;
use crate::report::axis::Axis;
use crate::report::figure_spec::{FigureSpec, LegendEntry, LegendSymbol, Panel, PlotMark, Stroke};
use crate::report::view::{ComparisonGroup, ReportView, figure_title};
use crate::rows::SampleLikelihoodRow;

/// One figure for each comparison group with at least two samples.
pub(super) fn histogram_figures<'a>(view: &ReportView<'a>) -> Vec<CaptionedFigure<'a>> {
    view.groups_with_figures()
        .filter_map(|group| histogram_figure(view, group))
        .collect()
}

fn histogram_figure<'a>(
    view: &ReportView<'a>,
    group: &ComparisonGroup<'a>,
) -> Option<CaptionedFigure<'a>> {
    let mut sets: Vec<(&str, Vec<&SampleLikelihoodRow>)> = (group.estimators().into_iter())
        .map(|estimator| (estimator, group.samples(view.tables, estimator)))
        .filter(|(_, samples)| samples.len() > 1)
        .collect();
    // The reference is drawn last, on top of the others.
    sets.reverse();
    let bits = sets
        .iter()
        .flat_map(|(_, samples)| samples)
        .all(|s| s.bits_per_dim.is_some_and(f64::is_finite));
    let value = |s: &&SampleLikelihoodRow| {
        if bits {
            s.bits_per_dim
        } else {
            s.log_likelihood
        }
    };
    let values: Vec<Vec<f64>> = sets
        .iter()
        .map(|(_, samples)| samples.iter().filter_map(value).collect())
        .collect();
    let bins = HistogramBins::from_values(&values)?;
    let heights: Vec<Vec<usize>> = values.iter().map(|values| bins.counts(values)).collect();
    let most = heights.iter().flatten().copied().max().unwrap_or(1).max(1);
    let label = if bits {
        "bits/dim"
    } else {
        "log-likelihood, nats"
    };
    let x = Axis::with_range(
        label,
        [bins.low, bins.low + bins.width * bins.count as f64],
        8,
    );
    let y = Axis::with_range("samples per bin", [0.0, 1.06 * most as f64], 5);
    let mut panel = Panel::new("", x, y);
    for ((estimator, _), counts) in sets.iter().zip(&heights) {
        let width = if *estimator == group.reference {
            2.4
        } else {
            1.6
        };
        let outline = bins.outline(counts);
        let line = PlotMark::line(outline, view.style(estimator).colour, width);
        let name = view.short_name(estimator);
        panel.marks.push(PlotMark::series(name, vec![line]));
    }
    let equal_sizes = sets
        .iter()
        .all(|(_, samples)| samples.len() == sets[0].1.len());
    let entry = |(estimator, samples): &(&str, Vec<&SampleLikelihoodRow>)| LegendEntry {
        text: if equal_sizes {
            view.short_name(estimator)
        } else {
            format!("{} (n = {})", view.short_name(estimator), samples.len())
        },
        colour: view.style(estimator).colour,
        symbol: LegendSymbol::Line(Stroke::Solid),
    };
    let spec = FigureSpec {
        title: figure_title(
            group.model,
            if bits {
                "bits/dim over samples"
            } else {
                "log-likelihood over samples"
            },
        ),
        subtitle: group.subtitle(),
        legend: sets.iter().rev().map(entry).collect(),
        columns: 1,
        panel_size: (880.0, 330.0),
        panels: vec![panel],
    };
    let outside = if bins.clipped {
        " Samples beyond the ends are counted in the outermost bins."
    } else {
        ""
    };
    let caption = format!(
        "Number of samples per bin, by estimator, with {} shared bins. {}{outside}",
        bins.count,
        if bits {
            "Fewer bits are better."
        } else {
            "Samples further to the right are more likely."
        },
    );
    let (model, stem) = (group.model, view.file_stem("histogram", group));
    Some(CaptionedFigure {
        model,
        stem,
        caption,
        spec,
    })
}

/// Bins of equal width.
pub(super) struct HistogramBins {
    /// The lower end of the first bin.
    pub low: f64,
    pub width: f64,
    pub count: usize,
    /// Whether some values lie outside the bins.
    pub clipped: bool,
}

impl HistogramBins {
    /// At most 80 bins over the values of all estimators, with the width of Freedman and Diaconis.
    /// Far outliers lie outside the bins. `None` without values.
    pub(super) fn from_values(sets: &[Vec<f64>]) -> Option<HistogramBins> {
        let mut all: Vec<f64> = sets
            .iter()
            .flatten()
            .copied()
            .filter(|v| v.abs() < 1e150)
            .collect();
        all.sort_by(f64::total_cmp);
        let at = |part: f64| {
            all.get(((all.len() - 1) as f64 * part).round() as usize)
                .copied()
        };
        if all.is_empty() {
            return None;
        }
        let (low, high) = (*all.first()?, *all.last()?);
        let spread = at(0.75)? - at(0.25)?;
        let per_set = (all.len() / sets.len().max(1)).max(1) as f64;
        if spread <= 0.0 {
            let half = (0.05 * low.abs()).max(0.5).max((high - low) / 2.0);
            let middle = (low + high) / 2.0;
            return Some(HistogramBins {
                low: middle - half,
                width: half / 10.0,
                count: 20,
                clipped: false,
            });
        }
        let from = low.max(at(0.25)? - 6.0 * spread);
        let to = high.min(at(0.75)? + 6.0 * spread);
        let ideal = 2.0 * spread / per_set.cbrt();
        let count = (((to - from) / ideal).ceil() as usize).clamp(12, 80);
        let clipped = from > low || to < high;
        Some(HistogramBins {
            low: from,
            width: (to - from) / count as f64,
            count,
            clipped,
        })
    }

    /// The number of values in each bin. Values outside the bins count in the outermost bins.
    fn counts(&self, values: &[f64]) -> Vec<usize> {
        let mut counts = vec![0; self.count];
        for value in values.iter().filter(|value| value.is_finite()) {
            let bin = ((value - self.low) / self.width).clamp(0.0, self.count as f64 - 1.0);
            counts[bin as usize] += 1;
        }
        counts
    }

    /// The corners of the histogram's outline, from left to right.
    fn outline(&self, counts: &[usize]) -> Vec<(f64, f64)> {
        let heights: Vec<f64> = counts.iter().map(|n| *n as f64).collect();
        self.outline_of_heights(&heights)
    }

    /// The sum of the weights of the values in each bin, which count as in
    /// [`HistogramBins::counts`].
    pub(super) fn weight_sums(&self, pairs: impl Iterator<Item = (f64, f64)>) -> Vec<f64> {
        let mut sums = vec![0.0; self.count];
        for (value, weight) in pairs.filter(|(value, _)| !value.is_nan()) {
            let bin = ((value - self.low) / self.width).clamp(0.0, self.count as f64 - 1.0);
            sums[bin as usize] += weight;
        }
        sums
    }

    /// The corners of the outline of bins with these heights, from left to right.
    pub(super) fn outline_of_heights(&self, heights: &[f64]) -> Vec<(f64, f64)> {
        let edge = |i: usize| self.low + self.width * i as f64;
        let steps = heights.iter().enumerate();
        let steps = steps.flat_map(|(i, &n)| [(edge(i), n), (edge(i + 1), n)]);
        let ends = [(edge(0), 0.0)]
            .into_iter()
            .chain(steps)
            .chain([(edge(heights.len()), 0.0)]);
        ends.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_counted_once() {
        let values: Vec<f64> = (0..1000)
            .map(|i| f64::from(i % 97) / 7.0)
            .chain([1e9, -1e9])
            .collect();
        let bins = HistogramBins::from_values(std::slice::from_ref(&values)).unwrap();
        assert_eq!(bins.counts(&values).iter().sum::<usize>(), 1002);
        assert!(bins.clipped && bins.count <= 80);
    }

    #[test]
    fn equal_values_still_have_bins() {
        for value in [0.0, -1e6, 3.0] {
            let values = vec![value; 5];
            let bins = HistogramBins::from_values(std::slice::from_ref(&values)).unwrap();
            assert!(bins.width > 0.0);
            assert_eq!(bins.counts(&values).iter().sum::<usize>(), 5);
        }
        assert!(HistogramBins::from_values(&[]).is_none());
    }
}
