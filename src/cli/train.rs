//! `ibot train`.

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ibot::data::demo::{default_cache_dir, ensure_demo_set};
use ibot::train::presets::{DEMO, STABLE_PRETRAINING, preset, preset_names};
use ibot::train::{RunConfig, RunRequest, run};
use ibot::{Error, Result};

use super::progress::Progress;
use super::{DeviceArgs, say};

/// Pictures of each class that the demo trains on.
const DEMO_TRAIN_PER_CLASS: usize = 200;
/// Pictures of each class that the demo tests with.
const DEMO_TEST_PER_CLASS: usize = 50;

/// Flags of `ibot train`; a flag beats the file, the file beats the preset.
#[derive(Debug, clap::Args)]
pub struct TrainArgs {
    /// Image folder, at any depth; without it, a small labelled set is made and trained on.
    #[arg(long)]
    data: Option<PathBuf>,
    /// Labelled image folder whose pictures k-NN classifies by those of --data, before and after.
    #[arg(long, requires = "data")]
    val: Option<PathBuf>,
    /// Run folder [default: runs/<time>].
    #[arg(long)]
    out: Option<PathBuf>,
    /// TOML file with any of the keys that --print-config shows.
    #[arg(long)]
    config: Option<PathBuf>,
    /// Settings to start from [default: stable-pretraining; without --data and --config, demo].
    #[arg(long, value_parser = clap::builder::PossibleValuesParser::new(preset_names()))]
    preset: Option<String>,
    #[command(flatten)]
    device: DeviceArgs,
    /// Seed of weights, order, views and masks.
    #[arg(long)]
    seed: Option<u64>,
    /// Passes over the data.
    #[arg(long, conflicts_with = "steps")]
    epochs: Option<usize>,
    /// Optimizer steps.
    #[arg(long)]
    steps: Option<usize>,
    /// Pictures a step.
    #[arg(long)]
    batch_size: Option<usize>,
    /// Threads that decode and augment; 0 for one a core.
    #[arg(long)]
    workers: Option<usize>,
    /// timm name of the backbone.
    #[arg(long)]
    encoder: Option<String>,
    /// Side of the square input, in pixels.
    #[arg(long)]
    image_size: Option<usize>,
    /// Peak learning rate at a batch of 256.
    #[arg(long)]
    learning_rate: Option<f64>,
    /// timm safetensors file to start from.
    #[arg(long)]
    pretrained: Option<PathBuf>,
    /// Prints the resulting configuration as TOML and stops.
    #[arg(long)]
    print_config: bool,
}

impl TrainArgs {
    pub fn run(self) -> Result<()> {
        let config = self.resolved_config()?;
        if self.print_config {
            say(config.to_toml()?.trim_end());
            return Ok(());
        }
        let selected = self.device.select()?;
        let (data, knn_queries) = match self.data {
            Some(data) => (data, self.val),
            None => {
                let set = ensure_demo_set(
                    &default_cache_dir(),
                    DEMO_TRAIN_PER_CLASS,
                    DEMO_TEST_PER_CLASS,
                )?;
                (set.train, Some(set.test))
            }
        };
        let request = RunRequest {
            config,
            data,
            out: self.out.unwrap_or_else(default_out),
            selected,
            pretrained: self.pretrained,
            knn_queries,
        };
        let stop = stop_on_signal()?;
        let mut progress = Progress::new(std::io::stdout().is_terminal());
        run(&request, &stop, &mut progress)
    }

    fn resolved_config(&self) -> Result<RunConfig> {
        // a run's config.toml names every key that is set: over the demo, an absent one would be the demo's
        let default = if self.data.is_some() || self.config.is_some() {
            STABLE_PRETRAINING
        } else {
            DEMO
        };
        let mut config = preset(self.preset.as_deref().unwrap_or(default))?;
        if let Some(path) = &self.config {
            config = config.merged_with_file(path)?;
        }
        if self.epochs.is_some() {
            config.steps = None;
        }
        config.steps = self.steps.or(config.steps);
        if let Some(encoder) = &self.encoder {
            config.method.encoder_name.clone_from(encoder);
            config.method.vit = None;
        }
        set(&mut config.epochs, self.epochs);
        set(&mut config.seed, self.seed);
        set(&mut config.batch_size, self.batch_size);
        set(&mut config.workers, self.workers);
        set(&mut config.method.image_size, self.image_size);
        set(&mut config.schedule.base_learning_rate, self.learning_rate);
        config.method.pretrained |= self.pretrained.is_some();
        config.resolved()
    }
}

fn set<T: Copy>(target: &mut T, flag: Option<T>) {
    if let Some(value) = flag {
        *target = value;
    }
}

fn default_out() -> PathBuf {
    let time = chrono::Local::now().format("%Y-%m-%d_%H-%M-%S");
    PathBuf::from("runs").join(time.to_string())
}

/// A flag that the first Ctrl-C or SIGTERM raises; a second one ends the process at once.
fn stop_on_signal() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let raised = stop.clone();
    ctrlc::set_handler(move || {
        if raised.swap(true, Ordering::Relaxed) {
            std::process::exit(i32::from(super::INTERRUPTED));
        }
        eprintln!("\nstopping after this step; once more to stop at once");
    })
    .map_err(|error| Error::Training(format!("no signal handler: {error}")))?;
    Ok(stop)
}
