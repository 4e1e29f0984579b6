//! Metrics of issuers and of tokens.

use std::time::SystemTime;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use super::refusal::TokenRefusal;
use crate::expiry::unix_seconds;

/// The outcome of a token that was verified.
const OK: &str = "ok";

/// Counters of tokens and of key sets. Clones count together.
#[derive(Clone, Default)]
pub(super) struct JwtMetrics {
    tokens: Family<Outcome, Counter>,
    failures: Family<Issuer, Counter>,
    read: Family<Issuer, Gauge>,
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

/// An issuer of the settings: `name=`, or without a name the text of `iss`.
#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Issuer {
    issuer: String,
}

impl JwtMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "aerostack_jwt_verifications",
            "JSON Web Tokens of clients that were verified or refused, by outcome",
            self.tokens.clone(),
        );
        registry.register(
            "aerostack_jwt_key_set_failures",
            "Failed reads of an issuer's key set",
            self.failures.clone(),
        );
        registry.register(
            "aerostack_jwt_key_set_timestamp_seconds",
            "Unix time of the last successful read of an issuer's key set; 0 before the first",
            self.read.clone(),
        );
    }

    /// Makes the series of an issuer and of verified tokens, so that an alert can count from 0.
    pub(super) fn add_issuer(&self, issuer: &str) {
        drop(self.tokens.get_or_create(&Outcome { outcome: OK }));
        let issuer = issuer.to_owned();
        drop(self.failures.get_or_create(&Issuer {
            issuer: issuer.clone(),
        }));
        drop(self.read.get_or_create(&Issuer { issuer }));
    }

    pub(super) fn count(&self, refused: Option<TokenRefusal>) {
        let outcome = refused.map_or(OK, TokenRefusal::name);
        self.tokens.get_or_create(&Outcome { outcome }).inc();
    }

    pub(super) fn read(&self, issuer: &str, succeeded: bool) {
        let issuer = Issuer {
            issuer: issuer.to_owned(),
        };
        if !succeeded {
            self.failures.get_or_create(&issuer).inc();
            return;
        }
        let now = unix_seconds(SystemTime::now());
        self.read.get_or_create(&issuer).set(now);
    }
}
