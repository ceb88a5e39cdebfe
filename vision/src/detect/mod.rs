//! The heads of detectors: how their outputs become boxes.
//!
//! | file | outputs |
//! |---|---|
//! | `grid.rs` | a map with anchors in each cell, not decoded: YOLOv2, v3, v4 and the tiny ones |
//! | `rows.rs` | one row a box: YOLOv5 and v7, YOLOX, models with suppression inside |
//! | `columns.rs` | one column a box: YOLOv8, v9, v11 and their masks |
//! | `ssd.rs` | a list of boxes and one of scores; `priors.rs` has the default boxes of some |

mod columns;
mod find;
mod grid;
mod priors;
mod rows;
mod ssd;

use crate::Output;
use crate::convention::words;
use crate::detection::{Detection, Thresholds, suppress};
use crate::error::{VisionError, describe};
use crate::fit::Size;
use serde::Serialize;
use std::fmt;
use std::str::FromStr;

/// How the outputs of a detector are to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Head {
    /// One map, five anchors a cell.
    YoloV2,
    /// Two maps, three anchors a cell.
    YoloV3Tiny,
    /// Three maps, three anchors a cell.
    YoloV3,
    /// Two maps, three anchors a cell, centres that reach beyond the cell.
    YoloV4Tiny,
    /// Three maps of that kind.
    YoloV4,
    /// `[1, boxes, 5 + classes]`: centre, sides, objectness, classes.
    YoloV5,
    /// As YOLOv5, with centres and sides in units of the cell.
    YoloX,
    /// `[1, 4 + classes, boxes]`: centre, sides, classes. Also YOLOv9 and YOLO11.
    YoloV8,
    /// `[1, boxes, 6]`: corners, score, class; suppressed already.
    EndToEnd,
    /// `[1, boxes, 4]` and `[1, boxes, classes]`, the first class being the background.
    Ssd,
}

words!(
    Head,
    "head",
    "yolov2, yolov3-tiny, yolov3, yolov4-tiny, yolov4, yolov5, yolox, yolov8, end-to-end or ssd",
    YoloV2 = "yolov2",
    YoloV3Tiny = "yolov3-tiny",
    YoloV3 = "yolov3",
    YoloV4Tiny = "yolov4-tiny",
    YoloV4 = "yolov4",
    YoloV5 = "yolov5",
    YoloX = "yolox",
    YoloV8 = "yolov8",
    EndToEnd = "end-to-end",
    Ssd = "ssd"
);

/// What is known of a model beside its outputs.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// Rows and columns of the input.
    pub input: Option<Size>,
    /// Classes, where labels say how many.
    pub classes: Option<usize>,
    /// Convolutions of the model, which tell relatives with the same outputs apart.
    pub convolutions: usize,
    /// Width and height of each anchor, in cells for YOLOv2 and in pixels for v3 and v4; none for
    /// the published ones.
    pub anchors: Option<Vec<[f32; 2]>>,
}

impl Known {
    fn input(&self) -> Size {
        self.input.unwrap_or(Size::new(0, 0))
    }
}

impl Head {
    /// The boxes that the outputs hold, in pixels of the input, suppressed, by falling score.
    ///
    /// *Errors*: outputs that this head does not have.
    pub fn detect(
        self,
        outputs: &[Output<'_>],
        known: &Known,
        thresholds: Thresholds,
    ) -> Result<Vec<Detection>, VisionError> {
        let confidence = thresholds.confidence;
        let found = match self {
            Self::YoloV2 | Self::YoloV3Tiny | Self::YoloV3 | Self::YoloV4Tiny | Self::YoloV4 => {
                grid::decode(self, outputs, known, confidence)?
            }
            Self::YoloV5 | Self::YoloX => rows::decode(self, outputs, known, confidence)?,
            Self::EndToEnd => {
                let mut found = rows::decode_finished(outputs, confidence)?;
                found.truncate(thresholds.count_max);
                return Ok(found);
            }
            Self::YoloV8 => columns::decode(outputs, known, confidence)?,
            Self::Ssd => ssd::decode(outputs, known, confidence)?,
        };
        Ok(suppress(found, thresholds))
    }

    /// The overlap that this head's authors allow.
    pub fn usual_overlap(self) -> f32 {
        match self {
            Self::YoloV8 | Self::EndToEnd => 0.7,
            _ => 0.45,
        }
    }

    fn missing(self, expected: impl Into<String>, outputs: &[Output<'_>]) -> VisionError {
        let what = match self {
            Self::Ssd => "boxes with scores",
            _ => "YOLO head",
        };
        VisionError::Outputs { what, expected: expected.into(), got: describe(outputs) }
    }
}

/// The largest of some scores and its index; none of an empty list.
fn best(scores: impl Iterator<Item = f32>) -> Option<(usize, f32)> {
    let larger = |a: (usize, f32), b: (usize, f32)| if b.1 > a.1 { b } else { a };
    scores.enumerate().reduce(larger)
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}
