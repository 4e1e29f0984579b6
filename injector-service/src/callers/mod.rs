//! The callers of the data plane: who sends a call, and which servers that caller may call.
//!
//! Without `--caller`, whoever reaches a listener may call every server. With it, a call over TCP needs an identity: a
//! token in `x-aerostack-token` or a client certificate. On the Unix socket the uid of the peer is the identity.

mod policy;
mod static_tokens;

use std::{collections::BTreeSet, fmt, net::SocketAddr, time::SystemTime};

use chassis::{
    caller::{self, Peer},
    jwt::{Issuers, TokenRefusal},
};
use http::{HeaderMap, HeaderName, HeaderValue};
use proto::{Principal, Reason, Refusal};
use rustls_pki_types::CertificateDer;

pub(crate) use policy::{CallerPolicy, ServerScope};
pub(crate) use static_tokens::StaticTokens;

/// The header that carries a caller's token. The injector removes the header from every request.
const TOKEN: HeaderName = HeaderName::from_static("x-aerostack-token");

/// The settings by which callers are identified. Clones share the tokens and keys.
#[derive(Clone)]
pub struct Callers {
    /// `None` without `--caller`: every caller may call every server.
    pub(crate) policy: Option<CallerPolicy>,
    pub(crate) tokens: StaticTokens,
    pub(crate) issuers: Issuers,
    /// The uids that may call through the Unix socket.
    pub(crate) local_users: BTreeSet<u32>,
}

/// The facts about a connection's peer, which are known before its first call.
#[derive(Debug)]
pub(crate) enum ConnectionPeer {
    /// A TCP connection, with the identity in its client certificate.
    Network(Peer),
    /// A connection to the Unix socket, by the uid of the process that made it.
    LocalUser(u32),
}

/// The sender of one call, who may not be permitted to make it.
#[derive(Debug)]
pub(crate) enum Caller<'c> {
    /// No `--caller` is set, so callers are not identified.
    Anyone,
    /// A permitted user of the Unix socket.
    LocalUser(u32),
    /// A principal, with the servers that it may call.
    Known {
        principal: Principal,
        servers: Option<&'c ServerScope>,
        /// The time at which the identity expires. Static tokens have none.
        not_after: Option<SystemTime>,
    },
}

/// The name of a caller in the log.
#[derive(Debug, Clone)]
pub(crate) enum CallerName {
    LocalUser(u32),
    Principal(Principal),
}

/// The proof that a caller may call the server with these names, whether or not the server exists.
pub(crate) struct CallPermit<'n> {
    workspace: &'n str,
    server: &'n str,
}

impl Callers {
    /// Reads the certificate in `chain`, which TLS must have verified. A certificate with several names counts when exactly one
    /// of them may call a server.
    pub(crate) fn peer(&self, chain: Option<&[CertificateDer<'_>]>, address: SocketAddr) -> Peer {
        let policy = self.policy.as_ref();
        let may_call =
            |principal: &Principal| policy.is_some_and(|policy| policy.servers(principal).is_some());
        let peer = Peer::of_client(chain, may_call);
        if let Peer::Unusable(reason) = peer {
            caller::log_unusable(reason, chain, address);
        }
        peer
    }

    /// Returns the sender of a call on a connection of `peer`. With a `--caller`, a `token` is verified, and then only the token
    /// counts.
    pub(crate) async fn identify(
        &self,
        peer: &ConnectionPeer,
        token: Option<&CallerToken>,
    ) -> Result<Caller<'_>, Refusal> {
        if let ConnectionPeer::LocalUser(uid) = peer
            && !self.local_users.contains(uid)
        {
            return Err(denied(format!(
                "the user with uid {uid} may not call this injector"
            )));
        }
        let Some(policy) = &self.policy else {
            return Ok(match peer {
                ConnectionPeer::Network(_) => Caller::Anyone,
                ConnectionPeer::LocalUser(uid) => Caller::LocalUser(*uid),
            });
        };
        let (principal, not_after) = match (token, peer) {
            (Some(token), _) => self.verify(token).await?,
            (None, ConnectionPeer::LocalUser(uid)) => return Ok(Caller::LocalUser(*uid)),
            (None, ConnectionPeer::Network(peer)) => of_certificate(peer)?,
        };
        let servers = policy.servers(&principal);
        Ok(Caller::Known {
            principal,
            servers,
            not_after,
        })
    }

