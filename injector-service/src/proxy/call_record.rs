//! The facts about a call that go into its log line and its counters.

use std::{borrow::Cow, mem, sync::Arc, time::Instant};

use chassis::{
    log_limit::LogLimit,
    telemetry::{self, field},
};
use http::{Method, StatusCode};
use proto::{CallId, Refusal};

use crate::{
    callers::CallerName,
    inject::ResolvedSecrets,
    metrics::Metrics,
    placement::{Injection, NamedSecret, Placement, distinct_secrets},
    registry::{CallCounts, Entry},
};

/// The facts about a call that are known so far. The stages of a call add to the record, and one of
/// [`Self::log_forwarded`], [`Self::log_answered_here`] and [`Self::log_refused`] writes it. A call that the program
/// cancels is not logged.
pub(super) struct CallRecord {
    pub(super) call_id: CallId,
    /// The origin of the web page that calls, when the server allows it.
    pub(super) page: Option<String>,
    /// `None` when the settings do not ask who calls, and before the caller is known.
    caller: Option<CallerName>,
    started: Instant,
    method: Method,
    entry: Option<Arc<Entry>>,
    /// Secrets in the head of the request. Secrets that are in the body too are listed here only.
    injected_in_head: SecretList,
    injected_in_body: SecretList,
    missing: SecretList,
    /// Secrets that the call goes without, because the server's `paths` or `grpc_methods` leave the call out.
    withheld: SecretList,
    /// Secrets at the end of a body that the upstream answered before the end was sent.
    unsent: SecretList,
    retries: u32,
}

/// Names of secrets, separated by commas.
#[derive(Default, Clone)]
struct SecretList {
    text: String,
    count: usize,
}

impl SecretList {
    fn add(&mut self, names: &str, count: usize) {
        if self.count > 0 && count > 0 {
            self.text.push(',');
        }
        self.text.push_str(names);
        self.count += count;
    }
}

impl CallRecord {
    pub(super) fn new(method: Method) -> Self {
        Self {
            call_id: CallId::generate(),
            page: None,
            caller: None,
            started: Instant::now(),
            method,
            entry: None,
            injected_in_head: SecretList::default(),
            injected_in_body: SecretList::default(),
            missing: SecretList::default(),
            withheld: SecretList::default(),
            unsent: SecretList::default(),
            retries: 0,
        }
    }

    pub(super) fn set_caller(&mut self, caller: Option<CallerName>) {
        self.caller = caller;
    }

    pub(super) fn set_server(&mut self, entry: &Arc<Entry>) {
        self.entry = Some(entry.clone());
    }

    /// Forgets the secrets of an attempt that the upstream did not process. The next attempt decrypts them anew.
    pub(super) fn begin_retry(&mut self) {
        (self.injected_in_head, self.injected_in_body) = Default::default();
        self.missing = SecretList::default();
        self.withheld = SecretList::default();
        self.retries += 1;
    }

