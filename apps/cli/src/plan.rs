//! `ibot train --plan`: what a run would take, before any of it.

use std::path::PathBuf;
use std::sync::Arc;

use ibot::data::demo::{DEMO_CLASSES, default_cache_dir, find_demo_set};
use ibot::data::{ImageFolder, ImageSource as _};
use ibot::device::Selected;
use ibot::error::counted;
use ibot::files::checkpoint::Store;
use ibot::precision::Precision;
use ibot::train::plan::{Choosable, Plan};
use ibot::train::{NoObserver, RunConfig, RunRequest, check_start, images_to_train_on};
use ibot::{Error, Result};
use indicatif::ProgressBar;

use super::bar::spinner;
use super::flags::in_flags;
use super::output::{answer, warn};
use super::screen::is_quiet;
use super::signals::stop_on_signal;

/// Training images per class of the demo.
pub const DEMO_TRAIN_PER_CLASS: usize = 200;
/// Test images per class of the demo.
pub const DEMO_TEST_PER_CLASS: usize = 50;

/// Flags of `ibot train` about its plan.
#[derive(Debug, clap::Args)]
pub struct PlanArgs {
    /// Print what the run would take and whether it fits the device, without running it or writing anything: memory,
    /// micro-batches and checkpointing that fit, disk, time.
    #[arg(long, conflicts_with = "print_config", help_heading = "Plan")]
    pub plan: bool,
    /// With --plan: steps to time; 0 for none.
    #[arg(
        long,
        value_name = "COUNT",
        default_value_t = 5,
        requires = "plan",
        help_heading = "Plan"
    )]
    plan_steps: usize,
    /// With --plan: print JSON.
    #[arg(long, requires = "plan", help_heading = "Plan")]
    json: bool,
}

/// What a plan is made of.
pub struct Planned {
    /// Where the settings are from.
    pub source: String,
    /// The run; its folder is never looked at.
    pub request: RunRequest,
    /// Whether `request.data` is the demo's set, which need not be there.
    pub is_demo: bool,
    /// What the user left open.
    pub may: Choosable,
    /// Whether it is a new run, which starts with weights or without.
    pub is_new: bool,
    /// Steps that were made.
    pub made: usize,
}

impl PlanArgs {
    /// Prints the plan; an error if the run does not fit.
    pub fn print(&self, planned: &Planned) -> Result<()> {
        let request = &planned.request;
        let (config, selected) = (&request.config, &request.selected);
        if config.precision == Precision::Bf16 && matches!(selected, Selected::Wgpu { .. }) {
            // as a run does; without opening the device
            let remedy = "GPUs have no bf16 through WGSL; use f16, or `backend` flex";
            return Err(Error::config("precision", config.precision, remedy));
        }
        if planned.is_new {
            check_start(request)?;
        }
        let (images, count) = planned.images()?;
        let mut plan = Plan::new(config, selected, count, planned.may)?;
        plan.length.made = planned.made;
        let may_run = plan.verdict.may_run();
        let timed = match (self.plan_steps, may_run) {
            (0, _) | (_, false) => Ok(()),
            (steps, true) => time(&mut plan, config, selected, images, steps),
        };
        // whatever came of the timing: the plan itself stands
        if self.json {
            answer(as_json(&plan)?)?;
        } else {
            answer(format_args!("{:<16} {}", "settings", planned.source))?;
            answer(in_flags(&plan.to_string()))?;
        }
        timed?;
        if may_run {
            return Ok(());
        }
        let remedy = "the run does not fit this device: lower `batch_size` or `image_size`, take a smaller `encoder` or \
                      fewer prototypes, or let the plan choose `micro_batch_size` and `grad_checkpointing`";
        Err(Error::Unsupported(remedy.to_owned()))
    }
}

fn time(
    plan: &mut Plan,
    config: &RunConfig,
    selected: &Selected,
    images: Option<Arc<ImageFolder>>,
    steps: usize,
) -> Result<()> {
    warn(format_args!(
        "timing {} on {selected} (--plan-steps 0 for none)",
        counted(steps, "step")
    ));
    let bar = if is_quiet() {
        ProgressBar::hidden()
    } else {
        spinner("timing")
    };
    let timed = plan.time(config, selected, images, steps, &*stop_on_signal()?);
    bar.finish_and_clear();
    timed
}

impl Planned {
    /// The images, if they are there, and how many they are or will be.
    fn images(&self) -> Result<(Option<Arc<ImageFolder>>, usize)> {
        let mut request = self.request.clone();
        if self.is_demo {
            match find_demo_set(
                &default_cache_dir()?,
                DEMO_TRAIN_PER_CLASS,
                DEMO_TEST_PER_CLASS,
            ) {
                Some(set) => request.data = vec![set.train],
                None => {
                    let held_out = request.config.held_out.unwrap_or(0.0);
                    let all = (DEMO_CLASSES * DEMO_TRAIN_PER_CLASS) as f64;
                    return Ok((None, (all * (1.0 - held_out)).round() as usize));
                }
            }
        }
        let stop = stop_on_signal()?;
        let images = images_to_train_on(&request, &stop, &mut NoObserver)?;
        let examples = request.config.folder.examples(images.clone());
        let count = examples.len();
        if request.config.folder.tile.is_some() {
            let (tiles, whole) = (counted(count, "tile"), counted(images.len(), "image"));
            warn(format_args!(
                "{tiles} of {whole}; each counts as an image below"
            ));
        }
        Ok((Some(images), count))
    }
}

fn as_json(plan: &Plan) -> Result<String> {
    let made = serde_json::to_string_pretty(plan);
    made.map_err(|error| Error::Training(format!("the plan cannot be written as JSON: {error}")))
}

/// Steps of the newest checkpoint of a run; 0 without one.
pub fn steps_made(run: Option<&PathBuf>) -> Result<usize> {
    let steps = run.map(|run| Store::of_run(run).steps()).transpose()?;
    Ok(steps.and_then(|steps| steps.first().copied()).unwrap_or(0))
}
