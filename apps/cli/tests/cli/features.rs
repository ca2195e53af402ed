//! Features that are computed once: files that `ibot embed` updates, and that other commands read.

use std::fs;

use ibot::embedding::EmbeddingTable;
use serde_json::Value;

use crate::evaluation::{Trained, trained_as};
use crate::{ibot, refused, stdout, succeeds};

fn table(file: &str) -> EmbeddingTable {
    EmbeddingTable::read(file.as_ref()).unwrap()
}

/// Features of all images in a file of each format, and the run's model.
fn embedded(name: &str, endings: &[&str]) -> (Trained, Vec<String>) {
    let trained = trained_as(name, &["--steps", "3"]);
    let files = endings.iter().map(|ending| {
        let out = trained.out(&format!("all.{ending}"));
        trained.run("embed", &["--data", &trained.images, "--out", &out]);
        out
    });
    let files = files.collect();
    (trained, files)
}

fn json(arguments: &[&str]) -> Value {
    serde_json::from_str(&succeeds(&[arguments, &["--json"]].concat())).unwrap()
}

/// The only image whose features are missing is one that has none.
#[test]
fn a_damaged_image_is_passed_over_each_time() {
    let trained = trained_as("damaged-again", &["--steps", "1"]);
    let damaged = trained.scratch.0.join("images/odd/damaged.png");
    let mut bytes = fs::read(trained.scratch.0.join("images/odd/1.png")).unwrap();
    bytes[50..].fill(0); // its header stays
    fs::write(damaged, bytes).unwrap();
    let out = trained.out("all.safetensors");
    let flags = ["--data", &trained.images, "--out", &out];
    for kept in [0, 10, 10] {
        let report = trained.run("embed", &flags);
        assert_eq!(report["images"], 10);
        assert_eq!(report["kept"].as_u64().unwrap_or(0), kept);
    }
}

#[test]
fn only_new_and_changed_images_are_computed() {
    let (trained, files) = embedded("update", &["safetensors"]);
    let (data, out) = (&trained.images, &files[0]);
    let before = table(out);
    let flags = ["--data", data, "--out", out];
    let counts = |report: &Value| {
        ["images", "kept", "removed"].map(|key| report[key].as_u64().unwrap_or(u64::MAX))
    };
    let report = trained.run("embed", &flags);
    assert_eq!(counts(&report), [10, 10, 0]);
    assert_eq!(table(out), before);

    // one is new, one is other, one is gone, one has another time and equal bytes, one has another class
    let at = |name: &str| trained.scratch.path(&format!("images/{name}"));
    fs::copy(at("odd/1.png"), at("odd/new.png")).unwrap();
    fs::copy(at("odd/5.png"), at("odd/3.png")).unwrap();
    fs::remove_file(at("odd/9.png")).unwrap();
    let touched = fs::File::options()
        .write(true)
        .open(at("odd/7.png"))
        .unwrap();
    touched
        .set_modified(std::time::SystemTime::UNIX_EPOCH)
        .unwrap();
    fs::rename(at("even/deep/er/0.png"), at("odd/0.png")).unwrap();
    let report = trained.run("embed", &flags);
    assert_eq!(counts(&report), [10, 6, 2]);
    let updated = table(out);
    let anew = trained.out("anew.safetensors");
    trained.run("embed", &["--data", data, "--out", &anew]);
    let anew = table(&anew);
    assert_eq!(updated.paths, anew.paths);
    assert_eq!(updated.labels, anew.labels);
    assert_eq!(updated.stamps, anew.stamps);
    for (updated, anew) in updated.features.iter().zip(&anew.features) {
        assert!((updated - anew).abs() < 1e-5, "{updated} {anew}");
    }
    let text = stdout(&ibot(&[
        "embed",
        "--model",
        &trained.model,
        "--data",
        data,
        "--out",
        out,
    ]));
    assert!(text.contains("10 of them kept"), "{text}");

    // asked to, and where the features are others, all are computed
    let report = trained.run("embed", &[&flags[..], &["--recompute"]].concat());
    assert_eq!(report["kept"], Value::Null);
    let report = trained.run("embed", &[&flags[..], &["--features", "patch"]].concat());
    assert_eq!(report["kept"], Value::Null);
    let student = trained.scratch.path("run/student.safetensors");
    let report = json(
        &[
            &["embed", "--model", &student, "--backend", "flex"],
            &flags[..],
        ]
        .concat(),
    );
    assert_eq!(report["kept"], Value::Null);
}

