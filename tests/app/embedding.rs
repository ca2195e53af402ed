//! The embedder's handle on the CPU.

use std::fs;
use std::future::Future;
use std::path::Path;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

use ibot::app::{
    EmbedRequest, EmbedderConfig, EmbedderHandle, ImageFeatures, ImageInput, Job, Progress,
    TrainingHandle,
};
use ibot::device::{BackendChoice, select};
use ibot::embedding::Embedder;
use ibot::error::Error;
use ibot::files::model::ModelOptions;
use image::DynamicImage;

use crate::tiny_model::{Scratch, WIDTH, image};
use crate::{PATIENCE, until};

pub fn config(model: impl Into<std::path::PathBuf>) -> EmbedderConfig {
    EmbedderConfig {
        device: BackendChoice::Flex.into(),
        batch_size: 4,
        ..EmbedderConfig::new(model)
    }
}

/// Images of a job that lasts.
const MANY: usize = 20_000;

pub fn many(scratch: &Scratch) -> EmbedRequest {
    EmbedRequest::new(scratch.images(8).into_iter().cycle().take(MANY))
}

type Embedding = Job<Vec<ibot::Result<ImageFeatures>>>;

/// A job whose first batch is done.
fn begun(handle: &EmbedderHandle, request: EmbedRequest) -> Embedding {
    let (done, first) = mpsc::channel();
    let job = handle.embed(request.on_progress(move |_| {
        let _ = done.send(());
    }));
    first.recv_timeout(PATIENCE).unwrap();
    job
}

#[test]
fn handles_go_to_any_thread() {
    fn any_thread<T: Send + Sync + 'static>() {}
    any_thread::<EmbedderHandle>();
    any_thread::<TrainingHandle>();
    any_thread::<Job<Vec<u8>>>();
}

/// Paths, images and raw pixels; one at a time and together: the same numbers as the plain embedder's.
#[test]
fn images_of_all_kinds_get_the_embedders_features() {
    let scratch = Scratch::new("kinds");
    let (model, paths) = (scratch.model(2), scratch.images(6));
    let selected = select(BackendChoice::Flex, None).unwrap();
    let plain = Embedder::load(&model, &ModelOptions::default(), &selected).unwrap();
    let rgb = |at: u32| ImageInput::from(image(at));
    let read: Vec<image::RgbImage> = paths
        .iter()
        .map(|path| ibot::data::decode::decode_rgb(path, 10_000).unwrap())
        .collect();
    let expected = plain.embed_with_patches(&read).unwrap();
    let attention = plain.attention(&read).unwrap();

    let handle = config(model).start().unwrap();
    let raw = image(3);
    let (width, height) = raw.dimensions();
    let images = vec![
        ImageInput::from(paths[0].clone()),
        rgb(1),
        ImageInput::from(DynamicImage::from(image(2))),
        ImageInput::rgba(raw.into_raw(), width, height).unwrap(),
        ImageInput::from(read[4].clone()),
        ImageInput::from(paths[5].as_path()),
    ];
    let request = EmbedRequest::new(images).with_patches().with_attention();
    let made = handle.embed(request).wait().unwrap();
    let info = handle.info().unwrap();
    assert_eq!((info.width, info.heads, info.grid), (WIDTH, 2, [4, 4]));
    assert_eq!(info.card.unwrap().license.unwrap(), "CC0-1.0");
    assert_eq!(made.len(), 6);
    for (at, made) in made.into_iter().enumerate() {
        let made = made.unwrap();
        let part = |all: &[f32]| all[at * all.len() / 6..(at + 1) * all.len() / 6].to_vec();
        assert_eq!(made.patches.len(), 16 * WIDTH);
        assert_eq!(made.attention.len(), 2 * 16);
        let close = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-4);
        assert!(close(&made.cls, &part(&expected.cls)), "image {at}");
        assert!(close(&made.patches, &part(&expected.patches)));
        assert!(close(&made.attention, &part(&attention.values)));
    }
    let alone = handle.embed(paths[1].as_path()).wait().unwrap();
    let alone = alone[0].as_ref().unwrap();
    assert!(alone.patches.is_empty() && alone.attention.is_empty());
    assert_eq!(alone.cls.len(), WIDTH);
    assert!(
        handle
            .embed(EmbedRequest::default())
            .wait()
            .unwrap()
            .is_empty()
    );
    let seen = handle.info().unwrap().seen(&read[0]).unwrap();
    assert_eq!(seen.dimensions(), (32, 32));
}

