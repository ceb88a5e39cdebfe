//! `tilehive calibrate`: what the devices measured, as files that the simulator reads.
//!
//! Devices that join tell what they know of themselves and learn their links on the way; with none in
//! reach this machine is measured anew. One folder gets a cluster, and a device and a link for each
//! worker. What nobody measures (watts, heat) is left out.

use super::{SETTLE_TO_TELL, cores, listen, open_locals, profiles, spinner};
use crate::cli::{CalibrateArguments, Context};
use crate::cluster::Device;
use crate::failure::Failure;
use crate::say::say;
use anyhow::Context as _;
use kernels::Engine;
use planner::DeviceProfile;
use protocol::CoordinatorConfig;
use std::fmt::Write as _;
use std::path::Path;
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
    let folder = &arguments.output;
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let mut text = "name = \"calibrated\"\n\n[coordinator]\nlink = \"ethernet-1g\"\n".to_owned();
    for (i, device) in devices.iter().enumerate() {
        let (device_file, link_file) = (format!("device-{i}.toml"), format!("link-{i}.toml"));
        write(&folder.join(&device_file), &device_text(device))?;
        write(&folder.join(&link_file), &link_text(&device.profile))?;
        let path = |name: &str| format!("{:?}", format!("./{name}"));
        let _ = write!(
            text,
            "\n[[worker]]\nname = {:?}\ndevice = {}\nlink = {}\n",
            device.name,
            path(&device_file),
            path(&link_file)
        );
    }
    let path = folder.join("cluster.toml");
    write(&path, &text)?;
    say!("{}", path.display());
    Ok(())
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
