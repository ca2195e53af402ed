//! A bucket of a server is what a folder is, for every command: of S3, Azure and Google, by [`crate::servers`].

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use crate::resume::{assert_same, wait_for_a_step};
use crate::servers::{Bucket, Kind};
use crate::shards::{files, packed};
use crate::{Scratch, command};

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn is_index(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending == "shard")
}

fn train(scratch: &Scratch, data: &str, out: &str, more: &[&str]) -> Vec<String> {
    let [config, out] = ["tiny.toml", out].map(|name| scratch.path(name));
    let fixed = [
        "train",
        data,
        "--backend",
        "flex",
        "--config",
        &config,
        "--out",
        &out,
    ];
    let all = [&fixed[..], more].concat();
    all.into_iter().map(str::to_owned).collect()
}

#[test]
fn commands_say_of_a_bucket_what_they_say_of_the_folder() {
    check_commands(Kind::S3);
}

#[test]
fn commands_say_of_a_container_of_azure_what_they_say_of_the_folder() {
    check_commands(Kind::Azure);
}

#[test]
fn commands_say_of_a_bucket_of_google_what_they_say_of_the_folder() {
    check_commands(Kind::Google);
}

/// Folder, archives and lists of a bucket: what `data`, `embed` and `train` make of them is what they make of the files here.
fn check_commands(kind: Kind) {
    let scratch = Scratch::new(kind.scheme());
    let Some(bucket) = Bucket::start(kind, &scratch) else {
        return;
    };
    let folder = PathBuf::from(scratch.images());
    packed(&scratch);
    bucket.put_all(&folder, "images/");
    for number in 0..3 {
        let name = format!("set-{number:02}.tar");
        bucket.put(&name, &fs::read(scratch.path(&name)).unwrap());
    }
    let names = files(&folder);
    let list = names
        .iter()
        .map(|name| format!("images/{}\n", name.display()));
    bucket.put("all.txt", list.collect::<String>().as_bytes());
    let images = folder.to_str().unwrap();
    check_training(&bucket, &scratch, images);
    let expected = features(&bucket, &scratch, images);
    assert_eq!(
        expected.len(),
        10,
        "one of {} is a text, one is damaged",
        names.len()
    );
    for there in ["images", "images/", "set-{00..02}.tar"] {
        let found = features(&bucket, &scratch, &bucket.address(there));
        assert_eq!(found, expected, "{there}");
    }
    // a list has no classes, a folder has
    let unlabeled = |rows: &[String]| -> Vec<String> {
        let without = rows.iter().map(|row| {
            let parts: Vec<&str> = row.split(',').collect();
            [&parts[..1], &parts[2..]].concat().join(",")
        });
        without.collect()
    };
    let listed = features(&bucket, &scratch, &bucket.address("all.txt"));
    assert_eq!(unlabeled(&listed), unlabeled(&expected));
    let report = |data: &str| {
        let said = bucket.says(&["data", data, "--json"]);
        let said: serde_json::Value = serde_json::from_str(&said).unwrap();
        (said["images"].clone(), said["classes"].clone())
    };
    assert_eq!(report(&bucket.address("images")), report(images));
    for missing in ["photos", "set-{07..08}.tar", "none.txt"] {
        let missing = bucket.address(missing);
        let output = bucket.command(&["data".into(), missing.clone()]).output();
        let said = stderr(&output.unwrap());
        let name = missing.replace("{07..08}", "07");
        assert!(said.contains(&format!("{name}: no such object")), "{said}");
    }
    if kind == Kind::Azure {
        let mut other = bucket.command(&["data".into(), bucket.address("images")]);
        // of another account
        let said = stderr(
            &other
                .env("AZURE_STORAGE_ACCOUNT_KEY", "b3RoZXI=")
                .output()
                .unwrap(),
        );
        assert!(
            said.contains("the server refuses: set the credentials"),
            "{said}"
        );
    }
    check_indexes(&bucket, &scratch, &expected);
}

