//! Tiles of up to 16 pixels x 64 bytes times 64 bytes x 16 outputs: AMX-INT8.
//!
//! Two tiles of pixels and two panels keep four tiles of sums busy; each tile that is loaded is
//! used twice. A run is read up to the next multiple of 64 bytes: the weights there are zero.

use super::avx512::{self, Vnni512};
use super::{Dots, Micro};
use crate::quant::pack::STRIDE;
use crate::quant::requantize::{Block, SUMS};
use std::arch::asm;
use std::arch::x86_64::__cpuid_count;
use std::sync::LazyLock;

/// Rows of a tile.
const ROWS: usize = 16;

/// Whether the processor has the tiles, and the system lets us use them.
pub(crate) fn is_available() -> bool {
    static AVAILABLE: LazyLock<bool> = LazyLock::new(|| {
        const TILE: u32 = 1 << 24;
        const INT8: u32 = 1 << 25;
        let leaves = __cpuid_count(0, 0).eax;
        let features = if leaves >= 7 { __cpuid_count(7, 0).edx } else { 0 };
        features & TILE != 0 && features & INT8 != 0 && is_permitted()
    });
    *AVAILABLE
}

/// Asks the system for the tiles' state, which it keeps for a process only on request.
#[cfg(target_os = "linux")]
fn is_permitted() -> bool {
    const ARCH_PRCTL: usize = 158;
    const ARCH_REQ_XCOMP_PERM: usize = 0x1023;
    const XFEATURE_XTILEDATA: usize = 18;
    let answer: isize;
    // Safety: a system call that reads and writes no memory of ours.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") ARCH_PRCTL as isize => answer,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") XFEATURE_XTILEDATA,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    answer == 0
}

#[cfg(not(target_os = "linux"))]
fn is_permitted() -> bool {
    false
}

/// The shapes of the eight tiles, as `ldtilecfg` reads them.
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

/// Proof that the processor has AMX-INT8 and AVX-512 VNNI; this thread's tiles while it lives.
pub(in crate::quant) struct Amx {
    vectors: Vnni512,
    /// Rows of the two tiles of pixels, as configured.
    rows: (usize, usize),
}

impl Amx {
    /// *Safety*: the processor has the features, the system permits the tiles.
    pub(in crate::quant) unsafe fn new() -> Self {
        // Safety: as asked.
        Self { vectors: unsafe { Vnni512::new() }, rows: (0, 0) }
    }

    fn configure(&mut self, rows: (usize, usize)) {
        if self.rows == rows {
            return;
        }
        let mut config = Config {
            palette: 1,
            start_row: 0,
            reserved: [0; 14],
            row_bytes: [0; 16],
            rows: [0; 16],
        };
        // Sums 0 to 3, pixels 4 and 5, panels 6 and 7.
        let (first, second) = (rows.0 as u8, rows.1.max(1) as u8);
        let heights = [first, first, second, second, first, second, ROWS as u8, ROWS as u8];
        config.rows[..8].copy_from_slice(&heights);
        config.row_bytes[..8].fill(STRIDE as u16);
        // Safety: the token proves the features; the configuration is one that exists.
        unsafe {
            asm!("ldtilecfg [{}]", in(reg) &raw const config, options(nostack, readonly));
        }
        self.rows = rows;
    }
}

impl Drop for Amx {
    fn drop(&mut self) {
        // Safety: the token proves the features.
        unsafe { asm!("tilerelease", options(nostack, nomem)) }
    }
}

/// What the assembly reads from memory, to have enough registers.
#[repr(C)]
struct Places {
    sums: *mut i32,
    /// Those of the second tile of pixels.
    second_sums: *mut i32,
    /// Blocks of 64 bytes of a run.
    blocks: usize,
}

