//! How large a step is: the numbers that this program and its peers in Python are given alike.

use ibot::backbone::{VitConfig, vit_from_name};
use ibot::error::Result;
use ibot::method::IbotConfig;

/// Encoder, input, batch and prototypes of a step; the rest is the method's defaults.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepSize {
    /// timm name of the backbone.
    pub encoder: String,
    /// Side of a patch in pixels, if it is not the encoder's own.
    pub patch_size: Option<usize>,
    /// Side of the square input, in pixels.
    pub image_size: usize,
    /// Images per step, each as two views.
    pub batch_size: usize,
    /// Prototypes of the class-token head.
    pub n_cls_prototypes: usize,
    /// Prototypes of the patch head.
    pub n_patch_prototypes: usize,
}

impl Default for StepSize {
    /// The reference's default model, and as many images as fit a small machine.
    fn default() -> Self {
        let method = IbotConfig::default();
        Self {
            encoder: method.encoder_name,
            patch_size: None,
            image_size: method.image_size,
            batch_size: 4,
            n_cls_prototypes: method.n_cls_prototypes,
            n_patch_prototypes: method.n_patch_prototypes,
        }
    }
}

impl StepSize {
    /// A transformer of width 192 that sees small images: 64 patches of 8 x 8 pixels, as patches of 16 would leave 16.
    #[must_use]
    pub fn tiny() -> Self {
        Self {
            encoder: "vit_tiny_patch16_224".into(),
            patch_size: Some(8),
            image_size: 64,
            batch_size: 32,
            ..Self::default()
        }
    }

    /// The method of this size.
    ///
    /// # Errors
    /// [`ibot::Error::Config`] for an unknown encoder.
    pub fn method(&self) -> Result<IbotConfig> {
        let with_patches = |patch_size| -> Result<VitConfig> {
            Ok(VitConfig {
                patch_size,
                ..vit_from_name(&self.encoder, self.image_size)?
            })
        };
        Ok(IbotConfig {
            encoder_name: self.encoder.clone(),
            image_size: self.image_size,
            n_cls_prototypes: self.n_cls_prototypes,
            n_patch_prototypes: self.n_patch_prototypes,
            vit: self.patch_size.map(with_patches).transpose()?,
            ..IbotConfig::default()
        })
    }

    /// Flags that say so, to `ibot bench` and to `benches/reference/step.py`.
    #[must_use]
    pub fn flags(&self) -> Vec<String> {
        let mut flags = vec!["--encoder".to_owned(), self.encoder.clone()];
        let numbers = [
            ("--patch-size", self.patch_size),
            ("--image-size", Some(self.image_size)),
            ("--batch-size", Some(self.batch_size)),
            ("--n-cls-prototypes", Some(self.n_cls_prototypes)),
            ("--n-patch-prototypes", Some(self.n_patch_prototypes)),
        ];
        for (flag, number) in numbers {
            if let Some(number) = number {
                flags.extend([flag.to_owned(), number.to_string()]);
            }
        }
        flags
    }
}

impl std::fmt::Display for StepSize {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.encoder)?;
        if let Some(patch) = self.patch_size {
            write!(f, " with patches of {patch}")?;
        }
        write!(
            f,
            " at {}, batch {} x 2 views, {} + {} prototypes",
            self.image_size, self.batch_size, self.n_cls_prototypes, self.n_patch_prototypes
        )
    }
}
