//! Maps with anchors in each cell, as Darknet trains them.
//! *Source*: Redmon and Farhadi, YOLO9000 (2017) and YOLOv3 (2018); Bochkovskiy et al., YOLOv4
//! (2020); the anchors are those of the published configurations.
//!
//! Channel `anchor * (5 + classes) + i` of a cell is x, y, width, height, objectness, then the
//! classes. The centre is `sigmoid(x)` into the cell, the sides `exp(w)` times those of the anchor.

use super::{Head, Known, best, sigmoid};
use crate::Output;
use crate::detection::{Bounds, Detection};
use crate::error::VisionError;
use ndarray::{ArrayView3, Axis, Ix3, s};

/// In cells.
const V2_COCO: [[f32; 2]; 5] = [
    [0.57273, 0.677385],
    [1.87446, 2.06253],
    [3.33843, 5.47434],
    [7.88282, 3.52778],
    [9.77052, 9.16828],
];
const V2_VOC: [[f32; 2]; 5] = [
    [1.3221, 1.73145],
    [3.19275, 4.00944],
    [5.05587, 8.09892],
    [9.47112, 4.84053],
    [11.2364, 10.0071],
];
const V2_TINY_VOC: [[f32; 2]; 5] =
    [[1.08, 1.19], [3.42, 4.41], [6.63, 11.38], [9.42, 5.11], [16.62, 10.52]];

/// In pixels of the input; finest map first.
const V3_TINY: [[f32; 2]; 6] =
    [[10.0, 14.0], [23.0, 27.0], [37.0, 58.0], [81.0, 82.0], [135.0, 169.0], [344.0, 319.0]];
/// As `V3_TINY`, but the fine map takes the second to the fourth of them.
const V4_TINY: [[f32; 2]; 6] =
    [[23.0, 27.0], [37.0, 58.0], [81.0, 82.0], [81.0, 82.0], [135.0, 169.0], [344.0, 319.0]];
const V3: [[f32; 2]; 9] = [
    [10.0, 13.0],
    [16.0, 30.0],
    [33.0, 23.0],
    [30.0, 61.0],
    [62.0, 45.0],
    [59.0, 119.0],
    [116.0, 90.0],
    [156.0, 198.0],
    [373.0, 326.0],
];
const V4: [[f32; 2]; 9] = [
    [12.0, 16.0],
    [19.0, 36.0],
    [40.0, 28.0],
    [36.0, 75.0],
    [76.0, 55.0],
    [72.0, 146.0],
    [142.0, 110.0],
    [192.0, 243.0],
    [459.0, 401.0],
];

pub(super) fn decode(
    head: Head,
    outputs: &[Output<'_>],
    known: &Known,
    confidence: f32,
) -> Result<Vec<Detection>, VisionError> {
    let (maps_wanted, anchors_a_cell) = match head {
        Head::YoloV2 => (1, 5),
        Head::YoloV3Tiny | Head::YoloV4Tiny => (2, 3),
        _ => (3, 3),
    };
    let batch = |o: &Output<'_>| o.values.ndim() == 4 && o.values.shape()[0] == 1;
    let mut maps: Vec<ArrayView3<'_, f32>> = (outputs.iter())
        .filter(|o| batch(o))
        .filter_map(|o| {
            o.values.view().index_axis_move(Axis(0), 0).into_dimensionality::<Ix3>().ok()
        })
        .collect();
    maps.sort_by_key(|map| std::cmp::Reverse(map.len_of(Axis(1))));
    let anchors = anchors(head, known, maps.first().map_or(0, |m| m.len_of(Axis(0))));
    let sound = |map: &ArrayView3<'_, f32>| {
        let channels = map.len_of(Axis(0));
        channels.is_multiple_of(anchors_a_cell) && channels / anchors_a_cell > 5
    };
    let expected = || format!("{maps_wanted} maps of {anchors_a_cell} * (5 + classes) channels");
    let fits = maps.len() == maps_wanted && maps.iter().all(sound);
    if !fits || anchors.len() != maps_wanted * anchors_a_cell {
        return Err(head.missing(format!("{}, and as many anchors", expected()), outputs));
    }
    let mut found = Vec::new();
    for (map, anchors) in maps.iter().zip(anchors.chunks(anchors_a_cell)) {
        cells(head, map, anchors, known, confidence, &mut found);
    }
    Ok(found)
}

fn anchors(head: Head, known: &Known, channels: usize) -> Vec<[f32; 2]> {
    if let Some(given) = &known.anchors {
        return given.clone();
    }
    match head {
        Head::YoloV2 if channels == 5 * 85 => V2_COCO.into(),
        // Tiny YOLOv2 has 9 convolutions, YOLOv2 has 23.
        Head::YoloV2 if known.convolutions > 12 => V2_VOC.into(),
        Head::YoloV2 => V2_TINY_VOC.into(),
        Head::YoloV3Tiny => V3_TINY.into(),
        Head::YoloV4Tiny => V4_TINY.into(),
        Head::YoloV4 => V4.into(),
        _ => V3.into(),
    }
}

