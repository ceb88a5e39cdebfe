//! What a detector finds, and suppression: of boxes that overlap much, the most certain stays.

use serde::Serialize;

/// An upright box, by its corners, in pixels: x along the columns, y along the rows.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Bounds {
    /// Left.
    pub x0: f32,
    /// Top.
    pub y0: f32,
    /// Right.
    pub x1: f32,
    /// Bottom.
    pub y1: f32,
}

impl Bounds {
    /// By its centre and its sides.
    pub fn centred(x: f32, y: f32, width: f32, height: f32) -> Self {
        let (w, h) = (width / 2.0, height / 2.0);
        Self { x0: x - w, y0: y - h, x1: x + w, y1: y + h }
    }

    /// Pixels inside; 0 where a side is negative.
    pub fn area(self) -> f32 {
        (self.x1 - self.x0).max(0.0) * (self.y1 - self.y0).max(0.0)
    }

    /// Whether all corners are numbers.
    pub fn is_finite(self) -> bool {
        [self.x0, self.y0, self.x1, self.y1].iter().all(|v| v.is_finite())
    }

    /// The common part of two boxes / their union, in `0.0..=1.0`.
    ///
    /// ```
    /// use vision::Bounds;
    /// let a = Bounds { x0: 0.0, y0: 0.0, x1: 2.0, y1: 2.0 };
    /// let b = Bounds { x0: 1.0, y0: 0.0, x1: 3.0, y1: 2.0 };
    /// assert_eq!(a.overlap(b), 2.0 / 6.0);
    /// ```
    pub fn overlap(self, other: Self) -> f32 {
        let common = Self {
            x0: self.x0.max(other.x0),
            y0: self.y0.max(other.y0),
            x1: self.x1.min(other.x1),
            y1: self.y1.min(other.y1),
        };
        let common = common.area();
        let union = self.area() + other.area() - common;
        if union > 0.0 { common / union } else { 0.0 }
    }
}

/// One thing found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Detection {
    /// Its class.
    pub class: usize,
    /// How certain, in `0.0..=1.0`.
    pub score: f32,
    /// Where.
    pub bounds: Bounds,
    /// What its mask takes of each prototype; empty for detectors without masks.
    #[serde(skip)]
    pub mask: Vec<f32>,
}

/// What is kept of what a head says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Thresholds {
    /// The smallest score.
    pub confidence: f32,
    /// The largest overlap of two boxes of one class.
    pub overlap: f32,
    /// The largest number of boxes.
    pub count_max: usize,
}

impl Default for Thresholds {
    /// Those of Ultralytics.
    fn default() -> Self {
        Self { confidence: 0.25, overlap: 0.7, count_max: 300 }
    }
}

/// Candidates that suppression looks at: of more, the most certain.
const CANDIDATES_MAX: usize = 30_000;

/// Keeps, of the boxes of one class that overlap by more than the threshold, the most certain;
/// the rest comes back by falling score. Boxes that are no numbers are dropped.
pub fn suppress(mut found: Vec<Detection>, thresholds: Thresholds) -> Vec<Detection> {
    found.retain(|d| d.score >= thresholds.confidence && d.bounds.is_finite());
    // A stable sort: equal scores stay in the order of the head.
    found.sort_by(|a, b| b.score.total_cmp(&a.score));
    found.truncate(CANDIDATES_MAX);
    let mut kept: Vec<Detection> = Vec::new();
    for candidate in found {
        if kept.len() >= thresholds.count_max {
            break;
        }
        let covers = |k: &Detection| {
            k.class == candidate.class && k.bounds.overlap(candidate.bounds) > thresholds.overlap
        };
        if !kept.iter().any(covers) {
            kept.push(candidate);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn detections() -> impl Strategy<Value = Vec<Detection>> {
        let one = (0usize..3, 0u8..20, 0u8..12, 0u8..12, 1u8..8, 1u8..8);
        let one = one.prop_map(|(class, score, x, y, w, h)| {
            let (x0, y0) = (f32::from(x), f32::from(y));
            let bounds = Bounds { x0, y0, x1: x0 + f32::from(w), y1: y0 + f32::from(h) };
            Detection { class, score: f32::from(score) / 20.0, bounds, mask: Vec::new() }
        });
        proptest::collection::vec(one, 0..40)
    }

    /// Counts unit squares: boxes of whole numbers have no other way to overlap.
    fn naive_overlap(a: Bounds, b: Bounds) -> f32 {
        let inside = |bounds: Bounds, x: i32, y: i32| {
            let (x, y) = (x as f32 + 0.5, y as f32 + 0.5);
            (bounds.x0..bounds.x1).contains(&x) && (bounds.y0..bounds.y1).contains(&y)
        };
        let (mut both, mut either) = (0, 0);
        for x in 0..32 {
            for y in 0..32 {
                let (a, b) = (inside(a, x, y), inside(b, x, y));
                both += i32::from(a && b);
                either += i32::from(a || b);
            }
        }
        both as f32 / either as f32
    }

    /// By the definition: again and again take the most certain that is left, and throw away all
    /// of its class that overlap it too much.
    fn naive(mut left: Vec<Detection>, thresholds: Thresholds) -> Vec<Detection> {
        left.retain(|d| d.score >= thresholds.confidence);
        let mut kept = Vec::new();
        while !left.is_empty() && kept.len() < thresholds.count_max {
            let best =
                (0..left.len()).fold(0, |b, i| if left[i].score > left[b].score { i } else { b });
            let best = left.remove(best);
            left.retain(|d| {
                d.class != best.class || naive_overlap(d.bounds, best.bounds) <= thresholds.overlap
            });
            kept.push(best);
        }
        kept
    }

    proptest! {
        #[test]
        fn suppression_is_the_naive_one(
            found in detections(), confidence in 0u8..10, overlap in 1u8..10, count_max in 1usize..12,
        ) {
            let (confidence, overlap) = (f32::from(confidence) / 20.0, f32::from(overlap) / 10.0);
            let thresholds = Thresholds { confidence, overlap, count_max };
            prop_assert_eq!(suppress(found.clone(), thresholds), naive(found, thresholds));
        }
    }

    #[test]
    fn what_is_no_number_is_dropped() {
        let bounds = Bounds { x0: 0.0, y0: f32::NAN, x1: 1.0, y1: 1.0 };
        let lost = Detection { class: 0, score: 0.9, bounds, mask: Vec::new() };
        let no_score = Detection {
            score: f32::NAN,
            bounds: Bounds { x0: 0.0, y0: 0.0, x1: 1.0, y1: 1.0 },
            ..lost.clone()
        };
        assert!(suppress(vec![lost, no_score], Thresholds::default()).is_empty());
    }
}
