//! The linear maps of survivors' grid cells.

use crate::backend::reference::Reference;
use crate::backend::reference::ops::dot;
use crate::plan::{TensorId, View};

impl Reference {
    /// One row a survivor: the linear map of its level, applied to its grid cell's channels.
    pub(super) fn survivor_linear(
        &mut self,
        src: &[View],
        weight: &[TensorId],
        bias: &[TensorId],
        dst: View,
    ) {
        let mut rows = Vec::new();
        for person in &self.people {
            let view = src[person.level];
            let pitch = self.plan.buffer_of(view).c;
            let x = &self.buffers[view.buffer.0][person.cell * pitch + view.c0..][..view.c];
            let (weight, bias) = (self.tensor(weight[person.level]), self.tensor(bias[person.level]));
            rows.extend(weight.chunks_exact(view.c).zip(&bias).map(|(w, b)| dot(w, x) + b));
        }
        self.set_map(dst, &rows);
    }
}
