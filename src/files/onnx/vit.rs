//! timm's vision transformer as a graph; reads like `backbone::VisionTransformer`.

use std::collections::BTreeMap;
use std::f32::consts::SQRT_2;

use crate::backbone::{GlobalPool, LAYER_NORM_EPS, VitConfig};
use crate::files::onnx::graph::{Builder, Name, float, int, list};
use crate::files::onnx::message::Graph;
use crate::files::state_dict::NamedTensor;

/// The graph of a transformer, whose weights are under timm's names, and of its head where it has one; none where one of
/// them is missing.
pub fn transformer(config: &VitConfig, tensors: BTreeMap<String, NamedTensor>) -> Option<Graph> {
    Writer {
        builder: Builder::default(),
        config,
        tensors,
    }
    .run()
}

struct Writer<'a> {
    builder: Builder,
    config: &'a VitConfig,
    tensors: BTreeMap<String, NamedTensor>,
}

impl Writer<'_> {
    fn run(mut self) -> Option<Graph> {
        let images: Name = "images".into();
        let mut tokens = self.embedded(&images)?;
        for at in 0..self.config.depth {
            tokens = self.block(&tokens, &format!("blocks.{at}"))?;
        }
        let normed = match self.norm(&tokens, "norm") {
            Some(normed) => normed,
            None => tokens, // it follows the pooling
        };
        let (prefix, count) = (self.config.prefix_tokens(), self.config.patches());
        let patches = self.builder.slice(&normed, 1, [prefix, prefix + count]);
        let pooled = self.pooled(&normed, &patches);
        let features = self.norm(&pooled, "fc_norm").unwrap_or(pooled);
        let classes = self.tensors.get("head.weight").map(|head| head.shape[0]);
        let logits = self.linear(&features, "head");
        let named = [(&features, "features"), (&patches, "patches")];
        for (value, output) in logits.iter().map(|logits| (logits, "logits")).chain(named) {
            self.builder
                .add_named("Identity", &[value], Vec::new(), output);
        }
        let (side, width) = (self.config.img_size, self.config.embed_dim);
        let inputs: [(&str, &[usize]); 1] = [("images", &[3, side, side])];
        let classes = classes.map(|classes| [classes]);
        let logits = classes.iter().map(|classes| ("logits", &classes[..]));
        let others: [(&str, &[usize]); 2] = [("features", &[width]), ("patches", &[count, width])];
        let outputs: Vec<(&str, &[usize])> = logits.chain(others).collect();
        Some(self.builder.finish(&inputs, &outputs))
    }

    /// Tokens before the first block, `[B, prefix + N, D]`.
    fn embedded(&mut self, images: &Name) -> Option<Name> {
        let (count, width) = (self.config.patches(), self.config.embed_dim);
        let [weight, bias] = ["weight", "bias"].map(|leaf| format!("patch_embed.proj.{leaf}"));
        let (weight, bias) = (self.weight(&weight)?, self.weight(&bias)?);
        let sides = [self.config.patch_size as i64; 2];
        let attributes = vec![list("kernel_shape", &sides), list("strides", &sides)];
        let patches = self
            .builder
            .add("Conv", &[images, &weight, &bias], attributes);
        let flat = [0, width as i64, count as i64];
        let patches = self.builder.reshape(&patches, &flat);
        let mut patches = self.builder.transpose(&patches, &[0, 2, 1]); // [B, N, D]
        let positions = self.weight("pos_embed")?;
        if self.config.no_embed_class {
            patches = self.builder.add("Add", &[&patches, &positions], Vec::new());
        }
        let of_batch = vec![int("start", 0), int("end", 1)];
        let batch = self.builder.add("Shape", &[images], of_batch);
        let mut parts = Vec::new();
        for name in ["cls_token", "reg_token"] {
            let count = self.tensors.get(name).map(|token| token.shape[1] as i64);
            let Some(token) = self.weight(name) else {
                continue;
            };
            let sizes = self.builder.ints(&[count?, width as i64]);
            let sizes = self
                .builder
                .add("Concat", &[&batch, &sizes], vec![int("axis", 0)]);
            parts.push(self.builder.add("Expand", &[&token, &sizes], Vec::new()));
        }
        parts.push(patches);
        let parts: Vec<&Name> = parts.iter().collect();
        let tokens = self.builder.add("Concat", &parts, vec![int("axis", 1)]);
        if self.config.no_embed_class {
            return Some(tokens);
        }
        Some(self.builder.add("Add", &[&tokens, &positions], Vec::new()))
    }

    fn block(&mut self, tokens: &Name, name: &str) -> Option<Name> {
        let normed = self.norm(tokens, &format!("{name}.norm1"))?;
        let attended = self.attention(&normed, &format!("{name}.attn"))?;
        let attended = self.scaled(attended, &format!("{name}.ls1.gamma"));
        let tokens = self.builder.add("Add", &[tokens, &attended], Vec::new());
        let normed = self.norm(&tokens, &format!("{name}.norm2"))?;
        let hidden = self.linear(&normed, &format!("{name}.mlp.fc1"))?;
        let hidden = self.gelu(&hidden);
        let mapped = self.linear(&hidden, &format!("{name}.mlp.fc2"))?;
        let mapped = self.scaled(mapped, &format!("{name}.ls2.gamma"));
        Some(self.builder.add("Add", &[&tokens, &mapped], Vec::new()))
    }

    fn attention(&mut self, tokens: &Name, name: &str) -> Option<Name> {
        let (heads, width) = (self.config.num_heads, self.config.embed_dim);
        let of_head = width / heads;
        let packed = self.linear(tokens, &format!("{name}.qkv"))?;
        let packed = self
            .builder
            .reshape(&packed, &[0, 0, 3, heads as i64, of_head as i64]);
        let packed = self.builder.transpose(&packed, &[2, 0, 3, 1, 4]); // [3, B, H, T, D / H]
        let [queries, keys, values] = [0, 1, 2].map(|at| self.builder.index(&packed, 0, at));
        let scale = self.builder.number(1.0 / (of_head as f32).sqrt());
        let queries = self.builder.add("Mul", &[&queries, &scale], Vec::new());
        let keys = self.builder.transpose(&keys, &[0, 1, 3, 2]);
        let scores = self.builder.add("MatMul", &[&queries, &keys], Vec::new());
        let maps = self
            .builder
            .add("Softmax", &[&scores], vec![int("axis", -1)]);
        let mixed = self.builder.add("MatMul", &[&maps, &values], Vec::new());
        let mixed = self.builder.transpose(&mixed, &[0, 2, 1, 3]);
        let mixed = self.builder.reshape(&mixed, &[0, 0, width as i64]);
        self.linear(&mixed, &format!("{name}.proj"))
    }

    fn pooled(&mut self, tokens: &Name, patches: &Name) -> Name {
        let over_tokens = || vec![list("axes", &[1]), int("keepdims", 0)];
        let builder = &mut self.builder;
        let mut mean = |value| builder.add("ReduceMean", &[value], over_tokens());
        match self.config.global_pool {
            GlobalPool::Token | GlobalPool::None if self.config.class_token => {
                self.builder.index(tokens, 1, 0)
            }
            GlobalPool::Token | GlobalPool::None => mean(tokens),
            GlobalPool::Avg => mean(patches),
            GlobalPool::Max => self.builder.add("ReduceMax", &[patches], over_tokens()),
            GlobalPool::AvgMax => {
                let mean = mean(patches);
                let max = self.builder.add("ReduceMax", &[patches], over_tokens());
                let sum = self.builder.add("Add", &[&mean, &max], Vec::new());
                let half = self.builder.number(0.5);
                self.builder.add("Mul", &[&sum, &half], Vec::new())
            }
        }
    }

    /// The layer norm of this name; none where the model has none.
    fn norm(&mut self, tokens: &Name, name: &str) -> Option<Name> {
        let weight = self.weight(&format!("{name}.weight"))?;
        let bias = self.weight(&format!("{name}.bias"))?;
        let attributes = vec![int("axis", -1), float("epsilon", LAYER_NORM_EPS as f32)];
        let inputs = [tokens, &weight, &bias];
        Some(self.builder.add("LayerNormalization", &inputs, attributes))
    }

    /// The linear layer of this name, with its bias where it has one.
    fn linear(&mut self, tokens: &Name, name: &str) -> Option<Name> {
        let key = format!("{name}.weight");
        let weight = self.tensors.remove(&key)?;
        let [outputs, inputs] = weight.shape[..] else {
            return None;
        };
        let mut transposed = Vec::with_capacity(weight.values.len());
        for input in 0..inputs {
            let column = weight.values[input..].iter().step_by(inputs);
            transposed.extend(column.take(outputs));
        }
        let weight = self.builder.floats(&key, &[inputs, outputs], &transposed);
        let product = self.builder.add("MatMul", &[tokens, &weight], Vec::new());
        Some(match self.weight(&format!("{name}.bias")) {
            Some(bias) => self.builder.add("Add", &[&product, &bias], Vec::new()),
            None => product,
        })
    }

    /// `x / 2 * (1 + erf(x / sqrt(2)))`.
    fn gelu(&mut self, hidden: &Name) -> Name {
        let [root, one, half] = [SQRT_2, 1.0, 0.5].map(|value| self.builder.number(value));
        let scaled = self.builder.add("Div", &[hidden, &root], Vec::new());
        let erf = self.builder.add("Erf", &[&scaled], Vec::new());
        let share = self.builder.add("Add", &[&erf, &one], Vec::new());
        let product = self.builder.add("Mul", &[hidden, &share], Vec::new());
        self.builder.add("Mul", &[&product, &half], Vec::new())
    }

    /// A branch by its LayerScale, where there is one.
    fn scaled(&mut self, branch: Name, gamma: &str) -> Name {
        match self.weight(gamma) {
            Some(gamma) => self.builder.add("Mul", &[&branch, &gamma], Vec::new()),
            None => branch,
        }
    }

    fn weight(&mut self, name: &str) -> Option<Name> {
        let tensor = self.tensors.remove(name)?;
        Some(self.builder.floats(name, &tensor.shape, &tensor.values))
    }
}
