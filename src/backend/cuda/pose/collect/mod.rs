//! The engine's own last launch, which hands people over to the host: `collect.cu`.

mod params;

use self::params::CollectLaunch;
use super::params::PERSON_FLOATS;
use crate::backend::cuda::launch::{Kernel, Launch};
use crate::backend::cuda::lower::Lowering;
use crate::plan::{KEYPOINTS, Plan, VISIBILITY};

const KERNEL: Kernel = Kernel { file: "collect", name: "collect" };

/// Floats of a person in the results.
pub fn fields(plan: &Plan) -> usize {
    PERSON_FLOATS + 3 * plan.keypoints()
}

/// The launch; none for plans without outputs.
pub fn launch(cx: &Lowering<'_>) -> Option<Launch> {
    let (xy, visible) = (cx.plan.output(KEYPOINTS)?, cx.plan.output(VISIBILITY)?);
    let workspace = cx.workspace;
    let params = CollectLaunch {
        survivors: workspace.survivors,
        counts: workspace.counts,
        keypoints: cx.address(xy),
        visibility: cx.address(visible),
        host_counts: workspace.host_counts,
        host_rows: workspace.host_rows,
        keypoints_pitch: cx.pitch(xy),
        visibility_pitch: cx.pitch(visible),
        tokens: cx.plan.keypoints() as i32,
        capacity: workspace.capacity as i32,
        images: workspace.images as i32,
        reserved: 0,
    };
    let images = workspace.images as u32;
    Some(Launch::new(KERNEL, [16u32.div_ceil(images), images, 1], 256, params, &[]))
}
