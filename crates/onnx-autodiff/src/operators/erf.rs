//! `Erf`: the error function. In float64 it is the rational approximation of the Cephes library (S.
//! L. Moshier).

#![expect(
    clippy::excessive_precision,
    reason = "coefficients have the digits of their source"
)]

use std::f64::consts::FRAC_2_SQRT_PI;

use super::operator::{DerivativeResult, Operator};
use super::parts::{at_least, at_most, polynomial, square, where_greater};
use crate::graph::{Graph, Node, Val};
use crate::jvp_context::JvpContext;

/// The declaration of `Erf`.
pub(super) const OPERATORS: &[Operator] = &[Operator::new("Erf")
    .same_shape()
    .derivative(erf_derivative)
    .float64(erf_float64)
    .smooth()];

fn erf_derivative(s: &mut JvpContext) -> DerivativeResult {
    let x = s.x(0)?;
    let square = square(s, x);
    let minus = s.g.neg(square);
    let bell = s.g.op("Exp", &[minus]);
    Ok(s.g.scale(bell, FRAC_2_SQRT_PI))
}

/// The numerator of erf x = x T(x²)/U(x²) for |x| ≤ 1. The highest power comes first.
const T: [f64; 5] = [
    9.604_973_739_870_516_387_49,
    9.002_601_972_038_426_892_17e1,
    2.232_005_345_946_843_192_26e3,
    7.003_325_141_128_050_754_73e3,
    5.559_230_130_103_949_627_68e4,
];

/// The denominator of erf x = x T(x²)/U(x²) for |x| ≤ 1.
const U: [f64; 6] = [
    1.0,
    3.356_171_416_475_030_996_47e1,
    5.213_579_497_801_526_797_95e2,
    4.594_323_829_709_801_279_87e3,
    2.262_900_006_138_909_342_46e4,
    4.926_739_426_086_359_210_86e4,
];

/// The numerator of 1 − erf x = exp(−x²) P(x)/Q(x) for 1 ≤ x ≤ 8.
const P: [f64; 9] = [
    2.461_969_814_735_305_125_24e-10,
    5.641_895_648_310_688_219_77e-1,
    7.463_210_564_422_699_126_87,
    4.863_719_709_856_813_666_14e1,
    1.965_208_329_560_770_982_42e2,
    5.264_451_949_954_773_586_31e2,
    9.345_285_271_719_576_075_40e2,
    1.027_551_886_895_157_102_72e3,
    5.575_353_353_693_993_275_26e2,
];

/// The denominator of 1 − erf x = exp(−x²) P(x)/Q(x) for 1 ≤ x ≤ 8.
const Q: [f64; 9] = [
    1.0,
    1.322_819_511_547_449_925_08e1,
    8.670_721_408_859_897_423_29e1,
    3.549_377_788_878_198_910_62e2,
    9.757_085_017_432_054_897_53e2,
    1.823_909_166_879_097_362_89e3,
    2.246_337_608_187_109_817_92e3,
    1.656_663_091_941_613_501_82e3,
    5.575_353_408_177_276_755_46e2,
];

/// The error function rounds to 1 in float64 beyond this number.
const FAR: f64 = 6.0;

fn erf_float64(g: &mut Graph, node: &Node) -> Option<Val> {
    Some(error_function(g, node.input(0)?))
}

/// Appends the error function of a float64 value.
pub(super) fn error_function(g: &mut Graph, x: Val) -> Val {
    let magnitude = g.op("Abs", &[x]);
    let (near, far) = (near_zero(g, x), one_minus_complement(g, magnitude));
    let sign = g.op("Sign", &[x]);
    let far = g.mul(far, sign);
    where_greater(g, magnitude, 1.0, far, near)
}

fn near_zero(g: &mut Graph, x: Val) -> Val {
    let low = at_least(g, x, -1.0);
    let inside = at_most(g, low, 1.0);
    let square = g.mul(inside, inside);
    let (above, below) = (polynomial(g, square, &T), polynomial(g, square, &U));
    let ratio = g.div(above, below);
    g.mul(inside, ratio)
}

fn one_minus_complement(g: &mut Graph, magnitude: Val) -> Val {
    let low = at_least(g, magnitude, 1.0);
    let a = at_most(g, low, FAR);
    let square = g.mul(a, a);
    let negative = g.neg(square);
    let gauss = g.op("Exp", &[negative]);
    let (above, below) = (polynomial(g, a, &P), polynomial(g, a, &Q));
    let ratio = g.div(above, below);
    let complement = g.mul(gauss, ratio);
    let negative = g.neg(complement);
    g.shift(negative, 1.0)
}
