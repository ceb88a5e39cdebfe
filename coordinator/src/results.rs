//! The answer of a model as people want it: the numbers in words, a picture, JSON; and into files.

use crate::arrays::{self, array_of};
use crate::failure::Failure;
use crate::input::ending;
use crate::pictures;
use crate::usage::Usage;
use anyhow::{Context, Result, anyhow, bail};
use image::DynamicImage;
use kernels::{Piece, Pieces};
use model::Model;
use ndarray::ArrayD;
use serde_json::{Value, json};
use std::fs::File;
use std::io::BufWriter;
use std::path::Path;
use std::sync::Arc;
use vision::classify::classify;
use vision::detection::Detection;
use vision::{Fit, FitMode, Output, Size, Task, draw, segment};

/// One answer, read.
pub(crate) struct Outcome {
    /// For machines.
    pub json: Value,
    /// Lines for people.
    pub lines: Vec<String>,
    /// The picture that shows it; none where there is nothing to draw (on).
    pub picture: Option<DynamicImage>,
}

/// What an answer is read from.
pub(crate) struct Question<'a> {
    pub usage: &'a Usage,
    pub graph: &'a Model,
    pub outputs: &'a Pieces,
    /// The picture that went in, and where it lay in the input.
    pub picture: Option<(&'a DynamicImage, Fit)>,
    /// Whether the picture of the answer is wanted.
    pub drawn: bool,
}

/// Reads an answer as the usage says.
///
/// *Errors*: outputs that are not those of the task.
pub(crate) fn read(question: &Question<'_>) -> Result<Outcome> {
    let Question { usage, graph, outputs, .. } = question;
    if usage.task == Task::Raw {
        return raw(question);
    }
    let arrays = outputs.iter().map(|(map, piece)| {
        Ok((graph.map(*map).name.as_str(), array_of(graph.shape(*map), piece)?))
    });
    let arrays: Vec<(&str, ArrayD<f32>)> = arrays.collect::<Result<_>>()?;
    let outputs: Vec<Output<'_>> =
        arrays.iter().map(|(name, array)| Output { name, values: array.view() }).collect();
    match (usage.task, usage.head) {
        (Task::Classify, _) => {
            let classified = classify(&outputs, &usage.labels, usage.top)?;
            let line = |c: &vision::classify::Class| {
                format!("{:6.2} %  {}", 100.0 * c.probability, c.label)
            };
            let lines = classified.top.iter().map(line).collect();
            Ok(Outcome { json: serde_json::to_value(&classified)?, lines, picture: None })
        }
        (Task::Detect, _) | (Task::Segment, Some(_)) => boxes(question, &outputs),
        (Task::Segment, None) => classes(question, &outputs),
        (Task::Picture, _) => {
            let fit = question.picture.as_ref().map(|(_, fit)| fit);
            let picture = vision::picture::picture(&outputs, &usage.convention, fit)?;
            let (rows, cols) = (picture.height(), picture.width());
            let lines = vec![format!("a picture of {rows} x {cols}")];
            Ok(Outcome {
                json: json!({ "rows": rows, "cols": cols }),
                lines,
                picture: Some(picture),
            })
        }
        (Task::Raw, _) => raw(question),
    }
}

/// Where the picture lay, or, for arrays, the input as it is.
fn fit(question: &Question<'_>) -> Result<Fit> {
    match (&question.picture, question.usage.known.input) {
        (Some((_, fit)), _) => Ok(*fit),
        (None, Some(input)) => Ok(Fit::new(FitMode::None, input, input)?),
        (None, None) => bail!("the model does not take one picture"),
    }
}

fn boxes(question: &Question<'_>, outputs: &[Output<'_>]) -> Result<Outcome> {
    let Question { usage, .. } = question;
    let head = usage.head.context("the model has no known head")?;
    let fit = fit(question)?;
    let found = head.detect(outputs, &usage.known, usage.thresholds)?;
    let has_masks = found.first().is_some_and(|d| !d.mask.is_empty());
    let masks = match usage.task == Task::Segment && has_masks {
        true => segment::masks(&found, outputs, &fit)?,
        false => Vec::new(),
    };
    let named: Vec<(Detection, String)> = (found.into_iter())
        .map(|d| {
            let text = format!("{} {:.0} %", usage.labels.name(d.class), 100.0 * d.score);
            (Detection { bounds: fit.bounds_to_picture(d.bounds), ..d }, text)
        })
        .collect();
    let list = named.iter().enumerate().map(|(i, (d, _))| {
        let b = d.bounds;
        let mut one = json!({
            "class": d.class, "label": usage.labels.name(d.class), "score": d.score,
            "box": [b.x0, b.y0, b.x1, b.y1],
        });
        if let Some(mask) = masks.get(i) {
            one["mask_pixels"] = mask.pixels().into();
        }
        one
    });
    let Size { rows, cols } = fit.picture;
    let json = json!({ "rows": rows, "cols": cols, "boxes": list.collect::<Vec<_>>() });
    let line = |(d, text): &(Detection, String)| {
        let b = d.bounds;
        format!("{text:24} {:.0},{:.0} to {:.0},{:.0}", b.x0, b.y0, b.x1, b.y1)
    };
    let lines = match named.is_empty() {
        true => vec![format!("nothing above {:.0} %", 100.0 * usage.thresholds.confidence)],
        false => named.iter().map(line).collect(),
    };
    let draw_on = |(picture, _): &(&DynamicImage, Fit)| {
        let mut drawn = picture.to_rgb8();
        draw::masks(&mut drawn, &named, &masks);
        draw::boxes(&mut drawn, &named);
        drawn.into()
    };
    let picture = question.picture.as_ref().filter(|_| question.drawn).map(draw_on);
    Ok(Outcome { json, lines, picture })
}

