//! How long computing takes on a device that this one stands for.
//!
//! In an emulated swarm several workers share one machine, and each stands for a slower device. A CPU
//! quota gives its speed over a second, and over a few milliseconds the speed of the whole core. So a
//! job is computed at full speed, and the rest of the time that the other device would take is slept:
//! so many times the job's own processor time, or what the device's rates say of a task. The second
//! does not depend on who else computes at that moment: two workers on the two threads of one core take
//! up to twice as much processor time as one alone. Networking is not slowed down.

use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tiling::{Rates, Work};

/// How soon a change of pace is noticed.
const STEP: Duration = Duration::from_millis(5);

/// Says how long jobs are to take.
#[derive(Clone, Debug, Default)]
pub struct Pace {
    paced: Option<Paced>,
}

#[derive(Clone, Debug)]
struct Paced {
    file: PathBuf,
    /// What the file said at first, which the rates are of.
    times: f64,
    rates: Option<Rates>,
}

impl Pace {
    /// As fast as this device is.
    pub fn own() -> Self {
        Self::default()
    }

    /// As many times the processor time as a file says, which is read again as long as jobs run. With
    /// rates, tasks take what these say, and more or less as the file says later.
    ///
    /// *Errors*: no such file, or no number of at least one in it.
    pub fn from_file(path: &Path, rates: Option<Rates>) -> Result<Self> {
        let times = read(path)?;
        ensure!(times >= 1.0, "{} says {times}: a device can only be slowed down", path.display());
        Ok(Self { paced: Some(Paced { file: path.to_owned(), times, rates }) })
    }

    /// A job of the calling thread begins.
    pub(crate) fn begin(&self) -> Begun {
        Begun {
            at: Instant::now(),
            cpu: self.paced.as_ref().map(|_| cpu_time()).unwrap_or_default(),
        }
    }

    /// It has computed; returns when it has taken as long as it is to take. `work` is that of a task.
    pub(crate) fn end(&self, begun: Begun, work: Option<&Work>) {
        let Some(paced) = &self.paced else { return };
        let own = cpu_time().saturating_sub(begun.cpu).as_secs_f64();
        let own = match (&paced.rates, work) {
            (Some(rates), Some(work)) => rates.pace().ns(work) / 1e9 / paced.times,
            _ => own,
        };
        paced.sleep(begun.at, own);
    }

    /// Runs a job of the calling thread and takes as long as it is to take.
    #[cfg(test)]
    fn run<T>(&self, work: Option<&Work>, job: impl FnOnce() -> T) -> T {
        let begun = self.begin();
        let made = job();
        self.end(begun, work);
        made
    }
}

/// When a job began, and the processor time of its thread until then.
pub(crate) struct Begun {
    pub(crate) at: Instant,
    cpu: Duration,
}

impl Paced {
    /// Sleeps until a job that takes so long at full speed is done.
    fn sleep(&self, started: Instant, own: f64) {
        let mut times = read(&self.file).unwrap_or(self.times).max(1.0);
        let mut at = Instant::now();
        let mut done = at.duration_since(started).as_secs_f64() / times;
        // Steps end at instants that are added up, so that waking late once does not add to the rest.
        while done < own {
            let step = Duration::from_secs_f64((own - done) * times).min(STEP);
            // What is left may be less than a nanosecond.
            if step.is_zero() {
                break;
            }
            at += step;
            std::thread::sleep(at.saturating_duration_since(Instant::now()));
            done += step.as_secs_f64() / times;
            times = read(&self.file).unwrap_or(times).max(1.0);
        }
    }
}

fn read(path: &Path) -> Result<f64> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read the pace in {}", path.display()))?;
    text.trim().parse().with_context(|| format!("{} has no number", path.display()))
}

/// Processor time of the calling thread so far.
#[cfg(unix)]
fn cpu_time() -> Duration {
    use rustix::time::{ClockId, clock_gettime};
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}

/// Where the system does not tell, a thread is taken to compute all the time.
#[cfg(not(unix))]
fn cpu_time() -> Duration {
    use std::sync::LazyLock;
    static BEGUN: LazyLock<Instant> = LazyLock::new(Instant::now);
    BEGUN.elapsed()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tiling::OperatorClass;

    fn spin(cpu: Duration) {
        let begun = cpu_time();
        while cpu_time() - begun < cpu {}
    }

    #[test]
    fn a_job_takes_so_many_times_its_processor_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pace");
        std::fs::write(&path, "4\n").unwrap();
        let pace = Pace::from_file(&path, None).unwrap();
        let cpu = Duration::from_millis(20);
        let begun = Instant::now();
        assert_eq!(pace.run(None, || (spin(cpu), 7).1), 7);
        assert!(begun.elapsed() >= 4 * cpu, "{:?}", begun.elapsed());
        assert_eq!(Pace::own().run(None, || 8), 8);
        // Whatever the fractions, it ends.
        for times in [1.0, 1.1, 3.3, 6.653_333, 47.7] {
            std::fs::write(&path, format!("{times}")).unwrap();
            (0..20).for_each(|i| pace.run(None, || spin(Duration::from_nanos(3_331 * i))));
        }
    }

    #[test]
    fn a_task_takes_what_the_rates_say_whatever_it_computes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pace");
        std::fs::write(&path, "5").unwrap();
        let pace = Pace::from_file(&path, Some(Rates::uniform(1_000_000_000))).unwrap();
        let work = Work::of(OperatorClass::Conv, 40_000_000);
        let begun = Instant::now();
        pace.run(Some(&work), || ());
        assert!(begun.elapsed() >= Duration::from_millis(40), "{:?}", begun.elapsed());
        // Half as fast as at first.
        std::fs::write(&path, "10").unwrap();
        let begun = Instant::now();
        pace.run(Some(&work), || ());
        assert!(begun.elapsed() >= Duration::from_millis(80), "{:?}", begun.elapsed());
    }

    #[test]
    fn a_file_without_a_sound_number_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pace");
        assert!(Pace::from_file(&path, None).is_err());
        for bad in ["", "fast", "0.5", "-3", "NaN"] {
            std::fs::write(&path, bad).unwrap();
            assert!(Pace::from_file(&path, None).is_err(), "{bad}");
        }
    }
}
