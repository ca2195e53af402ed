//! Tells when a backward pass has the whole gradient of a parameter: after the last of the operations that used it.
//!
//! burn-autodiff 0.21 has a hook for this only under its feature `distributed`, which this crate's CPU backends lack. The
//! operations of this crate know when they use a parameter in the forward pass, and when they add to its gradient. Only operations of
//! this crate are counted: layers, products and the loss by tiles. What burn's own operations add to a gradient after it was
//! passed on stays in `Gradients`; the caller must add it.

use std::cell::RefCell;
use std::collections::HashMap;

use burn::tensor::backend::Backend;
use burn::tensor::ops::FloatTensor;
use burn_autodiff::checkpoint::strategy::CheckpointStrategy;
use burn_autodiff::grads::Gradients;
use burn_autodiff::{Autodiff, NodeId};

type OnComplete = Box<dyn FnMut(NodeId, &mut Gradients)>;

#[derive(Default)]
struct Watched {
    /// Of each parameter, its uses that have not added to its gradient yet.
    left: HashMap<NodeId, usize>,
    on_complete: Option<OnComplete>,
}

thread_local! {
    static WATCHED: RefCell<Option<Watched>> = const { RefCell::new(None) };
}

/// The parameters that forward passes on this thread use, from [`GradientWatch::start`] on, until it is dropped. One at a time on a thread.
pub struct GradientWatch(());

impl GradientWatch {
    /// Starts to count uses.
    pub fn start() -> Self {
        WATCHED.set(Some(Watched::default()));
        Self(())
    }

    /// How often a parameter was used.
    pub fn uses(&self, parameter: NodeId) -> usize {
        WATCHED.with_borrow(|watched| {
            let left = watched.as_ref().and_then(|of| of.left.get(&parameter));
            left.copied().unwrap_or(0)
        })
    }

    /// In the backward pass, on this thread too, `on_complete` gets the parameters whose gradients are complete.
    pub fn on_complete(&self, on_complete: impl FnMut(NodeId, &mut Gradients) + 'static) {
        WATCHED.with_borrow_mut(|watched| {
            if let Some(watched) = watched {
                watched.on_complete = Some(Box::new(on_complete));
            }
        });
    }
}

impl Drop for GradientWatch {
    fn drop(&mut self) {
        WATCHED.set(None);
    }
}

/// Counts that an operation of the forward pass uses these tensors.
pub(super) fn count_use<B: Backend, C: CheckpointStrategy>(
    tensors: &[FloatTensor<Autodiff<B, C>>],
) {
    WATCHED.with_borrow_mut(|watched| {
        let Some(watched) = watched else { return };
        let nodes = tensors.iter().map(|tensor| &tensor.node);
        // a parameter is a node that wants a gradient and comes from no other one
        for node in nodes.filter(|node| node.parents.is_empty() && !node.requirement.is_none()) {
            *watched.left.entry(node.id).or_default() += 1;
        }
    });
}

/// Counts that an operation which has used a node has added to its gradient.
pub(super) fn count_grad(node: NodeId, gradients: &mut Gradients) {
    WATCHED.with_borrow_mut(|watched| {
        let Some(watched) = watched else { return };
        let Some(left) = watched.left.get_mut(&node) else {
            return;
        };
        *left = left.saturating_sub(1);
        if let (0, Some(on_complete)) = (*left, &mut watched.on_complete) {
            on_complete(node, gradients);
        }
    });
}
