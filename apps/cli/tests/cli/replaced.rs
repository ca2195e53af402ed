//! What is not ibot's own is not written over, and that is known before the work: no model is there in most of these tests.

use std::fs;
use std::path::Path;

use ibot::data::drawing::write_drawing;
use image::RgbImage;

use crate::evaluation::trained_as;
use crate::{Scratch, command, refused, succeeds};

/// A model that no command gets to read.
const MODEL: [&str; 4] = ["--model", "none.safetensors", "--backend", "flex"];

/// A folder of photographs whose names are those of drawings, and a list of them.
fn photographs(scratch: &Scratch) -> [String; 2] {
    let folder = scratch.0.join("photos");
    fs::create_dir(&folder).unwrap();
    let names = [
        "a.png",
        "a-attention.png",
        "a-attention-head-12.png",
        "a-patch-pca.png",
        "a-sheet-correspondence.png",
        "cluster-005.png",
        "outliers.png",
        "sheet.png",
    ];
    let photo = RgbImage::from_fn(24, 20, |x, y| image::Rgb([x as u8 * 9, y as u8 * 11, 70]));
    for name in names {
        photo.save(folder.join(name)).unwrap();
    }
    fs::write(
        scratch.path("list.txt"),
        names.map(|name| format!("photos/{name}")).join("\n"),
    )
    .unwrap();
    [scratch.path("photos"), scratch.path("list.txt")]
}

#[test]
fn photographs_are_not_drawn_over() {
    let scratch = Scratch::new("photographs");
    let [folder, list] = photographs(&scratch);
    let [a, sheet, other] =
        ["a.png", "cluster-005.png", "sheet.png"].map(|name| format!("{folder}/{name}"));
    let photo = fs::read(&a).unwrap();
    let cases: &[(&[&str], &str)] = &[
        (&["cluster", &list, "--out", &folder], "cluster-005.png"),
        (
            &[
                "search", "--data", &list, "--query", &other, "--out", &sheet,
            ],
            "cluster-005.png",
        ),
        (&["outliers", &list, "--out", &folder], "outliers.png"),
        (
            &["visualize", "--image", &a, "--out", &folder],
            "a-attention-head-12.png",
        ),
        (
            &["visualize", "--image", &sheet, &a, "--out", &folder],
            "a-attention-head-12.png",
        ),
    ];
    for (flags, name) in cases {
        let said = format!("{name}: exists and is no drawing of ibot: choose another place");
        refused(&[*flags, &MODEL].concat(), &[&said]);
    }
    refused(
        &["data", &list, "--out", &folder],
        &["sheet.png: exists and is no drawing of ibot"],
    );
    for name in [
        "a-attention-head-12.png",
        "a-attention.png",
        "a-patch-pca.png",
    ] {
        fs::remove_file(format!("{folder}/{name}")).unwrap();
    }
    refused(
        &[
            &["visualize", "--image", &a, &other, "--out", &folder][..],
            &MODEL,
        ]
        .concat(),
        &["a-sheet-correspondence.png: exists and is no drawing"],
    );
    let left = fs::read_dir(&folder).unwrap().flatten();
    let left: Vec<Vec<u8>> = left.map(|file| fs::read(file.path()).unwrap()).collect();
    assert!(left.len() == 5 && left.iter().all(|bytes| *bytes == photo));
}

