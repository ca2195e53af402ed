//! ONNX files compute in onnxruntime what the model computes (tests/fixtures/onnx_outputs.py): the recorded files are those
//! that are written now, and what onnxruntime made of them is what the model makes.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::{Tensor, TensorData};
use burn_flex::Flex;
use ibot::backbone::{Backbone as _, GlobalPool, VitConfig};
use ibot::data::AugmentConfig;
use ibot::files::model::{CARD_FORMAT, ModelCard, OnnxModel, Preprocessing};
use ibot::files::{NamedTensor, load_backbone, read_safetensors};
use ibot::random::{Random, Stream};

type Tensors = BTreeMap<String, NamedTensor>;

/// Classes of the model with a head.
const CLASSES: [&str; 3] = ["cats", "dogs", "a \"third\""];

/// Entries may be off by so much of the largest one.
const TOLERANCE: f32 = 1e-5;

fn fixture(name: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures")).join(name)
}

/// Name, shape and weights of each model.
fn models() -> Vec<(&'static str, VitConfig, Tensors)> {
    let weights = |name: &str| -> Tensors {
        let file = read_safetensors(&fixture(&format!("torch/{name}.safetensors"))).unwrap();
        let of_backbone = |(key, tensor): (String, _)| {
            Some((key.strip_prefix("teacher/backbone/")?.to_owned(), tensor))
        };
        file.into_iter().filter_map(of_backbone).collect()
    };
    let plain = VitConfig {
        img_size: 8,
        patch_size: 4,
        embed_dim: 8,
        depth: 2,
        num_heads: 2,
        mlp_ratio: 2.0,
        ..VitConfig::default()
    };
    let registers = VitConfig {
        reg_tokens: 2,
        no_embed_class: true,
        init_values: Some(1e-5),
        ..plain.clone()
    };
    let pooled = |global_pool| VitConfig {
        global_pool,
        ..plain.clone()
    };
    let resized = VitConfig {
        img_size: 12,
        ..plain.clone()
    };
    let after_pooling = || {
        let named = weights("timm").into_iter();
        let named = named.map(|(key, tensor)| match key.strip_prefix("norm.") {
            Some(leaf) => (format!("fc_norm.{leaf}"), tensor),
            None => (key, tensor),
        });
        named.collect::<Tensors>()
    };
    let with_head = || {
        let mut tensors = weights("timm");
        for (name, shape) in [("head.weight", vec![3, 8]), ("head.bias", vec![3])] {
            let count = shape.iter().product::<usize>();
            let values = (1..=count).map(|at| (at as f32).sin()).collect();
            tensors.insert(name.to_owned(), NamedTensor { shape, values });
        }
        tensors
    };
    vec![
        ("classifier", plain.clone(), with_head()),
        ("plain", plain.clone(), weights("timm")),
        ("resized", resized, weights("timm")),
        ("registers", registers, weights("dinov2_registers")),
        ("average", pooled(GlobalPool::Avg), after_pooling()),
        ("both", pooled(GlobalPool::AvgMax), after_pooling()),
    ]
}

fn write(path: &Path, config: &VitConfig, tensors: Tensors) {
    let augment = AugmentConfig {
        image_size: config.img_size,
        ..AugmentConfig::default()
    };
    let preprocessing = Preprocessing::from_augment(&augment);
    let card = tensors.contains_key("head.weight").then(|| ModelCard {
        format: CARD_FORMAT,
        ibot: "0.1.0".into(),
        encoder: "custom".into(),
        network: "classifier".into(),
        architecture: config.clone(),
        preprocessing: preprocessing.clone(),
        parameters: 1,
        step: 1,
        data: None,
        license: None,
        classes: Some(CLASSES.map(String::from).to_vec()),
        fingerprint: vec![1.0, 2.0],
    });
    OnnxModel {
        source: Path::new("model.safetensors"),
        architecture: config,
        preprocessing: &preprocessing,
        card: card.as_ref(),
        tensors,
    }
    .write(path)
    .unwrap();
}

