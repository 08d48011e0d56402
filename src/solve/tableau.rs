//! Explicit Runge–Kutta methods as data.

use ndarray::Zip;

use crate::flow::field::{EvalError, VectorField};
use crate::num::Batch;

/// A Butcher tableau.
#[derive(Debug)]
pub struct Tableau {
    pub order: u32,
    pub c: &'static [f64],
    pub a: &'static [&'static [f64]],
    pub b: &'static [f64],
    pub error: Option<Embedded>,
    /// Whether the last stage is the first of the next step.
    pub fsal: bool,
}

/// Weights of what an embedded method takes for its error, b − b̂.
#[derive(Debug)]
pub enum Embedded {
    One(&'static [f64]),
    /// Two estimates e₅ and e₃, joined into |e₅|² / √(|e₅|² + |e₃|²/100): of the method's own
    /// order, where e₅ alone would fail once |e₅| is small by chance (Hairer, Nørsett & Wanner, II.10).
    Two {
        fifth: &'static [f64],
        third: &'static [f64],
    },
}

pub const EULER: Tableau = Tableau { order: 1, c: &[0.0], a: &[&[]], b: &[1.0], error: None, fsal: false };

pub const MIDPOINT: Tableau =
    Tableau { order: 2, c: &[0.0, 0.5], a: &[&[], &[0.5]], b: &[0.0, 1.0], error: None, fsal: false };

pub const HEUN: Tableau =
    Tableau { order: 2, c: &[0.0, 1.0], a: &[&[], &[1.0]], b: &[0.5, 0.5], error: None, fsal: false };

pub const RK4: Tableau = Tableau {
    order: 4,
    c: &[0.0, 0.5, 0.5, 1.0],
    a: &[&[], &[0.5], &[0.0, 0.5], &[0.0, 0.0, 1.0]],
    b: &[1.0 / 6.0, 1.0 / 3.0, 1.0 / 3.0, 1.0 / 6.0],
    error: None,
    fsal: false,
};

/// Bogacki & Shampine 1989, 3(2).
pub const BOSH3: Tableau = Tableau {
    order: 3,
    c: &[0.0, 0.5, 0.75, 1.0],
    a: &[&[], &[0.5], &[0.0, 0.75], &[2.0 / 9.0, 1.0 / 3.0, 4.0 / 9.0]],
    b: &[2.0 / 9.0, 1.0 / 3.0, 4.0 / 9.0, 0.0],
    error: Some(Embedded::One(&[2.0 / 9.0 - 7.0 / 24.0, 1.0 / 3.0 - 0.25, 4.0 / 9.0 - 1.0 / 3.0, -0.125])),
    fsal: true,
};

/// Dormand & Prince 1980, 5(4).
pub const DOPRI5: Tableau = Tableau {
    order: 5,
    c: &[0.0, 0.2, 0.3, 0.8, 8.0 / 9.0, 1.0, 1.0],
    a: &[
        &[],
        &[0.2],
        &[3.0 / 40.0, 9.0 / 40.0],
        &[44.0 / 45.0, -56.0 / 15.0, 32.0 / 9.0],
        &[19372.0 / 6561.0, -25360.0 / 2187.0, 64448.0 / 6561.0, -212.0 / 729.0],
        &[9017.0 / 3168.0, -355.0 / 33.0, 46732.0 / 5247.0, 49.0 / 176.0, -5103.0 / 18656.0],
        &[35.0 / 384.0, 0.0, 500.0 / 1113.0, 125.0 / 192.0, -2187.0 / 6784.0, 11.0 / 84.0],
    ],
    b: &[35.0 / 384.0, 0.0, 500.0 / 1113.0, 125.0 / 192.0, -2187.0 / 6784.0, 11.0 / 84.0, 0.0],
    error: Some(Embedded::One(&[
        71.0 / 57600.0,
        0.0,
        -71.0 / 16695.0,
        71.0 / 1920.0,
        -17253.0 / 339200.0,
        22.0 / 525.0,
        -1.0 / 40.0,
    ])),
    fsal: true,
};

/// Tsitouras 2011, 5(4): Table 1, rounded to f64 from the closed forms of its free parameters.
pub const TSIT5: Tableau = Tableau {
    order: 5,
    c: &[0.0, 0.161, 0.327, 0.9, 0.9800255409045097, 1.0, 1.0],
    a: &[
        &[],
        &[0.161],
        &[-0.008480655492356989, 0.335480655492357],
        &[2.8971530571054935, -6.359448489975075, 4.3622954328695815],
        &[5.325864828439257, -11.748883564062828, 7.4955393428898365, -0.09249506636175525],
        &[5.86145544294642, -12.92096931784711, 8.159367898576159, -0.071584973281401, -0.028269050394068383],
        &[0.09646076681806523, 0.01, 0.4798896504144996, 1.379008574103742, -3.290069515436081, 2.324710524099774],
    ],
    b: &[0.09646076681806523, 0.01, 0.4798896504144996, 1.379008574103742, -3.290069515436081, 2.324710524099774, 0.0],
    error: Some(Embedded::One(&[
        0.0017800110522257714,
        0.0008164344596567469,
        -0.007880878010261995,
        0.1447110071732629,
        -0.5823571654525552,
        0.45808210592918697,
        -1.0 / 66.0,
    ])),
    fsal: true,
};

/// One trial step of every row: the stages' times, states and slopes, and where it leads.
pub struct Step {
    pub t: Vec<Vec<f64>>,
    pub x: Vec<Batch>,
    pub k: Vec<Batch>,
    pub next: Batch,
}

impl Tableau {
    pub fn stages(&self) -> usize {
        self.b.len()
    }

