//! The arc functions by the rational approximation of Moshier's Cephes library.
#![expect(clippy::excessive_precision, reason = "coefficients have the digits of their source")]

use std::f64::consts::{FRAC_PI_2, FRAC_PI_4};

use super::{polynomial, where_greater};
use crate::elem::ElemType;
use crate::ir::{Graph, Node, Val};

/// atan x = x + x z P(z)/Q(z), z = x², for |x| ≤ 0.66.
const P: [f64; 5] = [
    -8.750_608_600_031_904_122_785e-1,
    -1.615_753_718_733_365_076_637e1,
    -7.500_855_792_314_704_667_340e1,
    -1.228_866_684_490_136_173_410e2,
    -6.485_021_904_942_025_371_773e1,
];
const Q: [f64; 6] = [
    1.0,
    2.485_846_490_142_306_297_962e1,
    1.650_270_098_316_988_542_046e2,
    4.328_810_604_912_902_668_951e2,
    4.853_903_996_359_136_964_868e2,
    1.945_506_571_482_613_964_425e2,
];

/// tan(3π/8)
const STEEP: f64 = 2.414_213_562_373_095;
const FLAT: f64 = 0.66;

pub fn atan(g: &mut Graph, node: &Node) -> Option<Val> {
    Some(arc_tangent(g, node.input(0)?))
}

fn arc_tangent(g: &mut Graph, x: Val) -> Val {
    let magnitude = g.op("Abs", &[x]);
    let one = g.real(1.0, ElemType::DOUBLE);
    let [quarter, eighth, none] = [FRAC_PI_2, FRAC_PI_4, 0.0].map(|angle| g.real(angle, ElemType::DOUBLE));
    let inverse = g.op("Reciprocal", &[magnitude]);
    let inverse = g.neg(inverse);
    let (down, up) = (g.sub(magnitude, one), g.add(magnitude, one));
    let turned = g.div(down, up);
    let inner = where_greater(g, magnitude, FLAT, turned, magnitude);
    let inner = where_greater(g, magnitude, STEEP, inverse, inner);
    let base = where_greater(g, magnitude, FLAT, eighth, none);
    let base = where_greater(g, magnitude, STEEP, quarter, base);
    let square = g.mul(inner, inner);
    let (above, below) = (polynomial(g, square, &P), polynomial(g, square, &Q));
    let ratio = g.div(above, below);
    let bend = g.mul(square, ratio);
    let bend = g.mul(bend, inner);
    let small = g.add(inner, bend);
    let angle = g.add(base, small);
    let sign = g.op("Sign", &[x]);
    g.mul(angle, sign)
}

/// `atan(x / √((1 − x)(1 + x)))`
pub fn asin(g: &mut Graph, node: &Node) -> Option<Val> {
    Some(arc_sine(g, node.input(0)?))
}

fn arc_sine(g: &mut Graph, x: Val) -> Val {
    let negative = g.neg(x);
    let (below, above) = (g.shift(negative, 1.0), g.shift(x, 1.0));
    let product = g.mul(below, above);
    let root = g.op("Sqrt", &[product]);
    let tangent = g.div(x, root);
    arc_tangent(g, tangent)
}

pub fn acos(g: &mut Graph, node: &Node) -> Option<Val> {
    let sine = arc_sine(g, node.input(0)?);
    let negative = g.neg(sine);
    Some(g.shift(negative, FRAC_PI_2))
}
