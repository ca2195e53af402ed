//! A two-dimensional map of features: t-SNE by the crate bhtsne, started from the two main directions.

use bhtsne::{Neighbor, tSNE};
use ibot::eval::{Pca, nearest};
use ibot::{Error, Result};
use rayon::ThreadPoolBuilder;
use rayon::prelude::*;

/// Neighbors that t-SNE looks at for each row, three times its perplexity of 30.
const REACH: usize = 90;
/// Fewer rows than this are placed by their main directions alone.
const LEAST: usize = 12;
/// Accuracy of the Barnes-Hut approximation, the default of van der Maaten (JMLR 15, 2014).
const THETA: f32 = 0.5;
/// Deviation of the start, as of openTSNE: small, so that far neighbors can still pass each other.
const START: f32 = 1e-4;

/// Rows on a map.
#[derive(Debug, Clone)]
pub struct Layout {
    /// `[x, y]` of each row, each axis from 0 to 1.
    pub places: Vec<[f32; 2]>,
    /// The nearest other rows of each, by cosine similarity, the nearest first.
    pub near: Vec<Vec<(usize, f32)>>,
}

impl Layout {
    /// Of unit rows `[B, D]`, D = `width`. Equal rows get equal maps on every machine with the same arithmetic: nothing is random.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn new(rows: &[f32], width: usize) -> Result<Self> {
        let count = rows.len() / width.max(1);
        let reach = REACH.min(count.saturating_sub(1));
        let others = |at: usize| -> Vec<(usize, f32)> {
            let found = nearest(rows, width, &rows[at * width..(at + 1) * width], reach + 1);
            let others = found.into_iter().filter(|(row, _)| *row != at);
            others.take(reach).collect()
        };
        let near: Vec<_> = (0..count).into_par_iter().map(others).collect();
        let start = start(rows, width, count);
        let moved = if count >= LEAST {
            Some(embedded(&start, &near, reach)?)
        } else {
            None
        };
        let is_finite =
            |places: &Vec<[f32; 2]>| places.iter().flatten().all(|place| place.is_finite());
        let places = moved.filter(is_finite).unwrap_or(start);
        Ok(Self {
            places: unit_square(&places),
            near,
        })
    }
}

/// Coordinates along the two main directions, and a little beside them, so that no two rows start at one place.
fn start(rows: &[f32], width: usize, count: usize) -> Vec<[f32; 2]> {
    let pca = Pca::fit(rows, width, 2);
    let found = pca.as_ref().map_or(0, |pca| pca.components.len());
    let coordinates = pca.map_or_else(Vec::new, |pca| pca.project(rows));
    let deviation = |axis: usize| {
        let values = coordinates.iter().skip(axis).step_by(found.max(1));
        (values.map(|value| value * value).sum::<f64>() / count as f64).sqrt()
    };
    let scale = if found > 0 { deviation(0) } else { 1.0 };
    let place = |at: usize| {
        // the sunflower's angle spreads any number of points
        let (angle, radius) = (at as f32 * 2.399_963, (at as f32 / count as f32).sqrt());
        [0, 1].map(|axis| {
            let along = coordinates.get(at * found + axis).filter(|_| axis < found);
            let along = along.map_or(0.0, |along| (along / scale) as f32);
            let beside = [angle.cos(), angle.sin()][axis] * radius * 0.01;
            (along + beside) * START
        })
    };
    (0..count).map(place).collect()
}

/// Places by t-SNE, on one thread: bhtsne 0.7 sums in parallel, in an order that depends on which thread is free, and after a
/// thousand iterations places of two runs lie up to a hundredth of the map apart.
fn embedded(start: &[[f32; 2]], near: &[Vec<(usize, f32)>], reach: usize) -> Result<Vec<[f32; 2]>> {
    let neighbor = |&(index, similarity): &(usize, f32)| Neighbor {
        index,
        // of unit rows
        distance: (2.0 - 2.0 * similarity).max(0.0).sqrt(),
    };
    let neighbors: Vec<Vec<Neighbor<f32>>> = near
        .iter()
        .map(|near| near.iter().map(neighbor).collect())
        .collect();
    let place = || {
        let mut tsne = tSNE::<f32, [f32; 2], 2>::new(start);
        tsne.perplexity(reach as f32 / 3.0)
            .initial_embedding(start.concat())
            .barnes_hut_with_neighbors(THETA, &neighbors);
        tsne.embedding()
    };
    let one_thread = ThreadPoolBuilder::new().num_threads(1).build();
    let no_thread = |error| Error::Training(format!("no thread can be started: {error}"));
    let places = one_thread.map_err(no_thread)?.install(place);
    let places = places.chunks_exact(2).map(|place| [place[0], place[1]]);
    Ok(places.collect())
}

/// The places with each axis from 0 to 1; 0.5 where all are equal.
fn unit_square(places: &[[f32; 2]]) -> Vec<[f32; 2]> {
    let ends = [0, 1].map(|axis| {
        let values = || places.iter().map(|place| place[axis]);
        [
            values().fold(f32::INFINITY, f32::min),
            values().fold(f32::NEG_INFINITY, f32::max),
        ]
    });
    let place = |place: &[f32; 2]| {
        [0, 1].map(|axis| {
            let [low, high] = ends[axis];
            let share = (place[axis] - low) / (high - low);
            if share.is_finite() { share } else { 0.5 }
        })
    };
    places.iter().map(place).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `count` unit rows in each of three directions, with a little of their own.
    fn groups(count: usize) -> Vec<f32> {
        let row = |at: usize| {
            let mut row = [0.05 * (at as f32).sin(), 0.05 * (at as f32).cos(), 0.0, 0.0];
            row[1 + at % 3] += 1.0;
            let norm = row.iter().map(|x| x * x).sum::<f32>().sqrt();
            row.map(|x| x / norm)
        };
        (0..3 * count).flat_map(row).collect()
    }

    #[test]
    fn neighbors_lie_together() {
        let rows = groups(30);
        let layout = Layout::new(&rows, 4).unwrap();
        assert_eq!(layout.places.len(), 90);
        let distance = |a: usize, b: usize| {
            let [p, q] = [layout.places[a], layout.places[b]];
            (p[0] - q[0]).hypot(p[1] - q[1])
        };
        let pairs = || (0..90).flat_map(|a| (0..a).map(move |b| (a, b)));
        let mean = |same: bool| {
            let pairs: Vec<f32> = pairs()
                .filter(|(a, b)| (a % 3 == b % 3) == same)
                .map(|(a, b)| distance(a, b))
                .collect();
            pairs.iter().sum::<f32>() / pairs.len() as f32
        };
        assert!(
            mean(true) * 2.0 < mean(false),
            "{} {}",
            mean(true),
            mean(false)
        );
        assert!(
            (0..90).all(|at| layout.near[at][0].0 % 3 == at % 3 && layout.near[at].len() == 89)
        );
        assert_eq!(layout.places, Layout::new(&rows, 4).unwrap().places);
    }

    #[test]
    fn odd_input_has_a_place() {
        for rows in [
            &[][..],
            &[1.0, 0.0],
            &[1.0, 0.0, 0.0, 1.0],
            &[1.0, 0.0].repeat(40),
        ] {
            let layout = Layout::new(rows, 2).unwrap();
            assert_eq!(layout.places.len(), rows.len() / 2);
            assert!(
                layout
                    .places
                    .iter()
                    .flatten()
                    .all(|place| (0.0..=1.0).contains(place))
            );
        }
    }
}
