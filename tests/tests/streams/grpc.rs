//! gRPC calls.

use super::*;

/// A gRPC upstream with the health and reflection services and two services of its own.
struct Grpc {
    address: SocketAddr,
    health: HealthReporter,
    seen: Arc<Mutex<Vec<MetadataMap>>>,
}

/// Services with the messages of the vault, but with other behaviour.
struct Echo;

#[tonic::async_trait]
impl WorkspaceService for Echo {
    /// Answers with the name and metadata, or fails with a status that has a message, details and metadata.
    async fn get_workspace(
        &self,
        request: Call<GetWorkspaceRequest>,
    ) -> Result<Answer<GetWorkspaceResponse>, Status> {
        let GetWorkspaceRequest { name } = request.into_inner();
        if name == "fail" {
            return Err(failure());
        }
        let workspace = Some(Workspace {
            name,
            ..Default::default()
        });
        let mut answer = Answer::new(GetWorkspaceResponse { workspace });
        mark(answer.metadata_mut());
        Ok(answer)
    }

    async fn create_workspace(
        &self,
        _: Call<CreateWorkspaceRequest>,
    ) -> Result<Answer<CreateWorkspaceResponse>, Status> {
        pending().await
    }

    async fn list_workspaces(
        &self,
        _: Call<ListWorkspacesRequest>,
    ) -> Result<Answer<ListWorkspacesResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn update_workspace(
        &self,
        _: Call<UpdateWorkspaceRequest>,
    ) -> Result<Answer<UpdateWorkspaceResponse>, Status> {
        Err(Status::unimplemented("näh, 100 %\n"))
    }

    async fn delete_workspace(
        &self,
        _: Call<DeleteWorkspaceRequest>,
    ) -> Result<Answer<DeleteWorkspaceResponse>, Status> {
        Err(Status::unimplemented(""))
    }
}

#[tonic::async_trait]
impl DecryptService for Echo {
    async fn decrypt(&self, _: Call<DecryptRequest>) -> Result<Answer<DecryptResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    type DecryptStreamStream = ReceiverStream<Result<DecryptStreamResponse, Status>>;

    /// Answers each message with its ids, and then fails the call.
    async fn decrypt_stream(
        &self,
        request: Call<Streaming<DecryptStreamRequest>>,
    ) -> Result<Answer<Self::DecryptStreamStream>, Status> {
        let (answers, stream) = mpsc::channel(1);
        let mut messages = request.into_inner();
        tokio::spawn(async move {
            while let Ok(Some(message)) = messages.message().await {
                let ids = message.calls.into_iter().map(|call| DecryptAnswer {
                    id: call.id,
                    outcome: None,
                });
                drop(
                    answers
                        .send(Ok(DecryptStreamResponse {
                            answers: ids.collect(),
                            ..Default::default()
                        }))
                        .await,
                );
            }
            drop(answers.send(Err(failure())).await);
        });
        let mut answer = Answer::new(ReceiverStream::new(stream));
        mark(answer.metadata_mut());
        Ok(answer)
    }
}

fn mark(metadata: &mut MetadataMap) {
    metadata.insert("x-text", "a b".parse().unwrap());
    metadata.append("x-twice", "1".parse().unwrap());
    metadata.append("x-twice", "2".parse().unwrap());
    metadata.insert_bin("x-raw-bin", MetadataValue::from_bytes(b"\0\xff"));
}

fn failure() -> Status {
    let details =
        ErrorDetails::with_error_info("THEIRS", "upstream.example", [("k".to_owned(), "v".to_owned())]);
    let mut metadata = MetadataMap::new();
    mark(&mut metadata);
    Status::with_error_details_and_metadata(Code::ResourceExhausted, "too much, 100 % é\n", details, metadata)
}

