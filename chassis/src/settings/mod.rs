//! Checks of settings. Settings are read as text and checked together, so that every mistake is reported at once.

mod environment;

use std::{
    fmt, mem,
    net::SocketAddr,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    str::FromStr,
    time::{Duration, SystemTime},
};

use crate::{
    authz::{Binding, Policy, Role, Scope},
    expiry::OwnCertificates,
    tls::{Authorities, ContentRules, Identity, Reloader, Reloading, TlsError, WatchedFiles},
};
use proto::{Principal, WorkspaceName};

pub(crate) use environment::without_empty;
pub use environment::{is_set_by_others, warn_of_unknown, with_variable, with_variables};

/// Exit code for mistakes in the settings (`EX_USAGE` of sysexits.h).
pub const EXIT_USAGE: u8 = 64;

/// Collects the mistakes in the settings, and the files of TLS that the settings name.
#[derive(Debug, Default)]
pub struct Problems {
    mistakes: Vec<String>,
    certificates: OwnCertificates,
    reloader: Box<Reloader>,
    /// The certificate and the CAs of the Workload API, for what the settings name no file for.
    workload_api: Option<(Reloading<Identity>, Reloading<Authorities>)>,
}

impl Problems {
    /// Adds a mistake in `setting`.
    pub fn add(&mut self, setting: &str, problem: impl fmt::Display) {
        self.mistakes.push(format!("{setting}: {problem}"));
    }

    /// Returns the value, or adds the error as a mistake in `setting`.
    pub fn take<T, E: fmt::Display>(&mut self, setting: &str, parsed: Result<T, E>) -> Option<T> {
        parsed.map_err(|problem| self.add(setting, problem)).ok()
    }

    /// Returns a value that must be given, or adds a mistake.
    pub fn required<T>(&mut self, setting: &str, given: Option<T>) -> Option<T> {
        if given.is_none() {
            self.add(setting, "is required");
        }
        given
    }

    /// Reads a value as its type does.
    pub fn parse<T: FromStr<Err: fmt::Display>>(&mut self, setting: &str, text: &str) -> Option<T> {
        self.take(setting, text.parse())
    }

    /// Reads the address of a listener: an IP address and a port.
    pub fn address(&mut self, setting: &str, text: &str) -> Option<SocketAddr> {
        self.take(setting, text.parse().map_err(|_| not_an_address(text)))
    }

    /// Reads a duration, such as `500ms`, `2s`, `5m` or `1h`.
    pub fn duration(&mut self, setting: &str, text: &str) -> Option<Duration> {
        self.take(setting, parse_duration(text))
    }

    /// Reads a duration that lies in `range`.
    pub(crate) fn duration_in(
        &mut self,
        setting: &str,
        text: &str,
        range: RangeInclusive<Duration>,
    ) -> Option<Duration> {
        let duration = self.duration(setting, text)?;
        if !range.contains(&duration) {
            let (least, most) = range.into_inner();
            self.add(setting, format!("{text:?} is not between {least:?} and {most:?}"));
            return None;
        }
        Some(duration)
    }

    /// Reads a number of bytes, such as `65536`, `64KiB` or `4MiB`, that lies in `range`.
    pub fn size(&mut self, setting: &str, text: &str, range: RangeInclusive<usize>) -> Option<usize> {
        let size = self.take(setting, parse_size(text))?;
        if !range.contains(&size) {
            let (least, most) = range.into_inner();
            self.add(
                setting,
                format!("{text:?} is not between {least} and {most} bytes"),
            );
            return None;
        }
        Some(size)
    }

    /// Reads a number that lies in `range`.
    pub fn number<T: FromStr<Err: fmt::Display> + PartialOrd + fmt::Display>(
        &mut self,
        setting: &str,
        text: &str,
        range: RangeInclusive<T>,
    ) -> Option<T> {
        let number = self.parse(setting, text)?;
        if !range.contains(&number) {
            let (least, most) = range.into_inner();
            self.add(setting, format!("{text:?} is not between {least} and {most}"));
            return None;
        }
        Some(number)
    }

    /// Reads the bindings of `role`, each as `PRINCIPAL=WORKSPACE,…` or `PRINCIPAL=*`. An administrator may also be
    /// `PRINCIPAL` alone, which means all workspaces. `parse` reads a principal, also in its short form.
    pub fn bindings<E: fmt::Display>(
        &mut self,
        setting: &str,
        role: Role,
        texts: &[String],
        parse: impl Fn(&str) -> Result<Principal, E>,
    ) -> Vec<Binding> {
        texts
            .iter()
            .filter_map(|text| self.take(setting, parse_binding(role, text, &parse)))
            .collect()
    }

