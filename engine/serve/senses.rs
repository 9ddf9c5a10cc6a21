//! POST /v1/pose and /v1/features: what is seen and heard, without a lesson.

use std::{convert::Infallible, sync::atomic::Ordering};

use axum::{
    Json,
    body::{Body, Bytes},
    extract::{Request, State},
    http::header,
    response::{IntoResponse, Response},
};
use dreamseed_models::pose::{Options, Person};
use serde::Serialize;
use tokio_stream::StreamExt;
use utoipa::ToSchema;

use super::{
    Shared,
    admission::Claim,
    error::{ErrorBody, Problem},
    models,
    upload::{Fields, Form},
    work::{Cancel, Parts, Sink, guarded, placed, work},
};
use crate::{extract::view, manifest::Role, media, session::Wanted, timeline};

const POSE: Fields = Fields { files: &["file"], texts: &["model", "people", "fps", "smooth"] };
const FEATURES: Fields = Fields { files: &["file", "audio"], texts: &["rate", "speech", "text"] };

/// The form of /v1/pose.
#[derive(ToSchema)]
#[expect(dead_code, reason = "for the document alone")]
pub(super) struct PoseForm {
    /// A picture or a video.
    #[schema(value_type = String, format = Binary)]
    file: Vec<u8>,
    /// An id or alias of a landmark net; default: the configuration's.
    model: Option<String>,
    /// Most people to follow, 1 (default) to 16.
    people: Option<u8>,
    /// Pictures a second that are looked at, 0.1 to 240; default 15.
    fps: Option<f64>,
    /// Smooth landmarks of a video over time; default true.
    smooth: Option<bool>,
}

/// A frame's people; a line of the answer.
#[derive(Serialize, ToSchema)]
struct Line<'a> {
    /// Seconds.
    t: f64,
    width: u32,
    height: u32,
    #[schema(value_type = Vec<Object>)]
    people: &'a [Person],
}

/// Everybody's landmarks, a JSON line a frame
#[utoipa::path(
    post, path = "/v1/pose", tag = "senses",
    request_body(content = PoseForm, content_type = "multipart/form-data"),
    responses(
        (status = 200, body = Line, content_type = "application/x-ndjson"),
        (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody),
    )
)]
pub(super) async fn pose(State(server): State<Shared>, claim: Claim, request: Request) -> Result<Response, Problem> {
    let form = Form::read(&server, request, &POSE).await?;
    let place = server.admission.enter(&claim).await?;
    let (place, frames) = {
        let (fps, limits) = (form.parsed::<f64>("fps", "0.1 to 240")?, server.engine.limits());
        let fps = fps.unwrap_or(limits.fps);
        if !(0.1..=240.0).contains(&fps) {
            return Err(Problem::invalid(format!("{fps} seen; 0.1 to 240 is allowed")).of_param("fps"));
        }
        let limits = media::Limits { fps, ..limits };
        let people = form.parsed::<usize>("people", "1 to 16")?.unwrap_or(1);
        if !(1..=16).contains(&people) {
            return Err(Problem::invalid(format!("{people} seen; 1 to 16 is allowed")).of_param("people"));
        }
        let smooth = form.parsed::<bool>("smooth", "true or false")?.unwrap_or(true);
        let model = form.text("model")?.map(|m| models::choose(&server.engine, Some(m), Role::Pose)).transpose()?;
        let (held, clip) = placed(place, move |_| form.decode("file", media::open, &limits)).await?;
        if clip.frames.is_empty() {
            return Err(Problem::invalid("no pictures in it").of_param("file"));
        }
        (held, Frames { frames: clip.frames, people, smooth, model })
    };
    let cancel = Cancel::default();
    let (sink, parts) = Parts::new(vec![cancel.clone()]);
    tokio::task::spawn_blocking(move || {
        let _held = place;
        if let Err(problem) = guarded(|| frames.track(&server, &cancel, &sink)) {
            server.metrics.problem(problem.code);
            sink.send(line(&problem.body()));
        }
    });
    let kind = [(header::CONTENT_TYPE, "application/x-ndjson")];
    Ok((kind, Body::from_stream(parts.map(Ok::<_, Infallible>))).into_response())
}

/// Pictures and how to look at them.
struct Frames {
    frames: Vec<media::Frame>,
    people: usize,
    smooth: bool,
    model: Option<String>,
}

impl Frames {
    fn track(&self, server: &Shared, cancel: &Cancel, sink: &Sink<Bytes>) -> Result<(), Problem> {
        let engine = &server.engine;
        let pose = match self.people {
            1 => engine.pose(self.model.as_deref())?,
            _ => engine.pose_of_several(self.model.as_deref())?,
        };
        let smooth = self.smooth && self.frames.len() > 1;
        let mut tracker = pose.tracker(Options { max_people: self.people, smooth, ..Options::default() });
        for frame in &self.frames {
            let people = tracker.track(engine.pool(), &view(frame)?, frame.t).map_err(crate::Error::from)?;
            let seen = Line { t: frame.t, width: frame.width, height: frame.height, people: &people };
            if cancel.load(Ordering::Relaxed) || !sink.send(line(&seen)) {
                break;
            }
        }
        Ok(())
    }
}

fn line(value: &impl Serialize) -> Bytes {
    let mut text = serde_json::to_vec(value).unwrap_or_default();
    text.push(b'\n');
    text.into()
}

/// The form of /v1/features.
#[derive(ToSchema)]
#[expect(dead_code, reason = "for the document alone")]
pub(super) struct FeaturesForm {
    /// A video, a sound or a picture.
    #[schema(value_type = Option<String>, format = Binary)]
    file: Option<Vec<u8>>,
    /// A sound, in place of the file's own.
    #[schema(value_type = Option<String>, format = Binary)]
    audio: Option<Vec<u8>>,
    /// Rows a second, 1 to 200; default 25.
    rate: Option<f64>,
    /// Write speech down; default true.
    speech: Option<bool>,
    /// What should be said.
    text: Option<String>,
}

/// Everything on one clock: the feature matrix and the events of a clip
#[utoipa::path(
    post, path = "/v1/features", tag = "senses",
    request_body(content = FeaturesForm, content_type = "multipart/form-data"),
    responses((status = 200, body = Object), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody))
)]
pub(super) async fn features(State(server): State<Shared>, claim: Claim, request: Request) -> Result<Response, Problem> {
    let form = Form::read(&server, request, &FEATURES).await?;
    let rate = form.parsed::<f64>("rate", "1 to 200")?.unwrap_or(timeline::RATE);
    if !(1.0..=200.0).contains(&rate) {
        return Err(Problem::invalid(format!("{rate} seen; 1 to 200 is allowed")).of_param("rate"));
    }
    let speech = form.parsed::<bool>("speech", "true or false")?.unwrap_or(true);
    let place = server.admission.enter(&claim).await?;
    let fused = work(move |cancel| {
        let _held = place;
        let mut clip = form.clip(("file", "audio"), &server.engine.limits())?;
        clip.text = form.text("text")?.map(str::to_owned);
        let tracks = server.engine.perceive(&clip, &Wanted { speech, ..Wanted::default() }, cancel)?;
        Ok(timeline::fuse(&tracks, rate))
    });
    Ok(Json(fused.await?).into_response())
}
