//! What is wrong with a device or its place in a cluster, and the cure: `tilehive-worker doctor`
//! and `tilehive doctor`.
//!
//! | file | idea |
//! |---|---|
//! | `device.rs` | this device: files, clock, memory, disk, heat, Wi-Fi |
//! | `network.rs` | interfaces, and whether multicast passes |
//! | `reach.rs` | the token, the way to the coordinator, and what it says |

pub mod device;
pub mod network;
mod reach;

pub(crate) use reach::reach;

use serde::Serialize;
use std::fmt;

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Nothing to do.
    Ok,
    /// It works, or may work; something could be better.
    Warning,
    /// It cannot work like this.
    Failed,
}

/// One thing that was looked at.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    /// What was looked at.
    pub name: String,
    /// How it ended.
    pub verdict: Verdict,
    /// What was found.
    pub finding: String,
    /// What to do about it; none where all is well.
    pub cure: Option<String>,
}

impl Check {
    /// All is well.
    pub fn ok(name: impl Into<String>, finding: impl Into<String>) -> Self {
        Self { name: name.into(), verdict: Verdict::Ok, finding: finding.into(), cure: None }
    }

    /// Something could be better.
    pub fn warning(
        name: impl Into<String>,
        finding: impl Into<String>,
        cure: impl Into<String>,
    ) -> Self {
        let cure = Some(cure.into());
        Self { name: name.into(), verdict: Verdict::Warning, finding: finding.into(), cure }
    }

    /// Something has to be better.
    pub fn failed(
        name: impl Into<String>,
        finding: impl Into<String>,
        cure: impl Into<String>,
    ) -> Self {
        Self { verdict: Verdict::Failed, ..Self::warning(name, finding, cure) }
    }
}

/// All checks, in the order in which they build on each other.
#[derive(Clone, Debug, Serialize)]
pub struct Diagnosis {
    /// Whether nothing failed.
    pub healthy: bool,
    /// What was looked at.
    pub checks: Vec<Check>,
}

impl Diagnosis {
    /// Of these checks.
    pub fn of(checks: Vec<Check>) -> Self {
        let healthy = checks.iter().all(|check| check.verdict != Verdict::Failed);
        Self { healthy, checks }
    }
}

/// As a person reads it: a line for each check, and the cure below what needs one.
impl fmt::Display for Diagnosis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.checks.iter().map(|c| c.name.chars().count()).max().unwrap_or(0);
        for (i, check) in self.checks.iter().enumerate() {
            let verdict = match check.verdict {
                Verdict::Ok => "ok",
                Verdict::Warning => "warning",
                Verdict::Failed => "FAILED",
            };
            let line_end = if i == 0 { "" } else { "\n" };
            write!(f, "{line_end}{verdict:<8} {:<width$}  {}", check.name, check.finding)?;
            if let Some(cure) = &check.cure {
                write!(f, "\n{:<9}{:<width$}  hint: {cure}", "", "")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_failure_is_enough_and_each_cure_stands_below_its_finding() {
        let fine = vec![Check::ok("key", "sound"), Check::warning("disk", "10 MB", "free some")];
        assert!(Diagnosis::of(fine.clone()).healthy);
        let ill = [fine, vec![Check::failed("port", "taken", "take another")]].concat();
        let ill = Diagnosis::of(ill);
        assert!(!ill.healthy);
        let text = ill.to_string();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "ok       key   sound");
        assert_eq!(lines[2], "               hint: free some");
        assert_eq!(lines[3], "FAILED   port  taken");
    }
}
