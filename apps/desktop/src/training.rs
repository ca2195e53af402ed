//! A run on the open folder: its settings and controls.

use std::path::{Path, PathBuf};
use std::time::Duration;

use eframe::egui::{
    self, ComboBox, Context, DragValue, Key, KeyboardShortcut, Modifiers, TextEdit, Ui,
};
use ibot::app::{DeviceRequest, TrainingConfig, TrainingHandle};
use ibot::device::{Selected, select};
use ibot::error::{Error, Result};
use ibot::train::plan::Choosable;
use ibot::train::presets::{ADAPT, preset, preset_names};
use ibot::train::recommended::{StartFrom, recommended_with};
use ibot::train::{RunConfig, RunRecord, RunRequest};

use super::failure::Failure;
use super::gallery::Gallery;
use super::told::{Told, Wish};

const START_OR_STOP: KeyboardShortcut = KeyboardShortcut::new(Modifiers::COMMAND, Key::Enter);
/// Time between images of the teacher's patches.
const PATCHES_EVERY: Duration = Duration::from_secs(5);
/// Fraction of a labeled folder that is held out for k-NN.
const HELD_OUT: f64 = 0.1;
/// Number of k-NN evaluations in a run.
const KNN_LOOKS: usize = 10;
/// The settings that are chosen by the images and the device, as `ibot train` chooses them.
pub const CHOSEN: &str = "chosen for these images";

/// A run, the one before, or the next.
pub struct TrainingTab {
    recipe: String,
    epochs: usize,
    steps: usize,
    batch_size: usize,
    /// The run folder: a path, as not every one is text, and the text that is shown of it.
    out: PathBuf,
    out_text: String,
    /// That of the last run.
    last_out: PathBuf,
    /// Whether the device of the last run failed: its folder then takes other settings and another backend.
    is_device_failed: bool,
    /// Number of images that [`CHOSEN`] was chosen for.
    chosen_for: Option<usize>,
    handle: Option<TrainingHandle>,
    told: Told,
}

impl TrainingTab {
    /// No run yet; starts from the numbers of `recipe`.
    pub fn new(recipe: &str) -> Self {
        let mut tab = Self {
            recipe: recipe.to_owned(),
            epochs: 0,
            steps: 0,
            batch_size: 0,
            out: PathBuf::new(),
            out_text: String::new(),
            last_out: PathBuf::new(),
            is_device_failed: false,
            chosen_for: None,
            handle: None,
            told: Told::default(),
        };
        tab.take_recipe();
        tab
    }

    /// Proposes a run folder next to the images.
    pub fn folder_opened(&mut self, folder: &Path) {
        // `.` has no name
        let folder = std::path::absolute(folder).unwrap_or_else(|_| folder.to_path_buf());
        let mut name = folder.file_name().unwrap_or_default().to_owned();
        name.push("-ibot");
        self.out = folder.with_file_name(name);
        self.out_text = self.out.display().to_string();
    }

    /// The next run computes on another device.
    pub fn device_changed(&mut self) {
        self.chosen_for = None;
        self.told.failure = None;
    }

    /// Length and batch of the recipe.
    fn take_recipe(&mut self) {
        self.chosen_for = None;
        if let Ok(config) = preset(&self.recipe) {
            self.take(&config);
        }
    }

    fn take(&mut self, config: &RunConfig) {
        self.epochs = config.epochs;
        self.steps = config.steps.unwrap_or(0);
        self.batch_size = config.batch_size;
    }

    /// Chooses for the images of the gallery, where that is the recipe and was not done for so many.
    fn choose(&mut self, gallery: &Gallery, device: &DeviceRequest) {
        let count = training_examples(gallery);
        let is_wanted = self.recipe == CHOSEN && count > 0 && !self.is_running();
        if !is_wanted || self.chosen_for == Some(count) {
            return;
        }
        self.chosen_for = Some(count);
        match chosen(count, device) {
            Ok((config, _)) => self.take(&config),
            Err(error) => self.told.failure = Some(Failure::new(&error, device)),
        }
    }

