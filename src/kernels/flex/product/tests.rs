//! Products against f64, in all layouts.

mod in_bf16;

use super::*;

#[test]
fn products_within_larger_buffers() {
    // [[1, 2], [3, 4]] in the middle of a buffer, times its own transpose
    let buffer = [0.0, 1.0, 2.0, 9.0, 3.0, 4.0, 9.0];
    let matrix = Matrix {
        start: 1,
        row_step: 3,
        column_step: 1,
    };
    let product = Product {
        rows: 2,
        inner: 2,
        columns: 2,
        left: (&buffer, matrix),
        right: (&buffer, matrix.transposed()),
        factor: 0.5,
        parallel: true,
        in_bf16: false,
    };
    assert_eq!(product.collect(), [2.5, 5.5, 5.5, 12.5]);
    let mut target = [1.0; 6];
    let place = Matrix {
        start: 1,
        row_step: 3,
        column_step: 1,
    };
    product.add(&mut target, place);
    assert_eq!(target, [1.0, 3.5, 6.5, 1.0, 6.5, 13.5]);
    product.write(&mut target, place);
    assert_eq!(target, [1.0, 2.5, 5.5, 1.0, 5.5, 12.5]);
}

/// Whole numbers, whose sums are exact in any order.
fn numbers(count: usize, modulus: usize) -> Vec<f32> {
    let number = |at: usize| (at * 7 % modulus) as f32 - 3.0;
    (0..count).map(number).collect()
}

/// Shapes that are cut into pieces with rests, and few rows by a transposed matrix, in each layout.
#[test]
fn products_in_pieces() {
    for [rows, inner, columns] in [
        [300, 70, 600],
        [1000, 30, 300],
        [8, 3000, 400],
        [65, 600, 270],
    ] {
        let (a, b) = (numbers(rows * inner, 11), numbers(inner * columns, 13));
        for (left_transposed, right_transposed) in [(false, false), (true, false), (false, true)] {
            let place = |width, height, transposed| {
                if transposed {
                    Matrix::rows(height).transposed()
                } else {
                    Matrix::rows(width)
                }
            };
            let (left, right) = (
                place(inner, rows, left_transposed),
                place(columns, inner, right_transposed),
            );
            let product = Product {
                rows,
                inner,
                columns,
                left: (&a, left),
                right: (&b, right),
                factor: 1.0,
                parallel: true,
                in_bf16: false,
            };
            assert!(product.is_shared());
            let serial = Product {
                parallel: false,
                ..product
            };
            assert_eq!(product.collect(), serial.collect());
            let mut sum = numbers(rows * columns, 5);
            let expected: Vec<f32> = std::iter::zip(&sum, serial.collect())
                .map(|(x, y)| x + y)
                .collect();
            product.add(&mut sum, Matrix::rows(columns));
            assert_eq!(sum, expected);
        }
    }
}

#[test]
#[should_panic(expected = "leaves its target")]
fn a_target_that_is_too_small() {
    let ones = [1.0; 4];
    let product = Product {
        rows: 2,
        inner: 2,
        columns: 2,
        left: (&ones, Matrix::rows(2)),
        right: (&ones, Matrix::rows(2)),
        factor: 1.0,
        parallel: false,
        in_bf16: false,
    };
    product.write(&mut [0.0; 3], Matrix::rows(2));
}
