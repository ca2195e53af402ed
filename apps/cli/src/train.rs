//! `ibot train`.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use ibot::data::demo::{default_cache_dir, ensure_demo_set};
use ibot::data::{Parts, check_source, parts_of};
use ibot::device::Selected;
use ibot::error::printable;
use ibot::files::checkpoint::Keep;
use ibot::files::model::ModelSource;
use ibot::train::plan::Choosable;
use ibot::train::{RunConfig, RunRecord, RunRequest, run};
use ibot::{Error, Result};
use indicatif::ProgressBar;

use super::bar::spinner;
use super::output::{answer, say};
use super::plan::{DEMO_TEST_PER_CLASS, DEMO_TRAIN_PER_CLASS, Planned, steps_made};
use super::progress::Progress;
use super::ranks::{Ranks, alone_for};
use super::screen::{is_quiet, is_terminal};
use super::settings::{Settings, TrainImages};
use super::signals::stop_on_signal;
use super::tensorboard::TensorBoard;
use super::threads::start_threads;
use super::train_flags::TrainArgs;

/// Folder of runs without --out.
const RUNS: &str = "runs";

impl TrainArgs {
    pub fn run(mut self) -> Result<()> {
        if self.plan.plan || self.print_config {
            let flag = if self.plan.plan {
                "--plan"
            } else {
                "--print-config"
            };
            alone_for(flag)?;
            start_threads(0)?;
            return self.run_on(&Ranks::alone());
        }
        let ranks = self.ranks.clone().join(&mut self.device)?;
        let ended = self.run_on(&ranks);
        ranks.end(ended)
    }

    fn run_on(self, ranks: &Ranks) -> Result<()> {
        let begun = self.begun()?;
        let pretrained = self.pretrained.as_ref().map(ModelSource::resolve);
        let pretrained = pretrained.transpose()?;
        let stop = stop_on_signal()?;
        let select = || self.select(begun.as_ref());
        let looking = self.spinner("reading the headers of the images");
        let settings = self.settings(begun.as_ref(), pretrained.as_ref(), &select, &stop);
        looking.finish_and_clear();
        let mut settings = settings?;
        if self.print_config {
            return answer(settings.config.to_commented_toml()?.trim_end());
        }
        let selected = match settings.selected.take() {
            Some(selected) => selected,
            None => select()?,
        };
        if self.plan.plan {
            let pretrained = pretrained.map(|local| local.file);
            return self.print_plan(begun, settings, pretrained, selected);
        }
        ranks.say_device(&selected, self.ranks.mixed_devices, &|line| say(line))?;
        if !ranks.is_alone() && self.images.is_empty() && begun.is_none() {
            // one draws the demo's images before all use them
            ranks.by_first(|| self.images(None, &settings.config).map(|_| ()))?;
        }
        let options = self.options(begun.as_ref());
        let TrainImages { data, val } = self.images(begun, &settings.config)?;
        let mut progress = Progress::new(settings.opening(&selected, options.keep), is_terminal());
        let mut made_out = None;
        let out = match self.out.clone().or(self.resume.clone()) {
            Some(out) => out,
            None => made_out.insert(ranks.by_first(default_out)?).clone(),
        };
        let request = RunRequest {
            pretrained: pretrained.map(|local| local.file),
            pretrained_parts: self.pretrained_parts,
            knn_every: options.knn_every,
            checkpoint_every: options.checkpoint_every,
            keep: Keep {
                last: options.keep,
                ..Keep::default()
            },
            allow_changes: self.allow_changes,
            on_anomaly: options.on_anomaly,
            on_device_lost: options.on_device_lost,
            collective: ranks.collective.clone(),
            mixed_devices: self.ranks.mixed_devices,
            ..request(settings, data, val, out, selected)
        };
        let ended = if self.writes_tensorboard() && ranks.is_first() {
            run(&request, &stop, &mut TensorBoard::new(&mut progress))
        } else {
            run(&request, &stop, &mut progress)
        };
        if let Some(out) = made_out.filter(|_| ranks.is_first()) {
            // removes only empty folders: no run started in them
            let _ = std::fs::remove_dir(&out).and_then(|()| std::fs::remove_dir(RUNS));
        }
        ended
    }

    /// The device of the flags, or of the run that goes on.
    fn select(&self, begun: Option<&RunRecord>) -> Result<Selected> {
        let device = match begun {
            Some(begun) => self.device.clone().or(begun.backend.parse()?),
            None => self.device.clone(),
        };
        device.select()
    }

    /// Something that moves, where somebody sees it.
    fn spinner(&self, text: &str) -> ProgressBar {
        let is_seen = is_terminal() && !is_quiet();
        if is_seen && !self.print_config {
            spinner(text)
        } else {
            ProgressBar::hidden()
        }
    }

