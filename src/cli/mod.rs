//! Commands and their flags.

mod bench;
mod classify;
mod cluster;
mod curves;
mod destination;
mod devices;
mod embed;
mod evaluate;
mod export;
mod finetune;
mod inspect;
pub mod logger;
mod model;
pub mod output;
mod picture_names;
mod progress;
mod report;
mod search;
mod signals;
mod train;
mod verify;
mod visualize;

use clap::{CommandFactory as _, FromArgMatches as _, Parser};
use ibot::error::printable;
use ibot::kernels::{KernelChoice, wgsl};
use ibot::{Error, Result};

use output::warn;

/// Pre-trains vision transformers with iBOT on any GPU, or the CPU.
#[derive(Debug, Parser)]
#[command(name = "ibot", version, about)]
pub enum Command {
    /// Trains on an image folder; without --data on a small set of its own making.
    Train(Box<train::TrainArgs>),
    /// Writes the features of a folder's pictures to a file.
    Embed(embed::EmbedArgs),
    /// Classifies by nearest neighbours.
    Knn(evaluate::KnnArgs),
    /// Classifies by a linear model of the features.
    Probe(evaluate::ProbeArgs),
    /// Trains a classifier from a backbone and labelled pictures.
    Finetune(Box<finetune::FinetuneArgs>),
    /// Says which class a picture is, by a classifier that `ibot finetune` wrote.
    Classify(classify::ClassifyArgs),
    /// Groups pictures that look alike.
    Cluster(cluster::ClusterArgs),
    /// Finds the pictures that look most like another one.
    Search(search::SearchArgs),
    /// Draws attention, patches and curves.
    Visualize(visualize::VisualizeArgs),
    /// Writes weights for other programs.
    Export(export::ExportArgs),
    /// Says what a model file is.
    Inspect(inspect::InspectArgs),
    /// Lists the GPUs, and which one `--backend auto` takes.
    Devices(devices::DevicesArgs),
    /// Checks every operation and ten training steps on a device against the CPU.
    Verify(verify::VerifyArgs),
    /// Times training steps on random images, the GPU's kernels, the loader, or all of it beside Python.
    Bench(bench::BenchArgs),
}

impl Command {
    /// The command that the arguments ask for; ends the process where they ask for help, or make no sense.
    ///
    /// # Errors
    /// The machine does not let this program have its threads, or help cannot be printed.
    pub fn parse() -> Result<Self> {
        // a value such as -1 is told what is wrong with it, and is not taken for a flag
        let command = Self::command().mut_subcommands(|of| of.allow_negative_numbers(true));
        let parsed = command.try_get_matches();
        let parsed = parsed.and_then(|matches| Self::from_arg_matches(&matches));
        match parsed {
            Ok(parsed) => start_threads().map(|()| parsed),
            Err(error) => {
                output::written(error.print())?;
                ibot::device::end_process(u8::try_from(error.exit_code()).unwrap_or(1))
            }
        }
    }

    /// Runs the command.
    pub fn run(self) -> Result<()> {
        match self {
            Self::Train(args) => args.run(),
            Self::Embed(args) => args.run(),
            Self::Knn(args) => args.run(),
            Self::Probe(args) => args.run(),
            Self::Finetune(args) => args.run(),
            Self::Classify(args) => args.run(),
            Self::Cluster(args) => args.run(),
            Self::Search(args) => args.run(),
            Self::Visualize(args) => args.run(),
            Self::Export(args) => args.run(),
            Self::Inspect(args) => args.run(),
            Self::Devices(args) => args.run(),
            Self::Verify(args) => args.run(),
            Self::Bench(args) => args.run(),
        }
    }
}

/// Starts the threads that compute, which otherwise start at their first use, with a panic where the system refuses them.
fn start_threads() -> Result<()> {
    let threads = rayon::ThreadPoolBuilder::new().build_global();
    threads.map_err(|error| {
        Error::Device(format!(
            "the threads that compute cannot start: {error}; raise the limit of processes (ulimit -u), \
             or ask for fewer with RAYON_NUM_THREADS=1"
        ))
    })
}

/// Exit status of an error.
pub fn exit_code(error: &Error) -> u8 {
    match error {
        Error::Interrupted { .. } | Error::Stopped => signals::exit_status(),
        _ => 1,
    }
}

/// Which device to compute on; shared by the commands that do.
#[derive(Debug, Clone, clap::Args)]
pub struct DeviceArgs {
    /// auto takes a GPU where there is one, never a software adapter.
    #[arg(long, value_enum, default_value = "auto")]
    backend: ibot::device::BackendChoice,
    /// Number or part of the name of a GPU, as `ibot devices` lists them.
    #[arg(long)]
    device: Option<String>,
}

/// Says where the GPU's operations are other ones than those that this program was built with.
fn announce_kernels() -> Result<()> {
    if KernelChoice::from_env()? == KernelChoice::Reference {
        warn("IBOT_KERNELS=reference: tensor operations instead of WGSL kernels");
    }
    if let Some(folder) = wgsl::shader_folder() {
        warn(format_args!(
            "{}: shaders from {}",
            wgsl::SHADERS_VARIABLE,
            printable(folder)
        ));
    }
    Ok(())
}

impl DeviceArgs {
    /// With a backend in place of `auto`.
    fn or(self, backend: ibot::device::BackendChoice) -> Self {
        match self.backend {
            ibot::device::BackendChoice::Auto => Self { backend, ..self },
            _ => self,
        }
    }

    /// The same flags, for a process of its own.
    fn flags(&self) -> Vec<String> {
        let mut flags = vec!["--backend".to_owned(), self.backend.to_string()];
        if let Some(device) = &self.device {
            flags.extend(["--device".to_owned(), device.clone()]);
        }
        flags
    }

    fn select(&self) -> Result<ibot::device::Selected> {
        let selected = ibot::device::select(self.backend, self.device.as_deref())?;
        if matches!(selected, ibot::device::Selected::Wgpu { .. }) {
            announce_kernels()?;
        }
        Ok(selected)
    }
}
