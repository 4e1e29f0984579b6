//! The answer to a call that a person tries: bounded in size and in time.

use std::time::{Duration, Instant};

use chassis::telemetry::ms;
use http::{HeaderMap, Response, StatusCode, Version, header};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use proto::Reason;
use tokio::time;

use crate::{
    connect::Connection,
    data_plane::{DataPlane, HttpVersion, refusal_of_injector},
    failure::{Failure, FailureKind},
    program_call::{Problem, ProgramCall, read_problem},
};

/// Longest time until the head of the answer arrives.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest time for the body after the head.
const BODY_TIMEOUT: Duration = Duration::from_secs(15);
/// Longest time for a stream of events, which may have no end.
const EVENTS_TIMEOUT: Duration = Duration::from_secs(4);
/// Number of bytes of the body that are read at most.
const MAX_BODY: usize = 256 * 1024;

/// The way in which the reading of a body ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum BodyEnd {
    Complete,
    TooLong,
    /// The time was up. The number of seconds is that of the limit.
    TimedOut(u64),
    BrokeOff(String),
}

pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) version: Version,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
    pub(super) end: BodyEnd,
    /// Time until the head of the answer, in milliseconds.
    pub(super) head_ms: f64,
    pub(super) total_ms: f64,
}

/// The result of a call.
pub(super) enum CallResult {
    Answered(Box<Answer>),
    /// The injector answered itself.
    Refused {
        status: StatusCode,
        reason: Reason,
        /// The name of the reason, as documents have it.
        name: String,
        problem: Problem,
    },
}

/// Makes a call through the data plane.
pub(super) async fn make(connection: &Connection, call: ProgramCall) -> Result<CallResult, Failure> {
    let data_plane = DataPlane::of(connection)?;
    let request = call.request()?;
    let started = Instant::now();
    let head = time::timeout(
        HEAD_TIMEOUT,
        data_plane.send(connection, HttpVersion::Http1, request),
    )
    .await;
    let answer = head.map_err(|_| {
        let message = format!("no answer came within {} seconds", HEAD_TIMEOUT.as_secs());
        Failure::new(FailureKind::Unavailable, message).hint("the server may still be working on the call")
    })??;
    let head_ms = ms(started);
    if let Some((reason, name)) = refusal_of_injector(&answer) {
        let (status, name) = (answer.status(), name.to_owned());
        let problem = time::timeout(BODY_TIMEOUT, read_problem(answer.into_body())).await;
        return Ok(CallResult::Refused {
            status,
            reason,
            name,
            problem: problem.unwrap_or_default(),
        });
    }
    let limit = match is_event_stream(&answer) {
        true => EVENTS_TIMEOUT,
        false => BODY_TIMEOUT,
    };
    let (head, body) = answer.into_parts();
    let (body, end) = read(body, limit).await;
    Ok(CallResult::Answered(Box::new(Answer {
        status: head.status,
        version: head.version,
        headers: head.headers,
        body,
        end,
        head_ms,
        total_ms: ms(started),
    })))
}

fn is_event_stream<B>(answer: &Response<B>) -> bool {
    let media_type = answer.headers().get(header::CONTENT_TYPE);
    media_type.is_some_and(|media_type| media_type.as_bytes().starts_with(b"text/event-stream"))
}

/// Reads a body up to its end, or up to one of the limits.
async fn read(mut body: Incoming, limit: Duration) -> (Vec<u8>, BodyEnd) {
    let mut bytes = Vec::new();
    let end = time::timeout(limit, async {
        loop {
            match body.frame().await {
                None => return BodyEnd::Complete,
                Some(Err(error)) => return BodyEnd::BrokeOff(chassis::telemetry::chain(&error).to_string()),
                Some(Ok(frame)) => {
                    let data = frame.into_data().unwrap_or_default();
                    let room = MAX_BODY - bytes.len();
                    bytes.extend_from_slice(data.get(..room).unwrap_or(&data));
                    if data.len() > room {
                        return BodyEnd::TooLong;
                    }
                }
            }
        }
    });
    let end = end.await.unwrap_or(BodyEnd::TimedOut(limit.as_secs()));
    (bytes, end)
}
