//! A graph under construction: each call adds a node, and gives the name of what it computes.

use crate::files::onnx::message::{
    Attribute, Constant, Dimension, FLOAT, Graph, INT64, Node, Shape, TensorType, Value, ValueType,
};

/// Name of the free dimension: the images of a batch.
const BATCH: &str = "batch";

/// Nodes and constants so far.
#[derive(Debug, Default)]
pub struct Builder {
    graph: Graph,
}

/// The name of a value in a graph.
pub type Name = String;

impl Builder {
    /// Adds `op` on `inputs`.
    pub fn add(&mut self, op: &str, inputs: &[&Name], attributes: Vec<Attribute>) -> Name {
        let output = format!("{}_{}", op.to_lowercase(), self.graph.node.len());
        self.add_named(op, inputs, attributes, &output);
        output
    }

    /// Adds `op` on `inputs`, whose result is called `output`.
    pub fn add_named(
        &mut self,
        op: &str,
        inputs: &[&Name],
        attributes: Vec<Attribute>,
        output: &str,
    ) {
        self.graph.node.push(Node {
            input: inputs.iter().map(ToString::to_string).collect(),
            output: vec![output.to_owned()],
            name: output.to_owned(),
            op_type: op.to_owned(),
            attribute: attributes,
        });
    }

    /// Adds a tensor of weights.
    pub fn floats(&mut self, name: &str, shape: &[usize], values: &[f32]) -> Name {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes());
        self.constant(name, shape, FLOAT, bytes.collect())
    }

    /// Adds one number.
    pub fn number(&mut self, value: f32) -> Name {
        let name = format!("number_{}", self.graph.initializer.len());
        self.floats(&name, &[], &[value])
    }

    /// Adds a list of integers: a shape, or where to cut.
    pub fn ints(&mut self, values: &[i64]) -> Name {
        let name = format!("ints_{}", self.graph.initializer.len());
        let bytes = values.iter().flat_map(|value| value.to_le_bytes());
        self.constant(&name, &[values.len()], INT64, bytes.collect())
    }

    fn constant(&mut self, name: &str, shape: &[usize], data_type: i32, raw_data: Vec<u8>) -> Name {
        self.graph.initializer.push(Constant {
            dims: dims(shape),
            data_type,
            name: name.to_owned(),
            raw_data,
        });
        name.to_owned()
    }

    /// Entries `start..end` of one axis.
    pub fn slice(&mut self, value: &Name, axis: i64, [start, end]: [usize; 2]) -> Name {
        let [start, end] = [start, end].map(|at| self.ints(&[at as i64]));
        let axis = self.ints(&[axis]);
        self.add("Slice", &[value, &start, &end, &axis], Vec::new())
    }

    /// One entry of an axis, which goes.
    pub fn index(&mut self, value: &Name, axis: i64, at: i64) -> Name {
        let name = format!("index_{}", self.graph.initializer.len());
        let at = self.constant(&name, &[], INT64, at.to_le_bytes().to_vec());
        self.add("Gather", &[value, &at], vec![int("axis", axis)])
    }

    /// The value in another shape; 0 for a dimension that stays, -1 for one that follows from the others.
    pub fn reshape(&mut self, value: &Name, shape: &[i64]) -> Name {
        let shape = self.ints(shape);
        self.add("Reshape", &[value, &shape], Vec::new())
    }

    /// The value with its axes in another order.
    pub fn transpose(&mut self, value: &Name, axes: &[i64]) -> Name {
        self.add("Transpose", &[value], vec![list("perm", axes)])
    }

    /// Names the inputs and outputs: the first dimension of each is the batch, `shape` holds the others.
    pub fn finish(mut self, inputs: &[(&str, &[usize])], outputs: &[(&str, &[usize])]) -> Graph {
        self.graph.name = "backbone".into();
        self.graph.input = inputs
            .iter()
            .map(|(name, shape)| value(name, shape))
            .collect();
        self.graph.output = outputs
            .iter()
            .map(|(name, shape)| value(name, shape))
            .collect();
        self.graph
    }
}

fn dims(shape: &[usize]) -> Vec<i64> {
    shape.iter().map(|size| *size as i64).collect()
}

fn value(name: &str, shape: &[usize]) -> Value {
    let batch = Dimension {
        value: None,
        param: Some(BATCH.into()),
    };
    let others = shape.iter().map(|size| Dimension {
        value: Some(*size as i64),
        param: None,
    });
    Value {
        name: name.to_owned(),
        of_type: Some(ValueType {
            tensor: Some(TensorType {
                elem_type: FLOAT,
                shape: Some(Shape {
                    dim: std::iter::once(batch).chain(others).collect(),
                }),
            }),
        }),
    }
}

/// An attribute that is a float.
pub fn float(name: &str, f: f32) -> Attribute {
    Attribute {
        name: name.to_owned(),
        f,
        kind: 1,
        ..Attribute::default()
    }
}

/// An attribute that is an integer.
pub fn int(name: &str, i: i64) -> Attribute {
    Attribute {
        name: name.to_owned(),
        i,
        kind: 2,
        ..Attribute::default()
    }
}

/// An attribute that is a list of integers.
pub fn list(name: &str, ints: &[i64]) -> Attribute {
    Attribute {
        name: name.to_owned(),
        ints: ints.to_vec(),
        kind: 7,
        ..Attribute::default()
    }
}
