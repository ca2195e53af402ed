//! Commands and their flags.

use std::error::Error as _;
use std::ffi::OsString;
use std::num::{IntErrorKind, ParseFloatError, ParseIntError};

use clap::builder::StyledStr;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use ibot::Result;

use super::threads::start_threads;
use super::{
    about, bench, classify, cluster, devices, doctor, embed, evaluate, export, finetune, flags,
    index, inspect, inventory, logger, map, outliers, output, probe, ranks, report, screen, search,
    train_flags, verify, visualize,
};

const ABOUT: &str = "Pre-train vision transformers without labels, and use their features";

/// The command line.
#[derive(Debug, Parser)]
#[command(name = "ibot", version, long_version = about::LONG_VERSION, about = ABOUT, after_help = EXAMPLES)]
pub struct Cli {
    #[command(flatten)]
    screen: screen::ScreenArgs,
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "Examples:
  ibot train                                       a demo on images that it draws itself
  ibot train PHOTOS --plan                         what a run would take
  ibot train PHOTOS --out runs/first               train; the same line resumes
  ibot embed PHOTOS --model runs/first/teacher.safetensors --out features.parquet
  ibot train --help                                all flags, in groups";

/// A command with its flags.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Train on images; without any, on a small generated set.
    Train(Box<train_flags::TrainArgs>),
    /// Report what a set of images holds: classes, formats, sizes, damaged files, duplicates.
    Data(inventory::DataArgs),
    /// Write an index of a large image folder, so that later runs start without scanning it.
    Index(index::IndexArgs),
    /// Write the features of a folder's images to a file.
    Embed(embed::EmbedArgs),
    /// Evaluate the features with a k-nearest-neighbor classifier.
    Knn(evaluate::KnnArgs),
    /// Evaluate the features with a linear classifier.
    Probe(probe::ProbeArgs),
    /// Train a classifier from a backbone and labeled images.
    Finetune(Box<finetune::FinetuneArgs>),
    /// Predict the class of images with a classifier from `ibot finetune`.
    Classify(classify::ClassifyArgs),
    /// Group similar images.
    Cluster(cluster::ClusterArgs),
    /// Find the images most similar to a query image.
    Search(search::SearchArgs),
    /// Find images unlike all others, and mark the unusual places.
    Outliers(outliers::OutliersArgs),
    /// Show the images of a folder on a two-dimensional map, with the neighbors of each.
    Map(map::MapArgs),
    /// Show on one page whether runs are healthy and what they reached, with their curves.
    Report(report::ReportArgs),
    /// Draw attention and patch features, and a run's curves.
    Visualize(visualize::VisualizeArgs),
    /// Write weights for other programs.
    Export(export::ExportArgs),
    /// Describe a model file.
    Inspect(inspect::InspectArgs),
    /// List the GPUs, and which one `--backend auto` takes.
    Devices(devices::DevicesArgs),
    /// Check this machine: processor, memory, GPUs and drivers, folders; says what is missing and what to install.
    Doctor(doctor::DoctorArgs),
    /// Check every operation and ten training steps on a device against the CPU.
    Verify(verify::VerifyArgs),
    /// Time training steps on random images, the GPU kernels, the loader, or all of them against Python.
    Bench(bench::BenchArgs),
    /// Print a shell's completions of commands and flags.
    Completions(about::CompletionsArgs),
    /// Write manual pages.
    Man(about::ManArgs),
}

impl Command {
    /// Parses the arguments; ends the process if they ask for help or are invalid.
    ///
    /// # Errors
    /// The system gives this program no threads, or help cannot be printed.
    pub fn parse(arguments: &[OsString]) -> Result<Self> {
        // a value such as -1 gets an error about the value, and is not taken for a flag
        let command = Cli::command()
            .color(screen::color_of(arguments))
            .mut_subcommands(|of| of.allow_negative_numbers(true));
        let parsed = command.clone().try_get_matches_from(arguments);
        let parsed = parsed.and_then(|matches| {
            if let Some((name, given)) = matches.subcommand()
                && let Some(of) = command.find_subcommand(name)
            {
                flags::learn(of, given);
            }
            Cli::from_arg_matches(&matches)
        });
        match parsed {
            Ok(Cli { screen, command }) => {
                screen.apply();
                logger::raise(screen.verbose);
                match command {
                    // they first learn how many processes share the cores
                    Self::Train(_)
                    | Self::Embed(_)
                    | Self::Knn(_)
                    | Self::Probe(_)
                    | Self::Finetune(_) => Ok(command),
                    _ => start_threads(0).map(|()| command),
                }
            }
            Err(error) => {
                let error = with_place_of_images(error, &command, arguments);
                let error = about_number(error, &command);
                output::written(error.print())?;
                ibot::device::end_process(u8::try_from(error.exit_code()).unwrap_or(1))
            }
        }
    }

