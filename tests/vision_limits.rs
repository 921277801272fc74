//! Hostile image files ask for gigabytes and get an error before any memory. A test program of its own, because it
//! counts what the whole program allocates.

use rtmo_engine::vision::Photo;
use std::alloc::{GlobalAlloc, Layout, System};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

struct Counting;

static LARGEST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is the system allocator's work; counting does not touch the memory.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LARGEST.fetch_max(layout.size(), Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        LARGEST.fetch_max(layout.size(), Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn hostile_headers_get_no_memory() {
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
    let hostile: Vec<(&str, Vec<u8>, usize)> = vec![
        ("60000x60000 PNG", read("png_huge_header.png"), 0),
        ("16000x16000 PNG of 100 bytes", read("png_empty_promise.png"), 0),
        ("60000x60000 BMP", read("bmp_huge_header.bmp"), 0),
        ("65500x65500 JPEG", jpeg(65500, 65500), 0),
        ("16000x16000 JPEG of 2 kB", jpeg(16000, 16000), 0),
        // A lossless WebP may well be of one colour: here the stated limit is all there is.
        ("16383x16383 WebP", webp(16383, 16383), 4 << 28),
    ];
    for (name, bytes, allowed) in hostile {
        LARGEST.store(0, Relaxed);
        let outcome = Photo::decode(&bytes, Path::new(name));
        let largest = LARGEST.load(Relaxed);
        assert!(outcome.is_err(), "{name} decoded");
        assert!(largest <= allowed.max(1 << 20), "{name}: {largest} bytes at once");
    }
}
