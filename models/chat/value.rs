//! Values of a chat template: what Python has for them, each with its depth known and its size counted before it is made.

use std::{cell::Cell, cell::RefCell, rc::Rc};

use super::{
    budget::Budget,
    template::{Halt, Rendered},
};

/// Deepest nesting of lists and maps: what walks a value recurses so far.
const MAX_DEPTH: u16 = 64;
/// Bytes that a string or list takes besides its content: counts, the allocator's own.
const OVERHEAD: usize = 48;

/// A value. Copies share; nothing but a namespace ever changes, and namespaces are held by index, so that no cycle can arise.
#[derive(Clone)]
pub(super) enum Value {
    /// What a name or key that is not there gives.
    Undefined,
    /// Python's None.
    None,
    /// True and False.
    Bool(bool),
    /// Whole numbers of 64 bits; a result beyond them is an error.
    Int(i64),
    /// Numbers with a fraction.
    Float(f64),
    /// Text.
    Str(Rc<str>),
    /// A list.
    List(Rc<Seq>),
    /// A tuple.
    Tuple(Rc<Seq>),
    /// What filters such as `map` give: true even if empty, and no sequence.
    Iter(Rc<Seq>),
    /// A map with its entries in the order they came in.
    Dict(Rc<Dict>),
    /// `namespace(...)`, by its number.
    Namespace(usize),
    /// A macro, by its number.
    Macro(usize),
    /// The state of a loop.
    Loop(Rc<Loop>),
    /// A function that templates may call.
    Function(Function),
}

/// Functions that templates may call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Function {
    /// `range`
    Range,
    /// `namespace`
    Namespace,
    /// `dict`
    Dict,
    /// `raise_exception`
    Raise,
    /// `strftime_now`
    Strftime,
}

/// Items in a row.
pub(super) struct Seq {
    items: Vec<Value>,
    depth: u16,
}

/// A map. Its keys are scalars; they are looked for one after the other, and counted.
pub(super) struct Dict {
    entries: Vec<(Value, Value)>,
    depth: u16,
}

/// Where a loop stands.
pub(super) struct Loop {
    /// What it goes over.
    pub(super) items: Rc<Seq>,
    /// The item it is at.
    pub(super) at: Cell<usize>,
    /// What `loop.changed` saw last, as text: the values could hold the loop, and nobody would let go of either.
    pub(super) seen: RefCell<Option<Rc<str>>>,
}

impl Seq {
    /// Of items whose room is paid for.
    pub(super) fn new(items: Vec<Value>, budget: &Budget) -> Rendered<Rc<Self>> {
        budget.make(OVERHEAD)?;
        let depth = deeper(items.iter())?;
        Ok(Rc::new(Self { items, depth }))
    }

    /// The items.
    pub(super) fn items(&self) -> &[Value] {
        &self.items
    }
}

impl Dict {
    /// The entries.
    pub(super) fn entries(&self) -> &[(Value, Value)] {
        &self.entries
    }

    /// What stands under `key`.
    pub(super) fn get(&self, key: &Value, budget: &Budget) -> Rendered<Option<&Value>> {
        budget.look(8 * self.entries.len())?;
        for (known, value) in &self.entries {
            if known.equals(key, budget)? {
                return Ok(Some(value));
            }
        }
        Ok(None)
    }

    /// What stands under a name.
    pub(super) fn named(&self, name: &str, budget: &Budget) -> Rendered<Option<&Value>> {
        budget.look(8 * self.entries.len())?;
        Ok(self.entries.iter().find(|e| matches!(&e.0, Value::Str(known) if &**known == name)).map(|e| &e.1))
    }
}

/// A list that is being made: each item is paid for before it is kept.
pub(super) struct Items<'b> {
    items: Vec<Value>,
    budget: &'b Budget,
}

impl<'b> Items<'b> {
    pub(super) fn new(budget: &'b Budget) -> Self {
        Self { items: Vec::new(), budget }
    }

    pub(super) fn push(&mut self, value: Value) -> Rendered<()> {
        self.budget.room::<Value>(2)?; // vectors grow by doubling
        self.items.push(value);
        Ok(())
    }

    pub(super) fn extend(&mut self, values: &[Value]) -> Rendered<()> {
        self.budget.room::<Value>(2 * values.len())?;
        self.items.extend_from_slice(values);
        Ok(())
    }

