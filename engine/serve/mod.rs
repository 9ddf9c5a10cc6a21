//! `dreamseed serve`: the engine over HTTP, for programs that are not written in Rust.
//!
//! OpenAI's API for text and speech, the engine's own for lessons, poses and features. A request is let in by its key (keys.rs), waits
//! for a place (admission.rs), and does its work on threads that may block (work.rs); a client that goes away frees its place, and its
//! keys and values in the model, at the next pass. Texts of several requests are computed together by the model's own thread.

mod abuse;
mod admission;
mod coach;
mod connections;
mod deadline;
mod error;
mod firewall;
pub mod issuers;
pub mod keys;
mod metrics;
mod models;
mod openai;
mod page;
mod realtime;
mod senses;
mod settings;
mod upload;
mod work;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, MatchedPath, Request, State},
    http::{HeaderName, HeaderValue, Method, StatusCode, header},
    middleware::{Next, from_fn, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::net::TcpListener;
use tower_http::{
    catch_panic::CatchPanicLayer,
    cors::CorsLayer,
    request_id::{MakeRequestUuid, PropagateRequestIdLayer, SetRequestIdLayer},
    timeout::RequestBodyTimeoutLayer,
    trace::{DefaultOnResponse, TraceLayer},
};
use tracing::Level;
use utoipa::OpenApi;
use utoipa_axum::{router::OpenApiRouter, routes};

pub use firewall::{Firewall, suspicions};
pub use settings::Serve;

use self::{
    admission::{Admission, PRIORITY},
    error::Problem,
    issuers::Issuers,
    keys::{Keys, Scope, authorize},
    metrics::Metrics,
};
use crate::{Engine, Error, Result, manifest::Role};

/// What all requests share.
struct Server {
    engine: Engine,
    keys: Keys,
    issuers: Issuers,
    abuse: abuse::Watch,
    admission: Arc<Admission>,
    metrics: Metrics,
    state: AtomicU8, // a `State`
}

type Shared = Arc<Server>;

/// Whether requests are welcome.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Stage {
    Loading,
    Ready,
    Draining,
}

#[derive(OpenApi)]
#[openapi(info(
    title = "dreamseed",
    description = "Text, speech, bodies and lessons. Text and speech follow OpenAI's API; errors have its form."
))]
struct Document;

/// Serves until Ctrl-C or SIGTERM, then lets requests under way end.
///
/// # Errors
/// [`Error::Usage`] for settings that cannot be met, [`Error::Io`] where the port is taken, and what is wrong with the file of keys.
pub fn run(engine: Engine) -> Result<()> {
    let settings = engine.config().serve.clone();
    let keys = Keys::open(&settings.keys)?;
    let issuers = Issuers::new(&settings.issuers)?;
    let address = settings.address()?;
    if keys.is_open() && issuers.is_empty() && !settings.open && !address.ip().is_loopback() {
        let problem = "other machines can reach it and there are no keys: make one with `dreamseed key new NAME` and name the file as \
                       serve.keys, or set serve.open = true";
        return Err(Error::Usage(format!("serve.listen = {address}: {problem}")));
    }
    allow_files();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2) // they only pass things on; work that computes has threads of its own
        .max_blocking_threads(4 * settings.requests + 64)
        .thread_name("http")
        .enable_all()
        .build()
        .map_err(|e| Error::Internal(format!("the server's threads: {e}")))?;
    let outcome = runtime.block_on(async {
        let taken = |source| Error::Io { path: settings.listen.clone().into(), source };
        let listener = TcpListener::bind(address).await.map_err(taken)?;
        serve(engine, (keys, issuers), listener, asked_to_stop()).await
    });
    runtime.shutdown_timeout(Duration::from_secs(2)); // what was cut off hears of it by its flag
    outcome
}

/// As many open files as the system lets the process have: each connection is one, and the usual bound is 1,024.
fn allow_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if let Err(e) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        tracing::warn!("the bound of {:?} open files stays: {e}", limit.current);
    }
}

