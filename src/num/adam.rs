//! The optimizer Adam (Kingma & Ba 2015) with its usual constants, as in PyTorch's
//! `torch.optim.Adam`.

use ndarray::{Array, Dimension};

/// The running moments of gradients.
pub struct Adam<D: Dimension> {
    /// The number of steps so far.
    steps: i32,
    /// The running means of the gradient and of its square, before the bias correction.
    moments: [Array<f64, D>; 2],
}

impl<D: Dimension> Adam<D> {
    /// The decay of the running means, and the number that is added to the root.
    const DECAYS: [f64; 2] = [0.9, 0.999];
    const EPSILON: f64 = 1e-8;

    /// Begins with moments of zero for parameters of the given shape.
    pub fn new(shape: D) -> Adam<D> {
        Adam {
            steps: 0,
            moments: [Array::zeros(shape.clone()), Array::zeros(shape)],
        }
    }

    /// Takes the next gradient and returns the step along it, in units of the learning rate.
    pub fn direction(&mut self, gradient: &Array<f64, D>) -> Array<f64, D> {
        self.steps += 1;
        let squares = gradient.mapv(|g| g * g);
        for ((moment, new), decay) in self
            .moments
            .iter_mut()
            .zip([gradient, &squares])
            .zip(Self::DECAYS)
        {
            moment.zip_mut_with(new, |m, g| *m = decay * *m + (1.0 - decay) * g);
        }
        let [first, second] = Self::DECAYS.map(|decay| 1.0 - decay.powi(self.steps));
        let mut step = self.moments[0].clone();
        step.zip_mut_with(&self.moments[1], |m, v| {
            *m /= first * ((v / second).sqrt() + Self::EPSILON)
        });
        step
    }
}
