//! The layer that writes an audit line for each call.

use std::{
    convert::Infallible,
    future::Future,
    mem,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use chassis::caller::{Caller, Peer};
use proto::Reason;
use tonic::{Code, Status, body::Body};
use tonic_types::StatusExt as _;
use tower::{Layer, Service};

use super::subject::{Subject, SubjectDetails, lock};
use crate::audit_log::{AuditLog, Event, Line, Lines, Outcome};

/// Path prefix of RPCs that concern no secret and no key: health and reflection. Such an RPC gets an audit line only
/// when its caller is denied.
const UNAUDITED: &str = "/grpc.";

/// The layer around authorization and all handlers that writes one line for each call before its answer is sent.
///
/// A call that its caller cancels also gets a line, because the call may have made a change. While the log cannot be
/// written, the layer refuses calls before anything is done.
#[derive(Clone)]
pub(crate) struct AuditLayer(pub(crate) AuditLog);

#[derive(Clone)]
pub(crate) struct AuditService<S> {
    inner: S,
    log: AuditLog,
}

impl<S> Layer<S> for AuditLayer {
    type Service = AuditService<S>;

    fn layer(&self, inner: S) -> AuditService<S> {
        AuditService {
            inner,
            log: self.0.clone(),
        }
    }
}

impl<S> Service<http::Request<Body>> for AuditService<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        if !self.log.is_on() {
            return Box::pin(self.inner.call(request));
        }
        let is_decision = !request.uri().path().starts_with(UNAUDITED);
        if is_decision && let Err(refusal) = self.log.admit() {
            return Box::pin(async move { Ok(Status::from(refusal).into_http()) });
        }
        let log = self.log.clone();
        let caller = request.extensions().get::<Caller>().cloned();
        let path = request.uri().path().to_owned();
        let subject = Arc::<Mutex<SubjectDetails>>::default();
        request.extensions_mut().insert(Subject(Some(subject.clone())));
        let answering = self.inner.call(request);
        Box::pin(async move {
            // The call is recorded from the first poll on: a call that is reset earlier has not begun, and needs no
            // line.
            let call = AuditedCall {
                log,
                caller,
                path,
                subject,
                is_decision,
            };
            Ok(call.answered(answering.await?).await)
        })
    }
}

/// A call whose audit line is not written yet.
struct AuditedCall {
    log: AuditLog,
    caller: Option<Caller>,
    path: String,
    subject: Arc<Mutex<SubjectDetails>>,
    /// True when the call needs a line whatever its outcome; otherwise only a denied call needs one.
    is_decision: bool,
}

impl AuditedCall {
    /// Writes the line, and returns the answer, or a refusal when the line could not be written.
    async fn answered(mut self, response: http::Response<Body>) -> http::Response<Body> {
        let refused = refused(&response);
        let is_denied = refused
            .as_ref()
            .is_some_and(|(code, reason)| is_denial(*code, reason));
        if !mem::replace(&mut self.is_decision, false) && !is_denied {
            return response;
        }
        let line = match &refused {
            None => self.line(Outcome::Ok, ""),
            Some((_, reason)) => self.line(Outcome::Refused, reason),
        };
        if is_denied {
            self.log.write_denial(line, self.is_known()).await;
            return response;
        }
        match self.log.write(line).await {
            Ok(()) => response,
            Err(refusal) => Status::from(refusal).into_http(),
        }
    }

    fn line(&self, outcome: Outcome, reason: &str) -> Lines {
        let subject = lock(&self.subject);
        let secrets = subject.entries();
        Lines::of(&Line {
            method: self.path.trim_start_matches('/'),
            outcome: Some(outcome),
            reason,
            ..subject.line(Event::Call, &secrets).by(self.caller.as_ref())
        })
    }

    fn is_known(&self) -> bool {
        let peer = self.caller.as_ref().map(|caller| &*caller.peer);
        matches!(peer, Some(Peer::Known { .. }))
    }
}

impl Drop for AuditedCall {
    /// Writes a line with an unknown outcome for a call whose caller gave up: the handler may go on, or may have
    /// stopped at any point.
    fn drop(&mut self) {
        if self.is_decision {
            self.log.enqueue(self.line(Outcome::Unknown, ""));
        }
    }
}

/// Returns true when the caller was refused, and not the call. Nobody knows a caller whose token cannot be verified.
fn is_denial(code: Code, reason: &str) -> bool {
    matches!(code, Code::Unauthenticated | Code::PermissionDenied)
        || reason == Reason::TokenKeysUnavailable.name()
}