    /// Progress of the run; none without one.
    pub fn progress(&self) -> Option<[usize; 2]> {
        let start = self.told.start.as_ref().filter(|_| self.is_running())?;
        let done = self.told.last.as_ref().map_or(start.made, |last| last.step);
        Some([done, start.steps])
    }

    fn is_running(&self) -> bool {
        self.handle.as_ref().is_some_and(|run| !run.is_over())
    }

    fn start(&mut self, ctx: &Context, gallery: &Gallery, device: &DeviceRequest) {
        self.told = Told::default();
        let request = self.request(gallery, device);
        let ctx = ctx.clone();
        let config = TrainingConfig {
            patches_every: Some(PATCHES_EVERY),
            on_event: Some(Box::new(move || ctx.request_repaint())),
        };
        match request.and_then(|request| config.start(request)) {
            Ok(handle) => {
                self.handle = Some(handle);
                self.last_out.clone_from(&self.out);
                self.is_device_failed = false;
            }
            Err(error) => self.told.failure = Some(Failure::new(&error, device)),
        }
    }

    fn request(&self, gallery: &Gallery, device: &DeviceRequest) -> Result<RunRequest> {
        let count = training_examples(gallery);
        let goes_on = self.is_device_failed && self.out == self.last_out;
        let begun = if goes_on {
            // another device would be given another model, which the checkpoint does not fit
            RunRecord::read(&self.out)?
        } else {
            None
        };
        let (mut config, selected) = match (begun, self.recipe == CHOSEN) {
            (Some(begun), _) => (begun.config(&self.out)?, selected(device)?),
            (None, true) => chosen(count, device)?,
            (None, false) => (preset(&self.recipe)?, selected(device)?),
        };
        config.epochs = self.epochs;
        config.steps = (self.steps > 0).then_some(self.steps);
        config.batch_size = self.batch_size.min(count);
        let is_labeled = holds_out(gallery);
        config.held_out = is_labeled.then_some(HELD_OUT);
        let folder = gallery.folder().unwrap_or(Path::new("")).to_path_buf();
        let epochs = match config.steps {
            Some(steps) => steps * config.batch_size / gallery.images().len().max(1),
            None => config.epochs,
        };
        let knn_every = if is_labeled {
            (epochs / KNN_LOOKS).max(1)
        } else {
            0
        };
        Ok(RunRequest {
            knn_every,
            // fewer images per step, or the CPU
            allow_changes: goes_on,
            ..RunRequest::new(config.resolved()?, vec![folder], self.out.clone(), selected)
        })
    }

    /// Takes the events since the last frame, and the error of a run on `device` that failed.
    pub fn receive(&mut self, ctx: &Context, device: &DeviceRequest) {
        let Some(run) = &self.handle else { return };
        for event in run.events() {
            self.told.receive(ctx, event);
        }
        if !run.is_over() {
            return;
        }
        // of a run that is over, once
        match run.wait() {
            Ok(()) | Err(Error::Interrupted { .. }) => {}
            Err(error) => {
                self.is_device_failed = matches!(error, Error::Device(_));
                self.told.failure = Some(Failure::new(&error, device));
            }
        }
    }

    /// Shows the tab.
    pub fn show(&mut self, ui: &mut Ui, gallery: &Gallery, device: &DeviceRequest) -> Option<Wish> {
        egui::Panel::left("settings")
            .default_size(300.0)
            .show(ui, |ui| {
                self.choose(gallery, device);
                ui.add_enabled_ui(!self.is_running(), |ui| self.show_settings(ui));
                ui.add_space(8.0);
                self.show_buttons(ui, gallery, device);
                ui.separator();
                if self.is_running() && self.told.last.is_none() {
                    ui.spinner();
                    ui.label("Preparing; with labels, k-NN runs once before the first step.");
                }
                self.told.show_state(ui)
            })
            .inner
            .or_else(|| {
                egui::CentralPanel::default().show(ui, |ui| self.told.show_curves(ui));
                None
            })
    }

