//! What backends may rely on, as code.

use super::{BufferId, Conv, Extent, Op, Plan, PreAdd, TensorId, View};

impl Plan {
    /// Checks what a plan promises its backends: views lie within their buffers and are of the extents that their
    /// step asks for; constants have the right shapes; nothing is read before it is written; every channel of every
    /// buffer is written exactly once (so no step writes what it reads); every constant is used.
    ///
    /// # Errors
    /// The first promise that is broken.
    pub fn check(&self) -> Result<(), String> {
        let mut written: Vec<Vec<bool>> = self.buffers.iter().map(|b| vec![false; b.c]).collect();
        let mut used = vec![false; self.tensors.len()];
        let mut selected = false;
        for step in &self.steps {
            let fail = |what: String| Err(format!("{}: {what}", step.name));
            for view in step.op.reads().into_iter().chain(step.op.writes()) {
                let BufferId(id) = view.buffer;
                match self.buffers.get(id) {
                    None => return fail(format!("no buffer {id}")),
                    Some(b) if view.c == 0 || view.c0 + view.c > b.c => {
                        return fail(format!("channels {}..{} of {}", view.c0, view.c0 + view.c, b.name));
                    }
                    Some(b) if b.extent == Extent::Survivors && !selected => {
                        return fail(format!("{} before the selection", b.name));
                    }
                    Some(_) => {}
                }
            }
            for view in step.op.reads() {
                if !written[view.buffer.0][view.c0..view.c0 + view.c].iter().all(|w| *w) {
                    return fail(format!("reads {} before it is written", self.buffer_of(view).name));
                }
            }
            for id in self.check_shapes(&step.op).map_err(|what| format!("{}: {what}", step.name))? {
                used[id.0] = true;
            }
            if let Some(view) = step.op.writes() {
                let channels = &mut written[view.buffer.0][view.c0..view.c0 + view.c];
                if channels.iter().any(|w| *w) {
                    return fail(format!("writes {} once more", self.buffer_of(view).name));
                }
                channels.fill(true);
            }
            selected |= matches!(step.op, Op::Select { .. });
        }
        let forgotten = written.iter().position(|channels| channels.contains(&false));
        if let Some(id) = forgotten {
            return Err(format!("{} is never written, or not all of it", self.buffers[id].name));
        }
        if let Some(id) = used.iter().position(|used| !used) {
            return Err(format!("constant {} is never used", self.tensors[id].name));
        }
        let outputs = [(self.keypoint_xy, 2 * self.keypoints), (self.keypoint_vis, self.keypoints)];
        for (view, c) in outputs {
            if let Some(view) = view
                && (self.buffer_of(view).extent != Extent::Survivors || view.c != c)
            {
                return Err(format!(
                    "output {} is not of {c} channels a survivor",
                    self.buffer_of(view).name
                ));
            }
        }
        Ok(())
    }

    /// Height, width and channels of a view of a map.
    fn map_shape(&self, view: View) -> Result<[usize; 3], String> {
        match self.buffer_of(view).extent {
            Extent::Map { h, w } => Ok([h, w, view.c]),
            Extent::Survivors => Err(format!("{} is no map", self.buffer_of(view).name)),
        }
    }

    /// That a view is of a map of this shape.
    fn expect_map(&self, view: View, shape: [usize; 3]) -> Result<(), String> {
        match self.map_shape(view)? {
            found if found == shape => Ok(()),
            found => Err(format!("{} is {found:?}, not {shape:?}", self.buffer_of(view).name)),
        }
    }

    fn expect_rows(&self, view: View, c: usize) -> Result<(), String> {
        let buffer = self.buffer_of(view);
        match buffer.extent == Extent::Survivors && view.c == c {
            true => Ok(()),
            false => Err(format!("{} is not of {c} channels a survivor", buffer.name)),
        }
    }

    /// That constants are of these shapes; returns them.
    fn expect_constants(&self, constants: &[(TensorId, &[usize])]) -> Result<Vec<TensorId>, String> {
        for (id, shape) in constants {
            let tensor = self.tensors.get(id.0).ok_or(format!("no constant {}", id.0))?;
            if tensor.shape != *shape || tensor.data.len() != shape.iter().product::<usize>() {
                return Err(format!("constant {} is {:?}, not {shape:?}", tensor.name, tensor.shape));
            }
        }
        Ok(constants.iter().map(|(id, _)| *id).collect())
    }

