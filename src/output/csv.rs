//! Tables of comma-separated values (RFC 4180): a row a person and frame.

use super::openpose::check_keypoints;
use super::rounded;
use super::sink::{FrameInfo, Output, ResultSink};
use crate::error::{Error, Result};
use crate::pose::{People, Person};
use csv::{ByteRecord, Terminator, Writer, WriterBuilder};
use std::path::Path;

/// Writes the columns `image, frame, time, id, score, x1, y1, x2, y2` and then `NAME_x, NAME_y, NAME_score` for each keypoint.
///
/// Pixels are to three decimals, scores exact. What there is not (the frame of a photo, the id of a person without one) is empty.
/// A frame without people has no row. An image's name is the bytes that the file system has.
pub struct Csv {
    out: Writer<Box<dyn Output>>,
    keypoints: usize,
}

impl Csv {
    /// Begins a table of people who have these keypoints; `Skeleton::keypoints` are the names.
    ///
    /// # Errors
    /// If the header cannot be written.
    pub fn new<'a>(out: Box<dyn Output>, names: impl IntoIterator<Item = &'a str>) -> Result<Csv> {
        let mut header: Vec<String> =
            ["image", "frame", "time", "id", "score", "x1", "y1", "x2", "y2"].map(String::from).to_vec();
        let fixed = header.len();
        for name in names {
            header.extend(["x", "y", "score"].map(|what| format!("{name}_{what}")));
        }
        let mut out = WriterBuilder::new().terminator(Terminator::CRLF).from_writer(out);
        out.write_record(&header).map_err(io(Path::new("the CSV table")))?;
        Ok(Csv { out, keypoints: (header.len() - fixed) / 3 })
    }

    fn row(frame: &FrameInfo<'_>, person: &Person) -> ByteRecord {
        let mut row = ByteRecord::new();
        let or_nothing = |value: Option<String>| value.unwrap_or_default();
        row.push_field(frame.image.as_os_str().as_encoded_bytes());
        row.push_field(or_nothing(frame.frame.map(|v| v.to_string())).as_bytes());
        row.push_field(or_nothing(frame.time.map(|v| v.to_string())).as_bytes());
        row.push_field(or_nothing(person.id.map(|v| v.to_string())).as_bytes());
        row.push_field(person.score.to_string().as_bytes());
        person.bbox.iter().for_each(|&v| row.push_field(rounded(v).to_string().as_bytes()));
        for k in &person.keypoints {
            for value in [rounded(k.x).to_string(), rounded(k.y).to_string(), k.score.to_string()] {
                row.push_field(value.as_bytes());
            }
        }
        row
    }
}

/// The error of the file below, or one of the table's own.
fn io(image: &Path) -> impl FnOnce(csv::Error) -> Error {
    move |error| {
        let source = match error.into_kind() {
            csv::ErrorKind::Io(source) => source,
            other => std::io::Error::other(format!("{other:?}")),
        };
        Error::io("cannot write results of", image)(source)
    }
}

impl ResultSink for Csv {
    fn frame(&mut self, frame: &FrameInfo<'_>, people: &People) -> Result<()> {
        frame.check(people)?;
        for (i, person) in people.iter().enumerate() {
            check_keypoints(frame.image, i, person.keypoints.len(), self.keypoints)?;
        }
        for person in people {
            self.out.write_byte_record(&Csv::row(frame, person)).map_err(io(frame.image))?;
        }
        self.out.flush().map_err(Error::io("cannot write results of", frame.image))
    }

    fn finish(self: Box<Self>) -> Result<()> {
        let out = self.out.into_inner().map_err(|error| error.into_error());
        out.map_err(Error::io("cannot write", "the CSV table"))?.commit()
    }
}

#[cfg(test)]
mod tests {
    use super::super::sink::testing::{Memory, person};
    use super::*;
    use crate::pose::Skeleton;

    #[test]
    fn a_row_a_person_and_frame() {
        let memory = Memory::default();
        let arm = Skeleton::new("arm", &["elbow", "wrist, left"], &[]).unwrap();
        let mut sink = Box::new(Csv::new(Box::new(memory.clone()), arm.keypoints()).unwrap());
        let name = Path::new("a \"b\", c\n.mp4");
        let people = People::from(vec![person(Some(u64::MAX), 2), person(None, 2)]);
        sink.frame(&FrameInfo::new(name, (64, 48)).with_frame(3).with_time(0.1), &people).unwrap();
        sink.frame(&FrameInfo::new(Path::new("nobody.jpg"), (64, 48)), &People::default()).unwrap();
        sink.frame(&FrameInfo::new(Path::new("p.jpg"), (64, 48)), &vec![person(None, 2)].into()).unwrap();
        sink.finish().unwrap();
        let quoted = "\"a \"\"b\"\", c\n.mp4\"";
        let rest = "0.5,1,2,30,40.25,0,0.5,0.75,10,10.5,0.75\r\n";
        let header = "image,frame,time,id,score,x1,y1,x2,y2,elbow_x,elbow_y,elbow_score,\"wrist, left_x\",\"wrist, left_y\",\"wrist, left_score\"\r\n";
        let expected = format!(
            "{header}{quoted},3,0.1,18446744073709551615,{rest}{quoted},3,0.1,,{rest}p.jpg,,,,{rest}"
        );
        assert_eq!(memory.text(), expected);
        // And a reader finds the same again.
        let text = memory.text();
        let mut reader = csv::Reader::from_reader(text.as_bytes());
        let rows: Vec<csv::StringRecord> = reader.records().map(|row| row.unwrap()).collect();
        assert_eq!((rows.len(), rows[0].len(), &rows[0][0]), (3, 15, name.to_str().unwrap()));
    }

    #[test]
    fn nothing_of_a_frame_is_written_if_the_format_cannot_say_it() {
        let memory = Memory::default();
        let mut sink = Box::new(Csv::new(Box::new(memory.clone()), ["wrist"]).unwrap());
        let photo = FrameInfo::new(Path::new("p.jpg"), (64, 48));
        let error =
            sink.frame(&photo, &vec![person(None, 1), person(None, 2)].into()).unwrap_err().to_string();
        assert!(error.contains("p.jpg: person 2: 2 keypoints, expected 1"), "{error}");
        let mut broken = person(None, 1);
        broken.keypoints[0].x = f32::NAN;
        assert!(sink.frame(&photo, &vec![broken].into()).is_err());
        let error = sink.frame(&photo.with_time(f64::NAN), &People::default()).unwrap_err().to_string();
        assert!(error.contains("p.jpg: time NaN"), "{error}");
        sink.finish().unwrap();
        assert_eq!(memory.text().lines().count(), 1);
    }
}
