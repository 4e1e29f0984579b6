//! Links that sign in, and the sessions that links and client certificates begin. All live in the memory of this process only.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use proto::Principal;
use subtle::ConstantTimeEq as _;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use super::{session_memory::SessionMemory, view::Notice};

/// Number of random bytes of a token.
const TOKEN_BYTES: usize = 32;

/// Number of sessions that one user with a certificate has. Those end that were not used for the longest time: a program that keeps
/// no cookies begins a session with every request.
const MAX_SESSIONS_OF_USER: usize = 16;

/// Number of notices that a session keeps. The oldest are dropped.
const MAX_NOTICES: usize = 10;

/// A random text that cannot be guessed.
pub(super) struct Token(Zeroizing<String>);

impl Token {
    fn random() -> Result<Self, getrandom::Error> {
        let mut bytes = Zeroizing::new([0; TOKEN_BYTES]);
        getrandom::fill(bytes.as_mut())?;
        Ok(Self(Zeroizing::new(URL_SAFE_NO_PAD.encode(bytes.as_ref()))))
    }

    /// Compares in constant time.
    pub(super) fn is(&self, text: &str) -> bool {
        self.0.as_bytes().ct_eq(text.as_bytes()).into()
    }

    /// Returns the text, for the cookie, the hidden field or the link that carries the token.
    pub(super) fn reveal(&self) -> &str {
        &self.0
    }
}

/// A browser that signed in.
pub(crate) struct Session {
    /// The value of the session cookie.
    pub(super) id: Token,
    /// The token that every form of this session carries.
    pub(super) csrf: Token,
    began_by: Credential,
    notices: Mutex<Vec<Notice>>,
    pub(super) memory: SessionMemory,
    /// Cancelled when the session ends. Event streams, and backups and restores that are under way, end with it.
    pub(super) ended: CancellationToken,
}

/// The credential that began a session.
enum Credential {
    /// The token of a link.
    Link(Token),
    /// A certificate that names this user.
    Certificate(Principal),
}

impl Session {
    /// Returns the user whose certificate began the session.
    pub(super) fn user(&self) -> Option<&Principal> {
        match &self.began_by {
            Credential::Certificate(user) => Some(user),
            Credential::Link(_) => None,
        }
    }

    /// Ends the event streams and the backups of the session, and wipes its values. A request that is still running may hold the session for
    /// longer.
    fn end(&self) {
        self.ended.cancel();
        self.memory.forget_values();
    }

    fn is_of_link(&self, token: &str) -> bool {
        match &self.began_by {
            Credential::Link(link) => link.is(token),
            Credential::Certificate(_) => false,
        }
    }

    /// Keeps a notice for the next page of the session.
    pub(super) fn notify(&self, notice: Notice) {
        let mut notices = locked(&self.notices);
        notices.push(notice);
        // A browser that never loads a page must not make the list grow.
        let surplus = notices.len().saturating_sub(MAX_NOTICES);
        notices.drain(..surplus);
    }

    /// Returns the notices that no page has shown.
    pub(super) fn take_notices(&self) -> Vec<Notice> {
        std::mem::take(&mut locked(&self.notices))
    }
}

/// The result of following a link.
pub(super) enum SignIn {
    New(Arc<Session>),
    /// The browser that used the link has opened it again, as far as its request tells.
    Repeated,
    /// The link was never valid, or a newer link replaced it.
    Unknown,
    /// Another browser used the link before. Its session has ended, because nobody knows which of the two was meant.
    UsedTwice,
}

/// The valid link and the sessions of the console.
#[derive(Default)]
pub(super) struct SignIns(Mutex<SignInState>);

#[derive(Default)]
struct SignInState {
    link: Option<Token>,
    /// The session that was used last is the last one.
    sessions: Vec<Arc<Session>>,
}

impl SignIns {
    /// Makes a new link, which replaces a link that nobody used, and returns its token.
    pub(super) fn new_link(&self) -> Result<String, getrandom::Error> {
        let token = Token::random()?;
        let text = token.reveal().to_owned();
        locked(&self.0).link = Some(token);
        Ok(text)
    }

