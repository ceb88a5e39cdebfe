//! To and from Chrome's trace event format, which Perfetto opens.
//!
//! *Source*: "Trace Event Format", Google, 2016: `X` is a span, `i` a moment, `M` a name. Times are
//! in microseconds. One process a device, one thread an activity.

use crate::{Activity, Mark, Span, Timeline, Try};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::io::Write;

/// Why a trace cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// It cannot be written.
    #[error("cannot write the trace")]
    Write(#[from] std::io::Error),
    /// It is not JSON, or not ours.
    #[error("this is not a trace of tilehive")]
    Json(#[from] serde_json::Error),
    /// It has no span of a task.
    #[error("the trace has no span of a task: was it written by `tilehive run --trace`?")]
    Empty,
}

/// What a span carries beside what every viewer knows: enough to read it back without rounding.
#[derive(Serialize, Deserialize)]
struct Arguments {
    #[serde(flatten)]
    span: Span,
}

/// Writes a timeline.
///
/// *Errors*: the writer's.
pub fn write(timeline: &Timeline, mut to: impl Write) -> Result<(), TraceError> {
    to.write_all(b"{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n")?;
    let mut first = true;
    let mut event = |value: Value| -> Result<(), TraceError> {
        if !std::mem::take(&mut first) {
            to.write_all(b",\n")?;
        }
        serde_json::to_writer(&mut to, &value)?;
        Ok(())
    };
    for (i, name) in timeline.devices.iter().enumerate() {
        let args = json!({ "name": name });
        event(json!({ "ph": "M", "name": "process_name", "pid": i + 1, "tid": 0, "args": args }))?;
        let args = json!({ "sort_index": i });
        let name = "process_sort_index";
        event(json!({ "ph": "M", "name": name, "pid": i + 1, "tid": 0, "args": args }))?;
        for (thread, activity) in Activity::ALL.into_iter().enumerate() {
            let args = json!({ "name": activity.name() });
            let (name, pid, tid) = ("thread_name", i + 1, thread + 1);
            event(json!({ "ph": "M", "name": name, "pid": pid, "tid": tid, "args": args }))?;
        }
    }
    for span in &timeline.spans {
        let name = match span.task {
            Some(t) => format!("f{} s{} t{}", t.frame, t.stage, t.tile),
            None => "weights".into(),
        };
        event(json!({
            "ph": "X",
            "name": name,
            "cat": span.activity.name(),
            "pid": span.device + 1,
            "tid": span.activity as u32 + 1,
            "ts": span.start_ns as f64 / 1e3,
            "dur": span.end_ns.saturating_sub(span.start_ns) as f64 / 1e3,
            "args": Arguments { span: *span },
        }))?;
    }
    for mark in &timeline.marks {
        let (scope, pid) = mark.device.map_or(("g", 0), |d| ("p", d + 1));
        event(json!({
            "ph": "i", "name": mark.what, "cat": "mark", "s": scope, "pid": pid, "tid": 0,
            "ts": mark.at_ns as f64 / 1e3, "args": { "at_ns": mark.at_ns },
        }))?;
    }
    to.write_all(b"\n]}\n")?;
    to.flush()?;
    Ok(())
}

#[derive(Deserialize)]
struct File {
    #[serde(rename = "traceEvents")]
    events: Vec<Value>,
}

/// Reads a timeline that [`write`] wrote.
///
/// *Errors*: other JSON than that, or no span in it.
pub fn read(text: &str) -> Result<Timeline, TraceError> {
    let file: File = serde_json::from_str(text)?;
    let mut timeline = Timeline::default();
    for mut event in file.events {
        let phase = event["ph"].as_str().unwrap_or_default().to_owned();
        let name = event["name"].as_str().unwrap_or_default().to_owned();
        match (phase.as_str(), name.as_str()) {
            ("M", "process_name") => {
                timeline.devices.push(event["args"]["name"].as_str().unwrap_or("?").to_owned());
            }
            ("X", _) => {
                let arguments: Arguments = serde_json::from_value(event["args"].take())?;
                timeline.spans.push(arguments.span);
            }
            ("i", _) => {
                let device = event["pid"].as_u64().and_then(|p| p.checked_sub(1)).map(|p| p as u32);
                let at_ns = event["args"]["at_ns"].as_u64().unwrap_or(0);
                timeline.marks.push(Mark { at_ns, device, what: name });
            }
            _ => {}
        }
    }
    if timeline.spans.iter().all(|s: &Span| s.task.is_none()) {
        return Err(TraceError::Empty);
    }
    Ok(timeline)
}

impl Try {
    /// A short name for people.
    pub fn name(&self) -> String {
        format!("frame {} stage {} tile {}", self.frame, self.stage, self.tile)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timeline() -> Timeline {
        let task = Some(Try { frame: 3, stage: 1, tile: 7, attempt: 2 });
        let span = |activity, task, bytes| Span {
            device: 1,
            activity,
            task,
            start_ns: 1_234_567_891,
            end_ns: 1_234_567_999,
            bytes,
            stolen: true,
        };
        Timeline {
            devices: vec!["pi \"one\"".into(), "laptop".into()],
            spans: vec![span(Activity::Compute, task, 0), span(Activity::Weights, None, 99)],
            marks: vec![
                Mark { at_ns: 5, device: None, what: "frame 3 submitted".into() },
                Mark { at_ns: 6, device: Some(0), what: "crash".into() },
            ],
        }
    }

    #[test]
    fn what_is_written_is_read_back_without_rounding() {
        let mut bytes = Vec::new();
        write(&timeline(), &mut bytes).unwrap();
        assert_eq!(read(std::str::from_utf8(&bytes).unwrap()).unwrap(), timeline());
    }

    #[test]
    fn spans_are_complete_events_in_microseconds() {
        let mut bytes = Vec::new();
        write(&timeline(), &mut bytes).unwrap();
        let value: Value = serde_json::from_slice(&bytes).unwrap();
        let spans = value["traceEvents"].as_array().unwrap().iter();
        let span = spans.clone().find(|e| e["ph"] == "X").unwrap();
        assert_eq!((span["ts"].as_f64(), span["dur"].as_f64()), (Some(1234567.891), Some(0.108)));
        assert_eq!((span["pid"].as_u64(), span["tid"].as_u64()), (Some(2), Some(1)));
        assert_eq!(span["name"], "f3 s1 t7");
    }

    #[test]
    fn other_files_are_refused() {
        assert!(matches!(read("hello"), Err(TraceError::Json(_))));
        assert!(matches!(read("{\"traceEvents\":[]}"), Err(TraceError::Empty)));
    }
}
