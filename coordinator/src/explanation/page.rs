//! A plan on one page: everything is in the file, so that it opens without a network.

use super::Explanation;

const TEMPLATE: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// The page.
///
/// *Errors*: a number that JSON does not have.
pub(crate) fn page(facts: &Explanation) -> Result<String, serde_json::Error> {
    // Nothing in the data may end the script that holds it.
    let data = serde_json::to_string(facts)?.replace("</", "<\\/");
    let title = format!("{}{}", facts.model, facts.cluster);
    let escaped = title.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    // The data last: nothing in it is taken for a place to fill.
    Ok(TEMPLATE
        .replace("{{title}}", &escaped)
        .replace("{{style}}", STYLE)
        .replace("{{script}}", SCRIPT)
        .replace("{{data}}", &data))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::explanation::Question;
    use model::{LoadOptions, open};
    use planner::{DeviceProfile, PlanOptions, Strategy};
    use tiling::Rates;

    /// A name must neither end the script that holds the data nor be taken for a place to fill.
    #[test]
    fn names_stay_data() {
        let model = open("zoo:resnet50@64x64", &LoadOptions::default()).unwrap();
        let name = "</script><b>{{script}}";
        let devices = [DeviceProfile::wired(name, Rates::typical(1_000_000_000))];
        let (strategy, options) = (Strategy::Local, PlanOptions::default());
        let (plan, cost) = planner::plan(&model.graph, &devices, strategy, options).unwrap();
        let cluster = String::new();
        let question = Question { model: &model, cluster, devices: &devices, strategy, options };
        let page = page(&Explanation::of(question, plan, cost)).unwrap();
        assert_eq!(page.matches("</script>").count(), 2, "those of the page");
        assert!(page.contains("{{script}}") && !page.contains("{{data}}"));
        assert!(page.starts_with("<!doctype html>") && page.trim_end().ends_with("</html>"));
    }
}