#[test]
fn files_of_features_take_the_place_of_model_and_folder() {
    let endings = ["safetensors", "parquet", "csv", "npy"];
    let (trained, files) = embedded("features", &endings);
    let data = &trained.images;
    let by_model = |command: &str, more: &[&str]| {
        let mut report = trained.run(command, &[&["--data", data], more].concat());
        report
            .as_object_mut()
            .unwrap()
            .retain(|key, _| !["model", "data"].contains(&key.as_str()));
        report
    };
    let cases: [(&str, &[&str]); 3] = [
        ("knn", &["--k", "1,3", "--held-out", "0.4"]),
        ("probe", &["--held-out", "0.4"]),
        ("cluster", &["--clusters", "3"]),
    ];
    for (command, more) in cases {
        let by_model = by_model(command, more);
        for file in &files {
            let mut expected = by_model.clone();
            // these do not say of how many blocks their features are
            if command == "probe" && !file.ends_with("safetensors") && !file.ends_with("parquet") {
                expected["rows"][0]["classifier"] = "all features".into();
            }
            let flags = [&[command, "--features", file], more].concat();
            let mut report = json(&flags);
            if command != "cluster" {
                assert_eq!(report["model"].as_str(), Some(file.as_str()));
            }
            report
                .as_object_mut()
                .unwrap()
                .retain(|key, _| !["model", "data"].contains(&key.as_str()));
            assert_eq!(report, expected, "{command} {file}");
            // the same images, found in the file by their paths
            let by_folder = json(&[&flags[..], &["--data", data]].concat());
            assert_eq!(by_folder["images"], expected["images"]);
        }
    }
    // an image that is not in the file is left out and named, and computed where there is a model
    let new = trained.scratch.path("images/odd/new.png");
    fs::copy(trained.scratch.path("images/odd/1.png"), &new).unwrap();
    let said = succeeds(&["knn", "--features", &files[0], "--data", data, "--k", "1"]);
    assert!(
        said.contains("1 image of") && said.contains("new.png first"),
        "{said}"
    );
    let report = trained.run(
        "knn",
        &["--features", &files[0], "--data", data, "--k", "1"],
    );
    assert_eq!(report["images"].as_u64(), Some(11));
    assert_eq!(table(&files[0]).len(), 11);
    let said = succeeds(&["knn", "--features", &files[0], "--data", data, "--k", "1"]);
    assert!(!said.contains("left out"), "{said}");
}

#[test]
fn a_store_is_made_by_the_first_command_that_needs_it() {
    let trained = trained_as("store", &["--steps", "3"]);
    let (data, store) = (&trained.images, trained.out("store.safetensors"));
    let flags = ["--data", data, "--features", &store];
    let first = trained.run("knn", &[&flags[..], &["--k", "1"]].concat());
    let made = table(&store);
    assert_eq!(made.len(), 10);
    let again = trained.run("knn", &[&flags[..], &["--k", "1"]].concat());
    assert_eq!(first, again);
    assert_eq!(table(&store), made);
    trained.run("cluster", &[&flags[..], &["--clusters", "2"]].concat());
    assert_eq!(table(&store), made);
    let inside = trained.scratch.path("images/store.safetensors");
    let knn = ["knn", "--model", &trained.model, "--data", data];
    refused(
        &[&knn[..], &["--features", &inside]].concat(),
        &["--features", "inside"],
    );
}

