//! The operations that only a pose network has, the photos that a run is given, and the people that it hands back.

pub mod bin_decode;
pub mod collect;
pub mod frames;
mod gau;
mod letterbox;
pub mod params;
pub mod select;
mod survivor_linear;

use super::ops::Operation;
use super::schedule::Group;
use crate::plan::{MAX_LEVELS, Op, Plan, Pose};

const _: () = assert!(params::LEVELS == MAX_LEVELS, "kernels take every plan's head levels");

/// The operation of a step: one row each.
pub fn of(pose: &Pose) -> &'static dyn Operation {
    match pose {
        Pose::Letterbox { .. } => &letterbox::Letterbox,
        Pose::Select { .. } => &select::Select,
        Pose::SurvivorLinear { .. } => &survivor_linear::SurvivorLinear,
        Pose::Gau(_) => &gau::GatedAttentionUnit,
        Pose::BinDecode(_) => &bin_decode::BinDecode,
    }
}

/// Checks that the kernels after the selection run in the order that their early reads rely on, see `counted.cuh`:
///
/// 1. gau reads early what the selection wrote: survivor_linear must run between them;
/// 2. collect reads visibilities early, which survivor_linear wrote: gau and bin_decode must run between them.
///
/// # Errors
/// What was expected.
pub fn ends_in_order(plan: &Plan, groups: &[Group]) -> Result<(), String> {
    let operation = |group: &Group| &plan.steps[group.steps[0]].op;
    let mut after = groups.iter().map(operation).skip_while(|op| !op.fixes_rows()).skip(1);
    let in_order = matches!(after.next(), Some(Op::Pose(Pose::SurvivorLinear { .. })))
        && matches!(after.next(), Some(Op::Pose(Pose::Gau(_))))
        && matches!(after.next(), Some(Op::Pose(Pose::BinDecode(_))))
        && after.next().is_none();
    let expected = "expected the selection, then one survivor linear, gau and bin decode, and nothing else";
    if in_order { Ok(()) } else { Err(expected.into()) }
}