/// Serves on `listener` until `stop` is complete.
async fn serve(
    engine: Engine,
    (keys, issuers): (Keys, Issuers),
    listener: TcpListener,
    stop: impl Future<Output = ()>,
) -> Result<()> {
    let settings = engine.config().serve.clone();
    let address = listener.local_addr().map_err(|source| Error::Io { path: settings.listen.clone().into(), source })?;
    let server = Arc::new(Server {
        admission: Admission::new(settings.requests, settings.queue, Duration::from_secs(settings.wait_seconds)),
        metrics: Metrics::new(),
        state: AtomicU8::new(Stage::Loading as u8),
        engine,
        keys,
        issuers,
        abuse: abuse::Watch::default(),
    });
    crate::cli::note(&format!("dreamseed listens on http://{address}"));
    let warming = tokio::task::spawn_blocking({
        let (server, warm) = (server.clone(), settings.warm);
        move || server.warm(warm)
    });
    let idle = tokio::spawn(let_go_idle(server.clone()));
    let routes = routes(&server, &settings);
    let stopping = async {
        stop.await;
        server.state.store(Stage::Draining as u8, Ordering::Relaxed);
        tracing::info!("stopping: requests under way have {} s", settings.drain_seconds);
    };
    let cut = connections::accept(listener, routes, &settings, stopping).await;
    warming.abort();
    idle.abort();
    if cut > 0 {
        tracing::warn!("{cut} connections were cut off");
    }
    Ok(())
}

/// Lets models go that nobody has asked for in the configured time.
async fn let_go_idle(server: Shared) {
    let after = Duration::from_secs(server.engine.config().models.idle_seconds);
    if after.is_zero() {
        return;
    }
    let mut clock = tokio::time::interval((after / 4).clamp(Duration::from_millis(250), Duration::from_secs(10)));
    loop {
        clock.tick().await;
        let engine = server.engine.clone();
        // unmapping gigabytes takes a while
        let gone = tokio::task::spawn_blocking(move || engine.let_go_idle(after)).await.unwrap_or_default();
        for model in gone {
            tracing::info!("{} was idle and is let go", model.path.display());
        }
    }
}

impl Server {
    /// Whether nobody needs a key.
    fn is_open(&self) -> bool {
        self.keys.is_open() && self.issuers.is_empty()
    }

    /// Looks at texts of a request for orders in another one's name: they are counted and logged, without their content.
    ///
    /// # Errors
    /// 400 where the configuration refuses them.
    fn look_at<'a>(&self, texts: impl IntoIterator<Item = &'a str>) -> Result<(), Problem> {
        let what = self.engine.config().serve.firewall;
        if what == Firewall::Off {
            return Ok(());
        }
        for kind in texts.into_iter().flat_map(firewall::suspicions) {
            self.metrics.suspicious(kind);
            tracing::warn!(kind, "a text looks like an attack on the model's instructions");
            if what == Firewall::Refuse {
                let message = "a text of the request looks like an attack on the model's instructions, and is refused here";
                return Err(Problem::new(StatusCode::BAD_REQUEST, "suspicious", message));
            }
        }
        Ok(())
    }

    /// Loads the models that first requests need. What cannot be loaded is told; requests that need it will say so too.
    fn warm(&self, wanted: bool) {
        if wanted {
            let begun = Instant::now();
            let engine = &self.engine;
            let has = |role| models::choose(engine, None, role).is_ok();
            let loads = [
                ("language model", has(Role::Llm).then(|| engine.llm(None).map(drop))),
                ("speech", has(Role::Speech).then(|| engine.speech(None).map(drop))),
                ("pose", has(Role::Pose).then(|| engine.pose(None).map(drop))),
                ("face", has(Role::Face).then(|| engine.face().map(drop))),
            ];
            for (what, outcome) in loads {
                if let Some(Err(e)) = outcome {
                    tracing::warn!("{what}: {e}");
                }
            }
            tracing::info!("models loaded in {:.1} s", begun.elapsed().as_secs_f64());
        }
        let (loading, ready) = (Stage::Loading as u8, Stage::Ready as u8);
        let _ = self.state.compare_exchange(loading, ready, Ordering::Relaxed, Ordering::Relaxed);
    }
}

