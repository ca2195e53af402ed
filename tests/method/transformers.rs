//! Folders of Hugging Face's transformers, in and out; tests/parity has what the models compute.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use burn_flex::Flex;
use ibot::data::EvalFit;
use ibot::files::model::{
    ModelOptions, ModelSource, Normalized, TransformersModel, file_hash, read_model,
};
use ibot::files::{NamedTensor, Role, backbone_of, read_safetensors, read_weights, tensor_names};
use ibot::precision::Precision;
use serde_json::{Value, json};

use crate::prepared::{has_recorded_normalization, images_are_prepared_alike, read_at_side};

type Tensors = BTreeMap<String, NamedTensor>;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/transformers")
        .join(name)
}

/// A copy of a fixture's folder, removed when it is dropped.
struct Copied(PathBuf);

impl Copied {
    fn of(name: &str) -> Self {
        let thread = format!("{:?}", std::thread::current().id());
        let thread: String = thread.chars().filter(char::is_ascii_digit).collect();
        let folder = format!("ibot-transformers-{}-{thread}-{name}", std::process::id());
        let folder = std::env::temp_dir().join(folder);
        fs::create_dir_all(&folder).unwrap();
        for entry in fs::read_dir(fixture(name)).unwrap() {
            let path = entry.unwrap().path();
            fs::copy(&path, folder.join(path.file_name().unwrap())).unwrap();
        }
        Self(folder)
    }

    fn change(&self, file: &str, change: impl FnOnce(&mut Value)) {
        let path = self.0.join(file);
        let mut json: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        change(&mut json);
        fs::write(path, json.to_string()).unwrap();
    }

    #[track_caller]
    fn is_refused(&self, parts: &[&str]) {
        let message = match read_model(&self.0, &ModelOptions::default()) {
            Err(error) => error.to_string(),
            Ok(_) => panic!("taken, and not refused with {parts:?}"),
        };
        for part in parts {
            assert!(message.contains(part), "{part:?} is not in {message:?}");
        }
        assert!(message.len() < 600 && !message.contains('\n'), "{message}");
    }
}

impl Drop for Copied {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// All tensors of a fixture, under its names.
fn tensors(name: &str) -> Tensors {
    let source = ModelSource::File(fixture(name)).resolve().unwrap();
    read_weights(&source.file).unwrap()
}

#[test]
fn config_and_preprocessor_say_everything() {
    let read = |name: &str| read_model(&fixture(name), &ModelOptions::default()).unwrap();
    let vit = read("vit");
    assert_eq!(vit.encoder, "custom");
    assert_eq!(vit.architecture.mlp_width(), 48);
    assert_eq!(vit.architecture.init_values, None);
    assert_eq!(vit.preprocessing.fit, EvalFit::Stretch);
    let registers = read("registers");
    assert_eq!(registers.architecture.reg_tokens, 3);
    assert!(registers.architecture.no_embed_class);
    assert_eq!(registers.preprocessing.fit, EvalFit::Shorter(18));
    has_recorded_normalization(&registers, "preprocessor_config.json");
    let mut larger = read_at_side(&fixture("dinov2"), 24, EvalFit::Shorter(27));
    assert_eq!(larger.tensors["pos_embed"].shape, [1, 37, 16]);
    larger
        .backbone::<Flex>(&fixture("dinov2"), &Default::default())
        .unwrap();
    // a run takes the same normalization
    let source = ModelSource::File(fixture("dinov2")).resolve().unwrap();
    let own = Normalized::of_file(&source.file, &source.described, None).unwrap();
    assert_eq!(own.unwrap().values, registers.normalization.values);
    assert_eq!(source.described.architecture.unwrap().depth, 2);
}

/// The processor's pixels, by what its file says: a level at most apart, as between this crate's resizing and Pillow's.
#[test]
fn images_are_prepared_as_the_processor_does() {
    for name in ["vit", "dinov2", "registers"] {
        let case = format!("transformers_{name}");
        images_are_prepared_alike(&fixture(name), &case);
    }
}

#[test]
fn a_model_in_several_files_is_one() {
    for (name, index) in [
        ("dinov2", "pytorch_model.bin.index.json"),
        ("registers", "model.safetensors.index.json"),
    ] {
        let index = fixture(name).join(index);
        let names = tensor_names(&index).unwrap();
        let tensors = read_weights(&index).unwrap();
        assert_eq!(names.len(), tensors.len());
        assert!(names.iter().all(|name| tensors.contains_key(name)));
        let found = backbone_of(&index, tensors, Role::Teacher).unwrap();
        assert_eq!(found.mask_token.unwrap().shape, [1, 1, 16]);
    }
    let copied = Copied::of("registers");
    let index = copied.0.join("model.safetensors.index.json");
    let before = file_hash(&index).unwrap();
    let part = copied.0.join("model-00002-of-00002.safetensors");
    let mut bytes = fs::read(&part).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&part, bytes).unwrap();
    assert_ne!(
        file_hash(&index).unwrap(),
        before,
        "the parts are not hashed"
    );
    fs::remove_file(part).unwrap();
    copied.is_refused(&["names model-00002-of-00002.safetensors, which is not beside it"]);
    for elsewhere in ["../a.safetensors", "/a.safetensors", ".", ""] {
        let named = json!({"weight_map": {"layernorm.weight": elsewhere}});
        fs::write(&index, named.to_string()).unwrap();
        copied.is_refused(&["which is not a file beside it"]);
    }
    let itself = json!({"weight_map": {"layernorm.weight": "model.safetensors.index.json"}});
    fs::write(&index, itself.to_string()).unwrap();
    copied.is_refused(&["is the index of a model, not a part of one"]);
}

