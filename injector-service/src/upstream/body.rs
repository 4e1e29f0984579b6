//! Bodies of requests and answers.

use std::task::Poll;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Frame;

/// An error while the body of a request or of an answer was read.
pub(crate) type BodyError = Box<dyn std::error::Error + Send + Sync>;
/// The result of polling a body for its next frame.
pub(crate) type FramePoll = Poll<Option<Result<Frame<Bytes>, BodyError>>>;
/// A body that is streamed.
pub(crate) type Body = UnsyncBoxBody<Bytes, BodyError>;
