//! What the samples of an image file are, and what of the file is not used, by its header.

use std::fmt::{self, Display};

use serde::{Deserialize, Serialize};

/// What the colors of an image are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Depth {
    /// Whole numbers of up to 8 bits, or of a kind that is scaled from its whole range, as CMYK is.
    #[default]
    Bits8,
    /// Whole numbers of 16 bits, which need not all be used: [`crate::data::ValueRange`].
    Bits16,
    /// Floats.
    Float,
}

/// What of a file is not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Unused {
    /// All pages of a TIFF file but the first.
    Pages,
    /// All channels of a gray image but the first.
    ChannelsButOne,
    /// All channels but red, green and blue.
    Channels,
}

impl Display for Unused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pages => "several pages: the first is used; save each page as a file to use the others",
            Self::ChannelsButOne => {
                "several channels: the first is used, as gray; save three as red, green and blue to use more"
            }
            Self::Channels => {
                "more than three channels: the first three are used, as red, green and blue"
            }
        })
    }
}
