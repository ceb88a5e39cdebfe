//! How a model is used: what goes into it and what people want of its answer, each by the flags,
//! by what its file says, or by what is usual; and where each of these came from.

use crate::cli::{PictureArguments, ResultArguments};
use crate::failure::Failure;
use crate::input::picture_input;
use anyhow::{Context, anyhow, bail};
use model::{Activation, Element, Model, Op};
use serde::Serialize;
use std::path::Path;
use vision::convention::Normalize;
use vision::detect::Known;
use vision::detection::Thresholds;
use vision::{Convention, FitMode, Head, Hints, Labels, Size, Task};

/// Bytes of a file of labels or of settings beside a model.
const SIDE_FILE_BYTES_MAX: u64 = 8 << 20;

/// What is known of a model before it is loaded.
pub(crate) struct Hinted {
    hints: Hints,
    labels: Option<Labels>,
}

/// A value, and who said so.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Said<T> {
    pub value: T,
    pub by: &'static str,
}

const FLAG: &str = "given";
const METADATA: &str = "metadata";
const SHAPES: &str = "shapes";
const USUAL: &str = "usual";

/// How one model is used.
#[derive(Clone, Debug)]
pub(crate) struct Usage {
    pub convention: Convention,
    pub task: Task,
    pub head: Option<Head>,
    pub known: Known,
    pub labels: Labels,
    pub thresholds: Thresholds,
    /// Above it the only channel of a segmentation is the class.
    pub mask_threshold: f32,
    pub top: usize,
    pub overlay: bool,
    /// The convention and the task with who said so, for the report.
    pub told: serde_json::Value,
    /// The same as a line for people.
    pub line: String,
}

impl Hinted {
    /// Reads what a model's file says of itself, the files that Hugging Face puts beside it, and
    /// the labels that the person gives.
    ///
    /// *Errors*: a model or a file of labels that cannot be read.
    pub(crate) fn read(reference: &str, labels: Option<&Path>) -> Result<Self, Failure> {
        let entries = model::metadata(reference).map_err(crate::failure::bad_model)?;
        let mut hints = Hints::from_metadata(&entries);
        if !reference.starts_with("zoo:") {
            let folder = Path::new(reference).parent().unwrap_or(Path::new("."));
            let beside = |name: &str| read_text(&folder.join(name)).ok();
            if let Some(text) = beside("preprocessor_config.json") {
                hints.add_preprocessor(&text);
            }
            if let Some(text) = beside("config.json") {
                hints.add_config(&text);
            }
        }
        let labels = match labels {
            None => None,
            Some(path) => {
                let parsed = read_text(path).and_then(|text| Ok(Labels::parse(&text)?));
                let hint = "a file of labels has one name a line, in the order of the classes";
                let parsed = parsed.with_context(|| format!("cannot use {}", path.display()));
                Some(parsed.map_err(|error| Failure::bad_input(error).hint(hint))?)
            }
        };
        Ok(Self { hints, labels })
    }

    /// The size at which a model of open size takes a picture: the one given, or the one that it
    /// was trained with, cut to the picture's proportions where the model says its step; else that
    /// of the picture itself.
    pub(crate) fn open_size(&self, flags: &PictureArguments, picture: Size) -> Size {
        if let Some(size) = flags.size {
            return Size::new(size.rows, size.cols);
        }
        let fit = flags.fit.or(self.hints.fit);
        let (Some(size), false) = (self.hints.size, fit == Some(FitMode::None)) else {
            return picture;
        };
        let (Some(step), Some(FitMode::Letterbox)) = (self.hints.stride, fit) else { return size };
        // Ultralytics' smallest letterbox: bars only up to the next step.
        let scale =
            (size.rows as f64 / picture.rows as f64).min(size.cols as f64 / picture.cols as f64);
        let along =
            |len: usize| ((len as f64 * scale).round() as usize).max(1).next_multiple_of(step);
        Size::new(along(picture.rows), along(picture.cols))
    }