#[test]
fn features_that_do_not_fit_are_refused() {
    let (trained, files) = embedded("no-features", &["safetensors", "csv"]);
    let (data, model) = (&trained.images, &trained.model);
    let student = trained.scratch.path("run/student.safetensors");
    let of_other = [
        "knn",
        "--model",
        &student,
        "--backend",
        "flex",
        "--data",
        data,
    ];
    refused(
        &[&of_other[..], &["--features", &files[0]]].concat(),
        &["all.safetensors", "another model", "ibot embed"],
    );
    let missing = trained.out("missing.safetensors");
    refused(
        &["knn", "--features", &missing],
        &["missing.safetensors", "does not exist", "ibot embed"],
    );
    let csv = [
        "knn",
        "--model",
        model,
        "--data",
        data,
        "--features",
        &files[1],
    ];
    refused(&csv, &["--features", ".safetensors with --model"]);
    let wide = trained.out("wide.safetensors");
    trained.run("embed", &["--data", data, "--out", &wide]);
    let sized = ["knn", "--model", model, "--data", data, "--features", &wide];
    refused(
        &[&sized[..], &["--image-size", "24", "--backend", "flex"]].concat(),
        &["wide.safetensors", "at 16 pixels", "at 24 pixels"],
    );
    let probe = ["probe", "--features", &files[0], "--layers", "2"];
    refused(&probe, &["--layers", "must be from 1 to 1"]);
    let probe = ["probe", "--features", &files[1], "--layers", "1"];
    refused(&probe, &["--layers = 1", "does not say of how many blocks"]);
    refused(
        &["knn", "--model", model],
        &["--data", "absent", "--features FILE"],
    );
    refused(
        &["knn", "--data", data],
        &["--model", "absent", "--features FILE"],
    );
    let elsewhere = trained.out("elsewhere");
    fs::rename(data, &elsewhere).unwrap();
    let moved = ["knn", "--features", &files[0], "--data", &elsewhere];
    refused(&moved, &["elsewhere", "none of its images", "ibot embed"]);
    let mut broken = table(&files[0]);
    broken.features[17] = f32::NAN;
    broken.write(files[0].as_ref()).unwrap();
    refused(
        &["cluster", "--features", &files[0]],
        &["all.safetensors", "not finite"],
    );
}

#[test]
fn an_index_is_updated_and_leaves_out_the_query() {
    let (trained, files) = embedded("index", &["npy"]);
    let (data, index) = (&trained.images, trained.out("index.safetensors"));
    let query = trained.scratch.path("images/odd/3.png");
    let copy = trained.scratch.path("images/even/copy.png");
    fs::copy(&query, &copy).unwrap();
    let flags = [
        "--query", &query, "--data", data, "--index", &index, "--top", "20",
    ];
    let found = trained.run("search", &flags);
    let paths = |report: &Value, key: &str| -> Vec<String> {
        let found = report[key].as_array().unwrap().iter();
        let path = |hit: &Value| hit["path"].as_str().or(hit.as_str()).unwrap().to_owned();
        found.map(path).collect()
    };
    assert_eq!(paths(&found, "hits").len(), 9);
    let mut left_out = paths(&found, "left_out");
    left_out.sort();
    assert_eq!(left_out, [copy.clone(), query.clone()]);
    // again: nothing is written, as nothing changed
    let made = fs::metadata(&index).unwrap().modified().unwrap();
    assert_eq!(trained.run("search", &flags), found);
    assert_eq!(fs::metadata(&index).unwrap().modified().unwrap(), made);
    fs::remove_file(&copy).unwrap();
    let fewer = trained.run("search", &flags);
    assert_eq!(paths(&fewer, "left_out"), std::slice::from_ref(&query));
    assert_eq!(table(&index).len(), 10);
    // without the model, for an image whose features are there
    for file in [&index, &files[0]] {
        let alone = json(&[
            "search",
            "--query",
            &query,
            "--features",
            file,
            "--top",
            "20",
        ]);
        assert_eq!(paths(&alone, "hits"), paths(&fewer, "hits"));
    }
    let other = trained.out("other.png");
    image::RgbImage::from_pixel(20, 20, image::Rgb([9, 90, 200]))
        .save(&other)
        .unwrap();
    refused(
        &["search", "--query", &other, "--index", &index],
        &["--query", "other.png", "--model"],
    );
    let npy = [
        "search",
        "--model",
        &trained.model,
        "--query",
        &other,
        "--index",
        &files[0],
    ];
    refused(&npy, &["--index", ".safetensors with --model"]);
}

