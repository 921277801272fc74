//! The tile unit: eight registers of 16 rows by 64 bytes, and one instruction that multiplies two of them.
//!
//! ```text
//! C[16 pixels][16 channels] += A[16 pixels][32 values] B[16 pairs of values][16 channels][2]      (tdpbf16ps)
//! ```
//!
//! A row of A is 64 bytes of memory, and rows lie any fixed distance apart. So neighbouring pixels of a contiguous map are a
//! tile without a copy, for every tap of a convolution. Two tiles of pixels by two of channels make four products of four loads.

use half::bf16;

/// Rows of a tile: pixels of A and C, pairs of values of B.
pub const ROWS: usize = 16;

/// Values of a row of A, which one instruction adds up.
pub const DEPTH: usize = 32;

/// Pixels and channels of a block: two tiles each.
pub const BLOCK: usize = 2 * ROWS;

/// Values of a tile of A or B.
pub const TILE: usize = ROWS * DEPTH;

/// A tile unit that may be used.
#[derive(Clone, Copy, Debug)]
pub enum Unit {
    /// AMX-TILE and AMX-BF16.
    #[cfg(target_arch = "x86_64")]
    Amx(Amx),
    /// Plain Rust; for tests.
    Portable,
}

/// Part of a block's sum: some neighbouring values of every pixel, and their weights.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// First value of the first pixel, from [`Product::a`] on.
    pub a: isize,
    /// Tiles of weights before its own in [`Product::b`], a tile of channels each.
    pub b: usize,
}

/// Operands of a block: `out[p][j] = init[j] + sum over segments t, values k of a[t][p][k] b[t][k][j]`.
#[derive(Clone, Copy)]
pub struct Product<'a> {
    /// First value of the first pixel.
    pub a: *const bf16,
    /// Values from a pixel to the next.
    pub pixel: usize,
    /// The parts of the sum.
    pub segments: &'a [Segment],
    /// [`DEPTH`]s of values a segment.
    pub chunks: usize,
    /// `[tiles of a segment, chunks][tiles of channels][TILE]`, see [`place`].
    pub b: *const bf16,
    /// Initial values of every pixel's sums, [`ROWS`] for each tile of channels.
    pub init: *const f32,
    /// Sums, `[pixels][BLOCK]`.
    pub out: *mut f32,
    /// Tiles of pixels, 1 or 2.
    pub tall: usize,
    /// Tiles of channels, 1 or 2.
    pub wide: usize,
}

/// Where the weight of value `k < DEPTH` and channel `j < ROWS` lies in a tile of B.
#[inline(always)]
pub fn place(k: usize, j: usize) -> usize {
    (k / 2 * ROWS + j) * 2 + k % 2
}

impl Unit {
    /// Runs `body` with tile registers of full size; only there may [`Unit::multiply`] be called.
    #[inline(always)]
    pub fn with_tiles<R>(self, body: impl FnOnce() -> R) -> R {
        match self {
            #[cfg(target_arch = "x86_64")]
            Unit::Amx(amx) => amx.with_tiles(body),
            Unit::Portable => body(),
        }
    }

    /// Computes a block.
    ///
    /// # Safety
    /// Only inside [`Unit::with_tiles`]; operands must be readable and `out` writable for the extents stated in
    /// [`Product`], `a` for 16 pixels a tile.
    #[inline(always)]
    pub unsafe fn multiply(self, product: &Product) {
        // SAFETY: contract of this function; a value of `Amx` exists only where the CPU has the instructions.
        unsafe {
            match self {
                #[cfg(target_arch = "x86_64")]
                Unit::Amx(amx) => amx.multiply(product),
                Unit::Portable => portable(product),
            }
        }
    }

    /// Does as many products as take a fraction of a millisecond, on registers. Returns their floating-point operations.
    pub fn exercise_tiles(self) -> u64 {
        match self {
            #[cfg(target_arch = "x86_64")]
            Unit::Amx(amx) => amx.with_tiles(|| amx.exercise()),
            Unit::Portable => {
                let (a, b) = ([bf16::ONE; 2 * TILE], [bf16::ONE; 2 * TILE]);
                let (init, mut out) = ([0.0; BLOCK], [0.0; BLOCK * BLOCK]);
                let product = Product {
                    a: a.as_ptr(),
                    pixel: DEPTH,
                    segments: &[Segment { a: 0, b: 0 }],
                    chunks: 1,
                    b: b.as_ptr(),
                    init: init.as_ptr(),
                    out: out.as_mut_ptr(),
                    tall: 2,
                    wide: 2,
                };
                // SAFETY: two tiles each of A and B, a block of sums.
                unsafe { portable(std::hint::black_box(&product)) };
                std::hint::black_box(out);
                (2 * BLOCK * BLOCK * DEPTH) as u64
            }
        }
    }
}

