//! A run on the open folder: its settings, and what it tells while it goes on.

use std::path::{Path, PathBuf};
use std::time::Duration;

use eframe::egui::{
    self, Color32, ComboBox, Context, DragValue, Id, Key, KeyboardShortcut, Modifiers, ProgressBar,
    TextEdit, TextureHandle, TextureOptions, Ui, WidgetInfo, WidgetType,
};
use egui_plot::{Legend, Line, Plot, Points};
use ibot::app::{DeviceRequest, TrainingConfig, TrainingEvent, TrainingHandle};
use ibot::device::select;
use ibot::error::{Result, printable};
use ibot::train::presets::{preset, preset_names};
use ibot::train::{RunRequest, RunStart, StepMetrics};

use super::gallery::Gallery;
use super::thumbnails::color_image;

const START_OR_STOP: KeyboardShortcut = KeyboardShortcut::new(Modifiers::COMMAND, Key::Enter);
/// Time between pictures of the teacher's patches.
const PATCHES_EVERY: Duration = Duration::from_secs(5);
/// Share of a labelled folder that k-NN is asked about.
const HELD_OUT: f64 = 0.1;
/// Looks at k-NN in a run.
const KNN_LOOKS: usize = 10;
/// Lines of what happened that are kept.
const LINES: usize = 200;

/// Points up to here are dots too: a line of one can not be seen.
const FEW: usize = 30;

/// Colors of curves, told apart by the colour-blind too and on light and dark (Okabe and Ito).
const COLORS: [Color32; 3] = [
    Color32::from_rgb(0, 114, 178),
    Color32::from_rgb(230, 159, 0),
    Color32::from_rgb(0, 158, 115),
];

/// A run, the one before, or the next.
pub struct TrainingTab {
    recipe: String,
    epochs: usize,
    steps: usize,
    batch_size: usize,
    /// Where the run is written.
    out: String,
    handle: Option<TrainingHandle>,
    shown: Shown,
}

/// What a run told.
#[derive(Default)]
struct Shown {
    start: Option<RunStart>,
    last: Option<Box<StepMetrics>>,
    /// All, class token's, patches', by step.
    losses: [Vec<[f64; 2]>; 3],
    knn: Vec<[f64; 2]>,
    rank_me: Vec<[f64; 2]>,
    patches: Option<(usize, TextureHandle)>,
    lines: Vec<String>,
    sick: Option<String>,
    error: Option<String>,
    /// A model that the run wrote.
    model: Option<PathBuf>,
}

impl TrainingTab {
    /// No run yet, and the numbers of `recipe`.
    pub fn new(recipe: &str) -> Self {
        let mut tab = Self {
            recipe: recipe.to_owned(),
            epochs: 0,
            steps: 0,
            batch_size: 0,
            out: String::new(),
            handle: None,
            shown: Shown::default(),
        };
        tab.take_recipe();
        tab
    }

    /// Proposes a run folder beside the pictures.
    pub fn folder_opened(&mut self, folder: &Path) {
        let mut name = folder.file_name().unwrap_or_default().to_owned();
        name.push("-ibot");
        self.out = folder.with_file_name(name).display().to_string();
    }

    /// Length and batch of the recipe.
    fn take_recipe(&mut self) {
        if let Ok(config) = preset(&self.recipe) {
            self.epochs = config.epochs;
            self.steps = config.steps.unwrap_or(0);
            self.batch_size = config.batch_size;
        }
    }

    /// How far the run is; none without one.
    pub fn progress(&self) -> Option<[usize; 2]> {
        let start = self.shown.start.as_ref().filter(|_| self.is_running())?;
        let done = self
            .shown
            .last
            .as_ref()
            .map_or(start.made, |last| last.step);
        Some([done, start.steps])
    }

    fn is_running(&self) -> bool {
        self.handle.as_ref().is_some_and(|run| !run.is_over())
    }

    fn start(&mut self, ctx: &Context, gallery: &Gallery, device: &DeviceRequest) {
        self.shown = Shown::default();
        let request = self.request(gallery, device);
        let ctx = ctx.clone();
        let config = TrainingConfig {
            patches_every: Some(PATCHES_EVERY),
            on_event: Some(Box::new(move || ctx.request_repaint())),
            ..TrainingConfig::default()
        };
        match request.and_then(|request| config.start(request)) {
            Ok(handle) => self.handle = Some(handle),
            Err(error) => self.shown.error = Some(error.to_string()),
        }
    }

