//! Generated samples beside real ones: tiles of images, or points of the plane.

use super::CaptionedFigure;
use crate::report::axis::Axis;
use crate::report::figure_spec::{FigureSpec, Fill, Panel, PlotMark, Raster};
use crate::report::palette::{self, Colour, MUTED, MarkerShape, MarkerStyle};
use crate::report::text::shorten;
use crate::report::view::{ReportView, figure_title};
use crate::rows::Gallery;

/// The largest number of images in one grid.
const MAX_TILES: usize = 64;
/// The largest number of points in one panel.
const MAX_POINTS: usize = 2000;
/// The largest width and height of an image in a grid, in pixels. Larger images are thinned.
const MAX_TILE_SIZE: usize = 128;

/// One figure for each gallery of images or of points in the plane.
pub(super) fn gallery_figures<'a>(view: &ReportView<'a>) -> Vec<CaptionedFigure<'a>> {
    view.tables
        .galleries
        .iter()
        .filter_map(gallery_figure)
        .collect()
}

fn gallery_figure(gallery: &Gallery) -> Option<CaptionedFigure<'_>> {
    let spec = match gallery.shape[..] {
        [2] => plane_gallery(gallery),
        [height, width] => image_gallery(gallery, [1, height, width]),
        [channels, height, width] => image_gallery(gallery, [channels, height, width]),
        _ => None,
    }?;
    let what = if gallery.shape == [2] {
        "points"
    } else {
        "images"
    };
    let caption = format!(
        "Generated {what} ({} by {}) and real {what} ({} of the data), drawn in the same {}.",
        gallery.generated.len(),
        shorten(&gallery.sampler, 60),
        gallery.real.len(),
        if gallery.shape == [2] {
            "plane"
        } else {
            "range of grey levels or colours"
        },
    );
    let stem = format!("gallery-{}-{}", gallery.model, gallery.sampler);
    Some(CaptionedFigure {
        model: &gallery.model,
        stem,
        caption,
        spec,
    })
}

/// The figure of images of this shape (channels, height, width).
fn image_gallery(gallery: &Gallery, shape: [usize; 3]) -> Option<FigureSpec> {
    let both = [(&gallery.generated, "Generated"), (&gallery.real, "Real")];
    let panels: Vec<Panel> = both
        .into_iter()
        .filter_map(|(images, heading)| {
            let raster = tile_images(images, shape, gallery.range)?;
            let mut panel = Panel::new(heading, Axis::hidden(), Axis::hidden());
            panel.aspect = Some(raster.width as f64 / raster.height as f64);
            panel.raster = Some(raster);
            Some(panel)
        })
        .collect();
    let [_, height, width] = shape;
    (!panels.is_empty()).then(|| FigureSpec {
        title: figure_title(&gallery.model, "samples"),
        subtitle: format!(
            "{} · {width} × {height} pixels",
            shorten(&gallery.sampler, 60)
        ),
        legend: vec![],
        columns: 2,
        panel_size: (400.0, 428.0),
        panels,
    })
}

/// A grid of images with thin gaps. `None` if no image has the size of the shape.
fn tile_images(images: &[Vec<f64>], shape: [usize; 3], range: [f64; 2]) -> Option<Raster> {
    let [channels, height, width] = shape;
    let size = channels
        .checked_mul(height)?
        .checked_mul(width)
        .filter(|size| *size > 0)?;
    let images: Vec<&Vec<f64>> = images
        .iter()
        .filter(|image| image.len() == size)
        .take(MAX_TILES)
        .collect();
    let columns = (1..)
        .find(|c| c * c >= images.len())
        .filter(|_| !images.is_empty())?;
    // Small images are enlarged, so that the gap is thin beside them. Large images are thinned.
    let grow = (32 / height.max(width)).max(1);
    let thin = height.max(width).div_ceil(MAX_TILE_SIZE);
    let (w, h) = (width.div_ceil(thin) * grow, height.div_ceil(thin) * grow);
    let gap = (w.max(h) / 16).max(1);
    let full_width = columns * (w + gap) - gap;
    let full_height = images.len().div_ceil(columns) * (h + gap) - gap;
    let mut pixels = vec![palette::PAPER; full_width * full_height];
    for (i, image) in images.iter().enumerate() {
        let (left, top) = ((i % columns) * (w + gap), (i / columns) * (h + gap));
        for y in 0..h {
            for x in 0..w {
                let (row, column) = (y / grow * thin, x / grow * thin);
                let colour = pixel_colour(image, shape, row * width + column, range);
                pixels[(top + y) * full_width + left + x] = colour;
            }
        }
    }
    Some(Raster {
        width: full_width,
        height: full_height,
        pixels,
    })
}