    fn print_plan(
        &self,
        begun: Option<RunRecord>,
        settings: Settings,
        pretrained: Option<PathBuf>,
        selected: Selected,
    ) -> Result<()> {
        let is_demo = self.images.is_empty() && begun.is_none();
        let options = self.options(begun.as_ref());
        // a run that goes on keeps its settings
        let may = match &begun {
            Some(_) => Choosable::default(),
            None => self.choosable(),
        };
        // the demo's images may not be there, and are not made for a plan
        let TrainImages { data, val } = if is_demo {
            TrainImages {
                data: vec![PathBuf::new()],
                val: None,
            }
        } else {
            self.images(begun, &settings.config)?
        };
        let source = settings.source.clone();
        let run = self.resume.as_ref().or(self.out.as_ref());
        // a run that is there has the weights that it started with
        let is_begun = |record: &RunRecord| record.has_checkpoint;
        let is_new = run.is_none_or(|run| {
            RunRecord::read(run).is_ok_and(|record| !record.as_ref().is_some_and(is_begun))
        });
        let request = RunRequest {
            pretrained,
            pretrained_parts: self.pretrained_parts,
            knn_every: options.knn_every,
            ..request(settings, data, val, PathBuf::new(), selected)
        };
        self.plan.print(&Planned {
            source,
            request,
            is_demo,
            may,
            is_new,
            made: steps_made(run)?,
        })
    }

    /// The run that --resume names.
    fn begun(&self) -> Result<Option<RunRecord>> {
        let Some(run) = &self.resume else {
            return Ok(None);
        };
        let record = RunRecord::read(run)?.ok_or_else(|| {
            let reason = if run.exists() {
                "not a run folder (run.json is missing)"
            } else {
                "does not exist; give the folder of a run to resume"
            };
            Error::checkpoint(run, reason)
        })?;
        Ok(Some(record))
    }

    /// What to train on and to evaluate on: as given, else as the run did, else the demo's.
    fn images(&self, begun: Option<RunRecord>, config: &RunConfig) -> Result<TrainImages> {
        let begun_val = match (&begun, &self.out) {
            (Some(begun), _) => begun.val.clone(),
            // the same command without --val resumes too; a record that cannot be read is reported later
            (None, Some(out)) if config.held_out.is_none() && !self.images.is_empty() => {
                RunRecord::read(out).ok().flatten().and_then(|run| run.val)
            }
            _ => None,
        };
        let begun_val = begun_val.filter(|_| self.val.is_none());
        if let Some(val) = &begun_val {
            refuse_moved(val, "--val")?;
        }
        let val = self.val.clone().or(begun_val);
        match (self.images.is_empty(), begun) {
            (false, _) => {
                let data = self.sources()?;
                for (of, part) in self.images.paths().iter().zip(&data) {
                    say_part(of, part)?;
                }
                Ok(TrainImages { data, val })
            }
            (true, Some(begun)) => {
                let data = begun.data;
                data.iter()
                    .try_for_each(|data| refuse_moved(data, "--data"))?;
                Ok(TrainImages { data, val })
            }
            (true, None) => {
                let drawing = self.spinner("drawing the demo's images");
                let set = ensure_demo_set(
                    &default_cache_dir()?,
                    DEMO_TRAIN_PER_CLASS,
                    DEMO_TEST_PER_CLASS,
                );
                drawing.finish_and_clear();
                let set = set?;
                let test = config.held_out.is_none().then_some(set.test);
                Ok(TrainImages {
                    data: vec![set.train],
                    val: val.or(test),
                })
            }
        }
    }
}

/// A run of these settings on these images.
fn request(
    settings: Settings,
    data: Vec<PathBuf>,
    val: Option<PathBuf>,
    out: PathBuf,
    selected: Selected,
) -> RunRequest {
    RunRequest {
        val,
        scanned: settings.scanned,
        ..RunRequest::new(settings.config, data, out, selected)
    }
}

/// Reports what of a data set is left out.
fn say_part(data: &Path, part: &Path) -> Result<()> {
    let Some(Parts { val, .. }) = parts_of(data)? else {
        return Ok(());
    };
    let val = val.map_or_else(String::new, |val| {
        format!("; to evaluate, add --val {}", printable(val))
    });
    let (data, shown) = (printable(data), printable(part));
    say(format_args!(
        "data {data}: has train and test folders; trains on {shown} only{val}"
    ));
    Ok(())
}

/// A new folder: two runs that start in the same second get different ones.
fn default_out() -> Result<PathBuf> {
    let time = chrono::Local::now().format("%Y-%m-%d_%H-%M-%S").to_string();
    let runs = PathBuf::from(RUNS);
    std::fs::create_dir_all(&runs).map_err(Error::io(&runs))?;
    let mut out = runs.join(&time);
    for number in 2.. {
        match std::fs::create_dir(&out) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                out = runs.join(format!("{time}_{number}"));
            }
            Err(error) => return Err(Error::io(&out)(error)),
            Ok(()) => break,
        }
    }
    Ok(out)
}

/// Refuses to resume without the images of the run, which may have moved.
fn refuse_moved(folder: &Path, flag: &str) -> Result<()> {
    check_source(folder).map_err(|error| match error {
        Error::Io { source, .. } if source.kind() == ErrorKind::NotFound => {
            let reason = format!(
                "the images of this run were here, but there is nothing now; if they moved, give the new place with {flag}"
            );
            Error::data(folder, reason)
        }
        error => error,
    })
}
