//! AMX: eight registers of 16 × 16 numbers, and an instruction that multiplies two of them, as pairs of bf16.
//!
//! The standard library has no stable functions for them, so they are written in assembly. After Intel's "Architecture
//! Instruction Set Extensions Programming Reference", chapter 3, and the kernel's `Documentation/arch/x86/xstate.rst`.

use std::arch::asm;
use std::arch::x86_64::{__cpuid, __cpuid_count};
use std::marker::PhantomData;
use std::sync::LazyLock;

use super::pairs::Tile;

/// Rows of a tile register, and numbers of 32 bits in each.
pub(super) const SIDE: usize = 16;

/// Whether the processor multiplies tiles of bf16 and the system lets this process: asked for once.
pub(crate) fn is_available() -> bool {
    static AVAILABLE: LazyLock<bool> = LazyLock::new(|| has_tiles() && ask());
    *AVAILABLE
}

/// AMX-TILE and AMX-BF16 of the processor, and their state switched on by the system.
fn has_tiles() -> bool {
    const TILES: u32 = 1 << 24;
    const BF16: u32 = 1 << 22;
    const OSXSAVE: u32 = 1 << 27;
    /// XTILECFG and XTILEDATA.
    const STATES: u32 = 0b11 << 17;
    if __cpuid(0).eax < 7 || __cpuid(1).ecx & OSXSAVE == 0 {
        return false;
    }
    let features = __cpuid_count(7, 0).edx;
    if features & TILES == 0 || features & BF16 == 0 {
        return false;
    }
    let states: u32;
    // SAFETY: OSXSAVE says that the instruction is there; it reads a register.
    unsafe {
        asm!("xgetbv", in("ecx") 0, out("eax") states, out("edx") _, options(nomem, nostack, preserves_flags));
    }
    states & STATES == STATES
}

/// A process must ask Linux for the 8 KiB that a thread's tiles take when it is interrupted.
#[cfg(target_os = "linux")]
fn ask() -> bool {
    const ARCH_PRCTL: usize = 158;
    const ARCH_REQ_XCOMP_PERM: usize = 0x1023;
    const XTILEDATA: usize = 18;
    let answer: isize;
    // SAFETY: a call of the system as its interface has it; it changes no memory of ours.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") ARCH_PRCTL => answer,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") XTILEDATA,
            out("rcx") _,
            out("r11") _,
            options(nostack),
        );
    }
    answer == 0
}

/// Other systems have other ways, and nobody has tried them.
#[cfg(not(target_os = "linux"))]
fn ask() -> bool {
    false
}

/// The tiles of this thread, all eight of 16 rows of 64 bytes; released when this is dropped.
pub(crate) struct Tiles {
    /// Not to be sent to another thread: the configuration is this one's.
    _here: PhantomData<*const ()>,
}

/// What `ldtilecfg` reads: palette 1, bytes in a row and rows of each of eight registers.
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

impl Tiles {
    pub(super) fn configure() -> Option<Self> {
        if !is_available() {
            return None;
        }
        let of_eight = |i: usize, value: u16| if i < 8 { value } else { 0 };
        let configuration = Configuration {
            palette: 1,
            start_row: 0,
            reserved: [0; 14],
            row_bytes: std::array::from_fn(|i| of_eight(i, 4 * SIDE as u16)),
            rows: std::array::from_fn(|i| of_eight(i, SIDE as u16) as u8),
        };
        // SAFETY: the instruction is available, and reads the 64 bytes of the configuration.
        unsafe {
            asm!("ldtilecfg [{}]", in(reg) &raw const configuration, options(nostack, readonly, preserves_flags));
        }
        Some(Self { _here: PhantomData })
    }

    /// # Safety
    /// Whole blocks of 16 × `R` rows, 16 × `C` columns and 16 × `steps` pairs of `tile`, at least one step, are valid: for
    /// reads on the sides, for writes in the result, and initialised there if `add`.
    pub(super) unsafe fn multiply(&self, tile: &Tile, (rows, columns): (usize, usize)) {
        // SAFETY: as promised; these tiles are configured.
        unsafe {
            match (rows, columns) {
                (2, 2) => two_by_two(tile),
                (2, 1) => two_by_one(tile),
                (1, 2) => one_by_two(tile),
                _ => one_by_one(tile),
            }
        }
    }

