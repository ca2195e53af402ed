//! The part of Python's pickle format that torch writes, read without running anything.
//!
//! A pickle is a program for a stack machine. Here a call makes a value only where [`Global`] knows the callee; every
//! other object (argument namespaces, optimizers, NumPy scalars) becomes [`Value::Other`]. Objects lie in one list and
//! refer to each other by position, so that sharing costs nothing and a cycle does no harm.
//!
//! Source: CPython's Lib/pickletools.py for the opcodes, torch/_weights_only_unpickler.py for those that torch writes.

use std::collections::HashMap;

use crate::files::torch::objects::{object, storage, tensor};
use crate::files::torch::value::{Global, Object, Value};

/// Bound on a pickle's instructions, and so on its memory; student, teacher and AdamW of 40 blocks take 85 767.
const MAX_INSTRUCTIONS: usize = 1 << 24;

/// What a pickle holds.
#[derive(Debug)]
pub(super) struct Pickle<'a> {
    /// The pickled value.
    pub root: Value<'a>,
    /// Everything that it refers to.
    pub objects: Vec<Object<'a>>,
}

/// What a pickle holds; the error says what is wrong at which byte.
pub(super) fn parse(bytes: &[u8]) -> Result<Pickle<'_>, String> {
    let mut machine = Machine {
        bytes,
        at: 0,
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
        objects: Vec::new(),
    };
    for _ in 0..MAX_INSTRUCTIONS {
        let start = machine.at;
        let code = machine.number::<1>().unwrap_or(u64::from(b'.')) as u8;
        let ended = start == bytes.len();
        let step = match code {
            _ if ended => Err(Wrong::Short),
            b'.' => match machine.pop() {
                Ok(root) => {
                    let objects = machine.objects;
                    return Ok(Pickle { root, objects });
                }
                Err(wrong) => Err(wrong),
            },
            code => machine.step(code),
        };
        step.map_err(|wrong| match wrong {
            Wrong::Short => "it ends too early".to_string(),
            Wrong::Stack => format!("it takes a value from an empty stack at byte {start}"),
            Wrong::Code => format!("it has the unknown instruction {code:#04x} at byte {start}"),
            Wrong::Text => format!("it has a text that is not UTF-8 at byte {start}"),
        })?;
    }
    Err(format!("it has more than {MAX_INSTRUCTIONS} instructions"))
}

enum Wrong {
    Short,
    Stack,
    Code,
    Text,
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    stack: Vec<Value<'a>>,
    /// Where the groups that are being collected begin in the stack.
    marks: Vec<usize>,
    memo: HashMap<u64, Value<'a>>,
    objects: Vec<Object<'a>>,
}

