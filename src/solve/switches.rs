//! Steps that end where the field itself switches.
//!
//! A field that is guided between two noise levels jumps at both. A step across a jump would have an
//! error of first order. Steps therefore end just before a jump and begin just after it; the gap
//! between is so short that its own error is below rounding.

/// The length of the gap on each side of a switch, relative to the span of time.
const GAP: f64 = 1e-10;

/// The points at which steps must end, two for each switch, in the order of a path from `start` to
/// `end`. Switches outside the path have none.
pub(super) fn step_ends(switches: &[f64], start: f64, end: f64) -> Vec<f64> {
    let (gap, direction) = (GAP * (end - start).abs(), (end - start).signum());
    let ahead = |t: f64| (t - start) * direction;
    let length = ahead(end);
    let mut inside: Vec<f64> = switches
        .iter()
        .copied()
        .filter(|t| ahead(*t) > 2.0 * gap && ahead(*t) < length - 2.0 * gap)
        .collect();
    inside.sort_by(|a, b| ahead(*a).total_cmp(&ahead(*b)));
    inside
        .into_iter()
        .flat_map(|t| [t - gap * direction, t + gap * direction])
        .collect()
}

/// A grid in which every switch lies between two close times. The nearest time of the grid moves to
/// a switch, so that the other steps keep their lengths.
pub(super) fn grid_with_switches(mut grid: Vec<f64>, switches: &[f64]) -> Vec<f64> {
    let (start, end) = (grid[0], grid[grid.len() - 1]);
    let ends = step_ends(switches, start, end);
    let direction = (end - start).signum();
    for pair in ends.chunks(2) {
        let middle = 0.5 * (pair[0] + pair[1]);
        let distance = |t: &f64| (t - middle).abs();
        let nearest = (1..grid.len() - 1)
            .filter(|i| !ends.contains(&grid[*i]))
            .min_by(|a, b| distance(&grid[*a]).total_cmp(&distance(&grid[*b])));
        if let Some(nearest) = nearest {
            grid.remove(nearest);
        }
        grid.extend(pair);
        grid.sort_by(|a, b| (a * direction).total_cmp(&(b * direction)));
    }
    grid
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_times_move_to_the_switches() {
        let grid = vec![1.0, 0.75, 0.5, 0.25, 0.0];
        assert_eq!(grid_with_switches(grid.clone(), &[]), grid);
        assert_eq!(grid_with_switches(grid.clone(), &[0.0, 1.0, 3.0]), grid);
        let moved = grid_with_switches(grid, &[0.3, 0.55]);
        let near = |a: f64, b: f64| (a - b).abs() < 1e-9;
        let wanted = [1.0, 0.75, 0.55, 0.55, 0.3, 0.3, 0.0];
        assert!(
            moved.len() == 7 && moved.iter().zip(wanted).all(|(a, b)| near(*a, b)),
            "{moved:?}"
        );
        assert!(moved.windows(2).all(|pair| pair[0] > pair[1]), "{moved:?}");
        // Without an inner time to move, the switch splits the only step.
        assert_eq!(grid_with_switches(vec![0.0, 1.0], &[0.4]).len(), 4);
    }
}
