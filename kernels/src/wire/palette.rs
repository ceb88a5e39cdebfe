//! A table of the values of each channel, and for each value its place in the table.
//!
//! ```text
//!  1 byte a channel: entries of its table, less one    the tables    1 byte a value, in their order
//! ```

/// Channels of a piece that is looked at: pictures, and what is not far from them.
const CHANNELS_MAX: usize = 16;

const ENTRIES_MAX: usize = 256;

/// Places of a hash table four times as large as what it holds.
const PLACES: usize = 4 * ENTRIES_MAX;

/// The values of one channel, found by their bits.
struct Table {
    entries: Vec<u32>,
    /// Place of each entry by its hash; [`FREE`] where there is none.
    keys: [u32; PLACES],
    places: [u16; PLACES],
}

const FREE: u16 = u16::MAX;

impl Table {
    fn new() -> Self {
        Self { entries: Vec::new(), keys: [0; PLACES], places: [FREE; PLACES] }
    }

    /// The place of a value; none where it is one too many.
    #[inline(always)]
    fn place(&mut self, value: u32) -> Option<u8> {
        let mut hash = (value.wrapping_mul(0x9E37_79B1) >> 22) as usize % PLACES;
        loop {
            let place = self.places[hash];
            if self.keys[hash] == value && place != FREE {
                return Some(place as u8);
            }
            if place == FREE {
                return self.insert(hash, value);
            }
            hash = (hash + 1) % PLACES;
        }
    }

    #[cold]
    fn insert(&mut self, hash: usize, value: u32) -> Option<u8> {
        let place = self.entries.len();
        if place == ENTRIES_MAX {
            return None;
        }
        self.entries.push(value);
        (self.keys[hash], self.places[hash]) = (value, place as u16);
        Some(place as u8)
    }
}

/// Values with a palette.
pub(super) struct Palette {
    tables: Vec<Table>,
    places: Vec<u8>,
}

impl Palette {
    /// Finds the palette of values; none where a channel has too many different ones, which usually
    /// shows within the first thousand.
    pub(super) fn of(values: &[u32], channels: usize) -> Option<Self> {
        if channels > CHANNELS_MAX {
            return None;
        }
        let mut tables: Vec<Table> = (0..channels).map(|_| Table::new()).collect();
        let mut places = vec![0u8; values.len()];
        match tables.as_mut_slice() {
            [a] => fill(values, &mut places, [a])?,
            [a, b, c] => fill(values, &mut places, [a, b, c])?,
            tables => {
                let pixels = values.chunks_exact(channels);
                for (pixel, to) in pixels.zip(places.chunks_exact_mut(channels)) {
                    for ((&value, to), table) in pixel.iter().zip(to).zip(tables.iter_mut()) {
                        *to = table.place(value)?;
                    }
                }
            }
        }
        Some(Self { tables, places })
    }

    pub(super) fn byte_len(&self) -> usize {
        let entries: usize = self.tables.iter().map(|table| table.entries.len()).sum();
        self.tables.len() + 4 * entries + self.places.len()
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.byte_len());
        bytes.extend(self.tables.iter().map(|table| (table.entries.len() - 1) as u8));
        for table in &self.tables {
            bytes.extend_from_slice(bytemuck::cast_slice(&table.entries));
        }
        bytes.extend_from_slice(&self.places);
        bytes
    }
}

/// The loop over pixels with a fixed number of channels.
fn fill<const N: usize>(values: &[u32], places: &mut [u8], tables: [&mut Table; N]) -> Option<()> {
    let (pixels, _) = values.as_chunks::<N>();
    let (to, _) = places.as_chunks_mut::<N>();
    for (pixel, to) in pixels.iter().zip(to) {
        for channel in 0..N {
            to[channel] = tables[channel].place(pixel[channel])?;
        }
    }
    Some(())
}

/// Bytes whose lengths agree.
pub(super) struct Packed<'a> {
    /// For each channel its entries, and the place of the last.
    tables: Vec<([u32; ENTRIES_MAX], u8)>,
    places: &'a [u8],
}

impl<'a> Packed<'a> {
    pub(super) fn read(bytes: &'a [u8], len: usize, channels: usize) -> Result<Self, &'static str> {
        if channels == 0 || channels > CHANNELS_MAX {
            return Err("a palette has 1 to 16 channels");
        }
        let lasts = bytes.get(..channels).ok_or("its tables are cut off")?;
        let entries: usize = lasts.iter().map(|&last| usize::from(last) + 1).sum();
        let start = channels + 4 * entries;
        let (Some(mut rest), Some(places)) = (bytes.get(channels..start), bytes.get(start..))
        else {
            return Err("its tables are cut off");
        };
        if places.len() != len {
            return Err("it has not one byte a value behind its tables");
        }
        let table = |&last: &u8| {
            let (own, after) = rest.split_at(4 * (usize::from(last) + 1));
            rest = after;
            let mut table = [0; ENTRIES_MAX];
            let (words, _) = own.as_chunks::<4>();
            table.iter_mut().zip(words).for_each(|(to, word)| *to = u32::from_le_bytes(*word));
            (table, last)
        };
        Ok(Self { tables: lasts.iter().map(table).collect(), places })
    }

    pub(super) fn unpack(&self, to: &mut [u32]) -> Result<(), &'static str> {
        let beyond = match self.tables.as_slice() {
            [a] => look_up([a], self.places, to),
            [a, b, c] => look_up([a, b, c], self.places, to),
            tables => {
                let mut beyond = false;
                let pixels = self.places.chunks_exact(tables.len());
                for (places, to) in pixels.zip(to.chunks_exact_mut(tables.len())) {
                    for ((&place, to), (table, last)) in places.iter().zip(to).zip(tables) {
                        *to = table[usize::from(place)];
                        beyond |= place > *last;
                    }
                }
                beyond
            }
        };
        if beyond { Err("a value lies beyond the end of its table") } else { Ok(()) }
    }
}

/// Looks every value up; whether any lies beyond its table.
fn look_up<const N: usize>(
    tables: [&([u32; ENTRIES_MAX], u8); N],
    places: &[u8],
    to: &mut [u32],
) -> bool {
    let mut beyond = false;
    let (pixels, _) = places.as_chunks::<N>();
    let (to, _) = to.as_chunks_mut::<N>();
    for (pixel, to) in pixels.iter().zip(to) {
        for channel in 0..N {
            let (table, last) = tables[channel];
            to[channel] = table[usize::from(pixel[channel])];
            beyond |= pixel[channel] > *last;
        }
    }
    beyond
}
