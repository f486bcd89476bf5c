//! Why a request has no answer, as a problem (RFC 9457).

use hyper::StatusCode;
use policy::config::Objection;
use serde::{Deserialize, Serialize};

use super::wire::Refusal;

/// Why a request has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Problem {
    /// No document is there.
    NoSuchDocument,
    /// No slice of that name is there for the asker.
    NoSuchSlice,
    /// The document has no such method.
    OtherMethod,
    /// A page of a browser asks for a change.
    Browser,
    /// Something is being done for the slice, or for too many.
    Doing,
    /// Another machine is named.
    OtherHost,
    /// A parameter that the document does not have.
    UnknownParameter,
    /// A parameter that is there twice.
    ParameterTwice,
    /// A parameter with a wrong value, and what it takes.
    BadParameter(&'static str),
    /// The address is too long.
    LongAddress,
    /// The document has none of the forms that are accepted.
    NotAcceptable,
    /// Too many questions: again after so many seconds.
    TooMany(u64),
    /// A question about flows is being answered.
    Looking,
    /// Too many connections.
    Connections,
    /// Too many streams of events.
    Streams,
    /// Too much is being told, and not read yet.
    NoRoom,
    /// The asker is no slice of the node any more.
    Gone,
    /// The node does not answer.
    Unavailable,
    /// Too many look at flows.
    Busy,
    /// What policy is in force is not known.
    NoPolicy,
    /// The node could not be read.
    Unreadable,
}

/// What went wrong.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[cfg_attr(test, schemars(rename = "Problem"))]
pub struct Document {
    /// `about:blank`: the status says what kind of problem it is.
    pub r#type: String,
    /// The status in words.
    pub title: String,
    /// The status of the answer.
    pub status: u16,
    /// What is wrong, as a sentence.
    pub detail: String,
    /// Everything that is wrong with a slice that was asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<Fault>,
}

/// Something that is wrong with a slice that was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Fault {
    /// The key, as `memory.floor`; empty where it is about the slice as a whole.
    pub field: String,
    /// Why not, and by how much.
    pub message: String,
}

impl Document {
    /// With this status and sentence.
    #[must_use]
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self {
            r#type: "about:blank".to_owned(),
            title: status.canonical_reason().unwrap_or_default().to_owned(),
            status: status.as_u16(),
            detail: detail.into(),
            errors: Vec::new(),
        }
    }

    /// Of a slice that is asked for and cannot be.
    #[must_use]
    pub fn of(errors: Vec<Objection>) -> Self {
        let detail = "The slice cannot be as you ask; nothing was changed.";
        let errors = errors
            .into_iter()
            .map(|Objection { field, message }| Fault { field, message });
        Self {
            errors: errors.collect(),
            ..Self::new(StatusCode::UNPROCESSABLE_ENTITY, detail)
        }
    }

    /// As it is written, `application/problem+json`.
    #[must_use]
    pub fn written(&self) -> Vec<u8> {
        // Strings and numbers: this cannot fail.
        serde_json::to_vec(self).unwrap_or_default()
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::NoSuchSlice => Self::NoSuchSlice,
            Refusal::Gone => Self::Gone,
            Refusal::Busy => Self::Busy,
            Refusal::Doing => Self::Doing,
            Refusal::NoPolicy => Self::NoPolicy,
            Refusal::Unreadable => Self::Unreadable,
        }
    }
}

impl Problem {
    /// The status of the answer.
    #[must_use]
    pub const fn status(self) -> StatusCode {
        match self {
            Self::NoSuchDocument | Self::NoSuchSlice => StatusCode::NOT_FOUND,
            Self::OtherMethod => StatusCode::METHOD_NOT_ALLOWED,
            Self::OtherHost => StatusCode::MISDIRECTED_REQUEST,
            Self::UnknownParameter | Self::ParameterTwice | Self::BadParameter(_) => {
                StatusCode::BAD_REQUEST
            }
            Self::LongAddress => StatusCode::URI_TOO_LONG,
            Self::NotAcceptable => StatusCode::NOT_ACCEPTABLE,
            Self::TooMany(_) | Self::Looking => StatusCode::TOO_MANY_REQUESTS,
            Self::Gone | Self::Browser => StatusCode::FORBIDDEN,
            Self::Connections
            | Self::Streams
            | Self::NoRoom
            | Self::Unavailable
            | Self::Busy
            | Self::Doing
            | Self::NoPolicy => StatusCode::SERVICE_UNAVAILABLE,
            Self::Unreadable => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// Seconds after which it may be asked again.
    #[must_use]
    pub const fn again_after(self) -> Option<u64> {
        match self {
            Self::TooMany(seconds) => Some(seconds),
            Self::Looking
            | Self::Connections
            | Self::Streams
            | Self::NoRoom
            | Self::Unavailable
            | Self::Busy
            | Self::Doing => Some(1),
            _ => None,
        }
    }

    const fn detail(self) -> &'static str {
        match self {
            Self::NoSuchDocument => {
                "/ is a page for browsers; /v1/openapi.json says what there is."
            }
            Self::NoSuchSlice => "There is no slice of that name, or you may not see it.",
            Self::OtherMethod => "The header Allow has the methods that there are.",
            Self::Browser => "Web pages change nothing here: the request has an Origin.",
            Self::Doing => "Something is being done for you, or for too many others, already.",
            Self::OtherHost => {
                "Another machine is named: say localhost, an address, or a name without a domain."
            }
            Self::UnknownParameter => {
                "A parameter is not one of this document: /v1/openapi.json has them all."
            }
            Self::ParameterTwice => "A parameter is there twice.",
            Self::BadParameter(wrong) => wrong,
            Self::LongAddress => "The path with its parameters is longer than 2048 bytes.",
            Self::NotAcceptable => {
                "The document has none of these forms: /v1/openapi.json says which it has."
            }
            Self::TooMany(_) => "The slice asks more often than it may.",
            Self::Looking => "The slice asks for flows already: one question at a time.",
            Self::Connections => "The slice has more connections than it may.",
            Self::Streams => "Too many streams of events are open.",
            Self::NoRoom => "Answers that were given before are not read yet.",
            Self::Gone => "The slice is not on this node any more.",
            Self::Unavailable => "The node does not answer.",
            Self::Busy => "Too many slices ask for flows.",
            Self::NoPolicy => "What policy is in force is told after the next slice reload.",
            Self::Unreadable => "The node could not be read.",
        }
    }

    /// The document that tells it, `application/problem+json`.
    #[must_use]
    pub fn document(self) -> Vec<u8> {
        Document::new(self.status(), self.detail()).written()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_tells_its_status_and_when_to_come_again() {
        let text = String::from_utf8(Problem::TooMany(3).document()).unwrap();
        assert_eq!(
            text,
            r#"{"type":"about:blank","title":"Too Many Requests","status":429,"detail":"The slice asks more often than it may."}"#
        );
        assert_eq!(Problem::TooMany(3).again_after(), Some(3));
        assert_eq!(Problem::NoSuchSlice.again_after(), None);
    }
}
