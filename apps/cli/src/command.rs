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
    /// Trains on an image folder; without --data on a small set of its own making.
    Train(Box<train::TrainArgs>),
    /// Writes the features of a folder's pictures to a file.
    Embed(embed::EmbedArgs),
    /// Classifies by nearest neighbors.
    Knn(evaluate::KnnArgs),
    /// Classifies by a linear model of the features.
    Probe(evaluate::ProbeArgs),
    /// Trains a classifier from a backbone and labeled pictures.
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
