//! A load of a fixed number of calls per second, evenly spread, which shows latencies without a queue in front of the
//! contender.
//!
//! h2load can limit the rate, but all its connections then send at the same moments, for example 50 calls every 25 ms.
//! Such a load measures how fast a contender works off a queue.

use std::{fs, time::Duration};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Uri, header};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    net::TcpStream,
    task::JoinSet,
    time::{Instant, sleep_until},
};

use crate::{
    Failure,
    h2load::{Http, Load, Target},
    measure::{Period, Window},
};

/// Loads a contender with `rate` calls per second.
pub(crate) async fn measure(
    load: &Load,
    target: &Target,
    rate: u32,
    seconds: u32,
) -> Result<Window, Failure> {
    let url: Uri = target.urls.first().ok_or("no URL")?.parse()?;
    let request = request(load, target, &url)?;
    let mut connections = Vec::new();
    for _ in 0..load.http.connections() {
        connections.push(Connection::open(load.http, &url).await?);
    }
    let period = Period::after_warming_up(seconds);
    // The connections call one after the other, so that each of them makes one call per `round`.
    let step = Duration::from_secs(1) / rate;
    let round = step * load.http.connections();
    let mut calls = JoinSet::new();
    for (number, mut connection) in (0..).zip(connections) {
        let request = request.clone();
        let mut pace = Pace::new(step * number, round);
        calls.spawn(async move {
            let mut latencies = Vec::new();
            loop {
                pace.next().await;
                let began = std::time::Instant::now();
                connection.call(request.clone()).await?;
                if period.is_over(began, &mut latencies) {
                    return Ok::<_, Failure>(latencies);
                }
            }
        });
    }
    period.watch(&target.processes, calls).await
}

/// The times at which one of many connections makes its calls.
pub(crate) struct Pace {
    next: Instant,
    step: Duration,
}

impl Pace {
    /// Schedules the first call after `first` and the others at intervals of `step`.
    pub(crate) fn new(first: Duration, step: Duration) -> Self {
        let next = Instant::now() + first;
        Self { next, step }
    }

    /// Waits for the time of the next call. A contender that answers too slowly gets fewer calls instead of a queue.
    pub(crate) async fn next(&mut self) {
        self.next = self.next.max(Instant::now());
        sleep_until(self.next).await;
        self.next += self.step;
    }
}

pub(crate) fn request(load: &Load, target: &Target, url: &Uri) -> Result<Request<Full<Bytes>>, Failure> {
    let body = load.body.as_ref().map(fs::read).transpose()?;
    let mut request = Request::post(match load.http {
        Http::One => url.path().parse()?,
        Http::Two => url.clone(),
    });
    if load.http == Http::One {
        let host = url.authority().map(http::uri::Authority::as_str);
        request = request.header(header::HOST, host.unwrap_or_default());
    }
    for line in load.headers.iter().chain(&target.headers) {
        let (name, value) = line.split_once(": ").ok_or("a header without a value")?;
        request = request.header(name.parse::<HeaderName>()?, value.parse::<HeaderValue>()?);
    }
    Ok(request.body(Full::from(body.unwrap_or_default()))?)
}

pub(crate) enum Connection {
    One(http1::SendRequest<Full<Bytes>>),
    Two(http2::SendRequest<Full<Bytes>>),
}

impl Connection {
    pub(crate) async fn open(http: Http, url: &Uri) -> Result<Self, Failure> {
        let address = url.authority().ok_or("no address")?.as_str();
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let stream = TokioIo::new(stream);
        match http {
            Http::One => {
                let (sender, connection) = http1::handshake(stream).await?;
                tokio::spawn(connection);
                Ok(Self::One(sender))
            }
            Http::Two => {
                let (sender, connection) = http2::handshake(TokioExecutor::new(), stream).await?;
                tokio::spawn(connection);
                Ok(Self::Two(sender))
            }
        }
    }

    /// Makes a call and reads the whole answer.
    pub(crate) async fn call(&mut self, request: Request<Full<Bytes>>) -> Result<(), Failure> {
        let answer = match self {
            Self::One(sender) => {
                sender.ready().await?;
                sender.send_request(request).await?
            }
            Self::Two(sender) => sender.send_request(request).await?,
        };
        if !answer.status().is_success() {
            return Err(format!("a call was answered with {}", answer.status()).into());
        }
        answer.into_body().collect().await?;
        Ok(())
    }
}
