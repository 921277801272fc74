//! What the parts of the network are built with: reads a checkpoint's layers, appends steps to a plan.

use super::fold::{BatchNorm, Filter};
use crate::error::{Error, Result};
use crate::plan::{Act, Conv, DType, Op, Plan, PreAdd, TensorId, View};
use crate::weights::Checkpoint;
use std::borrow::Cow;
use std::collections::BTreeSet;

/// A plan under construction, and the checkpoint it is made from.
pub(super) struct Net<'a> {
    pub plan: Plan,
    checkpoint: &'a Checkpoint,
    read: BTreeSet<String>,
}

impl<'a> Net<'a> {
    pub fn new(checkpoint: &'a Checkpoint) -> Net<'a> {
        Net { plan: Plan::default(), checkpoint, read: BTreeSet::new() }
    }

    /// Names of the tensors read so far.
    pub fn tensors_read(&self) -> &BTreeSet<String> {
        &self.read
    }

    fn tensor(&mut self, name: &str) -> Result<(Cow<'a, [f32]>, &'a [usize])> {
        let shape = self.checkpoint.shape(name).unwrap_or_default();
        let values = self.checkpoint.values(name, shape)?;
        self.read.insert(name.into());
        Ok((values, shape))
    }

    /// Values of a tensor.
    pub fn values(&mut self, name: &str) -> Result<Vec<f64>> {
        Ok(self.tensor(name)?.0.iter().copied().map(f64::from).collect())
    }

    fn bn(&mut self, prefix: &str, eps: f64) -> Result<BatchNorm> {
        let bn = BatchNorm {
            gamma: self.values(&format!("{prefix}.weight"))?,
            beta: self.values(&format!("{prefix}.bias"))?,
            mean: self.values(&format!("{prefix}.running_mean"))?,
            var: self.values(&format!("{prefix}.running_var"))?,
            eps,
        };
        match bn.var.iter().find(|&&v| v < 0.0) {
            None => Ok(bn),
            Some(v) => Err(Error::Tensor {
                path: self.checkpoint.path().to_path_buf(),
                tensor: format!("{prefix}.running_var"),
                expected: "variances of at least 0".into(),
                got: v.to_string(),
            }),
        }
    }

    fn filter(&mut self, weight: &str, bias: Option<&str>) -> Result<Filter> {
        let (values, shape) = self.tensor(weight)?;
        let bias = match bias {
            Some(name) => self.values(name)?,
            None => vec![0.0; shape[0]],
        };
        Ok(Filter::new(&values, shape[0], shape[1], shape.get(2).copied().unwrap_or(1), bias))
    }

    /// A convolution without bias, and its batch norm (mmcv `ConvModule`).
    pub fn conv_bn(&mut self, prefix: &str, eps: f64) -> Result<Filter> {
        let bn = self.bn(&format!("{prefix}.bn"), eps)?;
        Ok(self.filter(&format!("{prefix}.conv.weight"), None)?.then_bn(&bn))
    }

    /// A linear layer or convolution with a bias.
    pub fn linear(&mut self, prefix: &str) -> Result<Filter> {
        self.filter(&format!("{prefix}.weight"), Some(&format!("{prefix}.bias")))
    }

    /// A linear layer with a bias, whose parameters have names of their own.
    pub fn linear_named(&mut self, weight: &str, bias: &str) -> Result<Filter> {
        self.filter(weight, Some(bias))
    }

    /// A linear layer with a bias and its batch norm.
    pub fn linear_bn(&mut self, linear: &str, bn: &str, eps: f64) -> Result<Filter> {
        let bn = self.bn(bn, eps)?;
        Ok(self.linear(linear)?.then_bn(&bn))
    }

    /// Adds a constant, rounded to f32.
    ///
    /// # Errors
    /// If a value does not fit f32.
    pub fn constant(&mut self, name: String, shape: &[usize], values: &[f64]) -> Result<TensorId> {
        let data: Vec<f32> = values.iter().map(|&v| v as f32).collect();
        if let Some(i) = data.iter().position(|v| !v.is_finite()) {
            return Err(Error::Tensor {
                path: self.checkpoint.path().to_path_buf(),
                tensor: name,
                expected: "a finite value after batch norms are folded".into(),
                got: values[i].to_string(),
            });
        }
        Ok(self.plan.tensor(name, shape, data))
    }

    /// Starts a convolution of `src`: stride 1, one group, padded to keep the size, no activation.
    pub fn conv(&mut self, name: impl Into<String>, filter: Filter, src: View) -> ConvStep<'_, 'a> {
        let shape = ConvShape {
            stride: 1,
            groups: 1,
            pre_add: PreAdd::None,
            act: Act::None,
            post_add: None,
            dtype: DType::Working,
        };
        ConvStep { net: self, name: name.into(), filter, src, shape }
    }
}

struct ConvShape {
    stride: usize,
    groups: usize,
    pre_add: PreAdd,
    act: Act,
    post_add: Option<View>,
    dtype: DType,
}

/// A convolution that still wants some of its options, and a place to write to.
#[must_use]
pub(super) struct ConvStep<'n, 'a> {
    net: &'n mut Net<'a>,
    name: String,
    filter: Filter,
    src: View,
    shape: ConvShape,
}

impl ConvStep<'_, '_> {
    pub fn stride(mut self, stride: usize) -> Self {
        self.shape.stride = stride;
        self
    }

    pub fn groups(mut self, groups: usize) -> Self {
        self.shape.groups = groups;
        self
    }

    pub fn pre_add(mut self, pre_add: PreAdd) -> Self {
        self.shape.pre_add = pre_add;
        self
    }

    pub fn act(mut self, act: Act) -> Self {
        self.shape.act = act;
        self
    }

    pub fn silu(self) -> Self {
        self.act(Act::Silu)
    }

    /// Writes f32 in every precision.
    pub fn f32(mut self) -> Self {
        self.shape.dtype = DType::F32;
        self
    }

    /// Adds a residual after the activation.
    pub fn plus(mut self, residual: impl Into<Option<View>>) -> Self {
        self.shape.post_add = residual.into();
        self
    }

    /// Writes a new map; returns its view.
    pub fn to(self, buffer: impl Into<String>) -> Result<View> {
        let (h, w) = self.net.plan.hw(self.src);
        let (h, w) = (h.div_ceil(self.shape.stride), w.div_ceil(self.shape.stride));
        let dst = match self.shape.dtype {
            DType::Working => self.net.plan.map(buffer, h, w, self.filter.cout),
            DType::F32 => self.net.plan.map_f32(buffer, h, w, self.filter.cout),
        };
        self.into(dst)
    }

    /// Writes `dst`; returns it.
    pub fn into(self, dst: View) -> Result<View> {
        let ConvStep { net, name, filter, src, shape } = self;
        let ConvShape { stride, groups, pre_add, act, post_add, .. } = shape;
        let Filter { cout, cin, kernel, weight, bias } = filter;
        assert_eq!((src.c, dst.c), (cin * groups, cout), "{name}: channels");
        let weight = net.constant(format!("{name}.weight"), &[cout, kernel, kernel, cin], &weight)?;
        let bias = net.constant(format!("{name}.bias"), &[cout], &bias)?;
        // Kernel 6 of stride 2 pads 2, as a 3x3 of Focus cells pads one cell.
        let pad = if kernel == 6 { 2 } else { kernel / 2 };
        let conv = Conv { src, dst, weight, bias, kernel, stride, pad, groups, pre_add, act, post_add };
        net.plan.push(name, Op::Conv(conv));
        Ok(dst)
    }
}
