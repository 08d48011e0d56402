//! Elementwise operators of several tensors, with broadcasting; casts; choices.

use super::Rule;
use crate::elem::ElemType;
use crate::error::Refusal;
use crate::ir::Val;
use crate::step::{Step, Tangent};

pub const RULES: &[(&str, Rule)] = &[
    ("Add", Rule::Single(sum)),
    ("Cast", Rule::Single(cast)),
    ("CastLike", Rule::Single(cast)),
    ("Div", Rule::Single(div)),
    ("Dropout", Rule::Several(dropout)),
    ("If", Rule::Branches),
    ("Identity", Rule::Single(identity)),
    ("Max", Rule::Single(extremum)),
    ("Mean", Rule::Single(mean)),
    ("Min", Rule::Single(extremum)),
    ("Mod", Rule::Single(remainder)),
    ("Mul", Rule::Single(mul)),
    ("Neg", Rule::Single(neg)),
    ("PRelu", Rule::Single(prelu)),
    ("Pow", Rule::Single(pow)),
    ("Sub", Rule::Single(sub)),
    ("Sum", Rule::Single(sum)),
    ("Where", Rule::Single(select)),
];

type Output = Result<Option<Tangent>, Refusal>;

/// The tangent of an operand, broadcast to the output; kept lazy where nothing is to be broadcast.
fn operand(s: &mut Step, place: usize) -> Output {
    if s.same_shape(place) {
        return Ok(s.lazy(place));
    }
    match s.aligned(place)? {
        Some(d) => s.done(d),
        None => Ok(None),
    }
}

fn sum(s: &mut Step) -> Output {
    let mut total: Option<Tangent> = None;
    for place in 0..s.node.inputs.len() {
        let next = match (total, s.same_shape(place)) {
            // A plain addition broadcasts by itself.
            (Some(_), false) => s.aligned(place)?.map(Tangent::plain),
            _ => operand(s, place)?,
        };
        total = s.sum(total, next);
    }
    Ok(total)
}

fn mean(s: &mut Step) -> Output {
    let count = s.node.inputs.len() as f64;
    let Some(total) = sum(s)? else {
        return Ok(None);
    };
    let total = s.whole(total);
    Ok(Some(Tangent::plain(s.g.scale(total, 1.0 / count))))
}

fn sub(s: &mut Step) -> Output {
    let a = operand(s, 0)?;
    let Some(b) = operand(s, 1)? else {
        return Ok(a);
    };
    match a {
        Some(a) if a.base != b.base => {
            let (a, b) = (s.whole(a), s.whole(b));
            Ok(Some(Tangent::plain(s.elementwise("Sub", a, b))))
        }
        _ => {
            let minus = s.negative(b);
            // The same base twice, both without a factor, is zero.
            Ok(if a == Some(b) { None } else { minus_of(s, a, b, minus) })
        }
    }
}

fn minus_of(s: &mut Step, a: Option<Tangent>, b: Tangent, minus: Tangent) -> Option<Tangent> {
    let Some(a) = a else { return Some(minus) };
    let one = s.g.real_like(1.0, a.base);
    let factor = s.g.sub(a.factor.unwrap_or(one), b.factor.unwrap_or(one));
    Some(Tangent { base: a.base, factor: Some(factor) })
}

fn neg(s: &mut Step) -> Output {
    Ok(s.lazy(0).map(|tangent| s.negative(tangent)))
}

fn identity(s: &mut Step) -> Output {
    Ok(s.lazy(0))
}

fn mul(s: &mut Step) -> Output {
    let (a, b) = (s.x(0)?, s.x(1)?);
    let left = s.times(0, b)?;
    let right = s.times(1, a)?;
    Ok(s.sum(left, right))
}

/// `d(a / b) = da / b - y db / b`
fn div(s: &mut Step) -> Output {
    let (b, y) = (s.x(1)?, s.y()?);
    let inverse = match s.g.content(b).and_then(|c| c.reals()) {
        Some(number) if number.len() == 1 && number[0] != 0.0 && s.g.rank(b) == Some(0) => {
            s.g.real_like(1.0 / number[0], b)
        }
        _ => s.g.op("Reciprocal", &[b]),
    };
    let left = s.times(0, inverse)?;
    if s.tangents.get(1).copied().flatten().is_none() {
        return Ok(left);
    }
    let slope = s.g.mul(y, inverse);
    let slope = s.g.neg(slope);
    let right = s.times(1, slope)?;
    Ok(s.sum(left, right))
}

/// `a - n b` with a whole number n, however it is rounded.
fn remainder(s: &mut Step) -> Output {
    let (a, b, y) = (s.x(0)?, s.x(1)?, s.y()?);
    let left = operand(s, 0)?;
    if s.lazy(1).is_none() {
        return Ok(left);
    }
    let whole = s.g.sub(y, a);
    let ratio = s.g.div(whole, b);
    let slope = s.g.op("Round", &[ratio]);
    let right = s.times(1, slope)?;
    Ok(s.sum(left, right))
}