/// Computes what the instructions do, one product after the other.
///
/// # Safety
/// As [`Unit::multiply`].
unsafe fn portable(p: &Product) {
    let (rows, width) = (p.tall * ROWS, p.wide * ROWS);
    // SAFETY: the extents of every operand are promised by the caller.
    unsafe {
        let mut sums = [[0f32; BLOCK]; BLOCK];
        for sums in &mut sums[..rows] {
            std::ptr::copy_nonoverlapping(p.init, sums.as_mut_ptr(), width);
        }
        for segment in p.segments {
            for chunk in 0..p.chunks {
                let tiles = p.b.add((segment.b + chunk) * p.wide * TILE);
                let mut b = [[0f32; BLOCK]; DEPTH];
                for (k, b) in b.iter_mut().enumerate() {
                    for (j, b) in b[..width].iter_mut().enumerate() {
                        *b = (*tiles.add(j / ROWS * TILE + place(k, j % ROWS))).to_f32();
                    }
                }
                let a = p.a.offset(segment.a).add(chunk * DEPTH);
                for (row, sums) in sums[..rows].iter_mut().enumerate() {
                    for (k, b) in b.iter().enumerate() {
                        let a = (*a.add(row * p.pixel + k)).to_f32();
                        for (sum, b) in sums.iter_mut().zip(b) {
                            *sum += a * b;
                        }
                    }
                }
            }
        }
        for (row, sums) in sums[..rows].iter().enumerate() {
            std::ptr::copy_nonoverlapping(sums.as_ptr(), p.out.add(row * BLOCK), width);
        }
    }
}

/// Proof that the CPU has AMX-TILE and AMX-BF16, and that the system lets this process use them.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy, Debug)]
pub struct Amx(());

#[cfg(target_arch = "x86_64")]
mod hardware {
    use super::*;
    use std::arch::asm;
    use std::sync::OnceLock;

    /// The operand of `ldtilecfg`.
    #[repr(C, align(64))]
    struct Configuration {
        palette: u8,
        start_row: u8,
        reserved: [u8; 14],
        row_bytes: [u16; 16],
        rows: [u8; 16],
    }

    static FULL_TILES: Configuration = Configuration {
        palette: 1,
        start_row: 0,
        reserved: [0; 14],
        row_bytes: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
        rows: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
    };

    /// Gives the tile registers back: a thread that holds none is cheaper to switch.
    struct Release;

    impl Drop for Release {
        #[inline(always)]
        fn drop(&mut self) {
            // SAFETY: made only where the tiles were configured, so the CPU has the instruction.
            unsafe {
                asm!("tilerelease", out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _, out("tmm4") _,
                    out("tmm5") _, out("tmm6") _, out("tmm7") _, options(nostack, nomem, preserves_flags));
            }
        }
    }

    /// `permission` is ARCH_REQ_XCOMP_PERM of `arch_prctl`; `tile_data` is the number of the state component XTILEDATA.
    #[cfg(target_os = "linux")]
    fn permitted() -> bool {
        let (permission, tile_data): (libc::c_long, libc::c_long) = (0x1023, 18);
        // SAFETY: the call reads its two numbers and writes no memory of this process.
        unsafe { libc::syscall(libc::SYS_arch_prctl, permission, tile_data) == 0 }
    }

    /// Other systems may need no permission, or another call: none was at hand to try.
    #[cfg(not(target_os = "linux"))]
    fn permitted() -> bool {
        false
    }

    fn detect() -> bool {
        let leaf = |leaf, sub| {
            #[allow(unused_unsafe)] // safe in newer versions of the standard library
            // SAFETY: every x86-64 CPU has `cpuid`.
            unsafe {
                std::arch::x86_64::__cpuid_count(leaf, sub)
            }
        };
        let (tile, bf16) = (1 << 24, 1 << 22);
        crate::backend::cpu::simd::avx512::Avx512Bf16::new().is_some()
            && leaf(0, 0).eax >= 7
            && leaf(7, 0).edx & (tile | bf16) == tile | bf16
            && permitted()
    }

    impl Amx {
        /// The token, if this CPU has the instructions and the system grants their registers to this process, which is
        /// asked once.
        pub fn new() -> Option<Amx> {
            static PERMITTED: OnceLock<bool> = OnceLock::new();
            PERMITTED.get_or_init(detect).then_some(Amx(()))
        }

        #[inline(always)]
        pub(super) fn with_tiles<R>(self, body: impl FnOnce() -> R) -> R {
            // SAFETY: the token proves the instruction; the configuration is one of palette 1.
            unsafe {
                asm!("ldtilecfg [{}]", in(reg) &FULL_TILES, out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack, readonly, preserves_flags));
            }
            let _release = Release;
            body()
        }

