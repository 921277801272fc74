//! Published weights: which there are, and fetching them.

#[cfg(feature = "download")]
use crate::pointer::optional_text;
use crate::pointer::{Growing, borrow, fill, give, options, put, take, text};
use crate::status::{argument, c_text, guard, or, rtmo_status};
use rtmo_engine::weights::registry::{self, PUBLISHED, Published};
use std::ffi::{CString, c_char, c_int, c_void};

/// A list of the weights that RTMO's authors published, and of where those are that are on this machine. Several threads may
/// read it at the same time.
pub struct ModelList(Vec<Known>);

/// One of them, with its texts for C.
struct Known {
    name: CString,
    url: CString,
    training_data: CString,
    benchmark: CString,
    file_name: CString,
    path: Option<CString>,
    about: &'static Published,
}

/// What is known of published weights. The texts belong to the list.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Model {
    /// sizeof(rtmo_model), set by the caller.
    pub struct_size: usize,
    /// Short name, such as "rtmo-s", for rtmo_engine_create.
    pub name: *const c_char,
    /// Official address of the weights.
    pub url: *const c_char,
    /// Last part of the address: the file's name after rtmo_download.
    pub file_name: *const c_char,
    /// Where it is on this machine; NULL if it is not here. UTF-8; bytes that are not are replaced.
    pub path: *const c_char,
    /// Data it was trained on.
    pub training_data: *const c_char,
    /// Data that `ap` was measured on.
    pub benchmark: *const c_char,
    /// Published average precision, 0 to 1.
    pub ap: f64,
    /// Keypoints a person: 17 (COCO) or 14 (CrowdPose).
    pub keypoint_count: usize,
    /// Network input, pixels.
    pub input_width: i32,
    /// Network input, pixels.
    pub input_height: i32,
}

// SAFETY: repr(C), begins with a usize, and has only integers, floats and raw pointers, without padding between them.
unsafe impl Growing for Model {
    const FIRST: usize = size_of::<Model>();
}

/// Lists the published weights.
///
/// *models: the list, for rtmo_models_free; NULL on failure. Looks for files, and connects to no server. May be called from any
/// thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rtmo_models_create(models: *mut *mut ModelList) -> rtmo_status {
    guard(|| {
        // SAFETY: the header asks for memory for a pointer.
        unsafe { put(models, "models", std::ptr::null_mut()) }?;
        let known = |about: &'static Published| Known {
            name: c_text(about.name),
            url: c_text(about.url),
            training_data: c_text(about.training_data),
            benchmark: c_text(about.benchmark),
            file_name: c_text(about.file_name()),
            path: about.installed().map(|path| c_text(&path.to_string_lossy())),
            about,
        };
        let list = ModelList(PUBLISHED.iter().map(known).collect());
        // SAFETY: as above.
        unsafe { put(models, "models", give(list)) }
    })
}

/// How many there are. 0 for NULL. Thread-safe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rtmo_models_count(models: *const ModelList) -> usize {
    // SAFETY: the header asks for NULL or a handle that lives.
    or(0, || Ok(unsafe { borrow(models, "models") }?.0.len()))
}

/// What is known of the one at `index`, from 0 on. `model->struct_size` must be set before. RTMO_ERROR_ARGUMENT if there is no
/// such one. Thread-safe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rtmo_models_get(
    models: *const ModelList,
    index: usize,
    model: *mut Model,
) -> rtmo_status {
    guard(|| {
        // SAFETY: the header asks for NULL or a handle that lives.
        let list = &unsafe { borrow(models, "models") }?.0;
        let Some(known) = list.get(index) else {
            return argument(format!("index {index}: there are {} models", list.len()));
        };
        let side = |side: usize| i32::try_from(side).unwrap_or(0);
        let value = Model {
            struct_size: 0,
            name: known.name.as_ptr(),
            url: known.url.as_ptr(),
            file_name: known.file_name.as_ptr(),
            path: known.path.as_ref().map_or(std::ptr::null(), |path| path.as_ptr()),
            training_data: known.training_data.as_ptr(),
            benchmark: known.benchmark.as_ptr(),
            ap: known.about.ap,
            keypoint_count: known.about.keypoints,
            input_width: side(known.about.input_size.0),
            input_height: side(known.about.input_size.1),
        };
        // SAFETY: the header asks for a structure whose first field is its size.
        unsafe { fill(model, "model", &value) }
    })
}

/// Frees a list and its texts. NULL: nothing happens.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rtmo_models_free(models: *mut ModelList) {
    // SAFETY: the header asks for NULL or a handle that is not used any more.
    or((), || unsafe { take(models, "models") });
}

