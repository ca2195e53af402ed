//! `ibot data`.

use std::fs;
use std::path::Path;

use image::{Rgb, RgbImage};
use serde_json::Value;

use crate::evaluation::trained_as;
use crate::{Scratch, command, ibot, refused, stdout, succeeds};

#[test]
fn a_folder_is_counted_and_its_faults_are_named() {
    let scratch = Scratch::new("inventory");
    let images = scratch.images();
    let at = |name: &str| scratch.0.join("images").join(name);
    fs::copy(at("odd/1.png"), at("odd/copy.png")).unwrap();
    fs::copy(at("odd/1.png"), at("even/deep/copy.png")).unwrap();
    let whole = fs::read(at("odd/3.png")).unwrap();
    fs::write(at("odd/3.png"), &whole[..whole.len() - 40]).unwrap();
    let before = fs::read_dir(scratch.path("")).unwrap().count();
    let text = stdout(&ibot(&["data", &images]));
    for said in [
        "images            12\n",
        "formats           png 12\n",
        "classes           2: even 6, odd 6\n",
        "shorter side      20 to 20 pixels, median 20\n",
        "longer side       24 to 24 pixels, median 24\n",
        "by shorter side   0 to 31: 12\n",
        "other files       1\n",
        "skipped           1\n",
        "damaged           1\n",
        "duplicates        2; 1 group in several classes\n",
        "12 tiny (below 32 pixels)",
        "odd/cut.png: ",
        "odd/3.png: ",
        "equal: ",
        "near duplicates ",
        "similarity from 0.99\n",
        " of 12 images, without damaged ones and duplicates\n",
    ] {
        assert!(text.contains(said), "{said:?} is not in {text}");
    }
    let json = stdout(&ibot(&["data", &images, "--json", "--no-decode"]));
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["classes"][1]["name"], "odd");
    assert_eq!(json["classes"][1]["images"], 6);
    assert_eq!(json["duplicates"][0].as_array().unwrap().len(), 3);
    assert_eq!(json["shorter_side"], serde_json::json!([20, 20, 20]));
    assert_eq!(json["kept"], 10);
    for key in ["damaged", "near_duplicates", "near", "val", "shared"] {
        assert_eq!(json.get(key), None, "{key}");
    }
    // nothing is written anywhere
    assert_eq!(fs::read_dir(scratch.path("")).unwrap().count(), before);
    refused(&["data", &scratch.path("nowhere")], &["nowhere"]);
}

/// The list has the classes of the folder: `knn` gives the same on it as on a folder of the same files.
#[test]
fn the_list_is_a_source_for_every_command() {
    let trained = trained_as("inventory-list", &["--steps", "3"]);
    let (images, out) = (&trained.images, trained.out("report"));
    let at = |name: &str| Path::new(images).join(name);
    fs::copy(at("odd/1.png"), at("odd/copy.png")).unwrap();
    let whole = fs::read(at("odd/3.png")).unwrap();
    fs::write(at("odd/zero.png"), &whole[..whole.len() - 40]).unwrap();
    // these ten are shades of one image
    let said = succeeds(&["data", images, "--out", &out, "--near", "none"]);
    assert!(
        said.contains("near duplicates   not looked for\n"),
        "{said}"
    );
    assert!(
        said.contains("report.json, sheet.png, keep.csv, keep.txt\n"),
        "{said}"
    );
    let report = fs::read_to_string(format!("{out}/report.json")).unwrap();
    let report: Value = serde_json::from_str(&report).unwrap();
    assert_eq!(
        (&report["images"], &report["kept"]),
        (&12.into(), &10.into())
    );
    let sheet = image::open(format!("{out}/sheet.png")).unwrap();
    assert!(sheet.width() > 6 * 128 && sheet.height() > 3 * 128);
    let list = format!("{out}/keep.txt");
    let by_list = trained.run("knn", &["--data", &list, "--k", "1,3"]);
    for name in ["odd/copy.png", "odd/zero.png"] {
        fs::remove_file(at(name)).unwrap();
    }
    let by_folder = trained.run("knn", &["--data", images, "--k", "1,3"]);
    let results = |report: &Value| {
        let mut report = report.clone();
        report.as_object_mut().unwrap().remove("data");
        report
    };
    assert_eq!(results(&by_list), results(&by_folder));
    assert_eq!(by_list["classes"], 2);
    let again = succeeds(&["data", &list, "--near", "none"]);
    assert!(
        again.contains("classes           2: even 5, odd 5\n"),
        "{again}"
    );
    assert!(again.contains("duplicates        0\n"), "{again}");
    let (run, config) = (trained.out("of-list"), trained.out("tiny.toml"));
    let train = [
        "train",
        &list,
        "--out",
        &run,
        "--config",
        &config,
        "--backend",
        "flex",
    ];
    let said = succeeds(&[&train[..], &["--steps", "2", "--held-out", "0.2"]].concat());
    assert!(said.contains("in 2 classes (even, odd)"), "{said}");
}

