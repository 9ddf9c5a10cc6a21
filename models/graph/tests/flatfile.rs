//! Writes small TFLite files for tests.

/// A FlatBuffer object.
pub(super) enum Obj {
    Table(Vec<(usize, Obj)>),
    U8(u8),
    I32(i32),
    Ints(Vec<i32>),
    Longs(Vec<i64>),
    Bytes(Vec<u8>),
    List(Vec<Obj>),
}

use Obj::{Bytes, I32, Ints, List, Longs, Table, U8};

/// The bytes of a file with `root` as its root table.
pub(super) fn file(root: &Obj) -> Vec<u8> {
    let mut out = vec![0, 0, 0, 0, b'T', b'F', b'L', b'3'];
    let at = write(&mut out, root);
    out[..4].copy_from_slice(&(at as u32).to_le_bytes());
    out
}

fn word(out: &mut Vec<u8>, v: u32) {
    out.extend(v.to_le_bytes());
}

/// Appends an object that is referred to; gives its position.
fn write(out: &mut Vec<u8>, obj: &Obj) -> usize {
    out.resize(out.len().next_multiple_of(8), 0);
    let count = |n: usize| n as u32;
    match obj {
        Table(fields) => table(out, fields),
        Ints(v) => {
            word(out, count(v.len()));
            v.iter().for_each(|v| out.extend(v.to_le_bytes()));
            out.len() - 4 - v.len() * 4
        }
        Longs(v) => {
            word(out, count(v.len()));
            v.iter().for_each(|v| out.extend(v.to_le_bytes()));
            out.len() - 4 - v.len() * 8
        }
        Bytes(v) => {
            word(out, count(v.len()));
            out.extend(v);
            out.len() - 4 - v.len()
        }
        List(v) => {
            let start = out.len();
            word(out, count(v.len()));
            out.resize(start + 4 + v.len() * 4, 0);
            for (i, obj) in v.iter().enumerate() {
                let at = write(out, obj);
                let from = start + 4 + i * 4;
                out[from..from + 4].copy_from_slice(&((at - from) as u32).to_le_bytes());
            }
            start
        }
        U8(_) | I32(_) => panic!("a scalar is written in its table"),
    }
}

fn table(out: &mut Vec<u8>, fields: &[(usize, Obj)]) -> usize {
    let slots = fields.iter().map(|f| f.0 + 1).max().unwrap_or(0);
    let vtable = out.len();
    out.extend(((4 + slots * 2) as u16).to_le_bytes());
    out.extend(((4 + fields.len() * 4) as u16).to_le_bytes());
    out.resize(vtable + 4 + slots * 2, 0);
    out.resize(out.len().next_multiple_of(4), 0);
    let start = out.len();
    word(out, (start - vtable) as u32);
    out.resize(start + 4 + fields.len() * 4, 0);
    for (i, (id, obj)) in fields.iter().enumerate() {
        let at = start + 4 + i * 4;
        let slot = vtable + 4 + id * 2;
        out[slot..slot + 2].copy_from_slice(&((at - start) as u16).to_le_bytes());
        let value = match obj {
            U8(v) => u32::from(*v),
            I32(v) => *v as u32,
            other => (write(out, other) - at) as u32,
        };
        out[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }
    start
}

/// A model under construction.
#[derive(Default)]
pub(super) struct Model {
    tensors: Vec<Obj>,
    buffers: Vec<Obj>,
    codes: Vec<Obj>,
    operators: Vec<Obj>,
}

/// Element types by their number in the schema.
pub(super) const FLOAT32: u8 = 0;
pub(super) const FLOAT16: u8 = 1;
pub(super) const INT32: u8 = 2;
pub(super) const INT8: u8 = 9;

impl Model {
    pub(super) fn new() -> Self {
        Self { buffers: vec![Table(vec![])], ..Self::default() }
    }

    /// An activation.
    pub(super) fn tensor(&mut self, name: &str, shape: &[i32]) -> i32 {
        self.typed(name, shape, FLOAT32, &[], vec![])
    }

    /// A tensor with data (a constant) or without; `more` are further fields of its table.
    pub(super) fn typed(&mut self, name: &str, shape: &[i32], kind: u8, data: &[u8], more: Vec<(usize, Obj)>) -> i32 {
        let buffer = if data.is_empty() { 0 } else { self.buffers.len() as i32 };
        if !data.is_empty() {
            self.buffers.push(Table(vec![(0, Bytes(data.to_vec()))]));
        }
        let mut fields = vec![(0, Ints(shape.to_vec())), (1, U8(kind)), (2, I32(buffer)), (3, Bytes(name.into()))];
        fields.extend(more);
        self.tensors.push(Table(fields));
        self.tensors.len() as i32 - 1
    }

    pub(super) fn floats(&mut self, shape: &[i32], data: &[f32]) -> i32 {
        let bytes: Vec<u8> = data.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.typed("constant", shape, FLOAT32, &bytes, vec![])
    }

    pub(super) fn ints(&mut self, shape: &[i32], data: &[i32]) -> i32 {
        let bytes: Vec<u8> = data.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.typed("constant", shape, INT32, &bytes, vec![])
    }

    /// An operator by its number; `options` are the fields of its options.
    pub(super) fn operator(&mut self, builtin: i32, inputs: &[i32], output: i32, options: Vec<(usize, Obj)>) {
        self.codes.push(Table(vec![(0, U8(builtin.min(127) as u8)), (3, I32(builtin))]));
        let code = I32(self.codes.len() as i32 - 1);
        let (inputs, outputs) = (Ints(inputs.to_vec()), Ints(vec![output]));
        self.operators.push(Table(vec![(0, code), (1, inputs), (2, outputs), (3, U8(1)), (4, Table(options))]));
    }

    pub(super) fn bytes(self, inputs: &[i32], outputs: &[i32]) -> Vec<u8> {
        let graph = Table(vec![
            (0, List(self.tensors)),
            (1, Ints(inputs.to_vec())),
            (2, Ints(outputs.to_vec())),
            (3, List(self.operators)),
        ]);
        file(&Table(vec![(0, I32(3)), (1, List(self.codes)), (2, List(vec![graph])), (4, List(self.buffers))]))
    }
}
