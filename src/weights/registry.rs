//! The published checkpoints, and where weights are looked for.
//!
//! Source of the table: mmpose's `projects/rtmo/README.md` and `configs/body_2d_keypoint/rtmo/*/*.yml`.

use crate::cache;
use crate::error::{Error, Result, shown};
use crate::variant::Variant;
use std::env;
use std::path::{Path, PathBuf};

/// The model that is meant when none is named.
pub const DEFAULT_MODEL: &str = "rtmo-s";

/// A checkpoint that the authors of RTMO published.
#[derive(Debug, PartialEq)]
pub struct Published {
    /// Short name, such as `rtmo-s-coco`.
    pub name: &'static str,
    /// Other names it answers to.
    pub aliases: &'static [&'static str],
    /// Official download address of the `.pth` file.
    pub url: &'static str,
    /// Keypoints a person: 17 (COCO) or 14 (CrowdPose).
    pub keypoints: usize,
    /// Network input, width and height in pixels.
    pub input_size: (usize, usize),
    /// Data it was trained on; body7 is AI Challenger, COCO, CrowdPose, Halpe, MPII, PoseTrack18 and sub-JHMDB.
    pub training_data: &'static str,
    /// Data that `ap` was measured on.
    pub benchmark: &'static str,
    /// Published average precision (OKS 0.5 to 0.95), 0 to 1.
    pub ap: f64,
    /// What else is published, by the names of [`Published::figures`], 0 to 1.
    pub more: &'static [(&'static str, f64)],
    /// SHA-256 and size in bytes of the file, where both are known. Of the others the name tells the first 32 bits of
    /// the hash, [`Published::sha256_prefix`], which can be forged in minutes.
    pub content: Option<(&'static str, u64)>,
}

const COCO: &str = "COCO val2017";
const CROWDPOSE: &str = "CrowdPose test";

/// SHA-256 and size of two files, as documents of others give them; they begin as the authors' names for the files say.
const RTMO_S: Option<(&str, u64)> =
    Some(("dac2bf749bbfb51e69ca577ca0327dff4433e3be9a56b782f0b7ef94fb45247e", 39_766_454));
const RTMO_L: Option<(&str, u64)> =
    Some(("b37118cee39b43531c23d9e443fbb4f0b8987f590d9c6ed61978d12ecfce84df", 179_277_852));