#[test]
fn an_unreadable_image_costs_itself_alone() {
    let scratch = Scratch::new("unreadable");
    let (model, mut paths) = (scratch.model(1), scratch.images(9));
    fs::write(&paths[4], b"\x89PNG\r\n\x1a\n").unwrap();
    paths.insert(7, scratch.path("absent.png"));
    let handle = config(model).start().unwrap();
    let mut images: Vec<ImageInput> = paths
        .iter()
        .map(|path| ImageInput::from(path.clone()))
        .collect();
    images.push(DynamicImage::new_rgb8(0, 3).into());
    let made = handle.embed(EmbedRequest::new(images)).wait().unwrap();
    let wrong: Vec<usize> = (0..made.len()).filter(|at| made[*at].is_err()).collect();
    assert_eq!((made.len(), wrong), (11, vec![4, 7, 10]));
    let message = made[4].as_ref().unwrap_err().to_string();
    assert!(message.contains("4.png"), "{message}");
    assert!(matches!(made[7], Err(Error::Io { .. })));

    // a batch of nothing else
    let made = handle.embed(EmbedRequest::new([Path::new("a"), Path::new("b")]));
    assert!({ made }.wait().unwrap().iter().all(Result::is_err));
}

#[test]
fn a_closed_handle_ends_its_jobs() {
    let scratch = Scratch::new("close");
    let handle = config(scratch.model(2)).start().unwrap();
    let mut job = begun(&handle, many(&scratch));
    handle.clone().close();
    assert!(matches!(job.wait(), Err(Error::Stopped)));
    assert!(matches!(handle.load().wait(), Err(Error::Stopped)));
    handle.close(); // again
}

#[test]
fn a_cancelled_job_ends_within_a_batch_and_keeps_what_was_done() {
    let scratch = Scratch::new("cancel");
    let handle = config(scratch.model(2)).start().unwrap();
    let mut job = begun(&handle, many(&scratch));
    assert!(!job.is_over() && job.try_result().is_none());
    job.cancel();
    let before = job.progress().done;
    assert!(matches!(job.wait(), Err(Error::Stopped)));
    let Progress { done, total } = job.progress();
    // the batch under way, one more that may have begun before the flag was seen
    assert!(
        done >= 4 && done <= before + 2 * 4 && total == MANY,
        "{before} {done}"
    );
    let finished = job.take_finished();
    assert_eq!(finished.len(), done);
    assert!(finished.iter().all(Result::is_ok));
    // the handle goes on
    assert_eq!(handle.embed(image(0)).wait().unwrap().len(), 1);
}

#[test]
fn a_job_that_is_dropped_is_cancelled() {
    let scratch = Scratch::new("dropped");
    let handle = config(scratch.model(2)).start().unwrap();
    let seen = Arc::new(AtomicUsize::new(0));
    let counted = seen.clone();
    let job = begun(&handle, many(&scratch));
    let second = handle.embed(many(&scratch).on_progress(move |progress| {
        counted.store(progress.done, Ordering::Relaxed);
    }));
    until("the second job began", || seen.load(Ordering::Relaxed) > 0);
    drop((job, second));
    let started = Instant::now();
    handle.embed(image(0)).wait().unwrap();
    assert!(started.elapsed() < Duration::from_secs(20));
    assert!(seen.load(Ordering::Relaxed) < MANY);
}

/// A click while a folder is embedded: one turn each.
#[test]
fn jobs_take_turns() {
    let scratch = Scratch::new("turns");
    let handle = config(scratch.model(2)).start().unwrap();
    let long = begun(&handle, many(&scratch));
    let made = handle.embed(EmbedRequest::from(image(3)).with_attention());
    assert_eq!({ made }.wait().unwrap().len(), 1);
    assert!(!long.is_over());
}

#[test]
fn a_job_ends_when_its_time_is_over() {
    let scratch = Scratch::new("budget");
    let handle = config(scratch.model(2)).start().unwrap();
    handle.load().wait().unwrap();
    let budget = Duration::from_millis(300);
    let started = Instant::now();
    let mut job = begun(&handle, many(&scratch).within(budget));
    let Err(Error::OutOfTime {
        done,
        total,
        budget: said,
    }) = job.wait()
    else {
        panic!("the time was enough");
    };
    assert!(started.elapsed() >= budget && said == budget);
    assert!(done > 0 && done < total && total == MANY);
    assert_eq!(job.take_finished().len(), done);
    // a budget that is enough changes nothing; none at all is over before it begins
    let request = || EmbedRequest::new((0..3).map(image));
    assert_eq!(
        handle
            .embed(request().within(PATIENCE))
            .wait()
            .unwrap()
            .len(),
        3
    );
    let job = handle.embed(request().within(Duration::ZERO));
    assert!(matches!(
        { job }.wait(),
        Err(Error::OutOfTime {
            done: 0,
            total: 3,
            ..
        })
    ));
}