        /// # Safety
        /// As [`Unit::multiply`].
        #[inline(always)]
        pub(super) unsafe fn multiply(self, p: &Product) {
            debug_assert!(!p.segments.is_empty() && p.chunks > 0, "something to add");
            let ends = p.segments.as_ptr_range();
            // tmm0 to tmm3 are the sums, tmm4 and tmm5 tiles of pixels, tmm6 and tmm7 tiles of channels. First `a` points
            // to the initial values, one row for all pixels: `n` is the distance of rows, 0 bytes.
            macro_rules! block {
                ([$($init:literal)*] [$($step:literal)*] [$($store:literal)*] $to_bytes:literal) => {
                    asm!(
                        $($init,)*
                        "2:",
                        "mov {a}, [{segment}]",
                        "lea {a}, [{base} + 2*{a}]",
                        "lea {below}, [{a} + 8*{pitch}]",
                        "lea {below}, [{below} + 8*{pitch}]",
                        "mov {b}, [{segment} + 8]",
                        $to_bytes,
                        "add {b}, {weights}",
                        "mov {n}, {chunks}",
                        "3:",
                        $($step,)*
                        "add {a}, 64",
                        "add {below}, 64",
                        "dec {n}",
                        "jnz 3b",
                        "add {segment}, 16",
                        "cmp {segment}, {end}",
                        "jne 2b",
                        $($store,)*
                        a = inout(reg) p.init => _,
                        n = inout(reg) 0usize => _,
                        below = out(reg) _,
                        segment = inout(reg) ends.start => _,
                        b = out(reg) _,
                        weights = in(reg) p.b,
                        end = in(reg) ends.end,
                        base = in(reg) p.a,
                        pitch = in(reg) 2 * p.pixel,
                        chunks = in(reg) p.chunks,
                        line = in(reg) 64usize,
                        out = in(reg) p.out,
                        out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                        out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                        options(nostack),
                    )
                };
            }
            // SAFETY: the token proves the instructions, the caller that the tiles are configured and the operands valid;
            // only memory of the operands is touched.
            unsafe {
                match (p.tall, p.wide) {
                    (1, 1) => block!(
                        ["tileloadd tmm0, [{a} + {n}*1]"]
                        ["tileloadd tmm4, [{a} + {pitch}*1]"
                         "tileloadd tmm6, [{b} + {line}*1]"
                         "tdpbf16ps tmm0, tmm4, tmm6"
                         "add {b}, 1024"]
                        ["tilestored [{out} + {line}*2], tmm0"]
                        "shl {b}, 10"
                    ),
                    (1, 2) => block!(
                        ["tileloadd tmm0, [{a} + {n}*1]"
                         "tileloadd tmm1, [{a} + {n}*1 + 64]"]
                        ["tileloadd tmm4, [{a} + {pitch}*1]"
                         "tileloadd tmm6, [{b} + {line}*1]"
                         "tdpbf16ps tmm0, tmm4, tmm6"
                         "tileloadd tmm7, [{b} + {line}*1 + 1024]"
                         "tdpbf16ps tmm1, tmm4, tmm7"
                         "add {b}, 2048"]
                        ["tilestored [{out} + {line}*2], tmm0"
                         "tilestored [{out} + {line}*2 + 64], tmm1"]
                        "shl {b}, 11"
                    ),
                    (2, 1) => block!(
                        ["tileloadd tmm0, [{a} + {n}*1]"
                         "tileloadd tmm2, [{a} + {n}*1]"]
                        ["tileloadd tmm4, [{a} + {pitch}*1]"
                         "tileloadd tmm6, [{b} + {line}*1]"
                         "tdpbf16ps tmm0, tmm4, tmm6"
                         "tileloadd tmm5, [{below} + {pitch}*1]"
                         "tdpbf16ps tmm2, tmm5, tmm6"
                         "add {b}, 1024"]
                        ["tilestored [{out} + {line}*2], tmm0"
                         "tilestored [{out} + {line}*2 + 2048], tmm2"]
                        "shl {b}, 10"
                    ),
                    (2, 2) => block!(
                        ["tileloadd tmm0, [{a} + {n}*1]"
                         "tileloadd tmm1, [{a} + {n}*1 + 64]"
                         "tileloadd tmm2, [{a} + {n}*1]"
                         "tileloadd tmm3, [{a} + {n}*1 + 64]"]
                        ["tileloadd tmm4, [{a} + {pitch}*1]"
                         "tileloadd tmm6, [{b} + {line}*1]"
                         "tdpbf16ps tmm0, tmm4, tmm6"
                         "tileloadd tmm7, [{b} + {line}*1 + 1024]"
                         "tdpbf16ps tmm1, tmm4, tmm7"
                         "tileloadd tmm5, [{below} + {pitch}*1]"
                         "tdpbf16ps tmm2, tmm5, tmm6"
                         "tdpbf16ps tmm3, tmm5, tmm7"
                         "add {b}, 2048"]
                        ["tilestored [{out} + {line}*2], tmm0"
                         "tilestored [{out} + {line}*2 + 64], tmm1"
                         "tilestored [{out} + {line}*2 + 2048], tmm2"
                         "tilestored [{out} + {line}*2 + 2112], tmm3"]
                        "shl {b}, 11"
                    ),
                    (tall, wide) => unreachable!("a block of {tall} by {wide} tiles"),
                }
            }
        }

