//! Holds a value against the part of JSON Schema that the tests use; any other keyword fails the test.

use serde_json::Value;

/// What is wrong with `value`, if anything is. `root` is where references point into.
pub(super) fn problem(root: &Value, schema: &Value, value: &Value) -> Option<String> {
    let of = |key: &str, part: &Value, value: &Value| problem(root, part, value).map(|p| format!("{key}: {p}"));
    let list = |v: &Value| v.as_array().cloned().unwrap_or_default();
    let number = |v: &Value| v.as_f64().expect("a number");
    for (key, wanted) in schema.as_object().expect("a schema") {
        let fails = match (key.as_str(), value) {
            ("$defs", _) => false,
            ("$ref", _) => {
                let target = root.pointer(wanted.as_str().unwrap().trim_start_matches('#')).expect("a definition");
                if let Some(p) = of(key, target, value) {
                    return Some(p);
                }
                false
            }
            ("anyOf", _) => list(wanted).iter().all(|s| problem(root, s, value).is_some()),
            ("type", _) => !(wanted.as_str() == Some(kind(value, wanted)) || list(wanted).iter().any(|t| *t == kind(value, t))),
            ("const", _) => wanted != value,
            ("enum", _) => !list(wanted).contains(value),
            ("properties", Value::Object(map)) => {
                let bad = map.iter().find_map(|(k, v)| of(k, wanted.get(k)?, v));
                if bad.is_some() {
                    return bad;
                }
                false
            }
            ("required", Value::Object(map)) => list(wanted).iter().any(|k| !map.contains_key(k.as_str().unwrap())),
            ("patternProperties", Value::Object(map)) => {
                // the tests know one pattern
                assert_eq!(wanted.as_object().unwrap().keys().collect::<Vec<_>>(), ["^[a-z]+_id$"]);
                let named =
                    |k: &str| k.strip_suffix("_id").is_some_and(|k| !k.is_empty() && k.bytes().all(|b| b.is_ascii_lowercase()));
                map.iter().any(|(k, v)| !named(k) || !v.is_i64())
            }
            ("additionalProperties", Value::Object(map)) => {
                let named = |k: &String| schema.get("properties").is_some_and(|p| p.get(k).is_some());
                let more = map.iter().filter(|(k, _)| !named(k));
                match wanted {
                    Value::Bool(false) if schema.get("patternProperties").is_none() => more.count() > 0,
                    Value::Bool(_) => false,
                    part => more.into_iter().any(|(_, v)| problem(root, part, v).is_some()),
                }
            }
            ("minProperties", Value::Object(map)) => (map.len() as f64) < number(wanted),
            ("items", Value::Array(items)) => items.iter().any(|v| problem(root, wanted, v).is_some()),
            ("minItems", Value::Array(items)) => (items.len() as f64) < number(wanted),
            ("maxItems", Value::Array(items)) => items.len() as f64 > number(wanted),
            ("minimum", Value::Number(_)) => number(value) < number(wanted),
            ("maximum", Value::Number(_)) => number(value) > number(wanted),
            ("exclusiveMinimum", Value::Number(_)) => number(value) <= number(wanted),
            ("multipleOf", Value::Number(_)) => number(value) % number(wanted) != 0.0,
            ("minLength", Value::String(s)) => (s.chars().count() as f64) < number(wanted),
            ("maxLength", Value::String(s)) => s.chars().count() as f64 > number(wanted),
            ("pattern", Value::String(s)) => {
                assert_eq!(wanted, "^[가-힣]{2,5}$"); // the one that the tests know
                !(2..=5).contains(&s.chars().count()) || !s.chars().all(|c| ('가'..='힣').contains(&c))
            }
            ("format", Value::String(s)) => {
                assert_eq!(wanted, "date");
                let parts: Vec<u32> = s.split('-').filter_map(|p| p.parse().ok()).collect();
                !(parts.len() == 3 && s.len() == 10 && (1..=12).contains(&parts[1]) && (1..=31).contains(&parts[2]))
            }
            (
                "properties"
                | "required"
                | "patternProperties"
                | "additionalProperties"
                | "minProperties"
                | "items"
                | "minItems"
                | "maxItems"
                | "minimum"
                | "maximum"
                | "exclusiveMinimum"
                | "multipleOf"
                | "minLength"
                | "maxLength"
                | "pattern"
                | "format",
                _,
            ) => false, // says nothing about values of another type
            (other, _) => panic!("the tests do not know {other}"),
        };
        if fails {
            return Some(format!("{key} {wanted} does not hold for {value}"));
        }
    }
    None
}

/// The type of a value; a whole number is the one of the two that is asked for.
fn kind(value: &Value, wanted: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if wanted == "integer" && n.as_f64().is_some_and(|n| n.fract() == 0.0) => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}
