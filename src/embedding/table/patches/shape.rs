//! What a table of patches says of its images.

use crate::embedding::table::format::TableFormat;

/// What the patches of every image of a table have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PatchShape {
    /// Rows and columns of patches.
    pub grid: [usize; 2],
    /// Width D of a patch's feature.
    pub width: usize,
}

impl PatchShape {
    /// Values of one image.
    pub fn values(&self) -> usize {
        self.grid[0] * self.grid[1] * self.width
    }

    /// Bytes that the values of so many images take in a table of this format; about, for text.
    pub fn bytes(&self, images: usize, format: TableFormat) -> u64 {
        // "-0.12345678," in the mean
        let of_value = if format == TableFormat::Csv { 12 } else { 4 };
        (images as u64)
            .saturating_mul(self.values() as u64)
            .saturating_mul(of_value)
    }
}

/// An image that a table has patches of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PatchOwner {
    /// Absolute; see [`crate::path_text`].
    pub path: String,
    /// Its class, where it has one.
    pub label: Option<String>,
}

/// What a table says of itself; kept by `.safetensors` alone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PatchOrigin {
    /// BLAKE3 of the model file.
    pub model: String,
    /// Which features of that model they are.
    pub recipe: String,
}
