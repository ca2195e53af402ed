//! The model of the window.

use std::path::{Path, PathBuf};
use std::time::Duration;

use eframe::egui::{Context, Key, TextEdit, Ui};
use ibot::Error;
use ibot::app::{DeviceRequest, EmbedderConfig, EmbedderHandle, Job, ModelInfo};
use ibot::error::printable;
use ibot::files::model::ModelOptions;

use super::background::spawn;
use super::failure::Failure;
use super::words::encoder_to_try;

/// The model is freed after this long without a request.
const IDLE: Duration = Duration::from_secs(600);
/// How often a loading model is polled.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// A model file on a device, or none.
pub struct Model {
    device: DeviceRequest,
    path: Option<PathBuf>,
    /// timm name of its encoder, where the file does not say it.
    encoder: Option<String>,
    /// The name that is being typed, after a failure for want of one.
    encoder_to_try: Option<String>,
    handle: Option<EmbedderHandle>,
    loading: Option<Job<ModelInfo>>,
    info: Option<ModelInfo>,
    error: Option<Failure>,
}

/// What makes features: those of equal origins can be compared, and some may be of one device and some of another.
#[derive(Debug, Clone, PartialEq)]
pub struct Origin {
    encoder: Option<String>,
    /// But for what depends on the device.
    info: ModelInfo,
}

impl Model {
    /// None yet; the next one computes on `device`.
    pub fn none(device: DeviceRequest) -> Self {
        Self {
            device,
            path: None,
            encoder: None,
            encoder_to_try: None,
            handle: None,
            loading: None,
            info: None,
            error: None,
        }
    }

    /// Starts to load a file, or the one in a folder, in place of the one before; `encoder` is for a file that does not say it.
    pub fn open(&mut self, path: PathBuf, encoder: Option<String>) {
        let config = EmbedderConfig {
            options: ModelOptions {
                encoder: encoder.clone(),
                ..ModelOptions::default()
            },
            device: self.device.clone(),
            idle: Some(IDLE),
            ..EmbedderConfig::new(path.clone())
        };
        if let Some(old) = self.handle.take() {
            // its thread may be loading or computing, which the last handle waits for
            spawn(move || drop(old));
        }
        *self = Self::none(self.device.clone());
        self.path = Some(path);
        self.encoder = encoder;
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
            self.open(path, self.encoder.clone());
        }
    }

    /// Whether a model became ready since the last call.
    pub fn receive(&mut self, ctx: &Context) -> bool {
        let Some(loading) = &mut self.loading else {
            return false;
        };
        match loading.try_result() {
            None => {
                ctx.request_repaint_after(POLL_INTERVAL);
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

    /// What its features are made by, if it is loaded.
    pub fn origin(&self) -> Option<Origin> {
        let info = self.info.clone()?;
        Some(Origin {
            encoder: self.encoder.clone(),
            info: ModelInfo {
                device: String::new(),
                fingerprint_difference: None,
                ..info
            },
        })
    }

    /// Where models and runs compute.
    pub fn device(&self) -> &DeviceRequest {
        &self.device
    }

    /// It failed: no more requests until the user tries again.
    pub fn fail(&mut self, error: &Error) {
        self.info = None;
        self.error = Some(Failure::new(error));
        let typed = self.encoder.clone().unwrap_or_default();
        let name = |found: String| if found.is_empty() { typed } else { found };
        self.encoder_to_try = encoder_to_try(error).map(name);
    }

    /// One line about it, with buttons if it failed; another device that the user wants.
    pub fn show(&mut self, ui: &mut Ui) -> Option<DeviceRequest> {
        let name = self.path.as_deref().and_then(Path::file_name);
        let name = name.map(printable).unwrap_or_default();
        if let Some(failure) = &self.error {
            let text = format!("{name}: {}", failure.reason);
            ui.colored_label(ui.visuals().error_fg_color, text);
            let device = failure.show_devices(ui);
            if self.show_retry(ui) {
                self.retry();
            }
            return device;
        }
        if self.loading.is_some() {
            ui.spinner();
            ui.label(format!("Loading {name}"));
        } else if let Some(info) = &self.info {
            let encoder = info.card.as_ref().map(|card| card.encoder.as_str());
            let encoder = encoder.or(self.encoder.as_deref());
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

    /// Opens it again, with the encoder in the field if one is asked for.
    fn retry(&mut self) {
        let typed = self.encoder_to_try.as_deref().map(str::trim);
        let encoder = match typed {
            Some(name) => (!name.is_empty()).then(|| name.to_owned()),
            None => self.encoder.clone(),
        };
        if let Some(path) = self.path.clone() {
            self.open(path, encoder);
        }
    }

    /// Whether to try again, with the encoder in the field where one is asked for.
    fn show_retry(&mut self, ui: &mut Ui) -> bool {
        let mut is_entered = false;
        if let Some(encoder) = &mut self.encoder_to_try {
            let label = ui.label("Encoder");
            let field = TextEdit::singleline(encoder).hint_text("its name in timm");
            let field = ui.add(field.desired_width(260.0)).labelled_by(label.id);
            is_entered = field.lost_focus() && ui.input(|input| input.key_pressed(Key::Enter));
        }
        ui.button("Try again").clicked() || is_entered
    }
}
