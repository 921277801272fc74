//! Activations as types, so that each kernel is compiled for the ones that it applies.

use super::element::Element;
use super::math;
use super::simd::Simd;

/// An activation function.
pub trait Activation {
    /// `f(x)` with the accuracy that layers of `T` need. A NaN stays one. Implementations must be `#[inline(always)]`.
    fn apply<S: Simd, T: Element>(s: S, x: S::V) -> S::V;
}

/// `x`.
pub struct Identity;

/// `max(x, 0)`.
pub struct Relu;

/// `x * sigmoid(x)`.
pub struct Silu;

/// `x * Phi(x)`.
pub struct Gelu;

impl Activation for Identity {
    #[inline(always)]
    fn apply<S: Simd, T: Element>(_: S, x: S::V) -> S::V {
        x
    }
}

impl Activation for Relu {
    #[inline(always)]
    fn apply<S: Simd, T: Element>(s: S, x: S::V) -> S::V {
        // `max` returns its second operand where that is a NaN.
        s.max(s.splat(0.0), x)
    }
}

impl Activation for Silu {
    #[inline(always)]
    fn apply<S: Simd, T: Element>(s: S, x: S::V) -> S::V {
        T::silu(s, x)
    }
}

impl Activation for Gelu {
    #[inline(always)]
    fn apply<S: Simd, T: Element>(s: S, x: S::V) -> S::V {
        math::gelu(s, x)
    }
}
