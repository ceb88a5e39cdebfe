//! What goes over the wire. Small messages travel on the control stream of a connection; bundles
//! (a header and the tensors it names) and blobs (weights, graphs) on its bulk stream.

use crate::ids::{FrameId, ModelHash, PlanId, TaskId, WorkerId};
use crate::survey::WeightSet;
use model::{Element, MapId, WeightHash};
use serde::{Deserialize, Serialize};
use tiling::{Encoding, Plan, Rates, Region, Wire};

/// What a worker says of itself when it joins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// A name for people: the host name unless given.
    pub name: String,
    /// Compute threads.
    pub threads: u32,
    /// What it measured on itself by operator class, with these threads; zeros when it did not.
    pub rates: Rates,
    /// How many times as fast as one thread each number of threads is, in thousandths, from one
    /// thread on; empty when it did not measure that.
    pub speedups_per_mille: Vec<u32>,
    /// Bytes that inputs, the running tile and packed weights may take together; zero for no limit.
    pub memory_bytes: u64,
    /// How it is.
    pub health: Health,
    /// What its system says that it is, such as a board's model.
    pub board: Option<String>,
    /// What it draws, where somebody told it.
    pub power: Option<Power>,
}

impl Hello {
    /// A device of which nothing else is known.
    pub fn new(name: impl Into<String>, threads: u32, rates: Rates, memory_bytes: u64) -> Self {
        Self {
            name: name.into(),
            threads,
            rates,
            speedups_per_mille: Vec::new(),
            memory_bytes,
            health: Health::default(),
            board: None,
            power: None,
        }
    }
}

/// What a device draws, in thousandths of a watt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Power {
    /// With nothing to do.
    pub idle_mw: u32,
    /// With all threads at work.
    pub active_mw: u32,
}

/// How a device is, as far as its system tells.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// Memory that programs may still take.
    pub free_bytes: Option<u64>,
    /// The hottest sensor, in thousandths of a degree Celsius.
    pub temperature_mc: Option<i32>,
    /// The flags of a Raspberry Pi's firmware: bit 0 under-voltage, 1 capped clock, 2 throttled, 3
    /// near the limit of heat; the same 16 bits higher for what happened since the start.
    pub throttled: Option<u32>,
    /// Its battery, if it has one.
    pub battery: Option<Battery>,
    /// Whether it reaches others through the air.
    pub wireless: Option<bool>,
}

impl Health {
    /// Whether the device runs slower than it could, now.
    pub fn is_throttled(&self) -> bool {
        self.throttled.is_some_and(|flags| flags & 0b1111 != 0)
    }
}

/// The state of a battery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Battery {
    /// How full it is.
    pub percent: u8,
    /// Whether it is being emptied.
    pub discharging: bool,
}

/// A worker as other workers know it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its id.
    pub worker: WorkerId,
    /// Its transport identity, opaque here.
    pub peer: Vec<u8>,
    /// Where it listens, opaque here.
    pub addresses: Vec<String>,
}

