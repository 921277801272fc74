//! The builder that all parts of the network use: asks a [`Source`] for a layer's tensors and appends steps to a plan.

use super::fold::{BatchNorm, Filter};
use super::signal::{Inputs, Signal};
use super::source::{Init, Source};
use crate::error::{Error, Result};
use crate::plan::{Act, BufferId, Conv, DType, Op, Plan, PreAdd, Tensor, TensorId, View};
use std::collections::BTreeMap;

/// A plan under construction, and where its tensors come from.
pub(super) struct Net<'a> {
    pub plan: Plan,
    source: &'a mut dyn Source,
    /// What maps hold where weights are generated: first channel of a range to its length and signal.
    signals: BTreeMap<(BufferId, usize), (usize, Signal)>,
}

/// A batch norm: its epsilon, and what it makes of its input in generated weights.
#[derive(Clone, Copy)]
pub(super) struct Norm {
    /// Added to the variances.
    pub eps: f64,
    /// Mean of its outputs.
    pub mean: f64,
    /// Variance of its outputs.
    pub var: f64,
}

impl Norm {
    /// Before a SiLU or ReLU. Around a mean of 1, SiLU's gain falls as its inputs grow, so deviations from the expected
    /// signal die out within some layers. Around 0 they would grow.
    pub const fn before_activation(eps: f64) -> Norm {
        Norm { eps, mean: 1.0, var: 1.0 }
    }

    /// Without an activation after it.
    pub const fn linear(eps: f64) -> Norm {
        Norm { eps, mean: 0.0, var: 1.0 }
    }

    /// The norm whose output, added to a map of this signal, has this norm's mean and variance.
    pub const fn less(self, signal: Signal) -> Norm {
        Norm { mean: self.mean - signal.mean(), var: self.var - signal.var(), ..self }
    }

    /// Half of this norm: the sum of two has its mean and variance.
    pub const fn half(self) -> Norm {
        Norm { mean: self.mean / 2.0, var: self.var / 2.0, ..self }
    }
}

