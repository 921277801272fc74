//! Frames without a container: `--raw 1280x720:bgr24@30`.

use rtmo_engine::vision::decode::MAX_PIXELS;
use rtmo_engine::{Nv12, Photo, Picture, Result, YuvColours};
use std::str::FromStr;

/// Frames of one size after the other, as another program writes them to standard output.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RawFormat {
    pub width: usize,
    pub height: usize,
    pixels: Pixels,
    /// Frames a second.
    pub rate: f64,
}

impl Eq for RawFormat {}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pixels {
    Bgr,
    Rgb,
    /// A plane of brightness, and one of pairs of colours for each two by two pixels.
    Nv12,
}

impl FromStr for RawFormat {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<RawFormat, String> {
        let wrong = || "expected WIDTHxHEIGHT:FORMAT@RATE, as in 1280x720:bgr24@30".to_string();
        let (size, rest) = text.split_once(':').ok_or_else(wrong)?;
        let (width, height) = size.split_once(['x', 'X']).ok_or_else(wrong)?;
        let side = |text: &str| text.parse::<usize>().ok().filter(|&side| side > 0).ok_or_else(wrong);
        let (width, height) = (side(width)?, side(height)?);
        if width.checked_mul(height).is_none_or(|pixels| pixels > MAX_PIXELS) {
            return Err(format!("{width}x{height}: expected at most {MAX_PIXELS} pixels"));
        }
        let (format, rate) = rest.split_once('@').ok_or_else(wrong)?;
        let pixels = match format {
            "bgr24" => Pixels::Bgr,
            "rgb24" => Pixels::Rgb,
            "nv12" if width % 2 == 0 && height % 2 == 0 => Pixels::Nv12,
            "nv12" => return Err(format!("{width}x{height}: nv12 has even sides")),
            other => return Err(format!("'{other}': expected bgr24, rgb24 or nv12")),
        };
        let rate = rate.parse::<f64>().ok().filter(|rate| (1e-3..=1e5).contains(rate));
        Ok(RawFormat {
            width,
            height,
            pixels,
            rate: rate.ok_or("expected a rate of 0.001 to 100000 frames a second")?,
        })
    }
}

impl RawFormat {
    /// Bytes a frame.
    pub fn bytes(&self) -> usize {
        let pixels = self.width * self.height;
        if self.pixels == Pixels::Nv12 { pixels / 2 * 3 } else { pixels * 3 }
    }

    /// A frame as a picture; `frame` has [`RawFormat::bytes`]. NV12 is taken as BT.601 of video's range, as ffmpeg takes it where
    /// nothing else is said.
    pub fn picture(&self, mut frame: Vec<u8>) -> Result<Picture> {
        let (width, height) = (self.width, self.height);
        match self.pixels {
            Pixels::Bgr => {}
            Pixels::Rgb => frame.chunks_exact_mut(3).for_each(|pixel| pixel.swap(0, 2)),
            Pixels::Nv12 => {
                return Nv12::new(width, height, frame, YuvColours::default()).map(Picture::Nv12);
            }
        }
        Ok(Photo { width, height, bgr: frame }.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_read_strictly() {
        let format: RawFormat = "1280x720:nv12@29.97".parse().unwrap();
        assert_eq!(
            (format.width, format.height, format.bytes(), format.rate),
            (1280, 720, 1280 * 720 * 3 / 2, 29.97)
        );
        for bad in [
            "",
            "1280x720",
            "1280x720:bgr24",
            "0x720:bgr24@30",
            "1281x720:nv12@30",
            "10x10:yuv@30",
            "10x10:bgr24@0",
            "10x10:bgr24@nan",
            "99999999999x99999999999:bgr24@30",
            "-1x5:bgr24@30",
        ] {
            assert!(bad.parse::<RawFormat>().is_err(), "{bad}");
        }
    }

    #[test]
    fn colours_of_each_format() {
        let of = |format: &str, frame: &[u8]| {
            let picture = format.parse::<RawFormat>().unwrap().picture(frame.to_vec());
            picture.unwrap().into_photo().bgr
        };
        assert_eq!(of("1x2:bgr24@1", &[1, 2, 3, 4, 5, 6]), [1, 2, 3, 4, 5, 6]);
        assert_eq!(of("1x2:rgb24@1", &[1, 2, 3, 4, 5, 6]), [3, 2, 1, 6, 5, 4]);
        // Black, white, and the grey between; then pure red as BT.601 has it.
        let grey = of("4x2:nv12@1", &[16, 235, 126, 16, 16, 235, 126, 16, 128, 128, 128, 128]);
        assert_eq!(grey[..9], [0, 0, 0, 255, 255, 255, 128, 128, 128]);
        let red = of("2x2:nv12@1", &[81, 81, 81, 81, 90, 240]);
        assert!(red[0] < 3 && red[1] < 3 && red[2] > 252, "{red:?}");
    }
}
