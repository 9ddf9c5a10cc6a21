//! Operators on values, as Python has them.

use std::cmp::Ordering;

use minijinja::machinery::ast::BinOpKind;

use super::{
    budget::Budget,
    template::{Halt, Rendered},
    value::{Items, Value},
};

/// The error of a number that 64 bits do not hold.
pub(super) fn beyond() -> Halt {
    Halt::fault("a whole number of more than 64 bits")
}

fn mismatch(what: &str, left: &Value, right: &Value) -> Halt {
    Halt::fault(format!("{what} of {} and {}", left.kind(), right.kind()))
}

/// `left + right`
pub(super) fn add(left: &Value, right: &Value, budget: &Budget) -> Rendered<Value> {
    match (left, right) {
        (Value::Str(a), Value::Str(b)) => {
            budget.make(a.len() + b.len())?;
            Value::text(&[&**a, &**b].concat(), budget)
        }
        (Value::List(a), Value::List(b)) => joined(a.items(), b.items(), budget)?.list(),
        (Value::Tuple(a), Value::Tuple(b)) => joined(a.items(), b.items(), budget)?.seq().map(Value::Tuple),
        _ => match (left.int(), right.int(), left.float(), right.float()) {
            (Some(a), Some(b), ..) => a.checked_add(b).map(Value::Int).ok_or_else(beyond),
            (_, _, Some(a), Some(b)) => Ok(Value::Float(a + b)),
            _ => Err(mismatch("a sum", left, right)),
        },
    }
}

fn joined<'b>(a: &[Value], b: &[Value], budget: &'b Budget) -> Rendered<Items<'b>> {
    let mut items = Items::new(budget);
    items.extend(a)?;
    items.extend(b)?;
    Ok(items)
}

/// `left * right`
pub(super) fn multiply(left: &Value, right: &Value, budget: &Budget) -> Rendered<Value> {
    let (of, times) = match (left.int(), right.int()) {
        (Some(a), Some(b)) => return a.checked_mul(b).map(Value::Int).ok_or_else(beyond),
        (None, Some(times)) => (left, times),
        (Some(times), None) => (right, times),
        (None, None) => (left, 0),
    };
    let times = usize::try_from(times).unwrap_or(0);
    match (of, left.float(), right.float()) {
        (_, Some(a), Some(b)) => Ok(Value::Float(a * b)),
        (Value::Str(s), ..) if left.int().or(right.int()).is_some() => {
            budget.make(s.len().saturating_mul(times))?;
            Value::text(&s.repeat(times), budget)
        }
        (Value::List(s) | Value::Tuple(s), ..) if left.int().or(right.int()).is_some() => {
            budget.room::<Value>(s.items().len().saturating_mul(times))?;
            let mut items = Items::new(budget);
            if !s.items().is_empty() {
                (0..times).try_for_each(|_| items.extend(s.items()))?;
            }
            let tuple = matches!(of, Value::Tuple(_));
            items.seq().map(|s| if tuple { Value::Tuple(s) } else { Value::List(s) })
        }
        _ => Err(mismatch("a product", left, right)),
    }
}

/// The operators that numbers alone have.
pub(super) fn arithmetic(op: BinOpKind, left: &Value, right: &Value) -> Rendered<Value> {
    let (Some(x), Some(y)) = (left.float(), right.float()) else { return Err(mismatch("arithmetic", left, right)) };
    let ints = left.int().zip(right.int());
    let whole = |i: Option<i64>| i.map(Value::Int).ok_or_else(beyond);
    if y == 0.0 && matches!(op, BinOpKind::Div | BinOpKind::FloorDiv | BinOpKind::Rem) {
        return Err(Halt::fault("a division by zero"));
    }
    match (op, ints) {
        (BinOpKind::Sub, Some((a, b))) => whole(a.checked_sub(b)),
        (BinOpKind::FloorDiv, Some((a, b))) => {
            whole(a.checked_div(b).map(|q| if a % b != 0 && (a < 0) != (b < 0) { q - 1 } else { q }))
        }
        (BinOpKind::Rem, Some((a, b))) => whole(a.checked_rem(b).map(|r| if r != 0 && (r < 0) != (b < 0) { r + b } else { r })),
        (BinOpKind::Pow, Some((a, b))) if b >= 0 => {
            let power = u32::try_from(b).ok().and_then(|b| a.checked_pow(b));
            whole(power.or(matches!(a, 0 | 1).then_some(a)))
        }
        (BinOpKind::Sub, None) => Ok(Value::Float(x - y)),
        (BinOpKind::Div, _) => Ok(Value::Float(x / y)),
        (BinOpKind::FloorDiv, None) => Ok(Value::Float((x / y).floor())),
        (BinOpKind::Rem, None) => Ok(Value::Float(x - (x / y).floor() * y)),
        (BinOpKind::Pow, _) => Ok(Value::Float(x.powf(y))),
        _ => Err(mismatch("arithmetic", left, right)),
    }
}