/// Two steps on the folder here, into `run`, and on its archives there.
fn check_training(bucket: &Bucket, scratch: &Scratch, images: &str) {
    let flags = ["--steps", "2", "--checkpoint-every", "2"];
    let here = command(&train(scratch, images, "run", &flags)).output();
    assert!(here.unwrap().status.success());
    let archives = bucket.address("set-{00..02}.tar");
    let mut there = bucket.command(&train(scratch, &archives, "there", &flags));
    let there = there.output().unwrap();
    assert!(there.status.success(), "{}", stderr(&there));
    let [run, there] = ["run", "there"].map(|name| scratch.0.join(name));
    assert_same(&there, &run, 2);
}

/// The features of the images by the model in `run`, by the names of their files.
fn features(bucket: &Bucket, scratch: &Scratch, data: &str) -> Vec<String> {
    let [out, model] = ["features.csv", "run/teacher.safetensors"].map(|name| scratch.path(name));
    let _ = fs::remove_file(&out);
    let with = ["--backend", "flex", "--model", &model];
    bucket.says(&[&["embed", data, "--out", &out][..], &with].concat());
    let mut rows: Vec<String> = (fs::read_to_string(&out).unwrap().lines().skip(1))
        .map(|row| {
            // the name of the file stays
            let (path, rest) = row.split_once(',').unwrap();
            let (_, name) = path.rsplit_once('/').unwrap();
            format!("{name},{rest}")
        })
        .collect();
    rows.sort();
    rows
}

/// Each archive has an index, which is of the archive that it was made of.
fn check_indexes(bucket: &Bucket, scratch: &Scratch, expected: &[String]) {
    let indexes = || {
        files(&bucket.cache)
            .iter()
            .filter(|file| is_index(file))
            .count()
    };
    assert_eq!(indexes(), 3);
    let archives = bucket.address("set-{00..02}.tar");
    let other = fs::read(scratch.path("set-02.tar")).unwrap();
    let own = fs::read(scratch.path("set-00.tar")).unwrap();
    bucket.put("set-00.tar", &other);
    assert_ne!(features(bucket, scratch, &archives), expected);
    bucket.put("set-00.tar", &own);
    assert_eq!(features(bucket, scratch, &archives), expected);
    assert_eq!(features(bucket, scratch, &archives), expected, "by indexes");
    assert_eq!(indexes(), 3);
}

/// A run on archives of a bucket that is killed goes on in the bits of one on the folder that was not.
#[test]
fn killed_runs_on_a_bucket_go_on_bit_for_bit() {
    const STEPS: &str = "61"; // not a multiple of the epoch, nor of the checkpoints
    let scratch = Scratch::new("killed-on-a-bucket");
    let Some(bucket) = Bucket::start(Kind::S3, &scratch) else {
        return;
    };
    packed(&scratch);
    for number in 0..3 {
        let name = format!("set-{number:02}.tar");
        bucket.put(&name, &fs::read(scratch.path(&name)).unwrap());
    }
    let flags = ["--steps", STEPS, "--checkpoint-every", "7"];
    let whole = train(&scratch, &scratch.path("images"), "undisturbed", &flags);
    assert!(command(&whole).status().unwrap().success());
    let [run, undisturbed] = ["run", "undisturbed"].map(|name| scratch.0.join(name));
    let data = "s3://set/set-{00..02}.tar";
    for kill in 0..3 {
        let workers = (1 + kill % 3).to_string();
        let flags = [&flags[..], &["--workers", &workers]].concat();
        let mut child = bucket.command(&train(&scratch, data, "run", &flags));
        let mut child = child.stdout(Stdio::null()).spawn().unwrap();
        let before = fs::metadata(run.join("metrics.jsonl")).map_or(0, |file| file.len());
        wait_for_a_step(&run, before.saturating_sub(7 * 600));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let last = bucket
        .command(&train(&scratch, data, "run", &flags))
        .output();
    let last = last.unwrap();
    assert!(last.status.success(), "{}", stderr(&last));
    assert_same(&run, &undisturbed, 61);
}