/// The head's layer on features `[B, D]`.
fn logits(tensors: &Tensors, features: &TensorData) -> TensorData {
    let (weight, bias) = (&tensors["head.weight"], &tensors["head.bias"]);
    let features: Vec<f32> = features.iter::<f32>().collect();
    let width = weight.shape[1];
    let rows = features.chunks_exact(width).flat_map(|row| {
        let layer = weight.values.chunks_exact(width).zip(&bias.values);
        layer.map(|(weight, bias)| row.iter().zip(weight).map(|(x, w)| x * w).sum::<f32>() + bias)
    });
    let values: Vec<f32> = rows.collect();
    let shape = [values.len() / bias.values.len(), bias.values.len()];
    TensorData::new(values, shape)
}

/// Before tests/fixtures/onnx_outputs.py, where the files have changed.
#[test]
#[ignore = "writes tests/fixtures/onnx"]
fn write_the_fixtures() {
    fs::create_dir_all(fixture("onnx")).unwrap();
    for (name, config, tensors) in models() {
        write(&fixture(&format!("onnx/{name}.onnx")), &config, tensors);
    }
}

#[test]
fn files_are_those_that_onnxruntime_ran() {
    let folder = std::env::temp_dir().join(format!("ibot-onnx-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    for (name, config, tensors) in models() {
        let path = folder.join(format!("{name}.onnx"));
        write(&path, &config, tensors.clone());
        let recorded = fs::read(fixture(&format!("onnx/{name}.onnx"))).unwrap();
        assert!(
            fs::read(&path).unwrap() == recorded,
            "{name} is another file"
        );

        let mut random = Random::new(0, 0, 0, Stream::Init);
        let model = config
            .init::<Flex>(&mut random, &Default::default())
            .unwrap();
        let model = load_backbone(model, &path, tensors.clone()).unwrap();
        let found = read_safetensors(&fixture(&format!("onnx/{name}.safetensors"))).unwrap();
        let images = &found["images"];
        let images = TensorData::new(images.values.clone(), images.shape.clone());
        let images = Tensor::<Flex, 4>::from_data(images, &Default::default());
        assert_eq!(images.dims(), [3, 3, config.img_size, config.img_size]);
        let patches = model.patches_of(model.forward_features(images.clone(), None));
        let features = model.embed(images).into_data();
        let mut ours = vec![("patches", patches.into_data())];
        if name == "classifier" {
            ours.push(("logits", logits(&tensors, &features)));
            let text = String::from_utf8_lossy(&recorded).into_owned();
            for part in [
                "[\"cats\",\"dogs\",",
                "\"resize_shorter_side\":9",
                "\"center_crop\":8",
                "\"small_squares\":{\"largest_side\":96,\"resize_to\":[8,8]}",
            ] {
                assert!(text.contains(part), "{part} is not in the file");
            }
            assert!(text.contains("\"fingerprint\":[]"));
        }
        ours.push(("features", features));
        for (output, ours) in ours {
            let theirs = &found[output];
            assert_eq!(ours.shape.to_vec(), theirs.shape, "{name}: {output}");
            let largest = theirs
                .values
                .iter()
                .fold(0.0_f32, |max, x| max.max(x.abs()));
            assert!(largest > 0.1, "{name}: nothing to compare");
            for (ours, theirs) in ours.iter::<f32>().zip(&theirs.values) {
                let error = (ours - theirs).abs();
                assert!(error <= TOLERANCE * largest, "{name}: {ours}, not {theirs}");
            }
        }
    }
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn other_weights_are_refused() {
    let (_, config, mut tensors) = models().swap_remove(0);
    tensors.remove("norm.bias");
    let model = OnnxModel {
        source: Path::new("read.safetensors"),
        architecture: &config,
        preprocessing: &Preprocessing::from_augment(&AugmentConfig {
            image_size: 8,
            ..AugmentConfig::default()
        }),
        card: None,
        tensors,
    };
    let path = Path::new("never.onnx");
    let message = model.write(path).unwrap_err().to_string();
    assert!(message.starts_with("read.safetensors: "), "{message}");
    assert!(message.contains("1 missing (norm.bias)"), "{message}");
    assert!(!path.exists());
}
