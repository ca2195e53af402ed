//! What can be refused is refused before the first image is read, and what was made is kept.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::thread::sleep;
use std::time::{Duration, Instant};

use ibot::embedding::EmbeddingTable;
use image::RgbImage;

use crate::{Scratch, command, ibot, stdout};

/// A run of one step; its flags.
struct Trained {
    scratch: Scratch,
    flags: [String; 4],
    data: String,
}

fn trained(name: &str) -> Trained {
    let scratch = Scratch::new(name);
    assert!(ibot(&scratch.train(&["--steps", "1"])).status.success());
    let model = scratch.path("run/teacher.safetensors");
    Trained {
        flags: ["--backend", "flex", "--model", &model].map(str::to_owned),
        data: scratch.path("images"),
        scratch,
    }
}

impl Trained {
    fn arguments(&self, command: &str, more: &[&str]) -> Vec<String> {
        let flags = self.flags.iter().map(String::as_str);
        let all = [command]
            .into_iter()
            .chain(flags)
            .chain(more.iter().copied());
        all.map(str::to_owned).collect()
    }

    /// What the command says where it is refused; no image may have been embedded before.
    fn refusal(&self, command: &str, more: &[&str]) -> String {
        let output = ibot(&self.arguments(command, more));
        let text = stdout(&output) + &String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{command} {more:?}: {text}");
        assert!(
            !text.contains("images/s"),
            "{command} {more:?} worked first: {text}"
        );
        text
    }
}

#[test]
fn refusals_come_before_the_work() {
    let trained = trained("work-first");
    let data = trained.data.as_str();
    let query = format!("{data}/odd/1.png");
    let [nowhere, inside, sheet, long] = [
        trained.scratch.path("nowhere/x.npy"),
        format!("{data}/drawn"),
        trained.scratch.path("found.xyz"),
        trained.scratch.path(&format!("{}.npy", "n".repeat(245))),
    ];
    let folder = trained.scratch.path("folder.npy");
    fs::create_dir(&folder).unwrap();
    let other = trained.scratch.path("other");
    fs::create_dir_all(format!("{other}/zebra")).unwrap();
    fs::copy(&query, format!("{other}/zebra/1.png")).unwrap();
    let (nowhere, nowhere_csv) = (nowhere.as_str(), nowhere.replace("npy", "csv"));
    let (inside_npy, inside_csv) = (format!("{data}/x.npy"), format!("{data}/odd/../x.csv"));
    let cases: &[(&str, &[&str], &str)] = &[
        ("embed", &["--out", nowhere], "there is no folder"),
        ("embed", &["--out", &folder], "is a folder"),
        ("embed", &["--out", &long], "nnn"),
        (
            "embed",
            &["--out", &inside_npy],
            "is inside the image folder",
        ),
        ("classify", &["--out", &nowhere_csv], "there is no folder"),
        ("classify", &["--out", nowhere], "must end in .csv"),
        (
            "classify",
            &["--out", &inside_csv],
            "is inside the image folder",
        ),
        (
            "search",
            &["--query", &query, "--out", &sheet],
            "must end in .png",
        ),
        (
            "search",
            &["--query", &query, "--out", nowhere],
            "must end in .png",
        ),
        (
            "search",
            &["--query", &query, "--index", "nowhere/i.safetensors"],
            "there is no folder",
        ),
        ("cluster", &["--clusters", "0"], "at least 1"),
        ("cluster", &["--clusters", "11"], "the number of images, 10"),
        ("cluster", &["--out", &query], "is a file"),
        ("cluster", &["--out", &inside], "is inside the image folder"),
        ("knn", &["--held-out", "1"], "--held-out = 1"),
        ("knn", &["--splits", "0"], "--splits = 0"),
        ("knn", &["--val", &other], "\"zebra\""),
        ("probe", &["--val", &other], "\"zebra\""),
    ];
    for (command, more, part) in cases {
        let text = trained.refusal(command, &[&["--data", data], *more].concat());
        assert!(
            text.contains(part),
            "{command} {more:?}: {part:?} is not in {text}"
        );
    }
    let text = trained.refusal("search", &["--query", &query]);
    assert!(
        text.contains("--data DIR") && text.contains("--index FILE"),
        "{text}"
    );
    assert!(!Path::new(&inside).exists());
}

#[test]
fn five_images_are_five_clusters() {
    let trained = trained("few-clusters");
    let few = trained.scratch.path("few");
    fs::create_dir(&few).unwrap();
    for at in 0..5u8 {
        let image = RgbImage::from_fn(24, 24, |x, y| image::Rgb([x as u8, y as u8, at * 50]));
        image.save(format!("{few}/{at}.png")).unwrap();
    }
    let output = ibot(&trained.arguments("cluster", &["--data", &few]));
    let text = stdout(&output);
    assert!(output.status.success(), "{output:?}");
    assert!(
        text.contains("cluster 4: ") && !text.contains("cluster 5: "),
        "{text}"
    );
}

