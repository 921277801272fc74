//! Weights and tables on the device.

use super::gpu::{Gpu, Memory, Purpose};
use super::ops::pack;
use crate::error::Result;
use crate::plan::{Plan, TensorId};
use std::collections::HashMap;
use std::sync::Arc;

/// Constants on the device, each packed once for each way it is used.
pub(super) struct Constants {
    pub gpu: Arc<dyn Gpu>,
    slabs: Vec<Memory>,
    used: usize,
    /// By the plan's tensor, if it is of one, and how it is packed.
    known: HashMap<(Option<TensorId>, String), u64>,
    /// Bytes of all constants.
    pub bytes: usize,
}

impl Constants {
    /// Bytes allocated at a time.
    const SLAB: usize = 4 << 20;

    pub fn new(gpu: &Arc<dyn Gpu>) -> Constants {
        Constants { gpu: gpu.clone(), slabs: vec![], used: 0, known: HashMap::new(), bytes: 0 }
    }

    /// The address of a constant, which is made and copied at its first use. `packing` names everything that `make`
    /// depends on besides the tensor: it is part of the key.
    ///
    /// # Errors
    /// If the device has no memory left.
    pub fn put(
        &mut self,
        tensor: Option<TensorId>,
        packing: String,
        make: impl FnOnce() -> Vec<u8>,
    ) -> Result<u64> {
        let key = (tensor, packing);
        if let Some(&address) = self.known.get(&key) {
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
        self.known.insert(key, address);
        Ok(address)
    }

    /// Bytes allocated.
    pub fn allocated(&self) -> usize {
        self.slabs.iter().map(|slab| slab.bytes).sum()
    }

    /// A tensor in fp32, padded with zeros to `len` values.
    pub fn floats(&mut self, plan: &Plan, t: TensorId, len: usize) -> Result<u64> {
        self.put(Some(t), format!("{len} floats"), || pack::floats(&plan.tensors[t.0].data, len))
    }

    /// A tensor in fp16.
    pub fn halves(&mut self, plan: &Plan, t: TensorId) -> Result<u64> {
        self.put(Some(t), "halves".into(), || pack::halves(&plan.tensors[t.0].data))
    }

    /// A matrix as mma fragments.
    pub fn fragments(&mut self, plan: &Plan, t: TensorId) -> Result<u64> {
        let tensor = &plan.tensors[t.0];
        let (rows, columns) = (tensor.shape[0], tensor.shape[1]);
        self.put(Some(t), "fragments".into(), || pack::fragments(&tensor.data, rows, columns))
    }
}
