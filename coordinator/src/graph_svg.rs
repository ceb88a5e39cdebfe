//! A picture of a model's graph: the layers from top to bottom, and the ways that skip some of
//! them as arcs beside, each in a lane of its own.
//!
//! ```text
//!   ┃ conv1   3x3 /2      64x112x112  ▇▇▇▇
//!   ┃ pool1   2x2         64x56x56          ─╮
//!   ┃ conv2   3x3         64x56x56    ▇▇     │
//!   ┃ add                 64x56x56          ◂╯
//!   │ fc                  [1, 1000]   ▇
//! ```

use crate::commands::inspect::{Inspection, LayerFacts, dims};
use crate::table;
use std::fmt::Write;

const ROW: usize = 26;
const TOP: usize = 96;
const LEFT: usize = 28;
const WIDTH: usize = 760;
/// Where the columns start, from the left of a layer.
const DOES: usize = 220;
const SHAPE: usize = 560;
const BAR: usize = 580;
const BAR_MAX: usize = 110;
const LANE: usize = 9;

/// Layers of one picture; a longer one would be taller than browsers draw.
const LAYERS_MAX: usize = 1200;

/// The graph as SVG.
pub(crate) fn draw(inspection: &Inspection) -> String {
    let layers = &inspection.layers[..inspection.layers.len().min(LAYERS_MAX)];
    let arcs = arcs(layers);
    let lanes = arcs.iter().map(|arc| arc.lane + 1).max().unwrap_or(0);
    let width = LEFT + WIDTH + 40 + lanes * LANE;
    let height = TOP + layers.len() * ROW + 40;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"#ffffff\"/>\n"
    );
    header(&mut svg, inspection, layers);
    for arc in &arcs {
        arc.draw(&mut svg);
    }
    let most = layers.iter().map(|l| l.multiply_adds).max().unwrap_or(0).max(1);
    for (i, layer) in layers.iter().enumerate() {
        row(&mut svg, i, layer, most);
    }
    if layers.len() < inspection.layers.len() {
        let (y, more) = (height - 16, inspection.layers.len() - layers.len());
        let _ = writeln!(svg, "<text x=\"{LEFT}\" y=\"{y}\">and {more} more layers</text>");
    }
    svg.push_str("</svg>\n");
    svg
}

fn header(svg: &mut String, inspection: &Inspection, layers: &[LayerFacts]) {
    let name = escape(&inspection.model);
    let work = table::amount(inspection.multiply_adds);
    let _ = writeln!(
        svg,
        "<text x=\"{LEFT}\" y=\"34\" font-size=\"20\" font-weight=\"bold\">{name}</text>\n\
         <text x=\"{LEFT}\" y=\"56\" fill=\"#555555\">{} layers, {} of \
         which can be cut into tiles (green), {work} multiply-adds</text>",
        inspection.layers.len(),
        inspection.layers.iter().filter(|l| l.tiled).count(),
    );
    let mut x = LEFT;
    for (word, colour) in KINDS.iter().map(|(_, word, colour)| (word, colour)) {
        let used = layers.iter().any(|l| kind(&l.operator).1 == *colour);
        if used {
            let _ = writeln!(
                svg,
                "<rect x=\"{x}\" y=\"70\" width=\"12\" height=\"12\" rx=\"2\" fill=\"{colour}\"/>\
                 <text x=\"{}\" y=\"80\" fill=\"#555555\">{word}</text>",
                x + 17
            );
            x += 30 + word.len() * 7;
        }
    }
}

fn row(svg: &mut String, index: usize, layer: &LayerFacts, most: u64) {
    let y = TOP + index * ROW;
    let (mid, inner) = (y + ROW / 2, ROW - 4);
    let edge = if layer.tiled { "#2a9d4d" } else { "#c9c9c9" };
    let colour = kind(&layer.operator).1;
    let bar = (layer.multiply_adds as f64 / most as f64 * BAR_MAX as f64).round() as usize;
    // The way from the layer right above needs no arc.
    if index > 0 && layer.reads.contains(&Some(index - 1)) {
        let x = LEFT + 14;
        let _ =
            writeln!(svg, "<path d=\"M{x} {} v6\" stroke=\"#888888\" stroke-width=\"2\"/>", y - 3);
    }
    let does = layer.does.strip_prefix(&layer.operator).unwrap_or(&layer.does).trim();
    let does = format!("{} {does}", layer.operator);
    let _ = writeln!(
        svg,
        "<g><title>{title}</title>\
         <rect x=\"{LEFT}\" y=\"{top}\" width=\"{WIDTH}\" height=\"{inner}\" rx=\"4\" \
         fill=\"#f6f7f9\"/>\
         <rect x=\"{LEFT}\" y=\"{top}\" width=\"5\" height=\"{inner}\" fill=\"{edge}\"/>\
         <rect x=\"{tag}\" y=\"{tag_y}\" width=\"10\" height=\"10\" rx=\"2\" fill=\"{colour}\"/>\
         <text x=\"{name_x}\" y=\"{base}\">{name}</text>\
         <text x=\"{does_x}\" y=\"{base}\" fill=\"#333333\">{does}</text>\
         <text x=\"{shape_x}\" y=\"{base}\" text-anchor=\"end\" fill=\"#555555\">{shape}</text>\
         <rect x=\"{bar_x}\" y=\"{tag_y}\" width=\"{bar}\" height=\"10\" rx=\"2\" \
         fill=\"{colour}\"/>\
         <text x=\"{work_x}\" y=\"{base}\" text-anchor=\"end\" fill=\"#777777\">{work}</text></g>",
        title = escape(&layer.name),
        top = y + 2,
        tag = LEFT + 11,
        tag_y = mid - 5,
        name_x = LEFT + 28,
        base = mid + 4,
        name = escape(&shortened(&layer.name, 26)),
        does_x = LEFT + DOES,
        does = escape(&shortened(&does, 40)),
        shape_x = LEFT + SHAPE,
        shape = dims(&layer.dims),
        bar_x = LEFT + BAR,
        work_x = LEFT + WIDTH - 8,
        work = if layer.multiply_adds > 0 {
            table::amount(layer.multiply_adds)
        } else {
            String::new()
        },
    );
}

