//! Which RTMO.

use std::fmt;

/// The sizes of the paper (arXiv 2312.07526, Table 1; mmpose `configs/body_2d_keypoint/rtmo`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Variant {
    /// RTMO-t.
    T,
    /// RTMO-s.
    S,
    /// RTMO-m.
    M,
    /// RTMO-l.
    L,
    /// RTMO-r50: RTMO-l with a ResNet-50 as its backbone. No weights of it are public.
    R50,
}

impl Variant {
    /// Smallest first; RTMO-r50 at the end.
    pub const ALL: [Variant; 5] = [Variant::T, Variant::S, Variant::M, Variant::L, Variant::R50];

    /// `rtmo-t`, `rtmo-s`, `rtmo-m`, `rtmo-l` or `rtmo-r50`.
    pub fn name(self) -> &'static str {
        match self {
            Variant::T => "rtmo-t",
            Variant::S => "rtmo-s",
            Variant::M => "rtmo-m",
            Variant::L => "rtmo-l",
            Variant::R50 => "rtmo-r50",
        }
    }

    /// Width and height in pixels that the published checkpoints were trained for.
    pub fn default_input(self) -> (usize, usize) {
        match self {
            Variant::T => (416, 416),
            _ => (640, 640),
        }
    }
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
