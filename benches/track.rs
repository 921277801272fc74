//! Tracking and smoothing of people who are made up: 200 in a frame, spread out as in a stadium, and all in each other's way.
//!
//! ```text
//! cargo bench --bench track
//! ```
//!
//! Times are of one frame.

#![allow(missing_docs)] // of the function that criterion_group! makes

use criterion::{Criterion, criterion_group, criterion_main};
use rtmo_engine::{Keypoint, Person, Smoother, SmootherOptions, Tracker, TrackerOptions};

/// People in a frame.
const PEOPLE: usize = 200;

/// People of 40 x 100 pixels in rows of 20, `apart` pixels from each other, who walk to and fro.
fn frame(index: usize, apart: f32) -> Vec<Person> {
    let person = |i: usize| {
        let wander = |speed: f32| 30.0 * (index as f32 * speed / 30.0 + i as f32).sin();
        let (x, y) = (apart * (i % 20) as f32 + wander(0.7), 2.0 * apart * (i / 20) as f32 + wander(0.4));
        let joint = |j: usize| Keypoint::new(x + (j * 7 % 17) as f32 * 2.5, y + 6.0 * j as f32, 0.9);
        // Every fifth is seen badly.
        let score = if i.is_multiple_of(5) { 0.2 } else { 0.5 + 0.002 * i as f32 };
        Person::new(score, [x, y, x + 40.0, y + 100.0], (0..17).map(joint).collect())
    };
    (0..PEOPLE).map(person).collect()
}

fn tracks(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("track");
    for (name, apart) in
        [("200 people apart", 60.0), ("200 people close", 15.0), ("200 people in one place", 1.0)]
    {
        let frames: Vec<Vec<Person>> = (0..600).map(|i| frame(i, apart)).collect();
        let mut tracker = Tracker::new(TrackerOptions::default()).expect("the defaults are in range");
        let mut smoother = Smoother::new(SmootherOptions::default()).expect("the defaults are in range");
        let mut index = 0;
        group.bench_function(name, |bencher| {
            let next = || {
                index += 1;
                (index as f64 / 30.0, frames[index % frames.len()].clone())
            };
            let track = |(time, mut people): (f64, Vec<Person>)| {
                tracker.update(&mut people, time).expect("finite people");
                smoother.smooth(&mut people, time).expect("people with ids of their own");
                people
            };
            bencher.iter_batched(next, track, criterion::BatchSize::PerIteration);
        });
    }
    group.finish();
}

criterion_group!(benches, tracks);
criterion_main!(benches);
