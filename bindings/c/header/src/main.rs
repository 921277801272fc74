//! Makes `include/rtmo_engine.h` from the library's sources.
//!
//!     cargo run                 writes it
//!     cargo run -- --check      fails if it is not what the sources say

use std::error::Error;
use std::path::Path;
use std::{env, fs};

fn main() -> Result<(), Box<dyn Error>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).parent().ok_or("no folder above")?;
    let config = cbindgen::Config::from_file(folder.join("cbindgen.toml"))?;
    let mut made = Vec::new();
    // It follows the modules.
    cbindgen::Builder::new()
        .with_src(folder.join("src/lib.rs"))
        .with_config(config)
        .generate()?
        .write(&mut made);
    let path = folder.join("include/rtmo_engine.h");
    match env::args().nth(1).as_deref() {
        None => Ok(fs::write(&path, made)?),
        Some("--check") if fs::read(&path)? == made => Ok(()),
        Some("--check") => {
            let path = path.display();
            Err(format!("{path} is not what the sources say: run 'cargo run' in bindings/c/header").into())
        }
        Some(other) => Err(format!("'{other}': expected --check, or nothing to write the header").into()),
    }
}