    /// Lists the secrets that the vault was asked for. `carried` are the injections of the call. A secret that exists is
    /// in no list when each of its injections lacks another secret.
    pub(super) fn add_resolved<'i>(
        &mut self,
        resolved: &ResolvedSecrets<'_>,
        carried: impl Iterator<Item = &'i Injection> + Clone,
    ) {
        let complete = complete(carried, resolved);
        for secret in resolved.iter() {
            let name = secret.name;
            let mut placements = complete
                .clone()
                .filter(|injection| injection.secrets().any(|named| named == name))
                .map(|injection| &injection.placement)
                .peekable();
            let list = match (&secret.value, placements.peek().is_some()) {
                (None, _) => &mut self.missing,
                (Some(_), false) => continue,
                (Some(_), true) if placements.all(Placement::is_in_body) => &mut self.injected_in_body,
                (Some(_), true) => &mut self.injected_in_head,
            };
            list.add(name.as_str(), 1);
        }
    }

    pub(super) fn add_withheld(&mut self, secret: &NamedSecret<'_>) {
        self.withheld.add(secret.name.as_str(), 1);
    }

    /// Counts the secrets of the body as missing, because the request has no body that could carry them.
    pub(super) fn set_body_missing(&mut self) {
        let SecretList { text, count } = mem::take(&mut self.injected_in_body);
        self.missing.add(&text, count);
    }

    /// Lists the secrets of the body as unsent, because the upstream answered before the end of the body.
    pub(super) fn set_unsent(&mut self) {
        self.unsent = mem::take(&mut self.injected_in_body);
    }

    /// Counts the values that the upstream received, in a call that is then refused because of the upstream's answer.
    pub(super) fn count_injected(&self, metrics: &Metrics) {
        let count = self.injected_in_head.count + self.injected_in_body.count;
        self.call_counts(metrics).count_secrets(count, 0);
    }

    pub(super) fn later(&self, entry: &Arc<Entry>) -> LaterRecord {
        LaterRecord::new(self.call_id.clone(), entry.clone())
    }

    /// Lists the call's secrets by what became of them, for the detail of a refusal.
    pub(super) fn list_secrets(&self) -> String {
        let injected = self.injected();
        let lists = [
            ("injected", &*injected),
            ("missing", &self.missing),
            ("withheld", &self.withheld),
            ("unsent", &self.unsent),
        ];
        let lists = lists.into_iter().filter(|(_, list)| list.count > 0);
        let lists: Vec<_> = lists
            .map(|(outcome, list)| format!("{outcome}: {}", list.text))
            .collect();
        lists.join("; ")
    }

    pub(super) fn log_forwarded(&self, status: StatusCode, metrics: &Metrics) {
        let (workspace, server) = self.names();
        let injected = self.injected();
        let counts = self.call_counts(metrics);
        counts.count_forwarded(status, self.started.elapsed());
        counts.count_secrets(injected.count, self.missing.count);
        tracing::info!(
            { field::WORKSPACE } = workspace,
            { field::SERVER } = server,
            { field::CALLER } = self.caller.as_ref().map(tracing::field::display),
            method = self.method.as_str(),
            injected = injected.text,
            missing = self.missing.text,
            withheld = self.withheld.text,
            retries = self.retries,
            unsent = self.unsent.text,
            status = status.as_u16(),
            { field::MS } = telemetry::ms(self.started),
            { field::CALL_ID } = self.call_id.as_str(),
            "call forwarded"
        );
    }

    /// Logs a call that the injector answered without its server, such as a preflight.
    pub(super) fn log_answered_here(&self, kind: &'static str) {
        let (workspace, server) = self.names();
        tracing::info!(
            { field::WORKSPACE } = workspace,
            { field::SERVER } = server,
            { field::CALLER } = self.caller.as_ref().map(tracing::field::display),
            method = self.method.as_str(),
            { field::MS } = telemetry::ms(self.started),
            { field::CALL_ID } = self.call_id.as_str(),
            kind,
            "call answered"
        );
    }

    /// Logs a refused call. The lines about calls without a known caller and a known server are limited.
    pub(super) fn log_refused(&self, refusal: &Refusal, metrics: &Metrics) {
        let (workspace, server) = self.names();
        let counts = self.call_counts(metrics);
        counts.count_refused(refusal.reason, self.started.elapsed());
        counts.count_secrets(0, self.missing.count);
        static STRANGERS: LogLimit = LogLimit::for_strangers();
        let suppressed = match (&self.caller, &self.entry) {
            (None, None) => match STRANGERS.admit(Instant::now()) {
                Some(suppressed) => Some(suppressed),
                None => return,
            },
            _ => None,
        };
        tracing::warn!(
            { field::WORKSPACE } = workspace,
            { field::SERVER } = server,
            { field::CALLER } = self.caller.as_ref().map(tracing::field::display),
            method = self.method.as_str(),
            { field::REASON } = refusal.reason.name(),
            { field::DETAIL } = refusal.message,
            missing = self.missing.text,
            retries = self.retries,
            { field::MS } = telemetry::ms(self.started),
            { field::CALL_ID } = self.call_id.as_str(),
            { field::SUPPRESSED } = suppressed,
            "call refused"
        );
    }

    /// Returns the secrets of the head and those of the body in one list.
    fn injected(&self) -> Cow<'_, SecretList> {
        match (self.injected_in_head.count, self.injected_in_body.count) {
            (_, 0) => Cow::Borrowed(&self.injected_in_head),
            (0, _) => Cow::Borrowed(&self.injected_in_body),
            (_, count) => {
                let mut both = self.injected_in_head.clone();
                both.add(&self.injected_in_body.text, count);
                Cow::Owned(both)
            }
        }
    }

    /// Returns the names of the workspace and of the server, which are empty when the server is not known.
    fn names(&self) -> (&str, &str) {
        self.entry.as_ref().map_or(("", ""), |entry| {
            (entry.server.workspace.as_str(), entry.server.name.as_str())
        })
    }

    fn call_counts<'a>(&'a self, metrics: &'a Metrics) -> &'a CallCounts {
        self.entry
            .as_ref()
            .map_or(&*metrics.unknown, |entry| entry.call_counts())
    }
}

