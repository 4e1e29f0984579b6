//! Reads the page of metrics of a service.

use std::{error::Error, time::Duration};

use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Empty, LengthLimitError, Limited};
use hyper::body::Bytes;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tokio::time;

/// Longest time that a page may take.
const TIMEOUT: Duration = Duration::from_secs(3);
/// Largest page in bytes, which about 10,000 servers with calls have.
const MAX_PAGE: usize = 32 * 1024 * 1024;

/// The reason for which there are no metrics, as the page says it.
#[derive(Debug, thiserror::Error)]
pub(super) enum ScrapeError {
    #[error("it does not answer")]
    Unreachable(#[source] Box<dyn Error + Send + Sync>),
    #[error("it did not answer within {} seconds", TIMEOUT.as_secs())]
    Timeout,
    #[error("it answered {0}")]
    Status(StatusCode),
    #[error("its answer was interrupted, or is not text")]
    Unreadable,
    #[error("its metrics have more than {} MiB", MAX_PAGE / 1024 / 1024)]
    TooLarge,
}

pub(super) struct Scraper(Client<HttpConnector, Empty<Bytes>>);

impl Default for Scraper {
    fn default() -> Self {
        // A kept connection would end with the probe's time limit for one, between two pages.
        let mut client = Client::builder(TokioExecutor::new());
        Self(client.pool_max_idle_per_host(0).build_http())
    }
}

impl Scraper {
    pub(super) async fn page(&self, url: &Uri) -> Result<String, ScrapeError> {
        time::timeout(TIMEOUT, self.read(url))
            .await
            .unwrap_or(Err(ScrapeError::Timeout))
    }

    async fn read(&self, url: &Uri) -> Result<String, ScrapeError> {
        let mut request = Request::new(Empty::new());
        *request.uri_mut() = url.clone();
        let answer = self.0.request(request).await;
        let answer = answer.map_err(|error| ScrapeError::Unreachable(error.into()))?;
        if answer.status() != StatusCode::OK {
            return Err(ScrapeError::Status(answer.status()));
        }
        let body = Limited::new(answer.into_body(), MAX_PAGE)
            .collect()
            .await
            .map_err(|error| match error.downcast_ref::<LengthLimitError>() {
                Some(_) => ScrapeError::TooLarge,
                None => ScrapeError::Unreadable,
            })?;
        String::from_utf8(body.to_bytes().into()).map_err(|_| ScrapeError::Unreadable)
    }
}
