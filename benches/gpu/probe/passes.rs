//! What stands between the products of a step: passes that memory bounds, beside a copy.

use std::cell::Cell;

use ibot::burn::module::{Module, ModuleVisitor, Param};
use ibot::burn::tensor::backend::Backend;
use ibot::burn::tensor::ops::FloatTensor;
use ibot::burn::tensor::{Distribution, Shape, Tensor, TensorMetadata};
use ibot::kernels::{
    AdamWInput, AdamWState, AdamWTensor, Autodiff, CrossEntropyInput, Flex, Gpu, IbotBackend,
    LayerNormInput, Pairing, RowIndices, wgsl,
};
use ibot::method::IbotConfig;

use super::{Matrix, Opened, Result, TOKENS};

/// Entries that are copied: 88 MB, more than any cache holds.
const COPIED: usize = 22_000_000;
const WIDTH: usize = 384;
const HIDDEN: usize = 4 * WIDTH;
const PROTOTYPES: [usize; 2] = [65_536, 8_192];
const ITERATIONS: usize = 3;

impl Opened {
    /// All of them, for so many tokens.
    pub fn passes(&self, rows: usize) -> Result<()> {
        let source = Tensor::<Gpu, 1>::ones([COPIED], &self.device);
        self.pass("copy", 2 * COPIED, || drop(wgsl::copy(source.clone())))?;
        self.block(rows)?;
        let [cls, patches] = [rows / TOKENS, rows * 3 / 10];
        let other_views = Pairing::OtherViews { images: cls / 2 };
        self.loss("class tokens", [cls / 2 * 2, PROTOTYPES[0]], other_views)?;
        self.loss("patches", [patches, PROTOTYPES[1]], Pairing::SameRow)?;
        self.updates()
    }

    /// One pass that moves so many entries of 4 bytes.
    fn pass(&self, name: &str, entries: usize, work: impl Fn()) -> Result<()> {
        let milliseconds = self.time(work)?;
        let gb_s = 4e-6 * entries as f64 / milliseconds;
        self.tell(name, milliseconds, ("gb_s", gb_s), 0);
        Ok(())
    }

    fn random(&self, shape: [usize; 2]) -> Matrix {
        Tensor::random(shape, Distribution::Normal(0.0, 1.0), &self.device)
    }

    fn block(&self, rows: usize) -> Result<()> {
        let norm = LayerNormInput::<Gpu> {
            x: self.random([rows, WIDTH]),
            weight: Tensor::ones([WIDTH], &self.device),
            bias: Tensor::ones([WIDTH], &self.device),
            eps: 1e-6,
        };
        let tokens = rows * WIDTH;
        self.pass("layer norm", 2 * tokens, || {
            drop(Gpu::layer_norm_rows(norm.clone()));
        })?;
        self.pass("layer norm, gradient", 5 * tokens, || {
            drop(Gpu::layer_norm_rows_backward(norm.clone(), norm.x.clone()));
        })?;
        let chosen = (0..rows * 3 / 10).map(|row| (row * 3) as i32).collect();
        let chosen = RowIndices::new(chosen, rows);
        let some = rows * 3 / 10 * WIDTH;
        self.pass("gather rows", 2 * some, || {
            drop(Gpu::gather_rows(norm.x.clone(), &chosen));
        })?;
        let gathered = Gpu::gather_rows(norm.x.clone(), &chosen);
        self.pass("scatter rows", some + tokens, || {
            drop(Gpu::scatter_rows(gathered.clone(), &chosen));
        })?;
        let hidden = self.random([rows, HIDDEN]);
        let entries = rows * HIDDEN;
        self.pass("GELU", 2 * entries, || {
            drop(Gpu::exact_gelu(hidden.clone()));
        })?;
        self.pass("GELU, gradient", 3 * entries, || {
            drop(Gpu::exact_gelu_backward(hidden.clone(), hidden.clone()));
        })?;
        self.pass("column sums", entries, || {
            drop(Gpu::column_sums(hidden.clone()));
        })
    }

