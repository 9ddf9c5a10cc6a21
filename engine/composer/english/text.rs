//! English text as the checks read it: words and numbers, sentences, clauses that state and clauses that advise.

/// A word, a number or a sign, lower case.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Token<'a> {
    pub(super) text: &'a str,
    /// The value and the decimals of a number.
    pub(super) number: Option<(f64, usize)>,
    /// Index of the clause that it stands in.
    pub(super) clause: usize,
    /// Index of the sentence that it stands in.
    pub(super) sentence: usize,
}

/// Whether a clause says what was or what to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mood {
    State,
    Remedy,
}

pub(super) fn tokenize(lower: &str) -> Vec<Token<'_>> {
    let mut tokens: Vec<Token> = Vec::new();
    let (mut clause, mut sentence) = (0, 0);
    let bytes = lower.as_bytes();
    let mut i = 0;
    while i < lower.len() {
        let rest = &lower[i..];
        let c = rest.chars().next().unwrap_or(' ');
        let len = if c.is_ascii_digit() {
            let whole = rest.bytes().take_while(u8::is_ascii_digit).count();
            let more = rest[whole..].strip_prefix('.').map_or(0, |r| r.bytes().take_while(u8::is_ascii_digit).count());
            whole + if more > 0 { more + 1 } else { 0 }
        } else if c.is_alphabetic() {
            rest.char_indices().find(|(_, c)| !c.is_alphabetic() && *c != '\'').map_or(rest.len(), |(n, _)| n)
        } else {
            c.len_utf8()
        };
        let word = &rest[..len];
        let ends = matches!(c, '.' | '!' | '?') && bytes.get(i + 1).is_none_or(u8::is_ascii_whitespace);
        if ends {
            (clause, sentence) = (clause + 1, sentence + 1);
        } else if matches!(c, ',' | ';' | ':' | '(' | ')' | '—') || listed(SPLIT, word) {
            clause += 1;
        }
        if !c.is_whitespace() && !ends {
            let number = if c.is_ascii_digit() {
                word.parse().ok().map(|v| (v, word.split_once('.').map_or(0, |(_, d)| d.len())))
            } else {
                None
            };
            tokens.push(Token { text: word.trim_matches('\''), number, clause, sentence });
        }
        i += len;
    }
    spelled(&mut tokens);
    tokens
}

/// Words that begin a new clause.
const SPLIT: &str = "but so and while where whereas because which although though then instead until when";

/// Numbers in words. "One" is a number only before something counted: "one of", "this one" are not.
fn spelled(tokens: &mut [Token]) {
    const SMALL: &str = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen \
        eighteen nineteen";
    const TENS: &str = "twenty thirty forty fifty sixty seventy eighty ninety";
    for i in 0..tokens.len() {
        let next = tokens.get(i + 1).map_or("", |t| t.text);
        let value = match tokens[i].text {
            "one" if !listed(COUNTED, next) => None,
            "half" => Some(0.5),
            "twice" | "double" | "doubled" => Some(2.0),
            "triple" | "thrice" => Some(3.0),
            "hundred" => Some(100.0),
            "thousand" => Some(1000.0),
            "dozen" => Some(12.0),
            word => SMALL
                .split(' ')
                .position(|w| w == word)
                .map(|v| v as f64)
                .or_else(|| TENS.split(' ').position(|w| w == word).map(|v| 10.0 * (v + 2) as f64)),
        };
        if let Some(v) = value {
            tokens[i].number = Some((v, usize::from(v.fract() != 0.0)));
        }
    }
}

/// Things that "one" counts.
const COUNTED: &str = "second seconds degree degrees word words pause pauses time times syllable semitone percent minute";

/// Whether each clause states or advises. Advice lasts to the next clause with its own subject, or the end of the sentence.
pub(super) fn moods(tokens: &[Token]) -> Vec<Mood> {
    let clauses = tokens.last().map_or(0, |t| t.clause + 1);
    let mut moods = vec![Mood::State; clauses];
    let mut last = (Mood::State, usize::MAX);
    for (clause, mood) in moods.iter_mut().enumerate() {
        let words: Vec<&Token> = tokens.iter().filter(|t| t.clause == clause).collect();
        let Some(first) = words.iter().find(|t| !listed(FILLERS, t.text) && t.text.starts_with(char::is_alphanumeric)) else {
            *mood = last.0;
            continue;
        };
        let advises = words.iter().any(|t| listed(ADVISING, t.text)) || listed(IMPERATIVES, first.text);
        let own_subject =
            matches!(first.text, "you" | "your" | "the" | "it" | "this" | "that" | "there" | "at" | "from" | "in");
        *mood = match advises {
            true => Mood::Remedy,
            false if last == (Mood::Remedy, first.sentence) && !own_subject => Mood::Remedy,
            false => Mood::State,
        };
        last = (*mood, first.sentence);
    }
    moods
}

/// Words before the verb of an imperative.
const FILLERS: &str = "and then so but next please also instead now just q , always simply when until don't first";

/// Words that make a clause advice.
const ADVISING: &str = "try aim let let's should could practice practise consider focus want remember next avoid need needs don't goal \
    target improve can";

/// Verbs that begin advice.
const IMPERATIVES: &str = "add aim allow bend breathe bring build carry choose climb close come count deepen drop extend face fall feel find \
    finish follow give go hold hum imagine join keep lean leave lengthen let lift link listen look lower make match \
    mirror move open pause place play point practice practise push put raise read reach record reduce relax repeat rest \
    rise save say shorten show sing sit slow smooth soften speak speed stand start begin stay step stop straighten \
    stress stretch take tap think try turn use vary wait watch";

pub(super) fn near(tokens: &[Token], i: usize, back: usize, words: &str) -> bool {
    let clause = tokens[i].clause;
    tokens[i.saturating_sub(back)..i].iter().any(|t| t.clause == clause && listed(words, t.text))
}

/// Whether a list of words, parted by spaces, holds the word.
pub(super) fn listed(list: &str, word: &str) -> bool {
    list.split(' ').any(|w| w == word)
}
