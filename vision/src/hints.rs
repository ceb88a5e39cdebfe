//! What the metadata of a model says of its pictures, its task and its classes.
//!
//! Four kinds of writers are understood:
//!
//! - Ultralytics (`task`, `names`, `imgsz`, `stride`): pictures from 0 to 1, RGB.
//! - ONNX's own image metadata (`Image.BitmapPixelFormat`, `Image.NominalPixelRange`), as Windows
//!   ML and Azure Custom Vision write it.
//! - Hugging Face, in files beside the model: `preprocessor_config.json` and `config.json`.
//! - Plain keys that several tools use: `mean` and `std` (also `standardization_mean`), and
//!   `class_names`.

use crate::convention::{ChannelOrder, FitMode, Normalize};
use crate::fit::Size;
use crate::labels::Labels;
use crate::literal;
use crate::task::Task;
use serde_json::Value;
use std::collections::BTreeMap;

/// What is known before anybody looks at the outputs; none where nothing says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Hints {
    /// Which numbers.
    pub normalize: Option<Normalize>,
    /// Which colour first.
    pub channels: Option<ChannelOrder>,
    /// How pictures fit.
    pub fit: Option<FitMode>,
    /// Rows and columns that a model of open size was trained with.
    pub size: Option<Size>,
    /// What rows and columns must be a multiple of.
    pub stride: Option<usize>,
    /// What the model is for.
    pub task: Option<Task>,
    /// What its classes are called.
    pub labels: Option<Labels>,
    /// Who wrote it, for the report.
    pub writer: Option<&'static str>,
}

impl Hints {
    /// Reads the entries of a file's metadata. What cannot be understood is left out.
    pub fn from_metadata(entries: &BTreeMap<String, String>) -> Self {
        let mut hints = Self::default();
        let value = |key: &str| entries.get(key).and_then(|text| literal::parse(text));
        let word = |key: &str| entries.get(key).map(|text| text.trim());
        hints.labels = (["names", "class_names", "labels", "classes"].iter())
            .find_map(|key| Labels::from_value(&value(key)?));
        hints.stride = value("stride").and_then(|v| largest(&v)).filter(|s| *s <= 1024);
        hints.size = value("imgsz").and_then(|v| size(&v));
        let ultralytics = ["description", "author", "docs"];
        let ultralytics =
            ultralytics.iter().any(|k| word(k).is_some_and(|v| v.contains("ltralytics")));
        // The first YOLOv5 exports have only these two.
        if ultralytics || (hints.stride.is_some() && hints.labels.is_some()) {
            hints.normalize = Some(Normalize::ZeroToOne);
            hints.channels = Some(ChannelOrder::Rgb);
            hints.writer = Some("Ultralytics");
            hints.task = match word("task") {
                Some("classify") => Some(Task::Classify),
                Some("segment") => Some(Task::Segment),
                Some("detect" | "pose") => Some(Task::Detect),
                None => Some(Task::Detect),
                _ => None,
            };
            hints.fit = match hints.task {
                Some(Task::Classify) => Some(FitMode::Crop),
                _ => Some(FitMode::Letterbox),
            };
        }
        let means = |keys: [&str; 2]| keys.iter().find_map(|k| colours(&value(k)?));
        let mean = means(["mean", "standardization_mean"]);
        let std = means(["std", "standardization_std"]);
        if let Some(normalize) = mean.zip(std).and_then(|(m, s)| Normalize::from_mean_std(m, s)) {
            hints.normalize = Some(normalize);
            hints.writer.get_or_insert("the keys `mean` and `std`");
        }
        hints.onnx_image(word);
        hints
    }

    /// ONNX `docs/MetadataProps.md`.
    fn onnx_image<'a>(&mut self, word: impl Fn(&str) -> Option<&'a str>) {
        let channels = match word("Image.BitmapPixelFormat") {
            Some("Rgb8" | "Rgba8") => Some(ChannelOrder::Rgb),
            Some("Bgr8" | "Bgra8") => Some(ChannelOrder::Bgr),
            _ => None,
        };
        let normalize = match word("Image.NominalPixelRange") {
            Some("NominalRange_0_255") => Some(Normalize::Bytes),
            Some("Normalized_0_1") => Some(Normalize::ZeroToOne),
            Some("Normalized_1_1") => Some(Normalize::MinusOneToOne),
            _ => None,
        };
        if channels.is_some() || normalize.is_some() {
            self.writer.get_or_insert("ONNX image metadata");
        }
        self.channels = channels.or(self.channels);
        self.normalize = normalize.or(self.normalize);
    }

    /// Adds what Hugging Face's `preprocessor_config.json` says, where nothing said it before.
    pub fn add_preprocessor(&mut self, text: &str) {
        let Ok(value) = serde_json::from_str::<Value>(text) else { return };
        let yes = |key: &str| value.get(key).and_then(Value::as_bool);
        let numbers = |key: &str| value.get(key).and_then(colours);
        let rescaled = yes("do_rescale").unwrap_or(true);
        let normalize = match yes("do_normalize").unwrap_or(false) {
            true => numbers("image_mean").zip(numbers("image_std")).and_then(|(mean, std)| {
                let byte = Normalize::Byte { mean, std };
                if rescaled { Normalize::from_mean_std(mean, std) } else { Some(byte) }
            }),
            false if rescaled => Some(Normalize::ZeroToOne),
            false => Some(Normalize::Bytes),
        };
        // A size of one number, or by the shortest edge, keeps the proportions and cuts.
        let cuts = yes("do_center_crop") == Some(true);
        let fit = if cuts { FitMode::Crop } else { FitMode::Stretch };
        if normalize.is_some() {
            self.writer.get_or_insert("preprocessor_config.json");
        }
        self.normalize = self.normalize.or(normalize);
        self.fit = self.fit.or(Some(fit));
        let sides = |v: &Value| {
            let side = |key: &str| v.get(key).and_then(Value::as_u64);
            Some(Size::new(side("height")? as usize, side("width")? as usize))
        };
        let size = ["crop_size", "size"].iter().find_map(|k| sides(value.get(k)?));
        self.size = self.size.or(size);
    }

    /// Adds the classes of Hugging Face's `config.json`, where nothing named them before.
    pub fn add_config(&mut self, text: &str) {
        let Ok(value) = serde_json::from_str::<Value>(text) else { return };
        let labels = || Labels::from_value(value.get("id2label")?);
        self.labels = self.labels.take().or_else(labels);
    }
}

