//! Per-sample log-likelihoods of each estimator against the reference's.

use std::collections::BTreeMap;

use super::Drawing;
use crate::report::axis::Axis;
use crate::report::number::significant;
use crate::report::palette::{RULE, Shape};
use crate::report::picture::{Fill, Mark, Panel, Picture, Stroke};
use crate::report::text::shorten;
use crate::report::view::{Group, View, title};

/// Most points of one panel and of the whole figure: files stay small, clouds keep their form.
const PER_PANEL: usize = 2000;
const PER_FIGURE: usize = 9000;

pub fn draw<'a>(view: &View<'a>) -> Vec<Drawing<'a>> {
    view.groups_with_figures()
        .filter_map(|group| of(view, group))
        .collect()
}

fn of<'a>(view: &View<'a>, group: &Group<'a>) -> Option<Drawing<'a>> {
    let value = |s: &crate::rows::Sample| Some((s.sample, s.log_likelihood?));
    let reference: BTreeMap<usize, f64> = group
        .samples(view.tables, group.reference)
        .into_iter()
        .filter_map(value)
        .collect();
    let clouds: Vec<(&str, Vec<(f64, f64)>)> = (group.estimators().into_iter())
        .filter(|estimator| *estimator != group.reference)
        .map(|estimator| {
            let samples = group
                .samples(view.tables, estimator)
                .into_iter()
                .filter_map(value);
            let pairs = samples.filter_map(|(i, v)| Some((*reference.get(&i)?, v)));
            (estimator, pairs.collect::<Vec<_>>())
        })
        .filter(|(_, pairs)| !pairs.is_empty())
        .collect();
    if clouds.is_empty() {
        return None;
    }
    let most = PER_PANEL.min(PER_FIGURE / clouds.len()).max(1);
    let panels: Vec<Panel> = clouds
        .iter()
        .map(|(estimator, pairs)| panel(view, group, estimator, pairs, most))
        .collect();
    let columns = if panels.len() == 4 {
        2
    } else {
        panels.len().min(3)
    };
    let side = if columns == 1 { 420.0 } else { 330.0 };
    let drawn = clouds.iter().any(|(_, pairs)| pairs.len() > most);
    let thinned = if drawn {
        format!(
            " At most {most} points are drawn per panel, evenly spaced in the table; the numbers use all."
        )
    } else {
        String::new()
    };
    let caption = format!(
        "Each point is one sample: log-likelihood by the named estimator against {}. Dashed: \
         equality. r is Pearson's correlation, RMSE the root mean square difference in nats.{thinned}",
        view.name(group.reference),
    );
    let picture = Picture {
        title: title(group.model, "log-likelihood per sample"),
        subtitle: group.subtitle(),
        keys: vec![],
        columns,
        cell: (side, side + 6.0),
        panels,
    };
    let (model, stem) = (group.model, view.stem("scatter", group));
    Some(Drawing {
        model,
        stem,
        caption,
        picture,
    })
}

fn panel(view: &View, group: &Group, estimator: &str, pairs: &[(f64, f64)], most: usize) -> Panel {
    let both = || pairs.iter().flat_map(|&(a, b)| [a, b]);
    let short = shorten(&view.name(estimator), 24);
    let x = Axis::linear(
        &format!("by {}, nats", shorten(&view.name(group.reference), 24)),
        both(),
        4,
    );
    let y = Axis::linear(&format!("by {short}, nats"), both(), 4);
    let ends = vec![(x.range[0], x.range[0]), (x.range[1], x.range[1])];
    let mut panel = Panel::new(short, x, y);
    panel.aspect = Some(1.0);
    let stroke = Stroke::Dashed;
    panel.marks.push(Mark::Line {
        points: ends,
        colour: RULE,
        width: 1.2,
        stroke,
    });
    let mut look = view.look(estimator);
    // Forms would hide each other in a crowd; the panel's title names the estimator.
    look.shape = Shape::Circle;
    let step = pairs.len().div_ceil(most);
    let points: Vec<(f64, f64)> = pairs.iter().copied().step_by(step).collect();
    let opacity = if points.len() > 400 { 0.35 } else { 0.6 };
    let radius = if points.len() > 400 { 2.0 } else { 2.8 };
    panel.marks.push(Mark::Dots {
        points,
        look,
        fill: Fill::Full,
        radius,
        opacity,
    });
    panel.marks.push(Mark::Corner(agreement(pairs)));
    panel
}

/// Correlation and difference, for the corner that a cloud along the diagonal leaves free; of one
/// pair only the difference.
fn agreement(pairs: &[(f64, f64)]) -> Vec<String> {
    let n = pairs.len() as f64;
    let rmse = (pairs.iter().map(|(a, b)| (b - a).powi(2)).sum::<f64>() / n).sqrt();
    let (ma, mb) = (
        pairs.iter().map(|p| p.0).sum::<f64>() / n,
        pairs.iter().map(|p| p.1).sum::<f64>() / n,
    );
    let sum =
        |f: &dyn Fn(f64, f64) -> f64| pairs.iter().map(|&(a, b)| f(a - ma, b - mb)).sum::<f64>();
    let (ab, aa, bb) = (sum(&|a, b| a * b), sum(&|a, _| a * a), sum(&|_, b| b * b));
    let r = ab / (aa * bb).sqrt();
    let rmse = format!("RMSE {} nats", significant(rmse, 3));
    let r = r.is_finite().then(|| format!("r = {}", correlation(r)));
    r.into_iter().chain([rmse]).collect()
}

/// Near one the distance to one is what counts: 0.99987 rather than 1.000.
pub fn correlation(r: f64) -> String {
    let decimals = (1..=5)
        .find(|&d| 1.0 - r.abs() >= 10f64.powi(-d))
        .map_or(6, |d| d + 1);
    crate::report::number::fixed(r, (decimals as usize).max(3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agreement_says_what_is_known() {
        assert_eq!(agreement(&[(1.0, 1.5)]), ["RMSE 0.500 nats"]);
        assert_eq!(
            agreement(&[(0.0, 1.0), (1.0, 2.0), (2.0, 3.0)]),
            ["r = 1.000000", "RMSE 1.00 nats"]
        );
    }

    #[test]
    fn correlations_near_one_keep_their_digits() {
        assert_eq!(correlation(0.97612), "0.976");
        assert_eq!(correlation(0.99987), "0.99987");
        assert_eq!(correlation(-0.5), "−0.500");
    }
}
