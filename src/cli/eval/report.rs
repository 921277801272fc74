//! Numbers as a table and as JSON, beside published ones.

use crate::cli::table::{Align, Table};
use rtmo_engine::eval::{Annotations, Benchmark, Metrics, Rule};
use rtmo_engine::shown;
use rtmo_engine::weights::Checkpoint;
use rtmo_engine::weights::registry::{self, FIGURES_FROM, PUBLISHED, Published};
use serde_json::{Map, Value, json};
use std::path::Path;

/// The numbers of some results.
pub struct Judged {
    pub metrics: Metrics,
    /// How many people were found.
    pub found: usize,
}

/// What is told of results.
pub struct Report<'a> {
    pub annotations: &'a Annotations,
    pub rule: Rule,
    pub judged: &'a Judged,
    pub published: Option<&'static Published>,
}

/// The published checkpoint that this is by its file's name, or was converted from, if its figures are of this benchmark.
pub fn published(checkpoint: &Checkpoint, benchmark: Benchmark) -> Option<&'static Published> {
    let source = checkpoint.metadata().get("source_file").map(Path::new);
    let official = |file: &Path| PUBLISHED.iter().find(|published| file == Path::new(published.file_name()));
    let found = source.and_then(official).or_else(|| registry::find_by_file(checkpoint.path()))?;
    (found.keypoints == benchmark.keypoints()).then_some(found)
}

/// Images of COCO val2017 and of CrowdPose test, which published figures are of.
pub fn images(benchmark: Benchmark) -> usize {
    match benchmark {
        Benchmark::CrowdPose => 8000,
        _ => 5000,
    }
}

/// Where published figures are from, and in what a run differs from theirs.
pub fn remark(published: &Published, differences: &[String]) -> String {
    let Published { name, benchmark, .. } = published;
    let mut remark = format!("\npublished: {name} on {benchmark}, {FIGURES_FROM}");
    if !differences.is_empty() {
        remark += &format!("; not comparable with this run: {}", differences.join(", "));
    }
    remark
}

/// To four digits; `-` where no person is to be counted.
pub fn number(value: Option<f64>) -> String {
    value.map_or("-".into(), |value| format!("{value:.4}"))
}

impl Report<'_> {
    /// What was judged.
    pub fn heading(&self) -> String {
        let images = self.annotations.images().len();
        let annotated = self.annotations.people();
        format!(
            "images   {images} of {}, {annotated} people annotated, {} found; by the rule of {}",
            shown(self.annotations.path()),
            self.judged.found,
            self.rule.name()
        )
    }

    fn figure(&self, name: &str) -> Option<f64> {
        self.published?.figures().find(|(known, _)| *known == name).map(|(_, value)| value)
    }

    pub fn table(&self) -> Table {
        const ALIGN: &[Align] = &[Align::Left, Align::Right, Align::Right, Align::Right];
        let header = match self.published {
            Some(_) => ["", "measured", "published", "difference"],
            None => ["", "measured", "", ""],
        };
        let mut table = Table::new(&header, ALIGN);
        for (name, value) in self.judged.metrics.iter() {
            let figure = self.figure(name);
            let difference = value.zip(figure).map(|(value, figure)| format!("{:+.3}", value - figure));
            let figure = figure.map(|figure| format!("{figure:.3}"));
            table.row([
                name.into(),
                number(value),
                figure.unwrap_or_default(),
                difference.unwrap_or_default(),
            ]);
        }
        table
    }

    pub fn json(&self) -> Value {
        let metrics: Map<String, Value> =
            self.judged.metrics.iter().map(|(name, value)| (name.into(), value.into())).collect();
        let benchmark = match self.annotations.benchmark() {
            Benchmark::CrowdPose => "CrowdPose",
            _ => "COCO",
        };
        let mut json = json!({ "version": env!("CARGO_PKG_VERSION"), "annotations": self.annotations.path().to_string_lossy(),
            "benchmark": benchmark, "rule": self.rule.name(), "images": self.annotations.images().len(),
            "annotated": self.annotations.people(), "found": self.judged.found, "metrics": metrics });
        if let Some(published) = self.published {
            let figures: Map<String, Value> =
                published.figures().map(|(name, value)| (name.into(), value.into())).collect();
            json["published"] = json!({ "model": published.name, "benchmark": published.benchmark,
                "source": FIGURES_FROM, "metrics": figures });
        }
        json
    }
}
