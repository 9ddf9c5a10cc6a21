//! Filters and tests that a template may use, as Jinja2 has them.

use std::rc::Rc;

use super::{
    args::Args,
    budget::Budget,
    functions::pair,
    ops, strings,
    template::{Halt, Rendered},
    text::{Json, Text},
    value::{Items, Seq, Value},
};

/// `value | name(...)`
pub(super) fn apply(name: &str, value: Value, args: Args, budget: &Budget) -> Rendered<Value> {
    budget.step()?;
    match name {
        "trim" => {
            let [chars] = args.bind(name, ["chars"])?;
            let text = Text::of(&value, budget)?;
            Value::text(strings::strip(&text, chars.as_ref(), true, true, budget)?, budget)
        }
        "upper" | "lower" | "capitalize" => {
            args.none(name)?;
            strings::cased(&Text::of(&value, budget)?, name, budget)
        }
        "title" => {
            args.none(name)?;
            let text = Text::of(&value, budget)?;
            budget.make(text.len().saturating_mul(3))?;
            let separates = |c: char| c.is_whitespace() || matches!(c, '-' | '(' | '{' | '[' | '<');
            Value::text(&strings::titled(&text, separates), budget)
        }
        "string" | "safe" => args.none(name).and_then(|()| Text::of(&value, budget).map(Value::Str)),
        "length" | "count" => args.none(name).and_then(|()| value.len(budget)).map(|len| Value::Int(len as i64)),
        "default" | "d" => {
            let [default, falsy] = args.bind(name, ["default_value", "boolean"])?;
            let missing = matches!(value, Value::Undefined) || (falsy.is_some_and(|f| f.truth()) && !value.truth());
            if missing { default.map_or_else(|| Value::text("", budget), Ok) } else { Ok(value) }
        }
        "first" | "last" => {
            args.none(name)?;
            let items = value.iterate(budget)?;
            let found = if name == "first" { items.items().first() } else { items.items().last() };
            Ok(found.cloned().unwrap_or(Value::Undefined))
        }
        "replace" => {
            let [from, to, count] = args.bind(name, ["old", "new", "count"])?;
            let texts = [from, to].map(|t| t.map(|t| Text::of(&t, budget).map(Value::Str)).transpose());
            let [from, to] = texts;
            strings::replace(&Text::of(&value, budget)?, from?, to?, count, budget)
        }
        "join" => {
            let [between, attribute] = args.bind(name, ["d", "attribute"])?;
            let items = attributes(&value.iterate(budget)?, attribute.as_ref(), None, budget)?;
            strings::join(&items, &Text::of(&between.unwrap_or(Value::Undefined), budget)?, budget)
        }
        "list" => args.none(name).and_then(|()| value.iterate(budget)).map(Value::List),
        "indent" => indent(&value, args, budget),
        "tojson" => json(&value, args, budget),
        "items" | "dictsort" => entries(name, &value, args, budget),
        "abs" | "round" | "int" | "float" => number(name, &value, args, budget),
        _ => of_items(name, value, args, budget),
    }
}

