//! Error against cost: the accuracy that an estimator reaches for its Jacobian products, and for
//! measured time.

use super::CaptionedFigure;
use crate::report::axis::Axis;
use crate::report::figure_spec::{
    FigureSpec, Fill, LegendEntry, LegendSymbol, Panel, PlotMark, Stroke,
};
use crate::report::number_format::{
    format_count, format_optional, format_significant, half_width_95, if_finite,
};
use crate::report::palette::{self, INK, MUTED, MarkerShape};
use crate::report::text::join_with_and;
use crate::report::view::{ComparisonGroup, ReportView, figure_title};
use crate::rows::{FrontierRow, SummaryRow};

/// One figure for each comparison group whose reference has the same solver.
pub(super) fn frontier_figures<'a>(view: &ReportView<'a>) -> Vec<CaptionedFigure<'a>> {
    view.groups_with_figures()
        .filter(|group| !group.reference_under_other_solver)
        .filter_map(|group| frontier_figure(view, group))
        .collect()
}

/// One way to measure the cost of a sample.
struct CostMeasure {
    label: &'static str,
    /// The whole cost of a sample.
    total: fn(&SummaryRow) -> f64,
    /// The part of the cost that grows with the number of probes.
    estimator_part: fn(&SummaryRow) -> f64,
}

const COST_MEASURES: [CostMeasure; 2] = [
    CostMeasure {
        label: "Jacobian products per sample",
        total: |row| row.jvps,
        estimator_part: |row| row.jvps,
    },
    CostMeasure {
        label: "measured seconds per sample",
        total: |row| row.seconds_per_sample,
        estimator_part: |row| {
            row.seconds_per_sample
                * (1.0
                    - if row.cost > 0.0 {
                        row.evaluations / row.cost
                    } else {
                        1.0
                    })
        },
    },
];

fn frontier_figure<'a>(
    view: &ReportView<'a>,
    group: &ComparisonGroup<'a>,
) -> Option<CaptionedFigure<'a>> {
    let compared =
        |row: &&SummaryRow| row.estimator != group.reference && if_finite(row.rmse).is_some();
    let rows: Vec<&SummaryRow> = group.rows.iter().copied().filter(compared).collect();
    let panels: Vec<Panel> = COST_MEASURES
        .iter()
        .filter_map(|cost| error_cost_panel(view, group, &rows, cost))
        .collect();
    if panels.is_empty() {
        return None;
    }
    let unseen = |row: &&&SummaryRow| !COST_MEASURES.iter().any(|cost| is_plottable(row, cost));
    let without: Vec<&SummaryRow> = rows.iter().filter(unseen).copied().collect();
    let reference = group
        .reference_row()
        .filter(|row| COST_MEASURES.iter().any(|cost| (cost.total)(row) > 0.0));
    let spec = FigureSpec {
        title: figure_title(group.model, "error against cost"),
        subtitle: group.subtitle(),
        legend: frontier_legend(view, reference),
        columns: panels.len(),
        panel_size: if panels.len() > 1 {
            (520.0, 430.0)
        } else {
            (880.0, 430.0)
        },
        panels,
    };
    let (model, stem) = (group.model, view.file_stem("frontier", group));
    Some(CaptionedFigure {
        model,
        stem,
        caption: frontier_caption(view, group, &without),
        spec,
    })
}

/// Whether the error and the cost have positions on logarithmic axes.
fn is_plottable(row: &SummaryRow, cost: &CostMeasure) -> bool {
    rmse_or_zero(row) > 0.0 && (cost.total)(row) > 0.0 && (cost.total)(row).is_finite()
}