impl Grpc {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (health, health_service) = tonic_health::server::health_reporter();
        health.set_service_status("known", ServingStatus::Serving).await;
        let reflection = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .build_v1()
            .unwrap();
        let seen: Arc<Mutex<Vec<MetadataMap>>> = Arc::default();
        let recording = seen.clone();
        let record = move |call: Call<()>| {
            recording.lock().unwrap().push(call.metadata().clone());
            Ok(call)
        };
        let services = tonic::transport::Server::builder()
            .layer(InterceptorLayer::new(record))
            .add_service(health_service)
            .add_service(reflection)
            .add_service(WorkspaceServiceServer::new(Echo).max_decoding_message_size(LARGEST))
            .add_service(DecryptServiceServer::new(Echo));
        tokio::spawn(services.serve_with_incoming(TcpListenerStream::new(listener)));
        Self {
            address,
            health,
            seen,
        }
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn last(&self) -> MetadataMap {
        self.seen
            .lock()
            .unwrap()
            .last()
            .expect("the upstream received nothing")
            .clone()
    }
}

/// Starts a pair. The workspace `dev` has the secrets `TOKEN` and `KEY_BIN`, and the server `grpc` gets both.
async fn grpc_pair(upstream: &Grpc) -> Pair {
    let pair = Pair::start_with(|_| {}, |settings| settings.limits.vault_timeout = "1s".to_owned()).await;
    pair.vault.workspace("dev").await;
    pair.vault.put("dev", "TOKEN", VALUE).await;
    pair.vault.put("dev", "KEY_BIN", BINARY).await;
    pair.injector
        .add(server("dev", "grpc", &upstream.url(), &["TOKEN", "KEY_BIN"]))
        .await;
    pair
}

async fn h2c(address: SocketAddr) -> Channel {
    Endpoint::from_shared(format!("http://{address}"))
        .unwrap()
        .connect()
        .await
        .unwrap()
}

type NamedChannel = InterceptedService<Channel, Box<dyn FnMut(Call<()>) -> Result<Call<()>, Status> + Send>>;

/// Returns a channel whose calls name the server in a header.
fn to(channel: &Channel, server: &'static str) -> NamedChannel {
    let name = move |mut call: Call<()>| {
        let metadata = call.metadata_mut();
        metadata.insert("x-aerostack-workspace", MetadataValue::from_static("dev"));
        metadata.insert("x-aerostack-server", MetadataValue::from_static(server));
        metadata.insert("x-mine", MetadataValue::from_static("kept"));
        metadata.insert_bin("x-mine-bin", MetadataValue::from_bytes(b"\0\x01\xff"));
        metadata.insert("x-mcp-secret-token", MetadataValue::from_static("theirs"));
        metadata.insert_bin("x-mcp-secret-other-bin", MetadataValue::from_bytes(b"theirs"));
        Ok(call)
    };
    InterceptedService::new(channel.clone(), Box::new(name))
}

fn outcome<T>(answer: Result<Answer<T>, Status>) -> (String, Option<T>) {
    match answer {
        Ok(answer) => {
            let (metadata, message, _) = answer.into_parts();
            (format!("{:?}", comparable(metadata)), Some(message))
        }
        Err(status) => (describe_status(&status), None),
    }
}

fn describe_status(status: &Status) -> String {
    let metadata = comparable(status.metadata().clone());
    format!(
        "{:?} {:?} {:?} {metadata:?}",
        status.code(),
        status.message(),
        status.get_error_details()
    )
}

fn debug<T: std::fmt::Debug>((head, message): (String, Option<T>)) -> (String, Option<String>) {
    (head, message.map(|message| format!("{message:?}")))
}

fn comparable(mut metadata: MetadataMap) -> Vec<String> {
    metadata.remove("date");
    // The injector adds an id to each call.
    metadata.remove("x-aerostack-call-id");
    let mut lines: Vec<_> = metadata
        .into_headers()
        .iter()
        .map(|(name, value)| format!("{name}: {value:?}"))
        .collect();
    lines.sort();
    lines
}

