//! A server of the whole-program tests: a process of its own on a free port.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{dreamseed, weights};

/// A running server; stopped when it is dropped.
pub(crate) struct Server {
    pub(crate) process: Child,
    pub(crate) address: String,
}

impl Server {
    /// Starts one with these settings, and waits until it is ready.
    pub(crate) fn start(settings: &[(&str, &str)]) -> Self {
        weights("smollm2-135m");
        let mut command = dreamseed(&["serve", "--listen", "127.0.0.1:0"]);
        command.env("DREAMSEED_SERVE_WARM", "0").envs(settings.iter().copied()).stderr(Stdio::piped());
        let mut process = command.spawn().expect("the binary starts");
        let mut lines = BufReader::new(process.stderr.take().expect("piped")).lines();
        let told =
            lines.by_ref().map_while(Result::ok).find_map(|l| l.split_once("listens on http://").map(|(_, a)| a.to_owned()));
        std::thread::spawn(move || lines.for_each(drop)); // so that it never waits for a reader
        let server = Self { process, address: told.expect("it says where it listens") };
        let begun = Instant::now();
        while server.get("/health/ready").0 != 200 {
            assert!(begun.elapsed() < Duration::from_secs(60), "not ready after a minute");
            std::thread::sleep(Duration::from_millis(20));
        }
        server
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) fn get(&self, path: &str) -> (u16, String) {
        answer(agent().get(self.url(path)).call())
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> (u16, String) {
        answer(agent().post(self.url(path)).content_type("application/json").send(body.to_string()))
    }

    /// A figure of /metrics by the beginning of its line.
    pub(crate) fn figure(&self, line: &str) -> f64 {
        let page = self.get("/metrics").1;
        let found = page.lines().find_map(|l| l.strip_prefix(line)?.trim().parse().ok());
        found.unwrap_or_else(|| panic!("{line}: {page}"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

pub(crate) fn agent() -> ureq::Agent {
    ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(Duration::from_secs(120))).build().into()
}

pub(crate) fn answer(sent: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> (u16, String) {
    let mut response = sent.expect("an answer");
    (response.status().as_u16(), response.body_mut().read_to_string().expect("text"))
}

pub(crate) fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}
