//! Where a continuous bound loses: the error of the predicted noise over the noise levels.

use super::CaptionedFigure;
use crate::num::stats;
use crate::report::axis::Axis;
use crate::report::figure_spec::{FigureSpec, LegendEntry, LegendSymbol, Panel, PlotMark, Stroke};
use crate::report::view::{ReportView, figure_title};
use crate::rows::BoundProfileRow;

/// The number of equal parts of the log-SNR over which draws are averaged.
const BINS: usize = 32;

/// One figure for each model and dataset with such a bound.
pub(super) fn bound_profile_figures<'a>(view: &ReportView<'a>) -> Vec<CaptionedFigure<'a>> {
    let rows = &view.tables.bound_profile;
    let mut found: Vec<(&str, &str)> = Vec::new();
    for row in rows {
        let place = (row.model.as_str(), row.dataset.as_str());
        if !found.contains(&place) {
            found.push(place);
        }
    }
    let figure = |(model, dataset): (&'a str, &'a str)| {
        let mine: Vec<&BoundProfileRow> = (rows.iter())
            .filter(|row| (row.model.as_str(), row.dataset.as_str()) == (model, dataset))
            .collect();
        bound_profile_figure(view, model, dataset, &mine)
    };
    found.into_iter().filter_map(figure).collect()
}

/// The mean rate in one part of the log-SNR.
struct ProfileBin {
    log_snr: f64,
    rate: f64,
    /// Half the width of the 95 % interval of the mean over samples; `None` for one sample.
    half_width: Option<f64>,
    normal_rate: f64,
}

/// The means over the samples in equal parts of the log-SNR, of parts that have a draw. A sample with
/// several draws in a part counts once.
fn profile_bins(rows: &[&BoundProfileRow], [low, high]: [f64; 2]) -> Vec<ProfileBin> {
    let width = (high - low) / BINS as f64;
    let bin = |row: &BoundProfileRow| (((row.log_snr - low) / width) as usize).min(BINS - 1);
    let mean_of = |i: usize| {
        let inside: Vec<&&BoundProfileRow> = rows.iter().filter(|row| bin(row) == i).collect();
        let mut samples: Vec<usize> = inside.iter().map(|row| row.sample).collect();
        samples.sort_unstable();
        samples.dedup();
        let per_sample = |value: fn(&BoundProfileRow) -> f64| -> Vec<f64> {
            let mean = |sample: &usize| {
                let own = inside.iter().filter(|row| row.sample == *sample);
                let values: Vec<f64> = own.map(|row| value(row)).collect();
                values.iter().sum::<f64>() / values.len() as f64
            };
            samples.iter().map(mean).collect()
        };
        let rate = stats::mean_estimate(&per_sample(|row| row.rate))?;
        let normal = stats::mean_estimate(&per_sample(|row| row.normal_rate))?;
        Some(ProfileBin {
            log_snr: low + (i as f64 + 0.5) * width,
            rate: rate.value,
            half_width: (rate.stderr).map(|e| stats::confidence_half_width(e, Some(rate.n), 0.95)),
            normal_rate: normal.value,
        })
    };
    (0..BINS).filter_map(mean_of).collect()
}

fn bound_profile_figure<'a>(
    view: &ReportView<'a>,
    model: &'a str,
    dataset: &'a str,
    rows: &[&'a BoundProfileRow],
) -> Option<CaptionedFigure<'a>> {
    let finite = rows.iter().filter(|row| row.log_snr.is_finite());
    let range = finite.fold([f64::INFINITY, f64::NEG_INFINITY], |[low, high], row| {
        [low.min(row.log_snr), high.max(row.log_snr)]
    });
    if range[0] >= range[1] {
        return None;
    }
    let mut estimators: Vec<&str> = Vec::new();
    for row in rows {
        if !estimators.contains(&row.estimator.as_str()) {
            estimators.push(&row.estimator);
        }
    }
    let bins: Vec<(&str, Vec<ProfileBin>)> = (estimators.iter())
        .map(|estimator| {
            let own: Vec<&BoundProfileRow> = (rows.iter().copied())
                .filter(|row| row.estimator == *estimator)
                .collect();
            (*estimator, profile_bins(&own, range))
        })
        .collect();
    let reach = |bin: &ProfileBin| {
        let half = bin.half_width.unwrap_or(0.0);
        [bin.rate - half, bin.rate + half, bin.normal_rate, 0.0]
    };
    let values: Vec<f64> = bins
        .iter()
        .flat_map(|(_, bins)| bins.iter().flat_map(reach))
        .collect();
    let label = "log signal-to-noise ratio ln(α²/σ²): noise at the left, data at the right";
    let mut panel = Panel::new(
        "Rate of the bound",
        Axis::with_range(label, range, 8),
        Axis::linear_or_symlog("nats per unit of log-SNR", values, 5),
    );
    let grey = [120, 120, 120];
    let mut legend = Vec::new();
    for (estimator, bins) in &bins {
        let colour = view.style(estimator).colour;
        let side = |sign: f64| {
            move |bin: &ProfileBin| Some((bin.log_snr, bin.rate + sign * bin.half_width?))
        };
        let mut band: Vec<(f64, f64)> = bins.iter().filter_map(side(1.0)).collect();
        band.extend(bins.iter().rev().filter_map(side(-1.0)));
        let line = bins.iter().map(|bin| (bin.log_snr, bin.rate)).collect();
        let mut marks = vec![PlotMark::line(line, colour, 1.7)];
        if band.len() > 3 {
            marks.push(PlotMark::Area {
                points: band,
                colour,
                opacity: 0.15,
            });
        }
        let name = view.short_name(estimator);
        panel.marks.push(PlotMark::series(&name, marks));
        legend.push(LegendEntry {
            text: name,
            colour,
            symbol: LegendSymbol::Line(Stroke::Solid),
        });
    }
    if let Some((_, bins)) = bins.first() {
        let line = bins
            .iter()
            .map(|bin| (bin.log_snr, bin.normal_rate))
            .collect();
        let name = "denoiser of a normal distribution as large as the sample";
        let marks = vec![PlotMark::line(line, grey, 1.2)];
        panel.marks.push(PlotMark::series(name, marks));
        legend.push(LegendEntry {
            text: name.to_owned(),
            colour: grey,
            symbol: LegendSymbol::Line(Stroke::Solid),
        });
    }
    let mut samples: Vec<usize> = rows.iter().map(|row| row.sample).collect();
    samples.sort_unstable();
    samples.dedup();
    let caption = format!(
        "Half the squared error of the predicted noise, in nats per unit of log-SNR, as the mean over \
         {} samples with 95 % intervals. The area under the curve is the diffusion term of the \
         bound: where the curve lies highest, the network costs most. A network that knows \
         nothing but the size of the data lies on the grey curve.",
        samples.len()
    );
    Some(CaptionedFigure {
        model,
        stem: format!("bound-profile-{model}-{dataset}"),
        caption,
        spec: FigureSpec {
            title: figure_title(model, "the bound over the noise levels"),
            subtitle: format!("{dataset} · {} samples", samples.len()),
            legend,
            columns: 1,
            panel_size: (880.0, 300.0),
            panels: vec![panel],
        },
    })
}
