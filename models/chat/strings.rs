//! Python's methods of strings, each paid for before it runs.

use std::collections::HashSet;

use super::{
    args::Args,
    budget::Budget,
    template::{Halt, Rendered},
    text::Text,
    value::{Items, Value},
};

/// Calls `s.name(...)`.
pub(super) fn method(s: &str, name: &str, args: Args, budget: &Budget) -> Rendered<Value> {
    budget.look(s.len())?;
    match name {
        "strip" | "lstrip" | "rstrip" => {
            let [chars] = args.bind(name, ["chars"])?;
            Value::text(strip(s, chars.as_ref(), name != "rstrip", name != "lstrip", budget)?, budget)
        }
        "split" | "rsplit" => {
            let [separator, most] = args.bind(name, ["sep", "maxsplit"])?;
            split(s, separator, most, name == "rsplit", budget)
        }
        "startswith" | "endswith" => {
            let [part] = args.bind(name, ["prefix"])?;
            let ends = |part: &str| if name == "startswith" { s.starts_with(part) } else { s.ends_with(part) };
            match &part {
                Some(Value::Str(part)) => Ok(Value::Bool(ends(part))),
                Some(Value::Tuple(parts)) => {
                    budget.look(s.len().saturating_mul(parts.items().len()))?;
                    Ok(Value::Bool(parts.items().iter().any(|p| matches!(p, Value::Str(p) if ends(p)))))
                }
                other => Err(wrong(name, other.as_ref())),
            }
        }
        "replace" => {
            let [from, to, count] = args.bind(name, ["old", "new", "count"])?;
            replace(s, from, to, count, budget)
        }
        "upper" | "lower" | "title" | "capitalize" => {
            args.none(name)?;
            cased(s, name, budget)
        }
        "removeprefix" | "removesuffix" => {
            let part = text(name, args)?;
            let cut = if name == "removeprefix" { s.strip_prefix(&*part) } else { s.strip_suffix(&*part) };
            Value::text(cut.unwrap_or(s), budget)
        }
        "partition" | "rpartition" => partition(s, &text(name, args)?, name == "partition", budget),
        "find" | "rfind" | "index" | "count" => search(s, name, &text(name, args)?, budget),
        "join" => {
            let [items] = args.bind(name, ["iterable"])?;
            let items = items.unwrap_or(Value::Undefined).iterate(budget)?;
            if let Some(other) = items.items().iter().find(|i| !matches!(i, Value::Str(_))) {
                return Err(wrong(name, Some(other)));
            }
            join(items.items(), s, budget)
        }
        "splitlines" => {
            args.none(name)?;
            let mut lines = Items::new(budget);
            s.lines().try_for_each(|line| lines.push(Value::text(line, budget)?))?;
            lines.list()
        }
        "format" => format(s, args, budget),
        "isdigit" | "isalpha" | "isalnum" | "isspace" | "isupper" | "islower" => {
            args.none(name)?;
            Ok(Value::Bool(is(s, name)))
        }
        _ => Err(Halt::fault(format!("str has no method {name:?} that a template may call"))),
    }
}

fn wrong(name: &str, given: Option<&Value>) -> Halt {
    Halt::fault(format!("{name} takes text, not {}", given.map_or("nothing", Value::kind)))
}

/// The one argument of a method that takes a text.
fn text(name: &str, args: Args) -> Rendered<std::rc::Rc<str>> {
    match args.bind(name, ["text"])? {
        [Some(Value::Str(text))] => Ok(text),
        [other] => Err(wrong(name, other.as_ref())),
    }
}

/// What Python takes for white space.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

