//! Checks of a plan. Backends rely on them for memory safety.

use super::{BufferId, Conv, Extent, Op, Plan, PreAdd, TensorId, View};

/// Most values of all maps together: more than any machine's memory, and sums of a few fit in a `usize`.
const MAX_VALUES: usize = 1 << 40;

impl Plan {
    /// Checks what backends rely on:
    ///
    /// 1. everything that [`Plan::check_steps`] checks;
    /// 2. nothing is read before it is written;
    /// 3. every channel of every buffer is written exactly once, so no step writes what it reads;
    /// 4. every constant is used.
    ///
    /// # Errors
    /// The first rule that is broken, with the step's name.
    pub fn check(&self) -> Result<(), String> {
        self.check_steps()?;
        let mut written: Vec<Vec<bool>> = self.buffers.iter().map(|b| vec![false; b.c]).collect();
        let mut used = vec![false; self.tensors.len()];
        let mut selected = false;
        for step in &self.steps {
            let fail = |what: String| Err(format!("{}: {what}", step.name));
            for view in step.op.reads().into_iter().chain(step.op.writes()) {
                let buffer = self.buffer_of(view);
                if buffer.extent == Extent::Rows && !selected {
                    return fail(format!("{} before the selection", buffer.name));
                }
            }
            for view in step.op.reads() {
                if !written[view.buffer.0][view.c0..view.c0 + view.c].iter().all(|w| *w) {
                    return fail(format!("reads {} before it is written", self.buffer_of(view).name));
                }
            }
            for id in step.op.tensors() {
                used[id.0] = true;
            }
            if let Some(view) = step.op.writes() {
                let channels = &mut written[view.buffer.0][view.c0..view.c0 + view.c];
                if channels.iter().any(|w| *w) {
                    return fail(format!("writes {} once more", self.buffer_of(view).name));
                }
                channels.fill(true);
            }
            selected |= step.op.fixes_rows();
        }
        let forgotten = written.iter().position(|channels| channels.contains(&false));
        if let Some(id) = forgotten {
            return Err(format!("{} is never written, or not all of it", self.buffers[id].name));
        }
        if let Some(id) = used.iter().position(|used| !used) {
            return Err(format!("constant {} is never used", self.tensors[id].name));
        }
        Ok(())
    }

