//! The form of what travels, written down in `wire-form.json`. Whoever changes a form has to raise
//! [`protocol::VERSION`], and `UPDATE=1` then writes the file anew: otherwise releases of one version would
//! misread each other. `wire-form-last.json` has the forms of [`protocol::LAST_VERSION`], which has to
//! understand all of today's that it is sent; with a minor release that raised the version it becomes a copy
//! of the other. Graphs, which travel as blobs, are not among them: their types are generic, and forms
//! are told apart by their names.

use crate::frame::BulkHeader;
use crate::handshake::{Claim, Intent, Verdict};
use model::Element;
use protocol::{BundleKind, Message};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use serde_reflection::{Samples, Tracer, TracerConfig};
use tiling::{Encoding, Handover, Numerics, Plan, Split, Wire};

/// The form of every type, by its name.
fn forms() -> Value {
    let mut tracer = Tracer::new(TracerConfig::default().is_human_readable(false));
    // Of what lies inside others one variant is seen: those come first, with all of them.
    trace::<Element>(&mut tracer);
    trace::<Wire>(&mut tracer);
    trace::<Encoding>(&mut tracer);
    trace::<Handover>(&mut tracer);
    trace::<Split>(&mut tracer);
    trace::<Numerics>(&mut tracer);
    trace::<BundleKind>(&mut tracer);
    trace::<Intent>(&mut tracer);
    trace::<Plan>(&mut tracer);
    trace::<Message>(&mut tracer);
    trace::<BulkHeader>(&mut tracer);
    trace::<Claim>(&mut tracer);
    trace::<Verdict>(&mut tracer);
    serde_json::to_value(tracer.registry().unwrap()).unwrap()
}

fn trace<T: DeserializeOwned>(tracer: &mut Tracer) {
    if let Err(error) = tracer.trace_type::<T>(&Samples::new()) {
        panic!("{}: {error}", std::any::type_name::<T>());
    }
}

/// Variants with another name than in the last version: the type, the number that travels, both names.
const RENAMED: [(&str, &str, [&str; 2]); 1] = [("Numerics", "1", ["Fast", "Fast01"])];

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/wire-form.json");
const LAST_PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/wire-form-last.json");

fn read(path: &str) -> Value {
    std::fs::read(path)
        .map_or(Value::Null, |bytes| serde_json::from_slice(&bytes).expect("it was written here"))
}

/// Whether all that one form can say another says the same way: the same, but for variants that came
/// behind those that were there.
fn says_all_of(now: &Value, last: &Value) -> bool {
    match (now.get("ENUM"), last.get("ENUM")) {
        (Some(now), Some(last)) => {
            let variants = last.as_object().expect("variants by their numbers");
            variants.iter().all(|(number, variant)| now.get(number) == Some(variant))
        }
        _ => now == last,
    }
}

#[test]
fn the_last_version_is_said_the_same_way() {
    let (mut last, now) = (read(LAST_PATH), forms());
    assert_eq!(last["version"], protocol::LAST_VERSION);
    for (name, number, [before, after]) in RENAMED {
        let variant = &mut last["forms"][name]["ENUM"][number];
        *variant = json!({ after: variant[before] });
    }
    for (name, form) in last["forms"].as_object().expect("forms by their names") {
        assert!(
            now.get(name).is_some_and(|now| says_all_of(now, form)),
            "{name} has another form than in version {}, which is spoken too: add behind what was there",
            protocol::LAST_VERSION
        );
    }
}

#[test]
fn another_form_is_another_version() {
    let (path, written) = (PATH, read(PATH));
    let now = json!({ "version": protocol::VERSION, "forms": forms() });
    if written == now {
        return;
    }
    assert!(
        written["version"] != now["version"],
        "what travels has another form than in wire-form.json: raise protocol::VERSION, then UPDATE=1"
    );
    assert!(std::env::var_os("UPDATE").is_some(), "a new version: UPDATE=1 writes its form down");
    std::fs::write(path, format!("{now:#}\n")).unwrap();
}
