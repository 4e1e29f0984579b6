use std::{convert::Infallible, future::pending};

use axum::{Router, body::Body, middleware::from_fn_with_state, routing::get};
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use tempfile::TempDir;
use tokio::net::TcpListener;

use super::*;
use crate::{
    connect::{ConnectArgs, Connection},
    console::Console,
    pki::DevPki,
};

/// Returns a console without services, and the directory of its certificates.
pub(in crate::console) async fn console() -> (SharedApp, TempDir) {
    let home = tempfile::tempdir().unwrap();
    DevPki::ensure(home.path()).unwrap();
    let args = ConnectArgs {
        dir: Some(home.path().to_owned()),
        ..ConnectArgs::default()
    };
    let connection = Connection::find(&args, |_| None).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let console = Console::for_one_person(listener, connection, None).unwrap();
    (console.app, home)
}

fn host_of(app: &SharedApp) -> String {
    let address = app.site.address().parse::<http::Uri>().unwrap();
    address.authority().unwrap().to_string()
}

/// Returns the answer to a request for one of two pages that need no session: `/sign-in`, and one whose handler never answers.
async fn answer(app: &SharedApp, request: Request) -> Response {
    let router: Router = Router::new()
        .route("/sign-in", get(async || StatusCode::OK))
        .route("/assets/stalled", get(pending::<StatusCode>))
        .layer(from_fn_with_state(app.clone(), guard));
    let answer: Result<_, Infallible> = TowerToHyperService::new(router).call(request).await;
    answer.unwrap_or_else(|never| match never {})
}

fn request(target: &str, hosts: &[&str]) -> Request {
    let mut request = Request::builder().uri(target);
    for host in hosts {
        request = request.header(header::HOST, *host);
    }
    request.body(Body::empty()).unwrap()
}

#[test]
fn a_user_is_allowed_while_the_certificate_is_valid() {
    let user = |name: &str| Principal::parse(&format!("spiffe://test/{name}")).unwrap();
    let not_after = SystemTime::now();
    let peer = |name| {
        let principal = user(name);
        Arc::new(Peer::Known { principal, not_after })
    };
    let users = [user("alice")];
    let (before, after) = (
        not_after - Duration::from_secs(1),
        not_after + Duration::from_secs(1),
    );
    assert_eq!(user_of(Some(&peer("alice")), &users, before), Ok(user("alice")));
    let not_allowed = GuardRefusal::NotAllowed(user("bob"));
    assert_eq!(user_of(Some(&peer("bob")), &users, before), Err(not_allowed));
    for nobody in [Some(&peer("alice")), Some(&Arc::new(Peer::Anonymous)), None] {
        assert_eq!(user_of(nobody, &users, after), Err(GuardRefusal::NoUser));
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_takes_too_long_is_given_up() {
    let (app, _home) = console().await;
    let started = time::Instant::now();
    let answer = answer(&app, request("/assets/stalled", &[&host_of(&app)])).await;
    assert_eq!(answer.status(), StatusCode::GATEWAY_TIMEOUT);
    assert_eq!(started.elapsed().as_secs(), REQUEST_TIMEOUT.as_secs());
}

#[tokio::test]
async fn a_request_names_the_console_once_and_in_every_place() {
    let (app, _home) = console().await;
    let host = host_of(&app);
    let own = host.as_str();
    let absolute = format!("http://{own}/sign-in");
    let foreign = "http://evil.example/sign-in";
    for (target, hosts, status) in [
        ("/sign-in", &[own][..], StatusCode::OK),
        (&absolute, &[own], StatusCode::OK),
        (foreign, &[own], StatusCode::MISDIRECTED_REQUEST),
        (&absolute, &["evil.example"], StatusCode::MISDIRECTED_REQUEST),
        ("/sign-in", &[], StatusCode::MISDIRECTED_REQUEST),
        ("/sign-in", &[own, own], StatusCode::MISDIRECTED_REQUEST),
        (
            "/sign-in",
            &[own, "evil.example"],
            StatusCode::MISDIRECTED_REQUEST,
        ),
    ] {
        let answer = answer(&app, request(target, hosts)).await;
        assert_eq!(answer.status(), status, "{target} {hosts:?}");
    }
}
