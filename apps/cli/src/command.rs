//! Commands and their flags.

use clap::{CommandFactory as _, FromArgMatches as _, Parser};
use ibot::{Error, Result};

use super::{
    bench, classify, cluster, devices, embed, evaluate, export, finetune, flags, inspect, output,
    search, signals, train, verify, visualize,
};

/// Pre-trains vision transformers with iBOT on any GPU, or the CPU.
#[derive(Debug, Parser)]
#[command(name = "ibot", version, about)]
pub enum Command {
    /// Train on an image folder; without --data, on a small generated set.
    Train(Box<train::TrainArgs>),
    /// Write the features of a folder's images to a file.
    Embed(embed::EmbedArgs),
    /// Evaluate the features with a k-nearest-neighbor classifier.
    Knn(evaluate::KnnArgs),
    /// Evaluate the features with a linear classifier.
    Probe(evaluate::ProbeArgs),
    /// Train a classifier from a backbone and labeled images.
    Finetune(Box<finetune::FinetuneArgs>),
    /// Predict the class of images with a classifier from `ibot finetune`.
    Classify(classify::ClassifyArgs),
    /// Group similar images.
    Cluster(cluster::ClusterArgs),
    /// Find the images most similar to a query image.
    Search(search::SearchArgs),
    /// Draw attention, patch features and training curves.
    Visualize(visualize::VisualizeArgs),
    /// Write weights for other programs.
    Export(export::ExportArgs),
    /// Describe a model file.
    Inspect(inspect::InspectArgs),
    /// List the GPUs, and which one `--backend auto` takes.
    Devices(devices::DevicesArgs),
    /// Check every operation and ten training steps on a device against the CPU.
    Verify(verify::VerifyArgs),
    /// Time training steps on random images, the GPU kernels, the loader, or all of them against Python.
    Bench(bench::BenchArgs),
}

impl Command {
    /// Parses the arguments; ends the process if they ask for help or are invalid.
    ///
    /// # Errors
    /// The system gives this program no threads, or help cannot be printed.
    pub fn parse() -> Result<Self> {
        // a value such as -1 gets an error about the value, and is not taken for a flag
        let command = Self::command().mut_subcommands(|of| of.allow_negative_numbers(true));
        let parsed = command.clone().try_get_matches();
        let parsed = parsed.and_then(|matches| {
            let name = matches.subcommand_name();
            if let Some(of) = name.and_then(|name| command.find_subcommand(name)) {
                flags::learn(of);
            }
            Self::from_arg_matches(&matches)
        });
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

/// Starts the compute threads. They would otherwise start at first use, with a panic if the system refuses them.
fn start_threads() -> Result<()> {
    let threads = rayon::ThreadPoolBuilder::new().build_global();
    threads.map_err(|error| {
        Error::Device(format!(
            "the compute threads cannot start: {error}; raise the limit of processes (ulimit -u), \
             or use fewer with RAYON_NUM_THREADS=1"
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
