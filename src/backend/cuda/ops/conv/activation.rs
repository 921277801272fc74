//! Activations as the convolution kernels know them.

use super::params::Activation;
use crate::plan::Act;

/// An activation's code.
pub fn code(act: Act) -> Activation {
    match act {
        Act::None => Activation::None,
        Act::Silu => Activation::Silu,
        Act::Gelu => Activation::Gelu,
        Act::Relu => Activation::Relu,
    }
}

/// What weights and bias are multiplied by, `SCALE` in `conv.cuh`: SiLU is computed from half its argument.
pub fn scale(act: Act) -> f32 {
    if act == Act::Silu { 0.5 } else { 1.0 }
}
