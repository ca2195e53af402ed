//! A run on the open folder: its settings and controls.

use std::path::{Path, PathBuf};
use std::time::Duration;

use eframe::egui::{
    self, ComboBox, Context, DragValue, Key, KeyboardShortcut, Modifiers, TextEdit, Ui,
};
use ibot::app::{DeviceRequest, TrainingConfig, TrainingHandle};
use ibot::error::{Error, printable};

use super::failure::Failure;
use super::gallery::{Gallery, TrainingImages};
use super::run_log::{Action, RunLog};
use super::run_settings::{RunSettings, presets};

const START_OR_STOP: KeyboardShortcut = KeyboardShortcut::new(Modifiers::COMMAND, Key::Enter);
/// Time between images of the teacher's patches.
const PATCHES_EVERY: Duration = Duration::from_secs(5);

/// A run, the one before, or the next.
pub struct TrainingTab {
    settings: RunSettings,
    /// The run folder as it is shown: its path may be no text.
    out_text: String,
    /// That of the last run.
    last_out: PathBuf,
    /// Whether the device of the last run failed: its folder then takes other settings and another backend.
    is_device_failed: bool,
    handle: Option<TrainingHandle>,
    log: RunLog,
}

impl TrainingTab {
    /// No run yet; a new one gets the settings of `preset`.
    pub fn new(preset: &str) -> Self {
        Self {
            settings: RunSettings::new(preset),
            out_text: String::new(),
            last_out: PathBuf::new(),
            is_device_failed: false,
            handle: None,
            log: RunLog::default(),
        }
    }

    /// Proposes a run folder next to the images.
    pub fn folder_opened(&mut self, folder: &Path) {
        // `.` has no name
        let folder = std::path::absolute(folder).unwrap_or_else(|_| folder.to_path_buf());
        let mut name = folder.file_name().unwrap_or_default().to_owned();
        name.push("-ibot");
        self.settings.out = folder.with_file_name(name);
        self.out_text = self.settings.out.display().to_string();
        // what was refused of another folder, and the button to go on with it, would be taken for this one's
        self.log.failure = None;
    }

    /// The tab came to the front: the run folder may have been deleted, or another program may have begun a run in it.
    pub fn opened(&mut self) {
        self.settings.look_again();
    }

    /// The next run computes on another device.
    pub fn device_changed(&mut self) {
        self.log.failure = None;
    }

    /// Progress of the run; none without one.
    pub fn progress(&self) -> Option<[usize; 2]> {
        let start = self.log.start.as_ref().filter(|_| self.is_running())?;
        let done = self
            .log
            .last
            .as_ref()
            .map_or(start.start_step, |last| last.step);
        Some([done, start.steps])
    }

    /// Whether a run is under way, or writes its last checkpoint, or ended and its last events and error are not yet taken.
    pub fn is_running(&self) -> bool {
        self.handle.is_some()
    }

    /// Whether the last run ended with an error.
    pub fn has_failed(&self) -> bool {
        self.log.failure.is_some()
    }

    /// Ends the run with a checkpoint.
    pub fn stop(&self) {
        if let Some(run) = &self.handle {
            run.cancel();
        }
    }

    /// Goes on with the run that was refused because its settings or images are others.
    pub fn resume_anyway(&mut self, ctx: &Context, gallery: &Gallery, device: &DeviceRequest) {
        self.start(ctx, gallery, device, true);
    }

    fn start(&mut self, ctx: &Context, gallery: &Gallery, device: &DeviceRequest, is_agreed: bool) {
        self.log = RunLog::default();
        // fewer images per step, or the CPU
        let goes_on = self.is_device_failed && self.settings.out == self.last_out;
        let images = gallery.to_train_on();
        let request = self.settings.request(images, device, goes_on || is_agreed);
        let ctx = ctx.clone();
        let config = TrainingConfig {
            patches_every: Some(PATCHES_EVERY),
            on_event: Some(Box::new(move || ctx.request_repaint())),
        };
        match request.and_then(|request| config.start(request)) {
            Ok(handle) => {
                self.handle = Some(handle);
                self.last_out.clone_from(&self.settings.out);
                self.is_device_failed = false;
            }
            Err(error) => {
                self.log.failure = Some(Failure::new(&error));
                // what the fields show may be of a run that is gone, or lack one that was begun meanwhile
                self.settings.look_again();
            }
        }
    }

    /// Takes the events since the last frame, and the error of a run that failed.
    pub fn receive(&mut self, ctx: &Context) {
        let Some(run) = self.handle.take() else {
            return;
        };
        // before its events are taken: those of its end are then among them
        let is_over = run.is_over();
        for event in run.events() {
            self.log.receive(ctx, event);
        }
        if !is_over {
            self.handle = Some(run);
            return;
        }
        self.settings.look_again();
        match run.wait() {
            Ok(()) | Err(Error::Interrupted { .. }) => {}
            Err(error) => {
                self.is_device_failed = matches!(error, Error::Device(_));
                self.log.failure = Some(Failure::new(&error));
            }
        }
    }

