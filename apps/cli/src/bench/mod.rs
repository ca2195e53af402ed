//! `ibot bench`: time and memory of steps, kernels and the loader.
//!
//! - `size`: how large a step is; `step`: the phases of a step, the one that trains; `cost`: what it asks of a GPU and of the
//!   host that feeds it, with the calls that `traffic` counts
//! - `scaling`: steps of many sizes, with a line through each row of them
//! - `collective`: sums of gradients over ranks
//! - `roofline`: how long each part of a step takes at least on a device
//! - `against`: steps, loader and losses against the same in Python; `losses`: the losses, on any backend; `process`: the
//!   programs that are run for it; `jpegs`: images to load
//! - `kernels`: the GPU's kernels against tensor operations

mod against;
mod collective;
mod cost;
mod jpegs;
mod kernels;
mod losses;
mod median;
mod process;
mod roofline;
mod scaling;
mod size;
mod step;
mod traffic;

pub use traffic::observe_log;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ibot::data::{FolderConfig, ImageFolder, LoaderSpeed, TrainViews, bench_loader};
use ibot::method::StreamingPrototypes;
use ibot::precision::Precision;
use ibot::train::RunConfig;
use ibot::{Error, Result};

use self::against::{Against, Peers, compare};
use self::collective::bench_collective;
use self::kernels::bench_kernels;
use self::process::bench_in_process;
use self::roofline::roofline;
use self::scaling::bench_scaling;
use self::size::StepSize;
use self::step::{BenchRequest, StepTimes, bench_steps};
use super::choices::{STREAMING, one_of};
use super::device::DeviceArgs;
use super::output::{answer, warn};
use super::ranks::Ranks;

/// A day: the longest measurement.
const MAX_SECONDS: f64 = 86_400.0;
/// Names the Python that has the modules of `benches/reference`.
const PYTHON_VARIABLE: &str = "IBOT_PYTHON";

/// Sizes of a step that have a name.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Preset {
    /// The reference's default model (ViT-S/16 at 224), 4 images.
    Default,
    /// A transformer of width 192 at 64 x 64, 32 images.
    Tiny,
}

/// Flags of `ibot bench`.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("other").args(["kernels", "loader", "against", "scaling", "roofline", "collective"]))]
pub struct BenchArgs {
    /// Size of a step; the flags below change it.
    #[arg(long, value_enum, default_value = "default")]
    preset: Preset,
    /// timm name of the backbone.
    #[arg(long)]
    encoder: Option<String>,
    /// Side of a patch in pixels [default: the encoder's].
    #[arg(long)]
    patch_size: Option<usize>,
    /// Side of the square input, in pixels.
    #[arg(long)]
    image_size: Option<usize>,
    /// Images per step, each as two views.
    #[arg(long)]
    batch_size: Option<usize>,
    /// Prototypes of the class-token head.
    #[arg(long)]
    n_cls_prototypes: Option<usize>,
    /// Prototypes of the patch head.
    #[arg(long)]
    n_patch_prototypes: Option<usize>,
    /// Steps or rounds to time, after one warm-up that is not counted.
    #[arg(long, default_value_t = 5)]
    steps: usize,
    /// Whether logits are computed in tiles instead of stored.
    #[arg(long, value_parser = one_of(STREAMING), default_value = "auto")]
    streaming_prototypes: StreamingPrototypes,
    /// Recompute the student's blocks in the backward pass.
    #[arg(long)]
    grad_checkpointing: bool,
    #[command(flatten)]
    device: DeviceArgs,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
    /// Time the WGSL kernels against tensor operations on the same GPU, in --steps rounds.
    #[arg(long)]
    kernels: bool,
    /// Time only the loader, on the images of --data, with one worker and with all.
    #[arg(long, requires = "data")]
    loader: bool,
    /// Time steps, loader and losses against the scripts of benches/reference, alternating; IBOT_PYTHON names the Python.
    #[arg(long, value_name = "DIR")]
    against: Option<PathBuf>,
    /// Time steps of many sizes, each in its own process.
    #[arg(long)]
    scaling: bool,
    /// Measure the device's matrix-multiplication rate, memory bandwidth and steps; print the shortest possible time of each
    /// part of a step.
    #[arg(long, conflicts_with = "grad_checkpointing")]
    roofline: bool,
    /// Time the sum of a step's gradients over the processes that mpirun or srun started, in --steps rounds.
    #[arg(long)]
    collective: bool,
    /// With --collective: seconds of a step without the sum, to tell its share.
    #[arg(long, value_name = "SECONDS", requires = "collective")]
    step_seconds: Option<f64>,
    /// With --roofline: f32 operations a second in 10^12, instead of a device.
    #[arg(long, value_name = "NUMBER", requires = "roofline", requires = "gbps")]
    tflops: Option<f64>,
    /// With --roofline: bytes of memory a second in 10^9, instead of a device.
    #[arg(
        long,
        value_name = "NUMBER",
        requires = "roofline",
        requires = "tflops"
    )]
    gbps: Option<f64>,
    /// With --roofline: for cards by their vendors' numbers, instead of a device.
    #[arg(long, requires = "roofline", conflicts_with = "tflops")]
    cards: bool,
    /// Image folder for --loader and --against [default for --against: generated images].
    #[arg(long)]
    data: Option<PathBuf>,
    /// With --loader: cache large images in this folder, as `ibot train --cache` does.
    #[arg(long, value_name = "DIR", requires = "loader")]
    cache: Option<PathBuf>,
    /// With --loader: views as bytes, as the key `augment.uint8` makes them.
    #[arg(long, requires = "loader")]
    uint8: bool,
    /// Seconds per loader measurement.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
}

