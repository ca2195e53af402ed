//! This program against the same work in Python, alternating in one run.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::jpegs::Jpegs;
use super::losses::bench_losses;
use super::median::median;
use super::process::bench_in_process;
use super::process::run_script;
use super::size::StepSize;
use ibot::data::{AugmentConfig, FolderConfig, ImageFolder, TrainViews, bench_loader};
use ibot::device::Selected;
use ibot::error::Result;
use ibot::precision::Precision;

/// Which peers to run.
#[derive(Debug, Clone)]
pub struct Peers {
    /// This program.
    pub program: PathBuf,
    /// The interpreter that has the modules of `requirements.txt`.
    pub python: PathBuf,
    /// `benches/reference`.
    pub folder: PathBuf,
}

/// What to compare.
#[derive(Debug, Clone)]
pub struct Against {
    /// Size of a step.
    pub size: StepSize,
    /// Steps to time, of each side and in all rounds together.
    pub steps: usize,
    /// The device of this side; Python takes as many threads of the CPU as this side may.
    pub selected: Selected,
    /// The flags that chose it.
    pub device: Vec<String>,
    /// Number format of matrix products and tokens, of both sides.
    pub precision: Precision,
    /// Images for the loaders; generated if none are given.
    pub data: Option<PathBuf>,
    /// Seconds of each measurement of a loader.
    pub seconds: f64,
}

/// One number of both sides.
#[derive(Debug, Clone, Serialize)]
pub struct Comparison {
    /// What it is.
    pub what: String,
    /// Its unit.
    pub unit: &'static str,
    /// Median of this program.
    pub ours: f64,
    /// Median of the Python peer.
    pub theirs: f64,
    /// How many times better this program is; below 1 it is worse.
    pub ratio: f64,
}

impl Comparison {
    /// Of a number that is better the smaller it is.
    fn of_cost(what: impl Into<String>, unit: &'static str, ours: f64, theirs: f64) -> Self {
        Self {
            what: what.into(),
            unit,
            ours,
            theirs,
            ratio: theirs / ours,
        }
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:<56} {:>10.2} {:>10.2} {:<9} {:>6.2}x",
            self.what, self.ours, self.theirs, self.unit, self.ratio
        )
    }
}

/// Rounds in which both sides alternate: three average out other load on the machine, and each is its own process.
const ROUNDS: usize = 3;

/// Runs steps, loader and losses of both sides, alternating; calls `report` with each comparison.
///
/// # Errors
/// Python, a module or a script is missing, with the remedy; one side fails; or `report` does.
pub fn compare(
    peers: &Peers,
    against: &Against,
    report: &mut dyn FnMut(&Comparison) -> Result<()>,
) -> Result<()> {
    for comparison in compare_steps(peers, against)? {
        report(&comparison)?;
    }
    report(&compare_loaders(peers, against)?)?;
    for comparison in compare_losses(peers, against)? {
        report(&comparison)?;
    }
    Ok(())
}

fn compare_steps(peers: &Peers, against: &Against) -> Result<Vec<Comparison>> {
    #[derive(Deserialize)]
    struct Step {
        total_s: f64,
        peak_rss_mib: Option<f64>,
    }
    let steps = against.steps.div_ceil(ROUNDS);
    let size = &against.size;
    let mut arguments = size.flags();
    arguments.extend(["--steps".to_owned(), steps.to_string()]);
    arguments.extend(["--threads".to_owned(), threads()]);
    arguments.extend(["--precision".to_owned(), against.precision.to_string()]);
    let [mut ours, mut theirs, mut our_peaks, mut their_peaks] = [const { Vec::new() }; 4];
    for _ in 0..ROUNDS {
        let found: Vec<Step> = run_script(&peers.python, &peers.script("step.py"), &arguments)?;
        their_peaks.extend(found.last().and_then(|step| step.peak_rss_mib));
        theirs.extend(found.iter().map(|step| step.total_s));
        let found = bench_in_process(&peers.program, size, steps, &against.device)?;
        our_peaks.extend(found.peak_rss_mib);
        ours.extend(found.steps.iter().map(|step| step.total_s));
    }
    let what = format!("step, batch {} x 2 views", size.batch_size);
    let mut comparisons = vec![Comparison::of_cost(what, "s", median(ours), median(theirs))];
    if !our_peaks.is_empty() && !their_peaks.is_empty() {
        let [ours, theirs] = [median(our_peaks), median(their_peaks)];
        comparisons.push(Comparison::of_cost(
            "peak memory of the process",
            "MiB",
            ours,
            theirs,
        ));
    }
    Ok(comparisons)
}

