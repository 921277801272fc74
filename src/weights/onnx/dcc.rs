//! The Dynamic Coordinate Classifier in deployment (mmpose `DCC.switch_to_deploy`): the batch norm is in the linear layer before
//! it, and the keypoints' positions are in the biases of queries and keys.

use super::graph::Constant;
use super::network::find;
use super::walk::Walk;
use crate::weights::Parsed;

/// Epsilon of the folded batch norm.
const NORM: f32 = 1e-5;

/// What the rest of the walk needs to know.
pub(super) struct Dcc {
    /// Length of a grid's pose feature.
    pub vector: usize,
    /// Keypoints a person.
    pub keypoints: usize,
}

/// Finds the classifier's weights, from the encodings of coordinates on.
pub(super) fn walk<'a>(walk: &mut Walk<'_, 'a>) -> Parsed<Dcc> {
    let mut features = [""; 2];
    for (encoding, cosine) in encodings(walk) {
        let (axis, bins) = bins(walk, cosine).ok_or("the bins of coordinates are not where RTMO has them")?;
        let name = ["x", "y"][axis];
        let n = bins.shape.iter().product();
        walk.tensor(&format!("head.dcc.{name}_bins"), &bins, &[n])?;
        features[axis] = coordinate(walk, &format!("head.dcc.{name}_fc"), encoding)?;
    }
    match features {
        [a, b] if a.is_empty() || b.is_empty() => Err("it has no coordinate classifier as RTMO has".into()),
        [a, b] if a != b => Err("horizontal and vertical coordinates are of different features".into()),
        [features, _] => gau(walk, features),
    }
}

/// Encodings of coordinates, `concat(cos(x), sin(x))`, and their `x`.
fn encodings<'a>(walk: &Walk<'_, 'a>) -> Vec<(&'a str, &'a str)> {
    let of = |value: &'a str, parts: &[&'a str]| {
        let [cosine, sine] = parts else { return None };
        let cosine = walk.graph.made_by(cosine, "Cos")?.input(0);
        (walk.graph.made_by(sine, "Sin")?.input(0) == cosine).then_some((value, cosine))
    };
    let concats = walk.graph.nodes.iter().filter(|node| node.op == "Concat" && !node.outputs.is_empty());
    concats.filter_map(|node| of(node.outputs[0], &node.inputs)).take(2).collect()
}

/// The axis of encoded coordinates, and the constant that spreads the bins along it: `(bins * size + centre) / t`, where the size
/// is column 0 or 1 of a person's.
fn bins<'a>(walk: &Walk<'_, 'a>, encoded: &'a str) -> Option<(usize, Constant<'a>)> {
    let (places, _) = walk.graph.with_constant(encoded, &["Div"])?;
    let sum = walk.graph.made_by(walk.graph.unmoved(places), "Add")?;
    [sum.input(0), sum.input(1)].into_iter().find_map(|part| {
        let (size, bins) = walk.graph.with_constant(part, &["Mul"])?;
        let slice = walk.graph.made_by(size, "Slice")?;
        let start = walk.graph.constant(slice.input(1))?.integers()?;
        let axis = match start[..] {
            [0] => 0,
            [1] => 1,
            _ => return None,
        };
        Some((axis, bins.clone()))
    })
}

/// The linear layer of an encoding. Returns the features that its output is multiplied with.
fn coordinate<'a>(walk: &mut Walk<'_, 'a>, name: &str, encoding: &'a str) -> Parsed<&'a str> {
    let graph = walk.graph;
    let missing = || format!("'{name}' is not where RTMO has it");
    // From the encoding on: through the layer, to the product of features and encoded bins.
    let mut value = encoding;
    let mut linear = None;
    for _ in 0..8 {
        let reader = walk.readers(value).find(|node| !node.outputs.is_empty()).ok_or_else(missing)?;
        let output = reader.outputs[0];
        if reader.op == "MatMul" && reader.input(1) == value {
            let linear = linear.ok_or_else(missing)?;
            walk.take_linear(name, &linear, true)?;
            return Ok(graph.unmoved(reader.input(0)));
        }
        if let Some(found) = walk.linear(output).filter(|found| graph.unmoved(found.input) == encoding) {
            linear = Some(found);
        }
        value = output;
    }
    Err(missing())
}

