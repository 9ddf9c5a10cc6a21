//! POST /v1/audio/transcriptions and /v1/audio/translations.

use std::{convert::Infallible, ops::ControlFlow, sync::atomic::Ordering};

use axum::{
    Json,
    extract::{Request, State},
    http::header,
    response::{
        IntoResponse, Response,
        sse::{KeepAlive, Sse},
    },
};
use dreamseed_models::whisper::{self, Progress, Task, Transcript};
use serde_json::json;
use tokio_stream::StreamExt;
use utoipa::ToSchema;

use super::{
    super::{
        Shared,
        admission::Claim,
        error::{ErrorBody, Problem},
        models,
        upload::{Fields, Form},
        work::{Cancel, Parts, guarded, work},
    },
    event,
};
use crate::{manifest::Role, media, subtitles};

const FIELDS: Fields = Fields {
    files: &["file"],
    texts: &[
        "model",
        "language",
        "prompt",
        "response_format",
        "temperature",
        "timestamp_granularities[]",
        "stream",
        "beam_size",
        "vad",
    ],
};

/// The form.
#[derive(ToSchema)]
#[expect(dead_code, reason = "for the document alone")]
pub(in super::super) struct AudioForm {
    /// Any sound, or a video with sound.
    #[schema(value_type = String, format = Binary)]
    file: Vec<u8>,
    /// An id of /v1/models; `default` or none: the profile's.
    model: Option<String>,
    /// ISO 639-1; default: found.
    language: Option<String>,
    /// Words and names that are likely to come up.
    prompt: Option<String>,
    /// `json` (default), `text`, `srt`, `verbose_json`, `vtt`.
    response_format: Option<String>,
    /// Where decoding begins; 0 to 1. Default 0, raised by itself where the text is not good.
    temperature: Option<f32>,
    /// `segment`, `word`: for `verbose_json`.
    #[schema(rename = "timestamp_granularities[]")]
    timestamp_granularities: Option<Vec<String>>,
    /// Events `transcript.text.delta` a segment, then `transcript.text.done`.
    stream: Option<bool>,
    /// 1 (default) to 16. (Not OpenAI's.)
    beam_size: Option<u8>,
    /// Listen to what sounds like speech alone; default as configured. (Not OpenAI's.)
    vad: Option<bool>,
}

/// The text; with `verbose_json` also what is below it.
#[derive(ToSchema)]
#[expect(dead_code, reason = "for the document alone")]
pub(in super::super) struct Written {
    text: String,
    /// `transcribe` or `translate`.
    task: Option<String>,
    /// ISO 639-1.
    language: Option<String>,
    /// Seconds.
    duration: Option<f64>,
    segments: Option<Vec<WrittenSegment>>,
    words: Option<Vec<WrittenWord>>,
}

/// A stretch of speech.
#[derive(ToSchema)]
#[expect(dead_code, reason = "for the document alone")]
struct WrittenSegment {
    id: usize,
    /// Seconds.
    start: f64,
    end: f64,
    text: String,
    avg_logprob: f64,
    no_speech_prob: f64,
}

/// A word.
#[derive(ToSchema)]
#[expect(dead_code, reason = "for the document alone")]
struct WrittenWord {
    word: String,
    /// Seconds.
    start: f64,
    end: f64,
    probability: f64,
}

/// Speech to text
#[utoipa::path(
    post, path = "/v1/audio/transcriptions", tag = "speech",
    request_body(content = AudioForm, content_type = "multipart/form-data"),
    responses(
        (status = 200, description = "The text, in the form that was asked for; with `stream` as events", content(
            (Written = "application/json"), (String = "text/plain"), (String = "application/x-subrip"), (String = "text/vtt"),
            (String = "text/event-stream"),
        )),
        (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody),
    )
)]
pub(in super::super) async fn transcriptions(
    State(server): State<Shared>,
    claim: Claim,
    request: Request,
) -> Result<Response, Problem> {
    written(server, claim, request, Task::Transcribe).await
}

/// Speech to English text
#[utoipa::path(
    post, path = "/v1/audio/translations", tag = "speech",
    request_body(content = AudioForm, content_type = "multipart/form-data"),
    responses(
        (status = 200, description = "The text, in the form that was asked for; with `stream` as events", content(
            (Written = "application/json"), (String = "text/plain"), (String = "application/x-subrip"), (String = "text/vtt"),
            (String = "text/event-stream"),
        )),
        (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody),
    )
)]
pub(in super::super) async fn translations(
    State(server): State<Shared>,
    claim: Claim,
    request: Request,
) -> Result<Response, Problem> {
    written(server, claim, request, Task::Translate).await
}

/// What a transcript is given as.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    Json,
    Text,
    Srt,
    VerboseJson,
    Vtt,
}

/// What is asked for, checked.
struct Job {
    server: Shared,
    form: Form,
    model: String,
    options: whisper::Options,
    format: Format,
    segments: bool,
}

