//! The `ibot` command: parse, call the library, print.

// They panic if the reader is gone, and a lost log line must not end a run.
#![warn(clippy::print_stdout, clippy::print_stderr)]

mod bench;
mod choices;
mod classify;
mod cluster;
mod command;
mod curves;
mod destination;
mod device;
mod devices;
mod embed;
mod evaluate;
mod export;
mod finetune;
mod flags;
#[cfg(test)]
#[path = "../../../tests/gpu/mod.rs"]
mod gpu;
mod inspect;
mod logger;
mod masks_sheet;
mod model;
mod output;
mod picture;
mod picture_names;
mod plan;
mod progress;
mod report;
mod search;
mod segment;
mod segmentation_report;
mod signals;
mod split;
mod tensorboard;
mod train;
mod verify;
mod visualize;

use command::{Command, exit_code};

/// Each burn operation on the CPU allocates its result: a fast allocator saves a tenth of a step.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// mimalloc's option "milliseconds until freed memory goes back to the system", `mi_option_purge_delay` in mimalloc.h.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;

fn main() {
    // Each step allocates what the last one freed: giving it back means a page fault for each of its pages, a quarter
    // of the CPU time of a step (perf: clear_page_erms).
    // SAFETY: sets one number of the allocator, before any other thread runs.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, -1) };
    without_wayland();
    logger::install();
    ibot::device::on_no_answer(|error| end(Err(error)));
    end(Command::parse().and_then(Command::run));
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
                ibot::Error::Interrupted { .. } => output::warn(text),
                _ => output::warn(format_args!("error: {text}")),
            }
            exit_code(&error)
        }
    };
    ibot::device::end_process(code)
}