    /// Makes a policy from `bindings`.
    pub fn policy(&mut self, setting: &str, bindings: Vec<Binding>) -> Option<Policy> {
        self.take(setting, Policy::new(bindings))
    }

    /// Reads an identity from two files that must both be given, unless a Workload API gives one. A renewed certificate must be
    /// valid when it is read.
    pub fn identity(
        &mut self,
        cert: (&str, Option<&Path>),
        key: (&str, Option<&Path>),
    ) -> Option<Reloading<Identity>> {
        self.watched_identity(cert, key, |_, renewed| renewed.check_valid(SystemTime::now()))
    }

    /// Reads an identity like [`Self::identity`]. A certificate that names no principal is a mistake: a vault and an injector
    /// identify each other by their principals. A renewed certificate must name the same principal.
    pub fn principal_identity(
        &mut self,
        cert: (&str, Option<&Path>),
        key: (&str, Option<&Path>),
    ) -> Option<Reloading<Identity>> {
        let (cert_setting, _) = cert;
        let identity = self.watched_identity(cert, key, |current, renewed| {
            renewed.check_valid(SystemTime::now())?;
            match current.principal() {
                Some(principal) => renewed.check_principal(&principal),
                None => Ok(()),
            }
        })?;
        // The certificate of a Workload API arrives later, and always names a principal.
        if identity
            .current()
            .is_some_and(|identity| identity.principal().is_none())
        {
            self.add(
                cert_setting,
                "its certificate names no principal: it needs one URI SAN (spiffe://…) or, without one, one DNS SAN",
            );
            return None;
        }
        Some(identity)
    }

    fn watched_identity(
        &mut self,
        (cert_setting, cert): (&str, Option<&Path>),
        (key_setting, key): (&str, Option<&Path>),
        check: impl Fn(&Identity, &Identity) -> Result<(), TlsError> + Send + Sync + 'static,
    ) -> Option<Reloading<Identity>> {
        if let (None, None, Some((identity, _))) = (cert, key, &self.workload_api) {
            return Some(identity.clone());
        }
        let cert = self.required(cert_setting, cert);
        let key = self.required(key_setting, key);
        let (cert, key) = (cert?.to_owned(), key?.to_owned());
        let files = vec![cert.clone(), key.clone()];
        let setting_of = |error: &TlsError| match error {
            TlsError::Read { path, .. } | TlsError::Missing { path, .. } | TlsError::BrokenPem { path }
                if *path == key =>
            {
                key_setting
            }
            TlsError::KeyExposed { .. } => key_setting,
            _ => cert_setting,
        };
        let first = Identity::load(&cert, &key).map_err(|error| self.add(setting_of(&error), error));
        let identity = self.watch(
            cert_setting,
            files,
            first.ok()?,
            ContentRules {
                load: Box::new(move || Identity::load(&cert, &key).map_err(|error| error.to_string())),
                check: Box::new(move |current, renewed| {
                    check(current, renewed).map_err(|error| error.to_string())
                }),
                describe: Identity::describe,
            },
        );
        self.add_own_certificate(cert_setting, &identity);
        Some(identity)
    }

    /// Adds a certificate that this process presents, and that comes from the source that `setting` names.
    pub fn add_own_certificate(&mut self, setting: &str, identity: &Reloading<Identity>) {
        let in_use = identity.clone();
        let not_after = move || Some(in_use.current()?.not_after());
        self.certificates = mem::take(&mut self.certificates).with(setting, not_after);
    }

    /// Returns the certificates of all identities that were read or added so far.
    pub fn own_certificates(&self) -> OwnCertificates {
        self.certificates.clone()
    }

    /// Reads CAs from a file that must be given, unless a Workload API gives some. Refuses a development CA when other machines can
    /// reach `listener`.
    pub fn authorities(
        &mut self,
        setting: &str,
        path: Option<&Path>,
        listener: Option<SocketAddr>,
    ) -> Option<Reloading<Authorities>> {
        if let (None, Some((_, authorities))) = (path, &self.workload_api) {
            return Some(authorities.clone());
        }
        let path = self.required(setting, path)?.to_owned();
        let is_exposed = listener.is_some_and(|address| !address.ip().is_loopback());
        let load = move |path: &Path| match is_exposed {
            true => Authorities::load(path)?.without_development_ca(),
            false => Authorities::load(path),
        };
        self.reloading(
            setting,
            vec![path.clone()],
            move || load(&path),
            |_, _| Ok(()),
            Authorities::describe,
        )
    }

