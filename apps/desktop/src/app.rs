//! The window: what is open, which tab is in front, and what keys do.

use std::path::{Path, PathBuf};

use eframe::egui::{
    self, CentralPanel, Context, Event, Key, KeyboardShortcut, Modifiers, Panel, Ui,
    ViewportCommand,
};
use ibot::app::DeviceRequest;
use ibot::device::end_process_at_once;
use ibot::error::printable;
use ibot::files::model::holds_model;
use rfd::AsyncFileDialog;

use super::background::Background;
use super::details::Details;
use super::gallery::Gallery;
use super::grid::Grid;
use super::model::Model;
use super::run_log::Action;
use super::thumbnails::Thumbnails;
use super::training::TrainingTab;

/// Endings of model files.
const MODELS: [&str; 3] = ["safetensors", "pth", "pt"];

const OPEN_FOLDER: KeyboardShortcut = KeyboardShortcut::new(Modifiers::COMMAND, Key::O);
const OPEN_MODEL: KeyboardShortcut = KeyboardShortcut::new(Modifiers::COMMAND, Key::M);
const QUIT: KeyboardShortcut = KeyboardShortcut::new(Modifiers::COMMAND, Key::Q);
const TABS: [(Tab, &str, KeyboardShortcut); 2] = [
    (
        Tab::Images,
        "Images",
        KeyboardShortcut::new(Modifiers::COMMAND, Key::Num1),
    ),
    (
        Tab::Training,
        "Training",
        KeyboardShortcut::new(Modifiers::COMMAND, Key::Num2),
    ),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tab {
    Images,
    Training,
}

/// What a file dialog selects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum DialogFor {
    Folder,
    Model,
}

/// All that the window shows.
pub struct Desktop {
    tab: Tab,
    model: Model,
    gallery: Gallery,
    grid: Grid,
    thumbnails: Option<Thumbnails>,
    details: Details,
    training: TrainingTab,
    selected: Option<usize>,
    dialog: Option<(DialogFor, Background<Option<PathBuf>>)>,
    note: Option<String>,
    title: String,
    /// Whether the window closes once the run has written its checkpoint.
    is_closing: bool,
}

impl Desktop {
    /// Nothing open yet; models and runs compute on `device`, runs use `preset` unless the user picks another.
    pub fn new(device: DeviceRequest, preset: &str) -> Self {
        Self {
            tab: Tab::Images,
            model: Model::none(device),
            gallery: Gallery::default(),
            grid: Grid::default(),
            thumbnails: None,
            details: Details::default(),
            training: TrainingTab::new(preset),
            selected: None,
            dialog: None,
            note: None,
            title: String::new(),
            is_closing: false,
        }
    }

    /// Opens a folder of images.
    pub fn open_images(&mut self, ctx: &Context, folder: PathBuf) {
        self.note = None;
        self.training.folder_opened(&folder);
        self.gallery.open(ctx, folder);
        self.grid = Grid::default();
        self.thumbnails = Some(Thumbnails::new(ctx));
        self.details.clear();
        self.selected = None;
    }

    /// Opens a model; `encoder` is its timm name, for a file that does not say it.
    pub fn open_model(&mut self, model: PathBuf, encoder: Option<String>) {
        self.note = None;
        self.model.open(model, encoder);
    }

    /// Opens a folder that was dropped or chosen: of a model, or of images.
    pub fn open_folder(&mut self, ctx: &Context, folder: PathBuf) {
        if holds_model(&folder) {
            self.open_model(folder, None);
        } else {
            self.open_images(ctx, folder);
        }
    }

    /// Takes the results since the last frame, and starts the work that follows from them.
    pub fn receive(&mut self, ctx: &Context) {
        self.receive_dialog(ctx);
        let dropped = ctx.input(|input| input.raw.dropped_files.clone());
        for path in dropped.into_iter().filter_map(|file| file.path) {
            if path.is_dir() {
                self.open_folder(ctx, path);
            } else if is_model(&path) {
                self.open_model(path, None);
            } else {
                let name = printable(&path);
                self.note = Some(format!("{name} is neither a folder nor a model file."));
            }
        }
        let (has_model, has_images) = (self.model.receive(ctx), self.gallery.receive_scan());
        if has_model || has_images {
            self.gallery.embed(ctx, &self.model);
            self.details.clear();
        }
        self.gallery.receive_features(&mut self.model);
        if self.details.index() != self.selected {
            self.look_at_selected(ctx);
        }
        self.details.receive(ctx, &self.gallery, &mut self.model);
        if let Some(thumbnails) = &mut self.thumbnails {
            thumbnails.receive(ctx, self.grid.visible());
        }
        self.training.receive(ctx);
        self.close_when_written(ctx);
        self.set_title(ctx);
    }

