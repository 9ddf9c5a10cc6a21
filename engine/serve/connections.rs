//! Connections: accepted while there are places, dropped when nothing comes for too long, and let go in order at the end.

use std::{io::ErrorKind, sync::Arc, time::Duration};

use axum::{Router, http::Request};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto::Builder, graceful::GracefulShutdown},
    service::TowerToHyperService,
};
use tokio::{
    net::TcpListener,
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tower::ServiceExt;

use super::{abuse::Peer, settings::Serve};

/// A connection's place, an extension of its requests: held by what outlives HTTP on it.
#[derive(Clone)]
pub(super) struct Held(
    #[expect(dead_code, reason = "it is given back when the last one is dropped")] Arc<OwnedSemaphorePermit>,
);

/// Serves until `stop` is complete, then waits for requests under way as long as the settings say. Returns how many were cut off.
pub(super) async fn accept(listener: TcpListener, routes: Router, settings: &Serve, stop: impl Future<Output = ()>) -> usize {
    let places = Arc::new(Semaphore::new(settings.connections));
    let graceful = GracefulShutdown::new();
    let mut http = Builder::new(TokioExecutor::new());
    let idle = Duration::from_secs(settings.idle_seconds);
    http.http1().timer(TokioTimer::new()).header_read_timeout(idle);
    http.http2().timer(TokioTimer::new()).keep_alive_interval(idle).keep_alive_timeout(idle);
    tokio::pin!(stop);
    loop {
        let place = tokio::select! {
            () = &mut stop => break,
            place = places.clone().acquire_owned() => place,
        };
        let Ok(place) = place else { break }; // it is never closed
        let (stream, peer) = tokio::select! {
            () = &mut stop => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => (stream, Peer(peer.ip().to_canonical())),
                Err(e) => {
                    // out of file descriptors, say: those that close make room
                    if !matches!(e.kind(), ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset) {
                        tracing::warn!("no connection can be accepted: {e}");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                    continue;
                }
            },
        };
        let _ = stream.set_nodelay(true); // tokens are small
        let held = Held(Arc::new(place));
        let about = held.clone();
        let of_connection = move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(peer);
            request.extensions_mut().insert(about.clone());
            request
        };
        let service = TowerToHyperService::new(routes.clone().map_request(of_connection));
        let connection = http.serve_connection_with_upgrades(TokioIo::new(stream), service).into_owned();
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            let _held = held;
            if let Err(e) = connection.await {
                tracing::debug!("a connection broke: {e}");
            }
        });
    }
    drop(listener);
    let all = u32::try_from(settings.connections).unwrap_or(u32::MAX);
    let ended = async {
        graceful.shutdown().await;
        let _ = places.acquire_many(all).await; // those that became something else than HTTP too
    };
    match tokio::time::timeout(Duration::from_secs(settings.drain_seconds), ended).await {
        Ok(()) => 0,
        Err(_) => settings.connections - places.available_permits(),
    }
}
