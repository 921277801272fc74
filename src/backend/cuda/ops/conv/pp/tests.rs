//! Persistent blocks, under the emulator.

use crate::backend::cuda::gpu::{Caps, Gpu};
use crate::backend::cuda::ops::conv::params::Trigger;
use crate::backend::cuda::ops::conv::tiles::{Choice, geometry, grid, possible, stages, tile};
use crate::backend::cuda::ops::conv::tune::tests::{H100, T4, shape};
use crate::backend::cuda::ops::conv::tune::{candidates, ranked};
use crate::backend::cuda::tests::conv::{
    Case, PLAIN, check_batch, check_conv, check_epilogues, check_mistake,
};
use crate::backend::cuda::tests::{Limited, gpus};
use crate::plan::Act;
use std::sync::Arc;

fn ping_pong(choices: &[Choice]) -> Vec<Choice> {
    let stays = |c: &&Choice| c.tile.family.file() == "conv_pp";
    choices.iter().filter(stays).copied().collect()
}

#[test]
fn persistent_blocks_are_for_single_steps_with_many_tiles() {
    for (s, images) in [
        (shape(3, 1, 16, 64, 320), 1),
        (shape(3, 1, 64, 64, 160), 1),
        (shape(3, 1, 128, 128, 80), 16),
        (shape(3, 1, 512, 512, 20), 16),
        (shape(3, 2, 256, 512, 40), 16),
        (shape(1, 1, 512, 512, 40), 16),
        (shape(1, 1, 128, 256, 80), 2),
    ] {
        let ranked = ranked(&H100, &[s], images);
        let found = ping_pong(&ranked);
        assert!((1..=3).contains(&found.len()) && found == ranked[..found.len()], "{s:?}");
        for c in found {
            assert!(possible(&H100, &[s], &c), "{s:?} {c:?}");
            let g = geometry(&s, &c).unwrap();
            let tiles = g.step.tiles as usize * images;
            let all = (g.step.chunks * g.step.kernel * g.step.kernel) as usize;
            let [along, columns, depth] = grid(&H100, &[g], images, &c);
            assert!(along * columns * depth <= H100.sms && tiles >= 2 * along as usize, "{s:?} {c:?}");
            assert!((all.min(3)..=all).contains(&stages(&[g], &c)), "{s:?} {c:?}");
        }
        assert!(ping_pong(&candidates(&H100, &[s, s], images)).is_empty(), "several steps");
        assert!(ping_pong(&candidates(&T4, &[s], images)).is_empty(), "no wgmma");
        let unasked = Caps { unproven: false, ..H100 };
        assert!(ping_pong(&candidates(&unasked, &[s], images)).is_empty(), "not asked for");
    }
    assert!(ping_pong(&candidates(&H100, &[shape(3, 1, 128, 128, 20)], 1)).is_empty(), "few tiles");
}

