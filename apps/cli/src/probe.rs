//! `ibot probe`: how well a linear classifier of the features separates classes.

use std::cell::RefCell;
use std::collections::BTreeSet;

use ibot::eval::{
    FeatureSet, PatchProbe, PatchProbeConfig, PatchRows, ProbeConfig, last_columns, linear_probe,
};
use ibot::{Error, Result};

use super::evaluate::{EvaluationArgs, Found};
use super::features::Source;
use super::ranks::RankArgs;
use super::segment::Ways;
use super::segmentation_report::Way;

/// Flags of `ibot probe`.
#[derive(Debug, clap::Args)]
pub struct ProbeArgs {
    #[command(flatten)]
    shared: EvaluationArgs,
    /// Numbers of final blocks to concatenate; each number is one probe [default: 1, and 4 if the model has that
    /// many].
    #[arg(long, value_name = "BLOCKS", value_delimiter = ',')]
    layers: Option<Vec<usize>>,
    /// lbfgs fits logistic regression for each penalty strength, instead of sweeping learning rates;
    /// sgd sweeps learning rates, as in DINO's linear evaluation.
    #[arg(long, value_enum, default_value = "lbfgs")]
    optimizer: Optimizer,
    /// For lbfgs, inverse strengths of the L2 penalty (scikit-learn's C) to choose from, on a held-out fifth of the training
    /// images [default: 0.0001,0.001,0.01,0.1,1,10,100,1000]; for patches, by default those up to 1.
    #[arg(long, value_delimiter = ',')]
    strengths: Option<Vec<f64>>,
    /// For sgd, learning rates to choose from (batches of 256, 100 epochs) [default: 0.001,0.003,0.01,0.03,0.1].
    #[arg(long, value_delimiter = ',')]
    learning_rates: Option<Vec<f64>>,
    #[command(flatten)]
    ranks: RankArgs,
}

/// What fits the probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Optimizer {
    Lbfgs,
    Sgd,
}

impl ProbeArgs {
    pub fn run(mut self) -> Result<()> {
        self.shared.model.join(&self.ranks)?;
        self.shared.model.ranks.end(self.evaluated())
    }

    fn evaluated(&self) -> Result<()> {
        self.shared.split.check()?;
        let (config, chosen) = self.config()?;
        if self.shared.patches.is_on() {
            self.check_patches()?;
            let strengths = self.strengths.as_ref().map(|_| config.candidates);
            return self.patches(strengths, chosen);
        }
        let (mut source, layers) = self.source()?;
        let (most, knows_layers) = (source.layers(), source.knows_layers());
        let at_ends = RefCell::new(BTreeSet::new());
        let probe = |train: &FeatureSet, test: &FeatureSet, layers: usize| {
            let width = train.width / most * layers;
            let [train, test] = [train, test].map(|set| set.last_columns(width));
            let score = linear_probe(&train, &test, &config)?;
            let classifier = if knows_layers {
                of_blocks(layers)
            } else {
                "all features".to_owned()
            };
            if let Some(end) = end_of(&config.candidates, score.chosen) {
                let value = score.chosen;
                let said = format!("{classifier}: {chosen} {value} is the {end} that was tried");
                at_ends.borrow_mut().insert(said);
            }
            Some(Found {
                classifier,
                chosen: Some(score.chosen),
                top1: score.top1,
                top5: score.top5,
            })
        };
        let (model, split) = (&self.shared.model, &self.shared.split);
        split.report(model, &mut source, chosen, |train, test| {
            let probes = layers.iter().map(|layers| probe(train, test, *layers));
            probes.collect()
        })?;
        let flag = match self.optimizer {
            Optimizer::Lbfgs => "--strengths",
            Optimizer::Sgd => "--learning-rates",
        };
        for said in at_ends.into_inner() {
            model.note(&format!("{said}; {flag} tries others"));
        }
        Ok(())
    }

    /// Refuses flags that do not go with `--patches`.
    fn check_patches(&self) -> Result<()> {
        let sgd = self.optimizer == Optimizer::Sgd;
        let flags = [
            ("--optimizer sgd", sgd),
            ("--learning-rates", self.learning_rates.is_some()),
        ];
        if let Some((flag, _)) = flags.iter().find(|(_, is_given)| *is_given) {
            let remedy = "does not go with it: lbfgs fits the patches; leave it out";
            return Err(Error::config("--patches", flag, remedy));
        }
        self.shared.model.ranks.alone_for("--patches", "given")
    }

    /// Where the features come from, and the numbers of final blocks to probe.
    fn source(&self) -> Result<(Source<'_>, Vec<usize>)> {
        let mut source = Source::open(&self.shared.model, &self.shared.split.features, 1)?;
        if let Some(layers) = self.layers.as_ref().filter(|_| !source.knows_layers()) {
            let remedy = "the file of --features does not say of how many blocks its features are; leave it out, or write the file \
                          with `ibot embed` as .safetensors or .parquet";
            return Err(Error::config("--layers", in_commas(layers), remedy));
        }
        let depth = source.most_layers();
        let default = || match depth {
            1..4 => vec![1],
            _ => vec![1, 4],
        };
        let layers = self.layers.clone().unwrap_or_else(default);
        check_layers(&layers, depth)?;
        source.set_layers(layers.iter().copied().max().unwrap_or(1));
        Ok((source, layers))
    }

