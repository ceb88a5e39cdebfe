//! No worker is above its memory: inputs that wait, the tile that runs, packed weights.

use super::Violation;
use protocol::WorkerId;

pub(crate) fn within(worker: WorkerId, used: u64, budget: u64) -> Result<(), Violation> {
    if budget > 0 && used > budget {
        return Err(Violation::Memory { worker, used, budget });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_byte_too_many_is_too_many() {
        assert!(within(WorkerId(0), 100, 100).is_ok() && within(WorkerId(0), 100, 0).is_ok());
        assert!(within(WorkerId(0), 101, 100).is_err());
    }
}
