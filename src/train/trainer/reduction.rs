//! The sums of a step over the ranks.

use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

use crate::error::Result;
use crate::kernels::IbotBackend;
use crate::method::LossTerms;
use crate::train::optim::{GradientExchange, OrderedGradients, ReducedGrads};

/// Gradients and losses of the whole batch from those of this rank's parts; with one rank they are the same.
///
/// # Errors
/// As [`OrderedGradients::all_reduce`].
pub(super) fn all_reduce<B: IbotBackend>(
    gradients: OrderedGradients<B>,
    terms: LossTerms<B>,
    early: ReducedGrads<B>,
    exchange: &GradientExchange,
) -> Result<(OrderedGradients<B>, LossTerms<B>)> {
    let ranks = &*exchange.collective;
    if ranks.size() == 1 {
        return Ok((gradients, terms));
    }
    let is_last = ranks.rank() + 1 == ranks.size();
    let has_visible = terms.visible.is_some();
    let has_koleo = terms.koleo.is_some();
    let mut scalars = vec![terms.cls, terms.patch];
    scalars.extend(terms.visible);
    // each rank has that of the whole batch, as each part: the last one counts
    let of_koleo = terms
        .koleo
        .map(|koleo| if is_last { koleo } else { koleo.zeros_like() });
    scalars.extend(of_koleo);
    let scalars = Tensor::cat(scalars, 0);
    let (gradients, sums) = gradients.all_reduce(early, scalars, exchange)?;
    let mut place = 0;
    let mut next = || scalar(&sums, &mut place);
    let terms = LossTerms {
        cls: next(),
        patch: next(),
        visible: has_visible.then(&mut next),
        koleo: has_koleo.then(next),
    };
    Ok((gradients, terms))
}

fn scalar<B: Backend>(of: &Tensor<B, 1>, place: &mut usize) -> Tensor<B, 1> {
    *place += 1;
    of.clone().narrow(0, *place - 1, 1)
}