/// How far beyond its cell a centre can reach (`scale_x_y`), by the map's step.
fn reach(head: Head, step: f32) -> f32 {
    match head {
        Head::YoloV4Tiny => 1.05,
        Head::YoloV4 if step <= 8.0 => 1.2,
        Head::YoloV4 if step <= 16.0 => 1.1,
        Head::YoloV4 => 1.05,
        _ => 1.0,
    }
}

fn cells(
    head: Head,
    map: &ArrayView3<'_, f32>,
    anchors: &[[f32; 2]],
    known: &Known,
    confidence: f32,
    found: &mut Vec<Detection>,
) {
    let (channels, rows, cols) = map.dim();
    let each = channels / anchors.len();
    let input = known.input();
    let (step_y, step_x) = (input.rows as f32 / rows as f32, input.cols as f32 / cols as f32);
    let reach = reach(head, step_y);
    let v2 = head == Head::YoloV2;
    for row in 0..rows {
        for col in 0..cols {
            for (i, &[width, height]) in anchors.iter().enumerate() {
                let values = map.slice(s![i * each..(i + 1) * each, row, col]);
                let objectness = sigmoid(values[4]);
                if objectness < confidence {
                    continue;
                }
                let classes = values.iter().skip(5).copied();
                let Some((class, score)) = best(classes.clone()) else { continue };
                // YOLOv2 has one class a box, the later ones ask for each by itself.
                let score = match v2 {
                    true => 1.0 / classes.map(|c| (c - score).exp()).sum::<f32>(),
                    false => sigmoid(score),
                };
                let score = objectness * score;
                if score < confidence {
                    continue;
                }
                let centre = |v: f32| sigmoid(v) * reach - (reach - 1.0) / 2.0;
                let x = (col as f32 + centre(values[0])) * step_x;
                let y = (row as f32 + centre(values[1])) * step_y;
                let unit = if v2 { (step_x, step_y) } else { (1.0, 1.0) };
                let (w, h) = (values[2].exp() * width * unit.0, values[3].exp() * height * unit.1);
                let bounds = Bounds::centred(x, y, w, h);
                found.push(Detection { class, score, bounds, mask: Vec::new() });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detection::Thresholds;
    use crate::fit::Size;
    use ndarray::Array4;

    fn logit(p: f32) -> f32 {
        (p / (1.0 - p)).ln()
    }

    /// One box in one cell of an otherwise quiet map, told by hand.
    #[test]
    fn one_box_of_yolov2() {
        let mut map = Array4::<f32>::from_elem((1, 5 * 8, 4, 6), -20.0);
        // Third anchor, row 1, col 2: centre a quarter into the cell, twice as wide as the anchor.
        let values = [logit(0.25), logit(0.75), 2f32.ln(), 0.0, logit(0.9), 1.0, 3.0, 1.0];
        for (i, v) in values.into_iter().enumerate() {
            map[[0, 2 * 8 + i, 1, 2]] = v;
        }
        let outputs = [Output { name: "out", values: map.view().into_dyn() }];
        let known = Known {
            input: Some(Size::new(128, 192)),
            anchors: Some(vec![[1.0, 1.0], [1.0, 1.0], [0.5, 1.5], [1.0, 1.0], [1.0, 1.0]]),
            ..Known::default()
        };
        let found = Head::YoloV2.detect(&outputs, &known, Thresholds::default()).unwrap();
        let [box_] = found.as_slice() else { panic!("{found:?}") };
        assert_eq!(box_.class, 1);
        let softmax = 3f32.exp() / (3f32.exp() + 2.0 * 1f32.exp());
        assert!((box_.score - 0.9 * softmax).abs() < 1e-6);
        let expected = Bounds::centred(2.25 * 32.0, 1.75 * 32.0, 32.0, 48.0);
        for (a, b) in [(box_.bounds.x0, expected.x0), (box_.bounds.y1, expected.y1)] {
            assert!((a - b).abs() < 1e-3, "{box_:?}");
        }
    }

    #[test]
    fn wrong_outputs_are_named() {
        let map = Array4::<f32>::zeros((1, 7, 4, 4));
        let outputs = [Output { name: "odd", values: map.view().into_dyn() }];
        let error = Head::YoloV3.detect(&outputs, &Known::default(), Thresholds::default());
        let error = error.unwrap_err().to_string();
        assert!(error.contains("`odd` [1, 7, 4, 4]") && error.contains("3 maps"), "{error}");
    }
}