/// A small message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// Worker to coordinator, first: here I am.
    Hello(Hello),
    /// Coordinator to worker: you are in, and this is your name.
    Welcome {
        /// The worker's id.
        worker: WorkerId,
        /// Frames before this one are over.
        oldest: Option<FrameId>,
    },
    /// Coordinator to workers: who may hand tasks to whom.
    Roster(Vec<Member>),
    /// Coordinator to workers: tasks of this plan will come.
    Announce {
        /// The plan's id.
        plan: PlanId,
        /// The model it computes.
        model: ModelHash,
        /// The plan.
        body: Plan,
        /// What the tiles placed on this worker read of the weights, so that it can fetch them
        /// early.
        weights: Vec<WeightSet>,
        /// Whether this worker encodes the pieces that it sends.
        encodes: bool,
    },
    /// Worker to coordinator: what I was to prepare early for this plan is packed, as far as there is
    /// memory for it.
    Prepared {
        /// The plan's id.
        plan: PlanId,
    },
    /// Coordinator to workers: no further task of this plan will come.
    Retire {
        /// The plan's id.
        plan: PlanId,
    },
    /// Worker to coordinator: send me these blobs.
    Want {
        /// Their hashes.
        hashes: Vec<WeightHash>,
    },
    /// Worker to coordinator: my queue is about to run dry. Sent when its last task starts, so
    /// that the next one arrives before it is idle.
    Hungry,
    /// Coordinator to victim: hand this queued task to a thief.
    Yield {
        /// The task.
        task: TaskId,
        /// The attempt that the victim holds.
        attempt: u32,
        /// Who takes it.
        thief: WorkerId,
        /// The attempt that the thief will make.
        next_attempt: u32,
    },
    /// Victim to coordinator: the thief has it.
    Yielded {
        /// The task.
        task: TaskId,
        /// The attempt that ended with it.
        attempt: u32,
    },
    /// Victim to coordinator: too late, or the thief is out of reach; the task stays.
    Kept {
        /// The task.
        task: TaskId,
        /// The attempt that goes on.
        attempt: u32,
    },
    /// Coordinator to worker: another attempt won; do not start this one, or send nothing of it.
    Cancel {
        /// The task.
        task: TaskId,
        /// The attempt that nobody waits for.
        attempt: u32,
    },
    /// Worker to coordinator: there is no memory for this attempt. It says nothing against the task.
    Refused {
        /// The task.
        task: TaskId,
        /// The attempt that was not made.
        attempt: u32,
    },
    /// Worker to coordinator: this attempt ended in an error.
    Failed {
        /// The task.
        task: TaskId,
        /// The attempt.
        attempt: u32,
        /// The chain of causes.
        reason: String,
    },
    /// Coordinator to workers: drop what you hold of this frame.
    Forget {
        /// The frame.
        frame: FrameId,
        /// Frames before this one are over, too.
        oldest: Option<FrameId>,
    },
    /// Coordinator to workers: no task of the frame will read these maps any more.
    Release {
        /// The frame.
        frame: FrameId,
        /// The maps.
        maps: Vec<MapId>,
    },
    /// Worker to worker: send me these pieces that you hold.
    Pull {
        /// The task that needs them.
        task: TaskId,
        /// Its plan.
        plan: PlanId,
        /// The pieces.
        pieces: Vec<PieceHeader>,
    },
    /// Worker to coordinator: a piece that this attempt needs does not come from its holder.
    Lacking {
        /// The task.
        task: TaskId,
        /// The attempt that is given up.
        attempt: u32,
        /// Who should have sent it.
        holder: WorkerId,
    },
    /// Worker to coordinator: the workers that it is connected to now.
    Reaches {
        /// All of them.
        peers: Vec<WorkerId>,
    },
    /// Either way: I live.
    Heartbeat,
    /// Coordinator to worker, or worker to worker, which sends it back as it is: how long is the way?
    /// A worker that has other things to do sends it back to another worker without its padding.
    Echo {
        /// When it was sent, by the clock of who asks.
        sent_ns: u64,
        /// Something to carry.
        padding: Vec<u8>,
    },
    /// Worker to coordinator: how I am now.
    Health(Health),
    /// Worker to coordinator: what the pieces that I sent to other workers took on the wire.
    Carried {
        /// The model that they are of.
        model: ModelHash,
        /// What might become of their values.
        wire: Wire,
        /// Map by map.
        maps: Vec<Carried>,
    },
    /// Either way: I leave on purpose.
    Goodbye {
        /// Why, for the log.
        reason: String,
    },
    /// Worker to worker: the pieces that you sent for a task are here.
    Arrived {
        /// The task that made them.
        task: TaskId,
        /// Bytes that travelled.
        bytes: u64,
    },
    /// Worker to coordinator: what I measured of the way to another worker.
    PairLink {
        /// The other.
        peer: WorkerId,
        /// What the way carries.
        bytes_per_s: u64,
        /// Time of a word there and back.
        round_trip_ns: u64,
    },
}

impl Message {
    /// Bytes that it carries for nothing but their time on the way.
    pub fn padding(&self) -> u64 {
        if let Message::Echo { padding, .. } = self { padding.len() as u64 } else { 0 }
    }
}

/// What pieces of a map took on their way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Carried {
    /// The map.
    pub map: MapId,
    /// Bytes as they lie in memory.
    pub raw_bytes: u64,
    /// Bytes that travelled.
    pub wire_bytes: u64,
}

/// Why a bundle travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BundleKind {
    /// Coordinator to worker: compute this task; the pieces are its inputs.
    Scatter,
    /// Victim to thief: compute this task; the pieces are its inputs.
    Handover,
    /// Worker to coordinator: the pieces are the task's outputs.
    Result {
        /// Time the task took to compute.
        busy_ns: u64,
        /// Time from the arrival of its inputs to the start of computing. With this the coordinator
        /// knows what the network took, although the clocks of two devices never agree.
        waited_ns: u64,
    },
    /// Worker to worker: pieces that the receiver will need, or asked for.
    Exchange,
}