    fn request(&self, gallery: &Gallery, device: &DeviceRequest) -> Result<RunRequest> {
        let mut config = preset(&self.recipe)?;
        config.epochs = self.epochs;
        config.steps = (self.steps > 0).then_some(self.steps);
        config.batch_size = self.batch_size.min(gallery.pictures().len());
        let is_labelled = gallery.classes() > 1;
        config.held_out = is_labelled.then_some(HELD_OUT);
        let selected = match device {
            DeviceRequest::Choose(choice, name) => select(*choice, name.as_deref())?,
            DeviceRequest::Selected(selected) => selected.clone(),
        };
        let folder = gallery.folder().unwrap_or(Path::new("")).to_path_buf();
        let epochs = match config.steps {
            Some(steps) => steps * config.batch_size / gallery.pictures().len().max(1),
            None => config.epochs,
        };
        let knn_every = if is_labelled {
            (epochs / KNN_LOOKS).max(1)
        } else {
            0
        };
        Ok(RunRequest {
            knn_every,
            ..RunRequest::new(
                config.resolved()?,
                folder,
                self.out.clone().into(),
                selected,
            )
        })
    }

    /// Takes what the run told since the last frame.
    pub fn receive(&mut self, ctx: &Context) {
        let events = self.handle.as_ref().map(TrainingHandle::events);
        for event in events.into_iter().flatten() {
            self.shown.receive(ctx, event);
        }
    }

    /// The tab; a model file that is to be looked through.
    pub fn show(
        &mut self,
        ui: &mut Ui,
        gallery: &Gallery,
        device: &DeviceRequest,
    ) -> Option<PathBuf> {
        egui::Panel::left("settings")
            .default_size(300.0)
            .show(ui, |ui| {
                ui.add_enabled_ui(!self.is_running(), |ui| self.show_settings(ui));
                ui.add_space(8.0);
                self.show_buttons(ui, gallery, device);
                ui.separator();
                if self.is_running() && self.shown.last.is_none() {
                    ui.spinner();
                    ui.label(
                        "Getting ready; with classes, k-NN is asked once before the first step.",
                    );
                }
                self.shown.show_state(ui)
            })
            .inner
            .or_else(|| {
                egui::CentralPanel::default().show(ui, |ui| self.shown.show_curves(ui));
                None
            })
    }

    fn show_settings(&mut self, ui: &mut Ui) {
        let before = self.recipe.clone();
        let label = ui.label("Recipe");
        ComboBox::from_id_salt("recipe")
            .selected_text(&self.recipe)
            .show_ui(ui, |ui| {
                for name in preset_names() {
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
            for (text, value) in [(unit, length), ("Pictures a step", &mut self.batch_size)] {
                let label = ui.label(text);
                ui.add(DragValue::new(value).range(1..=1_000_000))
                    .labelled_by(label.id);
                ui.end_row();
            }
        });
        let label = ui.label("Run folder");
        ui.add(TextEdit::singleline(&mut self.out).desired_width(f32::INFINITY))
            .labelled_by(label.id);
    }

    fn show_buttons(&mut self, ui: &mut Ui, gallery: &Gallery, device: &DeviceRequest) {
        let pressed = ui.input_mut(|input| input.consume_shortcut(&START_OR_STOP));
        let keys = ui.ctx().format_shortcut(&START_OR_STOP);
        let Some(run) = self.handle.as_ref().filter(|run| !run.is_over()) else {
            let can = !gallery.pictures().is_empty() && !self.out.is_empty();
            let start = ui.add_enabled(can, egui::Button::new("Start training"));
            let start = start.on_disabled_hover_text("Open a folder of pictures first.");
            let hint = format!("{keys}. A run in this folder goes on from its checkpoint.");
            if start.on_hover_text(hint).clicked() || (can && pressed) {
                self.start(ui.ctx(), gallery, device);
            }
            return;
        };
        ui.horizontal(|ui| {
            match run.is_paused() {
                true if ui.button("Resume").clicked() => run.resume(),
                false if ui.button("Pause").clicked() => run.pause(),
                _ => {}
            }
            let hint = format!("{keys}. Leaves a checkpoint to go on from.");
            if ui.button("Stop").on_hover_text(hint).clicked() || pressed {
                run.cancel();
            }
        });
    }
}

impl Shown {
    fn receive(&mut self, ctx: &Context, event: TrainingEvent) {
        match event {
            TrainingEvent::Note(line) => self.say(line),
            TrainingEvent::Started(start) => self.start = Some(start),
            TrainingEvent::Step(metrics) => self.step(metrics),
            TrainingEvent::Epoch { .. } => {}
            TrainingEvent::Evaluated(when, evaluation) => {
                let step = evaluation.step as f64;
                self.knn
                    .extend(evaluation.knn.map(|knn| [step, 100.0 * knn]));
                self.rank_me
                    .extend(evaluation.rank_me.map(|rank| [step, rank]));
                if let Some(knn) = evaluation.knn {
                    self.say(format!("{when}: k-NN {:.1} %", 100.0 * knn));
                }
            }
            TrainingEvent::Sick { step, sick } => {
                let sick: Vec<String> = sick.iter().map(ToString::to_string).collect();
                self.sick = Some(format!("step {step}: {}", sick.join("; ")));
            }
            TrainingEvent::RolledBack(step) => self.say(format!("went back to step {step}")),
            TrainingEvent::Checkpoint(step) => self.say(format!("checkpoint of step {step}")),
            TrainingEvent::Patches { step, picture } => {
                let image = color_image(&picture);
                let texture = ctx.load_texture("teacher's patches", image, TextureOptions::LINEAR);
                self.patches = Some((step, texture));
            }
            TrainingEvent::Paused(step) => self.say(format!("paused after step {step}")),
            TrainingEvent::Resumed => self.say("goes on".into()),
            TrainingEvent::Finished(run) => {
                self.say("finished".into());
                self.model = Some(run.join("teacher.safetensors"));
            }
            TrainingEvent::Cancelled { step, run } => {
                self.say(format!("stopped after step {step}"));
                let model = run.join("teacher.safetensors");
                self.model = model.exists().then_some(model);
            }
            TrainingEvent::Failed(error) => self.error = Some(error),
        }
    }

