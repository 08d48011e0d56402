//! The figures: each a function from the tables to pictures, none where its columns are empty.
//!
//! A new figure is a file here, a `mod` line and a line in [`ALL`].

mod bias;
mod budget;
mod density;
mod divergence;
mod frontier;
mod gallery;
mod gamma;
mod histogram;
mod metrics;
mod scatter;

use anyhow::{Context, Result};

pub use budget::COMPONENTS;
pub use metrics::FLOOR;
pub use scatter::correlation;

use super::Figure;
use super::picture::Picture;
use super::plot;
use super::text::slug;
use super::view::View;

/// A picture with what the page says about it.
pub struct Drawing<'a> {
    pub model: &'a str,
    /// What the file is called, before it is made safe and unique.
    pub stem: String,
    pub caption: String,
    pub picture: Picture,
}

/// Draws what the tables allow.
type Draw = for<'a> fn(&View<'a>) -> Vec<Drawing<'a>>;

/// All figures, in the order in which a model's section shows them.
const ALL: [Draw; 10] = [
    bias::draw,
    frontier::draw,
    budget::draw,
    scatter::draw,
    divergence::draw,
    histogram::draw,
    density::draw,
    gallery::draw,
    gamma::draw,
    metrics::draw,
];

/// Every figure of every model, with the model's name.
pub fn figures<'a>(view: &View<'a>) -> Result<Vec<(&'a str, Figure)>> {
    let mut done: Vec<(&str, Figure)> = vec![];
    for drawing in ALL.iter().flat_map(|draw| draw(view)) {
        let name = unused(&slug(&drawing.stem), &done);
        let (svg, png) =
            plot::render(&drawing.picture).with_context(|| format!("figure {name}"))?;
        done.push((
            drawing.model,
            Figure {
                name,
                caption: drawing.caption,
                svg,
                png,
            },
        ));
    }
    Ok(done)
}

/// Two models may differ only in characters that a file name loses.
fn unused(stem: &str, done: &[(&str, Figure)]) -> String {
    let taken = |name: &str| done.iter().any(|(_, figure)| figure.name == name);
    let numbered = (2..).map(|i| format!("{stem}-{i}"));
    let mut names = std::iter::once(stem.to_string()).chain(numbered);
    names.find(|name| !taken(name)).unwrap_or_default()
}
