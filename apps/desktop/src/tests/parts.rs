//! Parts of the window alone.

use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use eframe::egui::Context;

use super::PATIENCE;
use crate::background::Newest;
use crate::curve::{Curve, POINTS};
use crate::gallery::Features;
use crate::neighbors::is_due;

/// The next result.
fn wait<Q: Send + 'static, A: Send + 'static>(work: &Newest<Q, A>) -> Result<A, &'static str> {
    let started = Instant::now();
    loop {
        if let Some(result) = work.take() {
            return result;
        }
        assert!(started.elapsed() < PATIENCE, "no result");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// As where an arrow key is held: images that are passed while one is read are not read.
#[test]
fn of_the_requests_that_wait_only_the_newest_is_done() {
    let (begin, begun) = channel();
    let (go, gate) = channel::<()>();
    let gate = Arc::new(Mutex::new(gate));
    let read = move |image: usize| {
        begin.send(image).unwrap();
        gate.lock().unwrap().recv().unwrap();
        image
    };
    let reader = Newest::start(&Context::default(), 1, 1, read);
    assert_eq!(reader.ask(0), None);
    assert_eq!(begun.recv().unwrap(), 0);
    let dropped: Vec<_> = (1..5).map(|image| reader.ask(image)).collect();
    assert_eq!(dropped, [None, Some(1), Some(2), Some(3)]);
    go.send(()).unwrap();
    assert_eq!(begun.recv().unwrap(), 4);
    go.send(()).unwrap();
    assert_eq!([wait(&reader), wait(&reader)], [Ok(0), Ok(4)]);
    assert!(begun.try_recv().is_err());
}

#[test]
fn a_thread_that_is_gone_says_so() {
    let reader = Newest::start(&Context::default(), 1, 1, |(): ()| panic!("a test"));
    reader.ask(());
    assert!(wait::<_, ()>(&reader).is_err());
}

/// More images than a block holds, in batches that do not end where blocks do.
#[test]
fn neighbors_are_found_in_all_blocks() {
    const WIDTH: usize = 3;
    let row = |at: usize| {
        let at = at as f32;
        [(at * 0.37).sin(), (at * 0.11).cos(), (at * 0.053).sin()]
    };
    let mut rows: Vec<f32> = (0..3000).flat_map(row).collect();
    let unreadable = 1500;
    rows[unreadable * WIDTH..][..WIDTH].fill(0.0);
    let mut features = Features::new(WIDTH);
    let mut first = None;
    for batch in rows.chunks(700 * WIDTH) {
        features.extend(batch.to_vec());
        first.get_or_insert_with(|| features.clone());
    }
    assert_eq!(features.len(), 3000);
    // what a search has does not change under it
    assert_eq!(first.unwrap().len(), 700);
    for index in [0, 1023, 2999] {
        let query = &rows[index * WIDTH..][..WIDTH];
        let mut expected = ibot::eval::nearest(&rows, WIDTH, query, 13);
        expected.retain(|(other, _)| *other != index);
        expected.truncate(12);
        assert_eq!(features.nearest(index, 12), expected, "image {index}");
    }
    assert_eq!(features.nearest(unreadable, 12), []);
    assert_eq!(features.nearest(3000, 12), []);
}

#[test]
fn images_that_can_not_be_read_are_like_none_and_take_no_place() {
    let mut features = Features::new(2);
    let mut rows = vec![0.0; 2 * 40];
    rows[..4].copy_from_slice(&[1.0, 0.0, -1.0, 0.0]);
    features.extend(rows);
    // the other one is the opposite, and 38 cannot be read
    assert_eq!(features.nearest(0, 12), [(1, -1.0)]);
}

#[test]
fn a_search_waits_for_half_a_second_of_embedding() {
    let [soon, later] = [100, 500].map(Duration::from_millis);
    assert!(is_due(None, true));
    assert!(!is_due(Some(soon), true));
    assert!(is_due(Some(later), true));
    assert!(is_due(Some(soon), false));
}

#[test]
fn a_long_curve_is_thinned_evenly() {
    let mut curve = Curve::default();
    for step in 1..=POINTS {
        curve.push(step as f64, 0.5);
    }
    assert_eq!(curve.points().len(), POINTS);
    for step in POINTS + 1..=300_000 {
        curve.push(step as f64, step as f64);
    }
    let steps: Vec<f64> = curve.points().iter().map(|point| point.x).collect();
    assert!(
        (POINTS / 2..=POINTS).contains(&steps.len()),
        "{}",
        steps.len()
    );
    assert_eq!(steps[0], 1.0);
    let stride = steps[1] - steps[0];
    assert!(steps.windows(2).all(|pair| pair[1] - pair[0] == stride));
    assert!(steps[steps.len() - 1] + stride > 300_000.0);
    assert_eq!(curve.last(), Some(300_000.0));
}
