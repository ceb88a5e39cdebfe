//! A plan on one page.

use super::Explanation;

const STYLE: &str = include_str!("page.css");
const BODY: &str = include_str!("page.html");
const SCRIPT: &str = include_str!("page.js");

/// The page.
///
/// *Errors*: a number that JSON does not have.
pub(crate) fn page(facts: &Explanation) -> Result<String, serde_json::Error> {
    let title = format!("{}{}", facts.model, facts.cluster);
    sim::Page { title: &title, style: STYLE, body: BODY, script: SCRIPT }.html(facts)
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