#[test]
fn finished_images_come_while_the_job_runs() {
    let scratch = Scratch::new("stream");
    let handle = config(scratch.model(1)).start().unwrap();
    let mut job = handle.embed(EmbedRequest::new((0..400).map(image)));
    let mut streamed = 0;
    let rest = loop {
        streamed += job.take_finished().len();
        if let Some(rest) = job.try_result() {
            break rest.unwrap();
        }
        std::thread::sleep(Duration::from_millis(1));
    };
    assert_eq!(streamed + rest.len(), 400);
    assert_eq!(
        job.progress(),
        Progress {
            done: 400,
            total: 400
        }
    );
}

/// The smallest executor: one future on this thread.
fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park_timeout(PATIENCE),
        }
    }
}

#[test]
fn jobs_can_be_awaited() {
    let scratch = Scratch::new("await");
    let handle = config(scratch.model(1)).start().unwrap();
    let made = block_on(async {
        let info = handle.load().await?;
        let made = handle.embed(image(1)).await?;
        ibot::Result::Ok((info.width, made.len()))
    });
    assert_eq!(made.unwrap(), (WIDTH, 1));
    assert!(matches!(
        block_on(config("absent.safetensors").start().unwrap().load()),
        Err(Error::Io { .. })
    ));
}

#[test]
fn an_idle_model_is_freed_and_comes_back() {
    let scratch = Scratch::new("idle");
    let idle = EmbedderConfig {
        idle: Some(Duration::from_millis(100)),
        ..config(scratch.model(2))
    };
    let handle = idle.start().unwrap();
    assert!(!handle.memory().is_loaded && handle.memory().model_bytes == 0);
    let first = handle.embed(image(0)).wait().unwrap().remove(0).unwrap();
    let memory = handle.memory();
    // depth 2, width 16: some 10 000 weights of four bytes
    assert!(memory.model_bytes > 20_000, "{memory:?}");
    assert!(memory.gpu.is_none() && memory.resident_mib.is_none_or(|mib| mib > 1.0));
    until("the model is freed", || !handle.memory().is_loaded);
    assert_eq!(handle.memory().model_bytes, 0);
    let again = handle.embed(image(0)).wait().unwrap().remove(0).unwrap();
    assert_eq!(first, again);
    assert!(handle.memory().is_loaded);
}

#[test]
fn a_model_is_freed_at_once_when_asked() {
    let scratch = Scratch::new("unload");
    let handle = config(scratch.model(1)).start().unwrap();
    handle.load().wait().unwrap();
    assert!(handle.memory().is_loaded);
    handle.unload();
    until("the model is freed", || !handle.memory().is_loaded);
    assert!(handle.info().is_some(), "what it is stays known");
    // in the middle of a job: it is loaded again
    let mut job = handle.embed(EmbedRequest::new((0..200).map(image)));
    until("the job began", || job.progress().done > 0);
    handle.unload();
    assert_eq!(job.wait().unwrap().len(), 200);
}

#[test]
fn a_handle_can_move_to_another_device() {
    let scratch = Scratch::new("move");
    let handle = config(scratch.model(2)).start().unwrap();
    let before = handle.embed(image(1)).wait().unwrap().remove(0).unwrap();
    let info = handle.rebuild(BackendChoice::NdArray).wait().unwrap();
    assert!(
        info.device.starts_with("backend ndarray"),
        "{}",
        info.device
    );
    let after = handle.embed(image(1)).wait().unwrap().remove(0).unwrap();
    let largest = before.cls.iter().zip(&after.cls);
    assert!(largest.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) < 1e-4);
}

/// Jobs under way end; nothing waits for ever, whoever drops the last handle.
#[test]
fn the_last_handle_ends_all() {
    let scratch = Scratch::new("last");
    let handle = config(scratch.model(2)).start().unwrap();
    let mut running = begun(&handle, many(&scratch));
    let mut waiting = handle.load();
    let clone = handle.clone();
    drop(handle);
    assert!(!running.is_over(), "a clone is left");
    drop(clone);
    assert!(matches!(running.try_result(), Some(Err(Error::Stopped))));
    assert!(waiting.try_result().is_some());

    // the last one in a callback, which the handle's own thread drops
    let handle = config(scratch.model(1)).start().unwrap();
    let own = handle.clone();
    let mut job = handle.embed(EmbedRequest::from(image(0)).on_progress(move |_| {
        let _ = &own;
    }));
    drop(handle);
    let _ = job.wait();
}

#[test]
fn a_batch_of_none_is_refused() {
    let none = EmbedderConfig {
        batch_size: 0,
        ..config("any.safetensors")
    };
    let error = none.start().unwrap_err().to_string();
    assert!(error.starts_with("batch_size = 0"), "{error}");
}
