//! Which releases work together: this one, and those of the minor release before it.

use tiling::{Numerics, Plan};

/// Version of the form of everything that travels, and of what all sides work out alike from a plan,
/// such as its algorithms. It is raised with a minor release, and only where one of these changes;
/// `net/src/wire_form.rs` holds the forms to it.
pub const VERSION: u32 = 13;

/// The version of the minor release before this one, which is spoken too. Whatever is new in
/// [`VERSION`] is added behind what was there, so that what both know looks the same, and is kept from
/// those who do not know it.
pub const LAST_VERSION: u32 = 11;

/// The minor releases that speak [`LAST_VERSION`], for people.
pub const LAST_RELEASE: &str = "0.1";

/// The versions that a side speaks whose own is `version`, best first. Only in tests is that another one
/// than [`VERSION`].
pub fn spoken(version: u32) -> impl Iterator<Item = u32> {
    [version].into_iter().chain((version == VERSION).then_some(LAST_VERSION))
}

/// The numerics that a worker of a version shares with all others, where `wanted` is asked for.
pub fn shared_numerics(version: u32, wanted: Numerics) -> Numerics {
    match wanted {
        Numerics::Fast if version < VERSION => Numerics::Fast01,
        wanted => wanted,
    }
}

/// The lowest version whose workers can carry out a plan.
pub(crate) fn needed_for(plan: &Plan) -> u32 {
    if plan.numerics == Numerics::Fast { VERSION } else { LAST_VERSION }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_version_carries_out_what_it_shares() {
        for wanted in [Numerics::Exact, Numerics::Fast01, Numerics::Fast] {
            for version in spoken(VERSION) {
                let numerics = shared_numerics(version, wanted);
                assert!(needed_for(&Plan::new("", numerics, Vec::new())) <= version);
            }
            assert_eq!(shared_numerics(VERSION, wanted), wanted);
        }
        assert_eq!(spoken(99).collect::<Vec<_>>(), [99]);
    }
}