/// A list, or any other file, that has the name of what is to be written.
#[test]
fn tables_replace_neither_what_is_read_nor_what_is_not_theirs() {
    let scratch = Scratch::new("tables");
    let [_, list] = photographs(&scratch);
    let at = |name: &str| scratch.path(name);
    fs::create_dir(at("out")).unwrap();
    let lists = ["out/outliers.csv", "out/keep.csv", "set.paths.csv"];
    for name in lists {
        fs::write(at(name), "path,label,price\n../photos/a.png,a,7\n").unwrap();
    }
    fs::copy(&list, at("out/keep.txt")).unwrap();
    for name in ["precious.paths.csv", "precious.tiles.csv"] {
        fs::write(at(name), "precious").unwrap();
    }
    let [outliers, keep, keep_txt, set] = [lists[0], lists[1], "out/keep.txt", lists[2]].map(at);
    let (out, set_npy, precious) = (at("out"), at("set.npy"), at("precious.npy"));
    let reads = "is a file that this command reads: choose another place";
    let foreign = "precious.npy, to which it would belong: choose another place";
    let cases: &[(&[&str], [&str; 2])] = &[
        (
            &["outliers", &outliers, "--out", &out],
            ["outliers.csv", reads],
        ),
        (
            &["outliers", &list, "--reference", &outliers, "--out", &out],
            ["outliers.csv", reads],
        ),
        (
            &["outliers", "--features", &outliers, "--out", &out],
            ["outliers.csv", reads],
        ),
        (
            &["embed", &set, "--out", &set_npy],
            ["set.paths.csv", reads],
        ),
        (
            &["embed", &list, "--out", &precious],
            ["precious.paths.csv", foreign],
        ),
        (
            &["embed", &list, "--out", &precious, "--tile", "16"],
            ["precious.tiles.csv", foreign],
        ),
        (
            &["cluster", &outliers, "--table", &outliers],
            ["outliers.csv", reads],
        ),
    ];
    for (flags, parts) in cases {
        refused(&[*flags, &MODEL].concat(), parts);
    }
    refused(&["data", &keep, "--out", &out], &["keep.csv", reads]);
    refused(&["data", &keep_txt, "--out", &out], &["keep.txt", reads]);
    refused(
        &["data", &list, "--val", &keep, "--out", &out],
        &["keep.csv", reads],
    );
    for name in lists {
        assert!(
            fs::read_to_string(at(name)).unwrap().contains("price"),
            "{name}"
        );
    }
    assert_eq!(
        fs::read_to_string(at("precious.tiles.csv")).unwrap(),
        "precious"
    );
}

#[test]
fn a_report_of_verify_replaces_such_reports_alone() {
    let scratch = Scratch::new("verify-out");
    let at = |name: &str| scratch.path(name);
    fs::write(at("run.json"), "{\"ibot\": \"0.1.0\", \"config\": \"\"}").unwrap();
    fs::write(at("teacher.safetensors"), "weights").unwrap();
    let verify = ["verify", "--only", "GELU", "--backend", "flex"];
    for (name, part) in [
        ("run.json", "is no report of `ibot verify`"),
        ("teacher.safetensors", "must end in .json"),
    ] {
        let before = fs::read(at(name)).unwrap();
        refused(&[&verify[..], &["--out", &at(name)]].concat(), &[part]);
        assert!(fs::read(at(name)).unwrap() == before, "{name}");
    }
    // some checks have a report of their own, which the next ones replace
    for _ in 0..2 {
        let output = command(&verify).current_dir(&scratch.0).output().unwrap();
        assert!(output.status.success());
    }
    assert!(Path::new(&at("ibot-verify-only.json")).is_file());
    assert!(!Path::new(&at("ibot-verify.json")).exists());
}

#[test]
fn charts_of_an_earlier_report_are_removed() {
    let trained = trained_as("old-charts", &["--steps", "1"]);
    let (run, out) = (trained.out("run"), trained.out("report"));
    let report = ["report", &run, "--out", &out];
    succeeds(&report);
    let [old, photo] = ["curve-old.png", "curve-photo.png"].map(|name| format!("{out}/{name}"));
    let image = RgbImage::new(4, 4);
    write_drawing(Path::new(&old), &image).unwrap();
    let said = succeeds(&report);
    assert!(
        said.contains("removed 1 drawing of an earlier call"),
        "{said}"
    );
    assert!(!Path::new(&old).exists());
    image.save(&photo).unwrap();
    refused(&report, &["curve-photo.png: exists and is no drawing"]);
}
