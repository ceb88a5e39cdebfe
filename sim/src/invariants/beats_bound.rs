//! Simulated time never beats the lower bound: a frame that ends sooner than any schedule could
//! is a bug of the simulator or of the bound.

use super::Violation;
use protocol::{FrameId, Nanos};

pub(crate) fn check(frame: FrameId, took_ns: Nanos, bound_ns: Nanos) -> Result<(), Violation> {
    // A nanosecond for each rounding.
    if took_ns + 1_000 < bound_ns {
        return Err(Violation::BeatsBound { frame, took_ns, bound_ns });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faster_than_possible_is_refused() {
        assert!(check(FrameId(0), 5_000_000, 5_000_000).is_ok());
        assert!(check(FrameId(0), 4_000_000, 5_000_000).is_err());
    }
}
