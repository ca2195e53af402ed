//! Files of features beside what is on the disk: images that changed, other kinds of features, two commands at once; and what an
//! answer says of images that it is not about.

use std::fs;
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use ibot::embedding::EmbeddingTable;
use serde_json::Value;

use crate::evaluation::{Trained, trained_as};
use crate::{command, ibot, refused, stdout, succeeds};

/// What a command prints as JSON, and on stderr.
fn answered(arguments: &[&str]) -> (Value, String) {
    let output = ibot(&[arguments, &["--json"]].concat());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{arguments:?}: {said}");
    (serde_json::from_slice(&output.stdout).unwrap(), said)
}

/// Names of the files in a list of paths, or of objects with paths.
fn names(list: &Value) -> Vec<&str> {
    let paths = list.as_array().into_iter().flatten();
    let paths = paths.map(|of| of["path"].as_str().or(of.as_str()).unwrap());
    paths.map(|path| path.rsplit('/').next().unwrap()).collect()
}

/// Commands that take features from a file, with what they need beside it.
fn commands(trained: &Trained) -> [Vec<String>; 6] {
    let (query, map) = (
        trained.scratch.path("images/odd/1.png"),
        trained.out("map.html"),
    );
    let commands: [&[&str]; 6] = [
        &["knn", "--k", "1", "--held-out", "0.4"],
        &["probe", "--held-out", "0.4"],
        &["cluster", "--clusters", "2"],
        &["outliers", "--k", "1"],
        &["map", "--out", &map],
        &["search", "--query", &query, "--top", "20"],
    ];
    commands.map(|command| command.iter().map(ToString::to_string).collect())
}

#[test]
fn features_of_images_that_changed_are_left_out() {
    let trained = trained_as("stale", &["--steps", "1"]);
    let (data, out) = (&trained.images, trained.out("all.safetensors"));
    trained.run("embed", &["--data", data, "--out", &out]);
    // another image in its place, older than the features, as `mv` and `rsync -t` leave it
    let changed = trained.scratch.0.join("images/odd/3.png");
    image::RgbImage::new(30, 30).save(&changed).unwrap();
    let old = SystemTime::now() - Duration::from_secs(100_000_000);
    let file = fs::File::options().write(true).open(&changed).unwrap();
    file.set_modified(old).unwrap();
    fs::remove_file(trained.scratch.0.join("images/odd/9.png")).unwrap();
    for command in commands(&trained) {
        let command: Vec<&str> = command.iter().map(String::as_str).collect();
        let flags = [&command[..], &["--features", &out]].concat();
        let (report, said) = answered(&flags);
        assert_eq!(names(&report["changed"]), ["3.png"], "{report}");
        assert_eq!(names(&report["gone"]), ["9.png"], "{report}");
        let images = match command[0] {
            "search" => names(&report["hits"]).len() as u64 + 1,
            _ => report["images"].as_u64().unwrap(),
        };
        assert_eq!(images, 8, "{report}");
        for part in ["1 of 10 images are gone", "1 changed since"] {
            assert!(said.contains(part), "{said}");
        }
        let quiet = ibot(&[&flags[..], &["-q"]].concat());
        let said = String::from_utf8_lossy(&quiet.stderr).into_owned();
        assert!(
            said.contains("2 files left out") && said.lines().count() == 1,
            "{said}"
        );
    }
    // on a machine without the images, they are used as they are
    fs::remove_dir_all(data).unwrap();
    let (report, _) = answered(&["knn", "--features", &out, "--k", "1"]);
    assert_eq!(report["images"].as_u64(), Some(10));
}

/// Sets the time of each image, by its time before.
fn set_times(trained: &Trained, time: impl Fn(SystemTime) -> SystemTime) {
    for class in ["odd", "even/deep/er"] {
        let folder = trained.scratch.0.join("images").join(class);
        for file in fs::read_dir(folder).unwrap().flatten() {
            let file = fs::File::options().write(true).open(file.path()).unwrap();
            let modified = file.metadata().unwrap().modified().unwrap();
            file.set_modified(time(modified)).unwrap();
        }
    }
}

#[test]
fn images_that_were_copied_keep_their_features() {
    let trained = trained_as("restored", &["--steps", "1"]);
    let (data, out) = (&trained.images, trained.out("all.safetensors"));
    trained.run("embed", &["--data", data, "--out", &out]);
    let knn = ["knn", "--features", &out, "--k", "1"];
    // as tar and FAT keep them
    set_times(&trained, |time| {
        let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap();
        SystemTime::UNIX_EPOCH + Duration::from_secs(since.as_secs())
    });
    for more in [&[][..], &["--data", data]] {
        let (report, said) = answered(&[&knn[..], more].concat());
        assert_eq!(report["images"].as_u64(), Some(10), "{said}");
        assert!(!said.contains("left out"), "{said}");
    }
    // as copies without times have them
    set_times(&trained, |time| time + Duration::from_secs(100));
    let (report, said) = answered(&knn);
    assert_eq!(report["images"].as_u64(), Some(10), "{said}");
    for part in ["WARNING", "all of its 10 images", "used as they are"] {
        assert!(said.contains(part), "{said}");
    }
    // but not where the images are what is asked for
    let query = trained.scratch.path("images/odd/1.png");
    let search = ["search", "--features", &out, "--query", &query];
    refused(&search, &["all of its 10 images have changed since"]);
}

#[test]
fn answers_name_what_they_are_not_about() {
    let trained = trained_as("left-out", &["--steps", "1"]);
    let odd = trained.scratch.0.join("images/odd");
    fs::write(odd.join("cut.png"), b"\x89PNG\r\n\x1a\n").unwrap();
    let mut bytes = fs::read(odd.join("1.png")).unwrap();
    bytes[50..].fill(0); // its header stays
    fs::write(odd.join("damaged.png"), bytes).unwrap();
    let out = trained.out("all.csv");
    let embed = vec!["embed".to_owned(), "--out".to_owned(), out];
    for command in commands(&trained).into_iter().chain([embed]) {
        let flags: Vec<&str> = command.iter().map(String::as_str).collect();
        let more = [
            "--data",
            &trained.images,
            "--model",
            &trained.model,
            "--backend",
            "flex",
        ];
        let flags = [&flags[..], &more].concat();
        let (report, _) = answered(&flags);
        assert_eq!(
            names(&report["skipped"]),
            ["cut.png", "damaged.png"],
            "{report}"
        );
        let mut skipped = report["skipped"].as_array().unwrap().iter();
        assert!(skipped.all(|of| {
            of["reason"]
                .as_str()
                .is_some_and(|reason| !reason.is_empty())
        }));
        let quiet = ibot(&[&flags[..], &["-q"]].concat());
        let said = String::from_utf8_lossy(&quiet.stderr).into_owned();
        assert!(
            said.contains("2 files left out") && said.lines().count() == 1,
            "{said}"
        );
        assert!(!stdout(&quiet).contains("skipped"));
    }
}

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

#[test]
fn a_file_without_rows_is_named() {
    let trained = trained_as("no-rows", &["--steps", "1"]);
    let empty = trained.out("empty.csv");
    fs::write(&empty, "path,label,f0,f1\n").unwrap();
    let said = ["empty.csv", "holds features of no image"];
    refused(&["knn", "--features", &empty], &said);
    let query = trained.scratch.path("images/odd/1.png");
    refused(&["search", "--index", &empty, "--query", &query], &said);
}
