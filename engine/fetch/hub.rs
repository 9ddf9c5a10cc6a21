//! The model hub: addresses, token and cache as hf-hub knows them; the transfer is ours, because it has to give up on a hub that is
//! not reachable, resume in the middle, and know the sum before it spends hours on the wrong file.

use super::Run;
use super::files::{Checked, Failure, Part};
use crate::manifest::{self, File, is_sha256};
use hf_hub::{Cache, Repo, RepoType};
use std::path::{Path, PathBuf};
use std::time::Duration;
use ureq::http::{Response, StatusCode, header};
use ureq::{Agent, Body};

/// One request's share of a file: a connection that hangs costs one such piece and [`PIECE_SECONDS`].
const PIECE: u64 = 128 << 20;
const PIECE_SECONDS: u64 = 90;
/// Tries in a row that bring nothing before the transfer is given up; each waits longer.
const TRIES: u32 = 4;
/// A file whose length the hub states may be this long.
const LONGEST: u64 = 1 << 40;

/// What the hub says of a file before it sends it.
struct Head {
    url: String,
    bytes: u64,
    sha256: Option<String>,
}

/// Puts `file` at `target`; gives its sum and who vouches for it.
pub(super) fn fetch(run: &Run<'_>, hub: &manifest::Hub, file: &File, target: &Path) -> Result<(String, Checked), Failure> {
    if let Some(reason) = run.given_up("hub") {
        return Err(Failure::Source(reason));
    }
    let there = hub.files.get(&file.path).unwrap_or(&file.path);
    let name = format!("{}/{there}", hub.repo);
    let fail = |problem: String| Failure::Source(format!("{name}: {problem}"));
    let head = head(run, hub, there).map_err(fail)?;
    // The hub states size and sum beforehand: a file that is not the one wanted is not downloaded to find that out.
    if let Some(want) = file.bytes.filter(|n| *n != head.bytes) {
        return Err(fail(format!("has {} bytes, {want} wanted", head.bytes)));
    }
    if let (Some(want), Some(seen)) = (&file.sha256, &head.sha256)
        && want != seen
    {
        return Err(fail(format!("has the sha256 {seen}, {want} wanted")));
    }
    run.check_space(head.bytes)?;
    let mut part = Part::resume(target)?;
    if part.len() > head.bytes {
        part.restart()?;
    }
    let task = run.progress.task(&format!("fetching {name}"), Some(head.bytes));
    pieces(run, &head, &mut part, &mut |n| task.at(n)).map_err(|failure| match failure {
        Failure::Source(problem) => fail(problem),
        other => other,
    })?;
    let wanted = file.sha256.as_ref().or(head.sha256.as_ref());
    let sum = part.keep(Some(head.bytes), wanted.map(String::as_str)).map_err(|failure| match failure {
        Failure::Source(problem) => fail(problem),
        other => other,
    })?;
    let checked = match (&file.sha256, &head.sha256) {
        (Some(_), _) => Checked::Manifest,
        (None, Some(_)) => Checked::Hub,
        (None, None) => Checked::No,
    };
    Ok((sum, checked))
}

/// The file in hf-hub's own cache, where another program left it.
pub(super) fn cached(hub: &manifest::Hub, file: &File) -> Option<PathBuf> {
    let there = hub.files.get(&file.path).unwrap_or(&file.path);
    cache()?.repo(repo(hub)).get(there).filter(|p| p.is_file())
}

fn repo(hub: &manifest::Hub) -> Repo {
    Repo::with_revision(hub.repo.clone(), RepoType::Model, hub.revision.clone())
}

/// hf-hub panics where it finds no home folder.
fn cache() -> Option<Cache> {
    (std::env::var_os("HF_HOME").is_some() || std::env::home_dir().is_some()).then(Cache::from_env)
}

fn endpoint(run: &Run<'_>) -> String {
    let configured = Some(run.store.fetch.hub.clone()).filter(|s| !s.is_empty());
    let endpoint = configured.or_else(|| std::env::var("HF_ENDPOINT").ok().filter(|s| !s.is_empty()));
    endpoint.unwrap_or_else(|| "https://huggingface.co".into()).trim_end_matches('/').to_string()
}

fn token() -> Option<String> {
    std::env::var("HF_TOKEN").ok().filter(|t| !t.is_empty()).or_else(|| cache()?.token())
}

fn agent(run: &Run<'_>, redirects: u32) -> Agent {
    let connect = Duration::from_secs(run.store.fetch.connect_seconds);
    let config = Agent::config_builder()
        .timeout_resolve(Some(connect))
        .timeout_connect(Some(connect))
        .timeout_recv_response(Some(Duration::from_secs(30)))
        .timeout_recv_body(Some(Duration::from_secs(PIECE_SECONDS)))
        .max_redirects(redirects)
        .max_redirects_will_error(false)
        .http_status_as_error(false)
        .user_agent(concat!("dreamseed/", env!("CARGO_PKG_VERSION")));
    config.build().into()
}