    /// Signs in with the token of a link. `cookies` are the values of the browser's cookies that have the name of the session
    /// cookie. `is_direct` is false for a link on a page of another site: browsers leave the `SameSite=Strict` cookie out of
    /// such a request, so a missing cookie does not mean another browser.
    pub(super) fn sign_in(
        &self,
        token: &str,
        cookies: &[&str],
        is_direct: bool,
    ) -> Result<SignIn, getrandom::Error> {
        let (id, csrf) = (Token::random()?, Token::random()?);
        let mut state = locked(&self.0);
        if let Some(link) = state.link.take_if(|link| link.is(token)) {
            let session = Arc::new(Session {
                id,
                csrf,
                began_by: Credential::Link(link),
                notices: Mutex::default(),
                ended: CancellationToken::new(),
                memory: SessionMemory::default(),
            });
            state.sessions.push(session.clone());
            return Ok(SignIn::New(session));
        }
        let Some(index) = state
            .sessions
            .iter()
            .position(|session| session.is_of_link(token))
        else {
            return Ok(SignIn::Unknown);
        };
        let is_own = |session: &Arc<Session>| cookies.iter().any(|cookie| session.id.is(cookie));
        if !is_direct || state.sessions.get(index).is_some_and(is_own) {
            return Ok(SignIn::Repeated);
        }
        state.sessions.remove(index).end();
        Ok(SignIn::UsedTwice)
    }

    /// Begins a session of a user whose certificate was verified.
    pub(super) fn begin_for(&self, user: &Principal) -> Result<Arc<Session>, getrandom::Error> {
        let session = Arc::new(Session {
            id: Token::random()?,
            csrf: Token::random()?,
            began_by: Credential::Certificate(user.clone()),
            notices: Mutex::default(),
            ended: CancellationToken::new(),
            memory: SessionMemory::default(),
        });
        let mut state = locked(&self.0);
        state.sessions.push(session.clone());
        let is_own = |kept: &Arc<Session>| kept.user() == Some(user);
        let own = state.sessions.iter().filter(|kept| is_own(kept)).count();
        if own > MAX_SESSIONS_OF_USER
            && let Some(unused) = state.sessions.iter().position(is_own)
        {
            state.sessions.remove(unused).end();
        }
        Ok(session)
    }

    /// Returns the session of a cookie.
    pub(super) fn session(&self, cookie: &str) -> Option<Arc<Session>> {
        let mut state = locked(&self.0);
        let index = state.sessions.iter().position(|session| session.id.is(cookie))?;
        let session = state.sessions.remove(index);
        state.sessions.push(session.clone());
        Some(session)
    }

    /// Returns true for the CSRF token of any session of the user whose session this is. A session that a link began has no user.
    pub(super) fn is_token_of_user(&self, session: &Session, token: &str) -> bool {
        let Some(user) = session.user() else {
            return false;
        };
        let state = locked(&self.0);
        let mut own = state.sessions.iter().filter(|kept| kept.user() == Some(user));
        own.any(|kept| kept.csrf.is(token))
    }

    pub(super) fn sign_out(&self, session: &Arc<Session>) {
        session.end();
        locked(&self.0)
            .sessions
            .retain(|kept| !Arc::ptr_eq(kept, session));
    }
}

