//! `ibot export`: a run's weights for other programs.

use std::path::PathBuf;

use ibot::checkpoint::{Checkpoint, Store};
use ibot::model::DataCard;
use ibot::train::{Export, ExportFormat, RunRecord};
use ibot::weights::Role;
use ibot::{Error, Result};

use super::say;

/// Flags of `ibot export`.
#[derive(Debug, clap::Args)]
pub struct ExportArgs {
    /// Run folder, whose newest checkpoint is taken.
    #[arg(
        long,
        required_unless_present = "checkpoint",
        conflicts_with = "checkpoint"
    )]
    run: Option<PathBuf>,
    /// Takes the run's checkpoint with the best k-NN accuracy.
    #[arg(long, requires = "run")]
    best: bool,
    /// One checkpoint: a folder such as RUN/checkpoints/step-000000120.
    #[arg(long)]
    checkpoint: Option<PathBuf>,
    /// timm: one backbone; ibot and stable-pretraining: student and teacher with heads, under the names of those programs.
    #[arg(long, value_enum, default_value = "timm")]
    format: ExportFormat,
    /// Which backbone, for --format timm [default: teacher].
    #[arg(long, value_enum)]
    network: Option<Network>,
    /// File to write, .safetensors.
    #[arg(long)]
    out: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Network {
    Teacher,
    Student,
}

impl ExportArgs {
    pub fn run(&self) -> Result<()> {
        if self.out.extension().is_none_or(|end| end != "safetensors") {
            let remedy = "must end in .safetensors";
            return Err(Error::config("--out", self.out.display(), remedy));
        }
        let network = match (self.format, self.network) {
            (ExportFormat::Timm, Some(Network::Student)) => Role::Student,
            (ExportFormat::Timm, _) | (_, None) => Role::Teacher,
            (_, Some(_)) => {
                let remedy = "goes with --format timm: the other formats hold both networks";
                return Err(Error::config("--network", "given", remedy));
            }
        };
        let (checkpoint, source, run) = self.read()?;
        let data = RunRecord::read(&run)?.map(|record| DataCard {
            pictures: record.pictures,
            fingerprint: record.fingerprint,
        });
        let export = Export::of(&checkpoint, &source, data)?;
        export.write(self.format, network, &self.out)?;
        say(format_args!(
            "{}: {}",
            self.out.display(),
            what(self.format, network, checkpoint.manifest.step)
        ));
        Ok(())
    }

    /// The checkpoint, where it lies, and the folder of its run.
    fn read(&self) -> Result<(Checkpoint, PathBuf, PathBuf)> {
        let (Some(run), None) = (&self.run, &self.checkpoint) else {
            let path = self.checkpoint.clone().unwrap_or_default();
            let path = std::path::absolute(&path).map_err(Error::io(&path))?;
            let run = path.ancestors().nth(2).unwrap_or(&path).to_path_buf();
            return Ok((Checkpoint::read(&path)?, path, run));
        };
        let store = Store::of_run(run);
        let checkpoint = if self.best {
            let best = store.best()?.ok_or_else(|| {
                let reason = "has no checkpoint with a k-NN accuracy; leave out --best, or train with --val and --knn-every";
                Error::checkpoint(run, reason)
            })?;
            Checkpoint::read(&store.path(best))?
        } else {
            let (newest, damaged) = store.newest()?;
            for damaged in damaged {
                eprintln!("passed over a checkpoint: {}", damaged.error);
            }
            newest.ok_or_else(|| Error::checkpoint(run, "has no checkpoint to export"))?
        };
        let path = store.path(checkpoint.manifest.step);
        Ok((checkpoint, path, run.clone()))
    }
}

fn what(format: ExportFormat, network: Role, step: usize) -> String {
    let weights = match (format, network) {
        (ExportFormat::Timm, Role::Student) => "the student's backbone",
        (ExportFormat::Timm, Role::Teacher) => "the teacher's backbone",
        (ExportFormat::Ibot, _) => "student and teacher with heads, under the names of iBOT",
        (ExportFormat::StablePretraining, _) => {
            "student and teacher with heads, the state of stable_pretraining.methods.iBOT"
        }
    };
    format!("{weights}, after {step} steps")
}
