//! Models that do not say what they are, and folders of models.

use std::path::{Path, PathBuf};

use eframe::egui::DroppedFile;
use egui_kittest::kittest::Queryable as _;
use ibot::backbone::vit_from_name;
use ibot::files::model::holds_model;
use ibot::files::{state_dict, write_safetensors};
use ibot::kernels::Flex;
use ibot::random::{Random, Stream};

use super::tiny_model::Scratch;
use super::{Window, folder_of, until_said, window};

/// A small transformer of timm's, as the weights alone.
const ENCODER: &str = "vit_tiny_patch16_224";

fn drop_on(window: &mut Window, path: PathBuf) {
    window.input_mut().dropped_files.push(DroppedFile {
        path: Some(path),
        ..DroppedFile::default()
    });
    window.step();
}

fn write_nameless(path: &Path) {
    let architecture = vit_from_name(ENCODER, 32).unwrap();
    let mut random = Random::new(0, 0, 0, Stream::Init);
    let model = architecture
        .init::<Flex>(&mut random, &Default::default())
        .unwrap();
    write_safetensors(path, &state_dict(&model)).unwrap();
}

#[test]
fn a_file_that_does_not_say_what_it_is_is_opened_by_the_name_of_its_encoder() {
    let scratch = Scratch::new("desktop-nameless");
    let model = scratch.path("nameless.safetensors");
    write_nameless(&model);
    let mut window = window(folder_of(&scratch.images(3)), Some(model));
    until_said(&mut window, "has no architecture metadata");
    assert!(window.query_by_label_contains("`encoder`").is_none());
    let suggested = window.get_by_label("Encoder").value().unwrap();
    assert!(suggested.starts_with("vit_tiny"), "{suggested}");
    // the line has grown, and what is on it moved
    window.run_steps(2);
    window.get_by_label("Try again").click();
    until_said(&mut window, "3 images, 3 embedded");
    until_said(&mut window, &suggested);
}

#[test]
fn a_dropped_folder_that_holds_a_model_is_opened_as_one() {
    let scratch = Scratch::new("desktop-model-folder");
    let images = scratch.images(3);
    let folder = scratch.path("a-model");
    std::fs::create_dir(&folder).unwrap();
    std::fs::copy(scratch.model(1), folder.join("model.safetensors")).unwrap();
    // without its description it is no model
    assert!(!holds_model(&folder));
    let config = format!(r#"{{"architecture": "{ENCODER}"}}"#);
    let mut window = window(folder_of(&images), None);
    until_said(&mut window, "3 images, 0 embedded");
    std::fs::write(folder.join("config.json"), config).unwrap();
    drop_on(&mut window, folder);
    until_said(&mut window, "3 images, 3 embedded");
    until_said(&mut window, "a-model: ");
}
