//! The input of a run, one block: a `Frame` for each image, sampling tables, photos. The host writes it, but for photos that are in
//! the device's memory: these are copied there.

use super::params::{Frame as Header, Sampler, Survivor};
use crate::backend::cpu::pool::Pool;
use crate::backend::cuda::gpu::Fetch;
use crate::backend::{Frame, SelectParams};
use crate::error::{Error, Result};
use crate::pose::letterbox::Geometry;
use crate::vision::ChannelOrder;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Where things lie in the block. Offsets in bytes.
pub(in crate::backend::cuda) struct Layout {
    /// Columns table, rows table, photo, and second plane of NV12 of each image.
    parts: Vec<[usize; 4]>,
    /// Bytes in all.
    pub bytes: usize,
    /// Bytes that the host writes, from the beginning on.
    pub uploaded: usize,
}

const ALIGN: usize = 16;

impl Layout {
    /// # Errors
    /// A photo that its letterbox was not made for, a letterbox for another input size, or a photo of 2 GiB or more.
    pub fn new(frames: &[Frame<'_>], input_size: (usize, usize)) -> Result<Layout> {
        let mut at = size_of::<Header>() * frames.len();
        let mut parts = Vec::with_capacity(frames.len());
        let mut take = |bytes: usize| {
            let start = at.next_multiple_of(ALIGN);
            at = start + bytes;
            start
        };
        let mut tables = Vec::with_capacity(frames.len());
        for frame in frames {
            frame.check_letterbox(input_size)?;
            if frame.device.is_none() {
                frame.photo.check()?;
            }
            let photo = frame.photo;
            // Kernels count a photo's bytes in 32 bits.
            let bytes = photo.plane_sizes().map(|(row, rows)| row * rows).iter().sum::<usize>();
            if i32::try_from(bytes).is_err() {
                let (w, h) = photo.size();
                return Err(Error::Usage(format!("a photo of {w}x{h} pixels takes 2 GiB or more")));
            }
            let (columns, rows) = match frame.letterbox.geometry() {
                Geometry::Warp(w) => (w.columns.len() * 4, w.rows.len() * 8),
                Geometry::Resize(r) => (r.columns.len() * 16, r.rows.len() * 16),
            };
            tables.push([take(columns), take(rows)]);
        }
        // Where the tables lie is 32 bits too. Photos come after them, at 64 bits: all together may be larger.
        let end = take(0);
        if i32::try_from(end).is_err() {
            return Err(Error::Usage(format!("{end} bytes of sampling tables in one batch: 2 GiB or more")));
        }
        let mut planes = vec![[0; 2]; frames.len()];
        let mut uploaded = end;
        for device in [false, true] {
            for (frame, planes) in frames.iter().zip(&mut planes) {
                if frame.device.is_some() != device {
                    continue;
                }
                *planes = frame.photo.plane_sizes().map(|(row, rows)| {
                    let place = take(row * rows);
                    if !device {
                        uploaded = place + row * rows;
                    }
                    place
                });
            }
        }
        for ([columns, rows], [photo, chroma]) in tables.into_iter().zip(planes) {
            parts.push([columns, rows, photo, chroma]);
        }
        Ok(Layout { parts, bytes: at, uploaded })
    }

    /// Writes the block; large photos with several threads, since one copies slower than a GPU takes the bytes.
    pub fn write(&self, frames: &[Frame<'_>], select: &SelectParams, block: &mut [u8], team: &mut Pool) {
        for (i, (frame, &[columns, rows, photo, chroma])) in frames.iter().zip(&self.parts).enumerate() {
            let (fit, sampler) = match frame.letterbox.geometry() {
                Geometry::Warp(w) => {
                    put(block, columns, w.columns.iter().map(|v| v.to_le_bytes()));
                    let row = |r: &crate::pose::letterbox::WarpRow| words::<2, 8>([r.columns as i32, r.y]);
                    put(block, rows, w.rows.iter().map(row));
                    (frame.letterbox.input_size(), Sampler::Warp)
                }
                Geometry::Resize(r) => {
                    let tap = |t: &crate::pose::letterbox::ResizeTap| {
                        words::<4, 16>([t.first as i32, t.second as i32, t.weights[0], t.weights[1]])
                    };
                    put(block, columns, r.columns.iter().map(tap));
                    put(block, rows, r.rows.iter().map(tap));
                    (r.size, if r.halve { Sampler::Halve } else { Sampler::Resize })
                }
            };
            let yuv = frame.photo.yuv().unwrap_or_default().weights();
            let header = Header {
                photo: photo as i64,
                chroma: if frame.photo.is_nv12() { chroma as i64 } else { 0 },
                columns: columns as i32,
                rows: rows as i32,
                width: frame.photo.width() as i32,
                height: frame.photo.height() as i32,
                fit_w: fit.0 as i32,
                fit_h: fit.1 as i32,
                sampler: sampler as i32,
                score_logit: logit(select.score_thr),
                nms_thr: select.nms_thr,
                max_people: limit(select.max_people),
                force: limit(select.force),
                yuv_black: yuv.black,
                yuv_luma: yuv.luma,
                u_blue: yuv.u_blue,
                u_green: yuv.u_green,
                v_green: yuv.v_green,
                v_red: yuv.v_red,
                swap: frame.device.is_some_and(|image| image.order() == ChannelOrder::Rgb).into(),
            };
            let bytes = bytemuck::bytes_of(&header);
            block[i * bytes.len()..(i + 1) * bytes.len()].copy_from_slice(bytes);
        }
        copy_photos(frames, self.parts.iter().map(|part| [part[2], part[3]]), block, team);
    }

    /// How photos in the device's memory come into the block, whose address is `block`.
    pub fn fetches(&self, frames: &[Frame<'_>], block: u64) -> Vec<Fetch> {
        let of = |(frame, part): (&Frame<'_>, &[usize; 4])| {
            let image = frame.device?;
            let (from, stride) = image.place();
            let [(row, rows), _] = frame.photo.plane_sizes();
            Some(Fetch { from, stride, to: block + part[2] as u64, row, rows, stream: image.stream() })
        };
        frames.iter().zip(&self.parts).filter_map(of).collect()
    }
}

/// Copies photos to their places, which come in rising order. Two threads copy 36 MB in 0.9 ms where one takes 1.5 ms
/// (two cores of an AMD EPYC).
fn copy_photos(
    frames: &[Frame<'_>],
    places: impl Iterator<Item = [usize; 2]>,
    block: &mut [u8],
    team: &mut Pool,
) {
    /// Bytes that a thread copies at a time.
    const PART: usize = 256 << 10;
    /// Up to here one thread is done before others have woken up: 3 MB take it some 50 us.
    const ALONE: usize = 8 << 20;
    let (mut rest, mut at) = (block, 0);
    let mut parts = Vec::new();
    for (frame, places) in frames.iter().zip(places).filter(|(frame, _)| frame.device.is_none()) {
        for (plane, (place, (row, rows))) in places.into_iter().zip(frame.photo.plane_sizes()).enumerate() {
            if rows == 0 {
                continue;
            }
            let (bytes, after) = std::mem::take(&mut rest)[place - at..].split_at_mut(row * rows);
            (rest, at) = (after, place + row * rows);
            let some = (PART / row).max(1);
            for (i, part) in bytes.chunks_mut(some * row).enumerate() {
                parts.push(Mutex::new((&frame.photo, plane, i * some, part)));
            }
        }
    }
    let next = AtomicUsize::new(0);
    let copy = || {
        while let Some(part) = parts.get(next.fetch_add(1, Ordering::Relaxed)) {
            // Each part is taken once.
            let mut part = part.lock().unwrap_or_else(|e| e.into_inner());
            let (photo, plane, first, bytes) = &mut *part;
            photo.copy_plane_rows(*plane, *first, bytes);
        }
    };
    if at > ALONE { team.run(&|_| copy()) } else { copy() }
}

fn words<const N: usize, const B: usize>(values: [i32; N]) -> [u8; B] {
    let mut bytes = [0; B];
    for (to, v) in bytes.chunks_exact_mut(4).zip(values) {
        to.copy_from_slice(&v.to_le_bytes());
    }
    bytes
}

fn put<const N: usize>(block: &mut [u8], at: usize, items: impl Iterator<Item = [u8; N]>) {
    for (to, item) in block[at..].chunks_exact_mut(N).zip(items) {
        to.copy_from_slice(&item);
    }
}

/// The logit of a score threshold. A threshold of 1 or more lets no score pass, a negative one lets all pass.
fn logit(score: f32) -> f32 {
    let s = f64::from(score);
    if s < 0.0 {
        f32::NEG_INFINITY
    } else if s >= 1.0 {
        f32::INFINITY
    } else {
        (s / (1.0 - s)).ln() as f32
    }
}

fn limit(n: Option<usize>) -> i32 {
    n.map_or(-1, |n| n.min(i32::MAX as usize) as i32)
}

/// Bytes of a survivor on the device.
pub(in crate::backend::cuda) const SURVIVOR_BYTES: usize = size_of::<Survivor>();

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pose::Letterbox;
    use crate::vision::{DeviceImage, Image, Photo, YuvColours, YuvMatrix};

    /// Photos of all sizes and orders, with gaps between rows, arrive whole whatever the number of threads; nothing else
    /// of the block changes for it.
    #[test]
    fn any_number_of_threads_copies_the_same() {
        let input = (64, 32);
        // the second in several parts, the third with a part for each row
        let sizes = [(1, 1), (2000, 1600), (60_000, 3), (33, 70)];
        let data: Vec<Vec<u8>> =
            sizes.iter().map(|(w, h)| (0..(w * 3 + 5) * h).map(|i| (i * 31 % 251) as u8).collect()).collect();
        let images: Vec<Image<'_>> = sizes
            .iter()
            .zip(&data)
            .enumerate()
            .map(|(i, (&(w, h), data))| {
                let order = if i % 2 == 0 { ChannelOrder::Bgr } else { ChannelOrder::Rgb };
                Image::new(w, h, order, data).unwrap().with_stride(w * 3 + 5).unwrap()
            })
            .collect();
        let letterboxes: Vec<Letterbox> = sizes.iter().map(|&size| Letterbox::new(size, input)).collect();
        let frames: Vec<Frame<'_>> =
            images.iter().zip(&letterboxes).map(|(i, l)| Frame::new(*i, l)).collect();
        let layout = Layout::new(&frames, input).unwrap();
        let written = |threads: usize| {
            let mut block = vec![7; layout.bytes];
            layout.write(&frames, &SelectParams::default(), &mut block, &mut Pool::new(threads).unwrap());
            block
        };
        let alone = written(1);
        for (image, [_, _, place, _]) in images.iter().zip(&layout.parts) {
            let photo = image.to_photo();
            assert!(alone[*place..][..photo.bgr.len()] == photo.bgr, "{:?}", image.size());
        }
        for threads in [2, 5] {
            assert!(written(threads) == alone, "{threads} threads");
        }
    }

    /// NV12 arrives as it is, in half the bytes of BGR, whatever the distance between its rows.
    #[test]
    fn half_the_bytes_of_nv12() {
        let input = (64, 32);
        for (w, h) in [(640_usize, 480_usize), (1920, 1080), (33, 21), (1, 1)] {
            let (pairs, stride) = (w.div_ceil(2) * 2, w.div_ceil(2) * 2 + 7);
            let noise = |n: usize| (0..n).map(|i| (i * 31 % 251) as u8).collect::<Vec<u8>>();
            let (luma, chroma) = (noise(stride * h), noise(stride * h.div_ceil(2)));
            let colours = YuvColours::default().with_matrix(YuvMatrix::Bt709);
            let image = Image::nv12(w, h, &luma, &chroma, colours).unwrap().with_stride(stride).unwrap();
            let (photo, letterbox) = (image.to_photo(), Letterbox::new((w, h), input));
            let [nv12, bgr] = [image, Image::from(&photo)].map(|image| [Frame::new(image, &letterbox)]);
            let layout = Layout::new(&nv12, input).unwrap();
            let mut block = vec![7; layout.bytes];
            layout.write(&nv12, &SelectParams::default(), &mut block, &mut Pool::new(2).unwrap());
            let [_, _, place, second] = layout.parts[0];
            for y in 0..h {
                assert!(block[place + y * w..][..w] == luma[y * stride..][..w], "{w}x{h}, row {y}");
            }
            for y in 0..h.div_ceil(2) {
                assert!(
                    block[second + y * pairs..][..pairs] == chroma[y * stride..][..pairs],
                    "{w}x{h}, pairs {y}"
                );
            }
            // Header and tables are the same; each plane begins at a multiple of 16, which a single pixel pays for.
            let saved = Layout::new(&bgr, input).unwrap().bytes as isize - layout.bytes as isize;
            let exact = w * h * 3 - w * h - pairs * h.div_ceil(2);
            assert!(saved.abs_diff(exact as isize) <= ALIGN, "{w}x{h}: {saved} bytes less");
            assert!(w < 640 || saved == (w * h * 3 / 2) as isize, "{w}x{h}: {saved} bytes less");
        }
    }

    /// Photos in the device's memory have a place behind all that the host writes, and nothing of them is uploaded.
    #[test]
    fn photos_on_the_device_are_not_uploaded() {
        let input = (64, 32);
        let photo = Photo { width: 40, height: 30, bgr: vec![3; 3600] };
        let letterbox = Letterbox::new((40, 30), input);
        // SAFETY: no device is given it.
        let image =
            unsafe { DeviceImage::new(4096, 40, 30, ChannelOrder::Rgb).unwrap().with_stride(128).unwrap() };
        let (host, device) = (Frame::new(&photo, &letterbox), Frame::on_device(image, &letterbox));
        assert!(host.check(input).is_ok() && device.check(input).is_err(), "a CPU has no pixels to read");
        let of = |frames: &[Frame<'_>]| Layout::new(frames, input).unwrap();
        let (alone, both) = (of(&[device]), of(&[device, host]));
        assert!(alone.uploaded < 3600 && alone.bytes >= alone.uploaded + 3600);
        assert_eq!(of(&[host]).uploaded, of(&[host]).bytes);
        assert!(both.parts[1][2] + 3600 <= both.uploaded && both.parts[0][2] >= both.uploaded);
        let fetches = both.fetches(&[device, host], 1 << 20);
        assert_eq!(fetches.len(), 1);
        let Fetch { from, stride, to, row, rows, .. } = fetches[0];
        assert_eq!((from, stride, to, row, rows), (4096, 128, (1 << 20) + both.parts[0][2] as u64, 120, 30));
        let mut block = vec![7; both.bytes];
        both.write(&[device, host], &SelectParams::default(), &mut block, &mut Pool::new(1).unwrap());
        assert!(block[both.uploaded..].iter().all(|&byte| byte == 7));
        assert!(block[both.parts[1][2]..][..3600].iter().all(|&byte| byte == 3));
    }

    #[test]
    fn photos_of_a_batch_may_be_large_together_but_not_alone() {
        let input = (640, 640);
        let of = |width: usize, height: usize| Photo { width, height, bgr: vec![0; width * height * 3] };
        // This memory is reserved only and never touched.
        let photo = of(4000, 3000);
        let letterbox = Letterbox::new((4000, 3000), input);
        let frames = [Frame::new(&photo, &letterbox); 64];
        let layout = Layout::new(&frames, input).unwrap();
        assert!(layout.bytes > i32::MAX as usize && layout.bytes >= 64 * photo.bgr.len());
        for (of, next) in layout.parts.iter().zip(&layout.parts[1..]) {
            assert!(of[..2].iter().all(|&table| i32::try_from(table).is_ok()));
            assert!(of[2] + photo.bgr.len() <= next[2]);
        }

        let size = (40000, 17896);
        let photo = of(size.0, size.1);
        assert!(photo.bgr.len() > i32::MAX as usize);
        let letterbox = Letterbox::new(size, input);
        let error = Layout::new(&[Frame::new(&photo, &letterbox)], input).err().unwrap();
        assert!(error.to_string().contains("2 GiB"), "{error}");
    }
}
