//! The images most similar to the selected one, searched for on a background thread.

use std::time::{Duration, Instant};

use eframe::egui::{Context, Id, ScrollArea, Ui};

use super::background::Newest;
use super::gallery::{Features, Gallery, Neighbor};
use super::grid::{describe, show_cell};
use super::thumbnails::Thumbnails;

/// Neighbors that are shown.
const NEAREST: usize = 12;
/// Side of a neighbor, in points.
const CELL: f32 = 96.0;
/// Time between two searches while the folder is being embedded: each goes over all features there are.
const PAUSE: Duration = Duration::from_millis(500);

/// The neighbors of the selected image.
#[derive(Default)]
pub struct Neighbors {
    searcher: Option<Newest<Search, (u64, Vec<Neighbor>)>>,
    /// The selection that they belong to.
    selection: u64,
    found: Vec<Neighbor>,
    is_searching: bool,
    /// When the last search began, and among how many images.
    last: Option<(Instant, usize)>,
}

struct Search {
    selection: u64,
    index: usize,
    features: Features,
}

impl Neighbors {
    /// Forgets those of the image before; what is still found for it is dropped.
    pub fn select(&mut self, selection: u64) {
        self.selection = selection;
        self.found.clear();
        self.is_searching = false;
        self.last = None;
    }

    /// Takes what was found for image number `index`, and searches again where there are more features.
    pub fn receive(&mut self, ctx: &Context, gallery: &Gallery, index: usize) {
        while let Some(found) = self.searcher.as_ref().and_then(Newest::take) {
            match found {
                Ok((selection, found)) if selection == self.selection => {
                    self.found = found;
                    self.is_searching = false;
                }
                Ok(_) => {}
                Err(_) => {
                    self.searcher = None;
                    self.is_searching = false;
                }
            }
        }
        let features = gallery.features();
        let before = self.last.map_or(0, |(_, count)| count);
        if self.is_searching || before == features.len() {
            return;
        }
        let ago = self.last.map(|(at, _)| at.elapsed());
        if !is_due(ago, gallery.is_embedding()) {
            ctx.request_repaint_after(PAUSE);
            return;
        }
        let search = Search {
            selection: self.selection,
            index,
            features: features.clone(),
        };
        Newest::ask_one(&mut self.searcher, ctx, search, |search| {
            let found = search.features.nearest(search.index, NEAREST);
            (search.selection, found)
        });
        self.is_searching = true;
        self.last = Some((Instant::now(), features.len()));
    }

    /// The neighbors; the one that is clicked.
    pub fn show(
        &self,
        ui: &mut Ui,
        gallery: &Gallery,
        thumbnails: &mut Thumbnails,
    ) -> Option<usize> {
        if self.found.is_empty() {
            ui.label("Similar images appear once this one is embedded.");
            return None;
        }
        ui.add_space(8.0);
        ui.strong("Similar images");
        show_nearest(ui, gallery, thumbnails, &self.found)
    }
}

/// Whether to search again, where the last search began so long ago.
pub fn is_due(last: Option<Duration>, is_embedding: bool) -> bool {
    last.is_none_or(|ago| ago >= PAUSE || !is_embedding)
}

fn show_nearest(
    ui: &mut Ui,
    gallery: &Gallery,
    thumbnails: &mut Thumbnails,
    nearest: &[Neighbor],
) -> Option<usize> {
    let images = gallery.images();
    let columns = ((ui.available_width() / CELL) as usize).max(1);
    let mut clicked = None;
    let mut show = |ui: &mut Ui, rank: usize, (index, likeness): Neighbor| {
        let Some(path) = images.get(index) else {
            return;
        };
        ui.vertical(|ui| {
            let id = Id::new("nearest").with(rank);
            let cell = show_cell(ui, id, CELL, thumbnails.get(index, path), false);
            let place = format!(
                "number {} of the nearest, similarity {likeness:.3}",
                rank + 1
            );
            describe(&cell, false, path, &place);
            if cell.clicked() {
                clicked = Some(index);
            }
            ui.small(format!("{likeness:.3}"));
        });
    };
    let area = ScrollArea::vertical()
        .id_salt("nearest")
        .auto_shrink([false, true]);
    area.show(ui, |ui| {
        ui.spacing_mut().item_spacing.x = 0.0;
        for (row, neighbors) in nearest.chunks(columns).enumerate() {
            ui.horizontal(|ui| {
                for (column, neighbor) in neighbors.iter().enumerate() {
                    show(ui, row * columns + column, *neighbor);
                }
            });
        }
    });
    clicked
}
