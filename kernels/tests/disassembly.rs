//! The micro-kernels are what they are meant to be: fused multiply-adds of the full width, with
//! all accumulators in registers. A compiler that spills them costs a store for each multiply-add
//! (two thirds of the speed), and no other test would see it.
//!
//! Looks at this very executable with `objdump`; says so and passes where there is none. Checks of
//! indices, as a build for debugging has, cut the loops into pieces: `.ci/run` builds it for release.
#![cfg(all(target_arch = "x86_64", not(debug_assertions)))]

use kernels::{Engine, Isa};
use model::{LoadOptions, zoo};
use std::process::Command;
use tiling::Numerics;

/// An instruction set's micro-kernel of full size.
struct Expected {
    isa: Isa,
    register: &'static str,
    /// Multiply-adds of a turn of the inner loop: pixels, vectors and products.
    turn: usize,
}

const EXPECTED: [Expected; 2] = [
    Expected { isa: Isa::Avx512, register: "%zmm", turn: 13 * 2 * 4 },
    Expected { isa: Isa::Avx2, register: "%ymm", turn: 6 * 2 * 4 },
];

/// The instructions of each function of this executable.
fn functions() -> Option<Vec<Vec<String>>> {
    let own = std::env::current_exe().ok()?;
    let output = Command::new("objdump").args(["-d", "--no-show-raw-insn"]).arg(own).output();
    let text = String::from_utf8(output.ok().filter(|o| o.status.success())?.stdout).ok()?;
    let mut functions: Vec<Vec<String>> = Vec::new();
    for line in text.lines() {
        if line.ends_with(">:") {
            functions.push(Vec::new());
        } else if let (Some(last), Some((_, code))) = (functions.last_mut(), line.split_once(":\t"))
        {
            last.push(code.trim().to_owned());
        }
    }
    Some(functions)
}

/// Most multiply-adds between two jumps back or calls, and the stack stores among them.
fn hottest(function: &[String], register: &str) -> (usize, usize) {
    let is_jump = |code: &String| code.starts_with('j') || code.starts_with("call");
    let counts = function.split(is_jump).map(|run| {
        let has = |code: &&String| code.contains(register);
        let adds = run.iter().filter(has).filter(|code| code.starts_with("vfmadd")).count();
        let stores = run.iter().filter(has).filter(|code| {
            let to_stack = code.rsplit(',').next().is_some_and(|to| to.contains("(%rsp"));
            code.starts_with("vmov") && to_stack && code.trim_end().ends_with(')')
        });
        (adds, stores.count())
    });
    counts.max().unwrap_or_default()
}

#[test]
fn micro_kernels_multiply_and_add_in_full_registers() {
    // So that the kernels are part of the executable.
    let model = zoo::open("zoo:squeezenet@64x64", &LoadOptions::default()).unwrap();
    let packed = kernels::PackedModel::new(model.graph.clone());
    let none = Engine::new(1).unwrap().run_whole(&packed, Numerics::Exact, &[]);
    assert!(none.is_err(), "nothing is packed");
    let Some(functions) = functions() else {
        println!("skipped: objdump is missing");
        return;
    };
    for Expected { isa, register, turn } in EXPECTED {
        let hottest: Vec<_> = functions.iter().map(|f| hottest(f, register)).collect();
        let whole: Vec<_> = hottest.iter().filter(|(adds, _)| *adds >= turn).collect();
        assert!(!whole.is_empty(), "{isa}: no loop has {turn} multiply-adds of {register}");
        let spilled = whole.iter().filter(|(adds, stores)| *adds == turn && *stores > 0).count();
        assert_eq!(spilled, 0, "{isa}: accumulators are written to the stack");
    }
}
