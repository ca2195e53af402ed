//! Embeds images and prints which two are most alike:
//! `cargo run --release --example embedder -- MODEL IMAGE IMAGE...`
//!
//! The smallest program with a model in it. With one image it prints how long start, loading and embedding took.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use ibot::app::{EmbedRequest, EmbedderConfig};
use ibot::device::BackendChoice;
use ibot::{Error, Result};

/// Pairs that are printed.
const SHOWN: usize = 10;

fn main() -> ExitCode {
    let started = Instant::now();
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let (Some(model), images) = (arguments.next(), arguments.collect::<Vec<_>>()) else {
        eprintln!("usage: embedder MODEL IMAGE...");
        return ExitCode::from(2);
    };
    match run(model, images, started) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(model: PathBuf, images: Vec<PathBuf>, started: Instant) -> Result<()> {
    let backend = match std::env::var("IBOT_BACKEND") {
        Ok(name) => name.parse()?,
        Err(_) => BackendChoice::Auto,
    };
    let config = EmbedderConfig {
        device: backend.into(),
        ..EmbedderConfig::new(model)
    };
    let embedder = config.start()?;
    let model = embedder.load().wait()?;
    println!(
        "{}: {:.2} s after the start",
        model.device,
        started.elapsed().as_secs_f64()
    );
    let mut features = Vec::new();
    let made = embedder.embed(EmbedRequest::new(images.clone())).wait()?;
    println!(
        "embedded: {:.2} s after the start",
        started.elapsed().as_secs_f64()
    );
    for (image, made) in images.into_iter().zip(made) {
        match made {
            Ok(made) => features.push((image, unit(made.cls))),
            Err(error @ Error::Device(_)) => return Err(error),
            Err(error) => eprintln!("skipped {error}"),
        }
    }
    for (alike, a, b) in nearest(&features) {
        println!("{alike:.3}  {}  {}", a.display(), b.display());
    }
    Ok(())
}

fn unit(feature: Vec<f32>) -> Vec<f32> {
    let norm = feature.iter().map(|x| x * x).sum::<f32>().sqrt();
    feature
        .iter()
        .map(|x| x / norm.max(f32::MIN_POSITIVE))
        .collect()
}

/// The pairs of largest cosine.
fn nearest(features: &[(PathBuf, Vec<f32>)]) -> Vec<(f32, &PathBuf, &PathBuf)> {
    let mut pairs = Vec::new();
    for (at, (image, feature)) in features.iter().enumerate() {
        for (other, of_other) in &features[..at] {
            let cosine = feature
                .iter()
                .zip(of_other)
                .map(|(a, b)| a * b)
                .sum::<f32>();
            pairs.push((cosine, other, image));
        }
    }
    pairs.sort_by(|a, b| b.0.total_cmp(&a.0));
    pairs.truncate(SHOWN);
    pairs
}
