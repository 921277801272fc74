//! Skeletons from JSON files: our own form, or an entry of COCO's `categories`.

use super::{Bone, MAX_BONES, MAX_KEYPOINTS, Rgb, Skeleton};
use crate::error::{Error, Result, printable, shown};
use serde_json::{Map, Value};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// The most that is read of a file: the annotations of COCO's val2017 have 10 MB.
const MAX_BYTES: u64 = 64 << 20;

type Parsed<T> = std::result::Result<T, String>;

impl Skeleton {
    /// Reads a skeleton from a JSON file, as [`Skeleton::from_json`].
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read; [`Error::Usage`] with the file's name if it holds no skeleton.
    pub fn open(path: impl AsRef<Path>) -> Result<Skeleton> {
        let path = path.as_ref();
        let cannot = || Error::io("cannot read", path);
        let mut text = Vec::new();
        File::open(path).map_err(cannot())?.take(MAX_BYTES + 1).read_to_end(&mut text).map_err(cannot())?;
        if text.len() as u64 > MAX_BYTES {
            return Err(Error::Usage(format!("{}: longer than {MAX_BYTES} bytes", shown(path))));
        }
        let stem = path.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
        parse(&text, &stem).map_err(|what| Error::Usage(format!("{}: {what}", shown(path))))
    }

    /// A skeleton from JSON. Two forms are read. Our own names keypoints, and bones by the names of their ends; colours
    /// (`#rrggbb`), `flip` (pairs of the person's left and right) and `name` may be left out:
    ///
    /// ```
    /// # use rtmo_engine::Skeleton;
    /// let skeleton = Skeleton::from_json(r##"{
    ///     "name": "face",
    ///     "keypoints": ["nose", "left_eye", {"name": "right_eye", "color": "#30c0ff"}],
    ///     "bones": [["nose", "left_eye"], ["nose", "right_eye", "#ffffff"]],
    ///     "flip": [["left_eye", "right_eye"]]
    /// }"##)?;
    /// assert_eq!(skeleton.bones().len(), 2);
    /// # rtmo_engine::Result::Ok(())
    /// ```
    ///
    /// The other is an entry of COCO's `categories`: `keypoints` as names and `skeleton` as pairs of numbers that count from
    /// 1. A whole COCO file is read too, if exactly one of its categories has keypoints.
    ///
    /// # Errors
    /// [`Error::Usage`] that says what was expected and where.
    pub fn from_json(text: &str) -> Result<Skeleton> {
        parse(text.as_bytes(), "").map_err(|what| Error::Usage(format!("skeleton: {what}")))
    }
}

fn parse(text: &[u8], name: &str) -> Parsed<Skeleton> {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let value: Value = serde_json::from_slice(text).map_err(|error| format!("no JSON: {error}"))?;
    let entry = entry(&value)?;
    let name = match entry.get("name") {
        Some(name) => name.as_str().ok_or("name: expected a text")?,
        None => name,
    };
    let (names, colors): (Vec<_>, Vec<_>) = list(entry, "keypoints", MAX_KEYPOINTS)?
        .iter()
        .enumerate()
        .map(|(k, v)| keypoint(k, v))
        .collect::<Parsed<Vec<_>>>()?
        .into_iter()
        .unzip();
    let bones = match (entry.get("bones"), entry.get("skeleton")) {
        (Some(_), Some(_)) => return Err("has both bones and skeleton: expected one of them".into()),
        (None, None) => Vec::new(),
        (Some(_), None) => {
            let bones = list(entry, "bones", MAX_BONES)?;
            bones.iter().enumerate().map(|(i, bone)| named_bone(i, bone, &names)).collect::<Parsed<_>>()?
        }
        (None, Some(_)) => {
            let bones = list(entry, "skeleton", MAX_BONES)?;
            bones
                .iter()
                .enumerate()
                .map(|(i, bone)| counted_bone(i, bone, names.len()))
                .collect::<Parsed<_>>()?
        }
    };
    let names_owned = names.iter().map(|name| name.to_string().into()).collect();
    let mut skeleton =
        Skeleton::make(name.to_string().into(), names_owned, bones).map_err(|error| error.to_string())?;
    if entry.contains_key("flip") {
        let pairs = list(entry, "flip", MAX_KEYPOINTS)?.iter().enumerate();
        let pairs = pairs.map(|(i, pair)| match pair.as_array().map(Vec::as_slice) {
            Some([left, right]) => Ok((end("flip", i, left, &names)?, end("flip", i, right, &names)?)),
            _ => Err(format!("flip {i}: expected the names of two keypoints")),
        });
        skeleton = skeleton
            .with_flip_pairs(&pairs.collect::<Parsed<Vec<_>>>()?)
            .map_err(|error| error.to_string())?;
    }
    for (joint, color) in skeleton.joints.iter_mut().zip(colors) {
        joint.color = color;
    }
    Ok(skeleton)
}

