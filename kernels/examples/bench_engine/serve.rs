//! A process that stays loaded and takes commands, one a line, and answers each with a line of
//! JSON: how `scripts/bench-engines` lets engines take turns.
//!
//! ```text
//!  load MODEL THREADS      {"ok": true, "ns": 1234, ...}      or {"refused": "why"}
//!  run SECONDS CALLS       {"ns": [5678, ...]}                 at least so long and so often
//!  output FILE             {"values": 1000}                    of the first output, f32, channels first
//! ```

use std::io::{BufRead, Write};
use std::path::Path;
use std::time::Instant;

/// More calls than this tell nothing new.
const CALLS_MAX: usize = 20_000;

/// A model in an engine.
pub trait Loaded: Sized {
    /// Reads an ONNX file and makes it ready to run, input included.
    fn load(path: &Path, threads: usize) -> Result<Self, String>;

    /// Members of a JSON object that say more about the model, each after a comma.
    fn facts(&self) -> String {
        String::new()
    }

    /// Computes once; the output may be dropped, as a caller would.
    fn run(&mut self) -> Result<(), String>;

    /// Computes once and gives the first output in logical order.
    fn output(&mut self) -> Result<Vec<f32>, String>;

    /// Other commands.
    fn command(&mut self, words: &[&str]) -> Result<String, String> {
        Err(format!("unknown command {words:?}"))
    }
}

/// Serves until the input ends.
pub fn serve<L: Loaded>() {
    let mut loaded: Option<L> = None;
    for line in std::io::stdin().lock().lines() {
        let Ok(line) = line else { break };
        let words: Vec<&str> = line.split('\t').collect();
        let answer = answer(&mut loaded, &words);
        let answer = answer.unwrap_or_else(|why| format!("{{\"refused\": {}}}", quoted(&why)));
        let mut out = std::io::stdout().lock();
        let written = writeln!(out, "{answer}").and_then(|()| out.flush());
        if written.is_err() {
            break;
        }
    }
}

fn answer<L: Loaded>(loaded: &mut Option<L>, words: &[&str]) -> Result<String, String> {
    if let ["load", path, threads] = words {
        *loaded = None;
        let threads = parsed(threads)?;
        let start = Instant::now();
        let model = L::load(Path::new(path), threads)?;
        let ns = start.elapsed().as_nanos();
        let facts = model.facts();
        *loaded = Some(model);
        return Ok(format!("{{\"ok\": true, \"ns\": {ns}{facts}}}"));
    }
    if words == ["unload"] {
        *loaded = None;
        return Ok("{\"ok\": true}".into());
    }
    let loaded = loaded.as_mut().ok_or("no model is loaded")?;
    match words {
        ["run", seconds, calls] => {
            let ns = timed(parsed(seconds)?, parsed(calls)?, || loaded.run())?;
            Ok(format!("{{\"ns\": {ns:?}}}"))
        }
        ["output", path] => {
            let values = loaded.output()?;
            let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            std::fs::write(path, bytes).map_err(|cause| cause.to_string())?;
            Ok(format!("{{\"values\": {}}}", values.len()))
        }
        words => loaded.command(words),
    }
}

/// The time of each call, in ns.
pub fn timed(
    seconds: f64,
    calls: usize,
    mut run: impl FnMut() -> Result<(), String>,
) -> Result<Vec<u64>, String> {
    let mut ns = Vec::new();
    let started = Instant::now();
    while ns.len() < calls || (started.elapsed().as_secs_f64() < seconds && ns.len() < CALLS_MAX) {
        let start = Instant::now();
        run()?;
        ns.push(start.elapsed().as_nanos() as u64);
    }
    Ok(ns)
}

/// A number of a command.
pub fn parsed<N: std::str::FromStr>(word: &str) -> Result<N, String> {
    word.parse().map_err(|_| format!("{word:?} is not a number"))
}

/// A JSON string.
pub fn quoted(text: &str) -> String {
    let escaped = text.chars().map(|c| match c {
        '"' | '\\' => format!("\\{c}"),
        c if (c as u32) < 0x20 => format!("\\u{:04x}", c as u32),
        c => c.to_string(),
    });
    format!("\"{}\"", escaped.collect::<String>())
}