fn get(agent: &Agent, url: &str, range: &str) -> Result<Response<Body>, ureq::Error> {
    let mut request = agent.get(url).header(header::RANGE, range).header(header::ACCEPT_ENCODING, "identity");
    if let Some(token) = token() {
        request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
    }
    request.call()
}

/// Asks for the first byte and reads what the hub says of the whole.
fn head(run: &Run<'_>, hub: &manifest::Hub, there: &str) -> Result<Head, String> {
    let endpoint = endpoint(run);
    let mut url = format!("{endpoint}/{}/resolve/{}/{there}", repo(hub).url(), repo(hub).url_revision());
    let agent = agent(run, 0);
    // A redirect within the hub (a renamed repository) is followed; the one to the store of large files ends the search, because
    // the headers wanted are on it.
    for _ in 0..5 {
        let response = get(&agent, &url, "bytes=0-0").map_err(|e| {
            let reason = format!("no connection to {endpoint} ({e})");
            if run.give_up("hub", &reason) {
                run.progress.note(&format!("{reason}; going on without the hub"));
            }
            reason
        })?;
        status(&response, &endpoint, &hub.repo)?;
        let text = |key: &str| response.headers().get(key).and_then(|v| v.to_str().ok()).map(str::to_string);
        let (location, linked) = (text("location"), text("x-linked-etag"));
        if linked.is_none()
            && let Some(path) = location.as_deref().filter(|l| l.starts_with('/') && !l.starts_with("//"))
        {
            url = format!("{endpoint}{path}");
            continue;
        }
        let sum = linked.or_else(|| text("etag")).map(|s| s.trim_start_matches("W/").trim_matches('"').to_lowercase());
        let total = text("content-range").and_then(|r| r.rsplit('/').next()?.parse::<u64>().ok());
        let bytes = text("x-linked-size").and_then(|n| n.parse::<u64>().ok()).or(total);
        let bytes = bytes.filter(|n| *n <= LONGEST).ok_or("the hub does not state the file's size")?;
        // The commit holds still while a branch moves on: all pieces come from the same file.
        if let Some(commit) = text("x-repo-commit").filter(|c| c.len() == 40 && c.bytes().all(|b| b.is_ascii_hexdigit())) {
            url = format!("{endpoint}/{}/resolve/{commit}/{there}", repo(hub).url());
        }
        return Ok(Head { url, bytes, sha256: sum.filter(|s| is_sha256(s)) });
    }
    Err("the hub sends from one address to the next without end".into())
}

fn status(response: &Response<Body>, endpoint: &str, repo: &str) -> Result<(), String> {
    match response.status() {
        s if s.is_success() || s.is_redirection() => Ok(()),
        s @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
            Err(format!("{s}: it does not exist, or its terms must be accepted at {endpoint}/{repo} first; then set HF_TOKEN"))
        }
        s => Err(format!("the hub answers {s}")),
    }
}

/// Appends to `part` until it is whole.
fn pieces(run: &Run<'_>, head: &Head, part: &mut Part, at: &mut dyn FnMut(u64)) -> Result<(), Failure> {
    let agent = agent(run, 5);
    let mut tries = 0;
    while part.len() < head.bytes {
        if run.stopped() {
            return Err(Failure::Source("stopped".into()));
        }
        let before = part.len();
        let end = (before + PIECE).min(head.bytes) - 1;
        let problem = match get(&agent, &head.url, &format!("bytes={before}-{end}")) {
            Err(e) => e.to_string(),
            Ok(response) => match piece(response, part, head.bytes, at) {
                Ok(()) if part.len() > before => String::new(),
                Ok(()) => "an empty answer".into(),
                Err(Failure::Source(problem)) => problem,
                Err(e) => return Err(e),
            },
        };
        if part.len() != before {
            tries = 0;
            continue;
        }
        tries += 1;
        if tries >= TRIES {
            return Err(Failure::Source(format!("at {before} of {} bytes: {problem}", head.bytes)));
        }
        std::thread::sleep(Duration::from_millis(250 << tries));
    }
    Ok(())
}

/// Appends what one answer holds.
fn piece(response: Response<Body>, part: &mut Part, bytes: u64, at: &mut dyn FnMut(u64)) -> Result<(), Failure> {
    match response.status() {
        StatusCode::PARTIAL_CONTENT => {
            let range = response.headers().get(header::CONTENT_RANGE).and_then(|v| v.to_str().ok()).unwrap_or("");
            let start = range.strip_prefix("bytes ").and_then(|r| r.split('-').next()?.parse().ok());
            if start != Some(part.len()) {
                return Err(Failure::Source(format!("asked for the bytes from {}, got {range:?}", part.len())));
            }
        }
        // A server that knows no ranges sends it all.
        StatusCode::OK => part.restart()?,
        s => return Err(Failure::Source(format!("the answer is {s}"))),
    }
    part.append(&mut response.into_body().into_reader(), bytes, at)
}