/// The filters that go over items.
fn of_items(name: &str, value: Value, args: Args, budget: &Budget) -> Rendered<Value> {
    match name {
        "map" => map(&value.iterate_any(budget)?, args, budget),
        "select" | "reject" | "selectattr" | "rejectattr" => choose(name, &value.iterate_any(budget)?, args, budget),
        "reverse" => {
            args.none(name)?;
            if let Value::Str(s) = &value {
                budget.make(s.len())?;
                return Value::text(&s.chars().rev().collect::<String>(), budget);
            }
            let items = value.iterate(budget)?;
            let mut reversed = Items::new(budget);
            items.items().iter().rev().try_for_each(|item| reversed.push(item.clone()))?;
            reversed.iter()
        }
        "sort" => {
            let [reverse, cased, attribute] = args.bind(name, ["reverse", "case_sensitive", "attribute"])?;
            let items = value.iterate(budget)?;
            let (reverse, cased) = (reverse.is_some_and(|r| r.truth()), cased.is_some_and(|c| c.truth()));
            let keys = Keys::of(&attributes(&items, attribute.as_ref(), None, budget)?, cased, budget)?;
            sorted(&items, &keys, reverse, budget)?.list()
        }
        "min" | "max" => {
            let [cased, attribute] = args.bind(name, ["case_sensitive", "attribute"])?;
            let items = value.iterate(budget)?;
            let cased = cased.is_some_and(|c| c.truth());
            let keys = Keys::of(&attributes(&items, attribute.as_ref(), None, budget)?, cased, budget)?;
            let found = sorted(&items, &keys, name == "max", budget)?.seq()?;
            Ok(found.items().first().cloned().unwrap_or(Value::Undefined))
        }
        "sum" => {
            let [attribute, start] = args.bind(name, ["attribute", "start"])?;
            let items = attributes(&value.iterate(budget)?, attribute.as_ref(), None, budget)?;
            items.iter().try_fold(start.unwrap_or(Value::Int(0)), |sum, item| {
                budget.step()?;
                ops::add(&sum, item, budget)
            })
        }
        "unique" => {
            let [cased, attribute] = args.bind(name, ["case_sensitive", "attribute"])?;
            let items = value.iterate(budget)?;
            let keys = attributes(&items, attribute.as_ref(), None, budget)?;
            unique(&items, &keys, cased.is_some_and(|c| c.truth()), budget)
        }
        _ => Err(Halt::fault(format!("there is no filter {name:?} that a template may use"))),
    }
}

/// What each item has under a dotted path, the item itself without one.
fn attributes(items: &Rc<Seq>, path: Option<&Value>, default: Option<&Value>, budget: &Budget) -> Rendered<Vec<Value>> {
    budget.room::<Value>(items.items().len())?;
    let path = match path {
        None | Some(Value::None) => return Ok(items.items().to_vec()),
        Some(path) => Text::of(path, budget)?,
    };
    let found = items.items().iter().map(|item| attribute(item, &path, default, budget));
    found.collect()
}

fn attribute(item: &Value, path: &str, default: Option<&Value>, budget: &Budget) -> Rendered<Value> {
    let mut value = item.clone();
    budget.look(path.len())?;
    for part in path.split('.') {
        budget.step()?;
        let key = match part.parse::<i64>() {
            Ok(at) => Value::Int(at),
            Err(_) => Value::text(part, budget)?,
        };
        value = match value {
            Value::Undefined => return Err(Halt::fault(format!("an item's {part:?} is looked for in what is undefined"))),
            other => ops::item(&other, &key, budget)?,
        };
        if let (Value::Undefined, Some(default)) = (&value, default) {
            return Ok(default.clone());
        }
    }
    Ok(value)
}

/// Takes the filter's or test's name off the arguments.
fn named(of: &str, mut args: Args, budget: &Budget) -> Rendered<(Rc<str>, Args)> {
    if args.by_place.is_empty() {
        return Err(Halt::fault(format!("{of} takes the name of a filter or test")));
    }
    budget.look(size_of::<Value>() * args.by_place.len())?;
    let name = Text::of(&args.by_place.remove(0), budget)?;
    Ok((name, args))
}

/// The same arguments for one item more.
fn again(args: &Args, budget: &Budget) -> Rendered<Args> {
    budget.room::<(Value, Value)>(args.by_place.len() + args.by_name.len())?;
    Ok(Args { by_place: args.by_place.clone(), by_name: args.by_name.clone() })
}

fn map(items: &Rc<Seq>, args: Args, budget: &Budget) -> Rendered<Value> {
    let mut mapped = Items::new(budget);
    if args.by_place.is_empty() {
        let [path, default] = args.bind("map", ["attribute", "default"])?;
        mapped.extend(&attributes(items, path.as_ref(), default.as_ref(), budget)?)?;
        return mapped.iter();
    }
    let (name, args) = named("map", args, budget)?;
    if &*name == "map" {
        return Err(Halt::fault("map of map is not part of chat templates"));
    }
    for item in items.items() {
        mapped.push(apply(&name, item.clone(), again(&args, budget)?, budget)?)?;
    }
    mapped.iter()
}

