//! Images that go away or are damaged between the scan of a folder and their turn.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ibot::data::decode::decode_rgb;
use ibot::data::view::{Augmenter, View};
use ibot::data::{ImageSource, Position, eval_batches};

use super::hostile::{lines, scan};
use super::loading::{config, loader, train_views, values};
use super::{MAX_PIXELS, TempFolder, fixture};

#[test]
fn images_that_vanish_after_the_scan_are_skipped() {
    let folder = TempFolder::new();
    for number in 0..8 {
        folder.copy(&format!("{number}.png"), "rgb.png");
    }
    folder.copy("5.png", "gray.jpg");
    let images = scan(&folder);
    assert_eq!(images.len(), 8);
    let path = |number: usize| folder.0.join(format!("{number}.png"));
    fs::remove_file(path(1)).unwrap();
    let bytes = fs::read(path(2)).unwrap();
    fs::write(path(2), &bytes[..bytes.len() / 2]).unwrap();
    fs::write(path(3), "").unwrap();
    fs::remove_file(path(4)).unwrap();
    fs::create_dir(path(4)).unwrap();
    fs::copy(fixture("bomb.png"), path(7)).unwrap();
    let mut loader = loader(Arc::new(images), &config(8, 2), Position::default());
    for _ in 0..3 {
        let batch = loader.next_batch().unwrap();
        assert_eq!(batch.samples.len(), 8);
        let make = train_views();
        let mut augmenter = Augmenter::new(&make.augment);
        let view_len = make.augment.view_len();
        // of the others 5 alone looks different: each shows one of them
        for (sample, shown) in [
            (1, [0, 5]),
            (2, [0, 5]),
            (3, [0, 5]),
            (4, [0, 5]),
            (7, [0, 5]),
            (6, [6, 6]),
        ] {
            let at = batch.samples.iter().position(|&s| s == sample).unwrap();
            let actual = &values(&batch.views[0], 16)[at * view_len..(at + 1) * view_len];
            let mut is_shown = |shown: usize| {
                let image = decode_rgb(&path(shown), MAX_PIXELS).unwrap();
                let view = View::new(&make.augment, 5, batch.epoch as u64, sample, 0, [32, 16]);
                augmenter.render(&image, &view).unwrap();
                let mut expected = vec![0.0; view_len];
                augmenter.write(&mut expected);
                actual == expected
            };
            assert!(shown.into_iter().any(&mut is_shown), "sample {sample}");
        }
    }
    assert_eq!(loader.skipped(), 5);
    let lines = lines(&folder, &loader.take_skipped());
    let reasons = [
        ("1.png: ", "o such file"),
        ("2.png: ", ""),
        ("3.png: ", "empty"),
        ("4.png: ", "not a file"),
        ("7.png: ", "max_pixels"),
    ];
    assert_eq!(lines.len(), reasons.len(), "{lines:#?}");
    for (line, (name, reason)) in lines.iter().zip(reasons) {
        assert!(line.starts_with(name) && line.contains(reason), "{line}");
    }
}

#[test]
fn a_folder_that_vanishes_ends_with_one_error() {
    let folder = TempFolder::new();
    for number in 0..6 {
        folder.copy(&format!("{number}.png"), "rgb.png");
    }
    let source = Arc::new(scan(&folder));
    let mut settings = config(2, 2);
    settings.cache_mib = 0;
    settings.queue = 1;
    let mut loader = loader(source, &settings, Position::default());
    loader.next_batch().unwrap();
    fs::remove_dir_all(&folder.0).unwrap();
    // Some batches may be made already.
    let error = (0..100).find_map(|_| loader.next_batch().err());
    let message = error.unwrap().to_string();
    for part in [
        "none of the 6 images could be decoded",
        ".png: ",
        "o such file",
    ] {
        assert!(message.contains(part), "{message}");
    }
    assert_eq!(loader.skipped(), 6);
    assert!(loader.next_batch().is_err());
}

/// Whoever names each image as it is skipped still learns at the end why there is none.
#[test]
fn the_last_error_gives_a_reason_that_was_named_before() {
    let folder = TempFolder::new();
    for number in 0..3 {
        folder.copy(&format!("{number}.png"), "rgb.png");
    }
    let source = Arc::new(scan(&folder));
    fs::remove_dir_all(&folder.0).unwrap();
    let mut batches = eval_batches(source, &train_views().augment, 3, 1).unwrap();
    let start = Instant::now();
    let mut named = Vec::new();
    while named.len() < 3 && start.elapsed() < Duration::from_secs(20) {
        named.extend(batches.take_skipped());
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(named.len(), 3);
    let message = batches.next().unwrap().unwrap_err().to_string();
    for part in [
        "none of the 3 images could be decoded",
        ".png: ",
        "o such file",
    ] {
        assert!(message.contains(part), "{message}");
    }
    assert!(batches.next().is_none());
}
