//! Images that look like no others.

use std::collections::BTreeMap;
use std::fs;

use image::{Rgb, RgbImage};
use serde_json::Value;

use crate::evaluation::{Trained, trained_as};
use crate::{command, ibot, refused, stdout, succeeds};

/// A folder of nine images of soft gray stripes, and a tenth with a green block in the right lower corner; their paths.
fn parts(trained: &Trained) -> (String, String) {
    let folder = trained.scratch.0.join("parts");
    fs::create_dir_all(&folder).unwrap();
    for at in 0..10u32 {
        let has_defect = at == 6;
        let image = RgbImage::from_fn(16, 16, |x, y| {
            if has_defect && x >= 8 && y >= 8 {
                Rgb([0, 250, 0])
            } else {
                Rgb([(100 + 4 * ((x + y + at) % 5)) as u8; 3])
            }
        });
        image.save(folder.join(format!("{at}.png"))).unwrap();
    }
    (
        trained.scratch.path("parts"),
        trained.scratch.path("parts/6.png"),
    )
}

fn outliers(report: &Value) -> &Vec<Value> {
    report["outliers"].as_array().unwrap()
}

#[test]
fn the_odd_image_is_first() {
    let trained = trained_as("outliers", &["--steps", "3"]);
    let (data, odd) = parts(&trained);
    let out = trained.out("found");
    let report = trained.run("outliers", &["--data", &data, "--k", "2", "--out", &out]);
    assert_eq!(report["images"].as_u64(), Some(10));
    let found = outliers(&report);
    assert_eq!(found[0]["path"].as_str(), Some(odd.as_str()));
    let distances: Vec<f64> = found
        .iter()
        .map(|of| of["distance"].as_f64().unwrap())
        .collect();
    assert!(distances.is_sorted_by(|a, b| a >= b) && distances[0] > distances[1]);
    assert!(found.iter().all(|of| of["path"] != of["nearest"]));
    let csv = fs::read_to_string(format!("{out}/outliers.csv")).unwrap();
    let mut lines = csv.lines();
    assert_eq!(lines.next(), Some("path,label,distance,nearest"));
    assert!(lines.next().unwrap().starts_with(&format!("{odd},,")));
    assert_eq!(lines.count(), 9);
    assert!(image::open(format!("{out}/outliers.png")).unwrap().width() > 300);

    // compared with good ones, and by features in a file, which need no model
    let good = trained.out("good");
    fs::create_dir(&good).unwrap();
    for at in 0..5 {
        fs::rename(format!("{data}/{at}.png"), format!("{good}/{at}.png")).unwrap();
    }
    let store = trained.out("store.safetensors");
    let flags = ["--data", &data, "--reference", &good, "--k", "1"];
    let by_model = trained.run("outliers", &flags);
    assert_eq!(by_model["images"].as_u64(), Some(5));
    assert_eq!(by_model["reference"].as_u64(), Some(5));
    let made = trained.run("outliers", &[&flags[..], &["--features", &store]].concat());
    let output = ibot(&[&["outliers", "--json", "--features", &store], &flags[..]].concat());
    let kept: Value = serde_json::from_str(&stdout(&output)).unwrap();
    for report in [&made, &kept] {
        assert_eq!(outliers(report), outliers(&by_model));
    }
    assert_eq!(outliers(&kept)[0]["path"].as_str(), Some(odd.as_str()));
    assert!(
        outliers(&kept)[0]["nearest"]
            .as_str()
            .unwrap()
            .starts_with(&good)
    );
}

/// Whether all images have the same distances. The products of one image and of all at once may round differently, by the processor, and
/// the square root makes 3e-4 of the last digit of a similarity of 1.
fn assert_alike(found: &Value, expected: &Value) {
    let distances = |report: &Value| -> BTreeMap<String, f64> {
        let pairs = outliers(report).iter();
        let pair = |of: &Value| {
            let path = of["path"].as_str().unwrap().to_owned();
            (path, of["distance"].as_f64().unwrap())
        };
        pairs.map(pair).collect()
    };
    let (found, expected) = (distances(found), distances(expected));
    assert!(found.keys().eq(expected.keys()));
    for (path, distance) in &expected {
        let found = found[path];
        assert!(
            (found - distance).abs() < 2e-3,
            "{path}: {found} {distance}"
        );
    }
}

