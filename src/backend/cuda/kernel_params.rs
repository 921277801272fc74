//! How parameter structs of kernels are written down: once, in the `params.rs` of each operation, with the types that
//! the kernel sees. `build/params.rs` makes the C++ header from the same file and says what it may hold.

use bytemuck::Pod;
use half::f16;

/// A type of a kernel's parameters, and what the host keeps in its place.
pub trait Param {
    /// The same for numbers; `u64` for device addresses.
    type Host: Pod;
}

macro_rules! same {
    ($($t:ty),*) => {$(
        impl Param for $t {
            type Host = $t;
        }
    )*};
}
same!(i32, u32, i64, u64, f32, f16);

impl<T> Param for *const T {
    type Host = u64;
}

impl<T> Param for *mut T {
    type Host = u64;
}

impl<T: Param, const N: usize> Param for [T; N]
where
    [T::Host; N]: Pod,
{
    type Host = [T::Host; N];
}

/// Parameter structs as the kernels take them: fields in order, without padding, which `Pod` checks.
macro_rules! params {
    ($($(#[$about:meta])* $name:ident { $($(#[$what:meta])* $field:ident: $t:ty),* $(,)? })*) => {$(
        $(#[$about])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
        pub struct $name {
            $($(#[$what])* pub $field: <$t as $crate::backend::cuda::kernel_params::Param>::Host),*
        }
        impl $crate::backend::cuda::kernel_params::Param for $name {
            type Host = $name;
        }
        impl Default for $name {
            fn default() -> Self {
                bytemuck::Zeroable::zeroed()
            }
        }
    )*};
}
pub(in crate::backend::cuda) use params;
