//! What the screen shows: how much, and whether in color.

use std::ffi::OsString;
use std::fmt::Display;
use std::io::IsTerminal as _;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use clap::{ArgAction, ColorChoice};
use console::Style;

/// Levels of [`LEVEL`].
const SILENT: u8 = 0;
const QUIET: u8 = 1;
const NORMAL: u8 = 2;
const VERBOSE: u8 = 3;

/// How much is printed.
static LEVEL: AtomicU8 = AtomicU8::new(NORMAL);

/// Whether --color says more than auto.
static IS_CHOSEN: AtomicBool = AtomicBool::new(false);

/// Whether stdout may be a terminal.
static HAS_TERMINAL: AtomicBool = AtomicBool::new(true);

/// Flags of every command.
#[derive(Debug, Clone, clap::Args)]
pub struct ScreenArgs {
    /// Print results, warnings and errors only.
    #[arg(long, short, global = true, help_heading = "Screen")]
    quiet: bool,
    /// Print more; twice for debugging.
    #[arg(long, short, global = true, action = ArgAction::Count, conflicts_with = "quiet", help_heading = "Screen")]
    pub verbose: u8,
    /// When to color: auto does so on a terminal, unless NO_COLOR is set.
    #[arg(
        long,
        value_name = "WHEN",
        global = true,
        default_value = "auto",
        help_heading = "Screen"
    )]
    color: ColorChoice,
}

impl ScreenArgs {
    /// Makes all later output follow these flags.
    pub fn apply(&self) {
        let level = match (self.quiet, self.verbose) {
            (true, _) => QUIET,
            (false, 0) => NORMAL,
            (false, _) => VERBOSE,
        };
        LEVEL.store(level, Ordering::Relaxed);
        let colors = match self.color {
            ColorChoice::Auto => return,
            ColorChoice::Always => true,
            ColorChoice::Never => false,
        };
        IS_CHOSEN.store(true, Ordering::Relaxed);
        set_colors(colors);
    }
}

fn set_colors(colors: bool) {
    console::set_colors_enabled(colors);
    console::set_colors_enabled_stderr(colors);
}

/// Without bars, and without colors unless they were asked for: a launcher of MPI may give a process a terminal of its own,
/// which nobody sees.
#[cfg(feature = "mpi")]
pub fn without_terminal() {
    HAS_TERMINAL.store(false, Ordering::Relaxed);
    if !IS_CHOSEN.load(Ordering::Relaxed) {
        set_colors(false);
    }
}

/// The choice of color in the arguments, for what is printed before they are parsed.
pub fn color_of(arguments: &[OsString]) -> ColorChoice {
    let mut arguments = arguments.iter().skip(1);
    while let Some(argument) = arguments.next() {
        let text = argument.to_string_lossy();
        let value = match text.strip_prefix("--color") {
            Some("") => arguments.next().cloned(),
            Some(value) => value.strip_prefix('=').map(Into::into),
            None => None,
        };
        if let Some(value) = value {
            return match value.to_str() {
                Some("always") => ColorChoice::Always,
                Some("never") => ColorChoice::Never,
                _ => ColorChoice::Auto,
            };
        }
    }
    ColorChoice::Auto
}

/// Leaves all but errors to another process, unless details are wanted.
pub fn silence() {
    if !is_verbose() {
        LEVEL.store(SILENT, Ordering::Relaxed);
    }
}

/// Whether another process says all but errors.
pub fn is_silent() -> bool {
    LEVEL.load(Ordering::Relaxed) == SILENT
}

/// Whether stdout is a terminal that somebody sees.
pub fn is_terminal() -> bool {
    HAS_TERMINAL.load(Ordering::Relaxed) && std::io::stdout().is_terminal()
}

/// Whether progress is not wanted.
pub fn is_quiet() -> bool {
    LEVEL.load(Ordering::Relaxed) <= QUIET
}

/// Whether details are wanted.
pub fn is_verbose() -> bool {
    LEVEL.load(Ordering::Relaxed) == VERBOSE
}

/// Text of stdout that stands out little.
pub fn dim(text: impl Display) -> String {
    Style::new().dim().apply_to(text).to_string()
}

/// Text of stdout that warns.
pub fn warning(text: impl Display) -> String {
    Style::new().yellow().apply_to(text).to_string()
}

/// Text of stdout that is good news.
pub fn good(text: impl Display) -> String {
    Style::new().green().apply_to(text).to_string()
}

/// Text of stderr that names a failure.
pub fn failure(text: impl Display) -> String {
    let style = Style::new().for_stderr().red().bold();
    style.apply_to(text).to_string()
}
