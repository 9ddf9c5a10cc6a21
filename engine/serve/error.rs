//! What a client is told when a request fails: OpenAI's form, and one place where an error's kind becomes a status.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use dreamseed_models::whisper;
use serde::Serialize;
use utoipa::ToSchema;

use crate::Error;

/// Why a request failed.
#[derive(Clone, Debug)]
pub(super) struct Problem {
    pub(super) status: StatusCode,
    pub(super) code: &'static str,
    pub(super) message: String,
    pub(super) param: Option<String>,
    /// Seconds after which it is worth trying again.
    pub(super) retry_after: Option<u64>,
}

/// `{"error": {...}}`, as OpenAI's API has it.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ErrorBody {
    error: ErrorDetail,
}

/// What went wrong.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ErrorDetail {
    /// What was seen, what is allowed, what to do.
    message: String,
    /// `invalid_request_error`, `authentication_error`, `permission_error`, `rate_limit_error` or `server_error`.
    r#type: &'static str,
    /// The parameter that is wrong.
    param: Option<String>,
    /// For programs: `model_not_found`, `queue_full`, `body_too_large`, ...
    code: &'static str,
}

impl Problem {
    pub(super) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), param: None, retry_after: None }
    }

    /// The request cannot be met as it is.
    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request", message)
    }

    /// A defect of the server; what it was is for the log alone.
    pub(super) fn internal(what: impl std::fmt::Display) -> Self {
        tracing::error!("{what}");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", "the server failed; its log says why")
    }

    /// The answer would come after its deadline.
    pub(super) fn late() -> Self {
        Self::new(StatusCode::GATEWAY_TIMEOUT, "deadline", "the request's deadline came before its answer")
    }

    /// About one parameter.
    pub(super) fn of_param(self, param: impl Into<String>) -> Self {
        Self { param: Some(param.into()), ..self }
    }

    fn kind(&self) -> &'static str {
        match self.status {
            StatusCode::UNAUTHORIZED => "authentication_error",
            StatusCode::FORBIDDEN => "permission_error",
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            s if s.is_client_error() => "invalid_request_error",
            _ => "server_error",
        }
    }

    /// As the body of a response, or the data of an event in a stream that has begun.
    pub(super) fn body(&self) -> ErrorBody {
        let (message, param) = (self.message.clone(), self.param.clone());
        ErrorBody { error: ErrorDetail { message, r#type: self.kind(), param, code: self.code } }
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        match error {
            Error::Usage(message) => Self::invalid(message),
            // the path is the server's own temporary file
            Error::Media { problem, .. } => Self::new(StatusCode::BAD_REQUEST, "bad_media", problem),
            Error::Speech(whisper::Error::Option { option, problem }) => Self::invalid(problem).of_param(option),
            Error::Fetch(why) => {
                tracing::error!("{why}");
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "model_unavailable", "the model's weights are not there yet")
            }
            Error::Device(why) => {
                tracing::error!("{why}");
                let message = "the device has no room for this now, or failed; try again";
                Self { retry_after: Some(5), ..Self::new(StatusCode::SERVICE_UNAVAILABLE, "device_unavailable", message) }
            }
            Error::Cancelled => Self::new(StatusCode::SERVICE_UNAVAILABLE, "cancelled", "the request was cancelled"),
            other => Self::internal(other),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body())).into_response();
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response.extensions_mut().insert(self); // for the metrics
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_become_statuses_and_paths_stay_inside() {
        let media = Error::Media { path: "/tmp/secret".into(), problem: "it is no sound".into() };
        let cases = [
            (Error::Usage("no".into()), 400, "invalid_request"),
            (media, 400, "bad_media"),
            (Error::Fetch("pip".into()), 503, "model_unavailable"),
            (Error::Device("full".into()), 503, "device_unavailable"),
            (Error::Internal("/srv/secret".into()), 500, "internal_error"),
        ];
        for (error, status, code) in cases {
            let problem = Problem::from(error);
            assert_eq!((problem.status.as_u16(), problem.code), (status, code));
            let body = serde_json::to_string(&problem.body()).unwrap();
            assert!(!body.contains("secret"), "{body}");
        }
    }
}
