//! Segmentation by patches, on drawn shapes whose masks are known.

use std::fs;
use std::path::Path;

use ibot::random::{Random, Stream};
use image::{GrayImage, Luma, Rgba, RgbaImage};
use serde_json::Value;

use crate::evaluation::{Trained, trained_as};
use crate::{ibot, refused};

/// Colors of the ground and of the two classes of shapes.
const COLORS: [[u8; 3]; 3] = [[90, 100, 90], [230, 40, 30], [20, 60, 240]];

/// Images of 64 x 64 pixels with a box of class 1 or 2 on a noisy ground of class 0, opaque where the box is, in `images`;
/// and their masks, with a frame of ignored pixels around the box, in `masks`.
fn shapes(images: &Path, masks: &Path, count: u64, seed: u64) {
    fs::create_dir_all(images.join("deep")).unwrap();
    fs::create_dir_all(masks.join("deep")).unwrap();
    for at in 0..count {
        let mut random = Random::new(seed, 0, at, Stream::Demo);
        let class = 1 + at as usize % 2;
        let side = 20 + random.below(16) as u32;
        let [left, top] = [0; 2].map(|_| 10 + random.below(14) as u32);
        let depth = |x: u32, y: u32| {
            let of = |at: u32, from: u32| {
                (i64::from(at) - i64::from(from)).min(i64::from(from + side) - i64::from(at) - 1)
            };
            of(x, left).min(of(y, top))
        };
        let image = RgbaImage::from_fn(64, 64, |x, y| {
            let is_figure = depth(x, y) >= 0;
            let color = COLORS[if is_figure { class } else { 0 }];
            let [r, g, b] = color.map(|level| level.saturating_add(random.below(20) as u8));
            Rgba([r, g, b, if is_figure { 255 } else { 40 }])
        });
        let mask = GrayImage::from_fn(64, 64, |x, y| {
            Luma([match depth(x, y) {
                -1 => 255,
                depth if depth >= 0 => class as u8,
                _ => 0,
            }])
        });
        let folder = if at % 3 == 0 { "deep" } else { "." };
        image
            .save(images.join(folder).join(format!("{at}.png")))
            .unwrap();
        mask.save(masks.join(folder).join(format!("{at}.png")))
            .unwrap();
    }
}

/// A tiny model, and folders of shapes with their masks.
fn with_shapes(name: &str) -> (Trained, String, String) {
    let trained = trained_as(name, &["--steps", "2"]);
    let (images, masks) = (trained.out("shapes"), trained.out("masks"));
    shapes(images.as_ref(), masks.as_ref(), 40, 1);
    (trained, images, masks)
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap()
}

/// The first classifier.
fn first(report: &Value) -> (f64, f64, &Vec<Value>) {
    let row = &report["rows"][0];
    let classes = row["classes"].as_array().unwrap();
    (number(&row["mean_iou"]), number(&row["accuracy"]), classes)
}

#[test]
fn shapes_that_features_tell_apart_are_segmented() {
    let (trained, images, masks) = with_shapes("segments");
    let sheet = trained.out("sheet.png");
    let flags = [
        "--patches",
        "--data",
        &images,
        "--masks",
        &masks,
        "--image-size",
        "64",
    ];
    let report = trained.run("probe", &[&flags[..], &["--out", &sheet]].concat());
    let (iou, accuracy, classes) = first(&report);
    let constant = number(&report["constant_mean_iou"]);
    assert!(
        constant < 0.3 && iou > constant + 0.4 && accuracy > 0.85,
        "{report}"
    );
    let names: Vec<&Value> = classes.iter().map(|class| &class["class"]).collect();
    assert_eq!(names, [0, 1, 2]);
    let mean = classes
        .iter()
        .map(|class| number(&class["iou"]))
        .sum::<f64>()
        / 3.0;
    assert!((mean - iou).abs() < 1e-12);
    assert_eq!(
        (&report["tested"], &report["patches"]),
        (&8.into(), &(32 * 64).into())
    );
    let drawn = image::open(&sheet).unwrap();
    assert_eq!(drawn.width(), 12 + 6 * 172);
    let report = trained.run(
        "knn",
        &[&flags[..], &["--k", "1,9", "--patches-per-image", "30"]].concat(),
    );
    let (iou, ..) = first(&report);
    assert!(iou > constant + 0.3, "{report}");
    assert_eq!(
        (&report["rows"][1]["classifier"], &report["patches"]),
        (&"k = 9".into(), &(32 * 30).into())
    );
    // the boxes are opaque and the ground is not
    let alpha = [
        "--patches",
        "--data",
        &images,
        "--masks",
        "alpha",
        "--image-size",
        "64",
    ];
    let report = trained.run("probe", &[&alpha[..], &["--splits", "2"]].concat());
    let (iou, _, classes) = first(&report);
    assert!(iou > number(&report["constant_mean_iou"]) + 0.3, "{report}");
    assert_eq!(
        (&classes[0]["name"], &classes[1]["name"]),
        (&"background".into(), &"foreground".into())
    );
    assert!(number(&report["rows"][0]["mean_iou_deviation"]) > 0.0);
    assert_eq!(report["rows"][0]["chosen"].as_array().unwrap().len(), 2);
}

