//! Pictures for people: contact sheets, heat maps and line charts, to be saved as PNG.

mod axis;
mod chart;
mod class_colors;
mod contact_sheet;
mod font;
mod heat_map;
mod paint;
mod patches;

pub use chart::{ChartConfig, Series, line_chart};
pub use class_colors::class_colors;
pub use contact_sheet::{Captioned, contact_sheet};
pub use heat_map::heat_map;
pub use patches::{correspondence, patch_colors};
