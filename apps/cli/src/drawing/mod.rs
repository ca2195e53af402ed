//! Images for people: contact sheets, attention maps and line charts, to be saved as PNG.

mod attention_map;
mod chart;
mod class_colors;
mod contact_sheet;
mod font;
mod heat_overlay;
mod paint;
mod patches;
mod ticks;

pub use attention_map::attention_map;
pub use chart::{COLORS, INKS, LineChart, Series};
pub use class_colors::class_colors;
pub use contact_sheet::{Captioned, contact_sheet};
pub use heat_overlay::heat_overlay;
pub use paint::without_title;
pub use patches::{Pair, correspondence, patch_colors};