/// The gated attention unit that makes the features, and the linear layer before it.
fn gau<'a>(walk: &mut Walk<'_, 'a>, features: &'a str) -> Parsed<Dcc> {
    let graph = walk.graph;
    let Some(node) = graph.made_by(features, "Add") else {
        return walk.unlike(features, "a gated attention unit");
    };
    let of = |scaled: &'a str, mixed: &'a str| {
        let (input, scale) = graph.with_constant(scaled, &["Mul"])?;
        Some((graph.unmoved(input), scale.clone(), walk.linear(mixed)?))
    };
    let found = of(node.input(0), node.input(1)).or_else(|| of(node.input(1), node.input(0)));
    let Some((input, scale, out)) = found else { return walk.unlike(features, "a gated attention unit") };
    let dim = scale.shape.iter().product();
    walk.tensor("head.dcc.gau.res_scale.scale", &scale, &[dim])?;
    let gated = walk.take_linear("head.dcc.gau.o", &out, false)?;

    // u * (relu(q k)^2 v)
    let Some(gate) = graph.made_by(gated, "Mul") else { return walk.unlike(gated, "gated values") };
    let product = [gate.input(0), gate.input(1)].into_iter().find_map(|part| graph.made_by(part, "MatMul"));
    let kernel = product.and_then(|product| {
        let square = ["Mul", "Pow"].into_iter().find_map(|op| graph.made_by(product.input(0), op))?;
        let relu = graph.made_by(square.input(0), "Relu")?;
        let (scores, _) = graph.with_constant(relu.input(0), &["Div", "Mul"])?;
        graph.made_by(scores, "MatMul")
    });
    let Some(scores) = kernel else { return walk.unlike(gated, "squared attention") };
    // base * gamma + beta
    let of = |value: &'a str| {
        let (product, beta) = graph.with_constant(graph.unmoved(value), &["Add"])?;
        let (base, gamma) = graph.with_constant(product, &["Mul"])?;
        Some((base, gamma.clone(), beta.clone()))
    };
    let (Some((base, gamma_q, beta_q)), Some((same, gamma_k, beta_k))) =
        (of(scores.input(0)), of(scores.input(1)))
    else {
        return walk.unlike(scores.input(0), "queries and keys of a deployed attention unit");
    };
    let Some(split) = graph.made_by(base, "Split").filter(|split| {
        base == same
            && split.outputs.len() == 3
            && split.outputs[2] == base
            && gate.inputs.contains(&split.outputs[0])
    }) else {
        return walk.unlike(base, "u, v and the base of queries and keys");
    };
    let uv = find!(walk.before_silu(split.input(0)), "a SiLU");
    let uv = find!(walk.linear(uv), "the linear layer of an attention unit");
    let normed = walk.take_linear("head.dcc.gau.uv", &uv, false)?;
    let norm = graph.with_constant(normed, &["Mul"]).and_then(|(quotient, gain)| {
        let quotient = graph.made_by(quotient, "Div")?;
        (graph.unmoved(quotient.input(0)) == input).then(|| gain.clone())
    });
    let Some(gain) = norm else { return walk.unlike(normed, "the norm of an attention unit") };
    walk.tensor("head.dcc.gau.ln.g", &gain, &[1])?;

    let keypoints = queries_and_keys(walk, [gamma_q, gamma_k], [beta_q, beta_k])?;

    let linear = find!(walk.linear(input), "the linear layer of keypoints' vectors");
    let (vector, n) = linear.extents();
    if n != keypoints * dim {
        return Err(format!("expected {keypoints} keypoints' vectors of {dim}, got {n} numbers"));
    }
    walk.take_linear("head.dcc.pose_to_kpts.0", &linear, true)?;
    walk.norm("head.dcc.pose_to_kpts.1", n, None, NORM)?;
    Ok(Dcc { vector, keypoints })
}

/// Gains and biases of queries and keys. A bias of both holds the keypoints' positions: those are taken from that of queries,
/// and what keys have beyond them is the same for every keypoint. Returns the number of keypoints.
fn queries_and_keys<'a>(
    walk: &mut Walk<'_, 'a>,
    gammas: [Constant<'a>; 2],
    betas: [Constant<'a>; 2],
) -> Parsed<usize> {
    let [gamma_q, gamma_k] = [walk.values(&gammas[0], false)?, walk.values(&gammas[1], false)?];
    let [beta_q, beta_k] = [walk.values(&betas[0], false)?, walk.values(&betas[1], false)?];
    let s = gamma_q.len();
    let (keypoints, fits) = match betas[0].shape[..] {
        [.., keypoints, last] => (keypoints, last == s && s > 0),
        _ => (0, false),
    };
    if !fits
        || keypoints == 0
        || gamma_k.len() != s
        || beta_q.len() != keypoints * s
        || beta_k.len() != beta_q.len()
    {
        return Err(format!(
            "queries and keys: expected gains [s] and biases [K, s], got {:?}, {:?}",
            gammas[0].shape, betas[0].shape
        ));
    }
    let mut beyond = vec![0.0_f64; s];
    for (at, (k, q)) in beta_k.iter().zip(&beta_q).enumerate() {
        beyond[at % s] += (f64::from(*k) - f64::from(*q)) / keypoints as f64;
    }
    for (at, (k, q)) in beta_k.iter().zip(&beta_q).enumerate() {
        let off = f64::from(*k) - f64::from(*q) - beyond[at % s];
        // Rounding of the two sums.
        if off.abs() > 1e-5 * f64::from(k.abs().max(q.abs())) + 1e-6 {
            return Err(format!("biases of queries and keys differ by {off} more than positions allow"));
        }
    }
    let beta: Vec<f32> = vec![0.0; s].into_iter().chain(beyond.into_iter().map(|b| b as f32)).collect();
    walk.made("head.dcc.gau.gamma", &[2, s], [gamma_q, gamma_k].concat())?;
    walk.made("head.dcc.gau.beta", &[2, s], beta)?;
    walk.made("head.dcc.pos_enc", &[keypoints, s], beta_q)?;
    Ok(keypoints)
}