impl BenchArgs {
    pub fn run(&self) -> Result<()> {
        if !(self.seconds > 0.0 && self.seconds <= MAX_SECONDS) {
            let remedy = "must be above 0 and at most 86400 (a day)";
            return Err(Error::config("--seconds", self.seconds, remedy));
        }
        self.check_precision()?;
        match (&self.against, &self.data) {
            _ if self.kernels => self.time_kernels(),
            _ if self.scaling => self.time_scaling(),
            _ if self.roofline => self.predict(),
            _ if self.collective => self.time_collective(),
            (Some(folder), _) => self.time_against(folder),
            (None, Some(data)) if self.loader => self.time_loader(data),
            _ => self.time_steps(),
        }
    }

    /// Refuses a precision for what has none: kernels and the roofline count in f32, and the reference's step has no f16.
    fn check_precision(&self) -> Result<()> {
        let Some(precision) = self.device.precision else {
            return Ok(());
        };
        let remedy = match precision {
            Precision::F32 => return Ok(()),
            _ if self.kernels || self.roofline || self.loader => {
                "works with steps only, not with --kernels, --roofline or --loader"
            }
            Precision::F16 if self.against.is_some() => {
                "works without --against: benches/reference/step.py has f32 and bf16"
            }
            Precision::F16 | Precision::Bf16 => return Ok(()),
        };
        Err(Error::config("--precision", precision, remedy))
    }

    fn size(&self) -> StepSize {
        let preset = match self.preset {
            Preset::Default => StepSize::default(),
            Preset::Tiny => StepSize::tiny(),
        };
        StepSize {
            encoder: self.encoder.clone().unwrap_or(preset.encoder),
            patch_size: self.patch_size.or(preset.patch_size),
            image_size: self.image_size.unwrap_or(preset.image_size),
            batch_size: self.batch_size.unwrap_or(preset.batch_size),
            n_cls_prototypes: self.n_cls_prototypes.unwrap_or(preset.n_cls_prototypes),
            n_patch_prototypes: self.n_patch_prototypes.unwrap_or(preset.n_patch_prototypes),
        }
    }

    fn request(&self) -> Result<BenchRequest> {
        let request = BenchRequest {
            size: self.size(),
            streaming_prototypes: self.streaming_prototypes,
            grad_checkpointing: self.grad_checkpointing,
            precision: self.device.precision(),
            steps: self.steps,
            selected: self.device.select()?,
        };
        warn(&request.selected);
        Ok(request)
    }

    fn time_steps(&self) -> Result<()> {
        let report = bench_steps(&self.request()?, &mut tell_step)?;
        self.tell(&report)
    }

    fn predict(&self) -> Result<()> {
        let against = match (self.tflops, self.gbps) {
            (Some(tflops), Some(gb_s)) => roofline::Against::Numbers([tflops, gb_s]),
            _ if self.cards => roofline::Against::Cards,
            _ => roofline::Against::Measured(Box::new(self.request()?)),
        };
        let report = roofline(&self.size(), against, &mut tell_step)?;
        self.tell(&report)
    }

