//! The `ibot` command: parse, call the library, print.

mod cli;

use std::process::ExitCode;

use clap::Parser;

/// Each burn operation on the CPU allocates its result: a fast allocator is worth a tenth of a step.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    cli::logger::install();
    match cli::Command::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            cli::exit_code(&error)
        }
    }
}