/// The panel of one cost measure. `None` if no estimator can be drawn.
fn error_cost_panel(
    view: &ReportView,
    group: &ComparisonGroup,
    rows: &[&SummaryRow],
    cost: &CostMeasure,
) -> Option<Panel> {
    let shown: Vec<&SummaryRow> = rows
        .iter()
        .copied()
        .filter(|row| is_plottable(row, cost))
        .collect();
    if shown.is_empty() {
        return None;
    }
    let place = |row: &SummaryRow| (cost.total)(row);
    let reference = group
        .reference_row()
        .filter(|row| place(row) > 0.0 && place(row).is_finite());
    let costs = shown.iter().chain(&reference).map(|row| place(row));
    let least = least_shown(shown.iter().map(|row| rmse_or_zero(row)).collect());
    // A bias that is tiny by chance must not stretch the axis, because its confidence interval
    // reaches further up.
    let errors = shown.iter().flat_map(|row| {
        [
            rmse_or_zero(row).max(least),
            abs_bias(row).max(least / 4.0),
            abs_bias_high(row).max(least),
        ]
    });
    let x = Axis::log(cost.label, costs, 6);
    let y = Axis::log(
        &format!("error against {}, nats", view.short_name(group.reference)),
        errors,
        6,
    );
    let [floor, top] = y.range.map(|decade| 10f64.powf(decade));
    let last = 10f64.powf(x.range[1]);
    let mut panel = Panel::new("", x, y);
    if let Some(row) = reference {
        panel.marks.push(PlotMark::VerticalLine {
            x: place(row),
            colour: MUTED,
            stroke: Stroke::Dashed,
        });
    }
    for row in &shown {
        if is_extrapolated(view, row) {
            panel
                .marks
                .push(extrapolation_line(view, row, cost, last, floor));
        }
        panel.marks.push(error_marks(view, row, place(row), floor));
    }
    let labels = shown.iter().map(|row| {
        (
            place(row),
            rmse_or_zero(row).max(floor),
            match rmse_or_zero(row) < floor {
                true => format!(
                    "{} ({}, below)",
                    view.short_name(&row.estimator),
                    format_significant(rmse_or_zero(row), 1)
                ),
                false => view.short_name(&row.estimator),
            },
            palette::text_colour(view.style(&row.estimator).colour),
        )
    });
    let reference_label = reference.map(|row| {
        (
            place(row),
            top.powf(0.96) * floor.powf(0.04),
            view.short_name(&row.estimator),
            MUTED,
        )
    });
    panel.marks.push(PlotMark::Labels(
        reference_label.into_iter().chain(labels).collect(),
    ));
    Some(panel)
}

/// Whether the frontier table extrapolates this estimator by the law 1/K.
fn is_extrapolated(view: &ReportView, row: &SummaryRow) -> bool {
    let same = |l: &&FrontierRow| {
        (&l.model, &l.dataset, &l.solver, &l.estimator)
            == (&row.model, &row.dataset, &row.solver, &row.estimator)
    };
    view.tables
        .frontier
        .iter()
        .find(same)
        .is_some_and(|l| l.basis == "1/K")
}

/// The line that shows the effect of more probes or replicates. If their number grows by a factor,
/// so does the estimator's part of the cost, and the error falls by the root of the factor.
fn extrapolation_line(
    view: &ReportView,
    row: &SummaryRow,
    cost: &CostMeasure,
    last: f64,
    floor: f64,
) -> PlotMark {
    let (all, own) = ((cost.total)(row), (cost.estimator_part)(row));
    let at = |factor: f64| {
        (
            all + own * (factor - 1.0),
            rmse_or_zero(row) / factor.sqrt(),
        )
    };
    let inside = |p: &(f64, f64)| p.0 <= last && p.1 >= floor;
    let points = (0..60)
        .map(|i| at(10f64.powf(f64::from(i) / 10.0)))
        .take_while(inside)
        .collect();
    PlotMark::Line {
        points,
        colour: view.style(&row.estimator).colour,
        width: 1.0,
        stroke: Stroke::Dashed,
    }
}

fn rmse_or_zero(row: &SummaryRow) -> f64 {
    if_finite(row.rmse).unwrap_or(0.0)
}

fn abs_bias(row: &SummaryRow) -> f64 {
    if_finite(row.bias).unwrap_or(0.0).abs()
}

/// The upper end of the 95 % confidence interval of the absolute bias.
fn abs_bias_high(row: &SummaryRow) -> f64 {
    abs_bias(row) + half_width_95(row.bias_stderr, row.bias_n)
}

