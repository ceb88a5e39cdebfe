//! One row a box.
//! *Source*: the exports of ultralytics/yolov5 and WongKinYiu/yolov7 (decoded), and of
//! Megvii-BaseDetection/YOLOX (centres and sides in units of the cell; Ge et al., 2021).

use super::{Head, Known, best};
use crate::Output;
use crate::detection::{Bounds, Detection};
use crate::error::VisionError;
use ndarray::{ArrayView2, Axis, Ix2};

/// The first output with two axes beside the batch.
pub(super) fn list<'a>(outputs: &'a [Output<'_>]) -> Option<ArrayView2<'a, f32>> {
    let view = |o: &'a Output<'_>| {
        let view = o.values.view();
        let view = match o.values.shape() {
            [1, _, _] => view.index_axis_move(Axis(0), 0),
            _ => view,
        };
        view.into_dimensionality::<Ix2>().ok()
    };
    outputs.iter().find_map(view)
}

pub(super) fn decode(
    head: Head,
    outputs: &[Output<'_>],
    known: &Known,
    confidence: f32,
) -> Result<Vec<Detection>, VisionError> {
    let rows = list(outputs).filter(|rows| rows.ncols() >= 6);
    let missing = || head.missing("an output [1, boxes, 5 + classes]", outputs);
    let rows = rows.ok_or_else(missing)?;
    let cells = match head {
        Head::YoloX => {
            let cells = cells(known);
            if cells.len() != rows.nrows() {
                let expected = format!("[1, {}, 5 + classes] for this input", cells.len());
                return Err(head.missing(expected, outputs));
            }
            Some(cells)
        }
        _ => None,
    };
    // What follows the classes (masks, points) is not of this head.
    let classes = known.classes.unwrap_or(usize::MAX).min(rows.ncols() - 5);
    let mut found = Vec::new();
    for (i, row) in rows.rows().into_iter().enumerate() {
        if row[4] < confidence {
            continue;
        }
        let scores = row.iter().skip(5).take(classes).copied();
        let Some((class, score)) = best(scores) else { continue };
        let score = score * row[4];
        if score < confidence {
            continue;
        }
        let bounds = match &cells {
            None => Bounds::centred(row[0], row[1], row[2], row[3]),
            Some(cells) => {
                let Cell { col, row: cell_row, step } = cells[i];
                let (x, y) = ((row[0] + col) * step, (row[1] + cell_row) * step);
                Bounds::centred(x, y, row[2].exp() * step, row[3].exp() * step)
            }
        };
        found.push(Detection { class, score, bounds, mask: Vec::new() });
    }
    Ok(found)
}

/// A cell of one of the maps that YOLOX looks at.
struct Cell {
    col: f32,
    row: f32,
    step: f32,
}

fn cells(known: &Known) -> Vec<Cell> {
    let input = known.input();
    let mut cells = Vec::new();
    for step in [8usize, 16, 32] {
        for row in 0..input.rows.div_ceil(step) {
            for col in 0..input.cols.div_ceil(step) {
                cells.push(Cell { col: col as f32, row: row as f32, step: step as f32 });
            }
        }
    }
    cells
}

/// Corners, score and class of boxes that the model has suppressed by itself.
pub(super) fn decode_finished(
    outputs: &[Output<'_>],
    confidence: f32,
) -> Result<Vec<Detection>, VisionError> {
    let rows = list(outputs).filter(|rows| rows.ncols() == 6);
    let missing = || Head::EndToEnd.missing("an output [1, boxes, 6]", outputs);
    let rows = rows.ok_or_else(missing)?;
    let certain = rows.rows().into_iter().filter(|row| row[4] >= confidence && row[5] >= 0.0);
    let mut found: Vec<Detection> = certain
        .map(|row| Detection {
            class: row[5] as usize,
            score: row[4],
            bounds: Bounds { x0: row[0], y0: row[1], x1: row[2], y1: row[3] },
            mask: Vec::new(),
        })
        .filter(|found| found.bounds.is_finite())
        .collect();
    found.sort_by(|a, b| b.score.total_cmp(&a.score));
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detection::Thresholds;
    use crate::fit::Size;
    use ndarray::Array3;

    #[test]
    fn yolox_counts_cells_from_the_finest_map() {
        let input = Size::new(64, 32);
        // 8 x 4, then 4 x 2, then 2 x 1 cells.
        let mut rows = Array3::<f32>::zeros((1, 32 + 8 + 2, 7));
        // The second cell of the second row of the map of step 16.
        let values = [0.5, 0.25, 0.0, 2f32.ln(), 0.8, 0.1, 0.9];
        for (i, v) in values.into_iter().enumerate() {
            rows[[0, 32 + 3, i]] = v;
        }
        let outputs = [Output { name: "out", values: rows.view().into_dyn() }];
        let known = Known { input: Some(input), ..Known::default() };
        let found = Head::YoloX.detect(&outputs, &known, Thresholds::default()).unwrap();
        let [one] = found.as_slice() else { panic!("{found:?}") };
        assert_eq!((one.class, one.bounds), (1, Bounds::centred(24.0, 20.0, 16.0, 32.0)));
        let known = Known { input: Some(Size::new(32, 32)), ..Known::default() };
        assert!(Head::YoloX.detect(&outputs, &known, Thresholds::default()).is_err());
    }

    #[test]
    fn finished_boxes_are_taken_as_they_are() {
        let rows = [[1.0, 2.0, 3.0, 4.0, 0.5, 7.0], [1.0, 2.0, 3.0, 4.0, 0.9, 7.0], [0.0; 6]];
        let rows = ndarray::arr2(&rows).insert_axis(Axis(0));
        let outputs = [Output { name: "out", values: rows.view().into_dyn() }];
        let found = Head::EndToEnd.detect(&outputs, &Known::default(), Thresholds::default());
        let scores: Vec<f32> = found.unwrap().iter().map(|d| d.score).collect();
        assert_eq!(scores, [0.9, 0.5], "not suppressed again, only sorted");
    }
}
