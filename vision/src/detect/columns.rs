//! One column a box: centre, sides, one score for each class, then what its mask takes of each
//! prototype. *Source*: the exports of Ultralytics YOLOv8, v9 and 11.

use super::rows::list;
use super::{Head, Known};
use crate::Output;
use crate::detection::{Bounds, Detection};
use crate::error::VisionError;

pub(super) fn decode(
    outputs: &[Output<'_>],
    known: &Known,
    confidence: f32,
) -> Result<Vec<Detection>, VisionError> {
    let columns = list(outputs).filter(|columns| columns.nrows() >= 5);
    let missing = || Head::YoloV8.missing("an output [1, 4 + classes, boxes]", outputs);
    let columns = columns.ok_or_else(missing)?;
    let prototypes = prototypes(outputs).unwrap_or(0);
    let rest = columns.nrows() - 4;
    let classes = match known.classes {
        Some(classes) => classes.min(rest),
        None => rest.checked_sub(prototypes).filter(|classes| *classes > 0).ok_or_else(missing)?,
    };
    let masks = 4 + classes..columns.nrows().min(4 + classes + prototypes);
    let mut found = Vec::new();
    // Row by row, as the scores lie in memory: a column at a time would miss the cache each time.
    let mut scores = vec![(0usize, f32::NEG_INFINITY); columns.ncols()];
    for class in 0..classes {
        for (best_so_far, score) in scores.iter_mut().zip(columns.row(4 + class)) {
            if *score > best_so_far.1 {
                *best_so_far = (class, *score);
            }
        }
    }
    for (i, (class, score)) in scores.into_iter().enumerate() {
        if score < confidence {
            continue;
        }
        let column = columns.column(i);
        found.push(Detection {
            class,
            score,
            bounds: Bounds::centred(column[0], column[1], column[2], column[3]),
            mask: masks.clone().map(|row| column[row]).collect(),
        });
    }
    Ok(found)
}

/// How many prototypes of masks there are: the channels of a map beside the boxes.
fn prototypes(outputs: &[Output<'_>]) -> Option<usize> {
    outputs.iter().find_map(|o| match o.values.shape() {
        [1, prototypes, _, _] => Some(*prototypes),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detect::best;
    use crate::detection::Thresholds;
    use ndarray::{Array3, Array4};

    #[test]
    fn classes_end_where_masks_begin() {
        let mut columns = Array3::<f32>::zeros((1, 4 + 3 + 2, 10));
        for (i, v) in [50.0, 40.0, 20.0, 10.0, 0.1, 0.7, 0.2, 9.0, -9.0].into_iter().enumerate() {
            columns[[0, i, 6]] = v;
        }
        let masks = Array4::<f32>::zeros((1, 2, 8, 8));
        let outputs = [
            Output { name: "boxes", values: columns.view().into_dyn() },
            Output { name: "masks", values: masks.view().into_dyn() },
        ];
        let found =
            Head::YoloV8.detect(&outputs, &Known::default(), Thresholds::default()).unwrap();
        let [one] = found.as_slice() else { panic!("{found:?}") };
        assert_eq!((one.class, one.score, one.mask.as_slice()), (1, 0.7, [9.0, -9.0].as_slice()));
        assert_eq!(one.bounds, Bounds { x0: 40.0, y0: 35.0, x1: 60.0, y1: 45.0 });
        // Where the labels tell the classes, the rest (points of a pose) is left alone.
        let known = Known { classes: Some(1), ..Known::default() };
        let found = Head::YoloV8.detect(&outputs[..1], &known, Thresholds::default()).unwrap();
        assert!(found.is_empty(), "the first class has 0.1");
    }

    #[test]
    fn best_takes_the_first_of_equals() {
        assert_eq!(best([1.0, 3.0, 3.0].into_iter()), Some((1, 3.0)));
        assert_eq!(best([].into_iter()), None);
    }
}
