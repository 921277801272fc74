//! Times `Engine::infer` on one picture in memory, for `overhead.py`: for each line that it reads, the time that a tenth of as many
//! calls as the line says stay below, in microseconds.
//!
//! `rust_call WEIGHTS WIDTHxHEIGHT THREADS`, where the size is the network's input; the picture has 640x480 pixels.

use rtmo_engine::{ChannelOrder, Device, Engine, EngineOptions, Error, Image, Result};
use std::io::Write;
use std::time::Instant;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let wrong = || Error::Usage("usage: rust_call WEIGHTS WIDTHxHEIGHT THREADS".into());
    let [weights, size, threads] = &arguments[..] else { return Err(wrong()) };
    let (width, height) = size.split_once('x').ok_or_else(wrong)?;
    let number = |text: &str| text.trim().parse::<usize>().map_err(|_| wrong());
    let options = EngineOptions::default()
        .with_device(Device::Cpu)
        .with_threads(number(threads)?)
        .with_input_size(number(width)?, number(height)?);
    let mut engine = Engine::load(weights, options)?;
    let pixels = vec![114; 640 * 480 * 3];
    for line in std::io::stdin().lines() {
        let calls = number(&line.map_err(Error::io("cannot read", "standard input"))?)?;
        let mut times = Vec::new();
        for _ in 0..calls.max(1) {
            let start = Instant::now();
            let image = Image::new(640, 480, ChannelOrder::Bgr, &pixels)?;
            std::hint::black_box(engine.infer(&[image])?);
            times.push(start.elapsed());
        }
        times.sort();
        println!("{:.1}", times[times.len() / 10].as_secs_f64() * 1e6);
        std::io::stdout().flush().map_err(Error::io("cannot write", "standard output"))?;
    }
    Ok(())
}
