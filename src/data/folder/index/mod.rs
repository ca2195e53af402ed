//! The images of folders as fixed records, in memory or in a mapped file.
//!
//! - `record`: what is known of an image and of a folder, as bytes; `name`: names as bytes
//! - `walk`: folders and headers, read in parallel; `known`: what an older index says of them; `found`: what one file is
//! - `build`: what was found, in order; `table`: to look up; `digest`: the fingerprint of the names
//! - `file`: the index as a file; `check`: whether what it holds can be; `kept`: where it lies, and whether it is still so

mod build;
mod check;
pub(in crate::data) mod digest;
mod file;
pub(in crate::data) mod found;
pub(in crate::data) mod kept;
mod known;
mod name;
mod record;
pub(in crate::data) mod table;
pub(in crate::data) mod walk;
