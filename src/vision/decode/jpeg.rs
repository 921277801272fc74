//! JPEG, by mozjpeg's libjpeg: the arithmetic of libjpeg-turbo, which OpenCV uses (smooth chroma upsampling), bit for bit,
//! with the inverse DCT of [`idct`](super::idct).

use super::idct::idct;
use super::{Header, Limits, Photo, Reason, Stored, check_size, zeroed};
use image::metadata::Orientation;
use mozjpeg_sys as ffi;
use std::any::Any;
use std::cell::{Cell, RefCell, UnsafeCell};
use std::ffi::{c_int, c_uchar};
use std::mem::{MaybeUninit, transmute};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;

/// The shortest code of a block is one bit of DC, and many blocks can share one empty run of AC. So a byte holds at
/// most eight blocks of 8x8.
const MOST_PIXELS_PER_BYTE: usize = 512;

/// Every scan of a progressive file visits all blocks, yet takes but a few bytes. Encoders write about ten.
const USUAL_SCANS: usize = 10;

/// More scans are refused, however few the pixels.
const MOST_SCANS: usize = 100;

/// Scans times pixels that take some seconds. A photo within the limits may have the usual number of scans in any case.
const MOST_WORK: usize = 1 << 31;

/// Different messages that are kept of a file; damage can give thousands.
const MOST_WARNINGS: usize = 8;

/// What unwinds through libjpeg: the text of a fatal error.
struct Fatal(String);

/// What libjpeg and the callbacks write to.
struct Shared {
    errors: UnsafeCell<ffi::jpeg_error_mgr>,
    progress: UnsafeCell<ffi::jpeg_progress_mgr>,
    warnings: RefCell<Vec<String>>,
    most_scans: Cell<usize>,
}

/// A decompressor and what it points to.
struct Decompressor<'a> {
    info: Box<ffi::jpeg_decompress_struct>,
    shared: Rc<Shared>,
    bytes: &'a [u8],
}

impl Drop for Decompressor<'_> {
    fn drop(&mut self) {
        // SAFETY: `info` is in a state that libjpeg left; it may be destroyed in any, also after a fatal error.
        unsafe { ffi::jpeg_destroy_decompress(&mut self.info) };
    }
}

pub(super) fn header(bytes: &[u8], limits: Limits) -> Result<Header, Reason> {
    let mut file = Decompressor::new(bytes)?;
    file.read_header(limits)?;
    let (width, height) = (file.info.image_width as usize, file.info.image_height as usize);
    // SAFETY: the header has been read.
    let progressive = unsafe { ffi::jpeg_has_multiple_scans(&file.info) } != 0;
    // Coefficients of 16 bits are kept until the last scan. A photo that is turned is there twice.
    let channels = (file.info.num_components as usize).max(3);
    let pixel = if progressive { 3 + 2 * channels } else { 3 + 3 };
    Ok(Header { width, height, memory: width * height * pixel + (1 << 20) })
}

pub(super) fn decode(bytes: &[u8], header: &Header, limits: Limits) -> Result<Stored, Reason> {
    let mut file = Decompressor::new(bytes)?;
    file.read_header(limits)?;
    let exif = file.first_app1().and_then(|app1| app1.get(6..));
    let orientation = exif.and_then(Orientation::from_exif_chunk).unwrap_or(Orientation::NoTransforms);
    let photo = file.read_pixels(header)?;
    file.read_end();
    Ok(Stored { photo, orientation, warnings: file.shared.warnings.take() })
}

/// Runs a call of libjpeg, whose fatal errors unwind as [`Fatal`].
fn caught<T>(call: impl FnOnce() -> T) -> Result<T, Reason> {
    catch_unwind(AssertUnwindSafe(call)).map_err(|panic: Box<dyn Any + Send>| {
        match panic.downcast::<Fatal>() {
            Ok(fatal) => format!("not a readable JPEG: {}", fatal.0),
            Err(other) => resume_unwind(other),
        }
    })
}

