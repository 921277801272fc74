//! The hyper-parameters of a network of the RTMO family, read off the names and shapes of its tensors.

use crate::error::{Error, Result};
use crate::weights::Checkpoint;

/// The published sizes (paper, Table 1; mmpose `configs/body_2d_keypoint/rtmo`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Variant {
    /// RTMO-t.
    T,
    /// RTMO-s.
    S,
    /// RTMO-m.
    M,
    /// RTMO-l.
    L,
}

impl Variant {
    /// Smallest first.
    pub const ALL: [Variant; 4] = [Variant::T, Variant::S, Variant::M, Variant::L];

    /// `t`, `s`, `m` or `l`.
    pub fn letter(self) -> &'static str {
        match self {
            Variant::T => "t",
            Variant::S => "s",
            Variant::M => "m",
            Variant::L => "l",
        }
    }

    /// Width and height that the published checkpoints were trained for.
    pub fn default_input(self) -> (usize, usize) {
        match self {
            Variant::T => (416, 416),
            _ => (640, 640),
        }
    }

    /// The configuration with this many keypoints and head levels (2: P4, P5; 3: P3, P4, P5). Channel counts are
    /// truncated and block counts rounded as mmpose does.
    pub fn config(self, keypoints: usize, levels: usize) -> Config {
        let (widen, deepen, vector) = match self {
            Variant::T => (0.375, 0.33, 192),
            Variant::S => (0.5, 0.33, 256),
            Variant::M => (0.75, 0.67, 384),
            Variant::L => (1.0, 1.0, 512),
        };
        let wide = |c: usize| (c as f64 * widen) as usize;
        let deep = |n: usize| ((n as f64 * deepen).round_ties_even() as usize).max(1);
        let stage = |c, n| Stage { channels: wide(c), mid: wide(c) / 2, blocks: deep(n) };
        Config {
            keypoints,
            levels,
            stem: wide(64),
            stages: [stage(128, 3), stage(256, 9), stage(512, 9), stage(1024, 3)],
            spp_mid: wide(1024) / 2,
            neck: Neck { dim: 256, ffn: 1024, layers: 1, mid: wide(256), blocks: deep(3) },
            head: Head {
                projected: 2 * wide(256),
                cls: wide(256),
                cls_convs: 2,
                pose: 8 * wide(36),
                pose_convs: 4,
                groups: 8,
                vector,
            },
            dcc: Dcc { dim: 128, encoding: 128, bins: (192, 256), expansion: 256, key_dim: 128 },
        }
    }
}

/// One stage of the backbone: a strided convolution and a CSP layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stage {
    /// Channels out.
    pub channels: usize,
    /// Channels of each of the CSP layer's two branches.
    pub mid: usize,
    /// Darknet bottlenecks in the main branch.
    pub blocks: usize,
}

/// The hybrid encoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neck {
    /// Channels of the tokens and of every level's map.
    pub dim: usize,
    /// Hidden width of the feed-forward network.
    pub ffn: usize,
    /// Transformer layers.
    pub layers: usize,
    /// Channels within a CSPRep layer.
    pub mid: usize,
    /// RepVGG blocks of a CSPRep layer.
    pub blocks: usize,
}

/// The dense head of each level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Channels that the projector makes: the first half for classification, the second for poses.
    pub projected: usize,
    /// Width of the classification branch.
    pub cls: usize,
    /// Its 3x3 convolutions.
    pub cls_convs: usize,
    /// Width of the pose branch.
    pub pose: usize,
    /// Its 3x3 convolutions; the first is dense, the others are grouped.
    pub pose_convs: usize,
    /// Groups of the grouped ones.
    pub groups: usize,
    /// Length of a grid's pose feature.
    pub vector: usize,
}

/// The Dynamic Coordinate Classifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dcc {
    /// Channels of a keypoint's vector.
    pub dim: usize,
    /// Channels of a coordinate's sine encoding.
    pub encoding: usize,
    /// Horizontal and vertical bins.
    pub bins: (usize, usize),
    /// Width of the gated attention unit's `u` and `v`.
    pub expansion: usize,
    /// Width of its queries and keys.
    pub key_dim: usize,
}

