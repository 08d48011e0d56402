//! The colours of the report: one per estimator in all figures, and colour maps for fields. They
//! are chosen for readers with colour-blindness too.

/// A colour: its red, green and blue levels from 0 to 255.
pub(super) type Colour = [u8; 3];

/// The colour of texts and of the reference estimator.
pub(super) const INK: Colour = [34, 34, 38];
/// The colour of secondary texts and marks.
pub(super) const MUTED: Colour = [105, 108, 116];
/// The colour of axes and of reference lines.
pub(super) const RULE: Colour = [160, 164, 172];
/// The colour of grid lines at ticks.
pub(super) const GRID: Colour = [232, 234, 238];
/// The colour of grid lines between ticks.
pub(super) const FAINT: Colour = [243, 244, 246];
/// The background colour.
pub(super) const PAPER: Colour = [255, 255, 255];

/// The colours of Okabe and Ito without black and yellow, then muted colours of Tol, then a grey.
/// Yellow is hard to see on white paper.
const ESTIMATOR_COLOURS: [Colour; 11] = [
    [0, 114, 178],
    [230, 159, 0],
    [0, 158, 115],
    [204, 121, 167],
    [213, 94, 0],
    [86, 180, 233],
    [136, 34, 85],
    [153, 153, 51],
    [68, 170, 153],
    [51, 34, 136],
    [130, 130, 130],
];

/// The shape of a marker. It tells estimators apart for readers who cannot see their colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MarkerShape {
    Circle,
    Square,
    Diamond,
    Triangle,
}

/// The colour and the shape of an estimator's markers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MarkerStyle {
    pub colour: Colour,
    pub shape: MarkerShape,
}

/// The style of the reference estimator.
pub(super) const REFERENCE_STYLE: MarkerStyle = MarkerStyle {
    colour: INK,
    shape: MarkerShape::Circle,
};

/// The style of the `index`-th estimator, not counting the reference. Colours repeat after 11
/// estimators.
pub(super) fn estimator_style(index: usize) -> MarkerStyle {
    const SHAPES: [MarkerShape; 4] = [
        MarkerShape::Circle,
        MarkerShape::Square,
        MarkerShape::Diamond,
        MarkerShape::Triangle,
    ];
    MarkerStyle {
        colour: ESTIMATOR_COLOURS[index % ESTIMATOR_COLOURS.len()],
        shape: SHAPES[index % SHAPES.len()],
    }
}

/// A darker version of the colour, for text on white.
pub(super) fn text_colour(colour: Colour) -> Colour {
    colour.map(|level| (f64::from(level) * 0.72) as u8)
}

/// A map from numbers in [0, 1] to colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ColourMap {
    /// Perceptually uniform, from dark to light. It shows values.
    Viridis,
    /// From blue over white to red. It shows differences.
    Diverging,
}

impl ColourMap {
    /// The colour at `at`. A number outside [0, 1] gets the colour of the nearer end, and a number
    /// that is not finite gets the colour at 0.
    pub(super) fn colour(self, at: f64) -> Colour {
        let stops: &[Colour] = match self {
            ColourMap::Viridis => &VIRIDIS,
            ColourMap::Diverging => &DIVERGING,
        };
        let last = stops.len() - 1;
        let place = if at.is_finite() {
            at.clamp(0.0, 1.0) * last as f64
        } else {
            0.0
        };
        let below = (place.floor() as usize).min(last - 1);
        let part = place - below as f64;
        std::array::from_fn(|i| {
            let (a, b) = (f64::from(stops[below][i]), f64::from(stops[below + 1][i]));
            (a + (b - a) * part).round() as u8
        })
    }
}

/// Matplotlib's viridis at nine equal steps. Linear interpolation between them shows no visible
/// difference.
const VIRIDIS: [Colour; 9] = [
    [68, 1, 84],
    [71, 44, 122],
    [59, 81, 139],
    [44, 113, 142],
    [33, 144, 141],
    [39, 173, 129],
    [92, 200, 99],
    [170, 220, 50],
    [253, 231, 37],
];

/// ColorBrewer's RdBu with seven classes, from blue to red.
const DIVERGING: [Colour; 7] = [
    [33, 102, 172],
    [103, 169, 207],
    [209, 229, 240],
    [247, 247, 247],
    [253, 219, 199],
    [239, 138, 98],
    [178, 24, 43],
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twelve_estimators_look_different() {
        let mut looks: Vec<_> = (0..11).map(estimator_style).collect();
        looks.push(REFERENCE_STYLE);
        for (i, a) in looks.iter().enumerate() {
            assert!(looks[..i].iter().all(|b| a.colour != b.colour));
        }
    }

    #[test]
    fn colour_maps_reach_their_ends_and_clamp_any_input() {
        assert_eq!(ColourMap::Viridis.colour(-3.0), VIRIDIS[0]);
        assert_eq!(ColourMap::Viridis.colour(7.0), VIRIDIS[8]);
        assert_eq!(ColourMap::Diverging.colour(0.5), [247, 247, 247]);
        assert_eq!(ColourMap::Viridis.colour(f64::NAN), VIRIDIS[0]);
    }
}