fn choose(how: &str, items: &Rc<Seq>, args: Args, budget: &Budget) -> Rendered<Value> {
    let by_attribute = how.ends_with("attr");
    let (path, args) =
        if by_attribute { named(how, args, budget).map(|(p, a)| (Some(Value::Str(p)), a))? } else { (None, args) };
    let (name, args) = match args.by_place.is_empty() {
        true => (None, args),
        false => named(how, args, budget).map(|(n, a)| (Some(n), a))?,
    };
    let mut chosen = Items::new(budget);
    for (item, value) in items.items().iter().zip(attributes(items, path.as_ref(), None, budget)?) {
        budget.step()?;
        let holds = match &name {
            None => value.truth(),
            Some(name) => test(name, &value, again(&args, budget)?, budget)?,
        };
        if holds == how.starts_with("select") {
            chosen.push(item.clone())?;
        }
    }
    chosen.iter()
}

/// What items are put in order by: all numbers or all texts.
enum Keys {
    Numbers(Vec<f64>),
    Texts(Vec<Rc<str>>),
}

impl Keys {
    fn of(values: &[Value], cased: bool, budget: &Budget) -> Rendered<Self> {
        budget.room::<Rc<str>>(values.len())?;
        if let Some(numbers) = values.iter().map(Value::float).collect::<Option<Vec<f64>>>() {
            return Ok(Self::Numbers(numbers));
        }
        let texts = values.iter().map(|value| match value {
            Value::Str(text) if cased => Ok(text.clone()),
            Value::Str(text) => Text::of(&strings::cased(text, "lower", budget)?, budget),
            other => Err(Halt::fault(format!("a {} cannot be put in order with texts or numbers", other.kind()))),
        });
        texts.collect::<Rendered<_>>().map(Self::Texts)
    }
}

fn sorted<'b>(items: &Seq, keys: &Keys, reverse: bool, budget: &'b Budget) -> Rendered<Items<'b>> {
    let count = items.items().len();
    let rounds = 1 + count.checked_ilog2().unwrap_or(0) as usize;
    budget.room::<usize>(2 * count)?;
    let mut order: Vec<usize> = (0..count).collect();
    let turned = |o: std::cmp::Ordering| if reverse { o.reverse() } else { o };
    match keys {
        Keys::Numbers(n) => {
            budget.look(8 * count * rounds)?;
            order.sort_by(|&a, &b| turned(n[a].total_cmp(&n[b])));
        }
        Keys::Texts(t) => {
            budget.look((8 * count + t.iter().map(|t| t.len()).sum::<usize>()).saturating_mul(rounds))?;
            order.sort_by(|&a, &b| turned(t[a].cmp(&t[b])));
        }
    }
    let mut sorted = Items::new(budget);
    order.into_iter().try_for_each(|at| sorted.push(items.items()[at].clone()))?;
    Ok(sorted)
}

fn unique(items: &Seq, keys: &[Value], cased: bool, budget: &Budget) -> Rendered<Value> {
    let mut seen: Vec<Value> = Vec::new();
    let mut kept = Items::new(budget);
    for (item, key) in items.items().iter().zip(keys) {
        let key = match key {
            Value::Str(text) if !cased => strings::cased(text, "lower", budget)?,
            other => other.clone(),
        };
        budget.look(8 * seen.len())?;
        let mut known = false;
        for other in &seen {
            known = other.equals(&key, budget)?;
            if known {
                break;
            }
        }
        if !known {
            budget.room::<Value>(2)?;
            seen.push(key);
            kept.push(item.clone())?;
        }
    }
    kept.iter()
}