    fn time_collective(&self) -> Result<()> {
        let ranks = Ranks::launched()?;
        let (size, rounds) = (self.size(), self.steps);
        let times = bench_collective(&size, &ranks.collective, rounds, self.step_seconds);
        let told = times.and_then(|times| {
            if ranks.is_first() {
                self.tell(&times)
            } else {
                Ok(())
            }
        });
        ranks.end(told)
    }

    /// Prints a report as a table or, with --json, as JSON.
    fn tell<R: serde::Serialize + std::fmt::Display>(&self, report: &R) -> Result<()> {
        if self.json {
            answer(serde_json::json!(report))
        } else {
            answer(report)
        }
    }

    fn time_kernels(&self) -> Result<()> {
        let report = bench_kernels(&self.device.select()?, self.steps)?;
        self.tell(&report)
    }

    fn time_scaling(&self) -> Result<()> {
        let program = this_program()?;
        let device = self.device.flags();
        let report = bench_scaling(
            &self.size(),
            &mut |size| bench_in_process(&program, size, self.steps, &device),
            &mut |size| warn(size),
        )?;
        self.tell(&report)
    }

    fn time_against(&self, folder: &Path) -> Result<()> {
        let python = std::env::var_os(PYTHON_VARIABLE).unwrap_or_else(|| "python3".into());
        let peers = Peers {
            program: this_program()?,
            python: python.into(),
            folder: folder.to_path_buf(),
        };
        let against = Against {
            size: self.size(),
            steps: self.steps,
            selected: self.device.select()?,
            device: self.device.flags(),
            precision: self.device.precision(),
            data: self.data.clone(),
            seconds: self.seconds,
        };
        warn(format_args!("{}; {}", against.selected, against.size));
        if !self.json {
            let heads = ("", "ibot", "Python", "", "ratio");
            answer(format_args!(
                "{:<56} {:>10} {:>10} {:<9} {:>7}",
                heads.0, heads.1, heads.2, heads.3, heads.4
            ))?;
        }
        compare(&peers, &against, &mut |comparison| self.tell(comparison))
    }

    fn time_loader(&self, data: &Path) -> Result<()> {
        let size = self.size();
        let method = size.method()?;
        // a run's settings decide how far images are reduced
        let run = RunConfig {
            folder: FolderConfig {
                cache: self.cache.clone(),
                ..FolderConfig::default()
            },
            method,
            ..RunConfig::default()
        };
        let RunConfig {
            folder,
            mut augment,
            method,
            ..
        } = run.resolved()?;
        augment.uint8 = self.uint8;
        let folder = Arc::new(ImageFolder::scan(data, &folder)?);
        warn(folder.summary());
        let views = TrainViews {
            augment,
            masks: method.mask_policy(),
            grid: [method.backbone()?.side(); 2],
        };
        let all = std::thread::available_parallelism().map_or(1, usize::from);
        for workers in [1, all] {
            let duration = Duration::from_secs_f64(self.seconds);
            let LoaderSpeed {
                images_per_s,
                bytes_per_image,
            } = bench_loader(folder.clone(), views.clone(), workers, duration)?;
            let found = if self.json {
                serde_json::json!({
                    "workers": workers,
                    "images_per_s": images_per_s,
                    "bytes_per_image": bytes_per_image,
                })
                .to_string()
            } else {
                format!(
                    "workers {workers}: {images_per_s:.1} images/s, views of {:.0} KiB per image",
                    bytes_per_image as f64 / 1024.0
                )
            };
            answer(found)?;
        }
        Ok(())
    }
}

fn tell_step(times: &StepTimes) {
    warn(format_args!(
        "step: {:.1} ms, loss {:.3}",
        times.total_s * 1e3,
        times.loss
    ));
}

/// The file of this program, to start it once more.
///
/// # Errors
/// Within the Python package it is Python's.
fn this_program() -> Result<PathBuf> {
    let program = std::env::current_exe().map_err(Error::io("ibot"))?;
    let name = program.file_stem().unwrap_or_default().to_string_lossy();
    if name.to_lowercase().starts_with("python") {
        let remedy =
            "cannot be started once more for each measurement: use the `ibot` that cargo builds";
        return Err(Error::config("program", program.display(), remedy));
    }
    Ok(program)
}