#[test]
fn the_odd_patch_is_shown() {
    let trained = trained_as("outlier-patches", &["--steps", "3"]);
    let (data, odd) = parts(&trained);
    let out = trained.out("found");
    let whole = ["--data", &data, "--patches", "--out", &out, "--top", "3"];
    let of_folder = trained.run("outliers", &whole);
    let fewer = trained.run(
        "outliers",
        &[&whole[..], &["--patches-per-image", "3"]].concat(),
    );
    let with_good = trained.run("outliers", &[&whole[..], &["--reference", &data]].concat());
    // an image that is among the normal ones is not compared with itself
    for report in [&of_folder, &fewer, &with_good] {
        let first = &outliers(report)[0];
        assert_eq!(first["path"].as_str(), Some(odd.as_str()));
        assert_eq!(first["patch"], serde_json::json!([1, 1]));
        assert!(first["distance"].as_f64() > outliers(report)[1]["distance"].as_f64());
    }
    assert_alike(&with_good, &of_folder);
    assert!(outliers(&of_folder)[0]["distance"].as_f64().unwrap() > 5e-2);
    let files = of_folder["files"].as_array().unwrap();
    assert_eq!(files.len(), 2 + 3);
    let fewer = [
        &whole[..6],
        &["1", "--backend", "flex", "--model", &trained.model],
    ]
    .concat();
    let said = succeeds(&[&["outliers"], &fewer[..]].concat());
    assert!(
        said.contains("removed 2 drawings of an earlier call"),
        "{said}"
    );
    let maps = fs::read_dir(&out).unwrap().flatten();
    let maps = maps.filter(|file| file.file_name().to_string_lossy().contains("-heat"));
    assert_eq!(maps.count(), 1);
    let heat = image::open(format!("{out}/6-heat.png")).unwrap().to_rgb8();
    assert_eq!(heat.dimensions(), (16, 16));
    let [corner, other] = [heat.get_pixel(15, 15).0, heat.get_pixel(0, 0).0];
    assert!(corner[0] > 180 && corner[2] < 10, "{corner:?} is not red");
    assert!(other[2] > 60, "{other:?} is not the image");
    let csv = fs::read_to_string(format!("{out}/outliers.csv")).unwrap();
    assert!(
        csv.starts_with("path,label,distance,nearest,row,column\n"),
        "{csv}"
    );
}

/// Names of images may be as long as a file system takes them, those of drawings are not longer.
#[test]
fn long_names_are_drawn() {
    let trained = trained_as("outlier-names", &["--steps", "1"]);
    let (data, odd) = parts(&trained);
    let [first, second] = ["x", "y"].map(|end| format!("{data}/{}{end}.png", "n".repeat(249)));
    fs::rename(&odd, &first).unwrap();
    fs::rename(format!("{data}/3.png"), &second).unwrap();
    let out = trained.out("found");
    let whole = ["--data", &data, "--patches", "--out", &out, "--top", "10"];
    let report = trained.run("outliers", &whole);
    assert_eq!(report["files"].as_array().unwrap().len(), 2 + 10);
    trained.run("visualize", &["--image", &first, &second, "--out", &out]);
}

#[test]
fn what_cannot_be_compared_is_refused() {
    let trained = trained_as("outliers-refused", &["--steps", "3"]);
    let (data, odd) = parts(&trained);
    let model = &trained.model;
    let on = ["outliers", "--backend", "flex", "--model", model];
    let alone = trained.out("alone");
    fs::create_dir(&alone).unwrap();
    fs::copy(&odd, format!("{alone}/6.png")).unwrap();
    let cases: [(&[&str], &[&str]); 5] = [
        (&["--data", &alone], &["alone", "--reference"]),
        (&["--data", &data, "--k", "0"], &["--k = 0", "at least 1"]),
        (&["--data", &data, "--out", &data], &["--out", "inside"]),
        (&[], &["--data", "absent"]),
        (
            &["--data", &data, "--patches", "--layers", "9"],
            &["--layers", "from 1 to 1"],
        ),
    ];
    for (flags, parts) in cases {
        refused(&[&on[..], flags].concat(), parts);
    }
}

/// The reference may hold the images themselves: by another path, behind a link, or as copies.
#[test]
fn an_image_of_the_reference_is_not_its_own_neighbor() {
    let trained = trained_as("outliers-same", &["--steps", "3"]);
    let (data, _) = parts(&trained);
    let copies = trained.scratch.0.join("copies");
    fs::create_dir(&copies).unwrap();
    for file in fs::read_dir(&data).unwrap() {
        let file = file.unwrap();
        let other_name = format!("copy-{}", file.file_name().to_string_lossy());
        fs::copy(file.path(), copies.join(other_name)).unwrap();
    }
    let mut references = vec![
        trained.scratch.path("copies/../parts"),
        trained.scratch.path("copies"),
    ];
    #[cfg(unix)]
    {
        let link = trained.scratch.path("link");
        std::os::unix::fs::symlink(&data, &link).unwrap();
        references.push(link);
    }
    for compared in [&["--k", "1"][..], &["--patches"]] {
        let flags = ["--data", &data];
        let distances = |reference: &str| -> Vec<f64> {
            let flags = [&flags[..], compared, &["--reference", reference]].concat();
            let report = trained.run("outliers", &flags);
            let found = outliers(&report).iter();
            found.map(|of| of["distance"].as_f64().unwrap()).collect()
        };
        let expected = distances(&data);
        assert!(expected[0] > 0.01, "{expected:?}");
        for reference in &references {
            assert_eq!(distances(reference), expected, "{reference} {compared:?}");
        }
        // paths from the current folder
        for data in [data.as_str(), "parts"] {
            for reference in ["parts", "copies"] {
                let flags = [
                    "outliers",
                    "--data",
                    data,
                    "--reference",
                    reference,
                    "--json",
                    "--backend",
                    "flex",
                    "--model",
                    &trained.model,
                ];
                let mut command = command(&[&flags[..], compared].concat());
                let output = command.current_dir(&trained.scratch.0).output().unwrap();
                let report: Value = serde_json::from_slice(&output.stdout).unwrap();
                let found = outliers(&report).iter();
                let found: Vec<f64> = found.map(|of| of["distance"].as_f64().unwrap()).collect();
                assert_eq!(found, expected, "{data} {reference} {compared:?}");
            }
        }
    }
}
