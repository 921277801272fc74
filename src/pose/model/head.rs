//! The dense head (mmpose `RTMOHeadModule`): class logits, boxes and pose features of every grid cell.

use super::net::{Net, Norm};
use super::probe::Probe;
use super::signal::Signal;
use super::source::Init;
use crate::error::Result;
use crate::plan::{GridLevel, View};

const NORM: Norm = Norm::before_activation(1e-3);

pub(super) const MODULE: &str = "head.head_module";

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

/// What the head leaves for selection and for the survivors.
pub(super) struct Dense {
    /// Class logits and boxes, finest level first.
    pub levels: Vec<GridLevel>,
    /// Last maps of the pose branches.
    pub pose: Vec<View>,
}

impl Head {
    /// Reads it off the shapes of a checkpoint.
    pub(super) fn read(probe: &Probe<'_>) -> Result<Head> {
        let projected = probe.multiple("neck.projector.convs.0.conv.weight", 0, 2)?;
        let (first, second) =
            (format!("{MODULE}.conv_pose.0.0.conv.weight"), format!("{MODULE}.conv_pose.0.1.conv.weight"));
        let pose = probe.extent(&first, 0)?;
        let pose_convs = probe.count(|j| format!("{MODULE}.conv_pose.0.{j}.conv.weight"))?;
        let group_width = if pose_convs == 1 { pose } else { probe.extent(&second, 1)? };
        let groups = (pose / group_width).max(1);
        probe.multiple(&first, 0, groups)?;
        Ok(Head {
            projected,
            cls: probe.extent(&format!("{MODULE}.conv_cls.0.0.conv.weight"), 0)?,
            cls_convs: probe.count(|j| format!("{MODULE}.conv_cls.0.{j}.conv.weight"))?,
            pose,
            pose_convs,
            groups,
            vector: probe.extent(&format!("{MODULE}.out_pose.0.weight"), 0)?,
        })
    }

    /// Appends the head; `maps` are the projector's outputs, whose channels are `[cls half, pose half]`, of these
    /// `strides`.
    ///
    /// Convolutions that do not depend on each other follow one another: class and pose branches of all levels advance
    /// together.
    pub(super) fn append(&self, net: &mut Net<'_>, maps: &[View], strides: &[usize]) -> Result<Dense> {
        let half = self.projected / 2;
        let mut cls: Vec<View> = maps.iter().map(|p| p.slice(0, half)).collect();
        let mut pose: Vec<View> = maps.iter().map(|p| p.slice(half, half)).collect();
        for depth in 0..self.cls_convs.max(self.pose_convs) {
            for level in 0..maps.len() {
                if depth < self.cls_convs {
                    let (x, name) = (&mut cls[level], format!("{MODULE}.conv_cls.{level}.{depth}"));
                    let filter = net.conv_bn(&name, [self.cls, x.c, 3, 3], NORM, net.inputs(&[*x]))?;
                    *x = net.conv(name.clone(), filter, *x).silu().to(name)?;
                }
                if depth < self.pose_convs {
                    let (x, name) = (&mut pose[level], format!("{MODULE}.conv_pose.{level}.{depth}"));
                    let groups = if depth == 0 { 1 } else { self.groups };
                    let shape = [self.pose, x.c / groups, 3, 3];
                    let filter = net.conv_bn(&name, shape, NORM, net.inputs(&[*x]))?;
                    *x = net.conv(name.clone(), filter, *x).groups(groups).silu().to(name)?;
                }
            }
        }
        // Class logits and boxes decide who is found, and are cheap: they are f32 in every precision.
        let mut levels = Vec::new();
        for (level, &stride) in strides.iter().enumerate() {
            let (cls, pose) = (cls[level], pose[level]);
            // Logits of a deviation of 1.5, two of them below the default threshold, ln(0.1 / 0.9): about one grid cell
            // in fifty passes.
            let name = format!("{MODULE}.out_cls.{level}");
            let (variance, bias) = (1.5 * 1.5 / Signal::SILU.var(), Init::around(-2.2 - 2.0 * 1.5, 0.0));
            let filter = net.output(&name, [1, cls.c, 1, 1], variance, bias, net.inputs(&[cls]))?;
            let cls = net.conv(name.clone(), filter, cls).f32().to(name)?;
            // Centres near the grid point; sizes of about six strides.
            let name = format!("{MODULE}.out_bbox.{level}");
            let variance = 0.35 * 0.35 / Signal::SILU.var();
            let bias = Init::Halves([(0.0 - 0.1, 0.0 + 0.1), (1.8 - 0.1, 1.8 + 0.1)]);
            let filter = net.output(&name, [4, pose.c, 1, 1], variance, bias, net.inputs(&[pose]))?;
            let bbox = net.conv(name.clone(), filter, pose).f32().to(name)?;
            levels.push(GridLevel { cls, bbox, stride });
        }
        Ok(Dense { levels, pose })
    }
}
