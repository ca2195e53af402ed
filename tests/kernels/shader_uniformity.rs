//! Where a compiler that knows nothing of what a shader means sees that not all lanes of a workgroup may meet at a barrier.
//!
//! As strict as the strictest of them, Tint's and FXC's analyses: the same for all lanes are constants, a parameter of
//! `main` whose builtins all are (a struct as a whole), what is read from a read-only buffer at such an index, and what is
//! made of these under control flow that is. Whatever is read from a writable buffer or from workgroup memory is not.

use naga::{
    AddressSpace, Binding, Block, BuiltIn, Expression, Function, Handle, Module, Statement,
};
use wgpu::naga;

/// Why a value is not the same for all lanes, in words.
type Cause = Option<String>;

/// One finding for each barrier that some lanes may miss.
pub fn divergent_barriers(module: &Module) -> Vec<String> {
    let mut found = Vec::new();
    for entry in &module.entry_points {
        let arguments = entry.function.arguments.iter();
        let arguments = arguments
            .map(|argument| of_entry(module, argument))
            .collect();
        Analysis::new(module, &entry.function, arguments).run(None, &mut found);
    }
    found
}

/// A parameter of the entry point.
fn of_entry(module: &Module, argument: &naga::FunctionArgument) -> Cause {
    let name = argument.name.as_deref().unwrap_or("a parameter");
    let members = match &module.types[argument.ty].inner {
        naga::TypeInner::Struct { members, .. } => members.iter().map(|m| &m.binding).collect(),
        _ => vec![&argument.binding],
    };
    let is_uniform = |binding: &&Option<Binding>| {
        matches!(
            binding,
            Some(Binding::BuiltIn(
                BuiltIn::WorkGroupId | BuiltIn::NumWorkGroups
            ))
        )
    };
    (!members.iter().all(is_uniform)).then(|| format!("{name} is a lane's own"))
}

/// One function with the arguments of one call.
struct Analysis<'a> {
    module: &'a Module,
    function: &'a Function,
    arguments: Vec<Cause>,
    /// Of each local variable, each call's result and each expression, by index.
    locals: Vec<Cause>,
    results: Vec<Cause>,
    values: Vec<Cause>,
    /// What the function gives back.
    returned: Cause,
    /// Why some lanes may have left the function, or this round of the innermost loop.
    left_function: Cause,
    left_loop: Cause,
}

impl<'a> Analysis<'a> {
    fn new(module: &'a Module, function: &'a Function, arguments: Vec<Cause>) -> Self {
        Self {
            module,
            function,
            arguments,
            locals: vec![None; function.local_variables.len()],
            results: vec![None; function.expressions.len()],
            values: vec![None; function.expressions.len()],
            returned: None,
            left_function: None,
            left_loop: None,
        }
    }

    /// The cause of what the function gives back, under control flow with a cause of its own; `found` takes its barriers.
    fn run(mut self, control: Cause, found: &mut Vec<String>) -> Cause {
        // causes only spread, so that this ends: through a loop's variables in the second round or later
        loop {
            let before = (self.locals.clone(), self.results.clone());
            (self.left_function, self.left_loop) = (None, None);
            self.evaluate();
            let mut barriers = Vec::new();
            self.block(&self.function.body, control.clone(), &mut barriers);
            if (&self.locals, &self.results) == (&before.0, &before.1) {
                found.extend(barriers);
                return self.returned;
            }
        }
    }

    /// All expressions: operands come before what is made of them.
    fn evaluate(&mut self) {
        for (handle, expression) in self.function.expressions.iter() {
            self.values[handle.index()] = self.value(handle, expression);
        }
    }

    fn value(&self, handle: Handle<Expression>, expression: &Expression) -> Cause {
        let of = |handle: &Handle<Expression>| self.values[handle.index()].clone();
        match expression {
            Expression::FunctionArgument(index) => self.arguments[*index as usize].clone(),
            Expression::LocalVariable(local) => self.locals[local.index()].clone(),
            Expression::GlobalVariable(global) => self.of_memory(*global),
            Expression::CallResult(_) => self.results[handle.index()].clone(),
            Expression::Literal(_)
            | Expression::Constant(_)
            | Expression::Override(_)
            | Expression::ZeroValue(_)
            | Expression::WorkGroupUniformLoadResult { .. } => None,
            Expression::Compose { components, .. } => components.iter().find_map(of),
            Expression::Access { base, index } => of(base).or_else(|| of(index)),
            Expression::AccessIndex { base, .. } => of(base),
            Expression::Splat { value, .. } => of(value),
            Expression::Swizzle { vector, .. } => of(vector),
            Expression::Load { pointer } => of(pointer),
            Expression::Unary { expr, .. } | Expression::As { expr, .. } => of(expr),
            Expression::Binary { left, right, .. } => of(left).or_else(|| of(right)),
            Expression::Select {
                condition,
                accept,
                reject,
            } => [condition, accept, reject].into_iter().find_map(of),
            Expression::Relational { argument, .. } => of(argument),
            Expression::Math {
                arg,
                arg1,
                arg2,
                arg3,
                ..
            } => of(arg).or_else(|| [arg1, arg2, arg3].into_iter().flatten().find_map(of)),
            Expression::ArrayLength(_) => None,
            other => Some(format!(
                "{other:?} is not known to be the same for all lanes"
            )),
        }
    }

