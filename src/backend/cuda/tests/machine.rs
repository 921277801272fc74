//! What the machine's side relies on: its measured peak.

use super::*;
use crate::backend::cuda::ops::peak::peak;

#[test]
fn peaks_are_measured_on_products_that_happen() {
    let older = Emulator::start(TURING, 1);
    for gpu in gpus(&[1]).into_iter().chain(older) {
        let ones = vec![f16::ONE; 512];
        let (sums, rate) = peak(&gpu, bytemuck::cast_slice(&ones), 3).unwrap();
        // 3 iterations of 64 along K, in each of a thread's accumulators: 64, or 32 of mma.sync
        let accumulators = if gpu.caps().wgmma { 64.0 } else { 32.0 };
        assert!(sums.iter().all(|&s| s == 3.0 * 64.0 * accumulators), "{:?}", &sums[..4]);
        assert!(rate > 0.0 && rate.is_finite());
    }
}
