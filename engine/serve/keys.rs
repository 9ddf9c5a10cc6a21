//! API keys: who may ask for what, and how often.
//!
//! A key is 32 random bytes, shown once when it is made; the file keeps its SHA-256 alone. So many random bits need no slow hash, and
//! a look-up by the hash takes the same time whatever of the key is right.

use std::{
    collections::HashMap,
    num::NonZeroU32,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header},
    middleware::Next,
    response::Response,
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter, clock::Clock};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{
    Shared,
    abuse::{self, Who},
    admission::Priority,
    error::Problem,
    issuers::Issuers,
    work::work,
};
use crate::{Error, Result, manifest};

/// What a key opens.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Language models.
    Chat,
    /// Speech to text.
    Speech,
    /// Lessons.
    Coach,
    /// Bodies and feature matrices.
    Senses,
    /// The server's own figures.
    Metrics,
    /// Loading models anew.
    Admin,
}

/// A file of keys.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default, rename = "key")]
    keys: Vec<Entry>,
}

/// A key as the file has it.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    /// Whose it is: in logs.
    name: String,
    /// Of the key's text, lower-case hex.
    sha256: String,
    scopes: Vec<Scope>,
    #[serde(default)]
    limits: Limits,
}

/// How often a key may be used, and how much its requests matter.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, clap::Args)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Requests a minute (0: as many as there is room for)
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub per_minute: u32,
    /// Requests in a day, from midnight UTC on (0: as many as there is room for)
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub per_day: u32,
    /// Its requests let all others go first
    #[arg(long)]
    pub batch: bool,
}

/// Whose key it is and what it opens.
struct Holder {
    name: Arc<str>,
    scopes: Vec<Scope>,
    limit: Option<DefaultDirectRateLimiter>,
    day: Option<Day>,
    priority: Priority,
}

/// Requests of a day.
struct Day {
    most: u32,
    seen: Mutex<(u64, u32)>, // the day, counted from 1970, and its requests
}

impl Day {
    fn new(most: u32) -> Option<Self> {
        (most > 0).then(|| Self { most, seen: Mutex::default() })
    }

    /// Counts a request.
    ///
    /// # Errors
    /// Seconds until the next day, where this one's are used up.
    fn count(&self, now: u64) -> Result<(), u64> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.0 != now / DAY {
            *seen = (now / DAY, 0);
        }
        if seen.1 == self.most {
            return Err(DAY - now % DAY);
        }
        seen.1 += 1;
        Ok(())
    }
}

/// Seconds.
const DAY: u64 = 86_400;
/// What stands before a key among the protocols of a WebSocket: a browser's page cannot set headers of one, and an address, which ends in
/// logs, is no place for a key.
const KEY_PROTOCOL: &str = "dreamseed.key.";

/// The keys that are known; none: everybody may ask for everything.
#[derive(Default)]
pub(super) struct Keys(Option<HashMap<[u8; 32], Holder>>);

/// Who asks.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    pub(super) name: Arc<str>,
    pub(super) priority: Priority,
}

impl Keys {
    /// Reads a file of keys; an empty path: no keys.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Usage`] for what is wrong in it.
    pub(super) fn open(path: &Path) -> Result<Self> {
        if path.as_os_str().is_empty() {
            return Ok(Self::default());
        }
        let text = manifest::read_text(path).map_err(|source| Error::Io { path: path.into(), source })?;
        let wrong = |problem: String| Error::Usage(format!("{}: {problem}", path.display()));
        let file: File = toml::from_str(&text).map_err(|e| wrong(crate::config::wrong_toml(&text, &e)))?;
        if file.keys.is_empty() {
            return Err(wrong("no key in it; `dreamseed key new NAME` makes one".into()));
        }
        let mut holders = HashMap::new();
        for entry in file.keys {
            let hash = digest(&entry.sha256)
                .ok_or_else(|| wrong(format!("key {:?}: sha256 must be 64 lower-case hexadecimal digits", entry.name)))?;
            if entry.scopes.is_empty() {
                return Err(wrong(format!("key {:?} has no scopes: it opens nothing", entry.name)));
            }
            let limit = NonZeroU32::new(entry.limits.per_minute).map(|n| RateLimiter::direct(Quota::per_minute(n)));
            let priority = if entry.limits.batch { Priority::Batch } else { Priority::Interactive };
            let (name, day) = (entry.name.as_str().into(), Day::new(entry.limits.per_day));
            let holder = Holder { name, scopes: entry.scopes, limit, day, priority };
            if holders.insert(hash, holder).is_some() {
                return Err(wrong(format!("key {:?} is there twice", entry.name)));
            }
        }
        Ok(Self(Some(holders)))
    }

    /// Whether there are none.
    pub(super) fn is_open(&self) -> bool {
        self.0.is_none()
    }

