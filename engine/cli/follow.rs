//! What an answer has to follow, as flags: of `run` and of `bench grammar`.

use std::path::{Path, PathBuf};

use clap::Args;
use dreamseed_models::weights::read_whole;

use crate::llm::Grammar;
use crate::{Error, Result};

/// What an answer has to follow; at most one of them.
#[derive(Clone, Debug, Default, Args)]
pub struct FollowArgs {
    /// The answer is JSON that is valid against this schema: a file, or the schema itself when it begins with {
    #[arg(long, value_name = "FILE|JSON", group = "follow")]
    pub json_schema: Option<String>,
    /// The whole answer matches this regular expression
    #[arg(long, value_name = "REGEX", group = "follow")]
    pub regex: Option<String>,
    /// The answer follows this grammar: llguidance's form of Lark, whose first rule is `start`
    #[arg(long, value_name = "FILE", group = "follow")]
    pub grammar: Option<PathBuf>,
}

/// Most bytes that are read of a schema or grammar, more than are allowed.
const MAX_GRAMMAR: u64 = 1 << 20;

impl FollowArgs {
    /// The grammar, read and checked as far as can be without a model.
    pub(super) fn grammar(&self) -> Result<Option<Grammar>> {
        let grammar = match (&self.json_schema, &self.regex, &self.grammar) {
            (Some(json), ..) if json.trim_start().starts_with('{') => Grammar::JsonSchema(json.clone()),
            (Some(file), ..) => Grammar::JsonSchema(read_file(Path::new(file))?),
            (_, Some(regex), _) => Grammar::Regex(regex.clone()),
            (.., Some(file)) => Grammar::Lark(read_file(file)?),
            _ => return Ok(None),
        };
        grammar.check()?;
        Ok(Some(grammar))
    }
}

fn read_file(path: &Path) -> Result<String> {
    let failed = |source| Error::Io { path: path.into(), source };
    let bytes = read_whole(path, MAX_GRAMMAR).map_err(failed)?;
    String::from_utf8(bytes).map_err(|e| failed(std::io::Error::new(std::io::ErrorKind::InvalidData, e)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grammar_comes_from_its_flag_or_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), r#"{"type": "null"}"#).unwrap();
        let of = |follow: FollowArgs| follow.grammar();
        let path = || Some(file.path().to_str().unwrap().to_owned());
        let schema = Some(Grammar::JsonSchema(r#"{"type": "null"}"#.into()));
        assert_eq!(of(FollowArgs { json_schema: path(), ..Default::default() }).unwrap(), schema);
        assert_eq!(of(FollowArgs { json_schema: Some(r#"{"type": "null"}"#.into()), ..Default::default() }).unwrap(), schema);
        assert_eq!(of(FollowArgs::default()).unwrap(), None);
        let refused = of(FollowArgs { json_schema: Some("{".into()), ..Default::default() });
        assert!(matches!(refused, Err(Error::Usage(m)) if m.contains("no JSON")));
        assert!(matches!(of(FollowArgs { grammar: Some("no-such-file".into()), ..Default::default() }), Err(Error::Io { .. })));
    }
}