    /// What fits the probe, and the name of what it chooses.
    fn config(&self) -> Result<(ProbeConfig, &'static str)> {
        let of_lbfgs = ("--strengths", &self.strengths, "C");
        let of_sgd = ("--learning-rates", &self.learning_rates, "learning rate");
        let (config, own, other, remedy) = match self.optimizer {
            Optimizer::Lbfgs => {
                let remedy =
                    "is for --optimizer sgd; lbfgs, the default, chooses among --strengths";
                (ProbeConfig::lbfgs(), of_lbfgs, of_sgd, remedy)
            }
            Optimizer::Sgd => {
                let remedy = "is for --optimizer lbfgs; sgd chooses among --learning-rates";
                (ProbeConfig::sgd(), of_sgd, of_lbfgs, remedy)
            }
        };
        if let (flag, Some(given), _) = other {
            return Err(Error::config(flag, in_commas(given), remedy));
        }
        let (flag, given, chosen) = own;
        let candidates = given.clone().unwrap_or(config.candidates);
        let usable = |candidate: &f64| candidate.is_finite() && *candidate > 0.0;
        if let Some(wrong) = candidates.iter().find(|candidate| !usable(candidate)) {
            return Err(Error::config(flag, wrong, "must be above 0, such as 0.01"));
        }
        let config = ProbeConfig {
            candidates,
            ..config
        };
        Ok((config, chosen))
    }

    /// Evaluates features of patches, with a mask for each image, instead of features of images.
    fn patches(&self, strengths: Option<Vec<f64>>, chosen: &'static str) -> Result<()> {
        self.shared.patches.check(self.shared.split.data()?)?;
        let embedder = self.shared.model.load()?;
        let layers = self.layers.clone().unwrap_or_else(|| vec![1]);
        check_layers(&layers, embedder.architecture().depth)?;
        let most = layers.iter().copied().max().unwrap_or(1);
        let mut config = PatchProbeConfig::default();
        if let Some(strengths) = strengths {
            config.strengths = strengths;
        }
        let (model, split) = (&self.shared.model, &self.shared.split);
        self.shared
            .patches
            .report(model, split, &embedder, most, chosen, |train| {
                patch_ways(&train, &layers, embedder.width(), &config)
            })
    }
}

/// Whether a candidate is the smallest or the largest of several, in words.
fn end_of(candidates: &[f64], chosen: f64) -> Option<&'static str> {
    let mut others = candidates
        .iter()
        .filter(|other| **other != chosen)
        .peekable();
    others.peek()?; // of one alone, nobody chose
    let above = others.clone().filter(|other| **other > chosen).count();
    match (above, others.count() - above) {
        (0, _) => Some("largest"),
        (_, 0) => Some("smallest"),
        _ => None,
    }
}

/// A probe for each number of blocks.
fn patch_ways(
    train: &PatchRows,
    layers: &[usize],
    width: usize,
    config: &PatchProbeConfig,
) -> Option<Ways<'static>> {
    let probe = |&layers: &usize| {
        if layers * width == train.width {
            PatchProbe::fit(train, config)
        } else {
            PatchProbe::fit(&train.last_columns(layers * width), config)
        }
    };
    let probes: Vec<PatchProbe> = layers.iter().map(probe).collect::<Option<_>>()?;
    let named = layers.iter().zip(&probes);
    let way = |(layers, probe): (&usize, &PatchProbe)| Way {
        classifier: of_blocks(*layers),
        chosen: Some(probe.chosen),
    };
    let most = train.width;
    let kept: Vec<usize> = layers.iter().map(|layers| layers * width).collect();
    Some(Ways {
        ways: named.map(way).collect(),
        classes: train.classes(),
        scores: Box::new(move |patches| {
            let scores = |(probe, kept): (&PatchProbe, &usize)| {
                probe.scores(&last_columns(patches, most, *kept))
            };
            probes.iter().zip(&kept).map(scores).collect()
        }),
    })
}

/// Refuses numbers of blocks that a model of `depth` does not have.
fn check_layers(layers: &[usize], depth: usize) -> Result<()> {
    match layers.iter().find(|layers| !(1..=depth).contains(layers)) {
        None => Ok(()),
        Some(wrong) => {
            let remedy = format!(
                "must be from 1 to {depth}, the number of blocks of the model or in --features"
            );
            Err(Error::config("--layers", wrong, remedy))
        }
    }
}

/// Numbers as a flag takes them.
fn in_commas(numbers: &[impl ToString]) -> String {
    let numbers: Vec<String> = numbers.iter().map(ToString::to_string).collect();
    numbers.join(",")
}

/// What a probe of so many blocks is called.
fn of_blocks(layers: usize) -> String {
    match layers {
        1 => "last block".to_owned(),
        layers => format!("last {layers} blocks"),
    }
}

#[cfg(test)]
mod tests {
    use clap::Args as _;

    use super::*;

    #[test]
    fn the_ends_of_candidates_are_known() {
        for (candidates, chosen, expected) in [
            (&[0.1, 1.0, 10.0][..], 10.0, Some("largest")),
            (&[0.1, 1.0, 10.0], 0.1, Some("smallest")),
            (&[0.1, 1.0, 10.0], 1.0, None),
            (&[1.0, 1.0], 1.0, None),
        ] {
            assert_eq!(end_of(candidates, chosen), expected);
        }
    }

    #[test]
    fn the_help_names_the_candidates_without_a_flag() {
        let command = ProbeArgs::augment_args(clap::Command::new("probe"));
        let defaults = [
            ("strengths", ProbeConfig::lbfgs().candidates),
            ("learning_rates", ProbeConfig::sgd().candidates),
        ];
        for (flag, candidates) in defaults {
            let named = command.get_arguments().find(|arg| arg.get_id() == flag);
            let help = named.and_then(clap::Arg::get_help);
            let help = help.map(ToString::to_string).unwrap_or_default();
            let expected = format!("[default: {}]", in_commas(&candidates));
            assert!(help.contains(&expected), "{flag}: {help}");
        }
    }
}
