//! The numbers, counted by the package `hotcoco`.

use super::annotations::AnnotatedPerson;
use super::results::FoundPerson;
use super::{Annotations, Benchmark, Results, Rule};
use crate::error::{Error, Result};
use hotcoco::params::IouType;
use hotcoco::{Annotation, COCO, COCOeval, Category, Dataset, Image};
use std::sync::Arc;

/// What a benchmark counts.
#[derive(Clone, Debug, PartialEq)]
pub struct Metrics {
    names: &'static [&'static str],
    values: Vec<Option<f64>>,
}

const COCO_NAMES: [&str; 10] = ["AP", "AP50", "AP75", "APM", "APL", "AR", "AR50", "AR75", "ARM", "ARL"];
const CROWDPOSE_NAMES: [&str; 9] =
    ["AP", "AP50", "AP75", "AR", "AR50", "AR75", "AP easy", "AP medium", "AP hard"];

/// Crowd indices from which on images are of medium and of hard crowds: those that xtcocotools takes.
const CROWDED: [f64; 2] = [0.2, 0.8];

impl Metrics {
    /// Names and values, 0 to 1, in the usual order; `None` where the annotations have no person to be counted.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, Option<f64>)> {
        self.names.iter().copied().zip(self.values.iter().copied())
    }

    /// A value by its name.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.iter().find(|(known, _)| *known == name)?.1
    }

    /// Average precision over thresholds of OKS from 0.5 to 0.95.
    pub fn ap(&self) -> Option<f64> {
        self.get("AP")
    }
}

/// Judges results by annotations. At most 20 people an image count, those of the highest scores.
///
/// # Errors
/// [`Error::Usage`] if the results are of an image that the annotations lack, or of people with other keypoints.
pub fn evaluate(annotations: &Annotations, results: &Results, rule: Rule) -> Result<Metrics> {
    let benchmark = annotations.benchmark();
    let foreign = |person: &&FoundPerson| {
        annotations.has(person.image) != Some(true) || person.keypoints.len() != 3 * benchmark.keypoints()
    };
    if let Some(person) = results.people.iter().find(foreign) {
        let what = "the results are not of these annotations";
        return Err(Error::Usage(format!("the image of id {}: {what}", person.image)));
    }
    let coco = Coco::new(annotations, results, rule);
    let all = coco.stats(Vec::new())?;
    let (names, values): (&'static [_], Vec<_>) = match benchmark {
        Benchmark::Coco => (&COCO_NAMES, all),
        Benchmark::CrowdPose => {
            let mut values = [0, 1, 2, 5, 6, 7].map(|i| all[i]).to_vec();
            for crowd in 0..3 {
                values.push(coco.crowd(annotations, crowd)?);
            }
            (&CROWDPOSE_NAMES, values)
        }
    };
    Ok(Metrics { names, values })
}

/// Annotations and results, as the package has them.
struct Coco {
    benchmark: Benchmark,
    annotated: Arc<COCO>,
    found: Arc<COCO>,
}

impl Coco {
    fn new(annotations: &Annotations, results: &Results, rule: Rule) -> Coco {
        let (benchmark, category_id) = (annotations.benchmark(), annotations.category());
        let annotated = |(i, person): (usize, &AnnotatedPerson)| {
            let labelled = match (rule, benchmark) {
                (Rule::Xtcocotools, Benchmark::Coco) => person.labelled(),
                _ => person.said.unwrap_or_else(|| person.labelled()),
            };
            Annotation {
                id: i as u64 + 1,
                image_id: person.image,
                category_id,
                bbox: Some(person.bbox),
                area: Some(person.area),
                iscrowd: person.crowd,
                keypoints: Some(person.keypoints.clone()),
                num_keypoints: Some(labelled),
                ..Annotation::default()
            }
        };
        let counts = |person: &&FoundPerson| {
            rule == Rule::Pycocotools || person.keypoints.iter().skip(2).step_by(3).any(|score| *score > 0.0)
        };
        let found = |(i, person): (usize, &FoundPerson)| Annotation {
            id: i as u64 + 1,
            image_id: person.image,
            category_id,
            area: Some(person.area),
            keypoints: Some(person.keypoints.clone()),
            score: Some(person.score),
            ..Annotation::default()
        };
        let dataset = |annotations| {
            let category = Category { id: category_id, name: "person".into(), ..Category::default() };
            Dataset { annotations, categories: vec![category], ..Dataset::default() }
        };
        let mut marked = dataset(annotations.people.iter().enumerate().map(annotated).collect());
        let image = |image: &super::AnnotatedImage| Image { id: image.id, ..Image::default() };
        marked.images = annotations.images().iter().map(image).collect();
        let found = dataset(results.people.iter().filter(counts).enumerate().map(found).collect());
        Coco {
            benchmark,
            annotated: Arc::new(COCO::from_dataset(marked)),
            found: Arc::new(COCO::from_dataset(found)),
        }
    }

    /// The ten numbers of keypoints, on some images; on all, if none are given.
    fn stats(&self, images: Vec<u64>) -> Result<Vec<Option<f64>>> {
        let mut judge = COCOeval::new(self.annotated.clone(), self.found.clone(), IouType::Keypoints);
        judge.params.img_ids = images;
        judge.params.kpt_oks_sigmas = self.benchmark.sigmas().to_vec();
        judge.evaluate().map_err(|error| Error::Usage(error.to_string()))?;
        judge.accumulate();
        judge.summarize_lines();
        let stats = judge.stats().filter(|stats| stats.len() == COCO_NAMES.len());
        let stats = stats.ok_or_else(|| Error::Usage("keypoints give ten numbers".into()))?;
        // -1 means that there is nothing to count.
        Ok(stats.iter().map(|value| (*value >= 0.0).then_some(*value)).collect())
    }

    /// AP on images with easy (0), medium or hard crowds, to four digits.
    fn crowd(&self, annotations: &Annotations, crowd: usize) -> Result<Option<f64>> {
        let of = |index: f64| CROWDED.iter().filter(|from| index >= **from).count();
        let images = annotations.images().iter();
        let images = images.filter(|image| image.crowd_index.is_some_and(|index| of(index) == crowd));
        let images: Vec<u64> = images.map(|image| image.id).collect();
        // None would mean all.
        if images.is_empty() {
            return Ok(None);
        }
        // As Python rounds.
        Ok(self.stats(images)?[0].map(|ap| (ap * 1e4).round_ties_even() / 1e4))
    }
}
