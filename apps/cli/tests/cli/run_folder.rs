//! A run folder as a model of other programs: timm's `config.json` beside `model.safetensors`.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::finetune::colors;
use crate::{Scratch, ibot, succeeds};

fn config(folder: &str) -> Value {
    let text = fs::read_to_string(Path::new(folder).join("config.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

#[test]
fn a_run_folder_is_a_model_of_timm_and_of_this_program() {
    let scratch = Scratch::new("run-folder");
    let said = succeeds(
        &scratch
            .train(&["--steps", "2"])
            .iter()
            .map(String::as_str)
            .collect::<Vec<_>>(),
    );
    let run = scratch.path("run");
    let line = format!("timm.create_model(\"local-dir:{run}\", pretrained=True)");
    assert!(said.contains(&line), "{said}");
    let teacher = fs::read(format!("{run}/teacher.safetensors")).unwrap();
    assert!(fs::read(format!("{run}/model.safetensors")).unwrap() == teacher);
    assert!(!Path::new(&run).join("model.safetensors.tmp").exists());
    let found = config(&run);
    assert_eq!(found["architecture"], "vit_base_patch16_224");
    let arguments = &found["model_args"];
    for (key, value) in [
        ("img_size", json!(16)),
        ("patch_size", json!(8)),
        ("embed_dim", json!(16)),
        ("depth", json!(1)),
        ("num_heads", json!(2)),
        ("class_token", json!(true)),
    ] {
        assert_eq!(arguments[key], value, "{key}");
    }
    assert_eq!(arguments.get("init_values"), None);
    let of_images = &found["pretrained_cfg"];
    assert_eq!(of_images["input_size"], json!([3, 16, 16]));
    assert_eq!(of_images["mean"], json!([0.485, 0.456, 0.406]));
    assert_eq!(of_images["crop_pct"], json!(16.0 / 18.0));

    // a later checkpoint replaces both
    assert!(
        ibot(&scratch.train(&["--steps", "4", "--override"]))
            .status
            .success()
    );
    let later = fs::read(format!("{run}/teacher.safetensors")).unwrap();
    assert!(later != teacher && fs::read(format!("{run}/model.safetensors")).unwrap() == later);

    // the folder is a model here, too
    let data = scratch.path("images");
    let knn = |model: &str| {
        let text = succeeds(&[
            "knn",
            "--backend",
            "flex",
            "--json",
            "--k",
            "1",
            "--data",
            &data,
            "--model",
            model,
        ]);
        serde_json::from_str::<Value>(&text).unwrap()["rows"].clone()
    };
    assert_eq!(knn(&run), knn(&format!("{run}/teacher.safetensors")));
    let text = succeeds(&["inspect", &run]);
    assert!(
        text.contains("teacher of custom") && text.contains(&line),
        "{text}"
    );
    // a file elsewhere is opened by its shape
    let file = scratch.path("alone.safetensors");
    let text = succeeds(&["export", "--run", &run, "--out", &file]);
    for part in [
        ", depth=1",
        "class_token=True",
        "alone.safetensors\"",
        "num_classes=0",
    ] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    assert!(succeeds(&["inspect", &file]).contains("alone.safetensors\""));
    // timm opens neither both networks in one file, nor transformers' names
    let full = scratch.path("full.safetensors");
    let folder = scratch.path("for-transformers");
    for (format, out, has, lacks) in [
        (
            "ibot",
            &full,
            "student and teacher with heads of custom",
            "In Python",
        ),
        (
            "transformers",
            &folder,
            "transformers.AutoModel",
            "timm.create_model",
        ),
    ] {
        succeeds(&["export", "--run", &run, "--format", format, "--out", out]);
        let text = succeeds(&["inspect", out]);
        assert!(
            text.contains(has) && !text.contains(lacks),
            "{format}: {text}"
        );
    }
}

#[test]
fn a_named_encoder_needs_its_size_alone() {
    let scratch = Scratch::new("run-folder-named");
    let images = scratch.images();
    let (run, file) = (scratch.path("run"), scratch.path("small.toml"));
    let settings = "batch_size = 2\n[method]\nencoder_name = \"vit_tiny_patch16_224\"\nimage_size = 32\n\
                    projector_hidden_dim = 8\nprojector_bottleneck_dim = 8\nn_cls_prototypes = 8\nn_patch_prototypes = 8\n";
    fs::write(&file, settings).unwrap();
    let train = ["train", "--backend", "flex", "--steps", "1"];
    let paths = ["--data", &images, "--out", &run, "--config", &file];
    succeeds(&[&train[..], &paths].concat());
    let found = config(&run);
    assert_eq!(found["architecture"], "vit_tiny_patch16_224");
    assert_eq!(found["model_args"], json!({"img_size": 32}));
}

#[test]
fn a_classifier_has_its_classes_there_and_in_onnx() {
    let colors = colors("run-folder");
    let flags = ["--epochs", "2", "--val", &colors.val];
    assert!(ibot(&colors.arguments("out", &flags)).status.success());
    let out = colors.file("out");
    let found = config(&out);
    assert_eq!(found["num_classes"], 3);
    assert_eq!(found["label_names"], json!(["blue", "green", "red, dark"]));
    let best = fs::read(format!("{out}/best.safetensors")).unwrap();
    assert!(fs::read(format!("{out}/model.safetensors")).unwrap() == best);
    let onnx = colors.file("classifier.onnx");
    let said = succeeds(&[
        "export", "--model", &out, "--format", "onnx", "--out", &onnx,
    ]);
    assert!(
        said.contains("a classifier of 3 classes with its head"),
        "{said}"
    );
    let bytes = String::from_utf8_lossy(&fs::read(&onnx).unwrap()).into_owned();
    for part in [
        "logits",
        "[\"blue\",\"green\",\"red, dark\"]",
        "resize_shorter_side",
    ] {
        assert!(bytes.contains(part), "{part} is not in the file");
    }
}
