//! A model file that a software GPU runs in no time, and images for it.

use std::fs;
use std::path::{Path, PathBuf};

use ibot::backbone::VitConfig;
use ibot::burn::module::Module as _;
use ibot::data::AugmentConfig;
use ibot::device::DeviceGuard;
use ibot::files::model::{CARD_FORMAT, ModelCard, Preprocessing, fingerprint, write_model};
use ibot::files::state_dict;
use ibot::kernels::Flex;
use ibot::random::{Random, Stream};
use image::{Rgba, RgbaImage};

/// Width of its features.
pub const WIDTH: usize = 16;

/// A folder of this test alone, removed when it passes.
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("ibot-app-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// A transformer of `depth` blocks on 16 patches.
    pub fn model(&self, depth: usize) -> PathBuf {
        let path = self.path(&format!("model-{depth}.safetensors"));
        write(&path, depth);
        path
    }

    /// So many images, each unlike the others.
    pub fn images(&self, count: u32) -> Vec<PathBuf> {
        let folder = self.path("images");
        fs::create_dir_all(&folder).unwrap();
        let write = |at| {
            let path = folder.join(format!("{at}.png"));
            image(at).save(&path).unwrap();
            path
        };
        (0..count).map(write).collect()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}

/// Image number `at`, half transparent for odd numbers.
pub fn image(at: u32) -> RgbaImage {
    let alpha = if at.is_multiple_of(2) { 255 } else { 90 };
    RgbaImage::from_fn(40, 36, |x, y| {
        Rgba([(x * 6) as u8, (y * 7) as u8, (at * 41) as u8, alpha])
    })
}

fn write(path: &Path, depth: usize) {
    let architecture = VitConfig {
        img_size: 32,
        patch_size: 8,
        embed_dim: WIDTH,
        depth,
        num_heads: 2,
        ..VitConfig::default()
    };
    let device = Default::default();
    let mut random = Random::new(0, 0, 0, Stream::Init);
    let model = architecture.init::<Flex>(&mut random, &device).unwrap();
    let preprocessing = Preprocessing::from_augment(&AugmentConfig {
        image_size: 32,
        ..AugmentConfig::default()
    });
    let guard = DeviceGuard::Cpu;
    let card = ModelCard {
        format: CARD_FORMAT,
        ibot: "test".into(),
        encoder: "custom".into(),
        network: "teacher".into(),
        architecture,
        parameters: model.num_params(),
        step: 1,
        data: None,
        license: Some("CC0-1.0".into()),
        classes: None,
        fingerprint: fingerprint::<Flex, _>(&model, &preprocessing, &guard, &device).unwrap(),
        preprocessing,
    };
    write_model(path, &card, &state_dict(&model)).unwrap();
}
