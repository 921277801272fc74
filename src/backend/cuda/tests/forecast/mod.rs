//! What a run on an H100 would look like, computed without one: launches, whether each finds room beside the one before
//! it, bytes, waves, and the time by a model. A table (`forecast.tsv`) holds it, so that a step back shows.

mod blueprint;
mod chip;
mod cost;

use self::blueprint::Blueprint;
use self::chip::{Blocks, Registers, Room};
use super::*;
use crate::backend::cuda::constants::Constants;
use crate::backend::cuda::launch::Launch;
use crate::backend::cuda::ops::conv::tiles::{Tile, possible, tile, tiles};
use crate::backend::cuda::schedule::Schedule;
use crate::pose::model;

/// The GPU of the record, with the kernels that a GPU has confirmed.
const H100: Caps = Caps { unproven: false, ..HOPPER };

/// The launches of the dense network.
fn dense(plan: &Plan, images: usize, choose: &mut dyn FnMut(&[Shape]) -> Choice) -> Vec<Launch> {
    let schedule = Schedule::new(plan, false, true).unwrap();
    let mut constants = Constants::new(&Blueprint::gpu(H100));
    let workspace = WorkspaceAddresses {
        images,
        capacity: 1,
        arena: 1 << 20,
        rows: 1 << 20,
        input: 1 << 20,
        survivors: 1 << 20,
        counts: 1 << 20,
        boxes: 1 << 20,
        keys: 1 << 20,
        host_counts: 1 << 20,
        host_rows: 1 << 20,
        heat: [0; 2],
    };
    let lowering = Lowering { plan, schedule: &schedule, constants: &mut constants, workspace, choose };
    let mut launches = { lowering }.launches().unwrap();
    let pose = |s: &usize| matches!(plan.steps[*s].op, Op::Pose(_));
    launches.retain(|l| !l.steps.is_empty() && !l.steps.iter().any(pose));
    launches
}

/// The built-in choice, but where there is one a kernel of the same tile with fewer registers and stages, and fewer
/// activation buffers where each step takes another; for GELU the one with wgmma. No GPU has confirmed these kernels.
fn lean(shapes: &[Shape], images: usize) -> Choice {
    let choice = tune::built_in(&H100, shapes, images);
    if let [Shape { act: Act::Gelu, .. }] = shapes {
        let tile = tile("conv_wg_1_1x2_64x64_4_gelu").unwrap();
        return Choice { tile, width: 0, split: 1, buffers: 4, ..choice };
    }
    let (is, buffers) = (choice.tile, choice.buffers);
    let key = |t: &Tile| (t.family.file(), t.serves, t.bm, t.bn, t.bk, t.parts);
    let other = tiles().find(|t| t.name.ends_with("_lean") && key(t) == key(is));
    let buffers = if shapes[0].kernel == 1 { buffers.min(4) } else { buffers };
    let lean = other.map(|tile| Choice { tile, buffers, ..choice });
    lean.filter(|c| possible(&HOPPER, shapes, c)).unwrap_or(choice)
}

/// What the table holds of a run. More of any is worse, but for `overlaps`.
#[derive(Clone, Copy, Debug, Default)]
struct Forecast {
    launches: usize,
    /// Launches whose blocks all find room beside those of the launch before.
    overlaps: usize,
    waves: usize,
    /// Megabytes that blocks load, from L2 or memory.
    loads: f64,
    /// Microseconds of the dense network.
    time: f64,
}

const COLUMNS: &str = "network\tbatch\tkernels\tlaunches\toverlaps\twaves\tMB loaded\tus";

impl Forecast {
    fn of(plan: &Plan, launches: &[Launch], registers: &Registers) -> Forecast {
        let count = |l: &Launch| l.grid.iter().map(|&n| n as usize).product();
        let blocks = |l: &Launch| Blocks { count: count(l), room: registers.block(l) };
        let mut all = Forecast { launches: launches.len(), ..Forecast::default() };
        for (i, l) in launches.iter().enumerate() {
            all.overlaps += usize::from(i > 0 && blocks(&launches[i - 1]).overlaps(blocks(l)));
            all.waves += blocks(l).waves();
            all.loads += cost::convolution(l, plan).map_or(0.0, |w| w.loads);
            all.time += cost::time(l, plan, blocks(l));
        }
        all
    }

    fn row(&self, name: &str, images: usize, kernels: &str) -> String {
        let Forecast { launches, overlaps, waves, loads, time } = self;
        format!("{name}\t{images}\t{kernels}\t{launches}\t{overlaps}\t{waves}\t{loads:.0}\t{time:.0}")
    }
}

