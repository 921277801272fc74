//! ONNX files as mmdeploy makes them of RTMO (`end2end.onnx`): a source of weights.
//!
//! Nothing in the file is run. Names of nodes and tensors mean nothing, since versions of torch give other ones: weights are
//! found by the operations that lead to them, from the head back to the image (`walk.rs`, `network.rs`), and get the names that
//! they have in the authors' checkpoints. Every convolution must have been found.
//!
//! The exporter has folded batch norms into convolutions. They are given back as norms that change nothing to f32's last bit:
//! a variance of one less epsilon.

mod dcc;
mod encoder;
mod graph;
mod network;
mod proto;
mod walk;

use super::{Contents, Format, Parsed};
use graph::Graph;
use walk::Walk;

/// Whether a file may begin so. A model's first field is its version, a small number; then comes a text or the graph.
pub(super) fn begins(head: &[u8]) -> bool {
    matches!(head, [0x08, 1..=127, 0x12 | 0x1a | 0x22 | 0x32 | 0x3a | 0x42, ..])
}

/// Reads the file that is bytes `start..` of part `part` (see [`Data`](super::Data)).
pub(super) fn read(file: &[u8], part: usize, start: usize) -> Parsed<Contents> {
    let wrong = |what: String| format!("ONNX: {what}");
    let graph = Graph::read(file).map_err(wrong)?;
    let contents = Contents::new(Format::Onnx);
    let mut walk = Walk::new(&graph, file, part, start, contents);
    network::walk(&mut walk).map_err(wrong)?;
    if let Some((_, extents)) = &graph.input
        && let [_, 3, height, width] = extents[..]
        && height.min(width) > 0
    {
        walk.contents.metadata.insert("input_size".into(), format!("{width}x{height}"));
    }
    Ok(walk.contents)
}