    fn loss(&self, of: &str, shape: [usize; 2], pairing: Pairing) -> Result<()> {
        let entries = shape[0] * shape[1];
        let teacher_logits = self.random(shape);
        let sinkhorn = || Gpu::sinkhorn_potentials(teacher_logits.clone(), 0.04, ITERATIONS);
        self.pass(
            &format!("Sinkhorn targets of {of}"),
            2 * ITERATIONS * entries,
            || {
                drop(sinkhorn());
            },
        )?;
        self.pass(&format!("centered targets of {of}"), entries, || {
            drop(Gpu::centered_potentials(teacher_logits.clone(), None, 0.04));
        })?;
        let input = CrossEntropyInput::<Gpu> {
            student_logits: self.random(shape),
            potentials: sinkhorn(),
            teacher_logits: teacher_logits.clone(),
            pairing,
            row_weights: Tensor::full([shape[0]], 1.0 / shape[0] as f64, &self.device),
            student_temperature: 0.1,
        };
        self.pass(&format!("loss of {of}"), 2 * entries, || {
            drop(Gpu::cross_entropy(&input));
        })?;
        let output = Gpu::cross_entropy(&input);
        let d_loss = Tensor::<Gpu, 1>::ones([1], &self.device);
        // in place over logits that nobody else holds, as in training: the gradient is the next round's logits
        let student = Cell::new(Some(self.random(shape)));
        self.pass(&format!("loss of {of}, gradient"), 3 * entries, || {
            let input = CrossEntropyInput {
                student_logits: student.take().unwrap_or_else(|| self.random(shape)),
                ..input.clone()
            };
            let gradient = Gpu::cross_entropy_backward(input, output.clone(), d_loss.clone());
            student.set(Some(gradient));
        })
    }

    /// Passes over all parameters of ViT-S/16 and its heads.
    fn updates(&self) -> Result<()> {
        let shapes = shapes()?;
        let entries: usize = shapes.iter().map(Shape::num_elements).sum();
        let fill = |value: f64| -> Vec<FloatTensor<Gpu>> {
            let filled = |shape: &Shape| {
                let flat = Tensor::<Gpu, 1>::full([shape.num_elements()], value, &self.device);
                flat.into_primitive().tensor()
            };
            shapes.iter().map(filled).collect()
        };
        let grads = fill(0.5);
        self.pass("norm of gradients", entries, || {
            drop(Gpu::sum_of_squares(grads.clone(), &self.device));
        })?;
        // tensors that nobody else holds are moved in place, and come back for the next round
        let teachers = Cell::new(fill(1.0));
        self.pass("moving average", 3 * entries, || {
            teachers.set(Gpu::ema(teachers.take(), grads.clone(), 0.996, None));
        })?;
        let fresh = |param: FloatTensor<Gpu>| {
            let state = AdamWState::zeros(param.shape(), &self.device);
            (param, state)
        };
        let moved = Cell::new(teachers.take().into_iter().map(fresh).collect::<Vec<_>>());
        self.pass("AdamW", 7 * entries, || {
            let pairs = moved.take().into_iter().zip(grads.iter().cloned());
            let with_gradient = |((param, state), grad)| AdamWTensor {
                param,
                grad,
                state,
                learning_rate: 1e-4,
                weight_decay: 0.04,
            };
            moved.set(Gpu::adamw(AdamWInput {
                tensors: pairs.map(with_gradient).collect(),
                grad_scale: None,
                betas: [0.9, 0.999],
                eps: 1e-8,
                step: 1,
            }));
        })
    }
}

/// Of everything that the teacher averages in the default recipe.
fn shapes() -> Result<Vec<Shape>> {
    struct Shapes(Vec<Shape>);
    impl<B: Backend> ModuleVisitor<B> for Shapes {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
            self.0.push(param.val().shape());
        }
    }
    let method = IbotConfig::default().init::<Autodiff<Flex>>(0, &Default::default())?;
    let mut shapes = Shapes(Vec::new());
    method.teacher.visit(&mut shapes);
    Ok(shapes.0)
}