async fn written(server: Shared, claim: Claim, request: Request, task: Task) -> Result<Response, Problem> {
    let form = Form::read(&server, request, &FIELDS).await?;
    let streams = form.parsed::<bool>("stream", "true or false")?.unwrap_or(false);
    let job = Job::new(server.clone(), form, task)?;
    let place = server.admission.enter(&claim).await?;
    if streams {
        let cancel = Cancel::default();
        let (sink, parts) = Parts::new(vec![cancel.clone()]);
        tokio::task::spawn_blocking(move || {
            let _held = place;
            let mut send = |progress: Progress| match progress {
                Progress::Segment(s) if !sink.send(event(&json!({ "type": "transcript.text.delta", "delta": s.text }))) => {
                    ControlFlow::Break(())
                }
                _ => ControlFlow::Continue(()),
            };
            match guarded(|| job.run(&cancel, &mut send)) {
                Ok(text) => sink.send(event(&json!({ "type": "transcript.text.done", "text": text.text }))),
                Err(problem) => {
                    job.server.metrics.problem(problem.code);
                    sink.send(event(&problem.body()))
                }
            };
        });
        return Ok(Sse::new(parts.map(Ok::<_, Infallible>)).keep_alive(KeepAlive::default()).into_response());
    }
    work(move |cancel| {
        let _held = place;
        let transcript = job.run(cancel, &mut |_| ControlFlow::Continue(()))?;
        Ok(job.response(&transcript))
    })
    .await
}

impl Job {
    fn new(server: Shared, form: Form, task: Task) -> Result<Self, Problem> {
        let model = models::choose(&server.engine, form.text("model")?.filter(|m| *m != "whisper-1"), Role::Speech)?;
        let format = match form.text("response_format")? {
            None | Some("json") => Format::Json,
            Some("text") => Format::Text,
            Some("srt") => Format::Srt,
            Some("verbose_json") => Format::VerboseJson,
            Some("vtt") => Format::Vtt,
            Some(_) => {
                return Err(Problem::invalid("json, text, srt, verbose_json and vtt are known").of_param("response_format"));
            }
        };
        let (mut words, mut segments) = (false, form.all("timestamp_granularities[]").is_empty());
        for granularity in form.all("timestamp_granularities[]") {
            match granularity.as_str() {
                "word" => words = true,
                "segment" => segments = true,
                _ => return Err(Problem::invalid("word and segment are known").of_param("timestamp_granularities[]")),
            }
        }
        let mut options = whisper::Options {
            task,
            language: form.text("language")?.map(str::to_owned),
            initial_prompt: form.text("prompt")?.map(str::to_owned),
            word_timestamps: words,
            vad: form.parsed("vad", "true or false")?.unwrap_or(server.engine.config().speech.vad),
            beam_size: usize::from(form.parsed::<u8>("beam_size", "1 to 16")?.unwrap_or(1)),
            ..whisper::Options::default()
        };
        if let Some(first) = form.parsed::<f32>("temperature", "0 to 1")? {
            if !(0.0..=1.0).contains(&first) {
                return Err(Problem::invalid(format!("{first} seen; 0 to 1 is allowed")).of_param("temperature"));
            }
            options.temperatures.retain(|t| *t > first);
            options.temperatures.insert(0, first);
        }
        Ok(Self { server, form, model, options, format, segments })
    }

    fn run(&self, cancel: &Cancel, on_progress: &mut dyn FnMut(Progress) -> ControlFlow<()>) -> Result<Transcript, Problem> {
        let engine = &self.server.engine;
        let pcm = self.form.decode("file", media::open_audio, &engine.limits())?;
        self.server.metrics.audio(pcm.len() as f64 / f64::from(media::SAMPLE_RATE));
        let mut goes_on = |progress: Progress| match cancel.load(Ordering::Relaxed) {
            true => ControlFlow::Break(()),
            false => on_progress(progress),
        };
        Ok(engine.transcribe(Some(&self.model), &pcm, &self.options, &mut goes_on)?)
    }

    fn response(&self, t: &Transcript) -> Response {
        let plain = |kind: &'static str, text: String| ([(header::CONTENT_TYPE, kind)], text).into_response();
        match self.format {
            Format::Json => Json(json!({ "text": t.text })).into_response(),
            Format::Text => plain("text/plain; charset=utf-8", format!("{}\n", t.text)),
            Format::Srt => plain("application/x-subrip; charset=utf-8", subtitles::srt(t)),
            Format::Vtt => plain("text/vtt; charset=utf-8", subtitles::vtt(t)),
            Format::VerboseJson => Json(self.verbose(t)).into_response(),
        }
    }

    fn verbose(&self, t: &Transcript) -> serde_json::Value {
        let task = if self.options.task == Task::Translate { "translate" } else { "transcribe" };
        let mut value = json!({ "task": task, "language": t.language, "duration": t.duration, "text": t.text });
        if self.segments {
            let segment = |(id, s): (usize, &whisper::Segment)| {
                json!({
                    "id": id, "start": s.start, "end": s.end, "text": s.text, "avg_logprob": s.avg_logprob,
                    "no_speech_prob": s.no_speech_prob,
                })
            };
            value["segments"] = t.segments.iter().enumerate().map(segment).collect();
        }
        if self.options.word_timestamps {
            let words = t.segments.iter().flat_map(|s| &s.words);
            value["words"] = words
                .map(|w| json!({ "word": w.word.trim(), "start": w.start, "end": w.end, "probability": w.probability }))
                .collect();
        }
        value
    }
}
