//! Hostile image files ask for gigabytes and get an error before any memory. A test program of its own, because it
//! counts what the whole program allocates.

use rtmo_engine::vision::decode::{Encoded, Limits};
use rtmo_engine::vision::{Photo, encode};
use std::alloc::{GlobalAlloc, Layout, System};
use std::io::Cursor;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

struct Counting;

static LARGEST: AtomicUsize = AtomicUsize::new(0);
/// Bytes in use, and the most since somebody set it.
static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

/// Tests count what the whole program allocates: one at a time.
static COUNTED: Mutex<()> = Mutex::new(());

fn count(size: usize) {
    LARGEST.fetch_max(size, Relaxed);
    PEAK.fetch_max(LIVE.fetch_add(size, Relaxed) + size, Relaxed);
}

// SAFETY: everything is the system allocator's work; counting does not touch the memory.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn hostile_headers_get_no_memory() {
    let _alone = COUNTED.lock().unwrap_or_else(|e| e.into_inner());
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/vision");
    let read = |name: &str| std::fs::read(data.join(name)).unwrap();
    // The frame header's height and width.
    let jpeg = |width: u16, height: u16| {
        let mut bytes = read("jpeg_420.jpg");
        let at = bytes.windows(2).position(|w| w == [0xff, 0xc0]).unwrap();
        bytes[at + 5..at + 9].copy_from_slice(&[height.to_be_bytes(), width.to_be_bytes()].concat());
        bytes
    };
    // Width less one and height less one, 14 bits each, behind the signature byte.
    let webp = |width: u32, height: u32| {
        let mut bytes = read("webp_lossless.webp");
        let at = bytes.windows(4).position(|w| w == b"VP8L").unwrap() + 9;
        let flags = u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) & 0xf000_0000;
        bytes[at..at + 4].copy_from_slice(&(flags | (height - 1) << 14 | (width - 1)).to_le_bytes());
        bytes
    };
    let bmp = |width: u32, height: u32| {
        let mut bytes = read("bmp_24.bmp");
        bytes[18..26].copy_from_slice(&[width.to_le_bytes(), height.to_le_bytes()].concat());
        bytes
    };
    let gif = |width: u16, height: u16| {
        let mut bytes = read("gif.jpg");
        bytes[6..10].copy_from_slice(&[width.to_le_bytes(), height.to_le_bytes()].concat());
        bytes
    };
    // The values of tags 256 and 257, in entries of 12 bytes.
    let tiff = |width: u32, height: u32| {
        let mut bytes = read("tiff_rgb.tif");
        let directory = u32::from_le_bytes(bytes[4..8].try_into().unwrap()) as usize + 2;
        for (entry, value) in [(0, width), (1, height)] {
            let at = directory + 12 * entry;
            assert_eq!(bytes[at..at + 2], (256 + entry as u16).to_le_bytes());
            bytes[at + 2..at + 4].copy_from_slice(&4_u16.to_le_bytes());
            bytes[at + 4..at + 12].copy_from_slice(&[1_u32.to_le_bytes(), value.to_le_bytes()].concat());
        }
        bytes
    };
    let hostile: Vec<(&str, Vec<u8>, usize)> = vec![
        ("60000x60000 PNG", read("png_huge_header.png"), 0),
        ("16000x16000 PNG of 100 bytes", read("png_empty_promise.png"), 0),
        ("60000x60000 BMP", read("bmp_huge_header.bmp"), 0),
        ("65500x65500 JPEG", jpeg(65500, 65500), 0),
        ("16000x16000 JPEG of 2 kB", jpeg(16000, 16000), 0),
        ("14000x14000 JPEG of 2 kB", jpeg(14000, 14000), 0),
        ("14000x14000 BMP of 400 bytes", bmp(14000, 14000), 0),
        ("60000x60000 GIF", gif(60000, 60000), 0),
        ("14000x14000 GIF of 3 kB", gif(14000, 14000), 0),
        ("60000x60000 TIFF", tiff(60000, 60000), 0),
        ("60000x60000 PNM", b"P6 60000 60000 255\n".to_vec(), 0),
        ("14000x14000 PNM without pixels", b"P6 14000 14000 255\n".to_vec(), 0),
        ("16383x16383 WebP", webp(16383, 16383), 0),
        // A lossless WebP may well be of one colour: here the stated limit is all there is.
        ("14000x14000 WebP", webp(14000, 14000), 12 * 196_000_000),
    ];
    for (name, bytes, allowed) in hostile {
        LARGEST.store(0, Relaxed);
        let outcome = Photo::decode(&bytes, Path::new(name));
        let largest = LARGEST.load(Relaxed);
        assert!(outcome.is_err(), "{name} decoded");
        assert!(largest <= allowed.max(1 << 20), "{name}: {largest} bytes at once");
    }
}

/// What [`Encoded::memory`] says is enough; a quarter of a megabyte is for tables, which do not grow with the photo.
#[test]
fn decoders_hold_no_more_than_they_say() {
    use image::ImageFormat::{Bmp, Gif, Pnm, Tiff, WebP};
    let _alone = COUNTED.lock().unwrap_or_else(|e| e.into_inner());
    let (width, height) = (1200, 900);
    let pixels: Vec<u8> =
        (0..width * height * 3).map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 27) as u8).collect();
    let rgb = image::RgbImage::from_raw(width, height, pixels.clone()).unwrap();
    let rgb = image::DynamicImage::ImageRgb8(rgb);
    let encoded = |image: &image::DynamicImage, format| {
        let mut file = Cursor::new(Vec::new());
        image.write_to(&mut file, format).unwrap();
        file.into_inner()
    };
    let folder = tempfile::tempdir().unwrap();
    let png = folder.path().join("x.png");
    encode::save(&Photo::new(width as usize, height as usize, pixels).unwrap(), &png).unwrap();
    let (rgba, rgb16) = (rgb.to_rgba8().into(), rgb.to_rgb16().into());
    let files = [
        ("PNG", std::fs::read(&png).unwrap()),
        ("BMP", encoded(&rgb, Bmp)),
        ("GIF", encoded(&rgba, Gif)),
        ("PNM", encoded(&rgb, Pnm)),
        ("TIFF", encoded(&rgb, Tiff)),
        ("TIFF of 16 bits", encoded(&rgb16, Tiff)),
        ("WebP", encoded(&rgb, WebP)),
        ("WebP with alpha", encoded(&rgba, WebP)),
    ];
    for (name, bytes) in files {
        let len = bytes.len();
        let file = Encoded::new(bytes, name, Limits::default()).unwrap();
        let promised = file.memory() - len;
        let before = LIVE.load(Relaxed);
        PEAK.store(before, Relaxed);
        let decoded = file.decode().unwrap();
        let took = PEAK.load(Relaxed) - before;
        assert_eq!(decoded.photo.bgr.len(), (width * height * 3) as usize);
        assert!(took <= promised + (1 << 18), "{name}: {took} bytes, {promised} promised");
        // One that promises twice as much would keep others waiting for nothing.
        assert!(promised <= 2 * took + (2 << 20), "{name}: {took} bytes, {promised} promised");
    }
}