/// `s` without the characters at its ends; white space where none are given.
pub(super) fn strip<'s>(s: &'s str, chars: Option<&Value>, start: bool, end: bool, budget: &Budget) -> Rendered<&'s str> {
    let cut = |mut s: &'s str, which: &dyn Fn(char) -> bool| {
        s = if start { s.trim_start_matches(which) } else { s };
        if end { s.trim_end_matches(which) } else { s }
    };
    budget.look(s.len())?;
    match chars {
        None | Some(Value::None) => Ok(cut(s, &is_space)),
        Some(Value::Str(chars)) => {
            budget.room::<u64>(2 * chars.len())?;
            let chars: HashSet<char> = chars.chars().collect();
            Ok(cut(s, &|c| chars.contains(&c)))
        }
        other => Err(wrong("strip", other)),
    }
}

fn split(s: &str, separator: Option<Value>, most: Option<Value>, back: bool, budget: &Budget) -> Rendered<Value> {
    let most = most.map_or(Some(-1), |m| m.int()).ok_or_else(|| Halt::fault("maxsplit is no whole number"))?;
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    let mut parts: Vec<&str> = Vec::new();
    let mut keep = |part| {
        budget.room::<&str>(2)?;
        parts.push(part);
        Ok(())
    };
    if let Some(Value::Str(separator)) = &separator {
        budget.look(separator.len())?;
    }
    match separator {
        Some(Value::Str(separator)) if separator.is_empty() => return Err(Halt::fault("a split at the empty text")),
        Some(Value::Str(separator)) => match back {
            false => s.splitn(most.saturating_add(1), &*separator).try_for_each(&mut keep)?,
            true => s.rsplitn(most.saturating_add(1), &*separator).try_for_each(&mut keep)?,
        },
        None | Some(Value::None) => {
            let trim = |s| if back { str::trim_end_matches(s, is_space) } else { str::trim_start_matches(s, is_space) };
            let (mut rest, mut left) = (trim(s), most);
            while !rest.is_empty() {
                let at = match left {
                    0 => None,
                    _ if back => rest.rfind(is_space),
                    _ => rest.find(is_space),
                };
                let gap = at.and_then(|at| rest[at..].chars().next()).map_or(0, char::len_utf8);
                let (part, after) = match at {
                    Some(at) if back => (&rest[at + gap..], &rest[..at]),
                    Some(at) => (&rest[..at], &rest[at + gap..]),
                    None => (rest, ""),
                };
                keep(part)?;
                (rest, left) = (trim(after), left.saturating_sub(1));
            }
        }
        other => return Err(wrong("split", other.as_ref())),
    }
    if back {
        parts.reverse();
    }
    let mut items = Items::new(budget);
    parts.into_iter().try_for_each(|part| items.push(Value::text(part, budget)?))?;
    items.list()
}

fn partition(s: &str, separator: &str, first: bool, budget: &Budget) -> Rendered<Value> {
    budget.look(separator.len())?;
    let found = if first { s.split_once(separator) } else { s.rsplit_once(separator) };
    let (before, middle, after) = match found {
        Some((before, after)) => (before, separator, after),
        None if first => (s, "", ""),
        None => ("", "", s),
    };
    let mut items = Items::new(budget);
    [before, middle, after].into_iter().try_for_each(|part| items.push(Value::text(part, budget)?))?;
    items.seq().map(Value::Tuple)
}

fn search(s: &str, name: &str, part: &str, budget: &Budget) -> Rendered<Value> {
    budget.look(part.len())?;
    let place = |at: usize| s[..at].chars().count() as i64;
    Ok(Value::Int(match name {
        "find" => s.find(part).map_or(-1, place),
        "rfind" => s.rfind(part).map_or(-1, place),
        "count" => s.matches(part).count() as i64,
        _ => s.find(part).map(place).ok_or_else(|| Halt::fault("index finds no such text"))?,
    }))
}