    pub(super) fn list(self) -> Rendered<Value> {
        self.seq().map(Value::List)
    }

    pub(super) fn iter(self) -> Rendered<Value> {
        self.seq().map(Value::Iter)
    }

    pub(super) fn seq(self) -> Rendered<Rc<Seq>> {
        Seq::new(self.items, self.budget)
    }
}

fn deeper<'v>(values: impl Iterator<Item = &'v Value>) -> Rendered<u16> {
    let depth = 1 + values.map(Value::depth).max().unwrap_or(0);
    if depth > MAX_DEPTH {
        return Err(Halt::fault(format!("nests values more than {MAX_DEPTH} deep")));
    }
    Ok(depth)
}

impl Value {
    /// A copy of `text`, which is paid for here.
    pub(super) fn text(text: &str, budget: &Budget) -> Rendered<Self> {
        budget.make(text.len() + OVERHEAD)?;
        Ok(Self::Str(text.into()))
    }

    /// A map of these entries; where a key comes twice, the last value stands in the first's place.
    pub(super) fn dict(pairs: impl IntoIterator<Item = Rendered<(Self, Self)>>, budget: &Budget) -> Rendered<Self> {
        budget.make(OVERHEAD)?;
        let mut entries: Vec<(Self, Self)> = Vec::new();
        for pair in pairs {
            let (key, value) = pair?;
            if !matches!(key, Self::None | Self::Bool(_) | Self::Int(_) | Self::Float(_) | Self::Str(_)) {
                return Err(Halt::fault(format!("a {} cannot be a key", key.kind())));
            }
            budget.look(8 * entries.len())?;
            let mut known = None;
            for (at, entry) in entries.iter().enumerate() {
                if entry.0.equals(&key, budget)? {
                    known = Some(at);
                    break;
                }
            }
            match known {
                Some(at) => entries[at].1 = value,
                None => {
                    budget.room::<(Self, Self)>(2)?;
                    entries.push((key, value));
                }
            }
        }
        let depth = deeper(entries.iter().map(|e| &e.1))?;
        Ok(Self::Dict(Rc::new(Dict { entries, depth })))
    }

    /// What JSON says: of the caller, whose keys are different from each other.
    pub(super) fn json(value: &serde_json::Value, budget: &Budget) -> Rendered<Self> {
        use serde_json::Value as Json;
        Ok(match value {
            Json::Null => Self::None,
            Json::Bool(b) => Self::Bool(*b),
            Json::Number(n) => n.as_i64().map_or_else(|| Self::Float(n.as_f64().unwrap_or(f64::NAN)), Self::Int),
            Json::String(s) => Self::text(s, budget)?,
            Json::Array(a) => {
                let items = a.iter().map(|item| Self::json(item, budget)).collect::<Rendered<Vec<_>>>()?;
                Self::List(Seq::new(items, budget)?)
            }
            Json::Object(o) => {
                let entry = |(key, value): (&String, &Json)| Ok((Self::text(key, budget)?, Self::json(value, budget)?));
                let entries = o.iter().map(entry).collect::<Rendered<Vec<_>>>()?;
                let depth = deeper(entries.iter().map(|e| &e.1))?;
                Self::Dict(Rc::new(Dict { entries, depth }))
            }
        })
    }

    fn depth(&self) -> u16 {
        match self {
            Self::List(s) | Self::Tuple(s) | Self::Iter(s) => s.depth,
            Self::Dict(d) => d.depth,
            Self::Loop(l) => l.items.depth + 1,
            _ => 0,
        }
    }

