//! From the head back to the image: backbone, neck and head (mmpose `CSPDarknet`, `HybridEncoder`, `RTMOHeadModule`).

use super::dcc;
use super::walk::{Conv, MOST, Walk};
use crate::weights::Parsed;

/// Epsilons of batch norms.
const BACKBONE: f32 = 1e-3;
const NECK: f32 = 1e-5;

/// Walks through all of RTMO.
pub(super) fn walk<'a>(walk: &mut Walk<'_, 'a>) -> Parsed<()> {
    let dcc = dcc::walk(walk)?;
    let levels = walk.levels(dcc.vector, dcc.keypoints)?;
    let [c3, c4, c5] = walk.neck(&levels)?;
    walk.backbone([c3, c4, c5])?;
    walk.check_all_taken()
}

/// What a value was made of by a layer; an error says which layer was expected.
macro_rules! find {
    ($walk:ident.$step:ident($value:expr), $expected:expr) => {
        match $walk.$step($value) {
            Some(found) => found,
            None => return $walk.unlike($value, $expected),
        }
    };
}
pub(super) use find;

impl<'a> Walk<'_, 'a> {
    /// The two or more inputs of a concatenation of channels.
    fn concat(&self, value: &'a str) -> Option<Vec<&'a str>> {
        let node = self.graph.made_by(value, "Concat")?;
        Some(node.inputs.clone()).filter(|inputs| inputs.len() >= 2)
    }

    /// The dense head: returns the neck's output of each level, finest first.
    fn levels(&mut self, vector: usize, keypoints: usize) -> Parsed<Vec<&'a str>> {
        const HEAD: &str = "head.head_module";
        let graph = self.graph;
        let outputs = graph.nodes.iter().filter(|node| node.op == "Conv");
        let outputs: Vec<&'a str> = outputs.filter_map(|node| node.outputs.first().copied()).collect();
        // Class logits are the only map of one channel.
        let logits: Vec<(&'a str, Conv<'a>)> = outputs
            .iter()
            .filter_map(|&output| Some((output, self.conv(output)?)))
            .filter(|(_, conv)| conv.channels() == 1 && conv.kernel() == 1 && conv.weight.shape[1] > 1)
            .collect();
        if !(2..=3).contains(&logits.len()) {
            return Err(format!("expected class logits of 2 or 3 levels, got {}", logits.len()));
        }
        let mut inputs = Vec::new();
        for (level, (_, logits)) in logits.into_iter().enumerate() {
            let feature = self.conv_bias(&format!("{HEAD}.out_cls.{level}"), &logits)?;
            let half = self.branch(&format!("{HEAD}.conv_cls.{level}"), feature)?;
            let (projected, 0) = self.half(half)? else {
                return Err("class logits are not of the first half of the projected channels".into());
            };
            // Boxes, visibilities and pose features see the same map, which is of the other half.
            let mut found = None;
            for &output in &outputs {
                let Some(conv) = self.conv(output).filter(|c| c.channels() == 4 && c.kernel() == 1) else {
                    continue;
                };
                if self.begins_at(conv.input, projected) {
                    found = Some(conv);
                }
            }
            let bbox = found.ok_or_else(|| format!("level {level} has no boxes"))?;
            let feature = self.conv_bias(&format!("{HEAD}.out_bbox.{level}"), &bbox)?;
            let others: Vec<&'a str> = self
                .readers(feature)
                .filter(|node| node.op == "Conv")
                .filter_map(|node| node.outputs.first().copied())
                .collect();
            for (part, n) in [("out_kpt_vis", keypoints), ("out_pose", vector)] {
                let mut convs = others.iter().filter_map(|&output| self.conv(output));
                let conv = convs.find(|conv| conv.channels() == n && !self.is_taken(conv));
                let conv = conv.ok_or_else(|| format!("level {level} has no {part} of {n} channels"))?;
                self.conv_bias(&format!("{HEAD}.{part}.{level}"), &conv)?;
            }
            let half = self.branch(&format!("{HEAD}.conv_pose.{level}"), feature)?;
            let (same, 1) = self.half(half)? else {
                return Err("poses are not of the second half of the projected channels".into());
            };
            if same != projected {
                return Err("class logits and poses of a level are of different maps".into());
            }
            let projector = find!(self.conv(projected), "the projector's convolution");
            let name = format!("neck.projector.convs.{level}");
            inputs.push(self.conv_bn(&name, &projector, 1, NECK)?);
        }
        Ok(inputs)
    }

    /// 3x3 convolutions with SiLU that lead to a value, one after another. Returns what the first one sees.
    fn branch(&mut self, name: &str, mut value: &'a str) -> Parsed<&'a str> {
        let mut convs = Vec::new();
        while let Some(conv) = self.activated(value).filter(|conv| conv.kernel() == 3) {
            value = conv.input;
            convs.push(conv);
            if convs.len() > MOST {
                return Err(format!("'{name}' has more than {MOST} layers"));
            }
        }
        for (i, conv) in convs.iter().rev().enumerate() {
            self.conv_bn(&format!("{name}.{i}"), conv, 3, BACKBONE)?;
        }
        Ok(value)
    }

    /// A half of a map's channels: of which map, and which half.
    fn half(&self, value: &'a str) -> Parsed<(&'a str, usize)> {
        let Some(node) = self.graph.made_by(value, "Split").filter(|node| node.outputs.len() == 2) else {
            return self.unlike(value, "the halves of the projected channels");
        };
        Ok((node.input(0), usize::from(node.outputs[1] == value)))
    }

    /// Whether a branch of the head begins at the second half of a map.
    fn begins_at(&self, mut value: &'a str, map: &'a str) -> bool {
        for _ in 0..MOST {
            match self.activated(value).filter(|conv| conv.kernel() == 3) {
                Some(conv) => value = conv.input,
                None => break,
            }
        }
        self.half(value).is_ok_and(|half| half == (map, 1))
    }

    /// The neck: returns C3, C4 and C5.
    fn neck(&mut self, outputs: &[&'a str]) -> Parsed<[&'a str; 3]> {
        let same = |a: &str, b: &str, what: &str| match a == b {
            true => Ok(()),
            false => Err(format!("{what} is not where RTMO has it")),
        };
        let [.., p4, p5] = outputs[..] else { return Err("the head has one level".into()) };
        let mut laterals = [""; 2];
        let mut low = p5;
        for i in [1, 0] {
            let concat = self.csp_rep(&format!("neck.pan_blocks.{i}"), low)?;
            let Some([down, lateral]) =
                self.concat(concat).and_then(|parts| <[&str; 2]>::try_from(parts).ok())
            else {
                return self.unlike(concat, "a concatenation of two maps");
            };
            let conv = find!(self.activated(down), "a convolution of stride 2");
            low = self.conv_bn(&format!("neck.downsample_convs.{i}"), &conv, 3, NECK)?;
            laterals[1 - i] = lateral;
            if i == 1 {
                same(low, p4, "the level of stride 16")?;
            }
        }
        if let [p3, _, _] = outputs[..] {
            same(low, p3, "the level of stride 8")?;
        }
        let mut features = [""; 3];
        for i in [1, 0] {
            let concat = self.csp_rep(&format!("neck.fpn_blocks.{i}"), low)?;
            let Some([high, projected]) =
                self.concat(concat).and_then(|parts| <[&str; 2]>::try_from(parts).ok())
            else {
                return self.unlike(concat, "a concatenation of two maps");
            };
            let lateral = ["Resize", "Upsample"].into_iter().find_map(|op| self.graph.made_by(high, op));
            let Some(lateral) = lateral.map(|node| node.input(0)) else {
                return self.unlike(high, "a map of twice the size");
            };
            same(lateral, laterals[i], "a lateral convolution")?;
            let conv = find!(self.activated(lateral), "a lateral convolution");
            low = self.conv_bn(&format!("neck.lateral_convs.{i}"), &conv, 1, NECK)?;
            let conv = find!(self.conv(projected), "a projection of the backbone's map");
            features[1 - i] = self.conv_bn(&format!("neck.input_proj.{}", 1 - i), &conv, 1, NECK)?;
        }
        let tokens = self.encoder(low)?;
        let conv = find!(self.conv(tokens), "a projection of the backbone's last map");
        features[2] = self.conv_bn("neck.input_proj.2", &conv, 1, NECK)?;
        Ok(features)
    }

    /// A `CSPRepLayer`: returns what it sees.
    fn csp_rep(&mut self, name: &str, value: &'a str) -> Parsed<&'a str> {
        let mut sum = value;
        if let Some(conv) = self.activated(value).filter(|conv| conv.kernel() == 1) {
            sum = self.conv_bn(&format!("{name}.conv3"), &conv, 1, NECK)?;
        }
        let Some(node) = self.graph.made_by(sum, "Add") else {
            return self.unlike(sum, "the sum of two branches");
        };
        // conv2 is 1x1; the other branch ends in a RepVGG block.
        let is_shortcut = |value: &&'a str| self.activated(value).is_some_and(|conv| conv.kernel() == 1);
        let (a, b) = (node.input(0), node.input(1));
        let (mut main, shortcut) = if is_shortcut(&a) { (b, a) } else { (a, b) };
        let conv2 = find!(self.activated(shortcut), "a 1x1 convolution");
        let input = self.conv_bn(&format!("{name}.conv2"), &conv2, 1, NECK)?;

        // One 3x3 convolution, or the two branches that it was made of.
        let mut blocks: Vec<(Conv<'a>, Option<Conv<'a>>)> = Vec::new();
        let conv1 = loop {
            if blocks.len() > MOST {
                return Err(format!("'{name}' has more than {MOST} blocks"));
            }
            let inner = find!(self.before_silu(main), "a RepVGG block");
            if let Some(conv) = self.conv(inner) {
                if conv.kernel() == 1 {
                    break conv;
                }
                main = conv.input;
                blocks.push((conv, None));
                continue;
            }
            // mmpose adds a 0 where a block has no third branch.
            let sum = match self.graph.with_constant(inner, &["Add"]) {
                Some((sum, zero)) if zero.bytes.iter().all(|&byte| byte == 0) => sum,
                _ => inner,
            };
            let pair = self.graph.made_by(sum, "Add").and_then(|node| {
                let (a, b) = (self.conv(node.input(0))?, self.conv(node.input(1))?);
                let (three, one) = if a.kernel() == 3 { (a, b) } else { (b, a) };
                (three.input == one.input).then_some((three, one))
            });
            let Some((three, one)) = pair else { return self.unlike(inner, "a RepVGG block") };
            main = three.input;
            blocks.push((three, Some(one)));
        };
        for (i, (three, one)) in blocks.iter().rev().enumerate() {
            let block = format!("{name}.bottlenecks.{i}");
            self.conv_bn(&format!("{block}.branch_3x3"), three, 3, NECK)?;
            let branch = format!("{block}.branch_1x1");
            match one {
                Some(one) => drop(self.conv_bn(&branch, one, 1, NECK)?),
                None => {
                    let n = three.channels();
                    self.fill(&format!("{branch}.conv.weight"), &[n, n, 1, 1], 0.0)?;
                    self.norm(&format!("{branch}.bn"), n, None, NECK)?;
                }
            }
        }
        match self.conv_bn(&format!("{name}.conv1"), &conv1, 1, NECK)? == input {
            true => Ok(input),
            false => Err(format!("the branches of '{name}' see different maps")),
        }
    }

    /// The transformer: returns the map that its tokens are of.
    fn encoder(&mut self, value: &'a str) -> Parsed<&'a str> {
        let mut layers = Vec::new();
        let mut tokens = self.graph.unmoved(value);
        while self.before_layer_norm(tokens).is_some() {
            if layers.len() > MOST {
                return Err(format!("the encoder has more than {MOST} layers"));
            }
            // Numbered when it is known how many there are.
            let (layer, input) = self.encoder_layer(tokens)?;
            layers.push(layer);
            tokens = input;
        }
        for (i, layer) in layers.into_iter().rev().enumerate() {
            layer.take(self, &format!("neck.encoder.0.layers.{i}"))?;
        }
        Ok(tokens)
    }

    /// The backbone, from the image to C3, C4 and C5.
    fn backbone(&mut self, maps: [&'a str; 3]) -> Parsed<()> {
        let mut value = maps[2];
        for stage in [3, 2, 1, 0] {
            if stage > 0 && value != maps[stage - 1] {
                return Err(format!("the backbone's stage {stage} and the neck do not meet"));
            }
            let name = format!("backbone.stage{}", stage + 1);
            let last = stage == 3;
            value = self.csp(&format!("{name}.{}", if last { 2 } else { 1 }), value)?;
            if last {
                let conv = find!(self.activated(value), "the spatial pyramid's second convolution");
                let pyramid = self.conv_bn(&format!("{name}.1.conv2"), &conv, 1, BACKBONE)?;
                let Some(parts) = self.concat(pyramid).filter(|parts| parts.len() == 4) else {
                    return self.unlike(pyramid, "four pooled maps");
                };
                let pooled = parts[1..].iter().all(|part| self.graph.made_by(part, "MaxPool").is_some());
                let conv = self.activated(parts[0]).filter(|_| pooled);
                let Some(conv) = conv else { return self.unlike(parts[0], "a spatial pyramid") };
                value = self.conv_bn(&format!("{name}.1.conv1"), &conv, 1, BACKBONE)?;
            }
            let conv = find!(self.activated(value), "a convolution of stride 2");
            value = self.conv_bn(&format!("{name}.0"), &conv, 3, BACKBONE)?;
        }
        let stem = find!(self.activated(value), "the stem's convolution");
        let cells = self.conv_bn("backbone.stem.conv", &stem, 3, BACKBONE)?;
        let parts = self.concat(cells).unwrap_or_default();
        let order: Option<Vec<[i64; 2]>> = parts.iter().map(|part| self.pixel_of_cell(part)).collect();
        match order.is_some_and(|order| order == [[0, 0], [1, 0], [0, 1], [1, 1]]) {
            true => Ok(()),
            false => self.unlike(cells, "the four pixels of each cell in mmpose's order"),
        }
    }

    /// A `CSPLayer`: returns what it sees.
    fn csp(&mut self, name: &str, value: &'a str) -> Parsed<&'a str> {
        let conv = find!(self.activated(value), "the last convolution of a CSP layer");
        let concat = self.conv_bn(&format!("{name}.final_conv"), &conv, 1, BACKBONE)?;
        let parts = self.concat(concat).and_then(|parts| <[&str; 2]>::try_from(parts).ok());
        let Some([mut main, short]) = parts else {
            return self.unlike(concat, "a concatenation of two branches");
        };
        let conv = find!(self.activated(short), "the short branch of a CSP layer");
        let input = self.conv_bn(&format!("{name}.short_conv"), &conv, 1, BACKBONE)?;
        let mut blocks = Vec::new();
        let first = loop {
            if blocks.len() > MOST {
                return Err(format!("'{name}' has more than {MOST} blocks"));
            }
            // A block's output, or the sum of it and the block's input.
            let is_block = |value: &&'a str| self.activated(value).is_some_and(|conv| conv.kernel() == 3);
            let sum = self.graph.made_by(main, "Add").map(|node| [node.input(0), node.input(1)]);
            let (inner, identity) = match sum {
                Some([a, b]) if is_block(&a) && self.block_sees(a, b) => (a, Some(b)),
                Some([a, b]) => (b, Some(a)),
                None => (main, None),
            };
            let second = find!(self.activated(inner), "a block of a CSP layer");
            if second.kernel() == 1 && identity.is_none() {
                break second;
            }
            let first = find!(self.activated(second.input), "a block of a CSP layer");
            if identity.is_some_and(|identity| identity != first.input) {
                return Err(format!("a block of '{name}' adds another map than its input"));
            }
            main = first.input;
            blocks.push((first, second));
        };
        for (i, (first, second)) in blocks.iter().rev().enumerate() {
            self.conv_bn(&format!("{name}.blocks.{i}.conv1"), first, 1, BACKBONE)?;
            self.conv_bn(&format!("{name}.blocks.{i}.conv2"), second, 3, BACKBONE)?;
        }
        match self.conv_bn(&format!("{name}.main_conv"), &first, 1, BACKBONE)? == input {
            true => Ok(input),
            false => Err(format!("the branches of '{name}' see different maps")),
        }
    }

    /// Whether a block's two convolutions lead from one value to another.
    fn block_sees(&self, block: &'a str, value: &'a str) -> bool {
        let second = self.activated(block);
        second.and_then(|second| self.activated(second.input)).is_some_and(|first| first.input == value)
    }

    /// Which pixel of each cell of two by two a slice of the image takes: row and column.
    fn pixel_of_cell(&self, value: &'a str) -> Option<[i64; 2]> {
        let mut at = [-1, -1];
        let mut value = value;
        for _ in 0..2 {
            let node = self.graph.made_by(value, "Slice")?;
            let of = |i: usize| self.graph.constant(node.input(i))?.integers();
            let (start, axis, step) = (of(1)?, of(3)?, of(4)?);
            let ([start], [axis @ 2..=3], [2]) = (&start[..], &axis[..], &step[..]) else { return None };
            at[usize::try_from(axis - 2).ok()?] = *start;
            value = node.input(0);
        }
        let (image, _) = self.graph.input.as_ref()?;
        (value == *image).then_some(at)
    }
}