fn classes(question: &Question<'_>, outputs: &[Output<'_>]) -> Result<Outcome> {
    let Question { usage, .. } = question;
    let fit = fit(question)?;
    let map = segment::classes(outputs, fit.input, usage.mask_threshold)?.of_picture(&fit);
    let pixels = map.classes.len() as f64;
    let (mut list, mut lines) = (Vec::new(), Vec::new());
    for (class, count) in map.counts() {
        let share = count as f64 / pixels;
        let label = usage.labels.name(class);
        lines.push(format!("{:6.2} %  {label}", 100.0 * share));
        list.push(json!({ "class": class, "label": label, "pixels": count, "share": share }));
    }
    let picture = question.drawn.then(|| match (&question.picture, usage.overlay) {
        (Some((picture, _)), true) => {
            let mut drawn = picture.to_rgb8();
            draw::class_overlay(&mut drawn, &map);
            drawn.into()
        }
        _ => draw::class_colours(&map).into(),
    });
    let json = json!({ "rows": map.size.rows, "cols": map.size.cols, "classes": list });
    Ok(Outcome { json, lines, picture })
}

/// Names and dims; the numbers themselves go to files.
fn raw(question: &Question<'_>) -> Result<Outcome> {
    let Question { graph, outputs, .. } = question;
    let dims = |map| graph.map(map).dims();
    let one = |&(map, _): &(_, _)| json!({ "name": graph.map(map).name, "dims": dims(map) });
    let line = |&(map, _): &(_, _)| format!("{} {:?}", graph.map(map).name, dims(map));
    let json = json!({ "outputs": outputs.iter().map(one).collect::<Vec<_>>() });
    Ok(Outcome { json, lines: outputs.iter().map(line).collect(), picture: None })
}

/// Checks, before anything runs, that an output file has an ending we can write.
///
/// *Errors*: another ending.
pub(crate) fn check_ending(path: &Path) -> Result<(), Failure> {
    match ending(path).as_str() {
        "npy" | "npz" | "json" => Ok(()),
        other if pictures::is_writable(other) => Ok(()),
        other => Err(Failure::bad_input(anyhow!(
            "cannot write `.{other}` files ({})",
            path.display()
        ))
        .hint(
            "name the output .png, .jpg, .webp or .ppm (pictures), .npy or .npz (arrays), or .json",
        )),
    }
}

/// Checks, before anything runs, that the task has a result of a file's kind.
///
/// *Errors*: a picture of an answer that is none.
pub(crate) fn check_task(path: &Path, task: Task, is_picture: bool) -> Result<(), Failure> {
    if !pictures::is_writable(&ending(path)) {
        return Ok(());
    }
    let shown = path.display();
    match task {
        Task::Classify => Err(Failure::bad_input(anyhow!("classes are no picture ({shown})"))
            .hint("write them as .json, or leave out -o to see them here")),
        Task::Raw => Err(Failure::bad_input(anyhow!("raw numbers are no picture ({shown})"))
            .hint("write them as .npy or .npz, or say what they are with --task")),
        Task::Detect if !is_picture => {
            Err(Failure::bad_input(anyhow!("there is no picture to draw on ({shown})"))
                .hint("give the model a picture, or write the boxes as .json"))
        }
        _ => Ok(()),
    }
}

/// Writes an answer, in the format of the file's ending.
///
/// *Errors*: an answer that the format cannot hold, a disk that cannot be written.
pub(crate) fn write(path: &Path, question: &Question<'_>, outcome: &Outcome) -> Result<()> {
    let (graph, outputs) = (question.graph, question.outputs);
    let written = match ending(path).as_str() {
        "npy" => arrays::write_npy(path, graph, outputs),
        "npz" => arrays::write_npz(path, graph, outputs),
        "json" => write_json(path, question, outcome),
        _ => match &outcome.picture {
            Some(picture) => pictures::write(path, picture),
            None => Err(anyhow!("the answer is no picture: write .npy, .npz or .json")),
        },
    };
    written.with_context(|| format!("cannot write {}", path.display()))
}

fn write_json(path: &Path, question: &Question<'_>, outcome: &Outcome) -> Result<()> {
    let file = BufWriter::new(File::create(path)?);
    let value = match question.usage.task {
        Task::Raw => values(question)?,
        _ => json!({
            "model": question.graph.name,
            "usage": question.usage.told,
            "result": outcome.json,
        }),
    };
    Ok(serde_json::to_writer_pretty(file, &value)?)
}

/// Names, dims and values of all outputs.
fn values(question: &Question<'_>) -> Result<Value> {
    let Question { graph, outputs, .. } = question;
    let output = |(map, piece): &(model::MapId, Arc<Piece>)| {
        let array = arrays::file_array_of(graph.map(*map), piece)?;
        let values: Vec<f32> = array.iter().copied().collect();
        Ok(json!({ "name": graph.map(*map).name, "dims": array.shape(), "values": values }))
    };
    let outputs = outputs.iter().map(output).collect::<Result<Vec<_>>>()?;
    Ok(json!({ "model": graph.name, "outputs": outputs }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_endings_are_checked_early() {
        assert!(check_ending(Path::new("a.PNG")).is_ok());
        assert!(check_ending(Path::new("a.odd")).is_err());
        let (png, json) = (Path::new("a.png"), Path::new("a.json"));
        assert!(check_task(png, Task::Classify, true).is_err());
        assert!(check_task(json, Task::Classify, true).is_ok());
        assert!(check_task(png, Task::Detect, false).is_err());
        assert!(check_task(png, Task::Picture, false).is_ok());
    }
}