/// The colour of the pixel at index `at` of a channel. Values are mapped from `range` to levels,
/// and values that are not finite become grey.
fn pixel_colour(
    image: &[f64],
    [channels, height, width]: [usize; 3],
    at: usize,
    range: [f64; 2],
) -> Colour {
    let level = |channel: usize| {
        let value = image
            .get(channel * height * width + at)
            .copied()
            .unwrap_or(f64::NAN);
        let part = (value - range[0]) / (range[1] - range[0]);
        if part.is_finite() {
            (255.0 * part.clamp(0.0, 1.0)).round() as u8
        } else {
            128
        }
    };
    if channels >= 3 {
        [level(0), level(1), level(2)]
    } else {
        [level(0); 3]
    }
}

/// The figure of points in the plane.
fn plane_gallery(gallery: &Gallery) -> Option<FigureSpec> {
    let pair = |row: &Vec<f64>| Some((*row.first()?, *row.get(1)?));
    let thinned = |rows: &[Vec<f64>]| -> Vec<(f64, f64)> {
        let step = rows.len().div_ceil(MAX_POINTS).max(1);
        rows.iter().step_by(step).filter_map(pair).collect()
    };
    let (generated, real) = (thinned(&gallery.generated), thinned(&gallery.real));
    if generated.is_empty() && real.is_empty() {
        return None;
    }
    let all = || generated.iter().chain(&real);
    let x = Axis::linear("x", all().map(|p| p.0), 5);
    let y = Axis::linear("y", all().map(|p| p.1), 5);
    let aspect = ((x.range[1] - x.range[0]) / (y.range[1] - y.range[0])).clamp(0.4, 3.0);
    let styles = [
        palette::estimator_style(0),
        MarkerStyle {
            colour: MUTED,
            shape: MarkerShape::Circle,
        },
    ];
    let panel = |(points, heading, style): (&Vec<(f64, f64)>, &str, MarkerStyle)| {
        let mut panel = Panel::new(heading, x.clone(), y.clone());
        panel.aspect = Some(aspect);
        let points = points.clone();
        let radius = if points.len() > 500 { 1.6 } else { 2.2 };
        let cloud = PlotMark::Dots {
            points,
            style,
            fill: Fill::Full,
            radius,
            opacity: 0.6,
        };
        panel.marks.push(PlotMark::series(heading, vec![cloud]));
        panel
    };
    let panels = [
        (&generated, "Generated", styles[0]),
        (&real, "Real", styles[1]),
    ];
    Some(FigureSpec {
        title: figure_title(&gallery.model, "samples"),
        subtitle: format!(
            "{} · {} generated, {} real",
            shorten(&gallery.sampler, 60),
            gallery.generated.len(),
            gallery.real.len()
        ),
        legend: vec![],
        columns: 2,
        panel_size: (430.0, 66.0 + 370.0 / aspect),
        panels: panels
            .into_iter()
            .filter(|(points, _, _)| !points.is_empty())
            .map(panel)
            .collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_skip_images_of_other_sizes() {
        let images = vec![vec![0.0, 1.0, f64::NAN, 9.0], vec![1.0]];
        let raster = tile_images(&images, [1, 2, 2], [0.0, 1.0]).unwrap();
        assert_eq!((raster.width, raster.height), (32, 32));
        let corner = |x: usize, y: usize| raster.pixels[y * 32 + x][0];
        assert_eq!(
            [corner(0, 0), corner(31, 0), corner(0, 31), corner(31, 31)],
            [0, 255, 128, 255]
        );
        assert_eq!(tile_images(&images, [3, 9, 9], [0.0, 1.0]), None);
        assert_eq!(tile_images(&images, [0, 2, 2], [0.0, 1.0]), None);
    }
}
