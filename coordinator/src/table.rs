//! Tables on a terminal, and the words for bytes and times.

use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets};
use protocol::{WorkerId, WorkerReport};
use std::collections::BTreeMap;
use std::time::Duration;

/// A table with a header; all columns but the first are aligned right.
pub(crate) fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> Table {
    aligned(header, rows, CellAlignment::Right)
}

/// A table of words: all columns are aligned left.
pub(crate) fn words(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> Table {
    aligned(header, rows, CellAlignment::Left)
}

fn aligned(
    header: &[&str],
    rows: impl IntoIterator<Item = Vec<String>>,
    others: CellAlignment,
) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_BORDERS_ONLY);
    table.set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(header.iter().copied());
    for row in rows {
        table.add_row(row.into_iter().enumerate().map(|(i, text)| {
            let cell = Cell::new(text);
            if i == 0 { cell } else { cell.set_alignment(others) }
        }));
    }
    table
}

/// Bytes in decimal units.
pub(crate) fn bytes(count: u64) -> String {
    scaled(count as f64, &["B", "kB", "MB", "GB", "TB"])
}

/// What a link carries.
pub(crate) fn bits(bytes_per_s: u64) -> String {
    scaled(8.0 * bytes_per_s as f64, &["bit/s", "kbit/s", "Mbit/s", "Gbit/s", "Tbit/s"])
}

/// A number of operations in decimal units.
pub(crate) fn amount(count: u64) -> String {
    scaled(count as f64, &["", "k", "M", "G", "T"])
}

fn scaled(mut value: f64, units: &[&str]) -> String {
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    let decimals = if unit == 0 || value >= 100.0 { 0 } else { 1 };
    format!("{value:.decimals$} {}", units[unit]).trim_end().to_owned()
}

/// Milliseconds below ten seconds, then seconds.
pub(crate) fn time(duration: Duration) -> String {
    let ms = duration.as_secs_f64() * 1e3;
    match ms {
        ..100.0 => format!("{ms:.1} ms"),
        ..10_000.0 => format!("{ms:.0} ms"),
        _ => format!("{:.1} s", ms / 1e3),
    }
}

/// A span between two times in the largest unit that it fills, such as `3 h`.
pub(crate) fn span(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// What each worker did.
pub(crate) fn workers(reports: &BTreeMap<WorkerId, WorkerReport>) -> Table {
    let header =
        ["worker", "tiles", "stolen", "mult-adds", "bytes in", "bytes out", "weights", "busy"];
    let rows = reports.values().map(|r| {
        let name = if r.alive { r.name.clone() } else { format!("{} (lost)", r.name) };
        vec![
            name,
            r.tasks.to_string(),
            r.stolen.to_string(),
            amount(r.multiply_adds),
            bytes(r.bytes_in),
            bytes(r.bytes_out),
            bytes(r.weight_bytes),
            time(Duration::from_nanos(r.busy_ns)),
        ]
    });
    table(&header, rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_decimal_and_short() {
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(1_480_000), "1.5 MB");
        assert_eq!(amount(15_600_000_000), "15.6 G");
        assert_eq!(time(Duration::from_micros(1234)), "1.2 ms");
        assert_eq!(time(Duration::from_secs(12)), "12.0 s");
        assert_eq!([119, 7199, 86_400, 172_800].map(span), ["119 s", "119 min", "24 h", "2 days"]);
    }
}
