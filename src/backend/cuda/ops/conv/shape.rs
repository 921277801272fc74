//! A convolution, as far as kernels and tiles are concerned.

use super::params::CONV_STEPS;
use crate::backend::cuda::MAX_BATCH;
use crate::plan::{Act, Conv, Plan};
use std::fmt::Write as _;

/// Extents of a convolution as the kernels see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shape {
    pub kernel: usize,
    pub stride: usize,
    pub cin: usize,
    pub cout: usize,
    /// Input and output maps.
    pub h: usize,
    pub w: usize,
    pub oh: usize,
    pub ow: usize,
    /// Channels a group, 0: dense.
    pub group: usize,
    pub act: Act,
}

/// A first layer, which reads the photo in cells of 2x2 pixels: kernel and padding, and the kernel over cells that it
/// becomes, with stride 1. Tap `t` of the layer falls into cell `(t + shift) / 2` of that kernel.
pub struct Stem {
    pub kernel: usize,
    pub pad: usize,
    pub cells: usize,
    pub shift: usize,
}

/// RTMO's own stem starts with a cell, ResNet's one pixel into it.
const STEMS: [Stem; 2] =
    [Stem { kernel: 6, pad: 2, cells: 3, shift: 0 }, Stem { kernel: 7, pad: 3, cells: 4, shift: 1 }];

/// Channels of a cell: 2x2 pixels of three, and four zeros.
pub const CELL: usize = 16;

/// The stem of this kernel size, if there is one.
pub fn stem(kernel: usize) -> Option<&'static Stem> {
    STEMS.iter().find(|stem| stem.kernel == kernel)
}

impl Shape {
    pub fn of(plan: &Plan, c: &Conv) -> Shape {
        let ((h, w), (oh, ow)) = (plan.hw(c.src), plan.hw(c.dst));
        let (cout, act) = (c.dst.c, c.act);
        if let Some(stem) = stem(c.kernel) {
            let kernel = stem.cells;
            return Shape { kernel, stride: 1, cin: CELL, cout, h: oh, w: ow, oh, ow, group: 0, act };
        }
        let group = if c.groups == 1 { 0 } else { c.src.c / c.groups };
        Shape { kernel: c.kernel, stride: c.stride, cin: c.src.c, cout, h, w, oh, ow, group, act }
    }

    /// Multiplications.
    pub fn work(&self) -> usize {
        let channels = if self.group == 0 { self.cin } else { self.group };
        self.kernel * self.kernel * channels * self.cout * self.oh * self.ow
    }
}

/// What a launch is called in the file of measured tiles.
pub fn signature(shapes: &[Shape], images: usize) -> String {
    let mut s = format!("x{images}");
    for p in shapes {
        let _ = write!(
            s,
            " k{}s{}g{}:{}x{}x{}>{}x{}x{}:{:?}",
            p.kernel, p.stride, p.group, p.h, p.w, p.cin, p.oh, p.ow, p.cout, p.act
        );
    }
    s
}

/// The launch of a signature: its convolutions, and the number of images. `None` for what [`signature`] does not write.
pub fn parse(text: &str) -> Option<(Vec<Shape>, usize)> {
    let mut words = text.split(' ');
    let images = words.next()?.strip_prefix('x')?.parse().ok().filter(|n| (1..=MAX_BATCH).contains(n))?;
    let shapes: Vec<Shape> = words.map(parse_shape).collect::<Option<_>>()?;
    let given = (1..=CONV_STEPS).contains(&shapes.len()) && signature(&shapes, images) == text;
    given.then_some((shapes, images))
}

fn parse_shape(text: &str) -> Option<Shape> {
    let (head, rest) = text.split_once(':')?;
    let (maps, act) = rest.split_once(':')?;
    let numbers = |text: &str, by: &[char]| -> Option<Vec<usize>> {
        let number = |part: &str| part.parse::<usize>().ok().filter(|n| *n <= 1 << 16);
        text.split(by).map(number).collect()
    };
    let [kernel, stride, group] = numbers(head.strip_prefix('k')?, &['s', 'g'])?[..] else { return None };
    let [h, w, cin, oh, ow, cout] = numbers(maps, &['x', '>'])?[..] else { return None };
    let acts = [Act::None, Act::Silu, Act::Gelu, Act::Relu];
    let act = acts.into_iter().find(|known| format!("{known:?}") == act)?;
    Some(Shape { kernel, stride, cin, cout, h, w, oh, ow, group, act })
}
