//! A node of three slices, `alpha`, `beta` and `watch`, which has the grants; and the
//! real process that parses and the real daemon's side, joined as on a node.

use std::path::PathBuf;
use std::sync::Arc;

use policy::config::{self, Config, Sources};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::task::JoinSet;
use tokio::time::{Duration, timeout};

use super::answers::tests::Fake;
use super::control::fixture::Lender;
use super::control::orders::Desk;
use super::daemon;
use super::front::{self, Asker};
use super::http::{self, Client};
use super::wire::Viewer;
use crate::daemon::Hub;

/// A policy of these files.
pub fn config(files: &[(&str, &str)]) -> Config {
    let mut sources = Sources::default();
    for (path, text) in files {
        sources.add(PathBuf::from(path), (*text).to_owned());
    }
    config::parse(sources, &|_| false).unwrap_or_else(|errors| panic!("{errors:?}"))
}

/// The node.
pub struct Joined {
    asker: Asker,
    _tasks: JoinSet<()>,
}

/// What was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Got {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Got {
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        let header = headers.find(|(known, _)| known == name);
        header.map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

impl Joined {
    pub fn new() -> Self {
        let fake = Fake::new();
        let database = fake.database();
        let desk = Desk::new(Arc::new(Lender::default()), Hub::of_run(5, 10));
        let (asker, questions) = Asker::new();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let ((read, write), (from, to)) = (ours.into_split(), theirs.into_split());
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let _ = daemon::serve(from, to, fake, (database, desk)).await;
        });
        tasks.spawn(async move {
            let _ = front::write_questions(questions, write).await;
        });
        let answers = asker.clone();
        tasks.spawn(async move {
            let _ = answers.read_answers(read).await;
        });
        Self {
            asker,
            _tasks: tasks,
        }
    }

    /// Serves a connection of a slice that has asked nothing before.
    pub fn serve(&self, stream: UnixStream, slice: &str) -> impl Future<Output = ()> + use<> {
        let viewer = Viewer {
            name: slice.to_owned(),
            id: super::answers::tests::id_of(slice),
        };
        http::serve(stream, Arc::new(Client::new(viewer)), self.asker.clone())
    }

    /// What is answered to these octets by the socket of a slice, which has asked
    /// nothing before: all answers, up to the end of the connection; of a stream what
    /// there is.
    pub async fn send(&self, slice: &str, octets: &[u8]) -> Vec<Got> {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let served = tokio::spawn(self.serve(theirs, slice));
        // It may end before it has read all.
        let _ = ours.write_all(octets).await;
        let _ = ours.shutdown().await;
        let mut all = Vec::new();
        let mut piece = vec![0; 1 << 16];
        let mut patience = Duration::from_secs(60);
        while let Ok(Ok(length @ 1..)) = timeout(patience, ours.read(&mut piece)).await {
            all.extend(&piece[..length]);
            // A stream goes on for a minute.
            if all.windows(17).any(|text| text == b"text/event-stream") {
                patience = Duration::from_millis(300);
            }
        }
        drop(ours);
        served.abort();
        let ended = served.await;
        assert!(
            !ended.is_err_and(|error| error.is_panic()),
            "{:?}",
            String::from_utf8_lossy(octets)
        );
        answers(&all, octets.starts_with(b"HEAD"))
    }

    /// One answer to one request with these lines of headers.
    pub async fn ask(&self, slice: &str, line: &str, headers: &str) -> Got {
        let text = format!("{line} HTTP/1.1\r\nHost: slice\r\nConnection: close\r\n{headers}\r\n");
        let mut all = self.send(slice, text.as_bytes()).await;
        assert_eq!(all.len(), 1, "{line}: {all:?}");
        all.remove(0)
    }

    pub async fn get(&self, slice: &str, path: &str) -> Got {
        self.ask(slice, &format!("GET {path}"), "").await
    }
}

/// Answers one after the other; of chunks what is there.
fn answers(mut octets: &[u8], bodiless: bool) -> Vec<Got> {
    let mut all = Vec::new();
    while let Some(end) = octets.windows(4).position(|end| end == b"\r\n\r\n") {
        let head = String::from_utf8_lossy(&octets[..end]).into_owned();
        octets = &octets[end + 4..];
        let mut lines = head.split("\r\n");
        let first = lines.next().unwrap_or_default();
        let status = first.split(' ').nth(1).and_then(|text| text.parse().ok());
        let status = status.unwrap_or_else(|| panic!("no answer: {head}"));
        let headers: Vec<(String, String)> = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
            .collect();
        let length = headers
            .iter()
            .find(|(name, _)| name == "content-length")
            .map_or(0, |(_, value)| value.parse().unwrap());
        let chunked = headers.iter().any(|(name, _)| name == "transfer-encoding");
        let length: usize = match (bodiless || status == 304, chunked) {
            (true, _) => 0,
            (false, true) => octets.len(),
            (false, false) => length,
        };
        let (body, rest) = octets.split_at(length.min(octets.len()));
        octets = rest;
        all.push(Got {
            status,
            headers,
            body: body.to_vec(),
        });
    }
    all
}