/// AP50, AP75, AR and AR50 on COCO.
const fn coco(figures: [f64; 4]) -> [(&'static str, f64); 4] {
    let [ap50, ap75, ar, ar50] = figures;
    [("AP50", ap50), ("AP75", ap75), ("AR", ar), ("AR50", ar50)]
}

/// AP50 and AP75 on CrowdPose, and AP on easy, medium and hard crowds.
const fn crowds(figures: [f64; 5]) -> [(&'static str, f64); 5] {
    let [ap50, ap75, easy, medium, hard] = figures;
    [("AP50", ap50), ("AP75", ap75), ("AP easy", easy), ("AP medium", medium), ("AP hard", hard)]
}

macro_rules! published {
    ($name:literal, $aliases:expr, $file:literal, $keypoints:literal, $size:literal, $training:literal, $benchmark:expr, $ap:literal, $more:expr, $content:expr) => {
        Published {
            name: $name,
            aliases: &$aliases,
            url: concat!("https://download.openmmlab.com/mmpose/v1/projects/rtmo/", $file),
            keypoints: $keypoints,
            input_size: ($size, $size),
            training_data: $training,
            benchmark: $benchmark,
            ap: $ap,
            more: &$more,
            content: $content,
        }
    };
}

/// All published checkpoints. (The doubled `r` in the address of `rtmo-m-crowdpose` is official.)
#[rustfmt::skip]
pub const PUBLISHED: [Published; 11] = [
    published!("rtmo-t", ["rtmo-t-body7", "t"], "rtmo-t_8xb32-600e_body7-416x416-f48f75cb_20231219.pth", 17, 416, "body7", COCO, 0.574, coco([0.803, 0.613, 0.611, 0.836]), None),
    published!("rtmo-s", ["rtmo-s-body7", "s"], "rtmo-s_8xb32-600e_body7-640x640-dac2bf74_20231211.pth", 17, 640, "body7", COCO, 0.686, coco([0.879, 0.744, 0.723, 0.908]), RTMO_S),
    published!("rtmo-m", ["rtmo-m-body7", "m"], "rtmo-m_16xb16-600e_body7-640x640-39e78cc4_20231211.pth", 17, 640, "body7", COCO, 0.726, coco([0.899, 0.790, 0.763, 0.926]), None),
    published!("rtmo-l", ["rtmo-l-body7", "l", "rtmo"], "rtmo-l_16xb16-600e_body7-640x640-b37118ce_20231211.pth", 17, 640, "body7", COCO, 0.748, coco([0.911, 0.813, 0.786, 0.939]), RTMO_L),
    published!("rtmo-s-coco", [], "rtmo-s_8xb32-600e_coco-640x640-8db55a59_20231211.pth", 17, 640, "COCO", COCO, 0.677, coco([0.878, 0.737, 0.715, 0.908]), None),
    published!("rtmo-m-coco", [], "rtmo-m_16xb16-600e_coco-640x640-6f4e0306_20231211.pth", 17, 640, "COCO", COCO, 0.709, coco([0.890, 0.778, 0.747, 0.920]), None),
    published!("rtmo-l-coco", [], "rtmo-l_16xb16-600e_coco-640x640-516a421f_20231211.pth", 17, 640, "COCO", COCO, 0.724, coco([0.899, 0.788, 0.762, 0.927]), None),
    published!("rtmo-s-crowdpose", [], "rtmo-s_8xb32-700e_crowdpose-640x640-79f81c0d_20231211.pth", 14, 640, "CrowdPose", CROWDPOSE, 0.673, crowds([0.882, 0.729, 0.737, 0.682, 0.591]), None),
    published!("rtmo-m-crowdpose", [], "rrtmo-m_16xb16-700e_crowdpose-640x640-0eaf670d_20231211.pth", 14, 640, "CrowdPose", CROWDPOSE, 0.711, crowds([0.897, 0.771, 0.774, 0.719, 0.634]), None),
    published!("rtmo-l-crowdpose", [], "rtmo-l_16xb16-700e_crowdpose-640x640-1008211f_20231211.pth", 14, 640, "CrowdPose", CROWDPOSE, 0.732, crowds([0.907, 0.793, 0.792, 0.741, 0.653]), None),
    published!("rtmo-l-body7-crowdpose", [], "rtmo-l_16xb16-700e_body7-crowdpose-640x640-5bafdc11_20231219.pth", 14, 640, "body7", CROWDPOSE, 0.838, crowds([0.947, 0.893, 0.888, 0.847, 0.772]), None),
];

/// Where [`Published::figures`] are from.
pub const FIGURES_FROM: &str = "mmpose's projects/rtmo/README.md";

impl Published {
    /// All published figures on `benchmark`, as [`FIGURES_FROM`] gives them: `AP`, and AP50, AP75, AR and AR50 on COCO,
    /// AP50, AP75 and AP on easy, medium and hard crowds on CrowdPose.
    pub fn figures(&self) -> impl Iterator<Item = (&'static str, f64)> {
        std::iter::once(("AP", self.ap)).chain(self.more.iter().copied())
    }

    /// The size of the network.
    pub fn variant(&self) -> Variant {
        let named = |variant: &Variant| self.name.starts_with(variant.name());
        Variant::ALL.into_iter().find(named).expect("a name begins with its variant's")
    }

    /// Last part of the address.
    pub fn file_name(&self) -> &'static str {
        self.url.rsplit('/').next().expect("an address has a last part")
    }

    /// The config's name in mmpose, such as `rtmo-s_8xb32-600e_coco-640x640`.
    pub fn config_name(&self) -> &'static str {
        let name = self.file_name().rsplit_once('-').expect("ends in -HASH_DATE.pth").0;
        name.strip_prefix("rr").map_or(name, |_| &name[1..])
    }

    /// The first 8 hexadecimal digits of the file's SHA-256, which mmpose's `publish_model.py` puts into the name.
    pub fn sha256_prefix(&self) -> &'static str {
        &self.file_name().rsplit_once('-').expect("ends in -HASH_DATE.pth").1[..8]
    }

    /// File names that this checkpoint may have on disk, best first.
    fn file_names(&self) -> Vec<String> {
        let official = self.file_name().trim_end_matches(".pth");
        let stems = [self.name, official, self.config_name()].into_iter().chain(self.aliases.iter().copied());
        stems.flat_map(with_suffixes).collect()
    }

    /// Where this checkpoint is on this machine, if [`resolve`] would find it without being told a path.
    pub fn installed(&self) -> Option<PathBuf> {
        let found = Search::from_environment().look(Some(self.name), None).ok().flatten()?;
        // A file of one's own in $RTMO_WEIGHTS would be taken for any model.
        (find_by_file(&found) == Some(self)).then_some(found)
    }
}

fn with_suffixes(stem: &str) -> [String; 2] {
    [format!("{stem}.safetensors"), format!("{stem}.pth")]
}

/// The published checkpoint that a model name, an alias or mmpose's config name stands for.
pub fn find(model: &str) -> Option<&'static Published> {
    let model = model.to_ascii_lowercase();
    PUBLISHED.iter().find(|p| p.name == model || p.config_name() == model || p.aliases.contains(&&model[..]))
}

