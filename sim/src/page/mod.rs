//! A run on one page: cluster, plan, Gantt chart, utilisation, link load, events.

mod frame;

pub use frame::Page;

use crate::files::ScenarioFile;
use crate::outcome::Outcome;
use crate::report::Report;
use model::Model;
use serde_json::json;
use std::fmt::Write as _;
use tiling::Split;

const BODY: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");
const CURVE: &str = include_str!("curve.html");

/// More spans than a browser draws quickly.
const SPANS_MAX: usize = 60_000;

/// The page of a run.
///
/// *Errors*: a number that JSON does not have.
pub(crate) fn page(
    file: &ScenarioFile,
    model: &Model,
    report: &Report,
    outcome: &Outcome,
) -> Result<String, serde_json::Error> {
    let spans = outcome.timeline.spans.iter().take(SPANS_MAX).map(|span| {
        let task = span.task.map(|t| (t.frame, t.stage, t.tile, t.attempt));
        json!([span.device, span.activity, span.start_ns, span.end_ns, span.bytes, task])
    });
    let marks = outcome.timeline.marks.iter().map(|m| json!([m.at_ns, m.device, m.what]));
    let frames = outcome.frames.iter().map(|f| json!([f.submitted_ns, f.started_ns, f.ended_ns]));
    let stages = outcome.plan.iter().flat_map(|plan| &plan.stages).map(|stage| {
        let (first, end) = (stage.first_layer as usize, stage.end_layer as usize);
        let grid = match &stage.split {
            Split::Whole => None,
            Split::Spatial(grid) | Split::Band { grid, .. } => {
                Some((&grid.row_shares, &grid.col_shares))
            }
        };
        let placement: Vec<u32> = stage.placement.iter().map(|slot| slot.0).collect();
        let name = |i: usize| model.layers.get(i).map(|l| l.name.clone()).unwrap_or_default();
        json!({
            "first": name(first), "last": name(end - 1), "layers": end - first,
            "grid": grid, "placement": placement,
        })
    });
    let data = json!({
        "report": report,
        "cluster": file.cluster,
        "spans": spans.collect::<Vec<_>>(),
        "spans_left_out": outcome.timeline.spans.len().saturating_sub(SPANS_MAX),
        "marks": marks.collect::<Vec<_>>(),
        "frames": frames.collect::<Vec<_>>(),
        "stages": stages.collect::<Vec<_>>(),
    });
    let title = format!("{} on {}", file.model, file.cluster);
    Page { title: &title, style: STYLE, body: BODY, script: SCRIPT }.html(&data)
}

/// The page of a sweep: makespan and lower bound over what was varied.
///
/// *Errors*: none that can happen.
pub(crate) fn curve(
    title: &str,
    over: &str,
    points: &[(f64, f64, f64)],
) -> Result<String, serde_json::Error> {
    const LEFT: f64 = 80.0;
    const RIGHT: f64 = 780.0;
    const TOP: f64 = 20.0;
    const BOTTOM: f64 = 380.0;
    let most = points.iter().map(|p| p.1.max(p.2)).fold(1e-9, f64::max) * 1.05;
    let step = (RIGHT - LEFT) / (points.len().max(2) - 1) as f64;
    let x = |i: usize| LEFT + step * i as f64;
    let y = |ms: f64| BOTTOM - (BOTTOM - TOP) * ms / most;
    let mut svg = String::new();
    for part in 0..=4 {
        let (ms, at) = (most * f64::from(part) / 4.0, y(most * f64::from(part) / 4.0));
        let label = crate::report::time(ms);
        let _ = write!(
            svg,
            "<line class=grid x1={LEFT} x2={RIGHT} y1={at:.1} y2={at:.1} />\
             <text x={} y={:.1} text-anchor=end>{label}</text>",
            LEFT - 8.0,
            at + 4.0
        );
    }
    for (class, value) in [("bound", 2usize), ("makespan", 1)] {
        let mut path = String::new();
        for (i, point) in points.iter().enumerate() {
            let ms = if value == 1 { point.1 } else { point.2 };
            let _ = write!(path, "{}{:.1},{:.1}", if i == 0 { "M" } else { "L" }, x(i), y(ms));
            let _ = write!(
                svg,
                "<circle class={class} cx={:.1} cy={:.1} r=4><title>{}</title></circle>",
                x(i),
                y(ms),
                crate::report::time(ms)
            );
        }
        let _ = write!(svg, "<path class={class} d=\"{path}\"/>");
    }
    for (i, point) in points.iter().enumerate() {
        let _ = write!(svg, "<text x={:.1} y=402 text-anchor=middle>{}</text>", x(i), point.0);
    }
    let body = CURVE.replace("{{over}}", &frame::escape(over)).replace("{{svg}}", &svg);
    Page { title, style: STYLE, body: &body, script: "" }.html(&())
}