/// A way between two layers that are not neighbours.
struct Arc {
    from: usize,
    to: usize,
    lane: usize,
}

/// The ways that skip layers, short ones nearest; two that overlap never share a lane.
fn arcs(layers: &[LayerFacts]) -> Vec<Arc> {
    let mut ways: Vec<(usize, usize)> = Vec::new();
    for (to, layer) in layers.iter().enumerate() {
        ways.extend(layer.reads.iter().flatten().filter(|&&from| from + 1 < to).map(|&f| (f, to)));
    }
    ways.sort_unstable_by_key(|&(from, to)| (to - from, from));
    ways.dedup();
    let mut arcs: Vec<Arc> = Vec::new();
    for (from, to) in ways {
        let taken =
            |lane: usize| arcs.iter().any(|arc| arc.lane == lane && arc.from < to && from < arc.to);
        let lane = (0..).find(|&lane| !taken(lane)).unwrap_or(0);
        arcs.push(Arc { from, to, lane });
    }
    arcs
}

impl Arc {
    fn draw(&self, svg: &mut String) {
        let middle = |index: usize| TOP + index * ROW + ROW / 2;
        let (start, end) = (middle(self.from) + 5, middle(self.to) - 5);
        let (left, right) = (LEFT + WIDTH, LEFT + WIDTH + 16 + self.lane * LANE);
        let _ = writeln!(
            svg,
            "<path d=\"M{left} {start} H{} Q{right} {start} {right} {} V{} Q{right} {end} {} {end} \
             H{}\" fill=\"none\" stroke=\"#5a78b5\" stroke-width=\"1.5\"/>\
             <path d=\"M{left} {end} l7 -4 v8 z\" fill=\"#5a78b5\"/>",
            right - 6,
            start + 6,
            end - 6,
            right - 6,
            left + 6,
        );
    }
}

/// Words of an operator's name, what they are called together, and a colour.
const KINDS: [(&[&str], &str, &str); 6] = [
    (&["Conv"], "convolution", "#3b82c4"),
    (&["Pool", "Reduce"], "pooling", "#e07b39"),
    (&["Linear", "MatMul", "Gemm"], "product", "#8a5bb8"),
    (&["Combine", "Concat", "Split", "Slice"], "joins", "#2a9d8f"),
    (&["Resize", "Depth", "Reshape", "Transpose", "Pad"], "moves values", "#b58900"),
    (&[], "each value", "#8a929c"),
];

fn kind(operator: &str) -> (&'static str, &'static str) {
    let known = |(words, ..): &&(&[&str], _, _)| words.iter().any(|w| operator.contains(w));
    let found = KINDS.iter().find(known).unwrap_or(&KINDS[KINDS.len() - 1]);
    (found.1, found.2)
}

/// The end of a long name says more than its start.
fn shortened(text: &str, letters: usize) -> String {
    let count = text.chars().count();
    if count <= letters {
        return text.to_owned();
    }
    let end: String = text.chars().skip(count + 1 - letters).collect();
    format!("…{end}")
}

/// Text inside XML. Control characters, which XML cannot have, become spaces.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => escaped.push(' '),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::LoadOptions;

    fn inspection(reference: &str) -> Inspection {
        let loaded = model::open(reference, &LoadOptions::default()).unwrap();
        Inspection::of(&loaded, Default::default())
    }

    #[test]
    fn arcs_that_overlap_have_lanes_of_their_own() {
        let arcs = arcs(&inspection("zoo:unet@32x32").layers);
        assert_eq!(arcs.len(), 4, "one skip connection a depth");
        for (i, a) in arcs.iter().enumerate() {
            assert!(a.from + 1 < a.to);
            for b in &arcs[..i] {
                assert!(a.lane != b.lane || a.to <= b.from || b.to <= a.from);
            }
        }
    }

    #[test]
    fn every_layer_is_drawn_and_names_are_escaped() {
        let mut inspection = inspection("zoo:resnet50@32x32");
        inspection.layers[3].name = "<a & \"b\">\u{1}".into();
        let svg = draw(&inspection);
        assert_eq!(svg.matches("<g>").count(), inspection.layers.len());
        assert!(svg.contains("&lt;a &amp; &quot;b&quot;&gt; ") && !svg.contains("<a &"));
        assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n"));
    }

    #[test]
    fn the_end_of_a_long_name_is_kept() {
        assert_eq!(shortened("abcdef", 4), "…def");
        assert_eq!(shortened("abcd", 4), "abcd");
    }
}
