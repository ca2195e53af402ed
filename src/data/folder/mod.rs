//! An image folder: what it holds, found by content and in a fixed order.
//!
//! - `image_folder`: its images and classes; `config`: how it is read; `summary`: what was found, in words
//! - `sources`: several folders, files and lists; `list_text`: the text of a list; `list_line`: a line of it; `list_table`: files and
//!   classes in columns; `layout`: which folders are classes
//! - `index`: the images of one folder as records, which a file can hold; `records`: those, or a list
//! - `measure`: the range of values of its images; `thumbnails`: large images reduced, and kept from one epoch to the next
//! - `order`: that of the images in an epoch

pub(in crate::data) mod config;
mod image_folder;
pub(in crate::data) mod index;
pub(in crate::data) mod layout;
pub(in crate::data) mod list_line;
pub(in crate::data) mod list_table;
mod list_text;
mod measure;
pub(in crate::data) mod order;
mod records;
pub(in crate::data) mod sources;
pub(in crate::data) mod summary;
mod thumbnails;

pub use image_folder::ImageFolder;
pub(crate) use image_folder::class_named;
pub(in crate::data) use image_folder::reason;
