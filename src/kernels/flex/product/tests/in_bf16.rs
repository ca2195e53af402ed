//! Products of operands in bf16 against f64, by each path.

use half::bf16;

use super::super::*;

/// Numbers between -1 and 1 that have more digits than bf16.
fn draws(count: usize) -> Vec<f32> {
    let number = |at: usize| (at * 7919 % 10_007) as f32 / 5_003.5 - 1.0;
    (0..count).map(number).collect()
}

/// A product of bf16 operands that lie transposed or not, and in larger buffers.
struct Case {
    sizes: [usize; 3],
    is_transposed: [bool; 2],
    operands: [Vec<f32>; 2],
}

impl Case {
    /// Entries before each matrix, and after each of its lines.
    const GAP: usize = 5;

    fn new(sizes: [usize; 3], is_transposed: [bool; 2]) -> Self {
        let [rows, inner, columns] = sizes;
        let buffer = |rows, columns, is_transposed| {
            let (lines, width) = if is_transposed {
                (columns, rows)
            } else {
                (rows, columns)
            };
            draws(Self::GAP + lines * (width + Self::GAP))
        };
        let operands = [
            buffer(rows, inner, is_transposed[0]),
            buffer(inner, columns, is_transposed[1]),
        ];
        Self {
            sizes,
            is_transposed,
            operands,
        }
    }

    fn place([rows, columns]: [usize; 2], is_transposed: bool) -> Matrix {
        let place = |width| Matrix {
            start: Self::GAP,
            ..Matrix::rows(width + Self::GAP)
        };
        if is_transposed {
            place(rows).transposed()
        } else {
            place(columns)
        }
    }

    fn product(&self) -> Product<'_> {
        let [rows, inner, columns] = self.sizes;
        let [left, right] = &self.operands;
        Product {
            rows,
            inner,
            columns,
            left: (left, Self::place([rows, inner], self.is_transposed[0])),
            right: (right, Self::place([inner, columns], self.is_transposed[1])),
            factor: 0.5,
            parallel: true,
            in_bf16: true,
        }
    }
}

/// The same with f32 products of rounded copies, whatever the processor has.
fn with_rounded(product: Product<'_>) -> Vec<f32> {
    let mut found = vec![0.0; product.rows * product.columns];
    // SAFETY: the buffer has room for the product.
    unsafe {
        product.call_with_rounded(Target {
            buffer: found.as_mut_ptr(),
            place: Matrix::rows(product.columns),
            adds: false,
        });
    }
    found
}

/// The product of the rounded operands in f64, and the sum of the sizes of its terms.
fn in_f64(product: Product<'_>) -> Vec<[f64; 2]> {
    let entry = |(buffer, place): (&[f32], Matrix), row, column| {
        f64::from(bf16::from_f32(buffer[place.at(row, column)]).to_f32())
    };
    let factor = f64::from(product.factor);
    let sums = |at: usize| {
        let (row, column) = (at / product.columns, at % product.columns);
        let terms = (0..product.inner).map(|inner| {
            factor * entry(product.left, row, inner) * entry(product.right, inner, column)
        });
        terms.fold([0.0; 2], |[sum, size], term| {
            [sum + term, size + term.abs()]
        })
    };
    (0..product.rows * product.columns).map(sums).collect()
}

/// 70 roundings of f32 by the sizes of all terms: sums of a thousand of them, by pairs, in any order.
fn assert_near(found: &[f32], expected: &[[f64; 2]], what: &str) {
    assert_eq!(found.len(), expected.len());
    for (at, (found, [sum, size])) in found.iter().zip(expected).enumerate() {
        let off = (f64::from(*found) - sum).abs();
        assert!(off <= 4e-6 * size, "{what}, entry {at}: {found} for {sum}");
    }
}

/// Sums that began elsewhere.
fn assert_same_but_rounding(found: &[f32], expected: &[f32], what: &str) {
    assert_eq!(found.len(), expected.len());
    for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
        let bar = 1e-5 * expected.abs().max(1.0);
        assert!(
            (found - expected).abs() <= bar,
            "{what}, entry {at}: {found} for {expected}"
        );
    }
}

/// Sizes around those of tiles, panels and blocks, with rests.
const SIZES: [[usize; 3]; 10] = [
    [1, 1, 1],
    [7, 2, 15],
    [9, 3, 17],
    [17, 33, 49],
    [16, 512, 384],
    [33, 513, 100],
    [200, 64, 403],
    [300, 70, 600],
    [1, 1100, 33],
    [20, 2500, 50],
];

