//! The error budget: the size of each component in the mean, per estimator.

use super::CaptionedFigure;
use crate::report::axis::Axis;
use crate::report::figure_spec::{
    FigureSpec, Fill, LegendEntry, LegendSymbol, Panel, PlotMark, RightMargin, Stroke, TextColumn,
};
use crate::report::number_format::{format_significant, if_finite};
use crate::report::palette::{self, INK, RULE};
use crate::report::view::{ComparisonGroup, ReportView, figure_title};
use crate::rows::BudgetRow;

/// The components of the budget, in the order in which users can usually reduce them.
pub(crate) const BUDGET_COMPONENTS: [&str; 5] =
    ["data", "probe", "solver", "dequantization", "numeric"];

/// One figure for each comparison group whose solver error was measured.
pub(super) fn budget_figures<'a>(view: &ReportView<'a>) -> Vec<CaptionedFigure<'a>> {
    view.groups_with_figures()
        .filter_map(|group| budget_figure(view, group))
        .collect()
}

fn budget_figure<'a>(
    view: &ReportView<'a>,
    group: &ComparisonGroup<'a>,
) -> Option<CaptionedFigure<'a>> {
    let in_group = |l: &&BudgetRow| {
        (l.model.as_str(), l.dataset.as_str(), l.solver.as_str())
            == (group.model, group.dataset, group.solver)
    };
    let lines: Vec<&BudgetRow> = view.tables.budget.iter().filter(in_group).collect();
    // Most runs have `data` and `probe`. Without the solver's error they are not worth a figure.
    let shown: Vec<&str> = BUDGET_COMPONENTS
        .into_iter()
        .filter(|c| lines.iter().any(|l| component_size(l, c).is_some()))
        .collect();
    if shown.len() < 2 || !shown.contains(&"solver") {
        return None;
    }
    let estimators = group.estimators();
    let names: Vec<String> = estimators.iter().map(|e| view.short_name(e)).collect();
    let sizes = lines
        .iter()
        .filter_map(|l| if_finite(l.mean_nats))
        .filter(|v| *v > 0.0);
    let mut panel = Panel::new(
        "",
        Axis::log("error of the mean, nats", sizes, 7),
        Axis::categorical(&names),
    );
    let (mut nats, mut bits) = (vec![], vec![]);
    for (i, estimator) in estimators.iter().enumerate() {
        let y = (estimators.len() - 1 - i) as f64;
        let own: Vec<&BudgetRow> = lines
            .iter()
            .copied()
            .filter(|l| l.estimator == **estimator)
            .collect();
        let places: Vec<f64> = own
            .iter()
            .filter_map(|l| if_finite(l.mean_nats))
            .filter(|v| *v > 0.0)
            .collect();
        let mut marks = Vec::new();
        let mut values = Vec::new();
        if let (Some(low), Some(high)) = (
            places.iter().copied().reduce(f64::min),
            places.iter().copied().reduce(f64::max),
        ) {
            panel
                .marks
                .push(PlotMark::line(vec![(low, y), (high, y)], RULE, 1.0));
        }
        if let Some(total) = own.iter().find(|l| l.component == "total") {
            let size = component_size(total, "total");
            if let Some(v) = size {
                values.push((v, "total"));
                let points = vec![(v, y)];
                let style = palette::REFERENCE_STYLE;
                marks.push(PlotMark::Dots {
                    points,
                    style,
                    fill: Fill::Hollow,
                    radius: 9.0,
                    opacity: 1.0,
                });
            }
            nats.extend(size.map(|v| (y, format_significant(v, 2))));
            bits.extend(if_finite(total.mean_bits_per_dim).map(|v| (y, format_significant(v, 2))));
        }
        for (k, component) in shown.iter().enumerate() {
            let points: Vec<(f64, f64)> = own
                .iter()
                .filter_map(|l| component_size(l, component))
                .map(|v| (v, y))
                .collect();
            if !points.is_empty() {
                values.extend(points.iter().map(|(v, _)| (*v, *component)));
                let style = palette::estimator_style(k);
                marks.push(PlotMark::Dots {
                    points,
                    style,
                    fill: Fill::Full,
                    radius: 5.0,
                    opacity: 0.95,
                });
            }
        }
        let text = |(v, component): (f64, &str)| {
            let size = format_significant(v, 3);
            (v, y, format!("{}, {component}: {size} nats", names[i]))
        };
        marks.push(PlotMark::Values(values.into_iter().map(text).collect()));
        panel.marks.push(PlotMark::series(&names[i], marks));
    }
    let columns = [("total, nats", nats), ("bits/dim", bits)]
        .into_iter()
        .filter(|(_, at)| !at.is_empty());
    panel.right_margin = RightMargin::TextColumns(
        columns
            .map(|(heading, at)| TextColumn {
                heading: heading.into(),
                texts: at,
            })
            .collect(),
    );
    let entry = |(k, name): (usize, &&str)| {
        let style = palette::estimator_style(k);
        LegendEntry {
            text: (*name).into(),
            colour: style.colour,
            symbol: LegendSymbol::Dot(style.shape, Fill::Full),
        }
    };
    let mut legend: Vec<LegendEntry> = shown.iter().enumerate().map(entry).collect();
    let total_symbol = LegendSymbol::Dot(palette::REFERENCE_STYLE.shape, Fill::Hollow);
    legend.push(LegendEntry {
        text: "total (root of the sum of squares)".into(),
        colour: INK,
        symbol: total_symbol,
    });
    legend.push(LegendEntry {
        text: "from the smallest to the largest".into(),
        colour: RULE,
        symbol: LegendSymbol::Line(Stroke::Solid),
    });
    let spec = FigureSpec {
        title: figure_title(group.model, "error budget"),
        subtitle: group.subtitle(),
        legend,
        columns: 1,
        panel_size: (880.0, 92.0 + 34.0 * estimators.len() as f64),
        panels: vec![panel],
    };
    let measured = lines
        .iter()
        .find(|l| l.component == "solver")
        .map_or(0, |l| l.n);
    let caption = format!(
        "Size of each component of the uncertainty in the mean log-likelihood, one line per \
         estimator. The component furthest to the right is the one to reduce first. The solver's \
         and the numeric error were measured on {measured} of the samples; the solver's \
         component is the size of a bias. A component that is exactly zero or unknown is not \
         drawn.",
    );
    let (model, stem) = (group.model, view.file_stem("budget", group));
    Some(CaptionedFigure {
        model,
        stem,
        caption,
        spec,
    })
}

/// The size in the mean, if the row is of this component and the size is above zero, as a
/// logarithmic axis requires.
fn component_size(line: &BudgetRow, component: &str) -> Option<f64> {
    if_finite(line.mean_nats).filter(|v| *v > 0.0 && line.component == component)
}
