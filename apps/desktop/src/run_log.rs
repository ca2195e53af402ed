//! The events of a run, and how they are shown: progress, health, curves, the teacher's patches.

use std::path::{Path, PathBuf};

use eframe::egui::{
    self, Color32, Context, Id, ProgressBar, TextureHandle, TextureOptions, Ui, Vec2, WidgetInfo,
    WidgetType,
};
use egui_plot::{Legend, Line, Plot, Points};
use ibot::app::{DeviceRequest, TrainingEvent};
use ibot::error::printable;
use ibot::train::health::Health;
use ibot::train::{PatchColors, RunStart, StepMetrics, best_teacher};
use image::RgbImage;

use super::curve::Curve;
use super::failure::Failure;
use super::thumbnails::color_image;
use super::words::in_window;

/// Maximum number of log lines that are kept.
const LINES: usize = 200;

/// Up to this many points are drawn as dots too: a line of one point is invisible.
const FEW: usize = 30;

/// Colors of curves, distinct for the color-blind and on light and dark backgrounds (Okabe and Ito).
const COLORS: [Color32; 3] = [
    Color32::from_rgb(0, 114, 178),
    Color32::from_rgb(230, 159, 0),
    Color32::from_rgb(0, 158, 115),
];

/// What a run reported.
#[derive(Default)]
pub struct RunLog {
    pub start: Option<RunStart>,
    pub last: Option<Box<StepMetrics>>,
    /// Total, class-token and patch loss, by step.
    losses: [Curve; 3],
    knn: Curve,
    rank_me: Curve,
    /// Steps made, and images with the colors of their patches.
    patches: Option<(usize, Vec<[TextureHandle; 2]>)>,
    lines: Vec<String>,
    anomaly: Option<String>,
    /// The newest check of the run's health; the first one comes some steps after the start.
    health: Option<Health>,
    pub failure: Option<Failure>,
    /// A model that the run wrote.
    model: Option<PathBuf>,
}

/// What the user asks the window for.
pub enum Action {
    /// To open this model.
    Model(PathBuf),
    /// To compute on this device.
    Device(DeviceRequest),
    /// To go on with a run although its settings or images are others.
    ResumeAnyway,
}

impl RunLog {
    /// Handles an event.
    pub fn receive(&mut self, ctx: &Context, event: TrainingEvent) {
        match event {
            TrainingEvent::Note(line) => self.say(in_window(&line)),
            TrainingEvent::Started(start) => self.start = Some(start),
            TrainingEvent::Step(metrics) => self.step(metrics),
            TrainingEvent::Epoch { .. } => {}
            TrainingEvent::Evaluated(when, evaluation) => {
                let step = evaluation.step as f64;
                if let Some(rank) = evaluation.rank_me {
                    self.rank_me.push(step, rank);
                }
                if let Some(knn) = evaluation.knn {
                    self.knn.push(step, 100.0 * knn);
                    self.say(format!("{when}: k-NN {:.1} %", 100.0 * knn));
                }
            }
            TrainingEvent::Anomalies { step, anomalies } => {
                let found: Vec<String> = anomalies.iter().map(ToString::to_string).collect();
                let found = in_window(&found.join("; "));
                self.anomaly = Some(format!("step {step}: {found}"));
            }
            TrainingEvent::RolledBack(step) => self.say(format!("went back to step {step}")),
            TrainingEvent::Checkpoint(step) => self.say(format!("checkpoint of step {step}")),
            TrainingEvent::Patches { step, images } => {
                let load = |image: &RgbImage, filter| {
                    ctx.load_texture("teacher's patches", color_image(image), filter)
                };
                let both = |shown: &PatchColors| {
                    let colors = load(&shown.colors, TextureOptions::NEAREST);
                    [load(&shown.image, TextureOptions::LINEAR), colors]
                };
                self.patches = Some((step, images.iter().map(both).collect()));
            }
            TrainingEvent::Paused(step) => self.say(format!("paused after step {step}")),
            TrainingEvent::Resumed => self.say("resumed".into()),
            TrainingEvent::Finished(run) => {
                self.say("finished".into());
                self.model = Some(teacher_of(&run));
            }
            TrainingEvent::Cancelled { step, run } => {
                self.say(format!("stopped after step {step}"));
                self.model = Some(teacher_of(&run)).filter(|model| model.exists());
            }
            // `TrainingHandle::wait` gives the error itself, which says more than its text
            TrainingEvent::Failed(_) => {}
        }
    }

