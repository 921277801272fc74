//! Which instruction set runs: detected once, or forced by `RTMO_ISA`.

#[cfg(target_arch = "x86_64")]
use super::amx::unit::Amx;
use super::amx::unit::Unit;
use crate::error::{Error, Result};

/// An instruction set that kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Isa {
    /// Plain Rust, 4 lanes.
    Portable,
    /// Plain Rust on the tiles of the AVX-512 kernels; for tests.
    Portable16,
    /// AVX2 and FMA.
    Avx2,
    /// AVX-512 F, BW, DQ, VL.
    Avx512,
    /// AVX-512 with BF16 dot products.
    Avx512Bf16,
    /// AVX-512 with BF16 dot products, and AMX's tile registers for convolutions in bf16.
    Amx,
    /// Plain Rust on the tiles of the AVX-512 and AMX kernels; for tests.
    Portable16Amx,
    /// AArch64 NEON.
    Neon,
}

/// All, best first.
const ALL: [Isa; 8] = [
    Isa::Amx,
    Isa::Avx512Bf16,
    Isa::Avx512,
    Isa::Avx2,
    Isa::Neon,
    Isa::Portable,
    Isa::Portable16,
    Isa::Portable16Amx,
];

impl Isa {
    /// Name as `RTMO_ISA` takes it.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Portable => "scalar",
            Isa::Portable16 => "scalar16",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
            Isa::Avx512Bf16 => "avx512bf16",
            Isa::Amx => "amx",
            Isa::Portable16Amx => "scalar16amx",
            Isa::Neon => "neon",
        }
    }

    /// Whether this CPU (and this build) has it.
    pub fn available(self) -> bool {
        match self {
            Isa::Portable | Isa::Portable16 | Isa::Portable16Amx => true,
            #[cfg(target_arch = "x86_64")]
            Isa::Amx => Amx::new().is_some(),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => super::simd::avx2::Avx2::new().is_some(),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => super::simd::avx512::Avx512::new().is_some(),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 => super::simd::avx512::Avx512Bf16::new().is_some(),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => super::simd::neon::Neon::new().is_some(),
            #[cfg(not(target_arch = "x86_64"))]
            Isa::Avx2 | Isa::Avx512 | Isa::Avx512Bf16 | Isa::Amx => false,
            #[cfg(not(target_arch = "aarch64"))]
            Isa::Neon => false,
        }
    }

    /// Whether networks may run in bf16: with AVX512-BF16 or AMX, or with what stands in for them in tests.
    pub fn bf16(self) -> bool {
        matches!(self, Isa::Avx512Bf16 | Isa::Amx | Isa::Portable16 | Isa::Portable16Amx)
    }

    /// What computes convolutions in bf16, if not vectors. All else is done as by AVX512-BF16.
    pub fn tile_unit(self) -> Option<Unit> {
        match self {
            #[cfg(target_arch = "x86_64")]
            Isa::Amx => Amx::new().map(Unit::Amx),
            Isa::Portable16Amx => Some(Unit::Portable),
            _ => None,
        }
    }

    /// Every instruction set that runs here, best first.
    pub fn all() -> impl Iterator<Item = Isa> {
        ALL.into_iter().filter(|isa| isa.available())
    }

    /// The one to use: `RTMO_ISA` if set, else the best.
    ///
    /// # Errors
    /// If `RTMO_ISA` names none, or one that this CPU lacks.
    pub fn choose() -> Result<Isa> {
        let Some(name) = std::env::var_os("RTMO_ISA").filter(|name| !name.is_empty()) else {
            return Ok(Isa::all().next().expect("the portable one always runs"));
        };
        let here: Vec<_> = Isa::all().map(Isa::name).collect();
        let found = ALL.into_iter().find(|isa| name == isa.name());
        found.filter(|isa| isa.available()).ok_or_else(|| {
            let name = name.to_string_lossy();
            let why = if found.is_some() { "this CPU does not have it" } else { "no such instruction set" };
            Error::Usage(format!("RTMO_ISA={name}: {why}; here: {}", here.join(", ")))
        })
    }
}

/// Calls `$body` with `$simd` bound to the token of `$isa`.
macro_rules! with_isa {
    ($isa:expr, $simd:ident => $body:expr) => {
        match $isa {
            $crate::backend::cpu::isa::Isa::Portable => {
                let $simd = $crate::backend::cpu::simd::portable::Portable::<4>;
                $body
            }
            $crate::backend::cpu::isa::Isa::Portable16 | $crate::backend::cpu::isa::Isa::Portable16Amx => {
                let $simd = $crate::backend::cpu::simd::portable::Portable::<16>;
                $body
            }
            #[cfg(target_arch = "x86_64")]
            $crate::backend::cpu::isa::Isa::Avx2 => {
                let $simd =
                    $crate::backend::cpu::simd::avx2::Avx2::new().expect("an available instruction set");
                $body
            }
            #[cfg(target_arch = "x86_64")]
            $crate::backend::cpu::isa::Isa::Avx512 => {
                let $simd =
                    $crate::backend::cpu::simd::avx512::Avx512::new().expect("an available instruction set");
                $body
            }
            #[cfg(target_arch = "x86_64")]
            $crate::backend::cpu::isa::Isa::Avx512Bf16 | $crate::backend::cpu::isa::Isa::Amx => {
                let $simd = $crate::backend::cpu::simd::avx512::Avx512Bf16::new()
                    .expect("an available instruction set");
                $body
            }
            #[cfg(target_arch = "aarch64")]
            $crate::backend::cpu::isa::Isa::Neon => {
                let $simd =
                    $crate::backend::cpu::simd::neon::Neon::new().expect("an available instruction set");
                $body
            }
            #[allow(unreachable_patterns)] // on x86-64 or AArch64 the others
            _ => unreachable!("an instruction set of another architecture is never available"),
        }
    };
}
pub(crate) use with_isa;
