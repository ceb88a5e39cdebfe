//! The literals that exporters write into metadata: JSON, and what Python's `str` makes of lists
//! and dictionaries.

use serde_json::{Map, Number, Value};

/// Brackets within brackets; metadata has two.
const DEPTH_MAX: usize = 16;

/// Reads a literal of JSON or Python: numbers, strings in either quotes, lists, tuples,
/// dictionaries. None where it is neither.
pub(crate) fn parse(text: &str) -> Option<Value> {
    if let Ok(value) = serde_json::from_str(text) {
        return Some(value);
    }
    let mut reader = Reader { text: text.chars().peekable() };
    let value = reader.value(0)?;
    reader.space();
    reader.text.next().is_none().then_some(value)
}

struct Reader<'a> {
    text: std::iter::Peekable<std::str::Chars<'a>>,
}

impl Reader<'_> {
    fn space(&mut self) {
        while self.text.next_if(|c| c.is_whitespace()).is_some() {}
    }

    /// The next character that is no space, if it is this one.
    fn take(&mut self, wanted: char) -> bool {
        self.space();
        self.text.next_if_eq(&wanted).is_some()
    }

    fn value(&mut self, depth: usize) -> Option<Value> {
        if depth > DEPTH_MAX {
            return None;
        }
        self.space();
        match *self.text.peek()? {
            '{' => self.dictionary(depth),
            '[' => self.list(']', depth),
            '(' => self.list(')', depth),
            '\'' | '"' => self.string().map(Value::String),
            _ => self.word(),
        }
    }

    fn dictionary(&mut self, depth: usize) -> Option<Value> {
        self.text.next();
        let mut entries = Map::new();
        while !self.take('}') {
            let key = match self.value(depth + 1)? {
                Value::String(key) => key,
                key => key.to_string(),
            };
            if !self.take(':') {
                return None;
            }
            entries.insert(key, self.value(depth + 1)?);
            if !self.take(',') {
                return self.take('}').then_some(Value::Object(entries));
            }
        }
        Some(Value::Object(entries))
    }

    fn list(&mut self, end: char, depth: usize) -> Option<Value> {
        self.text.next();
        let mut values = Vec::new();
        while !self.take(end) {
            values.push(self.value(depth + 1)?);
            if !self.take(',') {
                return self.take(end).then_some(Value::Array(values));
            }
        }
        Some(Value::Array(values))
    }

    fn string(&mut self) -> Option<String> {
        let quote = self.text.next()?;
        let mut text = String::new();
        loop {
            match self.text.next()? {
                c if c == quote => return Some(text),
                '\\' => text.push(match self.text.next()? {
                    'n' => '\n',
                    't' => '\t',
                    c => c,
                }),
                c => text.push(c),
            }
        }
    }

    fn word(&mut self) -> Option<Value> {
        let mut word = String::new();
        while let Some(c) = self.text.next_if(|c| c.is_alphanumeric() || "+-._".contains(*c)) {
            word.push(c);
        }
        match word.as_str() {
            "True" | "true" => Some(Value::Bool(true)),
            "False" | "false" => Some(Value::Bool(false)),
            "None" | "null" => Some(Value::Null),
            _ => match word.parse::<i64>() {
                Ok(integer) => Some(integer.into()),
                Err(_) => word.parse().ok().and_then(Number::from_f64).map(Value::Number),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn python_and_json() {
        assert_eq!(parse("{0: 'a', 1: \"it's\"}"), Some(json!({"0": "a", "1": "it's"})));
        assert_eq!(parse("[320, 640]"), Some(json!([320, 640])));
        assert_eq!(parse("(1, 2.5,)"), Some(json!([1, 2.5])));
        assert_eq!(parse("{'a': None, 'b': [True]}"), Some(json!({"a": null, "b": [true]})));
        assert_eq!(parse(r"'it\'s'"), Some(json!("it's")));
    }

    #[test]
    fn nonsense_is_nothing() {
        let deep = "[".repeat(100_000);
        for text in ["", "{", "{0 'a'}", "[1 2]", "'open", "1 2", "nan", "[,]", &deep] {
            assert_eq!(parse(text), None, "{}", &text[..text.len().min(20)]);
        }
    }
}