/// Makes calls of each kind, and returns everything that the client received.
async fn conversation(channel: &Channel, health: &HealthReporter) -> Vec<String> {
    let mut heard = Vec::new();
    let mut hear = |what: (String, Option<String>)| heard.push(format!("{what:?}"));

    let mut checks = HealthClient::new(to(channel, "grpc"));
    for service in ["known", "unknown"] {
        hear(debug(outcome(
            checks
                .check(HealthCheckRequest {
                    service: service.into(),
                })
                .await,
        )));
    }

    let (head, updates) = outcome(
        checks
            .watch(HealthCheckRequest {
                service: "known".into(),
            })
            .await,
    );
    let mut updates = updates.unwrap();
    hear((head, Some(format!("{:?}", updates.message().await))));
    for status in [ServingStatus::NotServing, ServingStatus::Serving] {
        health.set_service_status("known", status).await;
        hear((String::new(), Some(format!("{:?}", updates.message().await))));
    }

    let (questions, stream) = mpsc::channel(1);
    let mut reflection = ServerReflectionClient::new(to(channel, "grpc"));
    let ask = |message| ServerReflectionRequest {
        host: String::new(),
        message_request: Some(message),
    };
    questions
        .send(ask(MessageRequest::ListServices(String::new())))
        .await
        .unwrap();
    let (head, answers) = outcome(
        reflection
            .server_reflection_info(ReceiverStream::new(stream))
            .await,
    );
    let mut answers = answers.unwrap();
    hear((head, Some(format!("{:?}", answers.message().await))));
    for symbol in ["grpc.health.v1.Health", "grpc.health.v1.Health.Check"] {
        questions
            .send(ask(MessageRequest::FileContainingSymbol(symbol.into())))
            .await
            .unwrap();
        hear((String::new(), Some(format!("{:?}", answers.message().await))));
    }
    drop(questions);
    hear((String::new(), Some(format!("{:?}", answers.message().await))));

    let mut echo = WorkspaceServiceClient::new(to(channel, "grpc")).max_decoding_message_size(LARGEST);
    let long = "x".repeat(16 << 20);
    for name in ["name", "", "fail"] {
        hear(debug(outcome(
            echo.get_workspace(GetWorkspaceRequest { name: name.into() })
                .await,
        )));
    }
    let (head, answer) = outcome(
        echo.get_workspace(GetWorkspaceRequest { name: long.clone() })
            .await,
    );
    hear((
        head,
        Some((answer.unwrap().workspace.unwrap().name == long).to_string()),
    ));
    hear(debug(outcome(
        echo.update_workspace(UpdateWorkspaceRequest::default()).await,
    )));

    let ids = 0..3_000;
    let calls = ids.clone().map(|id| DecryptStreamRequest {
        calls: vec![proto::vault::v1::DecryptCall { id, request: None }],
        recipient: None,
    });
    let mut echo = DecryptServiceClient::new(to(channel, "grpc"));
    let (head, answers) = outcome(echo.decrypt_stream(stream::iter(calls)).await);
    let mut answers = answers.unwrap();
    hear((head, None));
    for id in ids {
        assert_eq!(answers.message().await.unwrap().unwrap().answers[0].id, id);
    }
    hear((describe_status(&answers.message().await.unwrap_err()), None));
    hear((
        format!(
            "{:?}",
            answers.trailers().await.map(|trailers| trailers.map(comparable))
        ),
        None,
    ));
    heard
}

#[tokio::test]
async fn grpc_is_the_same_with_and_without_the_injector() {
    let upstream = Grpc::start().await;
    let pair = grpc_pair(&upstream).await;
    let direct = conversation(&h2c(upstream.address).await, &upstream.health).await;
    let calls = upstream.seen.lock().unwrap().len();
    let through = conversation(&h2c(pair.injector.data_plane).await, &upstream.health).await;
    assert_eq!(direct, through);
    let all = upstream.seen.lock().unwrap();
    assert_eq!(all.len(), 2 * calls);
    for seen in all.iter().skip(calls) {
        assert_eq!(seen.get("x-mcp-secret-token").unwrap(), VALUE);
        assert_eq!(seen.get_all("x-mcp-secret-token").iter().count(), 1);
        // Binary metadata arrives with the secret's own bytes.
        assert_eq!(
            seen.get_bin("x-mcp-secret-key-bin").unwrap().to_bytes().unwrap(),
            BINARY
        );
        assert_eq!(
            seen.get_bin("x-mine-bin").unwrap().to_bytes().unwrap(),
            &b"\0\x01\xff"[..]
        );
        assert_eq!(seen.get("x-mine").unwrap(), "kept");
        assert_eq!(seen.get("te").unwrap(), "trailers");
        assert!(seen.get_bin("x-mcp-secret-other-bin").is_none());
        assert!(!format!("{seen:?}").contains("aerostack"), "{seen:?}");
    }
}