    /// Checks a step by itself; returns the constants that it uses.
    fn check_shapes(&self, op: &Op) -> Result<Vec<TensorId>, String> {
        match op {
            Op::Letterbox { dst } => {
                let (w, h) = self.input_size;
                self.expect_map(*dst, [h, w, 3])?;
                Ok(vec![])
            }
            Op::Conv(conv) => self.check_conv(conv),
            Op::PoolPyramid { src, dst, window } => {
                let [h, w, c] = self.map_shape(*src)?;
                self.expect_map(*dst, [h, w, 3 * c])?;
                if window % 2 == 1 { Ok(vec![]) } else { Err(format!("window of {window}")) }
            }
            Op::Attention { qkv, dst, heads } => {
                let [h, w, c] = self.map_shape(*dst)?;
                self.expect_map(*qkv, [h, w, 3 * c])?;
                if c % heads == 0 { Ok(vec![]) } else { Err(format!("{heads} heads of {c} channels")) }
            }
            Op::LayerNorm { src, dst, gamma, beta, .. } => {
                let shape = self.map_shape(*src)?;
                self.expect_map(*dst, shape)?;
                self.expect_constants(&[(*gamma, &shape[2..]), (*beta, &shape[2..])])
            }
            Op::Select { levels } => {
                for level in levels {
                    let (w, h) = self.input_size;
                    let (h, w) = (h / level.stride, w / level.stride);
                    self.expect_map(level.cls, [h, w, 1])?;
                    self.expect_map(level.bbox, [h, w, 4])?;
                }
                Ok(vec![])
            }
            Op::SurvivorLinear { src, weight, bias, dst } => {
                self.expect_rows(*dst, dst.c)?;
                if src.len() != weight.len() || src.len() != bias.len() {
                    return Err(format!(
                        "{} maps, {} weights, {} biases",
                        src.len(),
                        weight.len(),
                        bias.len()
                    ));
                }
                let mut used = Vec::new();
                for ((src, weight), bias) in src.iter().zip(weight).zip(bias) {
                    let [.., c] = self.map_shape(*src)?;
                    used.extend(self.expect_constants(&[(*weight, &[dst.c, c]), (*bias, &[dst.c])])?);
                }
                Ok(used)
            }
            Op::Gau(g) => {
                let (k, d, e, s) = (g.tokens, g.dim, g.expansion, g.key_dim);
                self.expect_rows(g.src, k * d)?;
                self.expect_rows(g.dst, k * d)?;
                self.expect_constants(&[
                    (g.norm_gain, &[1]),
                    (g.uv, &[2 * e + s, d]),
                    (g.q_gain, &[s]),
                    (g.q_bias, &[k, s]),
                    (g.k_gain, &[s]),
                    (g.k_bias, &[k, s]),
                    (g.out, &[d, e]),
                    (g.residual_gain, &[d]),
                ])
            }
            Op::BinDecode(b) => {
                self.expect_rows(b.src, b.tokens * b.dim)?;
                self.expect_rows(b.dst, b.tokens * 2)?;
                let shape = [b.pe_dim, b.dim];
                self.expect_constants(&[(b.x.weight, &shape), (b.y.weight, &shape)])
            }
        }
    }

    fn check_conv(&self, conv: &Conv) -> Result<Vec<TensorId>, String> {
        let Conv { kernel, stride, pad, groups, .. } = *conv;
        let [h, w, cin] = self.map_shape(conv.src)?;
        let cout = conv.dst.c;
        let known = matches!((kernel, stride, pad), (1, 1, 0) | (3, 1 | 2, 1) | (6, 2, 2));
        if !known || !cin.is_multiple_of(groups) || !cout.is_multiple_of(groups) {
            return Err(format!(
                "kernel {kernel}, stride {stride}, pad {pad}, groups {groups}, {cin} to {cout}"
            ));
        }
        let output = [h.div_ceil(stride), w.div_ceil(stride), cout];
        self.expect_map(conv.dst, output)?;
        if let Some(view) = conv.post_add {
            self.expect_map(view, output)?;
        }
        let mut used = self.expect_constants(&[
            (conv.weight, &[cout, kernel, kernel, cin / groups]),
            (conv.bias, &[cout]),
        ])?;
        match conv.pre_add {
            PreAdd::None => {}
            PreAdd::Same(view) => self.expect_map(view, output)?,
            PreAdd::Upsampled(view) => {
                let [h, w, c] = self.map_shape(view)?;
                self.expect_map(conv.dst, [2 * h, 2 * w, c])?;
            }
            PreAdd::Table(id) => used.extend(self.expect_constants(&[(id, &output)])?),
        }
        Ok(used)
    }
}