        /// Four independent chains of products: 4 times 16 cycles of throughput hide the latency of one.
        pub(super) fn exercise(self) -> u64 {
            const TIMES: usize = 5_000;
            // SAFETY: the token proves the instructions; called with configured tiles; nothing but registers is touched.
            unsafe {
                asm!(
                    "tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3",
                    "tilezero tmm4", "tilezero tmm5", "tilezero tmm6", "tilezero tmm7",
                    "2:",
                    "tdpbf16ps tmm0, tmm4, tmm6",
                    "tdpbf16ps tmm1, tmm4, tmm7",
                    "tdpbf16ps tmm2, tmm5, tmm6",
                    "tdpbf16ps tmm3, tmm5, tmm7",
                    "dec {n}",
                    "jnz 2b",
                    n = inout(reg) TIMES => _,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack, nomem),
                );
            }
            (TIMES * 2 * BLOCK * BLOCK * DEPTH) as u64
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All units. Where the CPU has no AMX its instructions are emulated.
    fn units() -> Vec<Unit> {
        let mut units = vec![Unit::Portable];
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        units.push(Unit::Amx(Amx::new().unwrap_or_else(|| {
            let asked = std::env::var_os("RTMO_ISA").is_some_and(|name| name.eq_ignore_ascii_case("amx"));
            assert!(!asked, "RTMO_ISA=amx: this CPU does not have it");
            super::super::emulator::install();
            Amx(())
        })));
        units
    }

    #[test]
    fn blocks_of_every_shape() {
        let number = |i: usize, n: usize| ((i * 7919 + n) % 17) as f32 - 8.0;
        for (unit, tall, wide) in
            units().into_iter().flat_map(|u| [(u, 1, 1), (u, 1, 2), (u, 2, 1), (u, 2, 2)])
        {
            for (chunks, segments, pixel) in [(1, vec![0], 32), (3, vec![0, 5], 40), (2, vec![64, 0, 7], 33)]
            {
                // weights in another order than values
                let order = |t: usize| (segments.len() - 1 - t) * chunks;
                let segments: Vec<Segment> =
                    segments.iter().enumerate().map(|(t, &a)| Segment { a, b: order(t) }).collect();
                let len = (tall * ROWS - 1) * pixel + 64 + chunks * DEPTH;
                let a: Vec<bf16> = (0..len).map(|i| bf16::from_f32(number(i, 3))).collect();
                let b: Vec<bf16> = (0..segments.len() * chunks * wide * TILE)
                    .map(|i| bf16::from_f32(number(i, 11)))
                    .collect();
                let init: Vec<f32> = (0..wide * ROWS).map(|j| j as f32 - 20.0).collect();
                let mut out = vec![f32::NAN; BLOCK * BLOCK];
                let product = Product {
                    a: a.as_ptr(),
                    pixel,
                    segments: &segments,
                    chunks,
                    b: b.as_ptr(),
                    init: init.as_ptr(),
                    out: out.as_mut_ptr(),
                    tall,
                    wide,
                };
                // SAFETY: the operands were made as large as the product says.
                unit.with_tiles(|| unsafe { unit.multiply(&product) });
                for p in 0..BLOCK {
                    for j in 0..BLOCK {
                        let got = out[p * BLOCK + j];
                        if p >= tall * ROWS || j >= wide * ROWS {
                            assert!(
                                got.is_nan(),
                                "{unit:?} {tall}x{wide}: pixel {p}, channel {j} was written"
                            );
                            continue;
                        }
                        let mut sum = init[j];
                        for segment in &segments {
                            for k in 0..chunks * DEPTH {
                                let tile = (segment.b + k / DEPTH) * wide + j / ROWS;
                                let w = b[tile * TILE + place(k % DEPTH, j % ROWS)];
                                sum += a[segment.a as usize + p * pixel + k].to_f32() * w.to_f32();
                            }
                        }
                        // Integers: every order of additions gives the same.
                        assert_eq!(
                            got, sum,
                            "{unit:?} {tall}x{wide}, {chunks} chunks: pixel {p}, channel {j}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn exercise_counts_what_it_does() {
        for unit in units() {
            assert!(unit.exercise_tiles() >= (2 * BLOCK * BLOCK * DEPTH) as u64);
        }
    }
}
