//! Which models the server answers with: those of its profile. A request names one by id or alias, never by a path.

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    Shared,
    error::{ErrorBody, Problem},
};
use crate::{
    Engine,
    fetch::{self, State as Files},
    manifest::{Model, Role},
};

/// A model that can be asked for.
#[derive(Serialize, ToSchema)]
pub(super) struct Listed {
    id: String,
    /// `model`.
    object: &'static str,
    /// Always 0: files have no date that means anything to a client.
    created: u64,
    owned_by: &'static str,
    /// `llm`, `speech`, `pose`, `face`, `vision`.
    #[schema(value_type = String)]
    role: Role,
    name: String,
    licence: String,
    /// Whether its weights are on the machine.
    ready: bool,
    /// Whether it is loaded: its first answer does not wait for that.
    loaded: bool,
}

/// All of them.
#[derive(Serialize, ToSchema)]
pub(super) struct List {
    /// `list`.
    object: &'static str,
    data: Vec<Listed>,
}

/// The models that can be asked for
#[utoipa::path(
    get, path = "/v1/models", tag = "models",
    responses((status = 200, body = List), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody))
)]
pub(super) async fn models(State(server): State<Shared>) -> Result<Json<List>, Problem> {
    let store = server.engine.store();
    let profile = fetch::profile(server.engine.config(), store)?;
    let known = profile.models.iter().filter_map(|id| store.manifest().find(id).ok());
    let loaded = server.engine.in_memory();
    let listed = |m: &Model| {
        let folder = store.folder(m);
        listed(&server.engine, m, loaded.iter().any(|l| l.path.starts_with(&folder)))
    };
    let data = known.filter(|m| m.role != Role::Sample && m.role != Role::Voice).map(listed).collect();
    Ok(Json(List { object: "list", data }))
}

fn listed(engine: &Engine, model: &Model, loaded: bool) -> Listed {
    Listed {
        id: model.id.clone(),
        object: "model",
        created: 0,
        owned_by: "dreamseed",
        role: model.role,
        name: model.name.clone(),
        licence: model.licence.clone(),
        ready: matches!(engine.store().state(model), Files::Present { .. }),
        loaded,
    }
}

/// Forget that a model is loaded: requests under way go on with it, the next one loads its files anew
#[utoipa::path(
    post, path = "/v1/models/{model}/reload", tag = "models", params(("model" = String, Path, description = "An id")),
    responses((status = 200, body = Reloaded), (status = "4XX", body = ErrorBody))
)]
pub(super) async fn reload(State(server): State<Shared>, Path(id): Path<String>) -> Result<Json<Reloaded>, Problem> {
    let store = server.engine.store();
    let profile = fetch::profile(server.engine.config(), store)?;
    if !profile.models.contains(&id) {
        return Err(not_found(&id, &profile.models.join(", ")));
    }
    let loaded = server.engine.forget(&id)?;
    tracing::info!(model = id, loaded, "will be loaded anew");
    Ok(Json(Reloaded { id, was_loaded: loaded }))
}

/// What was forgotten.
#[derive(Serialize, ToSchema)]
pub(super) struct Reloaded {
    id: String,
    was_loaded: bool,
}

fn not_found(named: &str, known: &str) -> Problem {
    let shown: String = named.chars().take(80).collect();
    let message = format!("no model {shown:?} is served for this; there are: {known}");
    Problem::new(StatusCode::NOT_FOUND, "model_not_found", message).of_param("model")
}

/// The id of the profile's model that a request names; its first of the role where it names none, or `default`.
///
/// # Errors
/// 404 for one that is not among them: a request can neither name a file of the server nor have a model downloaded.
pub(super) fn choose(engine: &Engine, named: Option<&str>, role: Role) -> Result<String, Problem> {
    let store = engine.store();
    let profile = fetch::profile(engine.config(), store)?;
    let served = store.manifest().in_profile(profile, role);
    let ids = || served.iter().map(|m| m.id.as_str()).collect::<Vec<_>>().join(", ");
    let found = match named.filter(|n| !n.is_empty() && *n != "default") {
        None => served.first(),
        Some(name) => served.iter().find(|m| m.id == name || m.alias.iter().any(|a| a == name)),
    };
    found.map(|m| m.id.clone()).ok_or_else(|| not_found(named.unwrap_or("default"), &ids()))
}
