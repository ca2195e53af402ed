//! Documents: docs/commands.md is the help of the commands, and what other pages write of the command line can be parsed.

use std::fs;
use std::path::{Path, PathBuf};

use clap::builder::StyledStr;
use clap::{CommandFactory as _, FromArgMatches as _};

use crate::command::Cli;

/// Columns of the help in the page.
const WIDTH: usize = 100;

const INTRODUCTION: &str = "# Commands\n\nThis is what `ibot COMMAND --help` prints; `-h` is shorter where it says so. \
    `cargo test --release --workspace --exclude ibot --lib` compares the page with the program, and writes it with `IBOT_UPDATE=1`.\n";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap().replace("\r\n", "\n")
}

fn help(of: &mut clap::Command) -> String {
    let long: StyledStr = of.render_long_help();
    let lines = long.to_string();
    let lines: Vec<&str> = lines.lines().map(str::trim_end).collect();
    lines.join("\n").trim_end().to_owned()
}

#[test]
fn the_page_of_commands_is_the_help() {
    let mut all = Cli::command().term_width(WIDTH);
    all.build(); // gives the commands their full names
    let mut page = INTRODUCTION.to_owned();
    for of in all.get_subcommands_mut() {
        if of.get_name() != "help" && !of.is_hide_set() {
            let name = of.get_name().to_owned();
            page += &format!("\n## ibot {name}\n\n```text\n{}\n```\n", help(of));
        }
    }
    let path = root().join("docs/commands.md");
    if std::env::var_os("IBOT_UPDATE").is_some() {
        fs::write(&path, &page).unwrap();
    } else {
        assert!(
            text(&path) == page,
            "docs/commands.md is out of date: run this test with IBOT_UPDATE=1"
        );
    }
}

/// README.md and the pages, but for the one above, with their text.
fn pages() -> Vec<(PathBuf, String)> {
    let docs = fs::read_dir(root().join("docs")).unwrap();
    let docs = docs.map(|entry| entry.unwrap().path());
    let docs = docs.filter(|path| path.extension().is_some_and(|e| e == "md"));
    let docs = docs.filter(|path| !path.ends_with("commands.md"));
    let names = ["README.md", "CONTRIBUTING.md"].map(|name| root().join(name));
    docs.chain(names)
        .map(|path| {
            let text = text(&path);
            (path, text)
        })
        .collect()
}

/// The arguments of each command line in the blocks that are marked as shell, from the command's name on.
fn command_lines(text: &str) -> Vec<Vec<String>> {
    let blocks = text.split("\n```").skip(1).step_by(2);
    let lines = blocks
        .filter(|block| block.starts_with("sh"))
        .flat_map(|block| block.lines().skip(1));
    let words = |line: &str| -> Vec<String> {
        let (command, _) = line.split_once(" #").unwrap_or((line, ""));
        command.split_whitespace().map(str::to_owned).collect()
    };
    let arguments = |words: Vec<String>| {
        let from_cargo = words.starts_with(&["cargo", "run", "--release", "--"].map(String::from));
        let from = if from_cargo {
            Some(4)
        } else {
            let name = words.iter().take_while(|word| word.contains('=')).count();
            (words.get(name)? == "ibot").then_some(name + 1)
        };
        from.map(|at| words[at..].to_vec())
    };
    lines.filter_map(|line| arguments(words(line))).collect()
}

#[test]
fn command_lines_in_documents_can_be_parsed() {
    let (mut seen, mut wrong) = (0, Vec::new());
    for (path, text) in pages() {
        for line in command_lines(&text) {
            seen += 1;
            let arguments = std::iter::once("ibot").chain(line.iter().map(String::as_str));
            let matches = Cli::command().try_get_matches_from(arguments);
            if let Err(error) = matches.and_then(|m| Cli::from_arg_matches(&m)) {
                wrong.push(format!("{}: {}: {error}", path.display(), line.join(" ")));
            }
        }
    }
    assert!(
        seen > 30,
        "only {seen} command lines found: the search is broken"
    );
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Commands within a sentence name a command, and flags that it has.
#[test]
fn flags_in_sentences_exist() {
    let all = Cli::command();
    let (mut seen, mut wrong) = (0, Vec::new());
    for (path, text) in pages() {
        let outside: String = text.split("\n```").step_by(2).collect();
        let spans = outside.split('`').skip(1).step_by(2);
        for span in spans.filter(|span| span.starts_with("ibot ") && !span.starts_with("ibot -")) {
            let mut words = span.split_whitespace().skip(1);
            let Some(of) = words.next().and_then(|name| all.find_subcommand(name)) else {
                wrong.push(format!("{}: {span}: no such command", path.display()));
                continue;
            };
            seen += 1;
            let flags = words.filter_map(|word| word.strip_prefix("--"));
            for flag in flags.map(|flag| flag.split('=').next().unwrap_or(flag)) {
                let is = |arg: &clap::Arg| {
                    arg.get_long() == Some(flag)
                        || arg
                            .get_all_aliases()
                            .is_some_and(|names| names.contains(&flag))
                };
                if flag != "help" && !of.get_arguments().any(is) {
                    wrong.push(format!("{}: {span}: no flag --{flag}", path.display()));
                }
            }
        }
    }
    assert!(
        seen > 30,
        "only {seen} commands found: the search is broken"
    );
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
