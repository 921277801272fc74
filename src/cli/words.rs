//! Words of other programs for the same things: who types one is told ours.

use clap::error::{ContextKind, ContextValue, ErrorKind};
use std::ffi::OsStr;

/// Options of ultralytics, mmpose, rtmlib and their like, in lower case, with what they are here.
const OPTIONS: [(&[&str], &str); 19] = [
    (
        &[
            "conf",
            "confidence",
            "conf-thres",
            "conf-threshold",
            "bbox-thr",
            "det-thr",
            "pred-score-thr",
            "threshold",
        ],
        "'--score-thr 0..1' is the score that a person must exceed",
    ),
    (
        &["imgsz", "img-size", "img", "imgsize", "input-size", "resolution"],
        "'--size WxH' is the network's input",
    ),
    (
        &["iou", "iou-thres", "iou-threshold", "nms", "nms-thres"],
        "'--nms-thr 0..1' is the overlap from which on the lesser of two people is dropped",
    ),
    (
        &["source", "input", "inputs", "image", "images", "img-path", "file"],
        "photos are given without an option: 'rtmo-engine infer PATH...'",
    ),
    (&["checkpoint", "ckpt", "pose2d-weights"], "'--weights FILE' is the weights file"),
    (&["pose2d", "variant", "arch", "config"], "'--model NAME' is the network, as rtmo-s"),
    (
        &["output", "out-dir", "output-dir", "output-root", "out-root", "vis-out-dir", "project", "save-dir"],
        "'--out DIR' is the folder for pictures",
    ),
    (
        &["pred-out-dir", "save-txt", "save-json", "save-predictions", "out-json"],
        "'--json FILE' writes the people as JSON lines, '--coco FILE' as COCO results",
    ),
    (&["half"], "'--fp16' computes in 16 bits"),
    (&["dtype", "amp"], "'--precision' is the arithmetic"),
    (&["batch-size", "bs"], "'--batch N' is how many photos are computed together"),
    (
        &["max-det", "max-dets", "max-num", "top-k", "topk"],
        "'--max-people N' is how many people a photo may have",
    ),
    (&["kpt-conf", "keypoint-thr", "kp-thr"], "'--kpt-thr 0..1' is the score of keypoints to draw"),
    (&["nosave", "no-save", "no-vis"], "'--no-draw' draws nothing"),
    (&["draw-bbox", "show-boxes", "bbox"], "'--boxes' draws boxes and scores"),
    (&["draw-heatmap", "heatmap"], "'--heatmaps' draws the keypoints' heatmaps"),
    (&["gpu", "cuda", "gpus", "cpu"], "'--device' is cpu, cuda or cuda:N"),
    (&["workers", "num-workers", "jobs"], "'--threads N' is the number of CPU threads"),
    (&["backend"], "'--device' is where the network runs"),
];

/// Commands of others for `infer`.
const INFER: [&str; 7] = ["predict", "detect", "run", "demo", "track", "pose", "inference"];

/// What an option of another program is called here; `name` without dashes.
fn option(name: &str) -> Option<&'static str> {
    let name = name.to_ascii_lowercase().replace('_', "-");
    OPTIONS.iter().find(|(names, _)| names.contains(&&name[..])).map(|(_, ours)| *ours)
}

/// The same for an argument like `conf=0.5`.
pub fn assignment(text: &str) -> Option<String> {
    let (name, _) = text.split_once('=')?;
    let ours = match &name.to_ascii_lowercase()[..] {
        "model" => "'--model NAME' or '--weights FILE' is the network",
        "device" => "'--device' is cpu, cuda or cuda:N",
        name => option(name)?,
    };
    Some(format!("options begin with '--' here: {ours}"))
}

/// Adds our word to the error about a word of others, as a tip.
pub fn explain(mut error: clap::Error) -> clap::Error {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => text.clone(),
        _ => String::new(),
    };
    let (argument, value) = (text(ContextKind::InvalidArg), text(ContextKind::InvalidValue));
    let ours = match error.kind() {
        ErrorKind::UnknownArgument => {
            let name = argument.trim_start_matches('-');
            option(name.split('=').next().unwrap_or(name)).map(String::from)
        }
        ErrorKind::InvalidSubcommand => {
            let command = text(ContextKind::InvalidSubcommand).to_ascii_lowercase();
            INFER
                .contains(&&command[..])
                .then(|| "'rtmo-engine infer PATH...' finds the people on photos".into())
        }
        ErrorKind::ValueValidation if argument.starts_with("--device") => device(OsStr::new(&value)),
        _ => None,
    };
    if let Some(ours) = ours {
        let tips = vec![ours.into()];
        error.remove(ContextKind::SuggestedArg);
        error.remove(ContextKind::SuggestedSubcommand);
        error.remove(ContextKind::TrailingArg);
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(tips));
    }
    error
}

/// What a GPU's number alone, or another name of it, is here.
fn device(value: &OsStr) -> Option<String> {
    match value.to_str()?.to_ascii_lowercase() {
        number if number.parse::<u32>().is_ok() => Some(format!("GPU {number} is '--device cuda:{number}'")),
        gpu if ["gpu", "nvidia"].contains(&&gpu[..]) => Some("the first GPU is '--device cuda'".into()),
        list if list.contains(',') => Some("a run takes one device, as '--device cuda:0'".into()),
        _ => None,
    }
}
