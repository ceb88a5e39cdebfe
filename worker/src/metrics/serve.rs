//! One page over HTTP: what Prometheus reads. Whoever can reach the address may read it, and nothing
//! but it; how many may at once, and how long each may take, is bounded.

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// Connections at once; further ones wait in the system's queue.
const CONNECTIONS_MAX: usize = 8;

/// What a connection may take altogether: one question, one answer.
const CONNECTION_MAX: Duration = Duration::from_secs(10);

/// What a question's lines may take.
const REQUEST_BYTES_MAX: usize = 8 * 1024;

/// The text format that Prometheus and its relatives read.
const FORMAT: HeaderValue =
    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");

/// A page that is served until this is dropped.
#[derive(Debug)]
pub struct Serving {
    /// Where it is.
    pub address: SocketAddr,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Serves what `page` makes, anew for each question, at `/metrics`; it makes nothing while it cannot
/// know.
///
/// *Errors*: the address is taken or not ours.
pub async fn serve<P, F>(address: SocketAddr, page: P) -> io::Result<Serving>
where
    P: Fn() -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Option<String>> + Send + 'static,
{
    let listener = TcpListener::bind(address).await.map_err(|error| {
        let cure = "give another address with --metrics";
        io::Error::new(error.kind(), format!("cannot serve metrics at {address}: {error}; {cure}"))
    })?;
    let address = listener.local_addr()?;
    tracing::info!("metrics at http://{address}/metrics");
    let task = tokio::spawn(accept(listener, page));
    Ok(Serving { address, task })
}

async fn accept<P, F>(listener: TcpListener, page: P)
where
    P: Fn() -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Option<String>> + Send + 'static,
{
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    // Connections end with the server.
    let mut open = tokio::task::JoinSet::new();
    loop {
        let Ok(place) = room.clone().acquire_owned().await else { return };
        while open.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, _)) => {
                let page = page.clone();
                open.spawn(async move {
                    let _place = place;
                    let answered = tokio::time::timeout(CONNECTION_MAX, answer(stream, page)).await;
                    if let Ok(Err(error)) = answered {
                        tracing::debug!("a reader of metrics: {error}");
                    }
                });
            }
            Err(error) => {
                // Out of descriptors, most likely: it is tried again when others were given back.
                tracing::warn!("cannot accept a reader of metrics: {error}");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

async fn answer<P, F>(stream: TcpStream, page: P) -> hyper::Result<()>
where
    P: Fn() -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Option<String>> + Send + 'static,
{
    let service = service_fn(move |request: Request<Incoming>| {
        let page = page.clone();
        async move { Ok::<_, Infallible>(respond(&request, page).await) }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(CONNECTION_MAX)
        .max_buf_size(REQUEST_BYTES_MAX)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await
}

async fn respond<P, F>(request: &Request<Incoming>, page: P) -> Response<Full<Bytes>>
where
    P: Fn() -> F,
    F: Future<Output = Option<String>>,
{
    let mut response = Response::new(Full::default());
    match (request.uri().path(), request.method()) {
        ("/metrics", &Method::GET | &Method::HEAD) => {
            let Some(page) = page().await else {
                *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
                return response;
            };
            response.headers_mut().insert(CONTENT_TYPE, FORMAT);
            *response.body_mut() = Full::from(page);
        }
        ("/metrics", _) => {
            *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        }
        _ => {
            *response.status_mut() = StatusCode::NOT_FOUND;
            *response.body_mut() = Full::from("metrics are at /metrics\n");
        }
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn ask(address: SocketAddr, question: &[u8]) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        // The server may have answered and gone before all of an absurd question is out.
        let _ = stream.write_all(question).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8(answer).unwrap()
    }

    #[tokio::test]
    async fn there_is_one_page_and_everything_else_is_refused() {
        let page = || async { Some("tilehive_tasks_total 3\n# EOF\n".to_owned()) };
        let serving = serve("127.0.0.1:0".parse().unwrap(), page).await.unwrap();
        let at = serving.address;
        let answer = ask(at, b"GET /metrics HTTP/1.1\r\nhost: a\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("# EOF\n"), "{answer}");
        assert!(answer.contains("application/openmetrics-text"), "{answer}");
        for (question, code) in [
            (&b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"[..], "404"),
            (b"GET /metrics/../key HTTP/1.1\r\nhost: a\r\n\r\n", "404"),
            (b"POST /metrics HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n", "405"),
            (b"\x00\x01\x02 garbage\r\n\r\n", "400"),
            (&[&b"GET /"[..], &[b'a'; 20_000], b" HTTP/1.1\r\n\r\n"].concat(), "4"),
        ] {
            let answer = ask(at, question).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {code}")), "{answer}");
        }
        let taken = serve(at, page).await.unwrap_err().to_string();
        assert!(taken.contains(&at.to_string()) && taken.contains("--metrics"), "{taken}");
    }

    #[tokio::test]
    async fn who_connects_and_says_nothing_has_one_of_few_places() {
        let page = || async { Some("# EOF\n".to_owned()) };
        let serving = serve("127.0.0.1:0".parse().unwrap(), page).await.unwrap();
        let mut silent = Vec::new();
        for _ in 0..CONNECTIONS_MAX {
            silent.push(TcpStream::connect(serving.address).await.unwrap());
        }
        let question = b"GET /metrics HTTP/1.1\r\nhost: a\r\n\r\n";
        let late = tokio::spawn(ask(serving.address, question));
        // A place that is given back is the next one's.
        silent.pop();
        assert!(late.await.unwrap().contains("200 OK"));
    }
}
