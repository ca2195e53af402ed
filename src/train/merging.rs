//! Settings on top of others, as TOML tables.

use toml::{Table, Value};

/// Keys with other names in the first versions, still found in their files and runs: serde knows them as aliases.
pub(super) const RENAMED: [(&str, &str); 3] = [
    ("licence", "license"),
    ("most_at_once", "micro_batch_size"),
    (
        "optimizer.patch_embed_multiplier",
        "optimizer.patch_embed_lr_mult",
    ),
];

/// Keys, and those of the same table that they take the place of. If the other one of a preset stayed, it alone would count,
/// or the pair be refused; and TOML cannot unset it.
const IN_PLACE_OF: [(&str, &str); 4] = [
    ("epochs", "steps"),
    ("encoder_name", "vit"),
    ("clip_gradient_norm", "clip_each_gradient"),
    ("clip_each_gradient", "clip_gradient_norm"),
];

/// The table with today's names, which otherwise would appear next to the old ones.
pub(super) fn with_new_names(mut table: Table) -> Table {
    for (old, new) in RENAMED {
        rename(&mut table, old, new);
    }
    table
}

/// Renames a key, whose old and new names are in the same table.
fn rename(table: &mut Table, old: &str, new: &str) {
    if let (Some((inner, old)), Some((_, new))) = (old.split_once('.'), new.split_once('.')) {
        if let Some(Value::Table(inner)) = table.get_mut(inner) {
            rename(inner, old, new);
        }
    } else if let Some(value) = table.remove(old) {
        table.insert(new.to_owned(), value);
    }
}

/// Puts the keys of `over` in place of those of `under`, table by table.
pub(super) fn merge(under: &mut Table, over: Table) {
    for (key, other) in IN_PLACE_OF {
        if over.contains_key(key) && !over.contains_key(other) {
            under.remove(other);
        }
    }
    for (key, value) in over {
        match (under.get_mut(&key), value) {
            (Some(Value::Table(under)), Value::Table(over)) => merge(under, over),
            (_, value) => {
                under.insert(key, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::train::config::RunConfig;
    use crate::train::presets::{DEMO, preset};

    #[test]
    fn names_of_the_first_version_are_read() {
        let text =
            "licence = \"CC0-1.0\"\nmost_at_once = 3\n[optimizer]\npatch_embed_multiplier = 0.2\n";
        let base = RunConfig {
            license: Some("MIT".to_owned()),
            ..RunConfig::default()
        };
        let merged = base.merged_with_toml(text).unwrap();
        assert_eq!(merged.license.as_deref(), Some("CC0-1.0"));
        assert_eq!(merged.micro_batch_size, Some(3));
        assert_eq!(merged.optimizer.patch_embed_lr_mult, 0.2);
        let written = merged.to_toml().unwrap();
        assert!(written.contains("license") && !written.contains("licence"));
        assert!(!written.contains("patch_embed_multiplier"), "{written}");
    }

    #[test]
    fn a_key_takes_the_place_of_its_rival_below() {
        let demo = preset(DEMO).unwrap();
        let over = |base: &RunConfig, text: &str| base.merged_with_toml(text).unwrap();
        let shorter = over(&demo, "epochs = 3\n");
        assert_eq!((shorter.epochs, shorter.steps), (3, None));
        let both = over(&demo, "epochs = 3\nsteps = 5\n");
        assert_eq!((both.epochs, both.steps), (3, Some(5)));
        assert_eq!(over(&shorter, "steps = 7\n").steps, Some(7));

        let named = over(&demo, "[method]\nencoder_name = \"vit_base_patch16_224\"\n");
        assert_eq!(named.method.vit, None);
        assert_eq!(named.method.backbone().unwrap().embed_dim, 768);
        let deeper = over(&demo, "[method.vit]\ndepth = 5\n").method.vit.unwrap();
        assert_eq!((deeper.depth, deeper.embed_dim), (5, 64));

        let limits = |config: &RunConfig| {
            let optimizer = &config.optimizer;
            (optimizer.clip_gradient_norm, optimizer.clip_each_gradient)
        };
        assert_eq!(limits(&demo), (Some(3.0), None));
        let each = over(&demo, "[optimizer]\nclip_each_gradient = 2.0\n");
        assert_eq!(limits(&each), (None, Some(2.0)));
        let whole = over(&each, "[optimizer]\nclip_gradient_norm = 1.0\n");
        assert_eq!(limits(&whole), (Some(1.0), None));
        // another key of the same table leaves them
        assert_eq!(
            over(
                &demo,
                "seed = 1\n[method]\nimage_size = 32\n[optimizer]\neps = 1e-6\n"
            )
            .steps,
            demo.steps
        );
        // what a run stores reads back
        for config in [demo, shorter, both, named, each] {
            let stored = config.to_toml().unwrap();
            assert_eq!(over(&RunConfig::default(), &stored), config);
        }
    }
}
