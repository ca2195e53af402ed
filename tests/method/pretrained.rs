//! Checkpoints of other programs with their heads (tests/fixtures/torch_files.py): the same logits as in torch, and a step
//! of training.

use std::path::{Path, PathBuf};

use burn::module::AutodiffModule;
use burn::tensor::backend::Backend;
use burn::tensor::{Tensor, TensorData};
use burn_autodiff::Autodiff;
use burn_flex::{Flex, FlexDevice};
use ibot::backbone::{Backbone, PatchMask, Tokens, VisionTransformer, VitConfig};
use ibot::device::DeviceGuard;
use ibot::error::Error;
use ibot::files::{NamedTensor, read_safetensors, read_weights};
use ibot::kernels::{IbotBackend, TrainBackend};
use ibot::method::PrototypeNorm;
use ibot::method::VitIbot;
use ibot::method::{IbotConfig, TargetKind};
use ibot::train::{
    PretrainedParts, Rates, RunConfig, StepInput, Trainer, TrainerConfig, load_method,
};

use crate::values;

/// Where one backend is enough.
pub type B = Autodiff<Flex>;

pub fn device() -> FlexDevice {
    Default::default()
}

/// Entries may be off by so much of the largest one.
const TOLERANCE: f32 = 2e-5;

pub fn fixture(name: &str) -> PathBuf {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/torch");
    Path::new(folder).join(name)
}

/// The transformer of all fixtures, and the heads of most.
pub fn config() -> IbotConfig {
    IbotConfig {
        image_size: 8,
        projector_hidden_dim: 6,
        projector_bottleneck_dim: 4,
        n_cls_prototypes: 5,
        n_patch_prototypes: 7,
        vit: Some(VitConfig {
            patch_size: 4,
            embed_dim: 8,
            depth: 2,
            num_heads: 2,
            mlp_ratio: 2.0,
            ..VitConfig::default()
        }),
        ..IbotConfig::default()
    }
}

/// The settings of `ibot_shared.pth`, and what the recipe of the paper does with centers.
pub fn shared() -> IbotConfig {
    IbotConfig {
        shared_head: true,
        prototype_norm: PrototypeNorm::Learned,
        patch_targets: TargetKind::Centering,
        ..config()
    }
}

/// Those of `ibot_own.pth`.
pub fn own() -> IbotConfig {
    IbotConfig {
        shared_head: false,
        shared_head_teacher: Some(true),
        n_patch_prototypes: 5,
        ..shared()
    }
}

