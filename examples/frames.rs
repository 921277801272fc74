//! Reads raw RGB frames from standard input and prints where each person's nose is.
//!
//!     ffmpeg -i clip.mp4 -f rawvideo -pix_fmt rgb24 -s 640x360 - |
//!         cargo run --release --example frames WEIGHTS 640 360

use rtmo_engine::{ChannelOrder, Engine, EngineOptions, Image};
use std::io::Read;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [weights, width, height] = arguments.as_slice() else {
        return Err("usage: frames WEIGHTS WIDTH HEIGHT < FRAMES".into());
    };
    let (width, height): (usize, usize) = (width.parse()?, height.parse()?);
    let mut engine = Engine::load(weights, EngineOptions::default())?;
    let mut input = std::io::stdin().lock();
    for index in 0.. {
        let mut frame = Vec::new();
        input.by_ref().take((width * height * 3) as u64).read_to_end(&mut frame)?;
        if frame.is_empty() {
            break;
        }
        // A last frame that is cut off is an error, which says how many bytes it has.
        let image = Image::new(width, height, ChannelOrder::Rgb, &frame)?;
        for person in &engine.infer(&[image])?[0] {
            let nose = person.keypoints[0];
            println!("frame {index}: {:.2} at {:.0}, {:.0}", person.score, nose.x, nose.y);
        }
    }
    Ok(())
}