/// What modules call their weights since transformers 5, where `save_pretrained` still writes the old names.
#[test]
fn names_of_modules_are_read_too() {
    let renamed = |name: &str, old_to_new: &[(&str, &str)]| {
        let old = tensors(name);
        let new = old.iter().map(|(key, tensor)| {
            let rename = |key: String, (old, new): &(&str, &str)| key.replace(old, new);
            (old_to_new.iter().fold(key.clone(), rename), tensor.clone())
        });
        let new: Tensors = new.collect();
        assert_ne!(
            new.keys().collect::<Vec<_>>(),
            old.keys().collect::<Vec<_>>()
        );
        let path = fixture(name);
        let read = |tensors| backbone_of(&path, tensors, Role::Teacher).unwrap();
        assert_eq!(read(new), read(old));
    };
    let attention = [
        ("attention.attention.query", "attention.q_proj"),
        ("attention.attention.key", "attention.k_proj"),
        ("attention.attention.value", "attention.v_proj"),
        ("attention.output.dense", "attention.o_proj"),
    ];
    renamed("registers", &attention);
    let mlp = [
        ("intermediate.dense", "mlp.fc1"),
        ("output.dense", "mlp.fc2"),
        ("encoder.layer.", "layers."),
    ];
    renamed("vit", &[&attention[..], &mlp].concat());
}

