//! A layer of the neck's transformer (mmpose `DetrTransformerEncoderLayer`): attention and a feed-forward network, each with a
//! layer norm behind it.

use super::graph::Constant;
use super::network::find;
use super::walk::{Linear, Walk};
use crate::weights::Parsed;

/// A layer norm's gain and bias.
struct Norm<'a> {
    gain: Constant<'a>,
    bias: Constant<'a>,
}

/// The weights of a layer.
pub(super) struct Layer<'a> {
    /// Queries, keys and values.
    inputs: [Linear<'a>; 3],
    output: Linear<'a>,
    expand: Linear<'a>,
    reduce: Linear<'a>,
    norms: [Norm<'a>; 2],
}

impl<'a> Layer<'a> {
    /// Notes the weights under a name.
    pub fn take(self, walk: &mut Walk<'_, 'a>, name: &str) -> Parsed<()> {
        let attn = format!("{name}.self_attn.attn");
        let (mut weights, mut biases) = (Vec::new(), Vec::new());
        let (dim, _) = self.output.extents();
        for linear in &self.inputs {
            walk.take(linear.place, &attn)?;
            let bias = linear.bias.as_ref().filter(|bias| bias.shape == [dim]);
            let (Some(bias), (of, to)) = (bias, linear.extents()) else {
                return Err(format!("'{attn}': a bias of its inputs is missing"));
            };
            if (of, to) != (dim, dim) {
                return Err(format!("'{attn}': expected {dim} to {dim} channels, got {of} to {to}"));
            }
            weights.extend(walk.values(&linear.weight, linear.transposed)?);
            biases.extend(walk.values(bias, false)?);
        }
        walk.made(&format!("{attn}.in_proj_weight"), &[3 * dim, dim], weights)?;
        walk.made(&format!("{attn}.in_proj_bias"), &[3 * dim], biases)?;
        walk.take_linear(&format!("{attn}.out_proj"), &self.output, true)?;
        walk.take_linear(&format!("{name}.ffn.layers.0.0"), &self.expand, true)?;
        walk.take_linear(&format!("{name}.ffn.layers.1"), &self.reduce, true)?;
        for (i, norm) in self.norms.iter().enumerate() {
            walk.tensor(&format!("{name}.norms.{i}.weight"), &norm.gain, &[dim])?;
            walk.tensor(&format!("{name}.norms.{i}.bias"), &norm.bias, &[dim])?;
        }
        Ok(())
    }
}

impl<'a> Walk<'_, 'a> {
    /// What a layer norm was made of, if it makes this value.
    pub fn before_layer_norm(&self, value: &'a str) -> Option<&'a str> {
        self.layer_norm(value).map(|(input, _)| input)
    }

    fn layer_norm(&self, value: &'a str) -> Option<(&'a str, Norm<'a>)> {
        if let Some(node) = self.graph.made_by(value, "LayerNormalization") {
            let [gain, bias] = [1, 2].map(|i| self.graph.constant(node.input(i)).cloned());
            return Some((self.graph.unmoved(node.input(0)), Norm { gain: gain?, bias: bias? }));
        }
        // (x - mean) / sqrt(...) * gain + bias.
        let (product, bias) = self.graph.with_constant(value, &["Add"])?;
        let (quotient, gain) = self.graph.with_constant(product, &["Mul"])?;
        let quotient = self.graph.made_by(quotient, "Div")?;
        self.graph.made_by(quotient.input(1), "Sqrt")?;
        let difference = self.graph.made_by(quotient.input(0), "Sub")?;
        let mean = self.graph.made_by(difference.input(1), "ReduceMean")?;
        let same = mean.input(0) == difference.input(0);
        let norm = Norm { gain: gain.clone(), bias: bias.clone() };
        same.then(|| (self.graph.unmoved(difference.input(0)), norm))
    }

    /// A sum of a linear layer's output and another value.
    fn residual(&self, value: &'a str) -> Option<(Linear<'a>, &'a str)> {
        let node = self.graph.made_by(value, "Add")?;
        let of = |a: &'a str, b: &'a str| Some((self.linear(a)?, self.graph.unmoved(b)));
        of(node.input(0), node.input(1)).or_else(|| of(node.input(1), node.input(0)))
    }

    /// What a GELU was made of: the node `Gelu`, or `x * (erf(x / sqrt(2)) + 1) * 0.5`.
    fn before_gelu(&self, value: &'a str) -> Option<&'a str> {
        if let Some(node) = self.graph.made_by(value, "Gelu") {
            return Some(node.input(0));
        }
        let (product, _) = self.graph.with_constant(value, &["Mul"])?;
        let node = self.graph.made_by(product, "Mul")?;
        let of = |x: &'a str, gate: &'a str| {
            let (erf, _) = self.graph.with_constant(gate, &["Add"])?;
            let erf = self.graph.made_by(erf, "Erf")?;
            let (same, _) = self.graph.with_constant(erf.input(0), &["Div", "Mul"])?;
            (same == x).then_some(x)
        };
        of(node.input(0), node.input(1)).or_else(|| of(node.input(1), node.input(0)))
    }

    /// What a value was before it was moved, or scaled by a constant.
    fn unscaled(&self, value: &'a str) -> &'a str {
        let value = self.graph.unmoved(value);
        match self.graph.with_constant(value, &["Mul", "Div"]) {
            Some((inner, constant)) if constant.shape.iter().product::<usize>() == 1 => {
                self.graph.unmoved(inner)
            }
            _ => value,
        }
    }

    /// A layer's weights, and what it sees: tokens.
    pub fn encoder_layer(&self, value: &'a str) -> Parsed<(Layer<'a>, &'a str)> {
        let (sum, second) = find!(self.layer_norm(value), "a layer norm");
        let (reduce, attended) = find!(self.residual(sum), "a feed-forward network");
        let inner = find!(self.before_gelu(reduce.input), "a GELU");
        let expand = find!(self.linear(inner), "a feed-forward network");
        if self.graph.unmoved(expand.input) != attended {
            return Err("a feed-forward network sees another map than is added to it".into());
        }
        let (sum, first) = find!(self.layer_norm(attended), "a layer norm");
        let (output, tokens) = find!(self.residual(sum), "attention");

        let mixed = self.graph.unmoved(output.input);
        let Some(product) = self.graph.made_by(mixed, "MatMul") else {
            return self.unlike(mixed, "attention's mixture of values");
        };
        let Some(softmax) = self.graph.made_by(product.input(0), "Softmax") else {
            return self.unlike(product.input(0), "attention's weights");
        };
        let Some(scores) = self.graph.made_by(self.unscaled(softmax.input(0)), "MatMul") else {
            return self.unlike(softmax.input(0), "products of queries and keys");
        };
        let values = find!(self.linear(product.input(1)), "values");
        let queries = find!(self.linear(self.unscaled(scores.input(0))), "queries");
        let keys = find!(self.linear(self.unscaled(scores.input(1))), "keys");
        // Queries and keys see tokens and their positions, values see tokens.
        for linear in [&queries, &keys] {
            let seen = self.graph.unmoved(linear.input);
            let placed = self.graph.with_constant(seen, &["Add"]);
            if placed.is_none_or(|(value, _)| self.graph.unmoved(value) != tokens) {
                return self.unlike(seen, "tokens and their positions");
            }
        }
        if self.graph.unmoved(values.input) != tokens {
            return self.unlike(values.input, "tokens");
        }
        let inputs = [queries, keys, values];
        Ok((Layer { inputs, output, expand, reduce, norms: [first, second] }, tokens))
    }
}
