//! Files of features: other kinds are not replaced, and two commands add to one.

use std::fs;
use std::process::Stdio;

use ibot::embedding::EmbeddingTable;

use crate::evaluation::trained_as;
use crate::{command, refused, succeeds};

#[test]
fn two_commands_add_to_one_file() {
    let trained = trained_as("two-writers", &["--steps", "1"]);
    let store = trained.out("store.safetensors");
    let other = trained.scratch.0.join("other");
    fs::create_dir(&other).unwrap();
    for at in 0..40u8 {
        let image = image::RgbImage::from_pixel(20, 20, image::Rgb([at, 90, 200]));
        image.save(other.join(format!("{at}.png"))).unwrap();
    }
    let other = trained.out("other");
    let folders = [trained.images.as_str(), &other];
    let started = folders.map(|data| {
        let flags = [
            "cluster",
            "--model",
            &trained.model,
            "--backend",
            "flex",
            "-q",
        ];
        let more = ["--data", data, "--features", &store, "--clusters", "2"];
        let mut command = command(&[&flags[..], &more].concat());
        command.stdout(Stdio::null()).spawn().unwrap()
    });
    for mut child in started {
        assert!(child.wait().unwrap().success());
    }
    assert_eq!(EmbeddingTable::read(store.as_ref()).unwrap().len(), 50);
}

#[test]
fn another_kind_of_features_is_not_replaced() {
    let trained = trained_as("kinds", &["--steps", "1"]);
    let kinds: [(&str, &[&str]); 3] = [
        ("images", &[]),
        ("patches", &["--features", "patches"]),
        ("tiles", &["--tile", "16"]),
    ];
    for ending in ["safetensors", "npy", "csv", "parquet"] {
        let out = |kind: &str| trained.out(&format!("{kind}.{ending}"));
        for (kind, more) in kinds {
            let flags = ["--data", &trained.images, "--out", &out(kind)];
            trained.run("embed", &[&flags[..], more].concat());
        }
        for (kind, _) in kinds {
            let file = out(kind);
            let before = fs::read(&file).unwrap();
            for (other, more) in kinds.iter().filter(|(other, _)| *other != kind) {
                let flags = [
                    "embed",
                    "--model",
                    &trained.model,
                    "--data",
                    &trained.images,
                ];
                let flags = [&flags[..], &["--out", &file], more].concat();
                let holds = format!("holds features of {kind}, which those of {other}");
                refused(&flags, &[&holds, "give another name"]);
            }
            assert_eq!(fs::read(&file).unwrap(), before);
        }
        // of its own kind it is
        let (kind, more) = kinds[2];
        let flags = ["--data", &trained.images, "--out", &out(kind)];
        trained.run("embed", &[&flags[..], more].concat());
    }
    for (kind, said) in [
        ("images", "features of 10 images, 16 values each"),
        ("patches", "features of patches"),
    ] {
        let text = succeeds(&["inspect", &trained.out(&format!("{kind}.safetensors"))]);
        assert!(text.contains(said) && !text.contains("--encoder"), "{text}");
    }
}