fn entries(name: &str, value: &Value, args: Args, budget: &Budget) -> Rendered<Value> {
    let mut pairs = Items::new(budget);
    match value {
        Value::Dict(dict) => dict.entries().iter().try_for_each(|(key, value)| pairs.push(pair(key, value, budget)?))?,
        Value::Undefined => {}
        other => return Err(Halt::fault(format!("{name} takes a map, not a {}", other.kind()))),
    }
    if name == "items" {
        return args.none(name).and_then(|()| pairs.iter());
    }
    let [cased, by, reverse] = args.bind(name, ["case_sensitive", "by", "reverse"])?;
    let at = i64::from(matches!(&by, Some(Value::Str(by)) if &**by == "value"));
    let pairs = pairs.seq()?;
    let keys = Keys::of(&attributes(&pairs, Some(&Value::Int(at)), None, budget)?, cased.is_some_and(|c| c.truth()), budget)?;
    sorted(&pairs, &keys, reverse.is_some_and(|r| r.truth()), budget)?.list()
}

fn indent(value: &Value, args: Args, budget: &Budget) -> Rendered<Value> {
    let [width, first, blank] = args.bind("indent", ["width", "first", "blank"])?;
    let (first, blank) = (first.is_some_and(|f| f.truth()), blank.is_some_and(|b| b.truth()));
    let margin = match width.unwrap_or(Value::Int(4)) {
        Value::Str(margin) => margin,
        other => spaces(&other, budget)?,
    };
    let text = Text::of(value, budget)?;
    budget.look(text.len())?;
    let mut out = Text::new(budget);
    for (at, line) in text.split('\n').enumerate() {
        out.push(if at == 0 { "" } else { "\n" })?;
        if if at == 0 { first } else { blank || !line.is_empty() } {
            out.push(&margin)?;
        }
        out.push(line)?;
    }
    out.value()
}

fn spaces(width: &Value, budget: &Budget) -> Rendered<Rc<str>> {
    let width = width.int().ok_or_else(|| Halt::fault(format!("an indent of a {}", width.kind())))?;
    let width = usize::try_from(width).unwrap_or(0);
    budget.make(width.saturating_mul(2))?;
    Ok(" ".repeat(width).into())
}

fn json(value: &Value, args: Args, budget: &Budget) -> Rendered<Value> {
    let [ascii, indent, separators, sort_keys] = args.bind("tojson", ["ensure_ascii", "indent", "separators", "sort_keys"])?;
    let indent = match indent {
        None | Some(Value::None) => None,
        Some(Value::Str(indent)) => Some(indent.to_string()),
        Some(other) => Some(spaces(&other, budget)?.to_string()),
    };
    let separators = match separators {
        None | Some(Value::None) => (if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned()),
        Some(Value::Tuple(s) | Value::List(s)) if s.items().len() == 2 => {
            let of = |at: usize| Text::of(&s.items()[at], budget).map(|t| t.to_string());
            (of(0)?, of(1)?)
        }
        Some(other) => return Err(Halt::fault(format!("tojson takes two separators, not a {}", other.kind()))),
    };
    let truth = |v: Option<Value>| v.is_some_and(|v| v.truth());
    let style = Json { indent, separators, sort_keys: truth(sort_keys), ascii: truth(ascii) };
    let mut out = Text::new(budget);
    out.json(value, &style, 0)?;
    out.value()
}

fn number(name: &str, value: &Value, args: Args, budget: &Budget) -> Rendered<Value> {
    let refuse = || Halt::fault(format!("{name} takes a number, not a {}", value.kind()));
    match name {
        "abs" => match (args.none(name)?, value.int()) {
            ((), Some(i)) => i.checked_abs().map(Value::Int).ok_or_else(ops::beyond),
            _ => value.float().map(|f| Value::Float(f.abs())).ok_or_else(refuse),
        },
        "round" => {
            let [precision, method] = args.bind(name, ["precision", "method"])?;
            let precision = precision.map_or(Some(0), |p| p.int()).filter(|p| (0..=15).contains(p));
            let precision = precision.ok_or_else(|| Halt::fault("round takes a precision of 0 to 15"))?;
            let method = Text::of(&method.unwrap_or(Value::Undefined), budget)?;
            let (f, scale) = (value.float().ok_or_else(refuse)?, 10f64.powi(precision as i32));
            match &*method {
                "" | "common" if value.int().is_some() => Ok(Value::Int(value.int().unwrap_or(0))),
                "" | "common" => Ok(Value::Float(format!("{f:.*}", precision as usize).parse().unwrap_or(f))),
                "ceil" => Ok(Value::Float((f * scale).ceil() / scale)),
                "floor" => Ok(Value::Float((f * scale).floor() / scale)),
                _ => Err(Halt::fault("round knows the methods common, ceil and floor")),
            }
        }
        _ => {
            let [default] = args.bind(name, ["default"])?;
            let text = Text::of(value, budget)?;
            budget.look(text.len())?;
            let text = text.trim();
            let float = value.float().or_else(|| text.parse().ok()).filter(|f| f.is_finite());
            let whole = value.int().or_else(|| text.parse().ok());
            let whole = whole.or(float.map(f64::trunc).filter(|f| f.abs() < 9e18).map(|f| f as i64));
            match (name, whole, float) {
                ("int", Some(i), _) => Ok(Value::Int(i)),
                ("float", _, Some(f)) => Ok(Value::Float(f)),
                ("int", ..) => Ok(default.unwrap_or(Value::Int(0))),
                _ => Ok(default.unwrap_or(Value::Float(0.0))),
            }
        }
    }
}