/// A class that is no folder of the path is in keep.csv alone, which is said.
#[test]
fn classes_of_a_table_are_kept() {
    let scratch = Scratch::new("inventory-classes");
    scratch.images();
    let (table, out) = (scratch.path("set.csv"), scratch.path("out"));
    let rows = "path,label\nimages/odd/1.png,eins\nimages/odd/3.png,odd\n";
    fs::write(&table, rows).unwrap();
    let said = succeeds(&["data", &table, "--out", &out, "--near", "none"]);
    let line = "  1 image in keep.txt without the class, as no folder in the path is named so: take keep.csv\n";
    assert!(said.contains(line), "{said}");
    let again = succeeds(&["data", &format!("{out}/keep.csv"), "--near", "none"]);
    assert!(
        again.contains("classes           2: eins 1, odd 1\n"),
        "{again}"
    );
}

/// Parts of a data set are compared, as are two folders.
#[test]
fn images_to_evaluate_on_are_found_in_those_to_train_on() {
    let scratch = Scratch::new("inventory-val");
    let save = |number: u32, name: &str| {
        let path = scratch.0.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let image = RgbImage::from_fn(90, 70, |x, y| {
            let level = |a: u32| (x * (a + number) + y * y * (1 + number % 3) / 9) as u8;
            Rgb([level(1), level(2), 255 - level(3)])
        });
        image.save(path).unwrap();
    };
    save(1, "set/train/a/1.png");
    save(4, "set/train/b/4.png");
    save(1, "set/val/a/other.png");
    save(9, "set/val/b/9.png");
    let (set, out) = (scratch.path("set"), scratch.path("out"));
    for (flags, without) in [
        (vec!["data", &set, "--out", &out], ""),
        (
            vec!["data", &set, "--val", &set, "--near", "none"],
            "by name",
        ),
    ] {
        let said = succeeds(&flags);
        let expected: &[&str] = match without {
            "" => &[
                "set/train\n",
                "set/val\n",
                "also in val       1 image of data with the same bytes, 0 that look alike\n",
                "train/a/1.png, ",
                "val/a/other.png\n",
                "kept              1 of 2 images, without damaged ones, duplicates and those in val\n",
            ],
            // a set that is its own evaluation set
            _ => &[
                "4 images of data with the same bytes\n",
                "kept              0 of 4",
            ],
        };
        for part in expected {
            assert!(said.contains(part), "{part:?} is not in {said}");
        }
    }
    let list = fs::read_to_string(format!("{out}/keep.txt")).unwrap();
    assert!(list.ends_with("/./b/4.png\n"), "{list}");
}

#[test]
fn sets_without_a_usable_image_end_clearly() {
    let scratch = Scratch::new("inventory-ends");
    let empty = scratch.path("empty");
    fs::create_dir(&empty).unwrap();
    refused(&["data", &empty], &["empty", "no supported images found"]);
    let images = scratch.images();
    let inside = scratch.path("images/report");
    refused(
        &["data", &images, "--out", &inside],
        &["--out", "inside the image folder"],
    );
    for near in ["0.2", "2", "much"] {
        let output = ibot(&["data", &images, "--near", near]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains("0.99") && said.contains("none"), "{said}");
    }
    // every file is cut off behind its header: the report says so, and the command fails
    let all = scratch.path("all damaged");
    fs::create_dir(&all).unwrap();
    let whole = fs::read(scratch.path("images/odd/3.png")).unwrap();
    for at in 0..3 {
        fs::write(format!("{all}/{at}.png"), &whole[..whole.len() - 30 - at]).unwrap();
    }
    let out = scratch.path("out");
    let output = ibot(&["data", &all, "--out", &out]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("none of its 3 images can be decoded"),
        "{said}"
    );
    assert!(stdout(&output).contains("damaged           3\n"));
    assert_eq!(fs::read_to_string(format!("{out}/keep.txt")).unwrap(), "");
    refused(
        &["data", &format!("{out}/keep.txt")],
        &["keep.txt", "no supported images"],
    );
}

/// Ctrl-C is a wish, and leaves nothing behind.
#[cfg(unix)]
#[test]
fn an_interrupted_report_writes_nothing() {
    let scratch = Scratch::new("inventory-stop");
    let data = scratch.path("many");
    fs::create_dir(&data).unwrap();
    let image = RgbImage::from_fn(900, 900, |x, y| Rgb([x as u8, y as u8, (x * y) as u8]));
    image.save(format!("{data}/0.png")).unwrap();
    for at in 1..3000 {
        fs::hard_link(format!("{data}/0.png"), format!("{data}/{at}.png")).unwrap();
    }
    let out = scratch.path("out");
    let mut child = command(&["data", &data, "--out", &out])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    std::thread::sleep(std::time::Duration::from_millis(700));
    let asked = std::time::Instant::now();
    crate::resume::signal(child.id(), "-INT");
    let status = child.wait().unwrap();
    assert!(asked.elapsed().as_secs() < 10, "{:?}", asked.elapsed());
    assert_eq!(status.code(), Some(130));
    assert!(!Path::new(&out).exists());
}
