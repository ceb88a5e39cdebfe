//! How a view is drawn: a line on top, a table of devices, who is away, and how to leave.

use super::view::{Row, View};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Cell, Gauge, Paragraph, Table};

const HEADER: [&str; 8] =
    ["device", "load", "does", "tiles", "link", "round trip", "heat", "free memory"];

const WIDTHS: [Constraint; 8] = [
    Constraint::Min(12),
    Constraint::Length(15),
    Constraint::Length(13),
    Constraint::Length(16),
    Constraint::Length(11),
    Constraint::Length(10),
    Constraint::Length(13),
    Constraint::Length(11),
];

/// Letters of a load's bar.
const BAR: usize = 10;

/// Colours unless a person asked for none, as everywhere in this program.
fn colour(colour: Color) -> Style {
    match std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty()) {
        true => Style::default().fg(colour),
        false => Style::default().add_modifier(Modifier::BOLD),
    }
}

pub(super) fn draw(frame: &mut Frame<'_>, view: &View) {
    let away = if view.away.is_empty() { 0 } else { 1 };
    let [top, gauge, devices, gone, keys] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(u16::from(view.progress.is_some())),
        Constraint::Min(3),
        Constraint::Length(away),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    let bold = Style::default().add_modifier(Modifier::BOLD);
    let title = [Span::styled(&view.title, bold), Span::raw("  "), Span::raw(&view.summary)];
    frame.render_widget(Line::from_iter(title), top);
    if let Some(part) = view.progress {
        let bar = Gauge::default().gauge_style(colour(Color::Cyan)).ratio(part.clamp(0.0, 1.0));
        frame.render_widget(bar, gauge);
    }
    let header = ratatui::widgets::Row::new(HEADER).style(bold);
    let table =
        Table::new(view.rows.iter().map(row), WIDTHS).header(header).block(Block::bordered());
    frame.render_widget(table, devices);
    if away > 0 {
        let names = view.away.iter().map(|(name, seen)| format!("{name} ({seen})"));
        let names = names.collect::<Vec<_>>().join(", ");
        frame.render_widget(Paragraph::new(format!("away: {names}")), gone);
    }
    frame.render_widget(Paragraph::new("q quits this view"), keys);
}

fn row(row: &Row) -> ratatui::widgets::Row<'_> {
    let filled = (row.load * BAR as f64).round() as usize;
    let bar = format!("{:<BAR$} {:>3.0}%", "#".repeat(filled.min(BAR)), row.load * 100.0);
    let heat = Cell::from(row.heat.as_str());
    ratatui::widgets::Row::new([
        Cell::from(row.name.as_str()),
        Cell::from(bar).style(colour(Color::Green)),
        Cell::from(row.doing.as_str()),
        Cell::from(row.tiles.as_str()),
        Cell::from(row.link.as_str()),
        Cell::from(row.round_trip.as_str()),
        if row.alarm { heat.style(colour(Color::Red)) } else { heat },
        Cell::from(row.memory.as_str()),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::view::tests::example;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    fn drawn(view: &View, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, view)).unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn a_device_is_one_line() {
        let mut view = example();
        let screen = drawn(&view, 120, 10);
        for words in [
            "vgg16",
            "20 of 40 tiles",
            "50%",
            "attic-pi",
            "#####",
            "5.0 tiles/s",
            "20 (2 stolen)",
            "100 Mbit/s",
            "0.4 ms",
            "81 C, slowed",
            "q quits",
        ] {
            assert!(screen.contains(words), "`{words}` is missing from\n{screen}");
        }
        assert!(!screen.contains("away"));
        view.away.push(("cellar-pi".into(), "3 h ago".into()));
        assert!(drawn(&view, 120, 10).contains("away: cellar-pi (3 h ago)"));
    }

    #[test]
    fn no_size_is_too_small_and_nobody_is_no_mistake() {
        for (width, height) in [(1, 1), (20, 3), (300, 80)] {
            drawn(&example(), width, height);
            drawn(&View::default(), width, height);
        }
    }
}
