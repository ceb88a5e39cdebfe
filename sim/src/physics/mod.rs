//! What the simulated world is made of. Each file models one thing and says where it has it from.
//!
//! | file | idea |
//! |---|---|
//! | `compute.rs` | how long a tile takes: multiply-adds by operator class, bytes, threads |
//! | `thermal.rs` | a processor gets warm, and slow |
//! | `load.rs` | somebody else uses the device, too |
//! | `network.rs` | transfers share wires and air |
//! | `round_trip.rs` | how long a packet is on its way |
//! | `energy.rs` | what a device draws |
//!
//! Only `+ - * /` on floats, which give the same bits on every processor: no platform `exp`.

mod compute;
mod energy;
mod load;
mod network;
mod round_trip;
mod thermal;

pub use compute::DeviceModel;
pub use energy::{Energy, Power};
pub use load::BackgroundLoad;
pub use network::{LinkSpec, Medium, Priority};
pub(crate) use network::{Moved, Network, Transfer};
pub use round_trip::RoundTrip;
pub use thermal::{Heat, Thermal};
