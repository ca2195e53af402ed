//! The images of the folder as a grid: only those in view are drawn; works by mouse and keyboard.

use std::ops::Range;
use std::path::{Path, PathBuf};

use eframe::egui::{
    self, EventFilter, Id, Key, Modifiers, Rect, Response, ScrollArea, Sense, StrokeKind, Ui, Vec2,
    WidgetInfo, WidgetType,
};
use ibot::error::printable;

use super::thumbnails::{Thumbnail, Thumbnails};

/// Side of a cell, in points.
const CELL: f32 = 116.0;
/// Space between an image and its cell's edge.
const MARGIN: f32 = 5.0;

/// Small images are enlarged by this factor at most.
const MAX_ENLARGED: f32 = 2.5;

/// Scroll position in the folder.
#[derive(Default)]
pub struct Grid {
    /// Images in view.
    visible: Range<usize>,
    columns: usize,
    /// Top of the view, and its height, in points.
    view: [f32; 2],
    /// An image to bring into view and to give the keyboard focus.
    wanted: Option<usize>,
}

impl Grid {
    /// Images in view.
    pub fn visible(&self) -> &Range<usize> {
        &self.visible
    }

    /// Brings an image into view.
    pub fn reveal(&mut self, index: usize) {
        self.wanted = Some(index);
    }

    /// All images; what is clicked or reached by arrow keys becomes `selected`.
    pub fn show(
        &mut self,
        ui: &mut Ui,
        images: &[PathBuf],
        thumbnails: &mut Thumbnails,
        selected: &mut Option<usize>,
    ) {
        self.columns = ((ui.available_width() / CELL) as usize).max(1);
        if let Some(index) = self.key_target(ui, images.len(), *selected) {
            *selected = Some(index);
            self.reveal(index);
        }
        let mut area = ScrollArea::vertical().auto_shrink(false);
        if let Some(offset) = self.wanted.and_then(|index| self.offset_for(index)) {
            area = area.vertical_scroll_offset(offset);
        }
        ui.spacing_mut().item_spacing = Vec2::ZERO;
        let rows = images.len().div_ceil(self.columns);
        let output = area.show_rows(ui, CELL, rows, |ui, rows| {
            let first = rows.start * self.columns;
            self.visible = first..images.len().min(rows.end * self.columns);
            for row in rows {
                let cells = row * self.columns..images.len().min((row + 1) * self.columns);
                ui.horizontal(|ui| {
                    for index in cells {
                        let thumbnail = thumbnails.get(index, &images[index]);
                        let is_selected = *selected == Some(index);
                        let cell = show_cell(ui, cell_id(index), CELL, thumbnail, is_selected);
                        let place = format!("image {} of {}", index + 1, images.len());
                        describe(&cell, is_selected, &images[index], &place);
                        if self.wanted == Some(index) {
                            self.wanted = None;
                            cell.request_focus();
                        }
                        if cell.clicked() {
                            cell.request_focus();
                            *selected = Some(index);
                        }
                    }
                });
            }
        });
        self.view = [output.state.offset.y, output.inner_rect.height()];
    }

    /// The image that the arrow keys, Home, End, Page Up and Page Down lead to, if the grid has the focus.
    fn key_target(&self, ui: &Ui, count: usize, selected: Option<usize>) -> Option<usize> {
        let focused = ui.memory(egui::Memory::focused);
        let mut cells = self.visible.clone();
        if count == 0 || focused.is_some_and(|id| !cells.any(|index| id == cell_id(index))) {
            return None;
        }
        let page = self.columns * ((self.view[1] / CELL) as usize).max(1);
        let last = count - 1;
        let from = selected.unwrap_or(0);
        let pressed = |key: Key| ui.input_mut(|input| input.consume_key(Modifiers::NONE, key));
        let steps = [
            (Key::ArrowLeft, from.saturating_sub(1)),
            (Key::ArrowRight, from + 1),
            (Key::ArrowUp, from.checked_sub(self.columns).unwrap_or(from)),
            (Key::ArrowDown, from + self.columns),
            (Key::PageUp, from.saturating_sub(page)),
            (Key::PageDown, from + page),
            (Key::Home, 0),
            (Key::End, last),
        ];
        let (_, to) = steps.into_iter().find(|&(key, _)| pressed(key))?;
        Some(selected.map_or(0, |_| to.min(last)))
    }

    /// The scroll position at which an image is in view; none if it already is.
    fn offset_for(&self, index: usize) -> Option<f32> {
        let top = (index / self.columns) as f32 * CELL;
        let [from, height] = self.view;
        if top < from {
            return Some(top);
        }
        (top + CELL > from + height).then_some((top + CELL - height).max(0.0))
    }
}

fn cell_id(index: usize) -> Id {
    Id::new("image").with(index)
}

/// A thumbnail that can be clicked, `side` points wide and high.
pub fn show_cell(
    ui: &mut Ui,
    id: Id,
    side: f32,
    thumbnail: Thumbnail<'_>,
    is_selected: bool,
) -> Response {
    let (_, rect) = ui.allocate_space(Vec2::splat(side));
    let cell = ui.interact(rect, id, Sense::click());
    // the arrows go from image to image here, and not to the nearest widget
    let arrows = EventFilter {
        horizontal_arrows: true,
        vertical_arrows: true,
        ..EventFilter::default()
    };
    ui.memory_mut(|memory| memory.set_focus_lock_filter(id, arrows));
    let visuals = ui.style().interact_selectable(&cell, is_selected);
    let frame = rect.shrink(2.0);
    let painter = ui.painter();
    if is_selected || cell.hovered() {
        painter.rect_filled(frame, 4.0, visuals.weak_bg_fill);
    }
    match thumbnail {
        Thumbnail::Ready(texture) => {
            let room = side - 2.0 * MARGIN;
            let [width, height] = texture.size().map(|side| side as f32);
            let size = Vec2::new(width, height) * (room / width.max(height)).min(MAX_ENLARGED);
            let whole = Rect::from_min_max(egui::pos2(0.0, 0.0), egui::pos2(1.0, 1.0));
            let place = Rect::from_center_size(rect.center(), size);
            painter.image(texture.id(), place, whole, egui::Color32::WHITE);
        }
        Thumbnail::Coming | Thumbnail::Broken => {
            let color = ui.visuals().weak_text_color();
            let text = match thumbnail {
                Thumbnail::Broken => "unreadable",
                _ => "…",
            };
            let font = egui::TextStyle::Small.resolve(ui.style());
            painter.text(
                rect.center(),
                egui::Align2::CENTER_CENTER,
                text,
                font,
                color,
            );
        }
    }
    if is_selected {
        let stroke = ui.visuals().selection.stroke;
        painter.rect_stroke(frame, 4.0, (2.0, stroke.color), StrokeKind::Inside);
    }
    if cell.has_focus() {
        let stroke = ui.visuals().widgets.active.fg_stroke;
        painter.rect_stroke(frame.expand(2.0), 5.0, stroke, StrokeKind::Inside);
    }
    cell
}

/// The text that a screen reader reads for an image.
pub fn describe(cell: &Response, is_selected: bool, path: &Path, place: &str) {
    let name = path.file_name().map(printable).unwrap_or_default();
    cell.widget_info(|| {
        let label = format!("{name}, {place}");
        WidgetInfo::selected(WidgetType::SelectableLabel, true, is_selected, label)
    });
}