impl<'a> Machine<'a> {
    fn step(&mut self, code: u8) -> Result<(), Wrong> {
        match code {
            // protocol, frame
            0x80 => self.take(1).map(drop),
            0x95 => self.take(8).map(drop),
            // the stack
            b'(' => {
                self.marks.push(self.stack.len());
                Ok(())
            }
            b'0' => self.pop().map(drop),
            b'1' => self.pop_group().map(drop),
            b'2' => self.top().map(|value| self.stack.push(value)),
            // None, False, True, float; [], set() and bytes
            b'N' | 0x88 | 0x89 | b']' | 0x8f => self.push(Value::Other),
            b'G' => self.skip(8),
            b'C' => self.number::<1>().and_then(|length| self.skip(length)),
            b'B' => self.number::<4>().and_then(|length| self.skip(length)),
            0x8e | 0x96 => self.number::<8>().and_then(|length| self.skip(length)),
            // whole numbers
            b'J' => self.int::<4>(|bytes| i64::from(i32::from_le_bytes(bytes))),
            b'K' => self.int::<1>(|bytes| i64::from(bytes[0])),
            b'M' => self.int::<2>(|bytes| i64::from(u16::from_le_bytes(bytes))),
            0x8a => self.number::<1>().and_then(|length| self.long(length)),
            0x8b => self.number::<4>().and_then(|length| self.long(length)),
            // texts
            b'X' | b'T' => self.number::<4>().and_then(|length| self.text(length)),
            b'U' | 0x8c => self.number::<1>().and_then(|length| self.text(length)),
            0x8d => self.number::<8>().and_then(|length| self.text(length)),
            b')' => self.tuple(Vec::new()),
            b't' => self.pop_group().and_then(|group| self.tuple(group)),
            0x85..=0x87 => self
                .pop_last(usize::from(code - 0x84))
                .and_then(|group| self.tuple(group)),
            b'}' => self.make(Object::Dict(Vec::new())),
            // what a list or set gets; a frozen set
            b'a' => self.pop().map(drop),
            b'e' | 0x90 => self.pop_group().map(drop),
            0x91 => self.pop_group().and_then(|_| self.push(Value::Other)),
            b's' => self.pop_last(2).and_then(|group| self.set_items(&group)),
            b'u' => self.pop_group().and_then(|group| self.set_items(&group)),
            b'c' => self.global_of_lines(),
            0x93 => self.pop_last(2).and_then(|names| self.global(&names)),
            b'R' | 0x81 => self.pop_last(2).and_then(|call| self.call(&call)),
            0x92 => self.pop_last(3).and_then(|_| self.push(Value::Other)),
            // attributes of an object
            b'b' => self.pop().map(drop),
            b'Q' => self.persistent(),
            b'q' => self.number::<1>().and_then(|at| self.remember(at)),
            b'r' => self.number::<4>().and_then(|at| self.remember(at)),
            0x94 => self.remember(self.memo.len() as u64),
            b'h' => self.number::<1>().and_then(|at| self.recall(at)),
            b'j' => self.number::<4>().and_then(|at| self.recall(at)),
            _ => Err(Wrong::Code),
        }
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], Wrong> {
        let length = usize::try_from(length).map_err(|_| Wrong::Short)?;
        let rest = self.bytes.get(self.at..).ok_or(Wrong::Short)?;
        let taken = rest.get(..length).ok_or(Wrong::Short)?;
        self.at += length;
        Ok(taken)
    }

    fn array<const SIZE: usize>(&mut self) -> Result<[u8; SIZE], Wrong> {
        let bytes = self.take(SIZE as u64)?;
        bytes.try_into().map_err(|_| Wrong::Short)
    }

    /// An unsigned number of `SIZE` bytes.
    fn number<const SIZE: usize>(&mut self) -> Result<u64, Wrong> {
        let bytes = self.array::<SIZE>()?;
        Ok((bytes.iter().rev()).fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    fn push(&mut self, value: Value<'a>) -> Result<(), Wrong> {
        self.stack.push(value);
        Ok(())
    }

    fn make(&mut self, object: Object<'a>) -> Result<(), Wrong> {
        self.objects.push(object);
        self.push(Value::Object(self.objects.len() - 1))
    }

    fn tuple(&mut self, group: Vec<Value<'a>>) -> Result<(), Wrong> {
        self.make(Object::Tuple(group))
    }

    fn skip(&mut self, length: u64) -> Result<(), Wrong> {
        self.take(length)?;
        self.push(Value::Other)
    }

    fn int<const SIZE: usize>(&mut self, read: fn([u8; SIZE]) -> i64) -> Result<(), Wrong> {
        let bytes = self.array()?;
        self.push(Value::Int(read(bytes)))
    }

    /// A number in two's complement; one of more than eight bytes is no size and no offset.
    fn long(&mut self, length: u64) -> Result<(), Wrong> {
        let bytes = self.take(length)?;
        let sign = bytes
            .last()
            .map_or(0, |last| (*last as i8).signum().min(0) as u8);
        let mut number = [sign; 8];
        self.push(match number.get_mut(..bytes.len()) {
            Some(low) => {
                low.copy_from_slice(bytes);
                Value::Int(i64::from_le_bytes(number))
            }
            None => Value::Other,
        })
    }

    fn text(&mut self, length: u64) -> Result<(), Wrong> {
        let bytes = self.take(length)?;
        // a lone surrogate, which Python allows, is in no parameter's name
        let text = std::str::from_utf8(bytes);
        self.push(text.map_or(Value::Other, Value::Text))
    }

    fn pop_last(&mut self, count: usize) -> Result<Vec<Value<'a>>, Wrong> {
        let group = self.marks.last().copied().unwrap_or(0);
        match self.stack.len().checked_sub(count) {
            Some(start) if start >= group => Ok(self.stack.split_off(start)),
            _ => Err(Wrong::Stack),
        }
    }

    fn pop(&mut self) -> Result<Value<'a>, Wrong> {
        let value = self.top()?;
        self.stack.pop();
        Ok(value)
    }