impl<'a> Net<'a> {
    pub fn new(source: &'a mut dyn Source) -> Net<'a> {
        Net { plan: Plan::default(), source, signals: BTreeMap::new() }
    }

    /// Notes what a map holds in generated weights.
    pub fn holds(&mut self, view: View, signal: Signal) {
        self.signals.insert((view.buffer, view.c0), (view.c, signal));
    }

    /// What a layer sees whose inputs are these views, in the order of its weight.
    pub fn inputs(&self, views: &[View]) -> Inputs {
        let mut inputs = Inputs::default();
        for view in views {
            let buffer = (view.buffer, 0)..=(view.buffer, usize::MAX);
            for (&(_, c0), &(c, signal)) in self.signals.range(buffer) {
                let (from, to) = (c0.max(view.c0), (c0 + c).min(view.c0 + view.c));
                inputs.push(to.saturating_sub(from), signal);
            }
        }
        inputs
    }

    /// Values of a tensor; none if the source has none.
    pub fn values(&mut self, name: &str, shape: &[usize], init: Init) -> Result<Vec<f64>> {
        Ok(self.source.tensor(name, shape, init)?.iter().copied().map(f64::from).collect())
    }

    /// The filter of a weight `[cout, cin]` or `[cout, cin, kernel, kernel]`, without a bias.
    fn filter(&mut self, name: &str, shape: &[usize], init: Init) -> Result<Filter> {
        let values = self.source.tensor(name, shape, init)?;
        Ok(Filter::new(&values, shape[0], shape[1], shape.get(2).copied().unwrap_or(1)))
    }

    /// A batch norm of `c` channels that come with this variance; `mean` generates its running mean.
    fn batch_norm(&mut self, prefix: &str, c: usize, norm: Norm, var: f64, mean: Init) -> Result<BatchNorm> {
        let var = var / norm.var;
        let bn = BatchNorm {
            gamma: self.values(&format!("{prefix}.weight"), &[c], Init::GAIN)?,
            beta: self.values(&format!("{prefix}.bias"), &[c], Init::around(norm.mean, 0.1))?,
            mean: self.values(&format!("{prefix}.running_mean"), &[c], mean)?,
            var: self.values(&format!("{prefix}.running_var"), &[c], Init::Uniform(0.8 * var, 1.2 * var))?,
            eps: norm.eps,
        };
        match bn.var.iter().find(|&&v| v < 0.0) {
            None => Ok(bn),
            Some(v) => Err(Error::Tensor {
                path: self.source.path(),
                tensor: format!("{prefix}.running_var"),
                expected: "variances of at least 0".into(),
                got: v.to_string(),
            }),
        }
    }

    /// A convolution without bias, `[cout, cin, kernel, kernel]`, and its batch norm, under names of their own.
    pub fn conv_then_bn(
        &mut self,
        [conv, bn]: [&str; 2],
        shape: [usize; 4],
        norm: Norm,
        inputs: Inputs,
    ) -> Result<Filter> {
        let weight = format!("{conv}.weight");
        let filter = self.filter(&weight, &shape, Init::Weight(1.0))?;
        let var = inputs.var();
        let bn = self.batch_norm(bn, shape[0], norm, var, Init::Mean { weight, inputs })?;
        Ok(filter.then_bn(&bn))
    }

    /// A convolution without bias, `[cout, cin, kernel, kernel]`, and its batch norm (mmcv `ConvModule`).
    pub fn conv_bn(&mut self, prefix: &str, shape: [usize; 4], norm: Norm, inputs: Inputs) -> Result<Filter> {
        self.conv_then_bn([&format!("{prefix}.conv"), &format!("{prefix}.bn")], shape, norm, inputs)
    }

    /// A linear layer `[out, in]` with a bias.
    pub fn linear(&mut self, prefix: &str, shape: [usize; 2]) -> Result<Filter> {
        self.linear_with([&format!("{prefix}.weight"), &format!("{prefix}.bias")], &shape, 1.0, Init::SMALL)
    }

    /// A linear layer `[out, in]` or 1x1 convolution `[out, in, 1, 1]` with a bias: the names of its parameters, the
    /// [variance](Init::Weight) of its weight, and how its bias is generated.
    pub fn linear_with(
        &mut self,
        [weight, bias]: [&str; 2],
        shape: &[usize],
        variance: f64,
        init: Init,
    ) -> Result<Filter> {
        let filter = self.filter(weight, shape, Init::Weight(variance))?;
        Ok(filter.plus_bias(self.values(bias, &shape[..1], init)?))
    }

    /// A 1x1 convolution that makes an output of the network, `[out, in, 1, 1]`: its bias is generated as `bias` says,
    /// less the layer's output for the means of its inputs.
    pub fn output(
        &mut self,
        prefix: &str,
        shape: [usize; 4],
        variance: f64,
        bias: Init,
        inputs: Inputs,
    ) -> Result<Filter> {
        let (weight, name) = (format!("{prefix}.weight"), format!("{prefix}.bias"));
        let init = Init::Unbiased { weight: weight.clone(), inputs, around: Box::new(bias) };
        self.linear_with([&weight, &name], &shape, variance, init)
    }

    /// A linear layer `[out, in]` with a bias, of inputs without a mean, and its batch norm.
    pub fn linear_bn(
        &mut self,
        [linear, bn]: [&str; 2],
        shape: [usize; 2],
        norm: Norm,
        inputs: Inputs,
    ) -> Result<Filter> {
        let filter = self.linear(linear, shape)?;
        let bn = self.batch_norm(bn, shape[0], norm, inputs.var(), Init::Uniform(0.0, 0.0))?;
        Ok(filter.then_bn(&bn))
    }

    /// Adds a constant, rounded to f32. Its values are computed only if the source has any.
    ///
    /// # Errors
    /// If a value does not fit f32.
    pub fn constant(
        &mut self,
        name: String,
        shape: &[usize],
        values: impl FnOnce() -> Vec<f64>,
    ) -> Result<TensorId> {
        if !self.source.has_values() {
            self.plan.tensors.push(Tensor { name, shape: shape.to_vec(), data: Vec::new() });
            return Ok(TensorId(self.plan.tensors.len() - 1));
        }
        let values = values();
        let data: Vec<f32> = values.iter().map(|&v| v as f32).collect();
        if let Some(i) = data.iter().position(|v| !v.is_finite()) {
            return Err(Error::Tensor {
                path: self.source.path(),
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

    pub fn relu(self) -> Self {
        self.act(Act::Relu)
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
        // A network that is built for its tensors only may have groups that do not divide its channels; with values it
        // may not.
        let fits = (src.c, dst.c) == (cin * groups, cout);
        assert!(fits || !net.source.has_values(), "{name}: {} to {} channels", src.c, dst.c);
        let mut signal = match act {
            Act::Silu => Signal::SILU,
            Act::Relu => Signal::RELU,
            Act::None | Act::Gelu => Signal::NORMAL,
        };
        if let Some(residual) = post_add {
            signal = signal.plus(net.inputs(&[residual]).first());
        }
        net.holds(dst, signal);
        let weight = net.constant(format!("{name}.weight"), &[cout, kernel, kernel, cin], || weight)?;
        let bias = net.constant(format!("{name}.bias"), &[cout], || bias)?;
        // Kernel 6 of stride 2 pads 2, as a 3x3 of Focus cells pads one cell.
        let pad = if kernel == 6 { 2 } else { kernel / 2 };
        let conv = Conv { src, dst, weight, bias, kernel, stride, pad, groups, pre_add, act, post_add };
        net.plan.push(name, Op::Conv(conv));
        Ok(dst)
    }
}