    /// Two blocks of rows by two steps, which stay in registers, by any number of blocks of columns. That saves 12 of 32 loads of eight
    /// blocks: 565 instead of 689 cycles, 1,417 instead of 1,692 while the other thread of the core is at work.
    ///
    /// # Safety
    /// 32 rows and pairs of the left side are valid for reads, as are 32 pairs of `blocks` × 16 columns of the right side; 32 rows of so
    /// many columns of the result for writes. There is at least one block.
    pub(super) unsafe fn multiply_kept(&self, tile: &Tile, blocks: usize) {
        let below = tile.into.wrapping_add(SIDE * tile.into_row);
        let left_below = tile.left.wrapping_add(SIDE * tile.left_row);
        let right_below = tile.right.wrapping_add(SIDE * tile.right_row);
        // SAFETY: the caller promises memory for all that is loaded and stored; these tiles are configured.
        unsafe {
            asm!(
                "tileloadd tmm4, [{left} + {left_row}*1]",
                "tileloadd tmm5, [{left} + {left_row}*1 + 64]",
                "tileloadd tmm6, [{left_below} + {left_row}*1]",
                "tileloadd tmm7, [{left_below} + {left_row}*1 + 64]",
                "2:",
                "tilezero tmm0",
                "tilezero tmm1",
                "tileloadd tmm2, [{right} + {right_row}*1]",
                "tdpbf16ps tmm0, tmm4, tmm2",
                "tdpbf16ps tmm1, tmm6, tmm2",
                "tileloadd tmm3, [{right_below} + {right_row}*1]",
                "tdpbf16ps tmm0, tmm5, tmm3",
                "tdpbf16ps tmm1, tmm7, tmm3",
                "tilestored [{into} + {into_row}*1], tmm0",
                "tilestored [{below} + {into_row}*1], tmm1",
                "add {right}, 64",
                "add {right_below}, 64",
                "add {into}, 64",
                "add {below}, 64",
                "dec {blocks}",
                "jnz 2b",
                into = inout(reg) tile.into => _,
                below = inout(reg) below => _,
                into_row = in(reg) 4 * tile.into_row,
                left = in(reg) tile.left,
                left_below = in(reg) left_below,
                left_row = in(reg) 4 * tile.left_row,
                right = inout(reg) tile.right => _,
                right_below = inout(reg) right_below => _,
                right_row = in(reg) 4 * tile.right_row,
                blocks = inout(reg) blocks => _,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
        }
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: the instruction is available; nobody else on this thread uses the tiles while this lives.
        unsafe {
            asm!("tilerelease", out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _, out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _, options(nomem, nostack, preserves_flags));
        }
    }
}

/// A function that multiplies blocks of tiles: sums in `tmm0` to `tmm3`, the left side in `tmm4` and `tmm5`, the right side
/// in `tmm6` and `tmm7`. Everything from loading to storing is one piece of assembly: between two pieces the registers
/// would be the compiler's.
macro_rules! multiply {
    ($name:ident, [$($load:literal),*], [$($zero:literal),*], [$($step:literal),*], [$($store:literal),*]) => {
        /// # Safety
        /// As [`Tiles::multiply`]; the tiles of this thread are configured.
        unsafe fn $name(tile: &Tile) {
            let into = tile.into;
            let below = into.wrapping_add(SIDE * tile.into_row);
            let left = tile.left;
            let left_below = left.wrapping_add(SIDE * tile.left_row);
            // SAFETY: the caller promises memory for all that is loaded and stored.
            unsafe {
                asm!(
                    "test {add:e}, {add:e}",
                    "jz 2f",
                    $($load,)*
                    "jmp 3f",
                    "2:",
                    $($zero,)*
                    "3:",
                    $($step,)*
                    "add {left}, 64",
                    "add {left_below}, 64",
                    "add {right}, {right_block}",
                    "dec {steps}",
                    "jnz 3b",
                    $($store,)*
                    add = in(reg) u32::from(tile.add),
                    into = in(reg) into,
                    below = in(reg) below,
                    into_row = in(reg) 4 * tile.into_row,
                    left = inout(reg) left => _,
                    left_below = inout(reg) left_below => _,
                    left_row = in(reg) 4 * tile.left_row,
                    right = inout(reg) tile.right => _,
                    right_row = in(reg) 4 * tile.right_row,
                    right_block = in(reg) 4 * SIDE * tile.right_row,
                    steps = inout(reg) tile.steps => _,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack),
                );
            }
        }
    };
}