/// `-value`
pub(super) fn negative(value: &Value) -> Rendered<Value> {
    match (value.int(), value.float()) {
        (Some(i), _) => i.checked_neg().map(Value::Int).ok_or_else(beyond),
        (None, Some(f)) => Ok(Value::Float(-f)),
        _ => Err(Halt::fault(format!("a {} has no negative", value.kind()))),
    }
}

/// How two numbers or two strings are ordered; `None` where one is not a number.
pub(super) fn order(left: &Value, right: &Value, budget: &Budget) -> Rendered<Option<Ordering>> {
    match (left, right) {
        (Value::Str(a), Value::Str(b)) => {
            budget.look(a.len().min(b.len()))?;
            Ok(Some(a.cmp(b)))
        }
        _ => match (left.int(), right.int(), left.float(), right.float()) {
            (Some(a), Some(b), ..) => Ok(Some(a.cmp(&b))),
            (_, _, Some(a), Some(b)) => Ok(a.partial_cmp(&b)),
            _ => Err(mismatch("an order", left, right)),
        },
    }
}

/// `item in container`
pub(super) fn contains(container: &Value, item: &Value, budget: &Budget) -> Rendered<bool> {
    match (container, item) {
        (Value::Str(text), Value::Str(part)) => {
            budget.look(text.len() + part.len())?;
            Ok(text.contains(&**part))
        }
        (Value::Str(_), other) => Err(Halt::fault(format!("a {} cannot be in a str", other.kind()))),
        (Value::Dict(dict), key) => Ok(dict.get(key, budget)?.is_some()),
        (Value::List(s) | Value::Tuple(s) | Value::Iter(s), item) => {
            budget.look(8 * s.items().len())?;
            for known in s.items() {
                if known.equals(item, budget)? {
                    return Ok(true);
                }
            }
            Ok(false)
        }
        (Value::Undefined, _) => Ok(false),
        (other, _) => Err(Halt::fault(format!("nothing can be in a {}", other.kind()))),
    }
}

/// `value[key]`; undefined where there is none.
pub(super) fn item(value: &Value, key: &Value, budget: &Budget) -> Rendered<Value> {
    let found = match (value, key.int()) {
        (Value::List(s) | Value::Tuple(s), Some(at)) => place(at, s.items().len()).map(|at| s.items()[at].clone()),
        (Value::Str(s), Some(at)) => {
            budget.look(s.len())?;
            let found = place(at, s.chars().count()).and_then(|at| s.chars().nth(at));
            found.map(|c| Value::text(c.encode_utf8(&mut [0; 4]), budget)).transpose()?
        }
        (Value::Dict(dict), _) => dict.get(key, budget)?.cloned(),
        _ => None,
    };
    Ok(found.unwrap_or(Value::Undefined))
}

/// Python's index, which may count from the end.
fn place(at: i64, len: usize) -> Option<usize> {
    let at = if at < 0 { at.checked_add(len as i64)? } else { at };
    usize::try_from(at).ok().filter(|&at| at < len)
}

