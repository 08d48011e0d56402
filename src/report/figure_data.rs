//! The values that a figure shows, as CSV: one row for each point of each series.

use anyhow::Result;

use super::axis::Axis;
use super::figure_spec::{FigureSpec, Panel, PlotMark};
use super::text::sanitize_line;

/// The columns. `x` and `y` are values in the units of their labels; where an axis has names, the label
/// is the name.
const HEADER: [&str; 7] = ["panel", "series", "mark", "x_label", "x", "y_label", "y"];

/// The values of the figure's series as CSV. A raster and the marks that only help to read a figure have
/// no rows; the tables of the run contain the values of a raster.
///
/// # Errors
/// Fails if the text cannot be made, which does not happen in memory.
pub(super) fn figure_csv(spec: &FigureSpec) -> Result<String> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(HEADER)?;
    for panel in &spec.panels {
        for mark in &panel.marks {
            if let PlotMark::Series { name, marks } = mark {
                for mark in marks {
                    write_mark(&mut writer, panel, name, mark)?;
                }
            }
        }
    }
    Ok(String::from_utf8(writer.into_inner()?)?)
}

/// The rows of one mark of a series.
fn write_mark(
    writer: &mut csv::Writer<Vec<u8>>,
    panel: &Panel,
    series: &str,
    mark: &PlotMark,
) -> Result<()> {
    let (kind, points) = match mark {
        PlotMark::Line { points, .. } => ("line", points),
        PlotMark::Dots { points, .. } => ("point", points),
        PlotMark::Area { points, .. } => ("area", points),
        _ => return Ok(()),
    };
    for (x, y) in points {
        let text = |text: &str| sanitize_line(text);
        writer.write_record([
            text(&panel.title),
            text(series),
            kind.to_owned(),
            text(&label_at(&panel.x, *x)),
            x.to_string(),
            text(&label_at(&panel.y, *y)),
            y.to_string(),
        ])?;
    }
    Ok(())
}

/// The label of an axis, or the name at a place if the axis has names.
fn label_at(axis: &Axis, place: f64) -> String {
    if !axis.label.is_empty() {
        return axis.label.clone();
    }
    let named = axis.ticks.iter().find(|tick| tick.position == place);
    named.map_or_else(String::new, |tick| tick.text.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_point_of_a_series_has_a_row() {
        let names = ["a".to_owned(), "b".to_owned()];
        let mut panel = Panel::new(
            "p",
            Axis::with_range("nats", [0.0, 1.0], 3),
            Axis::categorical(&names),
        );
        let line = |points| PlotMark::line(points, [0, 0, 0], 1.0);
        panel.marks.push(line(vec![(9.0, 9.0), (8.0, 8.0)]));
        let marks = vec![line(vec![(0.1, 1.0), (0.25, 0.0)])];
        panel.marks.push(PlotMark::series("s,1", marks));
        let spec = FigureSpec {
            title: String::new(),
            subtitle: String::new(),
            legend: vec![],
            columns: 1,
            panel_size: (100.0, 100.0),
            panels: vec![panel],
        };
        let text = figure_csv(&spec).expect("a table");
        assert_eq!(
            text,
            "panel,series,mark,x_label,x,y_label,y\n\
             p,\"s,1\",line,nats,0.1,a,1\n\
             p,\"s,1\",line,nats,0.25,b,0\n"
        );
    }
}