    fn step(&mut self, metrics: Box<StepMetrics>) {
        let (step, losses) = (metrics.step as f64, &metrics.losses);
        let values = [losses.loss, losses.loss_cls, losses.loss_patch];
        for (curve, value) in self.losses.iter_mut().zip(values) {
            curve.push([step, value.into()]);
        }
        if metrics.health.is_some() && metrics.sick.is_empty() {
            self.sick = None;
        }
        self.last = Some(metrics);
    }

    fn say(&mut self, line: String) {
        if self.lines.len() == LINES {
            self.lines.remove(0);
        }
        self.lines.push(line);
    }

    /// Progress, health and what happened; a model that is to be looked through.
    fn show_state(&self, ui: &mut Ui) -> Option<PathBuf> {
        if let (Some(start), Some(last)) = (&self.start, &self.last) {
            let share = last.step as f32 / start.steps.max(1) as f32;
            let text = format!("step {} of {}", last.step, start.steps);
            ui.add(ProgressBar::new(share).text(text));
            ui.label(format!(
                "{:.2} s a step, {:.0} pictures/s",
                last.step_s, last.images_per_s
            ));
        }
        if let Some(health) = self.last.as_ref().and_then(|last| last.health.as_ref()) {
            ui.label(format!("spread of the features {:.2}", health.feature_std));
        }
        match (&self.sick, &self.error) {
            (_, Some(text)) => ui.colored_label(ui.visuals().error_fg_color, text),
            (Some(text), None) => ui.colored_label(ui.visuals().warn_fg_color, text),
            (None, None) if self.last.is_some() => ui.label("Health: nothing wrong is known."),
            _ => ui.label(""),
        };
        let wanted = self.model.as_ref().and_then(|model| {
            let button = ui.button("Look through this model");
            let button = button.on_hover_text(printable(model));
            button.clicked().then(|| model.clone())
        });
        egui::ScrollArea::vertical()
            .stick_to_bottom(true)
            .auto_shrink(false)
            .show(ui, |ui| {
                self.lines.iter().for_each(|line| drop(ui.label(line)))
            });
        wanted
    }

    fn show_curves(&self, ui: &mut Ui) {
        if let Some((step, texture)) = &self.patches {
            egui::Panel::right("patches")
                .default_size(300.0)
                .show(ui, |ui| {
                    ui.strong(format!("What the teacher's patches see after step {step}"));
                    let room = ui.available_size();
                    let size = texture.size_vec2();
                    let scale = (room.x / size.x).min(room.y / size.y).max(0.0);
                    let image = egui::Image::new((texture.id(), size * scale));
                    ui.add(image.alt_text("Four pictures, each beside the colors of its patches"));
                });
        }
        let height = (ui.available_height() / 2.0 - 40.0).max(80.0);
        let curves = [
            ("loss", &self.losses[0]),
            ("class token", &self.losses[1]),
            ("patches", &self.losses[2]),
        ];
        show_plot(ui, "Losses", height, &curves);
        let curves = [("k-NN, %", &self.knn), ("RankMe", &self.rank_me)];
        show_plot(ui, "What the teacher's features are worth", height, &curves);
    }
}

fn show_plot(ui: &mut Ui, title: &str, height: f32, curves: &[(&str, &Vec<[f64; 2]>)]) {
    ui.strong(title);
    let plot = Plot::new(Id::new(title))
        .height(height)
        .legend(Legend::default())
        .allow_scroll(false);
    let response = plot.show(ui, |plot| {
        for ((name, points), color) in curves.iter().zip(COLORS) {
            plot.line(Line::new(*name, (*points).clone()).color(color));
            if points.len() < FEW {
                let dots = Points::new(*name, (*points).clone());
                plot.points(dots.radius(3.0).color(color));
            }
        }
    });
    let said = curves.iter().filter_map(|(name, points)| {
        let [_, last] = points.last()?;
        Some(format!("{name} {last:.3}"))
    });
    let said = format!("{title}: {}", said.collect::<Vec<_>>().join(", "));
    let info = || WidgetInfo::labeled(WidgetType::Image, true, &said);
    response.response.widget_info(info);
}
