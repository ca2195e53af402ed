//! A whole run through the library: `cargo run --release --example train_image_folder -- IMAGES OUT`.

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use ibot::backbone::VitConfig;
use ibot::data::parts_of;
use ibot::device::{BackendChoice, select};
use ibot::method::IbotConfig;
use ibot::train::{Observer, RunConfig, RunRequest, RunStart, StepMetrics, run};
use ibot::{Error, Result};

/// Prints a line every few steps.
struct Print;

impl Observer for Print {
    fn note(&mut self, line: &str) {
        println!("{line}");
    }

    fn started(&mut self, start: &RunStart) {
        println!("{} steps into {}", start.steps, start.out.display());
    }

    fn step(&mut self, metrics: &StepMetrics) {
        if metrics.step.is_multiple_of(10) {
            println!("step {} loss {:.4}", metrics.step, metrics.losses.loss);
        }
    }
}

fn main() -> Result<()> {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let (Some(data), Some(out)) = (arguments.next(), arguments.next()) else {
        let usage = "usage: train_image_folder IMAGES OUT";
        return Err(Error::Training(usage.into()));
    };
    // a small transformer on small images: minutes on a CPU, and the same code for a large one on a GPU
    let config = RunConfig {
        epochs: 20,
        batch_size: 32,
        method: IbotConfig {
            image_size: 64,
            vit: Some(VitConfig {
                patch_size: 8,
                embed_dim: 96,
                depth: 4,
                num_heads: 3,
                ..VitConfig::default()
            }),
            projector_hidden_dim: 256,
            projector_bottleneck_dim: 64,
            n_cls_prototypes: 1024,
            n_patch_prototypes: 512,
            ..IbotConfig::default()
        },
        ..RunConfig::default()
    };
    let selected = select(BackendChoice::Auto, None)?;
    // of a data set with `train` and `val`, the images to train on
    let train = parts_of(&data)?.map_or(data, |parts| parts.train);
    // interrupted, the same call resumes from the newest checkpoint in `out`
    let request = RunRequest::new(config, vec![train], out, selected);
    run(&request, &AtomicBool::new(false), &mut Print)
}
