//! The compiled kernels that this build carries.

use super::ops::conv;

/// Machine code or PTX of one kernel file.
pub(super) struct Image {
    /// `conv_mma` for `conv_mma.cu`.
    pub file: &'static str,
    /// `sm_90a`, or `compute_90` for PTX.
    pub arch: &'static str,
    pub code: &'static [u8],
}

/// Written by `build/main.rs`; empty without nvcc.
pub(super) static IMAGES: &[Image] = include!(concat!(env!("OUT_DIR"), "/images.rs"));

/// Architectures that the kernels were compiled for, for instance `sm_90a` or (PTX) `compute_90`. Empty: built without
/// CUDA.
pub fn compiled_archs() -> Vec<&'static str> {
    let mut archs: Vec<&str> = IMAGES.iter().map(|i| i.arch).collect();
    archs.sort_unstable();
    archs.dedup();
    archs
}

/// A hash (FNV-1a) of the convolution kernels for an architecture, the same on every machine. Tiles that were measured
/// with other kernels are not used.
pub(super) fn fingerprint(arch: &str) -> u64 {
    let of_conv = |file: &str| conv::files().any(|f| f == file);
    let convs = IMAGES.iter().filter(|image| image.arch == arch && of_conv(image.file));
    let bytes = convs.flat_map(|image| image.code);
    bytes.fold(0xCBF2_9CE4_8422_2325, |hash, &b| (hash ^ u64::from(b)).wrapping_mul(0x100_0000_01B3))
}

/// The architecture to load on a GPU of this compute capability: the same major version and the largest minor one that
/// is not newer, else the newest PTX that the GPU can compile.
pub(super) fn arch_for(major: i32, minor: i32) -> Option<&'static str> {
    arch_among(&compiled_archs(), major, minor)
}

fn arch_among(archs: &[&'static str], major: i32, minor: i32) -> Option<&'static str> {
    let gpu = (major, minor);
    let runs = |arch: &str| match (arch.starts_with("sm_"), arch.ends_with('a')) {
        (true, true) => version(arch) == gpu,
        (true, false) => version(arch).0 == major && version(arch) <= gpu,
        (false, special) => version(arch) <= gpu && !special,
    };
    archs
        .iter()
        .copied()
        .filter(|arch| runs(arch))
        .max_by_key(|arch| (arch.starts_with("sm_"), version(arch), arch.ends_with('a')))
}

/// Compute capability that an architecture is for: 9 and 0 for `sm_90a`.
pub(super) fn version(arch: &str) -> (i32, i32) {
    let digits = arch.trim_start_matches(|c: char| !c.is_ascii_digit()).trim_end_matches('a');
    let number: i32 = digits.parse().unwrap_or(0);
    (number / 10, number % 10)
}

#[cfg(test)]
mod tests {
    use super::{arch_among, version};

    #[test]
    fn every_gpu_gets_the_closest_code() {
        let all = ["compute_90", "sm_75", "sm_80", "sm_86", "sm_89", "sm_90a"];
        assert_eq!(arch_among(&all, 7, 0), None);
        assert_eq!(arch_among(&all, 7, 5), Some("sm_75"));
        assert_eq!(arch_among(&all, 8, 0), Some("sm_80"));
        assert_eq!(arch_among(&all, 8, 7), Some("sm_86"));
        assert_eq!(arch_among(&all, 8, 9), Some("sm_89"));
        assert_eq!(arch_among(&all, 9, 0), Some("sm_90a"));
        assert_eq!(arch_among(&all, 10, 0), Some("compute_90"));
        assert_eq!(arch_among(&all, 12, 0), Some("compute_90"));
        assert_eq!(arch_among(&["sm_90a"], 12, 0), None);
        assert_eq!(arch_among(&["sm_86", "compute_80"], 9, 0), Some("compute_80"));
        assert_eq!((version("sm_90a"), version("compute_120")), ((9, 0), (12, 0)));
    }
}