/// The object that has the keypoints.
fn entry(value: &Value) -> Parsed<&Map<String, Value>> {
    let of = |value: &Value| value.get("keypoints").is_some_and(Value::is_array);
    let categories = match value {
        Value::Object(object) => match object.get("categories").and_then(Value::as_array) {
            Some(categories) => categories,
            None => return Ok(object),
        },
        Value::Array(categories) => categories,
        _ => return Err("expected an object with keypoints".into()),
    };
    let mut with = categories.iter().filter(|category| of(category));
    match (with.next(), with.count()) {
        (Some(Value::Object(one)), 0) => Ok(one),
        (None, _) => Err("no category has keypoints".into()),
        (_, more) => Err(format!("{} categories have keypoints: expected one", more + 1)),
    }
}

fn list<'a>(entry: &'a Map<String, Value>, key: &str, most: usize) -> Parsed<&'a [Value]> {
    match entry.get(key).map(Value::as_array) {
        Some(Some(list)) if list.len() <= most => Ok(list),
        Some(Some(list)) => Err(format!("{key}: expected at most {most}, got {}", list.len())),
        Some(None) => Err(format!("{key}: expected a list")),
        None => Err(format!("expected {key}, a list")),
    }
}

fn keypoint(k: usize, value: &Value) -> Parsed<(&str, Option<Rgb>)> {
    let expected = || format!("keypoint {k}: expected a name, or an object with a name");
    match value {
        Value::String(name) => Ok((name, None)),
        Value::Object(fields) => {
            let name = fields.get("name").and_then(Value::as_str).ok_or_else(expected)?;
            let color =
                fields.get("color").map(|value| color(&format!("keypoint {k}"), value)).transpose()?;
            Ok((name, color))
        }
        _ => Err(expected()),
    }
}

fn named_bone(i: usize, value: &Value, names: &[&str]) -> Parsed<Bone> {
    let (from, to, shade) = match value.as_array().map(Vec::as_slice) {
        Some([from, to]) => (from, to, None),
        Some([from, to, shade]) => (from, to, Some(color(&format!("bone {i}"), shade)?)),
        _ => return Err(format!("bone {i}: expected the names of two keypoints, and maybe a colour")),
    };
    Ok(Bone { from: end("bone", i, from, names)?, to: end("bone", i, to, names)?, color: shade })
}

/// COCO counts keypoints from 1.
fn counted_bone(i: usize, value: &Value, keypoints: usize) -> Parsed<Bone> {
    let end = |value: &Value| {
        let number = value.as_u64().filter(|number| (1..=keypoints as u64).contains(number));
        number.map(|number| number as usize - 1)
    };
    match value.as_array().map(Vec::as_slice) {
        Some([from, to]) => match (end(from), end(to)) {
            (Some(from), Some(to)) => Ok(Bone { from, to, color: None }),
            _ => Err(format!("skeleton {i}: expected two numbers from 1 to {keypoints}, got [{from}, {to}]")),
        },
        _ => Err(format!("skeleton {i}: expected two numbers from 1 to {keypoints}")),
    }
}

fn end(what: &str, i: usize, value: &Value, names: &[&str]) -> Parsed<usize> {
    let name =
        value.as_str().ok_or_else(|| format!("{what} {i}: expected a keypoint's name, got {value}"))?;
    names
        .iter()
        .position(|known| *known == name)
        .ok_or_else(|| format!("{what} {i}: no keypoint is named '{}'", printable(name)))
}