/// Microseconds in the record of 2026-11-23: the dense network of single images ("network"); of batches a whole run of
/// photos on the device ("sweep"), which is some 80 us an image more.
const RECORD: &[(&str, usize, f64, &str)] = &[
    ("rtmo-s", 1, 314.0, "dense"),
    ("rtmo-l", 1, 739.0, "dense"),
    ("rtmo-s", 16, 3149.0, "whole"),
    ("rtmo-m", 16, 4979.0, "whole"),
    ("rtmo-l", 16, 7235.0, "whole"),
];

/// Holds what is forecast against the table. `RTMO_RENEW=1` writes the table again, for a change that is meant.
#[test]
fn launches_overlaps_bytes_and_time_are_those_of_the_table() {
    let registers = Registers::read();
    let mut rows = vec![COLUMNS.to_string()];
    for variant in [model::Variant::S, model::Variant::M, model::Variant::L] {
        let plan = model::build(&model::random(variant, 17, 2, 0), None).unwrap();
        for (images, kernels) in [(1, "proven"), (1, "lean"), (16, "proven"), (16, "lean")] {
            let launches = dense(&plan, images, &mut |shapes| match kernels {
                "lean" => lean(shapes, images),
                _ => tune::built_in(&H100, shapes, images),
            });
            let forecast = Forecast::of(&plan, &launches, &registers);
            let name = format!("rtmo-{}", format!("{variant:?}").to_lowercase());
            println!("{name}, batch {images}, {kernels} kernels: {:.0} us by the model", forecast.time);
            for (_, _, us, what) in RECORD.iter().filter(|r| (r.0, r.1) == (&name, images)) {
                println!("    the record has {us:.0} us ({what})");
            }
            rows.push(forecast.row(&name, images, kernels));
        }
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/backend/cuda/tests/forecast/forecast.tsv");
    if std::env::var_os("RTMO_RENEW").is_some() {
        std::fs::write(path, rows.join("\n") + "\n").unwrap();
    }
    let table = std::fs::read_to_string(path).unwrap_or_default();
    let differences = differences(&table.lines().collect::<Vec<_>>(), &rows);
    assert!(differences.is_empty(), "{}\nRTMO_RENEW=1 writes the table again", differences.join("\n"));
}

/// Cells that differ, each as better or worse.
fn differences(table: &[&str], now: &[String]) -> Vec<String> {
    if table.len() != now.len() || table.first() != now.first().map(String::as_str).as_ref() {
        return vec![format!("the table has other columns or another number of rows: {COLUMNS}")];
    }
    let columns: Vec<&str> = COLUMNS.split('\t').collect();
    let mut found = Vec::new();
    for (was, is) in table.iter().zip(now) {
        for ((was, cell), column) in was.split('\t').zip(is.split('\t')).zip(&columns) {
            let (Ok(a), Ok(b)) = (was.parse::<f64>(), cell.parse::<f64>()) else {
                if was != cell {
                    found.push(format!("{was}: expected {cell}"));
                }
                continue;
            };
            if a != b {
                let worse = (b > a) != (*column == "overlaps");
                let of: String = is.split('\t').take(3).collect::<Vec<_>>().join(" ");
                found
                    .push(format!("{of}: {column} {a}, now {b}: {}", if worse { "worse" } else { "better" }));
            }
        }
    }
    found
}

#[test]
fn a_step_back_is_told() {
    let table = [COLUMNS, "rtmo-s\t1\tproven\t64\t40\t90\t506\t300"];
    let now = |row: &str| vec![COLUMNS.to_string(), row.to_string()];
    assert!(differences(&table, &now(table[1])).is_empty());
    let told = differences(&table, &now("rtmo-s\t1\tproven\t64\t39\t90\t506\t299"));
    assert_eq!(
        told,
        ["rtmo-s 1 proven: overlaps 40, now 39: worse", "rtmo-s 1 proven: us 300, now 299: better"]
    );
    assert_eq!(differences(&table[..1], &now(table[1])).len(), 1);
}

/// Rooms and overlaps, by hand.
#[test]
fn blocks_find_room() {
    let room = Room::of_block(118, 142_592, 416);
    assert_eq!(room, Room::of_block(120, 142_500, 416), "registers by 8, shared memory by 128 bytes");
    let (large, half) = (Blocks { count: 100, room }, Room::of_block(96, 83_968, 416));
    assert_eq!(large.waves(), 1);
    // 32 multiprocessors are free; on the others 13 warps of 118 registers leave too few for 13 of 96.
    assert!(large.overlaps(Blocks { count: 32, room: half }));
    assert!(!large.overlaps(Blocks { count: 33, room: half }));
    let lean = Room::of_block(72, 83_968, 416);
    assert!(
        Blocks { count: 100, room: Room::of_block(72, 142_592, 416) }
            .overlaps(Blocks { count: 132, room: lean })
    );
    assert_eq!(Blocks { count: 133, room }.waves(), 2);
}
