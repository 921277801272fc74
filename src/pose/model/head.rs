//! The dense head (mmpose `RTMOHeadModule`): class logits, boxes and pose features of every grid cell.

use super::config::Config;
use super::net::Net;
use crate::error::Result;
use crate::plan::{GridLevel, View};

/// Added to the variances of its batch norms.
const BN_EPS: f64 = 1e-3;

/// What the head leaves for selection and for the survivors.
pub(super) struct Dense {
    /// Class logits and boxes, finest level first.
    pub levels: Vec<GridLevel>,
    /// Last maps of the pose branches.
    pub pose: Vec<View>,
}

/// Appends the head; `maps` are the projector's outputs, whose channels are `[cls half, pose half]`.
///
/// Convolutions that do not depend on each other follow one another: class and pose branches of all levels advance
/// together.
pub(super) fn head(net: &mut Net<'_>, config: &Config, maps: &[View]) -> Result<Dense> {
    let half = config.head.projected / 2;
    let mut cls: Vec<View> = maps.iter().map(|p| p.slice(0, half)).collect();
    let mut pose: Vec<View> = maps.iter().map(|p| p.slice(half, half)).collect();
    for depth in 0..config.head.cls_convs.max(config.head.pose_convs) {
        for level in 0..maps.len() {
            if depth < config.head.cls_convs {
                let name = format!("head.head_module.conv_cls.{level}.{depth}");
                let filter = net.conv_bn(&name, BN_EPS)?;
                cls[level] = net.conv(name.clone(), filter, cls[level]).silu().to(name)?;
            }
            if depth < config.head.pose_convs {
                let name = format!("head.head_module.conv_pose.{level}.{depth}");
                let filter = net.conv_bn(&name, BN_EPS)?;
                let groups = if depth == 0 { 1 } else { config.head.groups };
                let step = net.conv(name.clone(), filter, pose[level]).groups(groups).silu();
                pose[level] = step.to(name)?;
            }
        }
    }
    // Scores and boxes decide who is found, at next to no cost: they are f32 in every precision.
    let mut levels = Vec::new();
    for (level, &stride) in config.strides().iter().enumerate() {
        let name = format!("head.head_module.out_cls.{level}");
        let filter = net.linear(&name)?;
        let cls = net.conv(name.clone(), filter, cls[level]).f32().to(name)?;
        let name = format!("head.head_module.out_bbox.{level}");
        let filter = net.linear(&name)?;
        let bbox = net.conv(name.clone(), filter, pose[level]).f32().to(name)?;
        levels.push(GridLevel { cls, bbox, stride });
    }
    Ok(Dense { levels, pose })
}
