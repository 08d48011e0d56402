//! Elementwise operators and broadcasting.

use super::{Mask, Parts, Turn};
use crate::error::Refusal;

pub fn identity(t: &mut Turn) -> Result<Parts, Refusal> {
    Ok(vec![(0, t.c()?)])
}

pub fn neg(t: &mut Turn) -> Result<Parts, Refusal> {
    let c = t.c()?;
    let minus = t.g.neg(c);
    t.pass_mask(c, minus);
    Ok(vec![(0, minus)])
}

pub fn cast(t: &mut Turn) -> Result<Parts, Refusal> {
    let (c, x) = (t.c()?, t.input(0)?);
    let cast = t.g.cast(c, t.g.elem(x));
    t.pass_mask(c, cast);
    Ok(vec![(0, cast)])
}

pub fn expand(t: &mut Turn) -> Result<Parts, Refusal> {
    let c = t.c()?;
    Ok(vec![(0, t.unbroadcast(c, 0)?)])
}

pub fn add(t: &mut Turn) -> Result<Parts, Refusal> {
    let c = t.c()?;
    let linear: Vec<usize> = (0..2).filter(|place| t.is_linear(*place)).collect();
    linear.into_iter().map(|place| Ok((place, t.unbroadcast(c, place)?))).collect()
}

pub fn sub(t: &mut Turn) -> Result<Parts, Refusal> {
    let mut parts = add(t)?;
    for (place, part) in &mut parts {
        if *place == 1 {
            let minus = t.g.neg(*part);
            t.pass_mask(*part, minus);
            *part = minus;
        }
    }
    Ok(parts)
}

/// One operand is linear, the other a weight.
pub fn mul(t: &mut Turn) -> Result<Parts, Refusal> {
    let c = t.c()?;
    let place = usize::from(!t.is_linear(0));
    let weight = t.input(1 - place)?;
    let product = t.weighted(c, weight);
    Ok(vec![(place, t.unbroadcast(product, place)?)])
}

pub fn select(t: &mut Turn) -> Result<Parts, Refusal> {
    let (c, condition) = (t.c()?, t.input(0)?);
    let mut parts = Vec::new();
    for place in (1..3).filter(|place| t.is_linear(*place)).collect::<Vec<_>>() {
        let mask = Mask { condition, chosen: place == 1 };
        let chosen = t.chosen(condition, mask.chosen, c);
        t.put_mask(chosen, mask);
        parts.push((place, t.unbroadcast(chosen, place)?));
    }
    Ok(parts)
}
