//! How the model is to be cut: flags, what they mean together, and which contradict each other.

use super::values::Extent;
use crate::failure::Failure;
use anyhow::anyhow;
use clap::{Args, ValueEnum};
use model::LoadedModel;
use planner::{Objective, PlanOptions, Strategy};
use std::time::Duration;
use tiling::{Handover, Numerics, Wire};

/// How the model is cut.
#[derive(Args, Debug, Clone)]
pub(crate) struct StrategyArguments {
    /// Which plan [default: auto on several devices, local on one; deepthings with --grid or --fuse]
    #[arg(long, value_enum)]
    pub strategy: Option<StrategyName>,

    /// Rows x cols of the fused grid, such as 3x3 [default: chosen]
    #[arg(long, value_name = "RxC")]
    pub grid: Option<Extent>,

    /// Whether layers may use Winograd transforms, which are up to three times as fast [default:
    /// fast, but exact with --max-memory]
    #[arg(long, value_enum)]
    pub numerics: Option<NumericsName>,

    /// How the model's weights are kept and sent: f16 takes half the time to hand them out the first time,
    /// half the disk, and with --numerics exact half the memory; the answer is off by about 1e-3 of its
    /// largest value
    #[arg(long, value_enum, default_value = "f32")]
    pub weights: WeightsName,

    /// How many of the first layers to fuse [default: chosen]
    #[arg(long, value_name = "LAYERS")]
    pub fuse: Option<usize>,

    /// What happens to maps between stages [default: chosen by auto, gather with the others]
    #[arg(long, value_enum)]
    pub handover: Option<HandoverName>,

    /// How maps travel between devices
    #[arg(long, value_enum, default_value = "auto")]
    pub wire: WireName,

    /// What `auto` chooses the plan for
    #[arg(long, value_enum, default_value = "latency")]
    pub objective: ObjectiveName,

    /// When a frame must have ended, such as 2s: with --objective energy
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub deadline: Option<Duration>,
}

/// How weights are kept and sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum WeightsName {
    /// As they are in the model
    F32,
    /// Rounded to half floats: those of convolutions and fully connected layers
    F16,
}

/// What happens between stages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum HandoverName {
    /// The coordinator collects every map and hands it out again
    Gather,
    /// Maps stay on the workers, which send each other what they need
    Exchange,
}

/// How maps travel between devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum WireName {
    /// In fewer bytes with the same bits, where a link is slower than packing them
    Auto,
    /// As they lie in memory
    Raw,
    /// In fewer bytes with the same bits, on every link
    Lossless,
    /// Rounded to half floats, the model's inputs too but not its outputs: half the bytes, and an answer
    /// that is off by about 1e-3 of its largest value. What lies beyond 65504 becomes that, with a warning
    F16,
}

impl From<WireName> for Wire {
    fn from(name: WireName) -> Self {
        match name {
            WireName::Auto => Wire::Auto,
            WireName::Raw => Wire::Raw,
            WireName::Lossless => Wire::Lossless,
            WireName::F16 => Wire::F16,
        }
    }
}

/// The strategies by the names of their papers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum StrategyName {
    /// Whatever is predicted to be fastest, one device included
    Auto,
    /// The whole model on the fastest device
    Local,
    /// One fused grid over the early layers, the rest on one device
    Deepthings,
    /// A stage a layer, strips by speed, gather after each
    Modnn,
    /// The whole model on the best device but this one
    Offload,
    /// This device up to a layer, the best other one from there on
    Split,
    /// Each frame whole, on whichever device is free first: for streams of frames
    Replicate,
    /// Fused groups in equal strips over as many devices as pay
    Aofl,
    /// Rows for each device through all layers, sized to speed and link, halo from the neighbours
    Coedge,
    /// A pipeline of stages over groups of devices: for streams of frames
    Pico,
}

/// What a plan is chosen for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ObjectiveName {
    /// One frame ends as soon as can be
    Latency,
    /// A stream of frames ends as soon as can be
    Throughput,
    /// The least energy beyond what idle devices draw, within --deadline
    Energy,
}

/// How exact the answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum NumericsName {
    /// Any plan gives the bits of one device
    Exact,
    /// The last bits depend on the plan, by about 1e-6 of the largest value
    Fast,
}

impl From<NumericsName> for Numerics {
    fn from(name: NumericsName) -> Self {
        match name {
            NumericsName::Exact => Numerics::Exact,
            NumericsName::Fast => Numerics::Fast,
        }
    }
}

impl From<StrategyName> for Strategy {
    fn from(name: StrategyName) -> Self {
        match name {
            StrategyName::Auto => Strategy::Auto,
            StrategyName::Local => Strategy::Local,
            StrategyName::Deepthings => Strategy::DeepThings,
            StrategyName::Modnn => Strategy::Modnn,
            StrategyName::Offload => Strategy::Offload,
            StrategyName::Split => Strategy::Split,
            StrategyName::Replicate => Strategy::Replicate,
            StrategyName::Aofl => Strategy::Aofl,
            StrategyName::Coedge => Strategy::CoEdge,
            StrategyName::Pico => Strategy::Pico,
        }
    }
}

impl From<ObjectiveName> for Objective {
    fn from(name: ObjectiveName) -> Self {
        match name {
            ObjectiveName::Latency => Objective::Latency,
            ObjectiveName::Throughput => Objective::Throughput,
            ObjectiveName::Energy => Objective::Energy,
        }
    }
}

