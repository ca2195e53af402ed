//! Images that fail, workers that panic, loaders that are dropped: never a hang.

use std::fs;
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use ibot::Error;
use ibot::data::view::Augmenter;
use ibot::data::{FolderConfig, ImageFolder, ImageSource, LoaderConfig, Position, eval_batches};

use super::loading::{config, loader, train_views, values};
use super::{MadeImages, TempFolder, fixture};

/// Runs `work` and fails if it takes longer than any sane machine needs.
pub fn in_time(work: impl FnOnce() + Send + 'static) {
    let (sender, receiver) = mpsc::channel();
    let thread = thread::spawn(move || {
        work();
        sender.send(()).unwrap();
    });
    match receiver.recv_timeout(Duration::from_secs(60)) {
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("it hangs"),
        // A failed assertion of `work` is reported as such.
        Ok(()) | Err(mpsc::RecvTimeoutError::Disconnected) => thread.join().unwrap(),
    }
}

pub fn failing(bad: &'static [usize]) -> Arc<MadeImages> {
    Arc::new(MadeImages::with(8, move |index| {
        if bad.contains(&index) {
            return Err(Error::data("somewhere", format!("bad luck with {index}")));
        }
        Ok(())
    }))
}

#[test]
fn evaluation_leaves_bad_images_out() {
    in_time(|| {
        let augment = train_views().augment;
        let mut batches = eval_batches(failing(&[0, 1, 4]), &augment, 2, 3).unwrap();
        let all: Vec<_> = batches.by_ref().map(Result::unwrap).collect();
        let samples: Vec<_> = all.iter().map(|batch| batch.samples.clone()).collect();
        assert_eq!(samples, [vec![2, 3], vec![5], vec![6, 7]]);
        assert_eq!(all[1].labels, [Some(2)]);
        assert_eq!(all[1].pixels.len(), augment.view_len());
        assert_eq!(batches.take_skipped().len(), 3);
        let image = MadeImages::new(8).decode(5).unwrap();
        let mut augmenter = Augmenter::new(&augment);
        augmenter.eval_view(&image).unwrap();
        let mut expected = vec![0.0; augment.view_len()];
        augmenter.write(&mut expected);
        assert_eq!(values(&all[1].pixels, 16), expected);
    });
}

#[test]
fn no_usable_image_is_an_error() {
    in_time(|| {
        let all = &[0, 1, 2, 3, 4, 5, 6, 7];
        let mut loader = loader(failing(all), &config(4, 3), Position::default());
        let message = loader.next_batch().unwrap_err().to_string();
        assert!(message.contains("none of the 8 images"), "{message}");
        assert!(message.contains("bad luck"), "{message}");
        assert!(loader.next_batch().is_err());
        let mut batches = eval_batches(failing(all), &train_views().augment, 3, 2).unwrap();
        assert!(batches.next().unwrap().is_err());
        assert!(batches.next().is_none());
    });
}

#[test]
fn a_truncated_file_is_found_by_the_loader() {
    let folder = TempFolder::new();
    for name in ["1.jpg", "2.jpg", "3.jpg"] {
        folder.copy(name, "rgb.jpg");
    }
    let bytes = fs::read(fixture("rgb.jpg")).unwrap();
    folder.write("cut.jpg", &bytes[..bytes.len() - 20]);
    let images = ImageFolder::scan(&folder.0, &FolderConfig::default()).unwrap();
    // Its header is fine.
    assert_eq!(images.summary().images, 4);
    let mut loader = loader(Arc::new(images), &config(4, 2), Position::default());
    for _ in 0..3 {
        assert_eq!(loader.next_batch().unwrap().samples.len(), 4);
    }
    let skipped = loader.take_skipped();
    assert_eq!(skipped.len(), 1);
    assert!(
        skipped[0].0.ends_with("cut.jpg") && skipped[0].1.contains("truncated"),
        "{skipped:?}"
    );
}

#[test]
fn a_panic_is_an_error_that_stays() {
    in_time(|| {
        for workers in [1, 4] {
            let source = MadeImages::with(20, |index| {
                assert_ne!(index, 13, "unlucky");
                Ok(())
            });
            let mut loader = loader(Arc::new(source), &config(5, workers), Position::default());
            let error = (0..4).find_map(|_| loader.next_batch().err()).unwrap();
            let message = error.to_string();
            assert!(message.contains("panicked at image 13"), "{message}");
            assert!(message.contains("unlucky"), "{message}");
            assert!(loader.next_batch().is_err());
        }
    });
}

#[test]
fn workers_stop_at_the_queue_and_at_a_drop() {
    in_time(|| {
        let source = Arc::new(MadeImages::new(100));
        let config = LoaderConfig {
            queue: 3,
            ..config(5, 2)
        };
        let running = loader(source.clone(), &config, Position::default());
        let decoded = || source.decoded.load(Ordering::SeqCst);
        while decoded() < 15 {
            thread::sleep(Duration::from_millis(1));
        }
        // Three batches are open and complete; whoever went on would do so within this time.
        thread::sleep(Duration::from_millis(200));
        assert_eq!(decoded(), 15);
        drop(running);
        // Dropped at once, in the middle of the work.
        for _ in 0..20 {
            drop(loader(source.clone(), &config, Position::default()));
        }
        // No thread is left that holds the source.
        assert_eq!(Arc::strong_count(&source), 1);
    });
}
