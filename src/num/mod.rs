//! Numbers without meaning: blocks of rows, addressed randomness, dense linear algebra,
//! mergeable moments and estimates with their errors.

pub mod key;
pub mod linalg;
pub mod moments;
pub mod npy;
pub mod source;
pub mod stats;

/// States of many samples: rows × dimension.
pub type Batch = ndarray::Array2<f64>;

/// Tangents of many samples: directions × rows × dimension, as the tangent graph takes them.
pub type Blocks = ndarray::Array3<f64>;
