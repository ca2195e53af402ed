//! The C interface, declared and explained in `ibot.h`.
//!
//! ```sh
//! cargo build --release -p ibot-capi     # target/release/libibot_c.so, .dylib or ibot_c.dll
//! ```
//!
//! No panic leaves a function, and each pointer is checked for null; that it points to valid memory is up to the
//! caller.

use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char, c_int};
use std::path::Path;
use std::ptr;
use std::sync::OnceLock;

use ibot::app::{EmbedRequest, EmbedderConfig, EmbedderHandle, ImageInput, catch_panic};
use ibot::device::BackendChoice;
use ibot::{Error, Result};

/// The numbers of the header's `ibot_status`.
const OK: c_int = 0;
const WRONG_ARGUMENT: c_int = 1;
const WRONG_FILE: c_int = 2;
const WRONG_DEVICE: c_int = 3;
const OTHER_ERROR: c_int = 4;

/// A loaded model; the header's `ibot_embedder`.
#[derive(Debug)]
pub struct IbotEmbedder {
    handle: EmbedderHandle,
    width: usize,
}

thread_local! {
    static LAST_ERROR: RefCell<CString> = RefCell::new(CString::default());
}

/// Loads a model file.
///
/// # Safety
/// `path` and `backend` are null or C strings, `embedder` is null or a place for a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ibot_load(
    path: *const c_char,
    backend: *const c_char,
    embedder: *mut *mut IbotEmbedder,
) -> c_int {
    answer(|| {
        if embedder.is_null() {
            return Err(null("embedder"));
        }
        // SAFETY: it is no null pointer, so the caller says that it is a place for one.
        unsafe { embedder.write(ptr::null_mut()) };
        // SAFETY: the caller's word.
        let path = unsafe { text("path", path) }?;
        let choice = if backend.is_null() {
            BackendChoice::Auto
        } else {
            // SAFETY: the caller's word.
            unsafe { text("backend", backend) }?.parse()?
        };
        let config = EmbedderConfig {
            device: choice.into(),
            ..EmbedderConfig::new(path)
        };
        let handle = config.start()?;
        let width = handle.load().wait()?.width;
        let loaded = Box::new(IbotEmbedder { handle, width });
        // SAFETY: as above.
        unsafe { embedder.write(Box::into_raw(loaded)) };
        Ok(())
    })
}

/// Length of a feature; 0 for null.
///
/// # Safety
/// `embedder` is null or one of [`ibot_load`] that was not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ibot_width(embedder: *const IbotEmbedder) -> usize {
    // SAFETY: the caller's word.
    unsafe { embedder.as_ref() }.map_or(0, |embedder| embedder.width)
}

/// The feature of an image file.
///
/// # Safety
/// As [`ibot_width`]; `path` is null or a C string; `feature` is null or has place for `length` numbers.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ibot_embed_path(
    embedder: *const IbotEmbedder,
    path: *const c_char,
    feature: *mut f32,
    length: usize,
) -> c_int {
    answer(|| {
        // SAFETY: the caller's word.
        let path = unsafe { text("path", path) }?;
        // SAFETY: the caller's word.
        unsafe { embed(embedder, Path::new(path).into(), feature, length) }
    })
}

/// The feature of raw pixels.
///
/// # Safety
/// As [`ibot_width`]; `pixels` is null or has `4 * width * height` bytes; `feature` as in [`ibot_embed_path`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ibot_embed_rgba(
    embedder: *const IbotEmbedder,
    pixels: *const u8,
    width: u32,
    height: u32,
    feature: *mut f32,
    length: usize,
) -> c_int {
    answer(|| {
        if pixels.is_null() {
            return Err(null("pixels"));
        }
        let bytes = (u64::from(width) * u64::from(height)).saturating_mul(4);
        let bytes = usize::try_from(bytes)
            .ok()
            .filter(|bytes| *bytes <= isize::MAX as usize);
        let bytes = bytes.ok_or_else(|| Error::config("width", width, "is too large"))?;
        // SAFETY: not null, and the caller guarantees that many bytes, which no allocation exceeds.
        let pixels = unsafe { std::slice::from_raw_parts(pixels, bytes) };
        let image = ImageInput::rgba(pixels.to_vec(), width, height)?;
        // SAFETY: the caller's word.
        unsafe { embed(embedder, image, feature, length) }
    })
}