multiply!(
    two_by_two,
    [
        "tileloadd tmm0, [{into} + {into_row}*1]",
        "tileloadd tmm1, [{into} + {into_row}*1 + 64]",
        "tileloadd tmm2, [{below} + {into_row}*1]",
        "tileloadd tmm3, [{below} + {into_row}*1 + 64]"
    ],
    [
        "tilezero tmm0",
        "tilezero tmm1",
        "tilezero tmm2",
        "tilezero tmm3"
    ],
    [
        "tileloadd tmm4, [{left} + {left_row}*1]",
        "tileloadd tmm6, [{right} + {right_row}*1]",
        "tileloadd tmm5, [{left_below} + {left_row}*1]",
        "tileloadd tmm7, [{right} + {right_row}*1 + 64]",
        "tdpbf16ps tmm0, tmm4, tmm6",
        "tdpbf16ps tmm2, tmm5, tmm6",
        "tdpbf16ps tmm1, tmm4, tmm7",
        "tdpbf16ps tmm3, tmm5, tmm7"
    ],
    [
        "tilestored [{into} + {into_row}*1], tmm0",
        "tilestored [{into} + {into_row}*1 + 64], tmm1",
        "tilestored [{below} + {into_row}*1], tmm2",
        "tilestored [{below} + {into_row}*1 + 64], tmm3"
    ]
);

multiply!(
    two_by_one,
    [
        "tileloadd tmm0, [{into} + {into_row}*1]",
        "tileloadd tmm2, [{below} + {into_row}*1]"
    ],
    ["tilezero tmm0", "tilezero tmm2"],
    [
        "tileloadd tmm4, [{left} + {left_row}*1]",
        "tileloadd tmm6, [{right} + {right_row}*1]",
        "tileloadd tmm5, [{left_below} + {left_row}*1]",
        "tdpbf16ps tmm0, tmm4, tmm6",
        "tdpbf16ps tmm2, tmm5, tmm6"
    ],
    [
        "tilestored [{into} + {into_row}*1], tmm0",
        "tilestored [{below} + {into_row}*1], tmm2"
    ]
);

multiply!(
    one_by_two,
    [
        "tileloadd tmm0, [{into} + {into_row}*1]",
        "tileloadd tmm1, [{into} + {into_row}*1 + 64]",
        "/* {below} */"
    ],
    ["tilezero tmm0", "tilezero tmm1"],
    [
        "tileloadd tmm4, [{left} + {left_row}*1]",
        "tileloadd tmm6, [{right} + {right_row}*1]",
        "tileloadd tmm7, [{right} + {right_row}*1 + 64]",
        "tdpbf16ps tmm0, tmm4, tmm6",
        "tdpbf16ps tmm1, tmm4, tmm7"
    ],
    [
        "tilestored [{into} + {into_row}*1], tmm0",
        "tilestored [{into} + {into_row}*1 + 64], tmm1"
    ]
);

multiply!(
    one_by_one,
    ["tileloadd tmm0, [{into} + {into_row}*1]", "/* {below} */"],
    ["tilezero tmm0"],
    [
        "tileloadd tmm4, [{left} + {left_row}*1]",
        "tileloadd tmm6, [{right} + {right_row}*1]",
        "tdpbf16ps tmm0, tmm4, tmm6"
    ],
    ["tilestored [{into} + {into_row}*1], tmm0"]
);
