//! Averages curves that are known at nodes: the curves are interpolated on one grid first.

/// The number of points of the common grid if the nodes differ between samples.
const GRID_POINTS: usize = 100;

/// One x with the mean and the standard deviation over the curves. A single curve has no standard
/// deviation.
pub(super) type CurveMoments = (f64, f64, Option<f64>);

/// Sorts the nodes of a curve by x. Values at equal x are averaged, and nodes that are not finite
/// are dropped.
pub(super) fn sort_and_merge_nodes(mut nodes: Vec<(f64, f64)>) -> Vec<(f64, f64)> {
    nodes.retain(|(x, y)| x.is_finite() && y.is_finite());
    nodes.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut curve: Vec<(f64, f64, f64)> = vec![];
    for (x, y) in nodes {
        match curve.last_mut() {
            Some((last, sum, count)) if nearly_equal(*last, x) => {
                (*sum, *count) = (*sum + y, *count + 1.0)
            }
            _ => curve.push((x, y, 1.0)),
        }
    }
    curve
        .into_iter()
        .map(|(x, sum, count)| (x, sum / count))
        .collect()
}

/// The values of x at which the curves are compared.
///
/// If all curves have the same nodes, these are the grid. Otherwise the grid is even over the range
/// that all curves cover, and empty if there is no such range.
pub(super) fn common_grid(curves: &[&Vec<(f64, f64)>]) -> Vec<f64> {
    let Some(first) = curves.first() else {
        return vec![];
    };
    let agree = |curve: &&Vec<(f64, f64)>| {
        curve.len() == first.len()
            && curve
                .iter()
                .zip(first.iter())
                .all(|(a, b)| nearly_equal(a.0, b.0))
    };
    if curves.iter().all(agree) {
        return first.iter().map(|node| node.0).collect();
    }
    if curves.iter().any(|curve| curve.is_empty()) {
        return vec![];
    }
    let start = curves
        .iter()
        .filter_map(|curve| curve.first())
        .map(|n| n.0)
        .fold(f64::MIN, f64::max);
    let end = curves
        .iter()
        .filter_map(|curve| curve.last())
        .map(|n| n.0)
        .fold(f64::MAX, f64::min);
    if start >= end {
        return vec![];
    }
    (0..GRID_POINTS)
        .map(|i| start + (end - start) * i as f64 / (GRID_POINTS - 1) as f64)
        .collect()
}

/// The value of a curve at `x`, linear between the nodes. `None` if `x` lies outside the nodes.
pub(super) fn interpolate_curve(curve: &[(f64, f64)], x: f64) -> Option<f64> {
    let above = curve.partition_point(|node| node.0 < x && !nearly_equal(node.0, x));
    let right = curve.get(above)?;
    if nearly_equal(right.0, x) {
        return Some(right.1);
    }
    let left = curve.get(above.checked_sub(1)?)?;
    Some(left.1 + (right.1 - left.1) * (x - left.0) / (right.0 - left.0))
}

/// The moments of the curves at each x of the grid that at least one curve covers.
pub(super) fn average_curves(curves: &[Vec<(f64, f64)>], grid: &[f64]) -> Vec<CurveMoments> {
    let moments = |x: f64| {
        let values: Vec<f64> = curves
            .iter()
            .filter_map(|curve| interpolate_curve(curve, x))
            .collect();
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
        let spread = (values.len() > 1).then(|| (squares / (n - 1.0)).sqrt());
        (!values.is_empty()).then_some((x, mean, spread))
    };
    grid.iter().filter_map(|&x| moments(x)).collect()
}

/// Whether two values of x differ only by rounding.
fn nearly_equal(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-9 * a.abs().max(b.abs()).max(1e-6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_nodes_are_averaged_and_infinite_ones_left_out() {
        let nodes = vec![
            (1.0, 2.0),
            (0.0, 5.0),
            (1.0, 4.0),
            (f64::INFINITY, 1.0),
            (2.0, f64::NAN),
        ];
        assert_eq!(sort_and_merge_nodes(nodes), [(0.0, 5.0), (1.0, 3.0)]);
    }

    #[test]
    fn shared_nodes_are_kept_and_others_interpolated() {
        let (a, b) = (vec![(0.0, 0.0), (1.0, 1.0)], vec![(0.0, 2.0), (1.0, 3.0)]);
        assert_eq!(common_grid(&[&a, &b]), [0.0, 1.0]);
        assert_eq!(
            average_curves(&[a.clone(), b], &[0.0, 1.0])[1],
            (1.0, 2.0, Some(2f64.sqrt()))
        );
        let c = vec![(0.5, 0.0), (3.0, 5.0)];
        let shared = common_grid(&[&a, &c]);
        assert_eq!((shared[0], shared[GRID_POINTS - 1]), (0.5, 1.0));
        assert_eq!(interpolate_curve(&c, 1.75), Some(2.5));
        assert_eq!(interpolate_curve(&c, 4.0), None);
        assert!(common_grid(&[&vec![], &a]).is_empty());
    }

    #[test]
    fn one_curve_has_no_spread() {
        assert_eq!(
            average_curves(&[vec![(0.0, 1.0)]], &[0.0]),
            [(0.0, 1.0, None)]
        );
    }
}
