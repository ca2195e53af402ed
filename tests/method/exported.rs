//! Checkpoints as files for other programs: under their names, and read back.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::{Tensor, TensorData};
use ibot::files::checkpoint::{Checkpoint, FORMAT, Manifest};
use ibot::files::model::{ModelOptions, read_model};
use ibot::files::{NamedTensor, Role, read_safetensors, read_weights, state_dict};
use ibot::method::IbotConfig;
use ibot::method::PrototypeNorm;
use ibot::method::VitIbot;
use ibot::precision::Precision;
use ibot::train::{Export, ExportFormat, PretrainedParts, RunConfig, load_method};

use crate::pretrained::{B, config, device, fixture, load, own, shared, trainer};

type Tensors = BTreeMap<String, NamedTensor>;

fn checkpoint(method: VitIbot<B>) -> Checkpoint {
    let config = RunConfig {
        method: method.config().clone(),
        ..RunConfig::default()
    };
    Checkpoint {
        manifest: Manifest {
            format: FORMAT,
            ibot: "0".into(),
            step: 5,
            epoch: 0,
            batch: 0,
            seed: 0,
            config: config.resolved().unwrap().to_toml().unwrap(),
            knn: None,
            learning_rate_factor: 1.0,
            rollbacks: 0,
            loop_state: serde_json::Value::Null,
        },
        tensors: trainer(method, &device()).tensors(),
    }
}

/// A file in the temporary folder, and what it holds.
fn exported(checkpoint: &Checkpoint, format: ExportFormat, network: Role) -> (PathBuf, Tensors) {
    let path = scratch(&format!("{format:?}-{network:?}.safetensors"));
    let export = Export::from_checkpoint(checkpoint, Path::new("checkpoint"), None).unwrap();
    export.write(format, network, &path).unwrap();
    let tensors = read_safetensors(&path).unwrap();
    (path, tensors)
}

fn scratch(name: &str) -> PathBuf {
    let thread = format!("{:?}", std::thread::current().id()).replace(['(', ')'], "");
    std::env::temp_dir().join(format!("ibot-{}-{thread}-{name}", std::process::id()))
}

/// What torch wrote comes out under torch's names, entry for entry: it loads there with `strict=True`.
#[test]
fn an_export_has_the_names_of_the_program() {
    let same =
        |name: &str, config: &IbotConfig, format, of_file: &dyn Fn(&str) -> Option<String>| {
            let checkpoint = checkpoint(load::<B>(name, config, &device()));
            let (path, found) = exported(&checkpoint, format, Role::Teacher);
            std::fs::remove_file(path).unwrap();
            let file = read_weights(&fixture(name)).unwrap().into_iter();
            let expected: Tensors = file
                .filter_map(|(key, tensor)| Some((of_file(&key)?, tensor)))
                .collect();
            let keys = |tensors: &Tensors| tensors.keys().cloned().collect::<Vec<String>>();
            assert_eq!(keys(&found), keys(&expected), "{name}");
            assert!(found == expected, "{name}");
        };
    same("ibot_shared.pth", &shared(), ExportFormat::Ibot, &|key| {
        Some(key.replace("module.", ""))
    });
    same(
        "lightning.pth",
        &config(),
        ExportFormat::StablePretraining,
        &|key| key.strip_prefix("state_dict.").map(str::to_owned),
    );
}

/// Formats that hold both networks are read back to the last bit, say what they are, and serve as model files.
#[test]
fn an_export_reads_back() {
    let fixed = IbotConfig {
        prototype_norm: PrototypeNorm::Fixed,
        ..config()
    };
    let one_layer = IbotConfig {
        projector_layers: 1,
        ..config()
    };
    for (config, format) in [
        (shared(), ExportFormat::Ibot),
        (own(), ExportFormat::Ibot),
        (fixed, ExportFormat::Ibot),
        (one_layer, ExportFormat::Ibot),
        (config(), ExportFormat::Ibot),
        (config(), ExportFormat::StablePretraining),
    ] {
        // drawn from two seeds, so that no network is the other's copy
        let mut method: VitIbot<B> = config.init(1, &device()).unwrap();
        method.teacher = config.init::<B>(2, &device()).unwrap().teacher;
        let center = |prototypes: usize| {
            let values: Vec<f32> = (0..prototypes).map(|at| at as f32 - 1.5).collect();
            Tensor::from_data(TensorData::new(values, [prototypes]), &device())
        };
        let [cls, patch] = config.prototypes();
        // the other format has no name for centers
        if format == ExportFormat::Ibot {
            method.center.set(Some(center(cls)));
            method.patch_center.set(Some(center(patch)));
        }
        let written = checkpoint(method);
        let (path, file) = exported(&written, format, Role::Teacher);
        let fresh = config.init(9, &device()).unwrap();
        let read: VitIbot<B> =
            load_method(fresh, &path, PretrainedParts::All, &mut |_| {}).unwrap();
        let what = format!("{format:?} of {config:?}: {:?}", file.keys());
        let teacher = state_dict(&read.teacher.backbone);
        assert!(checkpoint(read).tensors == written.tensors, "{what}");

        let model = read_model(&path, &ModelOptions::default()).unwrap();
        let card = model.card.unwrap();
        assert_eq!((card.network.as_str(), card.step), ("teacher", 5));
        assert!(model.tensors == teacher, "{what}");
        std::fs::remove_file(path).unwrap();
    }
}

#[test]
fn one_backbone_is_exported_with_its_card() {
    let method: VitIbot<B> = shared().init(1, &device()).unwrap();
    let student = state_dict(&method.student.network.backbone);
    let (path, file) = exported(&checkpoint(method), ExportFormat::Timm, Role::Student);
    assert!(file == student);
    let card = read_model(&path, &ModelOptions::default()).unwrap().card;
    assert_eq!(card.unwrap().network, "student");
    std::fs::remove_file(path).unwrap();
}

/// Weights that are rounded first and then written as f32 would be neither the run's nor half the size.
#[test]
fn onnx_is_written_in_f32_alone() {
    let message = refused(&shared(), Precision::Bf16, ExportFormat::Onnx);
    assert!(message.contains("dtype = bf16"), "{message}");
}

#[test]
fn heads_that_the_reference_cannot_have_are_not_written_for_it() {
    let message = refused(&own(), Precision::F32, ExportFormat::StablePretraining);
    assert!(message.contains("use `format` ibot"), "{message}");
}

/// The message of an export that is refused, and writes nothing.
fn refused(config: &IbotConfig, dtype: Precision, format: ExportFormat) -> String {
    let method: VitIbot<B> = config.init(1, &device()).unwrap();
    let path = scratch("never.safetensors");
    let export = Export::from_checkpoint(&checkpoint(method), Path::new("checkpoint"), None);
    let export = export.unwrap().with_dtype(dtype);
    let refused = export.write(format, Role::Teacher, &path);
    assert!(!path.exists());
    refused.unwrap_err().to_string()
}