/// Returns the injections whose secrets all exist.
fn complete<'i>(
    injections: impl Iterator<Item = &'i Injection> + Clone,
    resolved: &ResolvedSecrets<'_>,
) -> impl Iterator<Item = &'i Injection> + Clone {
    injections.filter(move |injection| injection.secrets().all(|name| resolved.value(name).is_some()))
}

/// Logs and counts the events of a call after its response has begun.
pub(super) struct LaterRecord {
    pub(super) call_id: CallId,
    entry: Arc<Entry>,
}

impl LaterRecord {
    pub(super) fn new(call_id: CallId, entry: Arc<Entry>) -> Self {
        Self { call_id, entry }
    }

    /// Counts the secrets of one more message of a gRPC request, and logs those that are missing.
    pub(super) fn add_resolved(&self, resolved: &ResolvedSecrets<'_>) {
        let missing: Vec<_> = resolved
            .iter()
            .filter(|secret| secret.value.is_none())
            .map(|secret| secret.name.as_str())
            .collect();
        let injections = self.entry.server.spec.injections.iter();
        let in_messages = injections.filter(|injection| injection.placement.is_in_messages());
        let injected = distinct_secrets(complete(in_messages, resolved)).len();
        self.entry.call_counts().count_secrets(injected, missing.len());
        if !missing.is_empty() {
            tracing::info!(
                { field::WORKSPACE } = self.entry.server.workspace.as_str(),
                { field::SERVER } = self.entry.server.name.as_str(),
                missing = missing.join(","),
                { field::CALL_ID } = self.call_id.as_str(),
                "message forwarded without secrets"
            );
        }
    }

