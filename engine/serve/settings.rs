//! How the server listens and what it lets in.

use std::{net::SocketAddr, path::PathBuf};

use serde::{Deserialize, Serialize};

use super::{firewall::Firewall, issuers::Issuer};
use crate::{Error, Result};

/// How the server listens and what it lets in.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Serve {
    /// Address and port; port 0 takes a free one.
    pub listen: String,
    /// The file of API keys (`dreamseed key new` writes an entry); empty: none, everybody who reaches the port may ask.
    pub keys: PathBuf,
    /// Services whose signed tokens (JWT) are accepted as keys are; `[[serve.issuers]]` with `issuer`, `audience` and `jwks`.
    pub issuers: Vec<Issuer>,
    /// What is done about texts that try to give orders to the model in another one's name: `off`, `log` or `refuse`.
    pub firewall: Firewall,
    /// Origins of pages of others that may ask, such as `https://school.example`; none: none may.
    pub cors: Vec<String>,
    /// Listen on an address that other machines reach though there are no keys.
    pub open: bool,
    /// Requests that are worked on at once; 1 to 256.
    pub requests: usize,
    /// Requests that wait for their turn; one more is told to come again later (429). Up to 10,000.
    pub queue: usize,
    /// Connections that are held at once; more wait to be accepted. 1 to 100,000.
    pub connections: usize,
    /// A request's body, in millions of bytes. 1 to 100,000.
    pub body_mb: u64,
    /// Seconds for the head of a request, and between two parts of its body. 1 to 600.
    pub idle_seconds: u64,
    /// Seconds that a request may wait for its turn. 1 to 3,600.
    pub wait_seconds: u64,
    /// Seconds that requests under way have to end when the server is stopped. 0 to 3,600.
    pub drain_seconds: u64,
    /// Load the profile's models before saying that it is ready, so that nobody's first request waits for it.
    pub warm: bool,
}

impl Default for Serve {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:8077".into(),
            keys: PathBuf::new(),
            issuers: Vec::new(),
            firewall: Firewall::Log,
            cors: Vec::new(),
            open: false,
            requests: 32,
            queue: 256,
            connections: 4096,
            body_mb: 256,
            idle_seconds: 30,
            wait_seconds: 60,
            drain_seconds: 30,
            warm: true,
        }
    }
}

impl Serve {
    /// Whether every value is in its range.
    ///
    /// # Errors
    /// [`Error::Usage`] with the value and what is allowed.
    pub(crate) fn validate(&self) -> Result<()> {
        let ranges: [(&str, u64, u64, u64); 7] = [
            ("requests", self.requests as u64, 1, 256),
            ("queue", self.queue as u64, 0, 10_000),
            ("connections", self.connections as u64, 1, 100_000),
            ("body_mb", self.body_mb, 1, 100_000),
            ("idle_seconds", self.idle_seconds, 1, 600),
            ("wait_seconds", self.wait_seconds, 1, 3_600),
            ("drain_seconds", self.drain_seconds, 0, 3_600),
        ];
        for (key, seen, low, high) in ranges {
            if !(low..=high).contains(&seen) {
                return Err(Error::Usage(format!("serve.{key} = {seen}: {low} to {high} is allowed")));
            }
        }
        for origin in &self.cors {
            let rest = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
            if !rest.is_some_and(|r| !r.is_empty() && r.bytes().all(|b| b.is_ascii_graphic() && !b"/*,;".contains(&b))) {
                let problem = "an origin is needed: https://, a name, and a port where it has one; no path, no *";
                return Err(Error::Usage(format!("serve.cors: {origin:?}: {problem}")));
            }
        }
        self.issuers.iter().try_for_each(Issuer::validate)?;
        self.address().map(drop)
    }

    /// Where to listen.
    ///
    /// # Errors
    /// [`Error::Usage`] for what is no address and port.
    pub fn address(&self) -> Result<SocketAddr> {
        self.listen.parse().map_err(|_| {
            let problem = "an address and a port are needed, such as 127.0.0.1:8077, [::1]:8077 or 0.0.0.0:8077";
            Error::Usage(format!("serve.listen = {:?}: {problem}", self.listen))
        })
    }
}
