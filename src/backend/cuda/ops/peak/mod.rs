//! The measured peak rate of a GPU's tensor cores: `peak.cu`.

mod params;

use self::params::PeakLaunch;
use crate::backend::cuda::device::{CudaGpu, Device};
use crate::backend::cuda::gpu::{Caps, Gpu, GraphRecipe, Memory, Purpose};
use crate::backend::cuda::launch::{Kernel, Launch};
use crate::backend::device::Kernels;
use crate::error::Result;
use half::f16;
use std::sync::Arc;
use std::time::Duration;

/// Floating-point operations a second, two a multiply-add, that the tensor cores of a GPU do at most in fp16 products
/// with fp32 sums. Measured, which takes some milliseconds.
///
/// # Errors
/// As [`CudaExecutor::new`](crate::backend::cuda::CudaExecutor::new).
pub fn tensor_peak(ordinal: usize) -> Result<f64> {
    let gpu: Arc<dyn Gpu> = Arc::new(CudaGpu(Device::open(ordinal, Kernels::default())?));
    let values: Vec<f16> =
        (0..512u32).map(|i| f16::from_f32(((i * 37 % 101) as f32 - 50.0) / 64.0)).collect();
    let mut best: f64 = 0.0;
    for _ in 0..3 {
        let (_, rate) = peak(&gpu, bytemuck::cast_slice(&values), 4096)?;
        best = best.max(rate);
    }
    Ok(best)
}

/// Runs the GPU's peak kernel on 512 halves; returns what it wrote, and operations a second.
pub fn peak(gpu: &Arc<dyn Gpu>, values: &[u8], iterations: i32) -> Result<(Vec<f32>, f64)> {
    let Caps { sms, wgmma, .. } = gpu.caps();
    // blocks, shared memory, operations of a block and iteration
    let (name, blocks, shared, flops) = match wgmma {
        true => ("peak_wg", sms, 32 << 10, 2 * 4 * (64 * 128 * 16 * 2)),
        false => ("peak_mma", 2 * sms, 0, 8 * 4 * 8 * (16 * 8 * 16 * 2)),
    };
    let data = Memory::new(gpu, values.len(), Purpose::Constant)?;
    data.write(0, values)?;
    let mut sums = vec![0f32; blocks as usize * 256];
    let out = Memory::new(gpu, sums.len() * 4, Purpose::Working)?;
    let params = PeakLaunch { data: data.address, out: out.address, iterations, reserved: 0 };
    let kernel = Kernel { file: "peak", name };
    let launches = vec![Launch { shared, ..Launch::new(kernel, [blocks, 1, 1], 256, params, &[]) }];
    // SAFETY: addresses are those of `data` and `out`, which live until the program is dropped.
    let program = unsafe { gpu.compile(GraphRecipe { launches, marks: vec![1], ..GraphRecipe::default() }) }?;
    program.run()?;
    let time: Duration = program.run_staged()?.iter().sum();
    out.read(0, bytemuck::cast_slice_mut(&mut sums))?;
    let operations = f64::from(blocks) * f64::from(flops) * f64::from(iterations);
    Ok((sums, operations / time.as_secs_f64().max(1e-9)))
}