fn pow(s: &mut Step) -> Output {
    let (x, y) = (s.x(0)?, s.y()?);
    let exponent = s.x(1)?;
    let known = s.g.content(exponent).and_then(|c| c.reals()).filter(|e| e.len() == 1).map(|e| e[0]);
    let exponent = s.g.cast(exponent, s.g.elem(x));
    let left = match known {
        _ if s.lazy(0).is_none() => None,
        Some(0.0) => None,
        Some(1.0) => operand(s, 0)?,
        _ => {
            let slope = slope(s, x, y, exponent, known);
            s.times(0, slope)?
        }
    };
    if s.lazy(1).is_none() {
        return Ok(left);
    }
    let slope = slope_of_exponent(s, x, y, exponent);
    let right = s.times(1, slope)?;
    Ok(s.sum(left, right))
}

/// `y log(x)`, and 0 where x is 0 and the exponent is not negative.
fn slope_of_exponent(s: &mut Step, x: Val, y: Val, exponent: Val) -> Val {
    let log = s.g.op("Log", &[x]);
    let slope = s.g.mul(y, log);
    if s.all(x, |x| x != 0.0) {
        return slope;
    }
    let zero = s.g.real_like(0.0, x);
    let (origin, defined) = (s.g.op("Equal", &[x, zero]), s.g.op("GreaterOrEqual", &[exponent, zero]));
    let flat = s.g.op("And", &[origin, defined]);
    s.g.op("Where", &[flat, zero, slope])
}

/// `a x^(a-1)`, and 0 where a is 0, whatever x is.
fn slope(s: &mut Step, x: Val, y: Val, exponent: Val, known: Option<f64>) -> Val {
    match known {
        Some(2.0) => s.g.scale(x, 2.0),
        Some(3.0) => {
            let square = s.g.mul(x, x);
            s.g.scale(square, 3.0)
        }
        Some(0.5) => {
            let inverse = s.g.op("Reciprocal", &[y]);
            s.g.scale(inverse, 0.5)
        }
        Some(a) => {
            let less = s.g.real_like(a - 1.0, x);
            let power = s.g.op("Pow", &[x, less]);
            s.g.scale(power, a)
        }
        None => {
            let less = s.g.shift(exponent, -1.0);
            let power = s.g.op("Pow", &[x, less]);
            let slope = s.g.mul(exponent, power);
            if s.all(exponent, |a| a != 0.0) {
                return slope;
            }
            let zero = s.g.real_like(0.0, x);
            let flat = s.g.op("Equal", &[exponent, zero]);
            s.g.op("Where", &[flat, zero, slope])
        }
    }
}

/// Operands that equal the result share its tangent.
fn extremum(s: &mut Step) -> Output {
    let y = s.y()?;
    let mut hits = Vec::new();
    for place in 0..s.node.inputs.len() {
        let x = s.x(place)?;
        let hit = s.g.op("Equal", &[x, y]);
        hits.push(s.g.cast(hit, s.g.elem(y)));
    }
    let count = s.g.combine("Add", &hits);
    let mut total = None;
    for (place, hit) in hits.into_iter().enumerate() {
        let weight = s.g.div(hit, count);
        let part = s.times(place, weight)?;
        total = s.sum(total, part);
    }
    Ok(total)
}

fn prelu(s: &mut Step) -> Output {
    let (x, slope) = (s.x(0)?, s.x(1)?);
    let (zero, one) = (s.g.real_like(0.0, x), s.g.real_like(1.0, x));
    let positive = s.g.op("Greater", &[x, zero]);
    let factor = s.g.op("Where", &[positive, one, slope]);
    let left = s.times(0, factor)?;
    let below = s.g.op("Min", &[x, zero]);
    let right = s.times(1, below)?;
    Ok(s.sum(left, right))
}

fn select(s: &mut Step) -> Output {
    let condition = s.node.input(0).ok_or("its condition is missing")?;
    let (yes, no) = (s.aligned(1)?, s.aligned(2)?);
    let Some(like) = yes.or(no) else {
        return Ok(None);
    };
    let zero = s.g.real_like(0.0, like);
    let chosen = s.g.op("Where", &[condition, yes.unwrap_or(zero), no.unwrap_or(zero)]);
    s.done(chosen)
}

fn cast(s: &mut Step) -> Output {
    let to = s.node.output(0).map_or(ElemType::UNKNOWN, |v| s.g.elem(v));
    if to == ElemType::UNKNOWN || to.is_quantized() {
        return Err(format!("a cast to {to} is not differentiated; export the model without quantization").into());
    }
    let Some(tangent) = s.lazy(0).filter(|_| to.is_float()) else {
        return Ok(None);
    };
    if s.g.elem(tangent.base) == to.tangent() {
        return Ok(Some(tangent));
    }
    let whole = s.whole(tangent);
    Ok(Some(Tangent::plain(s.g.cast(whole, to.tangent()))))
}

fn dropout(s: &mut Step) -> Result<Vec<Option<Tangent>>, Refusal> {
    let training = s.node.input(2).map(|v| s.g.content(v).and_then(|c| c.items.first()?.as_fixed()));
    match training {
        None | Some(Some(0)) => Ok(vec![s.lazy(0), None]),
        _ => Err("dropout in training mode is random; export the model in evaluation mode".into()),
    }
}
