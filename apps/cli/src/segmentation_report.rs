//! What a segmentation by patches reached, as JSON and as text.

use std::fmt::Write as _;

use ibot::data::ALPHA_CLASSES;
use ibot::error::counted;
use ibot::eval::{Confusion, spread};
use serde::Serialize;

use super::masks_sheet::Example;

/// One classifier.
pub struct Way {
    /// `k = 20`, `last block`.
    pub classifier: String,
    /// The strength that a probe chose.
    pub chosen: Option<f64>,
}

/// What came of one pair.
pub struct Tested {
    pub ways: Vec<Way>,
    /// The classes of the training images.
    pub known: Vec<u8>,
    /// Patches that were trained on.
    pub patches: usize,
    /// Images that were tested.
    pub images: usize,
    /// Of each way.
    pub confusions: Vec<Confusion>,
    pub examples: Vec<Example>,
}

#[derive(Debug, Serialize)]
pub struct Report {
    pub model: String,
    pub data: String,
    pub val: Option<String>,
    pub masks: String,
    /// Images to train and test on.
    pub images: usize,
    /// Images that have no mask and were left out.
    pub without_mask: usize,
    /// Images that were tested, over all splits.
    pub tested: usize,
    pub splits: usize,
    pub image_size: usize,
    /// Rows and columns of patches.
    pub grid: [usize; 2],
    /// Patches that were trained on, in the first split.
    pub patches: usize,
    /// Mean IoU of a mask that is the most frequent class everywhere.
    pub constant_mean_iou: f64,
    pub rows: Vec<Row>,
    /// The contact sheet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub out: Option<String>,
    /// Name of the value that the probe chooses.
    #[serde(skip)]
    pub chosen: &'static str,
}

/// One classifier, over all splits.
#[derive(Debug, Serialize)]
pub struct Row {
    pub classifier: String,
    /// The strength that the probe chose on each split; empty for k-NN.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub chosen: Vec<f64>,
    /// Mean over the classes of intersection over union, over all pixels of the tested images together; mean over the splits.
    pub mean_iou: f64,
    /// Its standard deviation over the splits, with more than one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mean_iou_deviation: Option<f64>,
    /// Fraction of the pixels whose class is predicted.
    pub accuracy: f64,
    pub classes: Vec<ClassRow>,
}

#[derive(Debug, Serialize)]
pub struct ClassRow {
    pub class: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<&'static str>,
    /// Intersection over union; mean over the splits that have the class.
    pub iou: f64,
    /// Fraction of the tested pixels that are of it.
    pub share: f64,
    /// Whether the training images of each split have it; one that they lack is never predicted.
    pub in_training: bool,
}

impl Row {
    /// Classifier number `way`, over all splits; `is_alpha` where the classes are those of an alpha channel.
    pub fn new(tested: &[Tested], way: usize, is_alpha: bool) -> Option<Self> {
        let confusions: Vec<&Confusion> = tested.iter().map(|of| &of.confusions[way]).collect();
        let means: Vec<f64> = confusions.iter().filter_map(|of| of.mean_iou()).collect();
        let accuracies: Vec<f64> = confusions.iter().filter_map(|of| of.accuracy()).collect();
        let mean = spread(&means)?;
        let total: u64 = confusions.iter().map(|of| of.total()).sum();
        let of_class = |class: u8| {
            let ious: Vec<f64> = confusions.iter().filter_map(|of| of.iou(class)).collect();
            let pixels: u64 = confusions.iter().map(|of| of.of_class(class)[0]).sum();
            Some(ClassRow {
                class,
                name: ALPHA_CLASSES
                    .get(usize::from(class))
                    .copied()
                    .filter(|_| is_alpha),
                iou: spread(&ious)?.mean,
                share: pixels as f64 / total as f64,
                in_training: tested.iter().all(|of| of.known.contains(&class)),
            })
        };
        Some(Self {
            classifier: tested[0].ways[way].classifier.clone(),
            chosen: tested.iter().filter_map(|of| of.ways[way].chosen).collect(),
            mean_iou: mean.mean,
            mean_iou_deviation: (tested.len() > 1).then_some(mean.deviation),
            accuracy: spread(&accuracies)?.mean,
            classes: (0..255).filter_map(of_class).collect(),
        })
    }
}

impl Report {
    /// For people.
    pub fn text(&self) -> String {
        let ([rows, columns], size) = (self.grid, self.image_size);
        let how = match (&self.val, self.splits) {
            (Some(_), _) => "of another folder".to_owned(),
            (None, 1) => "held out".to_owned(),
            (None, splits) => format!("held out, over {splits} splits"),
        };
        let (tested, patches) = (counted(self.tested, "image"), self.patches);
        let mut text = format!(
            "{tested} {how}, at {size} pixels; trained on {patches} patches, {rows} x {columns} an image\n"
        );
        for row in &self.rows {
            let (iou, accuracy) = (100.0 * row.mean_iou, 100.0 * row.accuracy);
            let _ = write!(text, "{:>13}  mean IoU {iou:5.1} %", row.classifier);
            if let Some(deviation) = row.mean_iou_deviation {
                let _ = write!(text, " (deviation {:.1})", 100.0 * deviation);
            }
            let _ = write!(text, "  accuracy {accuracy:5.1} %");
            let chosen: Vec<String> = row.chosen.iter().map(ToString::to_string).collect();
            let _ = if chosen.is_empty() {
                writeln!(text)
            } else {
                writeln!(text, "  with {} {}", self.chosen, chosen.join(", "))
            };
        }
        let best = self
            .rows
            .iter()
            .max_by(|a, b| a.mean_iou.total_cmp(&b.mean_iou));
        for class in best.iter().flat_map(|row| &row.classes) {
            let name = class
                .name
                .map_or_else(String::new, |name| format!(" ({name})"));
            let (iou, share) = (100.0 * class.iou, 100.0 * class.share);
            let _ = write!(
                text,
                "  class {}{name}: IoU {iou:.1} %, {share:.1} % of the pixels",
                class.class
            );
            let _ = if class.in_training {
                writeln!(text)
            } else {
                writeln!(text, "; not in training")
            };
        }
        let constant = 100.0 * self.constant_mean_iou;
        let _ = writeln!(
            text,
            "the most frequent class everywhere: mean IoU {constant:.1} %"
        );
        text
    }
}
