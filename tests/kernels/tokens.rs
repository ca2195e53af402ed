//! Tokens of a transformer from patches, mask token, class tokens and positions: against the definition on the host.

use burn::tensor::Tensor;
use ibot::kernels::{TokenMask, TokensInput, TrainBackend};

use crate::rows::{draw, tensor, wide};
use crate::sizes::compare;
use crate::values;

/// Images, tokens before the patches, patches, width; whether a mask is there, and whether all tokens have a position.
const CASES: [([usize; 4], bool, bool); 7] = [
    ([1, 0, 1, 1], false, true),
    ([2, 1, 3, 4], true, true),
    ([3, 1, 5, 7], true, true),
    ([2, 5, 4, 6], true, false),
    ([2, 5, 9, 64], false, false),
    ([5, 0, 9, 12], true, true),
    ([4, 1, 49, 68], true, true),
];

pub fn tokens<B: TrainBackend>(device: &B::Device) {
    for case in CASES {
        one::<B>(case, device);
    }
}

fn one<B: TrainBackend>(
    case @ ([batch, prefix, patches, width], is_masked, all_placed): ([usize; 4], bool, bool),
    device: &B::Device,
) {
    let count = prefix + patches;
    let placed = if all_placed { count } else { patches };
    let of_patches = draw(60, batch * patches * width, 1.0);
    let (of_token, of_prefix) = (draw(61, width, 1.0), draw(62, prefix * width, 1.0));
    let of_positions = draw(63, placed * width, 1.0);
    let weights = draw(64, batch * count * width, 1.0);
    let masked: Vec<f32> = (0..batch * patches)
        .map(|at| f32::from(u8::from(is_masked && (at * at + at / 3) % 3 == 0)))
        .collect();
    let leaves = [
        tensor::<B, 2>(&of_patches, [batch * patches, width], device),
        tensor::<B, 2>(&of_positions, [placed, width], device),
    ];
    let token = tensor::<B, 1>(&of_token, [width], device);
    let before = (prefix > 0).then(|| tensor::<B, 2>(&of_prefix, [prefix, width], device));
    let y = B::assemble_tokens(TokensInput {
        patches: leaves[0].clone(),
        batch,
        mask: is_masked.then(|| TokenMask {
            masked: Tensor::from_floats(masked.as_slice(), device),
            token: token.clone(),
        }),
        prefix: before.clone(),
        positions: leaves[1].clone(),
    });
    let d_y = tensor::<B, 2>(&weights, [batch * count, width], device).detach();
    let grads = (y.clone() * d_y).sum_dim(1).sum_dim(0).backward();
    let mut found = vec![values(y)];
    found.extend(leaves.map(|leaf| values(leaf.grad(&grads).unwrap())));
    if is_masked {
        found.push(values(token.grad(&grads).unwrap()));
    }
    found.extend(before.map(|before| values(before.grad(&grads).unwrap())));

    let mut tokens = vec![0.0; batch * count * width];
    let mut d_patches = vec![0.0; batch * patches * width];
    let mut d_positions = vec![0.0; placed * width];
    let (mut d_token, mut d_prefix) = (vec![0.0; width], vec![0.0; prefix * width]);
    for (at, d) in wide(&weights).into_iter().enumerate() {
        let (row, column) = (at / width, at % width);
        let (image, token) = (row / count, row % count);
        let value = match token.checked_sub(prefix) {
            None => {
                d_prefix[token * width + column] += d;
                of_prefix[token * width + column]
            }
            Some(patch) => {
                let of_image = image * patches + patch;
                if masked[of_image] == 1.0 {
                    d_token[column] += d;
                    of_token[column]
                } else {
                    d_patches[of_image * width + column] = d;
                    of_patches[of_image * width + column]
                }
            }
        };
        tokens[at] = f64::from(value);
        if let Some(place) = token.checked_sub(count - placed) {
            d_positions[place * width + column] += d;
            tokens[at] += f64::from(of_positions[place * width + column]);
        }
    }
    let mut expected = vec![tokens, d_patches, d_positions];
    expected.extend(is_masked.then_some(d_token));
    expected.extend((prefix > 0).then_some(d_prefix));
    compare(&format!("tokens, {case:?}"), &found, &expected, 1e-5);
}
