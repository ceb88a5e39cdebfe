//! What this device measured of itself, kept on disk until something changes that it depends on.
//!
//! A file for each thread count, named by a hash of what the rates depend on: processor, cores,
//! threads, instruction set and the version of the kernels. Its first line is the hash of the rest,
//! so that a damaged file is noticed; it is written beside its place and renamed.

use crate::measure::{Measured, measure};
use anyhow::{Context, Result, ensure};
use kernels::Engine;
use model::WeightHash;
use serde::{Deserialize, Serialize};
use std::io::{IsTerminal, Write};
use std::path::Path;
use tiling::Rates;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Kept {
    /// For people who look into the file.
    device: String,
    rates: Rates,
    speedups_per_mille: Vec<u32>,
}

/// What an engine measured before, or measures now: the first time, when `anew`, and when the file
/// is damaged. With no folder nothing is kept. Of several processes one measures, the others wait.
///
/// *Errors*: the engine refuses; a folder that cannot be written costs a warning alone.
pub fn profile(engine: &Engine, folder: Option<&Path>, anew: bool) -> Result<Measured> {
    let Some(folder) = folder else { return measure_aloud(engine) };
    let device = describe(engine);
    let key = hex(WeightHash::of_bytes(device.as_bytes()));
    let path = folder.join(format!("{}.json", &key[..16]));
    let locked = lock(folder);
    if let Err(error) = &locked {
        tracing::warn!("cannot keep a profile in {}: {error}", folder.display());
    }
    if !anew && let Some(kept) = read(&path, &device) {
        return Ok(kept);
    }
    let measured = measure_aloud(engine)?;
    if locked.is_ok()
        && let Err(error) = write(&path, device, &measured)
    {
        tracing::warn!("cannot keep the profile: {error:#}");
    }
    Ok(measured)
}

/// What a person says in place of measuring: rates as `--calibrate` prints them, for all threads
/// together.
///
/// *Errors*: no such file, or a rate that is missing or zero.
pub(crate) fn given(path: &Path, threads: usize) -> Result<Measured> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read the rates in {}", path.display()))?;
    let rates: Rates =
        serde_json::from_str(&text).with_context(|| format!("{} has no rates", path.display()))?;
    ensure!(
        rates.is_known(),
        "{} has a rate of zero; `tilehive-worker --calibrate` prints sound ones",
        path.display()
    );
    Ok(Measured { rates, speedups_per_mille: vec![1000; threads] })
}

fn lock(folder: &Path) -> std::io::Result<std::fs::File> {
    std::fs::create_dir_all(folder)?;
    let file = std::fs::File::create(folder.join("lock"))?;
    file.lock()?;
    Ok(file)
}

/// Measures, with a line on stderr that says so.
fn measure_aloud(engine: &Engine) -> Result<Measured> {
    let threads = engine.threads();
    let live = std::io::stderr().is_terminal();
    let begun = std::time::Instant::now();
    let told = measure(engine, |share| {
        if live {
            eprint!("\rmeasuring this device with {threads} threads: {:3.0} %", share * 100.0);
            let _ = std::io::stderr().flush();
        }
    });
    if live {
        eprint!("\r{:60}\r", "");
    }
    let measured = told.context("cannot measure this device")?;
    let took = begun.elapsed().as_secs_f64();
    let told = format!("measured this device with {threads} threads in {took:.1} s");
    match live {
        true => eprintln!("{told}"),
        // Nobody looks: it is a line of the log like any other.
        false => tracing::info!("{told}"),
    }
    Ok(measured)
}

/// What the rates depend on, a line for each.
fn describe(engine: &Engine) -> String {
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    format!(
        "{}\n{cores} cores\n{} threads\n{:?}\ntilehive {}",
        processor(),
        engine.threads(),
        engine.isa(),
        env!("CARGO_PKG_VERSION")
    )
}

