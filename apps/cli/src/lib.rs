//! The `ibot` command: parse, call the library, print. `main.rs` starts it, and so does the Python package.

// They panic if the reader is gone, and a lost log line must not end a run.
#![warn(clippy::print_stdout, clippy::print_stderr)]

mod about;
mod bar;
mod bench;
#[cfg(test)]
mod cards;
mod choices;
mod classification_report;
mod classify;
mod cluster;
mod command;
mod curves;
mod destination;
mod device;
mod devices;
mod doctor;
#[cfg(test)]
mod documents;
mod drawing;
mod duration;
mod embed;
mod embed_tiles;
mod evaluate;
mod export;
mod features;
mod finetune;
mod flags;
mod folder_args;
#[cfg(test)]
#[path = "../../../tests/gpu/mod.rs"]
mod gpu;
mod image_names;
mod images;
mod index;
mod inspect;
mod inventory;
mod layout;
mod left_out;
mod logger;
mod map;
mod masks_sheet;
mod model;
mod next;
mod opening;
mod outlier_patches;
mod outliers;
mod output;
mod page;
mod plan;
mod probe;
mod progress;
mod python;
mod ranks;
mod report;
mod same_images;
mod screen;
mod search;
mod segment;
mod segmentation_report;
mod setting;
mod settings;
mod sheets;
mod signals;
mod split;
mod tensorboard;
mod threads;
mod train;
mod train_flags;
mod unchanged;
mod verdict;
mod verify;
mod visualize;

use std::ffi::OsString;

use command::Command;

/// Sends the messages of the libraries to stderr, as the command does; later calls do nothing.
pub fn log_to_stderr() {
    logger::install();
}

/// Runs the command with its arguments, the first of which is its name, and ends the process.
pub fn main(arguments: &[OsString]) -> ! {
    without_wayland();
    signals::writes_beyond_limit_fail();
    log_to_stderr();
    ibot::device::on_no_answer(|error| end(Err(error)));
    end(Command::parse(arguments).and_then(Command::run));
}

/// Without a desktop (containers, cron), libwayland, which Mesa asks for a display, prints lines that begin with `error:`
/// like this program's own. It prints nothing about a display given by a path that does not exist.
fn without_wayland() {
    #[cfg(target_os = "linux")]
    if std::env::var_os("XDG_RUNTIME_DIR").is_none()
        && std::env::var_os("WAYLAND_DISPLAY").is_none()
    {
        // SAFETY: called before any other thread runs.
        unsafe { std::env::set_var("WAYLAND_DISPLAY", "/no/display") };
    }
}

fn end(result: ibot::Result<()>) -> ! {
    let code = match result {
        Ok(()) => 0,
        Err(error) => {
            let text = flags::explain(&error);
            match error {
                // the user asked for this
                ibot::Error::Interrupted { .. } | ibot::Error::Stopped => output::warn(text),
                _ => output::warn(format_args!("{} {text}", screen::failure("error:"))),
            }
            signals::exit_code(&error)
        }
    };
    ibot::device::end_process(code)
}