#[test]
fn masks_of_other_folders_are_found() {
    let (trained, images, masks) = with_shapes("other-masks");
    let (val, val_masks) = (trained.out("val"), trained.out("val-masks"));
    shapes(val.as_ref(), val_masks.as_ref(), 6, 2);
    // a class that training lacks
    let strange = Path::new(&val_masks).join("1.png");
    GrayImage::from_pixel(64, 64, Luma([7]))
        .save(strange)
        .unwrap();
    let flags = [
        "--patches",
        "--data",
        &images,
        "--masks",
        &masks,
        "--val",
        &val,
    ];
    let report = trained.run(
        "probe",
        &[&flags[..], &["--val-masks", &val_masks]].concat(),
    );
    let (_, _, classes) = first(&report);
    let last = classes.last().unwrap();
    assert_eq!(
        (&last["class"], &last["iou"], &last["in_training"]),
        (&7.into(), &0.0.into(), &false.into())
    );
    // the same as parts of one data set
    let parts = trained.out("parts");
    for (from, part) in [
        (&images, "shapes/train"),
        (&val, "shapes/val"),
        (&masks, "masks/train"),
        (&val_masks, "masks/val"),
    ] {
        let to = Path::new(&parts).join(part);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::rename(from, to).unwrap();
    }
    let (images, masks) = (format!("{parts}/shapes"), format!("{parts}/masks"));
    let of_parts = trained.run(
        "probe",
        &["--patches", "--data", &images, "--masks", &masks],
    );
    assert_eq!(of_parts["rows"], report["rows"]);
}

/// The folder has the name under which the sheet is written before it is whole.
#[test]
fn results_are_printed_where_their_sheet_cannot_be_written() {
    let (trained, images, masks) = with_shapes("no-sheet");
    let sheet = trained.out("sheet.png");
    fs::create_dir(format!("{sheet}.tmp")).unwrap();
    let flags = ["--masks", &masks, "--out", &sheet, "--json"];
    let output = ibot(&probe_flags(&trained, &images, &flags));
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("sheet.png"), "{said}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(number(&report["rows"][0]["mean_iou"]) > 0.0);
    assert_eq!(report["out"], Value::Null);
}

/// A mask has the name that a list gives its image; a whole path is none, and the image is not taken for its mask.
#[test]
fn masks_of_listed_images_are_found_by_their_names() {
    let (trained, images, masks) = with_shapes("listed-masks");
    let list = trained.out("list.txt");
    let names = crate::shards::files(images.as_ref());
    let listed = |between: &str| {
        let lines = names.iter().map(|name| {
            let name = name.display();
            format!("{images}{between}{name}\n")
        });
        fs::write(&list, lines.collect::<String>()).unwrap();
    };
    listed("/");
    let flags = probe_flags(&trained, &list, &["--masks", &masks]);
    refused(&flags, &["is listed by its absolute path", "FOLDER/./NAME"]);
    listed("/./");
    let flags = ["--patches", "--data", &list, "--masks", &masks];
    let of_list = trained.run("probe", &flags);
    let of_folder = trained.run(
        "probe",
        &["--patches", "--data", &images, "--masks", &masks],
    );
    assert_eq!(of_list["images"], of_folder["images"]);
}