/// `s` with `from` replaced by `to`, `count` times at most.
pub(super) fn replace(
    s: &str,
    from: Option<Value>,
    to: Option<Value>,
    count: Option<Value>,
    budget: &Budget,
) -> Rendered<Value> {
    let (Some(Value::Str(from)), Some(Value::Str(to))) = (&from, &to) else {
        return Err(wrong("replace", from.as_ref().filter(|f| !matches!(f, Value::Str(_))).or(to.as_ref())));
    };
    let most = match &count {
        None | Some(Value::None) => usize::MAX,
        Some(count) => {
            let count = count.int().ok_or_else(|| Halt::fault("replace counts with a whole number"))?;
            usize::try_from(count).unwrap_or(usize::MAX)
        }
    };
    budget.look(s.len() + from.len())?;
    let found = s.matches(&**from).take(most).count();
    let bytes = (s.len() - found * from.len()).saturating_add(found.saturating_mul(to.len()));
    budget.make(bytes.saturating_mul(2))?;
    Value::text(&s.replacen(&**from, to, most), budget)
}

/// `upper`, `lower`, `title` or `capitalize` of `s`.
pub(super) fn cased(s: &str, how: &str, budget: &Budget) -> Rendered<Value> {
    budget.make(s.len().saturating_mul(3))?; // one character becomes three at most
    let cased = match how {
        "upper" => s.to_uppercase(),
        "lower" => s.to_lowercase(),
        "capitalize" => {
            let mut chars = s.chars();
            chars.next().map(|c| c.to_uppercase().chain(chars.as_str().to_lowercase().chars()).collect()).unwrap_or_default()
        }
        _ => titled(s, |c| !c.is_alphabetic()),
    };
    Value::text(&cased, budget)
}

/// `s` with a capital after each character that separates words, and small letters elsewhere.
pub(super) fn titled(s: &str, separates: impl Fn(char) -> bool) -> String {
    let mut out = String::with_capacity(s.len());
    let mut start = true;
    for c in s.chars() {
        match start {
            true => out.extend(c.to_uppercase()),
            false => out.extend(c.to_lowercase()),
        }
        start = separates(c);
    }
    out
}

/// The items' texts with `between` them.
pub(super) fn join(items: &[Value], between: &str, budget: &Budget) -> Rendered<Value> {
    let mut out = Text::new(budget);
    for (at, item) in items.iter().enumerate() {
        budget.look(8)?;
        out.push(if at == 0 { "" } else { between })?;
        out.str(item)?;
    }
    out.value()
}

/// `str.format` with fields by place or name; widths and the like do not exist here.
fn format(s: &str, mut args: Args, budget: &Budget) -> Rendered<Value> {
    let mut out = Text::new(budget);
    let mut by_place = args.by_place.iter();
    let mut rest = s;
    while let Some(at) = rest.find(['{', '}']) {
        out.push(&rest[..at])?;
        let mark = &rest[at..=at];
        let after = &rest[at + 1..];
        if let Some(doubled) = after.strip_prefix(mark) {
            out.push(mark)?;
            rest = doubled;
            continue;
        }
        budget.look(8 * (1 + args.by_name.len()))?;
        let field = after.split_once('}').filter(|_| mark == "{");
        let (field, after) = field.ok_or_else(|| Halt::fault("str.format with a single brace"))?;
        let value = match field.parse::<usize>() {
            _ if field.is_empty() => by_place.next().cloned(),
            Ok(place) => args.by_place.get(place).cloned(),
            Err(_) => args.by_name.iter().find(|(name, _)| &**name == field).map(|(_, value)| value.clone()),
        };
        let value = value.ok_or_else(|| Halt::fault(format!("str.format has no value for {{{field}}}")))?;
        out.str(&value)?;
        rest = after;
    }
    out.push(rest)?;
    args.by_name.clear();
    out.value()
}

fn is(s: &str, what: &str) -> bool {
    let cased = |want: fn(char) -> bool, refuse: fn(char) -> bool| s.chars().any(want) && !s.chars().any(refuse);
    match what {
        "isupper" => cased(char::is_uppercase, char::is_lowercase),
        "islower" => cased(char::is_lowercase, char::is_uppercase),
        _ if s.is_empty() => false,
        "isdigit" => s.chars().all(|c| c.is_ascii_digit()),
        "isalpha" => s.chars().all(char::is_alphabetic),
        "isalnum" => s.chars().all(char::is_alphanumeric),
        _ => s.chars().all(is_space),
    }
}
