//! Mean and deviation that images are normalized with before a backbone sees them.

use std::fmt;
use std::str::FromStr;

/// Mean and deviation of red, green and blue, of values from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Normalization {
    /// Subtracted from red, green and blue.
    pub mean: [f32; 3],
    /// What red, green and blue are then divided by.
    pub std: [f32; 3],
}

impl Normalization {
    /// ImageNet's: of DINO, DINOv2, iBOT, MAE and DeiT. timm's `IMAGENET_DEFAULT_MEAN`.
    pub const IMAGENET: Self = Self {
        mean: [0.485, 0.456, 0.406],
        std: [0.229, 0.224, 0.225],
    };
    /// From -1 to 1: of Google's vision transformers. timm's `IMAGENET_INCEPTION_MEAN`.
    pub const HALF: Self = Self {
        mean: [0.5; 3],
        std: [0.5; 3],
    };
    /// CLIP's. timm's `OPENAI_CLIP_MEAN`.
    pub const CLIP: Self = Self {
        mean: [0.481_454_66, 0.457_827_5, 0.408_210_73],
        std: [0.268_629_54, 0.261_302_6, 0.275_777_1],
    };

    /// Whether these can be of values from 0 to 1, and not of 0 to 255: the bounds of the settings `mean` and `std`.
    pub(crate) fn is_of_levels(&self) -> bool {
        let mean_fits = |mean: &f32| (-1.0..=2.0).contains(mean);
        let std_fits = |std: &f32| (1e-3..=10.0).contains(std);
        self.mean.iter().all(mean_fits) && self.std.iter().all(std_fits)
    }
}

const NAMED: [(&str, Normalization); 3] = [
    ("imagenet", Normalization::IMAGENET),
    ("half", Normalization::HALF),
    ("clip", Normalization::CLIP),
];

/// `imagenet`, `half`, `clip`, or `MEAN/STD` with three numbers each, such as `0.5,0.5,0.5/0.25,0.25,0.25`.
impl FromStr for Normalization {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some((_, named)) = NAMED.iter().find(|(name, _)| *name == text) {
            return Ok(*named);
        }
        let three = |text: &str| -> Option<[f32; 3]> {
            let numbers: Option<Vec<f32>> = text
                .split(',')
                .map(|number| number.trim().parse().ok())
                .collect();
            numbers?.try_into().ok()
        };
        text.split_once('/')
            .and_then(|(mean, std)| {
                Some(Self {
                    mean: three(mean)?,
                    std: three(std)?,
                })
            })
            .filter(Self::is_of_levels)
            .ok_or_else(|| {
                "must be imagenet, half, clip, or MEAN/STD of values from 0 to 1, such as 0.5,0.5,0.5/0.25,0.25,0.25"
                    .into()
            })
    }
}

impl fmt::Display for Normalization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let three = |[r, g, b]: [f32; 3]| format!("{r} {g} {b}");
        let values = format!("mean {}, std {}", three(self.mean), three(self.std));
        match NAMED.iter().find(|(_, named)| named == self) {
            Some((name, _)) => write!(f, "{name} ({values})"),
            None => f.write_str(&values),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_read() {
        assert_eq!("half".parse(), Ok(Normalization::HALF));
        let read: Normalization = "0.5, 0.4,0.3/0.25,0.5,1".parse().unwrap();
        assert_eq!((read.mean, read.std), ([0.5, 0.4, 0.3], [0.25, 0.5, 1.0]));
        assert_eq!(read.to_string(), "mean 0.5 0.4 0.3, std 0.25 0.5 1");
        assert!(Normalization::CLIP.to_string().starts_with("clip (mean 0."));
        for wrong in [
            "",
            "imagent",
            "0.5/0.5",
            "0.5,0.5,0.5",
            "1,1,1/0,1,1",
            "nan,0,0/1,1,1",
            "124,116,104/58,57,57",
        ] {
            let refusal = wrong.parse::<Normalization>().unwrap_err();
            assert!(refusal.contains("imagenet, half, clip"), "{wrong}");
        }
    }
}
