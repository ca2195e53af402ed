//! The lengths that a step's work follows from.

use ibot::Result;
use ibot::masking::{MaskRatio, masked_count};

use super::super::size::StepSize;

/// Global views an image.
const VIEWS: usize = 2;

/// Lengths of a step; as in the method's defaults, student and teacher have a head each for class tokens and for patches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sizes {
    /// Views of all images.
    pub images: u64,
    /// Entries of a view.
    pub pixels: u64,
    /// Patches of a view.
    pub patches: u64,
    /// Tokens that are no patches.
    pub prefix: u64,
    /// Entries of a patch.
    pub patch_entries: u64,
    /// Patches that the patch loss looks at.
    pub masked: u64,
    /// Width of a token.
    pub width: u64,
    /// Width within an MLP.
    pub hidden: u64,
    /// Heads of attention.
    pub attention_heads: u64,
    /// Blocks.
    pub depth: u64,
    /// Widths of a projection head from the tokens to the bottleneck.
    pub head: Vec<u64>,
    /// Of the class-token head and of the patch head.
    pub prototypes: [u64; 2],
    /// Iterations of Sinkhorn-Knopp.
    pub iterations: u64,
    /// Products of a map of attention in its backward pass, see [`super::parts`].
    pub attention_backward: u64,
    /// Rows of the maps of the last block's attention.
    pub last_queries: u64,
}

/// What differs between the devices in what a step does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Attention's backward pass is two kernels, by queries and by keys, which both make the map and its gradient: 7
    /// products.
    Gpu,
    /// It is one, of 5 products; and the last block's attention is for the chosen tokens alone.
    Cpu,
}

impl Sizes {
    /// Of a step as `ibot bench` makes it.
    ///
    /// # Errors
    /// An encoder that is not known.
    pub fn of(size: &StepSize, kind: Kind) -> Result<Self> {
        let method = size.method()?;
        let vit = method.backbone()?;
        let images = VIEWS * size.batch_size;
        let ratio = match method.mask_ratio {
            MaskRatio::Fixed(ratio) => ratio,
            _ => 0.0, // `StepSize` leaves the default, which is fixed
        };
        let layers = method.projector_layers;
        let width_after = |layer| match layer {
            0 => vit.embed_dim,
            _ if layer == layers => method.projector_bottleneck_dim,
            _ => method.projector_hidden_dim,
        };
        let masked = images * masked_count(vit.patches(), ratio);
        let rows = images * (vit.prefix_tokens() + vit.patches());
        Ok(Self {
            images: images as u64,
            pixels: 3 * (size.image_size as u64).pow(2),
            patches: vit.patches() as u64,
            prefix: vit.prefix_tokens() as u64,
            patch_entries: 3 * (vit.patch_size as u64).pow(2),
            masked: masked as u64,
            width: vit.embed_dim as u64,
            hidden: vit.mlp_width() as u64,
            attention_heads: vit.num_heads as u64,
            depth: vit.depth as u64,
            head: (0..=layers)
                .map(|layer| width_after(layer) as u64)
                .collect(),
            prototypes: [method.n_cls_prototypes, method.n_patch_prototypes].map(|n| n as u64),
            iterations: method.sinkhorn_iterations as u64,
            attention_backward: match kind {
                Kind::Gpu => 7,
                Kind::Cpu => 5,
            },
            last_queries: match kind {
                Kind::Gpu => rows as u64,
                Kind::Cpu => (images + masked) as u64,
            },
        })
    }

    /// Tokens of a view.
    pub fn tokens(&self) -> u64 {
        self.prefix + self.patches
    }

    /// Tokens of all views.
    pub fn rows(&self) -> u64 {
        self.images * self.tokens()
    }

    /// Rows of the last block after its attention: class tokens, and the patches that the loss looks at.
    pub fn chosen(&self) -> u64 {
        self.images + self.masked
    }

    /// Entries of the bottleneck.
    pub fn bottleneck(&self) -> u64 {
        self.head.last().copied().unwrap_or(0)
    }

    /// Parameters that the teacher averages.
    pub fn teacher_parameters(&self) -> u64 {
        let linear = |inputs: u64, outputs: u64| inputs * outputs + outputs;
        let (width, hidden) = (self.width, self.hidden);
        let block = 4 * width
            + linear(width, 3 * width)
            + linear(width, width)
            + linear(width, hidden)
            + linear(hidden, width);
        let backbone = linear(self.patch_entries, width)
            + (self.prefix + self.tokens()) * width
            + self.depth * block
            + 2 * width;
        let layers = self.head.windows(2).map(|pair| linear(pair[0], pair[1]));
        let head: u64 = layers.sum();
        let prototypes: u64 = self.prototypes.iter().sum();
        backbone + 2 * head + prototypes * self.bottleneck()
    }

    /// Parameters that the optimizer trains: those, and the mask token.
    pub fn student_parameters(&self) -> u64 {
        self.teacher_parameters() + self.width
    }
}

#[cfg(test)]
mod tests {
    use ibot::burn::module::Module;
    use ibot::kernels::{Autodiff, Flex};

    use super::*;

    #[test]
    fn parameters_are_those_of_the_networks() {
        let size = StepSize {
            n_cls_prototypes: 512,
            n_patch_prototypes: 256,
            ..StepSize::tiny()
        };
        let method = size.method().unwrap();
        let method = method
            .init::<Autodiff<Flex>>(0, &Default::default())
            .unwrap();
        let sizes = Sizes::of(&size, Kind::Cpu).unwrap();
        assert_eq!(
            sizes.student_parameters(),
            method.student.num_params() as u64
        );
        assert_eq!(
            sizes.teacher_parameters(),
            method.teacher.num_params() as u64
        );
    }

    #[test]
    fn a_step_of_64_images_has_the_rows_of_the_documents() {
        let size = StepSize {
            batch_size: 64,
            ..StepSize::default()
        };
        let sizes = Sizes::of(&size, Kind::Gpu).unwrap();
        let found = [
            sizes.rows(),
            sizes.masked,
            sizes.chosen(),
            sizes.patch_entries,
        ];
        assert_eq!(found, [25_216, 7_552, 7_680, 768]);
        assert_eq!(sizes.head, [384, 2048, 2048, 256]);
    }
}
