//! The hyper-parameters of a network of the RTMO family, and whether a checkpoint holds such a network.

use super::build_from;
use super::darknet::Darknet;
use super::dcc::{BIN_TEMPERATURE, Dcc};
use super::head::{Head, MODULE};
use super::neck::{Neck, POSITION_TEMPERATURE};
use super::net::Net;
use super::probe::Probe;
use super::resnet::ResNet;
use super::source::{Comparison, Shapes};
use crate::error::{Error, Result};
use crate::plan::View;
use crate::variant::Variant;
use crate::weights::Checkpoint;

/// One stage of a backbone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stage {
    /// Channels out.
    pub channels: usize,
    /// Channels within its blocks.
    pub mid: usize,
    /// Residual blocks.
    pub blocks: usize,
}

/// Hyper-parameters of the network that makes C3, C4 and C5 of the image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backbone {
    /// Of RTMO-t, -s, -m and -l.
    Darknet(Darknet),
    /// Of RTMO-r50.
    ResNet(ResNet),
}

impl Backbone {
    fn read(probe: &Probe<'_>) -> Result<Backbone> {
        match ResNet::is_in(probe) {
            true => ResNet::read(probe).map(Backbone::ResNet),
            false => Darknet::read(probe).map(Backbone::Darknet),
        }
    }

    pub(super) fn append(&self, net: &mut Net<'_>, image: View) -> Result<[View; 3]> {
        match self {
            Backbone::Darknet(darknet) => darknet.append(net, image),
            Backbone::ResNet(resnet) => resnet.append(net, image),
        }
    }
}

impl Variant {
    /// The configuration with this many keypoints and head levels (2: P4, P5; 3: P3, P4, P5). Channel counts are
    /// truncated and block counts rounded as mmpose does.
    #[doc(hidden)]
    pub fn config(self, keypoints: usize, levels: usize) -> Config {
        let (widen, deepen, vector) = match self {
            Variant::T => (0.375, 0.33, 192),
            Variant::S => (0.5, 0.33, 256),
            Variant::M => (0.75, 0.67, 384),
            Variant::L | Variant::R50 => (1.0, 1.0, 512),
        };
        let wide = |c: usize| (c as f64 * widen) as usize;
        let deep = |n: usize| ((n as f64 * deepen).round_ties_even() as usize).max(1);
        let backbone = match self {
            Variant::R50 => {
                let stage = |mid, blocks| Stage { channels: 4 * mid, mid, blocks };
                let stages = [stage(64, 3), stage(128, 4), stage(256, 6), stage(512, 3)];
                Backbone::ResNet(ResNet { stem: 64, stages })
            }
            _ => {
                let stage = |c, n| Stage { channels: wide(c), mid: wide(c) / 2, blocks: deep(n) };
                let stages = [stage(128, 3), stage(256, 9), stage(512, 9), stage(1024, 3)];
                Backbone::Darknet(Darknet { stem: wide(64), stages, spp_mid: wide(1024) / 2 })
            }
        };
        Config {
            keypoints,
            levels,
            backbone,
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

/// The hyper-parameters in which networks of the family differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Keypoints of a person: 17 (COCO, body7), 14 (CrowdPose), or any other number.
    pub keypoints: usize,
    /// Head levels: 2 for {P4, P5}, 3 for {P3, P4, P5} (paper, Table 4).
    pub levels: usize,
    /// The backbone.
    pub backbone: Backbone,
    /// The hybrid encoder.
    pub neck: Neck,
    /// The dense head.
    pub head: Head,
    /// The coordinate classifier.
    pub dcc: Dcc,
}

/// An input size for networks that are built for their tensors only, which do not depend on it.
pub(super) const ANY_INPUT: (usize, usize) = (32, 32);

impl Config {
    /// Reads the configuration of a checkpoint, and checks that the checkpoint holds exactly the tensors of such a
    /// network, each of the right shape. Values are not read, but for the few that are constants of the method.
    ///
    /// # Errors
    /// A tensor that is missing, of the wrong shape, or that this network has no use for (those that serve training
    /// only are let pass); an extent or count beyond the limits; constants other than the published ones.
    pub fn read(checkpoint: &Checkpoint) -> Result<Config> {
        let probe = Probe::new(checkpoint);
        let backbone = Backbone::read(&probe)?;
        let neck = Neck::read(&probe)?;
        let levels = probe.count(|i| format!("{MODULE}.out_cls.{i}.weight"))?;
        if levels != 2 && levels != 3 {
            return probe.refuse(format!("a head of {levels} levels: expected 2 (P4, P5) or 3 (P3, P4, P5)"));
        }
        let head = Head::read(&probe)?;
        let (dcc, keypoints) = Dcc::read(&probe)?;
        let config = Config { keypoints, levels, backbone, neck, head, dcc };
        config.check(checkpoint)?;
        Ok(config)
    }

    /// Pixels of the network input per grid cell, finest level first.
    pub fn strides(&self) -> &'static [usize] {
        &[8, 16, 32][3 - self.levels..]
    }

    /// Name and shape of every tensor that inference needs, as upstream's `state_dict` has them.
    pub fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let mut shapes = Shapes::default();
        build_from(self, &mut shapes, ANY_INPUT).expect("a list of shapes has every tensor");
        shapes.tensors
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
        let complaint = |tensor: &str, expected: String, got: String| {
            let path = checkpoint.path().to_path_buf();
            Err(Error::Tensor { path, tensor: tensor.into(), expected, got })
        };
        let mut comparison = Comparison::new(checkpoint);
        build_from(self, &mut comparison, ANY_INPUT)?;
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
        let mut known: Vec<&str> = comparison.compared.iter().map(String::as_str).collect();
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
}

/// Tensors of a checkpoint that only training uses: proxy keypoint regression, the learnt deviation of the
/// likelihood loss, batch-norm counters, a classifier of images behind the backbone, and buffers of losses and of the
/// preprocessor.
fn training_only(name: &str) -> bool {
    name.ends_with(".num_batches_tracked")
        || name.starts_with("head.head_module.out_kpt_reg.")
        || name.starts_with("head.dcc.sigma_fc.")
        || name.starts_with("backbone.fc.")
        || name.starts_with("head.loss_")
        || name.starts_with("head.assigner.")
        || name.starts_with("data_preprocessor.")
}
