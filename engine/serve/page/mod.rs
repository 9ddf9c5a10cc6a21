//! The page at `/`: a lesson in a browser. Its files are in the binary; it loads nothing from anywhere else.

use axum::{
    Json,
    extract::State,
    http::{
        HeaderName,
        header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS},
    },
    response::IntoResponse,
    routing::get,
};
use utoipa_axum::router::OpenApiRouter;

use super::Shared;

/// Nothing but the page's own files, its own connections and the pictures, sounds and films that it makes or is given.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' blob:; \
                      media-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
/// The page alone may ask for camera and microphone.
const PERMISSIONS: &str = "camera=(self), microphone=(self)";

/// Path, kind and text of each file.
const FILES: [(&str, &str, &str); 8] = [
    ("/", "text/html; charset=utf-8", include_str!("index.html")),
    ("/page/style.css", "text/css; charset=utf-8", include_str!("style.css")),
    ("/page/icon.svg", "image/svg+xml", include_str!("icon.svg")),
    ("/page/app.js", "text/javascript; charset=utf-8", include_str!("app.js")),
    ("/page/media.js", "text/javascript; charset=utf-8", include_str!("media.js")),
    ("/page/draw.js", "text/javascript; charset=utf-8", include_str!("draw.js")),
    ("/page/words.js", "text/javascript; charset=utf-8", include_str!("words.js")),
    ("/page/recorder.js", "text/javascript; charset=utf-8", include_str!("recorder.js")),
];

/// The page's files, for everybody: what it asks for needs a key.
pub(super) fn routes() -> OpenApiRouter<Shared> {
    let file = |routes: OpenApiRouter<Shared>, (path, kind, text): (&'static str, &'static str, &'static str)| {
        let headers: [(HeaderName, &str); 6] = [
            (CONTENT_TYPE, kind),
            (CONTENT_SECURITY_POLICY, POLICY),
            (HeaderName::from_static("permissions-policy"), PERMISSIONS),
            (CACHE_CONTROL, "no-cache"),
            (REFERRER_POLICY, "no-referrer"),
            (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        ];
        routes.route(path, get(move || async move { (headers.clone(), text).into_response() }))
    };
    FILES.into_iter().fold(OpenApiRouter::new().route("/page/needs", get(needs)), file)
}

/// Whether a lesson needs a key.
async fn needs(State(server): State<Shared>) -> Json<serde_json::Value> {
    Json(serde_json::json!({ "key": !server.is_open() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_names_nothing_that_is_elsewhere() {
        for (path, _, text) in FILES {
            for foreign in ["http://", "https://", "//cdn", "innerHTML", "insertAdjacentHTML", "document.write", "eval("] {
                let found = text.replace("http://www.w3.org/2000/svg", "");
                assert!(!found.contains(foreign), "{path}: {foreign}");
            }
        }
        let page = FILES[0].2;
        assert!(!page.contains("style=") && !page.contains("onclick"), "its policy forbids both");
        for (path, ..) in &FILES[1..4] {
            assert!(page.contains(path), "{path}");
        }
    }
}
