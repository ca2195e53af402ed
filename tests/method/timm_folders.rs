//! Folders of timm, in and out; tests/parity has what the recorded one computes.

use std::fs;
use std::path::{Path, PathBuf};

use ibot::backbone::VitConfig;
use ibot::data::{EvalFit, ValueRange, augment::Interpolation};
use ibot::files::model::{
    CARD_FORMAT, ModelCard, ModelOptions, Preprocessing, read_model, write_model, write_timm_folder,
};
use ibot::files::{read_safetensors, write_safetensors};

use crate::prepared::{has_recorded_normalization, images_are_prepared_alike, read_at_side};

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/timm")
}

#[test]
fn config_says_everything() {
    let found = read_model(&fixture(), &ModelOptions::default()).unwrap();
    assert_eq!(found.encoder, "custom");
    assert_eq!(
        found.architecture,
        VitConfig {
            img_size: 24,
            patch_size: 8,
            embed_dim: 16,
            depth: 2,
            num_heads: 2,
            reg_tokens: 2,
            no_embed_class: true,
            init_values: Some(1e-5),
            ..VitConfig::default()
        }
    );
    // floor(24 / 0.9)
    assert_eq!(found.preprocessing.fit, EvalFit::Shorter(26));
    has_recorded_normalization(&found, "config.json");
    let larger = read_at_side(&fixture(), 48, EvalFit::Shorter(52));
    assert_eq!(larger.tensors["pos_embed"].shape, [1, 36, 16]);
}

#[test]
fn images_are_prepared_as_by_timm() {
    images_are_prepared_alike(&fixture(), "timm");
}

fn card(architecture: &VitConfig, image_size: usize, fit: EvalFit) -> ModelCard {
    ModelCard {
        format: CARD_FORMAT,
        ibot: "test".into(),
        encoder: "custom".into(),
        network: "teacher".into(),
        architecture: architecture.clone(),
        preprocessing: Preprocessing {
            image_size,
            fit,
            range: ValueRange::Auto,
            interpolation: Interpolation::Bilinear,
            mean: [0.1, 0.2, 0.3],
            std: [0.4, 0.5, 0.6],
        },
        parameters: 1,
        step: 1,
        data: None,
        license: None,
        classes: None,
        fingerprint: Vec::new(),
    }
}

/// A classifier that was fine-tuned on larger images than its backbone: timm and transformers are told that positions are
/// resampled, or the first would take the backbone's size, and the second none.
#[test]
fn images_of_another_size_than_the_backbone_are_told() {
    let folder = std::env::temp_dir().join(format!("ibot-timm-size-{}", std::process::id()));
    let read = read_model(&fixture(), &ModelOptions::default()).unwrap();
    let tensors = read_safetensors(&fixture().join("model.safetensors")).unwrap();
    fs::create_dir_all(&folder).unwrap();
    let file = folder.join("teacher.safetensors");
    let side = read.architecture.img_size;
    for (image_size, is_other) in [(side, false), (2 * side, true)] {
        let card = card(&read.architecture, image_size, EvalFit::Stretch);
        write_model(&file, &card, &tensors).unwrap();
        write_timm_folder(&file, &card).unwrap();
        let text = fs::read_to_string(folder.join("config.json")).unwrap();
        let config: serde_json::Value = serde_json::from_str(&text).unwrap();
        let (arguments, pretrained) = (&config["model_args"], &config["pretrained_cfg"]);
        assert_eq!(arguments["img_size"], side);
        assert_eq!(
            arguments["dynamic_img_size"].as_bool(),
            is_other.then_some(true)
        );
        assert_eq!(pretrained["fixed_input_size"], !is_other);
        assert_eq!(pretrained["input_size"][2], image_size);
        write_safetensors(&folder.join("model.safetensors"), &tensors).unwrap();
        let found = read_model(&folder, &ModelOptions::default()).unwrap();
        assert_eq!(found.preprocessing, card.preprocessing);
    }
    fs::remove_dir_all(&folder).unwrap();
}

/// What is written of a file is read without the file's own metadata.
#[test]
fn what_is_written_is_read_again() {
    let folder = std::env::temp_dir().join(format!("ibot-timm-folder-{}", std::process::id()));
    let weights = fixture().join("model.safetensors");
    let tensors = read_safetensors(&weights).unwrap();
    let read = read_model(&fixture(), &ModelOptions::default()).unwrap();
    let fits = [
        (EvalFit::Margin, EvalFit::Shorter(27)),
        (EvalFit::Shorter(31), EvalFit::Shorter(31)),
        (EvalFit::Stretch, EvalFit::Stretch),
    ];
    for (written, expected) in fits {
        let card = card(&read.architecture, 24, written);
        fs::create_dir_all(&folder).unwrap();
        let file = folder.join("teacher.safetensors");
        write_model(&file, &card, &tensors).unwrap();
        write_timm_folder(&file, &card).unwrap();
        // another program saves the weights anew
        write_safetensors(&folder.join("model.safetensors"), &tensors).unwrap();
        let found = read_model(&folder, &ModelOptions::default()).unwrap();
        assert!(found.card.is_none());
        assert_eq!(found.architecture, card.architecture);
        let preprocessing = Preprocessing {
            fit: expected,
            ..card.preprocessing
        };
        assert_eq!(found.preprocessing, preprocessing);
        fs::remove_dir_all(&folder).unwrap();
    }
}
