//! What the machine's side relies on: parameters as both sides see them, and its measured peak.

use super::*;
use crate::backend::cuda::launch::{Launch, Params};
use crate::backend::cuda::measure;
use crate::backend::cuda::params::{self, Fields};
use bytemuck::Zeroable;

#[test]
fn parameters_arrive_field_by_field() {
    fn check<T: bytemuck::Pod + Fields + Zeroable>(gpu: &Arc<dyn Gpu>, kernel: &'static str) {
        let mut value = T::zeroed();
        value.number(&mut 1);
        let mut want = Vec::new();
        value.list(&mut want);
        let out = Memory::new(gpu, want.len() * 8, Purpose::Working).unwrap();
        let mut bytes = bytemuck::bytes_of(&value).to_vec();
        bytes.extend(out.address.to_le_bytes());
        let launch = Launch {
            kernel,
            grid: [1; 3],
            cluster: 1,
            threads: 1,
            shared: 0,
            params: Params::Raw(bytes),
            steps: vec![],
        };
        let sequence = Sequence { launches: vec![launch], ..Sequence::default() };
        // SAFETY: the kernel follows no address but that of `out`.
        unsafe { gpu.compile(sequence) }.unwrap().run().unwrap();
        let mut got = vec![0i64; want.len()];
        out.read(0, bytemuck::cast_slice_mut(&mut got)).unwrap();
        assert_eq!(got, want, "{kernel}");
    }
    for gpu in gpus(&[0]) {
        check::<params::ConvLaunch>(&gpu, "echo_ConvLaunch");
        check::<params::Frame>(&gpu, "echo_Frame");
        check::<params::LetterboxLaunch>(&gpu, "echo_LetterboxLaunch");
        check::<params::PoolLaunch>(&gpu, "echo_PoolLaunch");
        check::<params::AttentionLaunch>(&gpu, "echo_AttentionLaunch");
        check::<params::LayerNormLaunch>(&gpu, "echo_LayerNormLaunch");
        check::<params::PredictLaunch>(&gpu, "echo_PredictLaunch");
        check::<params::Survivor>(&gpu, "echo_Survivor");
        check::<params::SelectLaunch>(&gpu, "echo_SelectLaunch");
        check::<params::SurvivorLinearLaunch>(&gpu, "echo_SurvivorLinearLaunch");
        check::<params::GauLaunch>(&gpu, "echo_GauLaunch");
        check::<params::BinDecodeLaunch>(&gpu, "echo_BinDecodeLaunch");
        check::<params::CollectLaunch>(&gpu, "echo_CollectLaunch");
        check::<params::PeakLaunch>(&gpu, "echo_PeakLaunch");
    }
}

#[test]
fn peaks_are_measured_on_products_that_happen() {
    let older = Emulator::start(TURING, 1);
    for gpu in gpus(&[1]).into_iter().chain(older) {
        let ones = vec![f16::ONE; 512];
        let (sums, rate) = measure::peak(&gpu, bytemuck::cast_slice(&ones), 3).unwrap();
        // 3 iterations of 64 along K, in each of a thread's accumulators: 64, or 32 of mma.sync
        let accumulators = if gpu.caps().wgmma { 64.0 } else { 32.0 };
        assert!(sums.iter().all(|&s| s == 3.0 * 64.0 * accumulators), "{:?}", &sums[..4]);
        assert!(rate > 0.0 && rate.is_finite());
    }
}