/// The whole sum of a block in one piece of assembly, since the compiler knows nothing of tiles.
///
/// The first line is a comment: an operand that no line names is an error.
macro_rules! tiles {
    ($m:ident, $places:ident, $second:ident, $zero:literal, $products:literal, $stores:literal) => {
        asm!(
            "# {second} {panel} {t}",
            $zero,
            "2:",
            "mov {x}, [{runs}]",
            "mov {blocks}, [{places} + 16]",
            "3:",
            "tileloadd tmm4, [{x} + {step}*1]",
            "tileloadd tmm6, [{w} + {line}*1]",
            "tdpbusd tmm0, tmm4, tmm6",
            $products,
            "add {x}, 64",
            "add {w}, 1024",
            "dec {blocks}",
            "jnz 3b",
            "add {runs}, 8",
            "cmp {runs}, {end}",
            "jne 2b",
            "mov {line}, 128",
            "mov {t}, [{places}]",
            "tilestored [{t} + {line}*1], tmm0",
            $stores,
            runs = inout(reg) $m.runs.as_ptr() => _,
            end = in(reg) $m.runs.as_ptr_range().end,
            places = in(reg) &raw const $places,
            blocks = out(reg) _,
            x = out(reg) _,
            t = out(reg) _,
            w = inout(reg) $m.weights => _,
            step = in(reg) $m.pixel_step,
            line = inout(reg) STRIDE => _,
            panel = in(reg) $m.panel_step,
            second = in(reg) $second,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        )
    };
}

impl Dots for Amx {
    const PIXELS: usize = 2 * ROWS;

    unsafe fn dots(&mut self, m: &Micro<'_>) {
        assert!(m.pixels <= Self::PIXELS && !m.runs.is_empty() && m.run_len > 0);
        const { assert!(SUMS * size_of::<i32>() == 128) };
        let first = if m.pixels > ROWS { m.pixels.div_ceil(2) } else { m.pixels };
        self.configure((first, m.pixels - first));
        let second = first * m.pixel_step;
        let second_sums = m.sums.wrapping_add(first * SUMS);
        let places = Places { sums: m.sums, second_sums, blocks: m.run_len.div_ceil(STRIDE) };
        // Safety: the token proves the features; the rest is as asked by the trait.
        unsafe {
            match (m.pixels > first, m.panels) {
                (false, 1) => tiles!(m, places, second, "tilezero tmm0", "", ""),
                (false, _) => tiles!(
                    m,
                    places,
                    second,
                    "tilezero tmm0
                    tilezero tmm1",
                    "lea {t}, [{w} + {panel}]
                    tileloadd tmm7, [{t} + {line}*1]
                    tdpbusd tmm1, tmm4, tmm7",
                    "tilestored [{t} + {line}*1 + 64], tmm1"
                ),
                (true, 1) => tiles!(
                    m,
                    places,
                    second,
                    "tilezero tmm0
                    tilezero tmm2",
                    "lea {t}, [{x} + {second}]
                    tileloadd tmm5, [{t} + {step}*1]
                    tdpbusd tmm2, tmm5, tmm6",
                    "mov {t}, [{places} + 8]
                    tilestored [{t} + {line}*1], tmm2"
                ),
                (true, _) => tiles!(
                    m,
                    places,
                    second,
                    "tilezero tmm0
                    tilezero tmm1
                    tilezero tmm2
                    tilezero tmm3",
                    "lea {t}, [{w} + {panel}]
                    tileloadd tmm7, [{t} + {line}*1]
                    tdpbusd tmm1, tmm4, tmm7
                    lea {t}, [{x} + {second}]
                    tileloadd tmm5, [{t} + {step}*1]
                    tdpbusd tmm2, tmm5, tmm6
                    tdpbusd tmm3, tmm5, tmm7",
                    "tilestored [{t} + {line}*1 + 64], tmm1
                    mov {t}, [{places} + 8]
                    tilestored [{t} + {line}*1], tmm2
                    tilestored [{t} + {line}*1 + 64], tmm3"
                ),
            }
        }
    }

    unsafe fn requantize(&self, block: &Block<'_>) {
        let _ = self.vectors;
        // Safety: the token proves the features; the rest is as asked by the trait.
        unsafe { avx512::requantize(block) }
    }
}