/// A panic while the lock is held leaves no state that a later request must not see.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use super::*;
    use crate::{
        secret_import::ImportPlan,
        value::{Edits, import},
    };

    fn signed_in(sign_ins: &SignIns, link: &str) -> Arc<Session> {
        match sign_ins.sign_in(link, &[], true).unwrap() {
            SignIn::New(session) => session,
            SignIn::Repeated | SignIn::Unknown | SignIn::UsedTwice => panic!("not signed in"),
        }
    }

    #[test]
    fn a_link_signs_in_once() {
        let sign_ins = SignIns::default();
        let link = sign_ins.new_link().unwrap();
        let session = signed_in(&sign_ins, &link);
        assert!(sign_ins.session(session.id.reveal()).is_some());
        let plan = ImportPlan::of(import::parse("A=1", None).unwrap(), Vec::new(), Edits::default());
        session.memory.wait_for_confirmation("w".to_owned(), plan);
        assert!(matches!(
            sign_ins.sign_in(&link, &[], true).unwrap(),
            SignIn::UsedTwice
        ));
        // Whoever used the link first may have stolen it.
        assert!(session.ended.is_cancelled());
        assert!(session.memory.waiting("w", |_| ()).is_none());
        assert!(sign_ins.session(session.id.reveal()).is_none());
        assert!(matches!(
            sign_ins.sign_in(&link, &[], true).unwrap(),
            SignIn::Unknown
        ));
    }

    #[test]
    fn the_browser_that_used_a_link_may_open_it_again() {
        let sign_ins = SignIns::default();
        let link = sign_ins.new_link().unwrap();
        let session = signed_in(&sign_ins, &link);
        let cookies = ["of another port", session.id.reveal()];
        let again = sign_ins.sign_in(&link, &cookies, true).unwrap();
        assert!(matches!(again, SignIn::Repeated));
        assert!(sign_ins.session(session.id.reveal()).is_some());
    }

    #[test]
    fn a_used_link_on_another_site_ends_no_session() {
        let sign_ins = SignIns::default();
        let link = sign_ins.new_link().unwrap();
        let session = signed_in(&sign_ins, &link);
        let again = sign_ins.sign_in(&link, &[], false).unwrap();
        assert!(matches!(again, SignIn::Repeated));
        assert!(sign_ins.session(session.id.reveal()).is_some());
    }

    #[test]
    fn a_new_link_replaces_an_unused_one() {
        let sign_ins = SignIns::default();
        let old = sign_ins.new_link().unwrap();
        let new = sign_ins.new_link().unwrap();
        assert_ne!(old, new);
        assert!(matches!(
            sign_ins.sign_in(&old, &[], true).unwrap(),
            SignIn::Unknown
        ));
        signed_in(&sign_ins, &new);
    }

    #[test]
    fn nothing_signs_in_without_a_link() {
        let sign_ins = SignIns::default();
        assert!(matches!(
            sign_ins.sign_in("", &[], true).unwrap(),
            SignIn::Unknown
        ));
        assert!(sign_ins.session("").is_none());
    }

    #[test]
    fn a_session_that_signed_out_is_gone() {
        let sign_ins = SignIns::default();
        let link = sign_ins.new_link().unwrap();
        let session = signed_in(&sign_ins, &link);
        sign_ins.sign_out(&session);
        assert!(sign_ins.session(session.id.reveal()).is_none());
    }

    #[test]
    fn a_user_has_a_bounded_number_of_sessions() {
        let sign_ins = SignIns::default();
        let user = |name: &str| Principal::parse(&format!("spiffe://test/{name}")).unwrap();
        let other = sign_ins.begin_for(&user("b")).unwrap();
        let used = sign_ins.begin_for(&user("a")).unwrap();
        let unused = sign_ins.begin_for(&user("a")).unwrap();
        let mut newest = unused.clone();
        for _ in 0..MAX_SESSIONS_OF_USER - 1 {
            assert!(sign_ins.session(used.id.reveal()).is_some());
            newest = sign_ins.begin_for(&user("a")).unwrap();
        }
        assert!(sign_ins.session(unused.id.reveal()).is_none());
        assert!(unused.ended.is_cancelled());
        for kept in [other, used, newest] {
            assert!(sign_ins.session(kept.id.reveal()).is_some());
        }
        assert_eq!(locked(&sign_ins.0).sessions.len(), MAX_SESSIONS_OF_USER + 1);
    }

    #[test]
    fn the_tokens_of_a_users_sessions_are_right_for_that_user_alone() {
        let sign_ins = SignIns::default();
        let user = |name: &str| Principal::parse(&format!("spiffe://test/{name}")).unwrap();
        let [one, two] = [(); 2].map(|()| sign_ins.begin_for(&user("a")).unwrap());
        let other = sign_ins.begin_for(&user("b")).unwrap();
        let of_link = signed_in(&sign_ins, &sign_ins.new_link().unwrap());
        assert!(sign_ins.is_token_of_user(&two, one.csrf.reveal()));
        for (session, token) in [
            (&two, &other),
            (&two, &of_link),
            (&of_link, &one),
            (&of_link, &of_link),
        ] {
            assert!(!sign_ins.is_token_of_user(session, token.csrf.reveal()));
        }
        sign_ins.sign_out(&one);
        assert!(!sign_ins.is_token_of_user(&two, one.csrf.reveal()));
    }

    #[test]
    fn a_notice_is_shown_once() {
        let sign_ins = SignIns::default();
        let session = signed_in(&sign_ins, &sign_ins.new_link().unwrap());
        session.notify(Notice::done("made"));
        assert_eq!(session.take_notices().len(), 1);
        (0..2 * MAX_NOTICES).for_each(|_| session.notify(Notice::done("made")));
        assert_eq!(session.take_notices().len(), MAX_NOTICES);
        assert!(session.take_notices().is_empty());
    }
}
