//! The model of the window.

use std::path::{Path, PathBuf};
use std::time::Duration;

use eframe::egui::{Context, Ui};
use ibot::Error;
use ibot::app::{DeviceRequest, EmbedderConfig, EmbedderHandle, Job, ModelInfo};
use ibot::error::printable;

use super::background::spawn;
use super::failure::Failure;

/// Longest batch: a frame may wait this long on a GPU that the window shares.
const BATCH_TIME: Duration = Duration::from_millis(30);
/// The model is freed after this long without a request.
const IDLE: Duration = Duration::from_secs(600);
/// How often a loading model is polled.
const LOOK: Duration = Duration::from_millis(50);

/// A model file on a device, or none.
pub struct Model {
    device: DeviceRequest,
    path: Option<PathBuf>,
    handle: Option<EmbedderHandle>,
    loading: Option<Job<ModelInfo>>,
    info: Option<ModelInfo>,
    error: Option<Failure>,
}

impl Model {
    /// None yet; the next one computes on `device`.
    pub fn none(device: DeviceRequest) -> Self {
        Self {
            device,
            path: None,
            handle: None,
            loading: None,
            info: None,
            error: None,
        }
    }

    /// Starts to load a file in place of the one before.
    pub fn open(&mut self, path: PathBuf) {
        let mut config = EmbedderConfig {
            device: self.device.clone(),
            idle: Some(IDLE),
            ..EmbedderConfig::new(path.clone())
        };
        if matches!(self.device, DeviceRequest::Selected(_)) {
            config.batch_time = Some(BATCH_TIME);
        }
        if let Some(old) = self.handle.take() {
            // its thread may be loading or computing, which the last handle waits for
            spawn(move || drop(old));
        }
        *self = Self::none(self.device.clone());
        self.path = Some(path);
        match config.start() {
            Ok(handle) => {
                self.loading = Some(handle.load());
                self.handle = Some(handle);
            }
            Err(error) => self.fail(&error),
        }
    }

    /// Moves to another device.
    pub fn move_to(&mut self, device: DeviceRequest) {
        self.device = device;
        if let Some(path) = self.path.clone() {
            self.open(path);
        }
    }

    /// Whether a model became ready since the last call.
    pub fn receive(&mut self, ctx: &Context) -> bool {
        let Some(loading) = &mut self.loading else {
            return false;
        };
        match loading.try_result() {
            None => {
                ctx.request_repaint_after(LOOK);
                return false;
            }
            Some(Ok(info)) => self.info = Some(info),
            Some(Err(error)) => self.fail(&error),
        }
        self.loading = None;
        self.info.is_some()
    }

    /// Its handle and description, if it is loaded.
    pub fn ready(&self) -> Option<(&EmbedderHandle, &ModelInfo)> {
        Some((self.handle.as_ref()?, self.info.as_ref()?))
    }

    /// Where models and runs compute.
    pub fn device(&self) -> &DeviceRequest {
        &self.device
    }

    /// It failed: no more requests until the user tries again.
    pub fn fail(&mut self, error: &Error) {
        self.info = None;
        self.error = Some(Failure::new(error, &self.device));
    }

    /// One line about it, with buttons if it failed; another device that the user wants.
    pub fn show(&mut self, ui: &mut Ui) -> Option<DeviceRequest> {
        let name = self.path.as_deref().and_then(Path::file_name);
        let name = name.map(printable).unwrap_or_default();
        if let Some(failure) = &self.error {
            let text = format!("{name}: {}", failure.reason);
            ui.colored_label(ui.visuals().error_fg_color, text);
            let tries_again = !failure.is_final && ui.button("Try again").clicked();
            return if tries_again {
                Some(self.device.clone())
            } else {
                failure.show_devices(ui)
            };
        }
        if self.loading.is_some() {
            ui.spinner();
            ui.label(format!("Loading {name}"));
        } else if let Some(info) = &self.info {
            let encoder = info.card.as_ref().map(|card| card.encoder.as_str());
            let [rows, columns] = info.grid;
            ui.label(format!(
                "{name}: {}, {rows} x {columns} patches, feature width {}, {}",
                encoder.unwrap_or("unnamed model"),
                info.width,
                info.device,
            ));
        } else {
            ui.label("No model: open one, or train one on these images in the Training tab.");
        }
        None
    }
}
