//! How often a classifier is right, from its logits.

/// Guesses that [`ClassifierScore::top5`] looks at.
const FIRST_GUESSES: usize = 5;

/// Counts over some images.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ClassifierScore {
    /// Images.
    pub images: usize,
    /// Those whose class is the first guess.
    pub first: usize,
    /// Those whose class is among the first five.
    pub among_five: usize,
}

impl ClassifierScore {
    /// The score of rows of logits, `[B, K]` row-major, against their classes, `[B]`.
    pub fn from_logits<T: PartialOrd>(logits: &[T], labels: &[usize]) -> Self {
        let mut score = Self::default();
        let classes = logits.len() / labels.len().max(1);
        for (row, label) in logits.chunks_exact(classes.max(1)).zip(labels) {
            let rank = rank(row, *label);
            score.images += 1;
            score.first += usize::from(rank == 0);
            score.among_five += usize::from(rank < FIRST_GUESSES);
        }
        score
    }

    /// Of these images and others.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            images: self.images + other.images,
            first: self.first + other.first,
            among_five: self.among_five + other.among_five,
        }
    }

    /// Share of the images whose class is the first guess, 0 to 1; 0 without images.
    pub fn top1(&self) -> f64 {
        self.first as f64 / self.images.max(1) as f64
    }

    /// Share whose class is among the first five, likewise.
    pub fn top5(&self) -> f64 {
        self.among_five as f64 / self.images.max(1) as f64
    }
}

/// Number of classes that are guessed before this one; of equal logits the first one is.
fn rank<T: PartialOrd>(logits: &[T], label: usize) -> usize {
    let own = &logits[label];
    let before = |(class, logit): &(usize, &T)| *logit > own || *logit == own && *class < label;
    logits.iter().enumerate().filter(before).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_count_what_is_guessed_before() {
        let logits = [0.5, 2.0, 2.0, -1.0, 0.5, 0.4, 0.3];
        let ranks: Vec<usize> = (0..7).map(|label| rank(&logits, label)).collect();
        assert_eq!(ranks, [2, 0, 1, 6, 3, 4, 5]);
        let rows = [logits, logits, logits].concat();
        let score = ClassifierScore::from_logits(&rows, &[1, 5, 6]);
        assert_eq!((score.images, score.first, score.among_five), (3, 1, 2));
        assert_eq!(ClassifierScore::from_logits::<f32>(&[], &[]).top1(), 0.0);
    }
}