/// The smallest error that the axis must hold. Errors that lie three decades below all others, such as
/// those of rounding, would squeeze the others: they are drawn on the lower edge.
fn least_shown(mut errors: Vec<f64>) -> f64 {
    errors.sort_by(|a, b| b.total_cmp(a));
    let gap = errors.windows(2).find(|pair| pair[1] < pair[0] / 1e3);
    gap.map_or_else(
        || errors.last().copied().unwrap_or(1.0),
        |pair| pair[0] / 4.0,
    )
}

/// The marks of one estimator: the RMSE, the size of the bias, and the confidence interval of the
/// bias.
fn error_marks(view: &ReportView, row: &SummaryRow, cost: f64, floor: f64) -> PlotMark {
    let style = view.style(&row.estimator);
    let low = (abs_bias(row) - half_width_95(row.bias_stderr, row.bias_n)).max(floor);
    let mut marks = vec![];
    if if_finite(row.bias).is_some() && abs_bias_high(row) > low {
        let points = vec![(cost, low), (cost, abs_bias_high(row))];
        marks.push(PlotMark::line(points, style.colour, 1.2));
    }
    let dots = |y, fill, radius| PlotMark::Dots {
        points: vec![(cost, y)],
        style,
        fill,
        radius,
        opacity: 1.0,
    };
    let bias = abs_bias(row).max(floor);
    marks.push(dots(bias, Fill::Hollow, 4.4));
    let rmse = rmse_or_zero(row).max(floor);
    marks.push(dots(rmse, Fill::Full, 5.2));
    let name = view.short_name(&row.estimator);
    let products = format_count(row.jvps);
    let seconds = format_significant(row.seconds_per_sample, 2);
    let text = |what: &str, value: Option<f64>| {
        let value = format_optional(value, 3);
        format!("{name}: {what} {value} nats; {products} products, {seconds} s per sample")
    };
    marks.push(PlotMark::Values(vec![
        (cost, bias, text("|bias|", row.bias.map(f64::abs))),
        (cost, rmse, text("RMSE", row.rmse)),
    ]));
    PlotMark::series(name, marks)
}

fn frontier_legend(view: &ReportView, reference: Option<&SummaryRow>) -> Vec<LegendEntry> {
    let entry = |text: &str, symbol| LegendEntry {
        text: text.into(),
        colour: INK,
        symbol,
    };
    let mut legend = vec![
        entry(
            "root mean square difference per sample",
            LegendSymbol::Dot(MarkerShape::Circle, Fill::Full),
        ),
        entry(
            "|bias| of the mean, with its 95 % interval",
            LegendSymbol::Dot(MarkerShape::Circle, Fill::Hollow),
        ),
    ];
    if let Some(row) = reference {
        let text = format!(
            "cost of {}: {} products, {} s",
            view.short_name(&row.estimator),
            format_significant(row.jvps, 3),
            format_significant(row.seconds_per_sample, 2)
        );
        legend.push(LegendEntry {
            text,
            colour: MUTED,
            symbol: LegendSymbol::Line(Stroke::Dashed),
        });
    }
    legend
}

fn frontier_caption(view: &ReportView, group: &ComparisonGroup, without: &[&SummaryRow]) -> String {
    let mut text = format!(
        "Error per sample (filled) and error of the mean (outlined) against {}, over the cost of \
         one sample in Jacobian products and in measured time. Points further down and to the \
         left are better. Dashed lines show the effect of more probes or replicates, by the law \
         1/K. An estimator without Jacobian products appears only in the panel of measured time. \
         Thin bars are 95 % confidence intervals of the bias; they reach the lower edge if they \
         contain zero. A point on that edge may lie below it.",
        view.short_name(group.reference),
    );
    if !without.is_empty() {
        let names: Vec<String> = without
            .iter()
            .map(|row| view.short_name(&row.estimator))
            .collect();
        text.push_str(&format!(
            " Not drawn: {}, because logarithmic axes cannot show a cost or a difference of zero.",
            join_with_and(&names)
        ));
    }
    text
}