/// Each fixture goes out as it came in.
#[test]
fn what_is_written_is_what_transformers_wrote() {
    for name in ["vit", "dinov2", "registers"] {
        let mut model = read_model(&fixture(name), &ModelOptions::default()).unwrap();
        let old = tensors(name);
        let read = backbone_of(&fixture(name), old.clone(), Role::Teacher).unwrap();
        let copied = Copied::of(name);
        let written = TransformersModel {
            source: &fixture(name),
            architecture: &model.architecture,
            preprocessing: &model.preprocessing,
            card: None,
            tensors: std::mem::take(&mut model.tensors),
            mask_token: read.mask_token.clone(),
            dtype: Precision::F32,
        };
        for entry in fs::read_dir(&copied.0).unwrap() {
            fs::remove_file(entry.unwrap().path()).unwrap();
        }
        written.write(&copied.0).unwrap();
        let new = read_safetensors(&copied.0.join("model.safetensors")).unwrap();
        for (key, tensor) in &new {
            let mut expected = (old.get(key)).or_else(|| old.get(&format!("vit.{key}")));
            // a class token with a position is another token without one
            let moved = ["embeddings.cls_token", "embeddings.position_embeddings"];
            if name == "registers" && moved.contains(&key.as_str()) {
                expected = Some(tensor);
            }
            assert!(expected == Some(tensor), "{name}: {key}");
        }
        let is_of_backbone = |key: &&String| !key.contains("classifier") && !key.contains("pooler");
        assert_eq!(new.len(), old.keys().filter(is_of_backbone).count());
        let again = backbone_of(&copied.0, new, Role::Teacher).unwrap();
        assert_eq!(again.tensors, read.tensors, "{name}");
        for file in ["config.json", "preprocessor_config.json"] {
            let json = |path: PathBuf| -> Value {
                serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
            };
            let [old, new] = [fixture(name).join(file), copied.0.join(file)].map(json);
            for (key, value) in new.as_object().unwrap() {
                match key.as_str() {
                    // the backbone without the classifier; this crate's epsilon
                    "architectures" if name == "vit" => assert_eq!(*value, json!(["ViTModel"])),
                    "layer_norm_eps" => assert_eq!(*value, json!(1e-6)),
                    "do_convert_rgb" => assert_eq!(*value, true),
                    _ => assert_eq!(*value, old[key], "{name}/{file}: {key}"),
                }
            }
        }
    }
}

#[test]
fn what_is_not_supported_is_named() {
    let copied = Copied::of("dinov2");
    let refused = |file: &str, key: &str, value: Value, parts: &[&str]| {
        let before = fs::read(copied.0.join(file)).unwrap();
        copied.change(file, |json| json[key] = value);
        copied.is_refused(&[&[file], parts].concat());
        fs::write(copied.0.join(file), before).unwrap();
    };
    let config = "config.json";
    refused(
        config,
        "model_type",
        "swin".into(),
        &["model_type swin", "vit, dinov2"],
    );
    refused(
        config,
        "use_swiglu_ffn",
        true.into(),
        &["SwiGLU", "small, base or large"],
    );
    refused(
        config,
        "hidden_act",
        "quick_gelu".into(),
        &["hidden_act quick_gelu"],
    );
    refused(config, "num_channels", 4.into(), &["num_channels 4"]);
    refused(
        config,
        "layer_norm_eps",
        0.1.into(),
        &["layer_norm_eps 0.1"],
    );
    refused(config, "num_attention_heads", 3.into(), &["vit.num_heads"]);
    refused(
        config,
        "hidden_size",
        "small".into(),
        &["is not the description"],
    );
    let processor = "preprocessor_config.json";
    refused(processor, "do_resize", false.into(), &["do_resize"]);
    refused(processor, "rescale_factor", 1.into(), &["1/255"]);
    refused(
        processor,
        "resample",
        1.into(),
        &["resample 1", "3 (bicubic)"],
    );
    refused(processor, "image_std", json!([0, 1, 1]), &["image_std"]);
    refused(
        processor,
        "crop_size",
        json!({"height": 16, "width": 12}),
        &["16 x 12"],
    );
    refused(
        processor,
        "do_center_crop",
        false.into(),
        &["shortest_edge"],
    );
    // by the weights alone
    let read = |change: &dyn Fn(&mut Tensors)| {
        let mut tensors = tensors("dinov2");
        change(&mut tensors);
        let found = backbone_of(Path::new("model.bin"), tensors, Role::Teacher);
        found.unwrap_err().to_string()
    };
    let key = "encoder.layer.1.attention.attention.key.weight";
    let message = read(&|tensors| drop(tensors.remove(key)));
    assert!(
        message.contains("no queries, keys and values")
            && message.contains("blocks.1.attn.qkv.weight")
    );
    let message = read(&|tensors| {
        let inner = tensors.remove("encoder.layer.0.mlp.fc1.weight").unwrap();
        tensors.insert("encoder.layer.0.mlp.weights_in.weight".into(), inner);
    });
    assert!(message.contains("SwiGLU"), "{message}");
}
