//! POST /v1/coach: a lesson about a clip, as the events that `dreamseed coach --json` prints.

use std::{convert::Infallible, sync::Arc};

use axum::{
    extract::{Request as HttpRequest, State},
    response::{
        IntoResponse, Response,
        sse::{Event as SseEvent, KeepAlive, Sse},
    },
};
use tokio_stream::StreamExt;
use utoipa::ToSchema;

use super::{
    Shared,
    admission::Claim,
    error::{ErrorBody, Problem},
    models,
    upload::{Fields, Form},
    work::{Cancel, Parts, Sink, guarded, placed},
};
use crate::{
    coach::{Lab, Language, events::Event},
    lesson::{Request, Voice},
    manifest::Role,
    media::{self, Clip},
};

const FIELDS: Fields =
    Fields { files: &["file", "audio", "reference"], texts: &["lab", "text", "language", "model", "llm", "seed"] };

/// The form.
#[derive(ToSchema)]
#[expect(dead_code, reason = "for the document alone")]
pub(super) struct CoachForm {
    /// The learner's clip: a video, a sound or a picture.
    #[schema(value_type = Option<String>, format = Binary)]
    file: Option<Vec<u8>>,
    /// The learner's sound, in place of the file's own.
    #[schema(value_type = Option<String>, format = Binary)]
    audio: Option<Vec<u8>>,
    /// A teacher's clip to measure against.
    #[schema(value_type = Option<String>, format = Binary)]
    reference: Option<Vec<u8>>,
    /// `speech`, `dance` or `drama`; default: by what the clip has.
    lab: Option<String>,
    /// What should be said.
    text: Option<String>,
    /// Of the feedback: `en` (default) or `ko`.
    language: Option<String>,
    /// The language model that phrases the points; default: routed.
    model: Option<String>,
    /// false: the planner's own sentences alone.
    llm: Option<bool>,
    seed: Option<u64>,
}

/// A lesson as events
#[utoipa::path(
    post, path = "/v1/coach", tag = "lessons",
    request_body(content = CoachForm, content_type = "multipart/form-data"),
    responses(
        (status = 200, description = "Events `features`, `score`, `token`, `point`, `done`; `error` where it fails on the way",
         body = Object, content_type = "text/event-stream"),
        (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody),
    )
)]
pub(super) async fn coach(State(server): State<Shared>, claim: Claim, request: HttpRequest) -> Result<Response, Problem> {
    let form = Form::read(&server, request, &FIELDS).await?;
    let place = server.admission.enter(&claim).await?;
    let (place, lesson) = {
        let server = server.clone();
        placed(place, move |_| lesson(&server, &form)).await?
    };
    let cancel = Cancel::default();
    let (sink, parts) = Parts::new(vec![cancel.clone()]);
    tokio::task::spawn_blocking(move || {
        let _held = place;
        if let Err(problem) = guarded(|| tell(&server, lesson, &cancel, &sink)) {
            server.metrics.problem(problem.code);
            let event = SseEvent::default().event("error").json_data(problem.body());
            sink.send(event.unwrap_or_default());
        }
    });
    Ok(Sse::new(parts.map(Ok::<_, Infallible>)).keep_alive(KeepAlive::default()).into_response())
}

/// Sends a lesson's events; a client that has gone ends it.
fn tell(server: &Shared, request: Request, cancel: &Cancel, sink: &Sink<SseEvent>) -> Result<(), Problem> {
    for event in server.engine.coach_until(request, cancel.clone()) {
        let event = event?;
        if let Event::Done(done) = &event {
            server.metrics.stages(&done.seconds);
        }
        let sse = SseEvent::default().event(name(&event)).json_data(&event).map_err(Problem::internal)?;
        if !sink.send(sse) {
            break;
        }
    }
    Ok(())
}

fn name(event: &Event) -> &'static str {
    match event {
        Event::Features(_) => "features",
        Event::Score(_) => "score",
        Event::Token { .. } => "token",
        Event::Point(_) => "point",
        Event::Done(_) => "done",
    }
}

/// What is asked for, its media decoded.
fn lesson(server: &Shared, form: &Form) -> Result<Request, Problem> {
    let (engine, limits) = (&server.engine, server.engine.limits());
    if !form.has("file") && !form.has("audio") {
        return Err(Problem::invalid("nothing to look at or listen to; send `file` or `audio`").of_param("file"));
    }
    let language = match form.text("language")? {
        None | Some("en") => Language::English,
        Some("ko") => Language::Korean,
        Some(_) => return Err(Problem::invalid("en and ko are known").of_param("language")),
    };
    let voice = match (form.parsed("llm", "true or false")?.unwrap_or(true), form.text("model")?) {
        (false, _) => Voice::Planner,
        (true, None) => Voice::Routed,
        (true, name) => Voice::Model(models::choose(engine, name, Role::Llm)?),
    };
    let named = match form.text("lab")? {
        None => None,
        Some("speech") => Some(Lab::Speech),
        Some("dance") => Some(Lab::Dance),
        Some("drama") => Some(Lab::Drama),
        Some(_) => return Err(Problem::invalid("speech, dance and drama are known").of_param("lab")),
    };
    let seed = form.parsed("seed", "a whole number from 0")?.unwrap_or(0);
    let mut clip = form.clip(("file", "audio"), &limits)?;
    clip.text = form.text("text")?.map(str::to_owned);
    server.look_at(clip.text.as_deref())?;
    let lab = named.unwrap_or_else(|| Lab::for_clip(&clip));
    let reference = form.has("reference").then(|| form.decode("reference", media::open, &limits)).transpose()?;
    server.metrics.audio(clip.pcm.len() as f64 / f64::from(media::SAMPLE_RATE));
    Ok(Request { language, voice, seed, reference: reference.map(Arc::<Clip>::new), ..Request::new(lab, clip) })
}
