//! Tokens (JWT, RFC 7519) that others have signed: each region's service signs with its own keys and publishes them (JWKS, RFC 7517).
//!
//! A token is verified by the key that its header names, of the issuer that it claims to be from; both only choose among what the
//! configuration allows, and nothing in a token is believed before its signature is. Keys are fetched when they are first needed, again
//! when a token names one that is not known (keys are rotated) and when they are old, at most once a minute whatever tokens say.

use std::{
    collections::HashMap,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use axum::http::StatusCode;
use jsonwebtoken::{
    Algorithm, DecodingKey, Validation,
    dangerous::insecure_decode,
    decode, decode_header,
    jwk::{Jwk, JwkSet, PublicKeyUse},
};
use serde::{Deserialize, Serialize};

use super::{
    admission::Priority,
    error::Problem,
    keys::{Caller, Scope},
};
use crate::{Error, Result};

/// Longest token, bytes.
const LONGEST: usize = 16 << 10;
/// Largest set of keys, bytes.
const LARGEST: u64 = 1 << 20;
/// How long a set of keys is believed before it is asked for again.
const FRESH: Duration = Duration::from_secs(3600);
/// Least time between two times of asking.
const PAUSE: Duration = Duration::from_secs(60);
/// How long an issuer may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Clocks that differ, seconds.
const LEEWAY: u64 = 60;
/// What tokens may be signed with. Shared secrets (HS256) are none: who can verify could sign.
const ALGORITHMS: [Algorithm; 3] = [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA];

/// Whose tokens are accepted.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Issuer {
    /// What their tokens say as `iss`.
    pub issuer: String,
    /// What their tokens say as `aud`.
    pub audience: String,
    /// Where their keys are: an https address (http on this machine alone), or a file.
    pub jwks: String,
}

impl Issuer {
    /// # Errors
    /// [`Error::Usage`] with what is missing or not allowed.
    pub(super) fn validate(&self) -> Result<()> {
        let wrong = |key: &str, problem: &str| Err(Error::Usage(format!("serve.issuers: {key}: {problem}")));
        if self.issuer.is_empty() || self.audience.is_empty() || self.jwks.is_empty() {
            return wrong("issuer, audience and jwks", "all three are needed");
        }
        if let Some(rest) = self.jwks.strip_prefix("http://")
            && !["127.0.0.1", "[::1]", "localhost"]
                .iter()
                .any(|h| rest.strip_prefix(h).is_some_and(|r| r.starts_with([':', '/'])))
        {
            return wrong("jwks", "keys from another machine have to come by https");
        }
        Ok(())
    }
}

