//! The formulas in f64 on the host.

use ibot::kernels::Pairing;

/// Sinkhorn-Knopp, `[M, K]` -> targets `[M, K]`.
pub fn sinkhorn(
    logits: &[f32],
    prototypes: usize,
    temperature: f64,
    iterations: usize,
) -> Vec<f64> {
    let rows = logits.len() / prototypes;
    let mut log_q: Vec<f64> = logits.iter().map(|x| f64::from(*x) / temperature).collect();
    for _ in 0..iterations {
        let mut max = vec![f64::NEG_INFINITY; prototypes];
        for row in log_q.chunks(prototypes) {
            max.iter_mut()
                .zip(row)
                .for_each(|(max, x)| *max = max.max(*x));
        }
        let mut sum = vec![0.0; prototypes];
        for row in log_q.chunks(prototypes) {
            for ((sum, max), x) in sum.iter_mut().zip(&max).zip(row) {
                *sum += (x - max).exp();
            }
        }
        for row in log_q.chunks_mut(prototypes) {
            for ((x, max), sum) in row.iter_mut().zip(&max).zip(&sum) {
                *x -= max + sum.ln();
            }
        }
        (0..rows).for_each(|i| log_softmax(&mut log_q[i * prototypes..(i + 1) * prototypes]));
    }
    log_q.into_iter().map(f64::exp).collect()
}

/// Softmax of `(t - center) / temperature` of each row.
pub fn centered(logits: &[f32], center: &[f32], temperature: f64) -> Vec<f64> {
    let mut q = Vec::with_capacity(logits.len());
    for row in logits.chunks(center.len()) {
        let row = row.iter().zip(center);
        let mut row: Vec<f64> = row
            .map(|(t, c)| (f64::from(*t) - f64::from(*c)) / temperature)
            .collect();
        log_softmax(&mut row);
        q.extend(row.into_iter().map(f64::exp));
    }
    q
}

fn log_softmax(row: &mut [f64]) {
    let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let log = max + row.iter().map(|x| (x - max).exp()).sum::<f64>().ln();
    row.iter_mut().for_each(|x| *x -= log);
}

/// What the cross-entropy takes, in f64.
pub struct CrossEntropy<'a> {
    pub student: &'a [f64],
    pub targets: &'a [f64],
    pub weights: &'a [f64],
    pub prototypes: usize,
    pub pairing: Pairing,
    pub temperature: f64,
}

impl CrossEntropy<'_> {
    /// Teacher rows of a student row.
    fn targets_of(&self, row: usize) -> Vec<usize> {
        let teacher_rows = self.targets.len() / self.prototypes;
        match self.pairing {
            Pairing::SameRow => vec![row],
            Pairing::OtherViews { images } => (0..teacher_rows)
                .filter(|of| of % images == row % images && of / images != row / images)
                .collect(),
        }
    }

    /// The loss, and its gradient with respect to the student logits.
    pub fn run(&self) -> (f64, Vec<f64>) {
        let width = self.prototypes;
        let mut loss = 0.0;
        let mut gradient = Vec::with_capacity(self.student.len());
        for (row, logits) in self.student.chunks(width).enumerate() {
            let mut log_probs: Vec<f64> = logits.iter().map(|x| x / self.temperature).collect();
            log_softmax(&mut log_probs);
            let mut d_row = vec![0.0; width];
            for of in self.targets_of(row) {
                let target = &self.targets[of * width..(of + 1) * width];
                for ((d, log_p), q) in d_row.iter_mut().zip(&log_probs).zip(target) {
                    loss -= self.weights[row] * q * log_p;
                    *d += self.weights[row] / self.temperature * (log_p.exp() - q);
                }
            }
            gradient.extend(d_row);
        }
        (loss, gradient)
    }
}