    /// Who asks, if they may.
    fn admit(&self, key: &str, scope: Scope) -> Result<Caller, Problem> {
        let unknown = || Problem::new(StatusCode::UNAUTHORIZED, "invalid_api_key", "this API key is not known");
        let hash = <[u8; 32]>::from(Sha256::digest(key));
        let holder = self.0.as_ref().and_then(|holders| holders.get(&hash)).ok_or_else(unknown)?;
        opens(&holder.scopes, scope)?;
        if let Some(limit) = &holder.limit
            && let Err(until) = limit.check()
        {
            let wait = until.wait_time_from(governor::clock::DefaultClock::default().now()).as_secs() + 1;
            let message = format!("this API key has used up its requests of this minute; try again in {wait} s");
            let many = Problem::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit", message);
            return Err(Problem { retry_after: Some(wait), ..many });
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        if let Some(Err(wait)) = holder.day.as_ref().map(|day| day.count(now)) {
            let message = format!("this API key has used up its requests of this day; try again in {wait} s");
            let many = Problem::new(StatusCode::TOO_MANY_REQUESTS, "daily_quota", message);
            return Err(Problem { retry_after: Some(wait), ..many });
        }
        Ok(Caller { name: holder.name.clone(), priority: holder.priority })
    }
}

fn opens(scopes: &[Scope], scope: Scope) -> Result<(), Problem> {
    if scopes.contains(&scope) {
        return Ok(());
    }
    Err(Problem::new(StatusCode::FORBIDDEN, "scope", format!("this key does not open {}", name(scope))))
}

/// What comes after `Bearer` in the header of a request, or after [`KEY_PROTOCOL`] among the protocols of a WebSocket.
///
/// # Errors
/// 401 where there is nothing.
fn bearer(headers: &HeaderMap) -> Result<&str, Problem> {
    let given = headers.get(header::AUTHORIZATION).and_then(|v| v.to_str().ok()).and_then(|v| v.split_once(' '));
    let key = given.filter(|(kind, _)| kind.eq_ignore_ascii_case("bearer")).map(|(_, key)| key.trim());
    key.or_else(|| protocols(headers).find_map(|name| name.strip_prefix(KEY_PROTOCOL))).ok_or_else(|| {
        let message = "an API key is needed: send the header `Authorization: Bearer KEY`";
        Problem::new(StatusCode::UNAUTHORIZED, "missing_api_key", message)
    })
}

/// Names that a WebSocket's client offers to speak.
fn protocols(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let all = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).into_iter().filter_map(|v| v.to_str().ok());
    all.flat_map(|v| v.split(',')).map(str::trim)
}

/// Lets a request through to its route where its key, or its token, opens `scope`.
pub(super) async fn authorize(
    State((server, scope)): State<(Shared, Scope)>,
    mut request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let caller = match caller(&server, request.headers(), scope).await {
        Ok(caller) => caller,
        Err(problem) => {
            if let Some(peer) = abuse::peer(&request).filter(|_| problem.status == StatusCode::UNAUTHORIZED) {
                server.abuse.check(&peer).await?;
            }
            return Err(problem);
        }
    };
    tracing::debug!(caller = &*caller.name, path = request.uri().path(), "let in");
    if !server.is_open() {
        server.abuse.check(&Who::Caller(caller.name.clone())).await?;
    }
    request.extensions_mut().insert(caller.clone());
    let mut response = next.run(request).await;
    response.extensions_mut().insert(caller); // for whom it counts if it is a refusal
    Ok(response)
}

/// Who asks, by an API key or a token that opens `scope`.
async fn caller(server: &Shared, headers: &HeaderMap, scope: Scope) -> Result<Caller, Problem> {
    if server.is_open() {
        return Ok(Caller { name: "anyone".into(), priority: Priority::Interactive });
    }
    let given = bearer(headers)?;
    if server.issuers.is_empty() || !Issuers::looks_like_token(given) {
        return server.keys.admit(given, scope);
    }
    let (server, token) = (server.clone(), given.to_owned());
    let granted = work(move |_| server.issuers.verify(&token)).await?;
    opens(&granted.scopes, scope)?;
    Ok(granted.caller)
}

impl Scope {
    /// By its name in files and tokens.
    pub(super) fn named(text: &str) -> Option<Self> {
        [Self::Chat, Self::Speech, Self::Coach, Self::Senses, Self::Metrics, Self::Admin].into_iter().find(|s| name(*s) == text)
    }
}

fn name(scope: Scope) -> &'static str {
    match scope {
        Scope::Chat => "chat",
        Scope::Speech => "speech",
        Scope::Coach => "coach",
        Scope::Senses => "senses",
        Scope::Metrics => "metrics",
        Scope::Admin => "admin",
    }
}

fn digest(hex: &str) -> Option<[u8; 32]> {
    if !manifest::is_sha256(hex) {
        return None;
    }
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(bytes)
}