/// What a token says of who brings it.
#[derive(Deserialize)]
struct Claims {
    sub: Option<String>,
    /// OAuth's form: names with spaces between (RFC 8693).
    scope: Option<String>,
    scopes: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct Claimed {
    iss: String,
}

/// All issuers.
#[derive(Default)]
pub(super) struct Issuers(HashMap<String, Known>);

/// An issuer and its keys as far as they are known.
struct Known {
    settings: Issuer,
    keys: Mutex<Keyset>,
    asked: Mutex<Option<Instant>>, // held while they are asked for
}

#[derive(Clone, Default)]
struct Keyset {
    keys: Arc<Vec<Jwk>>,
    fetched: Option<Instant>,
}

/// What a key's holder may do.
pub(super) struct Granted {
    pub(super) caller: Caller,
    pub(super) scopes: Vec<Scope>,
}

impl Issuers {
    /// # Errors
    /// [`Error::Usage`] for one that is there twice.
    pub(super) fn new(settings: &[Issuer]) -> Result<Self> {
        let mut all = HashMap::new();
        for one in settings {
            let known = Known { settings: one.clone(), keys: Mutex::default(), asked: Mutex::default() };
            if all.insert(one.issuer.clone(), known).is_some() {
                return Err(Error::Usage(format!("serve.issuers: {:?} is there twice", one.issuer)));
            }
        }
        Ok(Self(all))
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a bearer's text has the form of a token, not of an API key.
    pub(super) fn looks_like_token(text: &str) -> bool {
        text.len() <= LONGEST && text.split('.').count() == 3
    }

    /// Who brings a token, and what it opens. May ask the issuer for its keys: blocks.
    ///
    /// # Errors
    /// 401 for a token that is not valid, 503 where the issuer's keys cannot be had.
    pub(super) fn verify(&self, token: &str) -> Result<Granted, Problem> {
        let refused = |why: String| {
            tracing::debug!("a token was refused: {why}");
            Problem::new(StatusCode::UNAUTHORIZED, "invalid_token", "this token is not valid here, or not any more")
        };
        let header = decode_header(token).map_err(|e| refused(e.to_string()))?;
        if !ALGORITHMS.contains(&header.alg) {
            return Err(refused(format!("signed with {:?}", header.alg)));
        }
        let claimed = insecure_decode::<Claimed>(token).map_err(|e| refused(e.to_string()))?.claims;
        let known = self.0.get(&claimed.iss).ok_or_else(|| refused(format!("issuer {:?}", claimed.iss)))?;
        let fits = |jwk: &&Jwk| {
            let named = header.kid.is_none() || jwk.common.key_id == header.kid;
            let signs = jwk.common.public_key_use.as_ref().is_none_or(|u| *u == PublicKeyUse::Signature);
            let kind = jwk.common.key_algorithm.is_none_or(|a| a == header.alg.into());
            named && signs && kind
        };
        let find = |keys: &[Jwk]| keys.iter().filter(fits).cloned().collect::<Vec<_>>();
        let now = known.now();
        let mut found = find(&now.keys);
        if found.is_empty() || now.fetched.is_none_or(|at| at.elapsed() > FRESH) {
            match known.refresh() {
                Ok(keys) => found = find(&keys),
                Err(e) if found.is_empty() => {
                    tracing::error!("keys of {:?}: {e}", known.settings.issuer);
                    let message = "the issuer's keys cannot be had now; try again";
                    let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "issuer_unavailable", message);
                    return Err(Problem { retry_after: Some(PAUSE.as_secs()), ..problem });
                }
                Err(e) => tracing::warn!("keys of {:?} are old and cannot be had anew: {e}", known.settings.issuer),
            }
        }
        let mut validation = Validation::new(header.alg);
        validation.set_audience(&[&known.settings.audience]);
        validation.set_issuer(&[&known.settings.issuer]);
        validation.set_required_spec_claims(&["exp", "iss", "aud"]);
        (validation.validate_nbf, validation.leeway) = (true, LEEWAY);
        let mut why = "no key of its name".to_owned();
        for jwk in found {
            let decoded = DecodingKey::from_jwk(&jwk).and_then(|key| decode::<Claims>(token, &key, &validation));
            match decoded {
                Ok(token) => return Ok(granted(&known.settings.issuer, token.claims)),
                Err(e) => why = e.to_string(),
            }
        }
        Err(refused(why))
    }
}

/// What a valid token's claims grant. Scopes are named as those of keys, with or without `dreamseed:` before; others are for others.
fn granted(issuer: &str, claims: Claims) -> Granted {
    let spaced = claims.scope.unwrap_or_default();
    let listed = claims.scopes.unwrap_or_default();
    let names = spaced.split(' ').chain(listed.iter().map(String::as_str));
    let scopes = names.filter_map(|n| Scope::named(n.strip_prefix("dreamseed:").unwrap_or(n))).collect();
    let name = format!("{}@{issuer}", claims.sub.as_deref().unwrap_or("someone"));
    Granted { caller: Caller { name: name.into(), priority: Priority::Interactive }, scopes }
}

impl Known {
    fn now(&self) -> Keyset {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The issuer's keys, asked for unless that was a short while ago. Others who ask meanwhile wait for the same answer.
    fn refresh(&self) -> Result<Arc<Vec<Jwk>>, String> {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        if asked.is_some_and(|at| at.elapsed() < PAUSE) {
            let known = self.now();
            return known.fetched.map(|_| known.keys).ok_or_else(|| "they were asked for in vain a short while ago".into());
        }
        *asked = Some(Instant::now());
        let keys = Arc::new(read(&self.settings.jwks)?.keys);
        *self.keys.lock().unwrap_or_else(PoisonError::into_inner) = Keyset { keys: keys.clone(), fetched: *asked };
        Ok(keys)
    }
}

fn read(jwks: &str) -> Result<JwkSet, String> {
    let text = if jwks.starts_with("https://") || jwks.starts_with("http://") {
        // no redirects: the configuration says where keys come from, nobody else
        let agent: ureq::Agent = ureq::Agent::config_builder().timeout_global(Some(PATIENCE)).max_redirects(0).build().into();
        let mut answer = agent.get(jwks).call().map_err(|e| e.to_string())?;
        answer.body_mut().with_config().limit(LARGEST).read_to_string().map_err(|e| e.to_string())?
    } else {
        crate::manifest::read_text(Path::new(jwks)).map_err(|e| e.to_string())?
    };
    serde_json::from_str(&text).map_err(|e| format!("this is no set of keys: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use jsonwebtoken::{EncodingKey, Header, encode, get_current_timestamp};
    use rsa::pkcs1::EncodeRsaPrivateKey;
    use serde_json::{Value, json};

    /// A new key pair of a kind, and its public part under a name.
    fn pair(algorithm: Algorithm, name: &str) -> (EncodingKey, Jwk) {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).unwrap();
        seed[0] >>= 1; // below the order of P-256
        let pkcs8 = |head: &[u8]| [head, &seed].concat();
        let key = match algorithm {
            Algorithm::EdDSA => EncodingKey::from_ed_der(&pkcs8(b"\x30\x2e\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20")),
            Algorithm::ES256 => EncodingKey::from_ec_der(&pkcs8(
                b"\x30\x41\x02\x01\x00\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\x04\x27\x30\x25\x02\x01\x01\x04\x20",
            )),
            _ => {
                let key = rsa::PrivateKey::new(&mut getrandom::SysRng, 2048).unwrap();
                EncodingKey::from_rsa_der(key.to_pkcs1_der().unwrap().as_bytes())
            }
        };
        let mut public = Jwk::from_encoding_key(&key, algorithm).unwrap();
        public.common.key_id = Some(name.into());
        (key, public)
    }

    fn signed(algorithm: Algorithm, kid: Option<&str>, key: &EncodingKey, claims: &Value) -> String {
        encode(&Header { kid: kid.map(str::to_owned), ..Header::new(algorithm) }, claims, key).unwrap()
    }

    fn claims(issuer: &str) -> Value {
        let exp = get_current_timestamp() + 600;
        json!({ "iss": issuer, "aud": "dreamseed", "sub": "ada", "exp": exp, "scope": "openid dreamseed:coach speech root" })
    }

    fn publish(file: &Path, keys: &[&Jwk]) {
        std::fs::write(file, serde_json::to_vec(&json!({ "keys": keys })).unwrap()).unwrap();
    }

    /// Two regions, each with a file of keys.
    fn regions(folder: &Path) -> Issuers {
        let region = |name: &str| Issuer {
            issuer: name.into(),
            audience: "dreamseed".into(),
            jwks: folder.join(name).to_str().unwrap().into(),
        };
        Issuers::new(&[region("kr"), region("eu")]).unwrap()
    }

    #[test]
    fn regions_sign_with_their_own_keys_of_each_kind() {
        let folder = tempfile::tempdir().unwrap();
        let issuers = regions(folder.path());
        let pairs = ALGORITHMS.map(|a| (a, pair(a, &format!("{a:?}"))));
        publish(&folder.path().join("kr"), &pairs.iter().map(|(_, p)| &p.1).collect::<Vec<_>>());
        let (foreign, public) = pair(Algorithm::ES256, "ES256");
        publish(&folder.path().join("eu"), &[&public]);
        for (algorithm, (key, _)) in &pairs {
            for kid in [Some(format!("{algorithm:?}")), None] {
                let granted = issuers.verify(&signed(*algorithm, kid.as_deref(), key, &claims("kr"))).unwrap();
                assert_eq!((&*granted.caller.name, &granted.scopes[..]), ("ada@kr", &[Scope::Coach, Scope::Speech][..]));
            }
        }
        let status = |token: &str| issuers.verify(token).err().map(|p| (p.status.as_u16(), p.code));
        assert_eq!(status(&signed(Algorithm::ES256, Some("ES256"), &foreign, &claims("eu"))), None);
        let refused = Some((401, "invalid_token"));
        // another region's key, under the same name
        assert_eq!(status(&signed(Algorithm::ES256, Some("ES256"), &foreign, &claims("kr"))), refused);
        assert_eq!(status(&signed(Algorithm::ES256, Some("ES256"), &foreign, &claims("us"))), refused);
        // a public key as a shared secret, which is the classic forgery
        let secret = EncodingKey::from_secret(&serde_json::to_vec(&pairs[0].1.1).unwrap()).unwrap();
        assert_eq!(status(&signed(Algorithm::HS256, Some("RS256"), &secret, &claims("kr"))), refused);
        let good = signed(Algorithm::EdDSA, Some("EdDSA"), &pairs[2].1.0, &claims("kr"));
        let (head, rest) = good.split_once('.').unwrap();
        let unsigned = format!("{}.{}.", "eyJhbGciOiJub25lIn0", rest.split_once('.').unwrap().0);
        let altered = format!("{head}.{}{rest}", if rest.starts_with('e') { "f" } else { "e" });
        for token in [&unsigned, &altered, "a.b.c", "..", ""] {
            assert_eq!(status(token), refused, "{token}");
        }
    }

    #[test]
    fn what_a_token_says_of_itself_has_to_hold() {
        let folder = tempfile::tempdir().unwrap();
        let issuers = regions(folder.path());
        let (key, public) = pair(Algorithm::EdDSA, "one");
        publish(&folder.path().join("kr"), &[&public]);
        let now = get_current_timestamp();
        let changes = [
            ("exp", json!(now - 2 * LEEWAY)),
            ("exp", Value::Null),
            ("nbf", json!(now + 10 * LEEWAY)),
            ("aud", json!("others")),
            ("aud", Value::Null),
            ("iss", json!(["kr"])),
        ];
        for (name, value) in changes {
            let mut wrong = claims("kr");
            match &value {
                Value::Null => drop(wrong.as_object_mut().unwrap().remove(name)),
                value => wrong[name] = value.clone(),
            }
            let problem = issuers.verify(&signed(Algorithm::EdDSA, Some("one"), &key, &wrong)).err();
            assert_eq!(problem.map(|p| p.code), Some("invalid_token"), "{name} {value}");
        }
    }

    #[test]
    fn keys_are_rotated_and_asked_for_once_a_minute() {
        let folder = tempfile::tempdir().unwrap();
        let issuers = regions(folder.path());
        let file = folder.path().join("kr");
        let [(old, old_public), (new, new_public)] = ["old", "new"].map(|n| pair(Algorithm::EdDSA, n));
        let verify = |name: &str, key: &EncodingKey| {
            issuers.verify(&signed(Algorithm::EdDSA, Some(name), key, &claims("kr"))).err().map(|p| p.code)
        };
        assert_eq!(verify("old", &old), Some("issuer_unavailable"));
        publish(&file, &[&old_public]);
        assert_eq!(verify("old", &old), Some("issuer_unavailable")); // it was asked a moment ago
        let forget = || *issuers.0["kr"].asked.lock().unwrap() = None;
        forget();
        assert_eq!(verify("old", &old), None);
        publish(&file, &[&new_public]);
        assert_eq!(verify("new", &new), Some("invalid_token"));
        forget();
        assert_eq!((verify("new", &new), verify("old", &old)), (None, Some("invalid_token")));
        // an issuer that cannot be reached does not shut out those whose keys are known
        std::fs::remove_file(&file).unwrap();
        issuers.0["kr"].keys.lock().unwrap().fetched = None;
        forget();
        assert_eq!(verify("new", &new), None);
    }

    #[test]
    fn keys_do_not_come_in_the_clear_from_elsewhere() {
        let at = |jwks: &str| Issuer { issuer: "a".into(), audience: "b".into(), jwks: jwks.into() }.validate().is_ok();
        assert!(at("https://auth.example/keys") && at("http://127.0.0.1:9/keys") && at("/etc/keys.json"));
        assert!(!at("http://auth.example/keys") && !at("http://localhost.example/keys") && !at(""));
    }
}
