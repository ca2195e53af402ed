//! What a run is started with.

use std::path::PathBuf;

use ibot::app::DeviceRequest;
use ibot::data::{FolderConfig, ImageFolder};
use ibot::device::BackendChoice;
use ibot::train::presets::{SMALL_DATA, preset};
use ibot::train::{RunConfig, RunOptions, RunRecord};

use super::tiny_model::{Scratch, image};
use crate::gallery::TrainingImages;
use crate::run_settings::{CHOSEN, Numbers, RunSettings};

fn on(choice: BackendChoice) -> DeviceRequest {
    choice.into()
}

fn images(count: usize) -> TrainingImages {
    TrainingImages {
        source: PathBuf::from("images"),
        count,
        classes: 0,
        is_part: false,
    }
}

fn settings(preset: &str, out: PathBuf) -> RunSettings {
    let mut settings = RunSettings::new(preset);
    settings.out = out;
    settings
}

/// The record of a run of these settings in a folder.
fn begin(out: &PathBuf, config: RunConfig, options: RunOptions) {
    std::fs::create_dir_all(out).unwrap();
    let record = RunRecord {
        ibot: "0".into(),
        backend: "wgpu".into(),
        device: "a GPU".into(),
        data: vec!["images".into()],
        val: Some("other".into()),
        images: 12,
        found: None,
        examples: 12,
        fingerprint: "a".into(),
        validation: None,
        pretrained: None,
        options,
        config: config.to_toml().unwrap(),
        ranks: 1,
        has_checkpoint: false,
        failure: None,
    };
    record.write(out).unwrap();
}

/// On a CPU, 12 images are given 100 epochs: a run of 300 must not be squeezed into these, or be taken for complete.
#[test]
fn a_run_that_goes_on_keeps_its_own_numbers_on_any_device() {
    let scratch = Scratch::new("desktop-keeps");
    let out = scratch.path("run");
    let options = RunOptions {
        knn_every: 7,
        keep: 5,
        ..RunOptions::default()
    };
    let mut begun = preset(SMALL_DATA).unwrap();
    (begun.epochs, begun.batch_size) = (300, 9);
    begin(&out, begun, options);
    let (images, out_of_run) = (images(12), out.clone());
    let mut settings = settings(CHOSEN, out);
    for device in [BackendChoice::NdArray, BackendChoice::Flex] {
        settings.refresh(&images, &on(device)).unwrap();
        assert!(settings.is_begun());
        let expected = Numbers {
            epochs: 300,
            steps: 0,
            batch_size: 9,
        };
        assert_eq!(settings.numbers, expected);
    }
    let request = |settings: &RunSettings| {
        let device = on(BackendChoice::Flex);
        settings.request(&images, &device, true).unwrap()
    };
    let goes_on = request(&settings);
    assert_eq!((goes_on.config.epochs, goes_on.config.batch_size), (300, 9));
    assert_eq!((goes_on.knn_every, goes_on.keep.last), (7, 5));
    assert_eq!(goes_on.val, Some("other".into()));
    assert!(goes_on.allow_changes);
    // what the user changes is taken, and is there still on another device
    settings.numbers.batch_size = 4;
    let device = on(BackendChoice::NdArray);
    settings.refresh(&images, &device).unwrap();
    let changed = request(&settings);
    assert_eq!((changed.config.epochs, changed.config.batch_size), (300, 4));

    // the library would begin again in its place
    let mut record = RunRecord::read(&out_of_run).unwrap().unwrap();
    record.has_checkpoint = true;
    record.write(&out_of_run).unwrap();
    let device = on(BackendChoice::Flex);
    let refused = settings.request(&images, &device, true).unwrap_err();
    assert!(refused.to_string().contains("checkpoints are gone"));
}

#[test]
fn what_the_user_typed_stays_on_another_device() {
    let scratch = Scratch::new("desktop-typed");
    let mut settings = settings(CHOSEN, scratch.path("run"));
    let refresh = |settings: &mut RunSettings, count, device| {
        settings.refresh(&images(count), &on(device)).unwrap();
    };
    refresh(&mut settings, 12, BackendChoice::Flex);
    assert_eq!(settings.numbers.epochs, 100);
    settings.numbers.epochs = 7;
    refresh(&mut settings, 12, BackendChoice::NdArray);
    assert_eq!(
        (settings.numbers.epochs, settings.numbers.batch_size),
        (7, 12)
    );
    // other images are another choice
    refresh(&mut settings, 20, BackendChoice::NdArray);
    assert_eq!(
        (settings.numbers.epochs, settings.numbers.batch_size),
        (100, 20)
    );
}

#[test]
fn a_data_set_in_parts_is_trained_on_its_part_for_that() {
    let scratch = Scratch::new("desktop-parts");
    for (part, of_each) in [("train", 10), ("val", 3)] {
        for class in ["a", "b"] {
            let folder = scratch.path("set").join(part).join(class);
            std::fs::create_dir_all(&folder).unwrap();
            for at in 0..of_each {
                image(at).save(folder.join(format!("{at}.png"))).unwrap();
            }
        }
    }
    let of = |folder: PathBuf| {
        let scanned = ImageFolder::scan(&folder, &FolderConfig::default()).unwrap();
        TrainingImages::of(&folder, &scanned).unwrap()
    };
    let train = scratch.path("set/train");
    let found = of(scratch.path("set"));
    let expected = TrainingImages {
        source: train.clone(),
        count: 20,
        classes: 2,
        is_part: true,
    };
    assert_eq!(found, expected);
    assert_eq!(
        of(train),
        TrainingImages {
            is_part: false,
            ..expected
        }
    );
    let mut settings = settings("demo", scratch.path("run"));
    let device = on(BackendChoice::Flex);
    settings.refresh(&found, &device).unwrap();
    let request = settings.request(&found, &device, false).unwrap();
    assert_eq!(request.data, [found.source]);
    // 2 of 20 are held out, one of each class
    assert_eq!(request.config.batch_size, 16);
    assert!(request.config.held_out.is_some() && request.val.is_none());
}
