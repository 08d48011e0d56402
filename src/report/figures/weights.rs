//! Reweighted samples: the distribution of their importance weights, and that of their energies
//! before and after.

use super::CaptionedFigure;
use super::histogram::HistogramBins;
use crate::report::axis::Axis;
use crate::report::figure_spec::{FigureSpec, LegendEntry, LegendSymbol, Panel, PlotMark, Stroke};
use crate::report::palette::{MUTED, estimator_style};
use crate::report::text::shorten;
use crate::report::view::{ReportView, figure_title};
use crate::rows::WeightRow;

/// The names of the samples before and after.
const NAMES: [&str; 2] = ["samples", "reweighted"];

/// One figure for each set of reweighted samples of each model.
pub(super) fn weight_figures<'a>(view: &ReportView<'a>) -> Vec<CaptionedFigure<'a>> {
    let mut sets: Vec<[&str; 4]> = Vec::new();
    for row in &view.tables.weights {
        let key = row.set_key();
        if sets.last() != Some(&key) && !sets.contains(&key) {
            sets.push(key);
        }
    }
    sets.iter()
        .filter_map(|key| weight_figure(view, *key, sets.len() > 1))
        .collect()
}

fn weight_figure<'a>(
    view: &ReportView<'a>,
    key: [&'a str; 4],
    is_one_of_several: bool,
) -> Option<CaptionedFigure<'a>> {
    let [model, sampler, estimator, target] = key;
    let of_set = |row: &&WeightRow| row.set_key() == key;
    // The logarithm of each weight, and its energy.
    let pairs: Vec<(f64, f64)> = view
        .tables
        .weights
        .iter()
        .filter(of_set)
        .filter_map(|row| Some((row.log_weight?, row.energy?)))
        .collect();
    let finite = || {
        pairs
            .iter()
            .filter(|(log_weight, _)| log_weight.is_finite())
    };
    let top = finite().map(|p| p.0).fold(f64::NEG_INFINITY, f64::max);
    let total: f64 = finite().map(|p| (p.0 - top).exp()).sum();
    let log_mean = top + (total / pairs.len() as f64).ln();
    if finite().count() < 2 {
        return None;
    }
    let relative: Vec<f64> = finite().map(|p| p.0 - log_mean).collect();
    let weight_bins = HistogramBins::from_values(std::slice::from_ref(&relative))?;
    let energies: Vec<f64> = finite().map(|p| p.1).collect();
    let energy_bins = HistogramBins::from_values(std::slice::from_ref(&energies))?;
    let each = 1.0 / pairs.len() as f64;
    let by_weight = weight_bins.weight_sums(relative.iter().map(|v| (*v, each)));
    let of_weights = weight_bins.weight_sums(relative.iter().map(|v| (*v, v.exp() * each)));
    let before = energy_bins.weight_sums(energies.iter().map(|u| (*u, each)));
    let after = energy_bins.weight_sums(finite().map(|p| (p.1, (p.0 - log_mean).exp() * each)));
    let [first, second] = [estimator_style(0).colour, estimator_style(1).colour];
    let panel = |title: &str, label: &str, bins: &HistogramBins, heights: [&[f64]; 2]| {
        let most = heights
            .iter()
            .copied()
            .flatten()
            .copied()
            .fold(0.0, f64::max);
        let x = Axis::with_range(
            label,
            [bins.low, bins.low + bins.width * bins.count as f64],
            8,
        );
        let y = Axis::with_range("share per bin", [0.0, 1.06 * most], 5);
        let mut panel = Panel::new(title, x, y);
        let looks = NAMES.into_iter().zip([first, second]);
        for (heights, (name, colour)) in heights.into_iter().zip(looks) {
            let line = PlotMark::line(bins.outline_of_heights(heights), colour, 2.0);
            panel.marks.push(PlotMark::series(name, vec![line]));
        }
        panel
    };
    let mut weights = panel(
        "weights",
        "log weight, relative to the mean weight, nats",
        &weight_bins,
        [&by_weight, &of_weights],
    );
    weights.marks.push(PlotMark::VerticalLine {
        x: 0.0,
        colour: MUTED,
        stroke: Stroke::Dashed,
    });
    let energy = panel("energies", "energy u", &energy_bins, [&before, &after]);
    let entry = |text: &str, colour| LegendEntry {
        text: text.to_owned(),
        colour,
        symbol: LegendSymbol::Line(Stroke::Solid),
    };
    let parts = [
        shorten(target, 40),
        shorten(sampler, 48),
        shorten(estimator, 40),
        format!("n = {}", pairs.len()),
    ];
    let shown: Vec<String> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    let clipped = if weight_bins.clipped || energy_bins.clipped {
        " Samples beyond the ends are counted in the outermost bins."
    } else {
        ""
    };
    Some(CaptionedFigure {
        model,
        stem: if is_one_of_several {
            format!("weights-{model}-{target}-{sampler}-{estimator}")
        } else {
            format!("weights-{model}")
        },
        caption: format!(
            "Samples before and after they are reweighted to the target. Left, the share of the \
             samples and the share of the total weight, by weight: where the second lies far to \
             the right of the first, a few samples decide everything. Right, the energies of the \
             samples and of the reweighted samples.{clipped}"
        ),
        spec: FigureSpec {
            title: figure_title(model, "weights and energies of reweighted samples"),
            subtitle: shown.join(" · "),
            legend: vec![entry(NAMES[0], first), entry(NAMES[1], second)],
            columns: 2,
            panel_size: (440.0, 330.0),
            panels: vec![weights, energy],
        },
    })
}
