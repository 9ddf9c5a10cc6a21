//! POST /v1/embeddings: texts and pictures as vectors of one space, by a model that was trained on both.

use std::sync::atomic::Ordering;

use axum::{Json, extract::State};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use dreamseed_models::vision::{Session, Vision};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::{
    super::{
        Shared,
        admission::Claim,
        error::{ErrorBody, Problem},
        models,
        work::{Cancel, work},
    },
    Body,
    content::{data_uri, decode},
    params::{OneOrMore, refuse_unknown},
};
use crate::{Error, extract::view, manifest::Role, media};

/// Most texts and pictures of a request, and most of them pictures.
const MOST_INPUTS: (usize, usize) = (256, 32);

/// A request for vectors.
#[derive(Debug, Deserialize, ToSchema)]
pub(in super::super) struct EmbeddingRequest {
    /// An id of /v1/models; `default` or none: the profile's.
    model: Option<String>,
    /// A text or a picture (`data:image/...;base64,...`), or up to 256 of them, 32 of them pictures. Of a text the first 64 tokens or
    /// so count, as many as the model was trained on.
    input: OneOrMore,
    /// `float` (default), or `base64` of 32-bit numbers, the lowest byte first.
    encoding_format: Option<EncodingFormat>,
    /// The first so many numbers of each vector, brought to unit length again; default: all.
    #[schema(minimum = 1)]
    dimensions: Option<usize>,
    #[serde(flatten)]
    #[schema(ignore)]
    rest: Map<String, Value>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum EncodingFormat {
    #[default]
    Float,
    Base64,
}

/// The vectors, in the order of the input.
#[derive(Serialize, ToSchema)]
pub(in super::super) struct EmbeddingList {
    /// `list`.
    object: &'static str,
    data: Vec<Embedding>,
    model: String,
    usage: EmbeddingUsage,
}

#[derive(Serialize, ToSchema)]
struct Embedding {
    /// `embedding`.
    object: &'static str,
    index: usize,
    embedding: Numbers,
}

/// Of unit length.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
enum Numbers {
    Float(Vec<f32>),
    Base64(String),
}

/// What was read: tokens of texts, patches of pictures.
#[derive(Clone, Copy, Default, Serialize, ToSchema)]
struct EmbeddingUsage {
    prompt_tokens: usize,
    total_tokens: usize,
}

/// Texts and pictures as vectors
#[utoipa::path(
    post, path = "/v1/embeddings", tag = "senses", request_body = EmbeddingRequest,
    responses((status = 200, body = EmbeddingList), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody))
)]
pub(in super::super) async fn embeddings(
    State(server): State<Shared>,
    claim: Claim,
    Body(request): Body<EmbeddingRequest>,
) -> Result<Json<EmbeddingList>, Problem> {
    refuse_unknown(&request.rest)?;
    let inputs = request.input.into_vec();
    let pictures = inputs.iter().filter(|i| is_picture(i)).count();
    let (most, most_pictures) = MOST_INPUTS;
    if inputs.is_empty() || inputs.len() > most || pictures > most_pictures {
        let seen = format!("{} inputs, {pictures} of them pictures", inputs.len());
        return Err(Problem::invalid(format!("{seen}; 1 to {most} are allowed, {most_pictures} pictures")).of_param("input"));
    }
    let model = models::choose(&server.engine, request.model.as_deref(), Role::Vision)?;
    let place = server.admission.enter(&claim).await?;
    let job = Job { inputs, dimensions: request.dimensions, format: request.encoding_format.unwrap_or_default() };
    let (data, usage) = {
        let (server, model) = (server.clone(), model.clone());
        work(move |cancel| {
            let _held = place;
            job.run(&server, &model, cancel)
        })
        .await?
    };
    Ok(Json(EmbeddingList { object: "list", data, model, usage }))
}

struct Job {
    inputs: Vec<String>,
    dimensions: Option<usize>,
    format: EncodingFormat,
}

fn is_picture(input: &str) -> bool {
    input.starts_with("data:image/")
}

impl Job {
    fn run(&self, server: &Shared, model: &str, cancel: &Cancel) -> Result<(Vec<Embedding>, EmbeddingUsage), Problem> {
        let vision = server.engine.vision(Some(model))?;
        let (mut data, mut tokens) = (Vec::with_capacity(self.inputs.len()), 0);
        let mut session = Session::default();
        for (index, input) in self.inputs.iter().enumerate() {
            if cancel.load(Ordering::Relaxed) {
                return Err(Error::Cancelled.into());
            }
            let of_input = |problem: Problem| match problem.status.is_client_error() {
                true => problem.of_param(format!("input[{index}]")),
                false => problem,
            };
            let (vector, read) = self.vector(server, &vision, input, &mut session).map_err(of_input)?;
            tokens += read;
            let embedding = self.written(vector)?;
            data.push(Embedding { object: "embedding", index, embedding });
        }
        Ok((data, EmbeddingUsage { prompt_tokens: tokens, total_tokens: tokens }))
    }

    /// A vector of unit length, and how many tokens or patches it is of.
    fn vector(
        &self,
        server: &Shared,
        vision: &Vision,
        input: &str,
        session: &mut Session,
    ) -> Result<(Vec<f32>, usize), Problem> {
        let pool = server.engine.pool();
        if is_picture(input) {
            let frame = decode(data_uri(input)?, media::open_picture, &server.engine.limits())?;
            let vector = vision.embed(pool, &view(&frame)?, session).map_err(Error::from)?;
            return Ok((vector, session.patches()));
        }
        let Some(words) = vision.siglip() else {
            return Err(Problem::invalid("this model knows pictures alone; a model of both is a SigLIP 2"));
        };
        if input.is_empty() {
            return Err(Problem::invalid("an empty text"));
        }
        let vector = words.embed_texts(pool, &[input]).map_err(Error::from)?.pop();
        let vector = vector.ok_or_else(|| Problem::internal("no vector"))?;
        Ok((vector, words.tokens(input).map_err(Error::from)?))
    }

    fn written(&self, mut vector: Vec<f32>) -> Result<Numbers, Problem> {
        if let Some(dimensions) = self.dimensions {
            if dimensions == 0 || dimensions > vector.len() {
                let problem = format!("{dimensions} seen; 1 to {} is allowed", vector.len());
                return Err(Problem::invalid(problem).of_param("dimensions"));
            }
            vector.truncate(dimensions);
            let length = vector.iter().map(|v| v * v).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
            vector.iter_mut().for_each(|v| *v /= length);
        }
        Ok(match self.format {
            EncodingFormat::Float => Numbers::Float(vector),
            EncodingFormat::Base64 => {
                let bytes: Vec<u8> = vector.iter().flat_map(|v| v.to_le_bytes()).collect();
                Numbers::Base64(STANDARD.encode(bytes))
            }
        })
    }
}
