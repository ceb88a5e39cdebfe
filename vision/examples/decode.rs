//! Boxes out of raw outputs, for `scripts/oracle/vision.py`: a request as JSON on the command line,
//! the boxes as JSON on stdout.

use anyhow::{Context, Result};
use ndarray::ArrayD;
use ndarray_npy::read_npy;
use serde::Deserialize;
use serde_json::json;
use vision::detect::Known;
use vision::detection::Thresholds;
use vision::{Fit, FitMode, Head, Output, Size, segment};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    /// `.npy` files, one for each output.
    outputs: Vec<String>,
    /// None to find it by the shapes.
    head: Option<String>,
    input: [usize; 2],
    picture: [usize; 2],
    fit: String,
    classes: Option<usize>,
    convolutions: usize,
    confidence: f32,
    overlap: f32,
    /// Of how many boxes the masks are wanted, too.
    masks: usize,
}

fn main() -> Result<()> {
    let text = std::env::args().nth(1).context("expected a request as JSON")?;
    let request: Request = serde_json::from_str(&text)?;
    let arrays = request.outputs.iter().map(read_npy::<_, ArrayD<f32>>);
    let arrays: Vec<ArrayD<f32>> = arrays.collect::<Result<_, _>>()?;
    let dims: Vec<Vec<usize>> = arrays.iter().map(|a| a.shape().to_vec()).collect();
    let outputs: Vec<Output<'_>> = (arrays.iter().zip(&request.outputs))
        .map(|(array, name)| Output { name, values: array.view() })
        .collect();
    let input = Size::new(request.input[0], request.input[1]);
    let known = Known {
        input: Some(input),
        classes: request.classes,
        convolutions: request.convolutions,
        anchors: None,
    };
    let head = match &request.head {
        Some(name) => name.parse::<Head>()?,
        None => Head::find(&dims, &known).context("no known head has these outputs")?,
    };
    let thresholds = Thresholds {
        confidence: request.confidence,
        overlap: request.overlap,
        ..Thresholds::default()
    };
    let found = head.detect(&outputs, &known, thresholds)?;
    let picture = Size::new(request.picture[0], request.picture[1]);
    let fit = Fit::new(request.fit.parse::<FitMode>()?, picture, input)?;
    let boxes = found.iter().map(|d| {
        let b = fit.bounds_to_picture(d.bounds);
        json!([b.x0, b.y0, b.x1, b.y1, d.score, d.class])
    });
    let boxes: Vec<_> = boxes.collect();
    let masked = &found[..request.masks.min(found.len())];
    let masks = match masked.is_empty() {
        true => Vec::new(),
        false => segment::masks(masked, &outputs, &fit)?,
    };
    let masks = masks.iter().map(|mask| {
        let inside: String = mask.inside.iter().map(|v| if *v { '1' } else { '0' }).collect();
        json!([mask.top, mask.left, mask.size.rows, mask.size.cols, inside])
    });
    let masks: Vec<_> = masks.collect();
    println!("{}", json!({ "head": head.to_string(), "boxes": boxes, "masks": masks }));
    Ok(())
}
