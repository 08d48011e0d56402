//! The mean paired difference of each estimator from the reference, with its 95 % confidence
//! interval.

use super::CaptionedFigure;
use crate::report::axis::Axis;
use crate::report::figure_spec::{
    FigureSpec, Fill, Panel, PlotMark, RightMargin, Stroke, TextColumn,
};
use crate::report::number_format::{format_interval, format_with_error, half_width_95, if_finite};
use crate::report::palette::INK;
use crate::report::view::{ComparisonGroup, ReportView, figure_title};
use crate::rows::SummaryRow;

/// One figure for each comparison group whose reference has the same solver.
pub(super) fn bias_figures<'a>(view: &ReportView<'a>) -> Vec<CaptionedFigure<'a>> {
    view.groups_with_figures()
        .filter(|group| !group.reference_under_other_solver)
        .filter_map(|group| bias_figure(view, group))
        .collect()
}

fn bias_figure<'a>(
    view: &ReportView<'a>,
    group: &ComparisonGroup<'a>,
) -> Option<CaptionedFigure<'a>> {
    let rows: Vec<&SummaryRow> = (group.rows.iter().copied())
        .filter(|row| row.estimator != group.reference && if_finite(row.bias).is_some())
        .collect();
    if rows.is_empty() {
        return None;
    }
    let names: Vec<String> = rows
        .iter()
        .map(|row| view.short_name(&row.estimator))
        .collect();
    let ends = rows
        .iter()
        .flat_map(|row| [bias_lower(row), bias_upper(row)])
        .chain([0.0]);
    let reference = view.short_name(group.reference);
    let label = format!("log p − log p by {reference}, nats, mean over samples");
    let mut panel = Panel::new(
        "",
        Axis::linear_or_symlog(&label, ends, 7),
        Axis::categorical(&names),
    );
    panel.marks.push(PlotMark::VerticalLine {
        x: 0.0,
        colour: INK,
        stroke: Stroke::Solid,
    });
    let mut nats = vec![];
    let mut bits = vec![];
    for (i, row) in rows.iter().enumerate() {
        let y = (rows.len() - 1 - i) as f64;
        let style = view.style(&row.estimator);
        let interval = vec![(bias_lower(row), y), (bias_upper(row), y)];
        let mean = PlotMark::Dots {
            points: vec![(bias_value(row), y)],
            style,
            fill: Fill::Full,
            radius: 5.0,
            opacity: 1.0,
        };
        let name = view.short_name(&row.estimator);
        let text = match format_interval(row.bias, row.bias_stderr, row.bias_n) {
            Some(interval) => format!("{name}: {} nats, 95 % {interval}", format_bias(row)),
            None => format!("{name}: {} nats", format_bias(row)),
        };
        panel.marks.push(PlotMark::series(
            name,
            vec![
                PlotMark::line(interval, style.colour, 2.6),
                mean,
                PlotMark::Values(vec![(bias_value(row), y, text)]),
            ],
        ));
        nats.push((y, format_bias(row)));
        bits.extend(
            group
                .bits_per_nat()
                .map(|factor| (y, format_bias_in_bits(row, factor))),
        );
    }
    let columns = [("nats", nats), ("bits/dim", bits)];
    let columns = columns.into_iter().filter(|(_, at)| !at.is_empty());
    let columns = columns.map(|(heading, at)| TextColumn {
        heading: heading.into(),
        texts: at,
    });
    panel.right_margin = RightMargin::TextColumns(columns.collect());
    let spec = FigureSpec {
        title: figure_title(group.model, &format!("bias against {reference}")),
        subtitle: group.subtitle(),
        legend: vec![],
        columns: 1,
        panel_size: (880.0, 92.0 + 30.0 * rows.len() as f64),
        panels: vec![panel],
    };
    let (model, stem) = (group.model, view.file_stem("bias", group));
    Some(CaptionedFigure {
        model,
        stem,
        caption: bias_caption(view, group, &rows),
        spec,
    })
}

fn bias_value(row: &SummaryRow) -> f64 {
    if_finite(row.bias).unwrap_or(0.0)
}

fn bias_lower(row: &SummaryRow) -> f64 {
    bias_value(row) - half_width_95(row.bias_stderr, row.bias_n)
}

fn bias_upper(row: &SummaryRow) -> f64 {
    bias_value(row) + half_width_95(row.bias_stderr, row.bias_n)
}

fn format_bias(row: &SummaryRow) -> String {
    format_with_error(row.bias, row.bias_stderr)
}

fn format_bias_in_bits(row: &SummaryRow, factor: f64) -> String {
    format_with_error(
        row.bias.map(|bias| factor * bias),
        row.bias_stderr.map(|error| factor * error),
    )
}

fn bias_caption(view: &ReportView, group: &ComparisonGroup, rows: &[&SummaryRow]) -> String {
    let n = rows.iter().map(|row| row.n).max().unwrap_or(0);
    let mut text = format!(
        "Mean difference in log-likelihood from {} over the same samples (n = {n}). Bars are 95 % \
         confidence intervals of the mean (Student's t, paired per sample). The numbers on the \
         right are the mean ± one standard error.",
        view.short_name(group.reference),
    );
    if group.bits_per_nat().is_some() {
        text.push_str(
            " In bits/dim the sign is reversed, since bits/dim fall if the log-likelihood rises.",
        );
    }
    text
}