#[tokio::test]
async fn a_bearer_token_is_sent_as_grpc_metadata() {
    let upstream = Grpc::start().await;
    let pair = grpc_pair(&upstream).await;
    let bearer = Described {
        auth_type: AuthType::Bearer.into(),
        ..server("dev", "bearer", &upstream.url(), &["TOKEN"])
    };
    pair.injector.add(bearer).await;
    let mut checks = HealthClient::new(to(&h2c(pair.injector.data_plane).await, "bearer"));
    let mut call = Call::new(HealthCheckRequest::default());
    call.metadata_mut()
        .insert("authorization", "Bearer theirs".parse().unwrap());
    checks.check(call).await.unwrap();
    assert_eq!(
        upstream
            .last()
            .get_all("authorization")
            .iter()
            .collect::<Vec<_>>(),
        [&format!("Bearer {VALUE}")]
    );
}

#[tokio::test]
async fn refusals_of_a_grpc_call_are_trailers_only() {
    let upstream = Grpc::start().await;
    let pair = grpc_pair(&upstream).await;
    let url = upstream.url();
    let skill = Described {
        auth_type: AuthType::Skill.into(),
        ..server("dev", "skill", &url, &["TOKEN"])
    };
    pair.injector.add(skill).await;
    let required = ["ABSENT".to_owned()].to_vec();
    let required = Described {
        required_secrets: required,
        ..server("dev", "required", &url, &["ABSENT"])
    };
    pair.injector.add(required).await;
    pair.vault.put("dev", "NOT_TEXT", BINARY).await;
    pair.injector
        .add(server("dev", "binary", &url, &["NOT_TEXT"]))
        .await;
    // A port without a listener.
    let closed = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    pair.injector
        .add(server("dev", "closed", &format!("http://{closed}"), &["TOKEN"]))
        .await;
    let channel = h2c(pair.injector.data_plane).await;
    for (server, code, reason) in [
        ("unknown", Code::NotFound, "SERVER_NOT_FOUND"),
        ("skill", Code::InvalidArgument, "BODY_TYPE_UNSUPPORTED"),
        ("required", Code::FailedPrecondition, "SECRET_REQUIRED_MISSING"),
        ("binary", Code::FailedPrecondition, "SECRET_VALUE_NOT_PLACEABLE"),
        ("closed", Code::Unavailable, "UPSTREAM_UNREACHABLE"),
    ] {
        let status = HealthClient::new(to(&channel, server))
            .check(HealthCheckRequest::default())
            .await
            .unwrap_err();
        is(&status, code, reason);
        let raw = raw_grpc(
            &pair,
            &[("x-aerostack-workspace", "dev"), ("x-aerostack-server", server)],
        )
        .await;
        trailers_only(raw, code).await;
    }
    pair.vault.stop().await;
    let status = HealthClient::new(to(&channel, "grpc"))
        .check(HealthCheckRequest::default())
        .await
        .unwrap_err();
    is(&status, Code::Unavailable, "VAULT_UNAVAILABLE");
    let raw = Request::post(format!(
        "http://{}/grpc.health.v1.Health/Check",
        pair.injector.data_plane
    ))
    .header("content-type", "application/grpc")
    .header("te", "trailers")
    .header("x-aerostack-workspace", "dev")
    .header("x-aerostack-server", "grpc")
    .body(fixed("\0\0\0\0\0"))
    .unwrap();
    trailers_only(client(true).request(raw).await.unwrap(), Code::Unavailable).await;
    assert!(upstream.seen.lock().unwrap().is_empty());
}