fn color(place: &str, value: &Value) -> Parsed<Rgb> {
    let digits = value.as_str().and_then(|text| text.strip_prefix('#')).filter(|digits| digits.len() == 6);
    let number = digits.filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()));
    let number = number.and_then(|digits| u32::from_str_radix(digits, 16).ok());
    let [_, r, g, b] = number
        .ok_or_else(|| format!("{place}: expected a colour such as \"#30c0ff\", got {value}"))?
        .to_be_bytes();
    Ok([r, g, b])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read() {
        let own = Skeleton::from_json(
            r##"{"name": "arm", "keypoints": ["a", {"name": "b", "color": "#0102ff"}, "c"],
                "bones": [["a", "b"], ["b", "c", "#FFffFF"]], "flip": [["a", "c"]]}"##,
        )
        .unwrap();
        assert_eq!((own.name(), own.keypoint_color(1), own.mirrored(0)), ("arm", Some([1, 2, 255]), 2));
        assert_eq!(own.bones()[1], Bone { from: 1, to: 2, color: Some([255; 3]) });

        let entry = r#"{"supercategory": "x", "id": 1, "name": "arm", "keypoints": ["a", "b"], "skeleton": [[1, 2]]}"#;
        let coco = Skeleton::from_json(entry).unwrap();
        assert_eq!((coco.bones()[0].from, coco.bones()[0].to), (0, 1));
        for whole in [
            format!(r#"{{"images": [], "categories": [{{"id": 2, "name": "cup"}}, {entry}]}}"#),
            format!("[{entry}]"),
            format!("\u{feff}{entry}"),
        ] {
            assert_eq!(Skeleton::from_json(&whole).unwrap(), coco, "{whole}");
        }
        // The form that COCO itself publishes for people.
        let names: Vec<String> = Skeleton::of(17).unwrap().keypoints().map(|n| format!("{n:?}")).collect();
        let person = format!(r#"{{"keypoints": [{}], "skeleton": [[16, 14]]}}"#, names.join(","));
        assert_eq!(Skeleton::from_json(&person).unwrap().bones()[0], Skeleton::of(17).unwrap().bones()[0]);
    }

    #[test]
    fn errors_say_where() {
        for (text, part) in [
            ("", "no JSON"),
            ("[[[[", "no JSON"),
            ("3", "expected an object with keypoints"),
            ("{}", "expected keypoints, a list"),
            (r#"{"keypoints": 3}"#, "keypoints: expected a list"),
            (r#"{"keypoints": []}"#, "expected 1 to 1024 keypoints, got 0"),
            (r#"{"keypoints": [3]}"#, "keypoint 0: expected a name"),
            (r#"{"keypoints": ["a", "a"]}"#, "both named 'a'"),
            (r#"{"keypoints": [{"name": "a", "color": "red"}]}"#, "keypoint 0: expected a colour"),
            (r##"{"keypoints": [{"name": "a", "color": "#+12345"}]}"##, "keypoint 0: expected a colour"),
            (r#"{"keypoints": ["a", "b"], "bones": [["a", "c"]]}"#, "bone 0: no keypoint is named 'c'"),
            (r#"{"keypoints": ["a", "b"], "bones": [["a"]]}"#, "bone 0: expected the names of two"),
            (
                r#"{"keypoints": ["a", "b"], "bones": [["a", 1]]}"#,
                "bone 0: expected a keypoint's name, got 1",
            ),
            (
                r#"{"keypoints": ["a", "b"], "skeleton": [[0, 1]]}"#,
                "expected two numbers from 1 to 2, got [0, 1]",
            ),
            (r#"{"keypoints": ["a", "b"], "skeleton": [[1, 3]]}"#, "expected two numbers from 1 to 2"),
            (r#"{"keypoints": ["a", "b"], "flip": [["a", "a"]]}"#, "each once"),
            (r#"{"keypoints": ["a"], "bones": [], "skeleton": []}"#, "both bones and skeleton"),
            (
                r#"{"categories": [{"keypoints": ["a"]}, {"keypoints": ["a"]}]}"#,
                "2 categories have keypoints",
            ),
            (r#"{"categories": []}"#, "no category has keypoints"),
        ] {
            let error = Skeleton::from_json(text).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
