//! A running console, and a browser without JavaScript.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Child, Command, Stdio},
};

use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::{
    Response,
    body::{Bytes, Incoming},
};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tempfile::TempDir;

use aerostack::pki::{ADMIN_ID, DevPki, INJECTOR_ID, VAULT_ID};

use crate::{support::dev::Dev, vault, viewer};

/// The subject of the tokens of [`Console::start_with_token`].
pub(crate) const TOKEN_SUBJECT: &str = "system:serviceaccount:aerostack:admin";

/// A pair of services, and a console that administers it. Both are killed when dropped.
pub(crate) struct Console {
    pub(crate) child: Child,
    /// The printed link.
    pub(crate) link: String,
    pub(crate) dev: Dev,
    home: TempDir,
}

impl Console {
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// Starts a pair with additional arguments of `aerostack dev`, and its console.
    pub(crate) async fn start_with(args: &[&str]) -> Self {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join(".aerostack");
        let dev = Dev::start_with(&dir, args).await;
        Self::of(home, dev, &[])
    }

    /// Starts a pair, and its console with additional arguments.
    pub(crate) async fn start_console_with(args: &[&str]) -> Self {
        let home = tempfile::tempdir().unwrap();
        let dev = Dev::start(&home.path().join(".aerostack")).await;
        Self::of(home, dev, args)
    }

    /// Starts a console whose identity administers the vault, and may only look at the servers of its injector.
    pub(crate) async fn start_as_viewer_of_servers() -> Self {
        let home = tempfile::tempdir().unwrap();
        let dev = Dev::start(&home.path().join(".aerostack")).await;
        let injector = viewer::serve_injector(&dev, ADMIN_ID).await.to_string();
        let args = ["--injector", &injector, "--injector-id", INJECTOR_ID];
        Self::of(home, dev, &args)
    }

    /// Starts a console whose identity may look at the servers of its injector, and administers nothing in the vault.
    pub(crate) async fn start_as_viewer_without_a_role_in_the_vault() -> Self {
        let home = tempfile::tempdir().unwrap();
        let dev = Dev::start(&home.path().join(".aerostack")).await;
        let injector = viewer::serve_injector(&dev, INJECTOR_ID).await.to_string();
        let own = DevPki::ensure(&dev.dir).unwrap().injector;
        let [cert, key] = [own.cert, own.key].map(|path| path.display().to_string());
        let args = ["--injector", &injector, "--injector-id", INJECTOR_ID];
        let identity = ["--cert", &cert, "--key", &key];
        Self::of(home, dev, &[args, identity].concat())
    }

    /// Starts a console for a vault that can rotate its root key.
    pub(crate) async fn start_with_passphrase() -> Self {
        let home = tempfile::tempdir().unwrap();
        let dev = Dev::start(&home.path().join(".aerostack")).await;
        let address = vault::serve_with_passphrase(&dev).await.to_string();
        Self::of(home, dev, &["--vault", &address, "--vault-id", VAULT_ID])
    }

    /// Starts a console whose token in `token` identifies it to a vault that knows the issuer of `keys`.
    pub(crate) async fn start_with_token(keys: &str, token: &str) -> Self {
        let home = tempfile::tempdir().unwrap();
        let dev = Dev::start(&home.path().join(".aerostack")).await;
        let [key_file, token_file] = ["keys.json", "token"].map(|name| home.path().join(name));
        fs::write(&key_file, keys).unwrap();
        fs::write(&token_file, token).unwrap();
        let issuer = format!(
            "https://issuer.example=vault,name=kubernetes,jwks={}",
            key_file.display()
        );
        let settings = [("--jwt-issuer", issuer), ("--admin", TOKEN_SUBJECT.to_owned())];
        let address = vault::serve(&dev, &settings).await.to_string();
        let token_file = token_file.display().to_string();
        let service = ["--vault", &address, "--vault-id", VAULT_ID];
        Self::of(
            home,
            dev,
            &[&service[..], &["--token-file", &token_file]].concat(),
        )
    }

