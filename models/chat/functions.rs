//! What a template may call besides its own macros: functions, and the methods of values.

use super::{
    Date,
    args::Args,
    budget::Budget,
    date::strftime,
    strings,
    template::{Halt, Rendered},
    text::Text,
    value::{Dict, Function, Items, Loop, Seq, Value},
};

/// Most items of a `range`, as in Jinja2's sandbox.
const MAX_RANGE: u64 = 100_000;

impl Function {
    /// The function of a name, where there is one.
    pub(super) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "range" => Self::Range,
            "namespace" => Self::Namespace,
            "dict" => Self::Dict,
            "raise_exception" => Self::Raise,
            "strftime_now" => Self::Strftime,
            _ => return None,
        })
    }
}

/// Calls a function.
pub(super) fn call(function: Function, args: Args, date: Date, budget: &Budget) -> Rendered<Value> {
    match function {
        Function::Range => range(args, budget),
        Function::Namespace | Function::Dict => dict(args, budget),
        Function::Raise => {
            let [message] = args.bind("raise_exception", ["message"])?;
            let message = Text::of(&message.unwrap_or(Value::Undefined), budget)?;
            Err(Halt::Raised(message.to_string()))
        }
        Function::Strftime => {
            let [format] = args.bind("strftime_now", ["format"])?;
            let format = Text::of(&format.unwrap_or(Value::Undefined), budget)?;
            budget.make(format.len().saturating_mul(5))?; // `%B` becomes "September"
            Value::text(&strftime(&format, date), budget)
        }
    }
}

fn range(args: Args, budget: &Budget) -> Rendered<Value> {
    let bounds = args.by_place.iter().map(Value::int).collect::<Option<Vec<i64>>>();
    let (start, stop, step) = match (bounds.as_deref(), args.by_name.is_empty()) {
        (Some([stop]), true) => (0, *stop, 1),
        (Some([start, stop]), true) => (*start, *stop, 1),
        (Some([start, stop, step]), true) if *step != 0 => (*start, *stop, *step),
        _ => return Err(Halt::fault("range takes one to three whole numbers, and steps of at least one")),
    };
    let span = if step > 0 { stop.saturating_sub(start) } else { start.saturating_sub(stop) };
    let count = u64::try_from(span).unwrap_or(0).div_ceil(step.unsigned_abs());
    if count > MAX_RANGE {
        return Err(Halt::fault(format!("a range of {count} items; at most {MAX_RANGE} are allowed")));
    }
    let mut items = Items::new(budget);
    let mut at = start;
    for _ in 0..count {
        items.push(Value::Int(at))?;
        at = at.saturating_add(step);
    }
    items.list()
}

fn dict(args: Args, budget: &Budget) -> Rendered<Value> {
    let mut pairs = Vec::new();
    for value in &args.by_place {
        let Value::Dict(dict) = value else { return Err(Halt::fault(format!("dict takes a map, not a {}", value.kind()))) };
        budget.room::<(Value, Value)>(2 * dict.entries().len())?;
        pairs.extend(dict.entries().iter().cloned());
    }
    budget.room::<(Value, Value)>(2 * args.by_name.len())?;
    pairs.extend(args.by_name.into_iter().map(|(name, value)| (Value::Str(name), value)));
    Value::dict(pairs.into_iter().map(Ok), budget)
}

/// Calls a method of a value.
pub(super) fn method(of: &Value, name: &str, args: Args, budget: &Budget) -> Rendered<Value> {
    match of {
        Value::Str(s) => strings::method(s, name, args, budget),
        Value::Dict(dict) => of_dict(of, dict, name, args, budget),
        Value::List(s) | Value::Tuple(s) if matches!(name, "index" | "count") => {
            let [wanted] = args.bind(name, ["value"])?;
            let wanted = wanted.unwrap_or(Value::Undefined);
            let (mut first, mut count) = (None, 0);
            budget.look(8 * s.items().len())?;
            for (at, item) in s.items().iter().enumerate() {
                if item.equals(&wanted, budget)? {
                    first.get_or_insert(at as i64);
                    count += 1;
                }
            }
            match (name, first) {
                ("count", _) => Ok(Value::Int(count)),
                (_, Some(at)) => Ok(Value::Int(at)),
                (_, None) => Err(Halt::fault("index finds no such item")),
            }
        }
        other => Err(missing(other, name)),
    }
}

fn missing(of: &Value, name: &str) -> Halt {
    let hint = match name {
        "append" | "extend" | "insert" | "remove" | "pop" | "clear" | "sort" | "reverse" | "update" | "setdefault"
        | "popitem" => "; only namespaces change",
        _ => "",
    };
    Halt::fault(format!("{} has no method {name:?} that a template may call{hint}", of.kind()))
}

fn of_dict(of: &Value, dict: &Dict, name: &str, args: Args, budget: &Budget) -> Rendered<Value> {
    match name {
        "get" => {
            let [key, default] = args.bind(name, ["key", "default"])?;
            let found = dict.get(&key.unwrap_or(Value::Undefined), budget)?.cloned();
            Ok(found.or(default).unwrap_or(Value::None))
        }
        "items" | "keys" | "values" => {
            args.none(name)?;
            let mut items = Items::new(budget);
            for (key, value) in dict.entries() {
                items.push(match name {
                    "items" => pair(key, value, budget)?,
                    "keys" => key.clone(),
                    _ => value.clone(),
                })?;
            }
            items.list()
        }
        "copy" => args.none(name).map(|()| of.clone()),
        _ => Err(missing(of, name)),
    }
}

/// A key and its value.
pub(super) fn pair(key: &Value, value: &Value, budget: &Budget) -> Rendered<Value> {
    let mut pair = Items::new(budget);
    pair.extend(&[key.clone(), value.clone()])?;
    pair.seq().map(Value::Tuple)
}

/// Calls a method of a loop's state.
pub(super) fn of_loop(l: &Loop, name: &str, args: Args, budget: &Budget) -> Rendered<Value> {
    let values = args.by_place;
    match name {
        "cycle" if !values.is_empty() => Ok(values[l.at.get() % values.len()].clone()),
        "changed" => {
            let now = Text::of(&Value::List(Seq::new(values, budget)?), budget)?;
            let before = l.seen.replace(Some(now.clone()));
            Ok(Value::Bool(before != Some(now)))
        }
        _ => Err(Halt::fault(format!("a loop has no method {name:?} that takes {} values", values.len()))),
    }
}