/// `value is name(...)`
pub(super) fn test(name: &str, value: &Value, args: Args, budget: &Budget) -> Rendered<bool> {
    budget.step()?;
    let whole = || value.int().ok_or_else(|| Halt::fault(format!("{name} takes a whole number, not a {}", value.kind())));
    let [other] = args.bind(name, ["other"])?;
    let operand = || other.as_ref().ok_or_else(|| Halt::fault(format!("{name} takes a value to compare with")));
    let ordered = |holds: fn(std::cmp::Ordering) -> bool| Ok(ops::order(value, operand()?, budget)?.is_some_and(holds));
    match name {
        "eq" | "equalto" | "==" => return value.equals(operand()?, budget),
        "ne" | "!=" => return value.equals(operand()?, budget).map(|same| !same),
        "lt" | "lessthan" | "<" => return ordered(std::cmp::Ordering::is_lt),
        "le" | "<=" => return ordered(std::cmp::Ordering::is_le),
        "gt" | "greaterthan" | ">" => return ordered(std::cmp::Ordering::is_gt),
        "ge" | ">=" => return ordered(std::cmp::Ordering::is_ge),
        "in" => return ops::contains(operand()?, value, budget),
        "sameas" => {
            let other = operand()?;
            return Ok(value.kind() == other.kind() && value.equals(other, budget)?);
        }
        "divisibleby" => return Ok(operand()?.int().and_then(|by| whole().ok()?.checked_rem(by)) == Some(0)),
        "lower" | "upper" => {
            let text = Text::of(value, budget)?;
            let cased = Text::of(&strings::cased(&text, name, budget)?, budget)?;
            return Ok(text == cased && text.chars().any(char::is_alphabetic));
        }
        _ => {}
    }
    if let Some(other) = &other {
        return Err(Halt::fault(format!("the test {name:?} takes no {}", other.kind())));
    }
    Ok(match name {
        "defined" => !matches!(value, Value::Undefined),
        "undefined" => matches!(value, Value::Undefined),
        "none" => matches!(value, Value::None),
        "string" => matches!(value, Value::Str(_)),
        "mapping" => matches!(value, Value::Dict(_)),
        "sequence" => matches!(value, Value::Str(_) | Value::List(_) | Value::Tuple(_) | Value::Dict(_) | Value::Undefined),
        "iterable" => !matches!(value, Value::None | Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::Macro(_)),
        "number" => value.float().is_some(),
        "integer" => matches!(value, Value::Int(_)),
        "float" => matches!(value, Value::Float(_)),
        "boolean" => matches!(value, Value::Bool(_)),
        "true" => matches!(value, Value::Bool(true)),
        "false" => matches!(value, Value::Bool(false)),
        "odd" => whole()?.rem_euclid(2) == 1,
        "even" => whole()?.rem_euclid(2) == 0,
        "callable" => matches!(value, Value::Macro(_) | Value::Function(_)),
        _ => return Err(Halt::fault(format!("there is no test {name:?} that a template may use"))),
    })
}
