//! Connections: accepted while there are places, dropped when nothing comes for too long, and let go in order at the end.

use std::{io::ErrorKind, sync::Arc, time::Duration};

use axum::{Router, http::Request};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto::Builder, graceful::GracefulShutdown},
    service::TowerToHyperService,
};
use tokio::{net::TcpListener, sync::Semaphore};
use tower::ServiceExt;

use super::{abuse::Peer, settings::Serve};

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
        let with_peer = move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(peer);
            request
        };
        let service = TowerToHyperService::new(routes.clone().map_request(with_peer));
        let connection = http.serve_connection_with_upgrades(TokioIo::new(stream), service).into_owned();
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            let _place = place;
            if let Err(e) = connection.await {
                tracing::debug!("a connection broke: {e}");
            }
        });
    }
    drop(listener);
    let open = graceful.count();
    match tokio::time::timeout(Duration::from_secs(settings.drain_seconds), graceful.shutdown()).await {
        Ok(()) => 0,
        Err(_) => open,
    }
}
