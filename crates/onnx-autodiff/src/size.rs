//! Sizes of axes, which may be known only when the graph runs.
//!
//! A [`Size`] is a polynomial with integer coefficients in symbols such as the batch size. `2·N·H +
//! 1` is therefore one value, however it is computed. What is no polynomial (a rounded quotient, a
//! maximum) becomes a symbol of its own, which everything that computes it from the same sizes
//! shares.

use std::collections::{BTreeMap, HashMap};

/// A symbol for a size that is known only when the graph runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Sym(u32);

/// The size of an axis: the coefficients of products of symbols. Zero is the empty map.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Size(BTreeMap<Vec<Sym>, i64>);

/// The largest number of terms, and of factors of a term, that a polynomial may have.
const LIMIT: usize = 12;

impl Size {
    /// Returns a size that is a known number.
    pub(crate) fn fixed(n: i64) -> Size {
        Size(if n == 0 {
            BTreeMap::new()
        } else {
            BTreeMap::from([(Vec::new(), n)])
        })
    }

    /// Returns a size that is a symbol.
    pub(crate) fn symbol(symbol: Sym) -> Size {
        Size(BTreeMap::from([(vec![symbol], 1)]))
    }

    /// Returns the number, if the size is a known number.
    pub(crate) fn as_fixed(&self) -> Option<i64> {
        match self.0.len() {
            0 => Some(0),
            1 => self.0.get(&Vec::new()).copied(),
            _ => None,
        }
    }

    /// Returns whether the size is the known number `n`.
    pub(crate) fn is(&self, n: i64) -> bool {
        self.as_fixed() == Some(n)
    }

    /// Returns the symbol, if the size is a single symbol.
    pub(crate) fn as_symbol(&self) -> Option<Sym> {
        match self.0.iter().next() {
            Some((product, 1)) if self.0.len() == 1 && product.len() == 1 => Some(product[0]),
            _ => None,
        }
    }

    /// Returns whether the size contains only the first `count` symbols of [`Symbols`].
    pub(crate) fn is_within(&self, count: usize) -> bool {
        self.0
            .keys()
            .flatten()
            .all(|symbol| (symbol.0 as usize) < count)
    }

    /// Returns the coefficient and the factors of each term.
    pub(crate) fn terms(&self) -> impl Iterator<Item = (i64, &[Sym])> {
        self.0
            .iter()
            .map(|(product, coefficient)| (*coefficient, product.as_slice()))
    }

    /// Returns the sum. Returns `None` if it overflows or has too many terms.
    pub(crate) fn plus(&self, other: &Size) -> Option<Size> {
        let mut sum = self.0.clone();
        for (product, coefficient) in &other.0 {
            let entry = sum.entry(product.clone()).or_insert(0);
            *entry = entry.checked_add(*coefficient)?;
        }
        Size(sum).tidy()
    }

    /// Returns the difference. Returns `None` if it overflows or has too many terms.
    pub(crate) fn minus(&self, other: &Size) -> Option<Size> {
        self.plus(&other.times(&Size::fixed(-1))?)
    }

    /// Returns the product. Returns `None` if it overflows or has too many terms.
    pub(crate) fn times(&self, other: &Size) -> Option<Size> {
        if self.0.len().checked_mul(other.0.len())? > LIMIT * LIMIT {
            return None;
        }
        let mut result: BTreeMap<Vec<Sym>, i64> = BTreeMap::new();
        for (p, a) in &self.0 {
            for (q, b) in &other.0 {
                let mut product = [p.as_slice(), q.as_slice()].concat();
                product.sort_unstable();
                let entry = result.entry(product).or_insert(0);
                *entry = entry.checked_add(a.checked_mul(*b)?)?;
            }
        }
        Size(result).tidy()
    }

    /// Returns the quotient. Returns `None` if the division may leave a remainder for some values
    /// of the symbols.
    pub(crate) fn over(&self, other: &Size) -> Option<Size> {
        if self == other && !other.is(0) {
            return Some(Size::fixed(1));
        }
        let (divisor, scale) = match (other.0.iter().next(), other.0.len()) {
            (Some(term), 1) => term,
            _ => return None,
        };
        let mut quotient = BTreeMap::new();
        for (product, coefficient) in &self.0 {
            if coefficient.checked_rem(*scale)? != 0 {
                return None;
            }
            quotient.insert(without(product, divisor)?, coefficient.checked_div(*scale)?);
        }
        Some(Size(quotient))
    }

    /// Removes terms that are zero. Returns `None` if too many terms or factors remain.
    fn tidy(mut self) -> Option<Size> {
        self.0.retain(|_, coefficient| *coefficient != 0);
        let small = self.0.len() <= LIMIT && self.0.keys().all(|product| product.len() <= LIMIT);
        small.then_some(self)
    }
}