/// Checkpoints with recorded logits.
fn recorded() -> [(&'static str, IbotConfig); 3] {
    [
        ("ibot_shared", shared()),
        ("ibot_own", own()),
        ("lightning", config()),
    ]
}

pub fn load<B: TrainBackend>(name: &str, config: &IbotConfig, device: &B::Device) -> VitIbot<B> {
    let method = config.init(3, device).unwrap();
    let path = fixture(name);
    load_method(method, &path, PretrainedParts::All, &mut |_| {}).unwrap()
}

pub fn trainer<B: TrainBackend>(
    method: VitIbot<B>,
    device: &B::Device,
) -> Trainer<B, VisionTransformer<B>> {
    TrainerConfig::default().init(method, device.clone(), DeviceGuard::Cpu)
}

#[track_caller]
fn assert_logits<B: Backend>(what: &str, found: Tensor<B, 2>, expected: &NamedTensor) {
    assert_eq!(found.dims().to_vec(), expected.shape, "{what}");
    let largest = expected
        .values
        .iter()
        .fold(0.0_f32, |max, x| max.max(x.abs()));
    assert!(largest > 0.1, "{what}: nothing to compare");
    for (found, expected) in values(found).iter().zip(&expected.values) {
        let error = (found - expected).abs();
        assert!(
            error <= TOLERANCE * largest,
            "{what}: {found}, not {expected}"
        );
    }
}

/// Logits of class tokens, and of all patches row by row.
fn logits<B: IbotBackend, M: Backbone<B>>(
    network: &ibot::method::Network<B, M>,
    tokens: Tokens<B>,
) -> [Tensor<B, 2>; 2] {
    let [batch, patches, width] = tokens.patches.dims();
    let rows = tokens.patches.reshape([batch * patches, width]);
    let of_patches = network.head_of_patches().forward(rows);
    [network.cls_head.forward(tokens.cls), of_patches]
}

pub fn gives_torchs_logits<B: TrainBackend>(device: &B::Device) {
    for (name, config) in recorded() {
        let method = load::<B>(&format!("{name}.pth"), &config, device);
        let expected = read_safetensors(&fixture(&format!("{name}_logits.safetensors"))).unwrap();
        let input = |name: &str, shape: &[usize]| {
            TensorData::new(expected[name].values.clone(), shape.to_vec())
        };
        let images =
            Tensor::<B::InnerBackend, 4>::from_data(input("images", &[2, 3, 8, 8]), device);
        let mask = PatchMask {
            masked: Tensor::from_data(input("masks", &[2, 4, 1]), device),
            token: method.student.mask_token.val().inner(),
        };
        let student = method.student.network.valid();
        let seen = student.backbone.tokens(images.clone(), Some(mask));
        let of_student = logits(&student, seen);
        let of_teacher = logits(
            &method.teacher,
            method.teacher.backbone.tokens(images, None),
        );
        for (role, found) in [("student", of_student), ("teacher", of_teacher)] {
            for (kind, found) in ["cls", "patch"].into_iter().zip(found) {
                let what = format!("{name}: {role}/{kind}");
                assert_logits(&what, found, &expected[&format!("{role}/{kind}")]);
            }
        }
    }
}

/// The centers are those of the file, and a step of training moves everything.
pub fn goes_on_training<B: TrainBackend>(device: &B::Device) {
    for (name, config) in recorded() {
        let path = format!("{name}.pth");
        let file = read_weights(&fixture(&path)).unwrap();
        let method = load::<B>(&path, &config, device);
        let center = method.center.value().map(values);
        let patch_center = method.patch_center.value().map(values);
        let of_file = |key: &str| file.get(key).map(|center| center.values.clone());
        assert_eq!(center, of_file("ibot_loss.center"), "{name}");
        assert_eq!(patch_center, of_file("ibot_loss.center2"), "{name}");
        assert_eq!(center.is_some(), name != "lightning");

        let mut trainer = trainer::<B>(method, device);
        let before = trainer.tensors();
        let view = || Tensor::random([2, 3, 8, 8], burn::tensor::Distribution::Default, device);
        let input = StepInput::<B> {
            global_views: vec![view(), view()],
            local_views: Vec::new(),
            masks: (0..16).map(|patch| patch % 2 == 0).collect(),
        };
        let rates = Rates {
            learning_rate: 1e-3,
            temperature_teacher: 0.04,
            ema_decay: 0.99,
            ..Rates::default()
        };
        let losses = trainer.step(&input, &rates);
        assert_eq!(losses.unwrap().non_finite(), None, "{name}");
        let after = trainer.tensors();
        for (key, tensor) in &before {
            assert!(after[key] != *tensor, "{name}: {key} did not move");
        }
    }
}

/// Where a file has no patch head, mask token or center, they stay as they were drawn, and the line says so.
#[test]
fn what_a_file_has_none_of_starts_anew() {
    let config = IbotConfig {
        prototype_norm: PrototypeNorm::Fixed,
        patch_targets: TargetKind::Centering,
        ..config()
    };
    let drawn: VitIbot<B> = config.init(3, &device()).unwrap();
    let tensors = |method| trainer::<B>(method, &device()).tensors();
    let mut notes: Vec<String> = Vec::new();
    let mut note = |line: &str| notes.push(line.into());
    let path = fixture("dino.pth");
    let method = load_method(drawn, &path, PretrainedParts::All, &mut note).unwrap();
    let [note] = notes.as_slice() else {
        panic!("{notes:?}");
    };
    for part in [
        "student student.module.backbone.*, teacher teacher.backbone.*",
        "not in the file and newly initialized: mask token, patch head, center of patches",
    ] {
        assert!(note.contains(part), "{note}");
    }
    let drawn = tensors(config.init(3, &device()).unwrap());
    let loaded = tensors(method);
    for (key, tensor) in &loaded {
        let is_new = key.contains("patch_head") || key == "student.mask_token";
        assert_eq!(drawn.get(key) == Some(tensor), is_new, "{key}");
    }
    assert!(loaded.contains_key("center.cls") && !loaded.contains_key("center.patch"));
    assert!(loaded.contains_key("teacher.patch_head.prototypes.weight"));

    // one network alone is both; DINOv2's heads are of unit length, which a learned length starts at
    let config = IbotConfig {
        n_patch_prototypes: 5,
        prototype_norm: PrototypeNorm::Learned,
        vit: config.vit.map(|vit| VitConfig {
            init_values: Some(1e-5),
            ..vit
        }),
        ..config
    };
    let loaded = tensors(load::<B>("dinov2_teacher.pth", &config, &device()));
    for (key, tensor) in &loaded {
        let of_teacher = key.strip_prefix("student.network.");
        if let Some(key) = of_teacher {
            assert_eq!(loaded[&format!("teacher.{key}")], *tensor, "{key}");
        }
        if key.ends_with("prototype_length") {
            assert!(tensor.values.iter().all(|length| *length == 1.0), "{key}");
        }
    }
}

#[test]
fn heads_that_do_not_fit_name_every_setting() {
    let refusal = |name: &str, config: &IbotConfig| {
        let method: VitIbot<B> = config.init(3, &device()).unwrap();
        let path = fixture(name);
        match load_method(method, &path, PretrainedParts::All, &mut |_| {}) {
            Err(Error::Weights {
                path: named,
                reason,
            }) => {
                assert_eq!(named, path);
                reason
            }
            Err(other) => panic!("{other}"),
            Ok(_) => panic!("{name} fits"),
        }
    };
    let far = IbotConfig {
        projector_layers: 2,
        projector_hidden_dim: 16,
        projector_bottleneck_dim: 8,
        n_cls_prototypes: 9,
        ..config()
    };
    let reason = refusal("ibot_own.pth", &far);
    let lines: Vec<&str> = reason.lines().map(str::trim).collect();
    assert_eq!(
        lines,
        [
            "its heads need other settings in the [method] table of `config`:",
            "projector_layers = 3    # is 2",
            "projector_hidden_dim = 6    # is 16",
            "projector_bottleneck_dim = 4    # is 8",
            "n_cls_prototypes = 5    # is 9",
            "n_patch_prototypes = 5    # is 7",
            "prototype_norm = \"learned\"    # is \"none\"",
            "shared_head_teacher = true    # is false",
            "or load the backbone only: omit `pretrained_parts`",
        ]
    );
    // and they are what the file needs
    let mut table = String::from(
        "[method]\nvit = { patch_size = 4, embed_dim = 8, depth = 2, num_heads = 2, mlp_ratio = 2.0 }\nimage_size = 8\n",
    );
    for line in &lines[1..lines.len() - 1] {
        table += &format!("{line}\n");
    }
    let config = RunConfig::default()
        .merged_with_toml(&table)
        .unwrap()
        .method;
    load::<B>("ibot_own.pth", &config, &device());

    let shared = refusal("ibot_shared.pth", &own());
    assert!(
        shared.contains("\n  shared_head = true    # is false\n"),
        "{shared}"
    );
    assert!(!shared.contains("prototype"), "{shared}");
    let without = refusal("timm.pth", &own());
    assert!(without.contains("has no known heads"), "{without}");
}
