//! Takes modules out of their place for a while. burn moves modules by value, and an update that solely owns a tensor
//! works in place, without memory for a copy.

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

/// Takes a module out; one with placeholder parameters stays in its place until a module is put back.
pub(crate) fn take<B: Backend, M: Module<B>>(module: &mut M) -> M {
    let hollow = module.clone().map(&mut Hollow::<B>(None));
    std::mem::replace(module, hollow)
}

/// Puts a placeholder in the place of each parameter. They share one tensor, because each would be an allocation on the
/// device.
struct Hollow<B: Backend>(Option<Tensor<B, 1>>);

impl<B: Backend> ModuleMapper<B> for Hollow<B> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
        let (id, tensor, mapper) = param.consume();
        let shared = self
            .0
            .get_or_insert_with(|| Tensor::empty([1], &tensor.device()));
        Param::from_mapped_value(id, shared.clone().reshape([1; D]), mapper)
    }
}

#[cfg(test)]
mod tests {
    use burn::nn::LinearConfig;
    use burn_flex::Flex;

    use super::*;

    #[test]
    fn what_is_taken_has_one_owner() {
        let mut layer = LinearConfig::new(2, 3).init::<Flex>(&Default::default());
        let before = layer.weight.val().into_data();
        let taken = take(&mut layer);
        assert_eq!(layer.weight.dims(), [1, 1]);
        let (_, weight, _) = taken.weight.consume();
        assert_eq!(weight.clone().into_data(), before);
        assert!(weight.into_primitive().tensor().is_unique());
    }
}
