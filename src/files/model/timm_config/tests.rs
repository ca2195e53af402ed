use super::*;

fn described(config: Value) -> Result<Described, String> {
    let config: TimmConfig = serde_json::from_value(config).unwrap();
    config.described("config.json")
}

fn published() -> Value {
    json!({
        "architecture": "vit_small_patch16_224",
        "num_classes": 1000,
        "global_pool": "token",
        "pretrained_cfg": {
            "tag": "augreg_in21k_ft_in1k",
            "input_size": [3, 224, 224],
            "fixed_input_size": true,
            "interpolation": "bicubic",
            "crop_pct": 0.9,
            "crop_mode": "center",
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
        },
    })
}

#[test]
fn images_are_prepared_as_it_says() {
    let found = described(published()).unwrap();
    assert_eq!(found.encoder.as_deref(), Some("vit_small_patch16_224"));
    let preprocessing = found.preprocessing.unwrap();
    // floor(224 / 0.9)
    assert_eq!(preprocessing.fit, EvalFit::Shorter(248));
    assert_eq!(preprocessing.normalization(), Normalization::HALF);
    assert_eq!(found.normalization, Some(Normalization::HALF));
    let mut changed = published();
    let settings = &mut changed["pretrained_cfg"];
    settings["input_size"] = json!([3, 384, 384]);
    settings["crop_pct"] = json!(1.0);
    settings["crop_mode"] = json!("squash");
    settings["interpolation"] = json!("bilinear");
    let preprocessing = described(changed.clone()).unwrap().preprocessing.unwrap();
    assert_eq!(preprocessing.image_size, 384);
    assert_eq!(preprocessing.fit, EvalFit::Stretch);
    assert_eq!(preprocessing.interpolation, Interpolation::Bilinear);
    // an old description has no table of its own, and timm's defaults for what it does not say
    for old in [
        json!({"architecture": "vit_small_patch16_224"}),
        json!({"architecture": "vit_small_patch16_224", "pretrained_cfg": {}}),
        json!({"architecture": "vit_small_patch16_224", "input_size": [3, 224, 224]}),
    ] {
        let found = described(old).unwrap();
        let preprocessing = found.preprocessing.unwrap();
        assert_eq!(preprocessing.image_size, 224);
        assert_eq!(preprocessing.fit, EvalFit::Shorter(256));
        assert_eq!(found.normalization, Some(Normalization::IMAGENET));
    }
    let other = described(json!({"what": "something else"})).unwrap();
    assert_eq!(other, Described::default());
}

#[test]
fn arguments_change_the_shape() {
    let mut config = published();
    config["model_args"] = json!({
        "img_size": [96, 96], "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4, "reg_tokens": 3,
        "no_embed_class": true, "init_values": 1e-5, "global_pool": "avg", "drop_path_rate": 0.1, "qk_norm": false,
        "norm_layer": null, "in_chans": 3, "num_classes": 10, "fc_norm": true,
    });
    let found = described(config.clone()).unwrap();
    assert_eq!(found.encoder, None);
    let vit = found.architecture.unwrap();
    assert_eq!((vit.embed_dim, vit.depth, vit.reg_tokens), (32, 2, 3));
    assert_eq!(vit.global_pool, crate::backbone::GlobalPool::Avg);
    // timm sets the images' size to that of the arguments
    assert_eq!(found.preprocessing.unwrap().image_size, 96);
    // of a known shape the name stays
    config["model_args"] = json!({"img_size": 96, "drop_path_rate": 0.1});
    let found = described(config).unwrap();
    assert_eq!(found.encoder.as_deref(), Some("vit_small_patch16_224"));
    assert_eq!(found.preprocessing.unwrap().image_size, 96);
}

#[test]
fn the_input_has_the_size_of_the_arguments_where_it_is_fixed() {
    let side = |arguments: Value| {
        let mut config = published();
        config["model_args"] = arguments;
        described(config).unwrap().preprocessing.unwrap().image_size
    };
    assert_eq!(side(json!({"img_size": 96})), 96);
    assert_eq!(side(json!({"img_size": 96, "dynamic_img_size": true})), 224);
    assert_eq!(side(json!({"img_size": 96, "strict_img_size": false})), 224);
}

#[test]
fn what_is_not_supported_is_named() {
    let refused = |key: &str, value: Value, parts: &[&str]| {
        let mut config = published();
        match key {
            "model_args" => config[key] = value,
            _ => config["pretrained_cfg"][key] = value,
        }
        // images need not be prepared: training does so by its own settings
        let message = match described(config) {
            Ok(described) => described.refused.unwrap(),
            Err(message) => message,
        };
        for part in parts {
            assert!(message.contains(part), "{part} is not in {message}");
        }
    };
    let argument = |key: &str, value: Value| json!({ key: value });
    for (key, value) in [
        ("qk_norm", json!(true)),
        ("act_layer", json!("silu")),
        ("proj_bias", json!(false)),
        ("pos_embed", json!("none")),
        ("in_chans", json!(1)),
        ("fc_norm", json!(true)),
    ] {
        let shown = value.to_string();
        refused("model_args", argument(key, value), &[key, &shown]);
    }
    refused(
        "model_args",
        argument("global_pool", json!("map")),
        &["model_args", "map"],
    );
    refused(
        "model_args",
        argument("num_heads", json!(5)),
        &["num_heads", "384"],
    );
    refused("input_size", json!([1, 224, 224]), &["1 x 224 x 224"]);
    refused("input_size", json!([3, 224, 192]), &["3 x 224 x 192"]);
    refused(
        "model_args",
        argument("img_size", json!([224, 192])),
        &["[224,192]", "square"],
    );
    refused("interpolation", json!("lanczos"), &["lanczos", "bicubic"]);
    refused(
        "crop_mode",
        json!("border"),
        &["border", "center", "encoder"],
    );
    refused("crop_mode", json!("squash"), &["squash", "crop_pct of 1"]);
    refused("crop_pct", json!(1.2), &["crop_pct 1.2"]);
    refused("std", json!([0.0, 1.0, 1.0]), &["std"]);
}

#[test]
fn a_name_that_is_not_known_has_no_shape() {
    let mut config = published();
    config["architecture"] = json!("vit_pwee_patch16_reg1_gap_256");
    let found = described(config).unwrap();
    assert_eq!(
        found.encoder.as_deref(),
        Some("vit_pwee_patch16_reg1_gap_256")
    );
    assert_eq!(found.architecture, None);
}
