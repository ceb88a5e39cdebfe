//! `tilehive calibrate`: what the devices measured, as files that the simulator reads.
//!
//! Devices that join tell what they know of themselves and learn their links on the way; with none in
//! reach this machine is measured anew. One folder gets a cluster, and a device and a link for each
//! worker; ways between workers that their links do not tell are pairs. What is not known (heat, and the
//! watts of most) is left out.

use super::{SETTLE_TO_TELL, cores, listen, open_locals, profiles, spinner};
use crate::cli::{CalibrateArguments, Context};
use crate::cluster::Device;
use crate::failure::Failure;
use crate::say::say;
use crate::watts::Watts;
use anyhow::Context as _;
use kernels::Engine;
use planner::DeviceProfile;
use protocol::CoordinatorConfig;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tiling::{OperatorClass, Rates};

/// What a device may fill with maps and weights where its system does not say what is free.
const MEMORY_MB: u64 = 1000;

pub(crate) async fn run(context: &Context, arguments: CalibrateArguments) -> Result<(), Failure> {
    let machine = CoordinatorConfig::default();
    let cluster = &arguments.cluster;
    let devices = match (cluster.workers, cluster.join_wait) {
        (Some(count), _) => {
            let threads = cluster.threads.unwrap_or(1);
            let opened = open_locals(context, count.into(), threads, machine).await?;
            let devices = opened.cluster.settle(SETTLE_TO_TELL).await?;
            opened.stop().await;
            devices
        }
        (None, Some(patience)) => {
            let running = listen(context, cluster, machine).await?;
            let spinner = spinner(format!("listening {}", humantime::format_duration(patience)));
            running.wait_for(cluster.expect.unwrap_or(usize::MAX), patience).await?;
            let devices = running.settle(SETTLE_TO_TELL).await?;
            spinner.finish_and_clear();
            running.stop().await;
            devices
        }
        (None, None) => vec![this_machine(context, cluster.threads.unwrap_or_else(cores))?],
    };
    if devices.is_empty() {
        let error = anyhow::anyhow!("no device joined");
        let hint = "`tilehive cluster token` prints the line to run on each device";
        return Err(Failure::run(error).hint(hint));
    }
    say!("{}", write_all(&arguments.output, &devices)?.display());
    Ok(())
}

/// Writes a cluster of these devices into a folder; gives the file of the cluster.
fn write_all(folder: &Path, devices: &[Device]) -> Result<PathBuf, Failure> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let mut text = "name = \"calibrated\"\n\n[coordinator]\nlink = \"ethernet-1g\"\n".to_owned();
    let names = names(devices);
    for (i, device) in devices.iter().enumerate() {
        let (device_file, link_file) = (format!("device-{i}.toml"), format!("link-{i}.toml"));
        write(&folder.join(&device_file), &device_text(device))?;
        write(&folder.join(&link_file), &link_text(&device.profile))?;
        let path = |name: &str| format!("{:?}", format!("./{name}"));
        let _ = write!(
            text,
            "\n[[worker]]\nname = {:?}\ndevice = {}\nlink = {}\n",
            names[i],
            path(&device_file),
            path(&link_file)
        );
    }
    text += &pairs_text(devices, &names);
    let path = folder.join("cluster.toml");
    write(&path, &text)?;
    Ok(path)
}

/// A name for each device that no other has.
fn names(devices: &[Device]) -> Vec<String> {
    let name = |(i, device): (usize, &Device)| match devices[..i]
        .iter()
        .filter(|other| other.name == device.name)
        .count()
    {
        0 => device.name.clone(),
        before => format!("{}-{}", device.name, before + 1),
    };
    devices.iter().enumerate().map(name).collect()
}

/// The ways between devices that their links do not tell.
fn pairs_text(devices: &[Device], names: &[String]) -> String {
    let mut text = String::new();
    for (device, name) in devices.iter().zip(names) {
        for pair in device.pairs.iter().filter(|pair| pair.unusual && device.id < pair.id) {
            let other = devices.iter().position(|other| other.id == pair.id);
            let Some(other) = other.map(|place| &names[place]) else { continue };
            let mbit = pair.bytes_per_s as f64 / 125_000.0;
            let round_trip = Duration::from_nanos(pair.round_trip_ns).as_secs_f64() * 1e3;
            let _ = write!(
                text,
                "\n[[pair]]\nworkers = [{name:?}, {other:?}]\nmbit_per_s = {mbit:.3}\n\
                 round_trip_ms = {round_trip:.4}\n"
            );
        }
    }
    text
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    Ok(std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?)
}

