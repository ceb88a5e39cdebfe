//! A list of boxes and a list of scores: corners in parts of the input or in pixels, or offsets from
//! the default boxes of a known network.
//! *Source*: Liu et al., SSD (2016); the exports of qfgaohao/pytorch-ssd and of the Ultra-Light
//! face detector. The first class is the background.

use super::priors::Priors;
use super::{Head, Known, best};
use crate::Output;
use crate::detection::{Bounds, Detection};
use crate::error::VisionError;
use ndarray::{ArrayView2, Axis, Ix2};

pub(super) fn decode(
    outputs: &[Output<'_>],
    known: &Known,
    confidence: f32,
) -> Result<Vec<Detection>, VisionError> {
    let lists: Vec<ArrayView2<'_, f32>> = outputs.iter().filter_map(list).collect();
    let boxes = lists.iter().find(|list| list.ncols() == 4);
    let scores = lists.iter().find(|list| list.ncols() != 4 && list.ncols() >= 2);
    let missing = |expected: &str| Head::Ssd.missing(expected, outputs);
    let expected = "outputs [1, boxes, 4] and [1, boxes, classes]";
    let (boxes, scores) = boxes.zip(scores).ok_or_else(|| missing(expected))?;
    if boxes.nrows() != scores.nrows() {
        return Err(missing(expected));
    }
    let rows = || boxes.rows().into_iter().map(|b| [b[0], b[1], b[2], b[3]]);
    // Offsets from default boxes have negative sides as often as not.
    let crooked = rows().filter(|b| b[2] < b[0] || b[3] < b[1]).count();
    let offsets = crooked * 4 > boxes.nrows();
    let priors = Priors::of(boxes.nrows()).filter(|_| offsets);
    let corners: Vec<Bounds> = match priors {
        Some(priors) => priors.corners(rows()).collect(),
        None if offsets => {
            return Err(missing(
                "corners (left, top, right, bottom); these look like offsets from anchors, which \
                 are known of SSD300 (8732 boxes) and SSDLite320 (3234) alone",
            ));
        }
        None => rows().map(|[x0, y0, x1, y1]| Bounds { x0, y0, x1, y1 }).collect(),
    };
    let input = known.input();
    let in_parts = boxes.iter().filter(|v| v.abs() <= 2.0).count() * 10 >= boxes.len() * 9;
    let (x, y) = match in_parts || offsets {
        true => (input.cols as f32, input.rows as f32),
        false => (1.0, 1.0),
    };
    let are_probabilities = scores.rows().into_iter().take(16).all(|row| {
        let sum: f32 = row.sum();
        row.iter().all(|v| (0.0..=1.0).contains(v)) && (sum - 1.0).abs() < 1e-2
    });
    let mut found = Vec::new();
    for (row, corners) in scores.rows().into_iter().zip(corners) {
        let Some((class, score)) = best(row.iter().skip(1).copied()) else { continue };
        let score = match are_probabilities {
            true => score,
            false => {
                let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                (score - most).exp() / row.iter().map(|v| (v - most).exp()).sum::<f32>()
            }
        };
        if score < confidence {
            continue;
        }
        let bounds = Bounds {
            x0: corners.x0 * x,
            y0: corners.y0 * y,
            x1: corners.x1 * x,
            y1: corners.y1 * y,
        };
        // Labels that name the background count it.
        let class = match known.classes {
            Some(classes) if classes == row.len() => class + 1,
            _ => class,
        };
        found.push(Detection { class, score, bounds, mask: Vec::new() });
    }
    Ok(found)
}

fn list<'a>(output: &'a Output<'_>) -> Option<ArrayView2<'a, f32>> {
    let view = output.values.view();
    let view = match output.values.shape() {
        [1, _, _] => view.index_axis_move(Axis(0), 0),
        _ => view,
    };
    view.into_dimensionality::<Ix2>().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detection::Thresholds;
    use crate::fit::Size;
    use ndarray::{Array2, arr2};

    fn detect(boxes: &Array2<f32>, scores: &Array2<f32>) -> Result<Vec<Detection>, VisionError> {
        let (boxes, scores) =
            (boxes.view().insert_axis(Axis(0)), scores.view().insert_axis(Axis(0)));
        let outputs = [
            Output { name: "scores", values: scores.into_dyn() },
            Output { name: "boxes", values: boxes.into_dyn() },
        ];
        let known = Known { input: Some(Size::new(100, 200)), ..Known::default() };
        Head::Ssd.detect(&outputs, &known, Thresholds::default())
    }

    #[test]
    fn parts_of_the_input_and_logits() {
        let boxes = arr2(&[[0.1, 0.25, 0.5, 0.75], [0.0, 0.0, 1.0, 1.0]]);
        let found = detect(&boxes, &arr2(&[[0.0, 0.0, 4.0], [9.0, 0.0, 0.0]])).unwrap();
        let [one] = found.as_slice() else { panic!("{found:?}") };
        let softmax = 4f32.exp() / (4f32.exp() + 2.0);
        assert_eq!(one.class, 1);
        assert!((one.score - softmax).abs() < 1e-6);
        assert_eq!(one.bounds, Bounds { x0: 20.0, y0: 25.0, x1: 100.0, y1: 75.0 });
        let found = detect(&boxes, &arr2(&[[0.3, 0.7, 0.0], [1.0, 0.0, 0.0]])).unwrap();
        assert_eq!((found[0].class, found[0].score), (0, 0.7));
    }

    #[test]
    fn offsets_are_refused() {
        let boxes = arr2(&[[0.1, 0.2, -0.5, 0.6], [0.3, 0.0, 0.1, 1.0]]);
        let error = detect(&boxes, &arr2(&[[0.3, 0.7], [1.0, 0.0]])).unwrap_err().to_string();
        assert!(error.contains("anchors"), "{error}");
    }
}