/// A piece of a task's inputs that lies on a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// The piece.
    pub piece: PieceHeader,
    /// Who holds it.
    pub holder: WorkerId,
    /// Its holder sends it unasked.
    pub coming: bool,
}

/// Pieces of a task's outputs that another worker needs next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivery {
    /// The worker.
    pub to: WorkerId,
    /// The pieces.
    pub pieces: Vec<PieceHeader>,
}

/// Where a task's inputs come from beside its bundle, and what becomes of its outputs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Orders {
    /// Inputs that lie on workers, the one that gets the task included.
    pub sources: Vec<Source>,
    /// The outputs stay where they are made; only those of the model go to the coordinator.
    pub keep: bool,
    /// Of what stays, pieces to send on at once.
    pub deliveries: Vec<Delivery>,
}

/// One piece of a feature map; its values follow the header, little endian, in the order rows,
/// cols, channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PieceHeader {
    /// Which map.
    pub map: MapId,
    /// Which part of it.
    pub region: Region,
    /// Its channels.
    pub channels: u32,
    /// What one value is.
    pub element: Element,
}

impl PieceHeader {
    /// Bytes of values; none when the header is absurd (a wire header is untrusted).
    pub fn byte_len(&self) -> Option<usize> {
        let span = |s: tiling::Span| s.end.checked_sub(s.start);
        let positions = span(self.region.rows)?.checked_mul(span(self.region.cols)?)?;
        positions.checked_mul(self.channels as usize)?.checked_mul(self.element.bytes())
    }
}

/// In which form a piece's values follow its bundle's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Form {
    /// How they are encoded.
    pub encoding: Encoding,
    /// Bytes of that.
    pub bytes: u64,
}

/// Header of a task with all its pieces: it arrives whole or not at all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bundle {
    /// Why it travels.
    pub kind: BundleKind,
    /// The plan that the task belongs to.
    pub plan: PlanId,
    /// The task.
    pub task: TaskId,
    /// Which try.
    pub attempt: u32,
    /// The pieces that follow, in this order.
    pub pieces: Vec<PieceHeader>,
    /// The form of each; none where all are as they lie in memory. Whoever sends a bundle says this
    /// anew.
    pub forms: Vec<Form>,
    /// What else a worker must know to do the task.
    pub orders: Orders,
}

impl Bundle {
    /// Bytes of a result that its worker holds for nothing but to send them. What stays there anyway
    /// is counted there.
    pub fn unsent_bytes(&self) -> u64 {
        let result = matches!(self.kind, BundleKind::Result { .. });
        if result && !self.orders.keep { self.byte_len().unwrap_or(0) as u64 } else { 0 }
    }

    /// Bytes of the inputs that lie on workers; none when they overflow.
    pub fn source_bytes(&self) -> Option<usize> {
        let sources = self.orders.sources.iter();
        sources.map(|s| s.piece.byte_len()).try_fold(0usize, |sum, b| sum.checked_add(b?))
    }

    /// How a piece is encoded.
    pub fn encoding(&self, piece: usize) -> Encoding {
        self.forms.get(piece).map_or(Encoding::Raw, |form| form.encoding)
    }

    /// Bytes of each piece on the wire; none where the header contradicts itself.
    pub fn wire_lens(&self) -> Option<Vec<usize>> {
        self.has_forms_that_fit().then(|| self.each_wire_len().collect()).flatten()
    }

    /// Bytes of all pieces on the wire; none where the header contradicts itself.
    pub fn wire_len(&self) -> Option<usize> {
        let mut lens = self.each_wire_len();
        let sum = || lens.try_fold(0usize, |sum, len| sum.checked_add(len?));
        self.has_forms_that_fit().then(sum).flatten()
    }

    fn has_forms_that_fit(&self) -> bool {
        self.forms.is_empty() || self.forms.len() == self.pieces.len()
    }

    fn each_wire_len(&self) -> impl Iterator<Item = Option<usize>> + '_ {
        self.pieces.iter().enumerate().map(|(i, piece)| {
            let raw = piece.byte_len()?;
            let Some(form) = self.forms.get(i) else { return Some(raw) };
            let bytes = usize::try_from(form.bytes).ok()?;
            let sound = if form.encoding == Encoding::Raw { bytes == raw } else { bytes <= raw };
            sound.then_some(bytes)
        })
    }

    /// Bytes of all values; none when they overflow.
    pub fn byte_len(&self) -> Option<usize> {
        self.pieces.iter().try_fold(0usize, |sum, p| sum.checked_add(p.byte_len()?))
    }
}
