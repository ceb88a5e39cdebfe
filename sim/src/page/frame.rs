//! What all pages share: one file that opens without a network, today and in ten years.

use serde::Serialize;

const FRAME: &str = include_str!("frame.html");
const STYLE: &str = include_str!("frame.css");
const SCRIPT: &str = include_str!("frame.js");

/// A page to write as HTML.
#[derive(Clone, Copy, Debug)]
pub struct Page<'a> {
    /// Its title and first heading.
    pub title: &'a str,
    /// Style beyond what all pages have.
    pub style: &'a str,
    /// What is between the frame's `<body>` tags.
    pub body: &'a str,
    /// Script that fills the body from `data`, with the frame's `$`, `element`, `time` and `size`.
    pub script: &'a str,
}

impl Page<'_> {
    /// The page with its data inside.
    ///
    /// *Errors*: a number that JSON does not have.
    pub fn html(&self, data: &impl Serialize) -> Result<String, serde_json::Error> {
        // Nothing in the data may end the script that holds it.
        let data = serde_json::to_string(data)?.replace("</", "<\\/");
        // The data last, and the title before it: nothing in them is taken for a place to fill.
        Ok(FRAME
            .replace("{{style}}", &format!("{STYLE}{}", self.style))
            .replace("{{body}}", self.body)
            .replace("{{script}}", &format!("{SCRIPT}{}", self.script))
            .replacen("{{title}}", &escape(self.title), 1)
            .replace("{{data}}", &data))
    }
}

pub(super) fn escape(text: &str) -> String {
    // A name with the frame's own marks is no place to fill either.
    let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    text.replace('"', "&quot;").replace("{{", "&#123;&#123;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_title_nor_data_is_taken_for_a_place_to_fill() {
        let page = Page { title: "{{data}}<b>", style: "", body: "<p id=x></p>\n", script: "" };
        let html = page.html(&"</script>{{script}}{{title}}").unwrap();
        assert_eq!(html.matches("</script>").count(), 2, "those of the frame");
        assert_eq!(html.matches("{{").count(), 2, "those in the data");
        assert!(html.contains("<title>&#123;&#123;data}}&lt;b&gt;</title>"));
        assert!(html.contains(r#"json">"<\/script>{{script}}{{title}}"</script>"#));
    }
}
