//! Model files: a backbone's weights under timm's names, and what the file says of itself.
//!
//! - `card`: architecture, preprocessing, origin, in the metadata of the safetensors file
//! - `fingerprint`: features of eight built-in pictures, which tell whether another device computes the same
//! - `file`: reading and writing

mod card;
mod file;
mod fingerprint;

pub use card::{CARD_FORMAT, DataCard, ModelCard, Preprocessing};
pub use file::{LoadedModel, ModelOptions, read_model, write_model};
pub(crate) use fingerprint::fingerprint_of_first;
pub use fingerprint::{FINGERPRINT_PICTURES, fingerprint, fingerprint_pictures};
