//! The command line as a user has it: the built program, files, exit statuses and output.

use rtmo_engine::Photo;
use rtmo_engine::pose::model::{self, Variant};
use rtmo_engine::vision::encode;
use rtmo_engine::weights::{Checkpoint, SaveType, save_safetensors};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

mod download;
mod eval;
mod files;
mod infer;
mod measure;
mod options;
mod video;
mod weights;
mod words;

/// The smallest network on the smallest input that has people in it: quick also without optimisation. On the CPU: what
/// these tests compare is not to depend on whether there is a GPU.
const SMALL: [&str; 4] = ["--size", "96x64", "--device", "cpu"];

/// The program, in `folder`, where no weights are found but its own.
fn program(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rtmo-engine"));
    command.args(arguments).current_dir(folder);
    for variable in
        ["RTMO_WEIGHTS", "RTMO_ISA", "TORCH_HOME", "XDG_CACHE_HOME", "RTMO_MIRROR", "RTMO_ALLOW_HTTP"]
    {
        command.env_remove(variable);
    }
    // No test waits for a server that it does not have itself.
    command.env("HOME", folder.join("home")).env("RTMO_OFFLINE", "1").stdin(Stdio::null());
    command
}

fn run(folder: &Path, arguments: &[&str]) -> Output {
    program(folder, arguments).output().expect("the program starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

/// Runs, demands an exit status, and returns standard output and standard error.
#[track_caller]
fn expect(status: i32, folder: &Path, arguments: &[&str]) -> (String, String) {
    let output = run(folder, arguments);
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(status), "{arguments:?}\n{out}\n{err}");
    (out, err)
}

/// What infer says of its work, and what it complains of, both on standard error.
fn said(err: &str) -> (String, String) {
    let complaint =
        |line: &&str| ["warning: ", "error: ", "note: "].iter().any(|label| line.starts_with(label));
    let (complaints, said): (Vec<&str>, Vec<&str>) = err.lines().partition(complaint);
    let text = |lines: Vec<&str>| lines.into_iter().map(|line| format!("{line}\n")).collect();
    (text(said), text(complaints))
}

/// A picture with edges, so that the network has something to see.
fn picture(width: usize, height: usize) -> Photo {
    let mut photo = Photo::filled(width, height, [0; 3]);
    for (i, byte) in photo.bgr.iter_mut().enumerate() {
        let (x, y) = (i / 3 % width, i / 3 / width);
        *byte = ((x / 20 * 73 + y / 15 * 41 + i % 3 * 90) % 256) as u8;
    }
    photo
}

/// A folder with pictures `a.png`, `b.jpg`, and weights of a tiny network under `weights/rtmo-t.safetensors`.
fn workplace() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    encode::save(&picture(120, 80), folder.path().join("a.png")).unwrap();
    encode::save(&picture(60, 90), folder.path().join("b.jpg")).unwrap();
    fs::create_dir(folder.path().join("weights")).unwrap();
    save(&checkpoint(), &folder.path().join("weights/rtmo-t.safetensors"));
    folder
}

fn checkpoint() -> Checkpoint {
    model::random(Variant::T, 17, 2, 3)
}

fn save(checkpoint: &Checkpoint, path: &Path) {
    save_with(checkpoint, path, &[]);
}

/// With metadata.
fn save_with(checkpoint: &Checkpoint, path: &Path, metadata: &[(&str, &str)]) {
    let tensors: Vec<(&str, &[usize], Vec<f32>)> = checkpoint
        .names()
        .map(|name| {
            let shape = checkpoint.shape(name).unwrap();
            (name, shape, checkpoint.tensor(name, shape).unwrap())
        })
        .collect();
    let tensors = tensors.iter().map(|(name, shape, values)| (*name, *shape, &values[..]));
    let metadata: BTreeMap<String, String> =
        metadata.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
    save_safetensors(path, tensors, &metadata, SaveType::F32).unwrap();
}

/// Names in a folder, sorted; none if it is not there.
fn names(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn json_lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
}
