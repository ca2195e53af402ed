//! The command about itself: version, completions, manual pages.

use std::path::PathBuf;

use clap_complete::Shell;
use ibot::error::printable;
use ibot::{Error, Result};

use super::output::{answer, answer_bytes};

/// Version and commit, target, backends and features.
pub const LONG_VERSION: &str = include_str!(concat!(env!("OUT_DIR"), "/version.txt"));

/// Flags of `ibot completions`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  ibot completions bash > ~/.local/share/bash-completion/completions/ibot
  ibot completions zsh > ~/.zfunc/_ibot
  ibot completions fish > ~/.config/fish/completions/ibot.fish
  ibot completions powershell >> $PROFILE")]
pub struct CompletionsArgs {
    /// The shell.
    shell: Shell,
}

impl CompletionsArgs {
    /// Prints the completions of `command`.
    pub fn run(&self, mut command: clap::Command) -> Result<()> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut command, "ibot", &mut script);
        answer_bytes(&script)
    }
}

/// Flags of `ibot man`.
#[derive(Debug, clap::Args)]
pub struct ManArgs {
    /// Folder to write to, such as ~/.local/share/man/man1.
    dir: PathBuf,
}

impl ManArgs {
    /// Writes the pages of `command` and its subcommands.
    pub fn run(&self, command: clap::Command) -> Result<()> {
        let dir = &self.dir;
        std::fs::create_dir_all(dir).map_err(Error::io(dir))?;
        clap_mangen::generate_to(command, dir).map_err(Error::io(dir))?;
        answer(format_args!("{}: see ibot.1", printable(dir)))
    }
}