/// Everything that tells one network of the family from another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Keypoints of a person: 17 (COCO, body7), 14 (CrowdPose), or any other number.
    pub keypoints: usize,
    /// Head levels: 2 for {P4, P5}, 3 for {P3, P4, P5} (paper, Table 4).
    pub levels: usize,
    /// Channels after the stem.
    pub stem: usize,
    /// The backbone's stages; their outputs have strides 4, 8, 16, 32.
    pub stages: [Stage; 4],
    /// Channels that stage 4's spatial pyramid pools.
    pub spp_mid: usize,
    /// The hybrid encoder.
    pub neck: Neck,
    /// The dense head.
    pub head: Head,
    /// The coordinate classifier.
    pub dcc: Dcc,
}

/// Heads of the encoder's attention. No shape tells it; every published configuration says 8.
pub(super) const ATTENTION_HEADS: usize = 8;
/// Temperature of the encoder's position encoding (`pe_temperature`).
pub(super) const POSITION_TEMPERATURE: f64 = 1e4;
/// Temperature of the coordinate classifier's encoding (`spe_temperature`).
pub(super) const BIN_TEMPERATURE: f64 = 300.0;

impl Config {
    /// Reads the configuration of a checkpoint, and checks that the checkpoint holds exactly the tensors of such a
    /// network, each of the right shape. Values are not read, but for the few that are constants of the method.
    ///
    /// # Errors
    /// A tensor that is missing, of the wrong shape, or that this network has no use for (those that serve training
    /// only are let pass); a backbone other than CSPDarknet; constants other than the published ones.
    pub fn read(checkpoint: &Checkpoint) -> Result<Config> {
        let config = Reader { checkpoint }.config()?;
        config.check(checkpoint)?;
        Ok(config)
    }

