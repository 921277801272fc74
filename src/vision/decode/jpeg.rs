//! JPEG, by mozjpeg's libjpeg: the arithmetic of libjpeg-turbo, which OpenCV uses (accurate integer IDCT, smooth
//! chroma upsampling), bit for bit. (Coefficients out of range, which only corrupt files hold, overflow differently in
//! plain C and in SIMD; so they do in libjpeg-turbo.)

use super::{Photo, Reason, Stored, check_size, exif};
use mozjpeg_sys as ffi;
use std::any::Any;
use std::ffi::{c_int, c_uchar};
use std::mem::{MaybeUninit, transmute};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// The shortest code of a block is one bit of DC, and many blocks can share one empty run of AC. So a byte holds at
/// most eight blocks of 8x8.
const MOST_PIXELS_PER_BYTE: usize = 512;

/// Every scan of a progressive file visits all blocks, yet takes but a few bytes. Real files have about ten.
const MOST_SCANS: c_int = 100;

/// What unwinds through libjpeg: the text of a fatal error.
struct Fatal(String);

pub(super) fn decode(bytes: &[u8]) -> Result<Stored, Reason> {
    // SAFETY: these are plain C structs of numbers, pointers and optional callbacks, for which zero is a valid value.
    let (mut info, mut errors, mut progress) = unsafe {
        let info = Box::new(MaybeUninit::<ffi::jpeg_decompress_struct>::zeroed().assume_init());
        (info, MaybeUninit::zeroed().assume_init(), MaybeUninit::zeroed().assume_init())
    };
    let mut warning: Option<String> = None;
    let outcome =
        catch_unwind(AssertUnwindSafe(|| read(&mut info, &mut errors, &mut progress, &mut warning, bytes)));
    // SAFETY: `info` is zeroed or in a state that libjpeg left; both may be destroyed, also after a fatal error.
    unsafe { ffi::jpeg_destroy_decompress(&mut info) };
    let fatal = |panic: Box<dyn Any + Send>| match panic.downcast::<Fatal>() {
        Ok(fatal) => Err(format!("not a readable JPEG: {}", fatal.0)),
        Err(other) => resume_unwind(other),
    };
    let (photo, orientation) = outcome.unwrap_or_else(fatal)?;
    Ok(Stored { photo, orientation, warning })
}

/// The pixels as stored, and the Exif orientation. Libjpeg's fatal errors unwind as [`Fatal`].
fn read(
    info: &mut ffi::jpeg_decompress_struct,
    errors: &mut ffi::jpeg_error_mgr,
    progress: &mut ffi::jpeg_progress_mgr,
    warning: *mut Option<String>,
    bytes: &[u8],
) -> Result<(Photo, u16), Reason> {
    // SAFETY: all pointers handed to libjpeg are to the caller's locals and to `bytes`; they outlive the
    // decompression, and libjpeg follows none of them when it is destroyed. jpeg_std_error fills all of `errors`.
    unsafe {
        info.common.err = ffi::jpeg_std_error(errors);
        (*info.common.err).error_exit = Some(error_exit);
        (*info.common.err).emit_message = Some(emit_message);
        ffi::jpeg_CreateDecompress(info, ffi::JPEG_LIB_VERSION, size_of_val(info));
        progress.progress_monitor = Some(watch_scans);
        info.common.progress = progress;
        info.common.client_data = warning.cast();
        ffi::jpeg_mem_src(info, bytes.as_ptr(), bytes.len() as _);
        ffi::jpeg_save_markers(info, APP1, 0xffff);
        ffi::jpeg_read_header(info, 1);
    }
    let (width, height) = (info.image_width as usize, info.image_height as usize);
    check_size(width, height, bytes.len().saturating_mul(MOST_PIXELS_PER_BYTE))?;
    let orientation = first_app1(info).and_then(|app1| app1.get(6..)).map_or(1, exif::orientation);
    let cmyk = info.num_components == 4;
    let channels = if cmyk { 4 } else { 3 };
    info.out_color_space = if cmyk { ffi::JCS_CMYK } else { ffi::JCS_EXT_BGR };
    // SAFETY: the header has been read.
    unsafe { ffi::jpeg_start_decompress(info) };
    assert_eq!((info.output_width as usize, info.output_height as usize), (width, height));
    assert_eq!(info.output_components, channels);

    let mut bgr = vec![0; width * height * 3];
    let mut inks = vec![0u8; if cmyk { width * 4 } else { 0 }];
    for row in bgr.chunks_exact_mut(width * 3) {
        let mut target = if cmyk { inks.as_mut_ptr() } else { row.as_mut_ptr() };
        // SAFETY: decompression has started; `target` has room for the `output_width * output_components` bytes of
        // the one row asked for, which the assertions compare with what was allocated.
        if unsafe { ffi::jpeg_read_scanlines(info, &mut target, 1) } != 1 {
            return Err("not a readable JPEG: rows are missing".into());
        }
        if cmyk {
            row.chunks_exact_mut(3).zip(inks.chunks_exact(4)).for_each(|(p, c)| cmyk_to_bgr(c, p));
        }
    }
    Ok((Photo { width, height, bgr }, orientation))
}

/// OpenCV's conversion; the inks come inverted, as Adobe stores them.
fn cmyk_to_bgr(inks: &[u8], bgr: &mut [u8]) {
    let k = inks[3] as i32;
    let light = |ink: u8| (k - (((255 - ink as i32) * k) >> 8)) as u8;
    bgr.copy_from_slice(&[light(inks[2]), light(inks[1]), light(inks[0])]);
}

const APP1: c_int = 0xe1;

/// The content of the first APP1 segment, the only kind that is saved.
fn first_app1(info: &ffi::jpeg_decompress_struct) -> Option<&[u8]> {
    // SAFETY: libjpeg's list of saved markers is null or points to entries that live as long as `info`.
    let marker = unsafe { info.marker_list.as_ref() }?;
    // SAFETY: an entry's `data` holds `data_length` bytes and lives as long as `info`.
    (!marker.data.is_null())
        .then(|| unsafe { std::slice::from_raw_parts(marker.data, marker.data_length as usize) })
}

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
        // SAFETY: `read` has set client_data to the caller's variable, which only this callback touches meanwhile.
        let first = unsafe { &mut *info.client_data.cast::<Option<String>>() };
        if first.is_none() {
            *first = Some(message(info));
        }
    }
}

extern "C-unwind" fn watch_scans(info: &mut ffi::jpeg_common_struct) {
    // SAFETY: only decompressors carry this callback, and in them the common struct is the first member.
    let info = unsafe { &*(&raw const *info).cast::<ffi::jpeg_decompress_struct>() };
    if info.input_scan_number > MOST_SCANS {
        resume_unwind(Box::new(Fatal(format!("more than {MOST_SCANS} scans"))));
    }
}
