//! WebP, by image-webp: the arithmetic of libwebp (smooth chroma upsampling included).

use super::{MAX_PIXELS, Photo, Reason, Stored, check_size};
use std::io::Cursor;

pub(super) fn decode(bytes: &[u8]) -> Result<Stored, Reason> {
    let wrong = |e: image_webp::DecodingError| format!("not a readable WebP: {e}");
    let mut decoder = image_webp::WebPDecoder::new(Cursor::new(bytes)).map_err(wrong)?;
    let (width, height) = decoder.dimensions();
    let (width, height) = (width as usize, height as usize);
    // A single colour takes no bits a pixel, so the length says nothing about the size.
    check_size(width, height, MAX_PIXELS)?;
    if decoder.is_animated() {
        return Err("this is an animated WebP; a still photo is needed".into());
    }
    let channels = if decoder.has_alpha() { 4 } else { 3 };
    decoder.set_memory_limit(MAX_PIXELS * 4);
    let mut pixels = vec![0; width * height * channels];
    decoder.read_image(&mut pixels).map_err(wrong)?;
    if channels == 3 {
        pixels.chunks_exact_mut(3).for_each(|p| p.swap(0, 2));
    } else {
        for i in 0..width * height {
            let [r, g, b] = [pixels[4 * i], pixels[4 * i + 1], pixels[4 * i + 2]];
            pixels[3 * i..3 * i + 3].copy_from_slice(&[b, g, r]);
        }
        pixels.truncate(width * height * 3);
    }
    Ok(Stored { photo: Photo { width, height, bgr: pixels }, orientation: 1, warning: None })
}