/// Persistent blocks with one to many tiles each: full and partial rounds, blocks with fewer tiles than others, tiles
/// that end beyond the map, weights that fit into their ring and weights that pass through it repeatedly.
#[test]
#[ignore = "takes minutes in the emulator; .ci/run has a step for these"]
fn persistent_blocks_do_all_tiles() {
    let tile = |name: &str| tile(name).unwrap();
    let k3 = Case { h: 19, w: 21, ..PLAIN };
    let k1 = Case { kernel: 1, ..k3 };
    let runs = [
        // kernel, width, buffers, images, case
        ("conv_pp_3_3_64x64", 8, 2, 2, Case { cin: 72, cout: 72, ..k3 }),
        ("conv_pp_3_3_64x64", -1, 2, 1, Case { cin: 40, cout: 64, post: true, ..k3 }),
        ("conv_pp_3_3_64x16", 8, 4, 3, Case { cin: 16, cout: 40, h: 9, w: 12, ..k3 }),
        ("conv_pp_3_3_64x16", 8, 1, 1, Case { cin: 16, cout: 64, h: 11, w: 30, ..k3 }),
        ("conv_pp_3_3_128x32", 8, 3, 1, Case { cin: 136, cout: 104, post: true, ..k3 }),
        ("conv_pp_3_3_128x32", 8, 2, 2, Case { cin: 40, cout: 136, stride: 2, ..k3 }),
        ("conv_pp_3_3_128x32", -1, 2, 2, Case { cin: 144, cout: 144, groups: 8, h: 10, w: 7, ..k3 }),
        ("conv_pp_3_3_128x64", 8, 2, 2, Case { cin: 136, cout: 128, h: 11, w: 9, ..k3 }),
        ("conv_pp_3_3_128x64", -1, 2, 3, Case { cin: 128, cout: 128, h: 6, w: 5, ..k3 }),
        ("conv_pp_3_2_256x32", 8, 4, 1, Case { cin: 72, cout: 264, h: 10, w: 12, ..k3 }),
        ("conv_pp_3_2_256x32", 8, 2, 2, Case { cin: 32, cout: 96, stride: 2, post: true, ..k3 }),
        ("conv_pp_1_3_128x64", 0, 3, 2, Case { cin: 264, cout: 136, post: true, ..k1 }),
        ("conv_pp_1_3_128x64", 0, 2, 3, Case { cin: 600, cout: 40, h: 9, w: 10, ..k1 }),
        ("conv_pp_1_2_256x64", 0, 4, 1, Case { cin: 200, cout: 264, ..k1 }),
        ("conv_pp_1_2_256x64", 0, 2, 2, Case { cin: 392, cout: 136, h: 9, w: 8, post: true, ..k1 }),
    ];
    for (seed, sms) in [(1, 1), (2, 2), (0, 3), (3, 5), (4, 4), (5, 1)] {
        for gpu in gpus(&[seed]) {
            if !gpu.caps().wgmma {
                continue;
            }
            let gpu: Arc<dyn Gpu> = Limited::new(gpu, sms);
            for (name, width, buffers, images, case) in &runs {
                let (tile, trigger) = (tile(name), [Trigger::Mid, Trigger::Late, Trigger::Early][images - 1]);
                let choice = Choice { tile, width: *width, split: 1, buffers: *buffers, trigger };
                let what = format!("{name} {choice:?} x{images}, {sms} multiprocessors, seed {seed}");
                check_batch(&gpu, case, choice, *images, &what);
            }
        }
    }
}

#[test]
fn epilogues_add_and_activate() {
    for gpu in gpus(&[3]) {
        for name in ["conv_pp_3_3_64x64", "conv_pp_3_3_128x32", "conv_pp_1_2_256x64"] {
            check_epilogues(&gpu, name, &[Act::None, Act::Silu]);
        }
    }
}

#[test]
fn grouped_convolutions_read_their_bands() {
    for gpu in gpus(&[4]) {
        for per in [13, 18, 27, 36] {
            let case = Case { cin: per * 8, cout: per * 8, groups: 8, h: 5, w: 6, ..PLAIN };
            for name in ["conv_pp_3_3_64x64", "conv_pp_3_3_128x32"] {
                let tile = tile(name).unwrap();
                let choice = Choice { tile, width: 8, split: 1, buffers: 2, trigger: Trigger::Mid };
                check_conv(&gpu, &[case], Some(choice), &format!("8 groups of {per}, {name}"));
            }
        }
    }
}

/// As in the tests of all convolutions.
#[test]
fn mistakes_in_kernels_are_noticed() {
    let mutations = [
        (
            "conv_pp",
            "if (loaded++ >= buffers)",
            "if (loaded++ > buffers)",
            "activations overwritten too early",
        ),
        (
            "conv_pp",
            "if (stay || !leader) break;",
            "break;",
            "weights that a warpgroup without a tile keeps",
        ),
        ("conv_pp", "wgmma_wait<0>();", "", "sums used before they are complete"),
        (
            "conv_pp",
            "mbar_arrive(my_empty + 8 * last_buffer);\n    }",
            "}",
            "a tile's last buffer is kept",
        ),
    ];
    for mistake in mutations {
        // 8 tiles of one block: rounds of 3, 3 and 2
        check_mistake(mistake.into(), ("conv_pp_3_3_64x64", "CONV_PP(3, 3, 64, 64)"), (11, 30));
    }
}
