//! Finds the people of a photo, prints their keypoints and saves an annotated picture.
//!
//!     cargo run --release --example one_photo WEIGHTS PHOTO PICTURE

use rtmo_engine::vision::encode;
use rtmo_engine::{DrawOptions, Engine, EngineOptions, Photo, Skeleton, draw_people};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [weights, photo, picture] = arguments.as_slice() else {
        return Err("usage: one_photo WEIGHTS PHOTO PICTURE".into());
    };
    let mut engine = Engine::load(weights, EngineOptions::default())?;
    let mut photo = Photo::open(photo)?;
    let people = engine.infer(std::slice::from_ref(&photo))?.remove(0);

    let skeleton = Skeleton::of(engine.keypoints());
    for (i, person) in people.iter().enumerate() {
        println!("person {i}, score {:.2}", person.score);
        for (k, point) in person.keypoints.iter().enumerate() {
            let name = skeleton.map_or("", |s| s.keypoint(k));
            println!("  {name:16} {:7.1} {:7.1}  {:.2}", point.x, point.y, point.score);
        }
    }
    draw_people(&mut photo, &people, skeleton, &DrawOptions::default());
    encode::save(&photo, picture)?;
    Ok(())
}
