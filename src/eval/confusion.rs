//! Which class was taken for which, pixel by pixel, and what follows from that.

/// Classes that a mask can have: 0 to 254; 255 is none.
const CLASSES: usize = 255;

/// Numbers of pixels by their true and their predicted class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Confusion {
    /// `[true, predicted]`, row by row.
    pixels: Vec<u64>,
}

impl Default for Confusion {
    /// Without a pixel.
    fn default() -> Self {
        Self {
            pixels: vec![0; CLASSES * CLASSES],
        }
    }
}

impl Confusion {
    /// Counts the pixels of two masks `[S, S]`; those of a class above 254 in either are left out.
    pub fn add(&mut self, truth: &[u8], predicted: &[u8]) {
        for (truth, predicted) in truth.iter().zip(predicted) {
            self.add_pixels(*truth, *predicted, 1);
        }
    }

    /// Counts so many pixels of one true and one predicted class.
    pub fn add_pixels(&mut self, truth: u8, predicted: u8, count: u64) {
        let [truth, predicted] = [truth, predicted].map(usize::from);
        if truth < CLASSES && predicted < CLASSES {
            self.pixels[truth * CLASSES + predicted] += count;
        }
    }

    /// All pixels.
    pub fn total(&self) -> u64 {
        self.pixels.iter().sum()
    }

    /// Pixels that are of a class, and pixels that were taken for it.
    pub fn of_class(&self, class: u8) -> [u64; 2] {
        let class = usize::from(class);
        if class >= CLASSES {
            return [0; 2];
        }
        let truth = self.pixels[class * CLASSES..][..CLASSES].iter().sum();
        let predicted = self.pixels.iter().skip(class).step_by(CLASSES).sum();
        [truth, predicted]
    }

    /// The classes that are true or predicted somewhere, ascending.
    pub fn classes(&self) -> Vec<u8> {
        let occurs = |class: &u8| self.of_class(*class) != [0; 2];
        (0..CLASSES as u8).filter(occurs).collect()
    }

    /// Intersection over union of a class, in 0..=1: pixels of it that were taken for it, over pixels that are of it, or were
    /// taken for it, or both. `None` where there are none of these.
    pub fn iou(&self, class: u8) -> Option<f64> {
        let [truth, predicted] = self.of_class(class);
        let right = self.right(class);
        let union = truth + predicted - right;
        (union > 0).then(|| right as f64 / union as f64)
    }

    /// Mean of [`Self::iou`] over the classes that have one; `None` without a pixel.
    ///
    /// Source: mmsegmentation's `mean_iou`, with which DINOv2 evaluates: the mean over the pixels of all images together, and
    /// not of one image at a time.
    pub fn mean_iou(&self) -> Option<f64> {
        let ious: Vec<f64> = self
            .classes()
            .into_iter()
            .filter_map(|class| self.iou(class))
            .collect();
        (!ious.is_empty()).then(|| ious.iter().sum::<f64>() / ious.len() as f64)
    }

    /// Share of the pixels that were taken for their own class, in 0..=1; `None` without a pixel.
    pub fn accuracy(&self) -> Option<f64> {
        let right: u64 = (0..CLASSES as u8).map(|class| self.right(class)).sum();
        let total = self.total();
        (total > 0).then(|| right as f64 / total as f64)
    }

    /// The same pixels, all of them taken for the most frequent true class: what is reached without a look at an image.
    #[must_use]
    pub fn constant(&self) -> Self {
        let mut constant = Self::default();
        let classes = self.classes();
        let most = classes.iter().max_by_key(|class| self.of_class(**class)[0]);
        for class in &classes {
            constant.add_pixels(*class, *most.unwrap_or(class), self.of_class(*class)[0]);
        }
        constant
    }

    /// Pixels of a class that were taken for it.
    fn right(&self, class: u8) -> u64 {
        match usize::from(class) {
            class if class < CLASSES => self.pixels[class * CLASSES + class],
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_those_counted_by_hand() {
        // class 0: 3 right of 4 true and 4 predicted: 3 / 5; class 1: 1 of 2 and 3: 1 / 4; class 7: 0 of 1 and none
        let truth = [0, 0, 0, 0, 1, 1, 7, 255, 255];
        let predicted = [0, 0, 0, 1, 1, 0, 1, 0, 9];
        let mut confusion = Confusion::default();
        confusion.add(&truth, &predicted);
        assert_eq!(confusion.total(), 7);
        assert_eq!(confusion.classes(), [0, 1, 7]);
        let ious = [0, 1, 7, 9].map(|class| confusion.iou(class));
        assert_eq!(ious, [Some(0.6), Some(0.25), Some(0.0), None]);
        let mean = confusion.mean_iou().unwrap();
        assert!((mean - 0.85 / 3.0).abs() < 1e-15, "{mean}");
        assert_eq!(confusion.accuracy(), Some(4.0 / 7.0));
        let constant = confusion.constant();
        assert_eq!(constant.accuracy(), Some(4.0 / 7.0));
        assert_eq!(constant.mean_iou(), Some(4.0 / 7.0 / 3.0));
    }

    #[test]
    fn nothing_counted_has_no_share() {
        let mut nothing = Confusion::default();
        nothing.add(&[255, 255], &[0, 1]);
        assert_eq!((nothing.mean_iou(), nothing.accuracy()), (None, None));
        assert_eq!(
            (nothing.iou(255), nothing.constant()),
            (None, Confusion::default())
        );
    }
}