/// Covers refusals for which HTTP has its own statuses.
#[tokio::test]
async fn every_kind_of_refusal_of_a_grpc_call_is_trailers_only() {
    let upstream = Grpc::start().await;
    let pair = grpc_pair(&upstream).await;
    // The URL of the server has https, but the upstream speaks cleartext.
    let url = upstream.url().replace("http:", "https:");
    pair.injector.add(server("dev", "tls", &url, &["TOKEN"])).await;
    let long = "x".repeat(61 * 1024);
    let request = |method: &str, host: &str, path: &str, server: &str| {
        Request::builder()
            .method(method)
            .uri(format!("http://{host}/{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("x-aerostack-workspace", "dev")
            .header("x-aerostack-server", server)
    };
    let check = |server: &str| request("POST", "localhost", "grpc.health.v1.Health/Check", server);
    let mut many = check("grpc");
    for number in 0..100 {
        many = many.header(format!("x-{number}"), "1");
    }
    let (invalid, exhausted) = (Code::InvalidArgument, Code::ResourceExhausted);
    for (request, code, reason) in [
        (
            request("TRACE", "localhost", "a.B/C", "grpc"),
            invalid,
            "METHOD_REFUSED",
        ),
        (
            request("POST", "localhost", &long, "grpc"),
            exhausted,
            "URI_TOO_LONG",
        ),
        (many, exhausted, "HEADERS_TOO_LARGE"),
        (
            check("grpc").header("expect", "more"),
            invalid,
            "EXPECTATION_FAILED",
        ),
        (
            request("POST", "evil.example", "a.B/C", "grpc"),
            invalid,
            "HOST_NOT_SERVED",
        ),
        (
            request("POST", "localhost", "a/../b", "grpc"),
            invalid,
            "PATH_INVALID",
        ),
        (check("UPPER"), invalid, "TARGET_INVALID"),
        (
            check("grpc").header("origin", "https://a.example"),
            Code::PermissionDenied,
            "BROWSER_REFUSED",
        ),
        (check("tls"), Code::Unavailable, "UPSTREAM_NOT_TLS"),
    ] {
        let stream = TcpStream::connect(pair.injector.data_plane).await.unwrap();
        let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
        let (mut send, connection) = handshake.unwrap();
        tokio::spawn(connection);
        let response = send.send_request(request.body(fixed("\0\0\0\0\0")).unwrap());
        let response = timeout(PATIENCE, response).await.unwrap().unwrap();
        assert_eq!(response.headers()["x-aerostack-reason"], reason);
        let status = Status::from_header_map(response.headers()).unwrap();
        is(&status, code, reason);
        trailers_only(response, code).await;
    }
    assert!(upstream.seen.lock().unwrap().is_empty());
}

fn is(status: &Status, code: Code, reason: &str) {
    assert_eq!(status.code(), code, "{status:?}");
    let info = status.get_details_error_info().unwrap();
    assert_eq!(
        (info.reason.as_str(), info.domain.as_str()),
        (reason, "aerostack")
    );
    assert!(!format!("{status:?}").contains("canary"), "{status:?}");
}

async fn trailers_only(response: Response<Incoming>, code: Code) {
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["content-type"], "application/grpc");
    assert_eq!(response.headers()["grpc-status"], (code as i32).to_string());
    let rest = response.into_body().collect().await.unwrap();
    assert!(rest.trailers().is_none() && rest.to_bytes().is_empty());
}

/// Sends a `Check` with an empty message without a gRPC library.
async fn raw_grpc(pair: &Pair, headers: &[(&str, &str)]) -> Response<Incoming> {
    let request = Request::post(pair.injector.url("/grpc.health.v1.Health/Check"))
        .header("content-type", "application/grpc+proto")
        .header("te", "trailers");
    let request = headers
        .iter()
        .fold(request, |request, (name, value)| request.header(*name, *value));
    timeout(
        PATIENCE,
        client(true).request(request.body(fixed("\0\0\0\0\0")).unwrap()),
    )
    .await
    .unwrap()
    .unwrap()
}

#[tokio::test]
async fn a_grpc_deadline_is_passed_on_without_the_time_that_was_spent() {
    let upstream = Grpc::start().await;
    let pair = grpc_pair(&upstream).await;
    for (given, most) in [
        ("5S", 5.0),
        ("7000m", 7.0),
        ("00000002M", 120.0),
        ("99999999u", 99.999_999),
        ("1H", 3600.0),
    ] {
        let named = [
            ("x-aerostack-workspace", "dev"),
            ("x-aerostack-server", "grpc"),
            ("grpc-timeout", given),
        ];
        assert_eq!(raw_grpc(&pair, &named).await.status(), StatusCode::OK);
        let seen = upstream.last();
        let passed = seconds(seen.get("grpc-timeout").unwrap().to_str().unwrap());
        assert!(passed < most && passed > most - 5.0, "{given} became {passed} s");
    }
    let named = [("x-aerostack-workspace", "dev"), ("x-aerostack-server", "grpc")];
    assert_eq!(raw_grpc(&pair, &named).await.status(), StatusCode::OK);
    assert!(upstream.last().get("grpc-timeout").is_none());
}

fn seconds(text: &str) -> f64 {
    let (digits, unit) = text.split_at(text.len() - 1);
    assert!(digits.len() <= 8);
    let unit = match unit {
        "H" => 3600.0,
        "M" => 60.0,
        "S" => 1.0,
        "m" => 1e-3,
        "u" => 1e-6,
        "n" => 1e-9,
        _ => panic!("{text} is no timeout"),
    };
    digits.parse::<f64>().unwrap() * unit
}

#[tokio::test]
async fn a_grpc_call_ends_at_its_deadline() {
    let upstream = Grpc::start().await;
    let pair = grpc_pair(&upstream).await;
    let post = |timeout: &str| {
        Request::post(pair.injector.url("/vault.v1.WorkspaceService/CreateWorkspace"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("grpc-timeout", timeout)
            .header("x-aerostack-workspace", "dev")
            .header("x-aerostack-server", "grpc")
            .body(fixed("\0\0\0\0\0"))
            .unwrap()
    };
    // Either the injector or the upstream reports the deadline first. Both report the same status.
    let response = timeout(PATIENCE, client(true).request(post("200m")))
        .await
        .unwrap()
        .unwrap();
    trailers_only(response, Code::DeadlineExceeded).await;
    // Without any time left, nothing is sent.
    let calls = upstream.seen.lock().unwrap().len();
    let response = timeout(PATIENCE, client(true).request(post("0n")))
        .await
        .unwrap()
        .unwrap();
    trailers_only(response, Code::DeadlineExceeded).await;
    assert_eq!(upstream.seen.lock().unwrap().len(), calls);
}

#[tokio::test]
async fn a_grpc_deadline_ends_a_response_that_has_begun() {
    let (pair, mut calls) = (
        Pair::start().await,
        ManualUpstream::start(Some("application/grpc")).await,
    );
    calls.served_by(&pair).await;
    for http2 in [true, false] {
        let request = Request::post(pair.injector.url("/x.Y/Z"))
            .header("content-type", "application/grpc")
            .header("grpc-timeout", "500m")
            .header("x-aerostack-workspace", "dev")
            .header("x-aerostack-server", "auto")
            .body(fixed("\0\0\0\0\0"))
            .unwrap();
        let response = client(http2).request(request).await.unwrap();
        let held = calls.next().await;
        held.send(Ok(Bytes::from_static(b"\0\0\0\0\x01a"))).await.unwrap();
        let answer = timeout(PATIENCE, response.into_body().collect()).await;
        let answer = answer.expect("it outlasts its deadline");
        timeout(PATIENCE, held.closed())
            .await
            .expect("the upstream never heard that nobody waits");
        if http2 {
            let answer = answer.unwrap();
            let trailers = answer.trailers().unwrap();
            assert_eq!(
                trailers["grpc-status"],
                (Code::DeadlineExceeded as i32).to_string()
            );
            assert_eq!(trailers["x-aerostack-reason"], "DEADLINE_EXCEEDED");
            assert_eq!(answer.to_bytes(), &b"\0\0\0\0\x01a"[..]);
        } else {
            assert!(answer.is_err(), "it ended as if it was whole");
        }
    }
}

#[tokio::test]
async fn a_grpc_call_that_is_cancelled_is_cancelled_upstream() {
    let (pair, mut calls) = (Pair::start().await, ManualUpstream::start(None).await);
    calls.served_by(&pair).await;
    let request = Request::post(pair.injector.url("/x.Y/Z"))
        .header("content-type", "application/grpc")
        .header("x-aerostack-workspace", "dev")
        .header("x-aerostack-server", "auto")
        .body(fixed("\0\0\0\0\0"))
        .unwrap();
    let call = tokio::spawn(async move { client(true).request(request).await });
    // The client cancels before the response's head, and after it.
    let held = calls.next().await;
    call.abort();
    timeout(PATIENCE, held.closed())
        .await
        .expect("the upstream never heard that nobody waits");
}
