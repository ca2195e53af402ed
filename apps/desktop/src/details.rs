//! The selected image: attention, patch features, and the most similar images.

use std::path::PathBuf;

use eframe::egui::{
    self, Color32, ColorImage, Context, Key, Modifiers, Rect, Sense, Slider, TextureHandle,
    TextureOptions, Ui, Vec2, WidgetInfo, WidgetType,
};
use ibot::app::{EmbedRequest, ImageFeatures, Job, ModelInfo};
use ibot::data::decode::decode_rgb_in;
use ibot::data::{FolderConfig, ValueRange};
use ibot::error::{Error, Result, printable};
use ibot::eval::patch_pca_rgb;
use ibot::eval::viridis;
use image::RgbImage;

use super::background::Newest;
use super::gallery::Gallery;
use super::model::Model;
use super::neighbors::Neighbors;
use super::thumbnails::{Thumbnails, color_image, reduced};
use super::words::in_window;

/// Longer side of an image shown without a model, in pixels.
const WHOLE: u32 = 512;

/// What lies over the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Overlay {
    Nothing,
    Attention,
    Patches,
}

/// How the selected image is shown.
pub struct Details {
    shown: Option<Shown>,
    /// Reads only the newest image, one at a time: a whole image takes up to a second and hundreds of megabytes.
    reader: Option<Newest<Reading, (u64, Result<RgbImage>)>>,
    neighbors: Neighbors,
    /// Number of the selection, which tells late results from its own.
    selection: u64,
    overlay: Overlay,
    /// 0 for the mean of all heads.
    head: usize,
    strength: f32,
}

/// The selected image.
struct Shown {
    index: usize,
    path: PathBuf,
    image: Option<TextureHandle>,
    job: Option<Job<Vec<Result<ImageFeatures>>>>,
    maps: Option<Maps>,
    error: Option<String>,
}

/// An image to read, and the model that it is for.
struct Reading {
    selection: u64,
    path: PathBuf,
    info: Option<ModelInfo>,
}

/// Small images, an entry for each patch.
struct Maps {
    /// The mean of the heads, then each.
    attention: Vec<TextureHandle>,
    colors: Option<TextureHandle>,
}

impl Default for Details {
    fn default() -> Self {
        Self {
            shown: None,
            reader: None,
            neighbors: Neighbors::default(),
            selection: 0,
            overlay: Overlay::Attention,
            head: 0,
            strength: 0.6,
        }
    }
}

impl Details {
    /// The selected image.
    pub fn index(&self) -> Option<usize> {
        self.shown.as_ref().map(|shown| shown.index)
    }

    /// Clears the selection.
    pub fn clear(&mut self) {
        self.shown = None;
    }

    /// Selects an image; its request goes ahead of a folder that is being embedded.
    pub fn open(&mut self, ctx: &Context, index: usize, path: PathBuf, model: &Model) {
        let ready = model.ready();
        self.selection += 1;
        self.neighbors.select(self.selection);
        let read = |reading: Reading| {
            let image = read(&reading.path, reading.info.as_ref());
            (reading.selection, image)
        };
        let reading = Reading {
            selection: self.selection,
            path: path.clone(),
            info: ready.map(|(_, info)| info.clone()),
        };
        Newest::ask_one(&mut self.reader, ctx, reading, read);
        let job = ready.map(|(handle, _)| {
            let ctx = ctx.clone();
            let request = EmbedRequest::from(path.as_path());
            let request = request.with_attention().with_patches();
            handle.embed(request.on_progress(move |_| ctx.request_repaint()))
        });
        self.shown = Some(Shown {
            index,
            path,
            image: None,
            job,
            maps: None,
            error: None,
        });
    }

    /// Takes the results that are ready.
    pub fn receive(&mut self, ctx: &Context, gallery: &Gallery, model: &mut Model) {
        let Some(shown) = &mut self.shown else { return };
        while let Some(read) = self.reader.as_ref().and_then(Newest::take) {
            match read {
                Ok((selection, image)) if selection == self.selection => {
                    shown.receive_image(ctx, image);
                }
                Ok(_) => {}
                Err(reason) => {
                    // the next selection starts another one
                    self.reader = None;
                    shown.error = Some(reason.into());
                }
            }
        }
        shown.receive_features(ctx, model);
        self.neighbors.receive(ctx, gallery, shown.index);
    }

    /// The image with its controls and neighbors; a neighbor that is clicked.
    pub fn show(
        &mut self,
        ui: &mut Ui,
        gallery: &Gallery,
        thumbnails: &mut Thumbnails,
    ) -> Option<usize> {
        let Some(shown) = &self.shown else {
            ui.label("Select an image to see where the model looks, and similar images.");
            return None;
        };
        let name = shown.path.file_name().map(printable).unwrap_or_default();
        ui.heading(&name);
        if let Some(error) = &shown.error {
            ui.colored_label(ui.visuals().error_fg_color, error);
        }
        let heads = shown.maps.as_ref().map_or(0, |maps| maps.attention.len());
        if heads > 0 {
            self.show_controls(ui, heads - 1);
        }
        self.show_image(ui, &name);
        self.neighbors.show(ui, gallery, thumbnails)
    }