    /// Keeps the window until a run that is being trained has written its checkpoint, so that a frame need not wait for it.
    fn close_when_written(&mut self, ctx: &Context) {
        let is_asked = ctx.input(|input| input.viewport().close_requested());
        if is_asked && self.is_closing && self.training.is_running() {
            // a driver or a dead share may hold the run's thread for good; a checkpoint on disk is whole or not there
            end_process_at_once(1);
        }
        if is_asked && self.training.is_running() {
            ctx.send_viewport_cmd(ViewportCommand::CancelClose);
            self.training.stop();
            self.is_closing = true;
        }
        if !self.is_closing || self.training.is_running() {
            return;
        }
        if self.training.has_failed() {
            // to be read before the window closes
            self.is_closing = false;
            self.tab = Tab::Training;
        } else {
            ctx.send_viewport_cmd(ViewportCommand::Close);
        }
    }

    fn receive_dialog(&mut self, ctx: &Context) {
        let Some((wanted, answer)) = &self.dialog else {
            return;
        };
        let (wanted, Some(answer)) = (*wanted, answer.take()) else {
            return;
        };
        self.dialog = None;
        match (wanted, answer.ok().flatten()) {
            (DialogFor::Folder, Some(folder)) => self.open_folder(ctx, folder),
            (DialogFor::Model, Some(model)) => self.open_model(model, None),
            (_, None) => {}
        }
    }

    fn look_at_selected(&mut self, ctx: &Context) {
        let images = self.gallery.images();
        match self
            .selected
            .and_then(|index| Some((index, images.get(index)?)))
        {
            Some((index, path)) => self.details.open(ctx, index, path.clone(), &self.model),
            None => self.details.clear(),
        }
    }

    /// Title of the window, which the task bar shows too.
    fn set_title(&mut self, ctx: &Context) {
        let [done, all] = self.gallery.progress();
        let title = match (self.training.progress(), self.gallery.folder()) {
            (Some([step, steps]), _) => format!("step {step} of {steps} - ibot"),
            (None, Some(_)) => format!("{done} of {all} images embedded - ibot"),
            (None, None) => "ibot".to_owned(),
        };
        if title != self.title {
            ctx.send_viewport_cmd(ViewportCommand::Title(title.clone()));
            self.title = title;
        }
    }

    /// Draws it; dialogs belong to `frame`'s window.
    pub fn show(&mut self, ui: &mut Ui, frame: Option<&eframe::Frame>) {
        if self.is_closing {
            show_closing(ui);
            return;
        }
        let before = self.tab;
        let wanted = self.keys(ui);
        let clicked = Panel::top("top").show(ui, |ui| self.show_top(ui)).inner;
        if self.tab != before && self.tab == Tab::Training {
            self.training.opened();
        }
        if let Some(wanted) = wanted.or(clicked) {
            self.ask(ui.ctx(), wanted, frame);
        }
        Panel::bottom("state").show(ui, |ui| self.show_state(ui));
        match self.tab {
            Tab::Images => self.show_images(ui),
            Tab::Training => {
                let device = self.model.device().clone();
                match self.training.show(ui, &self.gallery, &device) {
                    Some(Action::Model(model)) => {
                        self.tab = Tab::Images;
                        self.open_model(model, None);
                    }
                    Some(Action::Device(device)) => self.move_to(device),
                    Some(Action::ResumeAnyway) => {
                        self.training
                            .resume_anyway(ui.ctx(), &self.gallery, &device);
                    }
                    None => {}
                }
            }
        }
    }

    /// Models and runs compute on `device` from here on.
    fn move_to(&mut self, device: DeviceRequest) {
        if device != *self.model.device() {
            self.training.device_changed();
        }
        self.model.move_to(device);
    }

    fn keys(&mut self, ui: &Ui) -> Option<DialogFor> {
        let pressed = |keys: &KeyboardShortcut| ui.input_mut(|input| input.consume_shortcut(keys));
        if let Some((tab, ..)) = TABS.iter().find(|(_, _, keys)| pressed(keys)) {
            self.tab = *tab;
        }
        if ui.input(|input| input.key_pressed(Key::Escape)) {
            self.gallery.cancel();
        }
        if pressed(&QUIT) {
            ui.ctx().send_viewport_cmd(ViewportCommand::Close);
        }
        if pressed(&OPEN_FOLDER) {
            return Some(DialogFor::Folder);
        }
        pressed(&OPEN_MODEL).then_some(DialogFor::Model)
    }