/// Is told how many bytes of a file have come, of how many (0 if the server does not say). Anything but 0 stops the download,
/// which goes on from there the next time. `user` is what was given beside it. It must not throw or jump, nor call the library.
#[allow(non_camel_case_types)]
pub type rtmo_progress = Option<unsafe extern "C" fn(come: u64, of: u64, user: *mut c_void) -> c_int>;

/// How a file is fetched. All zeros but `struct_size` are the defaults.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct DownloadOptions {
    /// sizeof(rtmo_download_options).
    pub struct_size: usize,
    /// Where to. NULL: the user's cache folder, where rtmo_engine_create finds it by name.
    pub folder: *const c_char,
    /// Address of a folder on another server that has the files under their official names. NULL: the environment's RTMO_MIRROR,
    /// else the authors' server.
    pub mirror: *const c_char,
    /// Not 0: permits a mirror without encryption, as does the environment's RTMO_ALLOW_HTTP.
    pub allow_http: i32,
    /// Not 0: fetches also what is here.
    pub force: i32,
    /// NULL: nothing is told.
    pub progress: rtmo_progress,
    /// For `progress`.
    pub user: *mut c_void,
}

// SAFETY: repr(C), begins with a usize, and has only integers, raw pointers and a function's address, which is null or taken as
// the header asks, without padding between them.
unsafe impl Growing for DownloadOptions {
    const FIRST: usize = size_of::<DownloadOptions>();
}

/// Fetches the published weights `name`, unless they are here. The file appears complete or not at all, and only if its
/// SHA-256 is right. `options` may be NULL: the defaults.
///
/// RTMO_ERROR_ARGUMENT for a name that is not published, RTMO_ERROR_DOWNLOAD, RTMO_ERROR_FILE, RTMO_ERROR_CANCELLED if the
/// callback asked to stop, RTMO_ERROR_UNSUPPORTED if the library was built without downloads. May be called from any thread;
/// blocks for as long as it takes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rtmo_download(name: *const c_char, options: *const DownloadOptions) -> rtmo_status {
    guard(|| {
        // SAFETY: the header asks for NULL or a text.
        let name = unsafe { text(name, "name") }?;
        // SAFETY: the header asks for NULL or options whose first field is their size.
        let options = unsafe { self::options(options, "options") }?;
        let Some(model) = registry::find(name) else { return argument(registry::not_published(name)) };
        // SAFETY: the header asks for texts in the options.
        unsafe { fetch(model, &options) }
    })
}

#[cfg(not(feature = "download"))]
unsafe fn fetch(model: &'static Published, _: &DownloadOptions) -> crate::status::Outcome<()> {
    let text = format!("this library was built without downloads: fetch {} yourself", model.url);
    Err(crate::status::Failure::new(crate::status::RTMO_ERROR_UNSUPPORTED, text))
}

/// # Safety
/// The texts of `options` are NULL or end with a NUL; its callback may be called.
#[cfg(feature = "download")]
unsafe fn fetch(model: &'static Published, options: &DownloadOptions) -> crate::status::Outcome<()> {
    use crate::weights::{is_true, variable};
    use rtmo_engine::weights::{Progress, Standing, download, standing};
    use std::path::PathBuf;
    // SAFETY: the caller's promise.
    let given = unsafe { optional_text(options.folder, "folder") }?.map(PathBuf::from);
    // SAFETY: the caller's promise.
    let mirror = unsafe { optional_text(options.mirror, "mirror") }?.map(str::to_string);
    let installed = if given.is_none() && options.force == 0 { model.installed() } else { None };
    if let Some(path) = installed
        && !matches!(standing(model, &path)?, Standing::Different(_))
    {
        return Ok(());
    }
    let Some(folder) = given.or_else(registry::cache_folder) else {
        return argument("the environment names no cache folder (HOME is not set): give a folder");
    };
    let how = rtmo_engine::weights::DownloadOptions {
        mirror: mirror.or_else(|| variable("RTMO_MIRROR")),
        allow_http: options.allow_http != 0 || is_true("RTMO_ALLOW_HTTP"),
        force: options.force != 0,
        ..rtmo_engine::weights::DownloadOptions::default()
    };
    let mut tell = |progress| {
        let (Progress::Bytes(come, of), Some(call)) = (progress, options.progress) else { return };
        // SAFETY: the caller gave a function of this type and promises that it may be called with `user`.
        if unsafe { call(come, of.unwrap_or(0), options.user) } != 0 {
            std::panic::resume_unwind(Box::new(crate::status::Cancelled));
        }
    };
    download(model, &folder, &how, &mut tell)?;
    Ok(())
}