/// This machine alone, measured anew.
fn this_machine(context: &Context, threads: usize) -> Result<Device, Failure> {
    let engine = Engine::new(threads.clamp(1, 1024))?;
    let measured = worker::profile(&engine, Some(&profiles(context)), true)?;
    let health = worker::health::read(Path::new("/"));
    Ok(Device {
        name: "this machine".into(),
        threads: threads as u32,
        speed: 1.0,
        speedups_per_mille: measured.speedups_per_mille,
        free_bytes: health.free_bytes,
        ..Device::of(DeviceProfile::same_machine("this machine", measured.rates))
    })
}

/// A file of `configs/devices`.
fn device_text(device: &Device) -> String {
    let mut speedups = device.speedups_per_mille.clone();
    // A device that did not measure that: nothing is lost, since it uses all its threads.
    if speedups.len() < device.threads as usize {
        speedups = vec![1000; device.threads.max(1) as usize];
    }
    let speedups: Vec<String> =
        speedups.iter().map(|&s| format!("{:.3}", f64::from(s) / 1e3)).collect();
    let memory_mb = device.memory_bytes.or(device.free_bytes).map(|bytes| bytes / 1_000_000);
    let memory_mb = memory_mb.unwrap_or(MEMORY_MB).max(1);
    let mut text = format!(
        "name = {:?}\nthreads = {}\nspeedup_by_threads = [{}]\nmemory_mb = {memory_mb}\n\
         tile_overhead_ms = 0.1\n\n[rates]\nsource = \"tilehive calibrate\"\n",
        device.name,
        device.threads,
        speedups.join(", "),
    );
    let rates: Rates = device.profile.rates;
    for class in OperatorClass::ALL {
        let giga_per_s = rates.per_s(class) as f64 / 1e9;
        let _ = writeln!(text, "{} = {:e}", class.rate_key(), giga_per_s.max(1e-9));
    }
    if let Some(Watts { idle_w, active_w, source }) = &device.watts {
        let _ = write!(
            text,
            "\n[power]\nsource = {source:?}\nidle_w = {idle_w:?}\nactive_w = {active_w:?}\n"
        );
    }
    text
}

/// A file of `configs/links`. How late words come is known as the mean beyond the usual; delays of
/// one in ten, one in a hundred and one in a thousand follow from it, as if they came as they like.
fn link_text(profile: &DeviceProfile) -> String {
    let mbit = profile.link_bytes_per_s as f64 / 125_000.0;
    let usual = Duration::from_nanos(profile.round_trip_ns).as_secs_f64() * 1e3;
    let late = Duration::from_nanos(profile.late_round_trip_ns).as_secs_f64() * 1e3 - usual;
    let medium = match profile.air {
        Some(_) => "medium = \"air\"\nairtime_fair = true\nmessage_us = 150",
        None => "medium = \"wire\"\nmessage_us = 50",
    };
    format!(
        "name = \"the link of {}\"\nsource = \"tilehive calibrate\"\n{medium}\n\
         send_mbit_per_s = {mbit:.3}\nreceive_mbit_per_s = {mbit:.3}\n\n\
         [round_trip]\nmin_ms = {usual:.4}\np50_ms = {usual:.4}\np90_ms = {:.4}\n\
         p99_ms = {:.4}\nmax_ms = {:.4}\n",
        profile.name.escape_default(),
        usual + late,
        usual + 2.0 * late,
        usual + 3.0 * late,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::PairReport;
    use sim::files::ClusterFile;

    #[test]
    fn odd_pairs_and_watts_are_written_and_read_again() {
        let device = |id: u32, name: &str| {
            let rates = Rates::typical(1_000_000_000);
            let watts = Watts { idle_w: 1.6, active_w: 5.0, source: "as told".into() };
            let pair = |other: u32, unusual| PairReport {
                with: "pi".into(),
                id: other,
                bytes_per_s: 2_500_000,
                round_trip_ns: 3_000_000,
                unusual,
            };
            let others = (0..3).filter(|&other| other != id);
            Device {
                id,
                threads: 1,
                watts: Some(watts),
                pairs: others.map(|other| pair(other, id + other == 3)).collect(),
                ..Device::of(DeviceProfile::wired(name, rates))
            }
        };
        // Two of them have the same name.
        let devices = [device(0, "laptop"), device(1, "pi"), device(2, "pi")];
        let folder = tempfile::tempdir().unwrap();
        let path = write_all(folder.path(), &devices).unwrap();
        let file = ClusterFile::open(path.to_str().unwrap()).unwrap();
        let workers = file.workers().unwrap();
        assert_eq!(workers[2].name, "pi-2");
        assert_eq!(workers[1].device.power.active_w, 5.0);
        let [pair] = file.pairs().unwrap()[..] else { panic!("{:?}", file.pairs()) };
        assert_eq!((pair.workers, pair.bytes_per_s), ((1, 2), 2_500_000));
        assert_eq!(pair.round_trip.p50_ns, 3_000_000);
    }
}