    /// Reads `files` by `load`, and reads them again when they change. `check` decides whether the second content may take the
    /// place of the first one, and `describe` describes a content for the log.
    pub fn reloading<T: PartialEq + Send + Sync + 'static, E: fmt::Display>(
        &mut self,
        setting: &str,
        files: Vec<PathBuf>,
        load: impl Fn() -> Result<T, E> + Send + Sync + 'static,
        check: fn(&T, &T) -> Result<(), String>,
        describe: fn(&T) -> String,
    ) -> Option<Reloading<T>> {
        let first = self.take(setting, load())?;
        let content = ContentRules {
            load: Box::new(move || load().map_err(|error| error.to_string())),
            check: Box::new(check),
            describe,
        };
        Some(self.watch(setting, files, first, content))
    }

    fn watch<T: PartialEq + Send + Sync + 'static>(
        &mut self,
        setting: &str,
        files: Vec<PathBuf>,
        first: T,
        content: ContentRules<T>,
    ) -> Reloading<T> {
        let (watched, reloading) = WatchedFiles::new(setting, files, first, content);
        self.reloader.add(watched);
        reloading
    }

    /// Uses the certificate and the CAs of the Workload API at `socket` where the settings name no files.
    pub fn workload_api(&mut self, setting: &str, socket: &str) {
        let Some(socket) = self.parse(setting, socket) else {
            return;
        };
        let (identity, authorities) = self.reloader.listen_to(socket);
        self.add_own_certificate(setting, &identity);
        self.workload_api = Some((identity, authorities));
    }

    /// Adds the error of a configuration of TLS as a mistake in `setting`. A certificate that has not come from a Workload API yet
    /// is no mistake.
    pub fn check_tls<C>(&mut self, setting: &str, config: Result<C, TlsError>) -> Option<()> {
        match config {
            Ok(_) | Err(TlsError::NotReceived) => Some(()),
            Err(error) => {
                self.add(setting, error);
                None
            }
        }
    }

    /// Takes the task that reads all files of TLS again when they change.
    pub fn take_reloader(&mut self) -> Reloader {
        *mem::take(&mut self.reloader)
    }

    /// Returns the checked settings when there was no mistake.
    pub fn finish<T>(self, settings: Option<T>) -> Result<T, Self> {
        match settings {
            Some(settings) if self.mistakes.is_empty() => Ok(settings),
            _ => Err(self),
        }
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "these settings are wrong (--help explains each):")?;
        self.mistakes
            .iter()
            .try_for_each(|problem| writeln!(f, "  {problem}"))
    }
}

/// Returns a path setting. An empty path, as an empty environment variable gives, counts as not given.
pub fn path(text: &Option<PathBuf>) -> Option<&Path> {
    text.as_deref().filter(|path| !path.as_os_str().is_empty())
}

fn parse_binding<E: fmt::Display>(
    role: Role,
    text: &str,
    parse: impl Fn(&str) -> Result<Principal, E>,
) -> Result<Binding, String> {
    let (principal, scope) = match text.rsplit_once('=') {
        Some((principal, scope)) => (principal, Some(scope)),
        None => (text, None),
    };
    let principal = parse(principal).map_err(|error| format!("{text:?}: {error}"))?;
    let scope = match scope {
        Some("*") => Scope::All,
        None if role == Role::Admin => Scope::All,
        None => {
            return Err(format!(
                "{text:?}: say in which workspaces: {principal}=NAME,NAME or {principal}=*"
            ));
        }
        Some(names) => Scope::Only(
            names
                .split(',')
                .map(|name| {
                    WorkspaceName::parse(name).map_err(|error| format!("{text:?}: {name:?}: {error}"))
                })
                .collect::<Result<_, _>>()?,
        ),
    };
    Ok(Binding {
        principal,
        role,
        scope,
    })
}

/// Returns the mistake in an address that does not parse. A host name is the usual one, because clients accept it.
fn not_an_address(text: &str) -> String {
    let host = text.rsplit_once(':');
    let example = host.and_then(|(_, port)| port.parse().ok()).map_or_else(
        || "127.0.0.1:7150".to_owned(),
        |port: u16| format!("127.0.0.1:{port}"),
    );
    format!("{text:?} is not an IP address with a port, such as {example}; a name is not accepted here")
}

