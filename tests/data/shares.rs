//! Batches that ranks share.

use std::sync::Arc;

use ibot::data::{LoaderConfig, Position};

use super::MadeImages;
use crate::loading::{config, loader, per_sample, take};

#[test]
fn ranks_share_each_batch() {
    let of_rank = |rank, ranks| {
        let config = LoaderConfig {
            rank,
            ranks,
            ..config(8, 2)
        };
        let source = Arc::new(MadeImages::new(20));
        take(&mut loader(source, &config, Position::default()), 5)
    };
    let whole = of_rank(0, 1);
    for ranks in [2, 3, 8] {
        let shares: Vec<_> = (0..ranks).map(|rank| of_rank(rank, ranks)).collect();
        let all = shares.concat();
        assert!(per_sample(&all) == per_sample(&whole), "{ranks} ranks");
        for (at, batch) in whole.iter().enumerate() {
            // in order, and equal but for one image
            let of_batch = shares.iter().map(|share| &share[at]);
            let samples: Vec<Vec<usize>> = of_batch.clone().map(|b| b.samples.clone()).collect();
            assert_eq!(samples.concat(), batch.samples);
            let few = 8 / ranks;
            assert!(
                samples
                    .iter()
                    .all(|share| [few, few + 1].contains(&share.len()))
            );
            assert!(
                of_batch
                    .clone()
                    .all(|b| (b.epoch, b.index) == (batch.epoch, batch.index))
            );
        }
    }
    let refused = |rank, ranks| {
        let config = LoaderConfig {
            rank,
            ranks,
            ..config(2, 1)
        };
        config.validate().unwrap_err().to_string()
    };
    assert!(refused(0, 3).contains("batch_size = 2: must be at least the number of ranks, 3"));
    assert!(refused(2, 2).contains("rank = 2"));
    assert!(refused(0, 0).contains("rank = 0"));
}