    /// The name of a command whose output several processes would all write.
    fn writes_alone(&self) -> Option<&'static str> {
        Some(match self {
            Self::Data(_) => "data",
            Self::Index(_) => "index",
            Self::Classify(_) => "classify",
            Self::Cluster(_) => "cluster",
            Self::Search(_) => "search",
            Self::Outliers(_) => "outliers",
            Self::Map(_) => "map",
            Self::Report(_) => "report",
            Self::Visualize(_) => "visualize",
            Self::Export(_) => "export",
            _ => return None,
        })
    }

    /// Runs the command.
    pub fn run(self) -> Result<()> {
        if let Some(name) = self.writes_alone() {
            ranks::alone_for(name)?;
        }
        match self {
            Self::Train(args) => args.run(),
            Self::Data(args) => args.run(),
            Self::Index(args) => args.run(),
            Self::Embed(args) => args.run(),
            Self::Knn(args) => args.run(),
            Self::Probe(args) => args.run(),
            Self::Finetune(args) => args.run(),
            Self::Classify(args) => args.run(),
            Self::Cluster(args) => args.run(),
            Self::Search(args) => args.run(),
            Self::Outliers(args) => args.run(),
            Self::Map(args) => args.run(),
            Self::Report(args) => args.run(),
            Self::Visualize(args) => args.run(),
            Self::Export(args) => args.run(),
            Self::Inspect(args) => args.run(),
            Self::Devices(args) => args.run(),
            Self::Doctor(args) => args.run(),
            Self::Verify(args) => args.run(),
            Self::Bench(args) => args.run(),
            Self::Completions(args) => args.run(Cli::command()),
            Self::Man(args) => args.run(Cli::command()),
        }
    }
}

/// An error about a value that is no number of its kind, in plain words; another error as it is.
fn about_number(error: clap::Error, command: &clap::Command) -> clap::Error {
    let value_of = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => text.clone(),
        _ => String::new(),
    };
    let (flag, value) = (
        value_of(ContextKind::InvalidArg),
        value_of(ContextKind::InvalidValue),
    );
    let Some(source) = error.source() else {
        return error;
    };
    let whole = source.downcast_ref::<ParseIntError>();
    let remedy = match whole.map(ParseIntError::kind) {
        Some(IntErrorKind::Zero) => "give 1 or more",
        Some(IntErrorKind::PosOverflow | IntErrorKind::NegOverflow) => "the number is too large",
        Some(_) if value.starts_with('-') => "give a whole number that is not negative",
        Some(_) => "give a whole number",
        None if source.is::<ParseFloatError>() => "give a number",
        None => return error,
    };
    let text = format!(
        "invalid value '{value}' for '{flag}': {remedy}\n\nFor more information, try '--help'.\n"
    );
    clap::Error::raw(error.kind(), text).with_cmd(command)
}

/// An error about a word too many, with the flag that it may have been meant for.
fn with_place_of_images(
    mut error: clap::Error,
    command: &clap::Command,
    arguments: &[OsString],
) -> clap::Error {
    let name = arguments.get(1).cloned().unwrap_or_default();
    let Some(of) = command.find_subcommand(name) else {
        return error;
    };
    let Some(ContextValue::String(word)) = error.get(ContextKind::InvalidArg) else {
        return error;
    };
    if error.kind() != ErrorKind::UnknownArgument || word.starts_with('-') {
        return error;
    }
    let has = |id: &str| of.get_arguments().any(|argument| argument.get_id() == id);
    let tip = match (has("images"), has("data"), has("image")) {
        (true, ..) => {
            "one folder, or a .txt file with one path a line, holds all images".to_owned()
        }
        (_, true, _) => format!("images are given as '--data {word}'"),
        (_, _, true) => format!("images are given as '--image {word}'"),
        _ => return error,
    };
    let tips = ContextValue::StyledStrs(vec![StyledStr::from(tip)]);
    error.insert(ContextKind::Suggested, tips);
    error
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn a_value_that_is_no_number_is_refused_in_plain_words() {
        let command = Cli::command();
        for (flag, value, said) in [
            (
                "--steps",
                "ten",
                "'ten' for '--steps <STEPS>': give a whole number\n",
            ),
            ("--keep", "0", "'0' for '--keep <COUNT>': give 1 or more\n"),
            (
                "--held-out",
                "x",
                "'x' for '--held-out <SHARE>': give a number\n",
            ),
        ] {
            let arguments = ["ibot", "train", flag, value];
            let refused = command.clone().try_get_matches_from(arguments);
            let text = about_number(refused.unwrap_err(), &command).to_string();
            assert!(text.contains(said), "{text}");
        }
    }
}
