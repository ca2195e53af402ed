//! The commands that use a model, on one that a tiny run wrote.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::{Scratch, TINY, has_adapter, ibot, refused, stdout};

/// A run of two epochs with its curves, and the arguments that name its teacher.
pub struct Trained {
    pub scratch: Scratch,
    pub model: String,
    pub images: String,
}

pub fn trained(name: &str) -> Trained {
    trained_as(
        name,
        &["--steps", "60", "--tensorboard", "--learning-rate", "0.01"],
    )
}

/// A run with these flags.
pub fn trained_as(name: &str, flags: &[&str]) -> Trained {
    let scratch = Scratch::new(name);
    let train = scratch.train(flags);
    let output = ibot(&train);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    fs::remove_file(scratch.0.join("images/odd/cut.png")).unwrap();
    Trained {
        model: scratch.path("run/teacher.safetensors"),
        images: scratch.path("images"),
        scratch,
    }
}

impl Trained {
    fn run_on(&self, backend: &str, command: &str, more: &[&str]) -> Value {
        let flags = [
            command,
            "--model",
            &self.model,
            "--backend",
            backend,
            "--json",
        ];
        let output = ibot(&[&flags[..], more].concat());
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command}: {errors}");
        assert!(errors.contains(&format!("backend {backend}")), "{errors}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    pub fn run(&self, command: &str, more: &[&str]) -> Value {
        self.run_on("flex", command, more)
    }

    pub fn out(&self, name: &str) -> String {
        self.scratch.path(name)
    }
}

#[test]
fn embeds_on_each_backend_and_into_each_file() {
    let trained = trained("embed");
    let data = &trained.images;
    let mut found = Vec::new();
    let backends = ["flex", "ndarray", "wgpu"];
    for backend in backends
        .iter()
        .filter(|name| **name != "wgpu" || has_adapter())
    {
        let out = trained.out(&format!("{backend}.safetensors"));
        let report = trained.run_on(
            backend,
            "embed",
            &["--data", data, "--out", &out, "--batch-size", "3"],
        );
        assert_eq!(
            (report["images"].as_u64(), report["width"].as_u64()),
            (Some(10), Some(16))
        );
        found.push(ibot::embedding::EmbeddingTable::read(out.as_ref()).unwrap());
    }
    for table in &found {
        assert_eq!(table.paths, found[0].paths);
        assert!(table.paths.is_sorted() && table.paths[0].ends_with("even/deep/er/0.png"));
        assert_eq!(table.labels[0].as_deref(), Some("even"));
        assert_eq!(table.labels[9].as_deref(), Some("odd"));
        let pairs = table.features.iter().zip(&found[0].features);
        for (found, expected) in pairs {
            assert!((found - expected).abs() < 1e-4, "{found} {expected}");
        }
    }
    for (ending, features, width) in [
        ("npy", "patch", 16),
        ("csv", "both", 32),
        ("parquet", "cls", 16),
    ] {
        let out = trained.out(&format!("all.{ending}"));
        let report = trained.run(
            "embed",
            &["--data", data, "--out", &out, "--features", features],
        );
        assert_eq!(report["width"].as_u64(), Some(width));
        assert!(fs::metadata(out).unwrap().len() > 10 * 16 * 4);
    }
    let model = &trained.model;
    let embed = [
        "embed",
        "--model",
        model,
        "--data",
        data,
        "--out",
        "features.txt",
    ];
    refused(&embed, &["features.txt", ".parquet"]);
}

