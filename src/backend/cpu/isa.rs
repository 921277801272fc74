//! Instruction sets: detection, and the choice by `RTMO_ISA`.

use super::tile_unit::{TileUnit, Unit};
use crate::backend::Precision;
use crate::error::{Error, Result};

/// An instruction set that kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Isa {
    /// Plain Rust, 4 lanes.
    Portable,
    /// Plain Rust, 16 lanes, in tiles as of AVX-512; for tests.
    Portable16,
    /// AVX2 and FMA.
    Avx2,
    /// AVX-512 F, BW, DQ, VL.
    Avx512,
    /// AVX-512 with BF16 dot products.
    Avx512Bf16,
    /// AVX-512 with BF16 dot products, and AMX's tile registers for convolutions in bf16 and bf16x3.
    Amx,
    /// Plain Rust, 16 lanes, in tiles as of AVX-512 and AMX; for tests.
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
    /// Name as `RTMO_ISA` takes it, in small or capital letters. There `scalar` stands for `portable`, too.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Portable => "portable",
            Isa::Portable16 => "portable16",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
            Isa::Avx512Bf16 => "avx512bf16",
            Isa::Amx => "amx",
            Isa::Portable16Amx => "portable16amx",
            Isa::Neon => "neon",
        }
    }

    /// Whether this CPU (and this build) has it.
    pub fn available(self) -> bool {
        match self {
            Isa::Portable | Isa::Portable16 => true,
            Isa::Amx | Isa::Portable16Amx => self.tile_unit().is_some(),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => super::simd::avx2::Avx2::new().is_some(),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => super::simd::avx512::Avx512::new().is_some(),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 => super::simd::avx512::Avx512Bf16::new().is_some(),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => super::simd::neon::Neon::new().is_some(),
            #[cfg(not(target_arch = "x86_64"))]
            Isa::Avx2 | Isa::Avx512 | Isa::Avx512Bf16 => false,
            #[cfg(not(target_arch = "aarch64"))]
            Isa::Neon => false,
        }
    }

    /// Whether networks may run in bf16: with AVX512-BF16, AMX, and the plain Rust that stands in for them in tests.
    pub fn bf16(self) -> bool {
        matches!(self, Isa::Avx512Bf16 | Isa::Amx | Isa::Portable16 | Isa::Portable16Amx)
    }

    /// The unit that computes convolutions below fp32 in place of vectors. All other operations run as with AVX512-BF16.
    pub fn tile_unit(self) -> Option<Unit> {
        Unit::of(self)
    }

    /// Checks that networks can run in this precision.
    ///
    /// # Errors
    /// If they cannot, and why.
    pub fn check_precision(self, precision: Precision) -> Result<()> {
        let vectors = precision == Precision::Fp32 || precision == Precision::Bf16 && self.bf16();
        if vectors || self.tile_unit().is_some_and(|unit| unit.supports(precision)) {
            return Ok(());
        }
        let asked = format!("RTMO_ISA asks for {}", self.name());
        let message = match precision {
            Precision::Bf16 if Isa::Avx512Bf16.available() => {
                format!("bf16 needs AVX512-BF16 or AMX, but {asked}")
            }
            Precision::Fp32 | Precision::Bf16 => {
                "this CPU has neither AVX512-BF16 nor AMX, and bf16 needs one of them; fp32 runs on every CPU"
                    .into()
            }
            Precision::Bf16x3 if Isa::Amx.available() => format!("bf16x3 needs AMX, but {asked}"),
            Precision::Bf16x3 => {
                "bf16x3 needs AMX, but this CPU, or its system, has none; fp32 runs on every CPU".into()
            }
            Precision::Fp16 => "the CPU computes in fp32, bf16 or bf16x3, not in fp16".into(),
        };
        Err(Error::Device(message))
    }

    /// The instruction set of a name that `RTMO_ISA` takes.
    fn named(name: &str) -> Option<Isa> {
        let name = name.to_ascii_lowercase().replace("scalar", "portable");
        ALL.into_iter().find(|isa| isa.name() == name)
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
        let found = name.to_str().and_then(Isa::named);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_any_case_and_the_old_ones() {
        for isa in ALL {
            assert_eq!(Isa::named(isa.name()), Some(isa));
            assert_eq!(Isa::named(&isa.name().to_uppercase()), Some(isa));
        }
        let old = ["scalar", "Scalar16", "SCALAR16AMX"].map(Isa::named);
        assert_eq!(old, [Isa::Portable, Isa::Portable16, Isa::Portable16Amx].map(Some));
        assert_eq!(Isa::named("avx1024"), None);
    }
}