fn routes(server: &Shared, settings: &Serve) -> Router {
    let scoped =
        |scope, routes: OpenApiRouter<Shared>| routes.route_layer(from_fn_with_state((server.clone(), scope), authorize));
    let text = OpenApiRouter::new()
        .routes(routes!(models::models))
        .routes(routes!(openai::chat::chat))
        .routes(routes!(openai::completions::completions))
        .routes(routes!(openai::responses::responses));
    let speech =
        OpenApiRouter::new().routes(routes!(openai::audio::transcriptions)).routes(routes!(openai::audio::translations));
    let senses = OpenApiRouter::new()
        .routes(routes!(senses::pose))
        .routes(routes!(senses::features))
        .routes(routes!(openai::embeddings::embeddings));
    let (routes, document) = OpenApiRouter::with_openapi(Document::openapi())
        .merge(scoped(Scope::Chat, text))
        .merge(scoped(Scope::Speech, speech))
        .merge(scoped(Scope::Coach, OpenApiRouter::new().routes(routes!(coach::coach)).routes(routes!(realtime::realtime))))
        .merge(page::routes())
        .merge(scoped(Scope::Senses, senses))
        .merge(scoped(Scope::Admin, OpenApiRouter::new().routes(routes!(models::reload))))
        .merge(scoped(Scope::Metrics, OpenApiRouter::new().route("/metrics", get(page_of_metrics))))
        .routes(routes!(live))
        .routes(routes!(ready))
        .split_for_parts();
    let document = Arc::new(document);
    routes
        .route("/openapi.json", get(move || async move { Json(&*document.clone()).into_response() }))
        .fallback(|| async {
            Problem::new(StatusCode::NOT_FOUND, "unknown_path", "there is nothing at this path; /openapi.json lists what is")
        })
        .method_not_allowed_fallback(|| async {
            Problem::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "method",
                "this path does not take this method; /openapi.json lists what it takes",
            )
        })
        .layer(DefaultBodyLimit::max(usize::try_from(settings.body_mb.saturating_mul(1_000_000)).unwrap_or(usize::MAX)))
        .layer(RequestBodyTimeoutLayer::new(Duration::from_secs(settings.idle_seconds)))
        .layer(CatchPanicLayer::custom(|_| Problem::internal("a request panicked").into_response()))
        .layer(from_fn(deadline::kept))
        .layer(from_fn_with_state(server.clone(), abuse::guard))
        .layer(from_fn_with_state(server.clone(), count))
        .layer(cors(&settings.cors))
        .layer(TraceLayer::new_for_http().make_span_with(span).on_response(DefaultOnResponse::new().level(Level::INFO)))
        .layer(PropagateRequestIdLayer::x_request_id())
        .layer(SetRequestIdLayer::x_request_id(MakeRequestUuid))
        .with_state(server.clone())
}

/// Which pages of other origins may ask: none, if none are named.
fn cors(origins: &[String]) -> CorsLayer {
    let origins: Vec<HeaderValue> = origins.iter().filter_map(|o| o.parse().ok()).collect(); // validated with the settings
    CorsLayer::new()
        .allow_origin(origins)
        .allow_methods([Method::GET, Method::POST])
        .allow_headers([header::AUTHORIZATION, header::CONTENT_TYPE, PRIORITY, deadline::HEADER])
        .expose_headers([header::RETRY_AFTER, HeaderName::from_static("x-request-id")])
}

/// What messages of a request's work carry: its id, which the answer has too (`x-request-id`), and its path; nothing of its content.
fn span(request: &Request) -> tracing::Span {
    let id = request.headers().get("x-request-id").and_then(|v| v.to_str().ok()).unwrap_or("");
    tracing::info_span!("request", id, method = %request.method(), path = request.uri().path())
}

/// Counts an answer by its route, never by the path that a client made up.
async fn count(State(server): State<Shared>, request: Request, next: Next) -> Response {
    let begun = Instant::now();
    let route = request.extensions().get::<MatchedPath>().map(|p| p.as_str().to_owned());
    let response = next.run(request).await;
    server.metrics.answered(route.as_deref().unwrap_or("unknown"), response.status(), begun.elapsed());
    if let Some(problem) = response.extensions().get::<Problem>() {
        server.metrics.problem(problem.code);
    }
    response
}

/// Whether the process runs
#[utoipa::path(get, path = "/health/live", tag = "health", responses((status = 200, body = String)))]
async fn live() -> &'static str {
    "ok\n"
}

/// Whether requests are welcome: models are loaded, and it is not being stopped
#[utoipa::path(get, path = "/health/ready", tag = "health", responses((status = 200, body = String), (status = 503, body = String)))]
async fn ready(State(server): State<Shared>) -> (StatusCode, &'static str) {
    match server.state.load(Ordering::Relaxed) {
        s if s == Stage::Ready as u8 => (StatusCode::OK, "ready\n"),
        s if s == Stage::Loading as u8 => (StatusCode::SERVICE_UNAVAILABLE, "loading\n"),
        _ => (StatusCode::SERVICE_UNAVAILABLE, "stopping\n"),
    }
}

async fn page_of_metrics(State(server): State<Shared>) -> Result<Response, Problem> {
    let page = server.metrics.page(server.admission.load(), &server.engine.in_memory()).map_err(Problem::internal)?;
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, kind)], page).into_response())
}

/// Ctrl-C or SIGTERM.
async fn asked_to_stop() {
    use tokio::signal::unix::{SignalKind, signal};
    let terminated = async {
        match signal(SignalKind::terminate()) {
            Ok(mut signal) => drop(signal.recv().await),
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        () = terminated => {}
    }
}