#[test]
fn classifies_and_groups() {
    let trained = trained("classify");
    let data = &trained.images;
    let share = |value: &Value| {
        value
            .as_f64()
            .is_some_and(|value| (0.0..=1.0).contains(&value))
    };
    let report = trained.run("knn", &["--data", data, "--k", "1,3", "--held-out", "0.4"]);
    assert_eq!(
        (report["classes"].as_u64(), report["splits"].as_u64()),
        (Some(2), Some(5))
    );
    assert_eq!(report["rows"][1]["classifier"], "k = 3");
    assert!(share(&report["rows"][0]["top1"]) && share(&report["rows"][0]["top5"]));
    // asked about the images it knows, the nearest neighbor is each image itself
    let report = trained.run("knn", &["--data", data, "--val", data, "--k", "1"]);
    assert_eq!(report["rows"][0]["top1"].as_f64(), Some(1.0));
    for (optimizer, key, chosen) in [
        ("lbfgs", "--strengths", 0.01),
        ("sgd", "--learning-rates", 0.1),
    ] {
        let one = chosen.to_string();
        let flags = ["--optimizer", optimizer, "--features", "both"];
        let candidates = [key, &one, "--val", data];
        let report = trained.run(
            "probe",
            &[&["--data", data], &flags[..], &candidates].concat(),
        );
        let row = &report["rows"][0];
        assert!(share(&row["top1"]), "{report}");
        assert_eq!(
            (row["classifier"].as_str(), row["chosen"][0].as_f64()),
            (Some("last block"), Some(chosen))
        );
    }
    let sheets = trained.out("sheets");
    let report = trained.run(
        "cluster",
        &["--data", data, "--clusters", "3", "--out", &sheets],
    );
    let sizes = report["clusters"].as_array().unwrap().iter();
    assert_eq!(
        sizes
            .map(|cluster| cluster["images"].as_u64().unwrap())
            .sum::<u64>(),
        10
    );
    assert!(share(&report["normalized_mutual_information"]));
    assert_eq!(fs::read_dir(sheets).unwrap().count(), 3);
    let model = &trained.model;
    for (flag, value) in [("--layers", "2"), ("--layers", "1,0"), ("--strengths", "0")] {
        let probe = [
            "probe",
            "--model",
            model,
            "--backend",
            "flex",
            "--data",
            data,
            flag,
            value,
        ];
        refused(&probe, &[flag, "must be"]);
    }
    let odd = trained.scratch.path("images/odd");
    refused(
        &["knn", "--model", model, "--data", &odd],
        &["odd", "classes"],
    );
    refused(
        &[
            "cluster",
            "--model",
            model,
            "--data",
            data,
            "--clusters",
            "11",
        ],
        &["--clusters = 11", "10"],
    );
}