/// A number, or the largest of a list.
fn largest(value: &Value) -> Option<usize> {
    let number = |v: &Value| v.as_f64().filter(|v| *v >= 1.0 && *v <= 1e6).map(|v| v as usize);
    match value {
        Value::Array(values) => values.iter().filter_map(number).max(),
        value => number(value),
    }
}

/// `[rows, cols]`, or one side of a square.
fn size(value: &Value) -> Option<Size> {
    match value {
        Value::Array(sides) => match sides.as_slice() {
            [rows, cols] => Some(Size::new(largest(rows)?, largest(cols)?)),
            _ => None,
        },
        side => largest(side).map(|side| Size::new(side, side)),
    }
}

/// One number for each colour, or one for all.
fn colours(value: &Value) -> Option<[f32; 3]> {
    let number = |v: &Value| v.as_f64().map(|v| v as f32);
    match value {
        Value::Array(values) => match values.as_slice() {
            [one] => number(one).map(|one| [one; 3]),
            [red, green, blue] => Some([number(red)?, number(green)?, number(blue)?]),
            _ => None,
        },
        one => number(one).map(|one| [one; 3]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(entries: &[(&str, &str)]) -> Hints {
        let owned = |&(k, v): &(&str, &str)| (k.to_owned(), v.to_owned());
        Hints::from_metadata(&entries.iter().map(owned).collect())
    }

    #[test]
    fn ultralytics() {
        let hints = of(&[
            ("description", "Ultralytics YOLO11n model "),
            ("stride", "32"),
            ("task", "detect"),
            ("imgsz", "[320, 640]"),
            ("names", "{0: 'person', 1: 'bicycle'}"),
        ]);
        assert_eq!(hints.task, Some(Task::Detect));
        assert_eq!(hints.normalize, Some(Normalize::ZeroToOne));
        assert_eq!(hints.fit, Some(FitMode::Letterbox));
        assert_eq!(hints.size, Some(Size::new(320, 640)));
        assert_eq!(hints.stride, Some(32));
        assert_eq!(hints.labels.unwrap().name(1), "bicycle");
    }

    #[test]
    fn the_first_yolov5_exports() {
        let hints = of(&[("stride", "32"), ("names", "['person', 'bicycle']")]);
        assert_eq!((hints.task, hints.writer), (Some(Task::Detect), Some("Ultralytics")));
    }

    #[test]
    fn onnx_image_metadata() {
        let hints = of(&[
            ("Image.BitmapPixelFormat", "Bgr8"),
            ("Image.NominalPixelRange", "NominalRange_0_255"),
        ]);
        assert_eq!(hints.channels, Some(ChannelOrder::Bgr));
        assert_eq!(hints.normalize, Some(Normalize::Bytes));
        assert_eq!((hints.task, hints.fit), (None, None));
    }

    #[test]
    fn hugging_face() {
        let mut hints = Hints::default();
        hints.add_preprocessor(
            r#"{"do_normalize": true, "do_center_crop": true, "image_mean": [0.5, 0.5, 0.5],
                "image_std": [0.5, 0.5, 0.5], "size": {"height": 224, "width": 224}}"#,
        );
        assert_eq!(hints.normalize.unwrap().to_string(), "0.5,0.5,0.5/0.5,0.5,0.5");
        assert_eq!((hints.fit, hints.size), (Some(FitMode::Crop), Some(Size::new(224, 224))));
        hints.add_config(r#"{"id2label": {"0": "cat", "1": "dog"}}"#);
        assert_eq!(hints.labels.as_ref().unwrap().name(1), "dog");
        hints.add_config("{broken");
    }

    #[test]
    fn nonsense_says_nothing() {
        let hints = of(&[
            ("stride", "-5"),
            ("imgsz", "[1, 2, 3]"),
            ("names", "{0: "),
            ("mean", "1"),
            ("std", "0"),
        ]);
        assert_eq!(hints, Hints::default());
    }
}
