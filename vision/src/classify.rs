//! The most likely classes.

use crate::Output;
use crate::error::{VisionError, describe};
use crate::labels::Labels;
use serde::Serialize;

/// One class of an answer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Class {
    /// Its index.
    pub class: usize,
    /// Its name.
    pub label: String,
    /// In `0.0..=1.0`.
    pub probability: f32,
}

/// What a classifier says.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Classified {
    /// The most likely classes, by falling probability.
    pub top: Vec<Class>,
    /// Whether the model's own numbers were no probabilities, and a softmax made them.
    pub softmax_applied: bool,
}

/// The `count` most likely classes of the output with most values that is a vector.
///
/// *Errors*: no output is a vector of two or more.
pub fn classify(
    outputs: &[Output<'_>],
    labels: &Labels,
    count: usize,
) -> Result<Classified, VisionError> {
    let vector = |o: &&Output<'_>| {
        let long = o.values.shape().iter().filter(|d| **d > 1).count();
        long == 1 && o.values.len() > 1
    };
    let output = outputs.iter().filter(vector).max_by_key(|o| o.values.len());
    let missing = || VisionError::Outputs {
        what: "scores of classes",
        expected: "a vector [1, classes]".into(),
        got: describe(outputs),
    };
    let values: Vec<f32> = output.ok_or_else(missing)?.values.iter().copied().collect();
    let are_probabilities = are_probabilities(&values);
    let probabilities = if are_probabilities { values } else { softmax(&values) };
    let mut order: Vec<usize> = (0..probabilities.len()).collect();
    order.sort_by(|&a, &b| probabilities[b].total_cmp(&probabilities[a]));
    let class = |class: usize| Class {
        class,
        label: name(labels, class, probabilities.len()),
        probability: probabilities[class],
    };
    let top = order.into_iter().take(count).map(class).collect();
    Ok(Classified { top, softmax_applied: !are_probabilities })
}

/// Models of TensorFlow give 1001 scores for ImageNet's 1000 classes: the first is the background.
fn name(labels: &Labels, class: usize, classes: usize) -> String {
    match (classes, labels.len()) {
        (1001, 1000) if class == 0 => "background".into(),
        (1001, 1000) => labels.name(class - 1),
        _ => labels.name(class),
    }
}

/// Whether numbers are those of a softmax: none negative, 1 together.
fn are_probabilities(values: &[f32]) -> bool {
    let sum: f64 = values.iter().map(|v| f64::from(*v)).sum();
    values.iter().all(|v| *v >= 0.0) && (sum - 1.0).abs() < 1e-2
}

fn softmax(values: &[f32]) -> Vec<f32> {
    let most = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let powers: Vec<f64> = values.iter().map(|v| f64::from(v - most).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.iter().map(|p| (p / sum) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::{Array1, Array2, Array4};

    fn labels() -> Labels {
        Labels::parse("cat\ndog\nbird").unwrap()
    }

    #[test]
    fn logits_get_a_softmax_and_probabilities_do_not() {
        let logits = Array2::from_shape_vec((1, 3), vec![1.0, 3.0, 2.0]).unwrap();
        let output = Output { name: "out", values: logits.view().into_dyn() };
        let got = classify(&[output], &labels(), 2).unwrap();
        assert!(got.softmax_applied);
        let sum = 1f32.exp() + 2f32.exp() + 3f32.exp();
        assert_eq!(got.top.iter().map(|c| c.label.as_str()).collect::<Vec<_>>(), ["dog", "bird"]);
        assert!((got.top[0].probability - 3f32.exp() / sum).abs() < 1e-6);
        // As a map of one pixel, and probabilities already.
        let map = Array4::from_shape_vec((1, 3, 1, 1), vec![0.2, 0.3, 0.5]).unwrap();
        let got = classify(&[Output { name: "o", values: map.view().into_dyn() }], &labels(), 1);
        let got = got.unwrap();
        assert_eq!((got.softmax_applied, got.top[0].probability), (false, 0.5));
    }

    #[test]
    fn a_background_moves_the_names() {
        let mut scores = Array1::<f32>::zeros(1001);
        scores[1] = 1.0;
        let thousand: Vec<String> = (0..1000).map(|i| format!("n{i}")).collect();
        let labels = Labels::parse(&thousand.join("\n")).unwrap();
        let got = classify(&[Output { name: "o", values: scores.view().into_dyn() }], &labels, 1);
        assert_eq!(got.unwrap().top[0].label, "n0");
    }

    #[test]
    fn a_map_is_no_vector() {
        let map = Array4::<f32>::zeros((1, 3, 4, 4));
        let error =
            classify(&[Output { name: "map", values: map.view().into_dyn() }], &labels(), 1);
        assert!(error.unwrap_err().to_string().contains("`map` [1, 3, 4, 4]"));
    }
}