#[test]
fn a_limit_of_pixels_can_be_raised_where_it_is_met() {
    let trained = trained("max-pixels");
    let query = format!("{}/odd/1.png", trained.data);
    let out = trained.scratch.path("maps");
    let visualize = ["--image", &query, "--out", &out, "--max-pixels"];
    let text = trained.refusal("visualize", &[&visualize[..], &["479"]].concat());
    assert!(
        text.contains("24 x 20") && text.contains("--max-pixels"),
        "{text}"
    );
    let raised = trained.arguments("visualize", &[&visualize[..], &["480"]].concat());
    assert!(ibot(&raised).status.success());
    let text = trained.refusal("knn", &["--data", &trained.data, "--max-pixels", "100"]);
    assert!(text.contains("no supported images found"), "{text}");
}

#[test]
fn an_index_says_what_is_gone() {
    let trained = trained("gone-index");
    let (data, query) = (trained.data.as_str(), format!("{}/odd/1.png", trained.data));
    let index = trained.scratch.path("index.safetensors");
    // paths in an index do not depend on where it was made
    let mut make = command(&trained.arguments(
        "search",
        &["--query", &query, "--data", "images", "--index", &index],
    ));
    let output = make.current_dir(&trained.scratch.0).output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let paths = EmbeddingTable::read(index.as_ref()).unwrap().paths;
    assert!(
        paths.iter().all(|path| Path::new(path).is_absolute()),
        "{paths:?}"
    );
    fs::remove_file(format!("{data}/odd/1.png")).unwrap();
    fs::remove_file(format!("{data}/odd/3.png")).unwrap();
    let other = format!("{data}/odd/5.png");
    let search = trained.arguments(
        "search",
        &["--query", &other, "--index", &index, "--top", "10"],
    );
    let output = ibot(&search);
    let text = stdout(&output);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(
        text.contains("2 of 10 images are gone and left out"),
        "{text}"
    );
    assert!(
        !text.contains("odd/3.png") && text.contains("odd/7.png"),
        "{text}"
    );
    // touched, and one more
    sleep(Duration::from_millis(20));
    let bytes = fs::read(&other).unwrap();
    fs::write(&other, &bytes).unwrap();
    let text = stdout(&ibot(&search));
    assert!(text.contains("1 changed since"), "{text}");
    let kept = trained.scratch.path("kept");
    fs::rename(data, &kept).unwrap();
    let moved = format!("{kept}/odd/5.png");
    let text = trained.refusal("search", &["--query", &moved, "--index", &index]);
    assert!(text.contains("all of its 10 images are gone"), "{text}");
}

/// Maps may be drawn anywhere, also where the next scan finds them.
#[test]
fn what_ibot_drew_is_no_image() {
    let trained = trained("drawings");
    let (image, out) = (
        format!("{}/odd/1.png", trained.data),
        format!("{}/maps", trained.data),
    );
    let visualize = trained.arguments("visualize", &["--image", &image, "--out", &out]);
    assert!(ibot(&visualize).status.success());
    let knn = trained.arguments("knn", &["--data", &trained.data, "--k", "1"]);
    let text = stdout(&ibot(&knn));
    assert!(
        text.contains("10 images (10 png) in 2 classes (even, odd)"),
        "{text}"
    );
    assert!(
        text.contains("a contact sheet or map that ibot drew"),
        "{text}"
    );
}

/// A folder of 2000 images, that take seconds to embed.
#[cfg(unix)]
fn many(scratch: &Scratch) -> String {
    let many = scratch.path("many/a");
    fs::create_dir_all(&many).unwrap();
    fs::create_dir_all(scratch.path("many/b")).unwrap();
    let image = RgbImage::from_fn(600, 600, |x, y| image::Rgb([x as u8, y as u8, 7]));
    image.save(format!("{many}/0.png")).unwrap();
    for at in 1..2000 {
        let class = ["a", "b"][at % 2];
        let to = scratch.path(&format!("many/{class}/{at}.png"));
        fs::hard_link(format!("{many}/0.png"), to).unwrap();
    }
    scratch.path("many")
}

