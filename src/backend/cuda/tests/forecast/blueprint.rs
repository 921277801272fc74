//! A GPU that only lends addresses: networks are lowered for it, and never run.

use super::*;
use std::sync::atomic::AtomicU64;

pub struct Blueprint {
    caps: Caps,
    next: AtomicU64,
}

impl Blueprint {
    pub fn gpu(caps: Caps) -> Arc<dyn Gpu> {
        Arc::new(Blueprint { caps, next: AtomicU64::new(1 << 32) })
    }
}

fn none<T>() -> Result<T> {
    Err(Error::Device("a blueprint has no memory".into()))
}

impl Gpu for Blueprint {
    fn caps(&self) -> Caps {
        self.caps
    }
    fn describe(&self) -> String {
        "blueprint".into()
    }
    fn identity(&self) -> String {
        "blueprint".into()
    }
    fn alloc(&self, bytes: usize, _: Purpose) -> Result<u64> {
        Ok(self.next.fetch_add(bytes.next_multiple_of(256) as u64, Ordering::Relaxed))
    }
    unsafe fn free(&self, _: u64) {}
    fn alloc_host(&self, _: usize) -> Result<(u64, u64)> {
        none()
    }
    unsafe fn free_host(&self, _: u64) {}
    unsafe fn upload(&self, _: u64, _: &[u8]) -> Result<()> {
        Ok(())
    }
    unsafe fn fill(&self, _: u64, _: u8, _: usize) -> Result<()> {
        Ok(())
    }
    unsafe fn download(&self, _: u64, _: &mut [u8]) -> Result<()> {
        none()
    }
    unsafe fn compile(&self, _: GraphRecipe) -> Result<Box<dyn Program>> {
        none()
    }
}
