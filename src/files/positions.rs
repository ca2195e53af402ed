//! Position embeddings of a file for another image size.

use std::path::Path;

use crate::backbone::resample_matrix;
use crate::error::Result;
use crate::files::foreign::refused;
use crate::files::state_dict::NamedTensor;

/// A position embedding for a grid of `[rows, columns]`, as timm's `resample_abs_pos_embed` (bicubic, antialiased).
///
/// The first `prefix_tokens` rows, of class and register tokens, stay as they are. As in timm, the old grid is square.
/// `path` is for errors.
///
/// # Shapes
/// `[1, prefix + N, D]` -> `[1, prefix + rows * columns, D]`.
///
/// # Errors
/// [`crate::error::Error::Weights`] where it has another shape or its grid is not square, and for an empty new grid.
pub fn resample_positions(
    path: &Path,
    positions: NamedTensor,
    prefix_tokens: usize,
    grid: [usize; 2],
) -> Result<NamedTensor> {
    let shape = &positions.shape;
    let misshapen = |why: &str| {
        let reason =
            format!("its pos_embed {shape:?} {why} for {prefix_tokens} class and register tokens");
        refused(path, reason)
    };
    let [1, count, width] = shape[..] else {
        return Err(misshapen(
            "is not [1, positions, width]; check the model's settings",
        ));
    };
    let patches = count.saturating_sub(prefix_tokens);
    let side = patches.isqrt();
    if patches * width == 0 || side * side != patches || positions.values.len() != count * width {
        let why = "is not a square grid; check class_token, reg_tokens and no_embed_class";
        return Err(misshapen(why));
    }
    let old = [side, side];
    if grid == old {
        return Ok(positions);
    }
    if grid.contains(&0) {
        return Err(misshapen(
            "cannot become an empty grid; check image and patch size",
        ));
    }
    let (prefix, of_patches) = positions.values.split_at(prefix_tokens * width);
    let rows = grid[0] * grid[1];
    let mut values = prefix.to_vec();
    values.reserve(rows * width);
    for weights in resample_matrix(old, grid).chunks_exact(patches) {
        let mut sum = vec![0.0f64; width];
        for (weight, row) in weights.iter().zip(of_patches.chunks_exact(width)) {
            // the kernel is narrow: most weights are 0
            if *weight != 0.0 {
                for (sum, value) in sum.iter_mut().zip(row) {
                    *sum += f64::from(*weight) * f64::from(*value);
                }
            }
        }
        values.extend(sum.iter().map(|sum| *sum as f32));
    }
    Ok(NamedTensor {
        shape: vec![1, prefix_tokens + rows, width],
        values,
    })
}
