//! `ibot bench`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ibot::bench::{BenchRequest, bench_kernels, bench_steps};
use ibot::config::{IbotConfig, StreamingPrototypes};
use ibot::data::{AugmentConfig, FolderConfig, ImageFolder, TrainViews, bench_loader};
use ibot::{Error, Result};

use super::{DeviceArgs, say};

/// A day: the longest measurement.
const MAX_SECONDS: f64 = 86_400.0;

/// Flags of `ibot bench`.
#[derive(Debug, clap::Args)]
pub struct BenchArgs {
    /// timm name of the backbone.
    #[arg(long, default_value = "vit_small_patch16_224")]
    encoder: String,
    /// Side of the square input, in pixels.
    #[arg(long, default_value_t = 224)]
    image_size: usize,
    /// Pictures a step, each as two views.
    #[arg(long, default_value_t = 4)]
    batch_size: usize,
    /// Steps, or rounds, to time.
    #[arg(long, default_value_t = 5)]
    steps: usize,
    /// Prototypes of the class-token head.
    #[arg(long, default_value_t = 65_536)]
    n_cls_prototypes: usize,
    /// Prototypes of the patch head.
    #[arg(long, default_value_t = 8_192)]
    n_patch_prototypes: usize,
    /// Whether logits are made tile by tile instead of stored.
    #[arg(long, value_enum, default_value = "auto")]
    streaming_prototypes: StreamingPrototypes,
    #[command(flatten)]
    device: DeviceArgs,
    /// Times the WGSL kernels against tensor operations on the same GPU, in --steps rounds.
    #[arg(long, conflicts_with = "loader")]
    kernels: bool,
    /// One JSON object instead of a table, for --kernels.
    #[arg(long, requires = "kernels")]
    json: bool,
    /// Times the loader alone, on the pictures of --data, for one worker and for all.
    #[arg(long, requires = "data")]
    loader: bool,
    /// Image folder for --loader.
    #[arg(long)]
    data: Option<PathBuf>,
    /// Seconds that each measurement of --loader takes.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
}

impl BenchArgs {
    pub fn run(&self) -> Result<()> {
        if self.kernels {
            return self.time_kernels();
        }
        let method = IbotConfig {
            encoder_name: self.encoder.clone(),
            image_size: self.image_size,
            n_cls_prototypes: self.n_cls_prototypes,
            n_patch_prototypes: self.n_patch_prototypes,
            streaming_prototypes: self.streaming_prototypes,
            ..IbotConfig::default()
        };
        match &self.data {
            Some(data) if self.loader => self.time_loader(data, &method),
            _ => self.time_steps(method),
        }
    }

    fn time_steps(&self, method: IbotConfig) -> Result<()> {
        let request = BenchRequest {
            method,
            batch_size: self.batch_size,
            steps: self.steps,
            selected: self.device.select()?,
        };
        eprintln!("{}", request.selected);
        bench_steps(&request, &mut |times| {
            say(serde_json::json!(times));
        })
    }

    fn time_kernels(&self) -> Result<()> {
        let report = bench_kernels(&self.device.select()?, self.steps)?;
        match self.json {
            true => say(serde_json::json!(report)),
            false => say(report),
        }
        Ok(())
    }

    fn time_loader(&self, data: &PathBuf, method: &IbotConfig) -> Result<()> {
        if !(self.seconds > 0.0 && self.seconds <= MAX_SECONDS) {
            let remedy = "must be above 0 and at most a day's 86400";
            return Err(Error::config("--seconds", self.seconds, remedy));
        }
        let folder = Arc::new(ImageFolder::scan(data, &FolderConfig::default())?);
        eprintln!("{}", folder.summary());
        let views = TrainViews {
            augment: AugmentConfig {
                image_size: self.image_size,
                ..AugmentConfig::default()
            },
            masks: method.mask_policy(),
            grid: [method.backbone()?.side(); 2],
        };
        let all = std::thread::available_parallelism().map_or(1, usize::from);
        for workers in [1, all] {
            let duration = Duration::from_secs_f64(self.seconds);
            let images_per_s = bench_loader(folder.clone(), views.clone(), workers, duration)?;
            say(serde_json::json!({ "workers": workers, "images_per_s": images_per_s }));
        }
        Ok(())
    }
}
