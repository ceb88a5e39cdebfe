//! `tilehive devices`.

use super::{listen, open_locals, spinner};
use crate::cli::{Context, DevicesArguments};
use crate::failure::Failure;
use crate::say::say;
use crate::table;
use protocol::CoordinatorConfig;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(4);

pub(crate) async fn run(context: &Context, arguments: DevicesArguments) -> Result<(), Failure> {
    let machine = CoordinatorConfig::default();
    let cluster = &arguments.cluster;
    let (devices, opened) = match cluster.workers {
        Some(count) => {
            let threads = cluster.threads.unwrap_or(1);
            let opened = open_locals(context, count.into(), threads, machine).await?;
            (opened.devices.clone(), Some(opened))
        }
        None => {
            let patience = cluster.join_wait.unwrap_or(PATIENCE);
            let running = listen(context, cluster, machine).await?;
            let spinner = spinner(format!("listening {}", humantime::format_duration(patience)));
            let expect = cluster.expect.unwrap_or(usize::MAX);
            let devices = running.wait_for(expect, patience).await?;
            spinner.finish_and_clear();
            running.stop().await;
            (devices, None)
        }
    };
    if arguments.json {
        say!("{}", serde_json::to_string_pretty(&devices)?);
    } else if devices.is_empty() {
        eprintln!("no device joined");
        eprintln!("hint: `tilehive token` prints the line to run on each device");
    } else {
        let header = ["device", "threads", "mult-adds/s", "address"];
        let rows = devices.iter().map(|d| {
            vec![
                d.name.clone(),
                d.threads.to_string(),
                table::amount(d.multiply_adds_per_s),
                d.addresses.first().cloned().unwrap_or_default(),
            ]
        });
        say!("{}", table::table(&header, rows));
    }
    if let Some(opened) = opened {
        opened.stop().await;
    }
    Ok(())
}