impl From<HandoverName> for Handover {
    fn from(name: HandoverName) -> Self {
        match name {
            HandoverName::Gather => Handover::Gather,
            HandoverName::Exchange => Handover::Exchange,
        }
    }
}

impl StrategyArguments {
    /// The strategy for so many devices, with its settings.
    ///
    /// *Errors*: flags that contradict each other.
    pub(crate) fn resolve(&self, devices: usize) -> Result<(Strategy, PlanOptions), Failure> {
        self.check()?;
        let strategy = match self.strategy {
            Some(name) => name.into(),
            None if self.fuses() => Strategy::DeepThings,
            None if devices > 1 || self.objective != ObjectiveName::Latency => Strategy::Auto,
            None => Strategy::Local,
        };
        let deadline_ns = self.deadline.map(|d| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX));
        let options = PlanOptions {
            grid: self.grid.map(|Extent { rows, cols }| (rows, cols)),
            fused_layers: self.fuse,
            numerics: self.numerics.unwrap_or(NumericsName::Fast).into(),
            handover: self.handover.map(Handover::from),
            objective: self.objective.into(),
            deadline_ns,
            wire: self.wire.into(),
        };
        Ok((strategy, options))
    }

    /// The model as it is to be used.
    pub(crate) fn weigh(&self, model: LoadedModel) -> LoadedModel {
        match self.weights {
            WeightsName::F32 => model,
            WeightsName::F16 => model.with_half_weights(),
        }
    }

    /// Whether a fused grid is described.
    fn fuses(&self) -> bool {
        self.grid.is_some() || self.fuse.is_some()
    }

    /// Refuses flags of which one would silently be ignored.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        let refuse = |what: String, hint: &str| Err(Failure::bad_input(anyhow!(what)).hint(hint));
        let word = |name: &dyn std::fmt::Debug| format!("{name:?}").to_lowercase();
        let (strategy, objective) = (self.strategy, self.objective);
        if self.deadline.is_some() && objective != ObjectiveName::Energy {
            let what = format!("--deadline means nothing with --objective {}", word(&objective));
            return refuse(what, "it is the limit of --objective energy");
        }
        if let Some(name) =
            strategy.filter(|&name| self.fuses() && name != StrategyName::Deepthings)
        {
            let what = format!("--grid and --fuse mean nothing with --strategy {}", word(&name));
            return refuse(what, "leave out --strategy, or --grid and --fuse");
        }
        if objective == ObjectiveName::Latency {
            return Ok(());
        }
        // These two are made for streams.
        let means_it = |name| match name {
            StrategyName::Auto => true,
            StrategyName::Replicate | StrategyName::Pico => objective == ObjectiveName::Throughput,
            _ => false,
        };
        let named = strategy.or(self.fuses().then_some(StrategyName::Deepthings));
        match named.filter(|&name| !means_it(name)) {
            Some(name) => refuse(
                format!(
                    "--objective {} chooses the plan, and {} is a plan already",
                    word(&objective),
                    match self.strategy {
                        Some(_) => format!("--strategy {}", word(&name)),
                        None => "--grid or --fuse".into(),
                    }
                ),
                "leave one of them out, or give --strategy auto",
            ),
            None => Ok(()),
        }
    }

    /// Refuses an exchange that spot checks rule out: two answers are compared where they are
    /// gathered.
    pub(crate) fn check_beside_spot_checks(&self, per_mille: u64) -> Result<(), Failure> {
        if per_mille == 0 || self.handover != Some(HandoverName::Exchange) {
            return Ok(());
        }
        let what = "--spot-checks compares answers at the coordinator, and with --handover exchange \
                    they stay on the workers";
        Err(Failure::bad_input(anyhow!(what)).hint("leave one of them out"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        strategy: StrategyArguments,
    }

    fn resolve(line: &str, devices: usize) -> Result<Strategy, Failure> {
        let words = std::iter::once("x").chain(line.split_whitespace());
        let line = Line::try_parse_from(words).expect("words that are known");
        line.strategy.resolve(devices).map(|(strategy, _)| strategy)
    }

    #[test]
    fn the_strategy_that_is_meant() {
        for (line, devices, strategy) in [
            ("", 1, Strategy::Local),
            ("", 2, Strategy::Auto),
            ("--grid 3x3", 2, Strategy::DeepThings),
            ("--objective throughput", 1, Strategy::Auto),
            ("--objective throughput --strategy pico", 2, Strategy::Pico),
            ("--objective energy --deadline 2s", 1, Strategy::Auto),
            ("--strategy deepthings --fuse 3", 2, Strategy::DeepThings),
        ] {
            assert_eq!(resolve(line, devices).ok(), Some(strategy), "{line}");
        }
    }

    #[test]
    fn contradictions_are_refused() {
        for line in [
            "--deadline 2s",
            "--objective throughput --deadline 2s",
            "--objective throughput --strategy coedge",
            "--objective energy --strategy replicate",
            "--objective throughput --grid 2x2",
            "--strategy modnn --grid 2x2",
        ] {
            assert!(resolve(line, 4).is_err(), "{line}");
        }
        let exchange = Line::try_parse_from(["x", "--handover", "exchange"]).unwrap().strategy;
        assert!(exchange.check_beside_spot_checks(0).is_ok());
        assert!(exchange.check_beside_spot_checks(10).is_err());
    }
}