    fn step(&mut self, metrics: Box<StepMetrics>) {
        let (step, losses) = (metrics.step as f64, &metrics.losses);
        let values = [losses.loss, losses.loss_cls, losses.loss_patch];
        for (curve, value) in self.losses.iter_mut().zip(values) {
            curve.push(step, value.into());
        }
        if metrics.health.is_some() {
            self.health = metrics.health;
            if metrics.anomalies.is_empty() {
                self.anomaly = None;
            }
        }
        self.last = Some(metrics);
    }

    fn say(&mut self, line: String) {
        if self.lines.len() == LINES {
            self.lines.remove(0);
        }
        self.lines.push(line);
    }

    /// Shows progress, health and log.
    pub fn show_state(&self, ui: &mut Ui) -> Option<Action> {
        if let (Some(start), Some(last)) = (&self.start, &self.last) {
            let share = last.step as f32 / start.steps.max(1) as f32;
            let text = format!("step {} of {}", last.step, start.steps);
            ui.add(ProgressBar::new(share).text(text));
            ui.label(format!(
                "{:.2} s per step, {:.0} images/s",
                last.step_s, last.images_per_s
            ));
        }
        if let Some(health) = &self.health {
            ui.label(format!("feature std {:.2}", health.feature_std));
        }
        match (&self.anomaly, &self.failure) {
            (_, Some(failure)) => ui.colored_label(ui.visuals().error_fg_color, &failure.reason),
            (Some(text), None) => ui.colored_label(ui.visuals().warn_fg_color, text),
            (None, None) if self.health.is_some() => ui.label("Health: OK"),
            _ => ui.label(""),
        };
        let failure = self.failure.as_ref();
        let device = failure.and_then(|failure| failure.show_devices(ui));
        let is_refused = failure.is_some_and(|failure| failure.is_of_changes);
        let resumes = (is_refused && resume_button(ui)).then_some(Action::ResumeAnyway);
        let model = self.model.as_ref().filter(|model| {
            let button = ui.button("Open this model");
            button.on_hover_text(printable(model)).clicked()
        });
        egui::ScrollArea::vertical()
            .stick_to_bottom(true)
            .auto_shrink(false)
            .show(ui, |ui| {
                for line in &self.lines {
                    ui.label(line);
                }
            });
        let model = model.map(|model| Action::Model(model.clone()));
        device.map(Action::Device).or(model).or(resumes)
    }

    /// Losses, k-NN and patches.
    pub fn show_curves(&self, ui: &mut Ui) {
        if let Some((step, images)) = &self.patches {
            egui::Panel::right("patches")
                .default_size(300.0)
                .show(ui, |ui| {
                    ui.strong(format!("Patch features of the teacher after step {step}"));
                    show_patches(ui, images);
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
        show_plot(ui, "Quality of the teacher's features", height, &curves);
    }
}

/// The best teacher of a run that keeps one, else the last.
fn teacher_of(run: &Path) -> PathBuf {
    best_teacher(run).unwrap_or_else(|| run.join("teacher.safetensors"))
}

fn resume_button(ui: &mut Ui) -> bool {
    let hint = "Goes on from the run's checkpoint, with the settings, images and device of now.";
    let button = ui.button("Resume anyway");
    button.on_hover_text(hint).clicked()
}

/// Images below each other, each beside the colors of its patches.
fn show_patches(ui: &mut Ui, images: &[[TextureHandle; 2]]) {
    let spacing = ui.spacing().item_spacing;
    let room = ui.available_size();
    let height = room.y / images.len().max(1) as f32 - spacing.y;
    let side = (room.x / 2.0 - spacing.x).min(height).max(0.0);
    for pair in images {
        ui.horizontal(|ui| {
            for (texture, text) in pair.iter().zip(["An image", "The colors of its patches"]) {
                let image = egui::Image::new((texture.id(), Vec2::splat(side)));
                ui.add(image.alt_text(text));
            }
        });
    }
}

fn show_plot(ui: &mut Ui, title: &str, height: f32, curves: &[(&str, &Curve)]) {
    ui.strong(title);
    let plot = Plot::new(Id::new(title))
        .height(height)
        .legend(Legend::default())
        .allow_scroll(false);
    let response = plot.show(ui, |plot| {
        for ((name, curve), color) in curves.iter().zip(COLORS) {
            plot.line(Line::new(*name, curve.points()).color(color));
            if curve.points().len() < FEW {
                let dots = Points::new(*name, curve.points());
                plot.points(dots.radius(3.0).color(color));
            }
        }
    });
    let said = curves.iter().filter_map(|(name, curve)| {
        let last = curve.last()?;
        Some(format!("{name} {last:.3}"))
    });
    let said = format!("{title}: {}", said.collect::<Vec<_>>().join(", "));
    let info = || WidgetInfo::labeled(WidgetType::Image, true, &said);
    response.response.widget_info(info);
}
