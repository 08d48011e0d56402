//! Statistics of generated samples against data, beside what data against data give.

use super::Drawing;
use crate::report::axis::Axis;
use crate::report::number::{half_width, with_error};
use crate::report::palette::{self, Colour, MUTED};
use crate::report::picture::{Fill, Key, Mark, Notes, Panel, Picture, Side, Sign, Stroke};
use crate::report::text::shorten;
use crate::report::view::{View, title};
use crate::rows::MetricRow;

/// The sampler's name under which the data-versus-data rows stand.
pub const FLOOR: &str = "data";

pub fn draw<'a>(view: &View<'a>) -> Vec<Drawing<'a>> {
    view.models
        .iter()
        .filter_map(|model| of(view, model))
        .collect()
}

fn of<'a>(view: &View<'a>, model: &'a str) -> Option<Drawing<'a>> {
    let rows: Vec<&MetricRow> = (view.tables.metrics.iter())
        .filter(|row| row.model == model && row.value.is_finite())
        .collect();
    let mut kinds: Vec<(&str, &str)> = vec![];
    for row in rows.iter().filter(|row| row.sampler != FLOOR) {
        let kind = (row.metric.as_str(), row.features.as_str());
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    if kinds.is_empty() {
        return None;
    }
    let panels: Vec<Panel> = kinds.iter().map(|kind| panel(&rows, *kind)).collect();
    let most = panels
        .iter()
        .map(|panel| panel.y.ticks.len())
        .max()
        .unwrap_or(1);
    let columns = panels.len().min(2);
    let floor = rows.iter().any(|row| row.sampler == FLOOR);
    let mut keys = vec![Key {
        text: "generated, with its 95 % interval".into(),
        colour: GENERATED,
        sign: Sign::Dot(palette::Shape::Circle, Fill::Full),
    }];
    if floor {
        let (text, sign) = (
            "data against data: the floor".into(),
            Sign::Line(Stroke::Dashed),
        );
        keys.push(Key {
            text,
            colour: MUTED,
            sign,
        });
    }
    let picture = Picture {
        title: title(model, "statistics of samples"),
        subtitle: String::new(),
        keys,
        columns,
        cell: (
            if columns == 1 { 880.0 } else { 470.0 },
            88.0 + 34.0 * most as f64,
        ),
        panels,
    };
    let caption = "Statistics of generated samples against the reference data, with 95 % intervals \
        (Student's t of the smaller set). Dashed, with its interval shaded: the floor, the same statistic \
        of data against data, near which a perfect model would lie.";
    let stem = format!("metrics-{model}");
    Some(Drawing {
        model,
        stem,
        caption: caption.into(),
        picture,
    })
}

const GENERATED: Colour = [0, 114, 178];

fn panel(rows: &[&MetricRow], (metric, features): (&str, &str)) -> Panel {
    let of_kind = |row: &&&MetricRow| row.metric == metric && row.features == features;
    let (floor, generated): (Vec<&MetricRow>, Vec<&MetricRow>) = rows
        .iter()
        .filter(of_kind)
        .copied()
        .partition(|row| row.sampler == FLOOR);
    let names: Vec<String> = generated
        .iter()
        .map(|row| shorten(&row.sampler, 22))
        .collect();
    let ends = generated
        .iter()
        .chain(&floor)
        .flat_map(|row| [low(row), high(row)]);
    let axis = Axis::linear(&label(features), ends, 5);
    let mut panel = Panel::new(shorten(metric, 30), axis, Axis::names(&names));
    for row in &floor {
        let bottom = -0.6;
        let top = names.len() as f64 - 0.4;
        let points = vec![
            (low(row), bottom),
            (high(row), bottom),
            (high(row), top),
            (low(row), top),
        ];
        panel.marks.push(Mark::Area {
            points,
            colour: MUTED,
            opacity: 0.15,
        });
        panel.marks.push(Mark::Upright {
            x: row.value,
            colour: MUTED,
            stroke: Stroke::Dashed,
        });
    }
    let mut notes = vec![];
    for (i, row) in generated.iter().enumerate() {
        let y = (generated.len() - 1 - i) as f64;
        panel.marks.push(Mark::line(
            vec![(low(row), y), (high(row), y)],
            GENERATED,
            2.4,
        ));
        let look = palette::look(0);
        let points = vec![(row.value, y)];
        panel.marks.push(Mark::Dots {
            points,
            look,
            fill: Fill::Full,
            radius: 4.8,
            opacity: 1.0,
        });
        notes.push((y, with_error(Some(row.value), row.stderr)));
    }
    panel.side = Side::Notes(vec![Notes {
        heading: "value ± SE".into(),
        at: notes,
    }]);
    panel
}

fn label(features: &str) -> String {
    let on = if features.is_empty() {
        "the samples"
    } else {
        features
    };
    format!("value, computed on {}", shorten(on, 30))
}

fn low(row: &MetricRow) -> f64 {
    row.value - half(row)
}

fn high(row: &MetricRow) -> f64 {
    row.value + half(row)
}

fn half(row: &MetricRow) -> f64 {
    half_width(row.stderr, Some(row.n_generated.min(row.n_reference)))
}