    /// Python's name of the type.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Undefined => "Undefined",
            Self::None => "NoneType",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Float(_) => "float",
            Self::Str(_) => "str",
            Self::List(_) => "list",
            Self::Tuple(_) => "tuple",
            Self::Iter(_) => "generator",
            Self::Dict(_) => "dict",
            Self::Namespace(_) => "Namespace",
            Self::Macro(_) => "Macro",
            Self::Loop(_) => "LoopContext",
            Self::Function(_) => "function",
        }
    }

    /// Whether a condition on it holds.
    pub(super) fn truth(&self) -> bool {
        match self {
            Self::Undefined | Self::None => false,
            Self::Bool(b) => *b,
            Self::Int(i) => *i != 0,
            Self::Float(f) => *f != 0.0,
            Self::Str(s) => !s.is_empty(),
            Self::List(s) | Self::Tuple(s) => !s.items.is_empty(),
            Self::Dict(d) => !d.entries.is_empty(),
            Self::Iter(_) | Self::Namespace(_) | Self::Macro(_) | Self::Loop(_) | Self::Function(_) => true,
        }
    }

    /// As a whole number, where it is one (True is 1).
    pub(super) fn int(&self) -> Option<i64> {
        match self {
            Self::Bool(b) => Some(i64::from(*b)),
            Self::Int(i) => Some(*i),
            _ => None,
        }
    }

    /// As a number, where it is one.
    pub(super) fn float(&self) -> Option<f64> {
        match self {
            Self::Float(f) => Some(*f),
            other => other.int().map(|i| i as f64),
        }
    }

    /// What a loop over it goes over: items, keys, characters.
    pub(super) fn iterate(&self, budget: &Budget) -> Rendered<Rc<Seq>> {
        let mut items = Items::new(budget);
        match self {
            Self::List(s) | Self::Tuple(s) | Self::Iter(s) => return Ok(s.clone()),
            Self::Undefined => {}
            Self::Dict(d) => {
                for (key, _) in &d.entries {
                    items.push(key.clone())?;
                }
            }
            Self::Str(s) => {
                for c in s.chars() {
                    items.push(Self::text(c.encode_utf8(&mut [0; 4]), budget)?)?;
                }
            }
            Self::Loop(l) => return Ok(l.items.clone()),
            other => return Err(Halt::fault(format!("a {} cannot be gone over", other.kind()))),
        }
        items.seq()
    }

    /// As [`Value::iterate`], and None is nothing: templates for tools go over them where there are none, and filters as `map` do.
    pub(super) fn iterate_any(&self, budget: &Budget) -> Rendered<Rc<Seq>> {
        match self {
            Self::None => Items::new(budget).seq(),
            other => other.iterate(budget),
        }
    }

    /// How many items, entries or characters.
    pub(super) fn len(&self, budget: &Budget) -> Rendered<usize> {
        match self {
            Self::Undefined => Ok(0),
            Self::Str(s) => {
                budget.look(s.len())?;
                Ok(s.chars().count())
            }
            Self::List(s) | Self::Tuple(s) | Self::Iter(s) => Ok(s.items.len()),
            Self::Dict(d) => Ok(d.entries.len()),
            other => Err(Halt::fault(format!("a {} has no length", other.kind()))),
        }
    }

    /// Python's `==`.
    pub(super) fn equals(&self, other: &Self, budget: &Budget) -> Rendered<bool> {
        match (self, other) {
            (Self::Str(a), Self::Str(b)) => {
                if a.len() == b.len() {
                    budget.look(a.len())?;
                }
                Ok(a == b)
            }
            (Self::List(a), Self::List(b)) | (Self::Tuple(a), Self::Tuple(b)) => {
                if Rc::ptr_eq(a, b) {
                    return Ok(true);
                }
                budget.look(8 * a.items.len().min(b.items.len()))?;
                if a.items.len() != b.items.len() {
                    return Ok(false);
                }
                for (a, b) in a.items.iter().zip(&b.items) {
                    if !a.equals(b, budget)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            (Self::Dict(a), Self::Dict(b)) => {
                if Rc::ptr_eq(a, b) {
                    return Ok(true);
                }
                if a.entries.len() != b.entries.len() {
                    return Ok(false);
                }
                for (key, value) in &a.entries {
                    match b.get(key, budget)? {
                        Some(other) if value.equals(other, budget)? => {}
                        _ => return Ok(false),
                    }
                }
                Ok(true)
            }
            _ => Ok(self.same(other)),
        }
    }

    /// `==` where neither holds others.
    fn same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Undefined, Self::Undefined) | (Self::None, Self::None) => true,
            (Self::Namespace(a), Self::Namespace(b)) | (Self::Macro(a), Self::Macro(b)) => a == b,
            (Self::Iter(a), Self::Iter(b)) => Rc::ptr_eq(a, b),
            (Self::Loop(a), Self::Loop(b)) => Rc::ptr_eq(a, b),
            (Self::Function(a), Self::Function(b)) => a == b,
            (a, b) => match (a.int(), b.int()) {
                (Some(a), Some(b)) => a == b,
                _ => matches!((a.float(), b.float()), (Some(a), Some(b)) if a == b),
            },
        }
    }
}
