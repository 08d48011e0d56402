//! Places texts beside points, so that no text covers another text or a point.

use super::canvas::Rect;

/// A text to place: its point, width and height, in pixels.
#[derive(Debug, Clone, Copy)]
pub(super) struct LabelRequest {
    pub point: (f64, f64),
    pub width: f64,
    pub height: f64,
}

/// A rectangle for each text, or `None` if every place around its point is taken.
///
/// The rectangles lie inside `frame` and cover none of `points`.
pub(super) fn place_labels(
    requests: &[LabelRequest],
    points: &[(f64, f64)],
    frame: Rect,
) -> Vec<Option<Rect>> {
    let mut taken: Vec<Rect> = points
        .iter()
        .map(|&(x, y)| square_around(x, y, 4.0))
        .collect();
    let mut placed = Vec::with_capacity(requests.len());
    for request in requests {
        let free = |rect: &Rect| {
            is_rect_inside(rect, &frame) && !taken.iter().any(|t| rects_overlap(rect, t))
        };
        let found = candidate_rects(request).into_iter().find(free);
        taken.extend(found);
        placed.push(found);
    }
    placed
}

/// The possible places for a text, the best first: right and left of the point, then above and
/// below, then further away.
fn candidate_rects(request: &LabelRequest) -> Vec<Rect> {
    let (x, y) = request.point;
    let (w, h) = (request.width, request.height);
    let mut places = vec![];
    for far in [10.0, 16.0, 25.0, 38.0, 54.0] {
        let rows = [0.0, -0.6, 0.6, -1.2, 1.2, -2.0, 2.0].map(|part| part * h);
        places.extend(rows.map(|dy| (x + far, y - h / 2.0 + dy)));
        places.extend(rows.map(|dy| (x - far - w, y - h / 2.0 + dy)));
        places.push((x - w / 2.0, y - far - h));
        places.push((x - w / 2.0, y + far));
    }
    let rect = |(left, top)| Rect {
        left,
        top,
        right: left + w,
        bottom: top + h,
    };
    places.into_iter().map(rect).collect()
}

fn square_around(x: f64, y: f64, r: f64) -> Rect {
    Rect {
        left: x - r,
        top: y - r,
        right: x + r,
        bottom: y + r,
    }
}

fn is_rect_inside(a: &Rect, b: &Rect) -> bool {
    a.left >= b.left && a.right <= b.right && a.top >= b.top && a.bottom <= b.bottom
}

fn rects_overlap(a: &Rect, b: &Rect) -> bool {
    a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crowded_labels_do_not_overlap() {
        let frame = Rect {
            left: 0.0,
            top: 0.0,
            right: 400.0,
            bottom: 300.0,
        };
        let points: Vec<_> = (0..12)
            .map(|i| (200.0 + f64::from(i % 4), 150.0 + f64::from(i)))
            .collect();
        let requests: Vec<_> = points
            .iter()
            .map(|&point| LabelRequest {
                point,
                width: 80.0,
                height: 14.0,
            })
            .collect();
        let placed: Vec<_> = place_labels(&requests, &points, frame)
            .into_iter()
            .flatten()
            .collect();
        assert!(placed.len() >= 6, "{}", placed.len());
        for (i, a) in placed.iter().enumerate() {
            assert!(is_rect_inside(a, &frame));
            assert!(placed[..i].iter().all(|b| !rects_overlap(a, b)));
        }
    }

    #[test]
    fn a_text_wider_than_the_frame_is_left_out() {
        let frame = Rect {
            left: 0.0,
            top: 0.0,
            right: 50.0,
            bottom: 50.0,
        };
        let requests = [LabelRequest {
            point: (25.0, 25.0),
            width: 80.0,
            height: 14.0,
        }];
        assert_eq!(place_labels(&requests, &[], frame), [None]);
    }
}
