//! Forms with files (multipart/form-data): files go to disk as they come, so that memory does not depend on the client.

use std::collections::HashMap;

use axum::{
    extract::{FromRequest, Multipart, Request, multipart::Field},
    http::StatusCode,
};
use tempfile::NamedTempFile;
use tokio::io::AsyncWriteExt;

use super::{Shared, error::Problem};
use crate::{
    Result,
    media::{self, Clip},
};

/// Longest value of a field that is no file, bytes.
const LONGEST_TEXT: usize = 64 << 10;
/// Most fields of a form.
const MOST_FIELDS: usize = 64;

/// The names that a form may have.
pub(super) struct Fields {
    pub(super) files: &'static [&'static str],
    pub(super) texts: &'static [&'static str],
}

/// A form that was read. Its files are gone from the disk when it is dropped.
#[derive(Default)]
pub(super) struct Form {
    files: HashMap<&'static str, NamedTempFile>,
    texts: HashMap<&'static str, Vec<String>>,
}

impl Form {
    /// Reads a request's form.
    ///
    /// # Errors
    /// 400 for a malformed form, an unknown field or one that is there twice, 413 for one that is too large, 507 when the disk is full.
    pub(super) async fn read(server: &Shared, request: Request, fields: &Fields) -> Result<Self, Problem> {
        let mut multipart = Multipart::from_request(request, server)
            .await
            .map_err(|e| Problem::new(e.status(), "not_multipart", format!("{}; send multipart/form-data", e.body_text())))?;
        let mut form = Self::default();
        for _ in 0..MOST_FIELDS {
            let Some(field) = multipart.next_field().await.map_err(broken)? else { return Ok(form) };
            let seen = field.name().unwrap_or_default().to_owned();
            let named = |names: &'static [&'static str]| names.iter().find(|n| **n == seen).copied();
            if let Some(name) = named(fields.files) {
                let file = to_disk(field).await.map_err(|p| p.of_param(name))?;
                if form.files.insert(name, file).is_some() {
                    return Err(Problem::invalid("the file is there twice").of_param(name));
                }
            } else if let Some(name) = named(fields.texts) {
                let value = text(field).await.map_err(|p| p.of_param(name))?;
                form.texts.entry(name).or_default().push(value);
            } else {
                let known: Vec<_> = fields.files.iter().chain(fields.texts).copied().collect();
                let shown: String = seen.chars().take(60).collect();
                return Err(Problem::invalid(format!("unknown field {shown:?}; known are {}", known.join(", "))));
            }
        }
        Err(Problem::invalid(format!("more than {MOST_FIELDS} fields")))
    }

    /// The value of a field that is there once at most; an empty one is none.
    ///
    /// # Errors
    /// 400 when it is there twice.
    pub(super) fn text(&self, name: &'static str) -> Result<Option<&str>, Problem> {
        match self.all(name) {
            [] => Ok(None),
            [one] => Ok(Some(one.as_str()).filter(|t| !t.is_empty())),
            _ => Err(Problem::invalid("the field is there twice").of_param(name)),
        }
    }

    /// All values of a field.
    pub(super) fn all(&self, name: &'static str) -> &[String] {
        self.texts.get(name).map_or(&[], Vec::as_slice)
    }

    /// A field's value as another type.
    ///
    /// # Errors
    /// 400 with what is allowed.
    pub(super) fn parsed<T: std::str::FromStr>(&self, name: &'static str, allowed: &str) -> Result<Option<T>, Problem> {
        let wrong = |text: &str| {
            let shown: String = text.chars().take(60).collect();
            Problem::invalid(format!("{shown:?} is not allowed; {allowed} is needed")).of_param(name)
        };
        self.text(name)?.map(|t| t.parse().map_err(|_| wrong(t))).transpose()
    }

    /// Whether a file is there.
    pub(super) fn has(&self, name: &'static str) -> bool {
        self.files.contains_key(name)
    }

    /// Decodes a file that must be there.
    ///
    /// # Errors
    /// 400 for one that is missing or cannot be used.
    pub(super) fn decode<T>(
        &self,
        name: &'static str,
        open: impl FnOnce(&std::path::Path, &media::Limits) -> crate::Result<T>,
        limits: &media::Limits,
    ) -> Result<T, Problem> {
        let missing = || Problem::invalid("a file is needed here").of_param(name);
        let file = self.files.get(name).ok_or_else(missing)?;
        open(file.path(), limits).map_err(|e| Problem::from(e).of_param(name))
    }

    /// A clip of what is there among a video (or picture, or sound) `file` and a sound `audio` that replaces the file's own.
    ///
    /// # Errors
    /// 400 when nothing is there, or what is cannot be used.
    pub(super) fn clip(&self, (file, audio): (&'static str, &'static str), limits: &media::Limits) -> Result<Clip, Problem> {
        let mut clip = match self.has(file) || !self.has(audio) {
            true => self.decode(file, media::open, limits)?,
            false => Clip::default(),
        };
        if self.has(audio) {
            clip.pcm = self.decode(audio, media::open_audio, limits)?;
        }
        Ok(clip)
    }
}

async fn to_disk(mut field: Field<'_>) -> Result<NamedTempFile, Problem> {
    let file = NamedTempFile::new().map_err(no_room)?;
    let mut writer = tokio::fs::File::from_std(file.reopen().map_err(no_room)?);
    while let Some(part) = field.chunk().await.map_err(broken)? {
        writer.write_all(&part).await.map_err(no_room)?;
    }
    writer.flush().await.map_err(no_room)?;
    Ok(file)
}

async fn text(mut field: Field<'_>) -> Result<String, Problem> {
    let mut bytes = Vec::new();
    while let Some(part) = field.chunk().await.map_err(broken)? {
        if bytes.len() + part.len() > LONGEST_TEXT {
            return Err(Problem::invalid(format!("longer than {LONGEST_TEXT} bytes")));
        }
        bytes.extend_from_slice(&part);
    }
    String::from_utf8(bytes).map_err(|_| Problem::invalid("the text is not UTF-8"))
}

fn broken(error: axum::extract::multipart::MultipartError) -> Problem {
    let mut causes = std::iter::successors(Some(&error as &dyn std::error::Error), |e| e.source());
    if causes.any(|e| e.is::<tower_http::timeout::TimeoutError>()) {
        return Problem::new(StatusCode::REQUEST_TIMEOUT, "body_too_slow", "nothing of the body came for too long");
    }
    match error.status() {
        StatusCode::PAYLOAD_TOO_LARGE => Problem::new(error.status(), "body_too_large", error.body_text()),
        s if s.is_client_error() => Problem::new(s, "broken_form", error.body_text()),
        // reading failed: the client has gone, or sends what is no HTTP
        _ => Problem::new(StatusCode::BAD_REQUEST, "broken_form", "the form breaks off"),
    }
}

fn no_room(error: std::io::Error) -> Problem {
    if error.kind() == std::io::ErrorKind::StorageFull {
        tracing::error!("no room for an upload: {error}");
        return Problem::new(StatusCode::INSUFFICIENT_STORAGE, "disk_full", "the server has no room for the file now");
    }
    Problem::internal(format!("an upload cannot be kept: {error}"))
}
