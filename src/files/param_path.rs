//! Where a parameter stands in a module, and what timm calls it.

/// The way from the root of a module to the parameter that is being visited.
#[derive(Debug, Clone, Default)]
pub struct ParamPath(Vec<Step>);

#[derive(Debug, Clone)]
struct Step {
    name: String,
    container: String,
}

/// How a parameter's entries are laid out on file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// As in memory.
    Same,
    /// `[inputs, outputs]` in memory, `[outputs, inputs]` on file.
    Transposed,
    /// `[3 P P, D]` in memory, `[D, 3, P, P]` on file.
    Patches,
}

impl ParamPath {
    /// For `enter_module` of burn's visitors and mappers.
    pub fn enter(&mut self, name: &str, container: &str) {
        self.0.push(Step {
            name: name.into(),
            container: container.into(),
        });
    }

    /// For `exit_module`.
    pub fn exit(&mut self) {
        self.0.pop();
    }

    /// timm's name: field names joined by dots, with a norm's `gamma` and `beta` as `weight` and `bias`.
    pub fn name(&self) -> String {
        let names: Vec<&str> = self
            .0
            .iter()
            .map(|step| match (step.name.as_str(), step.container.as_str()) {
                ("gamma", "Struct:LayerNorm") => "weight",
                ("beta", "Struct:LayerNorm") => "bias",
                (name, _) => name,
            })
            .collect();
        names.join(".")
    }

    pub(super) fn layout(&self) -> Layout {
        let [outer @ .., leaf] = self.0.as_slice() else {
            return Layout::Same;
        };
        if leaf.name != "weight" || leaf.container != "Struct:Linear" {
            return Layout::Same;
        }
        match outer.last() {
            Some(step) if step.container == "Struct:PatchEmbed" => Layout::Patches,
            _ => Layout::Transposed,
        }
    }
}

impl Layout {
    /// Shape on file of a parameter with this shape in memory.
    pub fn file_shape(self, shape: &[usize]) -> Vec<usize> {
        match (self, shape) {
            (Self::Transposed, [inputs, outputs]) => vec![*outputs, *inputs],
            (Self::Patches, [inputs, outputs]) => {
                let side = (inputs / 3).isqrt();
                vec![*outputs, 3, side, side]
            }
            _ => shape.to_vec(),
        }
    }

    /// Entries in the order of the file, from the order in memory.
    pub fn to_file(self, values: Vec<f32>, shape: &[usize]) -> Vec<f32> {
        match (self, shape) {
            (Self::Transposed | Self::Patches, [inputs, outputs]) => {
                transpose(&values, *inputs, *outputs)
            }
            _ => values,
        }
    }

    /// Entries in the order in memory, from the order of the file.
    pub fn to_memory(self, values: Vec<f32>, shape: &[usize]) -> Vec<f32> {
        match (self, shape) {
            (Self::Transposed | Self::Patches, [inputs, outputs]) => {
                transpose(&values, *outputs, *inputs)
            }
            _ => values,
        }
    }
}

fn transpose(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    let mut transposed = Vec::with_capacity(values.len());
    for column in 0..columns {
        transposed.extend((0..rows).map(|row| values[row * columns + column]));
    }
    transposed
}