fn parse_size(text: &str) -> Result<usize, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let wrong = || format!("{text:?} is not a size; write 65536, 64KiB or 4MiB");
    let unit = match unit {
        "" => 1,
        "KiB" => 1024,
        "MiB" => 1024 * 1024,
        "GiB" => 1024 * 1024 * 1024,
        _ => return Err(wrong()),
    };
    let number: usize = number.parse().map_err(|_| wrong())?;
    number.checked_mul(unit).ok_or_else(wrong)
}

pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let wrong = || format!("{text:?} is not a duration; write 500ms, 2s, 5m or 1h");
    let number: u32 = number.parse().map_err(|_| wrong())?;
    let unit = match unit {
        "ms" => Duration::from_millis(1),
        "s" => Duration::from_secs(1),
        "m" => Duration::from_secs(60),
        "h" => Duration::from_secs(3600),
        _ => return Err(wrong()),
    };
    Ok(unit * number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mistake_is_reported_at_once() {
        let mut problems = Problems::default();
        problems.address("--listen", "nowhere");
        problems.duration("--grace", "soon");
        problems.bindings(
            "--editor",
            Role::Editor,
            &["dns:a".to_owned(), "x=*".to_owned()],
            Principal::parse,
        );
        let report = problems.finish(Some(())).unwrap_err().to_string();
        for part in [
            "--listen: ",
            "--grace: \"soon\"",
            "dns:a=NAME",
            "\"x=*\": a principal is",
        ] {
            assert!(report.contains(part), "{part:?} in {report}");
        }
    }

    #[test]
    fn a_name_instead_of_an_address_is_refused_with_an_example_that_has_its_port() {
        let report = |text| {
            let mut problems = Problems::default();
            assert_eq!(problems.address("--listen", text), None);
            problems.finish(Some(())).unwrap_err().to_string()
        };
        let refused = report("localhost:7160");
        assert!(
            refused.contains(
                "--listen: \"localhost:7160\" is not an IP address with a port, such as 127.0.0.1:7160; a name is not accepted"
            ),
            "{refused}"
        );
        for wrong in ["", "7150", "127.0.0.1", "localhost:port", "::1:7150"] {
            assert!(report(wrong).contains("such as 127.0.0.1:7150"), "{wrong}");
        }
    }

    #[test]
    fn bindings_name_their_workspaces() {
        let scope = |role, text| parse_binding(role, text, Principal::parse).map(|binding| binding.scope);
        let some = Scope::Only(
            [
                WorkspaceName::parse("a").unwrap(),
                WorkspaceName::parse("b").unwrap(),
            ]
            .into(),
        );
        assert_eq!(scope(Role::Editor, "dns:x=a,b"), Ok(some));
        assert_eq!(scope(Role::Injector, "spiffe://td/x=*"), Ok(Scope::All));
        assert_eq!(scope(Role::Admin, "dns:x"), Ok(Scope::All));
        for wrong in ["dns:x", "dns:x=", "dns:x=A", "dns:x=a,", "dns:x=*,a"] {
            assert!(scope(Role::Editor, wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn sizes_have_binary_units_and_lie_in_their_range() {
        assert_eq!(parse_size("65536"), Ok(65_536));
        assert_eq!(parse_size("64KiB"), Ok(65_536));
        assert_eq!(parse_size("4MiB"), Ok(4 << 20));
        for wrong in ["", "KiB", "-1", "1kb", "1MB", "1.5MiB", "1 MiB", "99999999999GiB"] {
            assert!(parse_size(wrong).is_err(), "{wrong}");
        }
        let mut problems = Problems::default();
        assert_eq!(problems.size("--a", "8KiB", 8192..=9000), Some(8192));
        assert_eq!(problems.size("--b", "8191", 8192..=9000), None);
        assert_eq!(problems.number("--c", "0", 1..=9_usize), None);
        let report = problems.finish(Some(())).unwrap_err().to_string();
        assert!(
            report.contains("--b: \"8191\" is not between 8192 and 9000 bytes"),
            "{report}"
        );
        assert!(
            report.contains("--c: \"0\" is not between 1 and 9") && !report.contains("--a"),
            "{report}"
        );
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("2s"), Ok(Duration::from_secs(2)));
        assert_eq!(parse_duration("5m"), Ok(Duration::from_secs(300)));
        for wrong in ["", "5", "s", "-1s", "1.5s", "5 s", "99999999999s"] {
            assert!(parse_duration(wrong).is_err(), "{wrong}");
        }
    }
}