/// `value[start:stop:step]`; undefined where the value is no sequence.
pub(super) fn slice(value: &Value, bounds: &[Value; 3], budget: &Budget) -> Rendered<Value> {
    let bound = |b: &Value| match (b, b.int()) {
        (Value::None, _) => Ok(None),
        (_, Some(i)) => Ok(Some(i)),
        (other, None) => Err(Halt::fault(format!("a slice is bounded by whole numbers, not by a {}", other.kind()))),
    };
    let bounds = (bound(&bounds[0])?, bound(&bounds[1])?, bound(&bounds[2])?.unwrap_or(1));
    if bounds.2 == 0 {
        return Err(Halt::fault("a slice with steps of zero"));
    }
    if !matches!(value, Value::Str(_) | Value::List(_) | Value::Tuple(_)) {
        return Ok(Value::Undefined);
    }
    let len = value.len(budget)?;
    let places = places(bounds, len as i64);
    let mut items = Items::new(budget);
    match value {
        Value::Str(s) if bounds.2 == 1 => {
            budget.look(s.len())?;
            let mut offsets = s.char_indices().map(|(at, _)| at).chain([s.len()]);
            let Some(start) = places.clone().next() else { return Value::text("", budget) };
            let from = offsets.nth(start).unwrap_or(s.len());
            let to = offsets.nth(places.count() - 1).unwrap_or(s.len());
            Value::text(&s[from..to], budget)
        }
        Value::Str(s) => {
            budget.room::<char>(2 * len)?;
            let chars: Vec<char> = s.chars().collect();
            Value::text(&places.map(|at| chars[at]).collect::<String>(), budget)
        }
        Value::List(s) | Value::Tuple(s) => {
            for at in places {
                items.push(s.items()[at].clone())?;
            }
            let tuple = matches!(value, Value::Tuple(_));
            items.seq().map(|s| if tuple { Value::Tuple(s) } else { Value::List(s) })
        }
        _ => Ok(Value::Undefined),
    }
}

/// The places that a slice takes from `len` items.
fn places((start, stop, step): (Option<i64>, Option<i64>, i64), len: i64) -> impl Iterator<Item = usize> + Clone {
    let forward = step > 0;
    let (low, high) = if forward { (0, len) } else { (-1, len - 1) };
    let clamp = |i: i64| (if i < 0 { i.saturating_add(len) } else { i }).clamp(low, high);
    let first = start.map_or(if forward { low } else { high }, clamp);
    let last = stop.map_or(if forward { high } else { low }, clamp);
    let inside = move |i: &i64| if forward { *i < last } else { *i > last };
    std::iter::successors(Some(first), move |i| i.checked_add(step)).take_while(inside).map(|i| i as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_take_what_python_takes() {
        let of = |start, stop, step, len| places((start, stop, step), len).collect::<Vec<_>>();
        assert_eq!(of(None, None, 1, 3), [0, 1, 2]);
        assert_eq!(of(None, None, -1, 3), [2, 1, 0]);
        assert_eq!(of(Some(1), None, 1, 3), [1, 2]);
        assert_eq!(of(Some(-2), Some(-1), 1, 3), [1]);
        assert_eq!(of(Some(5), Some(-9), -2, 5), [4, 2, 0]);
        assert!(of(Some(2), Some(1), 1, 3).is_empty());
        assert_eq!(of(None, None, i64::MIN, 3), [2]);
        assert_eq!(of(Some(i64::MIN), Some(i64::MAX), i64::MAX, 3), [0]);
        assert!(of(None, None, -1, 0).is_empty());
    }

    #[test]
    fn whole_numbers_divide_towards_the_floor() {
        let of = |op, a, b| arithmetic(op, &Value::Int(a), &Value::Int(b)).ok().and_then(|v| v.int());
        for (a, b) in [(7, 2), (-7, 2), (7, -2), (-7, -2), (6, -3)] {
            let floor = (a as f64 / b as f64).floor() as i64;
            assert_eq!(of(BinOpKind::FloorDiv, a, b), Some(floor), "{a} // {b}");
            assert_eq!(of(BinOpKind::Rem, a, b), Some(a - floor * b), "{a} % {b}");
        }
        for (op, a, b) in [
            (BinOpKind::FloorDiv, 1, 0),
            (BinOpKind::Rem, 1, 0),
            (BinOpKind::FloorDiv, i64::MIN, -1),
            (BinOpKind::Sub, i64::MIN, 1),
            (BinOpKind::Pow, 10, 19),
            (BinOpKind::Pow, 2, i64::MAX),
        ] {
            assert_eq!(of(op, a, b), None);
        }
        assert_eq!(of(BinOpKind::Pow, 1, i64::MAX), Some(1));
    }
}