#[test]
fn products_in_bf16() {
    for sizes in SIZES {
        for is_transposed in [[false, false], [true, false], [false, true], [true, true]] {
            let what = format!("{sizes:?} {is_transposed:?}");
            let case = Case::new(sizes, is_transposed);
            let product = case.product();
            let expected = in_f64(product);
            let found = product.collect();
            assert_near(&found, &expected, &what);
            assert_near(&with_rounded(product), &expected, &what);
            let alone = Product {
                parallel: false,
                ..product
            };
            assert_eq!(alone.collect(), found, "{what}");
            let bias = draws(sizes[2]);
            let mut with_bias = found.clone();
            for (at, found) in with_bias.iter_mut().enumerate() {
                *found += bias[at % sizes[2]];
            }
            assert_same_but_rounding(&product.collect_with(&bias), &with_bias, &what);
            // into and onto a part of a buffer, the rest of which stays
            let place = Case::place([sizes[0], sizes[2]], false);
            let mut target = draws(place.reach(sizes[0], sizes[2]) + 3);
            let before = target.clone();
            product.add(&mut target, place);
            let mut sum = before.clone();
            for (at, found) in found.iter().enumerate() {
                sum[place.at(at / sizes[2], at % sizes[2])] += found;
            }
            assert_same_but_rounding(&target, &sum, &what);
            product.write(&mut target, place);
            let mut written = before;
            for (at, found) in found.iter().enumerate() {
                written[place.at(at / sizes[2], at % sizes[2])] = *found;
            }
            assert_eq!(target, written, "{what}");
        }
    }
}

#[test]
fn products_in_bf16_have_the_same_bits_on_any_number_of_threads() {
    let on = |threads: usize, case: &Case| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
        pool.build().unwrap().install(|| case.product().collect())
    };
    for sizes in [[300, 1100, 600], [1000, 300, 70], [8, 3000, 400]] {
        for is_transposed in [[false, false], [true, false], [false, true]] {
            let case = Case::new(sizes, is_transposed);
            let one = on(1, &case);
            assert!(
                [2, 3, 16]
                    .into_iter()
                    .all(|threads| on(threads, &case) == one)
            );
        }
    }
}

#[test]
fn products_in_bf16_of_numbers_that_are_none() {
    let mut case = Case::new([20, 40, 50], [false, false]);
    let [left, right] = [case.product().left.1, case.product().right.1];
    case.operands[0][left.at(3, 7)] = f32::NAN;
    case.operands[0][left.at(5, 8)] = f32::INFINITY;
    case.operands[1][right.at(9, 11)] = f32::NEG_INFINITY;
    case.operands[1][right.at(8, 12)] = 0.0;
    let product = case.product();
    for found in [product.collect(), with_rounded(product)] {
        for (at, found) in found.iter().enumerate() {
            let (row, column) = (at / 50, at % 50);
            let is_finite = row != 3 && row != 5 && column != 11;
            assert_eq!(found.is_finite(), is_finite, "{row} {column}: {found}");
            // infinity times zero
            let is_nan = row == 3 || (row, column) == (5, 12);
            assert!(
                found.is_nan() == is_nan || (row, column) == (5, 11),
                "{row} {column}"
            );
        }
    }
}

/// `vdpbf16ps` takes what has no leading digit for zero.
#[test]
fn products_in_bf16_of_the_smallest_numbers() {
    let ([tiny, large], place) = ([[1e-39], [1e38]], Matrix::rows(1));
    let product = Product {
        rows: 1,
        inner: 1,
        columns: 1,
        left: (&tiny, place),
        right: (&large, place),
        factor: 1.0,
        parallel: false,
        in_bf16: true,
    };
    let [[exact, _]] = in_f64(product)[..] else {
        unreachable!()
    };
    assert!((f64::from(with_rounded(product)[0]) / exact - 1.0).abs() < 1e-6);
    let found = f64::from(product.collect()[0]);
    assert!(
        found == 0.0 || (found / exact - 1.0).abs() < 1e-6,
        "{found}"
    );
}

#[test]
fn products_in_bf16_of_nothing() {
    let empty = Product {
        rows: 0,
        inner: 3,
        columns: 2,
        left: (&[], Matrix::rows(3)),
        right: (&[1.0; 6], Matrix::rows(2)),
        factor: 1.0,
        parallel: true,
        in_bf16: true,
    };
    assert!(empty.collect().is_empty());
    let of_nothing = Product {
        rows: 3,
        inner: 0,
        left: (&[], Matrix::rows(0)),
        right: (&[], Matrix::rows(2)),
        ..empty
    };
    assert_eq!(of_nothing.collect(), [0.0; 6]);
}

/// Neither rows nor columns of an operand, nor of the target, lie side by side: by rounded copies.
#[test]
fn products_in_bf16_of_matrices_with_holes() {
    let buffer = draws(400);
    let place = Matrix {
        start: 3,
        row_step: 31,
        column_step: 2,
    };
    let product = Product {
        rows: 9,
        inner: 11,
        columns: 10,
        left: (&buffer, place),
        right: (&buffer, place),
        factor: 1.0,
        parallel: false,
        in_bf16: true,
    };
    let expected = in_f64(product);
    assert_near(&product.collect(), &expected, "operands");
    let mut target = vec![0.0; 400];
    product.write(&mut target, place);
    let found: Vec<f32> = (0..90)
        .map(|at| target[place.at(at / 10, at % 10)])
        .collect();
    assert_near(&found, &expected, "target");
}

#[test]
fn numbers_are_rounded_as_half_does() {
    for high in 0..=u16::MAX {
        for low in [0, 1, 0x7fff, 0x8000, 0x8001, 0xffff] {
            let x = f32::from_bits(u32::from(high) << 16 | low);
            let (found, expected) = (nearest_bf16(x), bf16::from_f32(x).to_f32());
            let both_nan = found.is_nan() && expected.is_nan();
            assert!(both_nan || found.to_bits() == expected.to_bits(), "{x}");
        }
    }
}