/// Runs a command on those until some are embedded, and asks it to stop; what it wrote on stderr.
#[cfg(unix)]
fn interrupted(arguments: &[String]) -> String {
    let mut child = command(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // the handler is there when the scan is over, of which a line tells
    let mut line = String::new();
    let mut lines = std::io::BufReader::new(child.stdout.take().unwrap());
    while !line.contains("2000 images") {
        let read = std::io::BufRead::read_line(&mut lines, &mut line).unwrap();
        assert_ne!(read, 0, "{line}");
    }
    sleep(Duration::from_millis(300));
    let asked = Instant::now();
    crate::resume::signal(child.id(), "-INT");
    let output = child.wait_with_output().unwrap();
    let waited = asked.elapsed();
    assert!(waited < Duration::from_secs(20), "{waited:?}");
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(130), "{errors}");
    assert!(!errors.contains("error:"), "{errors}");
    errors
}

/// Flags for one image a batch.
#[cfg(unix)]
const SLOWLY: [&str; 4] = ["--batch-size", "1", "--workers", "1"];

/// Ctrl-C in `ibot embed` keeps what was made, under another name than that of the whole.
#[cfg(unix)]
#[test]
fn an_interrupted_embedding_is_kept() {
    let trained = trained("cut-short");
    let many = many(&trained.scratch);
    let out = trained.scratch.path("all.safetensors");
    let flags = [&["--data", &many, "--out", &out], &SLOWLY[..]].concat();
    interrupted(&trained.arguments("embed", &flags));
    assert!(!Path::new(&out).exists());
    let partial =
        EmbeddingTable::read(trained.scratch.0.join("all.partial.safetensors").as_path()).unwrap();
    assert!((1..2000).contains(&partial.len()), "{}", partial.len());
}

/// Ctrl-C while a command fills a file of features keeps those made so far, and the same command continues.
#[cfg(unix)]
#[test]
fn an_interrupted_store_is_kept() {
    let trained = trained("cut-store");
    let rows = |store: &str| EmbeddingTable::read(store.as_ref()).unwrap().len();
    let many = many(&trained.scratch);
    let query = format!("{many}/a/0.png");
    for (command, more) in [
        ("knn", &["--k", "1"][..]),
        ("probe", &[]),
        ("cluster", &["--clusters", "2"]),
        ("search", &["--query", &query]),
    ] {
        let store = trained.scratch.path(&format!("{command}.safetensors"));
        let flags = [&["--data", &many, "--features", &store], &SLOWLY[..], more].concat();
        interrupted(&trained.arguments(command, &flags));
        let first = rows(&store);
        assert!((1..2000).contains(&first), "{command}: {first}");
        if command == "knn" {
            interrupted(&trained.arguments(command, &flags));
            let second = rows(&store);
            assert!((first + 1..2000).contains(&second), "{first}, {second}");
        }
    }
}

/// ImageNet's layout: classes are below `train` and `val`, and the one is tested on the other.
#[test]
fn parts_are_told_from_classes() {
    let trained = trained("parts");
    let root = trained.scratch.path("set");
    for part in ["train", "val"] {
        for (class, from) in [("even", "even/deep/er"), ("odd", "odd")] {
            let to = format!("{root}/{part}/{class}");
            fs::create_dir_all(&to).unwrap();
            for file in fs::read_dir(format!("{}/{from}", trained.data))
                .unwrap()
                .flatten()
            {
                fs::copy(file.path(), Path::new(&to).join(file.file_name())).unwrap();
            }
        }
    }
    let output = ibot(&trained.arguments("knn", &["--data", &root, "--k", "1", "--json"]));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (report["classes"].as_u64(), report["tested"].as_u64()),
        (Some(2), Some(10))
    );
    // each image is in the other part as well
    assert_eq!(report["rows"][0]["top1"].as_f64(), Some(1.0));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains("has train and test folders; trains on ")
            && said.contains("2 classes (even, odd)"),
        "{said}"
    );
    let (config, run) = (
        trained.scratch.path("tiny.toml"),
        trained.scratch.path("by-part"),
    );
    let train = [
        "train",
        "--backend",
        "flex",
        "--config",
        &config,
        "--data",
        &root,
        "--out",
        &run,
        "--steps",
        "1",
    ];
    let said = stdout(&ibot(&train));
    assert!(
        said.contains("trains on ") && said.contains("10 images (10 png)"),
        "{said}"
    );
    let classifier = trained.scratch.path("classifier");
    let flags = [
        "--data",
        &root,
        "--out",
        &classifier,
        "--epochs",
        "1",
        "--batch-size",
        "4",
        "--json",
    ];
    let output = ibot(&trained.arguments("finetune", &flags));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["held_out"].as_u64(), Some(10), "{report}");
    let limited = [&train[..8], &["none-begins", "--max-pixels", "100"]].concat();
    crate::refused(&limited, &["no supported images found", "max_pixels = 100"]);
}