    fn top(&self) -> Result<Value<'a>, Wrong> {
        let group = self.marks.last().copied().unwrap_or(0);
        let values = self.stack.get(group..).unwrap_or_default();
        values.last().copied().ok_or(Wrong::Stack)
    }

    fn pop_group(&mut self) -> Result<Vec<Value<'a>>, Wrong> {
        let start = self.marks.pop().ok_or(Wrong::Stack)?;
        // never shorter: what lies below a mark cannot be popped
        Ok(self.stack.split_off(start.min(self.stack.len())))
    }

    fn set_items(&mut self, items: &[Value<'a>]) -> Result<(), Wrong> {
        let (pairs, []) = items.as_chunks::<2>() else {
            return Err(Wrong::Stack);
        };
        if let Value::Object(at) = self.top()?
            && let Some(Object::Dict(entries)) = self.objects.get_mut(at)
        {
            entries.extend(pairs);
        }
        Ok(())
    }

    fn global_of_lines(&mut self) -> Result<(), Wrong> {
        let names = [self.line()?, self.line()?].map(Value::Text);
        self.global(&names)
    }

    fn line(&mut self) -> Result<&'a str, Wrong> {
        let rest = self.bytes.get(self.at..).ok_or(Wrong::Short)?;
        let length = rest
            .iter()
            .position(|byte| *byte == b'\n')
            .ok_or(Wrong::Short)?;
        let line = self.take(length as u64)?;
        self.take(1)?;
        std::str::from_utf8(line).map_err(|_| Wrong::Text)
    }

    fn global(&mut self, names: &[Value<'a>]) -> Result<(), Wrong> {
        let known = match names {
            [Value::Text(module), Value::Text(name)] => Global::find(module, name),
            _ => None,
        };
        self.push(known.map_or(Value::Other, Value::Global))
    }

    fn args(&self, value: Value<'a>) -> &[Value<'a>] {
        match object(value, &self.objects) {
            Some(Object::Tuple(args)) => args,
            _ => &[],
        }
    }

    fn call(&mut self, call: &[Value<'a>]) -> Result<(), Wrong> {
        let [mut callee, mut args] = *call else {
            return Err(Wrong::Stack);
        };
        if callee == Value::Global(Global::RebuildFromType)
            && let [inner, _, inner_args, ..] = *self.args(args)
        {
            (callee, args) = (inner, inner_args);
        }
        let Value::Global(known) = callee else {
            return self.push(Value::Other);
        };
        let args = self.args(args);
        match known {
            Global::Dict => self.make(Object::Dict(Vec::new())),
            Global::RebuildTensor => match tensor(args, &self.objects) {
                Some(tensor) => self.make(tensor),
                None => self.push(Value::Other),
            },
            // the tensor's or tuple's own value
            Global::RebuildParameter | Global::Size => {
                let inner = args.first().copied();
                self.push(inner.unwrap_or(Value::Other))
            }
            Global::RebuildFromType | Global::Storage(_) => self.push(Value::Other),
        }
    }

    fn persistent(&mut self) -> Result<(), Wrong> {
        let id = self.pop()?;
        match storage(self.args(id)) {
            Some(storage) => self.make(storage),
            None => self.push(Value::Other),
        }
    }

    fn remember(&mut self, at: u64) -> Result<(), Wrong> {
        let value = self.top()?;
        self.memo.insert(at, value);
        Ok(())
    }

    fn recall(&mut self, at: u64) -> Result<(), Wrong> {
        let value = self.memo.get(&at).copied().ok_or(Wrong::Stack)?;
        self.push(value)
    }
}