impl<'a> Decompressor<'a> {
    fn new(bytes: &'a [u8]) -> Result<Decompressor<'a>, Reason> {
        // SAFETY: these are plain C structs of numbers, pointers and optional callbacks, for which zero is a valid value.
        let (info, errors, progress) = unsafe {
            let info = Box::new(MaybeUninit::zeroed().assume_init());
            (info, MaybeUninit::zeroed().assume_init(), MaybeUninit::zeroed().assume_init())
        };
        let (warnings, most_scans) = (RefCell::default(), Cell::new(MOST_SCANS));
        let shared = Rc::new(Shared {
            errors: UnsafeCell::new(errors),
            progress: UnsafeCell::new(progress),
            warnings,
            most_scans,
        });
        let mut file = Decompressor { info, shared, bytes };
        let Decompressor { info, shared, .. } = &mut file;
        let info = &mut **info;
        caught(|| {
            // SAFETY: all pointers handed to libjpeg are to `bytes`, which outlive `info`, and into `shared`, which is
            // dropped after `info` is destroyed and whose numbers sit in cells. jpeg_std_error fills all of `errors`.
            unsafe {
                info.common.err = ffi::jpeg_std_error(&mut *shared.errors.get());
                (*info.common.err).error_exit = Some(error_exit);
                (*info.common.err).emit_message = Some(emit_message);
                ffi::jpeg_CreateDecompress(info, ffi::JPEG_LIB_VERSION, size_of_val(info));
                (*shared.progress.get()).progress_monitor = Some(watch_scans);
                info.common.progress = shared.progress.get();
                info.common.client_data = Rc::as_ptr(shared).cast_mut().cast();
                ffi::jpeg_mem_src(info, bytes.as_ptr(), bytes.len() as _);
                ffi::jpeg_save_markers(info, APP1, 0xffff);
            }
        })?;
        Ok(file)
    }

    fn read_header(&mut self, limits: Limits) -> Result<(), Reason> {
        let info = &mut *self.info;
        // SAFETY: the decompressor is made, and its source set.
        caught(|| unsafe { ffi::jpeg_read_header(info, 1) })?;
        let (width, height) = (info.image_width as usize, info.image_height as usize);
        check_size(width, height, self.bytes.len().saturating_mul(MOST_PIXELS_PER_BYTE), limits)?;
        let work = MOST_WORK.max(limits.max_pixels.saturating_mul(USUAL_SCANS));
        self.shared.most_scans.set(MOST_SCANS.min(work / (width * height)));
        Ok(())
    }

    /// The pixels as stored.
    fn read_pixels(&mut self, &Header { width, height, .. }: &Header) -> Result<Photo, Reason> {
        let info = &mut *self.info;
        let cmyk = info.num_components == 4;
        let channels = if cmyk { 4 } else { 3 };
        info.out_color_space = if cmyk { ffi::JCS_CMYK } else { ffi::JCS_EXT_BGR };
        // SAFETY: the header has been read; mozjpeg's own header gives this signature to the selector, which the bindings
        // take as an untyped pointer to the function (and the decompressor as a compressor: only its address counts).
        caught(|| unsafe {
            let decompressor = &*(&raw const *info).cast::<ffi::jpeg_compress_struct>();
            ffi::jpeg_set_idct_method_selector(decompressor, select_idct as *const _);
            ffi::jpeg_start_decompress(info)
        })?;
        assert_eq!((info.output_width as usize, info.output_height as usize), (width, height));
        assert_eq!(info.output_components, channels);

        let mut bgr = zeroed(width * height * 3)?;
        let mut inks = vec![0u8; if cmyk { width * 4 } else { 0 }];
        caught(|| {
            for row in bgr.chunks_exact_mut(width * 3) {
                let mut target = if cmyk { inks.as_mut_ptr() } else { row.as_mut_ptr() };
                // SAFETY: decompression has started; `target` has room for the `output_width * output_components` bytes
                // of the one row asked for, which the assertions compare with what was allocated.
                if unsafe { ffi::jpeg_read_scanlines(info, &mut target, 1) } != 1 {
                    return Err(Reason::from("not a readable JPEG: rows are missing"));
                }
                if cmyk {
                    row.chunks_exact_mut(3).zip(inks.chunks_exact(4)).for_each(|(p, c)| cmyk_to_bgr(c, p));
                }
            }
            Ok(())
        })??;
        Ok(Photo { width, height, bgr })
    }

    /// Reads what follows the pixels, where damage often shows. Nothing there changes them.
    fn read_end(&mut self) {
        let info = &mut *self.info;
        // SAFETY: all rows have been read.
        if let Err(what) = caught(|| unsafe { ffi::jpeg_finish_decompress(info) }) {
            self.shared.warn(what);
        }
    }

    /// The content of the first APP1 segment, the only kind that is saved.
    fn first_app1(&self) -> Option<&[u8]> {
        // SAFETY: libjpeg's list of saved markers is null or points to entries that live as long as `info`.
        let marker = unsafe { self.info.marker_list.as_ref() }?;
        // SAFETY: an entry's `data` holds `data_length` bytes and lives as long as `info`.
        (!marker.data.is_null())
            .then(|| unsafe { std::slice::from_raw_parts(marker.data, marker.data_length as usize) })
    }
}

impl Shared {
    fn warn(&self, warning: String) {
        let mut warnings = self.warnings.borrow_mut();
        if warnings.len() < MOST_WARNINGS && !warnings.contains(&warning) {
            warnings.push(warning);
        }
    }
}

/// OpenCV's conversion; the inks come inverted, as Adobe stores them.
fn cmyk_to_bgr(inks: &[u8], bgr: &mut [u8]) {
    let k = inks[3] as i32;
    let light = |ink: u8| (k - (((255 - ink as i32) * k) >> 8)) as u8;
    bgr.copy_from_slice(&[light(inks[2]), light(inks[1]), light(inks[0])]);
}

const APP1: c_int = 0xe1;

/// Libjpeg's text for the message that it has just prepared.
fn message(info: &mut ffi::jpeg_common_struct) -> String {
    let mut text = [0 as c_uchar; 256];
    // SAFETY: `err` points to the error manager, whose format_message jpeg_std_error has set: in C it takes a pointer
    // to 200 writable bytes (JMSG_LENGTH_MAX), to which it writes a zero-terminated text.
    unsafe {
        let format = (*info.err).format_message.expect("set by jpeg_std_error");
        type Format = unsafe extern "C-unwind" fn(*mut ffi::jpeg_common_struct, *mut c_uchar);
        transmute::<unsafe extern "C-unwind" fn(&mut ffi::jpeg_common_struct, &[u8; 80]), Format>(format)(
            info,
            text.as_mut_ptr(),
        );
    }
    let end = text.iter().position(|&c| c == 0).unwrap_or(0);
    String::from_utf8_lossy(&text[..end]).into_owned()
}

extern "C-unwind" fn error_exit(info: &mut ffi::jpeg_common_struct) {
    // Through frames of C that are built with unwind tables (the feature "unwinding") to `decode`.
    resume_unwind(Box::new(Fatal(message(info))));
}

extern "C-unwind" fn emit_message(info: &mut ffi::jpeg_common_struct, level: c_int) {
    if level < 0 {
        let warning = message(info);
        // SAFETY: `Decompressor::new` has set client_data to its own `shared`, which lives as long as `info`.
        unsafe { &*info.client_data.cast::<Shared>() }.warn(warning);
    }
}

extern "C-unwind" fn watch_scans(info: &mut ffi::jpeg_common_struct) {
    // SAFETY: only decompressors carry this callback, and in them the common struct is the first member.
    let scan = unsafe { &*(&raw const *info).cast::<ffi::jpeg_decompress_struct>() }.input_scan_number;
    // SAFETY: as in `emit_message`.
    let most = unsafe { &*info.client_data.cast::<Shared>() }.most_scans.get();
    if scan as usize > most {
        resume_unwind(Box::new(Fatal(format!("more than {most} scans of so many pixels"))));
    }
}

/// An inverse DCT, as libjpeg calls it.
type Method = unsafe extern "C-unwind" fn(
    *mut ffi::jpeg_decompress_struct,
    *mut ffi::jpeg_component_info,
    *mut i16,
    *mut *mut u8,
    u32,
);

/// Puts [`idct`] in the place of libjpeg's, for a component of any photo: none is scaled, so that all have blocks of 8x8.
///
/// # Safety
/// `method` must point to where libjpeg keeps the component's method.
unsafe extern "C-unwind" fn select_idct(
    _info: *mut ffi::jpeg_decompress_struct,
    _component: *mut ffi::jpeg_component_info,
    method: *mut Method,
    _category: *mut c_int,
) {
    // SAFETY: the caller's promise.
    unsafe { *method = inverse_dct };
}

/// Transforms one block into eight samples of eight rows, from `column` on.
///
/// # Safety
/// The contract of libjpeg's inverse DCTs: `coefficients` points to 64 numbers, `rows` to eight rows that have eight
/// samples from `column` on, and the component's quantization table is null or valid.
unsafe extern "C-unwind" fn inverse_dct(
    _info: *mut ffi::jpeg_decompress_struct,
    component: *mut ffi::jpeg_component_info,
    coefficients: *mut i16,
    rows: *mut *mut u8,
    column: u32,
) {
    // SAFETY: the caller's promise. No other reference to any of these lives: libjpeg is C.
    unsafe {
        // A component without a table has no data: libjpeg then multiplies by zeros.
        let steps = (*component).quant_table.as_ref().map_or(&[0; 64], |table| &table.quantval);
        let samples = idct(&*coefficients.cast::<[i16; 64]>(), steps);
        for (y, row) in samples.iter().enumerate() {
            (*rows.add(y)).add(column as usize).cast::<[u8; 8]>().write_unaligned(*row);
        }
    }
}
