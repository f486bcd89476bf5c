//! The status page: one file with its style and its program inside, which asks the
//! documents of `/v1` for what it shows. It is the same for everybody.

use hyper::body::Bytes;
use hyper::header::{self, HeaderName, HeaderValue};

/// Where it is.
pub const PATH: &str = "/";
/// What it is.
pub const KIND: &str = "text/html; charset=utf-8";

const HTML: &str = include_str!("page/page.html");

/// What a browser may do with it: run this program and draw with this style, known by
/// their hashes (a test computes them), and ask whoever served the page. No text becomes
/// an element: `trusted-types 'none'`.
const POLICY: &str = "default-src 'none'; \
     script-src 'sha256-kihU5Xu1LxE0qJ0BQxoy0RVRe9ONkG9FNQYWTnLKKbY='; \
     style-src 'sha256-yPG6HtWhLyi4heR3jS9AOQO/9FhN4SfcDRhnZavIkFE='; \
     connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; \
     frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";

/// Headers of the page alone.
pub const HEADERS: [(HeaderName, HeaderValue); 3] = [
    (
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(POLICY),
    ),
    (
        header::REFERRER_POLICY,
        HeaderValue::from_static("no-referrer"),
    ),
    (
        HeaderName::from_static("cross-origin-opener-policy"),
        HeaderValue::from_static("same-origin"),
    ),
];

/// The page.
#[must_use]
pub fn html() -> Bytes {
    Bytes::from_static(HTML.as_bytes())
}

#[cfg(test)]
mod browser; // Chromium, driven
#[cfg(test)]
mod fixture; // a node to look at
#[cfg(test)]
mod tests;
