//! What a call returns: a status, and a text for the last failure of the thread.

use crate::words::in_c;
use rtmo_engine::Error;
use std::any::Any;
use std::cell::RefCell;
use std::ffi::{CString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What a call returns: RTMO_OK, or why it failed; rtmo_last_error() then has the text.
#[allow(non_camel_case_types)]
pub type rtmo_status = i32;

/// It worked.
pub const RTMO_OK: i32 = 0;
/// An argument makes no sense: NULL, misaligned, out of range, or not together with another.
pub const RTMO_ERROR_ARGUMENT: i32 = 1;
/// A file cannot be read or written.
pub const RTMO_ERROR_FILE: i32 = 2;
/// A weights file is damaged, or no RTMO network.
pub const RTMO_ERROR_WEIGHTS: i32 = 3;
/// A device, an instruction set or a driver is missing or failed.
pub const RTMO_ERROR_DEVICE: i32 = 4;
/// A file could not be fetched from a server.
pub const RTMO_ERROR_DOWNLOAD: i32 = 5;
/// The library was built without this.
pub const RTMO_ERROR_UNSUPPORTED: i32 = 6;
/// A callback asked to stop.
pub const RTMO_ERROR_CANCELLED: i32 = 7;
/// A fault of the library: please report it. Handles stay usable.
pub const RTMO_ERROR_INTERNAL: i32 = 100;

/// Why a call failed.
pub struct Failure {
    status: rtmo_status,
    text: String,
}

impl Failure {
    /// A failure of some kind.
    pub fn new(status: rtmo_status, text: impl Into<String>) -> Failure {
        Failure { status, text: text.into() }
    }
}

/// What the body of a call returns.
pub type Outcome<T> = Result<T, Failure>;

/// That an argument makes no sense.
pub fn argument<T>(text: impl Into<String>) -> Outcome<T> {
    Err(Failure::new(RTMO_ERROR_ARGUMENT, text))
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        let status = match error {
            Error::Usage(_) | Error::Image { .. } => RTMO_ERROR_ARGUMENT,
            Error::Io { .. } => RTMO_ERROR_FILE,
            Error::Weights { .. } | Error::Tensor { .. } | Error::Json { .. } => RTMO_ERROR_WEIGHTS,
            Error::Device(_) => RTMO_ERROR_DEVICE,
            Error::Download { .. } => RTMO_ERROR_DOWNLOAD,
            _ => RTMO_ERROR_INTERNAL,
        };
        Failure { status, text: in_c(&error.to_string()) }
    }
}

thread_local! {
    static LAST: RefCell<CString> = RefCell::default();
}

/// A text without its NUL bytes, which would end it early.
pub fn c_text(text: &str) -> CString {
    CString::new(text.replace('\0', "\\0")).unwrap_or_default()
}

/// Keeps a failure's text for [`rtmo_last_error`]. At a thread's very end there is no place for it any more.
fn keep(failure: Failure) -> rtmo_status {
    let text = c_text(&failure.text);
    LAST.try_with(|last| last.replace(text)).ok();
    failure.status
}

/// What unwinds a call whose callback asked to stop.
pub struct Cancelled;

fn failure_of(panic: Box<dyn Any + Send>) -> Failure {
    if panic.is::<Cancelled>() {
        return Failure::new(RTMO_ERROR_CANCELLED, "the callback asked to stop");
    }
    let text = panic.downcast_ref::<&str>().map(|text| text.to_string());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
    Failure::new(RTMO_ERROR_INTERNAL, format!("a fault of rtmo-engine: {text}"))
}

fn run<T>(body: impl FnOnce() -> Outcome<T>) -> Outcome<T> {
    // What a panic leaves behind is a locked handle, whose lock is taken over, and results that were not returned.
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|panic| Err(failure_of(panic)))
}

/// Runs the body of a call that returns a status.
pub fn guard(body: impl FnOnce() -> Outcome<()>) -> rtmo_status {
    run(body).map_or_else(keep, |()| RTMO_OK)
}

/// Runs the body of a call that returns a value, and `otherwise` if it fails.
pub fn or<T>(otherwise: T, body: impl FnOnce() -> Outcome<T>) -> T {
    run(body).unwrap_or_else(|failure| {
        keep(failure);
        otherwise
    })
}

/// What went wrong in this thread's last call that failed: what, where, what was expected and what was found, in English and
/// UTF-8, without control characters except line ends. An empty text if none has failed. Calls that succeed leave it as it is.
///
/// The text belongs to the library and holds until the thread's next call that fails, or its end. Never NULL.
///
/// Each thread has its own.
#[unsafe(no_mangle)]
pub extern "C" fn rtmo_last_error() -> *const c_char {
    LAST.try_with(|last| last.borrow().as_ptr()).unwrap_or(c"".as_ptr())
}

/// A status in one word, such as "argument"; "unknown" for other numbers. The text lives as long as the program.
///
/// Never fails. May be called from any thread.
#[unsafe(no_mangle)]
pub extern "C" fn rtmo_status_text(status: rtmo_status) -> *const c_char {
    let text = match status {
        RTMO_OK => c"ok",
        RTMO_ERROR_ARGUMENT => c"argument",
        RTMO_ERROR_FILE => c"file",
        RTMO_ERROR_WEIGHTS => c"weights",
        RTMO_ERROR_DEVICE => c"device",
        RTMO_ERROR_DOWNLOAD => c"download",
        RTMO_ERROR_UNSUPPORTED => c"unsupported",
        RTMO_ERROR_CANCELLED => c"cancelled",
        RTMO_ERROR_INTERNAL => c"internal",
        _ => c"unknown",
    };
    text.as_ptr()
}
