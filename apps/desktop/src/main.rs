//! Explores an image folder with a model (similar images, attention, patch features), and trains one, live.
//!
//! `cargo run --release -p ibot-desktop -- [FOLDER] [--model teacher.safetensors]`
//!
//! - `app`: the window; `gpu`: what it is drawn on
//! - `model`: the model behind it; `gallery`: the folder and its features; `failure`: a device that failed, and others
//! - `details`: the selected image; `neighbors`: those like it
//! - `training`: a run; `run_settings`: what it is started with; `run_log`: its events; `curve`: its numbers
//! - `words`: messages of the library, as the window says them
//! - `grid`, `thumbnails`: the folder on the screen; `background`: work that must not hold up a frame

mod app;
mod background;
mod curve;
mod details;
mod failure;
mod gallery;
mod gpu;
mod grid;
mod model;
mod neighbors;
mod run_log;
mod run_settings;
#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]
mod tests;
mod thumbnails;
mod training;
mod words;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use clap::builder::PossibleValuesParser;
use eframe::egui::{Context, Ui, ViewportBuilder};
use eframe::{NativeOptions, Renderer};
use ibot::app::DeviceRequest;
use ibot::device::{BackendChoice, select};

use app::Desktop;
use run_settings::{CHOSEN, presets};

/// burn allocates each result; mimalloc does that fastest.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Explore a folder of images with a model, and train one.
#[derive(Parser)]
#[command(name = "ibot-desktop")]
struct Arguments {
    /// Image folder.
    folder: Option<PathBuf>,
    /// Model file, or folder of a model.
    #[arg(long)]
    model: Option<PathBuf>,
    /// timm name of the model's encoder, for a file that does not say it.
    #[arg(long, value_name = "NAME", requires = "model")]
    encoder: Option<String>,
    /// Where models and runs compute: `auto` takes the GPU if there is a real one, else the CPU.
    #[arg(long, value_name = "auto|wgpu|flex|ndarray", default_value = "auto")]
    backend: BackendChoice,
    /// Settings selected in the Training tab: a preset, or those chosen for the images and the device.
    #[arg(long, alias = "recipe", default_value = CHOSEN, value_parser = PossibleValuesParser::new(presets()))]
    preset: String,
}

impl eframe::App for Desktop {
    fn logic(&mut self, ctx: &Context, _frame: &mut eframe::Frame) {
        self.receive(ctx);
    }

    fn ui(&mut self, ui: &mut Ui, frame: &mut eframe::Frame) {
        self.show(ui, Some(frame));
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let window = match gpu::of_window() {
        Ok(window) => window,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::FAILURE;
        }
    };
    let mut options = NativeOptions {
        renderer: Renderer::Wgpu,
        viewport: ViewportBuilder::default()
            .with_title("ibot")
            .with_inner_size([1280.0, 820.0])
            .with_min_inner_size([720.0, 480.0]),
        ..NativeOptions::default()
    };
    options.wgpu_options.wgpu_setup = window;
    // GPUs are listed here once, as a frame would wait for it; without a device, the model or the run says why
    let device = select(arguments.backend, None)
        .map_or_else(|_| arguments.backend.into(), DeviceRequest::from);
    let start = move |creation: &eframe::CreationContext<'_>| {
        let mut desktop = Desktop::new(device, &arguments.preset);
        if let Some(folder) = arguments.folder {
            desktop.open_images(&creation.egui_ctx, folder);
        }
        if let Some(model) = arguments.model {
            desktop.open_model(model, arguments.encoder);
        }
        Ok(Box::new(desktop) as Box<dyn eframe::App>)
    };
    match eframe::run_native("ibot-desktop", options, Box::new(start)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: cannot open a window: {error}");
            ExitCode::FAILURE
        }
    }
}
