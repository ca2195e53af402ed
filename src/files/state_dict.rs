//! A module's weights by name, and back.

use std::collections::BTreeMap;
use std::fmt;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::backend::Backend;
use burn::tensor::{Tensor, TensorData};

use crate::error::printable;
use crate::files::param_path::ParamPath;

/// Keys of timm's classifiers, which a backbone has no use for.
const CLASSIFIER_KEYS: [&str; 4] = [
    "head.weight",
    "head.bias",
    "head_dist.weight",
    "head_dist.bias",
];

/// Keys of each kind that a report names; it counts the others.
const LISTED: usize = 3;

/// One tensor on the host, in the file's layout.
#[derive(Debug, Clone, PartialEq)]
pub struct NamedTensor {
    /// Shape on file.
    pub shape: Vec<usize>,
    /// Entries in row-major order.
    pub values: Vec<f32>,
}

/// Keys that did not fit when weights were loaded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LoadReport {
    /// Keys of the model that the file lacks.
    pub missing: Vec<String>,
    /// Keys of both with different shapes, as `key: file [..], model [..]`.
    pub misshapen: Vec<String>,
    /// Keys of the file that the model does not have.
    pub unused: Vec<String>,
}

impl LoadReport {
    /// Drops a classifier's keys from the unused ones.
    pub(crate) fn ignore_classifier(&mut self) {
        self.unused
            .retain(|key| !CLASSIFIER_KEYS.contains(&key.as_str()));
    }

    /// Whether each key found its place.
    pub fn is_clean(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for LoadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [
            ("missing", &self.missing),
            ("misshapen", &self.misshapen),
            ("unused", &self.unused),
        ];
        let parts: Vec<String> = parts
            .into_iter()
            .filter(|(_, keys)| !keys.is_empty())
            .map(|(what, keys)| format!("{} {what} ({})", keys.len(), listed(keys)))
            .collect();
        f.write_str(&parts.join("; "))
    }
}

/// The first of these keys, and how many more there are: of another size of model, none fits.
fn listed(keys: &[String]) -> String {
    let first: Vec<String> = keys.iter().take(LISTED).map(printable).collect();
    let first = first.join(", ");
    match keys.len().saturating_sub(LISTED) {
        0 => first,
        more => format!("{first} and {more} more"),
    }
}

/// All float parameters by timm's name, in timm's layout.
pub fn state_dict<B: Backend, M: Module<B>>(module: &M) -> BTreeMap<String, NamedTensor> {
    struct Values;
    impl<B: Backend> Pick<B> for Values {
        fn pick<const D: usize>(&self, param: Tensor<B, D>) -> Option<TensorData> {
            Some(param.into_data())
        }
    }
    named_tensors(module, &Values)
}

/// What to take of each parameter; none to leave it out.
pub(crate) trait Pick<B: Backend> {
    /// Data of the parameter's shape.
    fn pick<const D: usize>(&self, param: Tensor<B, D>) -> Option<TensorData>;
}

/// What `pick` takes of each parameter, by timm's name and in timm's layout.
pub(crate) fn named_tensors<B: Backend, M: Module<B>, P: Pick<B>>(
    module: &M,
    pick: &P,
) -> BTreeMap<String, NamedTensor> {
    let mut export = Export {
        path: ParamPath::default(),
        pick,
        tensors: BTreeMap::new(),
    };
    module.visit(&mut export);
    export.tensors
}

struct Export<'a, P> {
    path: ParamPath,
    pick: &'a P,
    tensors: BTreeMap<String, NamedTensor>,
}

impl<B: Backend, P: Pick<B>> ModuleVisitor<B> for Export<'_, P> {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.enter(name, container_type);
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        let tensor = param.val();
        let shape = tensor.dims();
        let Some(data) = self.pick.pick(tensor) else {
            return;
        };
        let layout = self.path.layout();
        let tensor = NamedTensor {
            shape: layout.file_shape(&shape),
            values: layout.to_file(data.iter::<f32>().collect(), &shape),
        };
        self.tensors.insert(self.path.name(), tensor);
    }
}

/// `module` with the tensors that fit; the report names all others. Keys that fit are loaded even where others do not.
pub fn load_state_dict<B: Backend, M: Module<B>>(
    module: M,
    tensors: BTreeMap<String, NamedTensor>,
) -> (M, LoadReport) {
    let mut import = Import {
        path: ParamPath::default(),
        tensors,
        report: LoadReport::default(),
    };
    let module = module.map(&mut import);
    import.report.unused.extend(import.tensors.into_keys());
    (module, import.report)
}

struct Import {
    path: ParamPath,
    tensors: BTreeMap<String, NamedTensor>,
    report: LoadReport,
}

impl<B: Backend> ModuleMapper<B> for Import {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.enter(name, container_type);
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.exit();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
        let name = self.path.name();
        let Some(found) = self.tensors.remove(&name) else {
            self.report.missing.push(name);
            return param;
        };
        let shape: [usize; D] = param.val().dims();
        let layout = self.path.layout();
        let expected = layout.file_shape(&shape);
        if found.shape != expected {
            let entry = format!("{name}: file {:?}, model {expected:?}", found.shape);
            self.report.misshapen.push(entry);
            return param;
        }
        let (id, old, mapper) = param.consume();
        let data = TensorData::new(layout.to_memory(found.values, &shape), shape);
        let tensor = Tensor::from_data(data, &old.device()).set_require_grad(old.is_require_grad());
        Param::from_mapped_value(id, tensor, mapper)
    }
}