fn compare_loaders(peers: &Peers, against: &Against) -> Result<Comparison> {
    #[derive(Deserialize)]
    struct Speed {
        images_per_s: f64,
    }
    let made = match &against.data {
        Some(_) => None,
        None => Some(Jpegs::write()?),
    };
    let made = made.as_ref().map(Jpegs::folder);
    let data = against.data.as_deref().or(made).unwrap_or(Path::new("."));
    let side = StepSize::default().image_size;
    let method = StepSize::default().method()?;
    let make = TrainViews {
        augment: AugmentConfig {
            image_size: side,
            ..AugmentConfig::default()
        },
        masks: method.mask_policy(),
        grid: [method.backbone()?.side(); 2],
    };
    let folder = Arc::new(ImageFolder::scan(data, &FolderConfig::default())?);
    let arguments = [
        data.display().to_string(),
        "--seconds".to_owned(),
        against.seconds.to_string(),
    ];
    let [mut ours, mut theirs] = [const { Vec::new() }; 2];
    for _ in 0..ROUNDS {
        let found: Vec<Speed> = run_script(&peers.python, &peers.script("loader.py"), &arguments)?;
        theirs.extend(found.iter().map(|speed| speed.images_per_s));
        let duration = Duration::from_secs_f64(against.seconds);
        let speed = bench_loader(folder.clone(), make.clone(), 1, duration)?;
        ours.push(speed.images_per_s);
    }
    let [ours, theirs] = [median(ours), median(theirs)];
    Ok(Comparison {
        what: format!("loader, one thread, two views of {side} per image"),
        unit: "images/s",
        ours,
        theirs,
        ratio: ours / theirs,
    })
}

fn compare_losses(peers: &Peers, against: &Against) -> Result<Vec<Comparison>> {
    #[derive(Deserialize)]
    struct Operation {
        operation: String,
        ms: f64,
    }
    let rounds = against.steps.div_ceil(ROUNDS);
    let arguments = ["--rounds", &rounds.to_string(), "--threads", &threads()].map(str::to_owned);
    let mut found: Vec<(String, Vec<f64>)> = Vec::new();
    let mut ours: Vec<(&'static str, Vec<f64>)> = Vec::new();
    for _ in 0..ROUNDS {
        let script = peers.script("loss_and_ema.py");
        for Operation { operation, ms } in run_script(&peers.python, &script, &arguments)? {
            add(&mut found, operation, ms);
        }
        for times in bench_losses(&against.selected, rounds)? {
            add(&mut ours, times.operation, times.ms);
        }
    }
    // The script times some operations in more than one way, each named after ours.
    let comparisons = found.into_iter().filter_map(|(operation, theirs)| {
        let (_, ours) = ours.iter().find(|(own, _)| operation.starts_with(own))?;
        let [ours, theirs] = [median(ours.clone()), median(theirs)];
        Some(Comparison::of_cost(operation, "ms", ours, theirs))
    });
    Ok(comparisons.collect())
}

fn add<N: PartialEq>(all: &mut Vec<(N, Vec<f64>)>, name: N, value: f64) {
    match all.iter_mut().find(|(known, _)| *known == name) {
        Some((_, values)) => values.push(value),
        None => all.push((name, vec![value])),
    }
}

/// Threads that burn-flex computes with.
fn threads() -> String {
    rayon::current_num_threads().to_string()
}

impl Peers {
    fn script(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}
