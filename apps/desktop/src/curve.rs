//! A curve of a run of any length.

use egui_plot::PlotPoint;

/// Maximum number of points: more than a window has pixels in its width.
pub const POINTS: usize = 2048;

/// Points over steps, each drawn in every frame.
pub struct Curve {
    points: Vec<PlotPoint>,
    /// Number of values so far.
    count: usize,
    /// Every so many values one is kept: evenly, so a spike of one step may be missing.
    stride: usize,
    last: Option<f64>,
}

impl Default for Curve {
    fn default() -> Self {
        Self {
            points: Vec::new(),
            count: 0,
            stride: 1,
            last: None,
        }
    }
}

impl Curve {
    /// Adds the value of a step.
    pub fn push(&mut self, step: f64, value: f64) {
        if self.count.is_multiple_of(self.stride) {
            self.points.push(PlotPoint::new(step, value));
        }
        self.count += 1;
        self.last = Some(value);
        if self.points.len() > POINTS {
            let mut place = 0..;
            let is_even = |place: usize| place.is_multiple_of(2);
            self.points.retain(|_| place.next().is_some_and(is_even));
            self.stride *= 2;
        }
    }

    /// What is drawn, [`POINTS`] at most.
    pub fn points(&self) -> &[PlotPoint] {
        &self.points
    }

    /// The newest value, drawn or not.
    pub fn last(&self) -> Option<f64> {
        self.last
    }
}