#[test]
fn clusters_are_a_table() {
    let (trained, files) = embedded("cluster-table", &["safetensors"]);
    let csv = trained.out("clusters.csv");
    let cluster = ["cluster", "--features", &files[0], "--clusters", "3"];
    let report = json(&[&cluster[..], &["--table", &csv]].concat());
    let text = fs::read_to_string(&csv).unwrap();
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some("path,label,cluster,distance"));
    let mut sizes = [0; 3];
    for (line, path) in lines.zip(table(&files[0]).paths) {
        let fields: Vec<&str> = line.split(',').collect();
        assert_eq!(fields[0], path);
        let cluster: usize = fields[2].parse().unwrap();
        let members = report["clusters"][cluster]["paths"].as_array().unwrap();
        assert!(members.iter().any(|member| member == fields[0]), "{line}");
        assert!(fields[3].parse::<f32>().unwrap() >= 0.0);
        sizes[cluster] += 1;
    }
    assert_eq!(sizes.iter().sum::<usize>(), 10);
    let parquet = trained.out("clusters.parquet");
    succeeds(&[&cluster[..], &["--table", &parquet]].concat());
    assert!(fs::read(&parquet).unwrap().starts_with(b"PAR1"));
    let txt = trained.out("clusters.txt");
    refused(
        &["cluster", "--features", &files[0], "--table", &txt],
        &["--table", ".csv or .parquet"],
    );
}

/// Sheets of images that are no longer there.
#[test]
fn a_sheet_without_images_is_refused() {
    let (trained, files) = embedded("cluster-sheets", &["safetensors"]);
    let sheets = trained.out("sheets");
    let cluster = ["cluster", "--features", &files[0], "--out", &sheets];
    let of = |clusters: &'static str| [&cluster[..], &["--clusters", clusters]].concat();
    assert!(!succeeds(&of("2")).contains("earlier call"));
    fs::remove_file(trained.scratch.path("images/odd/3.png")).unwrap();
    let said = succeeds(&of("1"));
    for part in [
        "1 of 10 images cannot be read",
        "removed 1 drawing of an earlier call, such as",
        "cluster-001.png",
    ] {
        assert!(said.contains(part), "{part} is not in {said}");
    }
    assert!(!fs::exists(format!("{sheets}/cluster-001.png")).unwrap());
    let before = fs::read(format!("{sheets}/cluster-000.png")).unwrap();
    fs::remove_dir_all(&trained.images).unwrap();
    let parts = ["all.safetensors", "none of its 10 images can be read"];
    refused(&of("1"), &parts);
    assert_eq!(
        fs::read(format!("{sheets}/cluster-000.png")).unwrap(),
        before
    );
}

/// Features of tiles are another kind of file, which these commands name, and say what to do.
#[test]
fn features_of_tiles_are_refused() {
    let trained = trained_as("tile-features", &["--steps", "3"]);
    let query = trained.scratch.path("images/odd/3.png");
    for ending in ["safetensors", "parquet", "csv", "npy"] {
        let out = trained.out(&format!("tiles.{ending}"));
        let flags = ["--data", &trained.images, "--out", &out, "--tile", "16"];
        trained.run("embed", &flags);
        let said = ["features of tiles", "without a tile size"];
        for command in ["knn", "probe", "cluster", "map", "outliers"] {
            refused(&[command, "--features", &out], &said);
        }
        refused(&["search", "--index", &out, "--query", &query], &said);
    }
}
