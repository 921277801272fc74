//! The kernel files, and the headers that each includes.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// A `.cu` file.
pub struct Unit {
    /// `layer_norm` for `layer_norm.cu`.
    pub name: String,
    pub path: PathBuf,
    /// Headers of this crate that it includes, itself or by way of others.
    pub includes: Vec<PathBuf>,
    /// The only architecture that it is for, by a line `// Architecture: sm_90a`.
    pub only: Option<String>,
}

/// All of them, by name.
pub struct Kernels {
    pub units: Vec<Unit>,
    /// Folders with headers.
    pub folders: Vec<PathBuf>,
}

/// All files below a folder, in a fixed order.
pub fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut paths: Vec<PathBuf> = entries.map(|e| e.expect("a readable folder").path()).collect();
    paths.sort();
    paths.into_iter().flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// Finds the kernels below `root`; `generated` holds more headers.
pub fn find(root: &Path, generated: &Path) -> Kernels {
    let here = std::env::current_dir().expect("a working directory");
    let mut all: Vec<PathBuf> = files(root).into_iter().map(|path| here.join(path)).collect();
    all.extend(files(generated));
    let named = |extension: &str| -> BTreeMap<String, PathBuf> {
        let mut found = BTreeMap::new();
        for path in all.iter().filter(|path| path.extension().is_some_and(|e| e == extension)) {
            let name = path.file_name().expect("a file").to_string_lossy().into_owned();
            let twin = found.insert(name, path.clone());
            assert!(twin.is_none(), "two files of one name: {} and {twin:?}", path.display());
        }
        found
    };
    let headers = named("cuh");
    let mut folders: Vec<PathBuf> =
        headers.values().map(|p| p.parent().expect("a folder").to_path_buf()).collect();
    folders.sort();
    folders.dedup();
    let unit = |path: PathBuf| {
        let text = read(&path);
        let mut includes = Vec::new();
        follow(&text, &headers, &mut includes);
        let name = path.file_stem().expect("a file").to_string_lossy().into_owned();
        let only = text.lines().find_map(|line| line.strip_prefix("// Architecture: ")).map(String::from);
        Unit { name, path, includes, only }
    };
    Kernels { units: named("cu").into_values().map(unit).collect(), folders }
}

pub fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Appends the headers that `text` includes, each once. Those of the system or of the emulator are not ours.
fn follow(text: &str, headers: &BTreeMap<String, PathBuf>, found: &mut Vec<PathBuf>) {
    let names = text.lines().filter_map(|line| line.strip_prefix("#include \"")?.strip_suffix('"'));
    for path in names.filter_map(|name| headers.get(name)) {
        if !found.contains(path) {
            found.push(path.clone());
            follow(&read(path), headers, found);
        }
    }
}
