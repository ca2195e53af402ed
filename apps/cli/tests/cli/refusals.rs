//! Settings and data that cannot work are refused before anything is written.

use std::fs;
use std::path::Path;

use crate::{Scratch, refused};

#[test]
fn refuses_what_cannot_work() {
    let scratch = Scratch::new("refusals");
    let (images, config) = (scratch.images(), scratch.path("tiny.toml"));
    let empty = scratch.path("empty");
    fs::create_dir_all(Path::new(&empty).join("inside")).unwrap();
    fs::write(Path::new(&empty).join("inside/readme.md"), "text").unwrap();
    let out = scratch.path("never");
    let train = |more: &[&str]| {
        let mut arguments = vec!["train", "--backend", "flex", "--out", &out];
        arguments.extend(more);
        arguments.into_iter().map(String::from).collect::<Vec<_>>()
    };
    let flat = scratch.path("flat");
    fs::create_dir(&flat).unwrap();
    for at in 0..8 {
        let from = format!("{images}/odd/{}.png", 1 + at % 5 * 2);
        fs::copy(from, Path::new(&flat).join(format!("{at}.png"))).unwrap();
    }
    let tiny = ["--config", &config, "--data"];
    let [of_flat, of_images] = [&flat, &images].map(|data| [&tiny[..], &[data]].concat());
    let held_out = [&of_flat[..], &["--held-out", "0.4", "--knn-every", "1"]].concat();
    let val_of_flat = [&of_flat[..], &["--val", &images]].concat();
    let flat_val = [&of_images[..], &["--val", &flat]].concat();
    let cases: &[(&[&str], &[&str])] = &[
        (
            &held_out,
            &["flat: ", "has no labeled image", "leave out --held-out"],
        ),
        (
            &val_of_flat,
            &["flat: ", "has no labeled image", "leave out --val"],
        ),
        (
            &flat_val,
            &["flat: ", "has no labeled image", "leave out --val"],
        ),
        (
            &["--data", "/no/such/folder"],
            &["/no/such/folder: there is no such file or folder"],
        ),
        (&["--data", &empty], &["empty"]),
        (
            &["--data", &images, "--encoder", "vit_smal_patch16_224"],
            &["--encoder = vit_smal_patch16_224", "vit_small_patch16_224"],
        ),
        (
            &["--data", &images, "--set", "method.mask_ratio=1.5"],
            &["error: method.mask_ratio = 1.5"],
        ),
        (
            &["--data", &images, "--set", "method.encoder_name=vit"],
            &["error: method.encoder_name = vit"],
        ),
        (
            &["--data", &images, "--learning-rate", "-1"],
            &["error: --learning-rate = -1"],
        ),
        (
            &["--data", &images, "--config", &config, "--batch-size", "64"],
            &["batch_size", "64"],
        ),
        (
            &["--data", &images, "--config", &config, "--image-size", "20"],
            &["--image-size = 20"],
        ),
        (
            &[
                "--data",
                &images,
                "--config",
                &config,
                "--pretrained",
                &config,
            ],
            &["tiny.toml", "safetensors"],
        ),
        (
            &["--data", &images, "--workers", "100000"],
            &["--workers = 100000", "at most 1024"],
        ),
        (
            &["--data", &images, "--config", "missing.toml"],
            &["missing.toml: there is no such file or folder"],
        ),
    ];
    for (more, parts) in cases {
        let arguments = train(more);
        refused(
            &arguments.iter().map(String::as_str).collect::<Vec<_>>(),
            parts,
        );
        assert!(!Path::new(&out).exists(), "{more:?} left a run folder");
    }
}
