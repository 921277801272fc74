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
use crate::plan::{Op, Plan, Pose};

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

/// Whether what follows the selection is what the kernels from there on rely on, see `counted.cuh`: each reads, before
/// the one that it depends on has ended, what the ones before that wrote. gau may do so with what the selection wrote
/// since survivor_linear is between, collect with visibilities since gau and bin_decode are.
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
