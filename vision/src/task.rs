//! What a model is for.

use crate::convention::{ChannelOrder, Convention, FitMode, Normalize, words};
use crate::detect::{Head, Known};
use crate::error::VisionError;
use crate::unbatched;
use serde::Serialize;
use std::fmt;
use std::str::FromStr;

/// What people want of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Task {
    /// Which class the picture shows.
    Classify,
    /// Boxes around things.
    Detect,
    /// A class for each pixel, or a mask for each box.
    Segment,
    /// A picture: larger, cleaner, other colours.
    Picture,
    /// The numbers.
    Raw,
}

words!(
    Task,
    "task",
    "classify, detect, segment, picture or raw",
    Classify = "classify",
    Detect = "detect",
    Segment = "segment",
    Picture = "picture",
    Raw = "raw"
);

impl Task {
    /// The task of a model with inputs of these channels and outputs of these ONNX dims.
    pub fn guess(outputs: &[Vec<usize>], channels: Option<usize>, known: &Known) -> Self {
        if Head::find(outputs, known).is_some() {
            return Task::Detect;
        }
        let [dims] = outputs else {
            // Several outputs: maps of classes at several depths have the first as the main one.
            return match outputs.first().map(|dims| unbatched(dims)) {
                Some([classes, rows, cols]) if *classes > 3 && rows * cols > 1 => Task::Segment,
                _ => Task::Raw,
            };
        };
        match *unbatched(dims) {
            [_] | [_, 1, 1] => Task::Classify,
            [1, 1, classes] if classes > 1 => Task::Classify,
            [1, ..] if channels == Some(3) => Task::Segment,
            [1 | 3, _, _] => Task::Picture,
            [_, _, _] => Task::Segment,
            _ => Task::Raw,
        }
    }

    /// What models of this task usually take, where nothing says otherwise.
    pub fn usual_convention(self, head: Option<Head>) -> Convention {
        let (normalize, fit) = match (self, head) {
            (Task::Classify, _) => (Normalize::IMAGENET, FitMode::Crop),
            (Task::Segment, _) => (Normalize::IMAGENET, FitMode::Stretch),
            (Task::Detect, Some(Head::Ssd)) => {
                (Normalize::Byte { mean: [127.0; 3], std: [128.0; 3] }, FitMode::Stretch)
            }
            // What the authors of YOLOX feed it.
            (Task::Detect, Some(Head::YoloX)) => (Normalize::Bytes, FitMode::Letterbox),
            (Task::Detect, _) => (Normalize::ZeroToOne, FitMode::Letterbox),
            (Task::Picture | Task::Raw, _) => (Normalize::ZeroToOne, FitMode::Stretch),
        };
        Convention { normalize, channels: ChannelOrder::Rgb, fit }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fit::Size;

    fn guess(channels: usize, outputs: &[&[usize]]) -> Task {
        let known = Known { input: Some(Size::new(224, 224)), ..Known::default() };
        let outputs: Vec<Vec<usize>> = outputs.iter().map(|o| o.to_vec()).collect();
        Task::guess(&outputs, Some(channels), &known)
    }

    #[test]
    fn by_the_shapes() {
        assert_eq!(guess(3, &[&[1, 1000]]), Task::Classify);
        assert_eq!(guess(3, &[&[1, 1000, 1, 1]]), Task::Classify);
        assert_eq!(guess(3, &[&[1, 1, 1, 1001]]), Task::Classify);
        assert_eq!(guess(3, &[&[1, 84, 1029]]), Task::Detect);
        assert_eq!(guess(3, &[&[1, 21, 224, 224]]), Task::Segment);
        assert_eq!(guess(3, &[&[1, 21, 224, 224], &[1, 21, 224, 224]]), Task::Segment);
        assert_eq!(guess(3, &[&[1, 1, 224, 224]]), Task::Segment);
        assert_eq!(guess(3, &[&[1, 3, 448, 448]]), Task::Picture);
        assert_eq!(guess(1, &[&[1, 1, 448, 448]]), Task::Picture);
        assert_eq!(guess(3, &[&[1, 7, 5]]), Task::Raw);
        assert_eq!(guess(3, &[]), Task::Raw);
    }
}
