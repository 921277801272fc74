//! Kernel launches: what is launched, and the one place that does it on a device.

use super::params::*;
use crate::error::{Error, Result};
use bytemuck::bytes_of;
use cudarc::driver::sys;
use std::ffi::c_void;

/// Parameters of a launch, by kernel family.
#[derive(Clone, Debug)]
pub(super) enum Params {
    Conv(Box<ConvLaunch>),
    Letterbox(LetterboxLaunch),
    Pool(PoolLaunch),
    Attention(AttentionLaunch),
    LayerNorm(LayerNormLaunch),
    Predict(Box<PredictLaunch>),
    Select(SelectLaunch),
    SurvivorLinear(SurvivorLinearLaunch),
    Gau(GauLaunch),
    BinDecode(BinDecodeLaunch),
    Collect(CollectLaunch),
    Peak(PeakLaunch),
    /// For tests of the parameter structs.
    #[cfg(test)]
    Raw(Vec<u8>),
}

impl Params {
    /// The struct, as the kernel takes it.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Params::Conv(p) => bytes_of(&**p),
            Params::Letterbox(p) => bytes_of(p),
            Params::Pool(p) => bytes_of(p),
            Params::Attention(p) => bytes_of(p),
            Params::LayerNorm(p) => bytes_of(p),
            Params::Predict(p) => bytes_of(&**p),
            Params::Select(p) => bytes_of(p),
            Params::SurvivorLinear(p) => bytes_of(p),
            Params::Gau(p) => bytes_of(p),
            Params::BinDecode(p) => bytes_of(p),
            Params::Collect(p) => bytes_of(p),
            Params::Peak(p) => bytes_of(p),
            #[cfg(test)]
            Params::Raw(bytes) => bytes,
        }
    }
}

/// One launch of one kernel.
#[derive(Clone, Debug)]
pub(super) struct Launch {
    /// Name in the compiled code.
    pub kernel: &'static str,
    pub grid: [u32; 3],
    /// Blocks of a cluster, along the grid's depth.
    pub cluster: u32,
    pub threads: u32,
    /// Dynamic shared memory in bytes.
    pub shared: u32,
    pub params: Params,
    /// Steps of the plan that it executes, for tables and messages; empty for the engine's own.
    pub steps: Vec<usize>,
}

/// Enqueues a kernel on a stream. `dependent`: it may start while the kernel before it still runs, up to its
/// `griddepcontrol.wait`.
///
/// # Errors
/// What the driver says, with the kernel's name.
///
/// # Safety
/// `function` is `launch.kernel` of a module loaded in the current context, `stream` belongs to that context, and every
/// address in the parameters is a device address valid until the kernel has run. `dependent` only for code that was
/// compiled for sm_90 or later (older code does not wait).
pub(super) unsafe fn launch(
    function: sys::CUfunction,
    stream: sys::CUstream,
    launch: &Launch,
    dependent: bool,
) -> Result<()> {
    let mut attributes: Vec<sys::CUlaunchAttribute> = Vec::with_capacity(2);
    let mut attribute = |id, value| attributes.push(sys::CUlaunchAttribute { id, pad: [0; 4], value });
    if launch.cluster > 1 {
        let dim = sys::CUlaunchAttributeValue_union__bindgen_ty_1 { x: 1, y: 1, z: launch.cluster };
        let id = sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION;
        attribute(id, sys::CUlaunchAttributeValue { clusterDim: dim });
    }
    if dependent {
        let id = sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
        attribute(id, sys::CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 1 });
    }
    let config = sys::CUlaunchConfig {
        gridDimX: launch.grid[0],
        gridDimY: launch.grid[1],
        gridDimZ: launch.grid[2],
        blockDimX: launch.threads,
        blockDimY: 1,
        blockDimZ: 1,
        sharedMemBytes: launch.shared,
        hStream: stream,
        attrs: attributes.as_mut_ptr(),
        numAttrs: attributes.len() as u32,
    };
    let mut params = [launch.params.bytes().as_ptr() as *mut c_void];
    // SAFETY: the kernel takes exactly one parameter, a struct of this size (asserted on both sides), which the driver
    // copies during the call; the rest is the caller's promise.
    let code = unsafe { sys::cuLaunchKernelEx(&config, function, params.as_mut_ptr(), std::ptr::null_mut()) };
    code.result().map_err(|e| {
        let (grid, block, shared) = (launch.grid, launch.threads, launch.shared);
        Error::Device(format!(
            "kernel {}: launch of {grid:?} blocks of {block} threads with {shared} bytes of shared memory: {e}",
            launch.kernel
        ))
    })
}