/// What the processor is called, where the system tells.
fn processor() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let value = |key: &str| {
        let line = text.lines().find(|line| line.to_lowercase().starts_with(key))?;
        Some(line.split(':').nth(1)?.trim().to_owned())
    };
    // ARM boards name the board, and the kind of core by a number.
    let named = ["model name", "model", "hardware", "cpu part"].into_iter().filter_map(value);
    let named: Vec<String> = named.collect();
    if named.is_empty() { std::env::consts::ARCH.into() } else { named.join(", ") }
}

fn hex(hash: WeightHash) -> String {
    hash.0.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn read(path: &Path, device: &str) -> Option<Measured> {
    let text = std::fs::read_to_string(path).ok()?;
    let kept = text.split_once('\n').and_then(|(sum, rest)| {
        let sound = sum == hex(WeightHash::of_bytes(rest.as_bytes()));
        let kept: Kept = serde_json::from_str(rest).ok().filter(|_| sound)?;
        (kept.device == device && kept.rates.is_known()).then_some(kept)
    });
    if kept.is_none() {
        tracing::warn!("{} is damaged; measuring again", path.display());
    }
    let Kept { rates, speedups_per_mille, .. } = kept?;
    Some(Measured { rates, speedups_per_mille })
}

fn write(path: &Path, device: String, measured: &Measured) -> Result<()> {
    let Measured { rates, speedups_per_mille } = measured.clone();
    let rest = serde_json::to_string_pretty(&Kept { device, rates, speedups_per_mille })?;
    let text = format!("{}\n{rest}", hex(WeightHash::of_bytes(rest.as_bytes())));
    let beside = path.with_extension(format!("{}.part", std::process::id()));
    std::fs::write(&beside, text).with_context(|| beside.display().to_string())?;
    std::fs::rename(&beside, path).with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured() -> Measured {
        Measured { rates: Rates::typical(7_000_000), speedups_per_mille: vec![1000, 1900] }
    }

    #[test]
    fn what_was_kept_is_read_again_for_the_same_device_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.json");
        assert_eq!(read(&path, "a"), None);
        write(&path, "a".into(), &measured()).unwrap();
        assert_eq!(read(&path, "a"), Some(measured()));
        assert_eq!(read(&path, "b"), None);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside");
    }

    #[test]
    fn a_damaged_file_is_not_believed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.json");
        write(&path, "a".into(), &measured()).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        for damaged in [&text[..text.len() / 2], "", &text.replacen("7000000", "7000001", 1)] {
            std::fs::write(&path, damaged).unwrap();
            assert_eq!(read(&path, "a"), None, "{damaged}");
        }
    }

    #[test]
    fn rates_that_are_given_are_believed_when_all_are_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rates.json");
        let rates = measured().rates;
        std::fs::write(&path, serde_json::to_string(&rates).unwrap()).unwrap();
        let believed = given(&path, 2).unwrap();
        assert_eq!((believed.rates, believed.speedups_per_mille.len()), (rates, 2));
        let text = serde_json::to_string(&rates).unwrap();
        for bad in ["", "[1]", &text.replacen("7000000", "0", 1)] {
            std::fs::write(&path, bad).unwrap();
            assert!(given(&path, 1).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_second_time_nothing_is_measured_unless_asked() {
        let folder = tempfile::tempdir().unwrap();
        let engine = Engine::new(1).unwrap();
        let path = |first: &str| {
            let key = hex(WeightHash::of_bytes(describe(&engine).as_bytes()));
            folder.path().join(format!("{}{first}", &key[..16]))
        };
        write(&path(".json"), describe(&engine), &measured()).unwrap();
        assert_eq!(profile(&engine, Some(folder.path()), false).unwrap(), measured());
        let anew = profile(&engine, Some(folder.path()), true).unwrap();
        assert_ne!(anew.rates, measured().rates);
        assert_eq!(profile(&engine, Some(folder.path()), false).unwrap(), anew);
    }
}