    /// How a loaded model is used.
    ///
    /// *Errors*: flags that do not go together.
    pub(crate) fn usage(
        &self,
        graph: &Model,
        flags: &PictureArguments,
        results: &ResultArguments,
        is_picture: bool,
    ) -> Result<Usage, Failure> {
        let hints = &self.hints;
        let labels = self.labels.clone().or_else(|| hints.labels.clone());
        let place = match graph.inputs.as_slice() {
            &[map] => picture_input(graph, map),
            _ => None,
        };
        let outputs: Vec<Vec<usize>> =
            graph.outputs.iter().map(|&m| graph.shape(m).dims()).collect();
        let products = |op: &Op| matches!(op, Op::Conv { .. } | Op::QConv { .. });
        let mut known = Known {
            input: place.map(|(size, ..)| size),
            classes: labels.as_ref().map(Labels::len),
            convolutions: graph.layers.iter().filter(|l| products(&l.op)).count(),
            anchors: results.anchors.clone().map(|anchors| anchors.0),
        };
        // A list of labels that is longer or shorter than the classes must not hide the head.
        let found = Head::find(&outputs, &known).or_else(|| {
            let head = Head::find(&outputs, &Known { classes: None, ..known.clone() });
            if head.is_some() {
                known.classes = None;
            }
            head
        });
        let task = match (results.task, hints.task) {
            (Some(task), _) => Said { value: task, by: FLAG },
            (None, _) if !is_picture => Said { value: Task::Raw, by: USUAL },
            (None, Some(task)) => Said { value: task, by: METADATA },
            (None, None) => {
                let channels = place.map(|(_, channels, _)| channels);
                Said { value: Task::guess(&outputs, channels, &known), by: SHAPES }
            }
        };
        let head = match (results.head, found) {
            (Some(head), _) => Some(Said { value: head, by: FLAG }),
            (None, Some(head)) => Some(Said { value: head, by: SHAPES }),
            (None, None) => None,
        };
        // A segmentation by boxes has a head, one by pixels has none.
        let boxes = matches!(task.value, Task::Detect | Task::Segment);
        let head = head.filter(|_| boxes);
        if task.value == Task::Detect && head.is_none() {
            let outputs = anyhow!("no known detector has outputs {outputs:?}");
            return Err(Failure::bad_input(outputs)
                .hint("name the head with --head, or take the numbers with --task raw"));
        }
        let usual = task.value.usual_convention(head.map(|h| h.value));
        let bytes = graph.inputs.iter().any(|&map| graph.element(map) == Element::U8);
        let normalize = match (flags.normalize, hints.normalize) {
            (Some(value), _) => Said { value, by: FLAG },
            (None, _) if bytes => Said { value: Normalize::Bytes, by: "the input takes bytes" },
            (None, Some(value)) => Said { value, by: hints.writer.unwrap_or(METADATA) },
            (None, None) => Said { value: usual.normalize, by: USUAL },
        };
        let channels = said(flags.channels, hints.channels, usual.channels);
        let fit = said(flags.fit, hints.fit, usual.fit);
        let convention =
            Convention { normalize: normalize.value, channels: channels.value, fit: fit.value };
        let thresholds = Thresholds {
            confidence: results.confidence,
            overlap: results
                .overlap
                .unwrap_or_else(|| head.map_or(0.7, |head| head.value.usual_overlap())),
            ..Thresholds::default()
        };
        let head_line = head.map(|h| format!(", head {} ({})", h.value, h.by)).unwrap_or_default();
        let mut line = format!("task {} ({}){head_line}", task.value, task.by);
        if is_picture {
            line = format!(
                "--normalize {} ({}), --channels {} ({}), --fit {} ({}); {line}",
                normalize.value, normalize.by, channels.value, channels.by, fit.value, fit.by
            );
        }
        let told = serde_json::json!({
            "normalize": { "value": normalize.value.to_string(), "by": normalize.by },
            "channels": channels, "fit": fit, "task": task, "head": head,
        });
        Ok(Usage {
            convention,
            task: task.value,
            head: head.map(|head| head.value),
            known,
            labels: labels.unwrap_or_default(),
            thresholds,
            mask_threshold: mask_threshold(graph),
            top: results.top,
            overlay: results.overlay,
            told,
            line,
        })
    }
}

/// A half of a probability, which the graph's last layer tells; 0 of any other number.
fn mask_threshold(graph: &Model) -> f32 {
    let last = graph.outputs.first().and_then(|&map| graph.producer(map));
    let is_probability = last.map(|id| &graph.layer(id).op).is_some_and(|op| {
        let activation = match op {
            Op::Activate(activation) => Some(*activation),
            op => op.activation(),
        };
        matches!(op, Op::Softmax { .. })
            || matches!(activation, Some(Activation::Sigmoid | Activation::HardSigmoid { .. }))
    });
    if is_probability { 0.5 } else { 0.0 }
}

fn said<T>(flag: Option<T>, hint: Option<T>, usual: T) -> Said<T> {
    match (flag, hint) {
        (Some(value), _) => Said { value, by: FLAG },
        (None, Some(value)) => Said { value, by: METADATA },
        (None, None) => Said { value: usual, by: USUAL },
    }
}

fn read_text(path: &Path) -> anyhow::Result<String> {
    let length = std::fs::metadata(path)?.len();
    if length > SIDE_FILE_BYTES_MAX {
        bail!("{length} bytes: at most {SIDE_FILE_BYTES_MAX} are read");
    }
    Ok(std::fs::read_to_string(path)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Extent;

    fn flags() -> PictureArguments {
        PictureArguments { normalize: None, channels: None, fit: None, size: None }
    }

    fn ultralytics() -> Hinted {
        let entry = |(k, v): (&str, &str)| (k.to_owned(), v.to_owned());
        let entries = [("author", "Ultralytics"), ("stride", "32"), ("imgsz", "[640, 640]")];
        Hinted { hints: Hints::from_metadata(&entries.map(entry).into()), labels: None }
    }

    /// As Ultralytics does it for a model of open size: a picture of 1080 x 810 becomes 640 x 480,
    /// one of 1000 x 333 becomes 640 x 213, in an input of 640 x 224.
    #[test]
    fn an_open_size_follows_the_picture_in_steps() {
        let hinted = ultralytics();
        for (picture, input) in [((1080, 810), (640, 480)), ((1000, 333), (640, 224))] {
            let size = hinted.open_size(&flags(), Size::new(picture.0, picture.1));
            assert_eq!(size, Size::new(input.0, input.1));
        }
        let given = PictureArguments { size: Some(Extent { rows: 96, cols: 64 }), ..flags() };
        assert_eq!(hinted.open_size(&given, Size::new(9, 9)), Size::new(96, 64));
        let own = PictureArguments { fit: Some(FitMode::None), ..flags() };
        assert_eq!(hinted.open_size(&own, Size::new(70, 90)), Size::new(70, 90));
        let silent = Hinted { hints: Hints::default(), labels: None };
        assert_eq!(silent.open_size(&flags(), Size::new(70, 90)), Size::new(70, 90));
    }
}
