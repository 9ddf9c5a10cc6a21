//! What a grammar may ask for. llguidance bounds its own work for the most part; here is what keeps it from work without end.

use llguidance::{
    ParserFactory,
    api::{ParserLimits, TopLevelGrammar},
    derivre::{ExprRef, RegexAst, RegexBuilder, raw::ExprSet},
    earley::lexerspec::LexerSpec,
};
use serde_json::{Map, Value, json};

use super::Grammar;
use crate::{Error, Result};

/// Most bytes of a JSON schema.
const SCHEMA_BYTES: usize = 256 << 10;
/// Most values in it, beside lists of constants.
const SCHEMA_VALUES: usize = 20_000;
/// Most entries of an object or array in it, beside lists of constants: the work for one grows with their square.
const SCHEMA_ENTRIES: usize = 1000;
/// Most bytes of a `pattern`, and most patterns of one `patternProperties`: each is held against each other.
const PATTERN_BYTES: usize = 1000;
const PATTERNS: usize = 20;
/// Most bytes of a regular expression: what it compiles to can grow with the square.
const REGEX_BYTES: usize = 8 << 10;
/// Most bytes of a grammar, and most rules: its compiler recurses from rule to rule.
const LARK_BYTES: usize = 64 << 10;
const LARK_RULES: usize = 512;
/// Most ways in which expressions that have to match at once (`pattern` with `format`, `allOf`, Lark's `&`) may go on by one
/// character: the product of their ways. llguidance counts such work only after it was done.
const WAYS: f64 = 100_000.0;
/// Largest `multipleOf`, without its decimal point: each remainder is a state.
const DIVISOR: u32 = 10_000;
/// Between the parts of JSON. Without a bound small models are known to write blanks for ever.
const WHITESPACE: &str = r"[ ]|\n[ \t]{0,40}";

/// Bounds on llguidance's own work: 200,000 units of a lexer's are some 15 ms for a token in the worst case; a lexer's state is a
/// kilobyte or two.
pub(super) fn parser() -> ParserLimits {
    ParserLimits { max_lexer_states: 50_000, max_grammar_size: 50_000, verbose_errors: false, ..ParserLimits::default() }
}

