//! Continuous-time flows: probability paths, the predictions of networks on them, priors and time
//! grids.
//!
//! All times are the card's own, and integrals over time are signed. Along a trajectory of the
//! probability-flow ODE d log p_t(x_t)/dt = −div v holds in both directions of time. Therefore
//! log p(data end) = log p(prior end) + ∫ div v dt, integrated from the data end to the prior end.
//!
//! # Example
//!
//! ```
//! use flowgauge::flow::path::ProbabilityPath;
//!
//! let path = ProbabilityPath::FlowMatching { data_at: 0, t_min: 0.0, t_max: 1.0 };
//! let at = path.curve()?.at(0.25);
//! assert_eq!((at.alpha, at.sigma), (0.75, 0.25));
//! assert_eq!((at.alpha_dot, at.sigma_dot), (-1.0, 1.0));
//! # Ok::<(), String>(())
//! ```

mod betas;
pub mod centred;
mod coefficients;
pub mod field;
pub mod flow_map;
pub mod grid;
pub mod guidance;
pub mod map_volume;
pub mod network_velocity;
pub mod path;
pub mod preconditioning;
pub mod prediction;
pub mod prior;
pub mod truncation;