    /// Pixels of the network input per grid cell, finest level first.
    pub fn strides(&self) -> &'static [usize] {
        &[8, 16, 32][3 - self.levels..]
    }

    /// Name and shape of every tensor that inference needs, as upstream's `state_dict` has them.
    pub fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let mut list = List(Vec::new());
        self.backbone_tensors(&mut list);
        self.neck_tensors(&mut list);
        self.head_tensors(&mut list);
        self.dcc_tensors(&mut list);
        list.0
    }

    /// Constants that upstream stores among the weights; a checkpoint may lack them.
    fn constants(&self) -> [(&'static str, Vec<f64>); 4] {
        let powers = |n: usize, t: f64| (0..n).map(|i| t.powf(i as f64 / n as f64)).collect();
        let line = |n: usize| (0..n).map(|i| i as f64 / (n.max(2) - 1) as f64 - 0.5).collect();
        [
            ("neck.sincos_pos_enc.dim_t", powers(self.neck.dim / 4, POSITION_TEMPERATURE)),
            ("head.dcc.spe.dim_t", powers(self.dcc.encoding / 2, BIN_TEMPERATURE)),
            ("head.dcc.x_bins", line(self.dcc.bins.0)),
            ("head.dcc.y_bins", line(self.dcc.bins.1)),
        ]
    }

    fn check(&self, checkpoint: &Checkpoint) -> Result<()> {
        let path = checkpoint.path();
        let complaint = |tensor: &str, expected: String, got: String| {
            Err(Error::Tensor { path: path.to_path_buf(), tensor: tensor.into(), expected, got })
        };
        let sane = [
            ("neck.input_proj.0.conv.weight", self.neck.dim, ATTENTION_HEADS, "output channels"),
            ("neck.projector.convs.0.conv.weight", self.head.projected, 2, "output channels"),
            (
                "head.head_module.conv_pose.0.0.conv.weight",
                self.head.pose,
                self.head.groups,
                "output channels",
            ),
            ("head.dcc.x_fc.weight", self.dcc.encoding, 2, "input channels"),
        ];
        for (tensor, value, divisor, what) in sane {
            if value % divisor != 0 {
                return complaint(tensor, format!("{what} divisible by {divisor}"), value.to_string());
            }
        }
        let tensors = self.tensors();
        for (name, shape) in &tensors {
            match checkpoint.shape(name) {
                None => return complaint(name, format!("shape {shape:?}"), "no such tensor".into()),
                Some(got) if got != shape => {
                    return complaint(name, format!("shape {shape:?}"), format!("{got:?}"));
                }
                Some(got) if got.contains(&0) => {
                    return complaint(name, "at least one element".into(), format!("{got:?}"));
                }
                Some(_) => {}
            }
        }
        let constants = self.constants();
        for (name, expected) in &constants {
            if checkpoint.contains(name) {
                let got = checkpoint.tensor(name, &[expected.len()])?;
                // Half-precision checkpoints store them to three digits at worst.
                let differs = |(g, e): (&f32, &f64)| (f64::from(*g) - e).abs() > 0.01 * e.abs() + 1e-3;
                if let Some(i) = got.iter().zip(expected).position(differs) {
                    return complaint(name, format!("{} at [{i}]", expected[i]), got[i].to_string());
                }
            }
        }
        let mut known: Vec<&str> = tensors.iter().map(|(name, _)| name.as_str()).collect();
        known.extend(constants.iter().map(|(name, _)| name));
        known.sort_unstable();
        for name in checkpoint.names() {
            if known.binary_search(&name).is_err() && !training_only(name) {
                let shape = checkpoint.shape(name).unwrap_or_default();
                return complaint(name, "no such tensor in this network".into(), format!("{shape:?}"));
            }
        }
        Ok(())
    }

    fn backbone_tensors(&self, list: &mut List) {
        list.conv_bn("backbone.stem.conv", [self.stem, 12, 3, 3]);
        let mut cin = self.stem;
        for (i, s) in self.stages.iter().enumerate() {
            let stage = format!("backbone.stage{}", i + 1);
            list.conv_bn(&format!("{stage}.0"), [s.channels, cin, 3, 3]);
            cin = s.channels;
            let mut csp = format!("{stage}.1");
            if i == 3 {
                list.conv_bn(&format!("{stage}.1.conv1"), [self.spp_mid, cin, 1, 1]);
                list.conv_bn(&format!("{stage}.1.conv2"), [cin, 4 * self.spp_mid, 1, 1]);
                csp = format!("{stage}.2");
            }
            list.conv_bn(&format!("{csp}.main_conv"), [s.mid, cin, 1, 1]);
            list.conv_bn(&format!("{csp}.short_conv"), [s.mid, cin, 1, 1]);
            list.conv_bn(&format!("{csp}.final_conv"), [cin, 2 * s.mid, 1, 1]);
            for b in 0..s.blocks {
                list.conv_bn(&format!("{csp}.blocks.{b}.conv1"), [s.mid, s.mid, 1, 1]);
                list.conv_bn(&format!("{csp}.blocks.{b}.conv2"), [s.mid, s.mid, 3, 3]);
            }
        }
    }

    fn neck_tensors(&self, list: &mut List) {
        let Neck { dim, ffn, layers, mid, blocks } = self.neck;
        for (i, stage) in self.stages[1..].iter().enumerate() {
            list.conv_bn(&format!("neck.input_proj.{i}"), [dim, stage.channels, 1, 1]);
        }
        for i in 0..layers {
            let layer = format!("neck.encoder.0.layers.{i}");
            list.add(format!("{layer}.self_attn.attn.in_proj_weight"), &[3 * dim, dim]);
            list.add(format!("{layer}.self_attn.attn.in_proj_bias"), &[3 * dim]);
            list.linear(&format!("{layer}.self_attn.attn.out_proj"), &[dim, dim]);
            list.linear(&format!("{layer}.ffn.layers.0.0"), &[ffn, dim]);
            list.linear(&format!("{layer}.ffn.layers.1"), &[dim, ffn]);
            for norm in 0..2 {
                list.add(format!("{layer}.norms.{norm}.weight"), &[dim]);
                list.add(format!("{layer}.norms.{norm}.bias"), &[dim]);
            }
        }
        for i in 0..2 {
            list.conv_bn(&format!("neck.lateral_convs.{i}"), [dim, dim, 1, 1]);
            list.conv_bn(&format!("neck.downsample_convs.{i}"), [dim, dim, 3, 3]);
        }
        for csp in ["fpn_blocks.0", "fpn_blocks.1", "pan_blocks.0", "pan_blocks.1"] {
            list.conv_bn(&format!("neck.{csp}.conv1"), [mid, 2 * dim, 1, 1]);
            list.conv_bn(&format!("neck.{csp}.conv2"), [mid, 2 * dim, 1, 1]);
            for b in 0..blocks {
                list.conv_bn(&format!("neck.{csp}.bottlenecks.{b}.branch_3x3"), [mid, mid, 3, 3]);
                list.conv_bn(&format!("neck.{csp}.bottlenecks.{b}.branch_1x1"), [mid, mid, 1, 1]);
            }
            if mid != dim {
                list.conv_bn(&format!("neck.{csp}.conv3"), [dim, mid, 1, 1]);
            }
        }
        for i in 0..self.levels {
            list.conv_bn(&format!("neck.projector.convs.{i}"), [self.head.projected, dim, 1, 1]);
        }
    }

    fn head_tensors(&self, list: &mut List) {
        let Head { projected, cls, cls_convs, pose, pose_convs, groups, vector } = self.head;
        let module = "head.head_module";
        for i in 0..self.levels {
            for j in 0..cls_convs {
                let cin = if j == 0 { projected / 2 } else { cls };
                list.conv_bn(&format!("{module}.conv_cls.{i}.{j}"), [cls, cin, 3, 3]);
            }
            for j in 0..pose_convs {
                let cin = if j == 0 { projected / 2 } else { pose / groups };
                list.conv_bn(&format!("{module}.conv_pose.{i}.{j}"), [pose, cin, 3, 3]);
            }
            list.linear(&format!("{module}.out_cls.{i}"), &[1, cls, 1, 1]);
            list.linear(&format!("{module}.out_bbox.{i}"), &[4, pose, 1, 1]);
            list.linear(&format!("{module}.out_kpt_vis.{i}"), &[self.keypoints, pose, 1, 1]);
            list.linear(&format!("{module}.out_pose.{i}"), &[vector, pose, 1, 1]);
        }
    }

    fn dcc_tensors(&self, list: &mut List) {
        let Dcc { dim, encoding, expansion, key_dim, .. } = self.dcc;
        list.linear("head.dcc.pose_to_kpts.0", &[self.keypoints * dim, self.head.vector]);
        list.bn("head.dcc.pose_to_kpts.1", self.keypoints * dim);
        list.add("head.dcc.pos_enc".into(), &[self.keypoints, key_dim]);
        list.add("head.dcc.gau.ln.g".into(), &[1]);
        list.add("head.dcc.gau.uv.weight".into(), &[2 * expansion + key_dim, dim]);
        list.add("head.dcc.gau.gamma".into(), &[2, key_dim]);
        list.add("head.dcc.gau.beta".into(), &[2, key_dim]);
        list.add("head.dcc.gau.o.weight".into(), &[dim, expansion]);
        list.add("head.dcc.gau.res_scale.scale".into(), &[dim]);
        list.linear("head.dcc.x_fc", &[dim, encoding]);
        list.linear("head.dcc.y_fc", &[dim, encoding]);
    }
}