/// Returns the code and reason of a refusal from the head of the answer; `None` for any other answer.
fn refused(response: &http::Response<Body>) -> Option<(Code, String)> {
    let status = Status::from_header_map(response.headers()).filter(|status| status.code() != Code::Ok)?;
    let reason = match status.get_details_error_info() {
        Some(info) => info.reason,
        None => format!("{:?}", status.code()),
    };
    Some((status.code(), reason))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use std::{
        future::{pending, ready},
        io::{self, Write},
        sync::atomic::{AtomicUsize, Ordering},
        time::{Duration, SystemTime},
    };

    use proto::{Principal, Refusal};
    use serde_json::{Value, json};
    use tokio::time::timeout;
    use tower::service_fn;

    use super::*;
    use crate::audit_log::{AuditMetrics, AuditMode, AuditOutput};

    const PUT: &str = "/vault.v1.SecretService/PutSecret";

    /// An audit log in memory.
    #[derive(Clone, Default)]
    struct Memory(Arc<Mutex<Vec<u8>>>);

    impl Memory {
        fn lines(&self) -> Vec<Value> {
            let bytes = self.0.lock().unwrap();
            let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
            lines.map(|line| serde_json::from_slice(line).unwrap()).collect()
        }
    }

    impl Write for Memory {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// An audit log on a full disk.
    struct Full;

    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::StorageFull.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn log(to: impl Write + Send + 'static) -> AuditLog {
        AuditLog::start(
            Some(AuditOutput::to(to, AuditMode::Required)),
            AuditMetrics::default(),
        )
        .unwrap()
    }

    fn request(path: &str) -> http::Request<Body> {
        let mut request = http::Request::new(Body::empty());
        *request.uri_mut() = path.parse().unwrap();
        request.extensions_mut().insert(Caller {
            peer: Arc::new(Peer::Known {
                principal: Principal::parse("dns:admin").unwrap(),
                not_after: SystemTime::now(),
            }),
            address: "127.0.0.1:1".parse().unwrap(),
        });
        request
    }

    fn answer(refused: Option<Reason>) -> http::Response<Body> {
        match refused {
            None => http::Response::new(Body::empty()),
            Some(reason) => Status::from(Refusal::new(reason, "no")).into_http(),
        }
    }

    fn reason(response: &http::Response<Body>) -> Option<String> {
        refused(response).map(|(_, reason)| reason)
    }

    #[tokio::test]
    async fn a_call_has_one_line_with_the_subject_that_its_handler_noted() {
        let memory = Memory::default();
        let log = log(memory.clone());
        let mut service = AuditLayer(log.clone()).layer(service_fn(|request: http::Request<Body>| {
            let subject = request.extensions().get::<Subject>().unwrap();
            subject.parse_workspace("w").unwrap();
            subject.parse_secret("token").unwrap();
            assert!(subject.parse_workspace("NOT A NAME").is_err());
            subject.note_version(3);
            ready(Ok(answer(Some(Reason::Conflict))))
        }));
        let answered = service.call(request(PUT)).await.unwrap();
        assert_eq!(reason(&answered).as_deref(), Some("CONFLICT"));
        let lines = memory.lines();
        let expected = json!([{
            "time": lines[0]["time"],
            "event": "call",
            "principal": "dns:admin",
            "peer": "127.0.0.1:1",
            "method": "vault.v1.SecretService/PutSecret",
            "workspace": "w",
            "secrets": [{"name": "TOKEN", "version": 3}],
            "outcome": "refused",
            "reason": "CONFLICT",
        }]);
        assert_eq!(Value::from(lines), expected);
    }

    #[tokio::test]
    async fn health_and_reflection_have_a_line_only_when_they_are_denied() {
        let memory = Memory::default();
        let log = log(memory.clone());
        for (path, refused, lines) in [
            ("/grpc.health.v1.Health/Check", None, 0),
            ("/grpc.health.v1.Health/Check", Some(Reason::Internal), 0),
            ("/grpc.reflection.v1.X/Y", Some(Reason::PermissionDenied), 1),
            ("/grpc.health.v1.Health/Watch", Some(Reason::Unauthenticated), 2),
        ] {
            let mut service = AuditLayer(log.clone()).layer(service_fn(|_| ready(Ok(answer(refused)))));
            service.call(request(path)).await.unwrap();
            assert_eq!(memory.lines().len(), lines, "{path}");
        }
    }

    #[tokio::test]
    async fn a_call_that_its_caller_gives_up_has_a_line() {
        let memory = Memory::default();
        let log = log(memory.clone());
        let mut service = AuditLayer(log.clone()).layer(service_fn(|_| pending()));
        let given_up = timeout(Duration::from_millis(1), service.call(request(PUT))).await;
        assert!(given_up.is_err());
        log.close().await;
        let lines = memory.lines();
        assert_eq!((lines.len(), &lines[0]["outcome"]), (1, &json!("unknown")));
    }

    #[tokio::test]
    async fn an_answer_whose_line_cannot_be_written_is_withheld_and_no_other_call_begins() {
        let begun = Arc::new(AtomicUsize::new(0));
        let counting = begun.clone();
        let mut service = AuditLayer(log(Full)).layer(service_fn(move |_| {
            counting.fetch_add(1, Ordering::Relaxed);
            ready(Ok(answer(None)))
        }));
        for _ in 0..3 {
            let withheld = service.call(request(PUT)).await.unwrap();
            assert_eq!(reason(&withheld).as_deref(), Some("AUDIT_UNAVAILABLE"));
            assert_eq!(begun.load(Ordering::Relaxed), 1);
        }
        let health = service
            .call(request("/grpc.health.v1.Health/Check"))
            .await
            .unwrap();
        assert_eq!(reason(&health), None);
    }

    #[tokio::test]
    async fn a_denied_call_is_answered_even_when_its_line_cannot_be_written() {
        let denied = service_fn(|_| ready(Ok(answer(Some(Reason::PermissionDenied)))));
        let answered = AuditLayer(log(Full))
            .layer(denied)
            .call(request(PUT))
            .await
            .unwrap();
        assert_eq!(reason(&answered).as_deref(), Some("PERMISSION_DENIED"));
    }
}