/// The published checkpoint that a file's name says it is.
pub fn find_by_file(path: &Path) -> Option<&'static Published> {
    let name = path.file_name()?.to_str()?;
    PUBLISHED.iter().find(|p| p.file_names().iter().any(|candidate| candidate == name))
}

/// Finds the weights file that `--model` and `--weights` mean: `weights` itself, else by name in `$RTMO_WEIGHTS`
/// (a file or a folder), `weights/`, the user's cache folder `rtmo-engine/`, and torch's, where mmpose downloads to.
/// Without a model it is the first published one that is here: [`DEFAULT_MODEL`], then in the order of [`PUBLISHED`].
///
/// # Errors
/// If nothing is found: the message says where it was looked for, and the official address. If `model` is no name, or
/// one of one's own and `weights` another file; if `weights` or `$RTMO_WEIGHTS` does not exist.
pub fn resolve(model: Option<&str>, weights: Option<&Path>) -> Result<PathBuf> {
    Search::from_environment().resolve(model, weights)
}

/// Names of published checkpoints that `name` may have been meant for, nearest first; none if it resembles none.
pub fn near(name: &str) -> Vec<&'static str> {
    let name = name.to_ascii_lowercase();
    let names = PUBLISHED.iter().flat_map(|p| p.aliases.iter().copied().chain([p.name]));
    let distance = |known: &str| strsim::damerau_levenshtein(&name, known);
    // A name of one or two letters is near to every other short name.
    let mut near: Vec<(usize, &str)> = names
        .map(|known| (distance(known), known))
        .filter(|&(distance, known)| distance <= 3 && 2 * distance < known.len())
        .collect();
    near.sort_unstable();
    near.into_iter().map(|(_, name)| name).take(3).collect()
}

/// That a name is no published checkpoint's: near ones, or all.
pub fn not_published(name: &str) -> String {
    let near = near(name);
    let list = match near.is_empty() {
        false => format!("near it: {}", near.join(", ")),
        true => {
            let all: Vec<&str> = PUBLISHED.iter().map(|published| published.name).collect();
            format!("those are {}", all.join(", "))
        }
    };
    format!("model '{name}' is not a published one; {list}")
}