/// Tensors of a checkpoint that only training uses: proxy keypoint regression, the learnt deviation of the
/// likelihood loss, batch-norm counters, and buffers of losses and of the preprocessor.
fn training_only(name: &str) -> bool {
    name.ends_with(".num_batches_tracked")
        || name.starts_with("head.head_module.out_kpt_reg.")
        || name.starts_with("head.dcc.sigma_fc.")
        || name.starts_with("head.loss_")
        || name.starts_with("head.assigner.")
        || name.starts_with("data_preprocessor.")
}

/// A list of names and shapes under construction.
struct List(Vec<(String, Vec<usize>)>);

impl List {
    fn add(&mut self, name: String, shape: &[usize]) {
        self.0.push((name, shape.to_vec()));
    }

    fn linear(&mut self, prefix: &str, shape: &[usize]) {
        self.add(format!("{prefix}.weight"), shape);
        self.add(format!("{prefix}.bias"), &shape[..1]);
    }

    fn bn(&mut self, prefix: &str, c: usize) {
        for part in ["weight", "bias", "running_mean", "running_var"] {
            self.add(format!("{prefix}.{part}"), &[c]);
        }
    }

    fn conv_bn(&mut self, prefix: &str, shape: [usize; 4]) {
        self.add(format!("{prefix}.conv.weight"), &shape);
        self.bn(&format!("{prefix}.bn"), shape[0]);
    }
}

/// Looks up extents and counts layers.
struct Reader<'a> {
    checkpoint: &'a Checkpoint,
}