/// Frees a model; null is ignored. The last error stays: C frees first and then prints.
///
/// # Safety
/// As [`ibot_width`]; `embedder` is not used afterwards.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ibot_free(embedder: *mut IbotEmbedder) {
    let free = || {
        // a forked process has no thread to wait for, and leaks what its parent frees
        if !embedder.is_null() && !is_forked() {
            // SAFETY: the caller says that `ibot_load` gave it, which took it out of a box.
            drop(unsafe { Box::from_raw(embedder) });
        }
        Ok(())
    };
    // freeing has no errors but bugs, which the panic itself prints
    let _ = catch_panic(free, Error::Embedding);
}

/// The error of the last call on this thread, [`ibot_free`] apart; empty if it succeeded. Valid until the next such call.
#[unsafe(no_mangle)]
pub extern "C" fn ibot_last_error() -> *const c_char {
    // a thread that is ending has no thread-local error any more
    LAST_ERROR
        .try_with(|error| error.borrow().as_ptr())
        .unwrap_or(c"".as_ptr())
}

/// # Safety
/// As [`ibot_embed_path`].
unsafe fn embed(
    embedder: *const IbotEmbedder,
    image: ImageInput,
    feature: *mut f32,
    length: usize,
) -> Result<()> {
    // SAFETY: the caller's word.
    let embedder = unsafe { embedder.as_ref() }.ok_or_else(|| null("embedder"))?;
    if feature.is_null() {
        return Err(null("feature"));
    }
    if length != embedder.width {
        let remedy = format!("a feature has {} numbers", embedder.width);
        return Err(Error::config("length", length, remedy));
    }
    let made = embedder.handle.embed(EmbedRequest::new([image])).wait()?;
    let made = made.into_iter().next();
    let made = made.ok_or_else(|| Error::Embedding("no feature was computed".into()))??;
    if made.cls.len() != length {
        return Err(Error::Embedding(
            "the feature width of the model changed".into(),
        ));
    }
    // SAFETY: not null, with place for `length` numbers by the caller's word, and no part of our own vector.
    unsafe { ptr::copy_nonoverlapping(made.cls.as_ptr(), feature, length) };
    Ok(())
}

/// The process that made the first call.
static USER: OnceLock<u32> = OnceLock::new();

/// Whether this process was forked from one that had used the library: it has none of the threads that do the work.
fn is_forked() -> bool {
    let own = std::process::id();
    *USER.get_or_init(|| own) != own
}

/// Runs a call and keeps its error.
fn answer(call: impl FnOnce() -> Result<()>) -> c_int {
    let guarded = || {
        if is_forked() {
            let reason = "this process was forked from one that had used ibot, whose threads it does not have: fork before the first call";
            return Err(Error::Embedding(reason.to_owned()));
        }
        call()
    };
    let result = catch_panic(guarded, Error::Embedding);
    let (status, message) = match result {
        Ok(()) => (OK, String::new()),
        Err(error) => (status_of(&error), error.to_string()),
    };
    // C ends a text at its first zero
    let message = CString::new(message.replace('\0', "\\0")).unwrap_or_default();
    let _ = LAST_ERROR.try_with(|last| *last.borrow_mut() = message);
    status
}

fn status_of(error: &Error) -> c_int {
    match error {
        Error::Config { .. } => WRONG_ARGUMENT,
        Error::Io { .. } | Error::Data { .. } | Error::Weights { .. } => WRONG_FILE,
        Error::Device(_) => WRONG_DEVICE,
        _ => OTHER_ERROR,
    }
}

fn null(argument: &str) -> Error {
    Error::config(argument, "NULL", "give a pointer")
}

/// # Safety
/// `text` is null or a C string that outlives the result.
unsafe fn text<'a>(argument: &str, text: *const c_char) -> Result<&'a str> {
    if text.is_null() {
        return Err(null(argument));
    }
    // SAFETY: the caller's word.
    let text = unsafe { CStr::from_ptr(text) };
    let wrong = |_| Error::config(argument, text.to_string_lossy(), "must be UTF-8");
    text.to_str().map_err(wrong)
}
