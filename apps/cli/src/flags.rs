//! The library's messages in the words of the command line.
//!
//! The library names settings and functions in backquotes, as `micro_batch_size`; here they become flags and commands.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use clap::parser::ValueSource;
use ibot::Error;
use ibot::error::printable;

/// The command that does the same as a function of the library.
const COMMANDS: &[(&str, &str)] = &[
    ("allow_changes", "--override"),
    ("encoder_names", "`ibot inspect --encoders`"),
    ("Export", "`ibot export --run FOLDER --out NEW.safetensors`"),
    (
        "Export::from_checkpoint",
        "`ibot export --checkpoint FOLDER --out NEW.safetensors`",
    ),
];

/// Keys whose flag is called otherwise.
const OTHER_NAMES: &[(&str, &str)] = &[
    ("encoder_name", "encoder"),
    ("base_learning_rate", "learning-rate"),
];

/// The long flags of the command that runs, and whether they were given.
static FLAGS: OnceLock<BTreeMap<String, bool>> = OnceLock::new();

/// Stores the flags of the command that runs, and which of them were given; later calls do nothing.
pub fn learn(command: &clap::Command, given: &clap::ArgMatches) {
    let is_given = |flag: &clap::Arg| {
        given.value_source(flag.get_id().as_str()) == Some(ValueSource::CommandLine)
    };
    let flags = command
        .get_arguments()
        .filter_map(|flag| Some((flag.get_long()?.to_owned(), is_given(flag))));
    FLAGS.get_or_init(|| flags.collect());
}

/// The text of an error, with flags in place of settings.
pub fn explain(error: &Error) -> String {
    let text = in_flags(&error.to_string());
    match error {
        Error::Interrupted { run, .. } if !run.join("checkpoints").is_dir() => text,
        Error::Interrupted { run, .. } if run.join("run.json").is_file() => {
            format!("{text}\nResume: ibot train --resume {}", printable(run))
        }
        Error::Interrupted { .. } => format!("{text}\nResume: the same command"),
        Error::Config { key, .. } => match flag_of_key(key) {
            Some(flag) => text.replacen(key, &flag, 1),
            None => text,
        },
        _ => text,
    }
}

/// `text` with flags and commands in place of settings and functions.
pub fn in_flags(text: &str) -> String {
    let parts: Vec<&str> = text.split('`').collect();
    let mut said = String::with_capacity(text.len());
    for (at, part) in parts.iter().enumerate() {
        let (is_odd, has_end) = (at % 2 == 1, at + 1 < parts.len());
        match (is_odd, has_end) {
            (true, true) => match in_command_line(part) {
                Some(here) => said += &here,
                None => said += &format!("`{part}`"),
            },
            (true, false) => said += &format!("`{part}"),
            (false, _) => said += part,
        }
    }
    said
}

fn in_command_line(name: &str) -> Option<String> {
    let command = COMMANDS.iter().find(|(known, _)| *known == name);
    command
        .map(|(_, here)| (*here).to_owned())
        .or_else(|| flag(name))
}

/// The flag of a setting, if the command has one of that name.
fn flag(setting: &str) -> Option<String> {
    let name = setting.replace('_', "-");
    let is_known = FLAGS.get().is_some_and(|flags| flags.contains_key(&name));
    is_known.then(|| format!("--{name}"))
}

/// The flag of a key in an error. A key in a table may be that of a file or of `--set`: its flag is named if it was given.
fn flag_of_key(key: &str) -> Option<String> {
    let last = key.rsplit('.').next().unwrap_or(key);
    let other = OTHER_NAMES.iter().find(|(name, _)| *name == last);
    if other.is_none() && last == key {
        return flag(key);
    }
    let name = other.map_or_else(|| last.replace('_', "-"), |(_, flag)| (*flag).to_owned());
    let is_given = FLAGS.get()?.get(&name).copied().unwrap_or(false);
    is_given.then(|| format!("--{name}"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use clap::CommandFactory as _;

    use super::*;
    use crate::command::Cli;

    #[test]
    fn settings_become_flags_and_functions_commands() {
        let command = Cli::command();
        let given = [
            "ibot",
            "train",
            "--encoder",
            "x",
            "--image-size",
            "5",
            "--learning-rate",
            "1",
        ];
        let matches = command.clone().get_matches_from(given);
        let (_, given) = matches.subcommand().unwrap();
        learn(command.find_subcommand("train").unwrap(), given);
        for (of_library, here) in [
            ("lower `batch_size`", "lower --batch-size"),
            ("compute with `backend` flex", "compute with --backend flex"),
            (
                "or resume with `allow_changes`",
                "or resume with --override",
            ),
            (
                "`encoder_names` lists all",
                "`ibot inspect --encoders` lists all",
            ),
            ("`ibot devices` lists them", "`ibot devices` lists them"),
            ("a ` alone, `n_things`", "a ` alone, `n_things`"),
            ("nothing", "nothing"),
        ] {
            assert_eq!(in_flags(of_library), here);
        }
        let error = |key| explain(&Error::config(key, 0, "give 1 or more"));
        assert_eq!(error("batch_size"), "--batch-size = 0: give 1 or more");
        assert_eq!(error("depth"), "depth = 0: give 1 or more");
        for (key, said) in [
            ("method.encoder_name", "--encoder"),
            ("encoder_name", "--encoder"),
            ("method.image_size", "--image-size"),
            ("schedule.base_learning_rate", "--learning-rate"),
            // has a flag that was not given
            ("folder.tile", "folder.tile"),
            ("method.mask_ratio", "method.mask_ratio"),
        ] {
            assert_eq!(error(key), format!("{said} = 0: give 1 or more"));
        }
    }

    /// A command that is named in place of a function exists.
    #[test]
    fn commands_in_the_table_parse() {
        for (_, here) in COMMANDS {
            let words: Vec<&str> = here.trim_matches('`').split(' ').collect();
            if words[0] == "ibot" {
                let parsed = Cli::command().try_get_matches_from(&words);
                assert!(parsed.is_ok(), "{here}: {}", parsed.unwrap_err());
            }
        }
    }
}
