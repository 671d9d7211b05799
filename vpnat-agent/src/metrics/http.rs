//! `/metrics`, `/healthz` and `/readyz` over HTTP/1.1.

use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use super::text::{CLASSIC, OPENMETRICS, classic, wants_openmetrics};

/// Connections served at a time; more wait.
const CONNECTIONS: usize = 16;

/// A client that sends no request is not waited for.
const PATIENCE: Duration = Duration::from_secs(10);

const PLAIN: &str = "text/plain; charset=utf-8";

/// Serves until the runtime ends.
pub async fn serve(listener: TcpListener, registry: Registry, ready: Arc<AtomicBool>) {
    let registry = Rc::new(registry);
    let seats = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(seat) = seats.clone().acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                log::warn!("a metrics connection could not be accepted ({error})");
                tokio::time::sleep(Duration::from_millis(200)).await;
                continue;
            }
        };
        let (registry, ready) = (registry.clone(), ready.clone());
        tokio::task::spawn_local(async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let response = answer(&request, &registry, &ready);
                async move { Ok::<_, Infallible>(response) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(PATIENCE)
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), service);
            if let Ok(Err(error)) = tokio::time::timeout(PATIENCE, connection).await {
                log::debug!("a metrics connection ended: {error}");
            }
            drop(seat);
        });
    }
}

fn answer(request: &Request<Incoming>, registry: &Registry, ready: &AtomicBool) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return respond(StatusCode::METHOD_NOT_ALLOWED, PLAIN, "only GET\n".into());
    }
    match request.uri().path() {
        "/metrics" => {
            let mut body = String::new();
            let accept = request.headers().get(ACCEPT).and_then(|value| value.to_str().ok());
            match encode(&mut body, registry) {
                Ok(()) if wants_openmetrics(accept) => respond(StatusCode::OK, OPENMETRICS, body),
                Ok(()) => respond(StatusCode::OK, CLASSIC, classic(&body)),
                Err(_) => respond(StatusCode::INTERNAL_SERVER_ERROR, PLAIN, "encoding failed\n".into()),
            }
        }
        "/healthz" => respond(StatusCode::OK, PLAIN, "ok\n".into()),
        "/readyz" if ready.load(Ordering::Relaxed) => respond(StatusCode::OK, PLAIN, "ready\n".into()),
        "/readyz" => respond(StatusCode::SERVICE_UNAVAILABLE, PLAIN, "not ready\n".into()),
        _ => respond(StatusCode::NOT_FOUND, PLAIN, "/metrics, /healthz or /readyz\n".into()),
    }
}

fn respond(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
