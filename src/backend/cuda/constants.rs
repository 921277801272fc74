//! Weights and tables on the device.

use super::gpu::{Gpu, Memory, Purpose};
use super::pack;
use super::tiles::Shape;
use crate::error::Result;
use crate::plan::{Act, Conv, Plan, TensorId};
use std::collections::HashMap;
use std::sync::Arc;

/// An order in which a kernel wants a constant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Packing {
    /// Weights of a convolution of this shape for tiles of BK and BN channels.
    Conv(Shape, usize, usize),
    Halves,
    Floats(usize),
    /// Bias of a convolution, scaled for its activation.
    Bias(usize, Act),
    Fragments,
    /// Of the bin classifier, see [`pack::turning`].
    Turning,
    /// Not a tensor of the plan: encoding frequencies, by the temperature's bits.
    Frequencies(u32),
}

/// Constants on the device, each packed once for each way it is used.
pub(super) struct Constants {
    pub gpu: Arc<dyn Gpu>,
    slabs: Vec<Memory>,
    used: usize,
    known: HashMap<(usize, Packing), u64>,
    /// Bytes of all constants.
    pub bytes: usize,
}

impl Constants {
    /// Bytes allocated at a time.
    const SLAB: usize = 4 << 20;

    pub fn new(gpu: &Arc<dyn Gpu>) -> Constants {
        Constants { gpu: gpu.clone(), slabs: vec![], used: 0, known: HashMap::new(), bytes: 0 }
    }

    pub fn put(&mut self, tensor: usize, packing: Packing, make: impl FnOnce() -> Vec<u8>) -> Result<u64> {
        if let Some(&address) = self.known.get(&(tensor, packing)) {
            return Ok(address);
        }
        let data = make();
        let room = self.slabs.last().map_or(0, |s| s.bytes - self.used);
        if data.len() > room {
            self.slabs.push(Memory::new(&self.gpu, data.len().max(Self::SLAB), Purpose::Constant)?);
            self.used = 0;
        }
        let slab = self.slabs.last().expect("just made");
        let address = slab.address + self.used as u64;
        slab.write(self.used, &data)?;
        self.used = (self.used + data.len()).next_multiple_of(256).min(slab.bytes);
        self.bytes += data.len();
        self.known.insert((tensor, packing), address);
        Ok(address)
    }

    /// Bytes allocated.
    pub fn held(&self) -> usize {
        self.slabs.iter().map(|slab| slab.bytes).sum()
    }

    pub fn floats(&mut self, plan: &Plan, t: TensorId, len: usize) -> Result<u64> {
        self.put(t.0, Packing::Floats(len), || pack::floats(&plan.tensors[t.0].data, len))
    }

    /// Bias of a convolution, padded to `len`; see [`pack::conv_scale`].
    pub fn bias(&mut self, plan: &Plan, c: &Conv, len: usize) -> Result<u64> {
        self.put(c.bias.0, Packing::Bias(len, c.act), || {
            let scale = pack::conv_scale(c.act);
            let scaled: Vec<f32> = plan.tensors[c.bias.0].data.iter().map(|v| v * scale).collect();
            pack::floats(&scaled, len)
        })
    }

    pub fn halves(&mut self, plan: &Plan, t: TensorId) -> Result<u64> {
        self.put(t.0, Packing::Halves, || pack::halves(&plan.tensors[t.0].data))
    }

    pub fn fragments(&mut self, plan: &Plan, t: TensorId) -> Result<u64> {
        let tensor = &plan.tensors[t.0];
        self.put(t.0, Packing::Fragments, || pack::fragments(&tensor.data, tensor.shape[0], tensor.shape[1]))
    }
}
