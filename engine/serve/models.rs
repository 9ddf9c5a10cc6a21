//! Which models the server answers with: those of its profile. A request names one by id or alias, never by a path.

use axum::{Json, extract::State, http::StatusCode};
use serde::Serialize;
use utoipa::ToSchema;

use super::{Shared, error::Problem};
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
}

/// All of them.
#[derive(Serialize, ToSchema)]
pub(super) struct List {
    /// `list`.
    object: &'static str,
    data: Vec<Listed>,
}

/// The models that can be asked for
#[utoipa::path(get, path = "/v1/models", tag = "models", responses((status = 200, body = List)))]
pub(super) async fn models(State(server): State<Shared>) -> Result<Json<List>, Problem> {
    let store = server.engine.store();
    let profile = fetch::profile(server.engine.config(), store)?;
    let known = profile.models.iter().filter_map(|id| store.manifest().find(id).ok());
    let data = known.filter(|m| m.role != Role::Sample && m.role != Role::Voice).map(|m| listed(&server.engine, m)).collect();
    Ok(Json(List { object: "list", data }))
}

fn listed(engine: &Engine, model: &Model) -> Listed {
    Listed {
        id: model.id.clone(),
        object: "model",
        created: 0,
        owned_by: "dreamseed",
        role: model.role,
        name: model.name.clone(),
        licence: model.licence.clone(),
        ready: matches!(engine.store().state(model), Files::Present { .. }),
    }
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
    found.map(|m| m.id.clone()).ok_or_else(|| {
        let shown: String = named.unwrap_or("default").chars().take(80).collect();
        let message = format!("no model {shown:?} is served for this; there are: {}", ids());
        Problem::new(StatusCode::NOT_FOUND, "model_not_found", message).of_param("model")
    })
}