impl Reader<'_> {
    /// Extent `axis` of a tensor that must be there.
    fn extent(&self, name: &str, axis: usize) -> Result<usize> {
        let shape = self.checkpoint.shape(name);
        let complaint = |got: String| Error::Tensor {
            path: self.checkpoint.path().to_path_buf(),
            tensor: name.into(),
            expected: format!("a tensor of at least {} dimensions, none empty", axis + 1),
            got,
        };
        match shape.map(|s| (s, s.get(axis))) {
            None => Err(complaint("no such tensor".into())),
            Some((shape, None | Some(0))) => Err(complaint(format!("shape {shape:?}"))),
            Some((_, Some(&n))) => Ok(n),
        }
    }

    /// How many of `name(0), name(1), ...` there are; at least one must be.
    fn count(&self, name: impl Fn(usize) -> String) -> Result<usize> {
        self.extent(&name(0), 0)?;
        Ok((1..).find(|&i| !self.checkpoint.contains(&name(i))).unwrap_or(1))
    }

    fn config(&self) -> Result<Config> {
        let path = self.checkpoint.path();
        if self.checkpoint.names().any(|n| n.starts_with("backbone.layer1.")) {
            let what = "a ResNet backbone (RTMO-r50): only networks with a CSPDarknet backbone are supported";
            return Err(Error::weights(path, what));
        }
        let stage = |i: usize| -> Result<Stage> {
            let csp = format!("backbone.stage{}.{}", i + 1, if i == 3 { 2 } else { 1 });
            Ok(Stage {
                channels: self.extent(&format!("backbone.stage{}.0.conv.weight", i + 1), 0)?,
                mid: self.extent(&format!("{csp}.main_conv.conv.weight"), 0)?,
                blocks: self.count(|b| format!("{csp}.blocks.{b}.conv1.conv.weight"))?,
            })
        };
        let stem = self.extent("backbone.stem.conv.conv.weight", 0)?;
        let stages = [stage(0)?, stage(1)?, stage(2)?, stage(3)?];
        let encoder = |i: usize| format!("neck.encoder.0.layers.{i}.self_attn.attn.in_proj_weight");
        let neck = Neck {
            dim: self.extent("neck.input_proj.0.conv.weight", 0)?,
            layers: self.count(encoder)?,
            ffn: self.extent("neck.encoder.0.layers.0.ffn.layers.0.0.weight", 0)?,
            mid: self.extent("neck.fpn_blocks.0.conv1.conv.weight", 0)?,
            blocks: self.count(|b| format!("neck.fpn_blocks.0.bottlenecks.{b}.branch_3x3.conv.weight"))?,
        };
        let module = "head.head_module";
        let levels = self.count(|i| format!("{module}.out_cls.{i}.weight"))?;
        if levels != 2 && levels != 3 {
            let what = format!("a head of {levels} levels: expected 2 (P4, P5) or 3 (P3, P4, P5)");
            return Err(Error::weights(path, what));
        }
        let pose = self.extent(&format!("{module}.conv_pose.0.0.conv.weight"), 0)?;
        let pose_convs = self.count(|j| format!("{module}.conv_pose.0.{j}.conv.weight"))?;
        let group_width = match pose_convs {
            1 => pose,
            _ => self.extent(&format!("{module}.conv_pose.0.1.conv.weight"), 1)?,
        };
        let head = Head {
            projected: self.extent("neck.projector.convs.0.conv.weight", 0)?,
            cls: self.extent(&format!("{module}.conv_cls.0.0.conv.weight"), 0)?,
            cls_convs: self.count(|j| format!("{module}.conv_cls.0.{j}.conv.weight"))?,
            pose,
            pose_convs,
            groups: (pose / group_width).max(1),
            vector: self.extent(&format!("{module}.out_pose.0.weight"), 0)?,
        };
        let bins = |name: &str, default: usize| match self.checkpoint.contains(name) {
            true => self.extent(name, 0),
            false => Ok(default),
        };
        let dcc = Dcc {
            dim: self.extent("head.dcc.x_fc.weight", 0)?,
            encoding: self.extent("head.dcc.x_fc.weight", 1)?,
            bins: (bins("head.dcc.x_bins", 192)?, bins("head.dcc.y_bins", 256)?),
            expansion: self.extent("head.dcc.gau.o.weight", 1)?,
            key_dim: self.extent("head.dcc.pos_enc", 1)?,
        };
        let keypoints = self.extent("head.dcc.pos_enc", 0)?;
        let spp_mid = self.extent("backbone.stage4.1.conv1.conv.weight", 0)?;
        Ok(Config { keypoints, levels, stem, stages, spp_mid, neck, head, dcc })
    }
}
