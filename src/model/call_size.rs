//! How many samples and how many directions one call of a network takes.
//!
//! On a CPU, a call is fast while its tensors stay in the cache of a core. On a GPU, it is fast if it
//! has enough work for all multiprocessors.

use super::provider::Provider;

/// The number of f32 values that fit into the cache of one core in addition to the weights in use.
const CORE_CACHE_VALUES: u64 = 1 << 18;

/// The number of values of one tensor in a call on a GPU: 128 MiB in f32.
const GPU_TENSOR_VALUES: u64 = 1 << 25;

/// The largest default batch size on a CPU. Calls of a small network with more rows are not faster
/// per row.
const MAX_CPU_BATCH: u64 = 128;

/// The largest default batch size on a GPU.
const MAX_GPU_BATCH: u64 = 1 << 14;

/// With fewer directions per call, the network's own evaluation is a noticeable part of the cost.
const FEW_DIRECTIONS: usize = 16;

/// With this many directions per call, the cost of the network's own evaluation is negligible.
const MANY_DIRECTIONS: usize = 64;

/// The number of rows, times directions, with which a call of a large network on a CPU is fastest
/// per row and direction. With more, its tensors leave the second-level cache.
const ROWS_OF_LARGE_CALLS: usize = 8;

/// What one call takes. It limits time and memory and does not change results.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CallSize {
    /// The number of values in the largest tensor of one call, or in its tangents.
    tensor_values: u64,
    /// The largest default number of samples.
    max_batch: u64,
}

impl CallSize {
    /// Returns the size of calls on a provider.
    pub(super) fn of(provider: Provider) -> CallSize {
        if provider.runs_on_cpu() {
            CallSize {
                tensor_values: CORE_CACHE_VALUES,
                max_batch: MAX_CPU_BATCH,
            }
        } else {
            CallSize {
                tensor_values: GPU_TENSOR_VALUES,
                max_batch: MAX_GPU_BATCH,
            }
        }
    }

    /// Returns the default number of samples in one call of a network whose largest tensor has
    /// `widest` values per sample. It is a multiple of four, because ONNX Runtime rounds differently
    /// if vector units are not full.
    pub(super) fn batch(self, widest: u64) -> usize {
        ((self.tensor_values / widest.max(1)).clamp(4, self.max_batch) as usize).next_multiple_of(4)
    }

    /// Returns the numbers of rows and of directions in one call of a tangent graph.
    ///
    /// The network itself is evaluated once per call. A call should therefore have enough directions
    /// to make that cost small, and then as many rows as [`CallSize::rows`] has. `directions` is the
    /// total number of directions, `dim` the dimension of the state, `widest` the size of the
    /// largest tensor per sample, and `any_rows` whether a call may have fewer than four rows.
    pub(super) fn tangents(
        self,
        directions: usize,
        dim: usize,
        widest: u64,
        any_rows: bool,
    ) -> (usize, usize) {
        let fitting = |count: usize| (self.tensor_values / (count.max(1) as u64 * widest)) as usize;
        let many = directions.min(MANY_DIRECTIONS);
        let width = if fitting(many) >= 4 {
            many
        } else {
            directions.min(fitting(4).max(FEW_DIRECTIONS))
        };
        let rows = self.rows(width, dim, widest, any_rows);
        (rows, width.min(self.states(rows * dim)).max(1))
    }

    /// Returns the number of rows in one call with `width` directions: as many as fit, in multiples
    /// of four. If fewer than four fit, the number is four, or what is fastest if calls may have any
    /// number of rows (`any_rows`).
    pub(super) fn rows(self, width: usize, dim: usize, widest: u64, any_rows: bool) -> usize {
        let fitting = (self.tensor_values / (width.max(1) as u64 * widest)) as usize;
        let least = if any_rows {
            (ROWS_OF_LARGE_CALLS / width.max(1)).clamp(1, 4)
        } else {
            4
        };
        (fitting / 4 * 4).max(least).min(self.states(dim).max(1))
    }

    /// Returns how many states or tangents of `size` values one tensor of a call holds.
    fn states(self, size: usize) -> usize {
        self.tensor_values as usize / size
    }
}

/// Whether a sample of a network whose largest tensor has `widest` values is enough work for a call
/// on a CPU.
pub(super) fn is_large(widest: u64) -> bool {
    widest >= CORE_CACHE_VALUES / 16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_on_a_cpu_fit_its_cache() {
        let size = CallSize::of(Provider::Cpu);
        // A perceptron: a call takes all directions, and as many rows as fit into the cache.
        assert_eq!(size.batch(256), 128);
        assert_eq!(size.tangents(64, 64, 256, false), (16, 64));
        assert_eq!(size.tangents(1, 64, 256, false), (1024, 1));
        // A U-Net: a call takes few rows, and enough directions to make the cost of the network
        // small.
        assert_eq!(size.batch(1 << 16), 4);
        assert_eq!(size.tangents(16, 3072, 1 << 16, false), (4, 16));
        assert_eq!(size.tangents(3072, 3072, 1 << 16, false), (4, 16));
        // If calls may have any number of rows, many directions take one row at a time.
        let rows_by_directions = [(1, 4), (2, 4), (4, 2), (8, 1), (16, 1)];
        for (directions, rows) in rows_by_directions {
            let found = size.tangents(directions, 3072, 1 << 16, true);
            assert_eq!(found, (rows, directions), "{directions} directions");
        }
        // A single direction of very large states fills a call.
        assert_eq!(size.tangents(8, 1 << 20, 1 << 22, false), (1, 1));
    }

    #[test]
    fn calls_on_a_gpu_have_enough_work() {
        let size = CallSize::of(Provider::Cuda);
        assert_eq!(size.batch(256), 1 << 14);
        // A U-Net of 32×32 with 128 channels: hundreds of images, with their tangents in one call.
        assert_eq!(size.batch(1 << 17), 256);
        assert_eq!(size.tangents(1, 3072, 1 << 17, true), (256, 1));
        assert_eq!(size.tangents(16, 3072, 1 << 17, true), (16, 16));
        assert_eq!(size.tangents(3072, 3072, 1 << 17, true), (4, 64));
    }
}