/// Arguments of a probe of patches.
fn probe_flags(trained: &Trained, images: &str, more: &[&str]) -> Vec<String> {
    let flags = [
        "probe",
        "--model",
        &trained.model,
        "--backend",
        "flex",
        "--patches",
        "--data",
        images,
    ];
    flags.iter().chain(more).map(ToString::to_string).collect()
}

#[test]
fn masks_that_do_not_fit_are_refused() {
    let (trained, images, masks) = with_shapes("bad-masks");
    let with = |more: &[&str]| probe_flags(&trained, &images, more);
    let (empty, file) = (trained.out("empty"), trained.out("file"));
    fs::create_dir(&empty).unwrap();
    fs::write(&file, "").unwrap();
    refused(
        &with(&["--masks", &empty]),
        &["empty", "has no mask", "empty/1.png"],
    );
    refused(&with(&["--masks", &file]), &["--masks", "no folder"]);
    refused(
        &with(&["--masks", &format!("{images}/deep")]),
        &["--masks", "inside the image folder"],
    );
    refused(
        &with(&["--masks", &masks, "--patches-per-image", "0"]),
        &["--patches-per-image", "at least 1"],
    );
    refused(
        &with(&["--masks", &masks, "--optimizer", "sgd"]),
        &["--optimizer", "lbfgs"],
    );
    refused(
        &with(&["--masks", &masks, "--val", &images]),
        &["--val", "--val-masks"],
    );
    refused(
        &with(&["--masks", &masks, "--out", "sheet.gif"]),
        &["--out", ".png"],
    );
    for wrong in [&["--features", "both", "--masks", &masks][..], &[]] {
        assert_eq!(ibot(&with(wrong)).status.code(), Some(2));
    }
    let without = [
        "probe",
        "--model",
        &trained.model,
        "--data",
        &images,
        "--masks",
        &masks,
    ];
    assert_eq!(
        ibot(&without).status.code(),
        Some(2),
        "--masks without --patches"
    );
    let all = |level: u8| {
        for at in 0..40 {
            let folder = if at % 3 == 0 { "deep" } else { "." };
            let mask = Path::new(&masks).join(folder).join(format!("{at}.png"));
            GrayImage::from_fn(64, 64, |x, _| Luma([if x < 20 { 255 } else { level }]))
                .save(mask)
                .unwrap();
        }
    };
    all(0);
    refused(
        &with(&["--masks", &masks]),
        &["shapes", "class 0", "such as 1"],
    );
    all(255);
    refused(&with(&["--masks", &masks]), &["shapes", "ignored (255)"]);
    // one of another size
    GrayImage::new(64, 60)
        .save(Path::new(&masks).join("1.png"))
        .unwrap();
    refused(
        &with(&["--masks", &masks]),
        &["1.png", "64 x 60", "64 x 64"],
    );
    // and images without an alpha channel
    for at in 0..40 {
        let folder = if at % 3 == 0 { "deep" } else { "." };
        let path = Path::new(&images).join(folder).join(format!("{at}.png"));
        image::open(&path).unwrap().into_rgb8().save(&path).unwrap();
    }
    refused(&with(&["--masks", "alpha"]), &["no alpha channel"]);
}

#[test]
fn images_without_a_mask_are_left_out_and_counted() {
    let (trained, images, masks) = with_shapes("few-masks");
    for name in ["1.png", "deep/3.png"] {
        fs::remove_file(Path::new(&masks).join(name)).unwrap();
    }
    let output = ibot(&probe_flags(
        &trained,
        &images,
        &["--masks", &masks, "--json"],
    ));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&report["images"], &report["without_mask"]),
        (&38.into(), &2.into())
    );
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        said.contains("2 images without a mask") && said.contains("1.png"),
        "{said}"
    );
}