    fn show_top(&mut self, ui: &mut Ui) -> Option<DialogFor> {
        let mut wanted = None;
        ui.horizontal_wrapped(|ui| {
            for (what, text, keys) in [
                (DialogFor::Folder, "Open folder…", OPEN_FOLDER),
                (DialogFor::Model, "Open model…", OPEN_MODEL),
            ] {
                let button = ui.button(text);
                if button
                    .on_hover_text(ui.ctx().format_shortcut(&keys))
                    .clicked()
                {
                    wanted = Some(what);
                }
            }
            ui.separator();
            for (tab, text, keys) in &TABS {
                let button = ui.selectable_value(&mut self.tab, *tab, *text);
                button.on_hover_text(ui.ctx().format_shortcut(keys));
            }
            ui.separator();
            egui::widgets::global_theme_preference_buttons(ui);
        });
        wanted
    }

    fn ask(&mut self, ctx: &Context, wanted: DialogFor, frame: Option<&eframe::Frame>) {
        if self.dialog.is_some() {
            return;
        }
        let mut dialog = AsyncFileDialog::new();
        if let Some(frame) = frame {
            dialog = dialog.set_parent(frame);
        }
        // created on the main thread, as macOS requires; awaited on another
        let answer: std::pin::Pin<Box<dyn Future<Output = _> + Send>> = match wanted {
            DialogFor::Folder => Box::pin(dialog.set_title("Images").pick_folder()),
            DialogFor::Model => {
                let dialog = dialog.set_title("Model");
                Box::pin(dialog.add_filter("models", &MODELS).pick_file())
            }
        };
        let wait = move || pollster::block_on(answer).map(|file| file.path().to_path_buf());
        self.dialog = Some((wanted, Background::start(ctx, wait)));
    }

    fn show_state(&mut self, ui: &mut Ui) {
        ui.horizontal_wrapped(|ui| self.gallery.show(ui, &self.model));
        let wanted = ui.horizontal_wrapped(|ui| self.model.show(ui)).inner;
        if let Some(device) = wanted {
            self.move_to(device);
        }
        if let Some(note) = &self.note {
            ui.colored_label(ui.visuals().warn_fg_color, note);
        }
    }

    fn show_images(&mut self, ui: &mut Ui) {
        let Some(thumbnails) = &mut self.thumbnails else {
            CentralPanel::default().show(ui, |ui| {
                ui.centered_and_justified(|ui| {
                    ui.label("Open a folder of images, or drop one here.");
                });
            });
            return;
        };
        let details = Panel::right("details").default_size(440.0).min_size(260.0);
        let clicked = details
            .show(ui, |ui| self.details.show(ui, &self.gallery, thumbnails))
            .inner;
        if let Some(index) = clicked {
            self.selected = Some(index);
            self.grid.reveal(index);
        }
        let images = self.gallery.images();
        CentralPanel::default().show(ui, |ui| {
            self.grid.show(ui, &images, thumbnails, &mut self.selected);
        });
    }
}

/// In place of everything else, while a run writes its checkpoint.
fn show_closing(ui: &mut Ui) {
    // not where the keys of the first request are only held down
    let is_quit = |event: &Event| {
        let Event::Key {
            key,
            pressed,
            repeat,
            modifiers,
            ..
        } = event
        else {
            return false;
        };
        *key == QUIT.logical_key && *pressed && !repeat && modifiers.command
    };
    if ui.input(|input| input.events.iter().any(is_quit)) {
        ui.ctx().send_viewport_cmd(ViewportCommand::Close);
    }
    CentralPanel::default().show(ui, |ui| {
        ui.vertical_centered(|ui| {
            ui.add_space(ui.available_height() / 3.0);
            ui.spinner();
            ui.label("Writing a checkpoint. The window closes when it is written.");
            ui.label("Close it again to quit without that.");
        });
    });
}

/// Whether a file is a model by its name.
fn is_model(path: &Path) -> bool {
    let ending = path.extension().map(std::ffi::OsStr::to_ascii_lowercase);
    MODELS
        .iter()
        .any(|model| ending.as_deref() == Some((*model).as_ref()))
}
