//! Folders of Hugging Face's transformers: given as models, and written.

use std::fs;
use std::path::{Path, PathBuf};

use crate::{Scratch, ibot, refused, succeeds};

fn fixture(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/transformers");
    folder.join(name).to_string_lossy().into_owned()
}

/// The features of a table in CSV: all columns behind the image's name and class.
fn features(file: &str) -> Vec<Vec<f64>> {
    let text = fs::read_to_string(file).unwrap();
    let rows = text.lines().skip(1);
    let numbers = |row: &str| {
        row.split(',')
            .filter_map(|cell| cell.parse().ok())
            .collect()
    };
    rows.map(numbers).collect()
}

fn distance(a: &[Vec<f64>], b: &[Vec<f64>]) -> f64 {
    assert!(a.len() == b.len() && !a.is_empty());
    let pairs = a.iter().flatten().zip(b.iter().flatten());
    let largest = a.iter().flatten().fold(0.0_f64, |max, x| max.max(x.abs()));
    pairs.fold(0.0_f64, |max, (x, y)| max.max((x - y).abs())) / largest
}

#[test]
fn a_folder_is_a_model_of_every_command() {
    let scratch = Scratch::new("transformers-in");
    let (images, out) = (scratch.images(), scratch.path("features.csv"));
    for name in ["vit", "dinov2", "registers"] {
        let folder = fixture(name);
        let on = ["--backend", "flex", "--data", &images, "--model", &folder];
        let said = succeeds(&[&["embed", "--out", &out][..], &on].concat());
        assert!(said.contains("from preprocessor_config.json"), "{said}");
        assert_eq!(features(&out).len(), 10);
        succeeds(&[&["knn", "--k", "1"][..], &on].concat());
        let text = succeeds(&["inspect", &folder]);
        for part in ["custom, by config.json", "width 16, 2 blocks, 2 heads"] {
            assert!(text.contains(part), "{part:?} is not in {text}");
        }
        // the shape and the normalization of the weights start a run
        let print = [
            "train",
            "--data",
            "x",
            "--preset",
            "stable-pretraining",
            "--pretrained",
            &folder,
            "--print-config",
        ];
        let table: toml::Table = succeeds(&print).parse().unwrap();
        let vit = table["method"]["vit"].as_table().unwrap();
        assert_eq!(vit["patch_size"].as_integer(), Some(4));
        let std: Vec<f64> = table["augment"]["std"].clone().try_into().unwrap();
        assert_eq!(std, [0.2, 0.25, 0.3]);
    }
    let (run, folder) = (scratch.path("run"), fixture("registers"));
    let config = scratch.path("small.toml");
    let small = "batch_size = 2\n[method]\nimage_size = 16\nprojector_hidden_dim = 16\nprojector_bottleneck_dim = 8\n\
                 n_cls_prototypes = 8\nn_patch_prototypes = 8\n[method.vit]\npatch_size = 4\nembed_dim = 16\ndepth = 2\n\
                 num_heads = 2\nmlp_ratio = 2.0\nreg_tokens = 3\nno_embed_class = true\ninit_values = 1.0\n";
    fs::write(&config, small).unwrap();
    let train = [
        "train",
        "--backend",
        "flex",
        "--steps",
        "1",
        "--data",
        &images,
    ];
    let more = ["--out", &run, "--config", &config, "--pretrained", &folder];
    succeeds(&[&train[..], &more, &["--learning-rate", "0"]].concat());
    // unchanged by a learning rate of zero; the images' part differs, so that only the weights are compared
    let timm = ibot::files::read_safetensors(&PathBuf::from(run).join("student.safetensors"));
    let source = ibot::files::model::read_model(Path::new(&folder), &Default::default());
    let (timm, source) = (timm.unwrap(), source.unwrap());
    for (key, tensor) in &source.tensors {
        assert!(timm[key] == *tensor, "{key}");
    }
}

#[test]
fn a_run_is_written_and_read_back() {
    let scratch = Scratch::new("transformers-out");
    let train = scratch.train(&["--steps", "2"]);
    assert!(ibot(&train).status.success());
    let (run, images) = (scratch.path("run"), scratch.path("images"));
    let (folder, csv) = (
        scratch.path("for/transformers"),
        scratch.path("features.csv"),
    );
    let format = ["--format", "transformers", "--out", &folder];
    let said = succeeds(&[&["export", "--run", &run][..], &format].concat());
    assert!(
        said.contains("the teacher's backbone, after 2 steps"),
        "{said}"
    );
    let embedded = |model: &str| {
        let on = ["--backend", "flex", "--data", &images, "--model", model];
        let said = succeeds(&[&["embed", "--out", &csv][..], &on].concat());
        (features(&csv), said)
    };
    let teacher = scratch.path("run/teacher.safetensors");
    let (of_run, _) = embedded(&teacher);
    let (of_folder, said) = embedded(&folder);
    // its card came along, and its fingerprint is that of the weights
    assert!(
        said.contains("features of the built-in images are"),
        "{said}"
    );
    assert!(distance(&of_run, &of_folder) < 1e-6);
    // what another program writes has no card
    let files = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name());
    let mut files: Vec<_> = files.map(|name| name.into_string().unwrap()).collect();
    files.sort();
    assert_eq!(
        files,
        [
            "config.json",
            "model.safetensors",
            "preprocessor_config.json"
        ]
    );
    let weights = Path::new(&folder).join("model.safetensors");
    let tensors = ibot::files::read_safetensors(&weights).unwrap();
    ibot::files::write_safetensors(&weights, &tensors).unwrap();
    let (without_card, said) = embedded(&folder);
    assert!(said.contains("from preprocessor_config.json"), "{said}");
    assert!(distance(&of_run, &without_card) < 1e-6);
    // a model file goes the same way, at another size too, but not over what another program wrote
    let model = ["export", "--model", &teacher, "--image-size", "24"];
    refused(
        &[&model[..], &format].concat(),
        &["model.safetensors", "is not of `ibot export`"],
    );
    fs::remove_dir_all(&folder).unwrap();
    for _ in 0..2 {
        let said = succeeds(&[&model[..], &format].concat());
        assert!(said.contains("for images of 24 x 24"), "{said}");
    }
    let itself = ["export", "--model", &folder];
    refused(
        &[&itself[..], &format].concat(),
        &["is a file that this command reads"],
    );
    let text = succeeds(&["inspect", &folder]);
    assert!(text.contains("in 24 x 24"), "{text}");
}