    /// Stages that carry weight in the quadrature.
    pub fn nodes(&self) -> usize {
        self.b.iter().filter(|b| **b != 0.0).count()
    }

    /// Takes one step of size `h[i]` from `(t[i], x[i])`; `first` is the first slope where it is known.
    pub fn step(
        &self,
        field: &mut dyn VectorField,
        t: &[f64],
        h: &[f64],
        x: &Batch,
        first: Option<Batch>,
    ) -> Result<Step, EvalError> {
        let mut step = Step { t: Vec::new(), x: Vec::new(), k: Vec::new(), next: Batch::zeros((0, 0)) };
        let mut first = first;
        for s in 0..self.stages() {
            let at: Vec<f64> = t.iter().zip(h).map(|(t, h)| t + self.c[s] * h).collect();
            let state = combine(x, h, self.a[s], &step.k);
            let slope = match first.take() {
                Some(slope) => slope,
                None => field.velocity(&at, &state)?,
            };
            step.t.push(at);
            step.x.push(state);
            step.k.push(slope);
        }
        // The last stage of a first-same-as-last method already stands at the new state.
        step.next = if self.fsal { step.x[self.stages() - 1].clone() } else { combine(x, h, self.b, &step.k) };
        Ok(step)
    }
}

/// x + h·Σ w_j k_j, row by row.
pub fn combine(x: &Batch, h: &[f64], weights: &[f64], k: &[Batch]) -> Batch {
    let mut out = x.clone();
    for (w, k) in weights.iter().zip(k).filter(|(w, _)| **w != 0.0) {
        Zip::from(out.rows_mut()).and(k.rows()).and(&ndarray::aview1(h)).for_each(|mut o, k, h| {
            o.scaled_add(w * h, &k);
        });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::solve::dop853::DOP853;

    const ALL: [&Tableau; 8] = [&EULER, &MIDPOINT, &HEUN, &RK4, &BOSH3, &DOPRI5, &TSIT5, &DOP853];

    #[test]
    fn rows_sum_to_their_nodes_and_weights_to_one() {
        for tableau in ALL {
            for (c, row) in tableau.c.iter().zip(tableau.a) {
                assert!((row.iter().sum::<f64>() - c).abs() < 1e-14, "{tableau:?}");
            }
            assert!((tableau.b.iter().sum::<f64>() - 1.0).abs() < 1e-14);
            let estimates = match &tableau.error {
                None => vec![],
                Some(Embedded::One(one)) => vec![one],
                Some(Embedded::Two { fifth, third }) => vec![fifth, third],
            };
            assert!(estimates.iter().all(|e| e.len() == tableau.stages() && e.iter().sum::<f64>().abs() < 1e-14));
            if tableau.fsal {
                let last = tableau.a[tableau.stages() - 1];
                assert_eq!(last, &tableau.b[..last.len()]);
            }
        }
    }
}
