//! What a caller is told when its request may not begin, or its deadline has passed.

use std::time::Duration;

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Response, StatusCode,
    header::{CONTENT_LENGTH, CONTENT_TYPE},
};
use serde_json::{Value, json};

use super::InvalidTimeout;
use crate::Error;

pub(super) const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");
const PROBLEM: HeaderValue = HeaderValue::from_static("application/problem+json");

/// Status codes of gRPC.
const CANCELLED: u16 = 1;
pub(super) const DEADLINE_EXCEEDED: u16 = 4;
const INTERNAL: u16 = 13;

/// How a caller is answered.
pub(in crate::server) struct Answer {
    /// Its content type, where it speaks gRPC.
    grpc: Option<HeaderValue>,
    trusted: bool,
}

impl Answer {
    pub(in crate::server) fn to(headers: &HeaderMap, trusted: bool) -> Self {
        let content = headers.get(CONTENT_TYPE).filter(|content| is_grpc(content.as_bytes()));
        Self { grpc: content.cloned(), trusted }
    }

    pub(super) const fn is_grpc(&self) -> bool {
        self.grpc.is_some()
    }

    /// A limit has fired, or somebody has cancelled the request's context.
    pub(super) fn over(&self, error: &Error) -> Response<Bytes> {
        let (status, code, title) = if error.is_timeout() {
            (StatusCode::GATEWAY_TIMEOUT, DEADLINE_EXCEEDED, "deadline exceeded")
        } else {
            (StatusCode::SERVICE_UNAVAILABLE, CANCELLED, "cancelled")
        };
        let details = self.trusted.then(|| error.to_string());
        let report = self.trusted.then(|| serde_json::to_value(error.report()).unwrap_or_default());
        self.answer(status, code, title, details, report)
    }

    /// Its body came too slowly.
    pub(in crate::server) fn too_slow(&self) -> Response<Bytes> {
        self.answer(StatusCode::REQUEST_TIMEOUT, DEADLINE_EXCEEDED, "the request body came too slowly", None, None)
    }

    /// The header of a trusted peer, which made no sense.
    pub(super) fn unreadable(&self, invalid: &InvalidTimeout) -> Response<Bytes> {
        self.answer(StatusCode::BAD_REQUEST, INTERNAL, "malformed timeout", Some(invalid.to_string()), None)
    }

    fn answer(
        &self,
        status: StatusCode,
        code: u16,
        title: &str,
        detail: Option<String>,
        report: Option<Value>,
    ) -> Response<Bytes> {
        if let Some(content) = &self.grpc {
            let mut response = Response::new(Bytes::new());
            let headers = response.headers_mut();
            headers.insert(CONTENT_TYPE, content.clone());
            headers.insert(GRPC_STATUS, code.into());
            if let Ok(message) = HeaderValue::from_str(&percent_encoded(detail.as_deref().unwrap_or(title))) {
                headers.insert(GRPC_MESSAGE, message);
            }
            return response;
        }
        let mut problem = json!({ "type": "about:blank", "title": title, "status": status.as_u16() });
        if let Value::Object(fields) = &mut problem {
            fields.extend(detail.map(|detail| ("detail".to_owned(), detail.into())));
            fields.extend(report.map(|report| ("report".to_owned(), report)));
        }
        let mut response = Response::new(Bytes::from(problem.to_string()));
        *response.status_mut() = status;
        let length = response.body().len();
        response.headers_mut().insert(CONTENT_TYPE, PROBLEM);
        response.headers_mut().insert(CONTENT_LENGTH, length.into());
        response
    }
}

/// `application/grpc`, with or without what stands behind it; not `application/grpc-web`, whose trailers are elsewhere.
fn is_grpc(content: &[u8]) -> bool {
    content.strip_prefix(b"application/grpc").is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

/// As gRPC wants its messages: printable ASCII stays.
fn percent_encoded(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => encoded.push(char::from(byte)),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

/// In milliseconds, to the microsecond.
pub(super) fn add_timing(headers: &mut HeaderMap, took: Duration) {
    let us = took.as_micros();
    if let Ok(value) = HeaderValue::from_str(&format!("handle;dur={}.{:03}", us / 1_000, us % 1_000)) {
        headers.append(SERVER_TIMING, value);
    }
}