/// Removes one occurrence of each symbol of `divisor` from a sorted product.
fn without(product: &[Sym], divisor: &[Sym]) -> Option<Vec<Sym>> {
    let mut rest = product.to_vec();
    for symbol in divisor {
        rest.remove(rest.iter().position(|s| s == symbol)?);
    }
    Some(rest)
}

/// The source of symbols. The same name, or the same expression, always has the same symbol.
#[derive(Default)]
pub(crate) struct Symbols {
    known: HashMap<String, Sym>,
    names: Vec<Option<String>>,
}

impl Symbols {
    /// Returns the number of symbols so far.
    pub(crate) fn count(&self) -> usize {
        self.names.len()
    }

    /// Returns a new symbol.
    pub(crate) fn fresh(&mut self) -> Size {
        Size::symbol(self.push(None))
    }

    /// Returns the symbol of a named dimension of the file.
    pub(crate) fn named(&mut self, name: &str) -> Size {
        let key = format!("name {name}");
        if let Some(symbol) = self.known.get(&key) {
            return Size::symbol(*symbol);
        }
        let symbol = self.push(Some(name.to_string()));
        self.known.insert(key, symbol);
        Size::symbol(symbol)
    }

    /// Returns whether a dimension of this name occurs.
    pub(crate) fn is_known(&self, name: &str) -> bool {
        self.known.contains_key(&format!("name {name}"))
    }

    /// Returns the symbol of an expression that is no polynomial.
    pub(crate) fn expression(&mut self, expression: String) -> Size {
        if let Some(symbol) = self.known.get(&expression) {
            return Size::symbol(*symbol);
        }
        let symbol = self.push(None);
        self.known.insert(expression, symbol);
        Size::symbol(symbol)
    }

    /// Returns the name that a size has in the file.
    pub(crate) fn name(&self, size: &Size) -> Option<&str> {
        self.names.get(size.as_symbol()?.0 as usize)?.as_deref()
    }

    /// Returns the sum, or a new symbol if the sum cannot be represented.
    pub(crate) fn add(&mut self, a: &Size, b: &Size) -> Size {
        a.plus(b).unwrap_or_else(|| self.fresh())
    }

    /// Returns the difference, or a new symbol if the difference cannot be represented.
    pub(crate) fn sub(&mut self, a: &Size, b: &Size) -> Size {
        a.minus(b).unwrap_or_else(|| self.fresh())
    }

    /// Returns the product, or a new symbol if the product cannot be represented.
    pub(crate) fn mul(&mut self, a: &Size, b: &Size) -> Size {
        a.times(b).unwrap_or_else(|| self.fresh())
    }

    /// Returns the quotient, rounded down.
    pub(crate) fn div(&mut self, a: &Size, b: &Size) -> Size {
        if let Some(quotient) = a.over(b) {
            return quotient;
        }
        match (a.as_fixed(), b.as_fixed()) {
            (Some(_), Some(0)) => self.fresh(),
            (Some(p), Some(q)) => match p.checked_div_euclid(q) {
                Some(quotient) => Size::fixed(quotient),
                None => self.fresh(),
            },
            _ => self.expression(format!("{a:?} / {b:?}")),
        }
    }

    /// Adds a symbol.
    fn push(&mut self, name: Option<String>) -> Sym {
        self.names.push(name);
        Sym((self.names.len() - 1) as u32)
    }
}

/// Returns the index of an axis among `rank` axes. A negative axis counts from the last one.
/// Returns `None` if there is no such axis.
pub(crate) fn axis_of(axis: i64, rank: usize) -> Option<usize> {
    let axis = if axis < 0 {
        axis.checked_add(rank as i64)?
    } else {
        axis
    };
    usize::try_from(axis).ok().filter(|axis| *axis < rank)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_size_along_two_ways_is_one_value() {
        let mut s = Symbols::default();
        let (n, c, w) = (s.named("N"), Size::fixed(64), Size::fixed(8));
        let all = n.times(&c).unwrap().times(&w).unwrap();
        assert_eq!(
            all.over(&n.times(&Size::fixed(32)).unwrap()),
            Some(Size::fixed(16))
        );
        assert_eq!(n.plus(&n).unwrap().minus(&n), Some(n.clone()));
        assert_eq!(s.div(&n, &w), s.div(&n, &w));
        assert_ne!(s.div(&n, &w), s.div(&n, &c));
        assert_eq!(s.named("N"), n);
    }

    #[test]
    fn overflow_gives_an_unknown_size() {
        let mut s = Symbols::default();
        let huge = Size::fixed(i64::MAX);
        assert!(s.add(&huge, &huge).as_fixed().is_none());
        assert!(s.mul(&huge, &huge).as_fixed().is_none());
        assert!(
            s.div(&Size::fixed(i64::MIN), &Size::fixed(-1))
                .as_fixed()
                .is_none()
        );
        assert!(s.div(&huge, &Size::fixed(0)).as_fixed().is_none());
    }
}
