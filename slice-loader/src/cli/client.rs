//! Asks the daemon, over its socket.

use std::collections::VecDeque;
use std::io::ErrorKind;

use anyhow::Context;
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::{Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::exit::{Exit, Failure, Told};
use crate::daemon::SOCKET;

/// An answer of the daemon, read line by line.
pub(super) struct Lines {
    body: Incoming,
    /// Whole lines that were read and not handed out yet.
    lines: VecDeque<String>,
    /// The beginning of the next one.
    rest: Vec<u8>,
}

/// Asks for `path` with these parameters.
pub(super) async fn get(path: &str, query: &impl Serialize) -> anyhow::Result<Lines> {
    let stream = UnixStream::connect(SOCKET)
        .await
        .map_err(|error| unreachable_daemon(&error))?;
    let asking = || format!("ask the daemon for {path}");
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .with_context(asking)?;
    // It ends with the answer; an error of it shows in the answer too.
    tokio::spawn(connection);
    let query = serde_urlencoded::to_string(query).with_context(asking)?;
    let request = Request::get(format!("{path}?{query}"))
        .header(header::HOST, "node")
        .body(Empty::<Bytes>::new())
        .with_context(asking)?;
    let response = sender.send_request(request).await.with_context(asking)?;
    if response.status() == StatusCode::OK {
        return Ok(Lines {
            body: response.into_body(),
            lines: VecDeque::new(),
            rest: Vec::new(),
        });
    }
    Err(refusal(response, path).await)
}

/// Asks for a path whose answer is one document.
pub(super) async fn document<T: DeserializeOwned>(
    path: &str,
    query: &impl Serialize,
) -> anyhow::Result<T> {
    let answer = get(path, query).await?;
    let body = answer.body.collect().await;
    let body = body.with_context(|| format!("ask the daemon for {path}"))?;
    serde_json::from_slice(&body.to_bytes()).context("understand the daemon's answer")
}

impl Lines {
    /// Whether the next line must be waited for.
    pub(super) fn waits(&self) -> bool {
        self.lines.is_empty()
    }

    /// The next line that is not empty; `None` at the end of the answer.
    pub(super) async fn next(&mut self) -> anyhow::Result<Option<String>> {
        loop {
            if let Some(line) = self.lines.pop_front() {
                return Ok(Some(line));
            }
            match self.body.frame().await {
                Some(frame) => {
                    let frame = frame.context("read the daemon's answer")?;
                    self.rest.extend(frame.data_ref().into_iter().flatten());
                    self.split();
                }
                None => return Ok(None),
            }
        }
    }

    fn split(&mut self) {
        let Some(end) = self.rest.iter().rposition(|byte| *byte == b'\n') else {
            return;
        };
        let whole: Vec<u8> = self.rest.drain(..=end).collect();
        let lines = String::from_utf8_lossy(&whole);
        self.lines.extend(
            lines
                .lines()
                .filter(|line| !line.is_empty())
                .map(str::to_owned),
        );
    }
}

/// The daemon's own error, or what it said instead of one.
async fn refusal(response: Response<Incoming>, path: &str) -> anyhow::Error {
    #[derive(serde::Deserialize)]
    struct Body {
        error: Told,
    }
    let status = response.status();
    let body = match response.into_body().collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) => {
            return anyhow::Error::new(error).context(format!("ask the daemon for {path}"));
        }
    };
    match serde_json::from_slice::<Body>(&body) {
        Ok(Body { error }) => Failure::from(error).into(),
        Err(_) => {
            let said = String::from_utf8_lossy(&body);
            let message = format!(
                "ask the daemon for {path}: it answers {status}: {}",
                said.trim()
            );
            Failure::new(Exit::Failed, message)
                .remedy("the daemon may be of another version: restart it")
                .into()
        }
    }
}

fn unreachable_daemon(error: &std::io::Error) -> anyhow::Error {
    let (exit, why, remedy) = match error.kind() {
        ErrorKind::NotFound | ErrorKind::ConnectionRefused => (
            Exit::NoDaemon,
            "it does not run".to_owned(),
            "start it: slice daemon; \
             `slice status` and `slice ports` work without it",
        ),
        ErrorKind::PermissionDenied => (
            Exit::NotPermitted,
            "permission denied".to_owned(),
            "run the command as root",
        ),
        _ => (
            Exit::Failed,
            error.to_string(),
            "see whether the daemon runs: slice status",
        ),
    };
    Failure::new(exit, format!("ask the daemon at {SOCKET}: {why}"))
        .remedy(remedy)
        .into()
}