#[test]
fn features_of_several_blocks() {
    let scratch = Scratch::new("layers");
    let mut train = scratch.train(&["--steps", "2"]);
    let deep = scratch.path("deep.toml");
    fs::write(&deep, TINY.replace("depth = 1", "depth = 3")).unwrap();
    train.extend(["--config".to_owned(), deep]);
    train.drain(7..9); // the other configuration
    let output = ibot(&train);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let trained = Trained {
        model: scratch.path("run/teacher.safetensors"),
        images: scratch.path("images"),
        scratch,
    };
    let data = &trained.images;
    let embedded = |layers: &str, features: &str| {
        let out = trained.out(&format!("{layers}-{features}.safetensors"));
        let flags = [
            "--data",
            data,
            "--out",
            &out,
            "--layers",
            layers,
            "--features",
            features,
        ];
        trained.run("embed", &flags);
        ibot::embedding::EmbeddingTable::read(out.as_ref()).unwrap()
    };
    let (one, two) = (embedded("1", "both"), embedded("2", "both"));
    assert_eq!((one.width, two.width), (2 * 16, 4 * 16));
    let rows = one
        .features
        .chunks(one.width)
        .zip(two.features.chunks(two.width));
    for (one, two) in rows {
        assert_eq!(one, &two[32..], "the last block's features are last");
        assert_ne!(one, &two[..32]);
    }
    let patch = embedded("1", "patch");
    let both = one.features.chunks(32).flat_map(|row| &row[16..]);
    assert!(
        both.eq(&patch.features),
        "the class token, then the patches"
    );
    let report = trained.run("probe", &["--data", data, "--val", data, "--layers", "1,3"]);
    let names = ["last block", "last 3 blocks"];
    let rows = report["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 2);
    for (row, name) in rows.iter().zip(names) {
        assert_eq!(row["classifier"], name);
    }
}

#[test]
fn finds_the_same_with_and_without_an_index() {
    let trained = trained("search");
    let (data, index) = (&trained.images, trained.out("index.safetensors"));
    let sheet = trained.out("found.png");
    let query = trained.scratch.path("images/odd/3.png");
    let report = trained.run(
        "search",
        &[
            "--query", &query, "--data", data, "--index", &index, "--top", "4",
        ],
    );
    let by_index = trained.run(
        "search",
        &[
            "--query", &query, "--index", &index, "--top", "4", "--out", &sheet,
        ],
    );
    assert_eq!(report, by_index);
    assert_eq!(report["left_out"][0].as_str(), Some(query.as_str()));
    assert_eq!(report["hits"].as_array().unwrap().len(), 4);
    assert!(image::open(&sheet).unwrap().width() > 300);
    // another model's index
    let student = trained.scratch.path("run/student.safetensors");
    let search = [
        "search", "--model", &student, "--query", &query, "--index", &index,
    ];
    refused(&search, &["index.safetensors", "another model"]);
    // features of the same model and width that are others
    let patches = trained.out("patches.safetensors");
    let flags = ["--data", data, "--out", &patches, "--features", "patch"];
    trained.run("embed", &flags);
    let model = &trained.model;
    let search = [
        "search", "--model", model, "--query", &query, "--index", &patches,
    ];
    refused(&search, &["patches.safetensors", "mean patch of 1 block"]);
    // nor are they replaced
    let search = [&search[..], &["--data", data]].concat();
    refused(&search, &["patches.safetensors", "choose another file"]);
}

#[test]
fn draws_maps_and_curves() {
    let trained = trained("visualize");
    let (out, run) = (trained.out("maps"), trained.out("run"));
    let [one, two, same] = ["odd/1.png", "even/deep/er/2.png", "odd/deep/1.png"]
        .map(|name| trained.scratch.path(&format!("images/{name}")));
    fs::create_dir(trained.scratch.0.join("images/odd/deep")).unwrap();
    fs::copy(&one, &same).unwrap();
    let flags = [
        "--image", &one, &two, &same, "--out", &out, "--run", &run, "--html",
    ];
    let report = trained.run("visualize", &flags);
    let files = report["files"].as_array().unwrap();
    for expected in [
        "curve-losses.png",
        "curve-learning-rate.png",
        "curve-agreement.png",
        "curve-ema.png",
        "odd-1-attention.png",
        "deep-1-attention.png",
        "odd-1-attention-head-2.png",
        "2-patch-pca.png",
        "odd-1-2-correspondence.png",
        "odd-1-deep-1-correspondence.png",
        "report.html",
    ] {
        let path = files
            .iter()
            .filter_map(Value::as_str)
            .find(|file| Path::new(file).file_name().unwrap() == expected);
        let path = path.unwrap_or_else(|| panic!("{expected} is not in {files:?}"));
        assert!(fs::metadata(path).unwrap().len() > 500, "{expected}");
    }
    let page = fs::read_to_string(format!("{out}/report.html")).unwrap();
    assert!(
        page.contains("data:image/jpeg;base64,")
            && page.contains("alt=\"odd/1.png: attention, head 2 of 2\"")
            && page.contains(
                "<svg role=\"img\" aria-label=\"Training loss (cross-entropy in nats): total"
            )
            && page.contains("Model and hardware")
            && !page.contains("src=\"http")
    );
    let events = fs::read_dir(trained.scratch.0.join("run/tensorboard")).unwrap();
    assert_eq!(events.count(), 1);
}

#[test]
fn model_files_say_what_they_are() {
    let trained = trained("inspect");
    let text = stdout(&ibot(&["inspect", &trained.model]));
    for said in [
        "teacher of custom",
        "60 steps",
        "width 16",
        "10 training images",
        "license: not given",
    ] {
        assert!(text.contains(said), "{said:?} is not in {text}");
    }
    // weights that compute something else than the file says
    let path = trained.scratch.0.join("changed.safetensors");
    let model =
        ibot::files::model::read_model(trained.model.as_ref(), &Default::default()).unwrap();
    let mut tensors = model.tensors;
    tensors
        .get_mut("norm.weight")
        .unwrap()
        .values
        .iter_mut()
        .for_each(|value| *value *= 1.5);
    ibot::files::model::write_model(&path, model.card.as_ref().unwrap(), &tensors).unwrap();
    let (path, data) = (path.to_string_lossy(), &trained.images);
    let knn = ["knn", "--model", &path, "--backend", "flex", "--data", data];
    refused(
        &knn,
        &["changed.safetensors", "built-in images", "differ by 50.0 %"],
    );
    // and a file of another program needs its name
    let plain = trained.scratch.0.join("plain.safetensors");
    ibot::files::write_safetensors(&plain, &tensors).unwrap();
    let plain = plain.to_string_lossy();
    refused(
        &["knn", "--model", &plain, "--data", data],
        &["--encoder", "plain.safetensors"],
    );
    assert!(stdout(&ibot(&["inspect", &plain])).contains("no architecture in the file"));
}
