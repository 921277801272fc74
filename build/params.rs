//! Kernel parameters are defined once: the `params.rs` of an operation is part of the crate, and this file writes the
//! C++ header with the same structs from it.
//!
//! `layer_norm/params.rs` becomes `layer_norm.params.cuh`, which includes the header of the folder above if that has
//! parameters, too. A `params.rs` may hold, besides what C++ does not see (`use`, comments):
//!
//! * `pub const NAME: usize = 4;`, a number that both sides use;
//! * `pub enum Kind { One = 0, Two = 1 }`, in C++ with constants `KIND_ONE`, `KIND_TWO`;
//! * `params! { Struct { field: type, .. } .. }`, with fields of `i32`, `u32`, `i64`, `u64`, `f32`, other such structs,
//!   device addresses (`*const f16`, `*mut f32`), and arrays of these.
//!
//! Both sides check that structs have no padding, so a field lies where the sum of the sizes before it says.

use crate::kernels::{files, read};
use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::Path;

/// Writes the headers of all `params.rs` below `root`.
///
/// # Panics
/// With file and line, where a `params.rs` says what has no meaning in C++.
pub fn write_headers(root: &Path, headers: &Path) {
    std::fs::create_dir_all(headers).unwrap_or_else(|e| panic!("{}: {e}", headers.display()));
    let all: Vec<_> = files(root).into_iter().filter(|path| path.ends_with("params.rs")).collect();
    let name = |path: &Path| {
        path.parent().and_then(Path::file_name).expect("a folder").to_string_lossy().into_owned()
    };
    let mut sizes = Sizes::default();
    let mut wanted = Vec::new();
    // Folders above come first, since files are listed in order of depth along each path.
    let mut ordered = all.clone();
    ordered.sort_by_key(|path| path.components().count());
    for path in ordered {
        let above = path.parent().and_then(Path::parent).map(|folder| folder.join("params.rs"));
        let include = match above.filter(|above| all.contains(above)) {
            Some(above) => format!("{}.params.cuh", name(&above)),
            None => "ptx.cuh".into(),
        };
        let body = sizes.header(&read(&path)).unwrap_or_else(|what| panic!("{}: {what}", path.display()));
        let text = format!(
            "// Written by build/params.rs from {}.\n#pragma once\n#include \"{include}\"\n\n{body}",
            path.display()
        );
        let header = headers.join(format!("{}.params.cuh", name(&path)));
        crate::write_if_changed(&header, &text);
        wanted.push(header);
    }
    for old in files(headers).iter().filter(|old| !wanted.contains(old)) {
        let _ = std::fs::remove_file(old);
    }
}

/// Constants and sizes of the structs known so far.
#[derive(Default)]
struct Sizes {
    constants: HashMap<String, usize>,
    structs: HashMap<String, usize>,
}

impl Sizes {
    fn header(&mut self, text: &str) -> Result<String, String> {
        let code: Vec<&str> =
            text.lines().map(|line| line.split("//").next().unwrap_or_default().trim()).collect();
        let mut header = String::new();
        let mut lines = code.iter().enumerate().map(|(i, line)| (i + 1, *line));
        let mut inside = false; // of `params! { .. }`
        while let Some((at, line)) = lines.next() {
            let wrong = |what: &str| Err(format!("line {at}: {what}: {line}"));
            if let Some(rest) = line.strip_prefix("pub const ") {
                let Some((name, value)) = rest.split_once(": usize = ") else {
                    return wrong("expected a usize");
                };
                let Ok(value) = value.trim_end_matches(';').parse::<usize>() else {
                    return wrong("expected a number");
                };
                self.constants.insert(name.into(), value);
                let _ = writeln!(header, "constexpr int {name} = {value};");
            } else if let Some(rest) = line.strip_prefix("pub enum ") {
                let name = rest.trim_end_matches('{').trim();
                let mut variants = Vec::new();
                for (_, line) in lines.by_ref().take_while(|(_, line)| *line != "}") {
                    let Some((variant, value)) = line.trim_end_matches(',').split_once(" = ") else {
                        continue;
                    };
                    variants.push(format!("{}_{} = {value}", upper(name), upper(variant)));
                }
                let _ = writeln!(header, "enum {name} {{ {} }};", variants.join(", "));
            } else if line == "params! {" {
                inside = true;
            } else if line == "}" {
                inside = false;
            } else if let (true, Some(name)) = (inside, line.strip_suffix('{')) {
                let body: Vec<&str> =
                    lines.by_ref().map(|(_, line)| line).take_while(|line| *line != "}").collect();
                let body = body.join(" ");
                header.push_str(&self.item(name.trim(), &body)?);
            }
        }
        Ok(header)
    }

    fn item(&mut self, name: &str, body: &str) -> Result<String, String> {
        let mut text = format!("struct {name} {{\n");
        let mut total = 0;
        // A comma always ends a field: array types have a semicolon, as in `[f32; 4]`.
        for field in body.split(',').map(str::trim).filter(|field| !field.is_empty()) {
            let (field, of) = field
                .split_once(": ")
                .ok_or_else(|| format!("{name}: expected 'name: type', got '{field}'"))?;
            let field = field.trim_start_matches("pub ");
            let (c, count, size) = self
                .c_type(of)
                .ok_or_else(|| format!("{name}.{field}: a type without a meaning in C++: {of}"))?;
            let _ = writeln!(text, "  {c} {field}{count};");
            total += size;
        }
        let _ = writeln!(text, "}};\nstatic_assert(sizeof({name}) == {total}, \"no padding, as in Rust\");");
        self.structs.insert(name.into(), total);
        Ok(text)
    }

    /// Type, array extents and size of a field.
    fn c_type(&self, of: &str) -> Option<(String, String, usize)> {
        if let Some(array) = of.strip_prefix('[') {
            let (element, n) = array.strip_suffix(']')?.rsplit_once("; ")?;
            let count = n.parse().ok().or_else(|| self.constants.get(n).copied())?;
            let (c, inner, size) = self.c_type(element)?;
            return Some((c, format!("[{n}]{inner}"), count * size));
        }
        if let Some(to) = of.strip_prefix("*const ") {
            return Some((format!("const {}*", self.pointee(to)?), String::new(), 8));
        }
        if let Some(to) = of.strip_prefix("*mut ") {
            return Some((format!("{}*", self.pointee(to)?), String::new(), 8));
        }
        let (c, size) = number(of).or_else(|| Some((of, *self.structs.get(of)?)))?;
        Some((c.into(), String::new(), size))
    }

    fn pointee<'a>(&self, of: &'a str) -> Option<&'a str> {
        match of {
            "f16" => Some("half"),
            "c_void" => Some("void"),
            "[f32; 4]" => Some("float4"),
            _ => number(of).map(|n| n.0).or_else(|| self.structs.contains_key(of).then_some(of)),
        }
    }
}

fn number(of: &str) -> Option<(&'static str, usize)> {
    Some(match of {
        "i32" => ("int", 4),
        "u32" => ("unsigned", 4),
        "f32" => ("float", 4),
        "i64" => ("long long", 8),
        "u64" => ("unsigned long long", 8),
        _ => return None,
    })
}

/// `PreAdd` to `PRE_ADD`.
fn upper(name: &str) -> String {
    let mut text = String::new();
    for (i, c) in name.chars().enumerate() {
        if i > 0 && c.is_uppercase() {
            text.push('_');
        }
        text.extend(c.to_uppercase());
    }
    text
}