    fn show_settings(&mut self, ui: &mut Ui) {
        let before = self.recipe.clone();
        let label = ui.label("Recipe");
        ComboBox::from_id_salt("recipe")
            .selected_text(&self.recipe)
            .show_ui(ui, |ui| {
                for name in recipes() {
                    ui.selectable_value(&mut self.recipe, name.to_owned(), name);
                }
            })
            .response
            .labelled_by(label.id);
        if self.recipe != before {
            self.take_recipe();
        }
        egui::Grid::new("numbers").num_columns(2).show(ui, |ui| {
            let (length, unit) = match self.steps {
                0 => (&mut self.epochs, "Epochs"),
                _ => (&mut self.steps, "Steps"),
            };
            for (text, value) in [(unit, length), ("Images per step", &mut self.batch_size)] {
                let label = ui.label(text);
                ui.add(DragValue::new(value).range(1..=1_000_000))
                    .labelled_by(label.id);
                ui.end_row();
            }
        });
        let label = ui.label("Run folder");
        let text = TextEdit::singleline(&mut self.out_text).desired_width(f32::INFINITY);
        if ui.add(text).labelled_by(label.id).changed() {
            self.out = PathBuf::from(&self.out_text);
        }
    }

    fn show_buttons(&mut self, ui: &mut Ui, gallery: &Gallery, device: &DeviceRequest) {
        let pressed = ui.input_mut(|input| input.consume_shortcut(&START_OR_STOP));
        let keys = ui.ctx().format_shortcut(&START_OR_STOP);
        let Some(run) = self.handle.as_ref().filter(|run| !run.is_over()) else {
            let failure = self.told.failure.as_ref();
            let needs = if failure.is_some_and(|failure| failure.is_final) {
                Some("Choose another device first.")
            } else if gallery.images().is_empty() {
                Some("Open a folder of images first.")
            } else if self.out.as_os_str().is_empty() {
                Some("Name a run folder first.")
            } else {
                None
            };
            let can = needs.is_none();
            let start = ui.add_enabled(can, egui::Button::new("Start training"));
            let start = start.on_disabled_hover_text(needs.unwrap_or_default());
            let hint = format!("{keys}. A run in this folder resumes from its checkpoint.");
            if start.on_hover_text(hint).clicked() || (can && pressed) {
                self.start(ui.ctx(), gallery, device);
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

/// The recipes to choose from: no weights can be given to start from, which `adapt` needs.
pub fn recipes() -> impl Iterator<Item = &'static str> {
    let presets = preset_names().filter(|name| *name != ADAPT);
    std::iter::once(CHOSEN).chain(presets)
}

fn selected(device: &DeviceRequest) -> Result<Selected> {
    match device {
        DeviceRequest::Choose(choice, name) => select(*choice, name.as_deref()),
        DeviceRequest::Selected(selected) => Ok(selected.clone()),
    }
}

/// The settings for so many images on a device, and that device.
fn chosen(count: usize, device: &DeviceRequest) -> Result<(RunConfig, Selected)> {
    let selected = selected(device)?;
    let may = Choosable::left_open_by(None);
    let chosen = recommended_with(count, &selected, StartFrom::AnyModel, may, &Ok)?;
    Ok((chosen.config, selected))
}

/// Whether a part of each class is held out: where that is an image of each or more.
fn holds_out(gallery: &Gallery) -> bool {
    let classes = gallery.classes();
    classes > 1 && HELD_OUT * gallery.images().len() as f64 >= classes as f64
}

/// How many images are trained on, at least.
fn training_examples(gallery: &Gallery) -> usize {
    let all = gallery.images().len();
    if holds_out(gallery) {
        // the share of each class is rounded
        all - (HELD_OUT * all as f64).ceil() as usize - gallery.classes()
    } else {
        all
    }
}