    /// Returns the principal of a token, and the time at which the token expires.
    async fn verify(
        &self,
        CallerToken(token): &CallerToken,
    ) -> Result<(Principal, Option<SystemTime>), Refusal> {
        if let Some(principal) = self.tokens.principal(token.as_bytes()) {
            return Ok((principal, None));
        }
        let unknown = || unauthenticated("the token in x-aerostack-token is not known to this injector");
        if self.issuers.is_empty() {
            return Err(unknown());
        }
        let token = token.to_str().map_err(|_| unknown())?;
        let verified = self.issuers.verify(token).await;
        let verified = verified.map_err(TokenRefusal::refusal)?;
        Ok((verified.principal, Some(verified.not_after)))
    }
}

impl Caller<'_> {
    /// Refuses a server that this caller may not call. The refusal is the same whether or not the server exists.
    pub(crate) fn permit<'n>(&self, workspace: &'n str, server: &'n str) -> Result<CallPermit<'n>, Refusal> {
        let is_allowed = match self {
            Self::Anyone | Self::LocalUser(_) => true,
            Self::Known { servers, .. } => servers.is_some_and(|servers| servers.contains(workspace, server)),
        };
        match is_allowed {
            true => Ok(CallPermit { workspace, server }),
            false => Err(denied("this caller may not call this server")),
        }
    }

    /// Returns the time at which the caller's identity expires, if it does.
    pub(crate) fn not_after(&self) -> Option<SystemTime> {
        match self {
            Self::Anyone | Self::LocalUser(_) => None,
            Self::Known { not_after, .. } => *not_after,
        }
    }

    /// Returns the name of the caller for the log.
    pub(crate) fn name(&self) -> Option<CallerName> {
        match self {
            Self::Anyone => None,
            Self::LocalUser(uid) => Some(CallerName::LocalUser(*uid)),
            Self::Known { principal, .. } => Some(CallerName::Principal(principal.clone())),
        }
    }
}

impl<'n> CallPermit<'n> {
    pub(crate) fn workspace(&self) -> &'n str {
        self.workspace
    }

    pub(crate) fn server(&self) -> &'n str {
        self.server
    }
}

impl fmt::Display for CallerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LocalUser(uid) => write!(f, "uid:{uid}"),
            Self::Principal(principal) => principal.fmt(f),
        }
    }
}

/// The value of `x-aerostack-token`. It has no `Debug`, so that no log can show it.
pub(crate) struct CallerToken(HeaderValue);

impl CallerToken {
    /// Takes the token out of a request's headers. Refuses a request with more than one.
    pub(crate) fn take(headers: &mut HeaderMap) -> Result<Option<Self>, Refusal> {
        let count = headers.get_all(TOKEN).iter().count();
        // Removes every value, and returns the first one.
        let token = headers.remove(TOKEN);
        if count > 1 {
            return Err(Refusal::new(
                Reason::RequestMalformed,
                "x-aerostack-token must be given once at most",
            ));
        }
        Ok(token.map(Self))
    }
}

fn of_certificate(peer: &Peer) -> Result<(Principal, Option<SystemTime>), Refusal> {
    let principal = peer.principal_at(SystemTime::now()).cloned();
    let known = principal.map(|principal| (principal, peer.not_after()));
    known.ok_or_else(|| {
        unauthenticated(format!(
            "this injector identifies its callers: send a token in x-aerostack-token, or present a client certificate; {}",
            peer.why_unidentified()
        ))
    })
}

fn denied(message: impl ToString) -> Refusal {
    Refusal::new(Reason::PermissionDenied, message)
}

fn unauthenticated(message: impl ToString) -> Refusal {
    Refusal::new(Reason::Unauthenticated, message)
}

#[cfg(test)]
mod tests;
