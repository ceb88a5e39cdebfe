//! The names of classes.

use crate::error::VisionError;
use crate::literal;
use serde_json::Value;

/// Classes of the largest lists in use (ImageNet-21k), with room.
const CLASSES_MAX: usize = 1 << 17;

/// Names by class index.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels(Vec<String>);

impl Labels {
    /// Reads a file of labels: one name a line, or a list or dictionary in JSON or Python.
    ///
    /// Before a name a line may have its ImageNet id (`n01440764 tench`); the `names:` part of a
    /// YOLO data file (`0: person`) is read as it is.
    ///
    /// *Errors*: no name at all.
    pub fn parse(text: &str) -> Result<Self, VisionError> {
        if let Some(labels) = literal::parse(text).as_ref().and_then(Self::from_value) {
            return Ok(labels);
        }
        if text.trim_start().starts_with(['{', '[']) {
            let reason = "a list or dictionary that does not end, or has other things than names";
            return Err(VisionError::Labels { reason: reason.into() });
        }
        let lines = text.lines().map(str::trim);
        let names: Vec<String> = match text.lines().any(|line| line.trim() == "names:") {
            true => {
                let after = lines.skip_while(|line| *line != "names:").skip(1);
                let entry = |line: &str| {
                    let entry = line.split_once(':').filter(|(n, _)| n.parse::<usize>().is_ok());
                    let entry = entry.map(|(_, name)| name).or_else(|| line.strip_prefix("- "));
                    entry.map(|name| name.trim().trim_matches(['\'', '"']).to_owned())
                };
                after.map_while(entry).collect()
            }
            false => {
                let end = text.trim_end().lines().count();
                lines.take(end).map(|line| without_id(line).to_owned()).collect()
            }
        };
        let some = names.iter().any(|name| !name.is_empty()) && names.len() <= CLASSES_MAX;
        let reason = || VisionError::Labels { reason: "expected one name a line".into() };
        some.then_some(Self(names)).ok_or_else(reason)
    }

    /// Names out of a list, or a dictionary by index. ImageNet's list of Keras has a pair for each
    /// class, of which the second is the name.
    pub(crate) fn from_value(value: &Value) -> Option<Self> {
        let name = |v: &Value| match v {
            Value::String(name) => Some(name.clone()),
            Value::Array(pair) => Some(pair.get(1)?.as_str()?.to_owned()),
            _ => None,
        };
        let names: Vec<String> = match value {
            Value::Array(names) => names.iter().map(name).collect::<Option<_>>()?,
            Value::Object(entries) => {
                let mut names = vec![String::new(); entries.len()];
                for (index, value) in entries {
                    // An index beyond the number of entries would leave gaps of any size.
                    *names.get_mut(index.parse::<usize>().ok()?)? = name(value)?;
                }
                names
            }
            _ => return None,
        };
        (!names.is_empty() && names.len() <= CLASSES_MAX).then_some(Self(names))
    }

    /// How many classes have a name.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether no class has.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The name of a class, or its index where it has none.
    pub fn name(&self, class: usize) -> String {
        match self.0.get(class) {
            Some(name) if !name.is_empty() => name.clone(),
            _ => format!("class {class}"),
        }
    }
}

fn without_id(line: &str) -> &str {
    let id = |word: &str| {
        word.len() == 9 && word.starts_with('n') && word[1..].bytes().all(|b| b.is_ascii_digit())
    };
    match line.split_once([' ', '\t']) {
        Some((word, name)) if id(word) => name.trim(),
        _ => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Vec<String> {
        Labels::parse(text).unwrap().0
    }

    #[test]
    fn the_usual_files() {
        assert_eq!(names("cat\ndog\n"), ["cat", "dog"]);
        assert_eq!(
            names("n01440764 tench, Tinca tinca\nn01443537 goldfish"),
            ["tench, Tinca tinca", "goldfish"]
        );
        assert_eq!(names("[\"cat\", \"dog\"]"), ["cat", "dog"]);
        assert_eq!(names("{1: 'dog', 0: 'cat'}"), ["cat", "dog"]);
        assert_eq!(names("{\"0\": [\"n01\", \"tench\"]}"), ["tench"]);
        assert_eq!(
            names("path: x\nnames:\n  0: person\n  1: bicycle\n\nx: y"),
            ["person", "bicycle"]
        );
        assert_eq!(names("names:\n- cat\n- 'dog'\n"), ["cat", "dog"]);
    }

    #[test]
    fn a_class_without_a_name_has_its_index() {
        let labels = Labels::parse("cat\n\ndog").unwrap();
        assert_eq!((labels.name(0), labels.name(1)), ("cat".into(), "class 1".into()));
        assert_eq!(labels.name(9), "class 9");
    }

    #[test]
    fn nonsense_is_refused() {
        for bad in ["", "\n\n", "{0: 'cat'", "[1, 2]", "{99: 'cat'}"] {
            assert!(Labels::parse(bad).is_err(), "{bad:?}");
        }
    }
}