    /// Logs that the injector ended the call before its end, after the response had begun.
    pub(super) fn log_broken_off(&self, refusal: &Refusal) {
        self.entry.call_counts().count_broken_off(refusal);
        tracing::warn!(
            { field::WORKSPACE } = self.entry.server.workspace.as_str(),
            { field::SERVER } = self.entry.server.name.as_str(),
            { field::REASON } = refusal.reason.name(),
            { field::DETAIL } = refusal.message,
            { field::CALL_ID } = self.call_id.as_str(),
            "call broken off"
        );
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use http::HeaderName;
    use prometheus_client::metrics::histogram::Histogram;
    use proto::{Reason, SecretName, SecretValue};
    use tracing::span;
    use zeroize::Zeroizing;

    use super::*;
    use crate::{inject::ResolvedSecret, placement::FieldNumber, template::Template};

    fn in_head(value: &str) -> Injection {
        Injection {
            required: false,
            placement: Placement::Header {
                name: HeaderName::from_static("x-key"),
                value: Template::parse(value).unwrap(),
            },
        }
    }

    fn in_body(value: &str) -> Injection {
        Injection {
            required: false,
            placement: Placement::Protobuf {
                field: FieldNumber::parse(7).unwrap(),
                key: "key".to_owned(),
                value: Template::parse(value).unwrap(),
            },
        }
    }

    fn recorded(injections: &[Injection], edit: impl FnOnce(&mut CallRecord)) -> String {
        let names = ["HEAD", "BODY", "BOTH", "ALONE", "GONE"].map(|name| SecretName::parse(name).unwrap());
        let resolved = names.iter().map(|name| ResolvedSecret {
            name,
            value: (name.as_str() != "GONE").then(|| SecretValue::parse(Zeroizing::new(vec![b'v'])).unwrap()),
        });
        let mut record = CallRecord::new(Method::GET);
        record.add_resolved(&resolved.collect(), injections.iter());
        edit(&mut record);
        record.list_secrets()
    }

    /// Counts the lines of the log.
    #[derive(Clone, Default)]
    struct LineCounter(Arc<AtomicUsize>);

    impl tracing::Subscriber for LineCounter {
        fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
            true
        }

        fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
            span::Id::from_u64(1)
        }

        fn event(&self, _: &tracing::Event<'_>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }

        fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
        fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
        fn enter(&self, _: &span::Id) {}
        fn exit(&self, _: &span::Id) {}
    }

    #[test]
    fn a_flood_of_refused_strangers_writes_few_lines_and_is_counted() {
        const FLOOD: usize = 1000;
        let metrics = Metrics {
            unknown: Arc::default(),
            decrypt_seconds: Histogram::new([1.0]),
        };
        let refusal = Refusal::new(Reason::Unauthenticated, "no token");
        let lines = LineCounter::default();
        tracing::subscriber::with_default(lines.clone(), || {
            for _ in 0..FLOOD {
                CallRecord::new(Method::GET).log_refused(&refusal, &metrics);
            }
        });
        let count = lines.0.load(Ordering::Relaxed);
        assert!((1..=FLOOD / 2).contains(&count), "{count}");
        let lines = LineCounter::default();
        tracing::subscriber::with_default(lines.clone(), || {
            for _ in 0..FLOOD {
                let mut record = CallRecord::new(Method::GET);
                record.set_caller(Some(CallerName::LocalUser(1000)));
                record.log_refused(&refusal, &metrics);
            }
        });
        assert_eq!(lines.0.load(Ordering::Relaxed), FLOOD, "calls of a known caller");
        let refused: u64 = metrics.unknown.outcomes().values().sum();
        assert_eq!(refused, 2 * u64::try_from(FLOOD).unwrap());
    }

    #[test]
    fn a_secret_is_listed_by_the_places_that_it_reached() {
        let injections = [
            in_head("${HEAD}"),
            in_body("${BODY}"),
            in_head("${BOTH}"),
            in_body("${BOTH}"),
            in_head("${ALONE}${GONE}"),
            in_body("${ALONE}${GONE}"),
        ];
        for (edit, lists) in [
            (
                (|_| {}) as fn(&mut CallRecord),
                "injected: HEAD,BOTH,BODY; missing: GONE",
            ),
            (
                CallRecord::set_body_missing,
                "injected: HEAD,BOTH; missing: GONE,BODY",
            ),
            (
                CallRecord::set_unsent,
                "injected: HEAD,BOTH; missing: GONE; unsent: BODY",
            ),
            (CallRecord::begin_retry, ""),
        ] {
            assert_eq!(recorded(&injections, edit), lists);
        }
        assert_eq!(
            recorded(&injections[1..2], |_| {}),
            "injected: BODY; missing: GONE"
        );
    }
}
