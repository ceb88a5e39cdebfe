//! How fast this device is, by operator class: the times of small networks, run by the engine that
//! also runs the tasks, explained by [`tiling::work::fit`].

mod probes;

use kernels::{Engine, KernelError, PackedModel, Piece, Pieces};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tiling::work::{Sample, fit};
use tiling::{Numerics, Rates, Region, StageGeometry, Work};

/// Rounds over all probes, at least and at most; in between, time decides.
const ROUNDS_MIN: usize = 3;
const ROUNDS_MAX: usize = 12;
const PATIENCE: Duration = Duration::from_millis(1500);

/// What is read and written between two probes, as other layers do: more than the near caches hold.
const OTHERS_BYTES: usize = 16 << 20;
const CACHE_LINE: usize = 64;

/// Probes in memory at a time.
const BATCH: usize = 5;

/// Runs of the probe that tells thread counts apart; the best counts.
const SPEEDUP_RUNS: usize = 5;

/// The proportions that classes are taken to have before anything is measured.
const GUESS_PER_S: u64 = 10_000_000_000;

/// What a device measured of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Measured {
    /// By operator class, with all threads of the engine.
    pub rates: Rates,
    /// How many times as fast as one thread each number of threads is, in thousandths.
    pub speedups_per_mille: Vec<u32>,
}

/// Measures an engine; `progress` is told which share is done.
///
/// *Errors*: the engine refuses, or the system refuses threads.
pub(crate) fn measure(
    engine: &Engine,
    mut progress: impl FnMut(f64),
) -> Result<Measured, KernelError> {
    let mut samples: Vec<Sample> = Vec::with_capacity(probes::COUNT);
    let mut waiting = probes::all();
    loop {
        let batch = waiting.by_ref().take(BATCH).map(Ready::new);
        let mut batch = batch.collect::<Result<Vec<_>, _>>()?;
        if batch.is_empty() {
            break;
        }
        time(engine, &mut batch)?;
        samples.extend(batch.iter_mut().map(Ready::sample));
        engine.trim();
        progress(0.9 * samples.len() as f64 / probes::COUNT as f64);
    }
    let pace = fit(&samples, &Rates::typical(GUESS_PER_S).pace());
    let speedups_per_mille = speedups(engine.threads())?;
    progress(1.0);
    Ok(Measured { rates: pace.rates(), speedups_per_mille })
}

/// Runs some probes in turn.
fn time(engine: &Engine, batch: &mut [Ready]) -> Result<(), KernelError> {
    let patience = PATIENCE.mul_f64(batch.len() as f64 / probes::COUNT as f64);
    let mut others = vec![0u8; OTHERS_BYTES];
    let begun = Instant::now();
    for round in 0..ROUNDS_MAX {
        if round >= ROUNDS_MIN && begun.elapsed() >= patience {
            break;
        }
        for probe in batch.iter_mut() {
            // Once as a network finds its layers whose weights fill the caches, once as one does
            // that fits: which of them a model is, nobody knows yet.
            others.iter_mut().step_by(CACHE_LINE).for_each(|byte| *byte = byte.wrapping_add(1));
            let took = probe.run(engine)? + probe.run(engine)?;
            probe.times.push(took / 2);
        }
    }
    Ok(())
}

/// A probe whose weights are packed.
struct Ready {
    numerics: Numerics,
    packed: PackedModel,
    inputs: Pieces,
    work: Work,
    times: Vec<Duration>,
}

impl Ready {
    fn new(probe: probes::Probe) -> Result<Self, KernelError> {
        let (graph, numerics) = (probe.model.graph.clone(), probe.numerics);
        let packed = PackedModel::new(graph.clone());
        packed.pack_all(&probe.model, numerics)?;
        let input = |&map| {
            let shape = graph.shape(map);
            (map, Arc::new(Piece::zeroed(Region::whole(shape), shape.channels())))
        };
        let inputs = graph.inputs.iter().map(input).collect();
        let work = StageGeometry::whole(&graph, numerics).tile_work(&graph, 0);
        Ok(Self { numerics, packed, inputs, work, times: Vec::new() })
    }

    fn run(&self, engine: &Engine) -> Result<Duration, KernelError> {
        let started = Instant::now();
        let outputs = engine.run_whole(&self.packed, self.numerics, &self.inputs)?;
        let took = started.elapsed();
        outputs.into_iter().for_each(|(_, piece)| engine.recycle(piece));
        Ok(took)
    }

    /// Its usual time. Others may use the device, and what takes long is their doing: so the quarter
    /// of the times that were shortest.
    fn sample(&mut self) -> Sample {
        self.times.sort_unstable();
        let usual = self.times[self.times.len() / 4];
        Sample { work: self.work, ns: usual.as_nanos() as f64 }
    }
}

/// How many times as fast as one each number of threads is; numbers that are no power of two lie in
/// between.
fn speedups(threads: usize) -> Result<Vec<u32>, KernelError> {
    let probe = Ready::new(probes::all().next().expect("there are probes"))?;
    let mut known: Vec<(usize, f64)> = Vec::new();
    let powers = std::iter::successors(Some(1), |n| Some(n * 2)).take_while(|&n| n < threads);
    for count in powers.chain([threads]) {
        let engine = Engine::new(count)?;
        let mut best = Duration::MAX;
        for _ in 0..SPEEDUP_RUNS {
            best = best.min(probe.run(&engine)?);
        }
        known.push((count, best.as_secs_f64().max(1e-9)));
    }
    let one = known[0].1;
    let at = |count: usize| {
        let above = known.iter().position(|&(n, _)| n >= count).unwrap_or(known.len() - 1);
        let (n, time) = known[above];
        let (m, before) = known[above.saturating_sub(1)];
        let share = if n == m { 1.0 } else { (count - m) as f64 / (n - m) as f64 };
        one / before + share * (one / time - one / before)
    };
    Ok((1..=threads).map(|count| (at(count) * 1000.0).clamp(1.0, 1e6) as u32).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tiling::OperatorClass;

    #[test]
    fn every_class_but_one_is_measured_by_more_than_one_probe() {
        let ready = probes::all().map(|p| Ready::new(p).unwrap());
        let works: Vec<Work> = ready.map(|probe| probe.work).collect();
        for class in OperatorClass::ALL {
            let probes = works.iter().filter(|work| work[class] > 0).count();
            // Bytes are multiplied by other instructions; what they take follows from the rest.
            let least = if class == OperatorClass::Quantised { 0 } else { 2 };
            assert!(probes >= least, "{class:?} {probes}");
        }
    }

    #[test]
    fn a_device_gets_a_rate_for_every_class_and_a_speedup_for_every_thread() {
        let engine = Engine::new(2).unwrap();
        let mut told = Vec::new();
        let measured = measure(&engine, |share| told.push(share)).unwrap();
        assert!(measured.rates.is_known(), "{:?}", measured.rates);
        assert_eq!(measured.speedups_per_mille.len(), 2);
        assert_eq!(measured.speedups_per_mille[0], 1000);
        assert!(told.is_sorted() && told.last() == Some(&1.0));
    }
}