/// A new key, and its entry for the file of keys.
///
/// # Errors
/// [`Error::Internal`] when the system has no random numbers.
pub fn new_key(name: &str, scopes: &[Scope], limits: Limits) -> Result<(String, String)> {
    let mut random = [0; 32];
    getrandom::fill(&mut random).map_err(|e| Error::Internal(format!("random numbers: {e}")))?;
    let key = format!("ds-{}", URL_SAFE_NO_PAD.encode(random));
    let sha256 = Sha256::digest(&key).iter().map(|b| format!("{b:02x}")).collect();
    let file = File { keys: vec![Entry { name: name.into(), sha256, scopes: scopes.into(), limits }] };
    let entry = toml::to_string(&file).map_err(|e| Error::Internal(e.to_string()))?;
    Ok((key, entry))
}

/// Adds an entry to a file of keys that nobody else can read, making it where there is none.
///
/// # Errors
/// [`Error::Io`].
pub fn append(path: &Path, entry: &str) -> Result<()> {
    use std::{io::Write, os::unix::fs::OpenOptionsExt};
    let failed = |source| Error::Io { path: path.into(), source };
    let mut file = std::fs::OpenOptions::new().append(true).create(true).mode(0o600).open(path).map_err(failed)?;
    file.write_all(format!("{entry}\n").as_bytes()).and_then(|()| file.sync_all()).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(entries: &str) -> Result<Keys> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), entries).unwrap();
        Keys::open(file.path())
    }

    #[test]
    fn a_bearer_is_one_by_any_spelling() {
        let header = |value: &str| HeaderMap::from_iter([(header::AUTHORIZATION, value.parse().unwrap())]);
        assert_eq!(bearer(&header("bEARER  ds-x ")).unwrap(), "ds-x");
        for wrong in [header("Basic ds-x"), header("ds-x"), HeaderMap::new()] {
            assert_eq!(bearer(&wrong).err().unwrap().code, "missing_api_key");
        }
    }

    #[test]
    fn a_key_opens_its_scopes_and_nothing_else() {
        let (key, entry) =
            new_key("school", &[Scope::Chat, Scope::Coach], Limits { per_minute: 2, ..Limits::default() }).unwrap();
        assert!(!entry.contains(&key) && key.len() == 46, "{entry}");
        let keys = keys(&entry).unwrap();
        assert_eq!(&*keys.admit(&key, Scope::Coach).unwrap().name, "school");
        let status = |key: &str, scope| keys.admit(key, scope).err().map(|p| p.status.as_u16());
        assert_eq!(status(&key, Scope::Metrics), Some(403));
        assert_eq!(status(&key[1..], Scope::Chat), Some(401));
        assert_eq!(Keys::default().admit(&key, Scope::Chat).err().map(|p| p.code), Some("invalid_api_key"));
        // two a minute
        assert_eq!(status(&key, Scope::Chat), None);
        let refused = keys.admit(&key, Scope::Chat).err().unwrap();
        assert_eq!((refused.status.as_u16(), refused.code), (429, "rate_limit"));
        assert!((1..=31).contains(&refused.retry_after.unwrap()));
    }

    #[test]
    fn a_websocket_brings_its_key_as_a_protocol() {
        let offers = |text: &str| HeaderMap::from_iter([(header::SEC_WEBSOCKET_PROTOCOL, text.parse().unwrap())]);
        assert_eq!(bearer(&offers("dreamseed.v1, dreamseed.key.ds-abc_-1")).unwrap(), "ds-abc_-1");
        let mut both = offers("dreamseed.key.ds-abc");
        both.insert(header::AUTHORIZATION, "Bearer ds-of-the-header".parse().unwrap());
        assert_eq!(bearer(&both).unwrap(), "ds-of-the-header");
        for none in ["dreamseed.v1", "dreamseed.keyds-abc", ","] {
            assert_eq!(bearer(&offers(none)).err().unwrap().code, "missing_api_key");
        }
    }

    #[test]
    fn a_day_has_its_requests_and_the_next_one_too() {
        let day = Day::new(2).unwrap();
        let at = 20_000 * DAY + 5;
        assert_eq!([day.count(at), day.count(at), day.count(at)], [Ok(()), Ok(()), Err(DAY - 5)]);
        assert_eq!(day.count(at + DAY), Ok(()));
        assert!(Day::new(0).is_none());
    }

    #[test]
    fn what_is_wrong_in_a_file_of_keys_is_told() {
        let (_, entry) = new_key("a", &[Scope::Chat], Limits::default()).unwrap();
        for (text, wanted) in [
            (String::new(), "no key in it"),
            (entry.replace("scopes = [\"chat\"]", "scopes = []"), "opens nothing"),
            (entry.replace("sha256 = \"", "sha256 = \"x"), "64 lower-case"),
            (entry.replace("chat", "root"), "root"),
            (format!("{entry}\n{entry}"), "twice"),
        ] {
            let error = keys(&text).err().unwrap().to_string();
            assert!(error.contains(wanted), "{error}");
        }
        assert!(Keys::open(Path::new("")).unwrap().is_open());
    }
}