    fn show_controls(&mut self, ui: &mut Ui, heads: usize) {
        // a letter that is typed into a field, a name for example, is not meant for the image
        let is_typing = ui.ctx().text_edit_focused();
        ui.horizontal_wrapped(|ui| {
            for (overlay, text, key) in [
                (Overlay::Nothing, "Image", Key::N),
                (Overlay::Attention, "Attention", Key::A),
                (Overlay::Patches, "Patches", Key::P),
            ] {
                let button = ui.selectable_value(&mut self.overlay, overlay, text);
                button.on_hover_text(key.name());
                if !is_typing && ui.input_mut(|input| input.consume_key(Modifiers::NONE, key)) {
                    self.overlay = overlay;
                }
            }
        });
        self.head = self.head.min(heads);
        let is_attention = self.overlay == Overlay::Attention;
        let name = |head: f64| match head as usize {
            0 => "all heads".to_owned(),
            head => format!("head {head}"),
        };
        let head =
            Slider::new(&mut self.head, 0..=heads).custom_formatter(move |head, _| name(head));
        ui.add_enabled(is_attention, head.text("Head"));
        let strength = Slider::new(&mut self.strength, 0.0..=1.0).text("Strength");
        ui.add_enabled(self.overlay != Overlay::Nothing, strength);
    }

    fn show_image(&self, ui: &mut Ui, name: &str) {
        let Some(shown) = &self.shown else { return };
        let Some(image) = &shown.image else {
            if shown.error.is_none() {
                ui.spinner();
            }
            return;
        };
        let side = ui.available_width().min(ui.available_height() * 0.55);
        let [width, height] = image.size().map(|side| side as f32);
        let size = Vec2::new(width, height) * (side / width.max(height)).max(0.0);
        let (rect, response) = ui.allocate_exact_size(size, Sense::hover());
        let whole = Rect::from_min_max(egui::pos2(0.0, 0.0), egui::pos2(1.0, 1.0));
        ui.painter().image(image.id(), rect, whole, Color32::WHITE);
        let (map, what) = match (&shown.maps, self.overlay) {
            (Some(maps), Overlay::Attention) => (maps.attention.get(self.head), "attention"),
            (Some(maps), Overlay::Patches) => (maps.colors.as_ref(), "patch features"),
            _ => (None, ""),
        };
        if let Some(map) = map {
            let tint = Color32::WHITE.gamma_multiply(self.strength);
            ui.painter().image(map.id(), rect, whole, tint);
        }
        let label = match map {
            Some(_) => format!("{name}, with {what}"),
            None => name.to_owned(),
        };
        response.widget_info(|| WidgetInfo::labeled(WidgetType::Image, true, &label));
    }
}

impl Shown {
    fn receive_image(&mut self, ctx: &Context, image: Result<RgbImage>) {
        match image {
            Ok(image) => {
                let pixels = color_image(&image);
                let texture = ctx.load_texture("selected image", pixels, TextureOptions::LINEAR);
                self.image = Some(texture);
            }
            Err(error) => self.error = Some(in_window(&error.to_string())),
        }
    }

    fn receive_features(&mut self, ctx: &Context, model: &mut Model) {
        let Some(result) = self.job.as_mut().and_then(Job::try_result) else {
            return;
        };
        self.job = None;
        match result.map(|mut made| made.pop()) {
            Ok(Some(Ok(features))) => {
                self.maps = model.ready().map(|(_, info)| maps(ctx, info, &features));
            }
            Ok(Some(Err(error))) => self.error = Some(in_window(&error.to_string())),
            Ok(None) | Err(Error::Stopped) => {}
            // those of an image are in the list: the device failed, or the file is another one by now, or gone
            Err(error) => model.fail(&error),
        }
    }
}

/// The image as the model sees it, which its maps are drawn on; the whole image without a model.
fn read(path: &std::path::Path, info: Option<&ModelInfo>) -> Result<RgbImage> {
    let range = info.map_or(ValueRange::Auto, |info| info.preprocessing.range);
    let image = decode_rgb_in(path, FolderConfig::default().max_pixels, range)?;
    match info {
        Some(info) => info.seen(&image),
        None => Ok(reduced(&image, WHOLE)),
    }
}

fn maps(ctx: &Context, info: &ModelInfo, features: &ImageFeatures) -> Maps {
    let [rows, columns] = info.grid;
    let patches = rows * columns;
    let texture = |name: &str, pixels: Vec<Color32>| {
        let image = ColorImage::new([columns, rows], pixels);
        ctx.load_texture(name, image, TextureOptions::LINEAR)
    };
    let heads: Vec<&[f32]> = features.attention.chunks_exact(patches.max(1)).collect();
    let mean = (0..patches).map(|at| heads.iter().map(|head| head[at]).sum::<f32>());
    let mean: Vec<f32> = mean.collect();
    let attention = std::iter::once(mean.as_slice()).chain(heads);
    let attention = attention.map(|head| texture("attention", heat(head)));
    let colors = patch_pca_rgb(&features.patches, info.width).map(|colors| {
        let colors = colors.into_iter();
        let pixels = colors.map(|[red, green, blue]| Color32::from_rgb(red, green, blue));
        texture("patches", pixels.collect())
    });
    Maps {
        attention: attention.collect(),
        colors,
    }
}

/// From the smallest value to the largest.
fn heat(values: &[f32]) -> Vec<Color32> {
    let low = values.iter().copied().fold(f32::INFINITY, f32::min);
    let high = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let color = |value: &f32| {
        let share = (value - low) / (high - low).max(f32::MIN_POSITIVE);
        let [red, green, blue] = viridis(f64::from(share)).0;
        Color32::from_rgb(red, green, blue)
    };
    values.iter().map(color).collect()
}
