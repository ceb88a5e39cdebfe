//! What a board draws, by what its system calls it.

use super::{DeviceFile, Kind, names};
use crate::physics::Power;
use std::sync::OnceLock;

/// What a device draws by the files that come with the program, and the name of the file; none where no
/// file knows the board.
pub fn board_power(board: &str) -> Option<(Power, &'static str)> {
    static FILES: OnceLock<Vec<(&'static str, DeviceFile)>> = OnceLock::new();
    let open = |name: &&'static str| Some((*name, DeviceFile::open(name).ok()?));
    let files = FILES.get_or_init(|| names(Kind::Device).iter().filter_map(open).collect());
    // The longest name says most.
    let known = files.iter().filter_map(|(name, file)| Some((file.is_board(board)?, *name, file)));
    let (_, name, file) = known.max_by_key(|(length, ..)| *length)?;
    Some((file.model().power, name)).filter(|(power, _)| power.active_w > 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boards_are_known_by_the_beginning_of_their_names() {
        let file = |board| board_power(board).map(|(_, name)| name);
        assert_eq!(file("Raspberry Pi 4 Model B Rev 1.4"), Some("pi-4b"));
        assert_eq!(file("Raspberry Pi 3 Model B Plus Rev 1.3"), Some("pi-3b-plus"));
        assert_eq!(file("Raspberry Pi 3 Model B Rev 1.2"), None);
        assert_eq!(file("NVIDIA Jetson Nano Developer Kit"), Some("jetson-nano"));
        assert_eq!(file(""), None);
        let (power, _) = board_power("Raspberry Pi 4 Model B Rev 1.1").unwrap();
        assert_eq!((power.idle_w, power.active_w), (1.6, 5.0));
    }
}