    /// What is read from a variable of the module.
    fn of_memory(&self, global: Handle<naga::GlobalVariable>) -> Cause {
        let variable = &self.module.global_variables[global];
        let name = variable.name.as_deref().unwrap_or("a variable");
        match variable.space {
            AddressSpace::Uniform => None,
            AddressSpace::Storage { access } if !access.contains(naga::StorageAccess::STORE) => {
                None
            }
            AddressSpace::Storage { .. } => Some(format!("{name} is a writable buffer")),
            _ => Some(format!("{name} is memory that lanes write")),
        }
    }

    fn block(&mut self, block: &Block, control: Cause, found: &mut Vec<String>) {
        for statement in block {
            let left = self
                .left_function
                .clone()
                .or_else(|| self.left_loop.clone());
            let control = control.clone().or(left);
            self.statement(statement, control, found);
        }
    }

    fn statement(&mut self, statement: &Statement, control: Cause, found: &mut Vec<String>) {
        let of = |this: &Self, handle: &Handle<Expression>| this.values[handle.index()].clone();
        match statement {
            Statement::Block(block) => self.block(block, control, found),
            Statement::If {
                condition,
                accept,
                reject,
            } => {
                let control = control.or_else(|| of(self, condition));
                self.block(accept, control.clone(), found);
                self.block(reject, control, found);
            }
            Statement::Switch { selector, cases } => {
                // a `break` in a case counts as one of the loop around
                let control = control.or_else(|| of(self, selector));
                for case in cases {
                    self.block(&case.body, control.clone(), found);
                }
            }
            Statement::Loop {
                body,
                continuing,
                break_if,
            } => {
                let outside = self.left_loop.take();
                // lanes that leave in one round are missed in the next
                for barriers in [&mut Vec::new(), found] {
                    self.block(body, control.clone(), barriers);
                    self.block(continuing, control.clone(), barriers);
                    if let Some(condition) = break_if {
                        let leaves = of(self, condition);
                        self.left_loop = self.left_loop.take().or(leaves);
                    }
                }
                self.left_loop = outside;
            }
            Statement::Break | Statement::Continue => {
                self.left_loop = self.left_loop.take().or(control);
            }
            Statement::Return { value } => {
                let given = value.as_ref().and_then(|value| of(self, value));
                self.returned = self.returned.take().or(given).or_else(|| control.clone());
                self.left_function = self.left_function.take().or(control);
            }
            Statement::ControlBarrier(_) | Statement::WorkGroupUniformLoad { .. } => {
                found.extend(control.map(|cause| format!("a barrier where {cause}")));
            }
            Statement::Store { pointer, value } => {
                let cause = of(self, value).or(control);
                self.store(*pointer, cause);
            }
            Statement::Call {
                function,
                arguments,
                result,
            } => {
                let arguments = arguments.iter().map(|argument| of(self, argument));
                let called = &self.module.functions[*function];
                let called = Analysis::new(self.module, called, arguments.collect());
                let cause = called.run(control, found);
                if let Some(result) = result {
                    let known = &mut self.results[result.index()];
                    *known = known.take().or(cause);
                }
            }
            _ => {}
        }
    }

    /// A store to a local variable, or to a part of it.
    fn store(&mut self, mut pointer: Handle<Expression>, mut cause: Cause) {
        loop {
            match &self.function.expressions[pointer] {
                Expression::Access { base, index } => {
                    cause = cause.or_else(|| self.values[index.index()].clone());
                    pointer = *base;
                }
                Expression::AccessIndex { base, .. } => pointer = *base,
                Expression::LocalVariable(local) => {
                    let known = &mut self.locals[local.index()];
                    *known = known.take().or(cause);
                    return;
                }
                _ => return,
            }
        }
    }
}
