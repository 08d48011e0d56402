//! Statistics of generated samples against data, beside the same statistics of data against data.

use super::CaptionedFigure;
use crate::report::axis::Axis;
use crate::report::figure_spec::{
    FigureSpec, Fill, LegendEntry, LegendSymbol, Panel, PlotMark, RightMargin, Stroke, TextColumn,
};
use crate::report::number_format::{format_with_error, half_width_95};
use crate::report::palette::{self, Colour, MUTED};
use crate::report::text::{sanitize_line, shorten};
use crate::report::view::{ReportView, figure_title};
use crate::rows::MetricRow;

/// The sampler's name in rows that compare data with data.
pub(crate) const FLOOR_SAMPLER: &str = "data";

/// One figure for each model with statistics of samples.
pub(super) fn metric_figures<'a>(view: &ReportView<'a>) -> Vec<CaptionedFigure<'a>> {
    view.models
        .iter()
        .filter_map(|model| metric_figure(view, model))
        .collect()
}

fn metric_figure<'a>(view: &ReportView<'a>, model: &'a str) -> Option<CaptionedFigure<'a>> {
    let rows: Vec<&MetricRow> = (view.tables.metrics.iter())
        .filter(|row| row.model == model && row.value.is_finite())
        .collect();
    let mut kinds: Vec<(&str, &str)> = vec![];
    for row in rows.iter().filter(|row| row.sampler != FLOOR_SAMPLER) {
        let kind = (row.metric.as_str(), row.features.as_str());
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    if kinds.is_empty() {
        return None;
    }
    let panels: Vec<Panel> = kinds
        .iter()
        .map(|kind| metric_panel(&rows, *kind))
        .collect();
    let most = panels
        .iter()
        .map(|panel| panel.y.ticks.len())
        .max()
        .unwrap_or(1);
    let columns = panels.len().min(2);
    let floor = rows.iter().any(|row| row.sampler == FLOOR_SAMPLER);
    let mut legend = vec![LegendEntry {
        text: "generated samples, with 95 % confidence interval".into(),
        colour: GENERATED_COLOUR,
        symbol: LegendSymbol::Dot(palette::MarkerShape::Circle, Fill::Full),
    }];
    if floor {
        let (text, symbol) = (
            "floor: data against data".into(),
            LegendSymbol::Line(Stroke::Dashed),
        );
        legend.push(LegendEntry {
            text,
            colour: MUTED,
            symbol,
        });
    }
    let spec = FigureSpec {
        title: figure_title(model, "statistics of samples"),
        subtitle: String::new(),
        legend,
        columns,
        panel_size: (
            if columns == 1 { 880.0 } else { 470.0 },
            88.0 + 34.0 * most as f64,
        ),
        panels,
    };
    let caption = "Statistics of generated samples against the reference data, with 95 % \
        confidence intervals (Student's t, with the size of the smaller set). The dashed line \
        with a shaded interval is the floor: the same statistic of data against data. A perfect \
        model would lie near the floor.";
    let stem = format!("metrics-{model}");
    Some(CaptionedFigure {
        model,
        stem,
        caption: caption.into(),
        spec,
    })
}

/// The colour of generated samples.
const GENERATED_COLOUR: Colour = [0, 114, 178];

/// The panel of one statistic on one kind of features.
fn metric_panel(rows: &[&MetricRow], (metric, features): (&str, &str)) -> Panel {
    let of_kind = |row: &&&MetricRow| row.metric == metric && row.features == features;
    let (floor, generated): (Vec<&MetricRow>, Vec<&MetricRow>) = rows
        .iter()
        .filter(of_kind)
        .copied()
        .partition(|row| row.sampler == FLOOR_SAMPLER);
    let names: Vec<String> = generated
        .iter()
        .map(|row| shorten(&row.sampler, 22))
        .collect();
    let ends = generated
        .iter()
        .chain(&floor)
        .flat_map(|row| [metric_low(row), metric_high(row)]);
    let axis = Axis::linear(&feature_axis_label(features), ends, 5);
    let mut panel = Panel::new(shorten(metric, 30), axis, Axis::categorical(&names));
    for row in &floor {
        let bottom = -0.6;
        let top = names.len() as f64 - 0.4;
        let points = vec![
            (metric_low(row), bottom),
            (metric_high(row), bottom),
            (metric_high(row), top),
            (metric_low(row), top),
        ];
        panel.marks.push(PlotMark::Area {
            points,
            colour: MUTED,
            opacity: 0.15,
        });
        panel.marks.push(PlotMark::VerticalLine {
            x: row.value,
            colour: MUTED,
            stroke: Stroke::Dashed,
        });
    }
    let mut notes = vec![];
    for (i, row) in generated.iter().enumerate() {
        let y = (generated.len() - 1 - i) as f64;
        let interval = vec![(metric_low(row), y), (metric_high(row), y)];
        let dot = PlotMark::Dots {
            points: vec![(row.value, y)],
            style: palette::estimator_style(0),
            fill: Fill::Full,
            radius: 4.8,
            opacity: 1.0,
        };
        let shown = format_with_error(Some(row.value), row.stderr);
        let text = format!("{metric} of {}: {shown}", sanitize_line(&row.sampler));
        panel.marks.push(PlotMark::series(
            &row.sampler,
            vec![
                PlotMark::line(interval, GENERATED_COLOUR, 2.4),
                dot,
                PlotMark::Values(vec![(row.value, y, text)]),
            ],
        ));
        notes.push((y, shown));
    }
    panel.right_margin = RightMargin::TextColumns(vec![TextColumn {
        heading: "value ± SE".into(),
        texts: notes,
    }]);
    panel
}

fn feature_axis_label(features: &str) -> String {
    let on = if features.is_empty() {
        "the samples"
    } else {
        features
    };
    format!("value, computed on {}", shorten(on, 30))
}

fn metric_low(row: &MetricRow) -> f64 {
    row.value - metric_half_width(row)
}

fn metric_high(row: &MetricRow) -> f64 {
    row.value + metric_half_width(row)
}

/// Half the width of the 95 % confidence interval of a statistic.
fn metric_half_width(row: &MetricRow) -> f64 {
    half_width_95(row.stderr, Some(row.n_generated.min(row.n_reference)))
}
