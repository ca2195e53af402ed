//! What an application is told by `on_progress`, and on which thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ibot::app::EmbedRequest;
use ibot::error::Error;

use crate::embedding::{config, many};
use crate::tiny_model::{Scratch, image};

/// Nobody sees a callback that panics but by the end of its job; other jobs go on.
#[test]
fn a_callback_that_panics_ends_its_job_with_an_error() {
    let scratch = Scratch::new("panicking");
    let handle = config(scratch.model(2)).start().unwrap();
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let mut job = handle.embed(many(&scratch).on_progress(move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
        panic!("a channel is closed");
    }));
    let error = job.wait().unwrap_err().to_string();
    assert!(error.contains("`on_progress` panicked"), "{error}");
    assert_eq!(calls.load(Ordering::Relaxed), 1);
    assert_eq!(job.take_finished().len(), 4, "what was done stays");
    assert_eq!(handle.embed(image(0)).wait().unwrap().len(), 1);
}

#[test]
fn a_closed_handle_calls_nobody_back() {
    let scratch = Scratch::new("closed");
    let handle = config(scratch.model(2)).start().unwrap();
    handle.close();
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let request = EmbedRequest::new([image(0)]).on_progress(move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
    });
    assert!(matches!(handle.embed(request).wait(), Err(Error::Stopped)));
    assert_eq!(calls.load(Ordering::Relaxed), 0, "on this thread");
}