    /// Shows the tab.
    pub fn show(
        &mut self,
        ui: &mut Ui,
        gallery: &Gallery,
        device: &DeviceRequest,
    ) -> Option<Action> {
        egui::Panel::left("settings")
            .default_size(300.0)
            .show(ui, |ui| {
                let images = gallery.to_train_on();
                self.refresh(images, device);
                ui.add_enabled_ui(!self.is_running(), |ui| self.show_settings(ui, images));
                ui.add_space(8.0);
                self.show_buttons(ui, gallery, device);
                ui.separator();
                if self.is_running() && self.log.last.is_none() {
                    ui.spinner();
                    ui.label("Preparing; with labels, k-NN runs once before the first step.");
                }
                self.log.show_state(ui)
            })
            .inner
            .or_else(|| {
                egui::CentralPanel::default().show(ui, |ui| self.log.show_curves(ui));
                None
            })
    }

    /// The numbers of the run in the folder, or of the preset, unless a run is under way.
    fn refresh(&mut self, images: &TrainingImages, device: &DeviceRequest) {
        if self.is_running() {
            return;
        }
        if let Err(error) = self.settings.refresh(images, device) {
            self.log.failure = Some(Failure::new(&error));
        }
    }

    fn show_settings(&mut self, ui: &mut Ui, images: &TrainingImages) {
        if images.is_part {
            let (count, folder) = (images.count, printable(&images.source));
            ui.label(format!(
                "Trains on {count} images, those of {folder} alone."
            ));
        }
        self.show_preset(ui);
        let numbers = &mut self.settings.numbers;
        egui::Grid::new("numbers").num_columns(2).show(ui, |ui| {
            let (length, unit) = match numbers.steps {
                0 => (&mut numbers.epochs, "Epochs"),
                _ => (&mut numbers.steps, "Steps"),
            };
            for (text, value) in [(unit, length), ("Batch size", &mut numbers.batch_size)] {
                let label = ui.label(text);
                ui.add(DragValue::new(value).range(1..=1_000_000))
                    .labelled_by(label.id);
                ui.end_row();
            }
        });
        let label = ui.label("Run folder");
        let text = TextEdit::singleline(&mut self.out_text).desired_width(f32::INFINITY);
        if ui.add(text).labelled_by(label.id).changed() {
            self.settings.out = PathBuf::from(&self.out_text);
            // what was said of another folder, and a button for that, would be taken for this one's
            self.log.failure = None;
        }
    }

    fn show_preset(&mut self, ui: &mut Ui) {
        let is_begun = self.settings.is_begun();
        let label = ui.label("Preset");
        let shown = if is_begun {
            "that of the run in this folder"
        } else {
            &self.settings.preset
        };
        let mut preset = self.settings.preset.clone();
        let combo = ComboBox::from_id_salt("preset").selected_text(shown);
        ui.add_enabled_ui(!is_begun, |ui| {
            let shown = combo.show_ui(ui, |ui| {
                for name in presets() {
                    ui.selectable_value(&mut preset, name.to_owned(), name);
                }
            });
            let combo = shown.response.labelled_by(label.id);
            combo.on_disabled_hover_text(
                "A run goes on with its own settings. Name another run folder to begin a new one.",
            );
        });
        self.settings.preset = preset;
    }

    fn show_buttons(&mut self, ui: &mut Ui, gallery: &Gallery, device: &DeviceRequest) {
        let pressed = ui.input_mut(|input| input.consume_shortcut(&START_OR_STOP));
        let keys = ui.ctx().format_shortcut(&START_OR_STOP);
        let Some(run) = &self.handle else {
            let needs = if gallery.to_train_on().count == 0 {
                Some("Open a folder of images first.")
            } else if self.settings.out.as_os_str().is_empty() {
                Some("Name a run folder first.")
            } else {
                None
            };
            let can = needs.is_none();
            let start = ui.add_enabled(can, egui::Button::new("Start training"));
            let start = start.on_disabled_hover_text(needs.unwrap_or_default());
            let hint = format!("{keys}. A run in this folder resumes from its checkpoint.");
            if start.on_hover_text(hint).clicked() || (can && pressed) {
                self.start(ui.ctx(), gallery, device, false);
            }
            return;
        };
        ui.horizontal(|ui| {
            if run.is_paused() {
                if ui.button("Resume").clicked() {
                    run.resume();
                }
            } else if ui.button("Pause").clicked() {
                run.pause();
            }
            let hint = format!("{keys}. Writes a checkpoint to resume from.");
            if ui.button("Stop").on_hover_text(hint).clicked() || pressed {
                run.cancel();
            }
        });
    }
}
