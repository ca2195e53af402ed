//! Products of many small matrices, sums of columns, and rows by their places.

use std::any::Any;
use std::fmt;
use std::sync::{Arc, OnceLock};

use burn::tensor::backend::Backend;
use burn::tensor::{IndexingUpdateOp, Int, Tensor, TensorData};

/// Which operand of a product lies transposed in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// None: `[N, R, T] [N, T, C]`.
    Plain,
    /// The right one: `[N, R, T] [N, C, T]`.
    RightTransposed,
    /// The left one: `[N, T, R] [N, T, C]`.
    LeftTransposed,
}

impl Layout {
    /// Number of products, rows, terms and columns of each; panics where the operands do not fit together.
    pub(in crate::kernels) fn sizes(self, left: [usize; 3], right: [usize; 3]) -> [usize; 4] {
        let [count, rows, depth] = match self {
            Self::LeftTransposed => [left[0], left[2], left[1]],
            _ => left,
        };
        let [right_count, right_depth, columns] = match self {
            Self::RightTransposed => [right[0], right[2], right[1]],
            _ => right,
        };
        assert_eq!(
            [count, depth],
            [right_count, right_depth],
            "operands of a product"
        );
        [count, rows, depth, columns]
    }
}

/// See [`crate::kernels::IbotBackend::matrix_products`].
pub fn matrix_products<B: Backend>(
    left: Tensor<B, 3>,
    right: Tensor<B, 3>,
    layout: Layout,
) -> Tensor<B, 3> {
    match layout {
        Layout::Plain => left.matmul(right),
        Layout::RightTransposed => left.matmul(right.swap_dims(1, 2)),
        Layout::LeftTransposed => left.swap_dims(1, 2).matmul(right),
    }
}

/// See [`crate::kernels::IbotBackend::column_sums`].
pub fn column_sums<B: Backend>(x: Tensor<B, 2>) -> Tensor<B, 1> {
    let [_, columns] = x.dims();
    x.sum_dim(0).reshape([columns])
}

/// Some rows of a matrix, each at most once.
#[derive(Debug, Clone)]
pub struct RowIndices {
    indices: Vec<i32>,
    rows: usize,
    sent: Sent,
}

/// The indices, and their inverse, on the device that they were sent to first; shared by clones, so that they are sent once.
#[derive(Clone, Default)]
struct Sent(Arc<[OnceLock<Box<dyn Any + Send + Sync>>; 2]>);

impl fmt::Debug for Sent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?}",
            self.0.each_ref().map(|sent| sent.get().is_some())
        )
    }
}

impl PartialEq for RowIndices {
    fn eq(&self, other: &Self) -> bool {
        (&self.indices, self.rows) == (&other.indices, other.rows)
    }
}

impl Eq for RowIndices {}

impl RowIndices {
    /// The rows at `indices` of a matrix that has `rows`; panics where one is not there or comes twice.
    pub fn new(indices: Vec<i32>, rows: usize) -> Self {
        let mut is_taken = vec![false; rows];
        for &place in &indices {
            let is_taken = &mut is_taken[place as usize];
            assert!(!*is_taken, "row {place} comes twice");
            *is_taken = true;
        }
        Self {
            indices,
            rows,
            sent: Sent::default(),
        }
    }

    /// The indices, or their inverse, as `send` puts them on a device; where they are there already, if `fits` says so, as they
    /// were put before.
    pub(in crate::kernels) fn sent<T: Any + Clone + Send + Sync>(
        &self,
        inverse: bool,
        fits: impl Fn(&T) -> bool,
        send: impl Fn(Vec<i32>) -> T,
    ) -> T {
        let send = || {
            if inverse {
                send(self.inverse())
            } else {
                send(self.indices.clone())
            }
        };
        let sent = self.sent.0[usize::from(inverse)].get_or_init(|| Box::new(send()));
        let known = sent.downcast_ref::<T>().filter(|sent| fits(sent));
        known.cloned().unwrap_or_else(send)
    }

    /// Where the rows lie.
    pub fn indices(&self) -> &[i32] {
        &self.indices
    }

    /// Rows of the whole matrix.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number M of rows.
    pub fn len(&self) -> usize {
        self.indices.len()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.indices.is_empty()
    }

    /// For each row of the whole matrix its place among the chosen ones, -1 where it is not chosen.
    pub(in crate::kernels) fn inverse(&self) -> Vec<i32> {
        let mut inverse = vec![-1; self.rows];
        for (at, &place) in self.indices.iter().enumerate() {
            inverse[place as usize] = at as i32;
        }
        inverse
    }

    fn tensor<B: Backend>(&self, device: &B::Device) -> Tensor<B, 1, Int> {
        let count = self.indices.len();
        Tensor::from_data(TensorData::new(self.indices.clone(), [count]), device)
    }
}

/// See [`crate::kernels::IbotBackend::gather_rows`].
pub fn gather_rows<B: Backend>(x: Tensor<B, 2>, indices: &RowIndices) -> Tensor<B, 2> {
    let at = indices.tensor::<B>(&x.device());
    x.select(0, at)
}

/// See [`crate::kernels::IbotBackend::slice_rows_backward`].
pub fn slice_rows_backward<B: Backend>(
    d_y: Tensor<B, 2>,
    start: usize,
    rows: usize,
    past: Option<Tensor<B, 2>>,
) -> Tensor<B, 2> {
    let [count, width] = d_y.dims();
    let zeros = Tensor::zeros([rows, width], &d_y.device());
    let d_x = zeros.slice_assign([start..start + count, 0..width], d_y);
    match past {
        Some(past) => d_x + past,
        None => d_x,
    }
}

/// See [`crate::kernels::IbotBackend::scatter_rows`].
pub fn scatter_rows<B: Backend>(y: Tensor<B, 2>, indices: &RowIndices) -> Tensor<B, 2> {
    let [_, width] = y.dims();
    let device = y.device();
    let zeros = Tensor::zeros([indices.rows, width], &device);
    zeros.select_assign(0, indices.tensor::<B>(&device), y, IndexingUpdateOp::Add)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indices_and_their_inverse() {
        let indices = RowIndices::new(vec![3, 0], 4);
        assert_eq!(indices.inverse(), [1, -1, -1, 0]);
    }

    #[test]
    #[should_panic(expected = "comes twice")]
    fn a_row_is_chosen_once() {
        RowIndices::new(vec![1, 1], 2);
    }
}