    /// Checks each step by itself: views lie within their buffers and are of the extents that the step asks for,
    /// constants have the right shapes. Every backend relies on this for memory safety.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check_steps(&self) -> Result<(), String> {
        let mut values = 0usize;
        for buffer in &self.buffers {
            let (h, w) = match buffer.extent {
                Extent::Map { h, w } => (h, w),
                Extent::Rows => (1, 1),
            };
            let size = h.checked_mul(w).and_then(|n| n.checked_mul(buffer.c));
            values = values.saturating_add(size.unwrap_or(usize::MAX));
            if values > MAX_VALUES {
                return Err(format!("{} is {h} x {w} x {}", buffer.name, buffer.c));
            }
        }
        for step in &self.steps {
            let fail = |what: String| format!("{}: {what}", step.name);
            for view in step.op.reads().into_iter().chain(step.op.writes()) {
                self.check_view(view).map_err(fail)?;
            }
            if let Some(dst) = step.op.writes()
                && step.op.reads().into_iter().any(|src| src.overlaps(dst))
            {
                return Err(fail(format!("reads and writes {}", self.buffer_of(dst).name)));
            }
            self.check_shapes(&step.op).map_err(fail)?;
        }
        for port in self.inputs.iter().chain(&self.outputs) {
            self.check_view(port.view).map_err(|what| format!("{}: {what}", port.name))?;
        }
        self.check_pose_ports()
    }

    /// That a view lies within its buffer.
    pub(crate) fn check_view(&self, view: View) -> Result<(), String> {
        let View { buffer: BufferId(id), c0, c } = view;
        let buffer = self.buffers.get(id).ok_or_else(|| format!("no buffer {id}"))?;
        if matches!(buffer.extent, Extent::Map { h, w } if h == 0 || w == 0) {
            return Err(format!("{} has no pixels", buffer.name));
        }
        match c0.checked_add(c) {
            Some(end) if c > 0 && end <= buffer.c => Ok(()),
            _ => Err(format!("{c} channels from {c0} on, of {} of {}", buffer.name, buffer.c)),
        }
    }

    /// Height, width and channels of a view of a map.
    pub(super) fn map_shape(&self, view: View) -> Result<[usize; 3], String> {
        match self.buffer_of(view).extent {
            Extent::Map { h, w } => Ok([h, w, view.c]),
            Extent::Rows => Err(format!("{} is no map", self.buffer_of(view).name)),
        }
    }

    /// That a view is of a map of this shape.
    pub(super) fn expect_map(&self, view: View, shape: [usize; 3]) -> Result<(), String> {
        match self.map_shape(view)? {
            found if found == shape => Ok(()),
            found => Err(format!("{} is {found:?}, not {shape:?}", self.buffer_of(view).name)),
        }
    }

    pub(super) fn expect_rows(&self, view: View, c: usize) -> Result<(), String> {
        let buffer = self.buffer_of(view);
        match buffer.extent == Extent::Rows && view.c == c {
            true => Ok(()),
            false => Err(format!("{} is not rows of {c} channels", buffer.name)),
        }
    }

    /// That constants are of these shapes.
    pub(super) fn expect_constants(&self, constants: &[(TensorId, &[usize])]) -> Result<(), String> {
        for (id, shape) in constants {
            let tensor = self.tensors.get(id.0).ok_or(format!("no constant {}", id.0))?;
            if tensor.shape != *shape || tensor.data.len() != shape.iter().product::<usize>() {
                let (name, len) = (&tensor.name, tensor.data.len());
                return Err(format!("constant {name} is {:?} of {len} values, not {shape:?}", tensor.shape));
            }
        }
        Ok(())
    }

    /// Checks a step whose views lie within their buffers.
    fn check_shapes(&self, op: &Op) -> Result<(), String> {
        match op {
            Op::Conv(conv) => self.check_conv(conv),
            Op::PoolPyramid { src, dst, window } => {
                let [h, w, c] = self.map_shape(*src)?;
                self.expect_map(*dst, [h, w, 3 * c])?;
                if window % 2 == 1 { Ok(()) } else { Err(format!("window of {window}")) }
            }
            Op::MaxPool { src, dst, window, stride, pad } => {
                // With `window = 2 pad + 1` every window has a pixel of the map, and there are `ceil(in / stride)`
                // windows.
                if *stride == 0 || pad.checked_mul(2).and_then(|p| p.checked_add(1)) != Some(*window) {
                    return Err(format!("window {window}, stride {stride}, pad {pad}"));
                }
                let [h, w, c] = self.map_shape(*src)?;
                self.expect_map(*dst, [h.div_ceil(*stride), w.div_ceil(*stride), c])
            }
            Op::Attention { qkv, dst, heads } => {
                let [h, w, c] = self.map_shape(*dst)?;
                self.expect_map(*qkv, [h, w, 3 * c])?;
                let whole = *heads > 0 && c.is_multiple_of(*heads);
                if whole { Ok(()) } else { Err(format!("{heads} heads of {c} channels")) }
            }
            Op::LayerNorm { src, dst, gamma, beta, .. } => {
                let shape = self.map_shape(*src)?;
                self.expect_map(*dst, shape)?;
                self.expect_constants(&[(*gamma, &shape[2..]), (*beta, &shape[2..])])
            }
            Op::Pose(pose) => self.check_pose(pose),
        }
    }

    fn check_conv(&self, conv: &Conv) -> Result<(), String> {
        let Conv { kernel, stride, pad, groups, .. } = *conv;
        let [h, w, cin] = self.map_shape(conv.src)?;
        let cout = conv.dst.c;
        // Kernels that read taps in whole rows rely on this padding to stay within the map.
        let known =
            matches!((kernel, stride, pad), (1, 1 | 2, 0) | (3, 1 | 2, 1) | (6, 1 | 2, 2) | (7, 1 | 2, 3));
        if !known || groups == 0 || !cin.is_multiple_of(groups) || !cout.is_multiple_of(groups) {
            return Err(format!(
                "kernel {kernel}, stride {stride}, pad {pad}, groups {groups}, {cin} to {cout}"
            ));
        }
        let output = [h.div_ceil(stride), w.div_ceil(stride), cout];
        self.expect_map(conv.dst, output)?;
        if let Some(view) = conv.post_add {
            self.expect_map(view, output)?;
        }
        self.expect_constants(&[(conv.weight, &[cout, kernel, kernel, cin / groups]), (conv.bias, &[cout])])?;
        match conv.pre_add {
            PreAdd::None => Ok(()),
            PreAdd::Same(view) => self.expect_map(view, output),
            PreAdd::Upsampled(view) => {
                let [h, w, c] = self.map_shape(view)?;
                self.expect_map(conv.dst, [2 * h, 2 * w, c])
            }
            PreAdd::Table(id) => self.expect_constants(&[(id, &output)]),
        }
    }
}