    /// Replaces the token of the console, as a renewal does.
    pub(crate) fn replace_token(&self, token: &str) {
        let new = self.home.path().join("token.new");
        fs::write(&new, token).unwrap();
        fs::rename(new, self.home.path().join("token")).unwrap();
    }

    /// Starts a vault with a root key of another one.
    pub(crate) async fn start_with_root_key(key: Vec<u8>) -> Self {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join(".aerostack");
        fs::create_dir(&dir).unwrap();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).unwrap();
        let path = dir.join("root.key");
        fs::write(&path, key).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let dev = Dev::start(&dir).await;
        Self::of(home, dev, &[])
    }

    /// Starts a console that uses the certificate of `who`, such as `injector`.
    pub(crate) async fn start_as(who: &str) -> Self {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join(".aerostack");
        let dev = Dev::start(&dir).await;
        let [cert, key] =
            ["", "-key"].map(|part| dir.join(format!("pki/{who}{part}.pem")).display().to_string());
        Self::of(home, dev, &["--cert", &cert, "--key", &key])
    }

    fn of(home: TempDir, dev: Dev, args: &[&str]) -> Self {
        let log = std::fs::File::create(home.path().join("console.log")).unwrap();
        let mut child = command(&dev.dir, "127.0.0.1:0")
            .args(args)
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut link = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        stdout.read_line(&mut link).unwrap();
        Self {
            child,
            link: link.trim().to_owned(),
            dev,
            home,
        }
    }

    /// Returns the address of the console, such as `127.0.0.1:7180`.
    pub(crate) fn host(&self) -> String {
        let uri: http::Uri = self.link.parse().unwrap();
        uri.authority().unwrap().to_string()
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.home.path().join("console.log")).unwrap()
    }

    /// Returns a browser that has not signed in.
    pub(crate) fn stranger(&self) -> Browser {
        Browser::at(self.host())
    }

    /// Returns a browser that has signed in with the printed link.
    pub(crate) async fn signed_in(&self) -> Browser {
        Browser::signed_in(&self.link).await
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns the command `aerostack console`.
pub(crate) fn command(dir: &Path, listen: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_aerostack"));
    command.arg("--dir").arg(dir);
    command.args(["console", "--no-open", "--listen", listen]);
    command.stdin(Stdio::null());
    command
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    /// Returns the path that the answer to a change leads to.
    pub(crate) fn leads_to(&self) -> &str {
        assert_eq!(self.status, StatusCode::SEE_OTHER, "{}", self.text);
        self.headers[header::LOCATION].to_str().unwrap()
    }

    pub(crate) fn has(&self, text: &str) -> bool {
        self.text.contains(text)
    }
}

pub(crate) struct Browser {
    host: String,
    client: Client<HttpConnector, Full<Bytes>>,
    pub(crate) cookie: Option<String>,
    pub(crate) csrf: String,
    /// Heads and bodies of all answers.
    pub(crate) seen: String,
}

impl Browser {
    fn at(host: String) -> Self {
        Self {
            host,
            client: Client::builder(TokioExecutor::new()).build_http(),
            cookie: None,
            csrf: String::new(),
            seen: String::new(),
        }
    }

    /// Returns a browser that has signed in with a link.
    pub(crate) async fn signed_in(link: &str) -> Self {
        let uri: http::Uri = link.parse().unwrap();
        let mut browser = Self::at(uri.authority().unwrap().to_string());
        let answer = browser.get(uri.path_and_query().unwrap().as_str()).await;
        assert_eq!(answer.status, StatusCode::OK);
        browser.keep_session(&answer).await;
        browser
    }

    /// Keeps the session that an answer began.
    async fn keep_session(&mut self, answer: &Answer) {
        let cookie = answer.headers[header::SET_COOKIE].to_str().unwrap();
        self.cookie = Some(cookie.split_once(';').unwrap().0.to_owned());
        let form = self.get("/workspaces/new").await.text;
        self.csrf = between(&form, "name=\"csrf\" value=\"", "\"").to_owned();
    }

    /// Sends further requests to another server.
    pub(crate) fn set_host(&mut self, host: &str) {
        host.clone_into(&mut self.host);
    }

    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    pub(crate) async fn get(&mut self, path: &str) -> Answer {
        self.send(Method::GET, path, &[], String::new()).await
    }

    /// Sends a form, with the token of the session.
    pub(crate) async fn post(&mut self, path: &str, fields: &[(&str, &str)]) -> Answer {
        let csrf = self.csrf.clone();
        let fields = [&[("csrf", csrf.as_str())], fields].concat();
        self.post_exactly(path, &fields).await
    }

    pub(crate) async fn post_exactly(&mut self, path: &str, fields: &[(&str, &str)]) -> Answer {
        let headers = [("content-type", "application/x-www-form-urlencoded")];
        self.send(Method::POST, path, &headers, encoded(fields)).await
    }

    /// Sends a form, and loads the page that the answer leads to.
    pub(crate) async fn change(&mut self, path: &str, fields: &[(&str, &str)]) -> Answer {
        let answer = self.post(path, fields).await;
        self.get(answer.leads_to()).await
    }

    /// Sends a form with a file. The fields are sent in their order.
    pub(crate) async fn upload(&mut self, path: &str, fields: &[(&str, &[u8])]) -> Answer {
        let response = self
            .request(Method::POST, path, &[FORM_WITH_FILE], multipart(fields))
            .await;
        self.read(response).await
    }

    pub(crate) async fn send(
        &mut self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: String,
    ) -> Answer {
        let response = self.request(method, path, headers, body.into()).await;
        self.read(response).await
    }

    async fn read(&mut self, response: Response<Incoming>) -> Answer {
        let (head, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let text = String::from_utf8(body.to_vec()).unwrap();
        self.seen.push_str(&format!("{:?}\n{text}\n", head.headers));
        Answer {
            status: head.status,
            headers: head.headers,
            text,
        }
    }

    /// Sends a request, and returns the answer before its body is read.
    pub(crate) async fn request(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> Response<Incoming> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.host));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(cookie) = &self.cookie {
            request = request.header(header::COOKIE, cookie);
        }
        let request = request.body(Full::from(body)).unwrap();
        self.client.request(request).await.unwrap()
    }
}

