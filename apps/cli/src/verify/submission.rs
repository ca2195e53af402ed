//! Work that keeps a GPU busy for more than a second without a pause: a watchdog may take the device away for that, and a
//! wait may give up.

use std::time::Instant;

use ibot::burn::tensor::Tensor;

use super::check::Check;
use super::compare::{Measured, numbers};
use super::inputs::{Inner, whole};
use ibot::error::{Error, Result};
use ibot::kernels::{IbotBackend, LinearInput, TrainBackend};

/// Products in one go. cubecl puts 32 kernels into one command buffer, so that these go as one where a product with its
/// residual is one kernel.
const PRODUCTS: usize = 24;
/// How long they must take, in seconds.
const LONG: f64 = 1.1;
/// Operands are copies of one square of this side, and so is the result: it is known for any size.
const SQUARE: usize = 64;
/// Rows, depth and columns at first, and at most: 8 192 x 8 192 are 256 MiB, and the whole 26 TFLOP.
const FIRST: [usize; 3] = [256; 3];
const MOST: usize = 8192;

pub(super) fn checks<B: TrainBackend>() -> Vec<Check<B>> {
    vec![Check {
        name: "more than a second of work at once",
        run: long::<B>,
        reference: short::<B>,
    }]
}

/// The same on a few kilobytes.
fn short<B: TrainBackend>(device: &B::Device) -> Result<Vec<Measured>> {
    let blocks = Work::<B>::new([SQUARE; 3], device).run(1)?;
    Ok(named(blocks, "64 x 64 x 64"))
}

/// Doubles the work until it takes long enough, or no larger matrix fits.
fn long<B: TrainBackend>(device: &B::Device) -> Result<Vec<Measured>> {
    let mut sides = FIRST;
    loop {
        let work = Work::<B>::new(sides, device);
        work.run(1)?; // compiles, and waits for the operands
        let start = Instant::now();
        let blocks = work.run(PRODUCTS)?;
        let seconds = start.elapsed().as_secs_f64();
        let larger = grown(sides, seconds, |rows, columns| {
            rows <= B::max_logit_rows(columns, device)
        });
        match larger {
            Some(larger) if seconds < LONG => sides = larger,
            _ => {
                let [rows, depth, columns] = sides;
                let sizes =
                    format!("{PRODUCTS} products of {rows} x {depth} x {columns}, {seconds:.2} s");
                return Ok(named(blocks, &sizes));
            }
        }
    }
}

fn named([first, last]: [Vec<f32>; 2], sizes: &str) -> Vec<Measured> {
    vec![
        Measured::new(format!("first block of {sizes}"), first, 0.0),
        Measured::new(format!("last block of {sizes}"), last, 0.0),
    ]
}

/// Sides doubled one after the other, as often as the seconds are too few, at most once each; none where all are at their
/// most.
fn grown(
    sides: [usize; 3],
    seconds: f64,
    fits: impl Fn(usize, usize) -> bool,
) -> Option<[usize; 3]> {
    let mut doublings = (LONG / seconds).log2().ceil().clamp(1.0, 3.0) as usize;
    let mut larger = sides;
    // the least first, so that a matrix stays near a square
    let mut order = [0, 1, 2];
    order.sort_by_key(|side| sides[*side]);
    for side in order {
        let mut next = larger;
        next[side] *= 2;
        let [rows, depth, columns] = next;
        let all_fit = fits(rows, depth) && fits(depth, columns) && fits(rows, columns);
        if doublings > 0 && next[side] <= MOST && all_fit {
            larger = next;
            doublings -= 1;
        }
    }
    (larger != sides).then_some(larger)
}

/// A product whose result is added to itself.
struct Work<B: TrainBackend> {
    x: Tensor<Inner<B>, 2>,
    weight: Tensor<Inner<B>, 2>,
}

impl<B: TrainBackend> Work<B> {
    fn new(sides: [usize; 3], device: &B::Device) -> Self {
        let [rows, depth, columns] = sides.map(|side| side / SQUARE);
        Self {
            x: whole::<Inner<B>, 2>(50, [SQUARE; 2], device).repeat(&[rows, depth]),
            weight: whole::<Inner<B>, 2>(51, [SQUARE; 2], device).repeat(&[depth, columns]),
        }
    }

    /// First and last block of the sum of so many products, over their number and that of the squares in the depth: two
    /// times the product of the two squares.
    fn run(&self, products: usize) -> Result<[Vec<f32>; 2]> {
        let mut sum: Option<Tensor<Inner<B>, 2>> = None;
        for _ in 0..products {
            sum = Some(Inner::<B>::linear_rows(LinearInput {
                x: self.x.clone(),
                weight: self.weight.clone(),
                bias: None,
                residual: sum,
            }));
        }
        let sum = sum.ok_or_else(|| Error::Device("no products".into()))?;
        let [rows, columns] = sum.dims();
        let times = (products * self.x.dims()[1] / SQUARE) as f32;
        let block = |row: usize, column: usize| {
            let block = sum.clone().narrow(0, row, SQUARE).narrow(1, column, SQUARE);
            numbers(block).into_iter().map(|x| x / times).collect()
        };
        Ok([block(0, 0), block(rows - SQUARE, columns - SQUARE)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_grows_as_fast_as_it_must() {
        let any = |_: usize, _: usize| true;
        assert_eq!(grown([256; 3], 1e-3, any), Some([512; 3]));
        assert_eq!(grown([256; 3], 0.6, any), Some([512, 256, 256]));
        assert_eq!(grown([512, 256, 256], 0.3, any), Some([512; 3]));
        assert_eq!(grown([8192, 8192, 4096], 1e-3, any), Some([8192; 3]));
        assert_eq!(grown([8192; 3], 0.5, any), None);
    }

    #[test]
    fn no_matrix_is_larger_than_the_device_holds() {
        let fits = |rows: usize, columns: usize| rows * columns <= 512 * 1024;
        assert_eq!(grown([512; 3], 1e-3, fits), Some([1024, 512, 512]));
        assert_eq!(grown([1024, 512, 1024], 1e-3, fits), None);
    }
}