/// A grammar for llguidance.
///
/// # Errors
/// [`Error::Usage`] for a text that is too large or, as far as can be told here, malformed.
pub(super) fn source(grammar: &Grammar) -> Result<TopLevelGrammar> {
    let source = match grammar {
        Grammar::Json => schema(r#"{"type": "object"}"#),
        Grammar::JsonSchema(text) => schema(text),
        Grammar::Tagged { open, schema, close, most } => tagged([open, close], schema, *most),
        Grammar::Regex(text) => regex(text),
        Grammar::Lark(text) => lark(text),
    };
    source.map_err(|problem| Error::Usage(format!("{}: {problem}", grammar.name())))
}

fn at_most(bytes: usize, text: &str) -> Result<(), String> {
    match text.len() {
        seen if seen > bytes => Err(format!("{seen} bytes; at most {bytes} are allowed")),
        _ => Ok(()),
    }
}

fn schema(text: &str) -> Result<TopLevelGrammar, String> {
    checked_schema(text).map(TopLevelGrammar::from_json_schema)
}

fn tagged(tags: [&str; 2], schema: &str, most: usize) -> Result<TopLevelGrammar, String> {
    let schema = checked_schema(schema)?;
    let [open, close] = tags.map(|tag| Value::from(tag).to_string()); // Lark quotes as JSON does
    let more = match most {
        0 => return Err("at least one text is needed".into()),
        1 => String::new(),
        _ => format!(" (\"\\n\" tagged){{0,{}}}", most - 1),
    };
    let rules = format!("start: tagged{more}\ntagged: {open} inside {close}\ninside: %json {schema}\n");
    Ok(TopLevelGrammar::from_lark(rules))
}

fn checked_schema(text: &str) -> Result<Value, String> {
    at_most(SCHEMA_BYTES, text)?;
    let mut schema: Value = serde_json::from_str(text).map_err(|e| format!("no JSON: {e}"))?;
    if schema == Value::Bool(true) {
        schema = Value::Object(Map::new());
    }
    shape(&schema)?;
    let Some(top) = schema.as_object_mut() else { return Err("an object is expected, as in {\"type\": \"object\"}".into()) };
    top.entry("x-guidance").or_insert_with(|| json!({"whitespace_pattern": WHITESPACE}));
    Ok(schema)
}

/// Whether a schema is of a size that compiles within a second or two.
fn shape(schema: &Value) -> Result<(), String> {
    let mut values = 0;
    let mut left = vec![schema];
    while let Some(value) = left.pop() {
        values += 1;
        let entries = value.as_object().map_or(0, Map::len).max(value.as_array().map_or(0, Vec::len));
        if values > SCHEMA_VALUES || entries > SCHEMA_ENTRIES {
            return Err(format!(
                "at most {SCHEMA_VALUES} values in all and {SCHEMA_ENTRIES} in one object or list are allowed; make it smaller"
            ));
        }
        left.extend(value.as_array().into_iter().flatten());
        for (key, value) in value.as_object().into_iter().flatten() {
            let patterns: Vec<&String> = match (key.as_str(), value) {
                ("enum" | "required" | "examples", Value::Array(_)) => continue,
                ("pattern", Value::String(pattern)) => vec![pattern],
                ("patternProperties", Value::Object(map)) => map.keys().collect(),
                _ => Vec::new(),
            };
            let longest = patterns.iter().map(|p| p.len()).max().unwrap_or(0);
            if longest > PATTERN_BYTES || patterns.len() > PATTERNS {
                let seen = format!("{key}: {} patterns, the longest of {longest} bytes", patterns.len());
                return Err(format!("{seen}; at most {PATTERNS} of {PATTERN_BYTES} bytes are allowed"));
            }
            left.push(value);
        }
    }
    Ok(())
}

fn regex(text: &str) -> Result<TopLevelGrammar, String> {
    at_most(REGEX_BYTES, text)?;
    // The whole text has to match in any case.
    let inner = text.strip_prefix('^').unwrap_or(text);
    let slashes = |s: &str| s.len() - s.trim_end_matches('\\').len();
    let inner = inner.strip_suffix('$').filter(|s| slashes(s) % 2 == 0).unwrap_or(inner);
    match () {
        () if inner.is_empty() => Err("it is empty; give an expression that matches some text".into()),
        () if slashes(inner) % 2 == 1 => Err("it ends with a backslash; write \\\\ for the character itself".into()),
        () => Ok(TopLevelGrammar::from_regex(inner)),
    }
}

fn lark(text: &str) -> Result<TopLevelGrammar, String> {
    at_most(LARK_BYTES, text)?;
    let rules = text.matches(':').count();
    if rules > LARK_RULES {
        return Err(format!("{rules} rules (colons); at most {LARK_RULES} are allowed"));
    }
    let attribute = |at: usize| text[..at].trim_end().ends_with(['[', ',']);
    let given = |at: usize, key: &str| text[at + key.len()..].trim_start().starts_with('=');
    if text.match_indices("temperature").any(|(at, key)| attribute(at) && given(at, key)) {
        return Err("temperature= in a rule is not supported; set the temperature of the whole text".into());
    }
    for (at, key) in text.match_indices("%json") {
        let inside = serde_json::Deserializer::from_str(&text[at + key.len()..]).into_iter().next();
        if let Some(Ok(inside)) = inside {
            shape(&inside)?;
        }
    }
    Ok(TopLevelGrammar::from_lark(text.to_owned()))
}

/// Refuses what this engine does not do, and expressions whose first step alone would take too long.
pub(super) fn check_lexer(lexer: &LexerSpec) -> Result<(), String> {
    if lexer.special_token_rx.is_some() {
        return Err("it names tokens by number (<[...]>); a grammar describes text, name the text instead".into());
    }
    let exprs = lexer.regex_builder.exprset();
    let kinds = Kinds::new()?;
    let mut ways = vec![1.0f64; exprs.len()]; // in how many ways each expression can go on; its parts come before it
    for id in (1..exprs.len() as u32).map(ExprRef::new) {
        let (kind, args) = (exprs.get_tag(id) as u8, exprs.get_args(id));
        let parts = args.iter().map(|part| ways[part.as_usize()]);
        let here = match kind {
            k if k == kinds.and => parts.product(),
            k if k == kinds.or => parts.sum(),
            k if k == kinds.concat && exprs.is_nullable(args[0]) => parts.sum(),
            k if k == kinds.not => 1.0 + parts.sum::<f64>(),
            _ => parts.fold(1.0, f64::max),
        };
        if kind == kinds.and && here > WAYS {
            let n = args.len();
            return Err(format!("{n} expressions that have to match at once are too complex together; join them into one"));
        }
        if kind == kinds.multiple && divisor(exprs, id).is_none_or(|d| d > DIVISOR) {
            let seen = divisor(exprs, id).map_or("it".into(), |d| d.to_string());
            return Err(format!("multipleOf: {seen}, without its decimal point, is more than {DIVISOR}"));
        }
        ways[id.as_usize()] = here;
    }
    Ok(())
}

/// The largest number of a `multipleOf`; llguidance shows it but does not give it.
fn divisor(exprs: &ExprSet, id: ExprRef) -> Option<u32> {
    let shown = exprs.expr_to_string(id); // "( % 10 == 10 )"
    let digits = shown.split('%').nth(1)?.trim_start();
    digits[..digits.find(|c: char| !c.is_ascii_digit())?].parse().ok()
}

/// The kinds of expressions that [`check_lexer`] tells apart, taken from one of each: they have no names outside of llguidance.
struct Kinds {
    and: u8,
    or: u8,
    concat: u8,
    not: u8,
    multiple: u8,
}

impl Kinds {
    fn new() -> Result<Self, String> {
        let mut builder = RegexBuilder::new();
        let regex = |text: &str| RegexAst::Regex(text.into());
        let both = || vec![regex("[ab]*c"), regex("a*[bc]")];
        let mut kind = |ast: RegexAst| {
            let id = builder.mk(&ast).map_err(|e| e.to_string())?;
            Ok::<u8, String>(builder.exprset().get_tag(id) as u8)
        };
        Ok(Self {
            and: kind(RegexAst::And(both()))?,
            or: kind(RegexAst::Or(both()))?,
            concat: kind(regex("[ab]*c"))?,
            not: kind(RegexAst::Not(Box::new(regex("[ab]*c"))))?,
            multiple: kind(RegexAst::MultipleOf(7, 0))?,
        })
    }
}

/// Takes the first step of a lexer as llguidance will, but within its limits: there it has none yet.
pub(super) fn try_lexer(mut lexer: LexerSpec, factory: &ParserFactory) -> anyhow::Result<Result<(), String>> {
    let mut limits = factory.limits().clone();
    lexer.add_extra_lexemes(&factory.extra_lexemes()); // the same numbers for the same expressions, and so the same order of work
    let mut states = lexer.to_regex_vec(&mut limits)?;
    states.set_fuel(limits.initial_lexer_fuel);
    states.set_max_states(limits.max_lexer_states);
    let first = states.initial_state(&lexer.all_lexemes());
    for byte in 0..=u8::MAX {
        states.transition(first, byte);
    }
    Ok(if states.has_error() {
        Err("too complex: it takes too long to tell whether any text follows it".into())
    } else {
        Ok(())
    })
}
