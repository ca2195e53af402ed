//! What an application is told by `on_progress`, and on which thread.

use std::sync::atomic::{AtomicUsize, Ordering};

use ibot::app::EmbedRequest;
use ibot::error::Error;

use crate::embedding::{config, many};
use crate::tiny_model::{Scratch, image};

/// The job's end tells of a callback that panics, which is not called again; other jobs go on.
#[test]
fn a_callback_that_panics_ends_its_job_with_an_error() {
    static CALLS: AtomicUsize = AtomicUsize::new(0);
    let scratch = Scratch::new("panicking");
    let handle = config(scratch.model(2)).start().unwrap();
    let mut job = handle.embed(many(&scratch).on_progress(|_| {
        CALLS.fetch_add(1, Ordering::Relaxed);
        panic!("a channel is closed");
    }));
    let error = job.wait().unwrap_err().to_string();
    assert!(error.contains("`on_progress` panicked"), "{error}");
    assert_eq!(job.take_finished().len(), 4, "what was done stays");
    assert_eq!(handle.embed(image(0)).wait().unwrap().len(), 1);
    assert_eq!(CALLS.load(Ordering::Relaxed), 1);
}

#[test]
fn a_closed_handle_calls_nobody_back() {
    static CALLS: AtomicUsize = AtomicUsize::new(0);
    let scratch = Scratch::new("closed");
    let handle = config(scratch.model(2)).start().unwrap();
    handle.close();
    let request = EmbedRequest::new([image(0)]).on_progress(|_| {
        CALLS.fetch_add(1, Ordering::Relaxed);
    });
    assert!(matches!(handle.embed(request).wait(), Err(Error::Stopped)));
    assert_eq!(CALLS.load(Ordering::Relaxed), 0, "on this thread");
}
