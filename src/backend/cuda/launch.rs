//! Kernel launches: what is launched, and the one place that does it on a device.

use crate::error::{Error, Result};
use bytemuck::Pod;
use cudarc::driver::sys;
use std::any::TypeId;
use std::ffi::c_void;

/// A compiled kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Kernel {
    /// Its file: `layer_norm` for `layer_norm.cu`.
    pub file: &'static str,
    /// Its name in the compiled code.
    pub name: &'static str,
}

/// The parameter struct of a launch.
#[derive(Clone, Debug)]
pub(super) struct Params {
    of: TypeId,
    /// The struct's bytes, aligned for any field; the last word may be cut.
    words: Box<[u64]>,
    len: usize,
}

impl Params {
    pub fn new<T: Pod>(params: T) -> Params {
        let len = size_of::<T>();
        let mut words = vec![0u64; len.div_ceil(8)].into_boxed_slice();
        bytemuck::cast_slice_mut(&mut words)[..len].copy_from_slice(bytemuck::bytes_of(&params));
        Params { of: TypeId::of::<T>(), words, len }
    }

    /// The struct, as the kernel takes it.
    pub fn bytes(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.words)[..self.len]
    }

    /// The struct again, to be changed, if it is of that type.
    pub fn get_mut<T: Pod>(&mut self) -> Option<&mut T> {
        let bytes = &mut bytemuck::cast_slice_mut(&mut self.words)[..self.len];
        (self.of == TypeId::of::<T>()).then(|| bytemuck::from_bytes_mut(bytes))
    }
}

/// One launch of one kernel.
#[derive(Clone, Debug)]
pub(super) struct Launch {
    pub kernel: Kernel,
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

impl Launch {
    /// A launch without clusters or shared memory.
    pub fn new<T: Pod>(kernel: Kernel, grid: [u32; 3], threads: u32, params: T, steps: &[usize]) -> Launch {
        let params = Params::new(params);
        Launch { kernel, grid, cluster: 1, threads, shared: 0, params, steps: steps.to_vec() }
    }
}

/// Enqueues a kernel on a stream. `dependent`: it may start while the kernel before it still runs, up to its
/// `griddepcontrol.wait`.
///
/// # Errors
/// What the driver says, with the kernel's name.
///
/// # Safety
/// `function` is `launch.kernel` in a module loaded in the current context, `stream` belongs to that context, and every
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
    // SAFETY: the kernel takes exactly one parameter, a struct of this size (both sides are made from one text), which
    // the driver copies during the call; the rest is the caller's promise.
    let code = unsafe { sys::cuLaunchKernelEx(&config, function, params.as_mut_ptr(), std::ptr::null_mut()) };
    code.result().map_err(|e| {
        let (grid, block, shared) = (launch.grid, launch.threads, launch.shared);
        Error::Device(format!(
            "kernel {}: launch of {grid:?} blocks of {block} threads with {shared} bytes of shared memory: {e}",
            launch.kernel.name
        ))
    })
}