/// A path in a variable of the environment, unless it is empty.
fn path(variable: &str) -> Option<PathBuf> {
    env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// The folder `rtmo-engine` in the user's cache folder, where downloaded weights are kept and looked for; it need not
/// exist. `None` where the environment names no such place.
pub fn cache_folder() -> Option<PathBuf> {
    cache::own_folder()
}

/// Where weights are looked for.
#[derive(Clone, Debug, Default)]
pub struct Search {
    /// `$RTMO_WEIGHTS`: a file or a folder.
    pub variable: Option<PathBuf>,
    /// Folders, best first.
    pub folders: Vec<PathBuf>,
}

impl Search {
    /// The places of [`resolve`].
    pub fn from_environment() -> Search {
        // torch.hub does not follow the cache folders of Windows and macOS.
        let unix = |name: &str| env::var_os(name).filter(|_| name == "XDG_CACHE_HOME");
        let torch = path("TORCH_HOME").or_else(|| {
            let cache = cache::folder(unix).or_else(|| path("HOME").map(|home| home.join(".cache")));
            cache.map(|cache| cache.join("torch"))
        });
        let mut folders = vec![PathBuf::from("weights")];
        folders.extend(cache_folder());
        folders.extend(torch.map(|torch| torch.join("hub/checkpoints")));
        Search { variable: path("RTMO_WEIGHTS"), folders }
    }

    /// As [`resolve`], in these places.
    ///
    /// # Errors
    /// As [`resolve`].
    pub fn resolve(&self, model: Option<&str>, weights: Option<&Path>) -> Result<PathBuf> {
        self.look(model, weights)?.ok_or_else(|| self.nothing(model, weights))
    }

    /// As [`resolve`], with `None` where nothing is found.
    ///
    /// # Errors
    /// As [`resolve`] otherwise.
    pub fn look(&self, model: Option<&str>, weights: Option<&Path>) -> Result<Option<PathBuf>> {
        model.map_or(Ok(()), check_name)?;
        if let Some(weights) = weights.filter(|weights| !weights.is_dir()) {
            return given(model, weights).map(Some);
        }
        let candidates = candidates(model);
        let in_folders = |folders: &[&Path]| {
            candidates.iter().find_map(|files| folders.iter().find_map(|folder| first_in(folder, files)))
        };
        if let Some(folder) = weights {
            return Ok(in_folders(&[folder]));
        }
        match &self.variable {
            Some(path) if !path.exists() => {
                return Err(Error::Usage(format!(
                    "{}: no such file or folder, and RTMO_WEIGHTS names it",
                    shown(path)
                )));
            }
            Some(path) if !path.is_dir() && stands_for(path, model) => return Ok(Some(path.clone())),
            _ => {}
        }
        let folders = self.variable.iter().chain(&self.folders);
        Ok(in_folders(&folders.map(PathBuf::as_path).collect::<Vec<_>>()))
    }

    /// That nothing was found, with all the places where it was looked for.
    fn nothing(&self, model: Option<&str>, weights: Option<&Path>) -> Error {
        let name = model.unwrap_or(DEFAULT_MODEL);
        let others = if model.is_none() { ", nor for another published one" } else { "" };
        let files = &candidates(Some(name))[0];
        let mut what = match find(name) {
            Some(_) => format!("no weights for model '{name}'{others}: looked for"),
            None => format!("{}; looked for", not_published(name)),
        };
        what += &format!(" {} in", list(&files[..files.len().min(4)]));
        let places = match weights {
            Some(weights) => vec![format!("{} (--weights)", shown(weights))],
            None => self.places(),
        };
        places.into_iter().for_each(|place| what += &format!("\n  {place}"));
        what += &match find(name) {
            Some(published) => {
                format!(
                    "\n'rtmo-engine download {}' fetches it; or put {} into one of them, or give a file with \
                     --weights",
                    published.name, published.url
                )
            }
            None => {
                "\nput it there, give a file with --weights, or take a published model: 'rtmo-engine models' \
                     lists them"
                    .into()
            }
        };
        Error::Usage(what)
    }

    /// The places in words, best first.
    fn places(&self) -> Vec<String> {
        let variable = match &self.variable {
            None => "$RTMO_WEIGHTS (not set)".into(),
            Some(path) if path.is_dir() => format!("{} ($RTMO_WEIGHTS)", shown(path)),
            Some(path) => {
                let name = find_by_file(path).map_or("another file", |published| published.name);
                format!("{} ($RTMO_WEIGHTS, is {name})", shown(path))
            }
        };
        let folders = self
            .folders
            .iter()
            .map(|folder| shown(&std::path::absolute(folder).unwrap_or_else(|_| folder.clone())).to_string());
        std::iter::once(variable).chain(folders).collect()
    }
}

/// That a model's name is one.
fn check_name(name: &str) -> Result<()> {
    let path = name.is_empty() || name.contains(['/', '\\']) || name.starts_with('.');
    match path || [".pth", ".safetensors"].iter().any(|suffix| name.ends_with(suffix)) {
        true => Err(Error::Usage(format!("model '{name}' is not a name; a file is given with --weights"))),
        false => Ok(()),
    }
}

/// File names of what a model's name means, best first; without one, of every published checkpoint.
fn candidates(model: Option<&str>) -> Vec<Vec<String>> {
    match model {
        Some(name) => vec![find(name).map_or_else(|| with_suffixes(name).to_vec(), Published::file_names)],
        None => {
            let default = find(DEFAULT_MODEL).into_iter();
            default.chain(&PUBLISHED).map(Published::file_names).collect()
        }
    }
}

/// A weights file that is named by its path.
fn given(model: Option<&str>, weights: &Path) -> Result<PathBuf> {
    if !weights.exists() {
        let download = find_by_file(weights)
            .map_or(String::new(), |published| format!("; it can be downloaded from {}", published.url));
        return Err(Error::Usage(format!("{}: no such weights file{download}", shown(weights))));
    }
    match model.filter(|name| find(name).is_none() && !is_called(weights, name)) {
        Some(name) => Err(Error::Usage(format!(
            "model '{name}' is not a published one, and --weights names another file, {}: give one of them",
            shown(weights)
        ))),
        None => Ok(weights.into()),
    }
}

/// Whether the file in `$RTMO_WEIGHTS` may be the model that is asked for. If no model is named, it may. A file with a
/// name of one's own stands for any published model; a file with another published model's name does not.
fn stands_for(path: &Path, model: Option<&str>) -> bool {
    let Some(name) = model else { return true };
    match (find(name), find_by_file(path)) {
        (Some(asked), Some(said)) => asked == said,
        (Some(_), None) => true,
        (None, _) => is_called(path, name),
    }
}

fn is_called(path: &Path, name: &str) -> bool {
    path.file_name().is_some_and(|file| with_suffixes(name).iter().any(|candidate| file == &candidate[..]))
}

fn first_in(folder: &Path, files: &[String]) -> Option<PathBuf> {
    files.iter().map(|file| folder.join(file)).find(|path| path.is_file())
}

/// `a.{safetensors,pth}, b.{safetensors,pth}`.
fn list(files: &[String]) -> String {
    let stems: Vec<String> = files
        .iter()
        .filter_map(|file| file.strip_suffix(".pth"))
        .map(|stem| format!("{stem}.{{safetensors,pth}}"))
        .collect();
    stems.join(", ")
}
