//! Images that come as bytes, normalized on the device: the bits of the host's formula, on every backend.

use burn::tensor::Tensor;
use ibot::kernels::{IbotBackend, LevelScale, LevelsInput, TrainBackend};
use ibot::random::{Random, Stream};

use crate::products::Inner;
use crate::values;

/// Images, rows and columns: planes of whole words and not, and more than one workgroup of a GPU.
const SIZES: [[usize; 3]; 6] = [
    [1, 1, 1],
    [3, 5, 5],
    [2, 7, 9],
    [5, 2, 2],
    [2, 16, 12],
    [3, 48, 48],
];

pub fn upload<B: TrainBackend>(device: &B::Device) {
    let (mean, std) = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);
    for [images, height, width] in SIZES {
        let area = height * width;
        let mut random = Random::new(61, 1, 0, Stream::Init);
        let levels: Vec<u8> = (0..images * 3 * area)
            .map(|_| random.below(256) as u8)
            .collect();
        let expected: Vec<u32> = levels
            .iter()
            .enumerate()
            .map(|(at, level)| {
                let channel = at / area % 3;
                let scale = 1.0 / (255.0 * std[channel]);
                (f32::from(*level) * scale + -mean[channel] / std[channel]).to_bits()
            })
            .collect();
        let input = LevelsInput {
            levels,
            dims: [images, 3, height, width],
            normalization: LevelScale::new(mean, std),
        };
        let bits = |found: Vec<f32>| found.into_iter().map(f32::to_bits).collect::<Vec<_>>();
        let found: Tensor<B, 4> = B::upload_levels(input.clone(), device);
        assert_eq!(found.dims(), input.dims);
        assert!(bits(values(found)) == expected, "{:?}", input.dims);
        let found = Inner::<B>::upload_levels(input, device);
        assert!(bits(values(found)) == expected, "without gradients");
    }
    let none = LevelsInput {
        levels: Vec::new(),
        dims: [0, 3, 8, 8],
        normalization: LevelScale::new(mean, std),
    };
    assert_eq!(B::upload_levels(none, device).dims(), [0, 3, 8, 8]);
}