pub(crate) const FORM_WITH_FILE: (&str, &str) = ("content-type", "multipart/form-data; boundary=0123456789");

/// Returns a form as browsers send it. The fields `file` are files.
pub(crate) fn multipart(fields: &[(&str, &[u8])]) -> Vec<u8> {
    let mut form = Vec::new();
    for (name, content) in fields {
        let file = if *name == "file" {
            "; filename=\"f\"\r\nContent-Type: application/octet-stream"
        } else {
            ""
        };
        let head = format!("--0123456789\r\nContent-Disposition: form-data; name=\"{name}\"{file}\r\n\r\n");
        form.extend_from_slice(head.as_bytes());
        form.extend_from_slice(content);
        form.extend_from_slice(b"\r\n");
    }
    form.extend_from_slice(b"--0123456789--\r\n");
    form
}

/// Returns the first text between `start` and `end`.
pub(crate) fn between<'t>(text: &'t str, start: &str, end: &str) -> &'t str {
    let (_, rest) = text
        .split_once(start)
        .unwrap_or_else(|| panic!("no {start}: {text}"));
    rest.split_once(end).unwrap().0
}

fn encoded(fields: &[(&str, &str)]) -> String {
    let mut form = form_urlencoded::Serializer::new(String::new());
    form.extend_pairs(fields);
    form.finish()
}
